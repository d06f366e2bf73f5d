"""A market with gaps, and registries with planted ops, for the tests of this folder."""

from __future__ import annotations

import pytest

from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import load_registry
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from support.markets import simulate, without


@pytest.fixture(scope="session")
def candles():
    """Return two days of two symbols with different gaps."""
    market = simulate("BTCUSDT", "ETHUSDT")
    return {
        "BTCUSDT": without(market["BTCUSDT"], (300, 310), (1500, 1500)),
        "ETHUSDT": without(market["ETHUSDT"], (700, 700), (702, 740)),
    }


@pytest.fixture(scope="session")
def honest():
    """Return the packaged default registry."""
    return load_registry(interval="1m")


@pytest.fixture
def plant(monkeypatch):
    """Return a function that makes a registry of one planted op and two built-in ones."""

    def make(expr, lookback_bars, *, leader=None, horizon_bars=1):
        monkeypatch.setitem(OPS, "planted", lambda: Window(expr, lookback_bars))
        return FeatureSet(
            version=1,
            interval="1m",
            label=LabelSpec(kind="direction", horizon_bars=horizon_bars, ties="drop"),
            features=(
                FeatureSpec("honest_return", "log_return", {"bars": 5, "lag": 0}),
                FeatureSpec("suspect", "planted", {}, leader),
                FeatureSpec("honest_volatility", "realised_volatility", {"bars": 30}),
            ),
        )

    return make
