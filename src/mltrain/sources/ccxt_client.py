"""A client of an exchange through the package ccxt: its markets, its time, its candles, and its errors as ours.

ccxt knows each exchange's addresses, names, formats and rate limits. Around it are the rules of `http_client`: a total
deadline and a limit of size for each answer, no redirects, no proxy or certificates of the environment, bounded retries
with growing pauses, waits that the exchange orders, and a SourceError for every failure.

The only module that imports ccxt, which takes most of a second; it is imported when an exchange is opened.
"""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import ccxt
import ccxt.async_support
import yarl

from mltrain.errors import InputError, SourceError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.sources.http_client import MAX_RETRIES, retry_pause_s, ssl_context
from mltrain.sources.klines import MAX_PAGE_BYTES
from mltrain.sources.markets import SPOT
from mltrain.sources.network_rules import is_loopback
from mltrain.times import INTERVALS_MS

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from mltrain.sources.http_client import HostClock, Traffic
    from mltrain.sources.network_rules import NetworkRules
    from mltrain.sources.throttle import Throttle

T = TypeVar("T")

#: Version of the installed package.
CCXT_VERSION: Final[str] = ccxt.__version__
# The list of an exchange's markets had up to 15 MB in 2025.
_MAX_MARKETS_BYTES: Final = 64 << 20
_CHUNK_BYTES: Final = 1 << 16
_MAX_SHOWN_CHARACTERS: Final = 200
# For an exchange of which ccxt does not know how many candles it sends at once: every exchange sends so many.
_PAGE_CANDLES: Final = 100
_OK: Final = 200
_STOP_STATUSES: Final = (418, 429)
_REFUSED_HINTS: Final = {
    403: "its firewall refuses this address: wait, or use another network",
    404: "check the address given by --base-url, or install a newer ccxt",
    451: "it does not serve your region: choose another exchange",
}
# Raised by the code of ccxt that reads an answer which has not the documented form.
_UNREADABLE: Final = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(slots=True)
class _Sent:
    """A call of ccxt, which sends one or more requests: the symbol that they are counted for, and the last status."""

    symbol: str
    status: int = 0


# Of the present task: ccxt passes nothing through to the HTTP library.
_sent: ContextVar[_Sent] = ContextVar("sent")


class _MalformedAnswerError(aiohttp.ClientError):
    """An answer is too large, or not JSON: it is requested again."""


class _ForbiddenAddressError(aiohttp.ClientError):
    """A request would go to an address that must not be reached."""


def check_exchange(exchange_id: str, interval: str, market: str) -> int:
    """Check that ccxt has an exchange, and the exchange candles of an interval; return the most candles of an answer.

    Args:
        exchange_id: Its id in ccxt, such as "kraken".
        interval: One of INTERVALS_MS.
        market: "spot" or "usdm".

    Raises:
        UsageError: ccxt does not know the exchange, or it has no candles, or not of this interval.
    """
    if exchange_id not in ccxt.exchanges:
        raise UsageError(
            f"ccxt {CCXT_VERSION} has no exchange {show(exchange_id)}", hint=did_you_mean(exchange_id, ccxt.exchanges)
        )
    exchange = getattr(ccxt.async_support, exchange_id)()
    # Some are "emulated": ccxt would compute them from the newest trades.
    if exchange.has.get("fetchOHLCV") is not True:
        raise UsageError(f"the exchange {exchange_id} offers no candles", hint="choose another exchange")
    timeframes = [name for name in INTERVALS_MS if name in (exchange.timeframes or {})]
    if interval not in timeframes:
        raise UsageError(
            f"the exchange {exchange_id} has no candles of {interval}", hint=f"it has {', '.join(timeframes)}"
        )
    features = exchange.features or {}
    of_market = features.get("spot") if market == SPOT else (features.get("swap") or {}).get("linear")
    limit = ((of_market or {}).get("fetchOHLCV") or {}).get("limit")
    return limit if isinstance(limit, int) and limit > 1 else _PAGE_CANDLES


class CcxtClient:
    """Sends requests to one exchange; open it by `async with`.

    Attributes:
        where: Name of the exchange, for messages.
        has_time: Whether the exchange has a request for its time.

    Args:
        exchange_id: Id of the exchange in ccxt, such as "kraken"; see `check_exchange`.
        where: Initial value of the attribute.
        base_url: Address, as `check_base_url` returns it, that replaces scheme and host of the exchange's addresses;
            "" for its own.
        market: "spot" or "usdm": which of the exchange's markets are loaded.
        rules: How the network may be used.
        throttle: Counts the waits that the exchange orders.
        traffic: Counts requests and bytes.
        host_clock: The exchange's clock.
        rng: Draws the jitter of the pauses.
        markets: What `load_markets` of an earlier client returned; None: it is called before candles are requested.
    """

    def __init__(
        self,
        exchange_id: str,
        *,
        where: str,
        base_url: str,
        market: str,
        rules: NetworkRules,
        throttle: Throttle,
        traffic: Traffic,
        host_clock: HostClock,
        rng: random.Random,
        markets: Mapping[str, Any] | None = None,
    ) -> None:
        self.where = where
        self._base_url = base_url
        self._market = market
        self._rules = rules
        self._throttle = throttle
        self._traffic = traffic
        self._host_clock = host_clock
        self._rng = rng
        self._max_bytes = MAX_PAGE_BYTES
        self._exchange_id = exchange_id
        self._markets = markets
        # None while the client is closed.
        self._exchange: Any = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the client; no connection is made yet."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._check_request)
        trace.on_request_redirect.append(self._refuse_redirect)
        ssl = True if self._base_url.startswith("http://") else ssl_context(self._rules.ca_file)
        client = self

        class LimitedResponse(aiohttp.ClientResponse):
            async def text(self, encoding: str | None = None, errors: str = "strict") -> str:
                return await client._read(self, encoding, errors)

        # trust_env: no proxy and no .netrc of the environment.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl),
            trust_env=False,
            trace_configs=[trace],
            response_class=LimitedResponse,
        )
        self._exchange = _make_exchange(self._exchange_id, self._session, self._base_url, self._market)
        # Of no use, as the session is ours; without one, ccxt would read all certificates again.
        self._exchange.ssl_context = ssl
        self._exchange.timeout = round(self._rules.deadline_s * 1000)
        is_local = is_loopback(urlsplit(self._base_url).hostname or "")
        self._exchange.aiohttp_proxy = None if is_local else self._rules.proxy
        if self._markets is not None:
            self._exchange.set_markets(self._markets)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        exchange, session, self._exchange, self._session = self._exchange, self._session, None, None
        await exchange.close()
        if session is not None:
            await session.close()

    @property
    def has_time(self) -> bool:
        """Whether the exchange has a request for its time."""
        return self._exchange.has.get("fetchTime") is True

    async def load_markets(self) -> dict[str, Any]:
        """Request the exchange's markets; return ccxt's description of each, by unified symbol such as BTC/USDT."""
        self._max_bytes = _MAX_MARKETS_BYTES
        try:
            markets = await self._call("its markets", lambda: self._exchange.load_markets(reload=True))
        finally:
            self._max_bytes = MAX_PAGE_BYTES
        return dict(markets)

    async def fetch_time(self) -> int:
        """Request the exchange's time, ms UTC."""
        time_ms = await self._call("its time", self._exchange.fetch_time)
        if not isinstance(time_ms, int) or isinstance(time_ms, bool) or not 0 < time_ms < 1 << 43:
            raise SourceError(f"{self.where}: its time: the answer has no time")
        shift_ms = time_ms - self._host_clock.now_ms()
        self._host_clock.set_time(time_ms)
        self._throttle.synchronise(time_ms, shift_ms=shift_ms)
        return time_ms

    async def fetch_candles(
        self, market: str, interval: str, *, since_ms: int, limit: int, symbol: str, subject: str
    ) -> list[Any]:
        """Request candles that open at `since_ms`, ms UTC, or later, as ccxt returns them: sorted lists of numbers.

        Args:
            market: Its unified symbol in ccxt, such as BTC/USDT.
            interval: Interval of the candles.
            since_ms: First open time, ms UTC.
            limit: The most candles; at most what `check_exchange` returned.
            symbol: Symbol for which the request is counted.
            subject: What is requested, for messages.
        """
        rows = await self._call(
            subject, lambda: self._exchange.fetch_ohlcv(market, interval, since=since_ms, limit=limit), symbol=symbol
        )
        if not isinstance(rows, list):
            raise SourceError(f"{self.where}: {subject}: ccxt returns {type(rows).__name__}, not a list of candles")
        return rows

    async def _call(self, subject: str, request: Callable[[], Awaitable[T]], *, symbol: str = "") -> T:
        """Call ccxt, at most MAX_RETRIES + 1 times with pauses, and again after each wait that the exchange orders.

        Raises:
            SourceError: The exchange refuses, fails every time, orders too long a wait, or cannot be reached.
            InputError: The exchange does not know the symbol.
        """
        failure = ""
        for attempt in range(MAX_RETRIES + 1):
            if attempt:
                await self._host_clock.clock.sleep(retry_pause_s(attempt, self._rng))
            while True:
                while wait_ms := self._throttle.wait_ms(self._host_clock.now_ms(), 0):
                    await self._host_clock.clock.sleep(wait_ms / 1000)
                _sent.set(sent := _Sent(symbol))
                try:
                    result = await request()
                except ccxt.BaseError as err:
                    is_wait = isinstance(err, ccxt.RateLimitExceeded | ccxt.DDoSProtection)
                    if not is_wait and sent.status not in _STOP_STATUSES:
                        failure = self._describe_passing(err, sent.status, subject)
                        break
                    self._order_wait(err, sent.status, subject)
                except _UNREADABLE as err:
                    failure = f"ccxt cannot read the answer: {_shorten(repr(err))}"
                    break
                else:
                    # The limit of ordered waits counts from the last answer on.
                    self._throttle.count_answered(0, 0, reported_weight=None, succeeded=True)
                    return result
        raise SourceError(
            f"{self.where}: {subject}: {failure} (asked {MAX_RETRIES + 1} times)",
            hint="run the same command again: what came is kept",
        )

    def _order_wait(self, err: Exception, status: int, subject: str) -> None:
        """Stop all requests for as long as the exchange orders; raise a SourceError if that is too long."""
        headers = {
            str(name).lower(): str(value) for name, value in (self._exchange.last_response_headers or {}).items()
        }
        if not self._throttle.stop(self._host_clock.now_ms(), status, headers.get("retry-after")):
            wait_s = (self._throttle.released_ms - self._host_clock.now_ms()) / 1000
            raise SourceError(
                f"{self.where}: {subject}: too many requests, it answers again in {wait_s:,.0f} s",
                hint="run the same command after that, or allow a longer --max-wait; what came is kept",
            ) from err

    def _describe_passing(self, err: Exception, status: int, subject: str) -> str:
        """Return the description of a failure that may pass; raise our error for any other.

        ccxt's class alone does not decide: it takes some errors of an overloaded exchange (5xx) for final ones.
        """
        cause, where = err.__cause__, f"{self.where}: {subject}"
        if isinstance(cause, _ForbiddenAddressError):
            raise SourceError(f"{where}: {cause}") from err
        if isinstance(cause, aiohttp.ClientSSLError):
            raise SourceError(
                f"{self.where}: its certificate cannot be trusted: {_shorten(str(cause))}",
                hint="there is no way around the check; is the clock right, and no proxy in between?",
            ) from err
        if isinstance(err, ccxt.BadSymbol):
            raise InputError(f"{where}: {_shorten(str(err))}") from err
        if isinstance(err, ccxt.AuthenticationError):
            raise SourceError(
                f"{where}: it answers only to users with an account: {_shorten(str(err))}",
                hint="mltrain requests public candles only, without an account: choose another exchange",
            ) from err
        if isinstance(err, ccxt.RestrictedLocation) or status in _REFUSED_HINTS:
            hint = _REFUSED_HINTS.get(status, _REFUSED_HINTS[451])
            raise SourceError(f"{where}: HTTP {status}: {_shorten(str(err))}", hint=hint) from err
        if isinstance(err, ccxt.RequestTimeout):
            return f"no whole answer within {self._rules.deadline_s:g} s"
        if isinstance(cause, aiohttp.ClientConnectionError):
            return f"cannot connect, or the connection broke: {_shorten(str(cause) or type(cause).__name__)}"
        if isinstance(cause, aiohttp.ClientPayloadError | _MalformedAnswerError):
            return _shorten(str(cause))
        if isinstance(err, ccxt.OperationFailed) or status >= 500:
            return f"HTTP {status}: {_shorten(str(err))}"
        hint = "it may not have candles that old: choose fewer --days, or a longer --interval"
        raise SourceError(
            f"{where}: {type(err).__name__}: {_shorten(str(err))}", hint=hint if refuses_request(err) else None
        ) from err

    async def _check_request(self, _session: object, _context: object, params: aiohttp.TraceRequestStartParams) -> None:
        """Count a request that is about to be sent, and refuse one to an address that must not be reached."""
        url = params.url
        if url.scheme != "https" if not self._base_url else url.origin() != yarl.URL(self._base_url).origin():
            raise _ForbiddenAddressError(f"ccxt would connect to {show(str(url.origin()))}, which is not allowed")
        self._traffic.requests[_sent.get().symbol] += 1

    async def _refuse_redirect(
        self, _session: object, _context: object, params: aiohttp.TraceRequestRedirectParams
    ) -> None:
        """Refuse a redirect: no host decides which other one is connected to."""
        to = show(params.response.headers.get("Location", "nowhere"))
        raise _ForbiddenAddressError(f"it redirects to {to}, which is not followed")

    async def _read(self, response: aiohttp.ClientResponse, encoding: str | None, errors: str) -> str:
        """Return the text of an answer of limited size; one with status 200 must be JSON."""
        _sent.get().status = response.status
        parts, size_bytes = [], 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            size_bytes += len(chunk)
            if size_bytes > self._max_bytes:
                raise _MalformedAnswerError(f"the answer has more than {self._max_bytes} bytes")
            parts.append(chunk)
        self._traffic.bytes += size_bytes
        text = b"".join(parts).decode(encoding or "utf-8", errors)
        # ccxt would take a cut answer for one without candles.
        if response.status == _OK and text.strip():
            try:
                await asyncio.to_thread(json.loads, text)
            except (ValueError, RecursionError) as err:
                raise _MalformedAnswerError("the answer is not JSON, or is cut short") from err
        return text


def refuses_request(err: BaseException | None) -> bool:
    """Return whether ccxt's error is that of an exchange which refuses what was requested, such as too old candles."""
    return isinstance(err, ccxt.BadRequest)


def _make_exchange(exchange_id: str, session: aiohttp.ClientSession, base_url: str, market: str) -> Any:  # noqa: ANN401
    """Return ccxt's client of an exchange for the market, with its rate limiter on and all its addresses replaced."""
    exchange = getattr(ccxt.async_support, exchange_id)({"session": session, "enableRateLimit": True})
    # ccxt would wait a quarter of a second when it is closed, for web sockets.
    exchange.timeout_on_exit = 0
    if base_url:
        exchange.urls["api"] = _replace_hosts(exchange.urls["api"], base_url, exchange.hostname or "")
    choice = exchange.options.get("fetchMarkets")
    # Other markets are further requests, some to other hosts.
    if isinstance(choice, dict) and isinstance(types := choice.get("types"), list | dict):
        names = {"spot"} if market == SPOT else {"swap", "linear"}
        if wanted := [name for name in types if name in names]:
            only = (
                wanted if isinstance(types, list) else {name: types[name] if name in names else False for name in types}
            )
            exchange.options["fetchMarkets"] = {**choice, "types": only}
    return exchange


def _replace_hosts(addresses: Any, base_url: str, hostname: str) -> Any:  # noqa: ANN401 -- nested dicts of texts
    """Return ccxt's addresses with another scheme and host; their paths stay.

    >>> _replace_hosts({"public": "https://api.{hostname}/v1"}, "http://127.0.0.1:80", "x.com")
    {'public': 'http://127.0.0.1:80/v1'}
    """
    if isinstance(addresses, dict):
        return {name: _replace_hosts(address, base_url, hostname) for name, address in addresses.items()}
    if not isinstance(addresses, str):
        return addresses
    return f"{base_url}{urlsplit(addresses.replace('{hostname}', hostname)).path}".rstrip("/")


def _shorten(text: str) -> str:
    """Return a text of the exchange or of ccxt as messages show it: in ASCII, on one line, and not longer than that."""
    return ascii(" ".join(text.split()))[1:-1][:_MAX_SHOWN_CHARACTERS]
