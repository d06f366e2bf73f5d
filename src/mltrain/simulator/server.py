"""The simulated exchange as an HTTP server on the loopback, for tests and benchmarks of the real downloader.

    with SimServer(seed=1) as server:
        httpx.get(f"{server.base_url}/api/v3/time")
        server.log[-1].weight_used

One thread with an event loop serves every connection; the log can be read from any thread. The server binds to
127.0.0.1 only, and stopping it closes every connection, even one that a fault holds open.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from mltrain.simulator.delivery import Delivery
from mltrain.simulator.distortion import Case, changes_archive, distort
from mltrain.simulator.exchange import ARCHIVE_ROOT, Exchange, Request, answer_checksum, refuse
from mltrain.simulator.faults import FaultScript
from mltrain.simulator.server_thread import HOST, ServerThread
from mltrain.simulator.weight_meter import Charge, WeightMeter
from mltrain.sources.funding_download import FUNDING_LIMIT, FUNDING_LIMIT_MS
from mltrain.sources.markets import MARKETS
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import SECOND_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from mltrain.simulator.exchange import Answer
    from mltrain.simulator.faults import Fault, Hit

# Records in the log; the oldest are dropped.
_MAX_RECORDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request and its answer.

    Attributes:
        at_s: When the request arrived, on the server's monotonic clock.
        path: Its path.
        query: Its query.
        symbol: The requested symbol; empty without one.
        status: HTTP status of the answer; 0 if none was sent.
        weight_used: Weight used in the minute, this request included; 0 for the archive.
        retry_after: The header of that name; empty without it.
        sent_bytes: Bytes of the body written to the connection.
        fault: The kind of the fault that was acted out; empty without one.
    """

    at_s: float
    path: str
    query: Mapping[str, str]
    symbol: str
    status: int
    weight_used: int
    retry_after: str
    sent_bytes: int
    fault: str


class SimServer:
    """The simulated exchange, served while the `with` block lasts.

    Args:
        seed: Seed of the market.
        signal: How predictable the market is: a key of STRENGTH.
        clock_ms: Time of its clock at the start, ms UTC.
        ticking: Whether its clock runs. The minutes of the request weight pass in either case.
        latency_ms: Delay of every answer.
        weight_limit: Weight allowed per minute in each market; None: that of the real market, 6,000 for spot and 2,400
            for futures. See `mltrain.simulator.weight_meter`.
        funding_limit: Requests for funding rates allowed in five minutes.
        archive_lag_days: How many of the newest closed days the archive lacks.
        faults: Scripted faults.
        port: Port to listen on; 0: any free port.
        monotonic: The clock of waits, weights and the log, in seconds.
        on_answer: Called in the server's thread with the record of each finished answer.

    Raises:
        UsageError: The clock is outside the exchange's life, or the signal is unknown.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        signal: str = "none",
        clock_ms: int = CLOCK_MS,
        ticking: bool = False,
        latency_ms: float = 0.0,
        weight_limit: int | None = None,
        funding_limit: int = FUNDING_LIMIT,
        archive_lag_days: int = 1,
        faults: Sequence[Fault] = (),
        port: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
        on_answer: Callable[[RequestRecord], None] | None = None,
    ) -> None:
        # Checks the arguments.
        SimSource(seed=seed, signal=signal, end_ms=clock_ms)
        self._exchange = Exchange(
            seed=seed, signal=signal, weight_limit=weight_limit, archive_lag_days=archive_lag_days
        )
        self._monotonic = monotonic
        self._started_s = monotonic()
        self._started_ms = clock_ms
        # The time that the clock was set to, ms UTC, and when it was set, monotonic.
        self._clock = (clock_ms, self._started_s)
        self._ticking = ticking
        self._latency_s = latency_ms / SECOND_MS
        self._meters = {name: WeightMeter(weight_limit or market.weight_limit) for name, market in MARKETS.items()}
        self._funding_meter = WeightMeter(funding_limit, window_s=FUNDING_LIMIT_MS // SECOND_MS)
        self._script = FaultScript(faults)
        self._pairs = _ChecksumPairs()
        self._log = _Log(on_answer)
        self._port = port
        self._runner = ServerThread(self._serve)

    @property
    def base_url(self) -> str:
        """Address of the REST endpoints: base_url + "/api/v3/klines", and "/fapi/v1/klines" for futures."""
        return f"http://{HOST}:{self._port}"

    @property
    def archive_url(self) -> str:
        """Address of the archive: archive_url + "/data/spot/daily/klines/...", and "/data/futures/um/..."."""
        return f"{self.base_url}{ARCHIVE_ROOT}"

    @property
    def log(self) -> list[RequestRecord]:
        """The requests so far, oldest first; each is recorded before its answer is sent."""
        return self._log.records()

    def clock_ms(self) -> int:
        """Return the time of the exchange's clock, ms UTC."""
        set_ms, set_at_s = self._clock
        return set_ms + int((self._monotonic() - set_at_s) * SECOND_MS) if self._ticking else set_ms

    def set_clock(self, clock_ms: int) -> None:
        """Set the exchange's clock, ms UTC; the minutes of the request weight do not change.

        Raises:
            UsageError: The time is outside the exchange's life.
        """
        SimSource(end_ms=clock_ms)
        self._clock = (clock_ms, self._monotonic())

    def __enter__(self) -> Self:
        """Start to serve; MachineError if the port is taken or not allowed."""
        self._port = self._runner.start(self._port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection and end the thread."""
        self._runner.stop()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after another."""
        while (head := await _read_head(reader)) is not None:
            request, stays_open = _parse_head(head)
            delivery = await self._answer(request, writer)
            if not (stays_open and delivery.keeps_open):
                break

    async def _answer(self, request: Request | None, writer: asyncio.StreamWriter) -> Delivery:
        """Answer a request, and log it; None is a request that the server does not support."""
        at_s = self._monotonic()
        if request is None:
            delivery = Delivery(writer, refuse(-1000, "This server takes GET alone."), None)
            await delivery.send()
            return delivery
        charge = self._charge(request, at_s)
        hit = self._script.take(request) if charge.status == 200 and self._script else None
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        answer = self._choose_answer(request, charge, hit)
        delivery = Delivery(writer, answer, None if hit is None else hit.fault)
        record = RequestRecord(
            at_s=at_s,
            path=request.path,
            query=request.query,
            symbol=request.symbol,
            status=delivery.status,
            weight_used=charge.weight_used,
            retry_after={name.lower(): value for name, value in answer.headers}.get("retry-after", ""),
            sent_bytes=delivery.planned_bytes,
            fault="" if hit is None else hit.fault.kind,
        )
        serial = self._log.begin(record)
        try:
            await delivery.send()
        finally:
            self._log.end(serial, replace(record, sent_bytes=delivery.sent_bytes))
        return delivery

    def _charge(self, request: Request, at_s: float) -> Charge:
        """Count the weight of a request that arrived at `at_s`, in monotonic seconds."""
        now_s = self._started_ms / SECOND_MS + at_s - self._started_s
        if request.endpoint == "fundingRate":
            # Counted apart; its answers report the weight of the minute all the same.
            charge = self._funding_meter.charge(1, now_s)
            return replace(charge, weight_used=self._meters[request.market.name].used)
        if not request.weight:
            return Charge(0)
        return self._meters[request.market.name].charge(request.weight, now_s)

    def _choose_answer(self, request: Request, charge: Charge, hit: Hit | None) -> Answer:
        """Return the true answer, changed by the fault that hits it; or a refusal if the weight is used up."""
        if charge.status != 200:
            what = "banned" if charge.status == 418 else "refused"
            answer = refuse(-1003, f"Too much request weight used: {what} for now.", status=charge.status)
            answer = replace(answer, headers=(("Retry-After", str(charge.retry_after_s)),))
            return _add_weight_headers(answer, charge)
        answer = self._true_answer(request)
        if hit is None or hit.fault.kind != "header":
            answer = _add_weight_headers(answer if hit is None else self._distort(hit, request, answer), charge)
        else:
            # After the weight, which the fault may replace.
            answer = self._distort(hit, request, _add_weight_headers(answer, charge))
        if request.endpoint in {"archive", "fundingArchive"} and self._script:
            is_changed = hit is not None and changes_archive(hit.fault) and answer.status == 200
            self._pairs.note_file(request.path, answer.body if is_changed else None)
        return answer

    def _distort(self, hit: Hit, request: Request, answer: Answer) -> Answer:
        """Return the true answer to a request as the fault that hits it changes it."""
        return distort(Case(hit, request, answer, self._true_answer))

    def _true_answer(self, request: Request) -> Answer:
        """Return the answer without this request's fault; a checksum is that of the file that is or will be sent."""
        answer = self._exchange.answer(request, self.clock_ms())
        if request.endpoint not in {"checksum", "fundingChecksum"} or answer.status != 200 or not self._script:
            return answer
        file = Request(request.path.removesuffix(".CHECKSUM"))
        is_sent, data = self._pairs.note_checksum(file.path)
        if not is_sent:
            data = self._foresee_file(file)
        return answer if data is None else answer_checksum(data, file.path.rpartition("/")[2])

    def _foresee_file(self, file: Request) -> bytes | None:
        """Return the file as a fault will change it at its next request; None without such a fault."""
        hit = self._script.foresee(file)
        if hit is None or not changes_archive(hit.fault):
            return None
        return self._distort(hit, file, self._true_answer(file)).body


def _add_weight_headers(answer: Answer, charge: Charge) -> Answer:
    """Return the answer with the headers of the weight used in the minute; unchanged if the request has no weight."""
    if not charge.weight_used:
        return answer
    used = str(charge.weight_used)
    return replace(answer, headers=(("x-mbx-used-weight", used), ("x-mbx-used-weight-1m", used), *answer.headers))


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    """Return the head of the next request; None if the connection has ended, or the head is too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return None


def _parse_head(head: bytes) -> tuple[Request | None, bool]:
    """Return the request, None if the server does not support it, and whether the connection stays open."""
    line, _, headers = head.decode("latin-1").partition("\r\n")
    words = line.split(" ")
    if len(words) != 3 or words[0] != "GET":
        return None, False
    parts = urlsplit(words[1])
    request = Request(unquote(parts.path), dict(parse_qsl(parts.query, keep_blank_values=True)))
    return request, "connection: close" not in headers.lower()


class _ChecksumPairs:
    """Pairs each sent archive file with a checksum, in either order of the two requests."""

    def __init__(self) -> None:
        # Files sent before their checksum; None if no fault changed them.
        self._files: dict[str, bytes | None] = {}
        # Files whose checksum was sent before them.
        self._checksums: set[str] = set()

    def note_file(self, path: str, data: bytes | None) -> None:
        """Record that the file of a path is sent, and its bytes if a fault changed them."""
        if path in self._checksums:
            self._checksums.discard(path)
        else:
            self._files[path] = data

    def note_checksum(self, path: str) -> tuple[bool, bytes | None]:
        """Record that a checksum is sent; return whether its file was sent already, and its bytes if changed."""
        if path in self._files:
            return True, self._files.pop(path)
        self._checksums.add(path)
        return False, None


class _Log:
    """The records of all requests by serial number, for any thread."""

    def __init__(self, on_answer: Callable[[RequestRecord], None] | None) -> None:
        self._lock = threading.Lock()
        self._on_answer = on_answer
        self._records: dict[int, RequestRecord] = {}
        self._serial = 0

    def records(self) -> list[RequestRecord]:
        """Return all records, oldest first."""
        with self._lock:
            return list(self._records.values())

    def begin(self, record: RequestRecord) -> int:
        """Add the record of a request before it is answered; return its serial number."""
        with self._lock:
            self._serial += 1
            self._records[self._serial] = record
            if len(self._records) > _MAX_RECORDS:
                del self._records[next(iter(self._records))]
            return self._serial

    def end(self, serial: int, record: RequestRecord) -> None:
        """Replace the record of a request by the one of its answer, unless it has been dropped for newer ones."""
        with self._lock:
            if serial in self._records:
                self._records[serial] = record
        if self._on_answer is not None:
            self._on_answer(record)
