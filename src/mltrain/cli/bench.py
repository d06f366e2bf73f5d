"""The command bench: the latency of a version, compared with a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.api.bench import BUDGET_MS, FEWEST_SAMPLES, SAMPLES
from mltrain.cli.address_space import SERVING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.completion import complete_version
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, number_text
from mltrain.cli.tables import bar, folding, right, table
from mltrain.errors import NoGoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.cli.render import View
    from mltrain.pipeline.bench import BenchReport


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "bench", bench, example="mltrain bench --samples 2000 --budget-ms 50")


@command(opens_versions=True, need_mb=SERVING_MB)
def bench(
    session: Session,
    ref: LiveVersionArgument = None,
    samples: Annotated[
        int, typer.Option("--samples", min=FEWEST_SAMPLES, max=1_000_000, help="Calls to measure.")
    ] = SAMPLES,
    budget_ms: Annotated[
        float,
        typer.Option(
            "--budget-ms", min=0.001, help="Highest p95, in ms from candles to probability, that is not a NO-GO."
        ),
    ] = BUDGET_MS,
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
    from mltrain.api.bench import bench

    register_ops(ops)
    result = bench(
        ref,
        samples=samples,
        budget_ms=budget_ms,
        compare=compare,
        data_dir=session.data_dir,
        slot=session.slot,
        progress=session.progress,
    )

    def view() -> View:
        yield from _view_reports([result.report, *result.compared])
        within = "within" if result.within_budget else "OVER"
        yield f"{within} the budget: p95 {result.latency.candles.p95:.3f} ms of {budget_ms:g} ms"

    return Outcome(result, view, exit_code=0 if result.within_budget else NoGoError.exit_code)


def _view_reports(reports: Sequence[BenchReport]) -> View:
    """Show the measurements of one or two versions: latency, throughput, histogram, machine."""
    latencies = [("one row", r.version, r.latency.one_row) for r in reports]
    latencies += [("candles to probability", r.version, r.latency.candles) for r in reports]
    rows: list[tuple[object, ...]] = [
        (version, what, *(f"{ms:.3f}" for ms in (p.mean, p.p50, p.p95, p.p99, p.max))) for what, version, p in latencies
    ]
    yield table(None, "version", "latency in ms", *right("mean", "p50", "p95", "p99", "max"), rows=rows)
    rows = [
        (r.version, r.path, f"{r.load_ms:,.0f}", f"{r.first_ms:.2f}", f"{r.latency.batch_rows_per_s:,.0f}",
         number_text(r.memory_mb, 0))
        for r in reports
    ]  # fmt: skip
    right_columns = right("load ms", "first call ms", "batch rows/s", "memory MB")
    yield table(None, "version", *folding("path of one row"), *right_columns, rows=rows)
    for r in reports:
        most = max((b.calls for b in r.latency.histogram), default=0) or 1
        bins = [(f"{b.from_ms:.3f} to {b.to_ms:.3f}", f"{b.calls:,}", b.calls / most) for b in r.latency.histogram]
        yield table(f"{r.version}: candles to probability", *right("ms", "calls"), bar(""), rows=bins)
    last = reports[-1]
    load = "unknown" if last.latency.load_average is None else f"{last.latency.load_average:.2f}"
    yield f"{last.latency.samples:,} samples on {last.latency.cpu}, {last.cores} cores, load {load}"
    for r in reports:
        if r.noise is not None:
            yield f"NOISY MACHINE ({r.version}): {r.noise}; these figures are too high"
