"""Probabilistic and deflated Sharpe ratio, and the probability of backtest overfitting."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.backtesting.overfitting import expected_best_sharpe, overfitting_probability, probabilistic_sharpe


class TestProbabilisticSharpe:
    """P(true Sharpe ratio > benchmark), Bailey & López de Prado 2012."""

    @pytest.mark.parametrize(
        ("sharpe", "benchmark", "periods", "skew", "kurtosis", "expected"),
        [
            # Normal returns: z = 0.1 * sqrt(100) / sqrt(1 + 0.1² / 2) = 0.99751...
            (0.1, 0.0, 101, 0.0, 3.0, NormalDist().cdf(1 / math.sqrt(1.005))),
            # Nothing above the benchmark: one half, whatever the moments.
            (0.2, 0.2, 50, -1.0, 7.0, 0.5),
            # Fat left tail: 1 + 0.5 * 0.2 + 6 / 4 * 0.04 = 1.16.
            (0.2, 0.1, 401, -0.5, 7.0, NormalDist().cdf(0.1 * 20 / math.sqrt(1.16))),
            (-0.1, 0.0, 101, 0.0, 3.0, NormalDist().cdf(-1 / math.sqrt(1.005))),
        ],
    )
    def test_by_hand(self, sharpe, benchmark, periods, skew, kurtosis, expected):
        """The formula, term by term."""
        got = probabilistic_sharpe(sharpe, benchmark, periods=periods, skew=skew, kurtosis=kurtosis)

        assert got == pytest.approx(expected, rel=1e-12)

    def test_returns_too_extreme_for_the_formula_have_none(self):
        """A variance of zero or less under the root: NaN, and no warning."""
        assert math.isnan(probabilistic_sharpe(1.0, 0.0, periods=10, skew=3.0, kurtosis=1.0))
        assert math.isnan(probabilistic_sharpe(1.0, 0.0, periods=10, skew=1.0, kurtosis=1.0))

    @given(sharpe=st.floats(-1, 1), other=st.floats(0.001, 1), periods=st.integers(2, 5000), skew=st.floats(-1, 1))
    def test_it_falls_with_the_benchmark(self, sharpe, other, periods, skew):
        """In [0, 1], and lower for a higher benchmark."""
        low, high = (
            probabilistic_sharpe(sharpe, benchmark, periods=periods, skew=skew, kurtosis=6.0)
            for benchmark in (sharpe + other, sharpe - other)
        )

        assert 0 <= low <= 0.5 <= high <= 1


class TestDeflatedSharpe:
    """The best of several tries without skill is no evidence."""

    @pytest.mark.parametrize(("trials", "expected"), [(100, 0.9004), (88, 0.9102), (46, 0.9505)])
    def test_the_example_of_the_paper(self, trials, expected):
        """Annual Sharpe 2.5 in 1,250 days, 250 a year; skew -3, kurtosis 10, variance of the trials 1/2 a year.

        Bailey & López de Prado 2014, The Deflated Sharpe Ratio, section "A numerical example".
        """
        benchmark = expected_best_sharpe(0.5 / 250, trials)
        got = probabilistic_sharpe(2.5 / math.sqrt(250), benchmark, periods=1_250, skew=-3.0, kurtosis=10.0)

        assert round(got, 4) == expected

    def test_the_expected_best_is_that_of_normal_draws(self):
        """The mean of the largest of 50 standard normal numbers, times the deviation; the formula is off by < 2 %."""
        rng = np.random.default_rng(0)
        best = rng.normal(0, 0.3, (20_000, 50)).max(axis=1).mean()

        assert expected_best_sharpe(0.09, 50) == pytest.approx(best, rel=0.02)

    @pytest.mark.parametrize(("variance", "trials"), [(0.5, 1), (0.5, 0), (0.0, 100)])
    def test_without_a_choice_it_is_zero(self, variance, trials):
        """One trial, or trials that are all alike."""
        assert expected_best_sharpe(variance, trials) == 0.0


def count_naively(returns):
    """Return the probability of overfitting by CSCV with 16 blocks, one choice and one policy at a time."""
    days, policies = returns.shape
    blocks = [[day for day in range(days) if day * 16 // days == block] for block in range(16)]
    below = 0
    choices = list(combinations(range(16), 8))
    for chosen in choices:
        halves = []
        for inside in (True, False):
            rows = [day for block in range(16) if (block in chosen) == inside for day in blocks[block]]
            part = returns[rows]
            deviation = part.std(axis=0)
            halves.append([m / d if d > 1e-12 else 0.0 for m, d in zip(part.mean(axis=0), deviation, strict=True)])
        best = max(range(policies), key=lambda k: halves[0][k])
        outside = halves[1]
        rank = 1 + sum(x < outside[best] for x in outside) + (sum(x == outside[best] for x in outside) - 1) / 2
        share = rank / (policies + 1)
        below += math.log(share / (1 - share)) <= 0
    return below / len(choices)


class TestOverfittingProbability:
    """How often the best policy of one half of the days is below the median of the other half."""

    @pytest.mark.parametrize(("days", "policies"), [(32, 3), (37, 2), (50, 4)])
    def test_it_agrees_with_a_naive_loop(self, days, policies):
        """Over all 12,870 choices of eight of the 16 blocks, of unequal length where days do not divide."""
        returns = np.random.default_rng(days).normal(0.001, 0.02, (days, policies))

        assert overfitting_probability(returns) == pytest.approx(count_naively(returns), abs=1e-12)

    def test_noise_is_overfitting_half_of_the_time(self):
        """0.5 ± 0.1 over 100 draws of policies without skill."""
        rng = np.random.default_rng(1)
        found = [overfitting_probability(rng.normal(0, 0.01, (32, 4))) for _ in range(100)]

        assert abs(np.mean(found) - 0.5) <= 0.1
        assert min(found) < 0.3
        assert max(found) > 0.7

    def test_skill_is_no_overfitting(self):
        """One policy that is better on every day."""
        returns = np.random.default_rng(2).normal(0, 0.01, (160, 10))
        returns[:, 3] += 0.02

        assert overfitting_probability(returns) == 0.0

    def test_policies_that_trade_places_always_overfit(self):
        """Each is best in some blocks and worst in the others."""
        rng = np.random.default_rng(3)
        side = np.where(np.arange(160) // 10 % 2, 1.0, -1.0)
        returns = np.column_stack([side, -side]) * 0.01 + rng.normal(0, 1e-4, (160, 2))

        assert overfitting_probability(returns) > 0.9

    @pytest.mark.parametrize("shape", [(31, 5), (0, 5), (100, 1), (100, 0)])
    def test_too_little_to_say(self, shape):
        """Fewer than two days in each block, or no choice."""
        assert overfitting_probability(np.zeros(shape)) is None

    def test_policies_that_are_all_alike_prove_nothing(self):
        """The best is the median: as the paper counts it, overfit."""
        same = np.random.default_rng(4).normal(0.01, 0.01, (64, 1)).repeat(5, axis=1)

        assert overfitting_probability(same) == 1.0
        assert overfitting_probability(np.zeros((64, 5))) == 1.0

    def test_a_policy_that_does_not_vary_has_no_sharpe_ratio(self):
        """A rounding error of a constant return is no deviation: such a policy counts as zero, not as the best."""
        returns = np.random.default_rng(5).normal(0.004, 0.01, (48, 3))
        returns[:, 1] = 1e-3

        assert overfitting_probability(returns) == pytest.approx(count_naively(returns), abs=1e-12)
