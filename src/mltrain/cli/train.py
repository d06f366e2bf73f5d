"""Commands that make a version: train, demo."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.api.workspace import current_user
from mltrain.cli.address_space import LEARNING_MB
from mltrain.cli.arguments import FeaturesOption, OpsOption, SnapshotOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_version
from mltrain.cli.config import (
    CalibrationOption,
    ClassWeight,
    Config,
    EarlyStop,
    MaxRows,
    Seed,
    SettingsCommand,
    Trials,
    ValRatio,
    given_settings,
)
from mltrain.cli.help import add_command, model_option, output_option, search_option
from mltrain.cli.render import Outcome, interval_text, number_text, time_text
from mltrain.cli.tables import Framed, folding, optional, right, table
from mltrain.errors import NoGoError

if TYPE_CHECKING:
    from mltrain.cli.render import View
    from mltrain.cli.train_documents import TrainDocument
    from mltrain.gates.verdict import Verdict
    from mltrain.pipeline.demo import DemoReport
    from mltrain.pipeline.plan import Plan
    from mltrain.pipeline.train import TrainReport
    from mltrain.store.versions import StoredVersion
    from mltrain.training.bootstrap import Interval
    from mltrain.training.economics import Economics

GIB: Final = 1 << 30


class FittedRows(StrEnum):
    """Rows that the served model is fitted on."""

    INNER = "inner"
    ALL = "all"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "train", train, example="mltrain train --trials 50 --workers 2", cls=SettingsCommand)
    add_command(app, "demo", demo, example="mltrain demo")


@command(opens_versions=True, need_mb=LEARNING_MB)
def train(
    session: Session,
    ref: SnapshotOption = "latest",
    trials: Trials = None,
    early_stop: EarlyStop = None,
    calibration: CalibrationOption = None,
    class_weight: ClassWeight = None,
    val_ratio: ValRatio = None,
    seed: Seed = None,
    features: FeaturesOption = None,
    config: Config = None,
    workers: Annotated[
        int | None,
        search_option("--workers", min=1, max=256, help="Processes that run trials; by default one per core."),
    ] = None,
    resume: Annotated[
        bool, search_option("--resume", help="Continue an interrupted search instead of starting again.")
    ] = False,
    timeout_s: Annotated[
        float | None,
        search_option(
            "--timeout",
            metavar="SECONDS",
            min=0.001,
            help="Stop the search after this time and take the best trial so far.",
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        search_option(
            "--warm-start",
            metavar="VERSION",
            help="Try the hyperparameters of this version right after the defaults.",
            autocompletion=complete_version,
        ),
    ] = None,
    final: Annotated[
        FittedRows,
        model_option("--final", help="Rows that the served model is fitted on; all: those of the holdout, too."),
    ] = FittedRows.INNER,
    max_rows: MaxRows = None,
    promote: Annotated[
        bool, output_option("--promote/--no-promote", help="Promote the version if it is GO and not held.")
    ] = True,
    dry_run: Annotated[
        bool, output_option("--dry-run", help="Show rows, blocks, memory and minutes; train nothing.")
    ] = False,
    ops: OpsOption = None,
    sign: Annotated[
        Path | None,
        output_option("--sign", metavar="FILE", help="Sign the version with this private key (Ed25519, PEM)."),
    ] = None,
) -> Outcome:
    """Train, calibrate, judge and document one version; a GO becomes the live one, unless it is held."""
    from mltrain.card.machine import available_cores
    from mltrain.config.loading import load_config
    from mltrain.features.registry import take_features
    from mltrain.pipeline.plan import plan_training
    from mltrain.pipeline.request import TrainRequest
    from mltrain.pipeline.retrain import read_warm_start
    from mltrain.pipeline.train import train as run_training
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.store.signature import open_signer
    from mltrain.store.versions import StoredVersion
    from mltrain.training.search import ExecutionOptions

    register_ops(ops)
    overrides = given_settings(trials, early_stop, calibration, class_weight, val_ratio, seed, max_rows)
    settings = load_config(config, overrides=overrides)
    signer = None if sign is None else open_signer(sign, data_dir=session.data_dir)
    store = session.open_store(signer=signer)
    # Before anything else: a copy without links has no latest snapshot either, and this error says why.
    store.check_pointer()
    snapshot = open_snapshot(session.data_dir, ref)
    feature_set, warnings = take_features(features, snapshot.interval)
    request = TrainRequest(
        snapshot=snapshot,
        feature_set=feature_set,
        config=settings,
        execution=ExecutionOptions(workers=workers or available_cores(), resume=resume, timeout_s=timeout_s),
        promote=promote,
        by=current_user(),
        final="all" if final is FittedRows.ALL else "inner",
        warm_start=None if warm_start is None else read_warm_start(store.open_version(warm_start), settings.search),
        warnings=warnings,
    )
    if dry_run:
        plan = plan_training(request, progress=session.progress)
        return Outcome(plan, lambda: _view_plan(plan))
    report = run_training(request, store, now_ms=session.now_ms, progress=session.progress)
    if isinstance(report, StoredVersion):
        return _already_there_outcome(report)
    exit_code = 0 if report.training.verdict.go else NoGoError.exit_code
    return Outcome(_training_document(report), lambda: _view_training(report), exit_code=exit_code)


def _already_there_outcome(version: StoredVersion) -> Outcome:
    """Show the stored version whose bytes this training would only repeat, and the next step."""
    from mltrain.cli.train_documents import AlreadyThereDocument
    from mltrain.store.listing import read_version_card

    card = read_version_card(version)
    outcomes = {gate.text("name"): gate.text("outcome") for gate in card.sections("gates", "outcomes")}

    def view() -> View:
        yield f"already there: {version.name}, same bytes"
        if version.live:
            yield "it is the live version; another seed or newer candles would make another one"
        elif version.verdict == "GO":
            if held := card.text("gates", "held"):
                yield f"held: {held}"
            promote = _promote_line(version.name, other_meaning=outcomes.get("meaning") == "held")
            yield f"it is GO and not live; to promote it: `{promote}`"
        else:
            yield f"it is NO-GO; `mltrain card show {version.name}` shows why"

    data = AlreadyThereDocument(version.name, version.folder, version.verdict, best=version.live)
    return Outcome(data, view)


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


def _training_document(report: TrainReport) -> TrainDocument:
    """Return the JSON document of a training."""
    from mltrain.cli.train_documents import TrainDocument

    run = report.training
    search, holdout, scores = run.model.search, run.holdout, run.holdout.scores
    return TrainDocument(
        version=report.version,
        folder=report.folder,
        verdict=run.verdict.word,
        promoted=report.promoted,
        held=report.held,
        model_sha256=report.model_sha256,
        snapshot=run.data.snapshot.id,
        trials=len(search.trials),
        trials_resumed=search.resumed,
        timed_out=search.timed_out,
        best_trial=search.best.number,
        rounds=search.best.best_round,
        calibration=run.model.calibration.calibrator.method,
        metrics=scores.after,
        intervals=scores.intervals,
        baselines=scores.baselines,
        comparison=scores.comparison,
        latency_ms=holdout.latency.candles,
        gates=run.verdict.outcomes,
        symbols=run.verdict.symbols,
        economics=holdout.economics,
        loosened=run.loosened,
        looks=holdout.looks,
        warnings=run.provenance.warnings,
    )


def _view_training(report: TrainReport) -> View:
    """Show a training: rows, trials, metrics on the holdout, and in a frame the verdict."""
    run = report.training
    search, scores, split = run.model.search, run.holdout.scores, run.data.split
    yield (
        f"{split.inner.rows:,} rows searched, {scores.rows:,} held out "
        f"({time_text(split.holdout.start_ms)} to {time_text(split.holdout.end_ms)} UTC)"
    )
    best, pruned = search.best, sum(trial.state == "pruned" for trial in search.trials)
    yield (
        f"{len(search.trials)} trials, {pruned} pruned; best is {best.number} with {best.best_round} rounds, "
        f"out-of-fold log loss {best.loss:.5f}; calibration {run.model.calibration.calibrator.method}"
    )
    baselines = {"accuracy": scores.baselines.accuracy, "log_loss": scores.baselines.base_rate_log_loss}
    rows = []
    for name in ("accuracy", "auc_roc", "log_loss", "brier", "ece", "f1", "precision", "recall"):
        raw, calibrated = getattr(scores.before, name), getattr(scores.intervals, name)
        interval = interval_text(calibrated.low, calibrated.high)
        baseline = number_text(baselines.get(name))
        rows.append((name, number_text(raw), number_text(calibrated.value), interval, baseline))
    yield table(
        "Metrics", "holdout", *right("raw", "calibrated", f"{scores.level:.0%} interval", "baseline"), rows=rows
    )
    yield "baseline: accuracy of the best simple rule of each symbol, log loss of the training base rate"
    title = f"{run.verdict.word}: version {report.version} in {report.folder}"
    yield Framed(title, tuple(_view_end(report)), style="green" if run.verdict.go else "red")


def _view_end(report: TrainReport) -> View:
    """Show the verdict, what weakens it, and the next command."""
    run = report.training
    yield from view_verdict(run.verdict)
    yield from _view_economics(run.holdout.economics)
    for gate in run.loosened:
        yield f"this gate is looser than the packaged one: {gate.name} {gate.used:g} instead of {gate.packaged:g}"
    if run.holdout.looks.others:
        yield (
            f"this holdout is not fresh: {run.holdout.looks.others:.3g} other configurations or seeds (by overlap) "
            "were scored on it before, so the gates require more; take a later snapshot for a fresh holdout"
        )
    if report.promoted:
        yield "promoted: it is live now"
    elif run.verdict.go:
        if report.held is not None and report.held != run.verdict.held:
            yield f"held: {report.held}"
        other_meaning = any((o.name, o.outcome) == ("meaning", "held") for o in run.verdict.outcomes)
        why = "as asked" if report.held is None else "held for a person to decide"
        yield f"not promoted, {why}; to promote it: `{_promote_line(report.version, other_meaning=other_meaning)}`"
    else:
        failed = ", ".join(o.name for o in run.verdict.failed)
        yield f"not promoted ({failed}); `mltrain predict {report.version} --allow-no-go` serves it anyway"


def _promote_line(version: str, *, other_meaning: bool) -> str:
    """Return the command that promotes a GO version; `other_meaning`: although its label or interval differs."""
    return f"mltrain promote {version}{' --other-meaning' if other_meaning else ''}"


def view_verdict(verdict: Verdict) -> View:
    """Show the outcome of each gate, why any of them did not pass, and the verdict on each symbol by itself."""
    gates = [
        (o.name.replace("_", " "), o.outcome, o.target, number_text(o.value), interval_text(o.low, o.high),
         number_text(o.margin))
        for o in verdict.outcomes
    ]  # fmt: skip
    yield table(
        "Gates", *folding("gate"), "outcome", *folding("target"), *right("value", "interval", "margin"), rows=gates
    )
    for outcome in verdict.outcomes:
        if outcome.outcome != "passed":
            yield f"{outcome.name.replace('_', ' ')} {outcome.outcome}: {outcome.reason}"
    symbols = [
        (s.symbol, f"{s.rows:,}", s.baseline, f"{s.baseline_accuracy:.2%}",
         None if s.accuracy is None else f"{s.accuracy:.2%}",
         _percent_text(s.margin), _percent_text(s.log_loss_skill), s.verdict)
        for s in verdict.symbols
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


@command(default_dir=Path("mltrain-demo"), need_mb=LEARNING_MB)
def demo(session: Session) -> Outcome:
    """Run the whole loop on a simulated exchange: snapshots, trainings, a promotion, a rollback, a backtest."""
    from mltrain.cli.train_documents import DemoDocument, DemoPrediction
    from mltrain.pipeline.demo import run_demo

    report = run_demo(session.data_dir, by=current_user(), now_ms=session.now_ms, progress=session.progress)
    data = DemoDocument(
        folder=report.folder,
        snapshots=report.snapshots,
        trainings=[_training_document(training) for training in report.trainings],
        promoted_by_hand=report.promoted_by_hand,
        predictions=[DemoPrediction(*prediction) for prediction in report.predictions],
        rolled_back_from=report.rolled_back_from,
        rolled_back_to=report.rolled_back_to,
        backtest=report.backtest.name,
        backtest_verdict=report.backtest.result().verdict,
    )
    return Outcome(data, lambda: _view_demo(report))


def _view_demo(report: DemoReport) -> View:
    """Show each training of the demo with its snapshot, then the promotion, the prediction and the rollback."""
    for snapshot, training in zip(report.snapshots, report.trainings, strict=True):
        yield f"snapshot {snapshot}"
        yield from _view_training(training)
        yield ""
    if report.promoted_by_hand is not None:
        yield f"promoted by hand, as you would after reading why it was held: {report.promoted_by_hand}"
    rows = [(symbol, time_text(ts_ms), number_text(p)) for symbol, ts_ms, p in report.predictions]
    yield table(f"Prediction of {report.rolled_back_from}", "symbol", "candle (UTC)", *right("P(up)"), rows=rows)
    yield f"rolled back from {report.rolled_back_from} to {report.rolled_back_to}: that one is live now"
    yield f"backtest of {report.rolled_back_to}: {report.backtest.result().verdict}"
    yield f"report of the backtest: {report.backtest.folder / 'report.html'}"
    yield f"look around: mltrain models --data-dir {report.folder}"
