from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.monitoring.martingales import CALIBRATION, SKILL, Bets, Wealth, calibration_payoffs
from mltrain.monitoring.outcomes import Outcome

KINDS = {"calibration": CALIBRATION, "skill": SKILL}
PROBABILITIES = st.floats(0, 1)
OUTCOMES = st.builds(Outcome, PROBABILITIES, st.integers(0, 1), st.floats(0.01, 0.99))
BARS = st.lists(st.lists(OUTCOMES, min_size=1, max_size=4), max_size=30)
TOLERANCE = 0.01
# Stakes everything on each of two payoffs.
BOLD = Bets("", calibration_payoffs, 2, (1.0,), (1.0,), ())


def naive_payoffs(kind, outcomes, answered):
    """Return the payoffs of a bar straight from the formulas."""
    if kind == "skill":
        gains = []
        for stated, y, base in outcomes:
            p = min(max(stated, 1e-6), 1 - 1e-6)
            of_model, of_base = (p, base) if y else (1 - p, 1 - base)
            allowed = 1 + TOLERANCE * abs(base / p - (1 - base) / (1 - p))
            gains.append(of_base / of_model / allowed - 1)
        return [sum(gains) / answered]
    sides = [(p, y, np.sign(p - base)) for p, y, base in outcomes]
    return [
        sum(sign * side**power * (y - p) - TOLERANCE for p, y, side in sides) / answered / (1 + TOLERANCE)
        for power in (0, 1)
        for sign in (1, -1)
    ]


def naive_wealth(kind, bars, horizon):
    """Return the weighted mean of the products of 1 + share x payoff, and the same with every open bet lost."""
    bets, shares_at = KINDS[kind], []
    paid = [naive_payoffs(kind, outcomes, len(outcomes) + 1) for outcomes in bars]

    def shares(payoff, known):
        """Return the shares staked on a payoff when so many bars are settled."""
        chosen = []
        for half_life in bets.half_lives:
            mean, square = 0.0, 1.0
            for payoffs in paid[: max(0, known)]:
                rate = 1 - 2 ** (-1 / half_life)
                mean, square = mean + rate * (payoffs[payoff] - mean), square + rate * (payoffs[payoff] ** 2 - square)
            chosen.append(min(max(mean / square, 0), 0.5))
        return [*bets.shares, *chosen]

    wealth, sure = [], []
    for payoff in range(bets.count):
        shares_at = [shares(payoff, bar - horizon + 1) for bar in range(len(bars) + horizon)]
        for residue in range(horizon):
            for bet in range(len(shares_at[0])):
                product, bar = 1.0, residue
                while bar < len(bars):
                    product *= 1 + shares_at[bar][bet] * paid[bar][payoff]
                    bar += horizon
                weight = bets.weights[bet] / bets.count / horizon
                wealth.append(weight * product)
                sure.append(weight * product * (1 - shares_at[bar][bet] if horizon > 1 else 1))
    return sum(wealth), sum(sure)


def wealth_of(kind, bars, horizon=1):
    """Return the wealth after some bars."""
    wealth = Wealth(KINDS[kind], horizon)
    for number, outcomes in enumerate(bars):
        wealth.bet(number, KINDS[kind].payoffs(outcomes, answered=len(outcomes) + 1, tolerance=TOLERANCE))
    return wealth


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("horizon", [1, 3])
@settings(max_examples=30)
@given(bars=BARS)
def test_wealth_equals_the_naive_product(kind, horizon, bars):
    """Also the shares, which depend on the bars that are settled when the bet is made."""
    found = wealth_of(kind, bars, horizon)
    wealth, sure = naive_wealth(kind, bars, horizon)

    assert found.wealth == pytest.approx(wealth, rel=1e-9)
    assert found.sure_wealth == pytest.approx(sure, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@given(bars=BARS, horizon=st.integers(1, 5), data=st.data())
def test_wealth_is_never_negative_and_ignores_the_order_of_symbols(kind, bars, horizon, data):
    """It is 1 at the start, and shuffling the symbols of each bar changes no bit."""
    shuffled = [data.draw(st.permutations(outcomes)) for outcomes in bars]
    found, again = wealth_of(kind, bars, horizon), wealth_of(kind, shuffled, horizon)

    assert wealth_of(kind, [], horizon).wealth == pytest.approx(1)
    assert found.wealth * (1 + 1e-12) >= found.sure_wealth >= 0
    assert (found.wealth, found.sure_wealth) == (again.wealth, again.sure_wealth)


@pytest.mark.parametrize("kind", KINDS)
@given(p=st.floats(0.02, 0.98), base=st.floats(0.02, 0.98), error=st.floats(-TOLERANCE, TOLERANCE))
def test_no_payoff_pays_on_average_within_the_tolerance(kind, p, base, error):
    """For every probability, base rate and error of up to the tolerance the mean payoff is at most 0."""
    of_y = [KINDS[kind].payoffs([Outcome(p, y, base)], answered=1, tolerance=TOLERANCE) for y in (0, 1)]
    mean = (1 - p - error) * of_y[0] + (p + error) * of_y[1]

    assert (mean <= 1e-12).all()
    assert (np.array(of_y) >= -1).all()


def test_wealth_beyond_the_largest_float_is_infinite():
    """Products that overflow stay in logarithms, so that the wealth of the other bets is not lost."""
    wealth = Wealth(BOLD, 1)
    for bar in range(2_000):
        wealth.bet(bar, np.array([1.0, 1.0]))
    wealth.bet(2_000, np.array([0.0, -1.0]))

    assert wealth.wealth == math.inf
    wealth.bet(2_001, np.array([-1.0, 0.0]))
    assert wealth.wealth == 0


def test_a_bet_that_loses_everything_stays_at_nothing():
    """The other bets go on."""
    wealth = Wealth(BOLD, 1)
    wealth.bet(0, np.array([-1.0, 0.0]))
    wealth.bet(1, np.array([1.0, 1.0]))

    assert wealth.wealth == pytest.approx((0 + 2) / 2)


def test_what_is_not_a_number_stays_not_a_number():
    """A probability that is NaN makes the wealth NaN, which is a breach."""
    outcomes = [Outcome(math.nan, 1, 0.5)]
    for bets in KINDS.values():
        wealth = Wealth(bets, 2)
        wealth.bet(0, bets.payoffs(outcomes, answered=1, tolerance=TOLERANCE))
        wealth.bet(1, np.zeros(bets.count))

        assert math.isnan(wealth.wealth)
        assert math.isnan(wealth.sure_wealth)
