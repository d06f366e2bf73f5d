"""feature_audit: the training matrix matches the registry, and no column contains the label.

Only rows of the inner part are read, none of the holdout. Single features are judged symbol by symbol: in a pool, the
other symbols would dilute a leak in the rows of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.features.spec import FeatureSet, inputs_read
from mltrain.guards.evidence import Failure, Findings, SuspectFeature, format_names
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.metrics import auc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSpec
    from mltrain.guards.evidence import GuardResult

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

_INPUT_HINT: Final = (
    "was the input known as early as it states? `mltrain features show {name} --at TIME` prints its values around a "
    "time, with the time since when each was known"
)

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
        names: Names of the columns of `x`.
        x: Features, shape (n, features), float32.
        y: Labels, 0 or 1, shape (n,).
        ts_ms: Open time of each row's candle, UTC ms, not falling, shape (n,).
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
    """Check that a training matrix matches its registry, and that no column and no order of rows contains the label.

    Args:
        feature_set: The registry.
        matrix: The training matrix.
        seed: Seed of the shuffled labels, and of the model that is trained on them.
        auc_warn: A single feature's |AUC - 1/2| + 1/2 on one symbol's rows above this is a warning, 0.5 to 1.
        auc_fail: Above this it is a failure, 0.5 to 1.

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
        sources = {spec.name: text for spec in feature_set.features if (text := _describe_inputs(feature_set, spec))}
        not_judged = []
        for ix, symbol in enumerate(matrix.symbols):
            rows = np.flatnonzero(matrix.symbol_ix == ix)
            judged = _check_single_features(
                findings, matrix, symbol, rows, horizon_bars=horizon_bars, limits=limits, sources=sources
            )
            if not judged:
                not_judged.append(f"{symbol} ({rows.size})")
        if not_judged:
            findings.warnings.append(f"too few rows to judge single features: {format_names(not_judged)}")
        _check_shuffled_labels(findings, matrix.x, matrix.y, seed=seed)
    registry = _DETAILS["registry"].format(sha256=feature_set.registry_sha256)
    return findings.build_result({**_DETAILS, "registry": registry})


def _describe_inputs(feature_set: FeatureSet, spec: FeatureSpec) -> str:
    """Return the inputs that a feature reads, with the columns that say since when they were known; "" for none."""
    if not feature_set.inputs:
        return ""
    read = {*inputs_read(spec, leader=False), *inputs_read(spec, leader=True)}
    return " and ".join(
        f"the input {known.name}, known since {known.known_at} of {known.file}"
        for known in feature_set.inputs
        if known.name in read
    )


def auc_deviation(true_auc: float, ones: float, zeros: float) -> float:
    """Return the standard deviation of a measured AUC (Hanley and McNeil, Radiology 143, 1982).

    Args:
        true_auc: The true AUC, 0.5 to 1.
        ones: Independent rows of class 1; fewer than one count as one.
        zeros: Independent rows of class 0; fewer than one count as one.

    >>> round(auc_deviation(0.7, 15, 15), 3)
    0.097
    """
    ones, zeros = max(1.0, ones), max(1.0, zeros)
    # Of two 1s above one 0, and of two 0s below one 1.
    above_both = true_auc / (2 - true_auc) - true_auc**2
    below_both = 2 * true_auc**2 / (1 + true_auc) - true_auc**2
    variance = (true_auc * (1 - true_auc) + (ones - 1) * above_both + (zeros - 1) * below_both) / (ones * zeros)
    return math.sqrt(max(0.0, variance))


def _check_registry(findings: Findings, feature_set: FeatureSet) -> None:
    """Check that the registry, written as JSON and read back, is the same and has the same hash."""
    reread = FeatureSet.from_json(feature_set.to_json(), where="the registry")
    findings.count("registry", len(feature_set.features))
    if reread != feature_set or reread.registry_sha256 != feature_set.registry_sha256:
        expected, got = feature_set.registry_sha256, reread.registry_sha256
        why = "its stored form reads back differently"
        findings.fail("registry", Failure(feature="registry", expected=expected, got=got, why=why))


def _find_form_failures(names: tuple[str, ...], matrix: TrainingMatrix) -> Iterator[Failure]:
    """Yield wrong columns, shapes and types of a matrix whose columns should have these names."""
    for i, (expected, got) in enumerate(zip(names, matrix.names, strict=False)):
        if expected != got:
            yield Failure(feature=got, expected=expected, got=got, why=f"column {i} is not the registry's")
            break
    if len(matrix.names) != len(names):
        counts = f"{len(names)} columns", f"{len(matrix.names)} columns"
        why = "the matrix has other columns than the registry"
        yield Failure(feature="columns", expected=counts[0], got=counts[1], why=why)
    shape = (matrix.y.size, len(matrix.names))
    if matrix.x.shape != shape or not matrix.ts_ms.shape == matrix.symbol_ix.shape == matrix.y.shape:
        got = f"{matrix.x.shape}, {matrix.ts_ms.size} times and symbols of {matrix.symbol_ix.size} rows"
        yield Failure(feature="matrix", expected=str(shape), got=got, why="rows and columns do not go together")
    if matrix.x.dtype != np.float32:
        why = "a learner and a server that round differently disagree"
        yield Failure(feature="matrix", expected="float32", got=str(matrix.x.dtype), why=why)


def _find_value_failures(matrix: TrainingMatrix, is_finite: NDArray[np.bool_]) -> Iterator[Failure]:
    """Yield features that are not finite, labels that are not two classes, and rows out of order."""
    for i in np.flatnonzero(~is_finite.all(axis=0)).tolist():
        row = int(np.flatnonzero(~is_finite[:, i])[0])
        time_ms, got, why = int(matrix.ts_ms[row]), str(matrix.x[row, i]), "a row of the matrix has no usable value"
        yield Failure(feature=matrix.names[i], time_ms=time_ms, expected="a finite number", got=got, why=why)
    classes = np.unique(matrix.y).tolist()
    if classes != [0, 1]:
        expected, why = "both 0 and 1, and nothing else", "the labels are not two classes"
        yield Failure(feature="label", expected=expected, got=str(classes), why=why)
    back = np.flatnonzero(np.diff(matrix.ts_ms) < 0)
    if back.size:
        time_ms, why = int(matrix.ts_ms[back[0] + 1]), "rows are not in order of time"
        yield Failure(feature="rows", time_ms=time_ms, expected="rising times", got="a step back", why=why)


def _check_schema(findings: Findings, feature_set: FeatureSet, matrix: TrainingMatrix) -> bool:
    """Check form and values of the arrays; return whether further checks can run."""
    failures = list(_find_form_failures(feature_set.names, matrix))
    if not failures:
        is_finite = np.isfinite(matrix.x)
        findings.count("schema", is_finite.size, float(1 - is_finite.mean()) if is_finite.size else 0.0)
        failures = list(_find_value_failures(matrix, is_finite))
    for failure in failures:
        findings.fail(f"schema: {failure.why}", failure)
    return not failures


def _check_constant(findings: Findings, matrix: TrainingMatrix) -> None:
    """Warn of columns that have the same value in every row."""
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
    sources: Mapping[str, str],
) -> bool:
    """Check how well each single feature predicts the label in a symbol's rows; return whether there are enough rows.

    `limits` are the values of |AUC - 1/2| + 1/2 above which to warn, and above which to fail; `sources` describe the
    inputs of the features that read some.
    """
    sample = rows[_spread_rows(rows.size, max(_AUC_SYMBOL_ROWS, _AUC_ROWS // len(matrix.symbols)))]
    labels = matrix.y[sample]
    ones, zeros = int(labels.sum()), int(labels.size - labels.sum())
    # Labels overlap: only one in `horizon_bars` consecutive ones is independent.
    independent = min(1.0, rows.size / horizon_bars / max(1, sample.size))
    warn, fail = (m + _AUC_DEVIATIONS * auc_deviation(m, ones * independent, zeros * independent) for m in limits)
    if not (ones and zeros) or warn > 1:
        return False
    for i, name in enumerate(matrix.names):
        value = abs(auc(matrix.x[sample, i], labels) - 0.5) + 0.5
        findings.count("auc", 1, value, case=f"{name} of {symbol}")
        if value > warn:
            findings.suspects.append(SuspectFeature(name, symbol, value))
        if value > fail:
            why = "alone it predicts the label implausibly well"
            failure = Failure(
                feature=name,
                symbol=symbol,
                expected=f"an AUC of {limits[1]:g} at most",
                got=f"{value:.4f}",
                why=f"{why}; it reads {sources[name]}" if name in sources else why,
                hint=_INPUT_HINT.format(name=name) if name in sources else "",
            )
            findings.fail("auc", failure)
        elif value > warn:
            reads = f" It reads {sources[name]}." if name in sources else ""
            findings.warnings.append(
                f"{name} of {symbol} alone has an AUC of {value:.4f}, above {limits[0]:g}: does it contain the label?"
                + reads
            )
    return True


def _check_shuffled_labels(findings: Findings, x: NDArray[np.float32], y: NDArray[np.uint8], *, seed: int) -> None:
    """Shuffle the labels of rows in order of time, train on the earlier rows, and check the AUC on the later ones."""
    rows = _spread_rows(y.size, _SHUFFLED_ROWS)
    labels = np.random.default_rng(seed).permutation(y[rows])
    train_rows = round(rows.size * _SHUFFLED_TRAIN_SHARE)
    test_labels = labels[train_rows:]
    if rows.size < _SHUFFLED_MIN_ROWS or np.unique(labels[:train_rows]).size < 2 or np.unique(test_labels).size < 2:
        expected, why = str(_SHUFFLED_MIN_ROWS), "too few rows to train on shuffled labels"
        findings.fail("shuffled_labels", Failure(feature="matrix", expected=expected, got=str(rows.size), why=why))
        return
    shuffled_auc = auc(_fit_and_score(x[rows], labels, train_rows, seed), test_labels)
    ones = int(test_labels.sum())
    deviation = math.sqrt((test_labels.size + 1) / (12 * ones * (test_labels.size - ones)))
    findings.count("shuffled_labels", test_labels.size, abs(shuffled_auc - 0.5))
    if abs(shuffled_auc - 0.5) > _CHANCE_DEVIATIONS * deviation:
        expected = f"an AUC of 0.5 within {_CHANCE_DEVIATIONS * deviation:.4f}"
        why = "a model trained on shuffled labels predicts them: the order of the rows leaks"
        findings.fail(
            "shuffled_labels", Failure(feature="matrix", expected=expected, got=f"{shuffled_auc:.4f}", why=why)
        )


def _fit_and_score(
    x: NDArray[np.float32], labels: NDArray[np.uint8], train_rows: int, seed: int
) -> NDArray[np.float64]:
    """Fit a small model to the first `train_rows` rows, and return its probabilities for the others."""
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
    booster = lgb.train(dict(params), lgb.Dataset(x[:train_rows], labels[:train_rows]), _SHUFFLED_ROUNDS)
    scores: NDArray[np.float64] = booster.predict(x[train_rows:], num_threads=1)
    return scores


def _spread_rows(rows: int, max_rows: int) -> NDArray[np.intp]:
    """Return the row numbers from 0 to `rows` - 1, or `max_rows` evenly spread ones if there are more."""
    return np.arange(rows) if rows <= max_rows else np.linspace(0, rows - 1, max_rows).astype(np.intp)
