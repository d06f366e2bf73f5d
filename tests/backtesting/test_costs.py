"""Costs: options, limit orders, and what market impact depends on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.backtesting.costs import Costs, measure_recent_trading, trades_through
from mltrain.errors import UsageError
from mltrain.times import DAY_MS, HOUR_MS
from support.backtests import make_bars, random_market


class TestOptions:
    """Costs that mean nothing are refused, all of them at once."""

    @pytest.mark.parametrize("name", ["taker_bps", "maker_bps", "spread_bps", "slippage_bps", "impact"])
    @pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
    def test_no_cost_is_negative_or_no_number(self, name, value):
        """Its name is that of the option."""
        with pytest.raises(UsageError, match=f"{name.replace('_', '-')} is {value}: expected 0 or above"):
            Costs(**{name: value})

    @pytest.mark.parametrize("share", [0.0, -0.1, math.nan, math.inf])
    def test_a_share_of_the_volume_is_above_zero(self, share):
        """No limit is None, not infinity."""
        with pytest.raises(UsageError, match=f"participation is {share}"):
            Costs(participation=share)

    def test_all_that_is_wrong_is_named_at_once(self):
        """Separated by semicolons."""
        with pytest.raises(UsageError) as caught:
            Costs(taker_bps=-1, spread_bps=math.nan, participation=0, delay_bars=-1)

        assert len(caught.value.message.split("; ")) == 4

    def test_no_price_falls_below_zero(self):
        """Half the spread and slippage stay below the price."""
        Costs(spread_bps=10_000, slippage_bps=4_999)
        with pytest.raises(UsageError, match="exceed the price"):
            Costs(spread_bps=10_000, slippage_bps=5_000)

    def test_what_a_taker_loses(self):
        """Fee, half the spread, slippage."""
        costs = Costs(taker_bps=5, maker_bps=99, spread_bps=4, slippage_bps=1)

        assert costs.taker_cost == pytest.approx(8e-4, rel=1e-15)
        assert costs.taker_loss == pytest.approx(3e-4, rel=1e-15)


class TestLimits:
    """A bar must trade through a limit, by one part in ten thousand."""

    @pytest.mark.parametrize(
        ("side", "low", "high", "through"),
        [
            (1, 99.98, 100, True),
            (1, 99.99, 100, False),
            (1, 100, 200, False),
            (-1, 99, 100.02, True),
            (-1, 99, 100.01, False),
            (-1, 1, 100, False),
            (1, math.nan, math.nan, False),
            (-1, math.nan, math.nan, False),
        ],
    )
    def test_by_hand(self, side, low, high, through):
        """At a limit of 100: below 99.99 for a purchase, above 100.01 for a sale."""
        got = trades_through(*(np.array([float(value)]) for value in (side, 100, low, high)))

        assert got.tolist() == [through]


class TestRecentTrading:
    """Volatility and traded value of the 24 hours before a bar."""

    def test_it_agrees_with_a_naive_loop(self):
        """In random markets, with gaps, missing volumes, and intervals from a minute to a week."""
        for seed in range(12):
            bars = random_market(seed).bars
            got = measure_recent_trading(bars)
            window = max(1, DAY_MS // bars.step_ms)
            for ix in range(len(bars.symbols)):
                there = np.flatnonzero(bars.exists[:, ix]).tolist()
                for at, bar in enumerate(there):
                    variance = value = 0.0
                    for n in range(max(0, at - window), at):
                        close = bars.close[there[n], ix]
                        before = bars.close[there[n - 1], ix] if n else bars.open[there[0], ix]
                        variance += (close / before - 1) ** 2
                        value += np.nan_to_num(bars.quote_volume[there[n], ix])
                    assert got.volatility[bar, ix] == pytest.approx(math.sqrt(variance), rel=1e-9, abs=1e-15)
                    assert got.value[bar, ix] == pytest.approx(value, rel=1e-9)

    def test_the_bar_itself_is_not_known(self):
        """Another close and volume of a bar change what comes after it only."""
        rng = np.random.default_rng(0)
        bars = make_bars(np.exp(np.cumsum(rng.normal(0, 0.1, 50))), step_ms=HOUR_MS)
        close, value = bars.close.copy(), bars.quote_volume.copy()
        close[30], value[30] = close[30] * 2, value[30] * 3
        a, b = measure_recent_trading(bars), measure_recent_trading(replace(bars, close=close, quote_volume=value))

        assert np.array_equal(a.volatility[:31], b.volatility[:31])
        assert np.array_equal(a.value[:31], b.value[:31])
        assert a.volatility[31] != b.volatility[31]
        assert a.value[31] != b.value[31]

    @given(factor=st.floats(0.01, 100))
    def test_impact_grows_with_the_root_of_the_order(self, factor):
        """Four times the order, twice the impact; proportional to the option."""
        bars = make_bars(np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.001, 30))), step_ms=HOUR_MS)
        recent = measure_recent_trading(bars)
        one = recent.impact(20, np.array([[1e6]]), Costs(impact=1.0))
        scaled = recent.impact(20, np.array([[1e6 * factor]]), Costs(impact=1.0))

        assert one > 0
        assert scaled == pytest.approx(one * math.sqrt(factor), rel=1e-12)
        assert recent.impact(20, np.array([[1e6]]), Costs(impact=2.0)) == pytest.approx(2 * one, rel=1e-12)

    def test_the_loss_is_the_price_at_most(self):
        """However large the order, or the moves."""
        bars = make_bars([1.0, 5.0, 1.0, 5.0, 1.0])
        costs = Costs(impact=1_000.0, slippage_bps=100.0)
        impact = measure_recent_trading(bars).impact(4, np.array([[1e12]]), costs)

        assert impact + costs.taker_loss == pytest.approx(1.0, rel=1e-15)
