"""Where to cut: rows at which an audit takes the future away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.times import DAY_MS, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet

_RUNS: Final = 6  # runs of candles whose ends are cut at, where a market has many gaps
_MIDNIGHTS: Final = 4
_FIRST_VALUES: Final = 2  # runs in which a feature's very first value is looked at
_ODD: Final = 2  # candles of each odd kind
_FULL: Final = 4
_SHARE_WITH_VALUES: Final = 2 / 3  # of the random cuts; the others fall anywhere, warm-up included


@dataclass(frozen=True, slots=True)
class Cuts:
    """Rows of one symbol to cut at.

    Attributes:
        random: Random rows; rising.
        edges: Both sides of gaps and of UTC midnights, and odd candles; rising.
        full: For checks of the whole history; never the last row, so that there is a future to take away.
        runs: Some runs of candles without a gap, as (first row, rows).
    """

    random: tuple[int, ...]
    edges: tuple[int, ...]
    full: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]

    @property
    def shared(self) -> tuple[int, ...]:
        """All rows that every feature is looked at; rising."""
        return tuple(sorted({*self.random, *self.edges}))

    def first_with(self, bars: int) -> tuple[int, ...]:
        """Return rows that are the first in their run with `bars` bars behind them, themselves included."""
        return tuple(first + bars - 1 for first, rows in self.runs if rows >= bars)[:_FIRST_VALUES]


def consecutive_bars(ts_ms: NDArray[np.int64], there: NDArray[np.bool_], step_ms: int) -> NDArray[np.int64]:
    """Count the bars without a gap that end at each row.

    Args:
        ts_ms: Open times, rising.
        there: Whether whatever else must be there (a leader's candle) is; a row without it is a gap.
        step_ms: Length of the interval.

    >>> consecutive_bars(np.array([0, 1, 2, 5, 6]), np.array([True, False, True, True, True]), 1)
    array([1, 0, 1, 1, 2])
    """
    rows = np.arange(ts_ms.size)
    begins = np.ones(ts_ms.size, dtype=np.bool_)
    begins[1:] = (np.diff(ts_ms) != step_ms) | ~there[:-1]
    first = np.maximum.accumulate(np.where(begins, rows, 0))
    counts: NDArray[np.int64] = np.where(there, rows - first + 1, 0)
    return counts


def bars_of(symbol: str, reads: Sequence[str], candles: Mapping[str, pl.DataFrame], step_ms: int) -> NDArray[np.int64]:
    """Count, at each row of a symbol, the bars without a gap of any of the symbols that are read."""
    ts_ms = times_ms(candles[symbol])
    there = np.ones(ts_ms.size, dtype=np.bool_)
    for other in reads:
        if other != symbol:
            there &= np.isin(ts_ms, times_ms(candles[other]))
    return consecutive_bars(ts_ms, there, step_ms)


def choose_cuts(
    feature_set: FeatureSet,
    symbol: str,
    candles: Mapping[str, pl.DataFrame],
    *,
    points: int,
    rng: np.random.Generator,
) -> Cuts:
    """Choose rows to cut at.

    Args:
        feature_set: Whose lookback and leaders count.
        symbol: Whose rows.
        candles: Candles by symbol, the leaders' included.
        points: Random rows; those around gaps and midnights come on top.
        rng: Makes the choice.
    """
    ts_ms = times_ms(candles[symbol])
    if not ts_ms.size:
        return Cuts((), (), (), ())
    counts = bars_of(symbol, (symbol, *feature_set.leaders), candles, interval_ms(feature_set.interval))
    complete = np.flatnonzero(counts >= feature_set.lookback_bars)
    anywhere = np.arange(ts_ms.size)
    with_values = _some(rng, complete, round(points * _SHARE_WITH_VALUES))
    starts = np.flatnonzero(counts == 1)
    lengths = np.diff([*starts, ts_ms.size])
    chosen = np.unique([0, *_some(rng, np.arange(starts.size), _RUNS)]) if starts.size else np.array([], dtype=np.intp)
    midnights = _some(rng, np.flatnonzero(ts_ms % DAY_MS == 0), _MIDNIGHTS)
    edges = np.concatenate([[0], starts[chosen], starts[chosen] - 1, midnights, midnights - 1]).astype(np.int64)
    edges = np.concatenate([edges[edges >= 0], *(_some(rng, rows, _ODD) for rows in _odd_rows(candles[symbol]))])
    random = np.concatenate([with_values, _some(rng, anywhere, points - with_values.size)])
    long = sorted(chosen.tolist(), key=lambda i: -lengths[i])
    return Cuts(
        random=tuple(np.unique(random).tolist()),
        edges=tuple(np.unique(edges).tolist()),
        full=tuple(_some(rng, complete[complete < ts_ms.size - 1], _FULL).tolist())
        or tuple(_some(rng, anywhere[:-1], _FULL).tolist()),
        runs=tuple((int(starts[i]), int(counts[starts[i] : starts[i] + lengths[i]].max())) for i in long),
    )


def _odd_rows(frame: pl.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Give the rows of candles of each odd kind: where a formula divides by nothing, and the largest there are."""
    close = frame["close"].to_numpy()
    volume, span = frame["volume"].to_numpy(), (frame["high"] - frame["low"]).to_numpy()
    move = np.abs(np.diff(close, prepend=close[:1]))
    for sizes in (volume, span, move):
        yield np.flatnonzero(sizes == 0)
        yield np.array([np.argmax(sizes)])


def _some(rng: np.random.Generator, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return up to `count` different ones of the rows, in random order."""
    return rng.permutation(rows)[:count] if rows.size <= 4 * count else rng.choice(rows, count, replace=False)
