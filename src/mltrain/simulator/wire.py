"""Candles in the formats of the simulated exchange: rows of JSON, and daily archives of CSV.

Pure. A block of time is formatted once; a page is a slice of a few blocks' bytes, so that serving it costs a copy only.
Every number reads back as exactly the double that `SimSource` returns: it has eight decimals, as from exchanges, or all
its digits if eight decimals are not enough.
"""

from __future__ import annotations

import io
import zipfile
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mltrain.candles.frame import times_ms
from mltrain.sources.markets import SPOT
from mltrain.sources.simulated_market import first_open_ms
from mltrain.times import DAY_MS, TimeRange, day_name, floor_to_grid, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl

    from mltrain.sources.simulated_market import SimSource

#: From 2025-01-01T00:00:00Z on, the archive has microseconds, as the real one; before, milliseconds.
MICROS_FROM_MS: Final = 1_735_689_600_000

#: First line of the candle files of futures, as in the real archive since 2022.
FUTURES_HEADER: Final = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)

_JSON_ROW: Final = '[%d,"%s","%s","%s","%s","%s",%d,"%s",%d,"%s","%s","0"]'
_CSV_ROW: Final = "%d,%s,%s,%s,%s,%s,%d,%s,%d,%s,%s,0"
_DECIMALS: Final = 8
_US_PER_MS: Final = 1000
# Fewest candles of a block.
_BLOCK_CANDLES: Final = 240
# A fixed time for all members, so that equal candles give equal bytes.
_ZIP_TIME: Final = (2025, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class BlockRows:
    """The candles of a block of time as rows of JSON, separated by commas.

    Attributes:
        open_ms: Open time of each row, ms UTC, ascending.
        text: The rows.
        ends: Offset in `text` of the end of each row, before the comma.
    """

    open_ms: list[int]
    text: bytes
    ends: list[int]

    def slice(self, first: int, end: int) -> bytes:
        """Return the text of the rows from `first` to before `end`, at least one."""
        return self.text[self.ends[first - 1] + 1 if first else 0 : self.ends[end - 1]]


def write_number(value: float) -> str:
    """Return a number with eight decimals, or with all digits if eight would not read back as the same double.

    >>> write_number(0.1), write_number(1e-12)
    ('0.10000000', '1e-12')
    """
    text = f"{value:.{_DECIMALS}f}"
    return text if float(text) == value else repr(value)


def write_page(
    source: SimSource, symbol: str, *, first_ms: int | None, last_ms: int, limit: int, clock_ms: int
) -> bytes:
    """Return the rows that open from `first_ms` to `last_ms`, both included, as a JSON array.

    Args:
        source: The market, with its clock at the end of its life; `clock_ms` decides which candles are closed.
        symbol: One of its symbols.
        first_ms: First open time, ms UTC; None: as late as `limit` allows.
        last_ms: Last open time, ms UTC.
        limit: The most rows: the earliest if `first_ms` is given, else the latest.
        clock_ms: The exchange's time, ms UTC; the candle that is open then is included with its values so far.
    """
    step_ms = interval_ms(source.interval)
    pieces = _find_rows(source, symbol, first_ms, min(last_ms, clock_ms), limit)
    open_rows = []
    if pieces:
        rows, first, end = pieces[-1]
        if (newest_ms := rows.open_ms[end - 1]) + step_ms > clock_ms:
            pieces[-1:] = [(rows, first, end - 1)] if end - 1 > first else []
            open_rows.append(_write_open_row(source, symbol, newest_ms, clock_ms))
    return b"[" + b",".join([*(rows.slice(first, end) for rows, first, end in pieces), *open_rows]) + b"]"


def _find_rows(
    source: SimSource, symbol: str, first_ms: int | None, last_ms: int, limit: int
) -> list[tuple[BlockRows, int, int]]:
    """Return the rows of a page by time: for each block its rows, the index of the first and the index after the last.

    The arguments are those of `write_page`.
    """
    forward = first_ms is not None
    first_ms = max(first_ms or 0, first_open_ms(source.interval))
    length_ms = _block_ms(source)
    blocks = range(floor_to_grid(first_ms, length_ms), last_ms + 1, length_ms)
    pieces: list[tuple[BlockRows, int, int]] = []
    for start_ms in blocks if forward else reversed(blocks):
        rows = _block_rows(source, symbol, start_ms)
        first, end = bisect_left(rows.open_ms, first_ms), bisect_right(rows.open_ms, last_ms)
        first, end = (first, min(end, first + limit)) if forward else (max(first, end - limit), end)
        if first < end:
            pieces.append((rows, first, end))
            limit -= end - first
        if not limit:
            break
    return pieces if forward else pieces[::-1]


def _block_ms(source: SimSource) -> int:
    """Return the length of the blocks that candles are formatted in: at least a day, and at least 240 candles."""
    return max(DAY_MS, _BLOCK_CANDLES * interval_ms(source.interval))


# A quarter of a megabyte each for 1m candles, 14 MB for 1s candles.
@lru_cache(maxsize=512)
def _block_rows(source: SimSource, symbol: str, start_ms: int) -> BlockRows:
    """Return the candles of the block that begins at `start_ms`, ms UTC, as rows of JSON."""
    candles = source.candles(symbol, TimeRange(start_ms, start_ms + _block_ms(source)))
    rows = [_JSON_ROW % values for values in _row_values(candles, step_ms=interval_ms(source.interval))]
    ends, end = [], -1
    # ASCII: characters are bytes.
    for row in rows:
        end += len(row) + 1
        ends.append(end)
    return BlockRows(times_ms(candles).tolist(), ",".join(rows).encode(), ends)


def _day_candles(source: SimSource, symbol: str, day: int) -> pl.DataFrame:
    """Return the candles of a UTC day (days since 1970)."""
    return source.candles(symbol, TimeRange(day * DAY_MS, (day + 1) * DAY_MS))


def _row_values(candles: pl.DataFrame, *, step_ms: int, units_per_ms: int = 1) -> Iterator[tuple[object, ...]]:
    """Yield the eleven values of each row, with times in ms or µs; a close time is one unit before the next open."""
    texts = {name: _write_numbers(candles[name].to_list()) for name in candles.columns if name not in {"ts", "trades"}}
    opens_ms: list[int] = times_ms(candles).tolist()
    return zip(
        [open_ms * units_per_ms for open_ms in opens_ms],
        *(texts[name] for name in ("open", "high", "low", "close", "volume")),
        [(open_ms + step_ms) * units_per_ms - 1 for open_ms in opens_ms],
        texts["quote_volume"],
        candles["trades"].to_list(),
        texts["taker_buy_base"],
        texts["taker_buy_quote"],
        strict=True,
    )


def _write_numbers(values: list[float]) -> list[str]:
    """Do what `write_number` does, faster for columns whose numbers all have at most eight decimals."""
    texts = [f"{v:.{_DECIMALS}f}" for v in values]
    return texts if list(map(float, texts)) == values else [write_number(v) for v in values]


def _write_open_row(source: SimSource, symbol: str, open_ms: int, clock_ms: int) -> bytes:
    """Return the row of a candle that is still open: its price moves and volumes in proportion to the elapsed time."""
    step_ms = interval_ms(source.interval)
    row = source.candles(symbol, TimeRange(open_ms, open_ms + step_ms)).row(0, named=True)
    elapsed_share = (clock_ms - open_ms) / step_ms
    open_ = row["open"]
    close = round(open_ + (row["close"] - open_) * elapsed_share, _DECIMALS)
    high = max(open_, close) + (row["high"] - max(open_, row["close"])) * elapsed_share
    low = min(open_, close) - (min(open_, row["close"]) - row["low"]) * elapsed_share
    volumes = [row[name] * elapsed_share for name in ("volume", "quote_volume", "taker_buy_base", "taker_buy_quote")]
    volume, quote, taker_base, taker_quote = (write_number(round(v, _DECIMALS)) for v in volumes)
    prices = [write_number(round(v, _DECIMALS)) for v in (open_, high, low, close)]
    trades = int(row["trades"] * elapsed_share)
    values = (open_ms, *prices, volume, open_ms + step_ms - 1, quote, trades, taker_base, taker_quote)
    return (_JSON_ROW % values).encode()


@lru_cache(maxsize=512)
def write_day_zip(source: SimSource, symbol: str, day: int) -> bytes:
    """Return the archive's zip of a UTC day (days since 1970): one CSV of twelve columns.

    Files of the spot market have no header, and µs from 2025 on; those of futures have a header, and ms.
    """
    is_spot = source.market == SPOT
    units_per_ms = _US_PER_MS if is_spot and day * DAY_MS >= MICROS_FROM_MS else 1
    candles = _day_candles(source, symbol, day)
    values = _row_values(candles, step_ms=interval_ms(source.interval), units_per_ms=units_per_ms)
    header = "" if is_spot else f"{FUTURES_HEADER}\n"
    csv = (header + "".join(f"{_CSV_ROW % row}\n" for row in values)).encode()
    return write_zip([(f"{symbol}-{source.interval}-{day_name(day * DAY_MS)}.csv", csv)])


@lru_cache(maxsize=512)
def write_funding_zip(source: SimSource, symbol: str, start_ms: int, end_ms: int) -> bytes:
    """Return the archive's zip of a month's funding events, from `start_ms` to before `end_ms`, ms UTC."""
    frame = source.funding_of(symbol, TimeRange(start_ms, end_ms))
    rows = zip(times_ms(frame).tolist(), map(write_number, frame["rate"].to_list()), strict=True)
    csv = "calc_time,funding_interval_hours,last_funding_rate\n" + "".join(f"{ts},8,{rate}\n" for ts, rate in rows)
    return write_zip([(f"{symbol}-fundingRate-{day_name(start_ms)[:7]}.csv", csv.encode())])


def write_zip(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a zip of files, given by name and content; equal files give equal bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, date_time=_ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data, compresslevel=1)
    return out.getvalue()
