"""Intervals: how sure a figure is, by drawing whole blocks of time with replacement.

Pure: every draw comes from a seed that is an argument. Rows of neighbouring minutes, and of different symbols at one
minute, are not independent: single rows would give intervals a third too narrow. A block is one UTC day, all symbols
together. Figures that are compared are read off the same draws.
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

JUDGED: Final = 0.95  # confidence of one end of an interval that a gate judges; `bootstrap.level` is what is shown
MIN_DAYS: Final = 10  # with fewer day blocks the time range is cut into this many blocks of equal length instead
_AUC_CHUNK: Final = 4_096  # distinct scores per step of the pair counts: bounds the memory, not the result


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and how far it may be off.

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
    """A figure and its standard error, from which an interval end at any confidence follows.

    Percentiles of draws cannot give an end far out: at a confidence of 99.95 % the tail of 2,000 draws has one draw.

    Attributes:
        value: The figure on all rows.
        se: Standard deviation of the figure over the draws of blocks.
        blocks: Blocks of time that were drawn from.
    """

    value: float
    se: float
    blocks: int

    def reach(self, confidence: float) -> float:
        """Return the distance from the value to an end that holds the truth on its side with this confidence.

        Student's t with blocks - 1 degrees of freedom; the root corrects a variance that the draws divide by n.

        >>> round(Estimate(0.02, 0.01, 10).reach(0.95), 4)
        0.0193
        """
        from scipy.special import stdtrit

        n = self.blocks
        return float(stdtrit(n - 1, confidence)) * self.se * math.sqrt(n / (n - 1))

    def low(self, confidence: float) -> float:
        """Return the lower end, below which the truth lies with a chance of 1 - confidence."""
        return self.value - self.reach(confidence)

    def interval(self, confidence: float) -> Interval:
        """Return both ends, each at this confidence."""
        reach = self.reach(confidence)
        return Interval(self.value, self.value - reach, self.value + reach)

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit, such as percent for a share."""
        return Estimate(self.value * factor, self.se * factor, self.blocks)


@dataclass(frozen=True, slots=True)
class MetricIntervals:
    """The interval of every score in `mltrain.training.metrics.Metrics`, under the same names.

    Attributes:
        accuracy: Share of rows whose predicted side is right.
        f1: Harmonic mean of the next two.
        precision: Share of the rows called "up" that went up.
        recall: Share of the rows that went up which were called.
        auc_roc: Chance that a row that went up scores above one that went down.
        log_loss: Mean negative log probability, in nats.
        brier: Mean squared distance of the probability from what happened.
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
    """The blocks of some rows, and how often each draw takes each block.

    Attributes:
        block: Block of each row, shape (n,), every number from 0 to blocks - 1 in use.
        weights: Shape (draws, blocks); each row of it sums to blocks.
        tail: Share of the draws outside each end of an interval.
        by_day: Whether a block is a UTC day; else one of ten equal parts of the time range.
    """

    block: NDArray[np.int64]
    weights: NDArray[np.float64]
    tail: float
    by_day: bool

    @property
    def blocks(self) -> int:
        """How many blocks hold rows."""
        return int(self.weights.shape[1])

    def sums(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the sum of the rows' values in each block."""
        return np.bincount(self.block, weights=values, minlength=self.blocks).astype(np.float64)

    def ratio(
        self, part: NDArray[np.float64] | NDArray[np.bool_], whole: NDArray[np.float64] | NDArray[np.bool_]
    ) -> Interval:
        """Return sum of `part` / sum of `whole` over the rows, with its interval; 0 where `whole` sums to 0."""
        parts, wholes = self.sums(part), self.sums(whole)
        drawn = _divide(self.drawn(parts), self.drawn(wholes))
        return self.interval(float(_divide(parts.sum(), wholes.sum())), drawn)

    def estimate(
        self, part: NDArray[np.float64] | NDArray[np.bool_], whole: NDArray[np.float64] | None = None
    ) -> Estimate:
        """Return sum of `part` / sum of `whole` (without it: the mean of `part`), with its standard error."""
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
        """Return a figure with the interval that its values on the draws give; draws without a value are left out."""
        low, high = np.nanquantile(drawn, [self.tail, 1 - self.tail]).tolist()
        return Interval(value, low, high)


def _divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)


def plan_bootstrap(ts_ms: NDArray[np.int64], *, draws: int, level: float, seed: int) -> Bootstrap:
    """Cut rows into blocks of time and draw from the blocks.

    Args:
        ts_ms: Open times of the rows, shape (n,), any order.
        draws: How many draws.
        level: Coverage of the intervals, such as 0.9.
        seed: Of the draws.

    Returns:
        The blocks (UTC days; where the rows touch fewer than ten, ten parts of equal length) and the draws.

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
            f"cannot tell how sure a score is: the {ts_ms.size} rows lie in fewer than two blocks of time",
            hint="take a longer snapshot or a larger --val-ratio",
        )
    n = used.size
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    return Bootstrap(block.astype(np.int64), weights, expanded_tail(n, level=level), by_day)


def expanded_tail(blocks: int, *, level: float) -> float:
    """Return the share of draws to leave outside each end of an interval.

    Plain percentiles are too narrow for few blocks: they divide the variance by n where n - 1 is due, and take the
    normal distribution where Student's is due. Both are mended by reading the draws further out (Hesterberg 2015).

    >>> round(expanded_tail(10, level=0.9), 4), round(expanded_tail(100_000, level=0.9), 4)
    (0.0267, 0.05)
    """
    from scipy.special import ndtr, stdtrit  # of which scipy.stats makes its distributions, a second later

    return float(ndtr(-math.sqrt(blocks / (blocks - 1)) * stdtrit(blocks - 1, (1 + level) / 2)))


def score_intervals(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> MetricIntervals:
    """Return every score of `mltrain.training.metrics.score` with its interval.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        bootstrap: Made of these rows' times, in their order.

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, a probability outside [0, 1] or NaN, a label that is not 0 or 1.
    """
    exact = score(p, y)
    called, went = predict_up(p), y == 1
    hits = called & went
    return MetricIntervals(
        accuracy=bootstrap.mean(called == went),
        # 2 hits / (called + went) is the harmonic mean of precision and recall.
        f1=bootstrap.ratio(2.0 * hits, called.astype(np.float64) + went),
        precision=bootstrap.ratio(hits, called),
        recall=bootstrap.ratio(hits, went),
        auc_roc=bootstrap.interval(exact.auc_roc, _drawn_auc(p, y, bootstrap)),
        log_loss=bootstrap.mean(row_log_loss(p, y)),
        brier=bootstrap.mean(np.square(p - y)),
        ece=_ece_interval(exact.ece, p, y, bootstrap),
    )


def log_loss_gain(
    p: NDArray[np.float64], other: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap
) -> Interval:
    """Return the log loss of `other` minus that of `p`, paired by row: above zero `p` is the better."""
    return bootstrap.mean(row_log_loss(other, y) - row_log_loss(p, y))


def _ece_interval(value: float, p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> Interval:
    """Return the interval of the ECE, its bins held where they are.

    A draw of blocks adds its own noise to every bin's gap, and a mean of absolute gaps can only grow by that: the
    draws are moved back by their mean excess, and stay at zero or above.
    """
    cell = bootstrap.block * ECE_BINS + equal_mass_bins(p, ECE_BINS)
    gaps = np.bincount(cell, weights=p - y, minlength=bootstrap.blocks * ECE_BINS).astype(np.float64)
    drawn = np.abs(bootstrap.drawn(gaps.reshape(-1, ECE_BINS))).sum(axis=1) / bootstrap.drawn(
        bootstrap.sums(np.ones(p.size))
    )
    return bootstrap.interval(value, np.maximum(drawn - (drawn.mean() - value), 0))


def _drawn_auc(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return the AUC of every draw, NaN where a draw has one class alone.

    AUC is a share of (up, down) pairs, so the wins between each two blocks are counted once; a draw weighs them. All
    of these are halves of whole numbers below 2**53: exact, in whatever order BLAS adds them.
    """
    wins = _pair_wins(p, y, bootstrap)
    ups, downs = bootstrap.sums(y == 1), bootstrap.sums(y == 0)
    w = bootstrap.weights
    pairs = (w @ ups) * (w @ downs)
    won: NDArray[np.float64] = np.sum((w @ wins) * w, axis=1)
    return np.divide(won, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0)


def _pair_wins(p: NDArray[np.float64], y: NDArray[np.uint8], bootstrap: Bootstrap) -> NDArray[np.float64]:
    """Return, for blocks (a, b), how many pairs of an up row of a and a down row of b have the up row score higher."""
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
        wins += ups.T @ (below + np.cumsum(downs, axis=0) - downs / 2)  # ties count one half
        below += downs.sum(axis=0)
    return wins
