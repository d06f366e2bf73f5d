"""A little of the simulation of the triggers; `python tests/chaos/triggers.py` is the whole."""

from __future__ import annotations

import numpy as np
import pytest

from chaos import triggers
from mltrain.monitoring.martingales import CALIBRATION, SKILL, Wealth
from mltrain.monitoring.outcomes import Outcome

BETS = {"calibration": CALIBRATION, "skill": SKILL}


@pytest.mark.parametrize("kind", BETS)
@pytest.mark.parametrize("horizon", [1, 5, 30])
def test_the_simulation_computes_what_the_triggers_compute(kind, horizon):
    """The vectorised wealth of every stream equals that of the incremental one, bar by bar."""
    walks = triggers.simulate(np.random.default_rng(horizon), 2, 600, horizon)
    p = walks.chance + 0.05
    found = triggers.sure_wealth(kind, p, walks.is_up, horizon)

    for stream in range(2):
        wealth, bar_by_bar = Wealth(BETS[kind], horizon), []
        for bar in range(600):
            outcomes = [Outcome(float(p[stream, bar]), int(walks.is_up[stream, bar]), 0.5)]
            wealth.bet(bar, BETS[kind].payoffs(outcomes, answered=1, tolerance=triggers.TOLERANCE))
            bar_by_bar.append(wealth.sure_wealth)
        np.testing.assert_allclose(found[stream], bar_by_bar, rtol=1e-9)


def test_planted_faults_are_found_by_name():
    """Each within its number of bars, and by no trigger that it does not concern."""
    found = triggers.run_faults()

    assert {name: (count, fired) for name, (count, _, fired) in found.items()} == {
        "feed frozen": (3, {"stale"}),
        "NaN features": (12, {"refused"}),
        "20 ms more": (11, {"latency"}),
        "exception in serving": (1, {"error"}),
        "two releases": (3, {"code"}),
        "one price only": (1001, {"calibration", "skill"}),
        "no price": (1000, {"loss"}),
        "a trigger fails": (2, {"error"}),
    }


@pytest.mark.parametrize("horizon", [1, 5, 30])
@pytest.mark.parametrize("bias", ["none", "too low", "exaggerated"])
def test_a_fair_model_is_left_alone(horizon, bias):
    """Twenty streams of ten days, without a false alarm of any trigger of bets, and of the account."""
    walks = triggers.simulate(np.random.default_rng(7), 20, 14_400, horizon)
    p = triggers.worst_fair(walks.chance, bias)

    for kind in BETS:
        assert triggers.sure_wealth(kind, p, walks.is_up, horizon).max() < 1000
    assert not triggers.find_losses(p, walks.moves).any()


def test_outcomes_that_overlap_would_alarm_without_residues():
    """The simulation is honest: one wealth for all bars of a horizon of 30 exceeds 1000 in many fair streams."""
    walks = triggers.simulate(np.random.default_rng(8), 20, 43_200, 30)
    as_if_separate = triggers.sure_wealth("calibration", walks.chance, walks.is_up, 1)

    assert (as_if_separate.max(axis=1) >= 1000).mean() > 0.2


def test_a_break_of_five_points_is_found_in_time():
    """Within 6,000 bars in at least 90 % of a few streams; the whole simulation asks for 95 %."""
    fault = next(fault for fault in triggers.FAULTS if fault.name == "5 points too high")
    found = triggers.find_delays(3, fault, streams=40, horizon=1, good_days=0, bars=9_000)

    assert (found["calibration"] <= 6_000).mean() >= 0.9
