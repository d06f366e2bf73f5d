"""Policies: from probabilities to target weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.backtesting.policies import NEED_MOVES, POLICIES, MoveStatistics, Policy, find_answered, target_weights
from mltrain.errors import UsageError
from support import naive_backtest
from support.backtests import make_bars

NAN = math.nan
NONE = None
MOVES = MoveStatistics(mean_move=0.01, variance=0.0004, run_bars=3.0, horizon_bars=1)


def weights(policy, ps, *, statistics=MOVES, cost=0.0):
    """Return the target weight after each close; None is a refusal. A last bar is added: nothing is decided there."""
    refused = {(bar, 0) for bar, p in enumerate(ps) if p is None}
    p = [NAN if each is None else each for each in ps] + [NAN]
    bars = make_bars(np.full(len(p), 100.0), p=p, refused=refused)
    return target_weights(bars, [policy], statistics=[statistics], cost=cost)[:-1, 0, 0].tolist()


class TestByHand:
    """Each policy, one sequence of probabilities at a time."""

    @pytest.mark.parametrize(
        ("policy", "ps", "expected"),
        [
            (Policy("sign", side="both"), [0.5, 0.6, 0.500001, 0.4, 0.5, 0.0, 1.0], [0, 1, 1, -1, 0, -1, 1]),
            (Policy("sign", side="long", max_weight=2), [0.6, 0.4, 0.5], [2, 0, 0]),
            # In only beyond `enter`, on either side; at it is not beyond.
            (Policy("threshold", enter=0.75, side="both"), [0.75, 0.76, 0.6, 0.25, 0.24, 0.5], [0, 1, 0, 0, -1, 0]),
            (Policy("threshold", enter=0.75, max_weight=0.5), [0.8, 0.1], [0.5, 0]),
            # In at `enter`; a long goes out below 1 - exit, not at it; a short above exit.
            (
                Policy("hysteresis", enter=0.75, exit=0.625, side="both"),
                [0.7, 0.75, 0.5, 0.375, 0.37, 0.6, 0.25, 0.5, 0.625, 0.63, 0.5],
                [0, 1, 1, 1, 0, 0, -1, -1, -1, 0, 0],
            ),
            # From long to short at once.
            (Policy("hysteresis", enter=0.75, exit=0.5, side="both"), [0.9, 0.1, 0.9], [1, -1, 1]),
            # One half is neither side, also where `enter` is one half.
            (Policy("hysteresis", enter=0.5, exit=0.5, side="both"), [0.5, 0.6, 0.5, 0.4, 0.5], [0, 1, 1, -1, -1]),
            # fraction * (2p - 1) * move / variance = 0.25 * 0.2 * 0.01 / 0.0004 = 1.25.
            (Policy("kelly", max_weight=5, side="both"), [0.6, 0.4, 0.5, 1.0], [1.25, -1.25, 0, 5]),
            (Policy("kelly", max_weight=1, side="long"), [0.6, 0.4, 0.52], [1, 0, 0.25]),
            (Policy("kelly", kelly_fraction=1, max_weight=50, side="both"), [0.6, 1.0], [5, 25]),
        ],
        ids=str,
    )
    def test_by_hand(self, policy, ps, expected):
        """The weight after each close."""
        assert weights(policy, ps) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(
        ("cost", "expected"),
        [
            # (2p - 1) * move * run / horizon: 0.6 -> 0.006, 0.7 -> 0.012, 0.3 -> 0.012, 0.45 -> 0.003.
            (0.0, [1, 1, -1, -1, 1, 1]),
            (0.005, [1, 1, -1, -1, 1, 1]),
            # Strictly above: what is gained is what it costs.
            (0.0065, [0, 1, -1, -1, -1, 1]),
            (0.0125, [0, 0, 0, 0, 0, 0]),
        ],
    )
    def test_cost_aware_changes_only_what_pays_for_itself(self, cost, expected):
        """By hand; between, the position stays as it is."""
        policy = Policy("cost-aware", side="both")

        assert weights(policy, [0.6, 0.7, 0.3, 0.45, 0.6, 0.7], cost=cost) == expected

    def test_cost_aware_divides_by_the_horizon(self):
        """The edge is that of three bars, the run is of three bars: no more than the edge."""
        slow = replace(MOVES, horizon_bars=3)

        assert weights(Policy("cost-aware"), [0.6], statistics=slow, cost=0.0019) == [1]
        assert weights(Policy("cost-aware"), [0.6], statistics=slow, cost=0.0021) == [0]

    @pytest.mark.parametrize("variance", [0.0, -1.0, NAN])
    def test_kelly_without_a_variance_stays_out(self, variance):
        """And warns of no division by zero."""
        assert weights(Policy("kelly"), [0.9], statistics=replace(MOVES, variance=variance)) == [0]

    @pytest.mark.parametrize("name", NEED_MOVES)
    def test_unknown_moves_trade_nothing(self, name):
        """A symbol without training rows."""
        assert weights(Policy(name), [0.9, 0.99], statistics=MoveStatistics(NAN, NAN, NAN, 1)) == [0, 0]


class TestRefusals:
    """Three refused candles keep the position; from the fourth on it is closed."""

    @pytest.mark.parametrize("name", POLICIES)
    def test_by_hand(self, name):
        """An answer begins the count again."""
        ps = [0.9, NONE, NONE, NONE, 0.9, NONE, NONE, NONE, NONE, NONE, 0.9]
        got = weights(Policy(name, enter=0.6), ps)

        assert [weight > 0 for weight in got] == [True] * 8 + [False] * 2 + [True]

    @pytest.mark.parametrize("name", POLICIES)
    def test_a_candle_without_probability_is_neither(self, name):
        """NaN changes nothing, however often, and counts as no refusal nor as an answer."""
        policy = Policy(name, enter=0.6)

        assert weights(policy, [0.9] + [NAN] * 9)[-1] > 0
        assert weights(policy, [0.9, NONE, NONE, NAN, NAN, NONE])[-1] > 0
        assert weights(policy, [0.9, NONE, NONE, NAN, NONE, NONE])[-1] == 0

    @pytest.mark.parametrize(("first", "sign"), [(0.9, 1), (0.1, -1)])
    def test_a_position_that_refusals_closed_is_not_taken_up_again(self, first, sign):
        """Hysteresis keeps what it has, and it has nothing: until p is beyond `enter` again."""
        ps = [first, NONE, NONE, NONE, NONE, 0.5, 0.5, first]

        assert weights(Policy("hysteresis", side="both"), ps) == [sign] * 4 + [0, 0, 0, sign]

    def test_nothing_is_decided_before_the_fourth_refusal_or_at_the_end(self):
        """By hand: bars with an answer, a late refusal, and the last bar."""
        ps = [NAN, 0.5, NONE, NONE, NONE, NONE, NONE, 0.6, 0.6]
        refused = {(bar, 0) for bar, p in enumerate(ps) if p is None}
        bars = make_bars(np.ones(9), p=[NAN if p is None else p for p in ps], refused=refused)

        assert np.flatnonzero(find_answered(bars)[:, 0]).tolist() == [1, 5, 6, 7]

    def test_a_missing_candle_is_no_refusal(self):
        """Gaps do not count."""
        refused = {(bar, 0) for bar in (1, 2, 5, 6)}
        p = [0.9, NAN, NAN, NAN, NAN, NAN, NAN, NAN]
        bars = make_bars(np.ones(8), p=p, refused=refused, missing={(3, 0), (4, 0)})

        assert np.flatnonzero(find_answered(bars)[:, 0]).tolist() == [0, 6]


PS = st.lists(
    st.sampled_from([0.0, 0.4, 0.45, 0.5, 0.55, 0.6, 1.0, NAN, None]) | st.floats(0, 1), min_size=1, max_size=30
)
CHOICES = st.builds(
    Policy,
    st.sampled_from(POLICIES),
    enter=st.sampled_from([0.55, 0.6]),
    exit=st.sampled_from([0.5, 0.55]),
    kelly_fraction=st.sampled_from([0.01, 0.25, 1.0]),
    max_weight=st.sampled_from([0.5, 1.0, 3.0]),
    side=st.sampled_from(["long", "both"]),
)  # fmt: skip


class TestLaws:
    """For every policy."""

    @settings(max_examples=150)
    @given(policy=CHOICES, ps=PS, cost_bps=st.sampled_from([0.0, 5.0, 60.0, 200.0]))
    def test_it_agrees_with_a_naive_loop(self, policy, ps, cost_bps):
        """One close after the other, as the naive backtest decides."""
        options = naive_backtest.Settings(
            interval_ms=1,
            policy=policy.name,
            enter=policy.enter,
            exit=policy.exit,
            kelly_fraction=policy.kelly_fraction,
            max_weight=policy.max_weight,
            side=policy.side,
            taker_bps=cost_bps,
            slippage_bps=0.0,
            move={"A": MOVES.mean_move},
            variance={"A": MOVES.variance},
            run_length={"A": MOVES.run_bars},
        )
        state, expected = naive_backtest.State(), []
        for p in ps:
            naive_backtest.decide(state, "A", naive_backtest.Bar(0, 1, 1, 1, 1, 1, 1, p), 1.0, options)
            expected.append(state.weight)

        assert weights(policy, ps, cost=cost_bps / 1e4) == pytest.approx(expected, rel=1e-12)

    @given(policy=CHOICES, ps=PS)
    def test_no_weight_exceeds_the_largest(self, policy, ps):
        """Nor is one below zero if only long positions are taken."""
        got = weights(policy, ps)

        assert max(map(abs, got)) <= policy.max_weight
        assert policy.side == "both" or min(got) >= 0

    @given(policy=CHOICES, ps=PS, more=PS)
    def test_later_probabilities_change_nothing_before(self, policy, ps, more):
        """The weights of a longer sequence begin with those of the shorter one."""
        assert weights(policy, ps + more)[: len(ps)] == weights(policy, ps)

    @given(policies=st.lists(CHOICES, min_size=1, max_size=5), ps=PS)
    def test_many_policies_are_computed_as_one(self, policies, ps):
        """Column by column."""
        bars = make_bars(np.ones(len(ps)), p=[NAN if p is None else p for p in ps])
        together = target_weights(bars, policies, statistics=[MOVES], cost=0.001)
        for k, policy in enumerate(policies):
            alone = target_weights(bars, [policy], statistics=[MOVES], cost=0.001)
            assert np.array_equal(together[:, k], alone[:, 0])

    @given(ps=st.lists(st.floats(0, 1), min_size=2, max_size=20), name=st.sampled_from(POLICIES))
    def test_the_opposite_probabilities_give_the_opposite_weights(self, ps, name):
        """Long and short are treated alike; p in steps of 1/1024, whose complement is exact."""
        ps = [round(p * 1024) / 1024 for p in ps]
        policy = Policy(name, enter=0.5625, exit=0.53125, side="both")

        assert weights(policy, [1 - p for p in ps]) == [-weight for weight in weights(policy, ps)]


class TestOptions:
    """Options that mean nothing are refused, all of them at once."""

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"name": "luck"}, "policy is luck: expected one of cost-aware"),
            ({"enter": 0.49}, "enter is 0.49"),
            ({"enter": 1.01}, "enter is 1.01"),
            ({"enter": NAN}, "enter is nan"),
            ({"exit": 0.49}, "exit is 0.49"),
            (
                {"name": "hysteresis", "enter": 0.52, "exit": 0.53},
                "exit is 0.53: expected a probability from 0.5 to 0.52",
            ),
            ({"exit": NAN}, "exit is nan"),
            ({"kelly_fraction": 0.0}, "kelly-fraction is 0.0"),
            ({"kelly_fraction": 1.5}, "kelly-fraction is 1.5"),
            ({"kelly_fraction": NAN}, "kelly-fraction is nan"),
            ({"max_weight": 0.0}, "max-weight is 0.0"),
            ({"max_weight": -1.0}, "max-weight is -1.0"),
            ({"max_weight": math.inf}, "max-weight is inf"),
        ],
    )
    def test_what_is_wrong_is_named(self, options, problem):
        """With its value."""
        with pytest.raises(UsageError) as caught:
            Policy(**options)

        assert problem in caught.value.message

    def test_all_that_is_wrong_is_named_at_once(self):
        """Separated by semicolons."""
        with pytest.raises(UsageError) as caught:
            Policy("luck", enter=2.0, kelly_fraction=9.0, max_weight=0.0)

        assert len(caught.value.message.split("; ")) == 4

    def test_the_text_names_what_the_policy_uses(self):
        """Two policies that trade alike have the same text."""
        assert str(Policy("sign", enter=0.6)) == str(Policy("sign", enter=0.7)) == "sign, max-weight 1, long"
        assert str(Policy("hysteresis")) == "hysteresis, enter 0.53, exit 0.505, max-weight 1, long"
