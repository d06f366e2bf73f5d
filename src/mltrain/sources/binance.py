"""The source `binance`: candles of spot or USD-M futures over REST, from the public host or one like it.

It requests `exchangeInfo` (symbols, limits), `time` (the clock that decides which candles are closed) and `klines`,
below `/api/v3/` for spot and `/fapi/v1/` for futures; see `mltrain.sources.markets`.
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
from mltrain.sources.funding_download import (
    FUNDING_LIMIT,
    FUNDING_LIMIT_MS,
    FundingPages,
    FundingSession,
    fetch_funding,
)
from mltrain.sources.http_client import HostClock, HttpClient, MachineClock, MalformedError, Query, Traffic, read_error
from mltrain.sources.klines import MAX_PAGE_BYTES, OddRows, add_odd, merge_rows, plan_pages, read_page
from mltrain.sources.markets import MARKETS, SPOT
from mltrain.sources.network_rules import NetworkRules, check_base_url
from mltrain.sources.source import check_known
from mltrain.sources.throttle import Throttle
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import TimeRange, floor_to_grid, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from mltrain.documents.values import Json
    from mltrain.progress import Progress
    from mltrain.sources.http_client import Answer, Clock
    from mltrain.sources.klines import OddDays, Page
    from mltrain.sources.markets import Market
    from mltrain.sources.source import DownloadResult, FundingDownload

T = TypeVar("T")

# exchangeInfo of all symbols had 15 MB in 2025.
_MAX_INFO_BYTES: Final = 64 << 20
_MAX_TIME_BYTES: Final = 4096
_NO_SUCH_SYMBOL: Final = -1121
_PLAIN_HOST: Final = re.compile(r"[a-z0-9.-]{1,200}(?::[0-9]{1,5})?")
_NOT_IN_FOLDERS: Final = re.compile(r"[^a-z0-9.]+")
# The year 2248: every time that an exchange sends is earlier.
_END_OF_TIME_MS: Final = 1 << 43
# exchangeInfo may come from a cache in between.
_MAX_CLOCK_DIFFERENCE_MS: Final = 600_000


@dataclass(frozen=True, slots=True)
class _ExchangeInfo:
    """What is used of exchangeInfo: its time (ms UTC), the request weight allowed per minute, the symbols, sorted."""

    server_ms: int
    weight_limit: int
    symbols: tuple[str, ...]


class BinanceSource:
    """Candles of the exchange over REST, as a Source.

    Args:
        interval: One of INTERVALS_MS.
        base_url: Address of the REST host; https, or http to this machine; "" for the public one of the market.
        market: One of MARKETS.
        rules: How the network may be used; None for the defaults.
        clock: Measures durations and waits; None for this machine's clock.
        rng: Draws the jitter of the pauses before retries.

    Raises:
        UsageError: The interval is unknown, or the address is invalid.
    """

    # Days that the cache keeps in one file; None: as many as `cached_unit_days` says.
    _unit_days: int | None = None

    def __init__(
        self,
        interval: str,
        base_url: str = "",
        *,
        market: str = SPOT,
        rules: NetworkRules | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.interval = interval
        self.market = market
        self._market = MARKETS[market]
        self.base_url = check_base_url(base_url or self._market.rest_url)
        self._step_ms = interval_ms(interval)
        self._rules = rules or NetworkRules()
        self._throttle = Throttle(
            weight_limit=self._market.weight_limit, max_wait_ms=round(self._rules.max_wait_s * 1000)
        )
        # The answers report the weight of the minute, which these requests do not count in.
        self._funding_throttle = Throttle(
            weight_limit=FUNDING_LIMIT,
            max_wait_ms=round(self._rules.max_wait_s * 1000),
            window_ms=FUNDING_LIMIT_MS,
            counts_reports=False,
        )
        self._clock = clock or MachineClock()
        self._host_clock = HostClock(self._clock)
        self._rng = rng or random.Random()  # noqa: S311 -- jitter is not a secret
        self._traffic = Traffic()
        # The exchange's time as last received, ms UTC.
        self._clock_ms: int | None = None
        self._listed: set[str] = set()

    @property
    def name(self) -> str:
        """Name of this kind of source: "binance"."""
        return "binance"

    @property
    def host(self) -> str:
        """Address of the REST host without its scheme, for messages."""
        return self.base_url.partition("://")[2]

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that the exchange lists these symbols, and keep its time and weight limit.

        Raises:
            InputError: A symbol is unknown; suggests similar ones.
            SourceError: The exchange's clocks disagree, or it refuses symbols that it lists.
        """
        self._run(lambda client: self._check_symbols(client, symbols))

    async def _check_symbols(self, client: HttpClient, symbols: tuple[str, ...]) -> None:
        """Do `check_symbols` with an open client."""
        async with task_group() as group:
            time_task = group.create_task(self._request_time(client))
            info_task = group.create_task(self._request_info(client, symbols))
        server_ms, info = time_task.result(), info_task.result()
        if info is None:
            info_of_all = await self._request_info(client, ())
            check_known(symbols, info_of_all.symbols if info_of_all else (), self.host)
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
        """Return the exchange's time, ms UTC, as last received; requests it the first time."""
        if self._clock_ms is None:
            self._clock_ms = self._run(self._request_time)
        return self._clock_ms

    def renew_clock(self) -> None:
        """Make the next `clock_ms` request the exchange's time again."""
        self._clock_ms = None

    def symbols(self) -> tuple[str, ...]:
        """Request the names of all symbols that the exchange lists, sorted."""
        info = self._run(lambda client: self._request_info(client, ()))
        return info.symbols if info else ()

    def extent(self, symbol: str) -> TimeRange:
        """Return the range from a symbol's first open time to the end of its newest closed candle; both are requested.

        The newest candle of a symbol that is traded no more is an old one.

        Raises:
            InputError: The symbol is unknown, or it has no closed candle.
        """
        self._check_new_symbols([symbol])
        closed_ms = floor_to_grid(self.clock_ms((symbol,)), self._step_ms)

        async def fetch_both(client: HttpClient) -> tuple[pl.DataFrame, int | None]:
            pages = self._pages(client)
            return await pages.fetch_first(symbol, 0, limit=1), await pages.find_last(symbol, closed_ms)

        rows, last_ms = self._run(fetch_both)
        if rows.is_empty() or last_ms is None:
            raise InputError(f"{self.host} has no candles of {symbol}")
        return TimeRange(int(times_ms(rows).min()), floor_to_grid(last_ms, self._step_ms) + self._step_ms)

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Request the closed candles that open inside the window; the day cache is not used."""
        return self.candles_of({symbol: window})[symbol]

    def candles_of(self, windows: Mapping[str, TimeRange]) -> dict[str, pl.DataFrame]:
        """Request, concurrently, the closed candles of each symbol that open inside its window; no cache is used."""
        self._check_new_symbols(windows)
        end_ms = floor_to_grid(self.clock_ms(tuple(windows)), self._step_ms)
        closed = {s: TimeRange(window.start_ms, min(window.end_ms, end_ms)) for s, window in windows.items()}
        plans = {
            s: plan_pages(window, self._step_ms, candles=self._market.page_candles)
            for s, window in closed.items()
            if window.start_ms < window.end_ms
        }

        async def fetch_all(client: HttpClient) -> dict[str, list[pl.DataFrame]]:
            pages = self._pages(client)
            async with task_group() as group:
                tasks = {s: [group.create_task(pages.fetch_page(s, p)) for p in plan] for s, plan in plans.items()}
            return {s: [task.result() for task in of_symbol] for s, of_symbol in tasks.items()}

        answers = self._run(fetch_all) if plans else {}
        return {s: self._merge_pages(s, window, answers.get(s)) for s, window in closed.items()}

    def _merge_pages(self, symbol: str, window: TimeRange, pages: list[pl.DataFrame] | None) -> pl.DataFrame:
        """Return the candles of all pages that open inside the window, checked and sorted; none without pages."""
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
        """Download the days that the cache in `data_dir` lacks (`refresh`: all), to be read while the block lasts."""
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
            page_candles=self._market.page_candles,
            unit_days=self._unit_days,
        )
        return download_days(job, symbols, window, data_dir=data_dir, refresh=refresh, progress=progress)

    def _pages(self, client: HttpClient) -> RestPages:
        """Return what requests pages of this source's candles with an open client."""
        return RestPages(client, self.interval, self._market)

    def funding(self, symbols: tuple[str, ...], window: TimeRange) -> FundingDownload | None:
        """Request the funding events of these symbols in a window, up to the exchange's time; None for spot.

        No cache is used.
        """
        if not self._market.has_funding:
            return None
        self._check_new_symbols(symbols)
        clock_ms = self.clock_ms(symbols)

        async def run() -> FundingDownload:
            async with self._connect_funding() as session:
                return await fetch_funding(session, symbols, window, clock_ms=clock_ms)

        return run_async(run)

    @asynccontextmanager
    async def _connect_funding(self) -> AsyncIterator[FundingSession]:
        """Open a client of the REST host for the funding rates."""
        async with self._funding_client() as client:
            yield FundingSession(FundingPages(client, self._market))

    def _funding_client(self) -> HttpClient:
        """Return a client for the funding rates, which have another limit."""
        return self._client(self._funding_throttle)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[DownloadSession]:
        """Open a client of the REST host for one download."""
        async with self._client() as client:
            pages = self._pages(client)
            yield DownloadSession(pages, odd=pages.odd)

    def _check_new_symbols(self, symbols: Iterable[str]) -> None:
        """Check the symbols that no earlier check has found listed."""
        for symbol in symbols:
            if symbol not in self._listed:
                self.check_symbols((symbol,))

    @property
    def cache_name(self) -> str:
        """Name of this source's folder in the day cache: another market and another host have other candles."""
        kind = self._cache_kind
        return kind if self.base_url == self._market.rest_url else f"{kind}@{cache_folder_name(self.host)}"

    @property
    def _cache_kind(self) -> str:
        """Beginning of `cache_name`: the source and, except for spot, the market, such as "binance-usdm"."""
        return self.name if self.market == SPOT else f"{self.name}-{self.market}"

    def _client(self, throttle: Throttle | None = None) -> HttpClient:
        """Return a client of the REST host; all of them share clock, traffic and, unless one is given, throttle."""
        return HttpClient(
            self.base_url,
            rules=self._rules,
            throttle=throttle or self._throttle,
            traffic=self._traffic,
            host_clock=self._host_clock,
            rng=self._rng,
        )

    def _run(self, request: Callable[[HttpClient], Coroutine[Any, Any, T]]) -> T:
        """Open a client, run `request` with it, and return its result."""

        async def run() -> T:
            async with self._client() as client:
                return await request(client)

        return run_async(run)

    async def _request_time(self, client: HttpClient) -> int:
        """Request the exchange's time, ms UTC."""

        def parse(answer: Answer) -> int:
            time_ms = _parse_object(answer, self.host).get("serverTime")
            if not isinstance(time_ms, int) or isinstance(time_ms, bool) or not 0 < time_ms < _END_OF_TIME_MS:
                raise MalformedError("the answer has no time")
            return time_ms

        path, weight = f"{self._market.api}time", self._market.time_weight
        query = Query(path, subject="its time", weight=weight, max_bytes=_MAX_TIME_BYTES)
        return await client.get(query, parse)

    async def _request_info(self, client: HttpClient, symbols: tuple[str, ...]) -> _ExchangeInfo | None:
        """Request exchangeInfo of these symbols, or of all if `symbols` is empty; return None if one is unknown."""

        def parse(answer: Answer) -> _ExchangeInfo | None:
            if answer.status == 400 and read_error(answer.body)[0] != _NO_SUCH_SYMBOL:
                raise SourceError(f"{self.host}: exchangeInfo: HTTP 400: {answer.body[:200]!r}")
            return None if answer.status == 400 else _read_info(answer, self.host, self._market)

        by_symbol = bool(symbols) and self._market.info_by_symbol
        query = Query(
            f"{self._market.api}exchangeInfo",
            subject="exchangeInfo",
            weight=self._market.info_weight,
            max_bytes=_MAX_INFO_BYTES,
            params={"symbols": json.dumps(symbols, separators=(",", ":"))} if by_symbol else {},
        )
        return await client.get(query, parse, accept=(400,) if by_symbol else ())


@dataclass(frozen=True, slots=True)
class RestPages:
    """Requests pages of candles of one interval from a REST host.

    Attributes:
        client: The open client.
        interval: The interval.
        market: The market.
        odd: The odd rows received so far; see `split_odd`.
    """

    client: HttpClient
    interval: str
    market: Market = MARKETS[SPOT]
    odd: OddDays = field(default_factory=lambda: defaultdict(OddRows))

    async def fetch_page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Request a window of at most `market.page_candles` candles; return the host's rows in its order.

        Odd rows are left out. Rows outside the window are kept; an answer with only such rows is requested again.
        """
        params = {"startTime": window.start_ms, "endTime": window.end_ms - 1, "limit": self.market.page_candles}
        return (await self._get(symbol, f"{symbol} from {window}", params, window)).rows

    async def fetch_first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Request the first `limit` rows that open at `start_ms`, ms UTC, or later, in the host's order.

        Odd rows are left out of the result; if all were odd, the rows after them are requested.
        """
        while True:
            params = {"startTime": start_ms, "limit": limit}
            window = TimeRange(start_ms, _END_OF_TIME_MS)
            page = await self._get(symbol, f"{symbol} from {format_ms(start_ms)}", params, window)
            rows = page.rows.filter(times_ms(page.rows) >= start_ms)
            if rows.height or not page.ts_ms.size:
                return rows
            start_ms, limit = int(page.ts_ms.max()) + 1, self.market.page_candles

    async def find_last(self, symbol: str, end_ms: int) -> int | None:
        """Request the newest row that opens before `end_ms`, ms UTC; return its open time, or None without any."""
        params = {"endTime": end_ms - 1, "limit": 1}
        page = await self._get(symbol, f"{symbol} before {format_ms(end_ms)}", params, TimeRange(0, end_ms))
        return int(page.ts_ms.max()) if page.ts_ms.size else None

    async def _get(self, symbol: str, subject: str, params: dict[str, int], window: TimeRange) -> Page:
        """Request klines, and keep their odd rows; an answer entirely outside the window is requested again.

        `subject` names the request in messages.
        """

        def parse(answer: Answer) -> Page:
            page = read_page(answer.body, symbol=symbol, interval=self.interval, where=self.client.host)
            inside = (page.ts_ms >= window.start_ms) & (page.ts_ms < window.end_ms)
            if page.ts_ms.size and not inside.any():
                raise MalformedError("all candles of the answer are outside what was asked for")
            add_odd(self.odd, symbol, page.odd)
            return page

        query = Query(
            f"{self.market.api}klines",
            subject=subject,
            weight=self.market.page_weight(params["limit"]),
            max_bytes=MAX_PAGE_BYTES,
            params={"symbol": symbol, "interval": self.interval, **params},
            symbol=symbol,
        )
        return await self.client.get(query, parse)


def cache_folder_name(host: str) -> str:
    """Return a name for the cache folder of a host: the host itself, or a hashed form if that is no folder's name.

    >>> cache_folder_name("127.0.0.1:8000"), cache_folder_name("[::1]:8000/x")
    ('127.0.0.1_8000', '1-8000-x-0a7153352c5d')
    """
    if _PLAIN_HOST.fullmatch(host):
        return host.replace(":", "_")
    return f"{_NOT_IN_FOLDERS.sub('-', host).strip('-')[:100]}-{sha256_bytes(host.encode())[:12]}"


def _parse_object(answer: Answer, host: str) -> dict[str, Json]:
    """Return the JSON object in an answer; raises MalformedError if it is none."""
    try:
        document = parse_json(answer.body, where=host, max_bytes=_MAX_INFO_BYTES)
    except InputError as err:
        raise MalformedError(err.message.removeprefix(f"{host}: ")) from err
    if not isinstance(document, dict):
        raise MalformedError("the answer is not a JSON object")
    return document


def _read_info(answer: Answer, host: str, market: Market) -> _ExchangeInfo:
    """Read an answer with exchangeInfo; MalformedError if a part that is used is missing.

    Of futures, only perpetuals count: delivery futures pay no funding and end.
    """
    match _parse_object(answer, host):
        case {"serverTime": int(server_ms), "rateLimits": list(limits), "symbols": list(listed)}:
            objects = [s for s in listed if isinstance(s, dict) and "symbol" in s]
            if market.has_funding:
                # PERPETUAL, and TRADIFI_PERPETUAL of shares and metals.
                objects = [s for s in objects if str(s.get("contractType")).endswith("PERPETUAL")]
            names = (s["symbol"] for s in objects)
            symbols = sorted(name for name in names if isinstance(name, str))
            return _ExchangeInfo(server_ms, _find_weight_limit(limits, market), tuple(symbols))
    raise MalformedError("the answer lacks time, limits or symbols")


def _find_weight_limit(rate_limits: list[Json], market: Market) -> int:
    """Return the request weight allowed per minute; the market's usual one if `rate_limits` has no plausible value."""
    for limit in rate_limits:
        match limit:
            case {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": int(weight)}:
                if 0 < weight < 10**7:
                    return weight
    return market.weight_limit
