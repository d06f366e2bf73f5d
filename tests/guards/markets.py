"""Simulated markets, with holes where a test wants them."""

from __future__ import annotations

import polars as pl

from mltrain.candles.sim import CLOCK_MS, SimSource
from mltrain.candles.source import Window as Span

DAY_MS = 86_400_000


def simulate(*symbols, days=2, seed=0, signal="strong"):
    source = SimSource(seed=seed, signal=signal)
    return {symbol: source.candles(symbol, Span(CLOCK_MS - days * DAY_MS, CLOCK_MS)) for symbol in symbols}


def without(frame, *ranges):
    """Return the candles but those of some row ranges."""
    row = pl.int_range(pl.len())
    return frame.filter(pl.all_horizontal(~row.is_between(first, last) for first, last in ranges))
