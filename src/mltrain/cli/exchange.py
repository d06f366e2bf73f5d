"""The command that serves the simulated exchange: sim."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.render import Outcome, show_outcome
from mltrain.cli.sources import SimSignal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.simulator.server import Answered

MAX_PORT = 65_535

_WAKE_S = 0.2


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("sim")(sim)


@command()
def sim(
    session: Session,
    port: Annotated[int, typer.Option("--port", min=0, max=MAX_PORT, help="Where to listen; 0: any free port.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which simulated market.")] = 0,
    signal: Annotated[
        SimSignal, typer.Option("--signal", help="How predictable it is (best accuracy 50, 51.4, 60.1 %).")
    ] = SimSignal.NONE,
    clock: Annotated[
        str | None, typer.Option("--clock", help="Its time, such as 2025-10-15T12:00:00Z, which is the default.")
    ] = None,
    ticking: Annotated[bool, typer.Option("--ticking", help="Let its clock run.")] = False,
    latency_ms: Annotated[float, typer.Option("--latency-ms", min=0, help="How long each answer is held back.")] = 0.0,
    weight_limit: Annotated[int, typer.Option("--weight-limit", min=1, help="What a minute may cost.")] = 6000,
    faults: Annotated[Path | None, typer.Option("--faults", help="JSON file of what goes wrong, and when.")] = None,
    log: Annotated[Path | None, typer.Option("--log", help="File to add a line of JSON to for each request.")] = None,
) -> Outcome | None:
    """Serve the simulated exchange on the loopback until Ctrl-C: candles over HTTP, daily archives, scripted faults."""
    from mltrain.simulator.faults import read_faults
    from mltrain.simulator.server import SimServer
    from mltrain.sources.simulated import CLOCK_MS
    from mltrain.times import format_ms, parse_time

    with (
        _request_log(log) as (on_answer, wait),
        SimServer(
            seed=seed,
            signal=signal.value,
            clock_ms=CLOCK_MS if clock is None else parse_time(clock),
            ticking=ticking,
            latency_ms=latency_ms,
            weight_limit=weight_limit,
            faults=() if faults is None else read_faults(faults),
            port=port,
            on_answer=on_answer,
        ) as server,
    ):
        data = {
            "base_url": server.base_url,
            "archive_url": server.archive_url,
            "clock": format_ms(server.clock_ms()),
            "seed": seed,
            "signal": signal.value,
        }
        show_outcome(Outcome("sim/1", data, lambda: [server.base_url, server.archive_url]), as_json=session.as_json)
        wait()
    return None


@contextlib.contextmanager
def _request_log(path: Path | None) -> Iterator[tuple[Callable[[Answered], None] | None, Callable[[], None]]]:
    """Yield what writes a record, and what waits until a record could not be written: for ever, if all goes well."""
    from mltrain.cli.render import to_plain
    from mltrain.documents.strict_json import json_line
    from mltrain.storage.edge import disk_edge

    ended = threading.Event()
    if path is None:
        yield None, _waiter(ended, [])
        return
    failures: list[OSError] = []

    def write(record: Answered) -> None:
        try:
            stream.write(f"{json_line(to_plain(record))}\n")
        except OSError as err:  # in the server's thread: the command's own has to end, and to say why
            failures.append(err)
            ended.set()

    with disk_edge(path, "write"), path.open("a", encoding="utf-8", buffering=1) as stream:
        yield write, _waiter(ended, failures)


def _waiter(ended: threading.Event, failures: list[OSError]) -> Callable[[], None]:
    def wait() -> None:
        # A signal may reach another thread of the process: Python then acts on it when this one wakes up.
        while not ended.wait(_WAKE_S):
            pass
        raise failures[0]

    return wait
