from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.config import GateConfig
from mltrain.guards import GuardResult
from mltrain.learn.intervals import Interval
from mltrain.models.gates import (
    REQUIRED_GUARDS,
    ChampionEvidence,
    Evidence,
    NotApplicable,
    NotEvaluated,
    Origin,
    SkillEvidence,
    find_loosened,
    judge,
)

CONFIG = GateConfig(
    accuracy_margin_pp=2.0,
    log_loss_skill_percent=1.0,
    base_rate_low=0.4,
    base_rate_high=0.6,
    ece_max=0.1,
    latency_p95_ms=80.0,
    champion_margin=0.0005,
    champion_gain_share=0.1,
    champion_min_days=10,
)
SKILL = SkillEvidence(0.5, Interval(0.03, 0.01, 0.05), Interval(0.02, 0.005, 0.03))
CHAMPION = ChampionEvidence("2025-10-14", Interval(0.0001, -0.0004, 0.0005), champion_gain=0.002, days=12)
NAMES = ("skill", "calibration", "latency", "leakage", "champion", "simulated_never_replaces_real")
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def guards(**passed):
    verdicts = dict.fromkeys(REQUIRED_GUARDS, True) | passed
    return tuple(
        GuardResult(name=name, passed=ok, checks=(), failures=(), warnings=(), seconds=0.1)
        for name, ok in verdicts.items()
        if ok is not None
    )


def ece(value):
    return Interval(value, value / 2, value * 2)


GOOD = Evidence(
    skill=SKILL, ece=ece(0.01), latency_p95_ms=4.0, guards=guards(), champion=CHAMPION, origin=Origin(False, "real")
)


def outcome(name, **changes):
    verdict = judge(replace(GOOD, **changes), CONFIG)
    (found,) = (o for o in verdict.outcomes if o.name == name)
    assert verdict.go == (found.outcome != "failed")
    return found


def skill(base_rate=0.5, margin=(0.03, 0.01), gain=(0.02, 0.005)):
    return SkillEvidence(base_rate, Interval(*margin, 1.0), Interval(*gain, 1.0))


def champion(low, *, champion_gain=0.0, days=12):
    return replace(CHAMPION, gain=Interval(low + 0.001, low, low + 0.002), champion_gain=champion_gain, days=days)


def test_good_evidence_is_go():
    """With everything in order every gate has passed, in its fixed place."""
    verdict = judge(GOOD, CONFIG)

    assert verdict.go
    assert verdict.word == "GO"
    assert tuple(o.name for o in verdict.outcomes) == NAMES
    assert all(o.outcome == "passed" for o in verdict.outcomes)
    assert all(o.margin is None or o.margin >= 0 for o in verdict.outcomes)


@pytest.mark.parametrize("name", ["skill", "ece", "latency_p95_ms", "guards", "champion"])
def test_what_could_not_be_evaluated_has_failed(name):
    """Missing evidence fails its gate with the reason; no gate can be left out."""
    verdict = judge(replace(GOOD, **{name: NotEvaluated("the disk was full")}), CONFIG)

    (failed,) = verdict.failed
    assert not verdict.go
    assert verdict.word == "NO-GO"
    assert failed.reason == "the disk was full"
    assert tuple(o.name for o in verdict.outcomes) == NAMES


@pytest.mark.parametrize(
    ("evidence", "passed"),
    [
        (skill(margin=(0.02, 1e-9)), True),
        (skill(margin=(0.0199, 0.01)), False),
        (skill(margin=(0.05, 0.0)), False),
        (skill(margin=(0.05, -0.001)), False),
        (skill(margin=(0.05, 0.01), gain=(-1.0, -1.0)), True),
        (skill(0.4, margin=(0.05, 0.01), gain=(-1.0, -1.0)), True),
        (skill(0.39, margin=(-1.0, -1.0), gain=(0.01, 1e-9)), True),
        (skill(0.61, margin=(0.3, 0.2), gain=(0.0099, 0.005)), False),
        (skill(0.61, margin=(0.3, 0.2), gain=(0.02, 0.0)), False),
        (skill(0.0), False),
        (skill(1.0), False),
    ],
)
def test_skill_is_accuracy_near_half_and_log_loss_elsewhere(evidence, passed):
    """Between 40 and 60 % ups accuracy counts, beyond it log loss; each needs its margin and a lower end above 0."""
    assert outcome("skill", skill=evidence).outcome == ("passed" if passed else "failed")


def test_a_failed_gate_says_by_how_much():
    """The margin is the distance to the nearer of its two conditions, in the target's unit."""
    short = outcome("skill", skill=skill(margin=(0.0125, 0.01)))
    unsure = outcome("skill", skill=skill(margin=(0.03, -0.002)))

    assert (short.value, short.margin) == (pytest.approx(1.25), pytest.approx(-0.75))
    assert (unsure.low, unsure.margin) == (pytest.approx(-0.2), pytest.approx(-0.2))
    assert "2 pp" in short.target


@pytest.mark.parametrize(
    ("name", "field", "limit", "figure"),
    [("calibration", "ece", 0.1, ece), ("latency", "latency_p95_ms", 80.0, float)],
)
def test_a_ceiling_holds_at_the_limit_and_not_above(name, field, limit, figure):
    """A figure equal to its limit passes by 0; one above it, or below zero, fails. Its interval changes nothing."""
    at = outcome(name, **{field: figure(limit)})
    above = outcome(name, **{field: figure(limit * 1.25)})

    assert (at.outcome, at.margin) == ("passed", 0)
    assert (above.outcome, above.margin) == ("failed", pytest.approx(-limit / 4))
    assert outcome(name, **{field: figure(-0.001)}).margin == -0.001


def test_every_figure_that_has_an_interval_tells_it():
    """In the unit of its target: pp of accuracy, ECE, nats; latency has none."""
    told = {o.name: (o.low, o.high) for o in judge(GOOD, CONFIG).outcomes}

    assert told["skill"] == (SKILL.accuracy_margin.low * 100, SKILL.accuracy_margin.high * 100)
    assert told["calibration"] == (0.005, 0.02)
    assert told["champion"] == (CHAMPION.gain.low, CHAMPION.gain.high)
    assert told["latency"] == told["leakage"] == (None, None)


@pytest.mark.parametrize("name", REQUIRED_GUARDS)
@pytest.mark.parametrize(("passed", "told"), [(False, "failed"), (None, "did not run")])
def test_every_guard_must_have_passed(name, passed, told):
    """One guard that failed or was left out is a NO-GO that names it."""
    found = outcome("leakage", guards=guards(**{name: passed}))

    assert found.outcome == "failed"
    assert found.reason == f"{name} {told}"


@pytest.mark.parametrize(
    ("low", "gain", "passed"),
    [
        (-0.00049, 0.0, True),
        (-0.0005, 0.0, False),
        (-0.00049, -1.0, True),
        (-0.0019, 0.02, True),
        (-0.002, 0.02, False),
        (0.1, 0.02, True),
    ],
)
def test_the_champion_may_be_missed_by_the_margin(low, gain, passed):
    """The margin is 0.0005 nats or a tenth of the champion's own gain, whichever is more; at the margin it fails."""
    found = outcome("champion", champion=champion(low, champion_gain=gain))

    assert found.outcome == ("passed" if passed else "failed")


def test_the_champions_gate_alone_may_not_apply():
    """No champion, or too few days to compare on, is no failure, and the reason is told."""
    absent = outcome("champion", champion=NotApplicable("nothing is promoted yet"))
    short = outcome("champion", champion=champion(-9.0, days=9))

    assert (absent.outcome, absent.reason) == ("not applicable", "nothing is promoted yet")
    assert short.outcome == "not applicable"
    assert "9 days" in short.reason
    assert "2025-10-14" in short.reason


@pytest.mark.parametrize(
    ("simulated", "other", "passed"),
    [
        (False, "none", True),
        (False, "real", True),
        (False, "simulated", True),
        (False, "unknown", True),
        (True, "none", True),
        (True, "simulated", True),
        (True, "real", False),
        (True, "unknown", False),
    ],
)
def test_a_simulated_model_never_replaces_a_real_one(simulated, other, passed):
    """Where the champion learned from real candles, or nobody knows, a model of simulated ones is a NO-GO."""
    found = outcome("simulated_never_replaces_real", origin=Origin(simulated, other))

    assert found.outcome == ("passed" if passed else "failed")


@pytest.mark.parametrize(
    "changes",
    [
        {"skill": replace(SKILL, base_rate=math.nan)},
        {"skill": skill(margin=(math.nan, 0.01))},
        {"skill": skill(margin=(0.03, math.nan))},
        {"skill": skill(0.9, gain=(math.nan, 0.01))},
        {"skill": skill(0.9, gain=(0.03, math.nan))},
        {"ece": ece(math.nan)},
        {"latency_p95_ms": math.nan},
        {"champion": champion(math.nan)},
        {"champion": champion(0.1, champion_gain=math.nan)},
        {"champion": champion(0.1, champion_gain=math.inf)},
        {"guards": guards(future_info=math.nan)},
    ],
)
def test_nan_never_passes(changes):
    """A figure that is not a number fails its gate."""
    assert len(judge(replace(GOOD, **changes), CONFIG).failed) == 1


@given(value=ANY_FLOAT, low=ANY_FLOAT, rate=ANY_FLOAT, figure=ANY_FLOAT, p95=ANY_FLOAT, gain=ANY_FLOAT)
def test_any_floats_give_a_whole_and_finite_verdict(value, low, rate, figure, p95, gain):
    """Whatever the figures, every gate speaks, a card can hold what it says, and GO means that none failed."""
    evidence = replace(
        GOOD,
        skill=skill(rate, margin=(value, low), gain=(value, low)),
        ece=Interval(figure, low, value),
        latency_p95_ms=p95,
        champion=champion(low, champion_gain=gain),
    )
    verdict = judge(evidence, CONFIG)
    numbers = [n for o in verdict.outcomes for n in (o.value, o.low, o.high, o.margin) if n is not None]

    assert tuple(o.name for o in verdict.outcomes) == NAMES
    assert all(map(math.isfinite, numbers))
    assert verdict.go == (not verdict.failed)
    assert all(o.margin >= 0 for o in verdict.outcomes if o.outcome == "passed" and o.margin is not None)
    assert all(o.margin <= 0 for o in verdict.outcomes if o.outcome == "failed" and o.margin is not None)


def test_only_what_is_easier_to_pass_is_loosened():
    """A lower floor, a higher ceiling, another range of base rates; a stricter gate is none."""
    easier = {"accuracy_margin_pp": 1.0, "ece_max": 0.05, "latency_p95_ms": 100.0, "base_rate_low": 0.45}
    found = find_loosened(replace(CONFIG, **easier), CONFIG)

    assert {x.name for x in found} == {"accuracy_margin_pp", "latency_p95_ms", "base_rate_low"}
    assert find_loosened(CONFIG, CONFIG) == ()
