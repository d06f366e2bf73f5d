"""`bench`: the latency of a version, compared with a budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.api.references import read_version
from mltrain.api.workspace import DATA_DIR, open_store, read_progress
from mltrain.documents.results import Result
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.gates.latency import Latency
    from mltrain.pipeline.bench import BenchReport

SAMPLES: Final = 1_000
FEWEST_SAMPLES: Final = 10
BUDGET_MS: Final = 80.0


@dataclass(frozen=True, slots=True)
class BenchResult(Result):
    """The result of `bench`.

    Attributes:
        version: The measured version.
        latency: Its latency; the same as in `report`.
        budget_ms: Value of --budget-ms.
        within_budget: Whether p95 from candles to probability is within the budget; exit code 0 or 4.
        report: All measurements of the version.
        compared: All measurements of the version that --compare names; empty without it.
    """

    SCHEMA: ClassVar[str] = "bench/1"

    version: str
    latency: Latency
    budget_ms: float
    within_budget: bool
    report: BenchReport
    compared: list[BenchReport]


def bench(
    version: VersionRef | None = None,
    *,
    samples: int = SAMPLES,
    budget_ms: float = BUDGET_MS,
    compare: VersionRef | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> BenchResult:
    """Measure latency on this machine: one row, candles to probability, and batch throughput.

    Args:
        version: Its name, "latest", "best", "best:SLOT", a path, the model itself, or the result of its training; None:
            the live version or, with a warning, the latest if nothing was promoted yet.
        samples: Calls to measure, 10 or more.
        budget_ms: Highest p95, in ms from candles to probability, that is within the budget; above 0.
        compare: Another version to measure.
        ops: The module of the user ops that the version was trained with. **Importing it runs its code.**
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        progress: Receives warnings.

    Raises:
        UsageError: An argument is none of these, or out of its range.
        InputError: There is no such version, or it is damaged.
        OwnOpsError: The version was trained with user ops that are not imported.
        MachineError: LightGBM's system library is missing.
    """
    from mltrain.features.user_ops import import_user_ops
    from mltrain.pipeline.bench import bench_version

    if samples < FEWEST_SAMPLES:
        raise UsageError(f"samples is {samples}: expected {FEWEST_SAMPLES} or more")
    if not budget_ms > 0:
        raise UsageError(f"budget_ms is {budget_ms}: expected a number above 0")
    shown, store = read_progress(progress), open_store(data_dir, slot)
    if ops is not None:
        import_user_ops(ops)
    reports = [
        bench_version(partial(read_version, measured, store, shown), samples=samples)
        for measured in (version, *([] if compare is None else [compare]))
    ]
    first = reports[0]
    return BenchResult(
        version=first.version,
        latency=first.latency,
        budget_ms=budget_ms,
        within_budget=first.latency.candles.p95 <= budget_ms,
        report=first,
        compared=reports[1:],
    )
