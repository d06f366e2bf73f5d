"""Metrics of probabilities: accuracy, AUC, log loss, Brier score, calibration error.

Confidence intervals are in `mltrain.training.bootstrap`. NumPy computes the metrics in a few lines. scikit-learn's
functions give the same figures to 1e-12, and importing them takes longer than scoring a holdout (0.8 s of CPU time).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Probabilities above it predict "up"; exactly 0.5 predicts "down", as argmax does.
THRESHOLD: Final = 0.5
# As in Guo et al. 2017; of equal mass, so that no bin holds only a few rows.
ECE_BINS: Final = 15
# Log loss clips probabilities to this distance from 0 and 1, so that it stays finite.
_LOG_LOSS_EDGE: Final = 1e-15
# Simulated sets of labels for the ECE by chance: enough for its 95 % quantile.
_NULL_DRAWS: Final = 200


@dataclass(frozen=True, slots=True)
class Metrics:
    """The scores of probabilities on some rows; all but `log_loss` are in [0, 1].

    Attributes:
        accuracy: Share of rows whose predicted side ("up" above a probability of 0.5) is right.
        f1: Harmonic mean of precision and recall; 0 if both are 0.
        precision: Share of the rows predicted "up" that went up; 0 if none was predicted "up".
        recall: Share of the rows that went up that were predicted "up".
        auc_roc: Area under the ROC curve: the probability that a row that went up scores above one that went down,
            ties counted half.
        log_loss: Mean negative log probability of the outcome, in nats.
        brier: Mean squared difference of probability and outcome.
        ece: Expected calibration error: mean gap between probability and share of "up" in bins of equal mass.
    """

    accuracy: float
    f1: float
    precision: float
    recall: float
    auc_roc: float
    log_loss: float
    brier: float
    ece: float


@dataclass(frozen=True, slots=True)
class SymbolScore:
    """The scores of one symbol's rows.

    Attributes:
        symbol: The symbol.
        rows: Number of its rows.
        up_share: Share of its rows that went up; None without rows.
        metrics: Its scores; None unless both classes are present.
    """

    symbol: str
    rows: int
    up_share: float | None
    metrics: Metrics | None


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of a reliability table.

    Attributes:
        low: Least probability in the bin.
        high: Greatest probability in the bin.
        rows: Number of rows in the bin.
        mean_p: Mean probability of the rows in the bin.
        up_share: Share of the rows in the bin that went up.
    """

    low: float
    high: float
    rows: int
    mean_p: float
    up_share: float


@dataclass(frozen=True, slots=True)
class NullFloor:
    """The ECE of perfectly calibrated probabilities on as many rows, by chance alone.

    Attributes:
        median: Median ECE over simulated sets of labels.
        p95: 95 % quantile of the ECE over simulated sets of labels.
    """

    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class BrierParts:
    """The Brier score split as miscalibration - discrimination + uncertainty (CORP, Dimitriadis et al. 2021).

    Attributes:
        miscalibration: By how much the best monotone recalibration of these rows lowers the Brier score.
        discrimination: Brier score of the base rate minus that of the recalibrated probabilities.
        uncertainty: Brier score of the base rate.
    """

    miscalibration: float
    discrimination: float
    uncertainty: float


def _check_rows(p: NDArray[np.float64], y: NDArray[np.uint8]) -> None:
    """Refuse invalid probabilities or labels, unequal lengths, and labels of one class."""
    if p.shape != y.shape or p.ndim != 1 or not ((p >= 0) & (p <= 1)).all() or not ((y == 0) | (y == 1)).all():
        msg = f"need probabilities in [0, 1] and labels 0 or 1 of one length, got shapes {p.shape} and {y.shape}"
        raise ValueError(msg)
    _check_both_classes(y)


def _check_both_classes(y: NDArray[np.uint8]) -> None:
    if not _has_both_classes(y):
        raise InputError(
            f"cannot score {y.size} rows of which {np.count_nonzero(y)} went up: both classes are needed",
            hint="take a longer snapshot or a larger --val-ratio",
        )


def _has_both_classes(y: NDArray[np.uint8]) -> bool:
    return 0 < int(np.count_nonzero(y)) < y.size


def predict_up(p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which probabilities predict "up": those above 0.5.

    >>> predict_up(np.array([0.4, 0.5, 0.6])).tolist()
    [False, False, True]
    """
    return p > THRESHOLD


def row_log_loss(p: NDArray[np.float64], y: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the log loss of each row, in nats, from probabilities of "up" and labels, 1 for up, all of shape (n,).

    >>> row_log_loss(np.array([0.5, 0.75]), np.array([1, 0], np.uint8)).round(4).tolist()
    [0.6931, 1.3863]
    """
    p_outcome: NDArray[np.float64] = np.clip(np.where(y == 1, p, 1 - p), _LOG_LOSS_EDGE, 1 - _LOG_LOSS_EDGE)
    return -np.log(p_outcome)


def score(p: NDArray[np.float64], y: NDArray[np.uint8]) -> Metrics:
    """Return accuracy, F1, precision, recall, AUC, log loss, Brier score and ECE of probabilities of "up".

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 for up, else 0.

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, a probability outside [0, 1] or NaN, a label that is not 0 or 1.
    """
    _check_rows(p, y)
    predicted, went_up = predict_up(p), y == 1
    hits = int(np.count_nonzero(predicted & went_up))
    precision = hits / max(1, int(np.count_nonzero(predicted)))
    recall = hits / int(np.count_nonzero(went_up))
    return Metrics(
        accuracy=float(np.mean(predicted == went_up)),
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        precision=precision,
        recall=recall,
        auc_roc=auc(p, y),
        log_loss=float(row_log_loss(p, y).mean()),
        brier=float(np.square(p - y).mean()),
        ece=ece(p, y),
    )


def score_if_possible(p: NDArray[np.float64], y: NDArray[np.uint8]) -> Metrics | None:
    """Return `score(p, y)`; None unless both classes are among the labels."""
    return score(p, y) if _has_both_classes(y) else None


def score_symbols(
    p: NDArray[np.float64], y: NDArray[np.uint8], symbol_ix: NDArray[np.int16], symbols: Sequence[str]
) -> tuple[SymbolScore, ...]:
    """Score each symbol's rows, in the order of `symbols`.

    Args:
        p: Probabilities of "up", shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 for up, else 0.
        symbol_ix: Position of each row's symbol in `symbols`, shape (n,).
        symbols: The symbols.
    """
    scores = []
    for ix, symbol in enumerate(symbols):
        symbol_p, symbol_y = p[symbol_ix == ix], y[symbol_ix == ix]
        up_share = float(symbol_y.mean()) if symbol_y.size else None
        scores.append(SymbolScore(symbol, symbol_y.size, up_share, score_if_possible(symbol_p, symbol_y)))
    return tuple(scores)


def auc(scores: NDArray[np.float64] | NDArray[np.float32], y: NDArray[np.uint8]) -> float:
    """Return the area under the ROC curve: the share of (up, down) pairs in order, ties counted half.

    Args:
        scores: Numbers, shape (n,); a higher one speaks for "up".
        y: Labels, shape (n,), 1 for up, else 0.

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, or a score that is NaN.

    >>> auc(np.array([0.1, 0.2, 0.2, 0.9]), np.array([0, 0, 1, 1], np.uint8))
    0.875
    """
    if scores.shape != y.shape or np.isnan(scores).any():
        msg = f"need a score for each label, and none NaN: got shapes {scores.shape} and {y.shape}"
        raise ValueError(msg)
    _check_both_classes(y)
    order = np.argsort(scores)
    ups_in_order = y[order].astype(np.int64)
    # Ties form one run. Counts and halves are exact: the order in which they are added does not matter.
    starts = _run_starts(scores[order])
    ups = np.add.reduceat(ups_in_order, starts)
    downs = np.diff(np.append(starts, y.size)) - ups
    downs_below = np.cumsum(downs) - downs / 2
    return float((ups * downs_below).sum() / (ups.sum() * downs.sum()))


def equal_mass_bins(p: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Return the bin of each probability, 0 to bins - 1, so that bins hold about equal numbers of rows, shape (n,).

    Equal probabilities share the bin of their middle rank, so that the order of the rows does not matter; other bins
    that they span stay empty.

    >>> equal_mass_bins(np.array([0.3, 0.1, 0.3, 0.9]), 2).tolist()
    [1, 0, 1, 1]
    """
    _, distinct_ix, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - counts / 2
    return np.floor(middle_rank * bins / p.size).astype(np.int64)[distinct_ix]


def reliability_table(
    p: NDArray[np.float64], y: NDArray[np.uint8], *, bins: int = ECE_BINS
) -> tuple[ReliabilityBin, ...]:
    """Return mean probability and share of "up" in bins of about equal numbers of rows.

    Args:
        p: Probabilities of "up", shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 for up, else 0.
        bins: Greatest number of bins.

    Returns:
        The bins that hold rows, by increasing probability.

    Raises:
        ValueError: No rows, or unequal lengths.
    """
    if p.size == 0 or p.shape != y.shape:
        msg = f"need rows, and a label for each: got shapes {p.shape} and {y.shape}"
        raise ValueError(msg)
    # Sums over sorted probabilities have the same bits for any order of the rows.
    order = np.argsort(p)
    p, ups = p[order], y[order].astype(np.int64)
    starts = _run_starts(equal_mass_bins(p, bins))
    stops = np.append(starts[1:], p.size)
    rows = stops - starts
    mean_p, up_share = np.add.reduceat(p, starts) / rows, np.add.reduceat(ups, starts) / rows
    columns = (p[starts], p[stops - 1], rows, mean_p, up_share)
    return tuple(ReliabilityBin(*values) for values in zip(*(c.tolist() for c in columns), strict=True))


def _run_starts(values: NDArray[np.generic]) -> NDArray[np.int64]:
    """Return the position at which each run of equal neighbours begins, in order."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1]))


def ece(p: NDArray[np.float64], y: NDArray[np.uint8], *, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error, in [0, 1], over bins of equal mass (Guo et al. 2017).

    It is the mean over rows of the absolute gap between mean probability and share of "up" in the row's bin.

    >>> ece(np.array([0.25] * 4 + [0.75] * 4), np.array([0, 0, 0, 1, 1, 1, 1, 1], np.uint8))
    0.125
    """
    return sum(b.rows * abs(b.mean_p - b.up_share) for b in reliability_table(p, y, bins=bins)) / p.size


def ece_null_floor(p: NDArray[np.float64], *, seed: int, draws: int = _NULL_DRAWS) -> NullFloor:
    """Return the ECE to expect by chance if these probabilities were exactly right.

    ECE is a mean of absolute values: chance alone keeps it above zero, further above on fewer rows.

    Args:
        p: Probabilities of "up", shape (n,), n >= 1, in [0, 1].
        seed: Random seed of the simulated labels.
        draws: Number of simulated sets of labels.
    """
    p = np.sort(p)
    starts = _run_starts(equal_mass_bins(p, ECE_BINS))
    expected_ups = np.add.reduceat(p, starts)
    rng = np.random.default_rng(seed)
    simulated = []
    for _ in range(draws):
        ups = np.add.reduceat(rng.random(p.size) < p, starts, dtype=np.int64)
        simulated.append(float(np.abs(ups - expected_ups).sum()) / p.size)
    median, p95 = np.quantile(simulated, [0.5, 0.95]).tolist()
    return NullFloor(median, p95)


def brier_parts(p: NDArray[np.float64], y: NDArray[np.uint8]) -> BrierParts:
    """Split the Brier score of probabilities of "up" by isotonic recalibration of the same rows.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 for up, else 0; both are among them.
    """
    from scipy.optimize import isotonic_regression

    _check_rows(p, y)
    _, distinct_ix, counts = np.unique(p, return_inverse=True, return_counts=True)
    recalibrated = isotonic_regression(np.bincount(distinct_ix, weights=y) / counts, weights=counts).x[distinct_ix]
    uncertainty = float(y.mean() * (1 - y.mean()))
    recalibrated_brier = float(np.square(recalibrated - y).mean())
    return BrierParts(
        miscalibration=float(np.square(p - y).mean()) - recalibrated_brier,
        discrimination=uncertainty - recalibrated_brier,
        uncertainty=uncertainty,
    )
