"""The training: candles to a calibrated, documented, judged and stored version. One line a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from mltrain.artifact import MODEL_FILE
from mltrain.artifact.bundle import Bundle
from mltrain.card.lineage import read_lineage
from mltrain.card.machine import available_memory
from mltrain.card.training_results import FittedModel, Provenance, Training
from mltrain.config.loading import load_config
from mltrain.errors import NoGoError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.gates.holdout_looks import WARM_START, count_looks
from mltrain.gates.thresholds import find_loosened
from mltrain.gates.verdict import judge
from mltrain.pipeline.champion import open_champion
from mltrain.pipeline.judge import gather_evidence, measure_holdout
from mltrain.pipeline.plan import fit_memory
from mltrain.pipeline.prepare import prepare
from mltrain.pipeline.retrain import find_same_version
from mltrain.pipeline.write_version import publish
from mltrain.snapshots.snapshot import FOLDER, open_snapshot
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


# A prune holds the lock for a moment, only to see whether it is held.
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
        training: All results.
    """

    version: str
    folder: Path
    promoted: bool
    held: str | None
    model_sha256: str
    training: Training


class _WarningRecorder:
    """Passes progress on, and keeps the warnings for the card."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.stage, self.advance = progress.stage, progress.advance
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self._progress.warn(message)


def train(request: TrainRequest, store: Store, *, now_ms: int, progress: Progress) -> TrainReport | StoredVersion:
    """Train as `train_anew` does, unless a stored version already has the result.

    Args:
        request: The training.
        store: The store of the versions.
        now_ms: The clock, ms UTC: it names the version.
        progress: Receives every stage.

    Returns:
        The report; or the version that the training would only repeat, with nothing written.
    """
    return find_same_version(request, store) or train_anew(request, store, now_ms=now_ms, progress=progress)


def train_anew(request: TrainRequest, store: Store, *, now_ms: int, progress: Progress) -> TrainReport:
    """Train, calibrate, judge, document and store one version, and promote it if its gates say GO.

    Args:
        request: The training.
        store: The store of the versions.
        now_ms: The clock, ms UTC: it names the version.
        progress: Receives every stage.

    Raises:
        InputError: The snapshot is damaged, too short, or lacks what a feature reads.
        LeakageError: A guard failed.
        LockedError: The same study is being trained now, or the store is locked for longer than the wait.
        MachineError: The machine refused a file, or has not enough memory.
    """
    # A dangling pointer must not be found only after the search.
    store.live_version()
    recorder = _WarningRecorder(progress)
    request = fit_memory(request, available=available_memory(), progress=progress)
    data = prepare(request.snapshot, request.feature_set, request.config, recorder)
    # Nothing is written for a snapshot that cannot be trained on.
    store.prepare()
    studies = store.data_dir / "studies"
    make_folder(studies)
    with hold_lock(studies / f"{request.study}.lock", wait_s=_STUDY_WAIT_S, purpose=f"train {request.study}"):
        sweep_temps(studies, of=f"{request.study}.")
        _keep_from_pruning(request.snapshot, store)
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
            judged = None if champion is None else champion.version.name
            promoted, held = _promote(version, store, by=request.by, judged=judged, now_ms=now_ms)
    model_sha256 = next(entry.sha256 for entry in version.manifest.files if entry.path == MODEL_FILE)
    return TrainReport(version.name, version.folder, promoted, held, model_sha256, training)


def _keep_from_pruning(snapshot: Snapshot, store: Store) -> None:
    """Make sure that a snapshot is still there, now that the study's lock makes a prune spare it.

    A prune that looked before the lock was held may still be removing it; once its own lock is free, it has ended.

    Raises:
        InputError: The snapshot was removed while its candles were prepared.
    """
    folder = store.data_dir / FOLDER
    if real_path(snapshot.path.parent) != real_path(folder):
        # Elsewhere nothing is pruned, and no lock file belongs there.
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
    """Search, fit and calibrate; of the holdout's rows, only their number and times are read.

    Args:
        data: The rows.
        config: The configuration.
        journal: The file of the study.
        execution: How the search is run.
        progress: Receives every trial.
        warm_start: Parameters that are tried right after LightGBM's defaults.
        final: The rows that the served model is fitted on.

    Raises:
        InputError: No feature is usable, the scores are too few for the calibration that was asked for, or a study
            that was to be resumed is damaged.
        MachineError: The journal cannot be written, LightGBM cannot be loaded, or a worker died twice at one trial.
    """
    samples, split = data.samples, data.split
    found = search(
        samples, split, config, journal=journal, execution=execution, progress=progress, warm_start=warm_start
    )
    progress.stage("final fit")
    choice = calibrate(config.calibration, found.oof.scores, samples.y[found.oof.rows], found.oof.fold)
    best = found.best
    evaluated = Bundle(
        model_text=fit_final(samples, split, config, tuned=best.params, rounds=best.rounds),
        calibrator=choice.calibrator,
        feature_set=data.feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=data.feature_set.user_ops(),
    )
    served = evaluated
    if final == "all":
        text = fit_final(samples, split, config, tuned=best.params, rounds=best.rounds, final="all")
        served = replace(evaluated, model_text=text)
    return FittedModel(found, choice, evaluated, served, final)


def _record_look(
    request: TrainRequest, split: Split, store: Store, *, configuration_sha256: str, now_ms: int
) -> LookCounts:
    """Log that the holdout is about to be scored, and count the earlier looks at its range.

    Parameters that were chosen or judged on a part of it have looked at that part. Having been chosen there is a
    selection; having been judged there only, as in a nightly training from the version before, is not.
    """
    start, end, warm_start = split.holdout.start_ms, split.holdout.end_ms, request.warm_start
    if warm_start is not None and warm_start.end_ms > start:
        chosen = warm_start.chosen_until_ms > start
        store.record_look(
            start_ms=max(start, warm_start.start_ms),
            end_ms=min(end, warm_start.chosen_until_ms if chosen else warm_start.end_ms),
            study=f"{WARM_START}{warm_start.version} of {request.study}",
            now_ms=now_ms,
            configuration_sha256=None if chosen else configuration_sha256,
        )
    looks = count_looks(
        store.looks(), start_ms=start, end_ms=end, study=request.study, configuration_sha256=configuration_sha256
    )
    store.record_look(
        start_ms=start, end_ms=end, study=request.study, now_ms=now_ms, configuration_sha256=configuration_sha256
    )
    return looks


def _find_loosened(config: TrainConfig) -> tuple[LoosenedThreshold, ...]:
    packaged = load_config(None, overrides={})
    return (
        *find_loosened(config.gates, packaged.gates),
        *find_loosened(config.guards, packaged.guards),
    )


def _promote(
    version: StoredVersion, store: Store, *, by: str, judged: str | None, now_ms: int
) -> tuple[bool, str | None]:
    """Make a GO version live, unless another version than the one it was compared with has become live.

    Returns:
        Whether it was promoted; if not, why.
    """

    def check(_: StoredVersion, best: StoredVersion) -> None:
        if best.name != judged:
            raise NoGoError(
                f"{best.name} became the live version during the training, so this one was not compared with it"
            )

    try:
        promote_version(store, version.name, why="its gates say GO", by=by, now_ms=now_ms, check=check)
    except NoGoError as err:
        return False, err.message
    return True, None
