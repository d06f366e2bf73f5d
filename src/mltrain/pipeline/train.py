"""Train: turn candles into a calibrated, judged, documented and stored version."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from mltrain.artifact import MODEL_FILE, MODEL_FILES, NETWORK_FILE
from mltrain.artifact.bundle import Bundle
from mltrain.card.lineage import read_lineage
from mltrain.card.machine import available_memory
from mltrain.card.training_results import FittedModel, Provenance, Training
from mltrain.config.loading import load_config
from mltrain.errors import NoGoError, UsageError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.gates.holdout_looks import WARM_START, count_looks
from mltrain.gates.thresholds import find_loosened
from mltrain.gates.verdict import judge
from mltrain.killswitch.gate import HaltGate
from mltrain.names import DEFAULT_SLOT
from mltrain.pipeline.champion import open_champion
from mltrain.pipeline.fit_network import check_torch, fit_network, take_windows
from mltrain.pipeline.judge import gather_evidence, measure_holdout
from mltrain.pipeline.plan import fit_memory
from mltrain.pipeline.prepare import prepare
from mltrain.pipeline.retrain import find_same_version
from mltrain.pipeline.study_pruning import STUDIES
from mltrain.pipeline.write_version import publish
from mltrain.snapshots import FOLDER
from mltrain.snapshots.snapshot import open_snapshot
from mltrain.storage.descriptors import real_path
from mltrain.storage.folders import make_folder
from mltrain.storage.locks import hold_lock, lock_folder
from mltrain.storage.temps import sweep_temps
from mltrain.store.promotion import promote_version
from mltrain.training.booster import fit_final
from mltrain.training.calibration import calibrate
from mltrain.training.search import search

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.card.training_results import TrainingData
    from mltrain.config.train_config import TrainConfig
    from mltrain.gates.holdout_looks import LookCounts
    from mltrain.gates.thresholds import LoosenedThreshold
    from mltrain.pipeline.request import TrainRequest
    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion
    from mltrain.training.search import ExecutionOptions
    from mltrain.training.split import Split


# A prune holds a study's lock for a moment, only to see whether a training holds it.
_STUDY_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class TrainReport:
    """The result of a training.

    Attributes:
        version: Name of the new version.
        folder: Its folder.
        promoted: Whether it is the live version now.
        held: Why a GO was not promoted automatically, although promotion was not switched off; else None.
        model_sha256: Hash of its lgbm.pkl.
        training: Data, model, measurements and verdict.
    """

    version: str
    folder: Path
    promoted: bool
    held: str | None
    model_sha256: str
    training: Training


class _WarningRecorder:
    """Forwards everything to another `Progress`, and keeps the warnings for the model card."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.stage, self.advance = progress.stage, progress.advance
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self._progress.warn(message)


def train(request: TrainRequest, store: Store, *, now_ms: int, progress: Progress) -> TrainReport | StoredVersion:
    """Train and store a version; if a stored version already has the same result, return that one and write nothing.

    What a killed training left next to that version is removed.
    """
    same = find_same_version(request, store)
    if same is None:
        return train_anew(request, store, now_ms=now_ms, progress=progress)
    store.sweep()
    return same


def train_anew(request: TrainRequest, store: Store, *, now_ms: int, progress: Progress) -> TrainReport:
    """Train, calibrate, judge, document and store one version, and promote it if its gates say GO.

    The date of the current time, `now_ms` in ms UTC, names the version.

    Raises:
        InputError: The snapshot is damaged, too short, or lacks a column or a leader that a feature reads.
        LeakageError: A guard failed.
        LockedError: The same study is being trained now, or the store is locked for longer than the wait.
        MachineError: A file cannot be read or written, or the memory is not enough.
    """
    # Raises now, instead of after the search, if the pointer to the live version is damaged.
    store.live_version()
    recorder = _WarningRecorder(progress)
    for warning in request.warnings:
        recorder.warn(warning)
    _check_slot(store, request.config.model)
    if request.config.model == "tft":
        check_torch()
    request = fit_memory(request, available_bytes=available_memory(), progress=progress)
    data = prepare(request.snapshot, request.feature_set, request.config, recorder)
    if request.config.model == "tft":
        data = take_windows(data, request.config, recorder)
    # Nothing is written for a snapshot that cannot be trained on.
    store.prepare()
    studies = store.data_dir / STUDIES
    make_folder(studies)
    with hold_lock(studies / f"{request.study}.lock", wait_s=_STUDY_WAIT_S, purpose=f"train {request.study}"):
        sweep_temps(studies, of=f"{request.study}.")
        _check_not_pruned(request.snapshot, store)
        model = fit_model(
            data,
            request.config,
            journal=studies / f"{request.study}.journal",
            execution=request.execution,
            progress=recorder,
            warm_start=None if request.warm_start is None else request.warm_start.params,
            final=request.final,
        )
        configuration_sha256 = request.configuration_sha256(trials=len(model.search.trials))
        looks = _record_look(request, data.split, store, configuration_sha256=configuration_sha256, now_ms=now_ms)
        holdout, scored = measure_holdout(data, model, request.config, looks=looks, progress=recorder)
        recorder.stage("gates")
        champion = open_champion(store)
        verdict = judge(gather_evidence(data, holdout, scored, champion, request.config), request.config.gates)
        training = Training(
            config=request.config,
            data=data,
            model=model,
            holdout=holdout,
            verdict=verdict,
            loosened=_find_loosened(request.config),
            provenance=Provenance(
                study=request.study,
                configuration_sha256=configuration_sha256,
                warm_start=None if request.warm_start is None else request.warm_start.to_json(),
                lineage=read_lineage(),
                now_ms=now_ms,
                warnings=tuple(recorder.warnings),
            ),
        )
        version = publish(training, scored, store)
        promoted, held = False, verdict.held
        if request.promote and verdict.go and held is None:
            compared = None if champion is None else champion.version.name
            held = _promote(version, store, by=request.by, compared=compared, now_ms=now_ms)
            promoted = held is None
    return TrainReport(
        version=version.name,
        folder=version.folder,
        promoted=promoted,
        held=held,
        model_sha256=next(entry.sha256 for entry in version.manifest.files if entry.path in MODEL_FILES),
        training=training,
    )


def _check_slot(store: Store, model: str) -> None:
    """Raise UsageError if the slot has versions of another kind of model: its pointer stands for files of one kind."""
    file = MODEL_FILE if model == DEFAULT_SLOT else NETWORK_FILE
    others = [
        row.name
        for row in store.versions()
        if row.version and row.version.slot == store.slot and row.version.manifest.entry(file) is None
    ]
    if others or (store.slot == DEFAULT_SLOT and model != DEFAULT_SLOT):
        what = f"has versions of another kind of model, such as {others[0]}" if others else "is for boosted trees"
        raise UsageError(f"the slot {store.slot} {what}", hint=f"name another slot: --slot {model}")


def _check_not_pruned(snapshot: Snapshot, store: Store) -> None:
    """Raise InputError if the snapshot was removed while its candles were read; call this while the study is locked.

    Pruning spares a snapshot whose study is locked. A prune that began before the study was locked may still be
    removing the snapshot; it has ended once its own lock is free.
    """
    folder = store.data_dir / FOLDER
    if real_path(snapshot.path.parent) != real_path(folder):
        # Only the data folder's snapshots are pruned, and no lock file belongs elsewhere.
        return
    with lock_folder(folder, purpose=f"reopening the snapshot {snapshot.id}"):
        open_snapshot(store.data_dir, snapshot.path.name)


def fit_model(
    data: TrainingData,
    config: TrainConfig,
    *,
    journal: Path,
    execution: ExecutionOptions,
    progress: Progress,
    warm_start: Mapping[str, float] | None = None,
    final: Literal["inner", "all"] = "inner",
) -> FittedModel:
    """Search hyperparameters, fit the calibrator on out-of-fold scores, and fit the final booster.

    The hyperparameters `warm_start` are tried right after LightGBM's defaults. With `final="all"` the served booster is
    another one than the evaluated, fitted on every row; otherwise only number and times of the holdout's rows are read.

    Raises:
        InputError: No feature is usable, the scores are too few for the chosen calibration, or the journal to resume
            from is damaged.
        MachineError: The journal cannot be written, LightGBM cannot be loaded, or a worker died twice at one trial.
    """
    if config.model == "tft":
        return fit_network(data, config, journal=journal, execution=execution, progress=progress, final=final)
    samples, split = data.samples, data.split
    result = search(
        samples,
        split,
        config,
        journal=journal,
        execution=execution,
        progress=progress,
        warm_start=warm_start,
        ties=data.ties,
    )
    progress.stage("final fit")
    best, oof = result.best, result.oof
    choice = calibrate(config.calibration, oof.scores, samples.y[oof.rows], oof.fold)
    evaluated = Bundle(
        model_text=fit_final(samples, split, config, tuned=best.params, rounds=best.best_round),
        calibrator=choice.calibrator,
        feature_set=data.feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=data.feature_set.user_ops(),
    )
    served = evaluated
    if final == "all":
        text = fit_final(samples, split, config, tuned=best.params, rounds=best.best_round, fitted_on="all")
        served = replace(evaluated, model_text=text)
    return FittedModel(search=result, calibration=choice, evaluated=evaluated, served=served, fitted_on=final)


def _record_look(
    request: TrainRequest, split: Split, store: Store, *, configuration_sha256: str, now_ms: int
) -> LookCounts:
    """Log that the holdout is about to be scored, and return the counts of earlier looks at its time range.

    If the parameters of a warm start were chosen or judged on a part of the holdout, a look at that part is logged,
    too. Parameters that were chosen there count as a selection. Parameters that were only judged there do not: this
    happens in nightly trainings that start from the previous version.
    """
    start_ms, end_ms, warm_start = split.holdout.start_ms, split.holdout.end_ms, request.warm_start
    if warm_start is not None and warm_start.end_ms > start_ms:
        was_chosen_here = warm_start.chosen_until_ms > start_ms
        store.record_look(
            start_ms=max(start_ms, warm_start.start_ms),
            end_ms=min(end_ms, warm_start.chosen_until_ms if was_chosen_here else warm_start.end_ms),
            study=f"{WARM_START}{warm_start.version} of {request.study}",
            now_ms=now_ms,
            configuration_sha256=None if was_chosen_here else configuration_sha256,
        )
    study = request.study
    counts = count_looks(
        store.looks(), start_ms=start_ms, end_ms=end_ms, study=study, configuration_sha256=configuration_sha256
    )
    store.record_look(
        start_ms=start_ms, end_ms=end_ms, study=study, now_ms=now_ms, configuration_sha256=configuration_sha256
    )
    return counts


def _find_loosened(config: TrainConfig) -> tuple[LoosenedThreshold, ...]:
    """Return the thresholds of gates and guards that are easier to pass than the packaged ones."""
    packaged = load_config(None, overrides={})
    return (
        *find_loosened(config.gates, packaged.gates),
        *find_loosened(config.guards, packaged.guards),
    )


def _promote(version: StoredVersion, store: Store, *, by: str, compared: str | None, now_ms: int) -> str | None:
    """Make a GO version live and return None; or return why not: serving is halted, or another version is live by now.

    `compared` names the live version that the new one was compared with; None if there was none.
    """
    strictest = HaltGate(store.models).state().strictest_of(None)
    if strictest is not None:
        return strictest.describe()

    def check_compared(_: StoredVersion, live: StoredVersion) -> None:
        if live.name != compared:
            raise NoGoError(
                f"{live.name} became the live version during the training, so this one was not compared with it"
            )

    try:
        promote_version(store, version.name, why="its gates say GO", by=by, now_ms=now_ms, check=check_compared)
    except NoGoError as err:
        return err.message
    return None
