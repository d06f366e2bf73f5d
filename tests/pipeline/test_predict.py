"""Serving from the command line: the right model, from the right source, on the right candles."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import polars as pl
import pytest

from mltrain.errors import InputError, UsageError
from mltrain.pipeline.predict import (
    choose_market,
    find_model_source,
    find_refusal,
    open_followed_model,
    predict_newest,
    simulate_bench_candles,
    verify_version,
)
from mltrain.pipeline.prepare import read_candles
from mltrain.progress import Silent
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import parse_time


@pytest.fixture(scope="module")
def served(trained):
    workshop, report = trained
    model, _ = open_followed_model(workshop.store, None, allow_no_go=False)
    return workshop, report, model


def test_the_newest_candle_gets_the_probability_of_the_batch(served):
    """Fetched only with its lookback, the newest candle has the score of the whole batch."""
    _, report, model = served
    newest = predict_newest(model, open_source(SourceSpec(name="sim", signal="strong")))
    batch = model.predict_candles(read_candles(report.training.data.snapshot, Silent()), rows="all").tail(1)

    assert newest.equals(batch)
    assert newest["ts"].dt.timestamp("ms").to_list() == [CLOCK_MS - 60_000]


def test_the_source_is_that_of_the_models_snapshot(served):
    """Without an option, candles come from the source of the training's snapshot."""
    workshop, _, model = served

    assert find_model_source(model, workshop.folder) == SourceSpec(name="sim", signal="strong")


@pytest.mark.parametrize(
    ("source", "given", "expected"),
    [
        ({"name": "binance"}, None, "spot"),
        ({"name": "binance"}, "spot", "spot"),
        ({"name": "binance"}, "usdm", UsageError),
        ({"name": "binance", "market": "usdm"}, None, "usdm"),
        ({"name": "archive", "market": "usdm"}, "spot", UsageError),
        ({"name": "sim", "market": "usdm"}, "usdm", "usdm"),
        ({"name": "files"}, None, None),
        ({"name": "files"}, "usdm", "usdm"),
        ({}, "usdm", "usdm"),
    ],
)
def test_the_market_is_that_of_the_training(source, given, expected):
    """A model of futures never scores candles of the spot market, nor the other way round."""
    model = SimpleNamespace(version="2025-10-15", card={"lineage": {"source": source}})
    if expected is not UsageError:
        assert choose_market(model, given) == expected
        return
    with pytest.raises(UsageError, match="2025-10-15 was trained on the market"):
        choose_market(model, given)


def test_a_snapshot_of_the_other_market_is_not_the_models(served):
    """A snapshot with the id of the training's, but of another market, does not name the source."""
    workshop, _, model = served
    source = {**model.card["lineage"]["source"], "market": "usdm"}
    futures = SimpleNamespace(
        version="2025-10-15", card={**model.card, "lineage": {**model.card["lineage"], "source": source}}
    )
    with pytest.raises(InputError, match=r"trained on the market usdm, and the snapshot .* is one of spot"):
        find_model_source(futures, workshop.folder)
    with pytest.raises(UsageError, match="trained on the market spot, not on usdm"):
        find_model_source(model, workshop.folder, market="usdm")


def test_without_the_snapshot_the_source_must_be_given(served, tmp_path):
    """If the card's snapshot no longer exists, the error says so, with a remedy."""
    _, _, model = served
    with pytest.raises(InputError) as caught:
        find_model_source(model, tmp_path)

    assert "--source" in caught.value.hint


def test_an_outage_is_refused_not_guessed(served):
    """A gap in the lookback gives a reason in place of a probability."""
    _, report, model = served
    gap = report.training.data.snapshot.facts[0].gaps[0]
    just_after = gap.to_ms + 5 * 60_000
    row = predict_newest(model, open_source(SourceSpec(name="sim", signal="strong", end_ms=just_after))).row(
        0, named=True
    )

    assert row["p"] is None
    assert row["refused"] in {"hole", "too-few-bars"}


def test_an_unpromoted_version_is_served_only_on_request(workshop):
    """A NO-GO version, never promoted, is refused with the option that serves it."""
    report = workshop.train(workshop.snapshot(signal="none"))
    with pytest.raises(InputError) as caught:
        open_followed_model(workshop.store, None, allow_no_go=False)
    model, warning = open_followed_model(workshop.store, None, allow_no_go=True)

    assert "never promoted" in caught.value.message
    assert "--allow-no-go" in caught.value.hint
    assert model.version == report.version
    assert "nothing was promoted" in warning


def test_bench_candles_can_be_scored(served):
    """The simulated candles have enough bars without a gap for the model."""
    _, _, model = served
    candles = simulate_bench_candles(model)

    assert set(candles) == {"BTCUSDT"}
    assert model.predict_candles(candles)["refused"].to_list() == [None]


@pytest.mark.parametrize("name", ["lgbm.pkl", "model_card.json", "holdout.parquet", "features.yml", "trials.parquet"])
def test_every_changed_file_is_found(trained, tmp_path, name):
    """One flipped byte in any file of a version is found, and verify names the file."""
    workshop, report = trained
    copy = type(workshop)(shutil.copytree(workshop.folder, tmp_path / "data", symlinks=True))
    path = copy.store.models / report.version / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    (problem,) = verify_version(copy.store.open_version(report.version))
    assert name in problem
    assert verify_version(workshop.store.open_version(report.version)) == ()


def test_a_late_candle_is_scored_until_it_is_stale(served):
    """A newest candle one bar late is scored; two bars late it is refused as stale."""
    _, _, model = served

    class Late:
        def __init__(self, bars):
            self.inner = open_source(SourceSpec(name="sim", signal="strong"))
            self.bars = bars

        def check_symbols(self, symbols):
            self.inner.check_symbols(symbols)

        def clock_ms(self, _):
            return CLOCK_MS + self.bars * 60_000

        def candles_of(self, windows):
            return self.inner.candles_of(windows)

    assert predict_newest(model, Late(1))["refused"].to_list() == [None]
    assert predict_newest(model, Late(2))["refused"].to_list() == ["stale"]
    assert parse_time("2025-10-15T12:00:00Z") == CLOCK_MS
    assert predict_newest(model, Late(0)).schema["p"] == pl.Float64


def test_the_time_of_judging_can_be_given(served):
    """A replay has no later candle; a time after the source's clock makes its newest one stale."""
    _, report, model = served
    source = open_source(SourceSpec(name="sim", signal="strong"))
    back_ms = CLOCK_MS - 90 * 60_000
    batch = model.predict_candles(read_candles(report.training.data.snapshot, Silent()), rows="all")
    then = batch.filter(pl.col("ts").dt.timestamp("ms") == back_ms - 60_000)

    assert predict_newest(model, source, now_ms=back_ms + 30_000).equals(then)
    assert predict_newest(model, source, now_ms=CLOCK_MS + 120_000)["refused"].to_list() == ["stale"]
    assert predict_newest(model, source, now_ms=CLOCK_MS + 119_999)["refused"].to_list() == [None]
    assert predict_newest(model, source, now_ms=200_000_000_000)["refused"].to_list() == ["too-few-bars"]


def table_of(*rows):
    """Return predictions of symbols with these refusals, one minute apart."""
    ts = [CLOCK_MS - (len(rows) - i) * 60_000 for i in range(len(rows))]
    symbols, reasons = zip(*rows, strict=True) if rows else ((), ())
    columns = {"ts": ts, "symbol": symbols, "refused": reasons}
    schema = {"ts": pl.Datetime("ms", "UTC"), "symbol": pl.String, "refused": pl.String}
    return pl.DataFrame({k: list(v) for k, v in columns.items()}, schema=schema)


@pytest.mark.parametrize(
    ("rows", "batch", "fails"),
    [
        ((), False, set()),
        ((("A", None), ("B", None)), False, set()),
        ((("A", None), ("B", "stale")), False, {"any"}),
        ((("A", "hole"), ("B", "stale")), False, {"any", "all"}),
        ((("A", "too-few-bars"), ("B", None)), False, {"any"}),
        ((("A", "too-few-bars"), ("A", None)), True, set()),
        ((("A", "too-few-bars"), ("A", "hole"), ("A", None)), True, {"any"}),
        ((("A", "too-few-bars"), ("B", "too-few-bars"), ("B", None)), True, {"any"}),
        ((("A", "too-few-bars"), ("A", "too-few-bars")), True, {"any", "all"}),
    ],
)
def test_which_refusals_are_a_failure(rows, batch, fails):
    """All, any or never; the first candles of a file, which lack a lookback, are no failure."""
    table = table_of(*rows)

    assert {rule for rule in ("all", "any", "never") if find_refusal(table, rule, batch=batch)} == fails


def test_a_refusal_says_which_why_and_when():
    """Each reason is named once, with its symbols and the times used for staleness."""
    rows = table_of(("A", "stale"), ("B", "stale"), ("C", "hole"))
    found = find_refusal(rows, "all", now_ms=CLOCK_MS)

    assert found.exit_code == 3
    assert found.message == (
        "every row was refused: stale (A, B): a newer candle should have arrived by now (the newest is from "
        "2025-10-15T11:58:00Z, judged at 2025-10-15T12:00:00Z); hole (C): a candle is missing inside the lookback"
    )
    assert "--as-of" in found.hint
    assert find_refusal(table_of(("A", None), ("B", "hole")), "any").message.startswith("1 of 2 rows were refused")
