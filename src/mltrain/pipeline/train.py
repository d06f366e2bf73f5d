"""The training: candles to a calibrated, documented, judged and stored version. One line a step."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.artifact.bundle import Bundle
from mltrain.candles.frame import TS_DTYPE
from mltrain.card.builder import Slices, Training, build_card
from mltrain.card.lineage import available_memory, read_lineage
from mltrain.card.validation import CARD_FILE, card_bytes
from mltrain.config.loading import load_config
from mltrain.config.train_config import study_sha256
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.errors import NoGoError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.gates.looks import WARM_START, count_looks
from mltrain.gates.verdict import (
    BounceEvidence,
    CalibrationEvidence,
    Evidence,
    Selection,
    SimpleModelEvidence,
    SkillEvidence,
    find_loosened,
    judge,
)
from mltrain.guards.evidence import check_guards
from mltrain.pipeline.champion import compare_meaning, find_origin, meet_champion, open_champion
from mltrain.pipeline.leakage import audit_candles, audit_samples, cut_samples, read_candles
from mltrain.pipeline.plan import fit_memory
from mltrain.pipeline.retrain import find_same_version
from mltrain.report.material import HOLDOUT_FILE, OOF_FILE, TRIALS_FILE, Material, holdout_rows
from mltrain.report.page import REPORT_FILE, draft_report
from mltrain.serving.explanation import mean_contributions
from mltrain.serving.latency_bench import measure
from mltrain.serving.loaded_model import load_bundle
from mltrain.serving.model import check_round_trip, model_from_bundle
from mltrain.snapshots.stored import FOLDER, open_snapshot
from mltrain.storage.edge import real_path, sha256_bytes
from mltrain.storage.folders import make_folder, sweep_temps
from mltrain.storage.locks import hold_lock
from mltrain.times import day_name, interval_ms
from mltrain.training.baselines import find_priors
from mltrain.training.booster import feature_gains, fit_final
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.calibrate import calibrate
from mltrain.training.economics import find_bounce, forward_returns, score_economics
from mltrain.training.holdout import score_holdout
from mltrain.training.logistic import score_logistic
from mltrain.training.metrics import THRESHOLD, row_log_loss
from mltrain.training.samples import build_samples, keep_newest, matrix_sha256, take_rows
from mltrain.training.search import search
from mltrain.training.slices import score_terciles, score_weeks, volatility_terciles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.config.train_config import GateConfig, TrainConfig
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet
    from mltrain.gates.looks import Looks
    from mltrain.guards.evidence import GuardResult
    from mltrain.pipeline.request import TrainRequest, WarmStart
    from mltrain.progress import Progress
    from mltrain.snapshots.stored import Snapshot
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion
    from mltrain.training.calibration import CalibrationChoice
    from mltrain.training.economics import ForwardReturns
    from mltrain.training.samples import Samples, SymbolQuality
    from mltrain.training.search import ExecutionOptions, SearchResult
    from mltrain.training.split import Split


_STUDY_WAIT_S: Final = 1.0  # a prune holds the lock for a moment, only to see whether it is held
_SNAPSHOTS_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class TrainReport:
    """How a training ended.

    Attributes:
        version: The new version's name.
        folder: Where it lies.
        promoted: Whether it is the best one now.
        held: Why a GO was not promoted automatically, although promotion was not switched off; else None.
        model_sha256: Hash of its lgbm.pkl.
        training: Everything that was found out.
    """

    version: str
    folder: Path
    promoted: bool
    held: str | None
    model_sha256: str
    training: Training


class _Listener:
    """Passes progress on, and keeps the warnings for the card."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.stage, self.advance = progress.stage, progress.advance
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self._progress.warn(message)


def train(request: TrainRequest, store: Store, *, now_ms: int, progress: Progress) -> TrainReport | StoredVersion:
    """Train as `train_anew` does, unless a stored version has the result already.

    Args:
        request: What to train on and how.
        store: Where versions live.
        now_ms: The clock, ms UTC: it names the version.
        progress: Told of every stage.

    Returns:
        How the training ended; or the version that it would only repeat, with nothing written.
    """
    return find_same_version(request, store) or train_anew(request, store, now_ms=now_ms, progress=progress)


def train_anew(request: TrainRequest, store: Store, *, now_ms: int, progress: Progress) -> TrainReport:
    """Train, calibrate, judge, document and store one version, and promote it where its gates say GO.

    Args:
        request: What to train on and how.
        store: Where versions live.
        now_ms: The clock, ms UTC: it names the version.
        progress: Told of every stage.

    Raises:
        InputError: The snapshot is damaged, or too short, or lacks what a feature reads.
        LeakageError: A guard failed.
        LockedError: The same study is being trained now, or the store is held for longer than its wait.
        MachineError: The machine refused a file, or has not enough memory.
    """
    store.best()  # a pointer that leads nowhere must not be found out after the search
    heard = _Listener(progress)
    request = fit_memory(request, available=available_memory(), progress=progress)
    examined = _examine(request, heard)
    study = _name_study(request)
    studies = store.data_dir / "studies"
    store.prepare()  # nothing is written for a snapshot that cannot be trained on
    make_folder(studies)
    with hold_lock(studies / f"{study}.lock", wait_s=_STUDY_WAIT_S, purpose=f"train {study}"):
        sweep_temps(studies, of=f"{study}.")
        _keep_from_pruning(request.snapshot, store)
        training, bundle, tables = _learn(request, examined, store, study=study, now_ms=now_ms, progress=heard)
        return _publish(training, bundle, tables, request, store)


def _keep_from_pruning(snapshot: Snapshot, store: Store) -> None:
    """Make sure that a snapshot is still there, now that the study's lock tells a prune to spare it.

    A prune that looked before the lock was held may be removing it still; once its own lock is free, it has ended.

    Raises:
        InputError: The snapshot was removed while its candles were examined.
    """
    folder = store.data_dir / FOLDER
    if real_path(snapshot.path.parent) != real_path(folder):
        return  # elsewhere nothing is pruned, and no lock file belongs there
    with hold_lock(folder / ".lock", wait_s=_SNAPSHOTS_WAIT_S, purpose=f"reopening the snapshot {snapshot.id}"):
        open_snapshot(store.data_dir, snapshot.path.name)


def _name_study(request: TrainRequest) -> str:
    """Return the study's name: two trainings share it where their trials of equal number are equal."""
    return f"{request.snapshot.id}-{_hash_study(request)[:16]}-{request.config.seed}"


def _hash_study(request: TrainRequest) -> str:
    """Return the hash of everything except the candles and the seed that changes a trial."""
    warm = None if request.warm_start is None else request.warm_start.params
    registry, own = request.feature_set.registry_sha256, request.feature_set.user_ops()
    if own is not None:
        registry = sha256_bytes(f"{registry} {own.module} {own.sha256}".encode())
    return study_sha256(request.config, registry_sha256=registry, warm_start=warm)


def _hash_configuration(request: TrainRequest, *, trials: int) -> str:
    """Return the hash of everything except the time of the cut that a person chooses and the scores depend on.

    It leaves out the parameters of a warm start, because the version that they are from changes with each promotion.
    """
    chosen: dict[str, Json] = {
        "study": _hash_study(replace(request, warm_start=None)),
        "warm_start": request.warm_start is not None,
        "seed": request.config.seed,
        "trials": trials,  # trials that were run: a timeout ends each search elsewhere
        "calibration": request.config.calibration,
        "symbols": [*sorted(facts.symbol for facts in request.snapshot.facts)],
        "days": request.snapshot.request.days,
    }
    return sha256_bytes(canonical_json(chosen))


@dataclass(frozen=True, slots=True, eq=False)
class _Examined:
    """Candles that have passed the guards, as rows cut into blocks."""

    candles: Mapping[str, pl.DataFrame]
    samples: Samples
    quality: tuple[SymbolQuality, ...]
    split: Split
    guards: tuple[GuardResult, ...]


def _examine(request: TrainRequest, progress: _Listener) -> _Examined:
    """Turn the snapshot into rows, and stop at anything that must not be trained on."""
    feature_set, config = request.feature_set, request.config
    candles = keep_newest(read_candles(request.snapshot, progress), config.max_rows)
    guards = [audit_candles(feature_set, candles, config, progress)]
    check_guards(guards)
    progress.stage("features and labels")
    samples, quality = build_samples(feature_set, candles)
    samples, split = cut_samples(samples, feature_set, config, progress)
    guards += audit_samples(feature_set, samples, split, config, progress)
    check_guards(guards)
    for warning in (text for guard in guards for text in guard.warnings):
        progress.warn(warning)
    return _Examined(candles, samples, quality, split, tuple(guards))


def _learn(
    request: TrainRequest, examined: _Examined, store: Store, *, study: str, now_ms: int, progress: _Listener
) -> tuple[Training, Bundle, dict[str, pl.DataFrame]]:
    """Walk from the rows to the verdict; the only things written are the search's journal and the look."""
    feature_set, config = request.feature_set, request.config
    samples, split = examined.samples, examined.split
    journal = store.data_dir / "studies" / f"{study}.journal"
    found, choice, bundle = learn_model(
        samples,
        split,
        feature_set,
        config,
        journal=journal,
        execution=request.execution,
        progress=progress,
        warm_start=None if request.warm_start is None else request.warm_start.params,
    )
    model = model_from_bundle(bundle)
    served = bundle if request.final == "inner" else _refit(request, examined, found, bundle)
    progress.stage("holdout")
    holdout = take_rows(samples, split.holdout.span)
    configuration = _hash_configuration(request, trials=len(found.trials))
    looks = _look(store, split, request.warm_start, study=study, configuration_sha256=configuration, now_ms=now_ms)
    raw, p = model.score(holdout.x)
    train_up_share = float(samples.y[split.inner.span].mean())
    priors = find_priors(samples, split.inner.span)
    draws = plan_bootstrap(holdout.ts_ms, draws=config.bootstrap.draws, level=config.bootstrap.level, seed=config.seed)
    scores = score_holdout(
        holdout,
        raw,
        p,
        priors=priors,
        train_up_share=train_up_share,
        draws=draws,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )
    bars = {"horizon_bars": feature_set.label.horizon_bars, "step_ms": interval_ms(feature_set.interval)}
    moves = forward_returns(examined.candles, holdout, **bars)
    # Where a side is rare, every probability lies on one side of one half: the base rate is then the threshold.
    parts = np.array([_middle(prior.up_share, config.gates) for prior in priors])
    economics = score_economics(p > parts[holdout.symbol_ix], holdout, moves, draws, **bars)
    bounce = find_bounce(examined.candles, step_ms=bars["step_ms"])
    slices, logistic_p = _slice(request, examined, holdout, p)
    progress.stage("latency")
    latency = measure(model, examined.candles, samples=config.bench.samples)
    progress.stage("gates")
    champion, packaged = open_champion(store), load_config(None, overrides={})
    verdict = judge(
        Evidence(
            skill=SkillEvidence(train_up_share, scores.skill.margin, scores.skill.log_loss_skill),
            simple_model=SimpleModelEvidence(
                over_logistic=draws.estimate(row_log_loss(logistic_p, holdout.y) - row_log_loss(p, holdout.y)),
                over_base_rate=scores.skill.log_loss_gain,
            ),
            symbols=scores.skill.symbols,
            leaders=feature_set.leaders,
            calibration=CalibrationEvidence(scores.intervals.ece, scores.null_floor.p95),
            latency_p95_ms=latency.candles.p95,
            guards=examined.guards,
            bounce=BounceEvidence(economics, bounce),
            champion=meet_champion(champion, feature_set, examined.candles, holdout, p=p, config=config),
            meaning=compare_meaning(champion, feature_set, samples.symbols),
            origin=find_origin(champion, request.snapshot),
            selection=Selection(looks.others),
        ),
        config.gates,
    )
    training = Training(
        snapshot=request.snapshot,
        feature_set=feature_set,
        config=config,
        study=study,
        configuration_sha256=configuration,
        samples=samples,
        matrix_sha256=matrix_sha256(samples),
        quality=examined.quality,
        split=split,
        guards=examined.guards,
        search=found,
        final=request.final,
        warm_start=None if request.warm_start is None else request.warm_start.to_json(),
        calibration=choice,
        importance=feature_gains(served.model_text),
        contributions=mean_contributions(load_bundle(bundle), holdout.x),
        priors=priors,
        scores=scores,
        economics=economics,
        bounce=bounce,
        latency=latency,
        slices=slices,
        champion=None if champion is None else champion.version.name,
        verdict=verdict,
        loosened=(
            *find_loosened(config.gates, packaged.gates),
            *find_loosened(config.guards, packaged.guards),
        ),
        looks=looks,
        lineage=read_lineage(),
        ops_sha256=bundle.ops_sha256,
        user_ops=bundle.user_ops,
        now_ms=now_ms,
        warnings=tuple(progress.warnings),
    )
    oof = take_rows(replace(samples, x=samples.x[:, :0], names=()), found.oof_rows)  # a copy, so without features
    tables = {
        HOLDOUT_FILE: _score_table(holdout, raw, p, moves),
        OOF_FILE: _score_table(
            oof, found.oof_scores, choice.calibrator.apply(found.oof_scores),
            forward_returns(examined.candles, oof, **bars),
        ).with_columns(fold=pl.Series(found.oof_fold + 1, dtype=pl.Int8)),
    }  # fmt: skip
    return training, served, tables


def _middle(base_rate: float, gates: GateConfig) -> float:
    """Return the probability above which a row is called "up"."""
    return THRESHOLD if gates.base_rate_low <= base_rate <= gates.base_rate_high else base_rate


def _slice(
    request: TrainRequest, examined: _Examined, holdout: Samples, p: NDArray[np.float64]
) -> tuple[Slices, NDArray[np.float64]]:
    """Score the holdout in parts, and the simpler models on all of it, with their probabilities."""
    split, step_ms = examined.split, interval_ms(request.feature_set.interval)
    inner, held = split.inner.span, split.holdout.span
    terciles = volatility_terciles(examined.candles, examined.samples, before=inner, of=held, step_ms=step_ms)
    logistic, logistic_p = score_logistic(examined.samples, train=inner, holdout=held)
    slices = Slices(
        weeks=score_weeks(p, holdout.y, holdout.ts_ms),
        volatility=score_terciles(p, holdout.y, terciles),
        logistic=logistic,
    )
    return slices, logistic_p


def _refit(request: TrainRequest, examined: _Examined, found: SearchResult, twin: Bundle) -> Bundle:
    """Fit the model on every row; parameters, rounds and calibrator are those of its twin, whose figures are told."""
    best = found.best
    text = fit_final(
        examined.samples, examined.split, request.config, tuned=best.params, rounds=best.rounds, final="all"
    )
    return replace(twin, model_text=text)


def learn_model(
    samples: Samples,
    split: Split,
    feature_set: FeatureSet,
    config: TrainConfig,
    *,
    journal: Path,
    execution: ExecutionOptions,
    progress: Progress,
    warm_start: Mapping[str, float] | None = None,
) -> tuple[SearchResult, CalibrationChoice, Bundle]:
    """Search, fit and calibrate; of the holdout's rows, nothing but their number and times is ever looked at.

    Args:
        samples: All rows.
        split: Of these rows.
        feature_set: What the columns are.
        config: The configuration.
        journal: Where the search keeps its record.
        execution: How the search is run.
        progress: Told of every trial.
        warm_start: Parameters that are tried right after LightGBM's defaults.

    Returns:
        The trials, the calibrator, and the model whole.

    Raises:
        InputError: No feature is usable, the scores are too few for the calibration that was asked for, or a study
            that was to be resumed is damaged.
        MachineError: The journal cannot be written, LightGBM cannot be loaded, or a worker died twice at one trial.
    """
    found = search(
        samples, split, config, journal=journal, execution=execution, progress=progress, warm_start=warm_start
    )
    progress.stage("final fit")
    choice = calibrate(found, samples, config)
    bundle = Bundle(
        model_text=fit_final(samples, split, config, tuned=found.best.params, rounds=found.best.rounds),
        calibrator=choice.calibrator,
        feature_set=feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=feature_set.user_ops(),
    )
    return found, choice, bundle


def _look(
    store: Store,
    split: Split,
    warm_start: WarmStart | None,
    *,
    study: str,
    configuration_sha256: str,
    now_ms: int,
) -> Looks:
    """Write down that the holdout is about to be scored, and tell how often its range has been before.

    Parameters that were chosen or judged on a part of it have looked at that part. To have been chosen there is a
    selection; to have been judged there only, as in a nightly training from the version before, is none.
    """
    start, end = split.holdout.start_ms, split.holdout.end_ms
    if warm_start is not None and warm_start.end_ms > start:
        chosen = warm_start.chosen_until_ms > start
        store.record_look(
            start_ms=max(start, warm_start.start_ms),
            end_ms=min(end, warm_start.chosen_until_ms if chosen else warm_start.end_ms),
            study=f"{WARM_START}{warm_start.version} of {study}",
            now_ms=now_ms,
            configuration_sha256=None if chosen else configuration_sha256,
        )
    looks = count_looks(
        store.looks(), start_ms=start, end_ms=end, study=study, configuration_sha256=configuration_sha256
    )
    store.record_look(start_ms=start, end_ms=end, study=study, now_ms=now_ms, configuration_sha256=configuration_sha256)
    return looks


def _score_table(
    rows: Samples, raw: NDArray[np.float64], p: NDArray[np.float64], moves: ForwardReturns
) -> pl.DataFrame:
    """Return rows with their predictions and price moves, from which the reported figures can be recomputed."""
    return pl.DataFrame(
        {
            "ts": pl.Series(rows.ts_ms).cast(TS_DTYPE),
            "symbol": pl.Series([rows.symbols[ix] for ix in rows.symbol_ix.tolist()], dtype=pl.String),
            "y": rows.y,
            "last_move": rows.last_move,
            "raw": raw,
            "p": p,
            "forward_bps": moves.from_close,
            "forward_open_bps": pl.Series(moves.from_open).fill_nan(None),
        }
    )


def _trials_table(found: SearchResult) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"number": t.number, "state": t.state, "log_loss": t.loss, "rounds": t.rounds, **t.params}
            for t in found.trials
        ]
    )


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def _publish(
    training: Training, bundle: Bundle, tables: Mapping[str, pl.DataFrame], request: TrainRequest, store: Store
) -> TrainReport:
    """Store the version whole, load it back from disk, compare its predictions, and only then promote it."""
    model_bytes = bundle.to_bytes()
    trials = _trials_table(training.search)
    files = {
        "lgbm.pkl": model_bytes,
        "features.yml": training.feature_set.to_yaml(),
        TRIALS_FILE: _parquet(trials),
        **{name: _parquet(table) for name, table in tables.items()},
    }
    card = card_bytes(build_card(training, files))
    told: Any = parse_json(
        card, where="the card"
    )  # as a reader will have it: the page can be drawn from the files again
    report = draft_report(Material(told, holdout_rows(tables[HOLDOUT_FILE], told, where="the holdout"), trials))
    version = store.publish_version(
        {**files, CARD_FILE: card},
        date=day_name(training.now_ms),
        now_ms=training.now_ms,
        verdict=training.verdict.word,
        named=lambda name: {REPORT_FILE: report.finish(name)},
    )
    check_round_trip(version, model_from_bundle(bundle))
    held = training.verdict.held
    promoted = request.promote and training.verdict.go and held is None
    if promoted:
        try:
            store.promote(
                version.name,
                why="its gates say GO",
                by=request.by,
                now_ms=training.now_ms,
                check=lambda _, best: _check_champion(best, training.champion),
            )
        except NoGoError as err:
            promoted, held = False, err.message
    return TrainReport(version.name, version.folder, promoted, held, sha256_bytes(model_bytes), training)


def _check_champion(best: StoredVersion, judged: str | None) -> None:
    """Refuse to replace a version that the gates have not judged against.

    Raises:
        NoGoError: It became the best one during the training.
    """
    if best.name != judged:
        raise NoGoError(
            f"{best.name} became the best version during the training, so this one was not compared with it"
        )
