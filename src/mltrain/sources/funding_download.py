"""Funding rates of the exchange: pages over REST, months from the archive, and the gaps requested a second time.

https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Get-Funding-Rate-History
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl

from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.candles.funding import LONGEST_INTERVAL_MS, check_funding, find_funding_gaps
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.sources.async_run import task_group
from mltrain.sources.http_client import MalformedError, Query
from mltrain.sources.source import FundingDownload, Origin, SymbolFunding
from mltrain.times import EPOCH, LAST_MS, MINUTE_MS, TimeRange, day_name, format_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.documents.values import Json
    from mltrain.sources.http_client import Answer, HttpClient
    from mltrain.sources.markets import Market

#: Requests for funding rates that the exchange allows in FUNDING_LIMIT_MS; it counts them apart from the weight.
FUNDING_LIMIT: Final = 500
FUNDING_LIMIT_MS: Final = 5 * MINUTE_MS
#: The most events that one answer holds.
PAGE_EVENTS: Final = 1000

_MAX_PAGE_BYTES: Final = 1 << 20
_COLUMNS: Final = ("calc_time", "last_funding_rate")
_RAW: Final = {"ts": pl.Int64(), "rate": pl.String(), "mark_price": pl.String()}


class Months(Protocol):
    """Requests the funding events of whole months from an archive."""

    async def fetch_month(self, symbol: str, month_ms: int) -> tuple[pl.DataFrame, str] | str:
        """Return the events of the month that begins at `month_ms`, and the SHA-256 of its zip; or why not."""


@dataclass(frozen=True, slots=True)
class FundingSession:
    """Open connections for funding rates.

    Attributes:
        pages: Requests events over REST.
        months: Requests whole months from an archive; None without one.
    """

    pages: FundingPages
    months: Months | None = None


@dataclass(frozen=True, slots=True)
class FundingPages:
    """Requests funding events from a REST host.

    Attributes:
        client: The open client, whose throttle counts requests for funding rates.
        market: The market, which has funding.
    """

    client: HttpClient
    market: Market

    async def fetch(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Request the events of a symbol in a window; return columns ts, rate and mark_price, in the host's order.

        An answer has the first PAGE_EVENTS events of the window; the next request begins after the last of them. A
        short answer ends the window only if no further event is due in it.
        """
        frames = []
        start_ms = window.start_ms
        while start_ms < window.end_ms:
            page = await self._fetch_page(symbol, TimeRange(start_ms, window.end_ms))
            frames.append(page)
            if page.is_empty():
                break
            last_ms = int(times_ms(page).max())
            if page.height < PAGE_EVENTS and last_ms + LONGEST_INTERVAL_MS >= window.end_ms:
                break
            start_ms = last_ms + 1
        return pl.concat(frames) if frames else _as_events([], where=self.client.host, symbol=symbol)

    async def _fetch_page(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Request the first events of a window; an answer with events outside it is requested again."""

        def parse(answer: Answer) -> pl.DataFrame:
            rows = read_funding_page(answer.body, symbol=symbol, where=self.client.host)
            ts_ms = times_ms(rows)
            if ((ts_ms < window.start_ms) | (ts_ms >= window.end_ms)).any():
                raise MalformedError("funding events of the answer are outside what was asked for")
            return rows

        query = Query(
            f"{self.market.api}fundingRate",
            subject=f"funding rates of {symbol} from {window}",
            weight=1,
            max_bytes=_MAX_PAGE_BYTES,
            params={
                "symbol": symbol,
                "startTime": window.start_ms,
                "endTime": window.end_ms - 1,
                "limit": PAGE_EVENTS,
            },
            symbol=symbol,
        )
        return await self.client.get(query, parse)


async def fetch_funding(
    session: FundingSession, symbols: Sequence[str], window: TimeRange, *, clock_ms: int
) -> FundingDownload:
    """Request the funding events of symbols in a window, concurrently, and their gaps a second time.

    Args:
        session: Open connections.
        symbols: The symbols.
        window: The times.
        clock_ms: The exchange's time, ms UTC: later events do not exist yet, and months that end later are not over.

    Raises:
        InputError: An event is damaged, or two of one time differ.
        SourceError: The exchange or the network failed.
    """
    closed = TimeRange(window.start_ms, min(window.end_ms, clock_ms))
    async with task_group() as group:
        tasks = {s: group.create_task(_fetch_symbol(session, s, closed, clock_ms)) for s in symbols}
    results = {symbol: task.result() for symbol, task in tasks.items()}
    return FundingDownload(
        {symbol: funding for symbol, (funding, _) in results.items()},
        tuple(note for _, notes in results.values() for note in notes),
    )


async def _fetch_symbol(
    session: FundingSession, symbol: str, window: TimeRange, clock_ms: int
) -> tuple[SymbolFunding, list[str]]:
    """Request the funding events of a symbol in a window; return them, and notes for the user."""
    host = session.pages.client.host
    notes: list[str] = []
    frames: list[pl.DataFrame] = []
    origins: list[Origin] = []
    for part in _split_months(window) if session.months is not None else [window]:
        rows, origin, note = await _fetch_part(session, symbol, part, clock_ms)
        frames.append(rows)
        notes += [note] if note else []
        if origins and origins[-1].origin == origin:
            origins[-1] = Origin(origins[-1].from_ms, part.end_ms, origin)
        else:
            origins.append(Origin(part.start_ms, part.end_ms, origin))
    events = _merge(frames, symbol, host)
    ts_ms = times_ms(events)
    for gap in find_funding_gaps(ts_ms, start_ms=window.start_ms, end_ms=window.end_ms):
        # After the event before the gap, if there is one.
        late = await session.pages.fetch(symbol, TimeRange(gap.from_ms + int(gap.from_ms in ts_ms), gap.to_ms))
        frames.append(late if session.months is None else _without_mark_price(late))
    merged = _merge(frames, symbol, host)
    if merged.height > events.height:
        count = merged.height - events.height
        notes.append(f"{symbol}: {count:,} funding event{'s' * (count > 1)} came only when requested again")
    return SymbolFunding(merged, tuple(origins)), notes


async def _fetch_part(
    session: FundingSession, symbol: str, part: TimeRange, clock_ms: int
) -> tuple[pl.DataFrame, str, str]:
    """Return the events of a part of the window, within one month if there is an archive; their origin; and a note."""
    if session.months is None:
        return await session.pages.fetch(symbol, part), "rest", ""
    note, month_ms = "", month_start_ms(part.start_ms)
    if next_month_ms(month_ms) <= clock_ms:
        result = await session.months.fetch_month(symbol, month_ms)
        if not isinstance(result, str):
            rows, sha256 = result
            inside = pl.col("ts").dt.timestamp("ms").is_between(part.start_ms, part.end_ms, closed="left")
            return rows.filter(inside), f"archive {sha256}", ""
        note = f"{symbol} {day_name(month_ms)[:7]}: {result}: funding rates taken over REST"
    return _without_mark_price(await session.pages.fetch(symbol, part)), "rest", note


def _without_mark_price(rows: pl.DataFrame) -> pl.DataFrame:
    """Return events without mark prices, as the archive's files have them: which months it has changes by the day."""
    return rows.with_columns(pl.lit(None, pl.Float64).alias("mark_price"))


def _merge(frames: list[pl.DataFrame], symbol: str, where: str) -> pl.DataFrame:
    """Return the events of all frames, checked, sorted and without repetitions."""
    events = [frame.select("ts", "rate", "mark_price") for frame in frames]
    rows = pl.concat(events) if events else _as_events([], where=where, symbol=symbol)
    return check_funding(rows, symbol=symbol, where=where)


def read_funding_page(body: bytes, *, symbol: str, where: str) -> pl.DataFrame:
    """Read an answer of the exchange with funding events of one symbol; columns ts, rate and mark_price.

    An empty mark price, as older events have it, and one of 0 are null.

    Args:
        body: JSON: a list of objects with symbol, fundingTime (ms UTC), fundingRate and markPrice.
        symbol: The requested symbol.
        where: The host, for messages.

    Raises:
        MalformedError: The body is not such a list, or has events of another symbol.
        InputError: A rate or price is not a number.
    """
    try:
        document = parse_json(body, where=where, max_bytes=_MAX_PAGE_BYTES)
    except InputError as err:
        raise MalformedError(err.message.removeprefix(f"{where}: ")) from err
    if not isinstance(document, list):
        raise MalformedError("the answer is not a list of funding events")
    return _as_events([_read_event(event, symbol) for event in document], symbol=symbol, where=where)


def _read_event(event: Json, symbol: str) -> tuple[int, str, str | None]:
    """Return time, rate and mark price of an event; MalformedError if it has another form or symbol."""
    match event:
        case {"symbol": str(name)} if name != symbol:
            raise MalformedError(f"the answer has funding events of {show(name)}")
        case {"fundingTime": bool()}:
            pass
        case {"fundingTime": int(time_ms), "fundingRate": str(rate), **rest} if 0 <= time_ms <= LAST_MS:
            mark_price = rest.get("markPrice")
            if "symbol" in rest and (mark_price is None or isinstance(mark_price, str)):
                return time_ms, rate, mark_price
    raise MalformedError("an event of the answer lacks its symbol, time or rate")


def read_funding_csv(data: bytes, *, symbol: str, where: str) -> pl.DataFrame:
    """Read a month of the archive: calc_time (ms UTC), funding_interval_hours, last_funding_rate; no mark prices.

    Returns:
        Columns ts, symbol, rate and mark_price, checked by `check_funding`.

    Raises:
        InputError: The file has other columns, no rows, or an impossible event.
    """
    lines = data.decode("utf-8", errors="replace").splitlines()
    names = lines[0].split(",") if lines else []
    if not set(_COLUMNS) <= set(names):
        raise InputError(f"{where}: {symbol}: expected the columns {', '.join(_COLUMNS)}, got {show(','.join(names))}")
    # Files that were cut short have been published with a fitting checksum; half a number is a number too.
    if not data.endswith(b"\n"):
        raise InputError(f"{where}: {symbol}: the last line is cut short: {show(lines[-1])}")
    time_at, rate_at = (names.index(name) for name in _COLUMNS)
    events: list[tuple[int, str, str | None]] = []
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split(",")
        time = fields[time_at] if len(fields) == len(names) else ""
        if not (time.isascii() and time.isdigit() and len(time) < 16 and int(time) <= LAST_MS):
            raise InputError(f"{where}: {symbol}: line {number} is not a funding event: {show(line)}")
        events.append((int(time), fields[rate_at], None))
    if not events:
        raise InputError(f"{where}: {symbol}: no funding events")
    return check_funding(_as_events(events, symbol=symbol, where=where), symbol=symbol, where=where)


def _as_events(events: list[tuple[int, str, str | None]], *, symbol: str, where: str) -> pl.DataFrame:
    """Return events as a frame; InputError if a text is not a number. Prices that are empty or 0 become null."""
    raw = pl.DataFrame(events, schema=_RAW, orient="row")
    raw = raw.with_columns(pl.when(pl.col("mark_price") != "").then("mark_price"))
    numbers = raw.with_columns(pl.col("rate", "mark_price").cast(pl.Float64, strict=False))
    for field in ("rate", "mark_price"):
        wrong = raw.filter(raw[field].is_not_null() & numbers[field].is_null())
        if wrong.height:
            at = format_ms(int(wrong["ts"][0]))
            raise InputError(f"{where}: {symbol} at {at}: {field} is {show(wrong[field][0])}: not a number")
    return numbers.with_columns(
        pl.col("ts").cast(TS_DTYPE), pl.when(pl.col("mark_price") != 0).then("mark_price").alias("mark_price")
    )


def month_start_ms(time_ms: int) -> int:
    """Return the beginning of the UTC month that contains a time; both in ms UTC.

    >>> format_ms(month_start_ms(1_760_529_600_000))
    '2025-10-01T00:00:00Z'
    """
    moment = EPOCH + dt.timedelta(milliseconds=time_ms)
    return round(dt.datetime(moment.year, moment.month, 1, tzinfo=dt.UTC).timestamp() * 1000)


def next_month_ms(month_ms: int) -> int:
    """Return the beginning of the month after the one that begins at `month_ms`; both in ms UTC."""
    return month_start_ms(month_ms + 32 * 86_400_000)


def _split_months(window: TimeRange) -> list[TimeRange]:
    """Cut a window at the beginnings of months."""
    parts = []
    start_ms = window.start_ms
    while start_ms < window.end_ms:
        end_ms = min(next_month_ms(month_start_ms(start_ms)), window.end_ms)
        parts.append(TimeRange(start_ms, end_ms))
        start_ms = end_ms
    return parts
