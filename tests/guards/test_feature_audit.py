"""The training matrix matches the registry, and no column contains the label."""

from __future__ import annotations

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.guards.feature_audit import TrainingMatrix, auc_deviation, feature_audit
from mltrain.training.metrics import auc
from support.own_columns import FUNDING

ROWS = 4_000
FEATURES = FeatureSet(
    version=1,
    interval="1m",
    label=LabelSpec(kind="direction", horizon_bars=1, ties="drop"),
    features=tuple(FeatureSpec(f"return_{n}", "log_return", {"bars": n, "lag": 0}) for n in range(1, 6)),
)


def audit(*, features=FEATURES, seed=0, **changes):
    rng = np.random.default_rng(seed)
    given = {
        "names": FEATURES.names,
        "x": rng.standard_normal((ROWS, 5)).astype(np.float32),
        "y": rng.integers(0, 2, ROWS).astype(np.uint8),
        "ts_ms": np.arange(ROWS, dtype=np.int64) // 2 * 60_000,
        "symbol_ix": (np.arange(ROWS) % 2).astype(np.int16),
        "symbols": ("BTCUSDT", "ETHUSDT"),
    }
    given |= {name: change(given) for name, change in changes.items()}
    return feature_audit(features, TrainingMatrix(**given), seed=seed, auc_warn=0.7, auc_fail=0.9)


def knowing(share):
    """Return a change of x after which its third column contains the label in a share of the rows."""

    def change(given):
        x = given["x"].copy()
        known = np.arange(ROWS) % 100 < 100 * share
        x[known, 2] = 4.0 * given["y"][known] - 2.0
        return x

    return change


@pytest.mark.parametrize("seed", range(5))
def test_noise_passes_without_a_warning(seed):
    """Random features pass every check."""
    result = audit(seed=seed)

    assert result.passed
    assert result.warnings == ()
    assert [check.name for check in result.checks] == ["schema", "registry", "auc", "constant", "shuffled_labels"]
    assert FEATURES.registry_sha256 in result.checks[1].detail


def test_a_feature_that_knows_the_label_fails():
    """The failure has the feature, the symbol, its AUC and the limit."""
    failures = audit(x=knowing(1.0)).failures

    assert [(f.feature, f.symbol, f.got) for f in failures] == [
        ("return_3", symbol, "1.0000") for symbol in ("BTCUSDT", "ETHUSDT")
    ]
    assert all("0.9" in failure.expected for failure in failures)


@pytest.mark.parametrize(("share", "fails"), [(1.0, True), (0.55, False)])
def test_a_suspect_that_reads_an_input_names_its_times(share, fails):
    """Whether it fails or is a warning: the input, the column that says since when it was known, and its file."""
    specs = [FeatureSpec("return_3", "input_value", {"input": "funding"}) if s.name == "return_3" else s
             for s in FEATURES.features]  # fmt: skip
    result = audit(features=replace(FEATURES, features=tuple(specs), inputs=(FUNDING,)), x=knowing(share))

    messages = [str(failure) for failure in result.failures] if fails else result.warnings
    assert len(messages) == 2
    assert all("the input funding, known since published_at of funding.parquet" in message for message in messages)
    assert all("features show return_3 --at" in failure.hint for failure in result.failures)


def test_a_feature_that_knows_the_label_turned_round_fails():
    """An AUC of 0 fails like one of 1."""
    assert not audit(x=lambda given: -knowing(1.0)(given)).passed


def test_a_feature_that_knows_half_of_the_labels_warns():
    """An AUC between the two limits is a warning."""
    result = audit(x=knowing(0.5))

    assert result.passed
    assert all(any(f"return_3 of {symbol}" in text for text in result.warnings) for symbol in ("BTCUSDT", "ETHUSDT"))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_feature_that_knows_the_labels_of_one_symbol_is_found(sign):
    """Of ten symbols, one has an AUC of 0.85 or 0.15 and the pool 0.54: only this symbol is a suspect."""

    def change(given):
        x = given["x"].copy()
        known = (np.arange(ROWS) % 10 == 7) & (np.arange(ROWS) // 10 % 20 < 9)
        x[known, 2] = sign * (8.0 * given["y"][known] - 4.0)
        return x

    symbols = tuple(f"S{number}USDT" for number in range(10))
    result = audit(x=change, symbols=lambda _: symbols, symbol_ix=lambda _: (np.arange(ROWS) % 10).astype(np.int16))

    (suspect,) = result.suspects
    assert (suspect.feature, suspect.symbol) == ("return_3", "S7USDT")
    assert suspect.auc == pytest.approx(0.85, abs=0.05)
    (warning,) = result.warnings
    assert all(part in warning for part in ("return_3 of S7USDT", f"{suspect.auc:.4f}", "0.7"))
    assert result.passed
    assert next(check for check in result.checks if check.name == "auc").case == "return_3 of S7USDT"


@pytest.mark.parametrize(("rows", "horizon"), [(12, 1), (30, 1), (60, 1), (2_000, 60), (4_000, 240)])
def test_few_rows_of_a_symbol_raise_no_alarm(rows, horizon):
    """With few rows, or few labels that do not overlap, chance makes no feature suspect."""
    features = replace(FEATURES, label=replace(FEATURES.label, horizon_bars=horizon))
    slow = np.repeat(np.arange(ROWS // horizon + 1), horizon)[:ROWS]
    for seed in range(8):
        rng = np.random.default_rng(seed)
        values, up = rng.standard_normal((slow.max() + 1, 5)), rng.integers(0, 2, slow.max() + 1)
        few = (np.arange(ROWS) >= rows).astype(np.int16)
        result = audit(
            features=features,
            seed=seed,
            x=lambda _, v=values: v[slow].astype(np.float32),
            y=lambda _, up=up: up[slow].astype(np.uint8),
            symbol_ix=lambda _, few=few: few,
        )
        assert result.suspects == ()


def test_a_symbol_with_too_few_rows_is_named():
    """A warning names symbols that cannot be judged."""
    result = audit(symbol_ix=lambda _: (np.arange(ROWS) >= 20).astype(np.int16))

    assert [text for text in result.warnings if "BTCUSDT (20)" in text] == list(result.warnings)


@pytest.mark.parametrize(("value", "ones", "zeros"), [(0.5, 40, 40), (0.7, 30, 60), (0.9, 200, 100)])
def test_the_deviation_of_an_auc_is_that_of_many_draws(value, ones, zeros):
    """It is within a seventh of the deviation of simulated normal scores of that AUC."""
    rng = np.random.default_rng(0)
    apart = 2**0.5 * NormalDist().inv_cdf(value)
    y = np.repeat(np.array([0, 1], dtype=np.uint8), [zeros, ones])
    drawn = [auc(rng.standard_normal(y.size) + apart * y, y) for _ in range(2_000)]

    assert auc_deviation(value, ones, zeros) == pytest.approx(np.std(drawn), rel=1 / 7)


def test_a_constant_column_warns_by_name():
    """A constant column is a warning, no failure."""

    def change(given):
        x = given["x"].copy()
        x[:, 1] = 7.0
        return x

    result = audit(x=change)

    assert result.passed
    assert any("return_2" in warning for warning in result.warnings)


BROKEN = {
    "names reordered": ({"names": lambda g: g["names"][::-1]}, "return_5"),
    "a name missing": ({"names": lambda g: g["names"][:-1], "x": lambda g: g["x"][:, :-1]}, "columns"),
    "a column more": ({"x": lambda g: np.hstack([g["x"], g["x"][:, :1]])}, "matrix"),
    "other type": ({"x": lambda g: g["x"].astype(np.float64)}, "matrix"),
    "times missing": ({"ts_ms": lambda g: g["ts_ms"][:-1]}, "matrix"),
    "times turned round": ({"ts_ms": lambda g: g["ts_ms"][::-1]}, "rows"),
    "labels of 2": ({"y": lambda g: g["y"] * 2}, "label"),
    "one class": ({"y": lambda g: g["y"] * 0}, "label"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_matrix_that_is_not_the_registrys_fails(name):
    """Wrong order, count, type, labels or times fail, with the name of the array or column."""
    changes, feature = BROKEN[name]
    result = audit(**changes)

    assert not result.passed
    assert feature in {failure.feature for failure in result.failures}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_with_its_time(value):
    """The failure has column, time and value."""

    def change(given):
        x = given["x"].copy()
        x[1234, 3] = value
        return x

    (failure,) = audit(x=change).failures

    assert (failure.feature, failure.time_ms, failure.got) == ("return_4", 617 * 60_000, str(np.float32(value)))


def test_a_registry_that_does_not_survive_its_stored_form_fails():
    """A registry that its JSON form reads back differently would be another model after loading."""
    spec = FeatureSpec("return_5", "log_return", {"bars": 5})
    # As if the default of `lag` had not been filled in.
    object.__setattr__(spec, "params", {"bars": 5})
    odd = replace(FEATURES, features=(*FEATURES.features[:-1], spec))

    assert any(failure.feature == "registry" for failure in audit(features=odd).failures)


@pytest.mark.parametrize("rows", [5, 150])
def test_too_few_rows_fail(rows):
    """Too few rows for the check of shuffled labels are a failure."""
    cut = {name: lambda g, name=name: g[name][:rows] for name in ("x", "y", "ts_ms", "symbol_ix")}

    assert not audit(**cut).passed


def test_the_shuffled_canary_stays_at_chance():
    """With autocorrelated rows and rare labels, the check of shuffled labels passes for many seeds."""
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        walk = np.cumsum(rng.standard_normal((ROWS, 5)), axis=0).astype(np.float32)
        result = audit(seed=seed, x=lambda _g, walk=walk: walk, y=lambda _g, rng=rng: rng.random(ROWS) < 0.1)
        assert not any(failure.feature == "matrix" for failure in result.failures)
        worst = max(worst, result.checks[-1].worst)

    assert worst < 0.1


def test_a_scorer_that_knows_shuffled_labels_is_caught(monkeypatch):
    """A model that predicts shuffled labels fails."""
    monkeypatch.setattr(
        "mltrain.guards.feature_audit._fit_and_score", lambda _x, labels, rows, _seed: labels[rows:].astype(float)
    )

    assert any("shuffled labels" in failure.why for failure in audit().failures)
