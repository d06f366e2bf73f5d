"""The features of the newest candles in Polars, with the expressions of `mltrain.features.computation`.

`compute_features` masks the warm-up of every feature in every row, with one query per symbol, and a query costs as much
for a hundred symbols as for one. Here all symbols are stacked in one frame, and only the last row of each is read. The
values are the same, because an op reads no further back than its lookback, and a row with an incomplete lookback is
NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.features.computation import evaluate, group_features, take_led_columns, take_own_columns
from mltrain.features.spec import columns_read
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.computation import Reads
    from mltrain.features.spec import FeatureSet, FeatureSpec

# In a stack of several symbols, features with lookbacks up to this are computed from that many rows of each symbol
# only, because most features are short and time grows with the rows.
_SHORT_BARS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The g features that read the same frame.

    Attributes:
        reads: Their leader, and the inputs that they read.
        positions: Positions in column order, shape (g,).
        lookbacks: Lookbacks in bars, shape (g,).
        exprs: Expressions, as Float32.
        columns: Columns that they read of the symbol.
        leader_columns: Columns that they read of the leader, without prefix.
    """

    reads: Reads
    positions: NDArray[np.intp]
    lookbacks: NDArray[np.int64]
    exprs: tuple[pl.Expr, ...]
    columns: tuple[str, ...]
    leader_columns: tuple[str, ...]


class StackedRows:
    """Computes features of the newest candle of one or many symbols; create it once per registry.

    Args:
        feature_set: The registry.
        names: The features to compute.
    """

    def __init__(self, feature_set: FeatureSet, names: Collection[str]) -> None:
        self._step_ms = interval_ms(feature_set.interval)
        groups = {
            reads: [spec for spec in specs if spec.name in names]
            for reads, specs in group_features(feature_set).items()
        }
        self._groups = [_make_group(feature_set, *group) for group in groups.items() if group[1]]

    def fill(
        self, x: NDArray[np.float32], rows: Sequence[int], symbols: Sequence[str], candles: Mapping[str, pl.DataFrame]
    ) -> None:
        """Write the features of the newest candle of `symbols[row]` to `x[row]`, for some rows.

        Args:
            x: All features of all symbols, shape (symbols, features); NaN where these are to be written.
            rows: The rows.
            symbols: The symbol of each row of `x`.
            candles: Checked candles by symbol, leaders included.
        """
        for group in self._groups if rows else ():
            self._fill(x, group, {row: symbols[row] for row in rows}, candles)

    def _fill(
        self, x: NDArray[np.float32], group: _Group, symbols: Mapping[int, str], candles: Mapping[str, pl.DataFrame]
    ) -> None:
        """Write the values of a group's features to their columns of `x`, in the row of each symbol."""
        parts, rows = [], []
        for row, symbol in symbols.items():
            own = candles[symbol]
            if not own.height:
                continue
            if symbol == group.reads.leader:
                bars = take_own_columns(own, group.reads, self._step_ms, names=()).bars[-1]
                x[row, group.positions[bars >= group.lookbacks]] = 0.0
                continue
            parts.append(self._make_part(own, group, candles))
            rows.append(row)
        if not parts:
            return
        values = _evaluate_group(parts, group)
        complete = np.array([part.bars for part in parts])[:, None] >= group.lookbacks
        x[np.ix_(np.array(rows), group.positions)] = np.where(complete, values, np.float32(np.nan))

    def _make_part(self, own: pl.DataFrame, group: _Group, candles: Mapping[str, pl.DataFrame]) -> _Part:
        """Take the columns that a group reads from the symbol's candles `own` and from those of the leader."""
        leader = group.reads.leader
        if leader is None:
            source = take_own_columns(own, group.reads, self._step_ms, names=group.columns)
        else:
            source = take_led_columns(
                own, candles[leader], group.reads, group.leader_columns, self._step_ms, names=group.columns
            )
        return _Part(source.columns, own.height, int(source.bars[-1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One symbol's columns, their number of rows, and the number of consecutive bars that end at the last row."""

    columns: Mapping[str, pl.Series]
    height: int
    bars: int


def _make_group(feature_set: FeatureSet, reads: Reads, specs: Sequence[FeatureSpec]) -> _Group:
    """Collect what it takes to compute these features, which read the same."""
    position = {name: i for i, name in enumerate(feature_set.names)}
    positions = [position[spec.name] for spec in specs]
    windows = [spec.window() for spec in specs]
    return _Group(
        reads=reads,
        positions=np.array(positions, np.intp),
        lookbacks=np.array([window.lookback_bars for window in windows]),
        exprs=tuple(w.expr.cast(pl.Float32).alias(str(i)) for i, w in enumerate(windows)),
        columns=_list_columns(specs, leader=False) or ("ts",),
        leader_columns=_list_columns(specs, leader=True),
    )


def _list_columns(specs: Sequence[FeatureSpec], *, leader: bool) -> tuple[str, ...]:
    """Return the columns that features read of their symbol or, if `leader` is set, of their leader (without `ts`)."""
    names = {name for spec in specs for name in columns_read(spec, leader=leader)}
    return tuple(sorted(names - {"ts"} if leader else names))


def _evaluate_group(parts: Sequence[_Part], group: _Group) -> NDArray[np.float32]:
    """Return the g features of a group at the last row of each of n parts, shape (n, g)."""
    # The rows of one symbol are few, so that a second query would cost more than it saves.
    if len(parts) == 1:
        return _evaluate_last_rows(parts, group.exprs, None)
    values = np.empty((len(parts), len(group.exprs)), np.float32)
    short = group.lookbacks <= _SHORT_BARS
    for chosen, bars in ((short, _SHORT_BARS), (~short, None)):
        exprs = [group.exprs[i] for i in np.flatnonzero(chosen)]
        if exprs:
            values[:, chosen] = _evaluate_last_rows(parts, exprs, bars)
    return values


def _evaluate_last_rows(parts: Sequence[_Part], exprs: Sequence[pl.Expr], bars: int | None) -> NDArray[np.float32]:
    """Stack the last `bars` rows of n parts (None: all), and return e expressions at each's last row, shape (n, e)."""
    heights = [part.height if bars is None else min(bars, part.height) for part in parts]
    if len(parts) == 1:
        frame = pl.DataFrame(list(parts[0].columns.values()))
    else:
        names = parts[0].columns
        frame = pl.DataFrame([_stack(name, [p.columns[name] for p in parts], heights) for name in names])
    values = evaluate(frame, exprs)
    last = np.cumsum(heights) - 1
    return np.stack([column.to_numpy()[last] for column in values.get_columns()], axis=1)


def _stack(name: str, columns: Sequence[pl.Series], heights: Sequence[int]) -> pl.Series:
    """Concatenate the last `heights[i]` rows of each column i."""
    if columns[0].dtype == pl.Datetime:
        return pl.concat([column.tail(height) for column, height in zip(columns, heights, strict=True)]).alias(name)
    arrays: list[NDArray[Any]] = [c.to_numpy()[-height:] for c, height in zip(columns, heights, strict=True)]
    return pl.Series(name, np.concatenate(arrays))
