"""The command sim: serves the simulated exchange."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, show_outcome
from mltrain.cli.sources import SimSignal

MAX_PORT: Final = 65_535


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "sim", sim, example="mltrain sim --port 8080 --signal strong --ticking")


@command()
def sim(
    session: Session,
    port: Annotated[int, typer.Option("--port", min=0, max=MAX_PORT, help="Port to listen on; 0: any free one.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the simulated market.")] = 0,
    signal: Annotated[
        SimSignal,
        typer.Option(
            "--signal", help="How predictable the market is; the best possible accuracy is 50, 51.4 or 60.1 %."
        ),
    ] = SimSignal.NONE,
    clock: Annotated[
        str | None, typer.Option("--clock", metavar="TIME", help="Time of the exchange. Default: 2025-10-15T12:00:00Z.")
    ] = None,
    ticking: Annotated[bool, typer.Option("--ticking", help="Let the clock run.")] = False,
    latency_ms: Annotated[float, typer.Option("--latency-ms", min=0, help="Delay of each response, in ms.")] = 0.0,
    weight_limit: Annotated[
        int | None,
        typer.Option(
            "--weight-limit",
            min=1,
            help="Request weight allowed per minute. Default: 6000 for spot, 2400 for futures.",
        ),
    ] = None,
    faults: Annotated[
        Path | None, typer.Option("--faults", metavar="FILE", help="JSON file of scripted faults.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Append one line of JSON per request to this file.")
    ] = None,
) -> Outcome | None:
    """Serve the simulated exchange on localhost until Ctrl-C: candles over HTTP, daily archives, scripted faults."""
    from mltrain.api.sim import sim

    with sim(
        port=port,
        seed=seed,
        signal=signal.value,
        clock=clock,
        ticking=ticking,
        latency_ms=latency_ms,
        weight_limit=weight_limit,
        faults=faults,
        log=log,
    ) as exchange:
        addresses = [exchange.base_url, exchange.archive_url]
        show_outcome(Outcome(exchange.result, lambda: addresses), as_json=session.as_json)
        exchange.wait()
    return None
