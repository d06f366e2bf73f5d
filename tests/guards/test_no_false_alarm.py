"""Features without a leak raise no alarm, on simulated markets of every kind and on real candles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import OPTIONAL
from mltrain.candles.layouts import read_rows
from mltrain.features.ops.catalogue import OPS
from mltrain.features.random_features import draw_feature
from mltrain.features.registry import load_registry
from mltrain.guards.future_info import future_info
from mltrain.times import interval_ms
from mltrain.training.label import make_labels
from support.markets import odd_market

DEFAULT, OHLCV = load_registry(interval="1m"), load_registry(Path("features-ohlcv.yml"), interval="1m")
BUILT_IN = tuple(sorted(OPS))
OTHER = "raw/other"
DAYS = "raw/binance_vision_daily_csv"
FILES = {
    f"{DAYS}/BTCUSDT-1m-2017-08-17.csv": "1m",
    f"{DAYS}/BTCUSDT-1m-2021-04-25.csv": "1m",
    f"{DAYS}/BTCUSDT-1m-2023-03-24.csv": "1m",
    f"{DAYS}/BTCUSDT-1m-2024-12-31.csv": "1m",
    f"{DAYS}/BTCUSDT-1m-2025-01-01.csv": "1m",
    "raw/binance_vision_zip/BTCUSDT-1m-2026-04.zip": "1m",
    "raw/rest_api_v3_klines_json/BTCUSDT-15m-2024-12-30.json": "15m",
    "raw/rest_api_v3_klines_json/BTCUSDT-15m-2026-04-27.json": "15m",
    "raw/rest_api_v3_klines_json/SOLUSDT-1h-2025-10-01.json": "1h",
    f"{OTHER}/binanceUS_BTCUSDT_1m_20230301_20230321.csv.gz": "1m",
    f"{OTHER}/kraken_BTCUSDC_1m_2023Q1_headerless.csv.gz": "1m",
    f"{OTHER}/freqtrade_BTC_USDT-1m_2019_dup_gap.json.gz": "1m",
    "messy/BTCUSDT_2019_dup_gap.parquet": "1m",
}


def audit(features, candles, interval, *, points=10, seed=0):
    features = replace(features, interval=interval)
    step_ms = interval_ms(interval)
    return future_info(
        features, candles, labels=lambda f: make_labels(f, features.label, step_ms), seed=seed, points=points
    )


def registry_for(candles):
    """Return the larger of the packaged registries whose columns these candles have."""
    full = all(not frame[name].has_nulls() for frame in candles.values() for name in OPTIONAL)
    return DEFAULT if full and "BTCUSDT" in candles else OHLCV


def test_the_larger_registry_has_the_features_of_the_other():
    """What passes with one passes with both."""
    assert set(map(repr, OHLCV.features)) < set(map(repr, DEFAULT.features))
    assert OHLCV.label == DEFAULT.label


@pytest.mark.parametrize("number", range(6))
def test_simulated_markets_pass(number):
    """The packaged features pass on six markets of different kinds; `benchmarks/guards.py` has fifty."""
    interval, candles = odd_market(number)

    assert audit(registry_for(candles), candles, interval).failures == ()


@pytest.mark.parametrize("number", range(6, 9))
def test_every_op_passes_with_any_parameters(number):
    """A random feature of each op passes on a market with gaps and quiet hours."""
    interval, candles = odd_market(number)
    rng = np.random.default_rng(number)
    drawn = [draw_feature(op, rng, name=op, leader="BTCUSDT", max_bars=300, interval=interval) for op in BUILT_IN]
    features = replace(DEFAULT, interval=interval, features=tuple(spec for spec in drawn if spec is not None))

    assert audit(features, candles, interval).failures == ()


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_files_from_the_wild_pass(name, real_data):
    """Files with outages, flat minutes, duplicates or every second minute missing raise no alarm."""
    path, interval = real_data / name, FILES[name]
    step_ms = interval_ms(interval)
    rows = read_rows(path.read_bytes(), name=path.name, where=path.name, step_ms=step_ms).rows
    rows = rows.unique("ts", keep="last").sort("ts")
    symbol = "SOLUSDT" if "SOL" in name else "BTCUSDT"
    candles = {symbol: check_candles(rows, symbol=symbol, interval=interval, where=name)}

    assert audit(registry_for(candles), candles, interval).failures == ()


@pytest.mark.real_data
@pytest.mark.parametrize("folder", ["spot_1m", "spot_5m"])
def test_all_real_candles_pass(folder, real_data):
    """Whole histories pass: ninety days of one-minute candles, fourteen months of five-minute candles."""
    interval = folder.removeprefix("spot_")
    candles = {}
    for path in sorted((real_data / folder).glob("*.parquet")):
        read = read_rows(path.read_bytes(), name=path.name, where=path.name, step_ms=interval_ms(interval))
        candles[path.stem] = check_candles(read.rows, symbol=path.stem, interval=interval, where=path.name)

    assert audit(OHLCV, candles, interval, points=10).failures == ()
    for symbol, frame in candles.items():
        if registry_for({symbol: frame}) is DEFAULT:
            assert audit(DEFAULT, {symbol: frame}, interval, points=10).failures == ()
