"""Gates: GO or NO-GO, from evidence that others measured.

Pure: frozen evidence and thresholds in, a verdict out. A gate that could not be evaluated has failed, and no
comparison with NaN ever passes. One gate alone, the champion's, may be `not applicable`, and then says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.config import GateConfig
    from mltrain.guards import GuardResult
    from mltrain.learn.intervals import Interval, MetricIntervals

Outcome: TypeAlias = Literal["passed", "failed", "not applicable"]

_FLOORS: Final = ("accuracy_margin_pp", "log_loss_skill_percent")  # the smaller, the easier to pass
_RANGE: Final = ("base_rate_low", "base_rate_high")  # which of two figures is judged
REQUIRED_GUARDS: Final = ("future_info", "time_split", "feature_audit")


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """Stands where evidence could not be had; the gate that needs it has failed.

    Attributes:
        reason: Why there is none.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """Stands where there is no champion to compare with, or none that can be compared.

    Attributes:
        reason: Why not.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class SkillEvidence:
    """What the model adds to what needs no model, on the holdout.

    Attributes:
        base_rate: Share of the training rows that went up; it decides which of the two figures is judged.
        accuracy_margin: Accuracy minus that of the better baseline on the same rows, paired; a share, not pp.
        log_loss_skill: 1 - log loss / log loss of the training base rate, paired; a share, not percent.
    """

    base_rate: float
    accuracy_margin: Interval
    log_loss_skill: Interval


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Every score of two models on the same rows and draws, with its interval.

    Attributes:
        rows: How many rows.
        ours: Of this model.
        theirs: Of the champion.
    """

    rows: int
    ours: MetricIntervals
    theirs: MetricIntervals


@dataclass(frozen=True, slots=True)
class ChampionEvidence:
    """This model against the one that is served now, on rows later than the champion's last training label.

    Attributes:
        version: The champion.
        gain: Log loss of the champion minus that of this model, paired, in nats; above 0 this one is the better.
        champion_gain: Log loss of the base rate minus that of the champion on the same rows, in nats.
        days: UTC days that the rows touch.
        side_by_side: Every score of both; None where it was not asked for.
    """

    version: str
    gain: Interval
    champion_gain: float
    days: int
    side_by_side: SideBySide | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Which kind of candles this model and the champion learned from.

    Attributes:
        simulated: Whether this model's were simulated.
        champion: What the champion's were; "none" where nothing is promoted.
    """

    simulated: bool
    champion: Literal["none", "real", "simulated", "unknown"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the gates judge.

    Attributes:
        skill: Against what needs no model.
        ece: Expected calibration error on the holdout, after calibration; the interval is shown, and not judged.
        latency_p95_ms: 95th percentile from candles to probability of one symbol, in ms.
        guards: What the leakage guards found.
        champion: Against the version that is served now.
        origin: Simulated or real.
    """

    skill: SkillEvidence | NotEvaluated
    ece: Interval | NotEvaluated
    latency_p95_ms: float | NotEvaluated
    guards: Sequence[GuardResult] | NotEvaluated
    champion: ChampionEvidence | NotApplicable | NotEvaluated
    origin: Origin


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """What one gate said.

    Attributes:
        name: The gate.
        outcome: Whether it passed.
        target: The rule, in words, with its unit.
        value: The figure judged, in the target's unit; None where there is none.
        low: Lower end of its interval; None where it has none.
        high: Upper end of its interval; None where it has none.
        margin: By how much it passed (0 or above) or failed (0 or below), in the target's unit; None without a value.
        reason: One sentence that tells what was found.
    """

    name: str
    outcome: Outcome
    target: str
    value: float | None
    low: float | None
    high: float | None
    margin: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """GO or NO-GO, gate by gate.

    Attributes:
        go: Whether every gate passed or, where it may, did not apply.
        outcomes: One per gate, always all of them, in a fixed order.
    """

    go: bool
    outcomes: tuple[GateOutcome, ...]

    @property
    def word(self) -> Literal["GO", "NO-GO"]:
        """The verdict as it is written and shown."""
        return "GO" if self.go else "NO-GO"

    @property
    def failed(self) -> tuple[GateOutcome, ...]:
        """The gates that failed."""
        return tuple(o for o in self.outcomes if o.outcome == "failed")


@dataclass(frozen=True, slots=True)
class Loosened:
    """A threshold that is easier to pass than the packaged one.

    Attributes:
        name: Its name in train.yml, under `gates`.
        packaged: What mltrain comes with.
        used: What this training was judged by.
    """

    name: str
    packaged: float
    used: float


def find_loosened(used: GateConfig, packaged: GateConfig) -> tuple[Loosened, ...]:
    """Return the thresholds that are easier to pass than the packaged ones; another range of base rates counts, too."""
    found = []
    for name in packaged.__dataclass_fields__:
        ours, theirs = getattr(used, name), getattr(packaged, name)
        easier = ours < theirs if name in _FLOORS else ours != theirs if name in _RANGE else ours > theirs
        found += [Loosened(name, theirs, ours)] if easier else []
    return tuple(found)


def judge(evidence: Evidence, config: GateConfig) -> Verdict:
    """Return the verdict on a model.

    Args:
        evidence: What was measured.
        config: The thresholds.

    Returns:
        GO where every gate passed; the champion's may also be not applicable.
    """
    outcomes = (
        _judge_skill(evidence.skill, config),
        _judge_calibration(evidence.ece, config),
        _judge_ceiling(
            "latency", "p95 from candles to probability", " ms", evidence.latency_p95_ms, config.latency_p95_ms
        ),
        _judge_guards(evidence.guards),
        _judge_champion(evidence.champion, config),
        _judge_origin(evidence.origin),
    )
    return Verdict(go=all(o.outcome != "failed" for o in outcomes), outcomes=outcomes)


def _judge_skill(skill: SkillEvidence | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge accuracy where up and down are about as frequent, else log loss: there a constant is accurate."""
    name = "skill"
    if isinstance(skill, NotEvaluated):
        return _failed(name, "better than what needs no model", skill.reason)
    if not 0 < skill.base_rate < 1:
        return _failed(name, "better than what needs no model", f"the training base rate is {skill.base_rate:g}")
    if config.base_rate_low <= skill.base_rate <= config.base_rate_high:
        figure, least, words = skill.accuracy_margin, config.accuracy_margin_pp, "accuracy - baseline >= {:g} pp"
    else:
        figure, least, words = skill.log_loss_skill, config.log_loss_skill_percent, "log-loss skill >= {:g} %"
    value, low, high = (x * 100 for x in (figure.value, figure.low, figure.high))
    return _measured(
        name,
        passed=value >= least and low > 0,
        target=f"{words.format(least)} and the lower end of its interval above 0",
        value=value,
        ends=(low, high),
        margin=min(value - least, low),
        reason=f"{value:.2f}, lower end {low:.2f}; {skill.base_rate:.1%} of the training rows went up",
    )


def _judge_calibration(ece: Interval | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the ECE itself; its interval is told beside it where it has one that can be written."""
    value = ece if isinstance(ece, NotEvaluated) else ece.value
    ends = None if isinstance(ece, NotEvaluated) else (ece.low, ece.high)
    return _judge_ceiling("calibration", "ECE", "", value, config.ece_max, ends=ends)


def _judge_ceiling(
    name: str,
    what: str,
    unit: str,
    value: float | NotEvaluated,
    most: float,
    *,
    ends: tuple[float, float] | None = None,
) -> GateOutcome:
    """Judge a figure that is 0 or above and should be small."""
    target = f"{what} <= {most:g}{unit}"
    if isinstance(value, NotEvaluated):
        return _failed(name, target, value.reason)
    return _measured(
        name,
        passed=0 <= value <= most,
        target=target,
        value=value,
        ends=ends,
        margin=most - value if value >= 0 else value,
        reason=f"{value:.4g}{unit}",
    )


def _judge_guards(guards: Sequence[GuardResult] | NotEvaluated) -> GateOutcome:
    name, target = "leakage", f"{', '.join(REQUIRED_GUARDS)} pass"
    if isinstance(guards, NotEvaluated):
        return _failed(name, target, guards.reason)
    bad = [f"{g.name} failed" for g in guards if g.passed is not True]
    bad += [f"{missing} did not run" for missing in REQUIRED_GUARDS if missing not in {g.name for g in guards}]
    if bad:
        return _failed(name, target, ", ".join(bad))
    return GateOutcome(name, "passed", target, None, None, None, None, "all passed")


def _judge_champion(champion: ChampionEvidence | NotApplicable | NotEvaluated, config: GateConfig) -> GateOutcome:
    name, target = "champion", "not inferior to the version served now"
    if isinstance(champion, NotApplicable):
        return _not_applicable(name, target, champion.reason)
    if isinstance(champion, NotEvaluated):
        return _failed(name, target, champion.reason)
    if champion.days < config.champion_min_days:
        few = f"the rows later than its training touch {champion.days} days, fewer than {config.champion_min_days}"
        return _not_applicable(name, target, f"{champion.version}: {few}")
    if not math.isfinite(champion.champion_gain):  # max() below would let NaN fall under the table
        return _failed(name, target, f"{champion.version}: its own gain over the base rate is {champion.champion_gain}")
    margin = max(config.champion_margin, config.champion_gain_share * champion.champion_gain)
    value, low = champion.gain.value, champion.gain.low
    return _measured(
        name,
        passed=low > -margin,
        target=f"{target}: lower end of the log-loss gain above -{margin:.3g}",
        value=value,
        ends=(low, champion.gain.high),
        margin=low + margin,
        reason=f"gain over {champion.version} {value:+.5f}, lower end {low:+.5f}",
    )


def _judge_origin(origin: Origin) -> GateOutcome:
    name, target = "simulated_never_replaces_real", "a model of simulated candles replaces none of real ones"
    reason = f"candles of this model: {'simulated' if origin.simulated else 'real'}, of the champion: {origin.champion}"
    if origin.simulated and origin.champion not in {"none", "simulated"}:
        return _failed(name, target, reason)
    return GateOutcome(name, "passed", target, None, None, None, None, reason)


def _measured(
    name: str, *, passed: bool, target: str, value: float, ends: tuple[float, float] | None, margin: float, reason: str
) -> GateOutcome:
    """Return the outcome of a gate that judges a figure; one that is not finite is no measurement, and fails."""
    if not all(map(math.isfinite, (value, margin, *(ends or ())))):
        return _failed(name, target, reason)
    low, high = ends or (None, None)
    return GateOutcome(name, "passed" if passed else "failed", target, value, low, high, margin, reason)


def _failed(name: str, target: str, reason: str) -> GateOutcome:
    return GateOutcome(name, "failed", target, None, None, None, None, reason)


def _not_applicable(name: str, target: str, reason: str) -> GateOutcome:
    return GateOutcome(name, "not applicable", target, None, None, None, None, reason)
