from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.newest import NewestFeatures
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import load_registry
from mltrain.features.spec import FeatureSpec
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import TimeRange
from support.own_columns import FUNDING, MOOD, with_inputs

END_MS = 1_760_529_600_000
SYMBOLS = ("BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture(scope="module")
def feature_set():
    registry = load_registry(Path("features.yml"), interval="1m")
    own = (
        FeatureSpec("funding", "input_value", {"input": "funding"}),
        FeatureSpec("funding_change", "input_change", {"input": "funding", "bars": 30}),
        FeatureSpec("mood_score", "input_zscore", {"input": "mood", "bars": 200}),
        FeatureSpec("led", "input_zscore", {"input": "leader_funding", "bars": 20}, "BTCUSDT"),
    )
    return replace(registry, features=(*own[:2], *registry.features, *own[2:]), inputs=(FUNDING, MOOD))


def make_candles():
    source = open_source(SourceSpec(name="sim", seed=5, end_ms=END_MS))
    window = TimeRange(END_MS - 700 * 60_000, END_MS)
    return {symbol: source.candles(symbol, window) for symbol in SYMBOLS if symbol in source.symbols()}


@pytest.fixture(scope="module")
def candles(feature_set):
    return with_inputs(feature_set, make_candles())


def table_row(feature_set, symbol, candles):
    table = compute_features(feature_set, symbol, candles).tail(1)
    return table.select(pl.all().exclude("ts").fill_null(float("nan"))).to_numpy()[0]


def test_a_newest_row_is_the_tables_last(feature_set, candles):
    """It has the bits of the table's last row: alone, stacked, with a warm-up, a gap, a late leader or null inputs."""
    newest, bars = NewestFeatures(feature_set), feature_set.lookback_bars
    gapped = {name: frame[[i for i in range(frame.height) if i != 650]] for name, frame in candles.items()}
    late = {name: frame.head(-1) if name == "BTCUSDT" else frame for name, frame in candles.items()}
    short = {name: frame.tail(100) for name, frame in candles.items()}
    cuts = [{name: frame.head(-k).tail(bars) for name, frame in candles.items()} for k in range(1, 250, 10)]

    assert len(candles) > 2
    assert {cut[name]["funding"][-1] is None for cut in cuts for name in candles} == {True, False}
    for given in (candles, gapped, late, short, *cuts):
        expected = np.stack([table_row(feature_set, symbol, given) for symbol in given])
        for found in (
            newest.compute(list(given), given),
            np.concatenate([newest.compute([symbol], given) for symbol in given]),
        ):
            assert np.array_equal(found, expected, equal_nan=True)


def test_other_symbols_change_nothing_where_their_times_join(feature_set, candles):
    """Stacked symbols do not share bars, even if one's candles end where the next one's begin."""
    symbols = [name for name in candles if name != "BTCUSDT"][:2]
    given = {
        symbols[0]: candles[symbols[0]].head(400),
        symbols[1]: candles[symbols[1]].slice(400, 100),
        "BTCUSDT": candles["BTCUSDT"],
    }
    found = NewestFeatures(feature_set).compute(symbols, given)

    assert np.isnan(found[1]).any()
    assert np.array_equal(found[1], table_row(feature_set, symbols[1], given), equal_nan=True)


def test_a_column_that_only_polars_reads_must_not_be_empty(feature_set, candles, monkeypatch):
    """A user op without a formula raises the error of the table, although the formulas have all that they read."""
    monkeypatch.setitem(OPS, "paid", lambda: Window(pl.col("quote_volume") / pl.col("close"), 1))
    monkeypatch.setitem(OPS, "led_paid", lambda: Window(pl.col("leader_quote_volume") / pl.col("leader_close"), 1))
    symbol, leader = "ETHUSDT", "BTCUSDT"
    base = [FeatureSpec("r", "log_return", {"bars": 3}), FeatureSpec("led", "leader_return", {"bars": 3}, leader)]
    for lacking, own in ((symbol, FeatureSpec("own", "paid")), (leader, FeatureSpec("own", "led_paid", leader=leader))):
        features = replace(feature_set, features=(*base, own), inputs=())
        given = candles | {lacking: candles[lacking].with_columns(quote_volume=pl.lit(None, pl.Float64))}

        with pytest.raises(InputError, match=f"{lacking} lacks quote_volume, for own") as expected:
            compute_features(features, symbol, given)
        with pytest.raises(InputError) as found:
            NewestFeatures(features).compute([symbol], given)
        assert found.value.message == expected.value.message
