"""The command bench: the latency of a version, compared with a budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.address_space import SERVING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, read_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_version
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome
from mltrain.cli.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from mltrain.gates.latency import Latency
    from mltrain.pipeline.bench import BenchReport

NO_GO: Final = 4


@dataclass(frozen=True, slots=True)
class BenchDocument:
    """The document of `bench`.

    Attributes:
        version: The measured version.
        latency: Its latency; the same as in `report`.
        budget_ms: Value of --budget-ms.
        within_budget: Whether p95 from candles to probability is within the budget; exit code 0 or 4.
        report: All measurements of the version.
        compared: All measurements of the version that --compare names; empty without it.
    """

    version: str
    latency: Latency
    budget_ms: float
    within_budget: bool
    report: BenchReport
    compared: list[BenchReport]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "bench", bench, example="mltrain bench --samples 2000 --budget-ms 50")


@command(opens_versions=True, takes_mb=SERVING_MB)
def bench(
    session: Session,
    ref: LiveVersionArgument = None,
    samples: Annotated[int, typer.Option("--samples", min=10, max=1_000_000, help="Calls to measure.")] = 1000,
    budget_ms: Annotated[
        float,
        typer.Option(
            "--budget-ms", min=0.001, help="Highest p95, in ms from candles to probability, that is not a NO-GO."
        ),
    ] = 80.0,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="VERSION",
            help="Measure this version, too, and show both.",
            autocompletion=complete_version,
        ),
    ] = None,
    ops: OpsOption = None,
) -> Outcome:
    """Measure latency: one row, candles to probability, and batch throughput; exit 4 if it is over the budget."""
    from mltrain.pipeline.bench import bench_version

    read_ops(ops)
    reports = []
    for wanted in (ref, *([] if compare is None else [compare])):
        report, warning = bench_version(session.data_dir, wanted, samples=samples)
        if warning:
            session.progress.warn(warning)
        reports.append(report)
    first = reports[0]
    within = first.latency.candles.p95 <= budget_ms

    def view() -> Iterator[RenderableType]:
        yield from _view(reports)
        p95 = first.latency.candles.p95
        yield f"{'within' if within else 'OVER'} the budget: p95 {p95:.3f} ms of {budget_ms:g} ms"

    data = BenchDocument(
        version=first.version,
        latency=first.latency,
        budget_ms=budget_ms,
        within_budget=within,
        report=first,
        compared=reports[1:],
    )
    return Outcome("bench/1", data, view, exit_code=0 if within else NO_GO)


def _view(reports: Sequence[BenchReport]) -> Iterator[RenderableType]:
    rows = [
        (r.version, name, *(f"{value:.3f}" for value in (p.mean, p.p50, p.p95, p.p99, p.max)))
        for name in ("one row", "candles to probability")
        for r in reports
        for p in [r.latency.one_row if name == "one row" else r.latency.candles]
    ]
    columns = ("version", "latency in ms", "mean", "p50", "p95", "p99", "max")
    yield table(None, columns, rows, kinds="  rrrrr")
    cells = [
        (
            r.version,
            r.path,
            f"{r.load_ms:,.0f}",
            f"{r.first_ms:.2f}",
            f"{r.latency.batch_rows_per_s:,.0f}",
            "-" if r.memory_mb is None else f"{r.memory_mb:,.0f}",
        )
        for r in reports
    ]
    columns_ = ("version", "path of one row", "load ms", "first call ms", "batch rows/s", "memory MB")
    yield table(None, columns_, cells, kinds=" frrrr")
    for r in reports:
        most = max((b.calls for b in r.latency.histogram), default=0) or 1
        bins = [(f"{b.from_ms:.3f} to {b.to_ms:.3f}", f"{b.calls:,}", b.calls / most) for b in r.latency.histogram]
        yield table(f"{r.version}: candles to probability", ("ms", "calls", ""), bins, kinds="rrb")
    last = reports[-1]
    load = "unknown" if last.latency.load_average is None else f"{last.latency.load_average:.2f}"
    yield f"{last.latency.samples:,} samples on {last.latency.cpu}, {last.cores} cores, load {load}"
    for r in reports:
        if r.noise is not None:
            yield f"NOISY MACHINE ({r.version}): {r.noise}; these figures are too high"
