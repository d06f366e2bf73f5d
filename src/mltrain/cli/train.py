"""Commands that make a version: train, demo."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mltrain.api.train import DEMO_DIR
from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import FeaturesOption, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_version
from mltrain.cli.config import (
    CalibrationOption,
    ClassWeight,
    Config,
    EarlyStop,
    HoldoutFrom,
    MaxRows,
    ModelOption,
    Seed,
    SettingsCommand,
    Trials,
    ValidDays,
    ValRatio,
    read_class_weight,
)
from mltrain.cli.help import add_command, model_option, output_option, search_option
from mltrain.cli.render import Outcome, interval_text, number_text, time_text
from mltrain.cli.tables import Framed, folding, optional, right, table
from mltrain.errors import NoGoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.api.train_result import DemoResult, ExistingVersion, TrainedVersion
    from mltrain.card.model_card import ModelCard
    from mltrain.cli.render import View
    from mltrain.gates.outcome import GateOutcome
    from mltrain.gates.rules import SymbolVerdict
    from mltrain.pipeline.plan import Plan
    from mltrain.training.bootstrap import Interval
    from mltrain.training.economics import Economics

GIB: Final = 1 << 30


class FittedRows(StrEnum):
    """Rows that the served model is fitted on."""

    INNER = "inner"
    ALL = "all"


Workers = Annotated[
    int | None,
    search_option("--workers", min=1, max=256, help="Processes that run trials; by default one per core."),
]
SearchTimeout = Annotated[
    float | None,
    search_option(
        "--timeout",
        metavar="SECONDS",
        min=0.001,
        help="Stop the search after this time and take the best trial so far.",
    ),
]
FinalOption = Annotated[
    FittedRows,
    model_option("--final", help="Rows that the served model is fitted on; all: those of the holdout, too."),
]
Promote = Annotated[bool, output_option("--promote/--no-promote", help="Promote the version if it is GO and not held.")]
Sign = Annotated[
    Path | None,
    output_option("--sign", metavar="FILE", help="Sign the version with this private key (Ed25519, PEM)."),
]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "train", train, example="mltrain train --trials 50 --workers 2", cls=SettingsCommand)
    add_command(app, "demo", demo, example="mltrain demo")


@command(opens_versions=True, notifies=True, need_mb=LEARNING_MB)
def train(
    session: Session,
    ref: SnapshotOption = "latest",
    model: ModelOption = None,
    trials: Trials = None,
    early_stop: EarlyStop = None,
    calibration: CalibrationOption = None,
    class_weight: ClassWeight = None,
    val_ratio: ValRatio = None,
    holdout_from: HoldoutFrom = None,
    seed: Seed = None,
    features: FeaturesOption = None,
    config: Config = None,
    workers: Workers = None,
    resume: Annotated[
        bool, search_option("--resume", help="Continue an interrupted search instead of starting again.")
    ] = False,
    timeout_s: SearchTimeout = None,
    warm_start: Annotated[
        str | None,
        search_option(
            "--warm-start",
            metavar="VERSION",
            help="Try the hyperparameters of this version right after the defaults.",
            autocompletion=complete_version,
        ),
    ] = None,
    final: FinalOption = FittedRows.INNER,
    max_rows: MaxRows = None,
    valid_days: ValidDays = None,
    promote: Promote = True,
    dry_run: Annotated[
        bool, output_option("--dry-run", help="Show rows, blocks, memory and minutes; train nothing.")
    ] = False,
    ops: OpsOption = None,
    sign: Sign = None,
) -> Outcome:
    """Train, calibrate, judge and document one version; a GO becomes the live one, unless it is held."""
    from mltrain.api.train import train, train_plan
    from mltrain.api.train_result import ExistingVersion

    register_ops(ops)
    options: dict[str, Any] = {
        "model": None if model is None else model.value,
        "trials": trials,
        "early_stop": early_stop,
        "calibration": None if calibration is None else calibration.value,
        "class_weight": read_class_weight(class_weight),
        "val_ratio": val_ratio,
        "holdout_from": holdout_from,
        "seed": seed,
        "max_rows": max_rows,
        "valid_days": valid_days,
        "features": features,
        "config": config,
        "workers": workers,
        "resume": resume,
        "timeout_s": timeout_s,
        "warm_start": warm_start,
        "final": final.value,
        "promote": promote,
        "sign": sign,
        "data_dir": session.data_dir,
        "slot": session.slot,
        "progress": session.progress,
    }
    if dry_run:
        plan = train_plan(ref, **options)
        return Outcome(plan, lambda: _view_plan(plan))
    result = train(ref, **options, notify=session.notify, now_ms=session.now_ms)
    if isinstance(result, ExistingVersion):
        return Outcome(result, lambda: _view_existing(result, result.read_card()))
    exit_code = 0 if result.verdict == "GO" else NoGoError.exit_code
    return Outcome(result, lambda: _view_training(result, result.read_card()), exit_code=exit_code)


def _view_existing(result: ExistingVersion, card: ModelCard) -> View:
    """Show the stored version whose bytes this training would only repeat, and the next step."""
    yield f"already there: {result.version}, same bytes"
    if result.best:
        yield "it is the live version; another seed or newer candles would make another one"
    elif result.verdict == "GO":
        if held := card.text("gates", "held"):
            yield f"held: {held}"
        outcomes = {gate.text("name"): gate.text("outcome") for gate in card.sections("gates", "outcomes")}
        promote = _promote_line(result.version, other_meaning=outcomes.get("meaning") == "held")
        yield f"it is GO and not live; to promote it: `{promote}`"
    else:
        yield f"it is NO-GO; `mltrain card show {result.version}` shows why"


def _view_plan(plan: Plan) -> View:
    """Show what a training would do: the blocks of the split, rows, memory and time."""
    rows = [(b.name, f"{b.rows:,}", b.purged_rows, time_text(b.start_ms), time_text(b.end_ms)) for b in plan.blocks]
    yield table(
        f"Blocks of {plan.snapshot}",
        "block",
        *right("rows", "purged"),
        *optional("first (UTC)"),
        "last (UTC)",
        rows=rows,
    )
    yield f"{plan.candles:,} candles become {plan.rows:,} rows of {plan.features} features"
    available = "" if plan.available_bytes is None else f" of {plan.available_bytes / GIB:.1f} GiB available"
    yield f"memory: about {plan.peak_bytes / GIB:.2f} GiB{available}, with {plan.workers} worker(s)"
    yield f"search: about {plan.minutes:.1f} minutes for {plan.trials} trials; nothing was written"


def _view_training(result: TrainedVersion, card: ModelCard) -> View:
    """Show a training, with figures of its card: rows, trials, metrics on the holdout, and in a frame the verdict."""
    from mltrain.card.model_card import Section

    inner, holdout = (card.block(name) or Section({}) for name in ("inner", "holdout"))
    yield (
        f"{_count_text(inner.number('rows'))} rows searched, {_count_text(holdout.number('rows'))} held out "
        f"({time_text(holdout.time_ms('start'))} to {time_text(holdout.time_ms('end'))} UTC)"
    )
    yield (
        f"{result.trials} trials, {_count_text(card.number('search', 'pruned'))} pruned; best is {result.best_trial} "
        f"with {result.rounds} rounds, out-of-fold log loss {number_text(card.number('search', 'best', 'log_loss'), 5)}"
        f"; calibration {result.calibration}"
    )
    baselines = {"accuracy": result.baselines.accuracy, "log_loss": result.baselines.base_rate_log_loss}
    rows = []
    for name in ("accuracy", "auc_roc", "log_loss", "brier", "ece", "f1", "precision", "recall"):
        raw = card.number("calibration", "before", "calibration_ece" if name == "ece" else name)
        calibrated = getattr(result.intervals, name)
        interval = interval_text(calibrated.low, calibrated.high)
        baseline = number_text(baselines.get(name))
        rows.append((name, number_text(raw), number_text(calibrated.value), interval, baseline))
    level = card.number("intervals", "level")
    yield table(
        "Metrics",
        "holdout",
        *right("raw", "calibrated", "interval" if level is None else f"{level:.0%} interval", "baseline"),
        rows=rows,
    )
    yield "baseline: accuracy of the best simple rule of each symbol, log loss of the training base rate"
    title = f"{result.verdict}: version {result.version} in {result.folder}"
    end = tuple(_view_end(result, card))
    yield Framed(title, end, style="green" if result.verdict == "GO" else "red")


def _count_text(count: float | None) -> str:
    """Return a number of things with separated thousands; None is a dash."""
    return number_text(count, 0)


def _view_end(result: TrainedVersion, card: ModelCard) -> View:
    """Show the verdict, what weakens it, and the next command."""
    yield from _view_gates(result.gates, result.symbols)
    yield from _view_economics(result.economics)
    for gate in result.loosened:
        yield f"this gate is looser than the packaged one: {gate.name} {gate.used:g} instead of {gate.packaged:g}"
    if result.looks.others:
        yield (
            f"this holdout is not fresh: {result.looks.others:.3g} other configurations or seeds (by overlap) "
            "were scored on it before, so the gates require more; take a later snapshot for a fresh holdout"
        )
    if result.promoted:
        yield "promoted: it is live now"
    elif result.verdict == "GO":
        if result.held is not None and result.held != card.text("gates", "held"):
            yield f"held: {result.held}"
        other_meaning = any((o.name, o.outcome) == ("meaning", "held") for o in result.gates)
        why = "as asked" if result.held is None else "held for a person to decide"
        yield f"not promoted, {why}; to promote it: `{_promote_line(result.version, other_meaning=other_meaning)}`"
    else:
        failed = ", ".join(o.name for o in result.gates if o.outcome == "failed")
        yield f"not promoted ({failed}); `mltrain predict {result.version} --allow-no-go` serves it anyway"


def _promote_line(version: str, *, other_meaning: bool) -> str:
    """Return the command that promotes a GO version; `other_meaning`: although its label or interval differs."""
    return f"mltrain promote {version}{' --other-meaning' if other_meaning else ''}"


def _view_gates(outcomes: Sequence[GateOutcome], verdicts: Sequence[SymbolVerdict]) -> View:
    """Show the outcome of each gate, why any of them did not pass, and the verdict on each symbol by itself."""
    gates = [
        (o.name.replace("_", " "), o.outcome, o.target, number_text(o.value), interval_text(o.low, o.high),
         number_text(o.margin))
        for o in outcomes
    ]  # fmt: skip
    yield table(
        "Gates", *folding("gate"), "outcome", *folding("target"), *right("value", "interval", "margin"), rows=gates
    )
    for outcome in outcomes:
        if outcome.outcome != "passed":
            yield f"{outcome.name.replace('_', ' ')} {outcome.outcome}: {outcome.reason}"
    symbols = [
        (s.symbol, f"{s.rows:,}", s.baseline, f"{s.baseline_accuracy:.2%}",
         None if s.accuracy is None else f"{s.accuracy:.2%}",
         _percent_text(s.margin), _percent_text(s.log_loss_skill), s.verdict)
        for s in verdicts
    ]  # fmt: skip
    figures = right("baseline accuracy", "accuracy", "margin, pp", "log-loss skill, %")
    if symbols:
        yield table(
            "Each symbol by itself", "symbol", *right("rows"), "baseline", *figures, *folding("verdict"), rows=symbols
        )


def _percent_text(share: Interval | None) -> str | None:
    """Return a share and its confidence interval, both in percent."""
    if share is None:
        return None
    return f"{100 * share.value:+.2f} ({100 * share.low:+.2f} .. {100 * share.high:+.2f})"


def _view_economics(economics: Economics) -> View:
    """Show what the predictions would have earned before costs, in bps, and whether that pays for taker fees."""
    from mltrain.training.economics import describe_break_even

    days = {"weekdays": economics.weekdays_bps, "weekends": economics.weekends_bps}
    parts = "".join(f", {name} {value:+.3f}" for name, value in days.items() if value is not None)
    earned = economics.open_bps
    yield (
        f"economic, not judged: {earned.value:+.3f} bps per bar from the next open "
        f"({earned.low:+.3f} .. {earned.high:+.3f}{parts}), {economics.turnover:.2f} sides traded per bar"
    )
    by_confidence, by_volatility = (
        ", ".join(
            f"{part.name} {'-' if part.move_bps is None else f'{part.move_bps.value:+.2f}'}" for part in mean_moves
        )
        for mean_moves in (economics.by_confidence, economics.by_volatility)
    )
    yield f"mean move in the predicted direction, bps: by confidence {by_confidence}; by volatility {by_volatility}"
    yield describe_break_even(economics.break_even, taker_bps=economics.taker_bps)


@command(default_dir=Path(DEMO_DIR), need_mb=LEARNING_MB)
def demo(session: Session) -> Outcome:
    """Run the whole loop on a simulated exchange: snapshots, trainings, a promotion, a rollback, a backtest."""
    from mltrain.api.train import demo

    result = demo(session.data_dir, now_ms=session.now_ms, progress=session.progress)
    return Outcome(result, lambda: _view_demo(result, [training.read_card() for training in result.trainings]))


def _view_demo(result: DemoResult, cards: Sequence[ModelCard]) -> View:
    """Show each training of the demo with its snapshot, then the promotion, the prediction and the rollback."""
    from mltrain.backtesting.stored import FOLDER

    for snapshot, training, card in zip(result.snapshots, result.trainings, cards, strict=True):
        yield f"snapshot {snapshot}"
        yield from _view_training(training, card)
        yield ""
    if result.promoted_by_hand is not None:
        yield f"promoted by hand, as you would after reading why it was held: {result.promoted_by_hand}"
    rows = [(p.symbol, time_text(p.ts_ms), number_text(p.p)) for p in result.predictions]
    yield table(f"Prediction of {result.rolled_back_from}", "symbol", "candle (UTC)", *right("P(up)"), rows=rows)
    yield f"rolled back from {result.rolled_back_from} to {result.rolled_back_to}: that one is live now"
    yield f"backtest of {result.rolled_back_to}: {result.backtest_verdict}"
    yield f"report of the backtest: {result.folder}/{FOLDER}/{result.backtest}/report.html"
    yield f"look around: mltrain models --data-dir {result.folder}"
