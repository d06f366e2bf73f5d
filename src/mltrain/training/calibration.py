"""Probability calibration of raw scores.

Calibrators are fitted on out-of-fold scores only (`mltrain.training.search` pools them): one evaluated on the rows that
it was fitted on always looks good. Every method yields the same type, an increasing table of knots, so serving needs
none of the fitting code.

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
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

Method: TypeAlias = Literal["none", "sigmoid", "beta", "isotonic"]
# The simpler first.
METHODS: Final[tuple[Method, ...]] = ("none", "sigmoid", "beta", "isotonic")

# Below this, isotonic regression fits noise (scikit-learn user guide: not for "<< 1000" samples).
MIN_ROWS: Final = 1_000
# Methods whose forward log loss differs by less, in nats, count as equal.
CLOSE: Final = 0.0001
# Scores are clipped to this distance from 0 and 1 before their logit is taken.
_SCORE_EDGE: Final = 1e-12
# Knots of a smooth map: logits from -12 to 12 in steps of 1/32. Interpolation between them errs by less than 1e-4.
_GRID_LOGITS: Final = 12.0
_GRID_STEPS: Final = 769
# About six steps are enough.
_MAX_NEWTON_STEPS: Final = 100
# Newton's method stops halving a step when no weight would change by more than this.
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
        is_rising = s.size == p.size >= 1 and bool((np.diff(s) > 0).all() and (np.diff(p) >= 0).all())
        # Written so that NaN fails: every comparison with NaN is False.
        if not (is_rising and s[0] >= 0 and s[-1] <= 1 and p[0] > 0 and p[-1] < 1):
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
    """A fitted map from raw score to probability.

    Attributes:
        method: How it was fitted.
        knots: The map; None exactly for the method "none", which keeps the scores.
    """

    method: Method
    knots: Knots | None

    def __post_init__(self) -> None:
        if self.method not in METHODS or (self.knots is None) != (self.method == "none"):
            raise InputError(
                f"the calibrator's method {self.method!a} does not match its knots", hint="run `mltrain verify model`"
            )

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores in [0, 1], shape (n,), to probabilities in [0, 1], shape (n,), in order."""
        return raw if self.knots is None else self.knots.apply(raw)


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """A fitted calibrator and the comparison that chose its method.

    Attributes:
        calibrator: Fitted on all folds by the chosen method.
        forward_losses: Mean log loss of each method in nats, each row scored by the fit on all folds before its fold;
            empty if the method was given, or if there were too few rows to compare methods.
    """

    calibrator: Calibrator
    forward_losses: Mapping[Method, float]


def calibrate(
    method: Method | Literal["auto"],
    raw: NDArray[np.float64],
    y: NDArray[np.uint8],
    fold: NDArray[np.int8] | NDArray[np.int64],
) -> CalibrationChoice:
    """Fit a calibrator on pooled out-of-fold scores, by a given method or by the best one.

    Args:
        method: A method; or "auto", the one of least forward log loss: fitted on all folds before a fold, scored on
            that fold. A method replaces a simpler one only if it gains more than CLOSE nats. If no fold has enough
            rows before it, "auto" keeps the scores.
        raw: Out-of-fold scores, shape (n,), in [0, 1].
        y: Labels, shape (n,), 0 or 1.
        fold: Fold of each row, shape (n,); a larger number is a later fold.
    """
    if method != "auto":
        return CalibrationChoice(fit_calibrator(method, raw, y), {})

    def forward_loss(method: Method) -> float:
        losses = [
            row_log_loss(fit_calibrator(method, raw[fold < k], y[fold < k]).apply(raw[fold == k]), y[fold == k])
            for k in later_folds
        ]
        return float(np.concatenate(losses).mean())

    later_folds = [k for k in np.unique(fold)[1:].tolist() if _can_fit(y[fold < k])]
    if not later_folds:
        return CalibrationChoice(fit_calibrator("none", raw, y), {})
    losses = {method: forward_loss(method) for method in METHODS}
    simplest = next(method for method in METHODS if losses[method] <= min(losses.values()) + CLOSE)
    return CalibrationChoice(fit_calibrator(simplest, raw, y), losses)


def _can_fit(y: NDArray[np.uint8]) -> bool:
    """Return whether a map can be fitted on these labels: MIN_ROWS or more, of both classes."""
    return y.size >= MIN_ROWS and 0 < int(np.count_nonzero(y)) < y.size


def fit_calibrator(method: Method, raw: NDArray[np.float64], y: NDArray[np.uint8]) -> Calibrator:
    """Fit a map from raw score to probability by one method.

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
    if not _can_fit(y):
        raise InputError(
            f"cannot calibrate by {method} on {raw.size} out-of-fold scores of which {np.count_nonzero(y)} went up: "
            f"need {MIN_ROWS:,} or more and both classes",
            hint="take a longer snapshot, or pass --calibration none",
        )
    if method == "isotonic":
        return Calibrator(method, _fit_isotonic(raw, y))
    return Calibrator(method, _fit_smooth(_beta_regressors if method == "beta" else _sigmoid_regressors, raw, y))


def _fit_isotonic(raw: NDArray[np.float64], y: NDArray[np.uint8]) -> Knots:
    """Fit the monotone step function of least squared error, each step shrunk towards 1/2 by its number of rows.

    A step of m rows with k positives becomes (k + 1/2) / (m + 1): m rows cannot prove certainty. Steps that this puts
    out of order are merged.
    """
    from scipy.optimize import isotonic_regression

    def shrink(ups: float, rows: float) -> float:
        return (ups + 0.5) / (rows + 1)

    scores, score_ix, counts = np.unique(raw, return_inverse=True, return_counts=True)
    ups = np.bincount(score_ix, weights=y)
    fitted = isotonic_regression(ups / counts, weights=counts).x
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0))
    lasts = np.append(starts[1:], scores.size) - 1
    # Each step: least score, greatest score, positives, rows.
    steps: list[tuple[float, float, float, float]] = []
    for step in zip(
        scores[starts].tolist(),
        scores[lasts].tolist(),
        np.add.reduceat(ups, starts).tolist(),
        np.add.reduceat(counts, starts).tolist(),
        strict=True,
    ):
        low, high, step_ups, rows = step
        while steps and shrink(*steps[-1][2:]) >= shrink(step_ups, rows):
            low, _, ups_before, rows_before = steps.pop()
            step_ups, rows = ups_before + step_ups, rows_before + rows
        steps.append((low, high, step_ups, rows))
    knots = [(s, shrink(k, m)) for low, high, k, m in steps for s in ((low, high) if low < high else (low,))]
    return Knots(tuple(s for s, _ in knots), tuple(p for _, p in knots))


def _sigmoid_regressors(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the regressors of Platt's curve for scores of shape (n,): their logits and a constant, shape (2, n)."""
    s = np.clip(raw, _SCORE_EDGE, 1 - _SCORE_EDGE)
    return np.stack([np.log(s) - np.log1p(-s), np.ones(s.size)])


def _beta_regressors(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the regressors of beta calibration (Kull et al. 2017) for scores of shape (n,), shape (3, n)."""
    s = np.clip(raw, _SCORE_EDGE, 1 - _SCORE_EDGE)
    return np.stack([np.log(s), -np.log1p(-s), np.ones(s.size)])


def _fit_smooth(
    make_regressors: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    raw: NDArray[np.float64],
    y: NDArray[np.uint8],
) -> Knots:
    """Fit a logistic curve whose weights, the constant's excepted, are not negative, and tabulate it.

    The problem is convex: the best fit with some weights fixed at zero, among those that violate no bound, is optimal.

    The targets are Platt's (1999): (N+ + 1) / (N+ + 2) for positives and 1 / (N- + 2) for negatives, so that the
    weights stay finite when scores separate the classes.
    """
    ups = np.count_nonzero(y)
    target = np.where(y == 1, (ups + 1) / (ups + 2), 1 / (y.size - ups + 2))
    regressors = make_regressors(raw)
    constant = len(regressors) - 1
    free_sets = [np.array([*free, constant]) for n in range(constant + 1) for free in combinations(range(constant), n)]
    fits = [_fit_logistic(regressors, target, free) for free in free_sets]
    _, weights = min((fit for fit in fits if (fit[1][:-1] >= 0).all()), key=itemgetter(0))
    scores = _expit(np.linspace(-_GRID_LOGITS, _GRID_LOGITS, _GRID_STEPS))
    # n rows cannot prove certainty.
    edge = 1 / (y.size + 2)
    p = np.clip(_expit(_logits(weights, make_regressors(scores))), edge, 1 - edge)
    return Knots(tuple(scores.tolist()), tuple(np.maximum.accumulate(p).tolist()))


def fit_logistic_regression(
    regressors: NDArray[np.float64], y: NDArray[np.uint8]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Fit a logistic regression; return the function from regressors, shape (k, m), to probabilities, shape (m,).

    Args:
        regressors: Shape (k, n); the last row is constant.
        y: Labels, shape (n,), 0 or 1.
    """
    _, weights = _fit_logistic(regressors, y.astype(np.float64), np.arange(len(regressors)))
    return lambda new_regressors: _expit(_logits(weights, new_regressors))


def _fit_logistic(
    regressors: NDArray[np.float64], target: NDArray[np.float64], free: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Fit the weights at the positions `free` of a logistic regression, the others fixed at zero (Newton's method).

    Args:
        regressors: Shape (k, n).
        target: Probability to fit at each row, shape (n,).
        free: Positions of the weights to fit, each in 0 to k - 1.

    Returns:
        The least cross-entropy, summed over the rows, in nats, and all weights, shape (k,).
    """

    def cross_entropy(weights: NDArray[np.float64]) -> float:
        logit = _logits(weights, regressors)
        return float((np.logaddexp(0, logit) - target * logit).sum())

    def multiply(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
        # Not `@`: BLAS rounds differently for other thread counts.
        product: NDArray[np.float64] = np.sum(matrix * vector, axis=1)
        return product

    x = regressors[free]
    weights = np.zeros(len(regressors))
    loss = cross_entropy(weights)
    for _ in range(_MAX_NEWTON_STEPS):
        p = _expit(_logits(weights, regressors))
        gradient = multiply(x, p - target)
        hessian = np.stack([multiply(x, row * p * (1 - p)) for row in x])
        step = np.zeros(len(regressors))
        step[free] = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        while (new_loss := cross_entropy(weights - step)) > loss and np.abs(step).max() > _MIN_STEP:
            step /= 2
        if not new_loss < loss:
            break
        weights, loss = weights - step, new_loss
    return loss, weights


def _logits(weights: NDArray[np.float64], regressors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weighted sum of regressors, shape (k, n), at each row, shape (n,)."""
    # Not `@`: BLAS rounds differently for other thread counts.
    total: NDArray[np.float64] = np.sum(weights[:, None] * regressors, axis=0)
    return total


def _expit(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-z)) without overflow."""
    p: NDArray[np.float64] = np.exp(-np.logaddexp(0, -z))
    return p
