"""The sweep: most of a market's rows at once, each with false candles all around its own lookback.

A cut tests one moment. Where a feature looks ahead at one row of two thousand, thirty cuts would miss it. Here the
history is laid out in tiles: a feature's lookback of true candles, then some false ones, then again; every row that
ends a tile must have the value of the batch. Each phase moves the tiles by some rows, so that as many phases as a tile
and its gap have rows have tested every row. False candles are those of other times, rescaled: plausible ones, so that
a running sum, which remembers what has passed, is not accused of more than its rounding.

Ops of the user's own get twenty times the phases: mltrain's have their tests, a user's have this.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from math import isqrt
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import PRICES, times_ms
from mltrain.features.spec import columns_read
from mltrain.guards.audited_symbol import differ, values_of
from mltrain.guards.cut_points import bars_of
from mltrain.guards.equality import compare_closely
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet
    from mltrain.guards.audited_symbol import Candles, Compute, Part, Subject
    from mltrain.guards.equality import Canary, Verdicts

DETAIL: Final = (
    "values of rows spread over the whole history, with false candles before and after each one's lookback; worst: "
    "deviation in units of the feature's scale"
)

_PHASES_PER_POINT: Final = 0.1
_OWN_PHASES_PER_POINT: Final = 2
_LEAST_GAP: Final = 3  # false candles behind a tile: so far ahead is looked at wherever a tile ends
_GAP_SHARE: Final = 0.25
_GAP_FACTORS: Final = (1, 4, 16)
_TURNS: Final = (0, 0, 1, 0, 0, 2)  # which of these gaps comes next
_FALSE_FACTOR: Final = (0.4, 0.8)  # of a false price or volume, or its inverse: never the true one


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a sweep needs to know of a run of the audit.

    Attributes:
        compute: What computes features.
        candles: True candles by symbol.
        false: As many false ones, with the same times.
        points: How thorough the audit is.
        rng: Chooses the phases.
    """

    compute: Compute
    candles: Candles
    false: Candles
    points: int
    rng: np.random.Generator

    def run(self, subject: Subject, verdicts: Verdicts, canary: Canary) -> None:
        """Sweep the features of one symbol."""
        for bars, part in subject.lookbacks:
            step_ms = interval_ms(part.features.interval)
            ready = bars_of(subject.symbol, part.reads, self.candles, step_ms) >= bars
            tiles = _Tiles(self, subject, part, bars)
            failed: set[int] = set()
            for ends in self._phases(ready, part, bars):
                failed |= tiles.check(ends, verdicts, canary, known=failed)

    def _phases(self, ready: NDArray[np.bool_], part: Part, bars: int) -> Iterator[NDArray[np.intp]]:
        """Give the rows that end a tile, phase by phase."""
        share = _OWN_PHASES_PER_POINT if part.own else _PHASES_PER_POINT
        rows = np.flatnonzero(ready)
        every = (rows[rows % period == offset] for period, offset in _layouts(bars, self.rng))
        yield from islice((ends for ends in every if ends.size), max(1, round(share * self.points)))


def _layouts(bars: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Give every way to lay out tiles, as (period, offset): mostly of the shortest gap, which looks at most rows.

    The period is prime: what a feature reads some tiles further back would else be true candles again, in every phase.
    """
    gap = max(_LEAST_GAP, round(bars * _GAP_SHARE))
    periods = [_prime(bars + gap * factor) for factor in _GAP_FACTORS]
    waiting = [rng.permutation(period).tolist() for period in periods]
    while any(waiting):
        for turn in _TURNS:
            if waiting[turn]:
                yield periods[turn], waiting[turn].pop()


def _prime(least: int) -> int:
    """Return the least prime that is not below a number.

    >>> _prime(8)
    11
    """
    return next(n for n in count(least) if all(n % d for d in range(2, isqrt(n) + 1)))


def false_candles(frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return a market that never was: the candles of other times, each rescaled, at the times of these."""
    rows = frame.height
    there = np.roll(np.arange(rows), int(rng.integers(rows // 4, rows - rows // 4 + 1)))
    price, volume, trades = (_factors(rng, rows) for _ in range(3))
    factors: Mapping[str, NDArray[np.float64]] = {
        **dict.fromkeys(PRICES, price),
        **dict.fromkeys(("volume", "taker_buy_base"), volume),
        **dict.fromkeys(("quote_volume", "taker_buy_quote"), price * volume),
        "trades": trades,
    }
    columns = [
        column
        if column.name not in factors or column.has_nulls()
        else pl.Series(column.name, column.to_numpy()[there] * factors[column.name]).cast(column.dtype)
        for column in frame.get_columns()
    ]
    return pl.DataFrame(columns)


def _factors(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    factor: NDArray[np.float64] = rng.uniform(*_FALSE_FACTOR, rows)
    return np.where(rng.random(rows) < 1 / 2, factor, 1 / factor)


class _Tiles:
    """One group of features with the same lookback, and frames of true and false candles for them."""

    def __init__(self, sweep: Sweep, subject: Subject, part: Part, bars: int) -> None:
        self._sweep = sweep
        self._subject = subject
        self._part = part
        self._bars = bars
        self._columns = {symbol: _columns_needed(part.features, symbol, subject.symbol) for symbol in part.reads}
        self._true = {symbol: sweep.candles[symbol].select(names) for symbol, names in self._columns.items()}
        self._false = {symbol: sweep.false[symbol].select(names) for symbol, names in self._columns.items()}
        self._ts_ms = {symbol: times_ms(frame) for symbol, frame in self._true.items()}

    def check(self, ends: NDArray[np.intp], verdicts: Verdicts, canary: Canary, *, known: set[int]) -> set[int]:
        """Check the rows that end a tile; return the features that fail, those of `known` are not told again."""
        clean = _tiles(self._subject.ts_ms.size, ends, self._bars)
        got = self._values(clean)[ends]
        expected = self._subject.batch[np.ix_(ends, self._part.columns)]
        canary.note("sweep", expected[:, -1], differ(expected[:, -1], got[:, -1]))
        close = compare_closely(expected[:, :-1], got[:, :-1], self._subject.scale[self._part.columns[:-1]])
        verdicts.did("sweep", self._part, ends, close.gap)
        failing = set(np.flatnonzero(close.wrong.any(axis=0)).tolist())
        for i in sorted(failing - known):
            at = int(np.flatnonzero(close.wrong[:, i])[0])
            why, other = self._explain(clean, int(ends[at]), i) or ("lookback", float(got[at, i]))
            verdicts.fail("sweep", self._part, i, int(ends[at]), got=other, why=why)
        return failing

    def _explain(self, clean: NDArray[np.bool_], row: int, index: int) -> tuple[str, float] | None:
        """Tell whether it is what comes after a row that changes its value, or what lies before its lookback.

        Returns:
            What it is, and the value that it gives; None where it needs both.
        """
        for why, part in (("poison", slice(None, row + 1)), ("lookback", slice(row + 1, None))):
            half = clean.copy()
            half[part] = True
            got = self._values(half)[row : row + 1, index : index + 1]
            column = self._part.columns[index]
            expected = self._subject.batch[row : row + 1, column : column + 1]
            if compare_closely(expected, got, self._subject.scale[column : column + 1]).wrong.any():
                return why, float(got[0, 0])
        return None

    def _values(self, clean: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Compute with true candles at the rows that are marked, at the same times for other symbols, else false."""
        kept = self._subject.ts_ms[clean]
        frames = {}
        for symbol, true in self._true.items():
            marks = clean if symbol == self._subject.symbol else np.isin(self._ts_ms[symbol], kept)
            frames[symbol] = _mix(true, self._false[symbol], marks)
        return values_of(self._sweep.compute, self._part.features, self._subject.symbol, frames)


def _tiles(rows: int, ends: NDArray[np.intp], bars: int) -> NDArray[np.bool_]:
    """Mark the last `bars` rows up to each of `ends`.

    >>> _tiles(6, np.array([1, 5]), 2).tolist()
    [True, True, False, False, True, True]
    """
    edges = np.zeros(rows + 1, dtype=np.int64)
    np.add.at(edges, ends - bars + 1, 1)
    np.add.at(edges, ends + 1, -1)
    marks: NDArray[np.bool_] = np.cumsum(edges)[:-1] > 0
    return marks


def _mix(true: pl.DataFrame, false: pl.DataFrame, marks: NDArray[np.bool_]) -> pl.DataFrame:
    columns = [
        one if one.name == "ts" else pl.Series(one.name, np.where(marks, one.to_numpy(), other.to_numpy()))
        for one, other in zip(true.get_columns(), false.get_columns(), strict=True)
    ]
    return pl.DataFrame(columns)


def _columns_needed(features: FeatureSet, symbol: str, of: str) -> list[str]:
    """Return the columns of a symbol that the features read; its times, and its closes for the canary."""
    read = {name for spec in features.features for name in columns_read(spec, leader=symbol != of)}
    if symbol == of:  # on the leader itself its columns are not read, but have to be there
        read |= {"close"}
    return ["ts", *sorted(read - {"ts"})]
