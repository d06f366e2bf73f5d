"""The contract of every model: whatever it is made of, the same calls do the same things."""

from __future__ import annotations

import shutil

import numpy as np
import polars as pl
import pytest

import mltrain as mt
from mltrain.pipeline.watch import Watch
from mltrain.progress import Silent
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import HOUR_MS, MINUTE_MS, TimeRange
from support.torch import is_lacking_torch

SYMBOLS = ["BTCUSDT", "ETHUSDT"]
REGISTRY = {
    "version": 1,
    "label": {"kind": "direction", "horizon": 1, "ties": "drop"},
    "features": [
        {"name": "return_1", "op": "log_return", "params": {"bars": 1}},
        {"name": "quarter", "op": "clock", "params": {"period": "quarter", "wave": "saw"}},
    ],
}
SPACE = {
    "learning_rate": {"low": 0.01, "high": 0.01, "scale": "log", "default": 0.01},
    "hidden": {"low": 8, "high": 8, "scale": "linear", "default": 8},
}
CONFIG = {
    "search": {"max_rounds": 40},
    "folds": {"count": 2},
    "bench": {"samples": 10},
    "bootstrap": {"draws": 200},
    "guards": {"points": 3},
    "tft": {"window": 6, "heads": 2, "epochs": 2, "step_windows": 128, "search": {"space": SPACE}},
}
FAMILIES = [
    "lgbm",
    pytest.param(
        "tft", marks=[pytest.mark.tft, pytest.mark.skipif(is_lacking_torch(), reason="torch is not installed")]
    ),
]


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    """A data folder with two versions of a family, the second one live, trained until an hour before the clock."""
    data = tmp_path_factory.mktemp(request.param) / "data"
    mt.snapshot(source="sim", sim_signal="strong", symbols=SYMBOLS, days=3, end=CLOCK_MS - 3 * HOUR_MS, data_dir=data)
    for seed in (1, 2):
        made = mt.train(
            model=request.param,
            trials=1,
            seed=seed,
            features=REGISTRY,
            config=CONFIG,
            workers=1,
            data_dir=data,
            progress=Silent(),
        )
        mt.promote(made, force=True, other_meaning=True, data_dir=data, slot=request.param, why="a test")
    mt.snapshot(source="sim", sim_signal="strong", symbols=SYMBOLS, days=1, data_dir=data)
    return data, request.param


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the data folder, and the family."""
    return shutil.copytree(trained[0], tmp_path / "data", symlinks=True), trained[1]


@pytest.fixture(scope="module")
def model(trained):
    """The live version's model."""
    return mt.load(trained[0] / "models" / f"best_{trained[1]}", clock=None)


@pytest.fixture(scope="module")
def candles():
    """The newest hundred candles of each symbol."""
    source = SimSource(signal="strong")
    window = TimeRange(CLOCK_MS - 100 * MINUTE_MS, CLOCK_MS)
    return {symbol: source.candles(symbol, window) for symbol in SYMBOLS}


def test_a_stream_a_row_and_a_batch_agree(model, candles):
    """To the last bit."""
    batch = model.predict_candles(candles, rows="all")
    newest = model.predict_candles({symbol: frame.tail(model.lookback_bars) for symbol, frame in candles.items()})
    stream = model.stream()
    stream.warm_up({symbol: frame.head(99) for symbol, frame in candles.items()})
    for symbol in SYMBOLS:
        expected = batch.filter(pl.col("symbol") == symbol)["p"][-1]
        assert newest.filter(pl.col("symbol") == symbol)["p"].item() == expected
        assert stream.push(symbol, candles[symbol].tail(1).to_dicts()[0]) == expected
    assert batch["p"].null_count() == 2 * (model.lookback_bars - 1)


def test_a_watch_answers_the_newest_candle(model):
    """With the version's name."""
    rows = Watch(model, SimSource(signal="strong"), Silent()).poll().rows
    assert rows["refused"].to_list() == [None, None]
    assert set(rows["version"]) == {model.version}


def test_it_is_measured_judged_and_drawn(trained):
    """Bench, evaluation, backtest, verification and report."""
    data, family = trained
    ref, options = f"best:{family}", {"data_dir": data, "slot": family, "progress": Silent()}
    assert mt.bench(ref, samples=10, **options).latency.candles.p50 > 0
    assert mt.evaluate(ref, **options).version
    assert mt.backtest(ref, **options).backtest
    assert mt.verify_model(ref, retrain=True, **options).sound
    assert b"</html>" in mt.card_report(ref, **options).path.read_bytes()
    assert mt.card_validate(data / "models" / f"best_{family}" / "model_card.json").valid


def test_it_is_halted_rolled_back_and_pruned(folder):
    """In its own slot; a model that follows the pointer follows."""
    data, family = folder
    first, second = sorted(row.version for row in mt.list_models(data_dir=data).models)
    model = mt.load(data / "models" / f"best_{family}", clock=None)
    x = np.zeros((1, 2), np.float32)
    assert model.version == second
    mt.halt("a test", data_dir=data)
    for ask in (lambda: model.score(x), lambda: model.score_bars("BTCUSDT", np.zeros(1, np.int64), x, np.array([0]))):
        with pytest.raises(mt.RefusedError, match="a test"):
            ask()
    mt.resume("a test", data_dir=data)
    mt.rollback(previous=True, data_dir=data, slot=family)
    assert model.version == first
    mt.models_prune(keep=1, data_dir=data, slot=family)
    assert first in {row.version for row in mt.list_models(data_dir=data).models}


def test_versions_of_a_slot_are_of_one_family(trained):
    """A version goes to the slot that is named after its model; another kind is refused there."""
    data, family = trained
    listed = mt.list_models(data_dir=data).models
    assert {row.slot for row in listed} == {family}
    names = {"lgbm": "lgbm.pkl", "tft": "tft.safetensors"}
    assert all((data / "models" / row.version / names[family]).is_file() for row in listed)
    other = {"lgbm": "tft", "tft": "lgbm"}[family]
    with pytest.raises(mt.UsageError, match=f"the slot {family} has versions of another kind of model"):
        mt.train(model=other, trials=1, features=REGISTRY, config=CONFIG, workers=1, data_dir=data, slot=family)
