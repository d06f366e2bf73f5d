"""feature_audit: the training matrix matches the registry, and no column contains the label.

Only rows of the inner part are read, none of the holdout. Single features are judged symbol by symbol: in a pool, the
other symbols would dilute a leak in the rows of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.features.spec import FeatureSet
from mltrain.guards.evidence import Failure, Findings, SuspectFeature, format_names
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.metrics import auc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.guards.evidence import GuardResult

_ALL: Final = "all"

# Rows used, evenly spread: all symbols together, and at least this many of each. The standard error of an AUC is 0.001
# for a quarter of a million rows, 0.006 for ten thousand, 0.003 for forty thousand test labels; a leak is a hundred
# times as large.
_AUC_ROWS: Final = 250_000
_AUC_SYMBOL_ROWS: Final = 10_000
# An AUC counts as above a limit if it exceeds it by three standard deviations, so that chance in a few rows does not.
# For 0.7 that takes 15 rows of each class; then a true AUC of 1/2 exceeds it once in 100,000 times.
_AUC_DEVIATIONS: Final = 3.0
_SHUFFLED_ROWS: Final = 60_000
_SHUFFLED_TRAIN_SHARE: Final = 0.6
_SHUFFLED_ROUNDS: Final = 30
_SHUFFLED_MIN_ROWS: Final = 200

# Shuffled labels are exchangeable, so the AUC of any score is normal around 1/2 with the variance of the rank sum
# (Mann and Whitney 1947): 1e-5 of the runs without a leak are beyond 4.417 standard deviations.
_CHANCE_DEVIATIONS: Final = 4.417

_DETAILS: Final = {
    "schema": "values: columns, order, type, finite; labels 0 or 1; rows in order of time; worst: share not finite",
    "registry": "features of the registry that is read back from its stored form; hash {sha256}",
    "auc": "single features, symbol by symbol; worst: the largest |AUC - 1/2| + 1/2",
    "constant": "columns with more than one value",
    "shuffled_labels": "rows whose labels a model trained on shuffled labels had to predict; worst: |AUC - 1/2|",
}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingMatrix:
    """The rows of the inner part, as the learner gets them.

    Attributes:
        names: The columns of `x`.
        x: Features, shape (n, features), float32.
        y: Labels, 0 or 1, shape (n,).
        ts_ms: Open time of each row's candle, ms UTC, not falling, shape (n,).
        symbol_ix: Position of each row's symbol in `symbols`, shape (n,).
        symbols: The symbols.
    """

    names: Sequence[str]
    x: NDArray[np.float32]
    y: NDArray[np.uint8]
    ts_ms: NDArray[np.int64]
    symbol_ix: NDArray[np.int16]
    symbols: Sequence[str]


def feature_audit(
    feature_set: FeatureSet, matrix: TrainingMatrix, *, seed: int, auc_warn: float, auc_fail: float
) -> GuardResult:
    """Check the training matrix.

    Args:
        feature_set: The registry.
        matrix: The training matrix.
        seed: Seed of the shuffling, and of the model that is trained on it.
        auc_warn: A single feature's |AUC - 1/2| + 1/2 on one symbol's rows above this is a warning.
        auc_fail: Above this it is a failure.

    Returns:
        The evidence; `suspects` are all features and symbols above `auc_warn`.

    Raises:
        MachineError: LightGBM cannot be loaded.
    """
    findings = Findings("feature_audit")
    _check_registry(findings, feature_set)
    if _check_schema(findings, feature_set, matrix):
        _check_constant(findings, matrix)
        horizon_bars, limits = feature_set.label.horizon_bars, (auc_warn, auc_fail)
        few = []
        for ix, symbol in enumerate(matrix.symbols):
            rows = np.flatnonzero(matrix.symbol_ix == ix)
            if not _check_single_features(findings, matrix, symbol, rows, horizon_bars=horizon_bars, limits=limits):
                few.append(f"{symbol} ({rows.size})")
        if few:
            findings.warnings.append(f"too few rows to judge single features: {format_names(few)}")
        _check_shuffled_labels(findings, matrix.x, matrix.y, seed=seed)
    return findings.result({**_DETAILS, "registry": _DETAILS["registry"].format(sha256=feature_set.registry_sha256)})


def auc_deviation(value: float, ones: float, zeros: float) -> float:
    """Return the standard deviation of an AUC (Hanley and McNeil, Radiology 143, 1982).

    Args:
        value: The true AUC, 0.5 to 1.
        ones: Independent rows of class 1; fewer than one count as one.
        zeros: Independent rows of class 0; fewer than one count as one.

    >>> round(auc_deviation(0.7, 15, 15), 3)
    0.097
    """
    ones, zeros = max(1.0, ones), max(1.0, zeros)
    # Of two 1s above one 0, and of two 0s below one 1.
    above_both = value / (2 - value) - value**2
    below_both = 2 * value**2 / (1 + value) - value**2
    variance = (value * (1 - value) + (ones - 1) * above_both + (zeros - 1) * below_both) / (ones * zeros)
    return math.sqrt(max(0.0, variance))


def _check_registry(findings: Findings, feature_set: FeatureSet) -> None:
    again = FeatureSet.from_json(feature_set.to_json(), where="the registry")
    findings.count("registry", len(feature_set.features))
    if again != feature_set or again.registry_sha256 != feature_set.registry_sha256:
        hashes = feature_set.registry_sha256, again.registry_sha256
        findings.fail("registry", Failure("registry", _ALL, None, *hashes, "its stored form reads back differently"))


def _form_problems(expected: tuple[str, ...], matrix: TrainingMatrix) -> Iterator[Failure]:
    """Yield wrong columns, shapes and types."""
    for i, (name, found) in enumerate(zip(expected, matrix.names, strict=False)):
        if name != found:
            yield Failure(found, _ALL, None, name, found, f"column {i} is not the registry's")
            break
    if len(matrix.names) != len(expected):
        counts = f"{len(expected)} columns", f"{len(matrix.names)} columns"
        yield Failure("columns", _ALL, None, *counts, "the matrix has other columns than the registry")
    shape = (matrix.y.size, len(matrix.names))
    if matrix.x.shape != shape or not matrix.ts_ms.shape == matrix.symbol_ix.shape == matrix.y.shape:
        got = f"{matrix.x.shape}, {matrix.ts_ms.size} times and symbols of {matrix.symbol_ix.size} rows"
        yield Failure("matrix", _ALL, None, str(shape), got, "rows and columns do not go together")
    if matrix.x.dtype != np.float32:
        why = "a learner and a server that round differently disagree"
        yield Failure("matrix", _ALL, None, "float32", str(matrix.x.dtype), why)


def _value_problems(matrix: TrainingMatrix, usable: NDArray[np.bool_]) -> Iterator[Failure]:
    """Yield values that a learner must not get."""
    for i in np.flatnonzero(~usable.all(axis=0)).tolist():
        row = int(np.flatnonzero(~usable[:, i])[0])
        got, when = str(matrix.x[row, i]), int(matrix.ts_ms[row])
        yield Failure(matrix.names[i], _ALL, when, "a finite number", got, "a row of the matrix has no usable value")
    classes = np.unique(matrix.y).tolist()
    if classes != [0, 1]:
        yield Failure(
            "label", _ALL, None, "both 0 and 1, and nothing else", str(classes), "the labels are not two classes"
        )
    back = np.flatnonzero(np.diff(matrix.ts_ms) < 0)
    if back.size:
        when = int(matrix.ts_ms[back[0] + 1])
        yield Failure("rows", _ALL, when, "rising times", "a step back", "rows are not in order of time")


def _check_schema(findings: Findings, feature_set: FeatureSet, matrix: TrainingMatrix) -> bool:
    """Check form and values of the arrays; return whether further checks can run."""
    problems = list(_form_problems(feature_set.names, matrix))
    if not problems:
        usable = np.isfinite(matrix.x)
        findings.count("schema", usable.size, float(1 - usable.mean()) if usable.size else 0.0)
        problems = list(_value_problems(matrix, usable))
    for failure in problems:
        findings.fail(f"schema: {failure.why}", failure)
    return not problems


def _check_constant(findings: Findings, matrix: TrainingMatrix) -> None:
    constant = [matrix.names[i] for i in np.flatnonzero(matrix.x.min(axis=0) == matrix.x.max(axis=0)).tolist()]
    findings.count("constant", len(matrix.names), len(constant) / len(matrix.names))
    if constant:
        findings.warnings.append(f"constant in training: {format_names(constant, shown=len(constant))}")


def _check_single_features(
    findings: Findings,
    matrix: TrainingMatrix,
    symbol: str,
    rows: NDArray[np.intp],
    *,
    horizon_bars: int,
    limits: tuple[float, float],
) -> bool:
    """Check how well each single feature predicts one symbol's label; return whether there are enough rows."""
    judged = rows[_spread(rows.size, max(_AUC_SYMBOL_ROWS, _AUC_ROWS // len(matrix.symbols)))]
    labels = matrix.y[judged]
    ones, zeros = int(labels.sum()), int(labels.size - labels.sum())
    # Labels overlap: only one in `horizon_bars` consecutive ones is independent.
    share = min(1.0, rows.size / horizon_bars / max(1, judged.size))
    thresholds = [limit + _AUC_DEVIATIONS * auc_deviation(limit, ones * share, zeros * share) for limit in limits]
    if not (ones and zeros) or thresholds[0] > 1:
        return False
    for i, name in enumerate(matrix.names):
        value = abs(auc(matrix.x[judged, i], labels) - 0.5) + 0.5
        findings.count("auc", 1, value, case=f"{name} of {symbol}")
        if value > thresholds[0]:
            findings.suspects.append(SuspectFeature(name, symbol, value))
        if value > thresholds[1]:
            why = "alone it predicts the label implausibly well"
            findings.fail("auc", Failure(name, symbol, None, f"an AUC of {limits[1]:g} at most", f"{value:.4f}", why))
        elif value > thresholds[0]:
            findings.warnings.append(
                f"{name} of {symbol} alone has an AUC of {value:.4f}, above {limits[0]:g}: does it contain the label?"
            )
    return True


def _check_shuffled_labels(findings: Findings, x: NDArray[np.float32], y: NDArray[np.uint8], *, seed: int) -> None:
    """Train on shuffled labels, forward in time, and check that the AUC is one of chance."""
    rows = _spread(y.size, _SHUFFLED_ROWS)
    labels = np.random.default_rng(seed).permutation(y[rows])
    cut = round(rows.size * _SHUFFLED_TRAIN_SHARE)
    test = labels[cut:]
    if rows.size < _SHUFFLED_MIN_ROWS or np.unique(labels[:cut]).size < 2 or np.unique(test).size < 2:
        why = "too few rows to train on shuffled labels"
        findings.fail("shuffled_labels", Failure("matrix", _ALL, None, str(_SHUFFLED_MIN_ROWS), str(rows.size), why))
        return
    found = auc(_scores(x[rows], labels, cut, seed), test)
    ones = int(test.sum())
    deviation = math.sqrt((test.size + 1) / (12 * ones * (test.size - ones)))
    findings.count("shuffled_labels", test.size, abs(found - 0.5))
    if abs(found - 0.5) > _CHANCE_DEVIATIONS * deviation:
        expected = f"an AUC of 0.5 within {_CHANCE_DEVIATIONS * deviation:.4f}"
        why = "a model trained on shuffled labels predicts them: the order of the rows leaks"
        findings.fail("shuffled_labels", Failure("matrix", _ALL, None, expected, f"{found:.4f}", why))


def _scores(x: NDArray[np.float32], labels: NDArray[np.uint8], cut: int, seed: int) -> NDArray[np.float64]:
    """Fit a small model to the rows before `cut` and score those after it."""
    lgb = import_lightgbm()
    params: Mapping[str, Any] = {
        "objective": "binary",
        "num_leaves": 15,
        "learning_rate": 0.1,
        "max_bin": 63,
        "min_data_in_leaf": 50,
        "num_threads": 1,
        "deterministic": True,
        "force_col_wise": True,
        "seed": seed,
        "verbosity": -1,
    }
    booster = lgb.train(dict(params), lgb.Dataset(x[:cut], labels[:cut]), _SHUFFLED_ROUNDS)
    scores: NDArray[np.float64] = booster.predict(x[cut:], num_threads=1)
    return scores


def _spread(rows: int, most: int) -> NDArray[np.intp]:
    """Return all row numbers, or at most `most` evenly spread ones."""
    return np.arange(rows) if rows <= most else np.linspace(0, rows - 1, most).astype(np.intp)
