"""Slices: the holdout's scores week by week, and where the market is calm, ordinary or wild.

Pure. A mean over the whole holdout hides a model that lives on one week or on one kind of market. What is calm and what
is wild is told by the terciles of each symbol's rows before the holdout: quantiles of all rows would know the future.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.times import FIRST_MONDAY_MS, WEEK_MS, day_name
from mltrain.training.metrics import score

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.training.metrics import Metrics
    from mltrain.training.samples import Samples

VOLATILITY_BARS: Final = 60  # candles whose log returns' standard deviation is a row's volatility
TERCILES: Final = ("calm", "ordinary", "wild")


@dataclass(frozen=True, slots=True)
class SliceScore:
    """The scores of some of the rows; `metrics` is None where they hold fewer than two classes.

    Attributes:
        name: Which rows: the Monday that a week begins with, or a tercile of volatility.
        rows: How many.
        up_share: Share of them that went up; None without rows.
        metrics: Their scores.
    """

    name: str
    rows: int
    up_share: float | None
    metrics: Metrics | None


def score_slice(name: str, p: NDArray[np.float64], y: NDArray[np.uint8]) -> SliceScore:
    """Score some rows, where both classes are among them."""
    both = 0 < np.count_nonzero(y) < y.size
    return SliceScore(name, y.size, float(y.mean()) if y.size else None, score(p, y) if both else None)


def score_weeks(p: NDArray[np.float64], y: NDArray[np.uint8], ts_ms: NDArray[np.int64]) -> tuple[SliceScore, ...]:
    """Score each week, Monday to Sunday UTC, that holds rows, the earliest first.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        ts_ms: Open times, shape (n,).
    """
    week = (ts_ms - FIRST_MONDAY_MS) // WEEK_MS
    return tuple(
        score_slice(day_name(int(w) * WEEK_MS + FIRST_MONDAY_MS), p[week == w], y[week == w]) for w in np.unique(week)
    )


def score_terciles(p: NDArray[np.float64], y: NDArray[np.uint8], tercile: NDArray[np.int8]) -> tuple[SliceScore, ...]:
    """Score each tercile of volatility; rows of none (-1) are left out.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        tercile: Of each row, shape (n,), as `volatility_terciles` tells it.
    """
    return tuple(score_slice(name, p[tercile == k], y[tercile == k]) for k, name in enumerate(TERCILES))


def volatility_terciles(
    candles: Mapping[str, pl.DataFrame], samples: Samples, *, before: slice, of: slice, step_ms: int
) -> NDArray[np.int8]:
    """Return the tercile of volatility of some rows, by what was usual for their symbol before.

    Args:
        candles: By symbol.
        samples: All rows.
        before: The rows that tell what is usual.
        of: The rows asked for.
        step_ms: Length of the interval.

    Returns:
        0, 1 or 2, or -1 where the candles before a row are too few or have a gap; shape (n,).
    """
    tercile = np.full(samples.ts_ms.size, -1, np.int8)
    for ix, symbol in enumerate(samples.symbols):
        rows = np.flatnonzero(samples.symbol_ix == ix)
        volatility = _volatility(candles[symbol], samples.ts_ms[rows], step_ms)
        usual = volatility[(rows >= before.start) & (rows < before.stop)]
        usual = usual[np.isfinite(usual)]
        if usual.size:
            edges = np.quantile(usual, [1 / 3, 2 / 3])
            tercile[rows] = np.where(np.isfinite(volatility), np.searchsorted(edges, volatility), -1)
    return tercile[of]


def _volatility(frame: pl.DataFrame, ts_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.float64]:
    """Return the standard deviation of the last log returns at some candles; NaN across a gap."""
    ts = pl.col("ts").dt.timestamp("ms")
    moved = pl.when(ts.diff() == step_ms).then(pl.col("close").log().diff())
    table = frame.select(ts.alias("ts"), moved.rolling_std(VOLATILITY_BARS).alias("volatility"))
    found = np.searchsorted(table["ts"].to_numpy(), ts_ms)
    return table["volatility"].fill_null(float("nan")).to_numpy()[found]
