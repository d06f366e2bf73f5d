"""Metrics: what probabilities are worth on given rows, and what a fool would score on the same rows.

Pure: arrays in, frozen results out; the one simulation takes its seed. The order of the rows never matters. How sure
a figure is, `mltrain.training.bootstrap` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

THRESHOLD: Final = 0.5  # above it the prediction is "up"; exactly there it is "down", as argmax would have it
ECE_BINS: Final = 15  # Guo et al. 2017; of equal mass, so that no bin is a handful of rows
EDGE: Final = 1e-15  # log loss reads probabilities as at least this far from 0 and 1, so that it stays finite
NULL_DRAWS: Final = 200  # simulations for the null floor: enough for its 95 % point


@dataclass(frozen=True, slots=True)
class Metrics:
    """The scores of one set of probabilities, all at the threshold of 0.5 where one is needed.

    Attributes:
        accuracy: Share of rows whose predicted side is right.
        f1: Harmonic mean of precision and recall; 0 where both are.
        precision: Share of the rows called "up" that went up; 0 where none was called.
        recall: Share of the rows that went up which were called.
        auc_roc: Chance that a row that went up scores above one that went down, ties counting one half.
        log_loss: Mean negative log probability (nats) of what happened.
        brier: Mean squared distance of the probability from what happened.
        ece: Expected calibration error, see `ece`.
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
    """The scores of one symbol's rows; `metrics` is None where they hold fewer than two classes.

    Attributes:
        symbol: The symbol.
        rows: Its rows.
        up_share: Share of them that went up; None without rows.
        metrics: Its scores.
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
        rows: Rows in the bin.
        mean_p: Mean probability of those rows.
        up_share: Share of them that went up.
    """

    low: float
    high: float
    rows: int
    mean_p: float
    up_share: float


@dataclass(frozen=True, slots=True)
class NullFloor:
    """The ECE that perfectly calibrated probabilities would read on as many rows, by chance alone.

    Attributes:
        median: Half of the simulated samples lie below it.
        p95: 95 % of them lie below it.
    """

    median: float
    p95: float


@dataclass(frozen=True, slots=True)
class BrierParts:
    """The Brier score split as miscalibration - discrimination + uncertainty (CORP, Dimitriadis et al. 2021).

    Attributes:
        miscalibration: What the best monotone recalibration of these very rows would gain.
        discrimination: What those recalibrated probabilities gain over the base rate.
        uncertainty: The Brier score of the base rate.
    """

    miscalibration: float
    discrimination: float
    uncertainty: float


def check_rows(p: NDArray[np.float64], y: NDArray[np.uint8]) -> None:
    """Refuse rows on which some score would be undefined.

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, a probability outside [0, 1] or NaN, a label that is not 0 or 1.
    """
    if p.shape != y.shape or p.ndim != 1 or not ((p >= 0) & (p <= 1)).all() or not ((y == 0) | (y == 1)).all():
        msg = f"need probabilities in [0, 1] and labels 0 or 1 of one length, got shapes {p.shape} and {y.shape}"
        raise ValueError(msg)
    ups = np.count_nonzero(y)
    if ups in {0, y.size}:
        raise InputError(
            f"cannot score {y.size} rows of which {ups} went up: both classes are needed",
            hint="take a longer snapshot or a larger --val-ratio",
        )


def predict_up(p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows are called "up".

    >>> predict_up(np.array([0.4, 0.5, 0.6])).tolist()
    [False, False, True]
    """
    return p > THRESHOLD


def row_log_loss(p: NDArray[np.float64], y: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the log loss of each row, in nats.

    >>> row_log_loss(np.array([0.5, 0.75]), np.array([1, 0], np.uint8)).round(4).tolist()
    [0.6931, 1.3863]
    """
    happened: NDArray[np.float64] = np.clip(np.where(y == 1, p, 1 - p), EDGE, 1 - EDGE)
    return -np.log(happened)


def score(p: NDArray[np.float64], y: NDArray[np.uint8]) -> Metrics:
    """Score probabilities of "up" against what happened.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,), 1 where the price went up.

    Returns:
        Every score of these rows.

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, a probability outside [0, 1] or NaN, a label that is not 0 or 1.
    """
    check_rows(p, y)
    called, went = predict_up(p), y == 1
    hits = int(np.count_nonzero(called & went))
    precision = hits / max(1, int(np.count_nonzero(called)))
    recall = hits / int(np.count_nonzero(went))
    return Metrics(
        accuracy=float(np.mean(called == went)),
        f1=2 * precision * recall / (precision + recall) if hits else 0.0,
        precision=precision,
        recall=recall,
        auc_roc=auc(p, y),
        log_loss=float(row_log_loss(p, y).mean()),
        brier=float(np.square(p - y).mean()),
        ece=ece(p, y),
    )


def score_symbols(
    p: NDArray[np.float64], y: NDArray[np.uint8], symbol_ix: NDArray[np.int16], symbols: Sequence[str]
) -> tuple[SymbolScore, ...]:
    """Score each symbol's rows alone.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        symbol_ix: Position of each row's symbol in `symbols`, shape (n,).
        symbols: The symbols.

    Returns:
        One entry per symbol, in their order.

    Raises:
        ValueError: As in `score`.
    """
    return tuple(_score_symbol(name, p[symbol_ix == i], y[symbol_ix == i]) for i, name in enumerate(symbols))


def _score_symbol(name: str, p: NDArray[np.float64], y: NDArray[np.uint8]) -> SymbolScore:
    both = 0 < np.count_nonzero(y) < y.size
    return SymbolScore(name, y.size, float(y.mean()) if y.size else None, score(p, y) if both else None)


def auc(p: NDArray[np.float64], y: NDArray[np.uint8]) -> float:
    """Return the area under the ROC curve, ties counting one half.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1], np.uint8))
    0.75

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, a probability outside [0, 1] or NaN, a label that is not 0 or 1.
    """
    check_rows(p, y)
    _, group = np.unique(p, return_inverse=True)
    ups = np.bincount(group, weights=y)
    downs = np.bincount(group) - ups
    below = np.cumsum(downs) - downs / 2
    return float(ups @ below / (ups.sum() * downs.sum()))


def equal_mass_bins(p: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Return the bin of each row: about equal masses, equal probabilities always together.

    A group of equal probabilities goes where its middle rank lies, so that neither the order of the rows nor a big
    group of ties can tear it apart; bins that a group of ties spans are left empty.

    >>> equal_mass_bins(np.array([0.3, 0.1, 0.3, 0.9]), 2).tolist()
    [1, 0, 1, 1]
    """
    _, group, counts = np.unique(p, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    return np.floor(middle * bins / p.size).astype(np.int64)[group]


def reliability_table(
    p: NDArray[np.float64], y: NDArray[np.uint8], *, bins: int = ECE_BINS
) -> tuple[ReliabilityBin, ...]:
    """Compare probabilities with frequencies in bins of about equal mass.

    Args:
        p: Probabilities, shape (n,), in [0, 1].
        y: Labels, shape (n,).
        bins: How many bins at most.

    Returns:
        The bins that hold rows, by rising probability.

    Raises:
        ValueError: No rows, or not one label for each.
    """
    if p.size == 0 or p.shape != y.shape:
        msg = f"need rows, and a label for each: got shapes {p.shape} and {y.shape}"
        raise ValueError(msg)
    order = np.argsort(p)  # sums over sorted probabilities are the same bits for any order of the rows
    p, ups = p[order], y[order].astype(np.int64)
    starts = _run_starts(equal_mass_bins(p, bins))
    stops = np.append(starts[1:], p.size)
    rows = stops - starts
    return tuple(
        ReliabilityBin(*values)
        for values in zip(
            p[starts].tolist(),
            p[stops - 1].tolist(),
            rows.tolist(),
            (np.add.reduceat(p, starts) / rows).tolist(),
            (np.add.reduceat(ups, starts) / rows).tolist(),
            strict=True,
        )
    )


def _run_starts(sorted_values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each run of equal values begins."""
    return np.flatnonzero(np.diff(sorted_values, prepend=sorted_values[0] - 1))


def ece(p: NDArray[np.float64], y: NDArray[np.uint8], *, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error: the mean gap of frequency and mean probability over bins, by rows.

    >>> ece(np.array([0.25] * 4 + [0.75] * 4), np.array([0, 0, 0, 1, 1, 1, 1, 1], np.uint8))
    0.125

    Raises:
        ValueError: No rows, or not one label for each.
    """
    return sum(b.rows * abs(b.mean_p - b.up_share) for b in reliability_table(p, y, bins=bins)) / p.size


def ece_null_floor(p: NDArray[np.float64], *, seed: int, bins: int = ECE_BINS, draws: int = NULL_DRAWS) -> NullFloor:
    """Return the ECE to be expected from these probabilities if they were exactly right.

    ECE is a mean of absolute values: chance alone never reads zero, and the fewer the rows the more it reads.

    Args:
        p: Probabilities, shape (n,), n >= 1.
        seed: Of the simulated labels.
        bins: As in `ece`.
        draws: How many samples of labels to simulate.

    Returns:
        Median and 95 % point of the simulated ECE.
    """
    p = np.sort(p)
    starts = _run_starts(equal_mass_bins(p, bins))
    expected = np.add.reduceat(p, starts)
    rng = np.random.default_rng(seed)
    read = [_gap(rng.random(p.size) < p, starts, expected) / p.size for _ in range(draws)]
    median, p95 = np.quantile(read, [0.5, 0.95]).tolist()
    return NullFloor(median, p95)


def _gap(ups: NDArray[np.bool_], starts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    return float(np.abs(np.add.reduceat(ups, starts, dtype=np.int64) - expected).sum())


def brier_parts(p: NDArray[np.float64], y: NDArray[np.uint8]) -> BrierParts:
    """Split the Brier score into what calibration could mend, what the model knows, and what nobody could.

    Raises:
        InputError: The labels hold fewer than two classes.
        ValueError: Unequal lengths, a probability outside [0, 1] or NaN, a label that is not 0 or 1.
    """
    from scipy.optimize import isotonic_regression

    check_rows(p, y)
    _, group, counts = np.unique(p, return_inverse=True, return_counts=True)
    best = isotonic_regression(np.bincount(group, weights=y) / counts, weights=counts).x[group]
    uncertainty = float(y.mean() * (1 - y.mean()))
    recalibrated = float(np.square(best - y).mean())
    return BrierParts(
        miscalibration=float(np.square(p - y).mean()) - recalibrated,
        discrimination=uncertainty - recalibrated,
        uncertainty=uncertainty,
    )
