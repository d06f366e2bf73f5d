"""The gates and the verdict: what passes, what fails, what is held for a person."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.config.train_config import GateConfig, GuardConfig
from mltrain.gates.gate_evidence import (
    BounceEvidence,
    CalibrationEvidence,
    ChampionEvidence,
    Evidence,
    NotApplicable,
    NotEvaluated,
    Origin,
    Selection,
    SimpleModelEvidence,
    SkillEvidence,
)
from mltrain.gates.rules import REQUIRED_GUARDS
from mltrain.gates.thresholds import find_loosened
from mltrain.gates.verdict import judge
from mltrain.guards.evidence import GuardResult, SuspectFeature
from mltrain.training.baselines import SymbolBaseline, SymbolSkill
from mltrain.training.bootstrap import Estimate, Interval
from mltrain.training.economics import Economics, SymbolBounce

CONFIG = GateConfig(
    accuracy_margin_pp=2.0,
    log_loss_skill_percent=1.0,
    base_rate_low=0.4,
    base_rate_high=0.6,
    ece_max=0.1,
    ece_excess_max=0.02,
    latency_p95_ms=80.0,
    champion_tolerance=0.0001,
    champion_margin=0.0005,
    champion_min_days=10,
    break_even_bps=0.0,
)
NAMES = (
    *("skill", "simple_model", "per_symbol", "calibration", "latency", "leakage"),
    *("bounce", "champion", "meaning", "simulated_never_replaces_real"),
)
BLOCKS = 20
ANY_FLOAT = st.floats(allow_nan=True, allow_infinity=True)


def estimate(value, low, *, confidence=0.95):
    """Return an estimate whose lower end at a confidence is the given one."""
    return Estimate(value, (value - low) / Estimate(0.0, 1.0, BLOCKS).margin_of_error(confidence), BLOCKS)


def symbol(name, low=0.01, *, confidence=0.95, rows=100, rule="coin"):
    """Return the skill of a symbol whose lower end at a confidence is the given one."""
    found = estimate(low + 0.01, low, confidence=confidence)
    return SymbolSkill(SymbolBaseline(name, rows, rule, 0.5), 0.55, margin=found, log_loss_skill=found)


def bounce(close=0.2, opened=0.19, *, gap=0.01, repeated=0.5, autocorrelation=0.0, pairs=20_000):
    economics = Economics(
        close, Interval(opened, opened - 0.1, opened + 0.1), 1.0, opened, opened, None, 10.0, None, (), ()
    )
    return BounceEvidence(economics, (SymbolBounce("BTCUSDT", gap, repeated, autocorrelation, pairs),))


SKILL = SkillEvidence(0.5, estimate(0.03, 0.01), estimate(0.02, 0.005))
CHAMPION = ChampionEvidence("2025-10-14", Interval(0.0001, -0.0004, 0.0005), days=12)


def guards(**passed):
    verdicts = dict.fromkeys(REQUIRED_GUARDS, True) | passed
    return tuple(
        GuardResult(name=name, passed=ok, checks=(), failures=(), warnings=(), seconds=0.1)
        for name, ok in verdicts.items()
        if ok is not None
    )


def ece(value, floor=0.2):
    return CalibrationEvidence(Interval(value, value / 2, value * 2), floor)


GOOD = Evidence(
    skill=SKILL,
    simple_model=SimpleModelEvidence(estimate(0.002, 0.001), estimate(0.004, 0.002)),
    symbols=(symbol("BTCUSDT"), symbol("ETHUSDT")),
    leaders=("BTCUSDT",),
    calibration=ece(0.01),
    latency_p95_ms=4.0,
    guards=guards(),
    bounce=bounce(),
    break_even=estimate(1.5, 1.0),
    champion=CHAMPION,
    meaning=(),
    origin=Origin(False, "real"),
    selection=Selection(0),
)


def outcome(name, **changes):
    verdict = judge(replace(GOOD, **changes), CONFIG)
    (found,) = (o for o in verdict.outcomes if o.name == name)
    assert verdict.go == (not verdict.failed)
    return found


def skill(base_rate=0.5, margin=(0.03, 0.01), gain=(0.02, 0.005)):
    return SkillEvidence(base_rate, estimate(*margin), estimate(*gain))


def champion(value, low, high=1.0):
    return replace(CHAMPION, gain=Interval(value, low, high))


def test_good_evidence_is_go():
    """With everything in order every gate has passed, in its fixed place."""
    verdict = judge(GOOD, CONFIG)

    assert verdict.go
    assert verdict.word == "GO"
    assert tuple(o.name for o in verdict.outcomes) == NAMES
    assert all(o.outcome == "passed" for o in verdict.outcomes)
    assert all(o.margin is None or o.margin >= 0 for o in verdict.outcomes)


@pytest.mark.parametrize(
    "name", ["skill", "simple_model", "symbols", "calibration", "latency_p95_ms", "guards", "bounce"]
)
def test_a_gate_without_evidence_fails(name):
    """Missing evidence fails its gate with the reason; no gate can be left out."""
    verdict = judge(replace(GOOD, **{name: NotEvaluated("the disk was full")}), CONFIG)

    assert not verdict.go
    assert verdict.word == "NO-GO"
    assert {failed.reason for failed in verdict.failed} == {"the disk was full"}
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


def test_the_margin_of_a_failed_gate():
    """The margin is the distance to the nearer of its two conditions, in the target's unit."""
    short = outcome("skill", skill=skill(margin=(0.0125, 0.01)))
    unsure = outcome("skill", skill=skill(margin=(0.03, -0.002)))

    assert (short.value, short.margin) == (pytest.approx(1.25), pytest.approx(-0.75))
    assert (unsure.low, unsure.margin) == (pytest.approx(-0.2), pytest.approx(-0.2))
    assert "2 pp" in short.target


@pytest.mark.parametrize(
    ("name", "field", "limit", "figure"),
    [("calibration", "calibration", 0.1, ece), ("latency", "latency_p95_ms", 80.0, float)],
)
def test_a_figure_at_its_limit_passes_and_above_fails(name, field, limit, figure):
    """A figure equal to its limit passes with margin 0; one above it or below zero fails. No interval is judged."""
    at = outcome(name, **{field: figure(limit)})
    above = outcome(name, **{field: figure(limit * 1.25)})

    assert (at.outcome, at.margin) == ("passed", 0)
    assert (above.outcome, above.margin) == ("failed", pytest.approx(-limit / 4))
    assert outcome(name, **{field: figure(-0.001)}).margin == -0.001


def test_intervals_of_the_figures():
    """Intervals are in the unit of the target: pp of accuracy, ECE, nats; latency has none."""
    ends = {o.name: (o.low, o.high) for o in judge(GOOD, CONFIG).outcomes}

    assert ends["skill"] == (pytest.approx(1), pytest.approx(5))
    assert ends["simple_model"] == (pytest.approx(0.001), pytest.approx(0.003))
    assert ends["calibration"] == (0.005, 0.02)
    assert ends["champion"] == (CHAMPION.gain.low, CHAMPION.gain.high)
    assert ends["latency"] == ends["leakage"] == (None, None)


@pytest.mark.parametrize("name", REQUIRED_GUARDS)
@pytest.mark.parametrize(("passed", "problem"), [(False, "failed"), (None, "did not run")])
def test_every_guard_must_have_passed(name, passed, problem):
    """One guard that failed or was left out is a NO-GO that names it."""
    found = outcome("leakage", guards=guards(**{name: passed}))

    assert found.outcome == "failed"
    assert found.reason == f"{name} {problem}"


@pytest.mark.parametrize(
    ("value", "low", "high", "found"),
    [
        (0.001, 0.0001, 0.002, "passed"),
        (-0.00009, -0.00049, 0.0003, "passed"),
        (-0.0001, -0.0003, 0.0001, "held"),
        (0.0001, -0.0005, 0.0007, "held"),
        (-0.002, -0.005, 0.0, "held"),
        (-0.002, -0.005, -0.00001, "failed"),
    ],
)
def test_a_model_replaces_a_champion_that_is_not_better(value, low, high, found):
    """Clearly as good: passed. Unclear: held. Clearly worse: failed."""
    gate = outcome("champion", champion=champion(value, low, high))

    assert gate.outcome == found
    assert "2025-10-14" in gate.reason


@pytest.mark.parametrize(
    ("minimum", "low", "looks", "found"),
    [
        (0.0, 1.0, 0, None),
        (0.0, -5.0, 0, None),
        (0.5, 1.0, 0, "passed"),
        (1.0, 1.0 + 1e-9, 0, "passed"),
        (1.0, 1.0, 0, "failed"),
        (10.0, 1.0, 0, "failed"),
        (1.0, 1.01, 5, "failed"),
        (0.5, math.nan, 0, "failed"),
    ],
)
def test_the_lower_end_of_the_break_even_cost_must_exceed_its_threshold(minimum, low, looks, found):
    """At 0, the default, there is no such gate; earlier looks at the holdout widen the interval."""
    evidence = replace(GOOD, break_even=estimate(1.5, low), selection=Selection(looks))
    verdict = judge(evidence, replace(CONFIG, break_even_bps=minimum))
    gates = [o for o in verdict.outcomes if o.name == "economics"]

    assert [o.outcome for o in gates] == ([] if found is None else [found])
    assert verdict.go == (found != "failed")
    assert all(o.margin is None or o.margin == pytest.approx(o.low - minimum) for o in gates)


def test_without_trades_the_economics_gate_fails_if_it_is_on():
    """A model that hardly trades has not shown that it can pay for its trades."""
    evidence = replace(GOOD, break_even=NotEvaluated("there are hardly any trades"))

    assert judge(evidence, CONFIG).go
    (failed,) = judge(evidence, replace(CONFIG, break_even_bps=0.5)).failed
    assert (failed.name, failed.reason) == ("economics", "there are hardly any trades")


def test_a_feature_that_predicts_too_well_is_held():
    """Between the thresholds for warning and failure, a person examines the feature first."""
    found = guards()
    audit = replace(found[-1], suspects=(SuspectFeature("leader_return_1", "ETHUSDT", 0.81),))
    gate = outcome("leakage", guards=(*found[:-1], audit))

    assert gate.outcome == "held"
    assert "leader_return_1 of ETHUSDT (AUC 0.810)" in gate.reason


def test_without_a_champion_the_gate_does_not_apply():
    """If there is a champion and it could not be compared, the version is held."""
    absent = outcome("champion", champion=NotApplicable("nothing is promoted yet"))
    unmet = judge(replace(GOOD, champion=NotEvaluated("9 days, fewer than 10")), CONFIG)

    assert (absent.outcome, absent.reason) == ("not applicable", "nothing is promoted yet")
    assert unmet.go
    assert unmet.held is not None
    assert "9 days, fewer than 10" in unmet.held


def test_a_model_that_is_no_drop_in_replacement_is_held():
    """It stays GO, and the reason names the difference."""
    verdict = judge(replace(GOOD, meaning=("its interval is 1h, not 1m",)), CONFIG)

    assert verdict.go
    assert "its interval is 1h, not 1m" in str(verdict.held)
    assert judge(GOOD, CONFIG).held is None


def test_a_no_go_is_not_held():
    """Only a GO can be held: a NO-GO is not promoted anyway."""
    verdict = judge(replace(GOOD, skill=skill(margin=(0.0, -1.0)), meaning=("another label",)), CONFIG)

    assert (verdict.go, verdict.held) == (False, None)


@pytest.mark.parametrize(
    ("logistic", "base", "passed"),
    [(1e-9, 1e-9, True), (0.0, 0.1, False), (0.1, 0.0, False), (-0.001, 0.1, False)],
)
def test_both_simple_models_must_be_beaten(logistic, base, passed):
    """The lower end of the gain over each of the two must be above 0."""
    evidence = SimpleModelEvidence(estimate(logistic + 0.01, logistic), estimate(base + 0.01, base))

    assert outcome("simple_model", simple_model=evidence).outcome == ("passed" if passed else "failed")


def test_a_symbol_without_skill_is_a_no_go_with_a_way_out():
    """The reason names the symbol, and the option that leaves it out."""
    found = outcome("per_symbol", symbols=(symbol("AAA"), symbol("BBB", -0.001, confidence=0.75), symbol("CCC")))

    assert found.outcome == "failed"
    assert "BBB" in found.reason
    assert "`--symbols AAA,CCC`" in found.reason
    assert "leader" not in found.reason
    led = outcome("per_symbol", symbols=(symbol("BTCUSDT", -0.001, confidence=0.75), symbol("ETHUSDT")))
    assert (
        "`--symbols ETHUSDT` to the snapshot and take a registry that does not read BTCUSDT as a leader" in led.reason
    )


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (symbol("A", 1e-9), "proven"),
        (symbol("A", 1e-9, confidence=0.75), "not proven alone"),
        (symbol("A", 0.0, confidence=0.75), "no skill"),
        (symbol("A", math.nan), "no skill"),
        (replace(symbol("A"), log_loss_skill=None, margin=None), "no skill"),
    ],
)
def test_a_symbol_is_proven_at_95_percent_and_has_skill_at_75(found, word):
    """A lower end above 0 at 95 % proves skill; at 75 % it is enough for the gate."""
    verdict = judge(replace(GOOD, symbols=(symbol("B"), found)), CONFIG)

    assert [s.verdict for s in verdict.symbols] == ["proven", word]
    assert verdict.go == (word != "no skill")


def test_a_symbol_without_a_row_in_the_holdout_is_held():
    """It has shown neither skill nor a lack of it; a person decides, unless another symbol fails."""
    absent = replace(symbol("CCC", rows=0), accuracy=None, margin=None, log_loss_skill=None)
    verdict = judge(replace(GOOD, symbols=(symbol("AAA"), absent)), CONFIG)
    failed = outcome("per_symbol", symbols=(symbol("AAA"), absent, symbol("BBB", -0.001, confidence=0.75)))

    assert [s.verdict for s in verdict.symbols] == ["proven", "no rows"]
    assert verdict.go
    assert "no row of CCC in the holdout" in str(verdict.held)
    assert failed.outcome == "failed"
    assert "no row of CCC in the holdout" in failed.reason
    assert "no skill on BBB (" in failed.reason
    assert "`--symbols AAA,CCC`" in failed.reason
    assert "--symbols" not in outcome("per_symbol", symbols=(absent, symbol("BBB", -0.001, confidence=0.75))).reason


@pytest.mark.parametrize(("absent", "found"), [(1, "passed"), (2, "held"), (12, "held")])
def test_of_more_than_ten_symbols_a_tenth_may_be_without_rows(absent, found):
    """Whichever share of the rows the others have: twelve of thirteen symbols without evidence are not proven."""
    missing = replace(symbol("X", rows=0), accuracy=None, margin=None, log_loss_skill=None)
    symbols = [symbol(f"S{n}") for n in range(13 - absent)] + [
        replace(missing, baseline=replace(missing.baseline, symbol=f"GONE{n}")) for n in range(absent)
    ]
    gate = outcome("per_symbol", symbols=tuple(symbols))

    assert gate.outcome == found
    assert "GONE0" in gate.reason


@pytest.mark.parametrize(("failing", "rows", "passed"), [(1, 100, True), (1, 134, False), (2, 60, True)])
def test_of_more_than_ten_symbols_some_may_fail(failing, rows, passed):
    """Symbols without skill may then have 10 % of the rows, and are listed."""
    sound = tuple(symbol(f"S{n}") for n in range(12))
    weak = tuple(symbol(f"WEAK{n}", -0.01, rows=rows) for n in range(failing))
    found = outcome("per_symbol", symbols=sound + weak)

    assert found.outcome == ("passed" if passed else "failed")
    assert "WEAK0" in found.reason


def test_ten_symbols_must_all_have_skill():
    """With ten symbols, one without skill fails the gate, even with 1 % of the rows."""
    sound = tuple(symbol(f"S{n}", rows=1_000) for n in range(9))

    assert outcome("per_symbol", symbols=(*sound, symbol("WEAK", -0.01, rows=90))).outcome == "failed"


@pytest.mark.parametrize(
    ("value", "floor", "passed"),
    [(0.03, 0.01, True), (0.0301, 0.01, False), (0.1, 0.09, True), (0.101, 0.09, False), (0.0, 0.0, True)],
)
def test_calibration_is_judged_against_chance(value, floor, passed):
    """The ECE is at most 0.1, and at most 0.02 above the 95 % point of chance."""
    assert outcome("calibration", calibration=ece(value, floor)).outcome == ("passed" if passed else "failed")


@pytest.mark.parametrize(
    ("evidence", "found", "words"),
    [
        (bounce(), "passed", "95%"),
        (bounce(0.2, 0.1), "passed", "50%"),
        (bounce(0.2, 0.0999), "held", "0.200 bps per bar"),
        (bounce(-0.1, 0.1), "held", "the calls earn -0.100 bps per bar"),
        (bounce(gap=0.101), "held", "BTCUSDT opens 10% of a mean move off"),
        (bounce(repeated=0.9, autocorrelation=-0.031), "held", "-0.031"),
        (bounce(repeated=0.89, autocorrelation=-0.3), "passed", "95%"),
        (bounce(repeated=1.0, autocorrelation=-0.03), "passed", "95%"),
        (bounce(repeated=1.0, autocorrelation=-0.039, pairs=5_760), "passed", "95%"),
        (bounce(repeated=1.0, autocorrelation=-0.04, pairs=5_760), "held", "-0.040"),
    ],
)
def test_a_gain_that_may_be_bounce_is_held(evidence, found, words):
    """Opens off the previous close, reversing returns, or a gain that is lost at the next open raise doubts."""
    gate = outcome("bounce", bounce=evidence)

    assert gate.outcome == found
    assert words in gate.reason


@pytest.mark.parametrize(
    ("looks", "value", "passed"),
    [(0, 0.0201, True), (5, 0.0201, False), (5, 0.0252, True), (100, 0.0252, False), (100, 0.0304, True)],
)
def test_looks_raise_the_margin(looks, value, passed):
    """By 0.5 pp after five tries and 1 pp after a hundred, with a standard error of 0.6 pp."""
    evidence = SkillEvidence(0.5, Estimate(value, 0.006, 500), estimate(0.02, 0.015))
    found = outcome("skill", skill=evidence, selection=Selection(looks))

    assert found.outcome == ("passed" if passed else "failed")
    assert ("earlier looks" in found.target) == (looks > 0)


def test_looks_widen_every_interval():
    """The lower ends of the best of ten tries are below those of a single try."""
    once, often = (judge(replace(GOOD, selection=Selection(looks)), CONFIG) for looks in (0, 10))
    lows = {o.name: o.low for o in often.outcomes}

    assert once.go
    for found in once.outcomes[:3]:
        assert lows[found.name] < found.low


def test_the_confidence_of_one_try_is_that_of_the_level():
    """Sidak: the chance that the best of 1 + L tries is only lucky stays at 5 %."""
    assert Selection(0).confidence == pytest.approx(0.95)
    assert Selection(9).confidence ** 10 == pytest.approx(0.95)
    assert Selection(0).raised_by(0.6) == pytest.approx(0)


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
    """A model of simulated candles fails if the champion's candles are real or unknown."""
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
        {"simple_model": SimpleModelEvidence(estimate(math.nan, 0.1), estimate(0.2, 0.1))},
        {"simple_model": SimpleModelEvidence(estimate(0.2, 0.1), estimate(0.2, math.nan))},
        {"calibration": ece(math.nan)},
        {"calibration": ece(0.01, math.nan)},
        {"latency_p95_ms": math.nan},
        {"champion": champion(math.nan, 0.1)},
        {"champion": champion(0.1, math.nan)},
        {"bounce": bounce(math.nan)},
        {"bounce": bounce(0.2, math.nan)},
        {"guards": guards(future_info=math.nan)},
    ],
)
def test_nan_never_passes(changes):
    """A figure that is not a number does not pass its gate."""
    verdict = judge(replace(GOOD, **changes), CONFIG)

    assert verdict.failed or verdict.held


@given(value=ANY_FLOAT, low=ANY_FLOAT, rate=ANY_FLOAT, figure=ANY_FLOAT, p95=ANY_FLOAT, looks=st.floats(0, 1e6))
def test_any_floats_give_a_complete_and_finite_verdict(value, low, rate, figure, p95, looks):
    """For any figures every gate has an outcome with finite numbers, and GO means that none failed."""
    found = Estimate(value, abs(low), BLOCKS)
    evidence = replace(
        GOOD,
        skill=SkillEvidence(rate, found, found),
        simple_model=SimpleModelEvidence(found, found),
        calibration=CalibrationEvidence(Interval(figure, low, value), low),
        latency_p95_ms=p95,
        bounce=bounce(value, figure, gap=low, autocorrelation=value),
        champion=champion(value, low, figure),
        selection=Selection(looks),
    )
    verdict = judge(evidence, CONFIG)
    numbers = [n for o in verdict.outcomes for n in (o.value, o.low, o.high, o.margin) if n is not None]

    assert tuple(o.name for o in verdict.outcomes) == NAMES
    assert all(map(math.isfinite, numbers))
    assert verdict.go == (not verdict.failed)
    assert all(o.margin >= 0 for o in verdict.outcomes if o.outcome == "passed" and o.margin is not None)
    assert all(o.margin <= 0 for o in verdict.outcomes if o.outcome == "failed" and o.margin is not None)


def test_only_thresholds_that_are_easier_to_pass_are_loosened():
    """A lower minimum, a higher maximum or another range of base rates is loosened; a stricter one is not."""
    easier = {"accuracy_margin_pp": 1.0, "ece_max": 0.05, "latency_p95_ms": 100.0, "base_rate_low": 0.45}
    found = find_loosened(replace(CONFIG, **easier, champion_min_days=20), CONFIG)
    guarded = GuardConfig(points=30, auc_warn=0.7, auc_fail=0.9)

    assert {x.name for x in found} == {"accuracy_margin_pp", "latency_p95_ms", "base_rate_low"}
    assert {x.name for x in find_loosened(replace(CONFIG, champion_min_days=2), CONFIG)} == {"champion_min_days"}
    assert {x.name for x in find_loosened(CONFIG, replace(CONFIG, break_even_bps=5.0))} == {"break_even_bps"}
    assert find_loosened(replace(CONFIG, break_even_bps=5.0), CONFIG) == ()
    assert {x.name for x in find_loosened(GuardConfig(1, 0.6, 1.0), guarded)} == {"points", "auc_fail"}
    assert find_loosened(CONFIG, CONFIG) == ()
