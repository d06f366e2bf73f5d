"""Figures of a backtest against values computed by hand and naive loops."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.engine import Fill, simulate
from mltrain.backtesting.performance import (
    Drawdown,
    Trades,
    annual_sharpe,
    count_trades,
    daily_equity,
    daily_returns,
    find_drawdown,
    list_costs,
    measure,
    positions,
    score_sharpe,
    sum_by_day,
)
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS
from mltrain.training.bootstrap import expanded_tail, plan_bootstrap
from support.backtests import NO_COSTS, START_MS, hold, make_bars, weights_for_units

ROOT = math.sqrt(365)


def figures(bars, simulation, costs=NO_COSTS, *, start, draws=200, level=0.9, seed=1):
    return measure(bars, simulation, costs, start=start, draws=draws, level=level, seed=seed)


def fill(bar, units, price, *, fee=0.0, symbol_ix=0):
    return Fill(bar, bar - 1, False, symbol_ix, float(units), float(price), float(price), float(fee))


class TestDays:
    """A figure of a day belongs to the UTC day in which its bar opens."""

    def test_equity_of_a_day_is_that_of_its_last_bar(self):
        """Six-hour bars from 12:00: two on the first day, four on the second, one on the third."""
        bars = make_bars(np.ones(7), step_ms=6 * HOUR_MS, start_ms=START_MS + 12 * HOUR_MS)
        day_ms, equity = daily_equity(bars, np.arange(7.0))

        assert day_ms.tolist() == [START_MS, START_MS + DAY_MS, START_MS + 2 * DAY_MS]
        assert equity.tolist() == [1.0, 5.0, 6.0]

    def test_a_day_without_bars_repeats_the_day_before(self):
        """Weekly candles: six days of seven have none, and earn nothing."""
        bars = make_bars(np.ones(3), step_ms=7 * DAY_MS)
        day_ms, equity = daily_equity(bars, np.array([1.0, 2.0, 3.0]))

        assert day_ms.size == 15
        assert equity.tolist() == [1.0] * 7 + [2.0] * 7 + [3.0]
        assert np.flatnonzero(daily_returns(equity, 1.0)).tolist() == [7, 14]

    def test_returns_are_over_the_day_before(self):
        """By hand, for two policies; the first day is measured against the start."""
        equity = np.array([[110.0, 90.0], [99.0, 90.0], [198.0, 45.0]])

        assert np.allclose(daily_returns(equity, 100.0), [[0.1, -0.1], [-0.1, 0.0], [1.0, -0.5]], rtol=1e-15)

    def test_once_nothing_is_left_nothing_is_earned(self):
        """After an equity of zero or less, the returns are zero and not infinite."""
        equity = np.array([50.0, -10.0, -10.0, 0.0, 0.0])

        assert daily_returns(equity, 100.0).tolist() == [-0.5, -1.2, 0.0, 0.0, 0.0]

    def test_amounts_add_up_by_day(self, traded):
        """Gross, costs, traded value and funding of each day, from the fills of its bars, one at a time."""
        for market, got in traded[:60]:
            bars, start = market.bars, market.settings.equity
            days = sum_by_day(bars, got, start=start)
            scale = np.abs(got.equity).max() + got.traded.sum()
            for ix, day_ms in enumerate(days.day_ms.tolist()):
                fills = [f for f in got.fills if day_ms <= bars.ts_ms[f.bar] < day_ms + DAY_MS]
                paid = [p.sum() for bar, p in got.payments if day_ms <= bars.ts_ms[bar] < day_ms + DAY_MS]
                costs = sum(f.fee + (f.price - f.reference) * f.units for f in fills)
                before = start if ix == 0 else days.equity[ix - 1]

                assert days.traded[ix] == pytest.approx(sum(abs(f.units) * f.price for f in fills), rel=1e-12)
                assert days.costs[ix] == pytest.approx(costs, rel=1e-9, abs=1e-12 * scale)
                assert days.funding[ix] == pytest.approx(sum(paid), rel=1e-9, abs=1e-12 * scale)
                assert days.gross[ix] - costs - sum(paid) == pytest.approx(days.equity[ix] - before, abs=1e-9 * scale)


class TestSharpe:
    """Mean over standard deviation of daily returns, times the root of 365."""

    def test_by_hand(self):
        """Returns of 3 % and 1 %: mean 2 %, deviation 1 %."""
        assert annual_sharpe(np.array([0.03, 0.01])) == pytest.approx(2 * ROOT, rel=1e-12)

    @given(st.lists(st.integers(-500, 500), min_size=2, max_size=60).filter(lambda r: len(set(r)) > 1))
    def test_it_agrees_with_a_naive_loop(self, returns):
        """In bps, with exact sums."""
        n = len(returns)
        mean = Fraction(sum(returns), n)
        variance = sum((r - mean) ** 2 for r in returns) / n

        got = annual_sharpe(np.array(returns) / 1e4)
        assert got == pytest.approx(float(mean) / math.sqrt(variance) * ROOT, rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("returns", [[0.0] * 5, [0.001] * 7, [0.1], [1 / 3] * 9])
    def test_returns_that_do_not_vary_have_none(self, returns):
        """Not infinity, and not a rounding error's inverse."""
        assert math.isnan(annual_sharpe(np.array(returns)))
        assert score_sharpe(np.array(returns)) is None

    def test_many_policies_are_computed_as_one(self):
        """Column by column."""
        returns = np.random.default_rng(0).normal(0, 0.01, (40, 6))
        returns[:, 2] = 0.0

        for k, sharpe in enumerate(annual_sharpe(returns)):
            assert sharpe == pytest.approx(float(annual_sharpe(returns[:, k])), rel=1e-12, nan_ok=True)

    def test_five_minutes_give_the_same_as_one_minute(self):
        """A market resampled to five minutes, the same daily equity: the same Sharpe and Sortino ratio."""
        rng = np.random.default_rng(1)
        minutes = np.exp(rng.normal(0, 1e-3, 30 * 1_440).cumsum())
        # Flat at first, so that both buy at the same price.
        minutes[:20] = minutes[0]
        fives = minutes[4::5]
        found = []
        for close, step_ms in ((minutes, MINUTE_MS), (fives, 5 * MINUTE_MS)):
            bars = make_bars(close, step_ms=step_ms)
            found.append(figures(bars, simulate(bars, hold(bars), NO_COSTS, equity=1e4), start=1e4))
        a, b = found

        assert a.sharpe.value == pytest.approx(b.sharpe.value, rel=1e-12)
        assert (a.sharpe.low, a.sharpe.high) == pytest.approx((b.sharpe.low, b.sharpe.high), rel=1e-12)
        assert (a.sortino, a.daily_return.value) == pytest.approx((b.sortino, b.daily_return.value), rel=1e-12)
        assert (a.days, b.days) == (30, 30)

    def test_the_score_uses_the_moments_of_the_returns(self):
        """P(Sharpe > 0) by hand: skewness and kurtosis from plain sums."""
        returns = np.array([0.01, -0.02, 0.03, 0.004, -0.001, 0.015])
        n, mean = len(returns), sum(returns) / len(returns)
        second, third, fourth = (sum((r - mean) ** power for r in returns) / n for power in (2, 3, 4))
        sharpe, skew, kurtosis = mean / second**0.5, third / second**1.5, fourth / second**2
        z = (sharpe - 0.1) * (n - 1) ** 0.5 / (1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2) ** 0.5

        assert score_sharpe(returns, 0.1) == pytest.approx(0.5 * (1 + math.erf(z / math.sqrt(2))), rel=1e-12)


class TestDrawdown:
    """The largest fall from a peak, with its dates, at bar closes."""

    def test_by_hand(self):
        """From 120 to 60 is the largest share; 200 to 110 is the larger amount."""
        bars = make_bars(np.ones(7))
        got = find_drawdown(bars, np.array([120.0, 60.0, 90.0, 120.0, 200.0, 110.0, 150.0]), start=100.0)
        at = [START_MS + day * DAY_MS for day in range(8)]

        # A bar's close is one interval after its open.
        assert got == Drawdown(share=0.5, peak_ms=at[1], trough_ms=at[2], recovered_ms=at[4])

    def test_a_fall_from_the_start_begins_at_the_start(self):
        """The equity never exceeds its start, and does not come back."""
        got = find_drawdown(make_bars(np.ones(3)), np.array([90.0, 80.0, 95.0]), start=100.0)

        assert got.share == pytest.approx(0.2, rel=1e-15)
        assert (got.peak_ms, got.trough_ms, got.recovered_ms) == (START_MS, START_MS + 2 * DAY_MS, None)

    @pytest.mark.parametrize("equity", [[100.0, 100.0], [100.0, 101.0], [150.0, 150.0]])
    def test_without_a_fall_there_is_none(self, equity):
        """Level or rising."""
        assert find_drawdown(make_bars(np.ones(2)), np.array(equity), start=100.0) is None

    def test_a_debt_is_more_than_everything(self):
        """A ruined account may lose more than it had."""
        got = find_drawdown(make_bars(np.ones(2)), np.array([100.0, -50.0]), start=100.0)

        assert got.share == 1.5

    @given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
    def test_it_agrees_with_a_naive_loop(self, equity):
        """All pairs of a peak and a later trough."""
        curve = [25, *equity]
        share = max(Fraction(curve[i] - curve[j], curve[i]) for i in range(len(curve)) for j in range(i, len(curve)))
        got = find_drawdown(make_bars(np.ones(len(equity))), np.array(equity, float), start=25.0)

        assert (0.0 if got is None else got.share) == pytest.approx(float(share), rel=1e-12, abs=1e-15)
        if got is not None:
            closes = [(ms - START_MS) // DAY_MS for ms in (got.peak_ms, got.trough_ms)]
            assert Fraction(curve[closes[0]] - curve[closes[1]], curve[closes[0]]) == share
            if got.recovered_ms is not None:
                back = (got.recovered_ms - START_MS) // DAY_MS
                assert curve[back] >= curve[closes[0]] > max(curve[closes[1] : back])


class TestTrades:
    """Round trips: from the opening of a position to its end or its reversal."""

    @pytest.mark.parametrize(
        ("fills", "expected"),
        [
            ([], Trades(0, 0, None)),
            # Still open: no trade.
            ([fill(1, 5, 100)], Trades(0, 0, None)),
            ([fill(1, 5, 100), fill(4, -5, 101)], Trades(1, 1, 3.0)),
            # The fees take the gain.
            ([fill(1, 5, 100, fee=3), fill(4, -5, 101, fee=3)], Trades(1, 0, 3.0)),
            # Nothing earned is no hit.
            ([fill(1, 5, 100), fill(4, -5, 100)], Trades(1, 0, 3.0)),
            # Opened and closed in parts.
            ([fill(1, 2, 100), fill(2, 3, 90), fill(5, -1, 95), fill(7, -4, 99)], Trades(1, 1, 6.0)),
            # A reversal ends one trade and opens the next: -10, then +20.
            ([fill(1, 1, 100), fill(3, -3, 90), fill(8, 2, 80)], Trades(2, 1, 3.5)),
            # Its fee of 30 is shared 1 : 2: the first loses 10 of 9, the second gains 2 * 11 - 20.
            ([fill(1, 1, 81), fill(3, -3, 90, fee=30), fill(8, 2, 79)], Trades(2, 1, 3.5)),
            # 10 for the first: it gains 1, and the second loses 2 * 9 - 20.
            ([fill(1, 1, 79), fill(3, -3, 90, fee=30), fill(8, 2, 81)], Trades(2, 1, 3.5)),
            # The fee of a closing is not that of the next trade.
            ([fill(1, 1, 50), fill(3, -1, 90, fee=30), fill(4, 1, 50), fill(5, -1, 60)], Trades(2, 2, 1.5)),
            # Two symbols do not mix.
            (
                [fill(1, 1, 10), fill(1, -1, 10, symbol_ix=1), fill(2, -1, 9), fill(3, 1, 9, symbol_ix=1)],
                Trades(2, 1, 1.5),
            ),
        ],
    )  # fmt: skip
    def test_by_hand(self, fills, expected):
        """Number, hits, mean bars."""
        assert count_trades(fills) == expected

    def test_a_rounding_error_is_no_position(self):
        """0.1 + 0.2 bought, 0.3 sold: closed, although 5.6e-17 remain."""
        assert 0.1 + 0.2 - 0.3 != 0
        fills = [fill(1, 0.1, 100), fill(2, 0.2, 100), fill(3, -0.3, 110), fill(5, 1, 100), fill(6, -1, 90)]

        assert count_trades(fills) == Trades(2, 1, 1.5)

    @settings(max_examples=300)
    @given(
        st.lists(
            st.tuples(st.integers(0, 1), st.integers(-4, 4).filter(bool), st.integers(1, 9), st.integers(0, 8)),
            max_size=25,
        )
    )
    def test_it_agrees_with_a_naive_loop(self, orders):
        """Each unit on its own, with its share of the fee: a position of n units is closed by the next n opposite."""
        fills = [fill(bar, units, price, fee=fee, symbol_ix=ix) for bar, (ix, units, price, fee) in enumerate(orders)]
        number = bars = 0
        results = []
        for symbol_ix in (0, 1):
            held, earned, opened = 0, Fraction(0), 0
            for bar, (ix, units, price, fee) in enumerate(orders):
                if ix != symbol_ix:
                    continue
                one = 1 if units > 0 else -1
                for _ in range(abs(units)):
                    opened = bar if held == 0 else opened
                    held += one
                    earned -= one * price + Fraction(fee, abs(units))
                    if held == 0:
                        number, bars = number + 1, bars + bar - opened
                        results.append(earned)
                        earned = Fraction(0)
        got = count_trades(fills)

        assert got.number == number
        # A trade that earns exactly nothing may be rounded to either side.
        assert sum(earned > 0 for earned in results) <= got.hits <= sum(earned >= 0 for earned in results)
        assert (got.mean_bars or 0) * number == pytest.approx(bars)

    def test_the_hit_rate_is_a_share_of_the_trades(self):
        """None without trades."""
        assert Trades(4, 1, 2.0).hit_rate == 0.25
        assert Trades(0, 0, None).hit_rate is None


class TestCosts:
    """Each kind of cost, in the quote asset."""

    def test_by_hand(self):
        """10 units bought at 100 and sold at 100: spread 20, slippage 30, fee 10 bps, funding 0.1 %."""
        bars = make_bars([100.0] * 5)
        costs = Costs(market="perp", taker_bps=10, spread_bps=20, slippage_bps=30, participation=None)
        targets = np.array([1.0, 1.0, 0.0, 0.0, 0.0])[:, None, None]
        funding = {"S00": np.array([[bars.ts_ms[2], 0.001]])}
        got = simulate(bars, targets, costs, equity=1_000.0, funding=funding)
        found = {cost.name: cost for cost in list_costs(got, costs)}
        # Bought at 100.4, sold at 99.6.
        traded = 1_004 + 996

        assert {name: cost.amount for name, cost in found.items()} == pytest.approx(
            {"fees": 2.0, "spread": 2.0, "slippage": 6.0, "impact": 0.0, "funding": 1.0}, rel=1e-12
        )
        assert found["slippage"].turnover_bps == pytest.approx(6 / traded * 1e4, rel=1e-12)

    def test_they_add_up_to_gross_less_net(self, traded):
        """In random markets, also with impact, limit orders and funding."""
        for market, got in traded:
            start = market.settings.equity
            costs = list_costs(got, market.costs)
            days = sum_by_day(market.bars, got, start=start)
            net = got.equity[-1, 0] - start
            scale = np.abs(got.equity).max() + got.traded.sum()

            assert days.gross.sum() - sum(cost.amount for cost in costs) == pytest.approx(net, abs=1e-9 * scale)
            assert all(cost.amount >= -1e-9 * scale for cost in costs if cost.name != "funding")

    def test_each_kind_is_that_of_the_naive_backtest(self, traded):
        """Spread, slippage and impact, each on its own."""
        for market, got in traded[:200]:
            want = market.trade_naively()
            found = {cost.name: cost.amount for cost in list_costs(got, market.costs)}
            scale = np.abs(got.equity).max() + got.traded.sum()

            for name, amount in (
                ("fees", want.fees),
                ("spread", want.spread_cost),
                ("slippage", want.slippage_cost),
                ("impact", want.impact_cost),
                ("funding", want.funding_paid),
            ):
                assert found[name] == pytest.approx(amount, abs=1e-9 * scale), name

    def test_without_trades_they_are_zero(self):
        """And have no share of the turnover."""
        bars = make_bars([1.0, 2.0, 3.0])
        got = simulate(bars, hold(bars, 0.0), NO_COSTS, equity=1.0)

        assert [(cost.amount, cost.turnover_bps) for cost in list_costs(got, NO_COSTS)] == [(0.0, None)] * 5


class TestBreakEven:
    """The cost per side at which the same fills earn nothing."""

    @pytest.mark.parametrize("seed", range(10))
    def test_at_this_cost_the_same_orders_earn_nothing(self, seed):
        """Orders of the same units, filled again at the break-even as the only cost, end with the cash of the start."""
        rng = np.random.default_rng(seed)
        bars = make_bars(50 * np.exp(np.cumsum(rng.normal(0.002, 0.03, (60, 2)), axis=0)))
        units = np.where(rng.random((60, 2)) < 0.5, rng.uniform(0, 10, (60, 2)), 0)
        free = simulate(bars, weights_for_units(bars, units, NO_COSTS, equity=1e6), NO_COSTS, equity=1e6)
        break_even = figures(bars, free, start=1e6).break_even_bps
        # A negative cost is a gift: the same orders with a rebate.
        if break_even.value < 0:
            lost = sum(-f.units * f.price for f in free.fills)
            assert lost / free.traded.sum() * 1e4 == pytest.approx(break_even.value, rel=1e-9)
            return
        costs = replace(NO_COSTS, taker_bps=break_even.value)
        again = simulate(bars, weights_for_units(bars, units, costs, equity=1e6), costs, equity=1e6)

        assert len(again.fills) == len(free.fills)
        assert again.cash[0] == pytest.approx(1e6, rel=1e-12)
        assert again.fees.sum() > 1

    def test_it_does_not_depend_on_the_fee_that_was_paid(self):
        """Fees are not part of it; the same fills have the same break-even."""
        bars = make_bars([100.0, 100.0, 104.0, 104.0, 102.0, 102.0])
        targets = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])[:, None, None]
        found = []
        for taker_bps in (0, 25):
            costs = replace(NO_COSTS, taker_bps=taker_bps)
            got = simulate(bars, targets, costs, equity=1_000.0)
            found.append(figures(bars, got, costs, start=1_000.0).break_even_bps.value)

        # 10 units from 100 to 104: 40 of 2,040.
        assert found == pytest.approx([40 / 2_040 * 1e4] * 2, rel=1e-12)

    def test_funding_is_paid_before_anything_is_left_for_costs(self):
        """By hand: earns 40, pays 30 of funding."""
        bars = make_bars([100.0, 100.0, 104.0, 104.0])
        targets = np.array([1.0, 0.0, 0.0, 0.0])[:, None, None]
        funding = {"S00": np.array([[bars.ts_ms[1] + 1, 0.03]])}
        got = simulate(bars, targets, NO_COSTS, equity=1_000.0, funding=funding)

        # Bought at 100, funding on the close of 100, sold at the open of bar 2, which is 100.
        assert figures(bars, got, start=1_000.0).break_even_bps.value == pytest.approx(-30 / 2_000 * 1e4, rel=1e-12)


class TestMeasure:
    """All figures of one small account, by hand."""

    @pytest.fixture
    def account(self):
        """Return bars of 12 hours and a simulation: 5 units of 10 bought at 100, sold at 120."""
        close = [100.0, 100.0, 110.0, 120.0, 120.0, 90.0]
        bars = make_bars(close, open_=[100.0, 100.0, 100.0, 110.0, 120.0, 120.0], step_ms=12 * HOUR_MS)
        targets = np.array([0.5, 0.5, 0.5, 0.0, 0.0, 0.0])[:, None, None]
        costs = replace(NO_COSTS, taker_bps=100)
        return bars, simulate(bars, targets, costs, equity=1_000.0), costs

    def test_by_hand(self, account):
        """Fees of 5 and 6; equity 1000, 995, 1045, 1095, 1089, 1089."""
        bars, simulation, costs = account
        got = figures(bars, simulation, costs, start=1_000.0)
        returns = np.array([995 / 1000, 1095 / 995, 1089 / 1095]) - 1
        mean = returns.mean()

        assert simulation.equity[:, 0] == pytest.approx([1000, 995, 1045, 1095, 1089, 1089], rel=1e-14)
        assert got.days == 3
        assert got.net_return == pytest.approx(0.089, rel=1e-12)
        assert got.gross_return == pytest.approx(0.1, rel=1e-12)
        assert got.daily_return.value == pytest.approx(mean, rel=1e-12)
        assert got.sharpe.value == pytest.approx(mean / returns.std() * ROOT, rel=1e-12)
        losses = (returns[0] ** 2 + returns[2] ** 2) / 3
        assert got.sortino == pytest.approx(mean / math.sqrt(losses) * ROOT, rel=1e-12)
        # From 1095 to 1089 is 0.548 %, from 1000 to 995 0.5 %.
        assert got.drawdown.share == pytest.approx(6 / 1095, rel=1e-12)
        assert (got.drawdown.peak_ms, got.drawdown.trough_ms) == (START_MS + 2 * DAY_MS, START_MS + 2.5 * DAY_MS)
        assert got.drawdown.recovered_ms is None
        assert got.calmar == pytest.approx((1.089 ** (365 / 3) - 1) / (6 / 1095), rel=1e-9)
        assert got.exposure == pytest.approx((500 / 995 + 550 / 1045 + 600 / 1095) / 6, rel=1e-12)
        assert got.traded == pytest.approx(1_100, rel=1e-14)
        assert got.turnover == pytest.approx(1_100 / 3 / ((995 + 1095 + 1089) / 3), rel=1e-12)
        assert got.trades == Trades(1, 1, 3.0)
        assert got.break_even_bps.value == pytest.approx(100 / 1_100 * 1e4, rel=1e-12)
        assert (got.blind_bars, got.ruined_ms) == (0, None)
        assert got.probabilistic_sharpe == score_sharpe(returns)

    def test_nothing_traded(self):
        """Everything is zero or None, and nothing warns."""
        bars = make_bars(np.arange(1.0, 20.0))
        got = figures(bars, simulate(bars, hold(bars, 0.0), NO_COSTS, equity=5.0), start=5.0)

        assert (got.net_return, got.gross_return, got.exposure, got.turnover, got.traded) == (0, 0, 0, 0, 0)
        assert (got.sharpe, got.sortino, got.calmar, got.drawdown, got.break_even_bps) == (None,) * 5
        assert got.probabilistic_sharpe is None
        assert (got.daily_return.value, got.daily_return.low, got.daily_return.high) == (0.0, 0.0, 0.0)
        assert got.trades == Trades(0, 0, None)

    def test_a_single_day_has_no_intervals(self):
        """Three bars of one day."""
        bars = make_bars([100.0, 100.0, 103.0], step_ms=HOUR_MS)
        got = figures(bars, simulate(bars, hold(bars), NO_COSTS, equity=1_000.0), start=1_000.0)

        assert (got.days, got.daily_return, got.sharpe, got.break_even_bps) == (1, None, None, None)
        assert got.net_return == pytest.approx(0.03, rel=1e-12)

    def test_a_huge_gain_of_a_day_is_no_error(self):
        """Annualised, it exceeds the largest number of a float: the ratio stays finite."""
        bars = make_bars([1.0, 1.0, 0.5, 50.0], step_ms=HOUR_MS)
        got = figures(bars, simulate(bars, hold(bars), NO_COSTS, equity=1_000.0), start=1_000.0)

        assert got.net_return == pytest.approx(49.0, rel=1e-12)
        assert 1e200 < got.calmar < math.inf

    def test_a_ruin_has_a_date(self):
        """The close at which nothing is left; from then on every day earns nothing."""
        close = [100.0, 100.0, 150.0, 210.0, *([50.0] * 10)]
        bars = make_bars(close)
        got = figures(bars, simulate(bars, hold(bars, -1.0), NO_COSTS, equity=1_000.0), start=1_000.0)

        assert got.ruined_ms == START_MS + 4 * DAY_MS
        assert got.net_return == pytest.approx(-1.1, rel=1e-12)
        assert got.calmar == pytest.approx(-1 / 1.1, rel=1e-12)
        assert got.drawdown.share == pytest.approx(1.1, rel=1e-12)

    def test_positions_follow_from_the_fills(self, traded):
        """At the close of each bar, also where one bar has several fills."""
        for market, got in traded[:40]:
            units = np.zeros(market.bars.open.shape)
            for each in got.fills:
                units[each.bar :, each.symbol_ix] += each.units

            assert np.allclose(positions(market.bars, got.fills), units, rtol=1e-9, atol=1e-12 * np.abs(units).max())


@pytest.fixture(scope="module")
def forty_days():
    """Return bars, simulation and figures of 40 days."""
    rng = np.random.default_rng(4)
    bars = make_bars(np.exp(np.cumsum(rng.normal(0.001, 0.02, 160))), step_ms=6 * HOUR_MS)
    targets = rng.choice([-1.0, 0.0, 1.0], (160, 1, 1))
    funding = {"S00": np.column_stack([bars.ts_ms[3::5], rng.normal(0, 1e-3, 32)])}
    simulation = simulate(bars, targets, NO_COSTS, equity=1_000.0, funding=funding)
    return bars, simulation, figures(bars, simulation, start=1_000.0, draws=300, level=0.8, seed=9)


class TestIntervals:
    """By drawing whole days, the same draws for every figure."""

    def test_they_agree_with_a_naive_loop(self, forty_days):
        """Each draw is put together from its days, and every figure computed again."""
        bars, simulation, got = forty_days
        days = sum_by_day(bars, simulation, start=1_000.0)
        plan = plan_bootstrap(days.day_ms, draws=300, level=0.8, seed=9)
        means, sharpes, break_evens = [], [], []
        for counts in plan.weights.astype(int):
            chosen = np.repeat(np.arange(40), counts)
            returns = days.returns[chosen]
            means.append(returns.mean())
            sharpes.append(returns.mean() / returns.std() * ROOT)
            break_evens.append((days.gross - days.funding)[chosen].sum() / days.traded[chosen].sum() * 1e4)
        tail = expanded_tail(40, level=0.8)

        for interval, values in (
            (got.daily_return, means),
            (got.sharpe, sharpes),
            (got.break_even_bps, break_evens),
        ):
            low, high = np.quantile(values, [tail, 1 - tail])
            assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9)
            assert interval.low < interval.value < interval.high

    def test_the_same_seed_gives_the_same_intervals(self, forty_days):
        """And another seed others, around the same value."""
        bars, simulation, got = forty_days
        same = figures(bars, simulation, start=1_000.0, draws=300, level=0.8, seed=9)
        other = figures(bars, simulation, start=1_000.0, draws=300, level=0.8, seed=10)

        assert same == got
        assert other.sharpe.value == got.sharpe.value
        assert other.sharpe.low != got.sharpe.low
