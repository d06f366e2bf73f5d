"""The network edge: one polite HTTP client, the only place that opens a connection.

Every request has a deadline as a whole and a cap on its bytes, before and after they are unpacked; no redirect is
followed, no proxy or certificate is taken from the environment. What may be a passing fault (5xx, a lost connection, a
cut or garbled answer) is asked for again after a growing, jittered pause; 429 and 418 stop all workers for as long as
the host orders; anything else the host refuses is not asked twice. Whatever goes wrong leaves as a SourceError.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import ssl
import time
import zlib
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from mltrain._version import __version__
from mltrain.errors import SourceError, UsageError
from mltrain.names import show
from mltrain.sources.throttle import parse_http_date
from mltrain.times import format_ms

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    import httpx

    from mltrain.sources.throttle import Throttle

T = TypeVar("T")

MAX_RETRIES: Final = 5
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 8.0
_CHUNK_BYTES: Final = 1 << 16
_GOOD: Final = 200
_STOP_STATUSES: Final = (418, 429)
_MAX_WORDS_BYTES: Final = 1 << 16  # of an answer that is none: firewalls send whole pages
_LONGEST_URL: Final = 500
_HOST_NAME: Final = re.compile(r"(?:(?!-)[a-z0-9_-]{1,63}(?<!-)\.)*(?!-)[a-z0-9_-]{1,63}(?<!-)\.?")
_BRACKETED: Final = re.compile(r"\[[^\[\]]+\](?::[0-9]+)?")
_TOLD: Final = 200  # characters of what the host says for itself
_NO_CONNECTION: Final = "cannot connect"
_WEIGHT_HEADER: Final = "x-mbx-used-weight-1m"

_REFUSED_HINTS: Final = {
    403: "its firewall refuses this address: wait, or ask from another network",
    404: "check the address given by --base-url",
    451: "it does not serve your region; the public market data host, data-api.binance.vision, serves most",
}


class MalformedError(ValueError):
    """An answer is not what was asked for, which may pass: raised by the `parse` of `HttpClient.get` to ask again."""


class Clock(Protocol):
    """The time that passes for the client."""

    def monotonic_s(self) -> float:
        """Return a time that only goes forward, in seconds."""

    async def sleep(self, seconds: float) -> None:
        """Let that much of it pass."""


class MachineClock:
    """The machine's own clock."""

    def monotonic_s(self) -> float:
        """Return the machine's monotonic time, in seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class HostClock:
    """What a host's own clock shows, as far as known; all clients of a host share one, as they share its throttle.

    Args:
        clock: The time that passes.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._zero_ms: int | None = None  # what the host's clock showed when ours showed 0

    @property
    def known(self) -> bool:
        """Whether the host has told its time."""
        return self._zero_ms is not None

    def now_ms(self) -> int:
        """Return the host's time in ms UTC; before it has told any, our own count from some beginning."""
        return (self._zero_ms or 0) + round(self.clock.monotonic_s() * 1000)

    def set_time(self, host_ms: int) -> None:
        """Take the time that the host has told."""
        self._zero_ms = host_ms - round(self.clock.monotonic_s() * 1000)


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """How the network may be used.

    Attributes:
        connections: Requests under way at once, 1 to 64.
        max_wait_s: The longest wait that the host may order, in seconds.
        deadline_s: How long one request may take as a whole, in seconds.
        proxy: Address of the proxy to go through, `http://` where it says nothing else; None for none. Never used for
            loopback.
        proxy_unused: The environment names a proxy that `proxy` leaves out: a failed connection says so.
        ca_file: Certificates to trust in place of the packaged ones.
    """

    connections: int = 16
    max_wait_s: float = 120.0
    deadline_s: float = 30.0
    proxy: str | None = None
    proxy_unused: bool = False
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            UsageError: A field is outside its range; names all that are.
        """
        problems = []
        if not 1 <= self.connections <= 64:
            problems.append(f"{self.connections} connections: must be 1 to 64")
        if not 0 <= self.max_wait_s <= 86_400:
            problems.append(f"a longest wait of {self.max_wait_s} s: must be 0 to 86400")
        if not 0 < self.deadline_s <= 3600:
            problems.append(f"a deadline of {self.deadline_s} s: must be above 0, at most 3600")
        if self.proxy is not None:
            object.__setattr__(self, "proxy", self.proxy if "://" in self.proxy else f"http://{self.proxy}")
            if not _is_proxy(self.proxy):  # not shown: it may hold a password
                problems.append("the proxy must be an address such as http://127.0.0.1:3128")
        if problems:
            raise UsageError("; ".join(problems))


@dataclass(slots=True)
class Traffic:
    """What a client has sent and received.

    Attributes:
        requests: Sent, retries included, by symbol; those of none under "".
        bytes: Of the answers' bodies, as they came over the wire.
    """

    requests: Counter[str] = field(default_factory=Counter)
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Query:
    """One question to a host.

    Attributes:
        path: Below the base address, with a leading slash.
        subject: What is asked for, for messages: "BTCUSDT from ... to ...".
        weight: What it costs.
        max_bytes: The most that the answer may hold, packed or unpacked.
        params: Of the query string.
        symbol: Which symbol it is for, for the count; "" for none.
    """

    path: str
    subject: str
    weight: int
    max_bytes: int
    params: Mapping[str, str | int] = field(default_factory=dict)
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a host answered.

    Attributes:
        status: HTTP status.
        headers: By lower-case name.
        body: Unpacked.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


def check_base_url(url: str) -> str:
    """Return the address of a host, the host in small letters, without a trailing slash.

    It is https, or plain http to this machine itself.

    Raises:
        UsageError: It is no such address.

    >>> check_base_url("https://data-api.binance.vision/")
    'https://data-api.binance.vision'
    """
    why = ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise UsageError(f"{show(url)} is not an address: {err}") from err
    is_plain = url.isascii() and url.isprintable() and not set(url) & {" ", "\\"} and len(url) <= _LONGEST_URL
    if not is_plain or not _is_host(host, parts.netloc) or port == 0 or parts.netloc.endswith(":"):
        why = "write it like https://data-api.binance.vision"
    elif parts.username is not None or set(url) & {"?", "#"}:
        why = "a user, a query or a fragment has no place in it"
    elif parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(host)):
        why = "only https, or http to 127.0.0.1"
    elif "testnet" in host:
        why = "prices on a test network are made up"
    if why:
        raise UsageError(f"{show(url)} cannot be the address of an exchange: {why}")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}".rstrip("/")


def _is_host(host: str, netloc: str) -> bool:
    """Tell whether that is a name, or an address as one writes it in a URL: brackets around an IPv6 one alone."""
    if "[" in netloc:
        with suppress(ValueError):
            is_whole = _BRACKETED.fullmatch(netloc.rpartition("@")[2]) is not None
            return is_whole and ipaddress.IPv6Address(host).scope_id is None
        return False
    return len(host) <= 253 and _HOST_NAME.fullmatch(host) is not None


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and _is_host(parts.hostname or "", parts.netloc) and parts.port != 0
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine itself.

    >>> is_loopback("127.0.0.1"), is_loopback("127.0.0.1.example.com")
    (True, False)
    """
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


class HttpClient:
    """Asks one host; open it by `async with`.

    Attributes:
        host: Name of the host, with its port where it is named.
        throttle: The budget that all requests share.

    Args:
        base_url: As `check_base_url` returns it.
        rules: How the network may be used.
        throttle: The budget; another client of the same host shares it.
        traffic: Counts what is sent and received.
        host_clock: What the host's clock shows; another client of the same host shares it.
        chance: Draws the jitter.
    """

    def __init__(
        self,
        base_url: str,
        *,
        rules: NetworkRules,
        throttle: Throttle,
        traffic: Traffic,
        host_clock: HostClock,
        chance: random.Random,
    ) -> None:
        self.base_url = base_url
        self.host = urlsplit(base_url).netloc
        self.throttle = throttle
        self._traffic = traffic
        self._rules = rules
        self._host_clock = host_clock
        self._clock = host_clock.clock
        self._chance = chance
        self._trust: ssl.SSLContext | bool | None = None  # None: not open
        self._idle: list[httpx.AsyncClient] = []
        self._turns = asyncio.Semaphore(rules.connections)

    async def __aenter__(self) -> Self:
        """Open the client; no connection is made yet."""
        import httpx

        try:
            httpx.URL(self.base_url).host  # noqa: B018 -- reads it, which is when a wrong "xn--" is found out
        except (httpx.InvalidURL, UnicodeError) as err:
            raise UsageError(f"{show(self.base_url)} cannot be the address of an exchange: {err}") from err
        self._trust = not self.base_url.startswith("http://") and _trusted(self._rules.ca_file)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, at: TracebackType | None
    ) -> None:
        """Close every connection."""
        self._trust = None
        while self._idle:
            await self._idle.pop().aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        """Give a client with one connection of its own.

        One pool of sixteen looks at all sixteen for every request, which costs more than the parsing of a page.
        """
        assert self._trust is not None, "open the client by `async with`"  # noqa: S101 -- our own misuse
        client = self._idle.pop() if self._idle else self._connect(self._trust)
        try:
            yield client
        finally:
            self._idle.append(client)

    def _connect(self, trust: ssl.SSLContext | bool) -> httpx.AsyncClient:  # noqa: FBT001 -- as httpx takes it
        import httpx

        local = is_loopback(urlsplit(self.base_url).hostname or "")
        # Trust nothing of the environment (proxies, .netrc, SSL_CERT_FILE) but what the rules name.
        return httpx.AsyncClient(
            base_url=self.base_url,
            trust_env=False,
            follow_redirects=False,
            timeout=self._rules.deadline_s,
            limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
            proxy=None if local else self._rules.proxy,
            verify=trust,
            headers={"User-Agent": f"mltrain/{__version__}", "Accept-Encoding": "gzip"},
        )

    async def get(self, query: Query, parse: Callable[[Answer], T], *, accept: tuple[int, ...] = ()) -> T:
        """Ask until there is an answer that `parse` takes, or none is to be had.

        Args:
            query: What to ask.
            parse: Called with a good answer; may raise MalformedError to have it asked for again.
            accept: Statuses besides 200 that `parse` understands.

        Raises:
            SourceError: The host refuses, fails again and again, orders too long a wait, or cannot be reached.
        """
        for attempt in range(MAX_RETRIES + 1):
            if attempt:
                pause = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
                await self._clock.sleep(pause * (0.5 + self._chance.random()))
            try:
                answer = await self._ask_patiently(query)
                if answer.status < 500:
                    if answer.status != _GOOD and answer.status not in accept:
                        raise self._refused(answer, query)
                    return parse(answer)
                fault = f"HTTP {answer.status}"
            except MalformedError as err:
                fault = str(err)
        raise SourceError(
            f"{self.host}: {query.subject}: {fault} (asked {MAX_RETRIES + 1} times)", hint=self._hint(fault)
        )

    async def _ask_patiently(self, query: Query) -> Answer:
        """Ask once, and again after each wait that the host orders.

        Raises:
            MalformedError: No whole answer came.
            SourceError: The host orders too long a wait.
        """
        while True:
            async with self._turns:  # as many as there may be connections, whoever asks
                minute = await self._turn(query.weight)
                used, succeeded = None, False
                try:
                    answer = await self._ask(query)
                    used = _weight_of(answer)
                    succeeded = answer.status < 400
                finally:
                    self.throttle.answered(minute, query.weight, used=used, succeeded=succeeded)
            if not self._host_clock.known:
                self._set_time_by(answer)
            if answer.status not in _STOP_STATUSES:
                return answer
            if not self.throttle.stop(self._host_clock.now_ms(), answer.status, answer.headers.get("retry-after")):
                raise SourceError(
                    f"{self.host}: {query.subject}: HTTP {answer.status}, "
                    f"it answers again at {format_ms(self.throttle.released_ms)}",
                    hint="run the same command after that, or allow a longer --max-wait; what came is kept",
                )

    def set_time(self, host_ms: int) -> None:
        """Take the time that the host has told."""
        shift_ms = host_ms - self._host_clock.now_ms()
        self._host_clock.set_time(host_ms)
        self.throttle.synchronise(host_ms, shift_ms=shift_ms)

    def _set_time_by(self, answer: Answer) -> None:
        host_ms = parse_http_date(answer.headers.get("date", ""))
        if host_ms is not None:
            self.set_time(host_ms)

    async def _turn(self, weight: int) -> int:
        """Wait until a request of that weight may go, and count it as sent."""
        while wait := self.throttle.wait_ms(self._host_clock.now_ms(), weight):
            await self._clock.sleep(wait / 1000)
        return self.throttle.sent(self._host_clock.now_ms(), weight)

    async def _ask(self, query: Query) -> Answer:
        """Send one request and read its whole answer.

        Raises:
            MalformedError: No whole answer came in time.
            SourceError: The host's certificate is not to be trusted.
        """
        import httpx

        self._traffic.requests[query.symbol] += 1
        try:
            async with (
                asyncio.timeout(self._rules.deadline_s),
                self._connection() as client,
                client.stream("GET", query.path, params=query.params) as got,
            ):
                is_good = got.status_code == _GOOD
                body = await (self._read(got, query.max_bytes) if is_good else self._read_words(got))
                return Answer(got.status_code, {k.lower(): v for k, v in got.headers.items()}, body)
        except (TimeoutError, httpx.TimeoutException) as err:
            raise MalformedError(f"no whole answer within {self._rules.deadline_s:g} s") from err
        except httpx.TransportError as err:
            reason = str(err) or type(err).__name__
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise SourceError(
                    f"{self.host}: its certificate cannot be trusted: {show(reason)}",
                    hint="there is no way around the check; is the clock right, and no proxy in between?",
                ) from err
            what = _NO_CONNECTION if isinstance(err, httpx.ConnectError) else "the connection broke"
            raise MalformedError(f"{what}: {reason[:200]}") from err

    async def _read(self, got: httpx.Response, max_bytes: int) -> bytes:
        """Return the body, unpacked, of at most `max_bytes`."""
        packing = got.headers.get("content-encoding", "identity").lower()
        if packing not in {"identity", "gzip"}:
            raise MalformedError(f"the answer is packed by {show(packing)}, which was not asked for")
        unpacker = zlib.decompressobj(wbits=31) if packing == "gzip" else None
        parts, left, raw = [], max_bytes, 0
        async for chunk in got.aiter_raw(_CHUNK_BYTES):
            raw += len(chunk)
            part = chunk if unpacker is None else _unpack(unpacker, chunk, left + 1)
            left -= len(part)
            if left < 0 or raw > max_bytes:
                raise MalformedError(f"the answer has more than {max_bytes} bytes")
            parts.append(part)
        self._traffic.bytes += raw
        if unpacker is not None and not unpacker.eof:
            raise MalformedError("the packed answer is cut short")
        return b"".join(parts)

    async def _read_words(self, got: httpx.Response) -> bytes:
        """Return what the host says beside a status other than 200, as far as it can be read: the status counts."""
        import httpx

        if got.status_code in _STOP_STATUSES:  # everybody stops at once, not when the last word has come
            return b""
        with suppress(MalformedError, httpx.TransportError):
            return await self._read(got, _MAX_WORDS_BYTES)
        return b""

    def _refused(self, answer: Answer, query: Query) -> SourceError:
        """Return the error of an answer that will not be better next time."""
        status, where = answer.status, f"{self.host}: {query.subject}"
        if 300 <= status < 400:
            to = show(answer.headers.get("location", "nowhere"))
            return SourceError(
                f"{where}: it redirects to {to}, which is not followed", hint="check the address given by --base-url"
            )
        code, text = _binance_error(answer.body)
        said = f": {code} {ascii(text)[:_TOLD]}" if text else ""
        return SourceError(f"{where}: HTTP {status}{said}", hint=_REFUSED_HINTS.get(status))

    def _hint(self, fault: str) -> str:
        if not fault.startswith(_NO_CONNECTION):
            return "run the same command again: what came is kept"
        if self._rules.proxy_unused:
            return "the environment names a proxy, which is not used unless you pass --use-env-proxy"
        return "is this machine online? another host is named by --base-url; what came is kept"


def _binance_error(body: bytes) -> tuple[int, str]:
    """Return code and text of `{"code": -1121, "msg": "Invalid symbol."}`; 0 and nothing where it is none."""
    try:
        told = json.loads(body[:2000])
        return int(told["code"]), str(told["msg"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0, ""


def error_code(answer: Answer) -> int:
    """Return the exchange's own code for what was wrong with the request; 0 where it gives none."""
    return _binance_error(answer.body)[0]


def _weight_of(answer: Answer) -> int | None:
    text = answer.headers.get(_WEIGHT_HEADER, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _unpack(unpacker: zlib._Decompress, chunk: bytes, most: int) -> bytes:
    try:
        return unpacker.decompress(chunk, most)
    except zlib.error as err:
        raise MalformedError(f"the packed answer is damaged: {err}") from err


def _trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Return what decides whom to trust, made once for all connections."""
    import httpx

    if ca_file is None:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as err:
        raise UsageError(f"cannot read the certificates in {ca_file}: {err.strerror or err}") from err
