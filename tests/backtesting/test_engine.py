"""The engine against the naive backtest, the laws of an account, and orders whose equity vectorbt computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.engine import simulate
from mltrain.backtesting.performance import sum_by_day
from mltrain.backtesting.policies import POLICIES, Policy, find_answered
from support.backtests import NO_COSTS, Market, hold, make_bars, random_market, replay, weights_for_units

ORDERS = Path(__file__).parents[1] / "data" / "backtesting"
# A wild market's account may be rounded at its largest amount.
EXACT = 1e-12


def scale_of(simulation):
    """Return the largest amount of an account of one policy: what a rounding error is measured against."""
    return float(np.abs(simulation.equity).max() + simulation.traded.sum())


class TestNaive:
    """The engine agrees with a naive loop, written from the specification alone, on 500 markets x policies."""

    def test_the_account_is_the_same(self, traded):
        """Equity at each bar, cash, fees, funding, traded value, blind bars, units, ruin."""
        ruined = blind = 0
        for market, got in traded:
            want = market.trade_naively()
            count = len(want.equity)
            tolerance = EXACT * scale_of(got)
            equity = np.array([value for _, value in want.equity])
            prices = {symbol: index for index, symbol in enumerate(market.bars.symbols)}

            assert market.bars.ts_ms[:count].tolist() == [ts for ts, _ in want.equity]
            assert np.abs(got.equity[:count, 0] - equity).max() <= tolerance
            assert abs(got.cash[0] - want.cash) <= tolerance
            assert abs(got.fees.sum() - want.fees) <= tolerance
            assert abs(got.funding.sum() - want.funding_paid) <= tolerance
            assert abs(got.traded.sum() - sum(abs(fill.units) * fill.price for fill in want.fills)) <= tolerance
            assert int(got.blind_bars.sum()) == want.blind_bars
            assert (
                (got.ruined[0] == count - 1)
                if want.ruined
                else (got.ruined[0] == -1 and count == market.bars.ts_ms.size)
            )
            for symbol, ix in prices.items():
                mark = market.bars.mark[count - 1, ix]
                assert abs(got.units[0, ix] - want.units[symbol]) * mark <= tolerance
            ruined, blind = ruined + want.ruined, blind + want.blind_bars
        assert ruined >= 20
        assert blind >= 1_000

    def test_the_fills_are_the_same(self, traded):
        """Each fill, in order: bar, decision, symbol, kind, units, price, fee."""
        number = 0
        for market, got in traded:
            want, bars, tolerance = market.trade_naively(), market.bars, EXACT * scale_of(got)
            step_ms = market.settings.interval_ms

            assert [
                (int(bars.ts_ms[f.bar]), int(bars.ts_ms[f.decided]), bars.symbols[f.symbol_ix], f.at_close)
                for f in got.fills
            ] == [(f.candle_ts, f.decided_ts, f.symbol, f.ts == f.candle_ts + step_ms) for f in want.fills]
            for ours, theirs in zip(got.fills, want.fills, strict=True):
                assert abs(ours.units - theirs.units) * theirs.price <= tolerance
                assert ours.reference == theirs.reference
                assert abs(ours.price - theirs.price) <= 1e-9 * theirs.price
                assert abs(ours.price - theirs.price) * abs(theirs.units) <= tolerance
                assert abs(ours.fee - theirs.fee) <= tolerance
            number += len(got.fills)
        assert number >= 10_000

    def test_the_markets_cover_every_option(self, traded):
        """Each policy, side, market, fill and delay trades, with and without impact and participation."""
        seen = {
            value
            for market, got in traded
            if got.fills
            for value in (
                market.policy.name,
                market.policy.side,
                market.costs.market,
                market.costs.fill,
                ("delay", market.costs.delay_bars),
                ("impact", market.costs.impact > 0),
                ("limited", market.costs.participation is not None),
                ("gaps", not market.bars.exists.all()),
                ("refused", bool(market.bars.refused.any())),
            )
        }

        assert seen >= {
            *POLICIES, "long", "both", "perp", "spot", "next-open", "maker",
            *(("delay", bars) for bars in (0, 1, 2, 5)),
            *((name, value) for name in ("impact", "limited", "gaps", "refused") for value in (True, False)),
        }  # fmt: skip


class TestManyPolicies:
    """Many policies at once give each of them, bit for bit, what it gets alone."""

    @staticmethod
    def some_policies(market):
        rng = np.random.default_rng(market.bars.ts_ms.size)
        sides = ("long",) if market.costs.market == "spot" else ("long", "both")
        others = [
            Policy(
                str(rng.choice(POLICIES)),
                enter=float(rng.choice([0.5, 0.55, 0.6])),
                exit=0.5,
                kelly_fraction=float(rng.choice([0.1, 1.0])),
                max_weight=float(rng.choice([0.5, 1.0, 30.0])),
                side=str(rng.choice(sides)),
            )
            for _ in range(6)
        ]
        return [market.policy, *others]

    def test_in_random_markets(self, traded):
        """Also where some of them are ruined and the others go on."""
        ruined = 0
        for market, alone in traded[::10]:
            policies = self.some_policies(market)
            together = market.trade(*policies)
            for k, policy in enumerate(policies):
                single = alone if k == 0 else market.trade(policy)
                for name in ("cash", "units", "fees", "traded", "funding", "blind_bars", "ruined"):
                    assert np.array_equal(getattr(together, name)[k], getattr(single, name)[0]), (name, policy)
                assert np.array_equal(together.equity[:, k], single.equity[:, 0]), policy
            ruined += len(set((together.ruined >= 0).tolist())) == 2
            assert together.fills == together.payments == ()
        assert ruined >= 1

    def test_with_more_symbols_than_a_vector_register_holds(self):
        """Sums over the symbols do not depend on the number of policies either."""
        rng = np.random.default_rng(0)
        bars = make_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.01, (60, 37)), axis=0)))
        targets = rng.choice([-1.0, 0.0, 1.0], (60, 9, 37)) * (rng.random((60, 9, 1)) < 0.5)
        costs = Costs(market="perp", impact=1.0, participation=None)
        together = simulate(bars, targets, costs, equity=1e4)

        for k in range(9):
            assert np.array_equal(
                simulate(bars, targets[:, k : k + 1], costs, equity=1e4).equity[:, 0], together.equity[:, k]
            )


class TestAccount:
    """What must hold in every market, whatever the policy."""

    def test_equity_follows_from_the_fills_alone(self, traded):
        """Cash and positions, at every bar: replayed from fills and funding events in a separate account."""
        # The replay sums exactly, which is slow: every fourth market.
        for market, got in traded[::4]:
            cash, units = replay(market.bars, got.fills, equity=market.settings.equity, funding=market.funding)
            end = int(got.ruined[0]) + 1 if got.ruined[0] >= 0 else len(cash)
            equity = cash + (units * market.bars.mark).sum(axis=1)

            assert np.abs(got.equity[:end, 0] - equity[:end]).max() <= EXACT * scale_of(got)
            assert abs(got.cash[0] - cash[end - 1]) <= EXACT * scale_of(got)
            assert (got.equity[end:, 0] == got.equity[end - 1, 0]).all()

    def test_equity_is_start_plus_gross_less_costs(self, traded):
        """At every bar; gross is what the positions earn from reference to reference."""
        for market, got in traded:
            bars = market.bars
            end = int(got.ruined[0]) + 1 if got.ruined[0] >= 0 else bars.ts_ms.size
            gross, costs = np.zeros(bars.ts_ms.size), np.zeros(bars.ts_ms.size)
            units = np.zeros(bars.open.shape)
            for fill in got.fills:
                gross[fill.bar] += fill.units * (bars.mark[fill.bar, fill.symbol_ix] - fill.reference)
                costs[fill.bar] += fill.fee + (fill.price - fill.reference) * fill.units
                units[fill.bar :, fill.symbol_ix] += fill.units
            gross[1:] += (units[:-1] * np.diff(bars.mark, axis=0)).sum(axis=1)
            for bar, paid in got.payments:
                costs[bar] += paid.sum()
            equity = market.settings.equity + np.cumsum(gross - costs)[:end]

            assert np.abs(got.equity[:end, 0] - equity).max() <= 1e-9 * scale_of(got)
            if end == bars.ts_ms.size:
                days = sum_by_day(bars, got, start=market.settings.equity)
                assert abs(days.gross.sum() - gross.sum()) <= 1e-9 * scale_of(got)
                assert abs((days.costs + days.funding).sum() - costs.sum()) <= 1e-9 * scale_of(got)

    def test_no_position_is_left_at_the_end(self, traded):
        """Each symbol is closed at its last bar; only a ruined account keeps its positions."""
        for market, got in traded:
            if got.ruined[0] < 0:
                assert (np.abs(got.units[0]) * market.bars.mark[-1] <= EXACT * scale_of(got)).all()
                assert abs(got.cash[0] - got.equity[-1, 0]) <= EXACT * scale_of(got)

    def test_a_fill_comes_a_whole_bar_after_its_decision(self, traded):
        """An order fills at the earliest one interval and its delay after the candle whose close decided it."""
        for market, got in traded:
            bars, step_ms = market.bars, market.settings.interval_ms
            for fill in got.fills:
                filled_ms = bars.ts_ms[fill.bar] + fill.at_close * step_ms
                delay_ms = 0 if fill.at_close else market.costs.delay_bars * step_ms
                assert filled_ms >= bars.ts_ms[fill.decided] + step_ms + delay_ms
                assert bars.exists[fill.bar, fill.symbol_ix]
                assert fill.bar <= bars.last[fill.symbol_ix]

    def test_a_fill_is_decided_where_the_weight_changes(self, traded):
        """With orders at the market; a limit order that is not filled is placed again."""
        for market, got in traded:
            if market.costs.fill == "maker":
                continue
            targets = market.targets()[:, 0, :]
            changes = np.diff(targets, axis=0, prepend=0.0) != 0
            assert all(changes[fill.decided, fill.symbol_ix] for fill in got.fills if not fill.at_close)

    def test_without_a_probability_nothing_is_decided(self, traded):
        """No fill goes back to a candle that has neither a probability nor a refusal."""
        unknown = 0
        for market, got in traded:
            bars = market.bars
            is_unknown = np.isnan(bars.p) & ~bars.refused
            unknown += int((is_unknown & bars.exists).sum())
            assert not any(is_unknown[fill.decided, fill.symbol_ix] for fill in got.fills if not fill.at_close)
        assert unknown > 100

    @pytest.mark.parametrize("name", POLICIES)
    def test_a_market_without_probabilities_never_trades(self, name):
        """NaN everywhere: the cash stays as it was."""
        market = random_market(7, policy=name, side="both", market="perp")
        bars = replace(market.bars, p=np.full_like(market.bars.p, np.nan), refused=np.zeros_like(market.bars.refused))
        market.bars = bars
        got = market.trade()

        assert not got.fills
        assert (got.equity == market.settings.equity).all()

    def test_no_order_exceeds_its_share_of_the_volume(self, traded):
        """Fills of a bar add up to at most the participation; the closing of the last bar does not."""
        for market, got in traded:
            if (share := market.costs.participation) is not None:
                volume = np.nan_to_num(market.bars.volume)
                assert all(
                    abs(fill.units) <= share * volume[fill.bar, fill.symbol_ix] * (1 + 1e-12)
                    for fill in got.fills
                    if not fill.at_close
                )


class TestNoFuture:
    """What comes later changes nothing before it."""

    @pytest.mark.parametrize("seed", range(0, 200, 2))
    def test_other_candles_after_a_bar_leave_all_before_it(self, seed):
        """Prices, volumes and probabilities after a bar: fills, equity and funding up to it stay bit for bit."""
        market = random_market(seed)
        rng = np.random.default_rng(seed)
        bars, cut = market.bars, int(rng.integers(1, market.bars.ts_ms.size))
        later = np.arange(bars.ts_ms.size)[:, None] >= cut
        factor = np.exp(rng.normal(0, 0.5, bars.open.shape))
        prices = {name: getattr(bars, name) for name in ("open", "high", "low", "close", "mark")}
        changed = {name: np.where(later, price * factor, price) for name, price in prices.items()}
        changed["volume"] = np.where(later, bars.volume * 3, bars.volume)
        changed["quote_volume"] = np.where(later, bars.quote_volume * 5, bars.quote_volume)
        changed["p"] = np.where(later, 1 - bars.p, bars.p)
        before = market.trade()
        market.bars = replace(bars, **changed)
        after = market.trade()

        assert [f for f in after.fills if f.bar < cut] == [f for f in before.fills if f.bar < cut]
        assert np.array_equal(after.equity[:cut], before.equity[:cut])
        assert [(b, p.tolist()) for b, p in after.payments if b < cut] == [
            (b, p.tolist()) for b, p in before.payments if b < cut
        ]

    @pytest.mark.parametrize("seed", range(1, 200, 2))
    def test_a_longer_range_begins_like_the_shorter_one(self, seed):
        """The same weeks have the same result when the range is longer, up to the closing of the shorter one."""
        market = random_market(seed)
        times = sorted(row.ts for found in market.rows.values() for row in found)
        # Every symbol has a candle before the cut.
        cut_ms = max(times[len(times) // 2], *(found[0].ts for found in market.rows.values()))
        rows = {symbol: [row for row in found if row.ts <= cut_ms] for symbol, found in market.rows.items()}
        short, long = Market(rows, market.events, market.settings), market
        # Until the first symbol that the cut shortens is closed.
        until = min(
            [int(last) for last, whole in zip(short.bars.last, long.bars.last, strict=True) if last < whole],
            default=len(short.bars.ts_ms),
        )
        a, b = short.trade(), long.trade()

        assert np.array_equal(a.equity[:until], b.equity[:until])
        assert [f for f in a.fills if f.bar < until] == [f for f in b.fills if f.bar < until]


class TestHolding:
    """Positions change only when the target weight changes."""

    @given(
        moves=st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=40),
        price=st.floats(1e-6, 1e6),
        equity=st.floats(1, 1e9),
    )
    def test_a_constant_weight_of_one_without_costs_is_buy_and_hold(self, moves, price, equity):
        """Exactly: units are bought at the second open, and kept until the last close."""
        close = price * np.exp(np.cumsum(moves))
        bars = make_bars(close)
        got = simulate(bars, hold(bars), NO_COSTS, equity=equity)
        units = equity / close[0]
        cash = equity - units * bars.open[1, 0]

        assert got.equity[0, 0] == equity
        assert np.array_equal(got.equity[1:-1, 0], cash + units * close[1:-1])
        assert got.equity[-1, 0] == cash + units * close[-1]
        assert [fill.units for fill in got.fills] == [units, -units]

    def test_a_weight_that_stays_is_not_sized_again(self):
        """Whatever the price does, an order comes only where the weight changes."""
        rng = np.random.default_rng(1)
        bars = make_bars(100 * np.exp(np.cumsum(rng.normal(0, 0.05, 200))))
        targets = np.repeat(rng.choice([-0.5, 0.0, 0.5, 1.0], 20), 10)[:, None, None]
        got = simulate(bars, targets, Costs(market="perp"), equity=1e4)
        changes = np.flatnonzero(np.diff(targets[:, 0, 0], prepend=0.0)) + 1

        assert [fill.bar for fill in got.fills if not fill.at_close] == changes[changes < 200].tolist()


class TestCosts:
    """Costs are applied to every fill, and only ever cost."""

    @settings(max_examples=40)
    @given(seed=st.integers(0, 10**6), data=st.data())
    def test_more_cost_never_raises_the_equity_of_fixed_orders(self, seed, data):
        """Fee, spread and slippage: each amount at each bar costs at least as much as a smaller one."""
        rng = np.random.default_rng(seed)
        bars = make_bars(50 * np.exp(np.cumsum(rng.normal(0, 0.03, (30, 2)), axis=0)))
        # Cash enough for every order, at every cost.
        units = np.where(rng.random((30, 2)) < 0.5, rng.normal(0, 10, (30, 2)), 0)
        less = {name: data.draw(st.floats(0, 50)) for name in ("taker_bps", "spread_bps", "slippage_bps")}
        more = {name: value + data.draw(st.sampled_from([0.0, 0.5, 30.0])) for name, value in less.items()}
        equities = []
        for amounts in (less, more):
            costs = replace(NO_COSTS, **amounts)
            targets = weights_for_units(bars, units, costs, equity=1e6)
            equities.append(simulate(bars, targets, costs, equity=1e6).equity[:, 0])

        assert (equities[1] <= equities[0] + 1e-6).all()

    def test_impact_costs_more_for_larger_accounts(self):
        """The same weights earn a smaller share on more money."""
        rng = np.random.default_rng(3)
        bars = make_bars(50 * np.exp(np.cumsum(rng.normal(0, 0.03, 40))))
        targets = rng.choice([0.0, 1.0], (40, 1, 1))
        costs = replace(NO_COSTS, impact=1.0)
        shares = [simulate(bars, targets, costs, equity=e).equity[-1, 0] / e for e in (1e2, 1e4, 1e6, 1e8)]

        assert shares == sorted(shares, reverse=True)
        assert len(set(shares)) == 4

    def test_a_long_pays_a_positive_rate_and_a_short_receives_it(self):
        """By hand: 10 units, marked at 100, pay 10 * 100 * 0.1 %."""
        bars = make_bars([100.0] * 5)
        funding = {"S00": np.array([[bars.ts_ms[2], 0.001], [bars.ts_ms[3], -0.002]])}
        for sign in (1, -1):
            got = simulate(bars, hold(bars, sign), NO_COSTS, equity=1_000.0, funding=funding)
            assert got.equity[:, 0].tolist() == [1_000.0, 1_000.0, *[1_000 - sign * 1.0], *[1_000 + sign * 1.0] * 2]
            assert got.funding.tolist() == [[-sign * 1.0]]

    def test_a_spot_account_pays_no_funding(self):
        """Funding is for perpetuals."""
        market = random_market(3, market="spot", side="long", policy="sign")

        assert market.trade().funding.tolist() == [[0.0] * len(market.bars.symbols)]

    def test_a_ruined_perpetual_account_trades_no_more(self):
        """By hand: short 10 units with 1,000; at 200 nothing is left, and a later fall brings nothing back."""
        bars = make_bars([100.0, 100.0, 150.0, 210.0, 50.0, 50.0])
        got = simulate(bars, hold(bars, -1.0), NO_COSTS, equity=1_000.0)

        assert got.equity[:, 0].tolist() == [1_000.0, 1_000.0, 500.0, -100.0, -100.0, -100.0]
        assert got.ruined.tolist() == [3]
        assert (got.cash.tolist(), got.units.tolist()) == ([2_000.0], [[-10.0]])


class TestUnits:
    """Names, order and units of measure do not matter."""

    @pytest.mark.parametrize("seed", range(60))
    def test_another_unit_of_a_symbol_changes_nothing(self, seed):
        """A price times 2**k and units by 2**k: every amount stays, bit for bit."""
        market = random_market(seed)
        factor = 2.0 ** np.random.default_rng(seed).integers(-9, 10, len(market.bars.symbols))
        a = market.trade()
        bars = market.bars
        prices = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close", "mark")}
        market.bars = replace(bars, volume=bars.volume / factor, **prices)
        b = market.trade()

        assert np.array_equal(a.equity, b.equity)
        assert np.array_equal(a.fees, b.fees)
        assert [(f.bar, f.units / factor[f.symbol_ix], f.price * factor[f.symbol_ix]) for f in a.fills] == [
            (f.bar, f.units, f.price) for f in b.fills
        ]

    @pytest.mark.parametrize("seed", range(60))
    def test_other_names_and_another_order_change_nothing(self, seed):
        """Symbols in another order, by other names: the same equity, but for the order of sums."""
        market = random_market(seed)
        names = sorted(market.rows)
        others = dict(zip(names, [f"{9 - i}{name}" for i, name in enumerate(names)], strict=True))
        per_symbol = {
            key: {others[name]: value for name, value in getattr(market.settings, key).items()}
            for key in ("move", "variance", "run_length")
        }
        renamed = Market(
            {others[name]: market.rows[name] for name in names},
            {others[name]: market.events[name] for name in names},
            replace(market.settings, **per_symbol),
        )
        a, b = market.trade(), renamed.trade()

        assert renamed.bars.symbols == tuple(others[name] for name in reversed(names))
        assert np.abs(a.equity - b.equity).max() <= EXACT * scale_of(a)
        assert len(a.fills) == len(b.fills)
        assert np.allclose(a.fees[0], b.fees[0, ::-1], rtol=1e-9, atol=EXACT * scale_of(a))

    @pytest.mark.parametrize("seed", range(20))
    def test_the_order_of_the_input_changes_no_bit(self, seed):
        """Symbols are sorted first."""
        market = random_market(seed)
        backwards = Market(dict(reversed(market.rows.items())), dict(reversed(market.events.items())), market.settings)

        assert np.array_equal(market.trade().equity, backwards.trade().equity)


class TestGaps:
    """Without a candle nothing fills; the position is kept, and counted as blind."""

    def test_an_order_waits_for_the_next_candle(self):
        """By hand: decided at bar 1, bars 2 and 3 are missing, filled at the open of bar 4 at 120."""
        bars = make_bars(
            [100.0, 100.0, 1.0, 1.0, 130.0, 130.0], open_=[100.0, 100.0, 1.0, 1.0, 120.0, 130.0],
            missing={(2, 0), (3, 0)},
        )  # fmt: skip
        targets = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0])[:, None, None]
        got = simulate(bars, targets, NO_COSTS, equity=1_000.0)

        assert [(fill.bar, fill.decided, fill.price) for fill in got.fills] == [(4, 1, 120.0), (5, 5, 130.0)]
        assert got.equity[:, 0].tolist() == [1_000.0, 1_000.0, 1_000.0, 1_000.0, 1_100.0, 1_100.0]
        assert got.blind_bars.tolist() == [[0]]

    def test_a_position_is_blind_in_a_gap(self):
        """Two bars are missing while a position is held; the last close marks."""
        bars = make_bars([100.0, 100.0, 110.0, 1.0, 1.0, 120.0], missing={(3, 0), (4, 0)})
        got = simulate(bars, hold(bars), NO_COSTS, equity=1_000.0)

        assert got.blind_bars.tolist() == [[2]]
        assert got.equity[:, 0].tolist() == [1_000.0, 1_000.0, 1_100.0, 1_100.0, 1_100.0, 1_200.0]


@pytest.mark.parametrize("path", sorted(ORDERS.glob("*.json")), ids=lambda path: path.stem)
def test_orders_give_the_equity_that_vectorbt_gives(path):
    """Equity at every close, fees and cash of orders at the open; `README.md` there says how they were made."""
    orders = json.loads(path.read_text())
    bars = make_bars(orders["close"], open_=orders["open"])
    held = np.array(orders["units"])
    # What is ordered for an open is decided at the close before; at the last close, all positions are closed.
    units = np.vstack([held[1:-1], held[-2:-1], held[-2:-1]])
    costs = replace(NO_COSTS, taker_bps=orders["fees"] * 1e4, slippage_bps=orders["slippage"] * 1e4)
    targets = weights_for_units(bars, units, costs, equity=orders["cash"])
    got = simulate(bars, targets, costs, equity=orders["cash"])

    assert len(got.fills) == np.count_nonzero(np.diff(held, axis=0, prepend=0.0))
    assert np.abs(got.equity[:, 0] / orders["equity"] - 1).max() <= 1e-12
    assert got.fees.sum() == pytest.approx(orders["fees_paid"], rel=1e-12)
    assert got.cash[0] == pytest.approx(orders["cash_left"], rel=1e-12)


def test_there_are_orders_of_vectorbt():
    """One and several symbols, with and without costs."""
    assert len(list(ORDERS.glob("*.json"))) == 5


def test_targets_of_another_shape_are_an_error():
    """A weight for each bar and symbol."""
    bars = make_bars([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="shape"):
        simulate(bars, np.zeros((2, 1, 1)), NO_COSTS, equity=1.0)


def test_limit_orders_fill_at_their_limit_or_not_at_all():
    """A bar must trade through the close of the decision, and the maker fee is paid."""
    number = 0
    for seed in range(120):
        market = random_market(seed, fill="maker", policy="sign")
        got = market.trade()
        bars = market.bars
        for fill in (each for each in got.fills if not each.at_close):
            limit = bars.close[fill.decided, fill.symbol_ix]
            low, high = bars.low[fill.bar, fill.symbol_ix], bars.high[fill.bar, fill.symbol_ix]
            assert fill.price == fill.reference == limit
            assert low < limit * (1 - 1e-4) if fill.units > 0 else high > limit * (1 + 1e-4)
            assert fill.fee == pytest.approx(abs(fill.units) * limit * market.costs.maker_bps / 1e4, rel=1e-12)
            number += 1
    assert number > 1_000


def test_a_closing_at_the_last_close_is_not_decided_there(traded):
    """Nothing is decided at a symbol's last candle, which nothing could fill."""
    for market, _ in traded[:50]:
        answered = find_answered(market.bars)
        assert not answered[market.bars.last, np.arange(len(market.bars.symbols))].any()
