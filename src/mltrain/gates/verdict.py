"""Gates: GO or NO-GO, from evidence that others measured.

Pure: frozen evidence and thresholds in, a verdict out. Every gate ends as passed, failed, held or not applicable. One
failed gate makes a NO-GO. A held gate leaves the version GO but keeps it from being promoted automatically: a
person decides. A gate that could not be evaluated has not passed, and no comparison with NaN ever passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from mltrain.training.bootstrap import JUDGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.config.train_config import GateConfig, GuardConfig
    from mltrain.guards.evidence import GuardResult
    from mltrain.training.baselines import SymbolSkill
    from mltrain.training.bootstrap import Estimate, Interval, MetricIntervals
    from mltrain.training.economics import Economics, SymbolBounce

Outcome: TypeAlias = Literal["passed", "failed", "held", "not applicable"]
T = TypeVar("T", "GateConfig", "GuardConfig")
SymbolWord: TypeAlias = Literal["proven", "not proven alone", "no skill"]

#: The smaller, the easier to pass; with fewer days to compare on, a version is promoted sooner.
_FLOORS: Final = ("accuracy_margin_pp", "log_loss_skill_percent", "champion_min_days", "points")
_RANGE: Final = ("base_rate_low", "base_rate_high")  # which of two figures is judged
REQUIRED_GUARDS: Final = ("future_info", "time_split", "feature_audit")

# That a symbol has skill: low, because one symbol has few rows and the pool is judged strictly.
SYMBOL_CONFIDENCE: Final = 0.75
FEW_SYMBOLS: Final = 10  # with more, chance alone makes one of them fail
FAILING_ROWS: Final = 0.1  # share of the rows that failing symbols may then have

# Real spot candles open at the last trade or next to it: a gap share of 0.001 to 0.02 on BTCUSDT, ETHUSDT and SOLUSDT.
BOUNCE_GAP_SHARE: Final = 0.1
BOUNCE_SURVIVAL: Final = 0.5  # share of the gross gain that must be left from the next open
REPEATED_OPENS: Final = 0.9  # from here on, opens merely repeat the previous close and show no bounce
BOUNCE_AUTOCORRELATION: Final = -0.03
BOUNCE_ERRORS: Final = 3  # and below 0 by so many standard errors: a few days alone reach -0.03 by chance

# Half of the expected maximum of repeated tries is added to the margin; the wider interval covers the other half.
_RAISE: Final = 0.7


@dataclass(frozen=True, slots=True)
class NotEvaluated:
    """Stands where evidence could not be had: the gate that needs it has failed, or, of the champion, is held.

    Attributes:
        reason: Why there is none.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """Stands where there is no champion.

    Attributes:
        reason: Why not.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Selection:
    """How often other configurations or seeds were tried on this holdout before, and how that tightens the gates.

    The best of several tries looks better than it is. With L earlier looks each interval is widened so that the chance
    of a lucky end among 1 + L tries is that of a single try (Sidak 1967), and the required margin rises.

    Attributes:
        looks: L, earlier looks of other configurations or seeds, each weighted by the share of this holdout it covered.
    """

    looks: float

    @property
    def confidence(self) -> float:
        """Confidence of one end of an interval.

        >>> round(Selection(0).confidence, 4), round(Selection(5).confidence, 4)
        (0.95, 0.9915)
        """
        return float(JUDGED ** (1 / (1 + self.looks)))

    def raised_by(self, se: float) -> float:
        """Return by how much a required margin rises, in the unit of the standard error.

        >>> round(Selection(5).raised_by(0.6), 2), round(Selection(100).raised_by(0.6), 2)
        (0.52, 1.04)
        """
        from scipy.special import ndtri

        return _RAISE * se * float(ndtri(0.5 ** (1 / (1 + self.looks))))


@dataclass(frozen=True, slots=True)
class SkillEvidence:
    """What the model adds to what needs no model, on the holdout.

    Attributes:
        base_rate: Share of the training rows that went up; it decides which of the two figures is judged.
        accuracy_margin: Accuracy minus that of the symbols' baselines on the same rows, paired; a share, not pp.
        log_loss_skill: 1 - log loss / log loss of the training base rate, paired; a share, not percent.
    """

    base_rate: float
    accuracy_margin: Estimate
    log_loss_skill: Estimate


@dataclass(frozen=True, slots=True)
class SimpleModelEvidence:
    """Log loss that the model gains over simpler ones, paired by row, in nats.

    Attributes:
        over_logistic: Over a logistic regression on five features.
        over_base_rate: Over the training base rate.
    """

    over_logistic: Estimate
    over_base_rate: Estimate


@dataclass(frozen=True, slots=True)
class CalibrationEvidence:
    """The calibration error, and what chance alone would show.

    Attributes:
        ece: Expected calibration error on the holdout, after calibration; its interval is shown, but not judged.
        floor_p95: 95 % point of the ECE that exact probabilities would show on as many rows.
    """

    ece: Interval
    floor_p95: float


@dataclass(frozen=True, slots=True)
class BounceEvidence:
    """What distinguishes a signal from the bounce between bid and ask.

    Attributes:
        economics: What the calls earn, from the close and from the next open.
        symbols: What the candles of each symbol say.
    """

    economics: Economics
    symbols: tuple[SymbolBounce, ...]


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
        days: UTC days that the rows touch.
        side_by_side: Every score of both; None where it was not asked for.
    """

    version: str
    gain: Interval
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
        simple_model: Gains over simpler models.
        symbols: The skill of each symbol alone.
        leaders: Symbols that features read for others.
        calibration: Whether the probabilities mean what they say.
        latency_p95_ms: 95th percentile from candles to probability of one symbol, in ms.
        guards: What the leakage guards found.
        bounce: Whether the gain could be traded at all.
        champion: Against the version that is served now.
        meaning: Why the model is not a drop-in replacement for the champion, one sentence each.
        origin: Simulated or real.
        selection: Earlier tries on this holdout.
    """

    skill: SkillEvidence | NotEvaluated
    simple_model: SimpleModelEvidence | NotEvaluated
    symbols: Sequence[SymbolSkill] | NotEvaluated
    leaders: tuple[str, ...]
    calibration: CalibrationEvidence | NotEvaluated
    latency_p95_ms: float | NotEvaluated
    guards: Sequence[GuardResult] | NotEvaluated
    bounce: BounceEvidence | NotEvaluated
    champion: ChampionEvidence | NotApplicable | NotEvaluated
    meaning: tuple[str, ...] | NotApplicable
    origin: Origin
    selection: Selection


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
class SymbolVerdict:
    """The result for one symbol alone.

    Attributes:
        symbol: The symbol.
        rows: Its rows of the holdout.
        baseline: The rule that the model is compared with; "coin" is one half.
        baseline_accuracy: Accuracy of that rule.
        accuracy: Accuracy of the model; None without rows.
        margin: The difference, a share of the rows; None where the rows fill fewer than two blocks of time.
        log_loss_skill: 1 - log loss / log loss of the symbol's training base rate; None in the same case.
        verdict: "proven" where the lower end of its log-loss skill is above 0 at 95 %; "not proven alone" where
            it is so at 75 % only; else "no skill".
    """

    symbol: str
    rows: int
    baseline: str
    baseline_accuracy: float
    accuracy: float | None
    margin: Interval | None
    log_loss_skill: Interval | None
    verdict: SymbolWord


@dataclass(frozen=True, slots=True)
class Verdict:
    """GO or NO-GO, gate by gate.

    Attributes:
        go: Whether no gate failed.
        outcomes: One per gate, always all of them, in a fixed order.
        symbols: Each symbol alone, in their order; empty where they could not be evaluated.
    """

    go: bool
    outcomes: tuple[GateOutcome, ...]
    symbols: tuple[SymbolVerdict, ...]

    @property
    def word(self) -> Literal["GO", "NO-GO"]:
        """The verdict as it is written and shown."""
        return "GO" if self.go else "NO-GO"

    @property
    def failed(self) -> tuple[GateOutcome, ...]:
        """The gates that failed."""
        return tuple(o for o in self.outcomes if o.outcome == "failed")

    @property
    def held(self) -> str | None:
        """Why a GO is not promoted automatically; None if nothing is against it, and for a NO-GO."""
        reasons = [o.reason for o in self.outcomes if o.outcome == "held"]
        return "; ".join(reasons) if self.go and reasons else None


@dataclass(frozen=True, slots=True)
class Loosened:
    """A threshold that is easier to pass than the packaged one.

    Attributes:
        name: Its name in train.yml, under `gates` or `guards`.
        packaged: What mltrain comes with.
        used: What this training was judged by.
    """

    name: str
    packaged: float
    used: float


def find_loosened(used: T, packaged: T) -> tuple[Loosened, ...]:
    """Return the thresholds that are easier to pass than the packaged ones; another range of base rates counts, too.

    Args:
        used: The gates or the guards of a training.
        packaged: Those that mltrain comes with.
    """
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
        GO where no gate failed.
    """
    selection = evidence.selection
    symbols = _judge_symbols(evidence.symbols)
    outcomes = (
        _judge_skill(evidence.skill, selection, config),
        _judge_simple_model(evidence.simple_model, selection),
        _judge_per_symbol(evidence, symbols),
        _judge_calibration(evidence.calibration, config),
        _judge_ceiling(
            "latency", "p95 from candles to probability", " ms", evidence.latency_p95_ms, config.latency_p95_ms
        ),
        _judge_guards(evidence.guards),
        _judge_bounce(evidence.bounce),
        _judge_champion(evidence.champion, config),
        _judge_meaning(evidence.meaning),
        _judge_origin(evidence.origin),
    )
    return Verdict(go=all(o.outcome != "failed" for o in outcomes), outcomes=outcomes, symbols=symbols)


def _judge_skill(skill: SkillEvidence | NotEvaluated, selection: Selection, config: GateConfig) -> GateOutcome:
    """Judge accuracy where up and down are about as frequent; else log loss, because there a constant is accurate."""
    name = "skill"
    if isinstance(skill, NotEvaluated):
        return _failed(name, "better than the baseline", skill.reason)
    if not 0 < skill.base_rate < 1:
        return _failed(name, "better than the baseline", f"the training base rate is {skill.base_rate:g}")
    if config.base_rate_low <= skill.base_rate <= config.base_rate_high:
        figure, least, what, unit = skill.accuracy_margin, config.accuracy_margin_pp, "accuracy - baseline", "pp"
    else:
        figure, least, what, unit = skill.log_loss_skill, config.log_loss_skill_percent, "log-loss skill", "%"
    figure = figure.scaled(100)
    raised = least + selection.raised_by(figure.se)
    found = figure.interval(selection.confidence)
    looks = f" ({least:g}, raised for earlier looks, {selection.looks:.3g} in all)" if selection.looks else ""
    return _measured(
        name,
        passed=found.value >= raised and found.low > 0,
        target=f"{what} >= {raised:.3g} {unit}{looks} and the lower end of its interval above 0",
        value=found.value,
        ends=(found.low, found.high),
        margin=min(found.value - raised, found.low),
        reason=f"{found.value:.2f} {unit}, lower end {found.low:.2f}; "
        f"{skill.base_rate:.1%} of the training rows went up",
    )


def _judge_simple_model(simple: SimpleModelEvidence | NotEvaluated, selection: Selection) -> GateOutcome:
    """Judge the smaller of the two gains, measured by its lower end."""
    name, target = "simple_model", "log-loss gain over a logistic regression and over the base rate: lower ends above 0"
    if isinstance(simple, NotEvaluated):
        return _failed(name, target, simple.reason)
    gains = {"the logistic regression": simple.over_logistic, "the base rate": simple.over_base_rate}
    found = {over: gain.interval(selection.confidence) for over, gain in gains.items()}
    least = min(found.values(), key=lambda gain: gain.low)
    told = ", ".join(f"{gain.value:+.5f} over {over} (lower end {gain.low:+.5f})" for over, gain in found.items())
    return _measured(
        name,
        passed=all(gain.low > 0 for gain in found.values()),
        target=target,
        value=least.value,
        ends=(least.low, least.high),
        margin=least.low,
        reason=f"gain in nats: {told}",
    )


def _judge_symbols(symbols: Sequence[SymbolSkill] | NotEvaluated) -> tuple[SymbolVerdict, ...]:
    if isinstance(symbols, NotEvaluated):
        return ()
    return tuple(
        SymbolVerdict(
            symbol=s.baseline.symbol,
            rows=s.baseline.rows,
            baseline=s.baseline.rule,
            baseline_accuracy=s.baseline.accuracy,
            accuracy=s.accuracy,
            margin=None if s.margin is None else s.margin.interval(JUDGED),
            log_loss_skill=None if s.log_loss_skill is None else s.log_loss_skill.interval(JUDGED),
            verdict=_symbol_word(s.log_loss_skill),
        )
        for s in symbols
    )


def _symbol_word(skill: Estimate | None) -> SymbolWord:
    if skill is None or not skill.low(SYMBOL_CONFIDENCE) > 0:
        return "no skill"
    return "proven" if skill.low(JUDGED) > 0 else "not proven alone"


def _judge_per_symbol(evidence: Evidence, verdicts: tuple[SymbolVerdict, ...]) -> GateOutcome:
    symbols, pooled, selection = evidence.symbols, evidence.skill, evidence.selection
    name = "per_symbol"
    target = f"log-loss skill above 0: lower end of the pool, each symbol at {SYMBOL_CONFIDENCE:.0%}"
    if isinstance(symbols, NotEvaluated):
        return _failed(name, target, symbols.reason)
    if isinstance(pooled, NotEvaluated):
        return _failed(name, target, pooled.reason)
    failing = [v.symbol for v in verdicts if v.verdict == "no skill"]
    rows = sum(v.rows for v in verdicts)
    share = sum(v.rows for v in verdicts if v.verdict == "no skill") / max(rows, 1)
    if len(verdicts) > FEW_SYMBOLS:
        target += f"; symbols without skill may have {FAILING_ROWS:.0%} of the rows"
    bearable = not failing or (len(verdicts) > FEW_SYMBOLS and share <= FAILING_ROWS)
    found = pooled.log_loss_skill.scaled(100).interval(selection.confidence)
    told = f"pooled {found.value:.2f} %, lower end {found.low:.2f}"
    if failing:
        sound = [v.symbol for v in verdicts if v.verdict != "no skill"]
        way = f"; to train without, add `--symbols {','.join(sound)}` to the snapshot" if sound and not bearable else ""
        led = [symbol for symbol in failing if symbol in evidence.leaders]
        way += f" and take a registry that does not read {', '.join(led)} as a leader" if way and led else ""
        told = f"no skill on {', '.join(failing)} ({share:.0%} of the rows){way}; {told}"
    return _measured(
        name,
        passed=bearable and found.low > 0,
        target=target,
        value=found.value,
        ends=(found.low, found.high),
        margin=found.low if bearable else min(found.low, -100 * share),
        reason=told,
    )


def _judge_calibration(found: CalibrationEvidence | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the ECE against its limit and against chance; its interval is shown but not judged."""
    if isinstance(found, NotEvaluated):
        return _judge_ceiling("calibration", "ECE", "", found, config.ece_max)
    most = min(found.floor_p95 + config.ece_excess_max, config.ece_max)  # NaN where the first is
    outcome = _judge_ceiling("calibration", "ECE", "", found.ece.value, most, ends=(found.ece.low, found.ece.high))
    why = f"{config.ece_max:g}, and at most {config.ece_excess_max:g} above {found.floor_p95:.4f}, what chance explains"
    return replace(outcome, target=f"ECE <= {most:.4g} ({why})")


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
    suspects = [f"{s.feature} of {s.symbol} (AUC {s.auc:.3f})" for g in guards for s in g.suspects]
    if suspects:
        return _held(name, target, f"a single feature predicts the label too well: {', '.join(suspects)}")
    return GateOutcome(name, "passed", target, None, None, None, None, "all passed")


def _judge_bounce(bounce: BounceEvidence | NotEvaluated) -> GateOutcome:
    """Hold what could be bid-ask bounce; the figure is the share of the gain that is left from the next open."""
    name, target = (
        "bounce",
        "at least half of the gain is left from the next open; opens are close to the previous close",
    )
    if isinstance(bounce, NotEvaluated):
        return _failed(name, target, bounce.reason)
    gross, left = bounce.economics.close_bps, bounce.economics.open_bps.value
    doubts = [doubt for symbol in bounce.symbols for doubt in _bounce_doubts(symbol)]
    if not gross > 0:
        doubts.insert(0, f"the calls earn {gross:.3f} bps per bar from the close, so nothing can be left of it")
    elif not left >= BOUNCE_SURVIVAL * gross:
        doubts.insert(0, f"of {gross:.3f} bps per bar from the close, {left:.3f} are left from the next open")
    survival = left / gross if gross > 0 else 0.0
    if not math.isfinite(survival):
        return _failed(name, target, f"the calls earn {gross} bps from the close and {left} from the next open")
    reason = f"the gain may not be tradable: {'; '.join(doubts)}" if doubts else f"{survival:.0%} of the gain is left"
    outcome: Outcome = "held" if doubts else "passed"
    return GateOutcome(name, outcome, target, survival, None, None, survival - BOUNCE_SURVIVAL, reason)


def _bounce_doubts(symbol: SymbolBounce) -> list[str]:
    doubts = []
    if not symbol.gap_share <= BOUNCE_GAP_SHARE:
        doubts.append(f"{symbol.symbol} opens {symbol.gap_share:.0%} of a mean move off the previous close")
    most = min(BOUNCE_AUTOCORRELATION, -BOUNCE_ERRORS / math.sqrt(max(symbol.pairs, 1)))
    if symbol.repeated_opens >= REPEATED_OPENS and not symbol.autocorrelation >= most:
        doubts.append(
            f"{symbol.symbol}'s opens repeat the previous close, and its returns reverse at lag 1 "
            f"(autocorrelation {symbol.autocorrelation:.3f}, below {most:.3f})"
        )
    return doubts


def _judge_champion(champion: ChampionEvidence | NotApplicable | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Hold a version that is not clearly as good as the one served now; fail it only if it is clearly worse."""
    name, target = "champion", "not worse than the version served now"
    if isinstance(champion, NotApplicable):
        return _not_applicable(name, target, champion.reason)
    if isinstance(champion, NotEvaluated):
        return _held(name, target, f"not compared with the version served now: {champion.reason}")
    value, low, high = champion.gain.value, champion.gain.low, champion.gain.high
    target += f": log-loss gain > -{config.champion_tolerance:g} nats, its lower end > -{config.champion_margin:g}"
    good = value > -config.champion_tolerance and low > -config.champion_margin
    told = f"gain over {champion.version} {value:+.5f} nats, {low:+.5f} to {high:+.5f}"
    outcome = _measured(
        name,
        passed=good,
        target=target,
        value=value,
        ends=(low, high),
        margin=min(value + config.champion_tolerance, low + config.champion_margin),
        reason=told if good else f"worse than {champion.version}: {told}",
    )
    if outcome.outcome == "failed" and high >= 0:
        return replace(outcome, outcome="held", reason=f"not better than {champion.version}: {told}")
    return outcome


def _judge_meaning(differences: tuple[str, ...] | NotApplicable) -> GateOutcome:
    name, target = (
        "meaning",
        "same label and interval as the version served now, no symbol lost, no more columns needed",
    )
    if isinstance(differences, NotApplicable):
        return _not_applicable(name, target, differences.reason)
    if differences:
        return _held(name, target, f"no drop-in replacement for the version served now: {'; '.join(differences)}")
    return GateOutcome(name, "passed", target, None, None, None, None, "the same")


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


def _held(name: str, target: str, reason: str) -> GateOutcome:
    return GateOutcome(name, "held", target, None, None, None, None, reason)


def _not_applicable(name: str, target: str, reason: str) -> GateOutcome:
    return GateOutcome(name, "not applicable", target, None, None, None, None, reason)
