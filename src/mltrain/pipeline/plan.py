"""Predict the rows, blocks, memory and minutes of a training without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.card.machine import available_memory
from mltrain.documents.results import Result
from mltrain.errors import MachineError
from mltrain.pipeline.fit_network import measure_network_minutes
from mltrain.pipeline.prepare import cut_samples, read_candles
from mltrain.times import interval_ms
from mltrain.training.cost import measure_minutes, predict_peak_bytes
from mltrain.training.samples import build_samples, keep_newest

if TYPE_CHECKING:
    from mltrain.pipeline.request import TrainRequest
    from mltrain.progress import Progress
    from mltrain.training.split import Block

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Plan(Result):
    """The predicted size and cost of a training.

    Attributes:
        snapshot: Id of the snapshot.
        candles: Number of candles, all symbols together.
        rows: Number of rows that these candles give.
        features: Number of features.
        blocks: Every block of the split: inner part, holdout, and two blocks for each fold.
        trials: Number of trials.
        workers: Number of processes that run the trials.
        peak_bytes: Predicted peak memory of all processes together, in bytes.
        available_bytes: Available memory, in bytes; None if the machine does not report it.
        minutes: Predicted duration of the search, in minutes, from a few measured boosting rounds or steps.
    """

    SCHEMA: ClassVar[str] = "train-plan/1"

    snapshot: str
    candles: int
    rows: int
    features: int
    blocks: tuple[Block, ...]
    trials: int
    workers: int
    peak_bytes: int
    available_bytes: int | None
    minutes: float


def plan_training(request: TrainRequest, *, progress: Progress) -> Plan:
    """Read candles, compute features, cut the rows into blocks and measure a few boosting rounds; write nothing."""
    for warning in request.warnings:
        progress.warn(warning)
    config = request.config
    available_bytes = available_memory()
    request = fit_memory(request, available_bytes=available_bytes, progress=progress)
    candles = keep_newest(read_candles(request.snapshot, progress, request.feature_set), config.max_rows)
    progress.stage("features and labels")
    samples, split = cut_samples(build_samples(request.feature_set, candles)[0], request.feature_set, config, progress)
    progress.stage("probe")
    workers = request.execution.workers
    return Plan(
        snapshot=request.snapshot.id,
        candles=_count_candles(request),
        rows=int(samples.y.size),
        features=len(samples.names),
        blocks=split.blocks(),
        trials=config.tft.search.trials if config.model == "tft" else config.search.trials,
        workers=workers,
        peak_bytes=_predict_peak(request, workers=workers),
        available_bytes=available_bytes,
        minutes=measure_network_minutes(
            samples, split, config, step_ms=interval_ms(request.snapshot.interval), workers=workers
        )
        if config.model == "tft"
        else measure_minutes(samples, split, config, workers=workers),
    )


def fit_memory(request: TrainRequest, *, available_bytes: int | None, progress: Progress) -> TrainRequest:
    """Lower the number of workers of a training to what the memory allows, with a warning; it changes no result.

    Nothing is lowered if the machine does not report the available memory (None). Raise MachineError if the memory is
    not enough for one worker.
    """
    requested = request.execution.workers
    if available_bytes is None:
        return request
    fitting = next((n for n in range(requested, 0, -1) if _predict_peak(request, workers=n) <= available_bytes), 0)
    if fitting == requested:
        return request
    needed_bytes = _predict_peak(request, workers=requested if fitting else 1)
    need = f"need about {needed_bytes / _GIB:.1f} GiB, and {available_bytes / _GIB:.1f} GiB are available"
    candles = _count_candles(request)
    if not fitting:
        # A margin of a tenth, because the prediction is not exact.
        max_rows = int(candles * available_bytes / needed_bytes * 0.9)
        raise MachineError(
            f"not enough memory: {candles:,} candles with {len(request.feature_set.names)} features {need}",
            hint=f"free some memory, or train on the newest candles with --max-rows {max_rows}",
        )
    progress.warn(f"{fitting} worker(s) instead of {requested}: {requested} {need}")
    return replace(request, execution=replace(request.execution, workers=fitting))


def _count_candles(request: TrainRequest) -> int:
    """Return the number of candles that a training reads, all symbols together."""
    candles = sum(entry.rows for entry in request.snapshot.facts)
    return min(candles, request.config.max_rows or candles)


def _predict_peak(request: TrainRequest, *, workers: int) -> int:
    """Return the predicted peak memory of all processes of a training together, in bytes."""
    config, features, val_ratio = request.config, len(request.feature_set.names), request.config.val_ratio
    if config.holdout_from_ms is not None:
        # As if the candles were evenly spread; a time outside them is refused later, by the split.
        start_ms = min(entry.first_ms for entry in request.snapshot.facts)
        end_ms = max(entry.last_ms for entry in request.snapshot.facts)
        val_ratio = min(max((end_ms - config.holdout_from_ms) / max(end_ms - start_ms, 1), 0.0), 1.0)
    return predict_peak_bytes(
        _count_candles(request), features, config.folds, val_ratio=val_ratio or 0.0, workers=workers
    )
