"""The sweep: check most rows of a market at once, each with false candles all around its lookback.

A cut point tests one row. A feature that looks ahead at one row in two thousand would escape thirty cut points. The
sweep divides the history into tiles: a feature's lookback of true candles, then a gap of false ones, then the next
tile. Every row that ends a tile must have the value of the batch. Each phase moves the tiles by some rows; as many
phases as a tile and its gap have rows would test every row. False candles are those of other times, rescaled: so
plausible that a running sum, which remembers earlier candles, shows no more than its rounding.

User ops get twenty times the phases: the built-in ops have tests, a user's op has only the audit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from math import isqrt
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.features.spec import columns_read
from mltrain.guards.cut_points import count_shared_bars
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.guards.audited_symbol import AuditedSymbol, Canary, Candles, FeatureGroup, Values

DETAIL: Final = (
    "values of rows spread over the whole history, with false candles before and after each one's lookback; worst: "
    "deviation in standard deviations"
)

_PHASES_PER_POINT: Final = 0.1
_USER_OP_PHASES_PER_POINT: Final = 2
# False candles after a tile; a feature that looks so far ahead is caught at every end of a tile.
_MIN_GAP: Final = 3
_GAP_SHARE: Final = 0.25
_GAP_FACTORS: Final = (1, 4, 16)
# Indices of _GAP_FACTORS: which gap each phase takes, in turn.
_TURNS: Final = (0, 0, 1, 0, 0, 2)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The sweep over all symbols of a market.

    Attributes:
        candles: True candles by symbol.
        false: False candles by symbol, with the same times.
        points: Number of random cut points of the audit; the number of phases is proportional to it.
        rng: Chooses the phases.
    """

    candles: Candles
    false: Candles
    points: int
    rng: np.random.Generator

    def run(self, audited: AuditedSymbol, canary: Canary) -> None:
        """Check the features of one symbol, phase by phase."""
        for bars, group in audited.by_lookback:
            step_ms = interval_ms(group.features.interval)
            complete = (
                count_shared_bars(audited.symbol, group.reads, self.candles, step_ms, inputs=group.inputs) >= bars
            )
            tiles = _Tiles(audited, group, bars, self.candles, self.false)
            failed: set[int] = set()
            for ends in self._choose_ends(np.flatnonzero(complete), bars, user_ops=group.user_ops):
                failed |= tiles.check(ends, canary, known=failed)

    def _choose_ends(self, rows: NDArray[np.intp], bars: int, *, user_ops: bool) -> Iterator[NDArray[np.intp]]:
        """Yield for each phase those of `rows` that end a tile of `bars` rows."""
        per_point = _USER_OP_PHASES_PER_POINT if user_ops else _PHASES_PER_POINT
        phases = (rows[rows % period == offset] for period, offset in _draw_layouts(bars, self.rng))
        yield from islice((ends for ends in phases if ends.size), max(1, round(per_point * self.points)))


def _draw_layouts(bars: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yield layouts of tiles of `bars` rows as (period, offset): a tile ends at each row where row % period == offset.

    The rows of a tile keep their true candles, those between tiles get false ones. The layouts come in random order,
    mostly with the shortest gap between tiles, which tests most rows. Periods are prime: if the period divided the lag
    at which a feature secretly reads, such as 1,440 rows, that row would lie in a tile for every offset.
    """
    gap = max(_MIN_GAP, round(bars * _GAP_SHARE))
    periods = [_next_prime(bars + gap * factor) for factor in _GAP_FACTORS]
    offsets_left = [rng.permutation(period).tolist() for period in periods]
    while any(offsets_left):
        for i in _TURNS:
            if offsets_left[i]:
                yield periods[i], offsets_left[i].pop()


def _next_prime(minimum: int) -> int:
    """Return the smallest prime of at least `minimum`.

    >>> _next_prime(8)
    11
    """
    return next(n for n in count(minimum) if all(n % d for d in range(2, isqrt(n) + 1)))


class _Tiles:
    """The true and false candles that features of one lookback read."""

    def __init__(
        self, audited: AuditedSymbol, group: FeatureGroup, bars: int, candles: Candles, false: Candles
    ) -> None:
        self._audited = audited
        self._group = group
        self._bars = bars
        columns = {symbol: _list_columns_needed(group, symbol, audited.symbol) for symbol in group.reads}
        self._true = {symbol: candles[symbol].select(names) for symbol, names in columns.items()}
        self._false = {symbol: false[symbol].select(names) for symbol, names in columns.items()}

    def check(self, ends: NDArray[np.intp], canary: Canary, *, known: set[int]) -> set[int]:
        """Check the rows that end a tile, and record each failing feature whose position in the group is not `known`.

        Returns:
            Positions in the group of all features that fail.
        """
        audited, group = self._audited, self._group
        is_true = _mark_tiles(audited.ts_ms.size, ends, self._bars)
        got = self._recompute(is_true)[ends]
        canary.note("sweep", audited.batch[ends, -1], got[:, -1])
        comparison = audited.compare(group, ends, got)
        audited.record_deviations("sweep", group, ends, comparison.deviation)
        failing = set(np.flatnonzero(comparison.wrong.any(axis=0)).tolist())
        for i in sorted(failing - known):
            tile = int(np.flatnonzero(comparison.wrong[:, i])[0])
            why, value = self._find_cause(is_true, int(ends[tile]), i) or ("lookback", float(got[tile, i]))
            audited.record_failure("sweep", group, i, int(ends[tile]), got=value, why=why)
        return failing

    def _find_cause(self, is_true: NDArray[np.bool_], row: int, index: int) -> tuple[str, float] | None:
        """Find out whether later candles or candles before its lookback change a feature's value at a row.

        Returns:
            "poison" or "lookback", and the value that results; None if only both together change it.
        """
        for why, restored in (("poison", slice(None, row + 1)), ("lookback", slice(row + 1, None))):
            half_true = is_true.copy()
            half_true[restored] = True
            got = self._recompute(half_true)[row : row + 1]
            if self._audited.compare(self._group, np.array([row]), got).wrong[0, index]:
                return why, float(got[0, index])
        return None

    def _recompute(self, is_true: NDArray[np.bool_]) -> Values:
        """Recompute with true candles at the marked rows (of a leader: at their times) and false ones elsewhere."""
        true_ms = self._audited.ts_ms[is_true]
        frames = {}
        for symbol, frame in self._true.items():
            marks = is_true if symbol == self._audited.symbol else np.isin(times_ms(frame), true_ms)
            columns = [
                true if true.name == "ts" else pl.Series(true.name, np.where(marks, true.to_numpy(), false.to_numpy()))
                for true, false in zip(frame.get_columns(), self._false[symbol].get_columns(), strict=True)
            ]
            frames[symbol] = pl.DataFrame(columns)
        return self._audited.recompute(self._group, frames)


def _mark_tiles(rows: int, ends: NDArray[np.intp], bars: int) -> NDArray[np.bool_]:
    """Return a mask of shape (rows,) that is True at the `bars` rows that end at each of `ends`.

    >>> _mark_tiles(6, np.array([1, 5]), 2).tolist()
    [True, True, False, False, True, True]
    """
    edges = np.zeros(rows + 1, dtype=np.int64)
    np.add.at(edges, ends - bars + 1, 1)
    np.add.at(edges, ends + 1, -1)
    marks: NDArray[np.bool_] = np.cumsum(edges)[:-1] > 0
    return marks


def _list_columns_needed(group: FeatureGroup, symbol: str, audited_symbol: str) -> list[str]:
    """Return the columns of a symbol that the features read, its times, and the closes for the planted feature."""
    read = {name for spec in group.features.features for name in columns_read(spec, leader=symbol != audited_symbol)}
    read |= set(group.inputs.get(symbol, ()))
    if symbol == audited_symbol:
        read |= {"close"}
    return ["ts", *sorted(read - {"ts"})]
