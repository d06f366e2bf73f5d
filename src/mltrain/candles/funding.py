"""The funding rates of perpetual futures: their columns, their gaps and their Parquet file.

A funding event moves `rate` times the position's value from long to short positions (from short to long if negative) at
the time `ts`, which is kept as the exchange states it: usually a whole hour of UTC, or a few milliseconds after it. No
rate is ever made up: where events are missing, that is a gap, and not a rate of zero.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import TS_DTYPE, times_ms, values_sha256
from mltrain.candles.input_tables import InputTable, KnownValues
from mltrain.candles.parquet import ParquetFile, parquet_options
from mltrain.documents.records import TimeMs, record
from mltrain.errors import InputError
from mltrain.times import HOUR_MS, LAST_MS, format_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputSpec

#: Columns in order. `ts` is the time of the event, `rate` a share of the position's value, `mark_price` the price that
#: values the position, in the quote asset; null where the exchange does not state it.
FUNDING_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "ts": TS_DTYPE,
    "symbol": pl.String(),
    "rate": pl.Float64(),
    "mark_price": pl.Float64(),
}

#: The longest interval between two events of a symbol, and the one where none can be observed.
LONGEST_INTERVAL_MS: Final = 8 * HOUR_MS

# The exchange caps rates at a few per cent; a rate of 1 would take the whole position.
_LARGEST_RATE: Final = 1.0
_COLUMN_TYPES: Final = (
    ("ts", "timestamp[ms, tz=UTC]"),
    ("symbol", "string"),
    ("rate", "double"),
    ("mark_price", "double"),
)


@record
@dataclass(frozen=True, slots=True)
class FundingGap:
    """A time without a funding event although at least one was due.

    Attributes:
        from_ms: The event before it or, at the beginning, the open time of the first candle, ms UTC.
        to_ms: The event after it or, at the end, the close of the last candle, ms UTC.
    """

    from_ms: TimeMs
    to_ms: TimeMs

    def __str__(self) -> str:
        return f"{format_ms(self.from_ms)} to {format_ms(self.to_ms)}"


def check_funding(frame: pl.DataFrame, *, symbol: str, where: str) -> pl.DataFrame:
    """Return the funding events of one symbol sorted by time and without exact repetitions, after checking each.

    Args:
        frame: Columns `ts` in TS_DTYPE, `rate` and `mark_price` as Float64, in any order of rows.
        symbol: The symbol, which becomes the column `symbol`.
        where: The host or file, for messages.

    Raises:
        InputError: A time or rate is missing or impossible, a mark price is not above 0, or two events of one time
            differ.
    """
    rows = frame.unique(maintain_order=True).sort("ts", maintain_order=True)
    rows = rows.select("ts", pl.lit(symbol, pl.String).alias("symbol"), "rate", "mark_price")
    ts = pl.col("ts").dt.timestamp("ms")
    rules = (
        ("ts", ((ts < 0) | (ts > LAST_MS)), "not a time between 1970 and 9999"),
        ("rate", ~(pl.col("rate").is_finite() & (pl.col("rate").abs() < _LARGEST_RATE)), "not a rate between -1 and 1"),
        ("mark_price", ~(pl.col("mark_price").is_finite() & (pl.col("mark_price") > 0)), "a price must be above 0"),
        ("rate", ts.diff() == 0, "a second, different event of this time"),
    )
    if rows["ts"].null_count() or rows["rate"].null_count():
        raise InputError(f"{where}: {symbol}: every funding event needs its time and its rate")
    for field, is_wrong, message in rules:
        wrong = rows.filter(is_wrong.fill_null(False))
        if wrong.height:
            at = format_ms(int(wrong["ts"].dt.timestamp("ms")[0]))
            raise InputError(f"{where}: {symbol} at {at}: {field} is {wrong[field][0]}: {message}")
    return rows


def usual_interval_ms(ts_ms: NDArray[np.int64]) -> int | None:
    """Return the most frequent interval between two events, in whole hours as ms; None with fewer than two events.

    >>> usual_interval_ms(np.array([3, 8, 16, 24]) * HOUR_MS + 7) // HOUR_MS
    8
    """
    hours, counts = np.unique(_round_hours(np.diff(ts_ms)), return_counts=True)
    return int(hours[np.argmax(counts)]) * HOUR_MS if hours.size else None


def find_funding_gaps(ts_ms: NDArray[np.int64], *, start_ms: int, end_ms: int) -> tuple[FundingGap, ...]:
    """List the times without a funding event that was due, between two times.

    The interval of a symbol is 8, 4, 2 or 1 hours, and the exchange changes it at times. An interval is a gap if it is
    longer than 8 hours, or longer than both of its neighbours. The first and the last event are due within the
    interval next to them.

    Args:
        ts_ms: Times of the events, ms UTC, shape (n,), strictly increasing, in [start_ms, end_ms).
        start_ms: Open time of the symbol's first candle, ms UTC.
        end_ms: Close of its last candle, ms UTC.

    >>> find_funding_gaps(np.array([8, 16, 32, 40]) * HOUR_MS, start_ms=HOUR_MS, end_ms=45 * HOUR_MS)
    (FundingGap(from_ms=57600000, to_ms=115200000),)
    """
    if not ts_ms.size:
        return (FundingGap(start_ms, end_ms),) if end_ms - start_ms > LONGEST_INTERVAL_MS else ()
    bounds = np.concatenate([[start_ms], ts_ms, [end_ms]])
    hours, inner = _round_hours(np.diff(bounds)), _round_hours(np.diff(ts_ms))
    longest = LONGEST_INTERVAL_MS // HOUR_MS
    allowed = np.full(hours.size, longest)
    if inner.size:
        allowed[0], allowed[-1] = inner[0], inner[-1]
        # The outer intervals have one neighbour each.
        allowed[2:-2] = np.maximum(inner[:-2], inner[2:])
    late = np.flatnonzero(hours > np.minimum(allowed, longest))
    return tuple(FundingGap(int(bounds[i]), int(bounds[i + 1])) for i in late)


def _round_hours(durations_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return durations rounded to whole hours."""
    return (durations_ms + HOUR_MS // 2) // HOUR_MS


def funding_sha256(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of one symbol's events, which does not depend on the library that wrote their file."""
    return values_sha256(frame, ("ts", "rate", "mark_price"), head=b"mltrain funding 1\n")


def encode_funding(frame: pl.DataFrame) -> bytes:
    """Encode the funding events of all symbols as Parquet; nothing is written to disk.

    Args:
        frame: Columns of FUNDING_SCHEMA, sorted by symbol and time.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("ts", pa.timestamp("ms", "UTC")),
            ("symbol", pa.string()),
            ("rate", pa.float64()),
            ("mark_price", pa.float64()),
        ]
    )
    sink = io.BytesIO()
    writer: Any
    with pq.ParquetWriter(sink, schema, **parquet_options()) as writer:
        writer.write_table(frame.to_arrow().cast(schema))
    return sink.getvalue()


def read_funding(data: bytes, *, rows: int, where: str) -> pl.DataFrame:
    """Read a Parquet file of funding events whose hash has been verified; columns of FUNDING_SCHEMA.

    Raises:
        InputError: Columns, types or number of rows are not those that `encode_funding` writes.
    """
    file = ParquetFile(data, where=where)
    if file.rows != rows or tuple(file.types.items()) != _COLUMN_TYPES:
        columns = ", ".join(f"{name} {dtype}" for name, dtype in file.types.items())
        raise InputError(f"{where}: expected {rows} funding events, got {file.rows} rows of {columns}")
    return file.read(list(FUNDING_SCHEMA))


def take_input(spec: InputSpec, funding: Mapping[str, pl.DataFrame], *, where: str) -> InputTable:
    """Return a column of funding events as the values of an input, each known since its event.

    Args:
        spec: The input's declaration.
        funding: The funding events of each symbol, with the columns of FUNDING_SCHEMA.
        where: What messages call the events.

    Raises:
        InputError: The declaration names other columns.
    """
    columns = [name for name, dtype in FUNDING_SCHEMA.items() if dtype.is_numeric()]
    if spec.known_at != "ts" or spec.column not in columns:
        raise InputError(
            f"the input {spec.name} reads {spec.column} of {spec.file} by {spec.known_at}, and {where} has "
            f"{' and '.join(columns)} by ts",
            hint="declare `known_at: ts`, or name the folder of a file of your own with --inputs DIR",
        )
    by_symbol = {}
    for symbol, events in funding.items():
        known = events.drop_nulls(spec.column)
        by_symbol[symbol] = KnownValues(times_ms(known), known[spec.column].to_numpy())
    return InputTable(by_symbol=by_symbol)
