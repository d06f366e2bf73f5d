"""The gates: one function each, from its evidence and thresholds to its outcome.

Thresholds that users may set come as `GateConfig`; the others are the constants below. Intervals that support a claim
of skill are widened and their margins raised for earlier looks at the holdout (`gate_evidence.Selection`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mltrain.gates.gate_evidence import NotApplicable, NotEvaluated
from mltrain.gates.outcome import GateOutcome, failed, held, measured, not_applicable, passed
from mltrain.training.bootstrap import JUDGED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.config.train_config import GateConfig
    from mltrain.gates.gate_evidence import (
        BounceEvidence,
        CalibrationEvidence,
        ChampionEvidence,
        Evidence,
        Origin,
        Selection,
        SimpleModelEvidence,
        SkillEvidence,
    )
    from mltrain.guards.evidence import GuardResult
    from mltrain.training.baselines import SymbolSkill
    from mltrain.training.bootstrap import Interval
    from mltrain.training.economics import SymbolBounce

SymbolWord: TypeAlias = Literal["proven", "not proven alone", "no skill"]

REQUIRED_GUARDS: Final = ("future_info", "time_split", "feature_audit")

# Confidence that a symbol alone has skill: low, because one symbol has few rows and the pool is judged strictly.
SYMBOL_CONFIDENCE: Final = 0.75
# With more symbols than this, chance alone makes one of them fail.
FEW_SYMBOLS: Final = 10
# Share of the rows that symbols without skill may then have.
FAILING_ROWS: Final = 0.1

# Real spot candles open at the last trade or next to it: a gap share of 0.001 to 0.02 on BTCUSDT, ETHUSDT and SOLUSDT.
BOUNCE_GAP_SHARE: Final = 0.1
# Share of the gross gain that must be left from the next open.
BOUNCE_SURVIVAL: Final = 0.5
# At this share of repeated opens or more, opens merely repeat the previous close and show no bounce.
REPEATED_OPENS: Final = 0.9
BOUNCE_AUTOCORRELATION: Final = -0.03
# Standard errors below 0: a few days alone reach -0.03 by chance.
BOUNCE_ERRORS: Final = 3


@dataclass(frozen=True, slots=True)
class SymbolVerdict:
    """The result for one symbol alone.

    Attributes:
        symbol: The symbol.
        rows: Its rows of the holdout.
        baseline: The rule that the model is compared with; "coin" is one half.
        baseline_accuracy: Accuracy of that rule.
        accuracy: Accuracy of the model; None without rows.
        margin: The difference, a share of the rows; None if the rows fill fewer than two bootstrap blocks.
        log_loss_skill: 1 - log loss / log loss of the symbol's training base rate; None in the same case.
        verdict: "proven" if the lower end of its log-loss skill is above 0 at 95 %; "not proven alone" if it is so
            at 75 % only; otherwise "no skill".
    """

    symbol: str
    rows: int
    baseline: str
    baseline_accuracy: float
    accuracy: float | None
    margin: Interval | None
    log_loss_skill: Interval | None
    verdict: SymbolWord


def judge_skill(skill: SkillEvidence | NotEvaluated, selection: Selection, config: GateConfig) -> GateOutcome:
    """Judge accuracy in pp where up and down are about equally frequent, otherwise log-loss skill in percent.

    With a base rate far from one half, a constant prediction is already accurate.
    """
    name = "skill"
    if isinstance(skill, NotEvaluated):
        return failed(name, "better than the baseline", skill.reason)
    if not 0 < skill.base_rate < 1:
        return failed(name, "better than the baseline", f"the training base rate is {skill.base_rate:g}")
    if config.base_rate_low <= skill.base_rate <= config.base_rate_high:
        figure, minimum, what, unit = skill.accuracy_margin, config.accuracy_margin_pp, "accuracy - baseline", "pp"
    else:
        figure, minimum, what, unit = skill.log_loss_skill, config.log_loss_skill_percent, "log-loss skill", "%"
    figure = figure.scaled(100)
    raised = minimum + selection.raised_by(figure.se)
    gain = figure.interval(selection.confidence)
    looks = f" ({minimum:g}, raised for earlier looks, {selection.looks:.3g} in all)" if selection.looks else ""
    return measured(
        name,
        passed=gain.value >= raised and gain.low > 0,
        target=f"{what} >= {raised:.3g} {unit}{looks} and the lower end of its interval above 0",
        value=gain.value,
        ends=(gain.low, gain.high),
        margin=min(gain.value - raised, gain.low),
        reason=f"{gain.value:.2f} {unit}, lower end {gain.low:.2f}; {skill.base_rate:.1%} of the training rows went up",
    )


def judge_simple_model(simple: SimpleModelEvidence | NotEvaluated, selection: Selection) -> GateOutcome:
    """Judge the lower ends of both gains over simpler models, in nats; the figure is the gain with the smaller one."""
    name, target = "simple_model", "log-loss gain over a logistic regression and over the base rate: lower ends above 0"
    if isinstance(simple, NotEvaluated):
        return failed(name, target, simple.reason)
    estimates = {"the logistic regression": simple.over_logistic, "the base rate": simple.over_base_rate}
    gains = {over: estimate.interval(selection.confidence) for over, estimate in estimates.items()}
    smallest = min(gains.values(), key=lambda gain: gain.low)
    listed = ", ".join(f"{gain.value:+.5f} over {over} (lower end {gain.low:+.5f})" for over, gain in gains.items())
    return measured(
        name,
        passed=all(gain.low > 0 for gain in gains.values()),
        target=target,
        value=smallest.value,
        ends=(smallest.low, smallest.high),
        margin=smallest.low,
        reason=f"gain in nats: {listed}",
    )


def judge_symbols(symbols: Sequence[SymbolSkill] | NotEvaluated) -> tuple[SymbolVerdict, ...]:
    """Judge each symbol alone; empty if the symbols could not be evaluated."""
    if isinstance(symbols, NotEvaluated):
        return ()
    verdicts = []
    for s in symbols:
        skill = s.log_loss_skill
        word: SymbolWord = "no skill"
        if skill is not None and skill.low(SYMBOL_CONFIDENCE) > 0:
            word = "proven" if skill.low(JUDGED) > 0 else "not proven alone"
        verdicts.append(
            SymbolVerdict(
                symbol=s.baseline.symbol,
                rows=s.baseline.rows,
                baseline=s.baseline.rule,
                baseline_accuracy=s.baseline.accuracy,
                accuracy=s.accuracy,
                margin=None if s.margin is None else s.margin.interval(JUDGED),
                log_loss_skill=None if skill is None else skill.interval(JUDGED),
                verdict=word,
            )
        )
    return tuple(verdicts)


def judge_per_symbol(evidence: Evidence, verdicts: tuple[SymbolVerdict, ...]) -> GateOutcome:
    """Judge the log-loss skill of all symbols pooled, in percent, and that each symbol alone has skill.

    With more than `FEW_SYMBOLS` symbols, those without skill may have `FAILING_ROWS` of the rows.
    """
    symbols, pooled, selection = evidence.symbols, evidence.skill, evidence.selection
    name = "per_symbol"
    target = f"log-loss skill above 0: lower end of the pool, each symbol at {SYMBOL_CONFIDENCE:.0%}"
    if isinstance(symbols, NotEvaluated):
        return failed(name, target, symbols.reason)
    if isinstance(pooled, NotEvaluated):
        return failed(name, target, pooled.reason)
    failing = [v.symbol for v in verdicts if v.verdict == "no skill"]
    rows = sum(v.rows for v in verdicts)
    share = sum(v.rows for v in verdicts if v.verdict == "no skill") / max(rows, 1)
    if len(verdicts) > FEW_SYMBOLS:
        target += f"; symbols without skill may have {FAILING_ROWS:.0%} of the rows"
    tolerated = not failing or (len(verdicts) > FEW_SYMBOLS and share <= FAILING_ROWS)
    skill = pooled.log_loss_skill.scaled(100).interval(selection.confidence)
    reason = f"pooled {skill.value:.2f} %, lower end {skill.low:.2f}"
    if failing:
        sound = [v.symbol for v in verdicts if v.verdict != "no skill"]
        way = ""
        if sound and not tolerated:
            way = f"; to train without, add `--symbols {','.join(sound)}` to the snapshot"
            if led := [symbol for symbol in failing if symbol in evidence.leaders]:
                way += f" and take a registry that does not read {', '.join(led)} as a leader"
        reason = f"no skill on {', '.join(failing)} ({share:.0%} of the rows){way}; {reason}"
    return measured(
        name,
        passed=tolerated and skill.low > 0,
        target=target,
        value=skill.value,
        ends=(skill.low, skill.high),
        margin=skill.low if tolerated else min(skill.low, -100 * share),
        reason=reason,
    )


def judge_calibration(calibration: CalibrationEvidence | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the ECE against its limit and against chance; its interval is shown but not judged."""
    if isinstance(calibration, NotEvaluated):
        return failed("calibration", f"ECE <= {config.ece_max:g}", calibration.reason)
    ece, floor = calibration.ece, calibration.floor_p95
    # Python's min returns NaN if its first argument is NaN, and then the gate fails.
    limit = min(floor + config.ece_excess_max, config.ece_max)
    why = f"{config.ece_max:g}, and at most {config.ece_excess_max:g} above {floor:.4f}, what chance explains"
    return measured(
        "calibration",
        passed=0 <= ece.value <= limit,
        target=f"ECE <= {limit:.4g} ({why})",
        value=ece.value,
        ends=(ece.low, ece.high),
        margin=limit - ece.value if ece.value >= 0 else ece.value,
        reason=f"{ece.value:.4g}",
    )


def judge_latency(p95_ms: float | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the 95th percentile of the time from candles to the probability of one symbol, in ms."""
    target = f"p95 from candles to probability <= {config.latency_p95_ms:g} ms"
    if isinstance(p95_ms, NotEvaluated):
        return failed("latency", target, p95_ms.reason)
    return measured(
        "latency",
        passed=0 <= p95_ms <= config.latency_p95_ms,
        target=target,
        value=p95_ms,
        margin=config.latency_p95_ms - p95_ms if p95_ms >= 0 else p95_ms,
        reason=f"{p95_ms:.4g} ms",
    )


def judge_leakage(guards: Sequence[GuardResult] | NotEvaluated) -> GateOutcome:
    """Fail unless every required guard ran and passed; hold features that alone predict the label too well."""
    name, target = "leakage", f"{', '.join(REQUIRED_GUARDS)} pass"
    if isinstance(guards, NotEvaluated):
        return failed(name, target, guards.reason)
    problems = [f"{g.name} failed" for g in guards if g.passed is not True]
    problems += [f"{missing} did not run" for missing in REQUIRED_GUARDS if missing not in {g.name for g in guards}]
    if problems:
        return failed(name, target, ", ".join(problems))
    suspects = [f"{s.feature} of {s.symbol} (AUC {s.auc:.3f})" for g in guards for s in g.suspects]
    if suspects:
        return held(name, target, f"a single feature predicts the label too well: {', '.join(suspects)}")
    return passed(name, target, "all passed")


def judge_bounce(bounce: BounceEvidence | NotEvaluated) -> GateOutcome:
    """Hold a gain that could be bid-ask bounce; the figure is the share of the gain that is left from the next open."""
    name = "bounce"
    target = "at least half of the gain is left from the next open; opens are close to the previous close"
    if isinstance(bounce, NotEvaluated):
        return failed(name, target, bounce.reason)
    gross, left = bounce.economics.close_bps, bounce.economics.open_bps.value
    doubts = [doubt for symbol in bounce.symbols for doubt in _bounce_doubts(symbol)]
    # Written so that NaN raises a doubt: every comparison with NaN is False.
    if not gross > 0:
        doubts.insert(0, f"the calls earn {gross:.3f} bps per bar from the close, so nothing can be left of it")
    elif not left >= BOUNCE_SURVIVAL * gross:
        doubts.insert(0, f"of {gross:.3f} bps per bar from the close, {left:.3f} are left from the next open")
    survival = left / gross if gross > 0 else 0.0
    if not math.isfinite(survival):
        return failed(name, target, f"the calls earn {gross} bps from the close and {left} from the next open")
    reason = f"the gain may not be tradable: {'; '.join(doubts)}" if doubts else f"{survival:.0%} of the gain is left"
    return GateOutcome(
        name, "held" if doubts else "passed", target, survival, None, None, survival - BOUNCE_SURVIVAL, reason
    )


def _bounce_doubts(symbol: SymbolBounce) -> list[str]:
    doubts = []
    if not symbol.gap_share <= BOUNCE_GAP_SHARE:
        doubts.append(f"{symbol.symbol} opens {symbol.gap_share:.0%} of a mean move off the previous close")
    limit = min(BOUNCE_AUTOCORRELATION, -BOUNCE_ERRORS / math.sqrt(max(symbol.pairs, 1)))
    if symbol.repeated_opens >= REPEATED_OPENS and not symbol.autocorrelation >= limit:
        doubts.append(
            f"{symbol.symbol}'s opens repeat the previous close, and its returns reverse at lag 1 "
            f"(autocorrelation {symbol.autocorrelation:.3f}, below {limit:.3f})"
        )
    return doubts


def judge_champion(champion: ChampionEvidence | NotApplicable | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Hold a model that is not clearly as good as the live version, in nats; fail it only if it is clearly worse."""
    name, target = "champion", "not worse than the live version"
    if isinstance(champion, NotApplicable):
        return not_applicable(name, target, champion.reason)
    if isinstance(champion, NotEvaluated):
        return held(name, target, f"not compared with the live version: {champion.reason}")
    value, low, high = champion.gain.value, champion.gain.low, champion.gain.high
    target += f": log-loss gain > -{config.champion_tolerance:g} nats, its lower end > -{config.champion_margin:g}"
    good = value > -config.champion_tolerance and low > -config.champion_margin
    gain = f"gain over {champion.version} {value:+.5f} nats, {low:+.5f} to {high:+.5f}"
    outcome = measured(
        name,
        passed=good,
        target=target,
        value=value,
        ends=(low, high),
        margin=min(value + config.champion_tolerance, low + config.champion_margin),
        reason=gain if good else f"worse than {champion.version}: {gain}",
    )
    if outcome.outcome == "failed" and high >= 0:
        return replace(outcome, outcome="held", reason=f"not better than {champion.version}: {gain}")
    return outcome


def judge_meaning(differences: tuple[str, ...] | NotApplicable) -> GateOutcome:
    """Hold a model that is not a drop-in replacement for the live version; a person decides."""
    name = "meaning"
    target = "same label and interval as the live version, no symbol lost, no more columns needed"
    if isinstance(differences, NotApplicable):
        return not_applicable(name, target, differences.reason)
    if differences:
        return held(name, target, f"no drop-in replacement for the live version: {'; '.join(differences)}")
    return passed(name, target, "the same")


def judge_origin(origin: Origin) -> GateOutcome:
    """Fail a model of simulated candles that would replace one of real or of unknown candles."""
    name, target = "simulated_never_replaces_real", "a model of simulated candles replaces none of real ones"
    reason = f"candles of this model: {'simulated' if origin.simulated else 'real'}, of the champion: {origin.champion}"
    if origin.simulated and origin.champion not in {"none", "simulated"}:
        return failed(name, target, reason)
    return passed(name, target, reason)
