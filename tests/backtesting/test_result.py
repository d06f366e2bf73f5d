"""The verdict of a backtest, in each of its cases."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mltrain.backtesting.costs import Costs
from mltrain.backtesting.performance import Days, _break_even_interval
from mltrain.backtesting.policies import Policy
from mltrain.backtesting.result import BacktestResult
from mltrain.times import DAY_MS
from mltrain.training.bootstrap import Interval, plan_bootstrap


def verdict(*, policy="cost-aware", traded=1_000.0, daily=None, break_even=None, ruined_ms=None, costs=None):
    """Return the verdict of a result with these figures."""
    performance = SimpleNamespace(traded=traded, daily_return=daily, break_even_bps=break_even, ruined_ms=ruined_ms)
    request = SimpleNamespace(costs=costs or Costs(taker_bps=5, maker_bps=2), policy=Policy(name=policy))
    return BacktestResult.verdict.fget(SimpleNamespace(performance=performance, request=request))


NOT_ABOVE_ZERO = "the interval of the daily return includes zero"
NO_GAIN = (
    "not tradable at fees of 5 bps taker: no expected gain exceeds the cost of 6 bps per side, so nothing was traded"
)
NO_PROBABILITY = (
    "not tradable at fees of 5 bps taker: no probability reached what the policy asks for, so nothing was traded"
)
AT_ONE = Interval(1.0, 0.5, 1.5)


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"ruined_ms": 1}, "ruined: the account was empty before the end, at fees of 5 bps taker"),
        ({"traded": 0.0}, NO_GAIN),
        ({"traded": 0.0, "policy": "threshold"}, NO_PROBABILITY),
        ({}, "not proven at fees of 5 bps taker: a result within one day has no interval"),
        (
            {"daily": Interval(-0.1, -0.2, 0.1), "break_even": AT_ONE},
            "not tradable at fees of 5 bps taker: it breaks even at 1.00 bps per side",
        ),
        (
            {"daily": Interval(0.1, 0.0, 0.2), "break_even": AT_ONE},
            f"not proven at fees of 5 bps taker: {NOT_ABOVE_ZERO}; it breaks even at 1.00 bps per side",
        ),
        (
            {"daily": Interval(0.1, 0.01, 0.2), "break_even": AT_ONE, "costs": Costs(maker_bps=2, fill="maker")},
            "profitable after fees of 2 bps maker; it breaks even at 1.00 bps per side",
        ),
    ],
)
def test_the_verdict(figures, sentence):
    """One sentence; of a single day, in which something was traded, it does not say that nothing was."""
    assert verdict(**figures) == sentence


def test_days_without_trades_do_not_pull_the_break_even_to_zero():
    """Traded on one day of twenty, always at 3 bps: no draw has another break-even, so the interval is that number."""
    day_ms = np.arange(20) * DAY_MS
    traded = np.zeros(20)
    traded[4] = 50_000.0
    nothing = np.zeros(20)
    days = Days(day_ms, nothing, nothing, gross=traded * 3e-4, traded=traded, costs=nothing, funding=nothing)
    found = _break_even_interval(days, plan_bootstrap(day_ms, draws=300, level=0.9, seed=1))

    assert (found.value, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0), rel=1e-12)
