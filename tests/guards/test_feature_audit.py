"""The matrix is the registry's, and no column knows the label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.features.registry import FeatureSet, FeatureSpec, LabelSpec
from mltrain.guards import feature_audit
from mltrain.guards.audit import auc

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
    }
    given |= {name: change(given) for name, change in changes.items()}
    return feature_audit(features, **given, seed=seed, auc_warn=0.7, auc_fail=0.9)


def knowing(share):
    """Return a change of x after which its third column tells the label in a share of the rows."""

    def change(given):
        x = given["x"].copy()
        known = np.arange(ROWS) % 100 < 100 * share
        x[known, 2] = 4.0 * given["y"][known] - 2.0
        return x

    return change


@pytest.mark.parametrize("seed", range(5))
def test_noise_passes_without_a_warning(seed):
    """Features that know nothing pass every check."""
    result = audit(seed=seed)

    assert result.passed
    assert result.warnings == ()
    assert [check.name for check in result.checks] == ["schema", "registry", "auc", "constant", "shuffled_labels"]
    assert FEATURES.registry_sha256 in result.checks[1].detail


def test_a_feature_that_knows_the_label_fails():
    """Its name, its AUC and the limit are in the failure."""
    (failure,) = audit(x=knowing(1.0)).failures

    assert (failure.feature, failure.got) == ("return_3", "1.0000")
    assert "0.9" in failure.expected


def test_a_feature_that_knows_the_label_turned_round_fails():
    """An AUC of 0 tells as much as one of 1."""
    assert not audit(x=lambda given: -knowing(1.0)(given)).passed


def test_a_feature_that_knows_half_of_the_labels_warns():
    """Between the two limits the run goes on, and the card will say so."""
    result = audit(x=knowing(0.5))

    assert result.passed
    assert any("return_3" in warning for warning in result.warnings)


def test_a_constant_column_warns_by_name():
    """It is of no use, and of no harm."""

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
    """Order, count, type, labels and order of time are each named."""
    changes, feature = BROKEN[name]
    result = audit(**changes)

    assert not result.passed
    assert feature in {failure.feature for failure in result.failures}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_with_its_time(value):
    """Column, time and value are named."""

    def change(given):
        x = given["x"].copy()
        x[1234, 3] = value
        return x

    (failure,) = audit(x=change).failures

    assert (failure.feature, failure.time_ms, failure.got) == ("return_4", 617 * 60_000, str(np.float32(value)))


def test_a_registry_that_does_not_survive_its_stored_form_fails():
    """A parameter that JSON reads back as another value would be another model after loading."""
    odd = replace(FEATURES, features=(*FEATURES.features[:-1], FeatureSpec("return_5", "log_return", {"bars": 5})))

    assert any(failure.feature == "registry" for failure in audit(features=odd).failures)


@pytest.mark.parametrize("rows", [5, 150])
def test_too_few_rows_fail(rows):
    """A canary that cannot be judged has not passed."""
    cut = {name: lambda g, name=name: g[name][:rows] for name in ("x", "y", "ts_ms")}

    assert not audit(**cut).passed


def test_the_shuffled_canary_stays_at_chance():
    """On strongly related rows and skewed classes the canary is within its bounds, over many seeds."""
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        walk = np.cumsum(rng.standard_normal((ROWS, 5)), axis=0).astype(np.float32)
        result = audit(seed=seed, x=lambda _g, walk=walk: walk, y=lambda _g, rng=rng: rng.random(ROWS) < 0.1)
        assert not any(failure.feature == "matrix" for failure in result.failures)
        worst = max(worst, result.checks[-1].worst)

    assert worst < 0.1


def test_a_scorer_that_knows_shuffled_labels_is_caught(monkeypatch):
    """Where the way from rows to score leaks, shuffling does not help, and the canary fails."""
    monkeypatch.setattr("mltrain.guards.audit._scores", lambda _x, labels, cut, _seed: labels[cut:].astype(float))

    assert any("shuffled labels" in failure.why for failure in audit().failures)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60))
def test_auc_is_the_share_of_pairs_in_order(rows):
    """It equals the count over all pairs, ties as halves."""
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    y = np.array([up for _, up in rows], dtype=np.uint8)
    ones, zeros = scores[y == 1], scores[y == 0]
    if not ones.size or not zeros.size:
        return
    pairs = (ones[:, None] > zeros).sum() + 0.5 * (ones[:, None] == zeros).sum()

    assert auc(scores, y) == pytest.approx(pairs / (ones.size * zeros.size), abs=1e-12)
