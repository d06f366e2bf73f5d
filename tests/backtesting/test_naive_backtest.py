"""The naive backtest against arithmetic done by hand, and against the laws of the specification."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest

from support.naive_backtest import Bar, Settings, find_weight, random_market, simulate

HOUR_MS = 3_600_000
# Trades what p says, at once and for nothing: a test turns on what it is about.
FREE = Settings(
    interval_ms=HOUR_MS,
    policy="sign",
    equity=1_000.0,
    taker_bps=0.0,
    maker_bps=0.0,
    slippage_bps=0.0,
    participation=math.inf,
    move={"A": 0.001, "B": 0.001},
    variance={"A": 0.001, "B": 0.001},
    run_length={"A": 3.0, "B": 3.0},
)


def bar(hour, first, close, p, *, low=None, high=None, volume=1_000.0, quote=100_000.0):
    low = min(first, close) if low is None else low
    high = max(first, close) if high is None else high
    return Bar(hour * HOUR_MS, float(first), float(high), float(low), float(close), volume, quote, p)


def hours(*rows):
    """Return one bar per (open, close, p), from hour 0 on."""
    return [bar(hour, *row) for hour, row in enumerate(rows)]


def flat(*ps):
    """Return a market that stays at 100."""
    return hours(*((100, 100, p) for p in ps))


def run(bars, funding=(), **options):
    """Trade one symbol, A."""
    return simulate({"A": bars}, {"A": list(funding)}, replace(FREE, **options))


def trades(result):
    """Return (hour, units, price) of each fill."""
    return [(fill.ts // HOUR_MS, fill.units, fill.price) for fill in result.fills]


def equities(result):
    return [equity for _, equity in result.equity]


class TestTheLoop:
    def test_a_decision_fills_at_the_next_open(self):
        result = run(hours((90, 100, 0.9), (110, 115, 0.9), (118, 120, 0.9)))

        # Hour 0: 1,000 / close 100 = 10 units, bought at open 110: cash -100. Marks: -100 + 1,150; then closed at 120.
        assert trades(result) == [(1, 10.0, 110.0), (3, -10.0, 120.0)]
        assert result.equity == [(0, 1_000.0), (HOUR_MS, 1_050.0), (2 * HOUR_MS, 1_100.0)]
        assert (result.cash, result.units) == (1_100.0, {"A": 0.0})
        assert [fill.decided_ts // HOUR_MS for fill in result.fills] == [0, 2]
        assert [fill.candle_ts // HOUR_MS for fill in result.fills] == [1, 2]

    def test_a_short_earns_when_the_price_falls(self):
        result = run(hours((100, 100, 0.1), (100, 90, 0.1), (90, 80, 0.1)))

        # -10 units at 100: cash 2,000. Marks: 2,000 - 900, then 10 bought back at 80.
        assert trades(result) == [(1, -10.0, 100.0), (3, 10.0, 80.0)]
        assert equities(result) == [1_000.0, 1_100.0, 1_200.0]

    def test_a_flip_is_one_order_sized_by_the_equity_of_its_close(self):
        result = run(hours((100, 100, 0.9), (100, 110, 0.1), (110, 110, 0.1), (110, 99, 0.1)))

        # Long 10. At close 110 equity is 1,100: target -10, so -20. Cash 0 + 2,200; closed at 99: 2,200 - 990.
        assert trades(result) == [(1, 10.0, 100.0), (2, -20.0, 110.0), (4, 10.0, 99.0)]
        assert result.cash == 1_210.0

    def test_the_same_weight_never_trades_again(self):
        """Constant weight 1 at no cost is buy-and-hold, exactly."""
        closes = [100, 130, 70, 95, 260, 31]
        result = run(hours(*((close, close, 0.6 + i / 100) for i, close in enumerate(closes))))

        # 10 units bought at 130: cash -300; then -300 + 10 * close.
        assert len(result.fills) == 2
        assert equities(result) == [1_000.0, 1_000.0, 400.0, 650.0, 2_300.0, 10.0]

    def test_the_last_candle_of_a_run_decides_nothing(self):
        assert not run(flat(0.5, 0.5, 0.9)).fills

    def test_a_delay_shifts_each_decision_by_its_bars(self):
        result = run(flat(0.9, 0.1, 0.1, 0.5, 0.5, 0.5), delay_bars=1)

        # Each fills at the second open after its close: +10 at hour 2, -20 at hour 3, +10 at hour 5.
        assert trades(result) == [(2, 10.0, 100.0), (3, -20.0, 100.0), (5, 10.0, 100.0)]

    def test_an_unknown_policy_is_an_error(self):
        with pytest.raises(ValueError, match="luck"):
            run(flat(0.9, 0.9), policy="luck")


class TestCosts:
    def test_each_fill_pays_its_own_fee(self):
        result = run(hours((100, 100, 0.9), (100, 200, 0.9), (200, 200, 0.9)), taker_bps=10.0)

        # 10 * 100 * 0.001 = 1; 10 * 200 * 0.001 = 2.
        assert [fill.fee for fill in result.fills] == pytest.approx([1.0, 2.0], rel=1e-15)
        assert result.fees == pytest.approx(3.0, rel=1e-15)
        assert result.cash == pytest.approx(1_997.0, rel=1e-15)

    def test_entry_and_exit_pay_half_the_spread_and_the_slippage(self):
        result = run(flat(0.9, 0.5, 0.5, 0.5), spread_bps=20.0, slippage_bps=30.0)

        # (10 + 30) bps of 100 = 0.4: bought at 100.4, sold at 99.6. Per side: 1,000 * 10 bps = 1; 1,000 * 30 bps = 3.
        assert [fill.price for fill in result.fills] == pytest.approx([100.4, 99.6], rel=1e-15)
        assert (result.spread_cost, result.slippage_cost) == pytest.approx((2.0, 6.0), rel=1e-15)
        assert result.cash == pytest.approx(992.0, rel=1e-15)

    def test_closing_the_last_bar_pays_as_any_fill(self):
        result = run(flat(0.1, 0.1, 0.1), taker_bps=10.0, spread_bps=20.0, slippage_bps=30.0)

        # Sold at 99.6, fee 0.996; bought back at the last close for 100.4, fee 1.004: 996 - 1,004 - 2.
        assert [fill.price for fill in result.fills] == pytest.approx([99.6, 100.4], rel=1e-15)
        assert equities(result)[-1] == result.cash == pytest.approx(990.0, rel=1e-15)

    def test_impact_is_the_square_root_law_over_earlier_candles(self):
        bars = [
            bar(0, 100, 103, 0.5, quote=6_000.0),
            bar(1, 103, 98.88, 0.9, quote=4_000.0),
            bar(2, 100, 100, 0.9, quote=1.0),
            bar(3, 100, 100, 0.9, quote=1.0),
        ]
        result = run(bars, impact=2.0, equity=98.88)

        # Returns .03 (open to close) and 98.88 / 103 - 1 = -.04: sigma .05. One unit: 100 / 10,000, root .1.
        # 2 * .05 * .1 = .01 = 100 bps.
        assert trades(result)[0] == (2, 1.0, pytest.approx(101.0, rel=1e-13))
        assert result.fills[0].impact == pytest.approx(1.0, rel=1e-13)
        # Closed at 100 with the candles before the last: a third return, 100 / 98.88 - 1, and volume 10,001.
        sigma = math.sqrt(0.03**2 + 0.04**2 + (100 / 98.88 - 1) ** 2)
        assert result.fills[1].price == pytest.approx(100 * (1 - 2 * sigma * math.sqrt(100 / 10_001)), rel=1e-13)

    def test_the_window_of_impact_is_24_hours_of_candles(self):
        wild = [bar(0, 100, 200, 0.5), bar(1, 200, 100, 0.5)]
        # Hours 2 to 25 are the 24 candles before the fill at hour 26: no move, no impact.
        calm = [bar(hour, 100, 100, 0.9 if hour >= 25 else 0.5) for hour in range(2, 28)]

        assert run(wild + calm, impact=1.0).fills[0].price == 100.0
        # With hour 1 in the window its return is -.5; 24 candles have volume 2.4 million, 1,000 is traded.
        early = run(wild + [replace(one, p=0.9) if one.ts == 24 * HOUR_MS else one for one in calm], impact=1.0)
        assert early.fills[0].price == pytest.approx(100 * (1 + 0.5 * math.sqrt(1_000 / 2_400_000)), rel=1e-13)

    @pytest.mark.parametrize("days", [1, 7])
    def test_daily_and_weekly_candles_have_a_window_of_one(self, days):
        step = days * 24 * HOUR_MS
        rows = [(100, 300, 0.5), (300, 300, 0.5), (310, 303, 0.9), (300, 300, 0.9), (300, 300, 0.9)]
        bars = [Bar(i * step, a, max(a, b), min(a, b), b, 1e3, 10_100.0, p) for i, (a, b, p) in enumerate(rows)]
        result = run(bars, interval_ms=step, impact=1.0, equity=30_300.0)

        # 100 units of 300 against 10,100, after a return of .01, from the close before to the close.
        expected = 300 * (1 + 0.01 * math.sqrt(30_000 / 10_100))
        assert result.fills[0].price == pytest.approx(expected, rel=1e-13)

    @pytest.mark.parametrize("quote", [0.0, math.nan])
    def test_without_any_volume_impact_counts_a_ratio_of_one(self, quote):
        result = run([bar(0, 100, 102, 0.9, quote=quote), *flat(0.9, 0.9, 0.9)[1:]], impact=1.0)

        # sigma .02 * 1.
        assert result.fills[0].price == pytest.approx(102.0, rel=1e-13)

    def test_a_price_is_never_below_zero(self):
        result = run([bar(0, 100, 102, 0.1, quote=1e-9), *flat(0.9, 0.9, 0.9)[1:]], impact=50.0, slippage_bps=100.0)

        # Slippage 1 %, so impact is at most 99 %.
        assert result.fills[0].price == pytest.approx(0.0, abs=1e-12)
        assert result.fills[0].impact == pytest.approx(-result.fills[0].units * 99, rel=1e-13)

    def test_costs_and_gross_add_up_to_equity(self):
        for seed in range(40):
            bars, funding, settings = random_market(seed)
            result = simulate(bars, funding, settings)
            last = {symbol: [one for one in bars[symbol] if one.ts <= result.equity[-1][0]] for symbol in bars}
            gross = -sum(fill.units * fill.reference for fill in result.fills)
            gross += sum(units * last[symbol][-1].close for symbol, units in result.units.items() if units)
            costs = result.fees + result.spread_cost + result.slippage_cost + result.impact_cost + result.funding_paid
            turnover = sum(abs(fill.units * fill.reference) for fill in result.fills)

            assert result.equity[-1][1] == pytest.approx(
                settings.equity + gross - costs, abs=1e-12 * (settings.equity + turnover)
            )


class TestParticipation:
    def test_an_order_fills_by_parts_of_each_bars_volume(self):
        bars = [replace(one, volume=8.0) for one in flat(0.9, 0.9, 0.9, 0.9, 0.9, 0.9)]
        result = run(bars, participation=0.5)

        # Ten units at four a bar: 4, 4, 2; the last bar closes them all at once.
        assert trades(result) == [(1, 4.0, 100.0), (2, 4.0, 100.0), (3, 2.0, 100.0), (6, -10.0, 100.0)]
        assert [fill.decided_ts for fill in result.fills[:3]] == [0, 0, 0]

    def test_a_new_weight_replaces_the_rest(self):
        bars = [replace(one, volume=8.0) for one in flat(0.9, 0.5, 0.9, 0.9, 0.9)]
        result = run(bars, participation=0.5)

        # +4 of 10; flat: -4 in place of the other 6; then long again.
        assert trades(result) == [(1, 4.0, 100.0), (2, -4.0, 100.0), (3, 4.0, 100.0), (4, 4.0, 100.0), (5, -8.0, 100.0)]

    @pytest.mark.parametrize("volume", [0.0, math.nan])
    def test_an_order_waits_for_volume(self, volume):
        bars = flat(0.9, 0.9, 0.9, 0.9)
        bars[1] = replace(bars[1], volume=volume)

        assert trades(run(bars, participation=1.0))[0] == (2, 10.0, 100.0)
        assert trades(run(bars))[0] == (1, 10.0, 100.0)

    def test_while_a_new_order_is_delayed_the_older_one_goes_on(self):
        bars = [replace(one, volume=8.0) for one in flat(0.9, 0.9, 0.5, 0.5, 0.5, 0.5)]
        result = run(bars, participation=0.5, delay_bars=1)

        # Decided at 0, from hour 2 on: 4, 4. Flat decided at 2, from hour 4 on: -4, -4 (and hour 5 is the last bar).
        assert trades(result) == [(2, 4.0, 100.0), (3, 4.0, 100.0), (4, -4.0, 100.0), (5, -4.0, 100.0)]


class TestMaker:
    # Limit 100: a buy takes a low below 100 * (1 - 1e-4) = 99.99.
    @pytest.mark.parametrize(("low", "filled"), [(100.0, False), (100 * (1 - 1e-4), False), (99.98, True)])
    def test_a_buy_fills_only_when_traded_through(self, low, filled):
        bars = [bar(0, 100, 100, 0.9), bar(1, 105, 105, 0.9, low=low), bar(2, 105, 105, 0.9)]
        result = run(bars, fill="maker", maker_bps=2.0, taker_bps=10.0, spread_bps=7.0, slippage_bps=9.0)

        assert bool(result.fills) == filled
        if filled:
            # At the limit with the maker fee, 10 * 100 * 2 bps = .2, and nothing else.
            assert trades(result)[0] == (1, 10.0, 100.0)
            assert result.fills[0].fee == pytest.approx(0.2, rel=1e-15)
            assert (result.fills[0].spread, result.fills[0].slippage, result.fills[0].impact) == (0, 0, 0)

    @pytest.mark.parametrize(("high", "filled"), [(100.0, False), (100 * (1 + 1e-4), False), (100.02, True)])
    def test_a_sale_fills_only_when_traded_through(self, high, filled):
        bars = [bar(0, 100, 100, 0.1), bar(1, 95, 95, 0.1, high=high), bar(2, 95, 95, 0.1)]

        assert bool(run(bars, fill="maker").fills) == filled

    def test_the_last_bar_is_closed_by_a_taker(self):
        bars = [bar(0, 100, 100, 0.9), bar(1, 100, 100, 0.9, low=99), bar(2, 100, 100, 0.9)]
        result = run(bars, fill="maker", maker_bps=2.0, taker_bps=10.0, slippage_bps=100.0)

        # Sold for 99 less 10 bps of 990.
        assert trades(result)[1] == (3, -10.0, pytest.approx(99.0, rel=1e-15))
        assert result.fills[1].fee == pytest.approx(0.99, rel=1e-15)

    def test_a_dropped_order_is_placed_again_at_the_next_close(self):
        bars = [
            bar(0, 100, 100, 0.9),
            # Not through 100: dropped; placed again at 125 for the same 10 units.
            bar(1, 110, 125, 0.9),
            bar(2, 125, 125, 0.9, low=124),
            bar(3, 125, 125, 0.9),
        ]

        assert trades(run(bars, fill="maker"))[0] == (2, 10.0, 125.0)

    def test_a_dropped_order_is_not_placed_again_without_an_answer(self):
        bars = [
            bar(0, 100, 100, 0.9),
            # Dropped at a refused candle: nothing is pending at hour 2, whose close then places it at 130.
            bar(1, 110, 125, None),
            bar(2, 125, 130, 0.9, low=50),
            bar(3, 130, 130, 0.9, low=129),
            bar(4, 130, 130, 0.9),
        ]

        assert trades(run(bars, fill="maker"))[0] == (3, 10.0, 130.0)

    def test_a_dropped_order_is_not_placed_again_when_a_newer_one_is_under_way(self):
        bars = [
            bar(0, 100, 100, 0.9),
            bar(1, 100, 100, 0.1),
            # The buy is dropped at hour 2. The sale of hour 1 arrives at hour 3, and its rest keeps its limit.
            bar(2, 100, 120, 0.1),
            bar(3, 100, 100, 0.1, high=101, volume=4.0),
            bar(4, 100, 100, 0.1, high=110),
            bar(5, 100, 100, 0.1),
        ]
        result = run(bars, fill="maker", delay_bars=1, participation=1.0)

        assert trades(result) == [(3, -4.0, 100.0), (4, -6.0, 100.0), (6, 10.0, 100.0)]

    def test_the_rest_of_a_limit_order_keeps_its_limit(self):
        bars = [
            bar(0, 100, 100, 0.9),
            bar(1, 100, 120, 0.9, low=99, volume=4.0),
            bar(2, 120, 120, 0.9, low=99, volume=100.0),
            bar(3, 120, 120, 0.9),
        ]

        assert trades(run(bars, fill="maker", participation=1.0))[:2] == [(1, 4.0, 100.0), (2, 6.0, 100.0)]


class TestFunding:
    LONG = (0.9, 0.9, 0.9, 0.9)
    SHORT = (0.1, 0.1, 0.1, 0.1)

    @pytest.mark.parametrize(("ps", "paid"), [(LONG, 10.0), (SHORT, -10.0)])
    def test_a_long_pays_a_positive_rate_and_a_short_receives_it(self, ps, paid):
        result = run(flat(*ps), [(2 * HOUR_MS, 0.01)])

        # 10 units * 100 * .01.
        assert result.funding_paid == paid
        assert equities(result) == [1_000.0, 1_000.0, 1_000.0 - paid, 1_000.0 - paid]

    @pytest.mark.parametrize(
        ("minutes", "paid"),
        [
            # The order fills at the open of hour 1: an event at that moment meets no position.
            (59, 0),
            (60, 0),
            (61, 10),
            (120, 10),
            # Until the last bar closes at hour 4, and not later.
            (181, 10),
            (240, 10),
            (241, 0),
        ],
    )
    def test_the_position_held_at_the_event_pays(self, minutes, paid):
        assert run(flat(*self.LONG), [(minutes * 60_000, 0.01)]).funding_paid == paid

    def test_the_price_is_the_last_known_close(self):
        bars = hours((100, 100, 0.9), (100, 200, 0.9), (300, 400, 0.9), (500, 500, 0.9))

        # At the open of hour 2 the close of hour 1 is known: 10 * 200 * .01.
        assert run(bars, [(2 * HOUR_MS, 0.01)]).funding_paid == 20.0

    def test_a_position_pays_within_a_gap_too(self):
        bars = [one for one in flat(0.9, 0.9, 0.9, 0.9, 0.9, 0.9) if one.ts not in {2 * HOUR_MS, 3 * HOUR_MS}]

        assert run(bars, [(2 * HOUR_MS, 0.01), (3 * HOUR_MS - 1, 0.02)]).funding_paid == 30.0

    def test_spot_pays_none(self):
        assert run(flat(*self.LONG), [(2 * HOUR_MS, 0.01)], market="spot", side="long").funding_paid == 0

    def test_missing_funding_is_not_zero(self):
        with pytest.raises(KeyError):
            simulate({"A": flat(*self.LONG)}, {}, FREE)


class TestGapsAndRefusals:
    def test_an_order_waits_for_the_next_candle(self):
        bars = [bar(0, 100, 100, 0.9), bar(3, 120, 125, 0.9), bar(4, 125, 125, 0.9)]
        result = run(bars)

        # No position in the gap: not blind. Bought 10 at 120: 1,000 - 1,200 + 1,250.
        assert trades(result)[0] == (3, 10.0, 120.0)
        assert equities(result) == [1_000.0, 1_000.0, 1_000.0, 1_050.0, 1_050.0]
        assert result.blind_bars == 0

    def test_a_position_is_kept_blind_at_its_last_close(self):
        bars = [bar(0, 100, 100, 0.9), bar(1, 100, 110, 0.9), bar(4, 90, 90, 0.9)]
        result = run(bars)

        assert result.blind_bars == 2
        assert equities(result) == [1_000.0, 1_100.0, 1_100.0, 1_100.0, 900.0]

    def test_the_newest_of_the_orders_that_arrive_after_a_gap_wins(self):
        bars = [bar(0, 100, 100, 0.9), bar(1, 100, 100, 0.1), bar(5, 100, 100, 0.1), bar(6, 100, 100, 0.1)]

        assert trades(run(bars, delay_bars=2)) == [(5, -10.0, 100.0), (7, 10.0, 100.0)]

    def test_a_limit_order_is_not_dropped_by_a_gap(self):
        bars = [bar(0, 100, 100, 0.9), bar(2, 100, 100, 0.9, low=99), bar(3, 100, 100, 0.9)]

        assert trades(run(bars, fill="maker"))[0] == (2, 10.0, 100.0)

    def test_three_refused_candles_hold_and_the_fourth_goes_flat(self):
        held = run(flat(0.9, None, None, None, 0.9, 0.9, 0.9))
        sold = run(flat(0.9, None, None, None, None, 0.9, 0.9))

        # Held: bought at hour 1 and closed at the end. Sold: flat decided at hour 4, long again at hour 5.
        assert trades(held) == [(1, 10.0, 100.0), (7, -10.0, 100.0)]
        assert trades(sold) == [(1, 10.0, 100.0), (5, -10.0, 100.0), (6, 10.0, 100.0), (7, -10.0, 100.0)]

    def test_an_answer_starts_the_count_again(self):
        result = run(flat(0.9, None, None, None, 0.8, None, None, None, 0.9))

        assert trades(result) == [(1, 10.0, 100.0), (9, -10.0, 100.0)]

    def test_a_gap_is_no_refusal(self):
        bars = [
            one for one in flat(0.9, 0.9, None, None, None, None, None, 0.9) if one.ts not in {3 * HOUR_MS, 4 * HOUR_MS}
        ]

        assert len(run(bars).fills) == 2

    def test_what_was_decided_before_still_fills_on_a_refused_candle(self):
        bars = [replace(one, volume=4.0) for one in flat(0.9, None, math.nan, None, 0.9)]

        assert trades(run(bars, participation=1.0))[:3] == [(1, 4.0, 100.0), (2, 4.0, 100.0), (3, 2.0, 100.0)]

    def test_nan_neither_trades_nor_counts(self):
        assert not run(flat(*[math.nan] * 9)).fills
        # Long, then nothing for ten bars.
        assert len(run(flat(0.9, *[math.nan] * 9)).fills) == 2
        # Three refusals and NaN hold; the fourth refusal is decided at hour 5.
        assert trades(run(flat(0.9, None, None, math.nan, None, None, None, None)))[1] == (6, -10.0, 100.0)


class TestTheEnd:
    def test_the_last_bar_closes_whatever_its_volume(self):
        bars = flat(0.9, 0.9, 0.9)
        bars[2] = replace(bars[2], volume=0.0)

        assert trades(run(bars, participation=0.1)) == [(1, 10.0, 100.0), (3, -10.0, 100.0)]

    def test_what_opens_at_the_last_open_closes_at_the_last_close(self):
        result = run(hours((100, 100, 0.9), (100, 90, 0.9)))

        assert trades(result) == [(1, 10.0, 100.0), (2, -10.0, 90.0)]
        assert equities(result) == [1_000.0, 900.0]

    def test_each_symbol_closes_at_its_own_last_bar(self):
        result = simulate({"A": flat(0.9, 0.9, 0.9), "B": flat(*[0.9] * 5)}, {"A": [], "B": []}, FREE)

        # Half of 1,000 each.
        assert [(fill.symbol, fill.ts // HOUR_MS, fill.units) for fill in result.fills] == [
            ("A", 1, 5.0),
            ("B", 1, 5.0),
            ("A", 3, -5.0),
            ("B", 5, -5.0),
        ]

    def test_a_perpetual_account_without_equity_is_ruined(self):
        bars = hours((100, 100, 0.9), (100, 100, 0.9), (60, 50, 0.9), (50, 200, 0.9))
        result = run(bars, max_weight=2.0, taker_bps=0.0)

        # 20 units for 2,000 with 1,000: at 50 the debt is 1,000 and so is the position. The run ends there.
        assert result.ruined
        assert equities(result) == [1_000.0, 1_000.0, 0.0]
        assert (result.cash, result.units) == (-1_000.0, {"A": 20.0})
        assert len(result.fills) == 1

    def test_spot_is_never_ruined(self):
        bars = hours((100, 100, 0.9), (100, 100, 0.9), (60, 50, 0.9), (50, 200, 0.9))
        result = run(bars, max_weight=2.0, market="spot", side="long")

        # -1,000 + 20 * 200.
        assert not result.ruined
        assert result.cash == 3_000.0

    def test_spot_with_debts_buys_nothing(self):
        bars = hours((100, 100, 0.9), (100, 40, 0.5), (40, 40, 0.9), (40, 40, 0.9), (40, 40, 0.9))
        result = run(bars, max_weight=2.0, market="spot", side="long")

        # 20 sold at 40 against a debt of 1,000: -200. The next long is of 0 units.
        assert trades(result) == [(1, 20.0, 100.0), (2, -20.0, 40.0)]
        assert result.cash == -200.0


class TestSeveralSymbols:
    def test_each_has_an_equal_share_of_equity(self):
        a = hours((100, 100, 0.9), (100, 200, 0.9), (200, 200, 0.9), (200, 200, 0.9))
        b = [bar(2, 50, 50, 0.1), bar(3, 50, 50, 0.1), bar(4, 50, 40, 0.1)]
        result = simulate({"A": a, "B": b}, {"A": [], "B": []}, FREE)

        # A: 500 / 100 = 5, worth 1,000 at 200. B at hour 2: equity 1,500 / 2 / 50 = 15 short; 150 earned by 40.
        assert [(fill.symbol, fill.ts // HOUR_MS, fill.units) for fill in result.fills] == [
            ("A", 1, 5.0),
            ("B", 3, -15.0),
            ("A", 4, -5.0),
            ("B", 5, 15.0),
        ]
        assert equities(result) == [1_000.0, 1_500.0, 1_500.0, 1_500.0, 1_650.0]


class TestPolicies:
    # With exit .505 and enter .53: in at .53 and .47, out below .495 (long) and above .505 (short).
    @pytest.mark.parametrize(
        ("policy", "p", "weight", "both", "long"),
        [
            ("sign", 0.5001, 0, 2, 2),
            ("sign", 0.5, 2, 0, 0),
            ("sign", 0.4999, 0, -2, 0),
            ("threshold", 0.53, 0, 0, 0),
            ("threshold", 0.5301, 0, 2, 2),
            ("threshold", 0.52, 2, 0, 0),
            ("threshold", 1 - 0.53, -2, 0, 0),
            ("threshold", 0.4699, 0, -2, 0),
            ("hysteresis", 0.53, 0, 2, 2),
            ("hysteresis", 0.5299, 0, 0, 0),
            ("hysteresis", 1 - 0.505, 2, 2, 2),
            ("hysteresis", 0.4949, 2, 0, 0),
            ("hysteresis", 0.46, 2, -2, 0),
            ("hysteresis", 1 - 0.53, 0, -2, 0),
            ("hysteresis", 0.505, -2, -2, -2),
            ("hysteresis", 0.5051, -2, 0, 0),
            ("hysteresis", 0.54, -2, 2, 2),
            # Three bars of (2 * .61 - 1) * .001 = 6.6 bps against 6; at .59 they are 5.4.
            ("cost-aware", 0.61, 0, 2, 2),
            ("cost-aware", 0.59, 0, 0, 0),
            ("cost-aware", 0.59, -2, -2, -2),
            ("cost-aware", 0.61, -2, 2, 2),
            ("cost-aware", 0.39, 2, -2, 0),
            ("cost-aware", 0.41, 2, 2, 2),
            ("cost-aware", 0.5, 2, 2, 2),
            # .25 * (2p - 1) * .001 / .001 = .25 * (2p - 1).
            ("kelly", 0.75, 0, 0.125, 0.125),
            ("kelly", 0.25, 0, -0.125, 0),
            ("kelly", 0.5, 2, 0, 0),
        ],
    )
    def test_weight(self, policy, p, weight, both, long):
        settings = replace(FREE, policy=policy, max_weight=2.0, taker_bps=5.0, slippage_bps=1.0)

        assert find_weight(p, weight, "A", settings) == pytest.approx(both, rel=1e-14)
        assert find_weight(p, weight, "A", replace(settings, side="long")) == pytest.approx(long, rel=1e-14)

    @pytest.mark.parametrize("weight", [2.0, 0.0, -2.0])
    def test_hysteresis_stays_at_a_tie_where_both_entries_meet(self, weight):
        settings = replace(FREE, policy="hysteresis", enter=0.5, exit=0.5, max_weight=2.0)

        assert find_weight(0.5, weight, "A", settings) == weight

    @pytest.mark.parametrize("edge", [{"spread_bps": 1.4}, {"horizon": 2}, {"run_length": {"A": 2.0}}])
    def test_cost_aware_counts_the_spread_the_horizon_and_the_run(self, edge):
        """6.6 bps pay for 6, but not for 6.7; over half the run they are 3.3, over two thirds 4.4."""
        settings = replace(FREE, policy="cost-aware", taker_bps=5.0, slippage_bps=1.0, maker_bps=0.0, fill="maker")

        assert find_weight(0.61, 0.0, "A", settings) == 1.0
        assert find_weight(0.61, 0.0, "A", replace(settings, **edge)) == 0.0

    def test_cost_aware_without_an_edge_or_a_cost_does_nothing(self):
        assert find_weight(0.5, 0.0, "A", replace(FREE, policy="cost-aware")) == 0.0
        assert find_weight(0.5, 1.0, "A", replace(FREE, policy="cost-aware")) == 1.0
        assert find_weight(0.5001, 0.0, "A", replace(FREE, policy="cost-aware")) == 1.0
        assert find_weight(0.9, 0.0, "A", replace(FREE, policy="cost-aware", move={"A": math.nan})) == 0.0

    @pytest.mark.parametrize(("p", "weight"), [(0.9, 1.5), (0.1, -1.5), (0.5, 0.0)])
    def test_kelly_is_clipped(self, p, weight):
        settings = replace(FREE, policy="kelly", variance={"A": 1e-9}, max_weight=1.5)

        assert find_weight(p, 0.0, "A", settings) == weight

    @pytest.mark.parametrize("variance", [0.0, math.nan])
    def test_kelly_without_a_variance_is_flat(self, variance):
        assert find_weight(0.9, 1.0, "A", replace(FREE, policy="kelly", variance={"A": variance})) == 0.0

    def test_the_state_is_the_decided_weight_not_the_units(self):
        bars = [replace(one, volume=1.0) for one in flat(0.54, 0.51, 0.49, 0.51, 0.51, 0.51)]
        result = run(bars, policy="hysteresis", participation=1.0)

        # Long 10 at one a bar; .51 keeps that; .49 is out: 2 units were bought, and .51 does not enter again.
        assert trades(result) == [(1, 1.0, 100.0), (2, 1.0, 100.0), (3, -1.0, 100.0), (4, -1.0, 100.0)]


class TestLaws:
    SEEDS = range(150)

    def test_equity_follows_from_the_fills_alone(self):
        for seed in self.SEEDS:
            bars, _, settings = random_market(seed)
            result = simulate(bars, {symbol: [] for symbol in bars}, settings)
            turnover = sum(abs(fill.units * fill.price) for fill in result.fills)
            for t, equity in result.equity[:: max(1, len(result.equity) // 10)] + result.equity[-1:]:
                own = settings.equity
                for fill in result.fills:
                    if fill.candle_ts <= t:
                        close = [one.close for one in bars[fill.symbol] if one.ts <= t][-1]
                        own += fill.units * (close - fill.price) - fill.fee

                assert equity == pytest.approx(own, abs=1e-12 * (settings.equity + turnover)), seed

    def test_no_fill_is_earlier_than_the_candle_after_its_decision(self):
        for seed in self.SEEDS:
            bars, funding, settings = random_market(seed)
            for fill in simulate(bars, funding, settings).fills:
                assert fill.ts >= fill.decided_ts + settings.interval_ms

    def test_later_candles_leave_earlier_fills_as_they_were(self):
        for seed in self.SEEDS:
            bars, funding, settings = random_market(seed)
            rng = random.Random(seed)  # noqa: S311 -- repeatable
            t = rng.choice(rng.choice(list(bars.values()))).ts
            other = {symbol: [_changed(one, rng) if one.ts > t else one for one in bars[symbol]] for symbol in bars}

            before = [fill for fill in simulate(bars, funding, settings).fills if fill.ts <= t]
            after = [fill for fill in simulate(other, funding, settings).fills if fill.ts <= t]
            assert before == after, seed

    def test_the_order_of_symbols_changes_nothing(self):
        for seed in self.SEEDS:
            bars, funding, settings = random_market(seed)

            assert simulate(bars, funding, settings) == simulate(dict(reversed(bars.items())), funding, settings)

    def test_scaling_prices_and_units_changes_nothing(self):
        for seed in self.SEEDS:
            bars, funding, settings = random_market(seed)
            # A power of two, so that every product and quotient scales without rounding.
            scaled = {
                symbol: [
                    replace(
                        one,
                        open=one.open * 4,
                        high=one.high * 4,
                        low=one.low * 4,
                        close=one.close * 4,
                        volume=one.volume / 4,
                    )
                    for one in bars[symbol]
                ]
                for symbol in bars
            }

            assert simulate(scaled, funding, settings).equity == simulate(bars, funding, settings).equity, seed

    def test_without_probabilities_nothing_trades(self):
        for seed in self.SEEDS:
            bars, funding, settings = random_market(seed)
            silent = {symbol: [replace(one, p=math.nan) for one in bars[symbol]] for symbol in bars}
            result = simulate(silent, funding, settings)

            assert not result.fills
            assert {equity for _, equity in result.equity} == {settings.equity}

    def test_higher_costs_never_help_the_same_orders(self):
        for seed in self.SEEDS:
            bars, _, settings = random_market(seed)
            # One decision at full weight, sized before anything was paid: the orders are the same whatever the costs.
            once = {
                symbol: [replace(one, p=0.9 if one is bars[symbol][0] else math.nan) for one in bars[symbol]]
                for symbol in list(bars)[:1]
            }
            settings = replace(settings, policy="sign", market="spot", side="long")
            cheap = simulate(once, {}, settings)
            for name in ("taker_bps", "maker_bps", "spread_bps", "slippage_bps"):
                dear = simulate(once, {}, replace(settings, **{name: getattr(settings, name) + 10}))

                assert [fill.units for fill in dear.fills] == [fill.units for fill in cheap.fills]
                assert all(less <= more for (_, less), (_, more) in zip(dear.equity, cheap.equity, strict=True)), seed

    def test_random_markets_reach_every_rule(self):
        seen = set()
        for seed in range(300):
            bars, funding, settings = random_market(seed)
            result = simulate(bars, funding, settings)
            seen |= {settings.policy, settings.side, settings.market, settings.fill} if result.fills else set()
            seen.add("ruined" if result.ruined else "alive")
            seen |= {"blind"} if result.blind_bars else set()
            seen |= {"funding"} if result.funding_paid else set()
            seen |= {"impact"} if result.impact_cost else set()
            seen |= {"short"} if any(fill.units < 0 and fill.ts == fill.candle_ts for fill in result.fills) else set()
            for fill in result.fills:
                share = {one.ts: one.volume for one in bars[fill.symbol]}[fill.candle_ts] * settings.participation
                seen |= {"partial"} if abs(fill.units) == share else set()

        assert seen >= {"cost-aware", "threshold", "hysteresis", "sign", "kelly", "long", "both", "perp", "spot"}
        assert seen >= {"next-open", "maker", "ruined", "alive", "blind", "funding", "impact", "short", "partial"}


def _changed(one, rng):
    factor = rng.uniform(0.5, 2)
    return Bar(
        one.ts,
        one.open * factor,
        one.high * factor * 1.1,
        one.low * factor / 1.1,
        one.close * factor,
        rng.uniform(0, 2) * one.volume,
        rng.uniform(0, 2) * one.quote_volume,
        rng.choice([0.1, 0.5, 0.9, None, math.nan]),
    )
