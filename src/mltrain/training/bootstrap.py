"""Confidence intervals by a block bootstrap (Kuensch 1989): whole blocks of time are drawn with replacement.

Rows of neighbouring minutes, and of different symbols at one minute, are dependent: drawing single rows would give
intervals a third too narrow. A block is one UTC day of all symbols, or several days if labels overlap for longer.
Figures that are compared use the same draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from mltrain.documents.records import record
from mltrain.errors import InputError
from mltrain.times import DAY_MS
from mltrain.training.metrics import ECE_BINS, equal_mass_bins, predict_up, row_log_loss, score

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _RowValues: TypeAlias = NDArray[np.float64] | NDArray[np.bool_]

# One-sided confidence of the interval ends that gates judge; `bootstrap.level` is for intervals that are shown.
JUDGED: Final = 0.95
# Rows in fewer blocks of whole UTC days are cut into this many blocks of equal length instead.
MIN_DAYS: Final = 10
# A block is at least this many times as long as the labels of neighbouring rows overlap: then it holds more than nine
# tenths of the variance that the overlap causes.
_BLOCK_OVERLAPS: Final = 4
# Distinct scores per step of the pair counts: limits the memory, does not change the result.
_AUC_CHUNK: Final = 4_096


@record
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

    Quantiles of the bootstrap draws would not: at a confidence of 99.95 % the tail of 2,000 draws holds one draw.

    Attributes:
        value: The figure on all rows.
        se: Standard error: the standard deviation of the figure over the draws of blocks, in the unit of `value`.
        blocks: Number of bootstrap blocks.
    """

    value: float
    se: float
    blocks: int

    def margin_of_error(self, confidence: float) -> float:
        """Return the distance from the value to the end of a one-sided interval of this confidence, in (0.5, 1).

        Student's t with blocks - 1 degrees of freedom. The factor sqrt(n / (n - 1)) corrects the variance of the draws,
        which divides by n.

        >>> round(Estimate(0.02, 0.01, 10).margin_of_error(0.95), 4)
        0.0193
        """
        from scipy.special import stdtrit

        n = self.blocks
        return float(stdtrit(n - 1, confidence)) * self.se * math.sqrt(n / (n - 1))

    def low(self, confidence: float) -> float:
        """Return the lower end of the one-sided interval of this confidence."""
        return self.value - self.margin_of_error(confidence)

    def interval(self, confidence: float) -> Interval:
        """Return the interval whose two ends each have this one-sided confidence."""
        margin = self.margin_of_error(confidence)
        return Interval(self.value, self.value - margin, self.value + margin)

    def scaled(self, factor: float) -> Estimate:
        """Return value and standard error times a factor, such as 100 from a share to percent."""
        return Estimate(self.value * factor, self.se * factor, self.blocks)


@dataclass(frozen=True, slots=True)
class MetricIntervals:
    """The confidence interval of every score in `mltrain.training.metrics.Metrics`, under the same names.

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
    """The blocks of n rows, and how often each draw contains each block.

    Attributes:
        block: Block of each row, shape (n,), numbered from 0 without gaps.
        weights: Count of each block in each draw, shape (draws, blocks); each draw sums to `blocks`.
        by_day: Whether a block is whole UTC days; else one of ten equal parts of the time range.
        level: Coverage of the intervals, such as 0.9.
        seed: Random seed of the draws.
        overlap_ms: For how long the labels of neighbouring rows overlap, in ms.
    """

    block: NDArray[np.int64]
    weights: NDArray[np.float64]
    by_day: bool
    level: float
    seed: int
    overlap_ms: int = 0

    @property
    def draws(self) -> int:
        """Number of draws."""
        return int(self.weights.shape[0])

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.weights.shape[1])

    def block_sums(self, values: _RowValues) -> NDArray[np.float64]:
        """Return the sum of the rows' values, shape (n,), in each block, shape (blocks,)."""
        return np.bincount(self.block, weights=values, minlength=self.blocks).astype(np.float64)

    def draw_sums(self, block_sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the total of each draw, shape (draws, ...), from the sums of the blocks, shape (blocks, ...)."""
        # Not `@`: BLAS rounds differently for other thread counts, and a card must not.
        totals: NDArray[np.float64] = np.einsum("db,b...->d...", self.weights, block_sums)
        return totals

    def mean(self, values: _RowValues) -> Interval:
        """Return the mean of the rows' values, shape (n,), with its interval."""
        return self.ratio(values, np.ones(values.size))

    def ratio(self, part: _RowValues, whole: _RowValues) -> Interval:
        """Return sum of `part` / sum of `whole`, both of shape (n,), with its interval; 0 if `whole` sums to 0."""
        return self.interval(*self._ratio(part, whole))

    def estimate(self, part: _RowValues, whole: _RowValues | None = None) -> Estimate:
        """Return sum of `part` / sum of `whole` (default: the mean of `part`), with its standard error."""
        value, draw_values = self._ratio(part, np.ones(part.size) if whole is None else whole)
        return Estimate(value, float(draw_values.std()), self.blocks)

    def _ratio(self, part: _RowValues, whole: _RowValues) -> tuple[float, NDArray[np.float64]]:
        """Return sum of `part` / sum of `whole` (0 if that is 0) on all rows, and on each draw, shape (draws,)."""
        parts, wholes = self.block_sums(part), self.block_sums(whole)
        draw_parts, draw_wholes = self.draw_sums(parts), self.draw_sums(wholes)
        draw_values = np.divide(draw_parts, draw_wholes, out=np.zeros_like(draw_wholes), where=draw_wholes != 0)
        total = float(wholes.sum())
        return float(parts.sum()) / total if total else 0.0, draw_values

    def interval(self, value: float, draw_values: NDArray[np.float64]) -> Interval:
        """Return a figure with its interval of coverage `level`, from its values on the draws; NaN is left out."""
        tail = expanded_tail(self.blocks, level=self.level)
        low, high = np.nanquantile(draw_values, [tail, 1 - tail]).tolist()
        return Interval(value, low, high)


def plan_bootstrap(ts_ms: NDArray[np.int64], *, draws: int, level: float, seed: int, overlap_ms: int = 0) -> Bootstrap:
    """Cut rows into blocks of time, and draw as many blocks with replacement, many times.

    Args:
        ts_ms: Open times of the rows, UTC ms, shape (n,), any order.
        draws: Number of draws.
        level: Coverage of the intervals, such as 0.9.
        seed: Random seed of the draws.
        overlap_ms: For how long the labels of neighbouring rows overlap, in ms.

    Returns:
        The blocks (a UTC day, or several for long labels; ten parts of equal length if these are fewer than ten) and
        the draws.

    Raises:
        InputError: The rows fill fewer than two blocks.
    """
    day = ts_ms // (max(1, -(-_BLOCK_OVERLAPS * overlap_ms // DAY_MS)) * DAY_MS)
    by_day = np.unique(day).size >= MIN_DAYS
    first_ms = ts_ms.min(initial=np.iinfo(np.int64).max)
    key = day if by_day else (ts_ms - first_ms) * MIN_DAYS // (ts_ms.max(initial=0) - first_ms + 1)
    used_keys, block = np.unique(key, return_inverse=True)
    n = used_keys.size
    if n < 2:
        raise InputError(
            f"cannot compute confidence intervals: the {ts_ms.size} rows lie in fewer than two blocks of time",
            hint="take a longer snapshot or a larger --val-ratio",
        )
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    return Bootstrap(block.astype(np.int64), weights, by_day, level, seed, overlap_ms)


def expanded_tail(blocks: int, *, level: float) -> float:
    """Return the share of draws to leave outside each end of an interval of this coverage (Hesterberg 2015).

    Plain percentiles, such as 5 % outside each end of 90 %, are too narrow for few blocks: the variance of the draws
    divides by n instead of n - 1, and their distribution is normal instead of Student's t. Quantiles further out
    (expanded percentiles) correct both.

    >>> round(expanded_tail(10, level=0.9), 4), round(expanded_tail(100_000, level=0.9), 4)
    (0.0267, 0.05)
    """
    # scipy.stats has the same distributions, and takes a second to import.
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, (1 + level) / 2)))


def score_intervals(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> MetricIntervals:
    """Return accuracy, F1, precision, recall, AUC, log loss, Brier score and ECE, each with its confidence interval.

    Args:
        p: Probabilities of "up", shape (n,), in [0, 1].
        y: Labels, 1 for up, shape (n,).
        bootstrap: The bootstrap of these rows, in their order.
    """
    metrics = score(p, y)
    predicted, went_up = predict_up(p), y == 1
    hits = predicted & went_up
    return MetricIntervals(
        accuracy=bootstrap.mean(predicted == went_up),
        # 2 hits / (predicted + went up) is the harmonic mean of precision and recall.
        f1=bootstrap.ratio(2.0 * hits, predicted.astype(np.float64) + went_up),
        precision=bootstrap.ratio(hits, predicted),
        recall=bootstrap.ratio(hits, went_up),
        auc_roc=bootstrap.interval(metrics.auc_roc, _auc_of_draws(p, y, bootstrap)),
        log_loss=bootstrap.mean(row_log_loss(p, y)),
        brier=bootstrap.mean(np.square(p - y)),
        ece=_ece_interval(metrics.ece, p, y, bootstrap),
    )


def log_loss_gain(
    p: NDArray[np.float64], other_p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap
) -> Interval:
    """Return the mean log loss of `other_p` minus that of `p`, in nats, paired by row: positive if `p` is better."""
    return bootstrap.mean(row_log_loss(other_p, y) - row_log_loss(p, y))


def _ece_interval(ece: float, p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> Interval:
    """Return the ECE of the rows with its interval; every draw uses the bins of all rows.

    Resampling adds noise to every bin's gap, which can only increase a mean of absolute gaps: the draws are shifted
    back by their mean excess and clipped at zero.
    """
    cell = bootstrap.block * ECE_BINS + equal_mass_bins(p, ECE_BINS)
    gaps = np.bincount(cell, weights=p - y, minlength=bootstrap.blocks * ECE_BINS).astype(np.float64)
    draw_gaps = bootstrap.draw_sums(gaps.reshape(-1, ECE_BINS))
    draw_rows = bootstrap.draw_sums(bootstrap.block_sums(np.ones(p.size)))
    draw_eces = np.abs(draw_gaps).sum(axis=1) / draw_rows
    return bootstrap.interval(ece, np.maximum(draw_eces - (draw_eces.mean() - ece), 0))


def _auc_of_draws(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return the AUC of every draw, shape (draws,), NaN if a draw has only one class.

    AUC is a share of (up, down) pairs, so the wins between each two blocks are counted once and weighted by each draw.
    All terms are multiples of 1/2 below 2**53: their sums are exact in any order, also in BLAS.
    """
    wins = _count_wins(p, y, bootstrap)
    ups, downs = bootstrap.block_sums(y == 1), bootstrap.block_sums(y == 0)
    w = bootstrap.weights
    draw_pairs = (w @ ups) * (w @ downs)
    draw_wins: NDArray[np.float64] = np.sum((w @ wins) * w, axis=1)
    return np.divide(draw_wins, draw_pairs, out=np.full_like(draw_pairs, np.nan), where=draw_pairs > 0)


def _count_wins(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return how many pairs of an up row of block a and a down row of block b have the up row higher; ties count half.

    The result has shape (blocks, blocks).
    """
    n = bootstrap.blocks
    order = np.argsort(p)
    # Equal scores have one rank.
    _, rank = np.unique(p, return_inverse=True)
    rank, block, is_up = rank[order], bootstrap.block[order], y[order] == 1
    wins, downs_below = np.zeros((n, n)), np.zeros(n)
    for start in range(0, int(rank[-1]) + 1, _AUC_CHUNK):
        rows = slice(*np.searchsorted(rank, [start, start + _AUC_CHUNK]).tolist())
        cell = (rank[rows] - start) * n + block[rows]
        counts = [np.bincount(cell[is_up[rows] == side], minlength=n * _AUC_CHUNK) for side in (True, False)]
        ups, downs = (c.reshape(-1, n).astype(np.float64) for c in counts)
        wins += ups.T @ (downs_below + np.cumsum(downs, axis=0) - downs / 2)
        downs_below += downs.sum(axis=0)
    return wins
