"""One small real model for the tests of this folder: two symbols of the simulated exchange, one leading the other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mltrain.artifact.bundle import Bundle
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.features.registry import parse_registry
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import TimeRange
from mltrain.training.booster import normalise_model_text
from mltrain.training.calibration import Calibrator, Knots
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.samples import build_samples

# 2025-10-15T12:00:00Z
END_MS = 1_760_529_600_000
BARS = 1_000
SYMBOLS = ("BTCUSDT", "ETHUSDT")
REGISTRY = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: return_5, op: log_return, params: {bars: 5}}
  - {name: volatility_30, op: realised_volatility, params: {bars: 30}}
  - {name: volume_z_20, op: zscore, params: {column: volume, bars: 20}}
  - {name: leader_return_3, op: leader_return, params: {bars: 3}, leader: BTCUSDT}
"""


@pytest.fixture(scope="session")
def feature_set():
    """Return five features, one of them a leader's; the longest lookback is that of volatility_30."""
    return parse_registry(REGISTRY, where="registry")


@pytest.fixture(scope="session")
def candles():
    """Return the newest candles of the exchange, up to its clock, without a gap."""
    source = open_source(SourceSpec(name="sim", seed=3, signal="strong", end_ms=END_MS))
    window = TimeRange(END_MS - BARS * 60_000, END_MS)
    found = {symbol: source.candles(symbol, window) for symbol in SYMBOLS}
    assert all(frame.height == BARS for frame in found.values())
    return found


@pytest.fixture(scope="session")
def samples(feature_set, candles):
    """Return the training rows of those candles."""
    return build_samples(feature_set, candles)[0]


@pytest.fixture(scope="session")
def model_text(samples):
    """Return a booster of eight small trees."""
    params = {
        "objective": "binary",
        "verbosity": -1,
        "num_threads": 1,
        "num_leaves": 7,
        "deterministic": True,
        "force_col_wise": True,
    }
    lightgbm = import_lightgbm()
    data = lightgbm.Dataset(samples.x, samples.y, feature_name=list(samples.names))
    return normalise_model_text(lightgbm.train(params, data, 8).model_to_string())


@pytest.fixture(scope="session")
def calibrator():
    """Return a map other than the identity, so that a missing calibration is noticed."""
    return Calibrator("sigmoid", Knots((0.1, 0.5, 0.9), (0.2, 0.45, 0.8)))


@pytest.fixture(scope="session")
def bundle(model_text, calibrator, feature_set):
    """Return the complete model."""
    return Bundle(model_text, calibrator, feature_set, SYMBOLS, ops_sha256())


@pytest.fixture(scope="session")
def without():
    """Return a function that removes candles from a frame, counted back from the newest, 0."""

    def remove(frame, *back):
        return frame[[i for i in range(frame.height) if frame.height - 1 - i not in back]]

    return remove


@pytest.fixture(scope="session")
def card():
    """Return a valid card."""
    return (Path(__file__).parents[1] / "data" / "example_card.json").read_bytes()


@pytest.fixture(scope="session")
def published(tmp_path_factory, bundle, card):
    """Return, for each verdict, a data folder with one version of the small model; read only."""
    folders = {}
    for verdict in ("GO", "NO-GO"):
        folders[verdict] = tmp_path_factory.mktemp("published") / "data"
        publish_small(Store(folders[verdict]), bundle, card, verdict)
    return folders


def publish_small(store, model, card, verdict):
    files = {"lgbm.pkl": model.to_bytes(), "model_card.json": card}
    return publish_version(store, files, verdict=verdict, date="2025-10-15", now_ms=END_MS)


@pytest.fixture
def store(tmp_path):
    """Return the store of an empty data folder."""
    return Store(tmp_path / "data")


@pytest.fixture
def publish(store, published, bundle, card):
    """Return a function that publishes a version of the small model."""
    own_card = card

    def publish_one(*, verdict="GO", model=bundle, card=card):
        if model is bundle and card is own_card and not store.data_dir.exists():
            # A copy needs no sync.
            shutil.copytree(published[verdict], store.data_dir)
            return store.open_version("latest")
        return publish_small(store, model, card, verdict)

    return publish_one


@pytest.fixture
def promote(store):
    """Return a function that makes a version live."""

    def promote_one(version, *, force=False):
        promote_version(store, version.name, why="a test", by="pytest", now_ms=END_MS, force=force)

    return promote_one
