"""`train` and `demo`: make a version, or show what making it would cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from mltrain.api.config import ModelName, read_setting_time, trials_key
from mltrain.api.notify import check_notify, note_event
from mltrain.api.references import read_snapshot, read_version
from mltrain.api.train_result import DemoPrediction, DemoResult, ExistingVersion, TrainedVersion
from mltrain.api.workspace import DATA_DIR, check_path, current_user, open_store, read_clock, read_progress
from mltrain.errors import UsageError
from mltrain.names import check_choice, describe

if TYPE_CHECKING:
    from mltrain.api.config import Calibration, ClassWeight
    from mltrain.api.references import SnapshotRef, VersionRef
    from mltrain.api.workspace import PathText, ProgressLike, Time
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet, Registry
    from mltrain.pipeline.plan import Plan
    from mltrain.pipeline.request import TrainRequest
    from mltrain.pipeline.train import TrainReport
    from mltrain.progress import Progress
    from mltrain.store.store import Store

FinalRows: TypeAlias = Literal["inner", "all"]

#: Stands for the key of train.yml with the number of trials, which depends on the model.
TRIALS: Final = "trials"
#: The data folder of a demo that is not given another.
DEMO_DIR: Final = "mltrain-demo"


def train(
    snapshot: SnapshotRef = "latest",
    *,
    model: ModelName | None = None,
    trials: int | None = None,
    early_stop: int | None = None,
    calibration: Calibration | None = None,
    class_weight: ClassWeight | None = None,
    val_ratio: float | None = None,
    holdout_from: Time | None = None,
    seed: int | None = None,
    max_rows: int | None = None,
    valid_days: float | None = None,
    features: PathText | Mapping[str, Any] | Registry | FeatureSet | None = None,
    config: PathText | Mapping[str, Any] | None = None,
    workers: int | None = None,
    resume: bool = False,
    timeout_s: float | None = None,
    warm_start: VersionRef | None = None,
    final: FinalRows = "inner",
    promote: bool = True,
    ops: str | None = None,
    sign: PathText | None = None,
    by: str | None = None,
    notify: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    now_ms: int | None = None,
    progress: ProgressLike | None = None,
) -> TrainedVersion | ExistingVersion:
    """Train, calibrate, judge and document one version; a GO becomes the live one, unless it is held.

    A NO-GO is a result like any other: the version is stored, and its card says why. An interrupt leaves the journal of
    the search, which `resume` continues, and no version.

    Args:
        snapshot: The candles: "latest", an id, a path, or a snapshot.
        model: What is trained: boosted trees ("lgbm"), or a Temporal Fusion Transformer ("tft"), which needs the extra
            `[tft]`; None: as configured.
        trials: Number of hyperparameter sets to try. Like the next eight, it overrides the key of train.yml with its
            name; None: as configured.
        early_stop: Rounds without improvement before a fit stops.
        calibration: How scores become probabilities; "auto" takes the method of least out-of-fold log loss.
        class_weight: Weight of the positive class in a fit; probabilities are corrected for it.
        val_ratio: Share of the time range that is held out.
        holdout_from: Hold out all candles that open at this time, UTC, or later, instead of a share.
        seed: Random seed.
        max_rows: Use only so many of the newest candles; 0: all.
        valid_days: Days after the snapshot's newest candle until which the version may be served: later, serving warns,
            or refuses if it is strict. The card has the time as `valid_until`.
        features: The registry: a file, the name of a packaged one, the content of such a file as a mapping, or the
            `feature_set` of a model; None: features.yml.
        config: Your train.yml, or its content as a mapping such as {"search": {"trials": 50}}; its keys override those
            of the packaged one.
        workers: Number of processes that run trials, 1 or more; None: one per core.
        resume: Continue an interrupted search instead of starting again.
        timeout_s: Stop the search after so many seconds and take the best trial so far; None: no limit.
        warm_start: A version whose hyperparameters are tried right after the defaults.
        final: The rows that the served model is fitted on; "all": those of the holdout, too.
        promote: Whether to promote the version if it is GO and not held.
        ops: The module of your own ops. **Importing it runs its code.**
        sign: A private key (Ed25519, PEM) to sign the version with.
        by: Who promotes it, for the log; None: user@host.
        notify: Queue an event of a promotion, a NO-GO or a held GO for this address, https or
            http to this machine, which `notify`, a sentinel or a cycle delivers; None: none.
        data_dir: The data folder.
        slot: The slot of the version; None: "lgbm", or "tft" for a transformer.
        now_ms: The time, ms UTC, whose date names the version; None: the machine's clock.
        progress: Receives stages and warnings.

    Returns:
        A `TrainedVersion`; or an `ExistingVersion` if a stored version has the same bytes already.

    Raises:
        UsageError: An option is unknown, out of its range, or contradicts another.
        InputError: The snapshot, the registry or the configuration is missing, damaged or does not fit, or the
            candles are too few.
        LeakageError: A guard failed.
        LockedError: The same study is being trained now, or the store is locked for longer than the wait.
        MachineError: A file cannot be read or written, or the memory is not enough.
    """
    from mltrain.pipeline.train import TrainReport
    from mltrain.pipeline.train import train as run

    check_notify(notify)
    shown, moment_ms = read_progress(progress), read_clock(now_ms)
    request, store = _request(
        snapshot,
        settings={
            "model": model,
            TRIALS: trials,
            "search.early_stop": early_stop,
            "calibration": calibration,
            "class_weight": class_weight,
            "val_ratio": val_ratio,
            "holdout_from": read_setting_time(holdout_from),
            "seed": seed,
            "max_rows": max_rows,
            "valid_days": valid_days,
        },
        features=features,
        config=config,
        workers=workers,
        resume=resume,
        timeout_s=timeout_s,
        warm_start=warm_start,
        final=final,
        promote=promote,
        ops=ops,
        sign=sign,
        by=by,
        data_dir=data_dir,
        slot=slot,
        progress=shown,
    )
    report = run(request, store, now_ms=moment_ms, progress=shown)
    if isinstance(report, TrainReport):
        result = describe_training(report)
        for warning in _note_training(result, store, notify=notify, by=request.by, now_ms=moment_ms):
            shown.warn(warning)
        return result
    return ExistingVersion(report.name, report.folder, report.verdict, best=report.live)


def describe_result(result: TrainedVersion, slot: str) -> tuple[Literal["promotion", "no-go", "held"] | None, str]:
    """Return what a training led to, and why, as the kind of an event and a sentence.

    The kind is None for a GO that was not to be promoted.
    """
    name = f"{result.version} of the slot {slot}"
    if result.promoted:
        accuracy, baseline = result.intervals.accuracy.value, result.baselines.accuracy
        return (
            "promotion",
            f"{name} is live: every gate passed, with an accuracy of {accuracy:.4f} ({baseline:.4f} by rule)",
        )
    if result.verdict == "NO-GO":
        reasons = "; ".join(f"{gate.name}: {gate.reason}" for gate in result.gates if gate.outcome == "failed")
        return "no-go", f"{name} is NO-GO and was not promoted ({reasons})"
    if result.held is not None:
        return "held", f"{name} is GO and was held: {result.held}"
    return None, f"{name} is GO and was not promoted, as asked"


def _note_training(
    result: TrainedVersion, store: Store, *, notify: str | None, by: str, now_ms: int
) -> tuple[str, ...]:
    """Queue an event of a training, if there is an address for it; return what did not work."""
    kind, summary = describe_result(result, store.slot)
    if kind is None:
        return ()
    failed: list[Json] = [gate.name for gate in result.gates if gate.outcome == "failed"]
    return note_event(
        kind,
        summary,
        notify=notify,
        by=by,
        data_dir=store.data_dir,
        now_ms=now_ms,
        slot=store.slot,
        version=result.version,
        details={"verdict": result.verdict, "failed": failed, "snapshot": result.snapshot},
    )


def train_plan(
    snapshot: SnapshotRef = "latest",
    *,
    model: ModelName | None = None,
    trials: int | None = None,
    early_stop: int | None = None,
    calibration: Calibration | None = None,
    class_weight: ClassWeight | None = None,
    val_ratio: float | None = None,
    holdout_from: Time | None = None,
    seed: int | None = None,
    max_rows: int | None = None,
    valid_days: float | None = None,
    features: PathText | Mapping[str, Any] | Registry | FeatureSet | None = None,
    config: PathText | Mapping[str, Any] | None = None,
    workers: int | None = None,
    resume: bool = False,
    timeout_s: float | None = None,
    warm_start: VersionRef | None = None,
    final: FinalRows = "inner",
    promote: bool = True,
    ops: str | None = None,
    sign: PathText | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> Plan:
    """Return the rows, blocks, memory and minutes of the training that `train` would do with the same arguments.

    Nothing is trained or written.

    Args:
        snapshot: This and all that follow: as for `train`.
        model: What is trained.
        trials: Number of hyperparameter sets to try.
        early_stop: Rounds without improvement before a fit stops.
        calibration: How scores become probabilities.
        class_weight: Weight of the positive class in a fit.
        val_ratio: Share of the time range that is held out.
        holdout_from: Hold out all candles that open at this time, UTC, or later, instead of a share.
        seed: Random seed.
        max_rows: Use only so many of the newest candles; 0: all.
        valid_days: Days after the newest candle for which the version may be served.
        features: The registry.
        config: Your train.yml, or its content.
        workers: Number of processes that run trials; None: one per core.
        resume: Continue an interrupted search.
        timeout_s: Stop the search after so many seconds.
        warm_start: A version whose hyperparameters are tried right after the defaults.
        final: The rows that the served model is fitted on.
        promote: Whether to promote the version if it is GO and not held.
        ops: The module of your own ops. **Importing it runs its code.**
        sign: A private key to sign the version with.
        data_dir: The data folder.
        slot: The slot of the version; None: "lgbm".
        progress: Receives stages and warnings.

    Raises:
        UsageError: As for `train`.
        InputError: As for `train`.
        MachineError: A file cannot be read, or the memory is not enough.
    """
    from mltrain.pipeline.plan import plan_training

    shown = read_progress(progress)
    request, _ = _request(
        snapshot,
        settings={
            "model": model,
            TRIALS: trials,
            "search.early_stop": early_stop,
            "calibration": calibration,
            "class_weight": class_weight,
            "val_ratio": val_ratio,
            "holdout_from": read_setting_time(holdout_from),
            "seed": seed,
            "max_rows": max_rows,
            "valid_days": valid_days,
        },
        features=features,
        config=config,
        workers=workers,
        resume=resume,
        timeout_s=timeout_s,
        warm_start=warm_start,
        final=final,
        promote=promote,
        ops=ops,
        sign=sign,
        by=None,
        data_dir=data_dir,
        slot=slot,
        progress=shown,
    )
    return plan_training(request, progress=shown)


def demo(
    data_dir: PathText = DEMO_DIR,
    *,
    by: str | None = None,
    now_ms: int | None = None,
    progress: ProgressLike | None = None,
) -> DemoResult:
    """Run the whole loop on a simulated exchange: snapshots, trainings, a promotion, a rollback, a backtest.

    Args:
        data_dir: The data folder: a new or empty one, or that of an earlier demo.
        by: Who promotes and rolls back, for the log; None: user@host.
        now_ms: The time, ms UTC; None: the machine's clock.
        progress: Receives stages and warnings.

    Raises:
        UsageError: The folder holds files that no demo has created.
        MachineError: A file cannot be written, or the memory is not enough.
    """
    from mltrain.pipeline.demo import run_demo

    report = run_demo(
        check_path(data_dir, "data_dir"),
        by=by or current_user(),
        now_ms=read_clock(now_ms),
        progress=read_progress(progress),
    )
    return DemoResult(
        folder=report.folder,
        snapshots=report.snapshots,
        trainings=[describe_training(training) for training in report.trainings],
        promoted_by_hand=report.promoted_by_hand,
        predictions=[DemoPrediction(*prediction) for prediction in report.predictions],
        rolled_back_from=report.rolled_back_from,
        rolled_back_to=report.rolled_back_to,
        backtest=report.backtest.name,
        backtest_verdict=report.backtest.result().verdict,
    )


def _request(
    snapshot: SnapshotRef,
    *,
    settings: Mapping[str, Json],
    features: PathText | Mapping[str, Any] | Registry | FeatureSet | None,
    config: PathText | Mapping[str, Any] | None,
    workers: int | None,
    resume: bool,
    timeout_s: float | None,
    warm_start: VersionRef | None,
    final: FinalRows,
    promote: bool,
    ops: str | None,
    sign: PathText | None,
    by: str | None,
    data_dir: PathText,
    slot: str | None,
    progress: Progress,
) -> tuple[TrainRequest, Store]:
    """Read what the arguments of `train` name; return the request, and the store that the version goes to.

    `settings` are those of train.yml by dotted key, and TRIALS; None: not given.
    """
    from mltrain.card.machine import available_cores
    from mltrain.config.loading import load_config
    from mltrain.features.registry import take_features
    from mltrain.features.user_ops import import_user_ops
    from mltrain.pipeline.request import TrainRequest
    from mltrain.pipeline.retrain import read_warm_start
    from mltrain.store.signature import open_signer
    from mltrain.training.search import ExecutionOptions

    if final not in get_args(FinalRows):
        raise UsageError(f"final is {describe(final)}: expected one of {', '.join(get_args(FinalRows))}")
    if ops is not None:
        import_user_ops(ops)
    given_config = config if config is None or isinstance(config, Mapping) else check_path(config, "config")
    model: Any = settings["model"]
    check_choice(model or "lgbm", "model", get_args(ModelName))
    key = trials_key(given_config, model)
    given = {key if name == TRIALS else name: value for name, value in settings.items() if value is not None}
    loaded = load_config(given_config, overrides=given)
    if loaded.model == "tft" and warm_start is not None:
        raise UsageError("--warm-start goes with boosted trees: it does not go with --model tft")
    slot = slot or loaded.model
    signer = None if sign is None else open_signer(check_path(sign, "sign"), data_dir=check_path(data_dir, "data_dir"))
    store = open_store(data_dir, slot, signer=signer)
    # Before anything else: a copy without links has no latest snapshot either, and this error says why.
    store.check_pointer()
    opened = read_snapshot(snapshot, data_dir)
    registry = Path(features) if isinstance(features, str | os.PathLike) else features
    feature_set, warnings = take_features(registry, opened.interval)
    request = TrainRequest(
        snapshot=opened,
        feature_set=feature_set,
        config=loaded,
        execution=ExecutionOptions(
            workers=available_cores() if workers is None else workers, resume=resume, timeout_s=timeout_s
        ),
        promote=promote,
        by=current_user() if by is None else by,
        final=final,
        warm_start=None
        if warm_start is None
        else read_warm_start(read_version(warm_start, store, progress), loaded.search),
        warnings=warnings,
    )
    return request, store


def describe_training(report: TrainReport) -> TrainedVersion:
    """Return the result of a training that has made a version."""
    run = report.training
    search, holdout, scores = run.model.search, run.holdout, run.holdout.scores
    return TrainedVersion(
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
