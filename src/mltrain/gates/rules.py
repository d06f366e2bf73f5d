"""The gates: one function each, from its evidence and thresholds to its outcome.

Thresholds that users may set come as `GateConfig`; the others are the constants below. Intervals that support a claim
of skill are widened and their margins raised for earlier looks at the holdout (`gate_evidence.Selection`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mltrain.gates.gate_evidence import NotApplicable, NotEvaluated
from mltrain.gates.outcome import GateOutcome, judge_figure
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
    from mltrain.training.bootstrap import Estimate, Interval
    from mltrain.training.economics import SymbolBounce

SymbolWord: TypeAlias = Literal["proven", "not proven alone", "no skill", "no rows"]

REQUIRED_GUARDS: Final = ("future_info", "time_split", "feature_audit")

# Confidence that a symbol alone has skill: low, because one symbol has few rows and the pool is judged strictly.
SYMBOL_CONFIDENCE: Final = 0.75
# With more symbols than this, chance alone makes one of them fail.
FEW_SYMBOLS: Final = 10
# Share of the rows that symbols without skill may then have, and share of the symbols that may be without rows.
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
        rows: Number of its rows of the holdout.
        baseline: The rule that the model is compared with; "coin" is one half.
        baseline_accuracy: Accuracy of that rule, 0 to 1.
        accuracy: Accuracy of the model, 0 to 1; None without rows.
        margin: The difference, a share of the rows; None if the rows fill fewer than two bootstrap blocks.
        log_loss_skill: 1 - log loss / log loss of the symbol's training base rate; None in the same case.
        verdict: "proven" if the lower end of its log-loss skill is above 0 at 95 %; "not proven alone" if it is so
            at 75 % only; "no rows" if the holdout has none of the symbol; otherwise "no skill".
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
    name, target = "skill", "better than the baseline"
    if isinstance(skill, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=skill.reason)
    if not 0 < skill.base_rate < 1:
        reason = f"the training base rate is {skill.base_rate:g}"
        return GateOutcome(name=name, outcome="failed", target=target, reason=reason)
    if config.base_rate_low <= skill.base_rate <= config.base_rate_high:
        figure, minimum, what, unit = skill.accuracy_margin, config.accuracy_margin_pp, "accuracy - baseline", "pp"
    else:
        figure, minimum, what, unit = skill.log_loss_skill, config.log_loss_skill_percent, "log-loss skill", "%"
    figure = figure.scaled(100)
    raised_minimum = minimum + selection.raised_by(figure.se)
    gain = figure.interval(selection.confidence)
    looks = f" ({minimum:g}, raised for earlier looks, {selection.looks:.3g} in all)" if selection.looks else ""
    return judge_figure(
        name,
        passed=gain.value >= raised_minimum and gain.low > 0,
        target=f"{what} >= {raised_minimum:.3g} {unit}{looks} and the lower end of its interval above 0",
        value=gain.value,
        ends=(gain.low, gain.high),
        margin=min(gain.value - raised_minimum, gain.low),
        reason=f"{gain.value:.2f} {unit}, lower end {gain.low:.2f}; {skill.base_rate:.1%} of the training rows went up",
    )


def judge_simple_model(simple: SimpleModelEvidence | NotEvaluated, selection: Selection) -> GateOutcome:
    """Judge the lower ends of both gains over simpler models, in nats; the outcome shows the gain with the lower."""
    name, target = "simple_model", "log-loss gain over a logistic regression and over the base rate: lower ends above 0"
    if isinstance(simple, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=simple.reason)
    estimates = {"the logistic regression": simple.over_logistic, "the base rate": simple.over_base_rate}
    gains = {over: estimate.interval(selection.confidence) for over, estimate in estimates.items()}
    smallest = min(gains.values(), key=lambda gain: gain.low)
    listed = ", ".join(f"{gain.value:+.5f} over {over} (lower end {gain.low:+.5f})" for over, gain in gains.items())
    return judge_figure(
        name,
        passed=all(gain.low > 0 for gain in gains.values()),
        target=target,
        value=smallest.value,
        ends=(smallest.low, smallest.high),
        margin=smallest.low,
        reason=f"gain in nats: {listed}",
    )


def judge_symbols(symbols: Sequence[SymbolSkill] | NotEvaluated) -> tuple[SymbolVerdict, ...]:
    """Return the verdict on each symbol alone; empty if the symbols could not be evaluated."""
    if isinstance(symbols, NotEvaluated):
        return ()
    verdicts = []
    for evidence in symbols:
        skill, margin = evidence.log_loss_skill, evidence.margin
        verdict: SymbolWord = "no skill" if evidence.baseline.rows else "no rows"
        if skill is not None and skill.low(SYMBOL_CONFIDENCE) > 0:
            verdict = "proven" if skill.low(JUDGED) > 0 else "not proven alone"
        verdicts.append(
            SymbolVerdict(
                symbol=evidence.baseline.symbol,
                rows=evidence.baseline.rows,
                baseline=evidence.baseline.rule,
                baseline_accuracy=evidence.baseline.accuracy,
                accuracy=evidence.accuracy,
                margin=None if margin is None else margin.interval(JUDGED),
                log_loss_skill=None if skill is None else skill.interval(JUDGED),
                verdict=verdict,
            )
        )
    return tuple(verdicts)


def judge_per_symbol(evidence: Evidence, verdicts: tuple[SymbolVerdict, ...]) -> GateOutcome:
    """Judge the log-loss skill of all symbols pooled, in percent, and that each symbol alone has skill.

    With more than `FEW_SYMBOLS` symbols, those without skill may have `FAILING_ROWS` of the rows. A symbol without a
    row in the holdout has shown neither skill nor a lack of it, so the model is held instead; of many symbols, the
    share `FAILING_ROWS` may be without rows.
    """
    symbols, pooled, selection = evidence.symbols, evidence.skill, evidence.selection
    name = "per_symbol"
    target = f"log-loss skill above 0: lower end of the pool, each symbol at {SYMBOL_CONFIDENCE:.0%}"
    if isinstance(symbols, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=symbols.reason)
    if isinstance(pooled, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=pooled.reason)
    failing = [v.symbol for v in verdicts if v.verdict == "no skill"]
    rows = sum(v.rows for v in verdicts)
    failing_share = sum(v.rows for v in verdicts if v.verdict == "no skill") / max(rows, 1)
    if len(verdicts) > FEW_SYMBOLS:
        target += f"; symbols without skill may have {FAILING_ROWS:.0%} of the rows"
    tolerated = not failing or (len(verdicts) > FEW_SYMBOLS and failing_share <= FAILING_ROWS)
    skill = pooled.log_loss_skill.scaled(100).interval(selection.confidence)
    reason = f"pooled {skill.value:.2f} %, lower end {skill.low:.2f}"
    if failing:
        advice = ""
        others = [v for v in verdicts if v.verdict != "no skill"]
        if any(v.rows for v in others) and not tolerated:
            advice = f"; to train without, add `--symbols {','.join(v.symbol for v in others)}` to the snapshot"
            if failing_leaders := [symbol for symbol in failing if symbol in evidence.leaders]:
                advice += f" and take a registry that does not read {', '.join(failing_leaders)} as a leader"
        reason = f"no skill on {', '.join(failing)} ({failing_share:.0%} of the rows){advice}; {reason}"
    if absent := [v.symbol for v in verdicts if v.verdict == "no rows"]:
        reason = (
            f"no row of {', '.join(absent)} in the holdout, so that nothing proves skill there; to judge every symbol, "
            f"take a snapshot with --align common, or without {'them' if len(absent) > 1 else 'it'}; {reason}"
        )
    outcome = judge_figure(
        name,
        passed=tolerated and skill.low > 0,
        target=target,
        value=skill.value,
        ends=(skill.low, skill.high),
        margin=skill.low if tolerated else min(skill.low, -100 * failing_share),
        reason=reason,
    )
    may_be_absent = FAILING_ROWS * len(verdicts) if len(verdicts) > FEW_SYMBOLS else 0
    if outcome.outcome == "passed" and len(absent) > may_be_absent:
        return replace(outcome, outcome="held")
    return outcome


def judge_calibration(calibration: CalibrationEvidence | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the expected calibration error (ECE) against its limit and against what chance explains."""
    name = "calibration"
    if isinstance(calibration, NotEvaluated):
        target = f"ECE <= {config.ece_max:g}"
        return GateOutcome(name=name, outcome="failed", target=target, reason=calibration.reason)
    ece, null_p95 = calibration.ece, calibration.ece_null_p95
    # Python's min returns NaN if its first argument is NaN, and then the gate fails.
    limit = min(null_p95 + config.ece_excess_max, config.ece_max)
    why = f"{config.ece_max:g}, and at most {config.ece_excess_max:g} above {null_p95:.4f}, what chance explains"
    return judge_figure(
        name,
        passed=0 <= ece.value <= limit,
        target=f"ECE <= {limit:.4g} ({why})",
        value=ece.value,
        ends=(ece.low, ece.high),
        margin=limit - ece.value if ece.value >= 0 else ece.value,
        reason=f"{ece.value:.4g}",
    )


def judge_latency(p95_ms: float | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the 95th percentile of the time from candles to the probability of one symbol, in ms."""
    name, target = "latency", f"p95 from candles to probability <= {config.latency_p95_ms:g} ms"
    if isinstance(p95_ms, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=p95_ms.reason)
    return judge_figure(
        name,
        passed=0 <= p95_ms <= config.latency_p95_ms,
        target=target,
        value=p95_ms,
        margin=config.latency_p95_ms - p95_ms if p95_ms >= 0 else p95_ms,
        reason=f"{p95_ms:.4g} ms",
    )


def judge_leakage(guards: Sequence[GuardResult] | NotEvaluated) -> GateOutcome:
    """Fail a model unless every required guard passed; hold it if a single feature predicts the label too well."""
    name, target = "leakage", f"{', '.join(REQUIRED_GUARDS)} pass"
    if isinstance(guards, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=guards.reason)
    problems = [f"{g.name} failed" for g in guards if g.passed is not True]
    problems += [f"{missing} did not run" for missing in REQUIRED_GUARDS if missing not in {g.name for g in guards}]
    if problems:
        return GateOutcome(name=name, outcome="failed", target=target, reason=", ".join(problems))
    suspects = [f"{s.feature} of {s.symbol} (AUC {s.auc:.3f})" for g in guards for s in g.suspects]
    if suspects:
        reason = f"a single feature predicts the label too well: {', '.join(suspects)}"
        return GateOutcome(name=name, outcome="held", target=target, reason=reason)
    return GateOutcome(name=name, outcome="passed", target=target, reason="all passed")


def judge_bounce(bounce: BounceEvidence | NotEvaluated) -> GateOutcome:
    """Hold a model whose gain could be bid-ask bounce; the figure is the share of it left from the next open."""
    name = "bounce"
    target = "at least half of the gain is left from the next open; opens are close to the previous close"
    if isinstance(bounce, NotEvaluated):
        return GateOutcome(name=name, outcome="failed", target=target, reason=bounce.reason)
    close_bps, open_bps = bounce.economics.close_bps, bounce.economics.open_bps.value
    doubts = [doubt for symbol in bounce.symbols for doubt in _find_bounce_doubts(symbol)]
    # Written so that NaN raises a doubt: every comparison with NaN is False.
    if not close_bps > 0:
        doubts.insert(0, f"the calls earn {close_bps:.3f} bps per bar from the close, so nothing can be left of it")
    elif not open_bps >= BOUNCE_SURVIVAL * close_bps:
        doubts.insert(0, f"of {close_bps:.3f} bps per bar from the close, {open_bps:.3f} are left from the next open")
    survival = open_bps / close_bps if close_bps > 0 else 0.0
    if not math.isfinite(survival):
        reason = f"the calls earn {close_bps} bps from the close and {open_bps} from the next open"
        return GateOutcome(name=name, outcome="failed", target=target, reason=reason)
    reason = f"the gain may not be tradable: {'; '.join(doubts)}" if doubts else f"{survival:.0%} of the gain is left"
    return GateOutcome(
        name=name,
        outcome="held" if doubts else "passed",
        target=target,
        value=survival,
        margin=survival - BOUNCE_SURVIVAL,
        reason=reason,
    )


def _find_bounce_doubts(symbol: SymbolBounce) -> list[str]:
    """Describe what looks like bid-ask bounce in the candles of one symbol."""
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


def judge_economics(
    break_even: Estimate | NotEvaluated, selection: Selection, config: GateConfig
) -> tuple[GateOutcome, ...]:
    """Judge the lower end of the break-even cost per side, in bps; no outcome if `break_even_bps` is 0, its default."""
    minimum = config.break_even_bps
    if minimum == 0:
        return ()
    name, target = "economics", f"break-even cost above {minimum:g} bps per side, the lower end of its interval"
    if isinstance(break_even, NotEvaluated):
        return (GateOutcome(name=name, outcome="failed", target=target, reason=break_even.reason),)
    cost = break_even.interval(selection.confidence)
    outcome = judge_figure(
        name,
        passed=cost.low > minimum,
        target=target,
        value=cost.value,
        ends=(cost.low, cost.high),
        margin=cost.low - minimum,
        reason=f"{cost.value:.2f} bps, lower end {cost.low:.2f}",
    )
    return (outcome,)


def judge_champion(champion: ChampionEvidence | NotApplicable | NotEvaluated, config: GateConfig) -> GateOutcome:
    """Judge the log-loss gain over the live version, in nats: hold a model without one, fail a clearly worse model."""
    name, target = "champion", "not worse than the live version"
    if isinstance(champion, NotApplicable):
        return GateOutcome(name=name, outcome="not applicable", target=target, reason=champion.reason)
    if isinstance(champion, NotEvaluated):
        reason = f"not compared with the live version: {champion.reason}"
        return GateOutcome(name=name, outcome="held", target=target, reason=reason)
    value, low, high = champion.gain.value, champion.gain.low, champion.gain.high
    target += f": log-loss gain > -{config.champion_tolerance:g} nats, its lower end > -{config.champion_margin:g}"
    good_enough = value > -config.champion_tolerance and low > -config.champion_margin
    gain = f"gain over {champion.version} {value:+.5f} nats, {low:+.5f} to {high:+.5f}"
    outcome = judge_figure(
        name,
        passed=good_enough,
        target=target,
        value=value,
        ends=(low, high),
        margin=min(value + config.champion_tolerance, low + config.champion_margin),
        reason=gain if good_enough else f"worse than {champion.version}: {gain}",
    )
    if outcome.outcome == "failed" and high >= 0:
        return replace(outcome, outcome="held", reason=f"not better than {champion.version}: {gain}")
    return outcome


def judge_meaning(differences: tuple[str, ...] | NotApplicable) -> GateOutcome:
    """Hold a model that is not a drop-in replacement for the live version; a person decides."""
    name = "meaning"
    target = "same label and interval as the live version, no symbol lost, no more columns needed"
    if isinstance(differences, NotApplicable):
        return GateOutcome(name=name, outcome="not applicable", target=target, reason=differences.reason)
    if differences:
        reason = f"no drop-in replacement for the live version: {'; '.join(differences)}"
        return GateOutcome(name=name, outcome="held", target=target, reason=reason)
    return GateOutcome(name=name, outcome="passed", target=target, reason="the same")


def judge_origin(origin: Origin) -> GateOutcome:
    """Fail a model of simulated candles that would replace one of real or of unknown candles."""
    name, target = "simulated_never_replaces_real", "a model of simulated candles replaces none of real ones"
    reason = f"candles of this model: {'simulated' if origin.simulated else 'real'}, of the champion: {origin.champion}"
    passed = not origin.simulated or origin.champion in {"none", "simulated"}
    return GateOutcome(name=name, outcome="passed" if passed else "failed", target=target, reason=reason)
