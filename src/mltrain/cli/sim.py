"""The command sim: serves the simulated exchange."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, show_outcome
from mltrain.cli.sources import SimSignal
from mltrain.documents.results import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.simulator.server import RequestRecord

MAX_PORT: Final = 65_535

# A signal may reach another thread; Python acts on it when the main thread wakes up.
_WAKE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class SimDocument(Result):
    """The document of `sim`.

    Attributes:
        base_url: Address of the REST interface.
        archive_url: Address of the archive.
        clock: Current time of the exchange, UTC.
        seed: Seed of the simulated market.
        signal: How predictable the market is.
    """

    SCHEMA: ClassVar[str] = "sim/1"

    base_url: str
    archive_url: str
    clock: str
    seed: int
    signal: Literal["none", "weak", "strong"]


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
    from mltrain.simulator.faults import read_faults
    from mltrain.simulator.server import SimServer
    from mltrain.sources.simulated_market import CLOCK_MS
    from mltrain.times import format_ms, parse_time

    with (
        _request_log(log) as (write_record, wait),
        SimServer(
            seed=seed,
            signal=signal.value,
            clock_ms=CLOCK_MS if clock is None else parse_time(clock),
            ticking=ticking,
            latency_ms=latency_ms,
            weight_limit=weight_limit,
            faults=() if faults is None else read_faults(faults),
            port=port,
            on_answer=write_record,
        ) as server,
    ):
        data = SimDocument(
            base_url=server.base_url,
            archive_url=server.archive_url,
            clock=format_ms(server.clock_ms()),
            seed=seed,
            signal=signal.value,
        )
        show_outcome(Outcome(data, lambda: [server.base_url, server.archive_url]), as_json=session.as_json)
        wait()
    return None


@contextlib.contextmanager
def _request_log(path: Path | None) -> Iterator[tuple[Callable[[RequestRecord], None] | None, Callable[[], None]]]:
    """Yield a function that writes a request to a log, and one that waits until that fails, and raises its error.

    The server calls the first in its thread, where nobody would see the error. Without a path the first is None.
    """
    from mltrain.documents.results import to_plain
    from mltrain.documents.strict_json import json_line
    from mltrain.storage.disk_errors import disk_errors

    failed = threading.Event()
    failures: list[OSError] = []

    def write(record: RequestRecord) -> None:
        try:
            stream.write(f"{json_line(to_plain(record))}\n")
        except OSError as err:
            failures.append(err)
            failed.set()

    def wait() -> None:
        while not failed.wait(_WAKE_S):
            pass
        raise failures[0]

    if path is None:
        yield None, wait
        return
    with disk_errors(path, "write"), path.open("a", encoding="utf-8", buffering=1) as stream:
        yield write, wait
