"""The source `binance`: candles of the spot market over REST, from the public market-data host or one like it.

It requests `/api/v3/exchangeInfo` (symbols, limits), `/api/v3/time` (the clock that decides which candles are closed)
and `/api/v3/klines`. All three: https://developers.binance.com/docs/binance-spot-api-docs/rest-api.
"""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import polars as pl

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError, SourceError
from mltrain.sources.async_run import run_async, task_group
from mltrain.sources.download import DownloadJob, DownloadSession, download_days
from mltrain.sources.http_client import HostClock, HttpClient, MachineClock, MalformedError, Query, Traffic, error_code
from mltrain.sources.klines import MAX_PAGE_BYTES, PAGE_CANDLES, OddRows, add_odd, merge_rows, plan_pages, read_page
from mltrain.sources.network_rules import NetworkRules, check_base_url
from mltrain.sources.source import check_known
from mltrain.sources.source_spec import PUBLIC_REST
from mltrain.sources.throttle import DEFAULT_WEIGHT_LIMIT, Throttle
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import TimeRange, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from mltrain.documents.values import Json
    from mltrain.progress import Progress
    from mltrain.sources.http_client import Answer, Clock
    from mltrain.sources.klines import OddDays, Page
    from mltrain.sources.source import DownloadResult

T = TypeVar("T")

_PAGE_WEIGHT: Final = 2
_TIME_WEIGHT: Final = 1
_INFO_WEIGHT: Final = 20
# exchangeInfo of all symbols had 15 MB in 2025.
_MAX_INFO_BYTES: Final = 64 << 20
_MAX_TIME_BYTES: Final = 4096
_NO_SUCH_SYMBOL: Final = -1121
_PLAIN_HOST: Final = re.compile(r"[a-z0-9.-]{1,200}(?::[0-9]{1,5})?")
_NOT_IN_FOLDERS: Final = re.compile(r"[^a-z0-9.]+")
# The year 2109.
_NEVER_MS: Final = 1 << 42
# exchangeInfo may come from a cache in between.
_MAX_CLOCK_DIFFERENCE_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class _ExchangeInfo:
    """The parts of exchangeInfo that are used."""

    server_ms: int
    weight_limit: int
    symbols: tuple[str, ...]


class BinanceSource:
    """Candles of the spot market over REST, as a Source.

    Attributes:
        interval: Interval of the candles.
        base_url: Address of the host.

    Args:
        interval: One of INTERVALS_MS.
        base_url: As `check_base_url` takes it.
        rules: How the network may be used.
        clock: The clock that runs between requests.
        rng: Draws the jitter of the pauses.

    Raises:
        UsageError: The interval is unknown, or the address is invalid.
    """

    def __init__(
        self,
        interval: str,
        base_url: str = PUBLIC_REST,
        *,
        rules: NetworkRules | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.interval = interval
        self.base_url = check_base_url(base_url)
        self._step_ms = interval_ms(interval)
        self._rules = rules or NetworkRules()
        self._throttle = Throttle(max_wait_ms=round(self._rules.max_wait_s * 1000))
        self._clock = clock or MachineClock()
        self._host_clock = HostClock(self._clock)
        self._rng = rng or random.Random()  # noqa: S311 -- jitter is not a secret
        self._traffic = Traffic()
        self._clock_ms: int | None = None
        self._listed: set[str] = set()

    @property
    def name(self) -> str:
        """One of SOURCES."""
        return "binance"

    @property
    def host(self) -> str:
        """The host that answers."""
        return self.base_url.partition("://")[2]

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that the exchange lists these symbols, and take its time and weight limit.

        Raises:
            InputError: A symbol is unknown; suggests similar ones.
            SourceError: The exchange did not answer.
        """
        self._run(lambda client: self._check_symbols(client, symbols))

    async def _check_symbols(self, client: HttpClient, symbols: tuple[str, ...]) -> None:
        async with task_group() as group:
            time_task = group.create_task(self._server_time(client))
            info_task = group.create_task(self._info(client, symbols))
        server_ms, info = time_task.result(), info_task.result()
        if info is None:
            known = await self._info(client, ())
            check_known(symbols, known.symbols if known else (), f"{self.host}")
            raise SourceError(f"{self.host}: it refuses {', '.join(symbols)}, though it lists them")
        check_known(symbols, info.symbols, self.host)
        if abs(info.server_ms - server_ms) > _MAX_CLOCK_DIFFERENCE_MS:
            raise SourceError(
                f"{self.host}: its clocks disagree: {format_ms(server_ms)} and {format_ms(info.server_ms)}",
                hint="which candles are closed is unknown: try again later, or another --base-url",
            )
        self._throttle.weight_limit = info.weight_limit
        self._clock_ms = min(server_ms, info.server_ms)
        self._listed.update(symbols)
        client.set_time(server_ms)

    def clock_ms(self, symbols: tuple[str, ...]) -> int:  # noqa: ARG002 -- one clock for all symbols
        """Return the exchange's time, ms UTC, as last received.

        Raises:
            SourceError: The exchange did not answer.
        """
        if self._clock_ms is None:
            self._clock_ms = self._run(self._server_time)
        return self._clock_ms

    def renew_clock(self) -> None:
        """Make the next `clock_ms` ask the exchange again."""
        self._clock_ms = None

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that the exchange lists, sorted.

        Raises:
            SourceError: The exchange did not answer.
        """
        info = self._run(lambda client: self._info(client, ()))
        return info.symbols if info else ()

    def extent(self, symbol: str) -> TimeRange:
        """Return the range of open times that the exchange has of a symbol.

        Raises:
            InputError: The symbol is unknown, or it has no candle.
            SourceError: The exchange did not answer.
        """
        self._check_unlisted([symbol])
        rows = self._run(lambda client: RestPages(client, self.interval).first(symbol, 0, limit=1))
        if rows.is_empty():
            raise InputError(f"{self.host} has no candles of {symbol}")
        return TimeRange(int(times_ms(rows).min()), self.clock_ms((symbol,)) // self._step_ms * self._step_ms)

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside the window, without the cache.

        Raises:
            InputError: The symbol is unknown, or a candle is damaged or impossible.
            SourceError: The exchange did not answer.
        """
        return self.candles_of({symbol: window})[symbol]

    def candles_of(self, windows: Mapping[str, TimeRange]) -> dict[str, pl.DataFrame]:
        """Return what `candles` returns, for many symbols concurrently.

        Raises:
            InputError: A symbol is unknown, or a candle is damaged or impossible.
            SourceError: The exchange did not answer.
        """
        self._check_unlisted(windows)
        end_ms = self.clock_ms(tuple(windows)) // self._step_ms * self._step_ms
        closed = {s: TimeRange(window.start_ms, min(window.end_ms, end_ms)) for s, window in windows.items()}
        plans = {
            s: plan_pages(window, self._step_ms) for s, window in closed.items() if window.start_ms < window.end_ms
        }

        async def all_pages(client: HttpClient) -> dict[str, list[pl.DataFrame]]:
            pages = RestPages(client, self.interval)
            async with task_group() as group:
                tasks = {s: [group.create_task(pages.page(s, page)) for page in plan] for s, plan in plans.items()}
            return {s: [task.result() for task in of_symbol] for s, of_symbol in tasks.items()}

        found = self._run(all_pages) if plans else {}
        return {s: self._closed(s, window, found.get(s)) for s, window in closed.items()}

    def _closed(self, symbol: str, window: TimeRange, pages: list[pl.DataFrame] | None) -> pl.DataFrame:
        if pages is None:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        inside = pl.col("ts").dt.timestamp("ms").is_between(window.start_ms, window.end_ms, closed="left")
        rows = merge_rows(pages, symbol=symbol, where=self.host).filter(inside)
        return check_candles(rows, symbol=symbol, interval=self.interval, where=self.host)

    def notes(self) -> tuple[str, ...]:
        """Return nothing: the notes of a download are in its result."""
        return ()

    def download(
        self, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
    ) -> AbstractContextManager[DownloadResult]:
        """Download what the cache lacks; the candles can be read while the block lasts.

        Raises:
            InputError: A candle is damaged or impossible, or two contradict each other.
            SourceError: The exchange did not answer, or refused; the finished days are kept.
            LockedError: Another mltrain is downloading.
            MachineError: The machine refuses.
        """
        job = DownloadJob(
            host=self.host,
            interval=self.interval,
            cache_name=self.cache_name,
            clock_ms=self.clock_ms(symbols),
            workers=self._rules.connections,
            connect=self._connect,
            clock=self._clock,
            throttle=self._throttle,
            traffic=self._traffic,
        )
        return download_days(job, symbols, window, data_dir=data_dir, refresh=refresh, progress=progress)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[DownloadSession]:
        async with self._client() as client:
            pages = RestPages(client, self.interval)
            yield DownloadSession(pages, odd=pages.odd)

    def _check_unlisted(self, symbols: Iterable[str]) -> None:
        for symbol in symbols:
            if symbol not in self._listed:
                self.check_symbols((symbol,))

    @property
    def cache_name(self) -> str:
        """Name of the folder in the cache: the candles of another host are those of another market."""
        return self.name if self.base_url == PUBLIC_REST else f"{self.name}@{folder_of(self.host)}"

    def _client(self) -> HttpClient:
        return HttpClient(
            self.base_url,
            rules=self._rules,
            throttle=self._throttle,
            traffic=self._traffic,
            host_clock=self._host_clock,
            rng=self._rng,
        )

    def _run(self, request: Callable[[HttpClient], Coroutine[Any, Any, T]]) -> T:
        async def run() -> T:
            async with self._client() as client:
                return await request(client)

        return run_async(run)

    async def _server_time(self, client: HttpClient) -> int:
        def parse(answer: Answer) -> int:
            time_ms = _object(answer, self.host).get("serverTime")
            if not isinstance(time_ms, int) or isinstance(time_ms, bool) or not 0 < time_ms < 1 << 43:
                raise MalformedError("the answer has no time")
            return time_ms

        query = Query("/api/v3/time", "its time", _TIME_WEIGHT, _MAX_TIME_BYTES)
        return await client.get(query, parse)

    async def _info(self, client: HttpClient, symbols: tuple[str, ...]) -> _ExchangeInfo | None:
        """Return exchangeInfo of these symbols, or of all if there are none; None if one is unknown."""

        def parse(answer: Answer) -> _ExchangeInfo | None:
            if answer.status == 400 and error_code(answer) != _NO_SUCH_SYMBOL:
                raise SourceError(f"{self.host}: exchangeInfo: HTTP 400: {answer.body[:200]!r}")
            return None if answer.status == 400 else _read_info(answer, self.host)

        params = {"symbols": json.dumps(symbols, separators=(",", ":"))} if symbols else {}
        query = Query("/api/v3/exchangeInfo", "exchangeInfo", _INFO_WEIGHT, _MAX_INFO_BYTES, params)
        return await client.get(query, parse, accept=(400,) if symbols else ())


@dataclass(frozen=True, slots=True)
class RestPages:
    """Requests pages of candles of one interval.

    Attributes:
        client: The open client.
        interval: The interval.
        odd: The odd rows received so far; see `split_odd`.
    """

    client: HttpClient
    interval: str
    odd: OddDays = field(default_factory=lambda: defaultdict(OddRows))

    async def page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the host's rows for a window of at most PAGE_CANDLES candles, in its order, without odd rows.

        Rows outside the window are kept; an answer with only such rows is requested again.

        Raises:
            InputError: A row cannot be read.
            SourceError: The host did not answer.
        """
        params = {"startTime": window.start_ms, "endTime": window.end_ms - 1, "limit": PAGE_CANDLES}
        return (await self._get(symbol, f"{symbol} from {window}", params, window)).rows

    async def first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Return the first rows that open at a time or later, in the host's order; odd rows are skipped.

        Raises:
            InputError: A row cannot be read.
            SourceError: The host did not answer.
        """
        while True:
            params = {"startTime": start_ms, "limit": limit}
            page = await self._get(
                symbol, f"{symbol} from {format_ms(start_ms)}", params, TimeRange(start_ms, _NEVER_MS)
            )
            rows = page.rows.filter(times_ms(page.rows) >= start_ms)
            if rows.height or not page.ts_ms.size:
                return rows
            start_ms, limit = int(page.ts_ms.max()) + 1, PAGE_CANDLES

    async def _get(self, symbol: str, subject: str, params: dict[str, int], window: TimeRange) -> Page:
        def parse(answer: Answer) -> Page:
            page = read_page(answer.body, symbol=symbol, interval=self.interval, where=self.client.host)
            inside = (page.ts_ms >= window.start_ms) & (page.ts_ms < window.end_ms)
            if page.ts_ms.size and not inside.any():
                raise MalformedError("all candles of the answer are outside what was asked for")
            add_odd(self.odd, symbol, page.odd)
            return page

        query = Query(
            "/api/v3/klines",
            subject,
            _PAGE_WEIGHT,
            MAX_PAGE_BYTES,
            {"symbol": symbol, "interval": self.interval, **params},
            symbol,
        )
        return await self.client.get(query, parse)


def folder_of(host: str) -> str:
    """Return the name of a host's folder in the cache: the host, or a similar name if it cannot be a folder's.

    >>> folder_of("127.0.0.1:8000"), folder_of("[::1]:8000/x")
    ('127.0.0.1_8000', '1-8000-x-0a7153352c5d')
    """
    if _PLAIN_HOST.fullmatch(host):
        return host.replace(":", "_")
    return f"{_NOT_IN_FOLDERS.sub('-', host).strip('-')[:100]}-{sha256_bytes(host.encode())[:12]}"


def _object(answer: Answer, host: str) -> dict[str, Json]:
    try:
        document = parse_json(answer.body, where=host, max_bytes=_MAX_INFO_BYTES)
    except InputError as err:
        raise MalformedError(err.message.removeprefix(f"{host}: ")) from err
    if not isinstance(document, dict):
        raise MalformedError("the answer is not a JSON object")
    return document


def _read_info(answer: Answer, host: str) -> _ExchangeInfo:
    match _object(answer, host):
        case {"serverTime": int(server_ms), "rateLimits": list(limits), "symbols": list(listed)}:
            names = [s["symbol"] for s in listed if isinstance(s, dict) and "symbol" in s]
            texts = sorted(name for name in names if isinstance(name, str))
            return _ExchangeInfo(server_ms, _weight_limit(limits), tuple(texts))
    raise MalformedError("the answer lacks time, limits or symbols")


def _weight_limit(limits: list[Json]) -> int:
    for limit in limits:
        match limit:
            case {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": int(weight)}:
                if 0 < weight < 10**7:
                    return weight
    return DEFAULT_WEIGHT_LIMIT
