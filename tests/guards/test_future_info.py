"""future_info: leaks fail with an explanation, features without a leak pass, and the evidence is complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError, LeakageError
from mltrain.features.computation import compute_features
from mltrain.features.registry import load_registry
from mltrain.guards.evidence import check_guards
from mltrain.guards.future_info import future_info
from mltrain.training.label import make_labels

CLOSE = pl.col("close")


def run(features, candles, *, points=9, seed=0, **more):
    def labels(frame):
        return make_labels(frame, features.label, 60_000)

    return future_info(features, candles, labels=labels, seed=seed, points=points, **more)


NEXT_CLOSE = (CLOSE.shift(-1) / CLOSE, 2)


def test_failures_explain_the_leak(plant, candles):
    """A feature of the next close fails prefix, poison and lookback, each with its explanation."""
    result = run(plant(*NEXT_CLOSE), candles)

    whys = {failure.why for failure in result.failures}
    assert any("later candles are taken away" in why for why in whys)
    assert any("later candles are changed" in why for why in whys)
    assert any("the last 2 bars" in why for why in whys)


def test_a_short_lookback_is_no_look_ahead(plant, candles):
    """A feature that reads further back than it declares does not fail for reading the future."""
    result = run(plant(CLOSE.rolling_mean(20) / CLOSE, 10), candles)

    assert not any("later" in failure.why for failure in result.failures)


def test_reading_another_symbol_is_caught(plant, candles):
    """A computation that reads an undeclared symbol fails, with another explanation than look-ahead."""

    def leaky(features, symbol, given):
        frame = compute_features(features, symbol, given)
        other = next((s for s in given if s != symbol), None)
        if "honest_return" not in frame.columns or other is None:
            return frame
        foreign = given[other].select("ts", (pl.col("close") / pl.col("open")).log().cast(pl.Float32).alias("foreign"))
        joined = frame.join(foreign, on="ts", how="left", maintain_order="left")
        return joined.with_columns(pl.col("honest_return") + pl.col("foreign").fill_null(0)).drop("foreign")

    result = run(plant(CLOSE / CLOSE.shift(1), 2), candles, compute=leaky)

    assert {failure.feature for failure in result.failures} == {"honest_return"}
    assert {failure.why for failure in result.failures} == {
        "the value changes with symbols that the feature does not name"
    }


def test_spanning_a_gap_is_caught(plant, candles):
    """A computation that does not stop at gaps fails, at the first row that must not have a value."""

    def careless(features, symbol, given):
        frame = given[symbol]
        exprs = [spec.window().expr.cast(pl.Float32).alias(spec.name) for spec in features.features]
        return frame.select("ts", *exprs)

    result = run(plant(CLOSE / CLOSE.shift(1), 2), candles, compute=careless)

    spanning = [failure for failure in result.failures if "is missing" in failure.why]
    assert {(f.feature, f.symbol) for f in spanning} >= {("honest_return", "BTCUSDT"), ("suspect", "ETHUSDT")}


def test_scaling_by_the_whole_sample_is_caught(honest, candles):
    """A computation that normalises each column by the whole sample fails for every feature and symbol."""

    def scaled(features, symbol, given):
        frame = compute_features(features, symbol, given)
        return frame.with_columns(pl.col(name) - pl.col(name).mean() for name in features.names)

    few = replace(honest, features=honest.features[:3])
    result = run(few, candles, compute=scaled)

    assert {(f.feature, f.symbol) for f in result.failures} == {(n, s) for n in few.names for s in candles}


def test_an_audit_that_catches_nothing_says_so(honest, candles, monkeypatch):
    """If comparisons find no difference at all, the canary escapes, and the guard fails."""
    monkeypatch.setattr("mltrain.guards.audited_symbol.differ", lambda one, _other: np.zeros(one.shape, dtype=bool))
    result = run(replace(honest, features=honest.features[:2]), candles)

    assert not result.passed
    assert {failure.feature for failure in result.failures} == {"planted_future"}
    assert all("the audit is broken" in failure.why for failure in result.failures)


ROLLING_OPS = {
    "a running mean": (CLOSE.rolling_mean(20) / CLOSE, 20),
    "a running sum of volumes": (pl.col("volume").rolling_sum(60) / pl.col("volume").rolling_sum(30), 60),
    "a running correlation": (
        pl.rolling_corr(CLOSE.log().diff(), pl.col("volume"), window_size=40, min_samples=40),
        41,
    ),
}


@pytest.mark.parametrize("name", ROLLING_OPS)
def test_a_running_sum_is_no_leak(name, plant, candles):
    """Ops whose last bits depend on earlier rows, as in the rolling sums of Polars, pass."""
    assert run(plant(*ROLLING_OPS[name]), candles).failures == ()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("registry", ["features.yml", "features-ohlcv.yml"])
def test_packaged_registries_pass(registry, seed, candles):
    """No packaged feature fails, every check has compared values, and nothing deviates."""
    features = load_registry(Path(registry), interval="1m")
    result = run(features, candles, seed=seed, points=5)

    assert result.failures == ()
    assert result.warnings == ()
    assert {check.name for check in result.checks} == {
        *("prefix", "poison", "lookback", "sweep", "isolation", "time_shift", "gap", "alignment", "label"),
        "canary",
    }
    assert all(check.points for check in result.checks)
    assert {check.case for check in result.checks} == {""}
    assert {check.name: check.worst for check in result.checks} == dict.fromkeys(
        (check.name for check in result.checks), 0.0
    )


def test_same_seed_same_evidence(honest, candles):
    """Two runs with one seed have equal evidence, except for the run time."""
    few = replace(honest, features=honest.features[::7])

    assert replace(run(few, candles), seconds=0) == replace(run(few, candles), seconds=0)


def test_a_feature_without_values_is_a_warning(plant, candles):
    """A feature whose lookback is longer than the history passes, with a warning that names it."""
    result = run(plant(CLOSE.shift(1400), 1401), {"ETHUSDT": candles["ETHUSDT"][:900]})

    assert result.passed
    assert any("suspect" in warning for warning in result.warnings)


def test_one_candle_cannot_be_audited(honest, candles):
    """A single candle is an InputError: there is no future to take away."""
    with pytest.raises(InputError, match="single candle"):
        run(honest, {"BTCUSDT": candles["BTCUSDT"][:1]})


@pytest.mark.parametrize("rows", [2, 3, 40])
def test_few_candles_can(honest, candles, rows):
    """A market shorter than the lookback passes."""
    assert run(honest, {s: f[:rows] for s, f in candles.items()}).failures == ()


def test_the_error_names_every_failure(plant, candles):
    """`check_guards` raises one LeakageError with feature, symbol, time and both values of each failure."""
    result = run(plant(*NEXT_CLOSE), candles)

    with pytest.raises(LeakageError) as caught:
        check_guards([result])

    lines = caught.value.message.splitlines()
    assert len(lines) == len(result.failures)
    for line, failure in zip(lines, result.failures, strict=True):
        assert all(part in line for part in ("suspect", failure.symbol, failure.expected, failure.got, "T", "Z"))
    check_guards([replace(result, passed=True, failures=())])


@pytest.mark.real_data
def test_real_candles_pass(real_data):
    """The packaged registries pass on real candles, with and without gaps."""
    frames = {s: pl.read_parquet(real_data / "spot_1m" / f"{s}.parquet")[:8_000] for s in ("BTCUSDT", "ETHUSDT")}
    gapped = frames["BTCUSDT"].filter(pl.int_range(pl.len()) % 997 > 5)

    assert run(load_registry(interval="1m"), {"BTCUSDT": gapped}, points=5).failures == ()
    assert run(load_registry(Path("features-ohlcv.yml"), interval="1m"), frames, points=5).failures == ()
