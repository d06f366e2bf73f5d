"""The whole job with an input: training, plan, audit, retraining, evaluation, backtest and walk forward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.policies import Policy
from mltrain.candles.frame import times_ms
from mltrain.candles.input_tables import InputSpec
from mltrain.errors import InputError
from mltrain.features.registry import parse_registry
from mltrain.pipeline.backtest import BacktestOptions, run_backtest
from mltrain.pipeline.evaluate import evaluate
from mltrain.pipeline.plan import plan_training
from mltrain.pipeline.prepare import audit_snapshot, read_candles, read_inputs
from mltrain.pipeline.retrain import retrain_version
from mltrain.pipeline.walk_forward import WalkForward
from mltrain.progress import Silent
from mltrain.serving.model import open_model
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.stored_inputs import load_inputs
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import MINUTE_MS, parse_time
from support.workshop import NOW_MS, REGISTRY, Workshop

FLOW = InputSpec("flow", "flow.parquet", "net", "seen", 30 * MINUTE_MS)
INPUTS = b"""inputs:
  - {name: flow, file: flow.parquet, column: net, known_at: seen, max_age: 30m}
features:
  - {name: flow_now, op: input_value, params: {input: flow}}
  - {name: flow_score, op: input_zscore, params: {input: flow, bars: 20}}
"""
FEATURES = parse_registry((REGISTRY % b"1m").replace(b"features:\n", INPUTS), where="mine.yml")
EARLIER, LATER = "2025-10-14T00:00:00Z", "2025-10-15T12:00:00Z"


def take(workshop, end, *, inputs=True, days=4):
    """Take a snapshot with an input that is known some seconds after each fifth minute, with a pause of two hours."""
    spec = SourceSpec(name="sim", signal="strong", end_ms=parse_time(end))
    request = SnapshotRequest(symbols=("BTCUSDT",), days=days, end_ms=spec.end_ms)
    loaded = load_inputs([FLOW], workshop.folder) if inputs else ()
    return take_snapshot(
        workshop.folder, open_source(spec), spec, request, now_ms=NOW_MS, progress=Silent(), inputs=loaded
    ).snapshot


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a workshop with two snapshots that store an input, and a version trained on the earlier one; read-only."""
    workshop = Workshop(tmp_path_factory.mktemp("own") / "data")
    workshop.folder.mkdir()
    seen = np.arange(parse_time("2025-10-09T00:00:00Z"), parse_time(LATER), 5 * MINUTE_MS) + 7_000
    seen = seen[(seen < parse_time("2025-10-11T00:00:00Z")) | (seen > parse_time("2025-10-11T02:00:00Z"))]
    values = np.random.default_rng(0).normal(0, 1, seen.size)
    frame = pl.DataFrame({"seen": pl.Series(seen).cast(pl.Datetime("ms", "UTC")), "net": values})
    frame.write_parquet(workshop.folder / FLOW.file)
    snapshot = take(workshop, EARLIER)
    request = replace(workshop.request(snapshot), feature_set=FEATURES)
    return workshop, snapshot, request, workshop.train_request(request)


def test_a_training_uses_the_rows_with_values_alone(made):
    """Where the input is missing or too old, candles become no rows; the plan counts the same."""
    workshop, snapshot, request, report = made
    samples = report.training.data.samples
    joined = read_candles(snapshot, Silent(), FEATURES)["BTCUSDT"]
    known = joined.filter(pl.col("flow").is_not_null())
    pause = [parse_time(f"2025-10-11T{hour}Z") for hour in ("00:30", "02:00")]

    assert samples.names == FEATURES.names
    assert not ((samples.ts_ms > pause[0]) & (samples.ts_ms < pause[1])).any()
    assert set(samples.ts_ms.tolist()) < set(times_ms(known).tolist())
    assert plan_training(request, progress=Silent()).rows == samples.y.size
    assert b"flow.parquet" in (report.folder / "features.yml").read_bytes()
    assert open_model(workshop.store.open_version(report.version)).feature_set == FEATURES


def test_the_same_bytes_again(made):
    """A version is made again from its snapshot and card, inputs included."""
    workshop, _, _, report = made

    assert retrain_version(workshop.store.open_version(report.version), workshop.folder, progress=Silent()).same


def test_a_batch_is_served_as_in_training(made):
    """Served from candles and the table of the input, each row of the training has its probability."""
    workshop, snapshot, _, report = made
    samples = report.training.data.samples
    model = open_model(workshop.store.open_version(report.version))

    served = model.predict_candles(
        {"BTCUSDT": snapshot.candles("BTCUSDT")}, inputs=read_inputs(snapshot, FEATURES), rows="all"
    ).filter(pl.col("p").is_not_null())

    rows = np.searchsorted(times_ms(served), samples.ts_ms)
    assert np.array_equal(times_ms(served)[rows], samples.ts_ms)
    assert np.array_equal(served["p"].to_numpy()[rows], model.score(samples.x)[1])


def test_later_candles_are_evaluated_and_traded(made):
    """Also by a walk forward; without the input the later snapshot is refused with the command that stores it."""
    workshop, _, _, report = made
    later, version = take(workshop, LATER, days=6), workshop.store.open_version(report.version)
    options = BacktestOptions(policy=Policy("sign"), costs=Costs())

    found = evaluate(version, later, workshop.store, now_ms=NOW_MS, progress=Silent())
    traded, walked = (
        run_backtest(version, later, workshop.store, chosen, now_ms=NOW_MS, progress=Silent()).result
        for chosen in (options, replace(options, walk_forward=WalkForward(1)))
    )

    assert {drift.name for drift in found.drift} == set(FEATURES.names)
    assert traded.bars == walked.bars > 1_000
    assert traded.refused == walked.refused == 0
    assert len(walked.steps) > 1
    with pytest.raises(InputError, match=r"has no input flow .net of flow.parquet.") as caught:
        evaluate(version, take(workshop, LATER, inputs=False, days=6), workshop.store, now_ms=NOW_MS, progress=Silent())
    assert "mltrain snapshot --features" in caught.value.hint


def test_an_audit_reads_the_input(made):
    """All guards pass, as every value is taken by its known-at time."""
    _, snapshot, request, _ = made

    results = audit_snapshot(snapshot, FEATURES, request.config, progress=Silent())

    assert [failure for result in results for failure in result.failures] == []


def test_an_input_without_any_value_is_refused(made):
    """With a max_age shorter than the time until the next close, no candle has one."""
    _, snapshot, _, _ = made
    brief = replace(FEATURES, inputs=(replace(FLOW, max_age_ms=1_000),))

    with pytest.raises(InputError, match="flow has no value at any candle of BTCUSDT: none was known at their close"):
        read_candles(snapshot, Silent(), brief)
