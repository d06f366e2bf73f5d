"""A symbol without a training row is not among the model's symbols."""

from __future__ import annotations

import pytest

from mltrain.errors import InputError
from mltrain.features.registry import parse_registry
from mltrain.pipeline.evaluate import evaluate
from mltrain.pipeline.plan import plan_training
from mltrain.pipeline.prepare import audit_snapshot, cut_samples, read_candles, split_samples
from mltrain.pipeline.retrain import retrain_version
from mltrain.progress import Silent
from mltrain.serving.model import load
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, TimeRange
from mltrain.training.samples import build_samples
from support.workshop import NOW_MS, Workshop

DAYS = 4
WARNING = "ETHUSDT, SOLUSDT: no training row, so not among the model's symbols; predict will refuse them"
#: Candles at the end of the window: a whole one; one inside the holdout alone; fewer than a lookback.
BARS = {"BTCUSDT": DAYS * 1440, "ETHUSDT": 300, "SOLUSDT": 8}
LED = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: leader_return_1, op: leader_return, params: {bars: 1}, leader: SOLUSDT}
"""


def take(folder, bars, *, end_ms=CLOCK_MS, days=DAYS):
    candles = folder / f"candles{end_ms}"
    candles.mkdir()
    market = SimSource(signal="strong", end_ms=end_ms)
    for name, count in bars.items():
        frame = market.candles(name, TimeRange(end_ms - days * DAY_MS, end_ms)).tail(count)
        frame.write_parquet(candles / f"{name}.parquet")
    spec = SourceSpec("files", folder=candles)
    request = SnapshotRequest(tuple(bars), days)
    data = folder / "data"
    return take_snapshot(data, open_source(spec), spec, request, now_ms=NOW_MS, progress=Silent()).snapshot


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Return a data folder with a training on three symbols, two of which have no training row."""
    folder = tmp_path_factory.mktemp("uneven")
    workshop = Workshop(folder / "data")
    snapshot = take(folder, BARS)
    return folder, workshop, snapshot, workshop.train(snapshot)


def test_samples_card_and_model_agree_on_the_symbols(uneven):
    """The others are named once, in the card as well."""
    _, _, _, report = uneven
    model = load(report.folder, allow_no_go=True)

    assert report.training.data.samples.symbols == ("BTCUSDT",)
    assert model.symbols == ("BTCUSDT",)
    assert model.card["train"]["symbols"] == ["BTCUSDT"]
    assert [w for w in model.card["data_quality"]["warnings"] if "training row" in w] == [WARNING]


def test_predict_refuses_a_symbol_that_it_has_not_learned(uneven):
    """It is refused as any other unknown symbol."""
    _, _, snapshot, report = uneven
    model = load(report.folder, allow_no_go=True, clock=None)
    rows = model.predict_candles(read_candles(snapshot, Silent()))

    assert dict(zip(rows["symbol"], rows["refused"], strict=True)) == {
        "BTCUSDT": None,
        "ETHUSDT": "unknown-symbol",
        "SOLUSDT": "unknown-symbol",
    }


def test_every_way_to_a_training_leaves_them_out(uneven):
    """The plan, the audit and the retraining leave them out with the same warning."""
    _, workshop, snapshot, report = uneven
    request, progress = workshop.request(snapshot), Silent()
    plan = plan_training(request, progress=progress)
    audit_snapshot(snapshot, request.feature_set, request.config, progress=progress)
    again = retrain_version(workshop.store.open_version(report.version), workshop.folder, progress=progress)

    assert plan.rows == report.training.data.samples.y.size
    assert progress.warnings == [WARNING] * 3
    assert again.problems == ()


def test_only_the_models_symbols_are_evaluated(uneven):
    """Symbols without a training row are left out, though they have enough rows by then."""
    folder, workshop, _, report = uneven
    later = take(folder, dict.fromkeys(BARS, 1440), end_ms=CLOCK_MS + DAY_MS, days=1)
    version = workshop.store.open_version(report.version)
    found = evaluate(version, later, workshop.store, now_ms=NOW_MS, progress=Silent())

    assert [score.symbol for score in found.scores.symbols] == ["BTCUSDT"]


def test_blocks_are_cut_without_the_symbols_left_out(uneven):
    """Rows of a symbol that is left out do not shift the holdout."""
    folder = uneven[0] / "longer"
    folder.mkdir()
    bars = {"BTCUSDT": DAYS * 1440, "ETHUSDT": 300}
    snapshot = take(folder, bars)
    candles = read_candles(snapshot, Silent())
    # Ends a day before the other one begins.
    candles["BTCUSDT"] = candles["BTCUSDT"].head(3 * 1440)
    request = uneven[1].request(snapshot)
    samples, _ = build_samples(request.feature_set, candles)
    alone, _ = build_samples(request.feature_set, {"BTCUSDT": candles["BTCUSDT"]})

    kept, split = cut_samples(samples, request.feature_set, request.config, Silent())

    assert kept.symbols == ("BTCUSDT",)
    assert kept.x.tobytes() == alone.x.tobytes()
    assert split == split_samples(alone, request.feature_set, request.config)


def test_a_leader_that_is_no_symbol_of_the_model_still_leads(uneven):
    """Its candles are read in training and in serving."""
    _, _, snapshot, _ = uneven
    feature_set = parse_registry(LED, where="registry")
    candles = read_candles(snapshot, Silent())
    flat = candles["BTCUSDT"].with_columns(open="close", high="close", low="close")
    flat = flat.with_columns(**{name: flat["close"].first() for name in ("open", "high", "low", "close")})
    samples, quality = build_samples(feature_set, {"BTCUSDT": candles["BTCUSDT"], "SOLUSDT": flat})
    kept, _ = cut_samples(samples, feature_set, uneven[1].request(snapshot).config, Silent())

    assert [q.rows > 0 for q in quality] == [True, False]
    assert kept.symbols == ("BTCUSDT",)
    assert kept.y.size == quality[0].rows


def test_without_any_row_there_is_nothing_to_train(uneven):
    """Candles without a training row are refused."""
    _, workshop, snapshot, _ = uneven
    candles = {"SOLUSDT": read_candles(snapshot, Silent())["SOLUSDT"]}

    with pytest.raises(InputError, match="no row of SOLUSDT has every feature and a label"):
        build_samples(workshop.request(snapshot).feature_set, candles)
