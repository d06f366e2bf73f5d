"""The answers of the simulated exchange, REST endpoints and archive, as pure functions of the time.

There are two markets, spot and USD-M futures, each with its paths, symbols, request weights and limits. They behave
like those of the real exchange: `endTime` is inclusive and means open times, the candle that is still open is included,
errors are a code and a message, and an archive file appears some days after its day is over.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mltrain.candles.frame import times_ms
from mltrain.candles.funding import LONGEST_INTERVAL_MS
from mltrain.errors import UsageError
from mltrain.simulator.wire import write_day_zip, write_funding_zip, write_number, write_page
from mltrain.sources.funding_download import PAGE_EVENTS, next_month_ms
from mltrain.sources.markets import MARKETS, SPOT, USDM
from mltrain.sources.simulated_market import LAST_CLOCK_MS, SimSource, first_open_ms
from mltrain.times import DAY_MS, INTERVALS_MS, TimeRange, parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.documents.values import Json
    from mltrain.sources.markets import Market

#: Endpoints that cost request weight. The archive costs none.
WEIGHTED: Final = ("time", "ping", "klines", "exchangeInfo")
ARCHIVE_ROOT: Final = "/archive"
JSON_TYPE: Final = "application/json;charset=UTF-8"

_DEFAULT_LIMIT: Final = 500
_DEFAULT_EVENTS: Final = 100
_INTEGER: Final = re.compile(r"[0-9]{1,15}")
_ARCHIVE: Final = re.compile(
    r"/archive/data/(?P<folder>spot|futures/um)/daily/klines/(?P<symbol>[A-Z0-9]{2,20})/(?P<interval>[0-9]{1,2}[mhd])/"
    r"(?P=symbol)-(?P=interval)-(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})\.zip(?:\.CHECKSUM)?"
)
_FUNDING_ARCHIVE: Final = re.compile(
    r"/archive/data/(?P<folder>futures/um)/monthly/fundingRate/(?P<symbol>[A-Z0-9]{2,20})/"
    r"(?P=symbol)-fundingRate-(?P<month>[0-9]{4}-[0-9]{2})\.zip(?:\.CHECKSUM)?"
)
_CHECKSUM: Final = ".CHECKSUM"
_NO_SUCH_KEY: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request: its path, and its query with the last value of each name."""

    path: str
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """One of time, ping, klines, exchangeInfo, fundingRate, archive, checksum, other, ...

        ... and fundingArchive or fundingChecksum for a month of funding events.
        """
        api = self.market.api
        if self.path.startswith(api):
            name = self.path.removeprefix(api)
            if name == "fundingRate":
                return name if self.market.has_funding else "other"
            return name if name in WEIGHTED else "other"
        if not self.path.startswith(f"{ARCHIVE_ROOT}/"):
            return "other"
        kind = "checksum" if self.path.endswith(_CHECKSUM) else "archive"
        return f"funding{kind.capitalize()}" if "/fundingRate/" in self.path else kind

    @property
    def market(self) -> Market:
        """The market whose endpoint or archive is requested."""
        is_usdm = self.path.startswith((MARKETS[USDM].api, f"{ARCHIVE_ROOT}/data/{MARKETS[USDM].archive_folder}/"))
        return MARKETS[USDM if is_usdm else SPOT]

    @property
    def weight(self) -> int:
        """Its request weight; 0 if it costs none."""
        match self.endpoint:
            case "time" | "ping":
                return self.market.time_weight
            case "exchangeInfo":
                return self.market.info_weight
            case "klines":
                limit = self.query.get("limit", "")
                return self.market.page_weight(int(limit) if _INTEGER.fullmatch(limit) else _DEFAULT_LIMIT)
        return 0

    @property
    def symbol(self) -> str:
        """The requested symbol; empty without one or with several."""
        file = read_archive_path(self.path)
        return self.query.get("symbol", "") if file is None else file.symbol


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer of the exchange."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A zip in the archive of a market, or its checksum file: a day of candles, or a month of funding events.

    Attributes:
        market: Name of the market.
        symbol: The symbol.
        interval: Interval of the candles; empty for funding.
        start_ms: Beginning of the day or month, ms UTC.
        end_ms: Its end.
        zip_name: The file name of the zip.
        is_checksum: Whether the checksum file is named.
    """

    market: str
    symbol: str
    interval: str
    start_ms: int
    end_ms: int
    zip_name: str
    is_checksum: bool


@lru_cache(maxsize=4096)
def read_archive_path(path: str) -> ArchiveFile | None:
    """Return the file that a path of the archive names, whether or not the archive has it; None for any other path."""
    match = _ARCHIVE.fullmatch(path) or _FUNDING_ARCHIVE.fullmatch(path)
    named = {} if match is None else match.groupdict()
    interval, month = named.get("interval") or "", named.get("month")
    if match is None or (month is None and interval not in INTERVALS_MS):
        return None
    try:
        start_ms = parse_time(named["day"] if month is None else f"{month}-01")
    except UsageError:
        return None
    end_ms = start_ms + DAY_MS if month is None else next_month_ms(start_ms)
    market = next(name for name, market in MARKETS.items() if market.archive_folder == match["folder"])
    zip_name = path.rpartition("/")[2].removesuffix(_CHECKSUM)
    return ArchiveFile(market, match["symbol"], interval, start_ms, end_ms, zip_name, path.endswith(_CHECKSUM))


class _Refused(Exception):  # noqa: N818 -- becomes an answer
    """A request that the exchange answers with 400."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.answer = refuse(code, message)


def refuse(code: int, message: str, *, status: int = 400) -> Answer:
    """Return an error answer with an error code of Binance, such as -1121, and its message."""
    return answer_json({"code": code, "msg": message}, status=status)


def answer_json(value: Json, *, status: int = 200) -> Answer:
    """Return the answer with a JSON document, without spaces as from the exchange."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode())


@dataclass(frozen=True, slots=True)
class Exchange:
    """A simulated exchange that speaks HTTP.

    Attributes:
        seed: Seed of the market.
        signal: How predictable the market is: a key of STRENGTH.
        weight_limit: Weight per minute that exchangeInfo states; None: that of the real market.
        archive_lag_days: How many of the newest closed days the archive lacks.
    """

    seed: int = 0
    signal: str = "none"
    weight_limit: int | None = None
    archive_lag_days: int = 1

    def answer(self, request: Request, clock_ms: int) -> Answer:
        """Return the answer to a request when the exchange's clock shows `clock_ms`, ms UTC."""
        answer = Answer(404, b"<html><body><h2>404 Not found</h2></body></html>", "text/html")
        try:
            match request.endpoint:
                case "klines":
                    answer = self._klines(request, clock_ms)
                case "time":
                    answer = answer_json({"serverTime": clock_ms})
                case "ping":
                    answer = answer_json({})
                case "exchangeInfo":
                    answer = self._exchange_info(request, clock_ms)
                case "fundingRate":
                    answer = self._funding_rates(request, clock_ms)
                case "archive" | "checksum" | "fundingArchive" | "fundingChecksum":
                    answer = self._archive_file(request.path, clock_ms)
        except _Refused as refused:
            answer = refused.answer
        return answer

    def source(self, market: str, interval: str) -> SimSource:
        """Return a market with candles of an interval, its clock at the end of its life, so that all are closed."""
        return _source(market, interval, self.seed, self.signal)

    def _klines(self, request: Request, clock_ms: int) -> Answer:
        """Answer a request for a page of candles."""
        query, market = request.query, request.market
        symbol = self._check_symbol(_read_text(query, "symbol"))
        interval = _read_text(query, "interval")
        if interval not in INTERVALS_MS or (interval == "1s" and not market.has_seconds):
            raise _Refused(-1120, "Invalid interval.")
        start_ms, end_ms = _read_integer(query, "startTime"), _read_integer(query, "endTime")
        limit = _read_integer(query, "limit")
        _check_limit(limit, market, most=market.max_page_candles)
        _check_order(start_ms, end_ms, market)
        body = write_page(
            self.source(market.name, interval),
            symbol,
            first_ms=start_ms,
            last_ms=clock_ms if end_ms is None else end_ms,
            limit=min(limit or _DEFAULT_LIMIT, market.max_page_candles),
            clock_ms=clock_ms,
        )
        return Answer(200, body)

    def _funding_rates(self, request: Request, clock_ms: int) -> Answer:
        """Answer a request for funding events: the first ones from `startTime` on, or without it the latest ones."""
        query = request.query
        symbol = self._check_symbol(_read_text(query, "symbol"))
        start_ms, end_ms = _read_integer(query, "startTime"), _read_integer(query, "endTime")
        limit = _read_integer(query, "limit")
        _check_limit(limit, request.market, most=PAGE_EVENTS)
        _check_order(start_ms, end_ms, request.market)
        before_ms = min(clock_ms, clock_ms if end_ms is None else end_ms + 1)
        count = limit or _DEFAULT_EVENTS
        # An event more than fits at either end, as each may be some milliseconds late.
        reach_ms = (count + 1) * LONGEST_INTERVAL_MS
        if start_ms is None:
            return answer_json(self._funding_events(symbol, max(0, before_ms - reach_ms), before_ms)[-count:])
        return answer_json(self._funding_events(symbol, start_ms, min(before_ms, start_ms + reach_ms))[:count])

    def _funding_events(self, symbol: str, start_ms: int, end_ms: int) -> list[Json]:
        """Return the funding events of a symbol from `start_ms` to before `end_ms`, ms UTC, as the exchange does."""
        frame = self.source(USDM, "1m").funding_of(symbol, TimeRange(start_ms, end_ms))
        return [
            {
                "symbol": symbol,
                "fundingTime": time_ms,
                "fundingRate": write_number(rate),
                "markPrice": "" if mark_price is None else write_number(mark_price),
            }
            for time_ms, rate, mark_price in zip(
                times_ms(frame).tolist(), frame["rate"].to_list(), frame["mark_price"].to_list(), strict=True
            )
        ]

    def _exchange_info(self, request: Request, clock_ms: int) -> Answer:
        """Answer a request for the symbols and limits of the exchange; that of futures takes no symbols."""
        market = request.market
        symbols = self._requested_symbols(request.query) if market.info_by_symbol else tuple(sorted(_symbols()))
        listed: list[Json] = [_describe_symbol(symbol, market) for symbol in symbols]
        if market.name == USDM:
            listed.append({**_describe_symbol("BTCUSDT_251226", market), "contractType": "CURRENT_QUARTER"})
        rate_limits: list[Json] = [
            {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}
            for kind, interval, number, limit in (
                ("REQUEST_WEIGHT", "MINUTE", 1, self.weight_limit or market.weight_limit),
                ("ORDERS", "SECOND", 10, 100),
                ("ORDERS", "DAY", 1, 200_000),
                ("RAW_REQUESTS", "MINUTE", 5, 61_000),
            )
        ]
        return answer_json(
            {
                "timezone": "UTC",
                "serverTime": clock_ms,
                "rateLimits": rate_limits,
                "exchangeFilters": [],
                "symbols": listed,
            }
        )

    def _requested_symbols(self, query: Mapping[str, str]) -> tuple[str, ...]:
        """Return the symbols that the parameter `symbol` or `symbols` names; all without either."""
        if "symbol" in query and "symbols" in query:
            raise _Refused(-1128, "Combination of optional parameters invalid.")
        if "symbol" in query:
            return (self._check_symbol(_read_text(query, "symbol")),)
        if "symbols" not in query:
            return tuple(sorted(_symbols()))
        try:
            symbols = json.loads(query["symbols"])
        except ValueError:
            symbols = None
        if not isinstance(symbols, list) or not symbols or not all(isinstance(s, str) for s in symbols):
            legal = r'^\[("[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}){0,1}\]$'
            raise _Refused(-1100, f"Illegal characters found in parameter 'symbols'; legal range is '{legal}'.")
        return tuple(self._check_symbol(s) for s in symbols)

    def _check_symbol(self, symbol: str) -> str:
        """Return a symbol that the exchange has; refuse any other."""
        if not re.fullmatch(r"[A-Z0-9_.-]{1,20}", symbol):
            raise _Refused(
                -1100, "Illegal characters found in parameter 'symbol'; legal range is '^[A-Z0-9-_.]{1,20}$'."
            )
        if symbol not in _symbols():
            raise _Refused(-1121, "Invalid symbol.")
        return symbol

    def _archive_file(self, path: str, clock_ms: int) -> Answer:
        """Answer a request for a file of the archive, which has all closed days but the newest `archive_lag_days`."""
        file = read_archive_path(path)
        if file is None or file.symbol not in _symbols():
            return answer_no_file()
        newest_ms = (clock_ms // DAY_MS - self.archive_lag_days) * DAY_MS
        if file.end_ms > newest_ms or file.start_ms < first_open_ms(file.interval or "1m") // DAY_MS * DAY_MS:
            return answer_no_file()
        if not file.interval:
            data = write_funding_zip(self.source(file.market, "1m"), file.symbol, file.start_ms, file.end_ms)
        # Of intervals longer than a day there are no daily files.
        elif INTERVALS_MS[file.interval] > DAY_MS or (file.interval == "1s" and not MARKETS[file.market].has_seconds):
            return answer_no_file()
        else:
            data = write_day_zip(self.source(file.market, file.interval), file.symbol, file.start_ms // DAY_MS)
        return answer_checksum(data, file.zip_name) if file.is_checksum else Answer(200, data, "application/zip")


def answer_no_file() -> Answer:
    """Return the archive's answer for a file that it does not have."""
    return Answer(404, _NO_SUCH_KEY.encode(), "application/xml")


def answer_checksum(data: bytes, file_name: str) -> Answer:
    """Return the answer with the checksum of an archive file, as `sha256sum` writes it."""
    return Answer(200, f"{hashlib.sha256(data).hexdigest()}  {file_name}\n".encode(), "text/plain")


@lru_cache(maxsize=64)
def _source(market: str, interval: str, seed: int, signal: str) -> SimSource:
    return SimSource(interval=interval, seed=seed, signal=signal, end_ms=LAST_CLOCK_MS, market=market)


def _describe_symbol(symbol: str, market: Market) -> dict[str, Json]:
    """Return a symbol as exchangeInfo describes it, with the fields that tell spot from futures."""
    described: dict[str, Json] = {
        "symbol": symbol,
        "status": "TRADING",
        "baseAsset": symbol.removesuffix("USDT"),
        "quoteAsset": "USDT",
    }
    if market.name == SPOT:
        return {**described, "isSpotTradingAllowed": True}
    return {**described, "pair": symbol, "contractType": "PERPETUAL", "marginAsset": "USDT"}


def _check_limit(limit: int | None, market: Market, *, most: int) -> None:
    """Refuse a number of rows of 0; more than `most` rows are refused by the futures market, and cut by spot."""
    if limit == 0 or (limit is not None and limit > most and market.name == USDM):
        raise _Refused(-1130, "Data sent for parameter 'limit' is not valid.")


def _check_order(start_ms: int | None, end_ms: int | None, market: Market) -> None:
    """Refuse a window that ends before it begins, as the futures market does; spot answers with no rows."""
    if market.name == USDM and start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise _Refused(-1023, "Start time is greater than end time.")


@lru_cache(maxsize=1)
def _symbols() -> frozenset[str]:
    """Return the symbols that the exchange lists."""
    return frozenset(SimSource().symbols())


def _read_text(query: Mapping[str, str], name: str) -> str:
    """Return a mandatory parameter of a request; refuse the request without it."""
    if not query.get(name):
        raise _Refused(-1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed.")
    return query[name]


def _read_integer(query: Mapping[str, str], name: str) -> int | None:
    """Return an optional parameter of a request as a number; None if it was not sent."""
    if name not in query:
        return None
    if not query[name]:
        raise _Refused(-1105, f"Parameter '{name}' was empty.")
    if not _INTEGER.fullmatch(query[name]):
        raise _Refused(-1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(query[name])
