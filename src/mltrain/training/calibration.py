"""Calibration: turn raw scores into probabilities that mean what they say.

Pure: arrays in, a frozen table out; no files, no clock, no randomness. Fit on out-of-fold scores only
(`mltrain.training.search` pools them): a calibrator judged on its own rows always looks good. Every method ends as the
same thing, a rising table of knots, so that serving needs none of the code that fitted it.
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
METHODS: Final[tuple[Method, ...]] = ("none", "sigmoid", "beta", "isotonic")  # the simpler first

MIN_ROWS: Final = 1_000  # with fewer, isotonic follows the noise (scikit-learn: not for "<< 1000")
CLOSE: Final = 0.0001  # nats of forward log loss within which two methods count as equal
_SCORE_EDGE: Final = 1e-12  # logits are taken of scores at least this far from 0 and 1
# A smooth map becomes knots at these scores, 1/32 of a logit apart: linear between them it errs by less than 1e-4.
_GRID_LOGITS: Final = 12.0
_GRID_STEPS: Final = 769
_NEWTON_STEPS: Final = 100  # it takes about 6
_STILL: Final = 1e-12  # a step shorter than this changes nothing


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
    """A method and its map; without knots, raw scores are the probabilities.

    Attributes:
        method: How the map was fitted.
        knots: The map; None exactly for the method "none".
    """

    method: Method
    knots: Knots | None

    def __post_init__(self) -> None:
        if self.method not in METHODS or (self.knots is None) != (self.method == "none"):
            raise InputError(
                f"the calibrator's method {self.method!a} and its knots contradict each other",
                hint="run `mltrain verify model`",
            )

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map scores in [0, 1], shape (n,), to probabilities, shape (n,), in order."""
        return raw if self.knots is None else self.knots.apply(raw)


@dataclass(frozen=True, slots=True)
class MethodLoss:
    """How a method did on folds later than those that it was fitted on.

    Attributes:
        method: The method.
        log_loss: Mean over the rows of folds 2, 3, ..., each scored by the fit on all folds before it.
    """

    method: Method
    log_loss: float


@dataclass(frozen=True, slots=True)
class CalibrationChoice:
    """The calibrator that `auto` takes, and why.

    Attributes:
        calibrator: Fitted on all folds, by the chosen method.
        losses: The forward loss of each method, in the order of METHODS; empty where there were too few rows to tell,
            in which case the scores are left as they are.
    """

    calibrator: Calibrator
    losses: tuple[MethodLoss, ...]

    @property
    def method(self) -> Method:
        """The chosen method."""
        return self.calibrator.method


def fit_calibrator(method: Method, raw: NDArray[np.float64], y: NDArray[np.uint8]) -> Calibrator:
    """Fit the map from score to probability.

    Args:
        method: "none" keeps the scores; "sigmoid" is a line in the logit (Platt); "beta" gives the logarithms of
            score and counter-score a weight each (Kull et al. 2017); "isotonic" is any rising step function.
        raw: Out-of-fold scores, shape (n,), in [0, 1].
        y: Labels, shape (n,), 0 or 1, in the order of `raw`.

    Returns:
        The calibrator.

    Raises:
        InputError: Fewer than MIN_ROWS rows (but for "none"), or labels of one class.
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
    """Choose among all methods by forward log loss: fitted on the folds before, scored on the next.

    A method is taken over a simpler one only where it gains more than CLOSE.

    Args:
        raw: Out-of-fold scores, shape (n,), in [0, 1].
        y: Labels, shape (n,), 0 or 1.
        fold: Fold of each row, shape (n,); a larger number is a later fold.

    Returns:
        The best method, fitted on all rows; "none" where too few rows precede every fold.

    Raises:
        ValueError: Unequal lengths, or a score outside [0, 1].
    """
    later = [k for k in np.unique(fold)[1:].tolist() if _can_fit(y[fold < k])]
    if not later:
        return CalibrationChoice(fit_calibrator("none", raw, y), ())
    losses = tuple(MethodLoss(m, _forward_loss(m, raw, y, fold, later)) for m in METHODS)
    good_enough = min(entry.log_loss for entry in losses) + CLOSE
    method = next(entry.method for entry in losses if entry.log_loss <= good_enough)
    return CalibrationChoice(fit_calibrator(method, raw, y), losses)


def _can_fit(y: NDArray[np.uint8]) -> bool:
    return y.size >= MIN_ROWS and 0 < int(np.count_nonzero(y)) < y.size


def _forward_loss(
    method: Method,
    raw: NDArray[np.float64],
    y: NDArray[np.uint8],
    fold: NDArray[np.int8] | NDArray[np.int64],
    later: list[int],
) -> float:
    losses = [
        row_log_loss(fit_calibrator(method, raw[fold < k], y[fold < k]).apply(raw[fold == k]), y[fold == k])
        for k in later
    ]
    return float(np.concatenate(losses).mean())


def _fit_isotonic(raw: NDArray[np.float64], y: NDArray[np.uint8]) -> Knots:
    """Fit the rising step function of least squared error, each step pulled towards 1/2 by its own few rows.

    A step of m rows, k of which went up, gets (k + 1/2) / (m + 1): m rows cannot prove certainty. Where that puts a
    step below the one before, the two become one step.
    """
    from scipy.optimize import isotonic_regression  # which is the one of scikit-learn, without a second of import

    scores, group, counts = np.unique(raw, return_inverse=True, return_counts=True)
    ups = np.bincount(group, weights=y)
    fitted = isotonic_regression(ups / counts, weights=counts).x
    starts = np.flatnonzero(np.diff(fitted, prepend=-1.0))
    stops = np.append(starts[1:], scores.size) - 1
    steps: list[tuple[float, float, float, float]] = []  # least score, greatest score, ups, rows
    for low, high, k, m in zip(
        scores[starts].tolist(),
        scores[stops].tolist(),
        np.add.reduceat(ups, starts).tolist(),
        np.add.reduceat(counts, starts).tolist(),
        strict=True,
    ):
        step = (low, high, k, m)
        while steps and _shrunk(*steps[-1][2:]) >= _shrunk(*step[2:]):
            before = steps.pop()
            step = (before[0], step[1], before[2] + step[2], before[3] + step[3])
        steps.append(step)
    knots = [(s, _shrunk(k, m)) for low, high, k, m in steps for s in ((low, high) if low < high else (low,))]
    return Knots(tuple(s for s, _ in knots), tuple(p for _, p in knots))


def _shrunk(ups: float, rows: float) -> float:
    return (ups + 0.5) / (rows + 1)


def _logit_terms(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    s = np.clip(raw, _SCORE_EDGE, 1 - _SCORE_EDGE)
    return np.stack([np.log(s) - np.log1p(-s), np.ones(s.size)])


def _beta_terms(raw: NDArray[np.float64]) -> NDArray[np.float64]:
    s = np.clip(raw, _SCORE_EDGE, 1 - _SCORE_EDGE)
    return np.stack([np.log(s), -np.log1p(-s), np.ones(s.size)])


def _fit_smooth(
    terms_of: Callable[[NDArray[np.float64]], NDArray[np.float64]], raw: NDArray[np.float64], y: NDArray[np.uint8]
) -> Knots:
    """Fit a logistic curve over non-negative multiples of the terms, and tabulate it.

    The targets are Platt's: (N+ + 1) / (N+ + 2) for a row that went up and 1 / (N- + 2) for one that did not, so that
    scores that separate the classes do not send the curve to infinity.
    """
    ups = np.count_nonzero(y)
    target = np.where(y == 1, (ups + 1) / (ups + 2), 1 / (y.size - ups + 2))
    weights = _fit_logistic(terms_of(raw), target)
    scores = _expit(np.linspace(-_GRID_LOGITS, _GRID_LOGITS, _GRID_STEPS))
    edge = 1 / (y.size + 2)  # n rows cannot prove certainty
    p = np.clip(_expit(_weigh(weights, terms_of(scores))), edge, 1 - edge)
    return Knots(tuple(scores.tolist()), tuple(np.maximum.accumulate(p).tolist()))


def fit_logits(
    terms: NDArray[np.float64], y: NDArray[np.uint8]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Fit a logistic regression without bounds, and return what turns terms into probabilities.

    Args:
        terms: Shape (k, n); the last row is constant.
        y: Labels, shape (n,).
    """
    weights = _newton(terms, y.astype(np.float64), np.arange(len(terms)))[1]
    return lambda other: _expit(_weigh(weights, other))


def _fit_logistic(terms: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of least cross-entropy, all but the last of them >= 0; the last row of terms is constant.

    The problem is convex: the best of the fits with some weights held at zero that break no bound is the best there is.
    """
    bounded = range(len(terms) - 1)
    free = [np.array([*kept, len(terms) - 1]) for n in range(len(terms)) for kept in combinations(bounded, n)]
    fits = [fit for fit in (_newton(terms, target, f) for f in free) if (fit[1][:-1] >= 0).all()]
    return min(fits, key=itemgetter(0))[1]


def _newton(
    terms: NDArray[np.float64], target: NDArray[np.float64], free: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return the least cross-entropy over the free weights, and the weights, the others zero."""
    x = terms[free]
    weights = np.zeros(len(terms))
    loss = _cross_entropy(_weigh(weights, terms), target)
    for _ in range(_NEWTON_STEPS):
        q = _expit(_weigh(weights, terms))
        slope = _sums(x, q - target)
        curve = np.stack([_sums(x, row * q * (1 - q)) for row in x])
        step = np.zeros(len(terms))
        step[free] = np.linalg.lstsq(curve, slope, rcond=None)[0]
        while (reached := _cross_entropy(_weigh(weights - step, terms), target)) > loss and np.abs(step).max() > _STILL:
            step /= 2
        if not reached < loss:
            break
        weights, loss = weights - step, reached
    return loss, weights


def _weigh(weights: NDArray[np.float64], terms: NDArray[np.float64]) -> NDArray[np.float64]:
    total: NDArray[np.float64] = np.sum(weights[:, None] * terms, axis=0)
    return total


def _sums(x: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the product of a matrix and a vector, by plain sums: BLAS rounds differently for other thread counts."""
    total: NDArray[np.float64] = np.sum(x * factor, axis=1)
    return total


def _cross_entropy(logit: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    return float((np.logaddexp(0, logit) - target * logit).sum())


def _expit(z: NDArray[np.float64]) -> NDArray[np.float64]:
    p: NDArray[np.float64] = np.exp(-np.logaddexp(0, -z))  # 1 / (1 + exp(-z)), where exp(-z) could overflow
    return p
