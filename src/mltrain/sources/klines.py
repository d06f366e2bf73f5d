"""Pages of the exchange's candles: plan them, read their JSON, merge their rows. Pure.

All pages of a time range are planned before the first is requested, so that a short or empty page is no special case:
the market has no more candles there. Whether a row can be a candle is checked later.

The exchange's history has a few odd rows that it will never correct (see `split_odd`): after restarts in 2017 and 2018,
candles opened off the grid for hours or days, and a candle closed early when trading stopped. Such rows are left out or
kept, and counted. https://github.com/binance/binance-public-data/issues/77 lists some.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.cells import as_ms
from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE, times_ms
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.sources.http_client import MalformedError
from mltrain.times import DAY_MS, INTERVALS_MS, MICROS_FROM, TimeRange, floor_to_grid, format_ms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

#: The most candles that one answer holds.
PAGE_CANDLES: Final = 1000
#: Thirty times an honest page.
MAX_PAGE_BYTES: Final = 4 << 20

# The twelve fields of a row; the last is not used.
_FIELDS: Final = (
    *("ts", "open", "high", "low", "close", "volume", "close_time"),
    *("quote_volume", "trades", "taker_buy_base", "taker_buy_quote", "unused"),
)
_TYPES: Final = {"ts": pl.Int64(), "close_time": pl.Int64(), "trades": pl.Int64()}
_ROWS: Final = pl.List(pl.List(pl.String))
# A row as Binance writes it, without digits and points: times and trades bare, the other numbers as text.
_PLAIN_ROW: Final = b'[,"","","","","",,"",,"","",""]'
# In a bare number, JSON forbids it.
_LEADING_ZERO: Final = re.compile(rb"[\[,]0[0-9]")
# From here on, a whole number may not be exact as a float.
_INEXACT_FROM: Final = 2**53
_BLANKS: Final = r"[ \t\r\n]*"
# Polars alone reads an empty text as an empty list, and 3 as [[3]].
_LIST_OF_ROWS: Final = re.compile(rf"{_BLANKS}\[{_BLANKS}[\[\]]")
# With fewer rows, a candle that closed early may be most of them.
_MIN_ROWS_FOR_INTERVAL: Final = 3


@dataclass(frozen=True, slots=True)
class Page:
    """The rows of one answer.

    Attributes:
        rows: The rows that are not left out, in the order received, with the columns of CANDLE_SCHEMA.
        ts_ms: Open times of all rows received, ms UTC, shape (n,).
        odd: The rows that were left out or closed early.
    """

    rows: pl.DataFrame
    ts_ms: NDArray[np.int64]
    odd: OddRows


@dataclass(frozen=True, slots=True)
class OddRows:
    """Rows of the exchange's history that differ from its documentation.

    Attributes:
        left_out: Open times, ms UTC, of rows left out: off the grid, or another row opens inside their interval.
        closed_early: Open times, ms UTC, of candles kept although they close before their interval ends.
    """

    left_out: set[int] = field(default_factory=set)
    closed_early: set[int] = field(default_factory=set)

    def count(self, window: TimeRange) -> tuple[int, int]:
        """Return the numbers of rows left out and of candles closed early that open inside a window."""
        inside = range(window.start_ms, window.end_ms)
        left_out, closed_early = (sum(ts in inside for ts in rows) for rows in (self.left_out, self.closed_early))
        return left_out, closed_early


#: Odd rows by symbol and UTC midnight, ms; a row received several times counts once.
OddDays: TypeAlias = defaultdict[tuple[str, int], OddRows]


def add_odd(days: OddDays, symbol: str, odd: OddRows) -> None:
    """Add the odd rows of a symbol to `days`, by the UTC day in which they open."""
    for ts_ms in odd.left_out:
        days[symbol, floor_to_grid(ts_ms, DAY_MS)].left_out.add(ts_ms)
    for ts_ms in odd.closed_early:
        days[symbol, floor_to_grid(ts_ms, DAY_MS)].closed_early.add(ts_ms)


def count_odd(days: Mapping[tuple[str, int], OddRows], symbol: str, window: TimeRange) -> tuple[int, int]:
    """Return the numbers of a symbol's rows left out and of its candles closed early that open inside a window."""
    midnights = range(floor_to_grid(window.start_ms, DAY_MS), window.end_ms, DAY_MS)
    counts = [odd.count(window) for day_ms in midnights if (odd := days.get((symbol, day_ms))) is not None]
    return sum(left_out for left_out, _ in counts), sum(closed_early for _, closed_early in counts)


def plan_pages(window: TimeRange, step_ms: int, *, candles: int = PAGE_CANDLES) -> Iterator[TimeRange]:
    """Cut a window, whose ends are on the grid of `step_ms`, into pages of at most `candles` candles.

    >>> [page.end_ms - page.start_ms for page in plan_pages(TimeRange(0, 2500), 1)]
    [1000, 1000, 500]
    """
    for start_ms in range(window.start_ms, window.end_ms, candles * step_ms):
        yield TimeRange(start_ms, min(start_ms + candles * step_ms, window.end_ms))


def read_page(body: bytes, *, symbol: str, interval: str, where: str) -> Page:
    """Read an answer of the exchange with candles of one symbol and interval.

    Args:
        body: JSON: a list of rows of twelve fields.
        symbol: For messages.
        interval: Interval that the candles must have.
        where: The host, for messages.

    Raises:
        MalformedError: The body is not JSON, or not a list of rows.
        InputError: A row has another number of fields, a field that is not a number, or is of another interval.
    """
    numbers = _read_plain(body)
    if numbers is None:
        numbers = _read_any(body, symbol=symbol, where=where)
    if not numbers.height:
        return Page(pl.DataFrame(schema=CANDLE_SCHEMA), np.empty(0, np.int64), OddRows())
    ts_ms, closes_ms = (as_ms(numbers[name].to_numpy()) for name in ("ts", "close_time"))
    kept, odd = split_odd(ts_ms, closes_ms, symbol=symbol, interval=interval, where=where)
    ts = pl.Series("ts", ts_ms).cast(TS_DTYPE)
    frame = pl.DataFrame([ts, *(numbers[name] for name in CANDLE_SCHEMA if name != "ts")])
    return Page(frame if kept.all() else frame.filter(kept), ts_ms, odd)


def _read_plain(body: bytes) -> pl.DataFrame | None:
    """Return the numbers of a page that is written as Binance writes it; None for any other text.

    The result is that of `_read_any`, in half the time: one cast reads all numbers of the page.
    """
    marks = body.translate(None, b"0123456789")
    # A bare number with a point is no whole number; the layout below is that of marks without points.
    if marks.count(b".") != marks.count(b'"."'):
        return None
    marks = marks.translate(None, b".")
    rows = len(marks) // (len(_PLAIN_ROW) + 1)
    if not rows or marks != b"[" + b",".join([_PLAIN_ROW] * rows) + b"]":
        return None
    # Few pages have a bare number that begins with 0, and the search takes as long as the rest.
    if (b",0" in body or b"[0" in body) and _LEADING_ZERO.search(body):
        return None
    text = pl.DataFrame([pl.Series("text", [body.translate(None, b'[]"').decode("ascii")])])
    values = text.select_seq(pl.col("text").str.split(",").explode().cast(pl.Float64, strict=False)).to_series()
    if values.null_count():
        return None
    # One row for each field, so that each is contiguous.
    fields = np.ascontiguousarray(values.to_numpy().reshape(rows, len(_FIELDS)).T)
    if fields.max() >= _INEXACT_FROM:
        return None
    columns = zip(_FIELDS[:-1], fields[:-1], strict=True)
    return pl.DataFrame(
        [pl.Series(name, column.astype(np.int64) if name in _TYPES else column) for name, column in columns]
    )


def _read_any(body: bytes, *, symbol: str, where: str) -> pl.DataFrame:
    """Return the numbers of a page, or raise an error, as `read_page` says; `symbol` and `where` are for messages."""
    try:
        text = body.decode()
        rows = pl.Series([text]).str.json_decode(_ROWS).explode(empty_as_null=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as err:
        raise MalformedError("the answer is not a JSON list of candles") from err
    if _LIST_OF_ROWS.match(text) is None or rows.null_count():
        raise MalformedError("the answer is not a list of rows")
    _check_field_counts(rows, symbol, where)
    texts = rows.list.to_struct(fields=_FIELDS).struct.unnest()
    numbers = texts.select(pl.col(name).cast(_TYPES.get(name, pl.Float64()), strict=False) for name in _FIELDS[:-1])
    if any(column.null_count() for column in numbers):
        raise _not_a_number(texts, numbers, symbol, where)
    return numbers


def split_odd(
    ts_ms: NDArray[np.int64], closes_ms: NDArray[np.int64], *, symbol: str, interval: str, where: str
) -> tuple[NDArray[np.bool_], OddRows]:
    """Find the rows off the grid and the candles that closed early, of which the exchange's history has a few.

    A row that opens off the grid is left out: its prices belong to two intervals. A candle is also left out if such a
    row opens inside its interval, as its close is not that of the interval. A candle on the grid that only closes early
    is kept: trading stopped, and nothing followed it.

    Args:
        ts_ms: Open times, ms UTC, shape (n,).
        closes_ms: Close times, ms UTC, shape (n,).
        symbol: For messages.
        interval: Interval that the candles must have.
        where: The host or file, for messages.

    Returns:
        Which rows to keep, shape (n,), and the odd rows.

    Raises:
        InputError: A row closes before it opens or after its interval ends, or most rows close early: the candles are
            of another interval.
    """
    step_ms = INTERVALS_MS[interval]
    # Subtracted from the close: near the limits of 64 bits, open time plus interval would overflow and pass the check.
    wrong = (ts_ms < 0) | (ts_ms >= MICROS_FROM) | (closes_ms < ts_ms) | (closes_ms - ts_ms >= step_ms)
    early = ~wrong & (closes_ms - ts_ms < step_ms - 1)
    if ts_ms.size >= _MIN_ROWS_FOR_INTERVAL and 2 * np.count_nonzero(early) > ts_ms.size:
        wrong |= early
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        time, closed = format_ms(int(ts_ms[row])), int(closes_ms[row])
        raise InputError(f"{where}: {symbol} at {time}: close_time is {closed}: not the end of a {interval} candle")
    off_grid = ts_ms != floor_to_grid(ts_ms, step_ms)
    if not (early.any() or off_grid.any()):
        return np.ones(ts_ms.size, np.bool_), OddRows()
    is_interrupted = np.isin(ts_ms, floor_to_grid(ts_ms[off_grid], step_ms))
    kept = ~(off_grid | is_interrupted)
    return kept, OddRows(set(ts_ms[~kept].tolist()), set(ts_ms[kept & early].tolist()))


def merge_rows(frames: Iterable[pl.DataFrame], *, symbol: str, where: str) -> pl.DataFrame:
    """Return the rows of all frames, sorted by time and without exact duplicates.

    Raises:
        InputError: Two rows of one time differ; names the host `where`, time, field and both values.
    """
    rows = pl.concat(list(frames))
    if not is_rising(times_ms(rows)):
        rows = rows.unique(maintain_order=True).sort("ts", maintain_order=True)
        repeats = (rows["ts"].diff().dt.total_milliseconds() == 0).fill_null(False).arg_true()
        if repeats.len():
            two = rows[repeats[0] - 1 : repeats[0] + 1]
            field = next(name for name in CANDLE_SCHEMA if two[name].n_unique() > 1)
            first, second = two[field].to_list()
            raise InputError(
                f"{where}: {symbol} at {format_ms(int(times_ms(two)[0]))}: {field} is {first} and {second}: "
                "two candles of one time",
                hint="the source contradicts itself: run the same command again, or choose another --source",
            )
    return rows


def is_rising(ts_ms: NDArray[np.int64]) -> bool:
    """Return whether times are sorted and unique."""
    return bool((ts_ms[1:] > ts_ms[:-1]).all())


def _check_field_counts(rows: pl.Series, symbol: str, where: str) -> None:
    """Check that each row, a list of texts, has as many fields as `_FIELDS`."""
    wrong = (rows.list.len() != len(_FIELDS)).arg_true()
    if wrong.len():
        place = _describe_place(rows.list.first().cast(pl.Int64, strict=False)[wrong[0]], wrong[0])
        count = len(rows[wrong[0]])
        raise InputError(f"{where}: {symbol} {place}: the row has {count} fields, not {len(_FIELDS)}")


def _not_a_number(texts: pl.DataFrame, numbers: pl.DataFrame, symbol: str, where: str) -> InputError:
    """Return the error for the first text that is not a number, which is null in `numbers`."""
    name = next(column for column in numbers.columns if numbers[column].null_count())
    row = numbers[name].is_null().arg_true()[0]
    value, place = texts[name][row], _describe_place(numbers["ts"][row], row)
    return InputError(
        f"{where}: {symbol} {place}: {name} is {'missing' if value is None else show(value)}: not a number"
    )


def _describe_place(ts: int | None, row: int) -> str:
    """Return the place of a row for messages: its open time, given in ms or µs; without one, its number from 1."""
    if ts is None:
        return f"in row {row + 1}"
    return f"at {format_ms(ts // 1000 if ts >= MICROS_FROM else ts)}"
