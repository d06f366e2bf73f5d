"""A model that reads windows of bars: the same score alone, in a batch and in a stream, and the same refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.artifact.sequence_bundle import SequenceBundle
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.serving.model import load
from mltrain.store.publishing import publish_version
from mltrain.tft.architecture import Architecture
from mltrain.tft.variables import Scaler
from support.small_model import END_MS, SYMBOLS

DATA = Path(__file__).parents[1] / "data"
WINDOW = 12
# That of volatility_30, and of the window.
LOOKBACK = 31 + WINDOW - 1


@pytest.fixture(scope="module")
def network(samples, calibrator, feature_set):
    """A network that nobody has trained."""
    architecture = Architecture(window=WINDOW, features=5, symbols=2, hidden=8, heads=2)
    rng = np.random.default_rng(5)
    parameters = {
        name: (name.endswith(".gain") + rng.normal(0, 0.4, shape)).astype(np.float32)
        for name, shape in architecture.shapes().items()
    }
    scaler = Scaler.fit(samples.x, np.arange(samples.y.size))
    return SequenceBundle(architecture, parameters, scaler, calibrator, feature_set, SYMBOLS, ops_sha256())


@pytest.fixture
def live(store, network, card, promote):
    """The pointer to the live version, which is that network."""
    files = {**network.to_files(), "model_card.json": card}
    promote(publish_version(store, files, verdict="GO", date="2025-10-15", now_ms=END_MS))
    return store.models / "best_lgbm"


@pytest.fixture
def model(live):
    """The model of the live version."""
    return load(live, clock=None)


def test_one_row_has_the_bits_of_a_batch_and_of_a_stream(model, candles):
    """At every one of the last bars, and whatever was read before it."""
    assert model.lookback_bars == LOOKBACK
    batch = model.predict_candles(candles, rows="all")
    stream = model.stream()
    stream.warm_up({symbol: frame.head(frame.height - 30) for symbol, frame in candles.items()})
    for back in range(29, -1, -1):
        cut = {symbol: frame.head(frame.height - back) for symbol, frame in candles.items()}
        alone = model.predict_candles({symbol: frame.tail(LOOKBACK) for symbol, frame in cut.items()})
        for symbol in SYMBOLS:
            row = cut[symbol].tail(1)
            expected = batch.filter((pl.col("symbol") == symbol) & (pl.col("ts") == row["ts"][0])).row(0, named=True)
            assert alone.filter(pl.col("symbol") == symbol).row(0, named=True) == expected
            assert stream.push(symbol, row.to_dicts()[0]) == expected["p"]
    assert batch["raw"].n_unique() > 1_900


def test_bars_before_the_lookback_change_nothing_and_all_of_it_counts(model, candles):
    """A shorter history is refused."""
    frames = {symbol: frame.tail(LOOKBACK) for symbol, frame in candles.items()}
    assert model.predict_candles(frames)["p"].equals(model.predict_candles(candles)["p"])
    short = model.predict_candles({symbol: frame.tail(LOOKBACK - 1) for symbol, frame in candles.items()})
    assert short["refused"].to_list() == ["too-few-bars"] * 2
    first = model.predict_candles(candles, rows="all").filter(pl.col("symbol") == "BTCUSDT")
    assert first["refused"].to_list()[: LOOKBACK + 1] == ["too-few-bars"] * (LOOKBACK - 1) + [None] * 2


def test_a_gap_refuses_a_whole_lookback(model, candles, without):
    """In a batch and in a stream."""
    gapped = {**candles, "ETHUSDT": without(candles["ETHUSDT"], LOOKBACK - 1)}
    assert model.predict_candles(gapped)["refused"].to_list() == [None, "hole"]
    healed = {**candles, "ETHUSDT": without(candles["ETHUSDT"], LOOKBACK)}
    assert model.predict_candles(healed)["refused"].to_list() == [None, None]
    stream = model.stream(["ETHUSDT"])
    stream.warm_up(gapped)
    with pytest.raises(RefusedError) as refused:
        stream.predict("ETHUSDT")
    assert refused.value.reason == "hole"


def test_a_market_shifted_by_a_week_has_the_same_scores(model, candles):
    """The network knows the time of the week alone; by an hour, they differ."""

    def shifted(**by):
        return model.predict_candles(
            {s: f.with_columns(pl.col("ts").dt.offset_by(by["by"])) for s, f in candles.items()}
        )

    assert shifted(by="7d")["p"].equals(shifted(by="0d")["p"])
    assert not shifted(by="1h")["p"].equals(shifted(by="0d")["p"])


def test_features_alone_are_not_enough(model, samples, candles):
    """Each way to pass them says what to do; contributions are of trees."""
    for call in (
        lambda: model.predict_one(samples.x[0]),
        lambda: model.predict_proba(samples.x[:3]),
        lambda: model.score(samples.x[:3]),
    ):
        with pytest.raises(UsageError, match="this model reads the last 12 bars"):
            call()
    with pytest.raises(UsageError, match="of trees alone"):
        model.explain(candles)


def test_it_is_served_without_torch(live, candles, tmp_path):
    """In another process."""
    path = tmp_path / "candles.parquet"
    pl.concat([frame.with_columns(symbol=pl.lit(symbol)) for symbol, frame in candles.items()]).write_parquet(path)
    program = (
        "import sys, polars, mltrain\n"
        f"model = mltrain.load({str(live)!r}, clock=None)\n"
        f"rows = model.predict_candles(polars.read_parquet({str(path)!r}))\n"
        "print(rows['p'].null_count(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("probes", 3), 0.25, "does not give the scores"),
        (("architecture", "window"), 13, "does not give the scores"),
        (("architecture", "hidden"), 9, "must be a multiple of heads"),
        (("architecture", "features"), 6, "must have 6 different values"),
        (("scaler", "scale", 0), -1.0, "scale"),
        (("symbols", 1), "BTCUSDT", "symbols"),
        (("hashes", "weights"), "0" * 64, "does not match its hash"),
        (("interval",), "5m", "is not that of its registry"),
        (("format",), 2, "newer"),
        (("more",), 1, "unknown key"),
    ],
)
def test_a_changed_file_is_refused(network, place, value, message):
    """Whatever was changed in it."""
    files = network.to_files()
    document = json.loads(files["tft.json"])
    *path, last = place
    inner = document
    for step in path:
        inner = inner[step]
    inner[last] = value
    changed = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"
    with pytest.raises(InputError, match=message):
        SequenceBundle.from_files(changed, files["tft.safetensors"], where="a folder")


@pytest.mark.parametrize("name", ["tft.json", "tft.safetensors"])
def test_any_changed_byte_on_the_disk_is_refused(live, name):
    """Wherever it is, a cut end and an empty file included."""
    folder = live.resolve()
    path, data = folder / name, (folder / name).read_bytes()
    rng = np.random.default_rng(7)
    path.chmod(0o644)
    for position in rng.integers(0, len(data), 100).tolist():
        changed = bytearray(data)
        changed[position] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        with pytest.raises(InputError):
            load(live, clock=None)
    for size in (0, 1, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(InputError):
            load(live, clock=None)
    path.write_bytes(data)
    assert load(live, clock=None).window == WINDOW


def test_files_of_the_first_release_still_load():
    """They were written by it, and hold the scores that it gave."""
    folder = DATA / "tft"
    bundle = SequenceBundle.from_files(
        (folder / "tft.json").read_bytes(), (folder / "tft.safetensors").read_bytes(), where=str(folder)
    )
    assert (bundle.architecture.window, bundle.symbols) == (5, SYMBOLS)
    assert bundle.to_files()["tft.safetensors"] == (folder / "tft.safetensors").read_bytes()
