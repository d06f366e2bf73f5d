"""The HTTP client of the sources: with that of ccxt (`ccxt_client`), the only place that opens a network connection.

Each request has a total deadline and a limit on the size of its answer, packed and unpacked. Redirects are not
followed; proxies and certificates come from `NetworkRules`, never from the environment. Faults that may pass (5xx, a
lost connection, a cut or garbled answer) are retried after growing, jittered pauses. 429 and 418 stop all workers for
as long as the host orders. Any other refusal is final. Every failure leaves as a SourceError.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
import zlib
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeAlias, TypeVar
from urllib.parse import urlencode, urlsplit

from mltrain._version import __version__
from mltrain.errors import SourceError, UsageError
from mltrain.names import show
from mltrain.sources.network_rules import is_loopback
from mltrain.sources.throttle import parse_http_date
from mltrain.times import format_ms

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    import httpcore

    from mltrain.sources.network_rules import NetworkRules
    from mltrain.sources.throttle import Throttle

T = TypeVar("T")
_Connection: TypeAlias = "httpcore.AsyncHTTPConnection | httpcore.AsyncHTTPProxy"

MAX_RETRIES: Final = 5
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 8.0
# An idle connection is used again for this long: servers close theirs after a while.
_KEEP_ALIVE_S: Final = 5.0
_OK: Final = 200
_STOP_STATUSES: Final = (418, 429)
# Of an answer with an error status: firewalls send whole pages.
_MAX_ERROR_BYTES: Final = 1 << 16
_MAX_SHOWN_CHARACTERS: Final = 200
_NO_CONNECTION: Final = "cannot connect"
_WEIGHT_HEADER: Final = "x-mbx-used-weight-1m"

_REFUSED_HINTS: Final = {
    403: "its firewall refuses this address: wait, or use another network",
    404: "check the address given by --base-url",
    451: "it does not serve your region; the public market data host, data-api.binance.vision, serves most",
}
# The futures market has no second public host.
_FUTURES_REGION_HINT: Final = "it does not serve your region, and there is no other public host for futures"


class MalformedError(ValueError):
    """An answer is unusable, which may pass; raised by the `parse` of `HttpClient.get` to have it requested again."""


class Clock(Protocol):
    """A monotonic clock that can be waited on."""

    def monotonic_s(self) -> float:
        """Return a time in seconds that never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Wait for a duration in seconds."""


class MachineClock:
    """The monotonic clock of this machine."""

    def monotonic_s(self) -> float:
        """Return a time in seconds that never goes back."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for a duration in seconds."""
        await asyncio.sleep(seconds)


class HostClock:
    """The clock of a host, estimated from its answers; all clients of a host share one, as they share its throttle.

    Args:
        clock: Measures the time since the host's last answer.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        # The host's time, ms UTC, when our clock showed 0.
        self._zero_ms: int | None = None

    @property
    def is_known(self) -> bool:
        """Whether the host has sent its time."""
        return self._zero_ms is not None

    def now_ms(self) -> int:
        """Return the host's time, ms UTC; before it is known, a time from an arbitrary start."""
        return (self._zero_ms or 0) + round(self.clock.monotonic_s() * 1000)

    def set_time(self, host_ms: int) -> None:
        """Set the host's present time, ms UTC."""
        self._zero_ms = host_ms - round(self.clock.monotonic_s() * 1000)


@dataclass(slots=True)
class Traffic:
    """What a client has sent and received.

    Attributes:
        requests: Requests sent by symbol, retries included; "" counts those for no symbol.
        bytes: Size of the answers' bodies as received.
    """

    requests: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """A request to a host.

    Attributes:
        path: Path below the base address, with a leading slash.
        subject: What is requested, for messages: "BTCUSDT from ... to ...".
        weight: Its share of the weight that the host allows per minute.
        max_bytes: Limit of the answer's body, packed and unpacked.
        params: Names and values of the query string.
        symbol: Symbol for which `Traffic` counts it; "" for none.
    """

    path: str
    subject: str
    weight: int
    max_bytes: int
    params: Mapping[str, str | int] = field(default_factory=dict)
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a host: HTTP status, headers by lower-case name, unpacked body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpClient:
    """Sends requests to one host; open it by `async with`.

    Attributes:
        host: Name of the host, with the port if the address has one.

    Args:
        base_url: As `check_base_url` returns it.
        rules: How the network may be used.
        throttle: The weight budget, shared with other clients of the host.
        traffic: Counts requests and bytes.
        host_clock: The host's clock, shared with other clients of the host.
        rng: Draws the jitter of the pauses.
    """

    def __init__(
        self,
        base_url: str,
        *,
        rules: NetworkRules,
        throttle: Throttle,
        traffic: Traffic,
        host_clock: HostClock,
        rng: random.Random,
    ) -> None:
        self.base_url = base_url
        self.host = urlsplit(base_url).netloc
        self.throttle = throttle
        self._traffic = traffic
        self._rules = rules
        self._host_clock = host_clock
        self._clock = host_clock.clock
        self._rng = rng
        # None while the client is closed.
        self._address: httpcore.URL | None = None
        self._tls: ssl.SSLContext | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(rules.connections)

    async def __aenter__(self) -> Self:
        """Open the client; no connection is made yet."""
        import httpcore
        import httpx

        try:
            # Also encodes the host's name, and finds a wrong "xn--".
            url = httpx.URL(self.base_url)
            host = url.raw_host
        except (httpx.InvalidURL, UnicodeError) as err:
            raise UsageError(f"{show(self.base_url)} cannot be the address of an exchange: {err}") from err
        self._address = httpcore.URL(scheme=url.raw_scheme, host=host, port=url.port, target=url.raw_path.rstrip(b"/"))
        self._headers = [
            (b"Host", url.netloc),
            (b"Accept", b"*/*"),
            (b"Connection", b"keep-alive"),
            (b"User-Agent", f"mltrain/{__version__}".encode()),
            (b"Accept-Encoding", b"gzip"),
        ]
        self._tls = ssl_context(self._rules.ca_file) if url.scheme == "https" else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._address = None
        while self._idle:
            await self._idle.pop().aclose()

    @asynccontextmanager
    async def _open(self, target: bytes) -> AsyncIterator[httpcore.Response]:
        """Send a GET request for a target, a path with its query, over an idle connection or a new one.

        The connections are those of httpcore, without the client of httpx and its pool: these handle redirects, cookies
        and authentication, of which none is used, and take longer for a page than parsing it.
        """
        import httpcore

        address = self._address
        assert address is not None, "open the client by `async with`"  # noqa: S101 -- a bug of the caller
        connection = await self._find_idle() or self._connect(address)
        url = httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target + target)
        try:
            async with connection.stream("GET", url, headers=self._headers) as response:
                yield response
        finally:
            # Also after an error: a connection that cannot be used again says so.
            self._idle.append(connection)

    async def _find_idle(self) -> _Connection | None:
        """Return an idle connection that the host has not closed, if there is one; close the others."""
        import httpcore

        while self._idle:
            connection = self._idle.pop()
            if isinstance(connection, httpcore.AsyncHTTPProxy):
                # Has one connection, which it opens again by itself.
                return connection
            if not connection.is_closed() and not connection.has_expired():
                return connection
            await connection.aclose()
        return None

    def _connect(self, address: httpcore.URL) -> _Connection:
        """Return a new connection to the host, whose settings come from the rules alone."""
        import httpcore
        import httpx

        is_local = is_loopback(urlsplit(self.base_url).hostname or "")
        if is_local or self._rules.proxy is None:
            return httpcore.AsyncHTTPConnection(address.origin, self._tls, keepalive_expiry=_KEEP_ALIVE_S)
        proxy = httpx.Proxy(self._rules.proxy)
        return httpcore.AsyncHTTPProxy(
            httpcore.URL(
                scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=proxy.url.raw_path
            ),
            proxy_auth=proxy.raw_auth,
            ssl_context=self._tls,
            max_connections=1,
            keepalive_expiry=_KEEP_ALIVE_S,
        )

    async def get(self, query: Query, parse: Callable[[Answer], T], *, accept: tuple[int, ...] = ()) -> T:
        """Send a request, at most MAX_RETRIES + 1 times with pauses, and return what `parse` reads from the answer.

        Args:
            query: The request.
            parse: Reads a good answer; raises MalformedError to have the request sent again.
            accept: Statuses besides 200 that `parse` can read.

        Raises:
            SourceError: The host refuses, fails every time, orders too long a wait, or cannot be reached.
        """
        for attempt in range(MAX_RETRIES + 1):
            if attempt:
                await self._clock.sleep(retry_pause_s(attempt, self._rng))
            try:
                answer = await self._send_throttled(query)
                if answer.status < 500:
                    if answer.status != _OK and answer.status not in accept:
                        raise self._refusal(answer, query)
                    return parse(answer)
                failure = f"HTTP {answer.status}"
            except MalformedError as err:
                failure = str(err)
        raise SourceError(
            f"{self.host}: {query.subject}: {failure} (asked {MAX_RETRIES + 1} times)", hint=self._retry_hint(failure)
        )

    async def _send_throttled(self, query: Query) -> Answer:
        """Send a request when the throttle allows it, and again after each wait that the host orders."""
        while True:
            async with self._slots:
                while wait_ms := self.throttle.wait_ms(self._host_clock.now_ms(), query.weight):
                    await self._clock.sleep(wait_ms / 1000)
                minute = self.throttle.count_sent(self._host_clock.now_ms(), query.weight)
                reported_weight, succeeded = None, False
                try:
                    answer = await self._send(query)
                    reported_weight = _reported_weight(answer)
                    succeeded = answer.status < 400
                finally:
                    self.throttle.count_answered(
                        minute, query.weight, reported_weight=reported_weight, succeeded=succeeded
                    )
            if not self._host_clock.is_known:
                host_ms = parse_http_date(answer.headers.get("date", ""))
                if host_ms is not None:
                    self.set_time(host_ms)
            if answer.status not in _STOP_STATUSES:
                return answer
            if not self.throttle.stop(self._host_clock.now_ms(), answer.status, answer.headers.get("retry-after")):
                raise SourceError(
                    f"{self.host}: {query.subject}: HTTP {answer.status}, "
                    f"it answers again at {format_ms(self.throttle.released_ms)}",
                    hint="run the same command after that, or allow a longer --max-wait; what came is kept",
                )

    def set_time(self, host_ms: int) -> None:
        """Set the host's present time, ms UTC; ordered waits keep their length."""
        shift_ms = host_ms - self._host_clock.now_ms()
        self._host_clock.set_time(host_ms)
        self.throttle.synchronise(host_ms, shift_ms=shift_ms)

    async def _send(self, query: Query) -> Answer:
        """Send a request once and read its whole answer.

        Raises:
            MalformedError: No whole answer came in time.
            SourceError: The host's certificate cannot be trusted.
        """
        import httpcore

        self._traffic.requests[query.symbol] += 1
        target = query.path + (f"?{urlencode(query.params)}" if query.params else "")
        try:
            async with asyncio.timeout(self._rules.deadline_s), self._open(target.encode()) as response:
                headers = _read_headers(response)
                if response.status == _OK:
                    body = await self._read(response, headers, query.max_bytes)
                else:
                    body = await self._read_error(response, headers)
                return Answer(response.status, headers, body)
        except (TimeoutError, httpcore.TimeoutException) as err:
            raise MalformedError(f"no whole answer within {self._rules.deadline_s:g} s") from err
        except _transport_errors() as err:
            reason = str(err) or type(err).__name__
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise SourceError(
                    f"{self.host}: its certificate cannot be trusted: {show(reason)}",
                    hint="there is no way around the check; is the clock right, and no proxy in between?",
                ) from err
            what = _NO_CONNECTION if isinstance(err, httpcore.ConnectError) else "the connection broke"
            raise MalformedError(f"{what}: {reason[:_MAX_SHOWN_CHARACTERS]}") from err

    async def _read(self, response: httpcore.Response, headers: Mapping[str, str], max_bytes: int) -> bytes:
        """Return the unpacked body, of at most `max_bytes` both packed and unpacked."""
        packing = headers.get("content-encoding", "identity").lower()
        if packing not in {"identity", "gzip"}:
            raise MalformedError(f"the answer is packed by {show(packing)}, which was not asked for")
        unpacker = zlib.decompressobj(wbits=31) if packing == "gzip" else None
        parts, left_bytes, received_bytes = [], max_bytes, 0
        async for chunk in response.aiter_stream():
            received_bytes += len(chunk)
            try:
                part = chunk if unpacker is None else unpacker.decompress(chunk, left_bytes + 1)
            except zlib.error as err:
                raise MalformedError(f"the packed answer is damaged: {err}") from err
            left_bytes -= len(part)
            if left_bytes < 0 or received_bytes > max_bytes:
                raise MalformedError(f"the answer has more than {max_bytes} bytes")
            parts.append(part)
        self._traffic.bytes += received_bytes
        if unpacker is not None and not unpacker.eof:
            raise MalformedError("the packed answer is cut short")
        return b"".join(parts)

    async def _read_error(self, response: httpcore.Response, headers: Mapping[str, str]) -> bytes:
        """Return the body of an answer with an error status; empty if it cannot be read, as the status is enough."""
        # The other workers must stop now, not when the last byte of this page has come.
        if response.status in _STOP_STATUSES:
            return b""
        with suppress(MalformedError, *_transport_errors()):
            return await self._read(response, headers, _MAX_ERROR_BYTES)
        return b""

    def _refusal(self, answer: Answer, query: Query) -> SourceError:
        """Return the error for an answer with a redirect or a client error, which no retry can change."""
        status, where = answer.status, f"{self.host}: {query.subject}"
        if 300 <= status < 400:
            to = show(answer.headers.get("location", "nowhere"))
            return SourceError(
                f"{where}: it redirects to {to}, which is not followed", hint="check the address given by --base-url"
            )
        code, text = read_error(answer.body)
        detail = f": {code} {ascii(text)[:_MAX_SHOWN_CHARACTERS]}" if text else ""
        is_futures_region = status == 451 and query.path.startswith("/fapi/")
        hint = _FUTURES_REGION_HINT if is_futures_region else _REFUSED_HINTS.get(status)
        return SourceError(f"{where}: HTTP {status}{detail}", hint=hint)

    def _retry_hint(self, failure: str) -> str:
        """Return the hint for a request that failed every time, the last time with this failure."""
        if not failure.startswith(_NO_CONNECTION):
            return "run the same command again: what came is kept"
        if self._rules.proxy_unused:
            return "the environment names a proxy, which is not used unless you pass --use-env-proxy"
        return "is this machine online? another host is named by --base-url; what came is kept"


def _read_headers(response: httpcore.Response) -> dict[str, str]:
    """Return the headers of an answer by lower-case name; the values of a repeated one are joined by commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return the errors of httpcore that a connection may cause; those of its timeouts aside."""
    import httpcore

    return httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError, httpcore.UnsupportedProtocol


def retry_pause_s(attempt: int, rng: random.Random) -> float:
    """Return the pause in seconds before the `attempt`-th retry of a request, from 1; `rng` jitters it."""
    return min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S) * (0.5 + rng.random())


def read_error(body: bytes) -> tuple[int, str]:
    """Return code and text of an error of Binance, `{"code": -1121, "msg": "..."}`; 0 and "" for any other body."""
    try:
        document = json.loads(body[:2000])
        return int(document["code"]), str(document["msg"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0, ""


def _reported_weight(answer: Answer) -> int | None:
    """Return the weight used in the minute, by the host's count; None without a valid header."""
    text = answer.headers.get(_WEIGHT_HEADER, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def ssl_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return the context that decides which certificates to trust, made once for all connections."""
    import httpx

    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as err:
        raise UsageError(f"cannot read the certificates in {ca_file}: {err.strerror or err}") from err
