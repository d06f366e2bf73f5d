"""Probability calibration of raw scores.

Pure functions: arrays in, a frozen map out. Fit on out-of-fold scores only (`mltrain.training.search` pools them): a
calibrator evaluated on the rows it was fitted on always looks good. Every method yields the same type, an increasing
table of knots, so serving needs none of the fitting code.

The fits use NumPy and SciPy: scikit-learn's logistic regression has neither bounds nor Platt's soft targets, and its
last digits depend on the number of BLAS threads. Its isotonic regression is SciPy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from operator import itemgetter
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from mltrain.errors import InputError
from mltrain.training.metrics import row_log_loss

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Method: TypeAlias = Literal["none", "sigmoid", "beta", "isotonic"]
# The simpler first.
METHODS: Final[tuple[Method, ...]] = ("none", "sigmoid", "beta", "isotonic")

# Below this, isotonic regression fits noise (scikit-learn user guide: not for "<< 1000" samples).
MIN_ROWS: Final = 1_000
# Methods whose forward log loss differs by less, in nats, count as equal.
CLOSE: Final = 0.0001
# Distance from 0 and 1 to which scores are clipped before their logit is taken.
_SCORE_EDGE: Final = 1e-12
# Knots of a smooth map: logits from -12 to 12 in steps of 1/32. Interpolation between them errs by less than 1e-4.
_GRID_LOGITS: Final = 12.0
_GRID_STEPS: Final = 769
# About six steps are enough.
_MAX_NEWTON_STEPS: Final = 100
# Newton's method ends when no weight changes by more than this.
_MIN_STEP: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Knots:
    """A monotone, piecewise linear map from raw score to probability.

    Attributes:
        scores: Strictly increasing, in [0, 1]; length k >= 1.
        probabilities: Non-decreasing, inside (0, 1), so that log loss stays finite; length k.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        s, p = np.asarray(self.scores), np.asarray(self.probabilities)
        rising = s.size == p.size >= 1 and bool((np.diff(s) > 0).all() and (np.diff(p) >= 0).all())
        # Written so that NaN fails: every comparison with NaN is False.
        if not (rising and s[0] >= 0 and s[-1] <= 1 and p[0] > 0 and p[-1] < 1):
            raise InputError(
                f"the calibrator's {s.size} knots are not a rising map into (0, 1)", hint="run `mltrain verify model`"
            )

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores in [0, 1], shape (n,), to probabilities in (0, 1), shape (n,), in order.

        >>> Knots((0.4, 0.6), (0.45, 0.55)).apply(np.array([0.1, 0.5, 0.9])).tolist()
        [0.45, 0.5, 0.55]
        """
        return np.interp(raw, self.scores, self.probabilities)


@dataclass(frozen=True, slots=True)
class Calibrator:
    """A calibration method and the map it fitted.

    Attributes:
        method: The method.
        knots: The map; None exactly for the method "none", which keeps the scores.
    """

    method: Method
    knots: Knots | None

    def __post_init__(self) -> None:
        if self.method not in METHODS or (self.knots is None) != (self.method == "none"):
            raise InputError(
                f"the calibrator's method {self.method!a} does not match its knots",
                hint="run `mltrain verify model`",
            )

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores in [0, 1], shape (n,), to probabilities, shape (n,), in order."""
        return raw if self.knots is None else self.knots.apply(raw)


@dataclass(frozen=True, slots=True)
class MethodLoss:
    """The forward log loss of a method: fitted on earlier folds, scored on the next one.

    Attributes:
        method: The method.
        log_loss: Mean over the rows of folds 2, 3, ..., each scored by the fit on all folds before it, in nats.
    """

    method: Method
    log_loss: float


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """A fitted calibrator and the comparison that chose its method.

    Attributes:
        calibrator: Fitted on all folds by the chosen method.
        losses: The forward loss of each method, in the order of METHODS; empty if the method was given, or if there
            were too few rows to compare methods.
    """

    calibrator: Calibrator
    losses: tuple[MethodLoss, ...]

    @property
    def method(self) -> Method:
        """The chosen method."""
        return self.calibrator.method


def calibrate(
    method: Method | Literal["auto"],
    raw: NDArray[np.float64],
    y: NDArray[np.uint8],
    fold: NDArray[np.int8] | NDArray[np.int64],
) -> CalibrationChoice:
    """Fit a calibrator on pooled out-of-fold scores, by a given method or by the one of least forward log loss.

    Args:
        method: A method, or "auto" to compare all of them.
        raw: Out-of-fold scores, shape (n,), in [0, 1].
        y: Labels, shape (n,), 0 or 1.
        fold: Fold of each row, shape (n,); a larger number is a later fold.
    """
    if method == "auto":
        return choose_calibrator(raw, y, fold)
    return CalibrationChoice(fit_calibrator(method, raw, y), ())


def fit_calibrator(method: Method, raw: NDArray[np.float64], y: NDArray[np.uint8]) -> Calibrator:
    """Fit the map from score to probability.

    Args:
        method: "none" keeps the scores. "sigmoid" is a logistic curve in the logit of the score (Platt 1999). "beta"
            weights the logarithms of the score and of one minus the score (Kull et al. 2017). "isotonic" is a monotone
            step function (Zadrozny and Elkan 2002).
        raw: Out-of-fold scores, shape (n,), in [0, 1].
        y: Labels, shape (n,), 0 or 1, in the row order of `raw`.

    Raises:
        InputError: Fewer than MIN_ROWS rows, or labels of one class, unless the method is "none".
        ValueError: Unequal lengths, or a score outside [0, 1].
    """
    if raw.shape != y.shape or raw.ndim != 1 or not ((raw >= 0) & (raw <= 1)).all():
        msg = f"need scores in [0, 1] and a label for each, got shapes {raw.shape} and {y.shape}"
        raise ValueError(msg)
    if method == "none":
        return Calibrator("none", None)
    ups = np.count_nonzero(y)
    if raw.size < MIN_ROWS or ups in {0, y.size}:
        raise InputError(
            f"cannot calibrate by {method} on {raw.size} out-of-fold scores of which {ups} went up: "
            f"need {MIN_ROWS:,} or more and both classes",
            hint="take a longer snapshot, or pass --calibration none",
        )
    if method == "isotonic":
        return Calibrator(method, _fit_isotonic(raw, y))
    return Calibrator(method, _fit_smooth(_beta_terms if method == "beta" else _logit_terms, raw, y))


def choose_calibrator(
    raw: NDArray[np.float64], y: NDArray[np.uint8], fold: NDArray[np.int8] | NDArray[np.int64]
) -> CalibrationChoice:
    """Choose the method of least forward log loss: fitted on the folds before, scored on the next.

    A method replaces a simpler one only if it gains more than CLOSE.

    Args:
        raw: Out-of-fold scores, shape (n,), in [0, 1].
        y: Labels, shape (n,), 0 or 1.
        fold: Fold of each row, shape (n,); a larger number is a later fold.

    Returns:
        The best method, fitted on all rows; "none" if too few rows precede every fold.
    """

    def can_fit(earlier: NDArray[np.uint8]) -> bool:
        return earlier.size >= MIN_ROWS and 0 < int(np.count_nonzero(earlier)) < earlier.size

    later_folds = [k for k in np.unique(fold)[1:].tolist() if can_fit(y[fold < k])]
    if not later_folds:
        return CalibrationChoice(fit_calibrator("none", raw, y), ())

    def forward_loss(method: Method) -> float:
        losses = [
            row_log_loss(fit_calibrator(method, raw[fold < k], y[fold < k]).apply(raw[fold == k]), y[fold == k])
            for k in later_folds
        ]
        return float(np.concatenate(losses).mean())

    losses = tuple(MethodLoss(method, forward_loss(method)) for method in METHODS)
    good_enough = min(entry.log_loss for entry in losses) + CLOSE
    method = next(entry.method for entry in losses if entry.log_loss <= good_enough)
    return CalibrationChoice(fit_calibrator(method, raw, y), losses)


def _fit_isotonic(raw: NDArray[np.float64], y: NDArray[np.uint8]) -> Knots:
    """Fit the monotone step function of least squared error, each step shrunk towards 1/2 by its number of rows.

    A step of m rows with k positives becomes (k + 1/2) / (m + 1): m rows cannot prove certainty. Steps that this puts
    out of order are merged.
    """
    from scipy.optimize import isotonic_regression

    def shrunk(ups: float, rows: float) -> float:
        return (ups + 0.5) / (rows + 1)

    scores, group, counts = np.unique(raw, return_inverse=True, return_counts=True)
    ups = np.bincount(group, weights=y)
    fitted = isotonic_regression(ups / counts, weights=counts).x
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0))
    stops = np.append(starts[1:], scores.size) - 1
    # Least score, greatest score, positives, rows.
    steps: list[tuple[float, float, float, float]] = []
    for low, high, step_ups, rows in zip(
        scores[starts].tolist(),
        scores[stops].tolist(),
        np.add.reduceat(ups, starts).tolist(),
        np.add.reduceat(counts, starts).tolist(),
        strict=True,
    ):
        step = (low, high, step_ups, rows)
        while steps and shrunk(*steps[-1][2:]) >= shrunk(*step[2:]):
            before = steps.pop()
            step = (before[0], step[1], before[2] + step[2], before[3] + step[3])
        steps.append(step)
    knots = [(s, shrunk(k, m)) for low, high, k, m in steps for s in ((low, high) if low < high else (low,))]
    return Knots(tuple(s for s, _ in knots), tuple(p for _, p in knots))


def _logit_terms(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    s = np.clip(raw, _SCORE_EDGE, 1 - _SCORE_EDGE)
    return np.stack([np.log(s) - np.log1p(-s), np.ones(s.size)])


def _beta_terms(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the regressors of beta calibration (Kull et al. 2017), shape (3, n)."""
    s = np.clip(raw, _SCORE_EDGE, 1 - _SCORE_EDGE)
    return np.stack([np.log(s), -np.log1p(-s), np.ones(s.size)])


def _fit_smooth(
    terms_of: Callable[[NDArray[np.float64]], NDArray[np.float64]], raw: NDArray[np.float64], y: NDArray[np.uint8]
) -> Knots:
    """Fit a logistic curve with non-negative weights and tabulate it.

    The problem is convex: the best fit with some weights fixed at zero, among those that violate no bound, is optimal.

    The targets are Platt's (1999): (N+ + 1) / (N+ + 2) for positives and 1 / (N- + 2) for negatives, so that the
    weights stay finite when scores separate the classes.
    """
    ups = np.count_nonzero(y)
    target = np.where(y == 1, (ups + 1) / (ups + 2), 1 / (y.size - ups + 2))
    terms = terms_of(raw)
    constant = len(terms) - 1
    free_weights = [np.array([*kept, constant]) for n in range(len(terms)) for kept in combinations(range(constant), n)]
    fits = [_fit_logistic(terms, target, free) for free in free_weights]
    _, weights = min((fit for fit in fits if (fit[1][:-1] >= 0).all()), key=itemgetter(0))
    scores = _expit(np.linspace(-_GRID_LOGITS, _GRID_LOGITS, _GRID_STEPS))
    # n rows cannot prove certainty.
    edge = 1 / (y.size + 2)
    p = np.clip(_expit(_logits(weights, terms_of(scores))), edge, 1 - edge)
    return Knots(tuple(scores.tolist()), tuple(np.maximum.accumulate(p).tolist()))


def fit_logistic_regression(
    terms: NDArray[np.float64], y: NDArray[np.uint8]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Fit a logistic regression and return its prediction function, from terms to probabilities.

    Args:
        terms: Shape (k, n); the last row is constant.
        y: Labels, shape (n,).
    """
    _, weights = _fit_logistic(terms, y.astype(np.float64), np.arange(len(terms)))
    return lambda other: _expit(_logits(weights, other))


def _fit_logistic(
    terms: NDArray[np.float64], target: NDArray[np.float64], free: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the least cross-entropy over the free weights, and all weights, the others zero (Newton's method)."""

    def cross_entropy(weights: NDArray[np.float64]) -> float:
        logit = _logits(weights, terms)
        return float((np.logaddexp(0, logit) - target * logit).sum())

    def product(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
        # Not `@`: BLAS rounds differently for other thread counts.
        total: NDArray[np.float64] = np.sum(matrix * vector, axis=1)
        return total

    x = terms[free]
    weights = np.zeros(len(terms))
    loss = cross_entropy(weights)
    for _ in range(_MAX_NEWTON_STEPS):
        p = _expit(_logits(weights, terms))
        gradient = product(x, p - target)
        hessian = np.stack([product(x, row * p * (1 - p)) for row in x])
        step = np.zeros(len(terms))
        step[free] = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        while (new_loss := cross_entropy(weights - step)) > loss and np.abs(step).max() > _MIN_STEP:
            step /= 2
        if not new_loss < loss:
            break
        weights, loss = weights - step, new_loss
    return loss, weights


def _logits(weights: NDArray[np.float64], terms: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(weights[:, None] * terms, axis=0)
    return total


def _expit(z: NDArray[np.float64]) -> NDArray[np.float64]:
    # 1 / (1 + exp(-z)) without overflow.
    p: NDArray[np.float64] = np.exp(-np.logaddexp(0, -z))
    return p
