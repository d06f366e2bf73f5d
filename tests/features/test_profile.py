"""Profiles equal the statistics that NumPy computes from the same values."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.features.computation import compute_features
from mltrain.features.profile import BINS, LEVELS, profile, profile_features
from mltrain.features.registry import load_registry
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange

FEATURES = load_registry(interval="1m")


@pytest.fixture(scope="module")
def candles():
    span = TimeRange(CLOCK_MS - 600 * 60_000, CLOCK_MS)
    return {symbol: SimSource().candles(symbol, span) for symbol in ("BTCUSDT", "ETHUSDT")}


def test_profiles_are_of_all_symbols_together(candles):
    """Shares, extremes and quantiles equal those of the concatenated columns, in column order."""
    profiles = profile_features(FEATURES, candles)
    tables = pl.concat([compute_features(FEATURES, symbol, candles) for symbol in candles])

    assert tuple(p.name for p in profiles) == FEATURES.names
    for p in profiles:
        values = tables[p.name].drop_nulls().to_numpy().astype(np.float64)
        assert p.null_share == pytest.approx(1 - values.size / 1200)
        assert (p.minimum, p.maximum) == (values.min(), values.max())
        assert p.quantiles == pytest.approx(np.quantile(values, LEVELS).tolist())
        assert sum(p.histogram.counts) == values.size
        assert len(p.histogram.counts) == BINS


@given(st.lists(st.floats(width=32), max_size=30), st.integers(0, 3))
def test_any_values_have_a_profile(values, nulls):
    """Infinite and missing values are counted and left out; equal values, or none, have a profile."""
    column = np.array(values + [np.nan] * nulls, dtype=np.float32)
    finite = column[np.isfinite(column)]
    p = profile("x", column, nulls)

    assert p.rows == column.size
    assert p.not_finite == column.size - nulls - finite.size
    assert (p.minimum is None) is (finite.size == 0)
    if p.histogram is not None:
        assert sum(p.histogram.counts) == finite.size
