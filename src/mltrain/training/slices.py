"""Slices: the holdout's scores by week, and by volatility of the market.

Pure. A mean over the whole holdout hides a model that works only in one week or one kind of market. Volatility is
compared with the terciles of each symbol's rows before the holdout: quantiles of all rows would know the future.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.times import FIRST_MONDAY_MS, WEEK_MS, day_name
from mltrain.training.metrics import score_if_possible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.training.metrics import Metrics
    from mltrain.training.samples import Samples

# Candles whose standard deviation of log returns is a row's volatility.
VOLATILITY_BARS: Final = 60
TERCILES: Final = ("calm", "ordinary", "wild")


@dataclass(frozen=True, slots=True)
class SliceScore:
    """The scores of some of the rows.

    Attributes:
        name: The Monday that the week begins with, or a tercile of volatility.
        rows: Number of rows.
        up_share: Share of them that went up; None without rows.
        metrics: Their scores; None unless both classes are present.
    """

    name: str
    rows: int
    up_share: float | None
    metrics: Metrics | None


def _score_slice(name: str, p: NDArray[np.float64], y: NDArray[np.uint8]) -> SliceScore:
    return SliceScore(name, y.size, float(y.mean()) if y.size else None, score_if_possible(p, y))


def score_weeks(p: NDArray[np.float64], y: NDArray[np.uint8], ts_ms: NDArray[np.int64]) -> tuple[SliceScore, ...]:
    """Score each week, Monday to Sunday UTC, that holds rows, the earliest first.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        ts_ms: Open times, shape (n,).
    """
    week = (ts_ms - FIRST_MONDAY_MS) // WEEK_MS
    return tuple(
        _score_slice(day_name(int(w) * WEEK_MS + FIRST_MONDAY_MS), p[week == w], y[week == w]) for w in np.unique(week)
    )


def score_terciles(p: NDArray[np.float64], y: NDArray[np.uint8], tercile: NDArray[np.int8]) -> tuple[SliceScore, ...]:
    """Score each tercile of volatility; rows without one (-1) are left out.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        tercile: The tercile of each row, shape (n,), see `volatility_terciles`.
    """
    return tuple(_score_slice(name, p[tercile == k], y[tercile == k]) for k, name in enumerate(TERCILES))


def volatility_terciles(
    candles: Mapping[str, pl.DataFrame], samples: Samples, *, reference: slice, rows: slice, step_ms: int
) -> NDArray[np.int8]:
    """Return the tercile of volatility of some rows among their symbol's reference rows.

    Args:
        candles: By symbol.
        samples: All rows.
        reference: The rows whose volatility defines the terciles.
        rows: The rows to return.
        step_ms: Length of the interval.

    Returns:
        0, 1 or 2, or -1 if the candles before a row are too few or have a gap; shape (n,).
    """
    tercile = np.full(samples.ts_ms.size, -1, np.int8)
    for ix, symbol in enumerate(samples.symbols):
        symbol_rows = np.flatnonzero(samples.symbol_ix == ix)
        volatility = _volatility(candles[symbol], samples.ts_ms[symbol_rows], step_ms)
        known = volatility[(symbol_rows >= reference.start) & (symbol_rows < reference.stop) & np.isfinite(volatility)]
        if known.size:
            edges = np.quantile(known, [1 / 3, 2 / 3])
            tercile[symbol_rows] = np.where(np.isfinite(volatility), np.searchsorted(edges, volatility), -1)
    return tercile[rows]


def _volatility(frame: pl.DataFrame, ts_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.float64]:
    """Return the standard deviation of the last log returns at some candles; NaN across a gap."""
    ts = pl.col("ts").dt.timestamp("ms")
    log_return = pl.when(ts.diff() == step_ms).then(pl.col("close").log().diff())
    table = frame.select(ts.alias("ts"), log_return.rolling_std(VOLATILITY_BARS).alias("volatility"))
    position = np.searchsorted(table["ts"].to_numpy(), ts_ms)
    return table["volatility"].fill_null(float("nan")).to_numpy()[position]
