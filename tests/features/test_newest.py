from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.features.computation import compute_features
from mltrain.features.newest import NewestFeatures
from mltrain.features.registry import load_registry
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import TimeRange

END_MS = 1_760_529_600_000
SYMBOLS = ("BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT")


@pytest.fixture(scope="module")
def feature_set():
    return load_registry(Path("features.yml"), interval="1m")


@pytest.fixture(scope="module")
def candles():
    source = open_source(SourceSpec(name="sim", seed=5, end_ms=END_MS))
    window = TimeRange(END_MS - 700 * 60_000, END_MS)
    return {symbol: source.candles(symbol, window) for symbol in SYMBOLS if symbol in source.symbols()}


def table_row(feature_set, symbol, candles):
    table = compute_features(feature_set, symbol, candles).tail(1)
    return table.select(pl.all().exclude("ts").fill_null(float("nan"))).to_numpy()[0]


def test_a_newest_row_is_the_tables_last(feature_set, candles):
    """It has the bits of the table's last row: alone, stacked, with a warm-up, a gap or a late leader."""
    newest, bars = NewestFeatures(feature_set), feature_set.lookback_bars
    gapped = {name: frame[[i for i in range(frame.height) if i != 650]] for name, frame in candles.items()}
    late = {name: frame.head(-1) if name == "BTCUSDT" else frame for name, frame in candles.items()}
    short = {name: frame.tail(100) for name, frame in candles.items()}
    cuts = [{name: frame.head(frame.height - k).tail(bars) for name, frame in candles.items()} for k in range(25)]

    assert len(candles) > 2
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
