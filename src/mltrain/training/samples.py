"""Samples: the rows of a training, of all symbols, in the order of time.

Features and labels are joined here; candles that do not become rows are counted by reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.errors import InputError
from mltrain.features.computation import check_inputs, compute_features
from mltrain.times import format_ms, interval_ms
from mltrain.training.label import make_labels

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.label_spec import LabelSpec
    from mltrain.features.spec import FeatureSet

# Below this, a booster memorises its rows.
MIN_TRAIN_ROWS: Final = 1_000
# Rows of the matrix that are moved, and so held twice, in one step.
_MOVED_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Rows sorted by time, then symbol; no value is missing or infinite.

    Attributes:
        x: Features, shape (n, f), C order.
        y: Labels, shape (n,): 1 where the price went up, or its upper barrier was touched first, else 0.
        ts_ms: Open time of each row's candle, UTC ms, shape (n,), never falling.
        label_end_ms: Open time of the candle that decided each label, UTC ms, shape (n,).
        symbol_ix: Position of each row's symbol in `symbols`, shape (n,).
        last_move: Sign of the price move that ended with each row's candle, shape (n,); 0 also if it is unknown.
        symbols: The symbols, sorted.
        names: The features, in the order of the columns.
    """

    x: NDArray[np.float32]
    y: NDArray[np.uint8]
    ts_ms: NDArray[np.int64]
    label_end_ms: NDArray[np.int64]
    symbol_ix: NDArray[np.int16]
    last_move: NDArray[np.int8]
    symbols: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = self.ts_ms.size
        columns = (self.y, self.label_end_ms, self.symbol_ix, self.last_move)
        is_valid = (
            self.x.shape == (n, len(self.names))
            and self.x.dtype == np.float32
            and self.x.flags.c_contiguous
            and all(c.shape == (n,) for c in columns)
            and bool((np.diff(self.ts_ms) >= 0).all() and (self.label_end_ms > self.ts_ms).all())
            # LightGBM would accept other labels silently.
            and bool((self.y <= 1).all())
        )
        if not is_valid:
            msg = f"samples of shape {self.x.shape} with {n} times are not rows in the order of time"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class SymbolQuality:
    """How many of one symbol's candles became rows, and why the others were dropped: each for its first reason.

    Attributes:
        symbol: The symbol.
        candles: Number of candles.
        rows: Candles that became rows.
        no_features: Candles dropped in the warm-up after the start or after a gap.
        no_label: Candles dropped because the candle at the horizon is missing or in the future.
        ties: Candles dropped because the price then moved by no more than the label's cost or, of a barrier label,
            touched neither barrier, or both in one bar.
        tie_share: Share of ties among all candles with a known outcome, dropped or not; None without such candles.
    """

    symbol: str
    candles: int
    rows: int
    no_features: int
    no_label: int
    ties: int
    tie_share: float | None


def build_samples(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]
) -> tuple[Samples, tuple[SymbolQuality, ...]]:
    """Compute features and labels of every symbol, and join those of the candles that have all of them.

    Args:
        feature_set: Features, label and interval.
        candles: Checked candles by symbol; those of leaders also become rows.

    Returns:
        The rows, and the counts of each symbol, sorted by symbol.

    Raises:
        InputError: No row has all features and a label.
    """
    samples, _, qualities = build_samples_and_ties(feature_set, candles)
    return samples, qualities


def build_samples_and_ties(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]
) -> tuple[Samples, Samples, tuple[SymbolQuality, ...]]:
    """Like `build_samples`, and also return the candles whose label was dropped as a tie, between the two results.

    These have all features, finite ones; their `y` is 0 and means nothing. No fit may read them: that a candle is a tie
    is known only at the end of its label.
    """
    check_inputs(feature_set, candles)
    symbols, step_ms = tuple(sorted(candles)), interval_ms(feature_set.interval)
    symbol_times = [times_ms(candles[symbol]) for symbol in symbols]
    ts_ms = np.concatenate(symbol_times)
    symbol_ix = np.repeat(np.arange(len(symbols), dtype=np.int16), [times.size for times in symbol_times])
    symbol_labels = [make_labels(candles[symbol], feature_set.label, step_ms) for symbol in symbols]
    labels = {
        name: np.concatenate([table[name].fill_null(0).to_numpy() for table in symbol_labels])
        for name in ("y", "last_move", "label_end")
    }
    is_tie = np.concatenate([_find_dropped_ties(table) for table in symbol_labels])
    # Stable: symbols keep their order within each time. Ties come after all other candles.
    order = np.argsort(ts_ms, kind="stable")
    order = np.concatenate([order[~is_tie[order]], order[is_tie[order]]])
    # One matrix for both, filled in place: a second copy of a hundred symbols would not fit in memory.
    x = np.empty((ts_ms.size, len(feature_set.names)), np.float32)

    def make_rows(part: slice) -> Samples:
        picked = order[part]
        return Samples(
            x=x[part],
            y=labels["y"][picked],
            ts_ms=ts_ms[picked],
            label_end_ms=labels["label_end"][picked],
            symbol_ix=symbol_ix[picked],
            last_move=labels["last_move"][picked],
            symbols=symbols,
            names=feature_set.names,
        )

    others = ts_ms.size - np.count_nonzero(is_tie)
    candle_rows, tie_rows = make_rows(slice(0, others)), make_rows(slice(others, None))
    # Row of the matrix of each candle; candles are in the order of symbols, then time.
    matrix_row = np.empty(ts_ms.size, np.int64)
    matrix_row[order] = np.arange(ts_ms.size)
    ends = np.cumsum([times.size for times in symbol_times])
    is_complete = np.zeros(ts_ms.size, np.bool_)
    qualities = tuple(
        _fill_symbol(
            x,
            is_complete,
            matrix_row=matrix_row[end - table.height : end],
            labels=table,
            feature_set=feature_set,
            symbol=symbol,
            candles=candles,
        )
        for symbol, table, end in zip(symbols, symbol_labels, ends.tolist(), strict=True)
    )
    samples, ties = _compact(candle_rows, is_complete[:others]), _compact(tie_rows, is_complete[others:])
    _check_label(feature_set.label, qualities)
    if not samples.y.size:
        raise InputError(
            f"no row of {', '.join(symbols)} has every feature and a label: the longest feature needs "
            f"{feature_set.lookback_bars} candles in a row, the label {feature_set.label.horizon_bars} more",
            hint="take a longer snapshot",
        )
    check_finite(samples)
    # A training does not need these, so one that is not finite is no reason to refuse the candles.
    return samples, keep_finite(ties), qualities


def tabulate_rows(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], *, symbols: Collection[str]
) -> pl.DataFrame:
    """Return a row for each candle of some symbols, with or without features and label, by time, then symbol.

    The columns are `ts`, `symbol`, the features, `label` (the `y` of `make_labels`) and `label_end` (UTC, null where
    the label is). Those without a null are the rows of `build_samples`.

    Raises:
        InputError: The candles lack what a feature reads, or a feature has the name of another column.
    """
    if taken := sorted({"label", "label_end"}.intersection(feature_set.names)):
        raise InputError(f"the registry has a feature {taken[0]}: that is the column of the label", hint="rename it")
    check_inputs(feature_set, candles)
    parts = []
    for symbol in sorted(symbols):
        labels = make_labels(candles[symbol], feature_set.label, interval_ms(feature_set.interval))
        label_end = pl.when(pl.col("y").is_not_null()).then(pl.col("label_end")).cast(TS_DTYPE)
        features = compute_features(feature_set, symbol, candles)
        part = features.hstack(labels.select(pl.col("y").alias("label"), label_end.alias("label_end")))
        parts.append(part.insert_column(1, pl.lit(symbol).alias("symbol")))
    return pl.concat(parts).sort("ts", maintain_order=True)


def _find_dropped_ties(labels: pl.DataFrame) -> NDArray[np.bool_]:
    """Return which candles of a table of labels have a known outcome but no label, shape (n,)."""
    return labels.select(pl.col("tie").is_not_null() & pl.col("y").is_null())[:, 0].to_numpy()


def _check_label(label: LabelSpec, qualities: Sequence[SymbolQuality]) -> None:
    """Raise an InputError if ties leave fewer rows than any training needs; a longer snapshot hardly helps."""
    rows, ties = sum(quality.rows for quality in qualities), sum(quality.ties for quality in qualities)
    if label.kind == "barrier" and rows < MIN_TRAIN_ROWS < ties:
        raise InputError(
            f"only {rows:,} of {rows + ties:,} candles have a label: within {label.horizon_bars} bars, the others "
            f"touch no barrier ({label.describe_barriers()}) or both in one bar: a training needs "
            f"{MIN_TRAIN_ROWS:,} rows at least",
            hint="change the distance of the label's barriers, raise its horizon, or take `timeout: sign`",
        )
    if label.kind == "threshold" and rows < MIN_TRAIN_ROWS < ties:
        raise InputError(
            f"only {rows:,} of {rows + ties:,} candles move by more than {label.cost_bps:g} bps in "
            f"{label.horizon_bars} bars: a training needs {MIN_TRAIN_ROWS:,} rows at least",
            hint="lower the label's cost_bps, or raise its horizon",
        )


def _fill_symbol(
    x: NDArray[np.float32],
    is_complete: NDArray[np.bool_],
    *,
    matrix_row: NDArray[np.int64],
    labels: pl.DataFrame,
    feature_set: FeatureSet,
    symbol: str,
    candles: Mapping[str, pl.DataFrame],
) -> SymbolQuality:
    """Write one symbol's features into its rows of the matrix `x`, and count its candles, complete or not.

    Args:
        x: A row for each candle of all symbols, shape (n, f).
        is_complete: Set to True for rows with every feature, and a label or a dropped tie, shape (n,).
        matrix_row: The row of each of the symbol's candles, shape (m,).
        labels: Their labels, from `make_labels`.
        feature_set: The features.
        symbol: The symbol.
        candles: Candles of all symbols.
    """
    features = compute_features(feature_set, symbol, candles).drop("ts")
    # A null becomes NaN, in a row that is not complete.
    x[matrix_row] = features.to_numpy()
    has_features = features.select(pl.all_horizontal(pl.all().is_not_null()))[:, 0].to_numpy()
    has_outcome, has_label = (labels[name].is_not_null().to_numpy() for name in ("tie", "y"))
    is_complete[matrix_row] = has_features & has_outcome
    return SymbolQuality(
        symbol=symbol,
        candles=matrix_row.size,
        rows=int(np.count_nonzero(has_features & has_label)),
        no_features=int(np.count_nonzero(~has_features)),
        no_label=int(np.count_nonzero(has_features & ~has_outcome)),
        ties=int(np.count_nonzero(has_features & has_outcome & ~has_label)),
        tie_share=labels.select(pl.col("tie").mean()).item(),
    )


def _compact(samples: Samples, is_kept: NDArray[np.bool_]) -> Samples:
    """Return the rows to keep; they overwrite the front of the matrix of `samples`, which must not be used again."""
    rows = np.flatnonzero(is_kept)
    for start in range(0, rows.size, _MOVED_ROWS):
        part = rows[start : start + _MOVED_ROWS]
        # Rows only move towards the front.
        samples.x[start : start + part.size] = samples.x[part]
    return _with_rows(samples, samples.x[: rows.size], rows)


def split_off(samples: Samples, is_kept: NDArray[np.bool_]) -> tuple[Samples, Samples]:
    """Return the rows to keep, and the others, which are copied and should be few.

    The matrix of the rows to keep is compacted in place: do not use `samples` afterwards.
    """
    others = take_rows(samples, np.flatnonzero(~is_kept))
    return _compact(samples, is_kept), others


def keep_symbols(samples: Samples, symbols: Collection[str]) -> Samples:
    """Return the rows of some of the samples' symbols.

    The matrix is compacted in place, because a copy of a hundred symbols would not fit in memory: do not use `samples`
    afterwards.
    """
    kept = tuple(symbol for symbol in samples.symbols if symbol in symbols)
    new_ix = np.array([kept.index(s) if s in kept else -1 for s in samples.symbols], np.int16)[samples.symbol_ix]
    renumbered = replace(samples, symbols=kept, symbol_ix=new_ix)
    return renumbered if (new_ix >= 0).all() else _compact(renumbered, new_ix >= 0)


def check_finite(samples: Samples) -> None:
    """Refuse features that are infinite or missing.

    Raises:
        InputError: Names feature, symbol, time and value of the first one.
    """
    # The sum of a column is finite only if each value is; this needs no mask of the size of x.
    is_finite = np.isfinite(samples.x.sum(axis=0, dtype=np.float64))
    if is_finite.all():
        return
    column = int(np.argmin(is_finite))
    row = int(np.argmin(np.isfinite(samples.x[:, column])))
    raise InputError(
        f"feature {samples.names[column]} of {samples.symbols[samples.symbol_ix[row]]} at "
        f"{format_ms(int(samples.ts_ms[row]))} is {samples.x[row, column]}: features must be finite",
        hint="see `mltrain features audit`",
    )


def keep_finite(samples: Samples) -> Samples:
    """Return the rows whose features are all finite; the matrix is compacted in place: do not use `samples` again."""
    # The sum of a row is finite only if each value is.
    is_finite = np.isfinite(samples.x.sum(axis=1, dtype=np.float64))
    return samples if is_finite.all() else _compact(samples, is_finite)


def keep_newest(candles: Mapping[str, pl.DataFrame], max_rows: int) -> dict[str, pl.DataFrame]:
    """Return every symbol's candles from one time on: the earliest that leaves no more than `max_rows` in all.

    Args:
        candles: Candles by symbol.
        max_rows: Greatest number of candles of all symbols together; 0: no limit.

    Raises:
        InputError: The candles of the newest time alone are more.
    """
    if not 0 < max_rows < sum(frame.height for frame in candles.values()):
        return dict(candles)
    times = np.sort(np.concatenate([times_ms(frame) for frame in candles.values()]))
    # Candles of one time are kept together: the first time after that of the newest candle that does not fit.
    start = int(np.searchsorted(times, times[times.size - max_rows - 1], side="right"))
    if start == times.size:
        raise InputError(
            f"max_rows = {max_rows} is too small: {np.count_nonzero(times == times[-1])} symbols have a candle at "
            f"{format_ms(int(times[-1]))}",
            hint="pass a larger --max-rows, or 0 for all candles",
        )
    return {symbol: frame.filter(pl.Series(times_ms(frame) >= times[start])) for symbol, frame in candles.items()}


def take_rows(samples: Samples, rows: slice | NDArray[np.int64]) -> Samples:
    """Return the rows at increasing positions; those of a slice share the memory of `samples`."""
    return _with_rows(samples, samples.x[rows], rows)


def _with_rows(samples: Samples, x: NDArray[np.float32], rows: slice | NDArray[np.int64]) -> Samples:
    """Return samples with the matrix `x`, and the rows at these positions of all other arrays."""
    return replace(
        samples,
        x=x,
        y=samples.y[rows],
        ts_ms=samples.ts_ms[rows],
        label_end_ms=samples.label_end_ms[rows],
        symbol_ix=samples.symbol_ix[rows],
        last_move=samples.last_move[rows],
    )


def merge_rows(first: Samples, second: Samples) -> tuple[Samples, NDArray[np.int64]]:
    """Return the rows of two samples of the same symbols, without features, in the order of time, then symbol.

    Also return the position of each row in the concatenation of both, shape (n,).
    """
    both = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("y", "ts_ms", "label_end_ms", "symbol_ix", "last_move")
    }
    order = np.lexsort((both["symbol_ix"], both["ts_ms"]))
    in_order = {name: values[order] for name, values in both.items()}
    return Samples(x=np.empty((order.size, 0), np.float32), symbols=first.symbols, names=(), **in_order), order


def matrix_sha256(samples: Samples) -> str:
    """Return the SHA-256 (hexadecimal) of feature names, symbols, shapes and the bytes of each array."""
    digest = hashlib.sha256()
    for text in ("samples 1", *samples.names, "", *samples.symbols):
        digest.update(text.encode() + b"\n")
    arrays = (samples.x, samples.y, samples.ts_ms, samples.label_end_ms, samples.symbol_ix, samples.last_move)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
