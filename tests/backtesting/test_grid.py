"""Grids: their files, and many policies compared on the same bars."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mltrain.backtesting import grid
from mltrain.backtesting.costs import Costs
from mltrain.backtesting.engine import simulate
from mltrain.backtesting.grid import MAX_POLICIES, compare_policies, read_grid, tune
from mltrain.backtesting.performance import annual_sharpe, daily_equity, daily_returns, find_drawdown
from mltrain.backtesting.policies import Policy, find_answered, target_weights
from mltrain.errors import InputError
from support.backtests import make_bars, random_market

POLICY = Policy("threshold", enter=0.6, exit=0.55, side="both")


def read(text, policy=POLICY):
    return read_grid(text.encode(), policy, where="grid.yml")


class TestFile:
    """Lists of values by option; every combination is a policy."""

    @pytest.mark.parametrize(
        ("text", "policies"),
        [
            ("enter: [0.55, 0.7]", [replace(POLICY, enter=0.55), replace(POLICY, enter=0.7)]),
            (
                "enter: [0.6, 0.7]\nmax-weight: [0.5, 2]",
                [replace(POLICY, enter=e, max_weight=w) for e in (0.6, 0.7) for w in (0.5, 2)],
            ),
            # Options may be written as in Python, and the policy as on the command line.
            ("policy: [kelly]\nkelly_fraction: [0.1]", [replace(POLICY, name="kelly", kelly_fraction=0.1)]),
            ("side: [long]", [replace(POLICY, side="long")]),
            # The policies that are alike count once: sign has no `enter`.
            ("policy: [sign]\nenter: [0.6, 0.7]", [replace(POLICY, name="sign")]),
            ("enter: [0.6, 0.6, 0.6]", [POLICY]),
            # `enter` below `exit` is no policy, but others are.
            ("policy: [hysteresis]\nenter: [0.52, 0.6]\nexit: [0.5, 0.55]",
             [replace(POLICY, name="hysteresis", enter=0.52, exit=0.5), replace(POLICY, name="hysteresis", exit=0.5),
              replace(POLICY, name="hysteresis", exit=0.55)]),
        ],
    )  # fmt: skip
    def test_it_is_read(self, text, policies):
        """In the order of the file."""
        assert read(text) == tuple(policies)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "expected lists of values"),
            ("[0.5]", "expected lists of values"),
            ("enter: 0.5", "expected lists of values"),
            ("enter: []", "expected lists of values"),
            ("enter: {a: 1}", "expected lists of values"),
            ("enter: [0.5", "grid.yml"),
            ("entry: [0.5]", "entry"),
            ("1: [0.5]", "1"),
            ("enter: [high]", "enter"),
            ("enter: [[0.5]]", "enter"),
            ("policy: [luck]", "luck"),
            ("side: [short]", "short"),
            ("enter: [0.3, 1.5]", "gives no policy: enter is 1.5"),
            ("max-weight: [.nan]", "not a finite number"),
            ("max-weight: [1]\nmax_weight: [2]", "an option twice"),
            ("name: [sign]\npolicy: [kelly]", "an option twice"),
        ],
    )
    def test_what_is_no_grid_is_refused(self, text, message):
        """With the file's name."""
        with pytest.raises(InputError, match=message) as caught:
            read(text)

        assert "grid.yml" in caught.value.message

    @pytest.mark.parametrize("lengths", [(MAX_POLICIES + 1,), (32, 32), (2_048,) * 6])
    def test_too_many_are_refused_at_once(self, lengths):
        """Also 2**66, which is 0 in 64 bits."""
        options = {
            "enter": "0.6",
            "exit": "0.5",
            "max-weight": "1",
            "kelly-fraction": "0.1",
            "policy": "sign",
            "side": "long",
        }
        text = "\n".join(
            f"{key}: [{', '.join([value] * n)}]" for (key, value), n in zip(options.items(), lengths, strict=False)
        )
        with pytest.raises(InputError, match="policies, at most 1,000"):
            read(text)

    def test_as_many_as_allowed(self):
        """One thousand."""
        assert len(read(f"enter: [{', '.join(str(0.6 + i / 10_000) for i in range(MAX_POLICIES))}]")) == MAX_POLICIES


class TestCompare:
    """Each row is what its policy earns alone."""

    @pytest.mark.parametrize("seed", range(0, 60, 3))
    def test_rows_are_those_of_single_runs(self, seed):
        """Return, Sharpe, drawdown at the ends of days, turnover, fees; and the daily returns."""
        market = random_market(seed)
        side = "long" if market.costs.market == "spot" else "both"
        policies = [
            Policy(name, enter=e, exit=0.5, side=side)
            for name in ("sign", "threshold", "kelly", "cost-aware")
            for e in (0.5, 0.6)
        ]
        start = market.settings.equity
        rows, returns = compare_policies(
            market.bars, policies, market.costs, start=start, statistics=market.statistics, funding=market.funding
        )
        for k, (row, policy) in enumerate(zip(rows, policies, strict=True)):
            alone = market.trade(policy)
            _, equity = daily_equity(market.bars, alone.equity[:, 0])
            curve = np.concatenate([[start], equity])
            sharpe = float(annual_sharpe(daily_returns(equity, start)))

            assert row.policy == policy
            assert row.net_return == alone.equity[-1, 0] / start - 1
            assert row.sharpe == (None if np.isnan(sharpe) else pytest.approx(sharpe, rel=1e-9))
            assert row.drawdown == pytest.approx((1 - curve / np.maximum.accumulate(curve)).max(), abs=1e-12)
            assert row.fees == alone.fees.sum()
            mean = np.maximum(equity, 0).mean()
            assert row.turnover == pytest.approx(alone.traded.sum() / equity.size / mean if mean else 0.0, rel=1e-12)
            assert np.array_equal(returns[:, k], daily_returns(equity, start))
            whole = find_drawdown(market.bars, alone.equity[:, 0], start=start)
            # Of a debt, the share of a higher peak is smaller.
            assert equity.min() <= 0 or row.drawdown <= (whole.share if whole else 0) + 1e-12

    @pytest.mark.parametrize("held", [1, 500, 10**9])
    def test_it_does_not_matter_how_many_are_held_in_memory(self, monkeypatch, held):
        """One by one, some at a time, all at once."""
        market = random_market(4)
        policies = [Policy("threshold", enter=e, exit=0.5, side="long") for e in (0.5, 0.52, 0.55, 0.6, 0.7)]

        def compare():
            return compare_policies(
                market.bars, policies, market.costs, start=1.0, statistics=None, funding=market.funding
            )

        rows, returns = compare()
        monkeypatch.setattr(grid, "_MAX_TARGETS", held)
        again, same = compare()

        assert again == rows
        assert np.array_equal(same, returns)


class TestTune:
    """`enter` and `exit` of the highest Sharpe ratio on the rows of the training."""

    @staticmethod
    def market(seed, edge):
        """Return bars in which p is right by `edge`, more so the further it is from one half."""
        rng = np.random.default_rng(seed)
        p = np.clip(0.5 + rng.normal(0, 0.04, 600), 0, 1)
        moves = rng.normal(0, 0.01, 600)
        moves[1:] += edge * (p[:-1] - 0.5)
        return make_bars(100 * np.exp(np.cumsum(moves)), p=p, step_ms=4 * 3_600_000)

    @pytest.mark.parametrize("name", ["threshold", "hysteresis"])
    def test_it_is_the_best_of_all(self, name):
        """By trying each."""
        bars = self.market(1, 0.3)
        policy = Policy(name, max_weight=0.7, side="both")
        costs = Costs(market="perp", participation=None)
        funding = {symbol: np.zeros((0, 2)) for symbol in bars.symbols}
        got = tune(bars, policy, costs, start=1e4, funding=funding)
        exits = (0.5, 0.505, 0.51, 0.52) if name == "hysteresis" else (policy.exit,)
        sharpes = {}
        for enter in (round(0.505 + i * 0.005, 3) for i in range(20)):
            for leave in exits:
                if leave <= enter:
                    tried = replace(policy, enter=enter, exit=leave)
                    targets = target_weights(bars, [tried], statistics=None, cost=0.0)
                    equity = simulate(bars, targets, costs, equity=1e4, answered=find_answered(bars)).equity[:, 0]
                    sharpes[tried] = np.nan_to_num(annual_sharpe(daily_returns(daily_equity(bars, equity)[1], 1e4)))

        assert sharpes[got] == pytest.approx(max(sharpes.values()), rel=1e-9)
        assert sharpes[got] > 1
        assert (got.name, got.max_weight, got.side) == (name, 0.7, "both")

    def test_where_nothing_earns_the_least_is_traded(self):
        """No skill and a high fee: the highest `enter`."""
        bars = self.market(2, 0.0)
        costs = Costs(market="perp", taker_bps=200, participation=None)
        got = tune(bars, Policy("threshold", side="both"), costs, start=1e4, funding=None)

        assert got.enter == 0.6

    def test_where_nothing_is_traded_the_highest_enter_is_chosen(self):
        """All are alike."""
        bars = make_bars(np.exp(np.cumsum(np.full(60, 0.001))), p=0.501)

        assert tune(bars, Policy("threshold"), Costs(), start=1e4, funding=None).enter == 0.6
