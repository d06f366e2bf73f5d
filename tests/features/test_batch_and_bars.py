"""Training and serving agree: a batch over a history with gaps equals each bar computed separately."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.frame import times_ms
from mltrain.features.computation import compute_features
from mltrain.features.input_join import join_inputs
from mltrain.features.newest import NewestFeatures
from mltrain.features.ops.catalogue import OPS
from mltrain.features.random_features import draw_feature
from mltrain.features.registry import load_registry
from mltrain.features.spec import FeatureSet, LabelSpec
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange
from support.own_columns import FUNDING, MOOD, make_inputs

STEP_MS = 60_000
BARS = 5_000
LABEL = LabelSpec(kind="direction", horizon_bars=1, ties="drop")
BUILT_IN = tuple(sorted(OPS))
INPUT_OPS = tuple(op for op in BUILT_IN if op.startswith("input_"))
INPUTS = ("funding", "mood", "leader_funding")


@pytest.fixture(scope="module")
def candles():
    """Return 5,000 bars of two symbols with different gaps, short and long."""
    span = TimeRange(CLOCK_MS - BARS * STEP_MS, CLOCK_MS)
    rng = np.random.default_rng(0)
    market = {}
    for symbol in ("BTCUSDT", "ETHUSDT"):
        frame = SimSource(seed=5).candles(symbol, span)
        there = np.ones(frame.height, dtype=bool)
        for start in rng.integers(0, frame.height, 12):
            there[start : start + int(rng.choice([1, 1, 2, 30]))] = False
        market[symbol] = frame.filter(pl.Series(there))
    registry = load_registry(interval="1m")
    return join_inputs(replace(registry, inputs=(FUNDING, MOOD)), market, make_inputs(market, seed=0))


def bar_by_bar(features, symbol, candles, rows):
    """Compute each row as a server does, from the candles of the registry's lookback only."""
    times = {s: times_ms(frame) for s, frame in candles.items()}
    values = []
    for row in rows:
        end_ms = int(times[symbol][row])
        first_ms = end_ms - (features.lookback_bars - 1) * STEP_MS
        window = {
            s: frame[slice(*np.searchsorted(times[s], [first_ms, end_ms + 1]).tolist())] for s, frame in candles.items()
        }
        values.append(compute_features(features, symbol, window)[-1])
    return pl.concat(values)


def test_five_thousand_bars_as_served(candles):
    """Each bar that serving computes from its window equals the batch, bit for bit, NaN where the batch has null."""
    whole = load_registry(interval="1m")
    few = [s for s, w in zip(whole.features, whole.windows(), strict=True) if w.lookback_bars <= 61][::3]
    own = [
        draw_feature(op, np.random.default_rng(1), name=op, leader="BTCUSDT", max_bars=20, interval="1m", inputs=INPUTS)
        for op in INPUT_OPS
    ]
    features = FeatureSet(1, "1m", LABEL, (*few, *own), (FUNDING, MOOD))
    frame, times = candles["ETHUSDT"], times_ms(candles["ETHUSDT"])
    firsts = np.searchsorted(times, times - (features.lookback_bars - 1) * STEP_MS).tolist()
    windows = {f"BAR{row}": frame[first : row + 1] for row, first in enumerate(firsts)}

    served = NewestFeatures(features).compute(list(windows), windows | {"BTCUSDT": candles["BTCUSDT"]})

    batch = compute_features(features, "ETHUSDT", candles).select(pl.col(features.names).fill_null(float("nan")))
    assert np.array_equal(served, batch.to_numpy(), equal_nan=True)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_the_default_registry_at_every_edge(symbol, candles):
    """All features are equal around each gap and at every 97th bar, bit for bit."""
    features = load_registry(interval="1m")
    batch = compute_features(features, symbol, candles)
    edges = [np.flatnonzero(np.diff(times_ms(frame)) > STEP_MS) for frame in candles.values()]
    around = np.concatenate(edges)[:, None] + np.array([0, 1, 2, 240, 241])
    rows = np.unique(np.clip(np.concatenate([around.ravel(), np.arange(0, batch.height, 97)]), 0, batch.height - 1))

    assert bar_by_bar(features, symbol, candles, rows.tolist()).equals(batch[rows.tolist()])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    ops=st.lists(st.sampled_from(BUILT_IN), min_size=1, max_size=8),
    rows=st.lists(st.integers(0, BARS - 500), min_size=4, max_size=12, unique=True),
    max_bars=st.sampled_from([5, 60, 400, 1_440]),
)
def test_registries_at_random(candles, seed, ops, rows, max_bars):
    """Random features are equal in the batch and computed from their window, bit for bit."""
    rng = np.random.default_rng(seed)
    drawn = [
        draw_feature(op, rng, name=f"x_{i}", leader="BTCUSDT", max_bars=max_bars, interval="1m", inputs=INPUTS)
        for i, op in enumerate(ops)
    ]
    features = FeatureSet(1, "1m", LABEL, tuple(spec for spec in drawn if spec is not None), (FUNDING, MOOD))
    if not features.features:
        return
    batch = compute_features(features, "ETHUSDT", candles)

    assert bar_by_bar(features, "ETHUSDT", candles, rows).equals(batch[rows])


def test_every_op_can_be_drawn():
    """The parameters are within its ranges, it has a leader if it reads one, and a seed gives one feature."""
    for op in BUILT_IN:
        one, other = (
            draw_feature(
                op, np.random.default_rng(3), name="x", leader="BTCUSDT", max_bars=100, interval="1m", inputs=INPUTS
            )
            for _ in range(2)
        )

        assert one is not None
        assert one == other
        assert one.window().lookback_bars <= 300
