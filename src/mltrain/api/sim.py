"""`sim`: the simulated exchange, served while a `with` block lasts."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from mltrain.api.workspace import check_path, read_time
from mltrain.documents.results import Result, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mltrain.api.sources import SimSignal
    from mltrain.api.workspace import PathText, Time
    from mltrain.documents.values import Json
    from mltrain.simulator.server import RequestRecord

# A signal may reach another thread; Python acts on it when the main thread wakes up.
_WAKE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class SimResult(Result):
    """The result of `sim`.

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


class RunningExchange:
    """The simulated exchange while it serves.

    Attributes:
        result: Its addresses, its clock at the start, and what it simulates.
    """

    def __init__(self, result: SimResult, failed: threading.Event) -> None:
        self.result = result
        self._failed = failed

    @property
    def base_url(self) -> str:
        """Address of the REST interface, for the argument `base_url` of other functions."""
        return self.result.base_url

    @property
    def archive_url(self) -> str:
        """Address of the archive, for the argument `archive_url` of other functions."""
        return self.result.archive_url

    def to_json(self) -> dict[str, Json]:
        """Return the document that the command prints with `--json`, as JSON values."""
        return self.result.to_json()

    def wait(self) -> None:
        """Wait until Ctrl-C, or until the log cannot be written, which the end of the `with` block then raises."""
        while not self._failed.wait(_WAKE_S):
            pass


@contextmanager
def sim(
    *,
    port: int = 0,
    seed: int = 0,
    signal: SimSignal = "none",
    clock: Time | None = None,
    ticking: bool = False,
    latency_ms: float = 0.0,
    weight_limit: int | None = None,
    faults: PathText | None = None,
    log: PathText | None = None,
) -> Iterator[RunningExchange]:
    """Serve the simulated exchange on localhost while a `with` block lasts: candles over HTTP, archives, faults.

    Args:
        port: Port to listen on; 0: any free one.
        seed: Seed of the simulated market, 0 or more.
        signal: How predictable the market is; the best possible accuracy is 50, 51.4 or 60.1 %.
        clock: Time of the exchange; None: 2025-10-15T12:00:00Z.
        ticking: Let the clock run.
        latency_ms: Delay of each response.
        weight_limit: Request weight allowed per minute; None: 6,000 for spot, 2,400 for futures.
        faults: JSON file of scripted faults.
        log: Append one line of JSON per request to this file.

    Yields:
        The exchange, with its addresses; `to_json()` is the document of the command.

    Raises:
        UsageError: The clock is outside the exchange's life, or the signal is unknown.
        InputError: The file of faults is missing, or wrong.
        MachineError: The port cannot be used, or the log cannot be written.
    """
    from mltrain.simulator.faults import read_faults
    from mltrain.simulator.server import SimServer
    from mltrain.sources.simulated_market import CLOCK_MS
    from mltrain.times import format_ms

    with (
        _request_log(None if log is None else check_path(log, "log")) as (write_record, failed),
        SimServer(
            seed=seed,
            signal=signal,
            clock_ms=CLOCK_MS if clock is None else read_time(clock, "clock"),
            ticking=ticking,
            latency_ms=latency_ms,
            weight_limit=weight_limit,
            faults=() if faults is None else read_faults(check_path(faults, "faults")),
            port=port,
            on_answer=write_record,
        ) as server,
    ):
        now = format_ms(server.clock_ms())
        yield RunningExchange(SimResult(server.base_url, server.archive_url, now, seed, signal), failed)


@contextmanager
def _request_log(path: Path | None) -> Iterator[tuple[Callable[[RequestRecord], None] | None, threading.Event]]:
    """Yield a function that writes a request to a log, and an event that is set once that fails; then raise its error.

    The server calls the function in its thread, where nobody would see the error. Without a path it is None.
    """
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

    if path is None:
        yield None, failed
        return
    with disk_errors(path, "write"), path.open("a", encoding="utf-8", buffering=1) as stream:
        yield write, failed
        if failures:
            raise failures[0]
