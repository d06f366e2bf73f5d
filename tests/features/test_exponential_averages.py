"""Exponential averages are cut off after a window; the error is the one that their docstrings state."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.features.computation import evaluate
from mltrain.features.ops.levels import gap_to_ema
from mltrain.features.ops.volatility import ema_volatility

ROWS = 600


def walk(seed):
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, ROWS)))


def newest(window, close):
    frame = pl.DataFrame({"close": close})
    return float(evaluate(frame, [window.expr]).to_series()[-1])


def weighted_mean(values, ages, bars):
    weights = (1 - 2 / (bars + 1)) ** ages
    return float(np.sum(values * weights) / np.sum(weights))


@given(st.integers(0, 99), st.integers(2, 40), st.floats(2, 8))
def test_the_error_of_the_truncation_is_the_stated_one(seed, bars, factor):
    """It is ln(1 + s (x - 1)), s the share of the weight left out, which is below exp(-2 window / bars)."""
    window = math.ceil(factor * bars)
    close, ages, share = walk(seed), np.arange(ROWS)[::-1], (1 - 2 / (bars + 1)) ** window
    whole = weighted_mean(close, ages, bars)
    near, far = (
        weighted_mean(close[-window:], ages[-window:], bars),
        weighted_mean(close[:-window], ages[:-window], bars),
    )

    value = newest(gap_to_ema(bars=bars, window=window), close)
    assert value - math.log(close[-1] / whole) == pytest.approx(math.log(1 + share * (far / near - 1)), abs=1e-7)
    assert share < math.exp(-2 * window / bars)


@given(st.integers(0, 99), st.integers(2, 40), st.floats(2, 8))
def test_so_is_that_of_a_volatility(seed, bars, factor):
    """The whole average is sqrt(1 + s (x - 1)) times the truncated one."""
    window = math.ceil(factor * bars)
    close, share = walk(seed), (1 - 2 / (bars + 1)) ** window
    squares = np.diff(np.log(close)) ** 2
    ages = np.arange(squares.size)[::-1]
    near, far = (
        weighted_mean(squares[part], ages[part], bars) for part in (slice(-window, None), slice(None, -window))
    )

    value = newest(ema_volatility(bars=bars, window=window), close)
    expected = math.sqrt(weighted_mean(squares, ages, bars))
    assert value * math.sqrt(1 + share * (far / near - 1)) == pytest.approx(expected, rel=1e-6)


def test_a_price_that_stands_still_is_its_own_average():
    """Rounding makes no distance."""
    assert newest(gap_to_ema(bars=7, window=31), np.full(40, 0.1)) == 0


def test_a_window_that_forgets_too_much_is_refused():
    """Below twice the bars."""
    with pytest.raises(ValueError, match=r"window \(19\) must be at least twice bars \(10\)"):
        gap_to_ema(bars=10, window=19)
