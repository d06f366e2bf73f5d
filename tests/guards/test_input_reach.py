"""A join is caught that is not the rule, by the name of the input, and so is a feature that reads inputs ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.candles.input_tables import InputTable
from mltrain.errors import InputError
from mltrain.features.input_join import join_inputs
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.guards.audited_symbol import Canary
from mltrain.guards.evidence import Findings
from mltrain.guards.future_info import future_info
from mltrain.guards.input_reach import DETAILS, check_inputs_reach
from mltrain.times import MINUTE_MS
from mltrain.training.label import make_labels
from support.input_markets import JOINS
from support.own_columns import FUNDING, MOOD, known, make_inputs

LABEL = LabelSpec(kind="direction", horizon_bars=1, ties="drop")
VALUES = tuple(FeatureSpec(name, "input_value", {"input": name}) for name in ("funding", "mood"))
FEATURES = FeatureSet(1, "1m", LABEL, VALUES, (FUNDING, MOOD))


@pytest.fixture(scope="module")
def inputs(candles):
    """Return values of an input per symbol, with ties, pauses and old ones, and of one for all symbols."""
    return make_inputs(candles, 0)


def audit(candles, inputs, join=join_inputs, *, joined=None, features=FEATURES, seed=0):
    """Check a join; return failures and the canary."""
    findings, canary = Findings("future_info"), Canary({}, {})
    joined = join(features, candles, inputs) if joined is None else joined
    rng = np.random.default_rng(seed)
    check_inputs_reach(findings, features, joined, inputs, join=join, canary=canary, rng=rng)
    canary.judge(findings)
    return findings.build_result(DETAILS), canary


@pytest.mark.parametrize("seed", range(3))
def test_the_join_passes(candles, inputs, seed):
    """Every row is compared, at cut points too, and the planted input is caught every time."""
    result, canary = audit(candles, inputs, seed=seed)

    assert result.failures == ()
    rows = sum(frame.height for frame in candles.values())
    assert result.checks[0].points == 2 * 2 * rows
    assert min(check.points for check in result.checks) > 1_000
    assert canary.seen == canary.caught
    assert canary.seen["input_poison"] > 10


@pytest.mark.parametrize("name", JOINS)
def test_a_wrong_join_is_caught(candles, inputs, name):
    """The failure names the input, with symbol, time, both values and what was known when."""
    result, _ = audit(candles, inputs, JOINS[name])

    failures = [failure for failure in result.failures if failure.feature != "planted_future"]
    assert {failure.feature for failure in failures} <= {"funding", "mood"}
    assert "funding" in {failure.feature for failure in failures}
    rule = next(failure for failure in failures if "known by the close" in failure.why)
    assert rule.expected != rule.got
    assert rule.time_ms is not None


AHEAD = ["nearest row", "next row", "next row in time", "close of the next bar", "interpolated", "filled backwards"]


@pytest.mark.parametrize("name", [*AHEAD, "normalised by the whole sample", "smoothed over three rows"])
def test_a_join_that_looks_ahead_is_caught_without_knowing_the_rule(candles, inputs, name):
    """Taking away or changing what was known later shows it as well, whatever the right value is."""
    result, _ = audit(candles, inputs, JOINS[name])

    assert any(f.feature == "funding" and "what was known later is" in f.why for f in result.failures)


@pytest.mark.parametrize("name", ["values of the first symbol", "values of any symbol"])
def test_a_join_of_another_symbol_is_caught_without_knowing_the_rule(candles, inputs, name):
    """Other symbols' values must not matter."""
    result, _ = audit(candles, inputs, JOINS[name])

    assert any(f.feature == "funding" and "values of other symbols" in f.why for f in result.failures)


def test_inputs_do_not_mix(candles, inputs):
    """A join that takes one input's values where the other has none is caught."""

    def mixed(feature_set, frames, tables):
        joined = join_inputs(feature_set, frames, tables)
        return {s: f.with_columns(pl.col("funding").fill_null(pl.col("mood"))) for s, f in joined.items()}

    result, _ = audit(candles, inputs, mixed)

    assert any(f.feature == "funding" and "values of other inputs" in f.why for f in result.failures)


def test_columns_that_another_join_made_are_caught(candles, inputs):
    """The columns that the training gets are compared, not only what the join would give."""
    joined = dict(join_inputs(FEATURES, candles, inputs))
    joined["ETHUSDT"] = joined["ETHUSDT"].with_columns(pl.col("funding").shift(-1))

    result, _ = audit(candles, inputs, joined=joined)

    assert {(f.feature, f.symbol) for f in result.failures} == {("funding", "ETHUSDT")}


def test_a_look_up_by_time_is_caught(candles, inputs):
    """A join that reads values from elsewhere by their time fails, and shows that poison cannot see it."""
    table = {
        symbol: frame.select("ts", "funding", "mood")
        for symbol, frame in join_inputs(FEATURES, candles, inputs).items()
    }

    def look_up(_, frames, __):
        return {s: f.join(table[s], on="ts", how="left", maintain_order="left") for s, f in frames.items()}

    result, canary = audit(candles, inputs, look_up)

    assert any("moved by 28 years" in failure.why for failure in result.failures)
    assert canary.caught["input_poison"] < canary.seen["input_poison"]
    assert any(f.feature == "planted_future" and "audit is broken" in f.why for f in result.failures)


def test_an_input_without_values_is_no_fault(candles):
    """Empty tables, a symbol without values, values before and after all candles."""
    first, last = candles["BTCUSDT"]["ts"].dt.timestamp("ms").to_numpy()[[0, -1]]
    tables = {
        "funding": InputTable(by_symbol={"BTCUSDT": known([first - MINUTE_MS, last + MINUTE_MS * 9], [1.0, 2.0])}),
        "mood": InputTable(),
    }
    result, _ = audit(candles, tables)

    assert result.failures == ()
    with pytest.raises(InputError, match="no values of the input mood to audit"):
        audit(candles, {"funding": tables["funding"]}, joined=candles)


def whole(features, candles, inputs, *, points=4):
    """Run the whole guard."""
    joined = join_inputs(features, candles, inputs)
    return future_info(
        features, joined, labels=lambda f: make_labels(f, LABEL, MINUTE_MS), seed=0, points=points, inputs=inputs
    )


def test_features_of_inputs_pass_the_whole_audit(candles, inputs):
    """Value, change and score of an input, and a leader's: only bars with a value count; all checks compare some."""
    specs = (
        *VALUES,
        FeatureSpec("change", "input_change", {"input": "funding", "bars": 5}),
        FeatureSpec("score", "input_zscore", {"input": "mood", "bars": 30}),
        FeatureSpec("led", "input_change", {"input": "leader_funding", "bars": 3}, "BTCUSDT"),
        FeatureSpec("return", "log_return", {"bars": 5}),
    )
    result = whole(replace(FEATURES, features=specs), candles, inputs)

    assert result.failures == ()
    assert not [warning for warning in result.warnings if "complete lookback" in warning]
    assert all(check.points for check in result.checks)
    assert [check.name for check in result.checks][-4:] == [*DETAILS, "input_alignment"]


AHEAD_OPS = {
    "the next value of an input": (pl.col("funding").shift(-1), 1),
    "an input over the whole sample": (pl.col("funding") - pl.col("funding").mean(), 1),
    "an input further back than declared": (pl.col("funding").shift(40), 5),
}


@pytest.mark.parametrize("name", AHEAD_OPS)
def test_an_op_that_misreads_an_input_is_caught(candles, inputs, name, monkeypatch):
    """The joined columns are falsified as candles are."""
    monkeypatch.setitem(OPS, "planted", lambda: Window(*AHEAD_OPS[name]))
    result = whole(replace(FEATURES, features=(VALUES[1], FeatureSpec("suspect", "planted"))), candles, inputs)

    assert {failure.feature for failure in result.failures} == {"suspect"}


def test_a_guard_without_inputs_has_its_old_checks(candles, honest):
    """Registries without inputs keep the evidence of their cards."""
    features = replace(honest, features=honest.features[:1])
    result = future_info(features, candles, labels=lambda f: make_labels(f, LABEL, MINUTE_MS), seed=0, points=1)

    assert [check.name for check in result.checks if check.name.startswith("input")] == []
