"""The source `ccxt:EXCHANGE`: candles of any exchange that the package ccxt knows, over its REST interface.

ccxt sends the requests and knows symbols, formats and rate limits (`ccxt_client`). The windows, the day cache, the
second request for gaps and all checks are those of the source `binance`. Columns that ccxt does not return
(quote volume, trades, taker volumes) are null.

Exchanges answer in different ways: with fewer candles than were asked for, with the last ones of the range, with those
of the range only, or with their newest ones whatever was asked for. So an answer is never taken for more than its
times say: see `CcxtPages`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import polars as pl

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.candles.symbols import is_symbol, read_symbol
from mltrain.errors import InputError, MachineError, SourceError, UsageError
from mltrain.names import join_first, show
from mltrain.sources.async_run import run_async, task_group
from mltrain.sources.binance import cache_folder_name
from mltrain.sources.download import DownloadJob, DownloadSession, download_days
from mltrain.sources.http_client import HostClock, MachineClock, Traffic
from mltrain.sources.klines import OddRows, add_odd, merge_rows, plan_pages, split_odd
from mltrain.sources.markets import SPOT
from mltrain.sources.network_rules import NetworkRules, check_base_url
from mltrain.sources.source import check_known
from mltrain.sources.source_spec import CCXT_PREFIX
from mltrain.sources.throttle import Throttle
from mltrain.times import HOUR_MS, MINUTE_MS, TimeRange, floor_to_grid, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
    from pathlib import Path
    from types import ModuleType

    from mltrain.progress import Progress
    from mltrain.sources.ccxt_client import CcxtClient
    from mltrain.sources.http_client import Clock
    from mltrain.sources.klines import OddDays
    from mltrain.sources.source import DownloadResult, FundingDownload

T = TypeVar("T")

# ccxt spaces the requests out, mostly by 20 to 100 ms: more would only wait for each other.
_MAX_WORKERS: Final = 4
# The six numbers of a candle in ccxt.
_FIELDS: Final = ("ts", "open", "high", "low", "close", "volume")
# 2009-01-03, the day of the first bitcoin: no candle is older.
_FIRST_CANDLE_MS: Final = 1_230_940_800_000
# The year 2248: every time that an exchange sends is earlier.
_END_OF_TIME_MS: Final = 1 << 43
_LARGEST_WHOLE: Final = 10**300
# With so many candles, times that are all multiples of a longer interval are no accident.
_MIN_ROWS_FOR_INTERVAL: Final = 20
# An answer that ends here or later, in intervals before the newest closed candle, has the newest candles.
_NEWEST_CANDLES: Final = 3


class CcxtSource:
    """Candles of a market of an exchange through ccxt, as a Source.

    Args:
        exchange: Id of the exchange in ccxt, such as "kraken".
        interval: One of INTERVALS_MS.
        base_url: Address that replaces scheme and host of the exchange's; https, or http to this machine. "" for its
            own addresses.
        market: "spot", or "usdm" for perpetual futures that their quote currency settles.
        rules: How the network may be used; None for the defaults.
        now_ms: The machine's time, ms UTC; used for exchanges that do not tell theirs.
        clock: Measures durations and waits; None for this machine's clock.
        rng: Draws the jitter of the pauses before retries.

    Raises:
        UsageError: ccxt does not know the exchange, it has no candles of the interval, or the address is invalid.
        MachineError: ccxt is not installed.
    """

    def __init__(
        self,
        exchange: str,
        interval: str,
        base_url: str = "",
        *,
        market: str = SPOT,
        rules: NetworkRules | None = None,
        now_ms: int | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.interval = interval
        self.market = market
        self.exchange = exchange
        self.base_url = check_base_url(base_url) if base_url else ""
        self._step_ms = interval_ms(interval)
        self._ccxt = _import_client()
        self._page_candles: int = self._ccxt.check_exchange(exchange, interval, market)
        self._rules = rules or NetworkRules()
        # No weight: ccxt keeps to the exchange's rate limit.
        self._throttle = Throttle(weight_limit=0, max_wait_ms=round(self._rules.max_wait_s * 1000))
        self._clock = clock or MachineClock()
        self._host_clock = HostClock(self._clock)
        self._rng = rng or random.Random()  # noqa: S311 -- jitter is not a secret
        self._traffic = Traffic()
        self._now_ms = now_ms
        self._opened_s = self._clock.monotonic_s()
        # The exchange's time as last received, ms UTC.
        self._clock_ms: int | None = None
        # What ccxt knows of each market by unified symbol, and those symbols by ours; None before they are requested.
        self._markets: Mapping[str, Any] | None = None
        self._symbols: Mapping[str, list[str]] = MappingProxyType({})
        # The symbols whose candles were requested.
        self._requested: set[str] = set()
        # Open time of the oldest candle that the exchange still has, ms UTC, by symbol; see `CcxtPages.oldest_ms`.
        self._oldest_ms: dict[str, int] = {}

    @property
    def name(self) -> str:
        """Name of this kind of source, such as "ccxt:kraken"."""
        return f"{CCXT_PREFIX}{self.exchange}"

    @property
    def host(self) -> str:
        """Name of the exchange and, if it is replaced, its address without the scheme, for messages."""
        return self.exchange + (f"@{self.base_url.partition('://')[2]}" if self.base_url else "")

    @property
    def cache_name(self) -> str:
        """Name of this source's folder in the day cache: another market and another host have other candles."""
        host = f".{cache_folder_name(self.base_url.partition('://')[2])}" if self.base_url else ""
        market = "" if self.market == SPOT else f"-{self.market}"
        return f"ccxt{market}@{self.exchange}{host}"

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol of the market, sorted; requests the exchange's markets the first time."""
        return tuple(sorted(self._load_symbols()))

    def read_symbol(self, text: str) -> str:
        """Return the symbol that a user's text spells: BTC/USD or BTC/USDT:USDT as in ccxt, or BTCUSD.

        Raises:
            UsageError: It is not a symbol; suggests similar ones.
        """
        by_market = {market: symbol for symbol, markets in self._load_symbols().items() for market in markets}
        for spelling in (text.strip(), text.strip().upper()):
            if spelling in by_market:
                return by_market[spelling]
        return read_symbol(text, self._symbols)

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that the exchange has a market of each symbol, and only one.

        Raises:
            InputError: A symbol is unknown (suggests similar ones), or may mean two markets.
            SourceError: The exchange or the network failed.
        """
        known = self._load_symbols()
        check_known(symbols, tuple(sorted(known)), self.host)
        for symbol in symbols:
            if len(known[symbol]) > 1:
                raise InputError(f"{self.host}: {symbol} may be {' or '.join(sorted(known[symbol]))}")
        self._requested.update(symbols)

    def _load_symbols(self) -> Mapping[str, list[str]]:
        """Return the unified symbols of ccxt's markets by ours; requests them, and the time, the first time."""
        if self._markets is None:

            async def load(client: CcxtClient) -> dict[str, Any]:
                markets = await client.load_markets()
                self._clock_ms = await self._request_time(client)
                return markets

            self._markets = self._run(load)
            self._symbols = map_symbols(self._markets, self.market)
        return self._symbols

    def _unified(self, symbol: str) -> str:
        """Return ccxt's unified symbol of a symbol that was checked."""
        return self._symbols[symbol][0]

    def clock_ms(self, symbols: tuple[str, ...]) -> int:  # noqa: ARG002 -- one clock for all symbols
        """Return the exchange's time, ms UTC, as last received; requests it the first time."""
        if self._clock_ms is None:
            self._clock_ms = self._run(self._request_time)
        return self._clock_ms

    async def _request_time(self, client: CcxtClient) -> int:
        """Return the exchange's time or, if it does not tell it, the machine's, ms UTC."""
        if client.has_time:
            return await client.fetch_time()
        if self._now_ms is None:
            raise UsageError(
                f"the exchange {self.exchange} does not tell its time, which decides which candles are closed",
                hint="pass now_ms=int(time.time() * 1000)",
            )
        return self._now_ms + round((self._clock.monotonic_s() - self._opened_s) * 1000)

    def renew_clock(self) -> None:
        """Make the next `clock_ms` request the exchange's time again."""
        self._clock_ms = None

    def extent(self, symbol: str) -> TimeRange:
        """Return the range from the first open time that the exchange answers with to its newest closed candle's end.

        It is searched for by halves, because many exchanges only look a page ahead of the requested time.

        Raises:
            InputError: The symbol is unknown, or it has no candle.
        """
        self.check_symbols((symbol,))
        clock_ms = self.clock_ms((symbol,))
        end_ms = floor_to_grid(clock_ms, self._step_ms)

        page_ms, limit = self._page_candles * self._step_ms, self._page_candles - 1

        async def find_first(client: CcxtClient) -> int | None:
            pages = self._pages(client, end_ms)

            async def first_from(start_ms: int) -> int | None:
                try:
                    rows = await pages.fetch_first(symbol, start_ms, limit=limit)
                except SourceError as err:
                    # Some exchanges refuse times before their history.
                    if not self._ccxt.refuses_request(err.__cause__):
                        raise
                    return None
                return None if rows.is_empty() else int(times_ms(rows)[0])

            first_ms, low_ms = await first_from(end_ms - page_ms // 2), _FIRST_CANDLE_MS
            # No candle opens before low_ms; the one at first_ms exists.
            while first_ms is not None and first_ms - low_ms > page_ms // 2:
                middle_ms = floor_to_grid((low_ms + first_ms) // 2, self._step_ms)
                found_ms = await first_from(middle_ms)
                if found_ms is None or found_ms >= first_ms:
                    low_ms = middle_ms + page_ms // 2
                else:
                    first_ms = found_ms
            return first_ms if first_ms is None else min(first_ms, await first_from(low_ms) or first_ms)

        first_ms = self._run(find_first)
        if first_ms is None:
            raise InputError(f"{self.host} has no newer candles of {symbol}")
        return TimeRange(first_ms, end_ms)

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Request the closed candles that open inside the window; the day cache is not used."""
        return self.candles_of({symbol: window})[symbol]

    def candles_of(self, windows: Mapping[str, TimeRange]) -> dict[str, pl.DataFrame]:
        """Request, concurrently, the closed candles of each symbol that open inside its window; no cache is used."""
        self.check_symbols(tuple(windows))
        end_ms = floor_to_grid(self.clock_ms(tuple(windows)), self._step_ms)
        closed = {s: TimeRange(window.start_ms, min(window.end_ms, end_ms)) for s, window in windows.items()}

        async def fetch(client: CcxtClient) -> dict[str, pl.DataFrame]:
            pages = self._pages(client, end_ms)
            async with task_group() as group:
                tasks = {s: group.create_task(pages.fetch_range(s, window)) for s, window in closed.items()}
            return {s: task.result() for s, task in tasks.items()}

        frames = self._run(fetch)
        return {s: check_candles(f, symbol=s, interval=self.interval, where=self.host) for s, f in frames.items()}

    def funding(self, symbols: tuple[str, ...], window: TimeRange) -> FundingDownload | None:  # noqa: ARG002
        """Return None: funding rates are not requested through ccxt."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Return of which symbols the exchange keeps only the newest candles, and whose volumes may be contracts."""
        notes = [
            f"{symbol}: {self.host} answers with its newest candles only, from {format_ms(oldest_ms)} on: "
            "it does not return earlier ones"
            for symbol, oldest_ms in sorted(self._oldest_ms.items())
        ]
        return (*notes, *self._describe_contracts())

    def _describe_contracts(self) -> Iterator[str]:
        """Yield a note on futures whose volume may not be in coins: ccxt returns what the exchange sends."""
        sizes = {s: (self._markets or {})[self._unified(s)].get("contractSize") for s in sorted(self._requested)}
        if named := [f"{symbol} ({size:g} coins)" for symbol, size in sizes.items() if size not in {None, 1}]:
            yield f"{self.host}: volumes may count contracts, not coins: {join_first(named, 3)}"

    @contextmanager
    def download(
        self, symbols: tuple[str, ...], window: TimeRange, *, data_dir: Path, refresh: bool, progress: Progress
    ) -> Iterator[DownloadResult]:
        """Download the days that the cache in `data_dir` lacks (`refresh`: all), to be read while the block lasts."""
        self.check_symbols(symbols)
        job = DownloadJob(
            host=self.host,
            interval=self.interval,
            cache_name=self.cache_name,
            clock_ms=self.clock_ms(symbols),
            workers=min(self._rules.connections, _MAX_WORKERS),
            connect=self._connect,
            clock=self._clock,
            throttle=self._throttle,
            traffic=self._traffic,
            page_candles=self._page_candles - 1,
            empty_is_end=False,
        )
        with download_days(job, symbols, window, data_dir=data_dir, refresh=refresh, progress=progress) as result:
            yield replace(result, notes=lambda: (*result.notes(), *self.notes()))

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[DownloadSession]:
        """Open a client of the exchange for one download."""
        async with self._client() as client:
            pages = self._pages(client, floor_to_grid(self._clock_ms or 0, self._step_ms))
            yield DownloadSession(pages, odd=pages.odd)

    def _client(self) -> CcxtClient:
        """Return a client of the exchange; all of them share markets, throttle, clock and traffic."""
        client: CcxtClient = self._ccxt.CcxtClient(
            self.exchange,
            where=self.host,
            base_url=self.base_url,
            market=self.market,
            rules=self._rules,
            throttle=self._throttle,
            traffic=self._traffic,
            host_clock=self._host_clock,
            rng=self._rng,
            markets=self._markets,
        )
        return client

    def _pages(self, client: CcxtClient, closed_ms: int) -> CcxtPages:
        """Return the requests for pages; candles that open at `closed_ms`, ms UTC, or later are not closed."""
        return CcxtPages(client, self.interval, self._page_candles, closed_ms, self._unified, self._oldest_ms)

    def _run(self, request: Callable[[CcxtClient], Coroutine[Any, Any, T]]) -> T:
        """Open a client, run `request` with it, and return its result."""

        async def run() -> T:
            async with self._client() as client:
                return await request(client)

        return run_async(run)


@dataclass(frozen=True, slots=True)
class CcxtPages:
    """Requests pages of candles of one interval from an exchange.

    Attributes:
        client: The open client.
        interval: The interval.
        page_candles: The most candles that one answer holds, 2 or more.
        closed_ms: End of the newest closed candle, ms UTC; later ones are left out.
        market: Returns ccxt's unified symbol of a symbol.
        oldest_ms: Receives the oldest candle, by symbol, of an exchange that answers with its newest candles, whatever
            was asked for: its open time, ms UTC.
        absent: Ranges of open times without candles, by symbol, as answers have shown; not requested again.
        odd: The odd rows received so far; see `split_odd`.
    """

    client: CcxtClient
    interval: str
    page_candles: int
    closed_ms: int
    market: Callable[[str], str]
    oldest_ms: dict[str, int]
    absent: dict[str, list[TimeRange]] = field(default_factory=dict)
    odd: OddDays = field(default_factory=lambda: defaultdict(OddRows))

    async def fetch_page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside a window of at most `page_candles` - 1, sorted.

        What an answer leaves out before its first and after its last candle is requested again, until an answer has
        no candle of it: the exchange may have answered with fewer candles than it was asked for.
        """
        frames = [_no_rows()]
        waiting = [TimeRange(window.start_ms, min(window.end_ms, self.closed_ms))]
        while waiting:
            part = waiting.pop()
            if part.start_ms >= part.end_ms or self._is_absent(symbol, part):
                continue
            step_ms = interval_ms(self.interval)
            rows = await self._request(
                symbol, part.start_ms, (part.end_ms - part.start_ms) // step_ms, subject=f"{part}"
            )
            inside = rows.filter(times_ms(rows) < part.end_ms)
            if inside.is_empty():
                self._note_absent(symbol, part, rows)
                continue
            frames.append(inside)
            first_ms, last_ms = (int(t) for t in times_ms(inside)[[0, -1]])
            waiting += [TimeRange(part.start_ms, first_ms), TimeRange(last_ms + step_ms, part.end_ms)]
        return merge_rows(frames, symbol=symbol, where=self.client.where)

    async def fetch_range(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside a window of any length, sorted."""
        pages = list(plan_pages(window, interval_ms(self.interval), candles=self.page_candles - 1))
        frames = [_no_rows(), *[await self.fetch_page(symbol, page) for page in pages]]
        return merge_rows(frames, symbol=symbol, where=self.client.where)

    async def fetch_first(self, symbol: str, start_ms: int, *, limit: int) -> pl.DataFrame:
        """Return the first `limit` candles that open at `start_ms`, ms UTC, or later, as far as it looks.

        Many exchanges look only `limit` intervals ahead: an empty answer says nothing about later candles.
        """
        rows = await self._request(symbol, start_ms, limit, subject=f"from {format_ms(start_ms)}")
        return rows.filter(times_ms(rows) < self.closed_ms)

    async def _request(self, symbol: str, start_ms: int, candles: int, *, subject: str) -> pl.DataFrame:
        """Request `candles` candles that open at `start_ms`, ms UTC, or later; return those of the answer, sorted.

        It asks for one candle more, the one before: a few exchanges leave out the one that opens at the time itself.
        """
        step_ms = interval_ms(self.interval)
        rows = await self.client.fetch_candles(
            self.market(symbol),
            self.interval,
            since_ms=max(start_ms - step_ms, 0),
            limit=min(candles + 1, self.page_candles),
            symbol=symbol,
            subject=f"{symbol} {subject}",
        )
        frame = self._leave_out_odd(read_rows(rows, symbol=symbol, where=self.client.where), symbol)
        if frame.height >= _MIN_ROWS_FOR_INTERVAL:
            apart_ms = int(np.gcd.reduce(np.diff(times_ms(frame))))
            if apart_ms > step_ms:
                raise InputError(
                    f"{self.client.where}: {symbol} {subject}: the candles are {apart_ms / MINUTE_MS:g} minutes apart, "
                    f"not of {self.interval}"
                )
        frame = frame.filter(times_ms(frame) >= start_ms)
        if frame.height and int(times_ms(frame)[0]) < self.oldest_ms.get(symbol, 0):
            # Only that one answer had nothing but the newest candles.
            del self.oldest_ms[symbol]
        return frame

    def _leave_out_odd(self, frame: pl.DataFrame, symbol: str) -> pl.DataFrame:
        """Leave out the odd rows of the exchange's history that open off the grid, and count them; see `split_odd`.

        Of longer intervals, they are kept, and refused later: days may begin at an exchange's local midnight.
        """
        step_ms = interval_ms(self.interval)
        if step_ms > HOUR_MS:
            return frame
        ts_ms = times_ms(frame)
        where = self.client.where
        kept, odd = split_odd(ts_ms, ts_ms + step_ms - 1, symbol=symbol, interval=self.interval, where=where)
        add_odd(self.odd, symbol, odd)
        return frame if kept.all() else frame.filter(kept)

    def _is_absent(self, symbol: str, part: TimeRange) -> bool:
        """Return whether an earlier answer has shown that the exchange has no candle in a range."""
        return any(r.start_ms <= part.start_ms and part.end_ms <= r.end_ms for r in self.absent.get(symbol, ()))

    def _note_absent(self, symbol: str, part: TimeRange, rows: pl.DataFrame) -> None:
        """Keep that the exchange has no candle from the beginning of `part` to the first one of its answer `rows`.

        An answer without any says nothing about the time after `part`.
        """
        if rows.is_empty():
            return
        first_ms, last_ms = (int(t) for t in times_ms(rows)[[0, -1]])
        self.absent.setdefault(symbol, []).append(TimeRange(part.start_ms, first_ms))
        if last_ms >= self.closed_ms - _NEWEST_CANDLES * interval_ms(self.interval):
            self.oldest_ms[symbol] = first_ms


def read_rows(rows: list[Any], *, symbol: str, where: str) -> pl.DataFrame:
    """Return the candles of ccxt as a frame with the columns of CANDLE_SCHEMA, sorted and without exact duplicates.

    Args:
        rows: Lists of open time (ms UTC), open, high, low, close and volume, in any order.
        symbol: For messages.
        where: The exchange, for messages.

    Raises:
        InputError: A row has fewer numbers, one is missing or not a number, or two rows of one time differ.
    """
    if not all(isinstance(row, list | tuple) and len(row) >= len(_FIELDS) for row in rows):
        raise InputError(f"{where}: {symbol}: a candle has fewer than {len(_FIELDS)} numbers")
    columns: dict[str, list[float]] = {name: [] for name in _FIELDS}
    for i, row in enumerate(rows):
        for name, value in zip(_FIELDS, row, strict=False):
            number = _read_number(value, is_time=name == "ts")
            if number is None:
                place = f"at {format_ms(int(columns['ts'][i]))}" if name != "ts" else f"in row {i + 1}"
                shown = "missing" if value is None else show(str(value))
                expected = "a time" if name == "ts" else "a number"
                raise InputError(f"{where}: {symbol} {place}: {name} is {shown}: not {expected}")
            columns[name].append(number)
    frame = pl.DataFrame({name: pl.Series(values, dtype=pl.Float64) for name, values in columns.items()})
    # Times in ms are whole numbers far below 2**53, which floats hold exactly.
    frame = frame.with_columns(pl.col("ts").cast(pl.Int64).cast(CANDLE_SCHEMA["ts"]))
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in CANDLE_SCHEMA.items() if name not in frame.columns]
    return merge_rows([frame.with_columns(absent).select(list(CANDLE_SCHEMA))], symbol=symbol, where=where)


def _read_number(value: object, *, is_time: bool) -> float | None:
    """Return a number of ccxt as a float; None if it is not a number or, as a time in ms UTC, not a plausible one."""
    if isinstance(value, bool) or not isinstance(value, int if is_time else int | float):
        return None
    if is_time:
        return float(value) if 0 <= value < _END_OF_TIME_MS else None
    # A whole number of more than 308 digits cannot become a float.
    return float(value) if isinstance(value, float) or abs(value) < _LARGEST_WHOLE else None


def map_symbols(markets: Mapping[str, Any], market: str) -> dict[str, list[str]]:
    """Return ccxt's unified symbols of the spot or the "usdm" markets by our symbol; one symbol may mean several.

    >>> map_symbols({"BTC/USD": {"symbol": "BTC/USD", "base": "BTC", "quote": "USD", "spot": True}}, "spot")
    {'BTCUSD': ['BTC/USD']}
    """
    symbols: dict[str, list[str]] = {}
    for each in markets.values():
        unified, quote = str(each["symbol"]), each["quote"]
        # Coin-margined futures are no part of "usdm": their volumes are not in coins. Kraken lists oddities as spot.
        is_spot = bool(each.get("spot")) and ":" not in unified
        is_usdm = bool(each.get("swap") and each.get("linear")) and each.get("settle") == quote
        symbol = f"{each['base'] or ''}{quote or ''}".upper()
        # Some names cannot be file names, such as those with a hyphen or in Chinese; they cannot be requested.
        if (is_spot if market == SPOT else is_usdm) and is_symbol(symbol):
            symbols.setdefault(symbol, []).append(unified)
    return symbols


def _no_rows() -> pl.DataFrame:
    """Return a frame of candles without rows."""
    return pl.DataFrame(schema=CANDLE_SCHEMA)


def _import_client() -> ModuleType:
    """Import the client, and so ccxt; raise a MachineError with the command that installs it."""
    try:
        from mltrain.sources import ccxt_client
    except ModuleNotFoundError as err:
        if (err.name or "").partition(".")[0] == "mltrain":
            raise
        raise MachineError(
            f"candles of other exchanges need the package ccxt, which is not installed ({err.name} is missing)",
            hint="pip install 'mltrain-lgbm[ccxt]', or pipx inject mltrain-lgbm ccxt",
        ) from err
    return ccxt_client
