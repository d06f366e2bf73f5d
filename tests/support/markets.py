"""Simulated markets, with gaps where a test wants them."""

from __future__ import annotations

import numpy as np
import polars as pl

from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, TimeRange


def simulate(*symbols, days=2, seed=0, signal="strong"):
    source = SimSource(seed=seed, signal=signal)
    return {symbol: source.candles(symbol, TimeRange(CLOCK_MS - days * DAY_MS, CLOCK_MS)) for symbol in symbols}


def without(frame, *ranges):
    """Return the candles without those of some row ranges, both ends included."""
    row = pl.int_range(pl.len())
    return frame.filter(pl.all_horizontal(~row.is_between(first, last) for first, last in ranges))


def odd_market(number):
    """Return a different kind of market for each number, as interval and candles by symbol.

    One to three symbols, two to five days, every strength of signal; gaps of each size at places that differ from
    symbol to symbol; thin markets with hours without a trade, tiny and huge prices, single enormous volumes; one in
    five is of five-minute candles.
    """
    rng = np.random.default_rng(number)
    interval = "5m" if number % 5 == 4 else "1m"
    source = SimSource(seed=number, signal=("none", "weak", "strong")[number % 3], interval=interval)
    days = int(rng.integers(2, 6)) * (5 if interval == "5m" else 1)
    span = TimeRange(CLOCK_MS - days * DAY_MS, CLOCK_MS)
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")[: int(rng.integers(1, 4))]
    return interval, {symbol: _spoil(source.candles(symbol, span), rng, number) for symbol in symbols}


def _spoil(frame, rng, number):
    if number % 3 == 0:
        frame = _without_trades(frame, rng)
    if number % 4 == 1:
        scale = float(rng.choice([1e-8, 1e6]))
        frame = frame.with_columns(pl.col("open", "high", "low", "close", "quote_volume", "taker_buy_quote") * scale)
    if number % 4 == 2:
        huge = pl.when(pl.int_range(pl.len()) == int(rng.integers(frame.height))).then(1e7).otherwise(1.0)
        frame = frame.with_columns(pl.col("volume", "quote_volume", "taker_buy_base", "taker_buy_quote") * huge)
    there = np.ones(frame.height, dtype=bool)
    for start in rng.integers(0, frame.height, int(rng.integers(0, 12))):
        there[start : start + int(rng.choice([1, 2, 5, 60, 300]))] = False
    return frame.filter(pl.Series(there))


def _without_trades(frame, rng):
    """Make some hours without trades, in which each candle stays at the last price."""
    quiet = np.zeros(frame.height, dtype=bool)
    for start in rng.integers(1, frame.height, 6):
        quiet[start : start + int(rng.integers(1, 200))] = True
    quiet[0] = False
    mark = pl.Series("quiet", quiet)
    last = pl.when(mark).then(None).otherwise(pl.col("close")).forward_fill()
    prices = [pl.when(mark).then(last).otherwise(pl.col(c)).alias(c) for c in ("open", "high", "low", "close")]
    amounts = [
        pl.when(mark).then(0).otherwise(pl.col(c)).cast(frame.schema[c]).alias(c)
        for c in ("volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote")
    ]
    return frame.with_columns(*prices, *amounts)
