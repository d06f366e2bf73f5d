"""The source `binance`: candles of the spot market over REST, from the public market-data host or one like it.

It asks `/api/v3/exchangeInfo` (symbols, limits), `/api/v3/time` (its clock: what is closed is judged by it alone) and
`/api/v3/klines`. See https://developers.binance.com/docs/binance-spot-api-docs/rest-api for all three.
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
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
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
_MAX_INFO_BYTES: Final = 64 << 20  # of all symbols: 15 MB in 2025
_NO_SUCH_SYMBOL: Final = -1121
_PLAIN_HOST: Final = re.compile(r"[a-z0-9.-]{1,200}(?::[0-9]{1,5})?")
_ODD: Final = re.compile(r"[^a-z0-9.]+")
_NEVER_MS: Final = 1 << 42  # the year 2109
_CLOCKS_APART_MS: Final = 600_000  # exchangeInfo may come from a cache in between


@dataclass(frozen=True, slots=True)
class _Facts:
    """What exchangeInfo tells."""

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
        clock: The time that passes between requests.
        rng: Draws the jitter of the pauses.

    Raises:
        UsageError: The interval is unknown, or the address cannot be one.
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
        self._rng = rng or random.Random()  # noqa: S311 -- jitter keeps no secret
        self._traffic = Traffic()
        self._clock_ms: int | None = None
        self._listed: set[str] = set()

    @property
    def name(self) -> str:
        """Its name among the sources."""
        return "binance"

    @property
    def host(self) -> str:
        """The host that answers."""
        return self.base_url.partition("://")[2]

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Refuse symbols that the exchange does not list; the answer also tells its limits and its time.

        Raises:
            InputError: A symbol is unknown there; says which ones are meant, perhaps.
            SourceError: The exchange did not answer.
        """
        self._ask(lambda client: self._check_symbols(client, symbols))

    async def _check_symbols(self, client: HttpClient, symbols: tuple[str, ...]) -> None:
        async with task_group() as group:
            time_task = group.create_task(self._server_time(client))
            info_task = group.create_task(self._info(client, symbols))
        told, info = time_task.result(), info_task.result()
        if info is None:
            known = await self._info(client, ())
            check_known(symbols, known.symbols if known else (), f"{self.host}")
            raise SourceError(f"{self.host}: it takes none of {', '.join(symbols)}, though it lists them")
        check_known(symbols, info.symbols, self.host)
        if abs(info.server_ms - told) > _CLOCKS_APART_MS:
            raise SourceError(
                f"{self.host}: its clocks disagree: {format_ms(told)} and {format_ms(info.server_ms)}",
                hint="which candles are closed cannot be told: try again later, or another --base-url",
            )
        self._throttle.weight_limit = info.weight_limit
        self._clock_ms = min(told, info.server_ms)
        self._listed.update(symbols)
        client.set_time(told)

    def clock_ms(self, symbols: tuple[str, ...]) -> int:  # noqa: ARG002 -- one clock for all symbols
        """Return the exchange's time, as it was told last.

        Raises:
            SourceError: The exchange did not answer.
        """
        if self._clock_ms is None:
            self._clock_ms = self._ask(self._server_time)
        return self._clock_ms

    def renew_clock(self) -> None:
        """Have the next `clock_ms` ask the exchange again."""
        self._clock_ms = None

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that the exchange lists, sorted.

        Raises:
            SourceError: The exchange did not answer.
        """
        info = self._ask(lambda client: self._info(client, ()))
        return info.symbols if info else ()

    def extent(self, symbol: str) -> TimeRange:
        """Return the range of open times that the exchange has of a symbol.

        Raises:
            InputError: The symbol is unknown there, or it has no candle.
            SourceError: The exchange did not answer.
        """
        self._check_listed(symbol)
        rows = self._ask(lambda client: RestPages(client, self.interval).first(symbol, 0, limit=1))
        if rows.is_empty():
            raise InputError(f"{self.host} has no candles of {symbol}")
        return TimeRange(int(times_ms(rows)[0]), self.clock_ms((symbol,)) // self._step_ms * self._step_ms)

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside the window, asked for now; nothing is kept on the disk.

        Raises:
            InputError: The symbol is unknown there, or a candle is damaged or impossible.
            SourceError: The exchange did not answer.
        """
        return self.candles_of({symbol: window})[symbol]

    def candles_of(self, windows: Mapping[str, TimeRange]) -> dict[str, pl.DataFrame]:
        """Return what `candles` gives, of many symbols at the same time, over connections opened once.

        Raises:
            InputError: A symbol is unknown there, or a candle is damaged or impossible.
            SourceError: The exchange did not answer.
        """
        for symbol in windows:
            self._check_listed(symbol)
        end_ms = self.clock_ms(tuple(windows)) // self._step_ms * self._step_ms
        closed = {s: TimeRange(window.start_ms, min(window.end_ms, end_ms)) for s, window in windows.items()}
        plans = {
            s: plan_pages(window, self._step_ms) for s, window in closed.items() if window.start_ms < window.end_ms
        }

        async def all_pages(client: HttpClient) -> dict[str, list[pl.DataFrame]]:
            pages = RestPages(client, self.interval)
            async with task_group() as group:
                tasks = {s: [group.create_task(pages.page(s, page)) for page in plan] for s, plan in plans.items()}
            return {s: [task.result() for task in asked] for s, asked in tasks.items()}

        found = self._ask(all_pages) if plans else {}
        return {s: self._closed(s, window, found.get(s)) for s, window in closed.items()}

    def _closed(self, symbol: str, window: TimeRange, pages: list[pl.DataFrame] | None) -> pl.DataFrame:
        if pages is None:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        inside = pl.col("ts").dt.timestamp("ms").is_between(window.start_ms, window.end_ms, closed="left")
        rows = merge_rows(pages, symbol=symbol, where=self.host).filter(inside)
        return check_candles(rows, symbol=symbol, interval=self.interval, where=self.host)

    def notes(self) -> tuple[str, ...]:
        """Return nothing: what a download has to tell, `download` gives with the candles."""
        return ()

    def download(
        self, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
    ) -> AbstractContextManager[DownloadResult]:
        """Download what the cache lacks, and give the candles of each symbol while the block lasts.

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

    def _check_listed(self, symbol: str) -> None:
        if symbol not in self._listed:
            self.check_symbols((symbol,))

    @property
    def cache_name(self) -> str:
        """The folder of the cache for this host: another host's candles are another market's."""
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

    def _ask(self, question: Callable[[HttpClient], Coroutine[Any, Any, T]]) -> T:
        async def ask() -> T:
            async with self._client() as client:
                return await question(client)

        return run_async(ask)

    async def _server_time(self, client: HttpClient) -> int:
        def parse(answer: Answer) -> int:
            told = _object(answer, self.host).get("serverTime")
            if not isinstance(told, int) or isinstance(told, bool) or not 0 < told < 1 << 43:
                raise MalformedError("the answer tells no time")
            return told

        query = Query("/api/v3/time", "its time", _TIME_WEIGHT, 4096)
        return await client.get(query, parse)

    async def _info(self, client: HttpClient, symbols: tuple[str, ...]) -> _Facts | None:
        """Return what the exchange lists of these symbols, of all where there are none; None: one is unknown."""

        def parse(answer: Answer) -> _Facts | None:
            if answer.status == 400 and error_code(answer) != _NO_SUCH_SYMBOL:
                raise SourceError(f"{self.host}: exchangeInfo: HTTP 400: {answer.body[:200]!r}")
            return None if answer.status == 400 else _read_info(answer, self.host)

        params = {"symbols": json.dumps(symbols, separators=(",", ":"))} if symbols else {}
        query = Query("/api/v3/exchangeInfo", "exchangeInfo", _INFO_WEIGHT, _MAX_INFO_BYTES, params)
        return await client.get(query, parse, accept=(400,) if symbols else ())


@dataclass(frozen=True, slots=True)
class RestPages:
    """Asks for pages of candles of one interval.

    Attributes:
        client: The connection.
        interval: The interval.
        odd: The odd rows in the answers; see `split_odd`.
    """

    client: HttpClient
    interval: str
    odd: OddDays = field(default_factory=lambda: defaultdict(OddRows))

    async def page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the rows that the host gives for a window of at most PAGE_CANDLES candles, in its order.

        Rows outside the window are left in; an answer with only such rows is requested again. Odd rows are left out.

        Raises:
            InputError: A row cannot be read.
            SourceError: The host did not answer.
        """
        params = {"startTime": window.start_ms, "endTime": window.end_ms - 1, "limit": PAGE_CANDLES}
        return (await self._get(symbol, f"{symbol} from {window}", params, window)).rows

    async def first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Return the first rows that open at a time or later, by time; where odd rows come first, those after them.

        Raises:
            InputError: A row cannot be read, or two contradict each other.
            SourceError: The host did not answer.
        """
        while True:
            params = {"startTime": start_ms, "limit": limit}
            page = await self._get(
                symbol, f"{symbol} from {format_ms(start_ms)}", params, TimeRange(start_ms, _NEVER_MS)
            )
            rows = page.rows.filter(times_ms(page.rows) >= start_ms)
            if rows.height or not page.ts_ms.size:
                return merge_rows([rows], symbol=symbol, where=self.client.host)
            start_ms, limit = int(page.ts_ms.max()) + 1, PAGE_CANDLES

    async def _get(self, symbol: str, subject: str, params: dict[str, int], window: TimeRange) -> Page:
        def parse(answer: Answer) -> Page:
            page = read_page(answer.body, symbol=symbol, interval=self.interval, where=self.client.host)
            inside = (page.ts_ms >= window.start_ms) & (page.ts_ms < window.end_ms)
            if page.ts_ms.size and not inside.any():
                raise MalformedError("all candles of the answer are outside what was asked for")
            add_odd(self.odd, symbol, page.odd)
            return page

        asked: dict[str, str | int] = {"symbol": symbol, "interval": self.interval, **params}
        return await self.client.get(
            Query("/api/v3/klines", subject, _PAGE_WEIGHT, MAX_PAGE_BYTES, asked, symbol), parse
        )


def folder_of(host: str) -> str:
    """Return a name for the folder of a host's candles: its own, or one like it where that cannot be a folder's.

    >>> folder_of("127.0.0.1:8000"), folder_of("[::1]:8000/x")
    ('127.0.0.1_8000', '1-8000-x-0a7153352c5d')
    """
    if _PLAIN_HOST.fullmatch(host):
        return host.replace(":", "_")
    return f"{_ODD.sub('-', host).strip('-')[:100]}-{sha256_bytes(host.encode())[:12]}"


def _object(answer: Answer, host: str) -> dict[str, Json]:
    try:
        told = parse_json(answer.body, where=host, max_bytes=_MAX_INFO_BYTES)
    except InputError as err:
        raise MalformedError(err.message.removeprefix(f"{host}: ")) from err
    if not isinstance(told, dict):
        raise MalformedError("the answer is no JSON object")
    return told


def _read_info(answer: Answer, host: str) -> _Facts:
    told = _object(answer, host)
    match told:
        case {"serverTime": int(server_ms), "rateLimits": list(limits), "symbols": list(listed)}:
            names = [s["symbol"] for s in listed if isinstance(s, dict) and "symbol" in s]
            texts = sorted(name for name in names if isinstance(name, str))
            return _Facts(server_ms, _weight_limit(limits), tuple(texts))
    raise MalformedError("the answer does not tell time, limits and symbols")


def _weight_limit(limits: list[Json]) -> int:
    for limit in limits:
        match limit:
            case {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": int(weight)}:
                if 0 < weight < 10**7:
                    return weight
    return DEFAULT_WEIGHT_LIMIT
