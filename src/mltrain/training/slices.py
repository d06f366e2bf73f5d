"""Slices: the holdout's scores by week or month, and by volatility of the market.

A mean over the whole holdout hides a model that works only in one week or one kind of market. Volatility is compared
with the terciles of each symbol's rows before the holdout: quantiles of all rows would know the future.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.times import FIRST_MONDAY_MS, WEEK_MS, day_name
from mltrain.training.metrics import score_if_possible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.training.metrics import Metrics
    from mltrain.training.samples import Samples

# A row's volatility is the standard deviation of this many log returns.
VOLATILITY_BARS: Final = 60
# Most slices of time, and how many weeks one may have.
_MAX_WEEKS: Final = 60
_JOINED_WEEKS: Final = (1, 4, 13, 52)
# Names of the terciles of volatility, the lowest first.
TERCILES: Final = ("calm", "ordinary", "wild")


@dataclass(frozen=True, slots=True)
class SliceScore:
    """The scores of one week or one tercile of volatility.

    Attributes:
        name: The Monday that the weeks begin with, or a tercile of volatility.
        rows: Number of rows.
        up_share: Share of the rows that went up; None without rows.
        metrics: Scores of the rows; None unless both classes are present.
    """

    name: str
    rows: int
    up_share: float | None
    metrics: Metrics | None


def _score_slice(name: str, p: NDArray[np.float64], y: NDArray[np.uint8]) -> SliceScore:
    """Score the rows of one week or tercile, whose probabilities and labels are given."""
    return SliceScore(name, y.size, float(y.mean()) if y.size else None, score_if_possible(p, y))


def score_weeks(p: NDArray[np.float64], y: NDArray[np.uint8], ts_ms: NDArray[np.int64]) -> tuple[SliceScore, ...]:
    """Score each week, Monday to Sunday UTC, that holds rows, the earliest first.

    More than 60 weeks, as of daily candles, are joined by 4, 13 or 52: one week of these would be a handful of rows.

    Args:
        p: Probabilities of "up", shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 for up, else 0.
        ts_ms: Open times, UTC ms, shape (n,).
    """
    week = (ts_ms - FIRST_MONDAY_MS) // WEEK_MS
    weeks = int(np.ptp(week)) + 1 if week.size else 0
    joined = next((n for n in _JOINED_WEEKS if weeks <= n * _MAX_WEEKS), _JOINED_WEEKS[-1])
    first = week // joined * joined
    return tuple(
        _score_slice(day_name(int(w) * WEEK_MS + FIRST_MONDAY_MS), p[first == w], y[first == w])
        for w in np.unique(first)
    )


def score_terciles(p: NDArray[np.float64], y: NDArray[np.uint8], tercile: NDArray[np.int8]) -> tuple[SliceScore, ...]:
    """Score the rows of each tercile of volatility, the lowest first.

    Args:
        p: Probabilities of "up", shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 for up, else 0.
        tercile: Tercile of each row, shape (n,): 0, 1 or 2; rows with -1 are left out.
    """
    return tuple(_score_slice(name, p[tercile == k], y[tercile == k]) for k, name in enumerate(TERCILES))


def volatility_terciles(
    candles: Mapping[str, pl.DataFrame], reference: Samples, rows: Samples, *, step_ms: int
) -> NDArray[np.int8]:
    """Return in which tercile of its symbol's reference rows the volatility of each row lies.

    Args:
        candles: By symbol, sorted by time.
        reference: The rows whose volatility defines the terciles of their symbol.
        rows: The n rows, of the same symbols.
        step_ms: Length of a bar, in ms.

    Returns:
        0, 1 or 2 for each row; -1 if its volatility is unknown, or that of all of its symbol's reference rows;
        shape (n,).
    """
    tercile = np.full(rows.ts_ms.size, -1, np.int8)
    for ix, symbol in enumerate(rows.symbols):
        candle_ms, volatility = times_ms(candles[symbol]), _volatility(candles[symbol], step_ms)
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        before, now = (
            volatility[np.searchsorted(candle_ms, ts_ms)]
            for ts_ms in (reference.ts_ms[reference.symbol_ix == ix], rows.ts_ms[symbol_rows])
        )
        if np.isfinite(before).any():
            edges = np.quantile(before[np.isfinite(before)], [1 / 3, 2 / 3])
            tercile[symbol_rows] = np.where(np.isfinite(now), np.searchsorted(edges, now), -1)
    return tercile


def _volatility(frame: pl.DataFrame, step_ms: int) -> NDArray[np.float64]:
    """Return the standard deviation of the last VOLATILITY_BARS log returns at each candle, shape (n,).

    It is NaN where a gap or the start of the candles lies between them.
    """
    ts = pl.col("ts").dt.timestamp("ms")
    log_return = pl.when(ts.diff() == step_ms).then(pl.col("close").log().diff())
    volatility = frame.select(log_return.rolling_std(VOLATILITY_BARS))[:, 0]
    return volatility.fill_null(float("nan")).to_numpy()
