"""Plan a training without running it: rows, blocks, memory and minutes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mltrain.card.machine import available_memory
from mltrain.errors import MachineError
from mltrain.pipeline.prepare import cut_samples, read_candles
from mltrain.training.cost import measure_minutes, predict_peak_bytes
from mltrain.training.samples import build_samples, keep_newest

if TYPE_CHECKING:
    from mltrain.pipeline.request import TrainRequest
    from mltrain.progress import Progress
    from mltrain.training.split import Block

_GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a training.

    Attributes:
        snapshot: Id of the snapshot.
        candles: Number of candles, all symbols together.
        rows: Number of rows that they give.
        features: Number of features.
        blocks: Every block of the split.
        trials: Number of trials.
        workers: Processes that run the trials.
        peak_bytes: Predicted peak memory of all processes together.
        available_bytes: Available memory; None if the machine does not report it.
        minutes: Predicted duration of the search, from a measured probe.
    """

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
    """Read candles, compute features, cut the blocks and measure a few rounds; nothing is written.

    Raises:
        InputError: The snapshot is damaged, or too short, or lacks what a feature reads.
        MachineError: The memory is not enough.
    """
    config = request.config
    available = available_memory()
    request = fit_memory(request, available=available, progress=progress)
    candles = keep_newest(read_candles(request.snapshot, progress), config.max_rows)
    progress.stage("features and labels")
    samples, split = cut_samples(build_samples(request.feature_set, candles)[0], request.feature_set, config, progress)
    progress.stage("probe")
    workers = request.execution.workers
    return Plan(
        snapshot=request.snapshot.id,
        candles=_candles(request),
        rows=int(samples.y.size),
        features=len(samples.names),
        blocks=split.blocks(),
        trials=config.search.trials,
        workers=workers,
        peak_bytes=_peak(request, workers),
        available_bytes=available,
        minutes=measure_minutes(samples, split, config, workers=workers),
    )


def fit_memory(request: TrainRequest, *, available: int | None, progress: Progress) -> TrainRequest:
    """Return the request with as many workers as the memory allows; their number changes no result.

    Args:
        request: The training.
        available: Available bytes; None if the machine does not report them.
        progress: Receives a warning if there are fewer workers than requested.

    Raises:
        MachineError: The memory is not enough for one worker.
    """
    wanted = request.execution.workers
    if available is None:
        return request
    fitting = next((n for n in range(wanted, 0, -1) if _peak(request, n) <= available), 0)
    if not fitting:
        most = int(_candles(request) * available / _peak(request, 1) * 0.9)
        raise MachineError(
            f"not enough memory: {_candles(request):,} candles with {len(request.feature_set.names)} features need "
            f"about {_peak(request, 1) / _GIB:.1f} GiB, and {available / _GIB:.1f} GiB are available",
            hint=f"free some memory, or train on the newest candles with --max-rows {most}",
        )
    if fitting < wanted:
        progress.warn(
            f"{fitting} worker(s) instead of {wanted}: {wanted} need about {_peak(request, wanted) / _GIB:.1f} GiB, "
            f"and {available / _GIB:.1f} GiB are available"
        )
    return replace(request, execution=replace(request.execution, workers=fitting))


def _candles(request: TrainRequest) -> int:
    rows = sum(facts.rows for facts in request.snapshot.facts)
    return min(rows, request.config.max_rows or rows)


def _peak(request: TrainRequest, workers: int) -> int:
    config = request.config
    features = len(request.feature_set.names)
    return predict_peak_bytes(_candles(request), features, config.folds, val_ratio=config.val_ratio, workers=workers)
