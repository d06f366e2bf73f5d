"""Confidence intervals by a block bootstrap (Kuensch 1989): whole blocks of time are drawn with replacement.

Pure; random draws come from a seed argument. Rows of neighbouring minutes, and of different symbols at one minute, are
dependent: drawing single rows would give intervals a third too narrow. A block is one UTC day of all symbols. Figures
that are compared use the same draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError
from mltrain.times import DAY_MS
from mltrain.training.metrics import ECE_BINS, equal_mass_bins, predict_up, row_log_loss, score

if TYPE_CHECKING:
    from numpy.typing import NDArray

# One-sided confidence of the interval ends that gates judge; `bootstrap.level` is for intervals that are shown.
JUDGED: Final = 0.95
# With fewer days, the time range is cut into this many blocks of equal length instead.
MIN_DAYS: Final = 10
# Distinct scores per step of the pair counts: limits the memory, does not change the result.
_AUC_CHUNK: Final = 4_096


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its confidence interval.

    Attributes:
        value: The figure on all rows.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its standard error, which give an interval at any confidence.

    Quantiles of draws do not reach that far: at a confidence of 99.95 % the tail of 2,000 draws holds one draw.

    Attributes:
        value: The figure on all rows.
        se: Standard deviation of the figure over the draws of blocks.
        blocks: Number of bootstrap blocks.
    """

    value: float
    se: float
    blocks: int

    def reach(self, confidence: float) -> float:
        """Return the distance from the value to the end of a one-sided interval of this confidence.

        Student's t with blocks - 1 degrees of freedom. The factor sqrt(n / (n - 1)) corrects the variance of the draws,
        which divides by n.

        >>> round(Estimate(0.02, 0.01, 10).reach(0.95), 4)
        0.0193
        """
        from scipy.special import stdtrit

        n = self.blocks
        return float(stdtrit(n - 1, confidence)) * self.se * math.sqrt(n / (n - 1))

    def low(self, confidence: float) -> float:
        """Return the lower end of the one-sided interval of this confidence."""
        return self.value - self.reach(confidence)

    def interval(self, confidence: float) -> Interval:
        """Return the interval whose two ends each have this one-sided confidence."""
        reach = self.reach(confidence)
        return Interval(self.value, self.value - reach, self.value + reach)

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit, such as percent instead of a share."""
        return Estimate(self.value * factor, self.se * factor, self.blocks)


@dataclass(frozen=True, slots=True)
class MetricIntervals:
    """The interval of every score in `mltrain.training.metrics.Metrics`, under the same names.

    Attributes:
        accuracy: Share of rows whose predicted side is right.
        f1: Harmonic mean of precision and recall.
        precision: Share of the rows predicted "up" that went up.
        recall: Share of the rows that went up that were predicted "up".
        auc_roc: Area under the ROC curve.
        log_loss: Mean negative log probability of the outcome, in nats.
        brier: Mean squared difference of probability and outcome.
        ece: Expected calibration error.
    """

    accuracy: Interval
    f1: Interval
    precision: Interval
    recall: Interval
    auc_roc: Interval
    log_loss: Interval
    brier: Interval
    ece: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Bootstrap:
    """The blocks of some rows, and how often each draw contains each block.

    Attributes:
        block: Block of each row, shape (n,), numbered from 0 without gaps.
        weights: Count of each block in each draw, shape (draws, blocks); each draw sums to `blocks`.
        tail: Share of the draws outside each end of an interval.
        by_day: Whether a block is a UTC day; else one of ten equal parts of the time range.
    """

    block: NDArray[np.int64]
    weights: NDArray[np.float64]
    tail: float
    by_day: bool

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.weights.shape[1])

    def sums(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the sum of the rows' values in each block."""
        return np.bincount(self.block, weights=values, minlength=self.blocks).astype(np.float64)

    def ratio(
        self, part: NDArray[np.float64] | NDArray[np.bool_], whole: NDArray[np.float64] | NDArray[np.bool_]
    ) -> Interval:
        """Return sum of `part` / sum of `whole` over the rows, with its interval; 0 if `whole` sums to 0."""
        parts, wholes = self.sums(part), self.sums(whole)
        drawn = _divide(self.drawn(parts), self.drawn(wholes))
        return self.interval(float(_divide(parts.sum(), wholes.sum())), drawn)

    def estimate(
        self, part: NDArray[np.float64] | NDArray[np.bool_], whole: NDArray[np.float64] | None = None
    ) -> Estimate:
        """Return sum of `part` / sum of `whole` (default: the mean of `part`), with its standard error."""
        parts, wholes = self.sums(part), self.sums(np.ones(part.size) if whole is None else whole)
        drawn = _divide(self.drawn(parts), self.drawn(wholes))
        return Estimate(float(_divide(parts.sum(), wholes.sum())), float(drawn.std()), self.blocks)

    def drawn(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the total of each draw from the sums of the blocks, shape (blocks, ...)."""
        # Not `@`: BLAS rounds differently for other thread counts, and a card must not.
        totals: NDArray[np.float64] = np.einsum("db,b...->d...", self.weights, sums)
        return totals

    def mean(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> Interval:
        """Return the mean of the rows' values, with its interval."""
        return self.ratio(values, np.ones(values.size))

    def interval(self, value: float, drawn: NDArray[np.float64]) -> Interval:
        """Return a figure with the interval between quantiles of its values on the draws; NaN draws are left out."""
        low, high = np.nanquantile(drawn, [self.tail, 1 - self.tail]).tolist()
        return Interval(value, low, high)


def _divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)


def plan_bootstrap(ts_ms: NDArray[np.int64], *, draws: int, level: float, seed: int) -> Bootstrap:
    """Cut rows into blocks of time and draw from the blocks.

    Args:
        ts_ms: Open times of the rows, shape (n,), any order.
        draws: Number of draws.
        level: Coverage of the intervals, such as 0.9.
        seed: Random seed of the draws.

    Returns:
        The blocks (UTC days; ten parts of equal length if the rows are on fewer than ten days) and the draws.

    Raises:
        InputError: The rows fill fewer than two blocks.
    """
    day = ts_ms // DAY_MS
    by_day = np.unique(day).size >= MIN_DAYS
    first = ts_ms.min(initial=np.iinfo(np.int64).max)
    key = day if by_day else (ts_ms - first) * MIN_DAYS // (ts_ms.max(initial=0) - first + 1)
    used, block = np.unique(key, return_inverse=True)
    if used.size < 2:
        raise InputError(
            f"cannot compute confidence intervals: the {ts_ms.size} rows lie in fewer than two blocks of time",
            hint="take a longer snapshot or a larger --val-ratio",
        )
    n = used.size
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    return Bootstrap(block.astype(np.int64), weights, expanded_tail(n, level=level), by_day)


def expanded_tail(blocks: int, *, level: float) -> float:
    """Return the share of draws to leave outside each end of an interval (expanded percentiles, Hesterberg 2015).

    Plain percentiles are too narrow for few blocks: the variance of the draws divides by n instead of n - 1, and their
    distribution is normal instead of Student's t. Quantiles further out correct both.

    >>> round(expanded_tail(10, level=0.9), 4), round(expanded_tail(100_000, level=0.9), 4)
    (0.0267, 0.05)
    """
    # scipy.stats has the same distributions, and takes a second to import.
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, (1 + level) / 2)))


def score_intervals(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> MetricIntervals:
    """Return every score of `mltrain.training.metrics.score` with its interval.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        bootstrap: The bootstrap of these rows, in their order.
    """
    exact = score(p, y)
    predicted, went_up = predict_up(p), y == 1
    hits = predicted & went_up
    return MetricIntervals(
        accuracy=bootstrap.mean(predicted == went_up),
        # 2 hits / (predicted + went up) is the harmonic mean of precision and recall.
        f1=bootstrap.ratio(2.0 * hits, predicted.astype(np.float64) + went_up),
        precision=bootstrap.ratio(hits, predicted),
        recall=bootstrap.ratio(hits, went_up),
        auc_roc=bootstrap.interval(exact.auc_roc, _drawn_auc(p, y, bootstrap)),
        log_loss=bootstrap.mean(row_log_loss(p, y)),
        brier=bootstrap.mean(np.square(p - y)),
        ece=_ece_interval(exact.ece, p, y, bootstrap),
    )


def log_loss_gain(
    p: NDArray[np.float64], other: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap
) -> Interval:
    """Return the log loss of `other` minus that of `p`, paired by row: positive if `p` is better."""
    return bootstrap.mean(row_log_loss(other, y) - row_log_loss(p, y))


def _ece_interval(value: float, p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> Interval:
    """Return the interval of the ECE with fixed bins.

    Resampling adds noise to every bin's gap, which can only increase a mean of absolute gaps: the draws are shifted
    back by their mean excess and clipped at zero.
    """
    cell = bootstrap.block * ECE_BINS + equal_mass_bins(p, ECE_BINS)
    gaps = np.bincount(cell, weights=p - y, minlength=bootstrap.blocks * ECE_BINS).astype(np.float64)
    drawn = np.abs(bootstrap.drawn(gaps.reshape(-1, ECE_BINS))).sum(axis=1) / bootstrap.drawn(
        bootstrap.sums(np.ones(p.size))
    )
    return bootstrap.interval(value, np.maximum(drawn - (drawn.mean() - value), 0))


def _drawn_auc(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return the AUC of every draw, NaN if a draw has only one class.

    AUC is a share of (up, down) pairs, so the wins between each two blocks are counted once and weighted by each draw.
    All terms are multiples of 1/2 below 2**53: their sums are exact in any order, also in BLAS.
    """
    wins = _pair_wins(p, y, bootstrap)
    ups, downs = bootstrap.sums(y == 1), bootstrap.sums(y == 0)
    w = bootstrap.weights
    pairs = (w @ ups) * (w @ downs)
    won: NDArray[np.float64] = np.sum((w @ wins) * w, axis=1)
    return np.divide(won, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def _pair_wins(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return, for blocks (a, b), the number of pairs of an up row of a and a down row of b with the up row higher."""
    n = bootstrap.blocks
    order = np.argsort(p)
    _, group = np.unique(p, return_inverse=True)
    group, block, up = group[order], bootstrap.block[order], y[order] == 1
    wins, below = np.zeros((n, n)), np.zeros(n)
    for start in range(0, int(group[-1]) + 1, _AUC_CHUNK):
        rows = slice(*np.searchsorted(group, [start, start + _AUC_CHUNK]).tolist())
        cell = (group[rows] - start) * n + block[rows]
        counts = [np.bincount(cell[up[rows] == side], minlength=n * _AUC_CHUNK) for side in (True, False)]
        ups, downs = (c.reshape(-1, n).astype(np.float64) for c in counts)
        # Ties count half.
        wins += ups.T @ (below + np.cumsum(downs, axis=0) - downs / 2)
        below += downs.sum(axis=0)
    return wins
