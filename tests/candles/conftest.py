"""Small candle frames for the tests of this folder."""

from __future__ import annotations

import polars as pl
import pytest

from mltrain.candles.frame import MINUTE_MS, TS_DTYPE
from mltrain.candles.sim import CLOCK_MS


@pytest.fixture
def make_candles():
    """Return a function that makes plain candles at the given minutes after a fixed time."""

    def make(minutes, *, base=100.0, step_ms=MINUTE_MS, **columns):
        minutes = list(minutes)
        prices = [base + m % 7 for m in minutes]
        frame = pl.DataFrame(
            {
                "ts": pl.Series([CLOCK_MS + m * step_ms for m in minutes], dtype=pl.Int64).cast(TS_DTYPE),
                "open": pl.Series(prices, dtype=pl.Float64),
                "high": pl.Series([p + 1 for p in prices], dtype=pl.Float64),
                "low": pl.Series([p - 1 for p in prices], dtype=pl.Float64),
                "close": pl.Series([p + 0.5 for p in prices], dtype=pl.Float64),
                "volume": pl.Series([1.0 + m for m in minutes], dtype=pl.Float64),
            }
        )
        return frame.with_columns(**{name: pl.Series(values) for name, values in columns.items()})

    return make
