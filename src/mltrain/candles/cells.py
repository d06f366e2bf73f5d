"""Convert cells of text or numbers to the times and numbers of candles; errors name line, column and value.

Pure. Times may be numbers (seconds, ms, µs or ns, distinguished value by value) or ISO 8601; without a zone they are
UTC. A cell that could be read in two ways is refused. Whether a row is a possible candle is checked elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.times import MICROS_FROM, MINUTE_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ISO: Final = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]{1,9})?)?"
    r"\s*(?:Z|UTC|([+-])([0-9]{2}):?([0-9]{2}))?$"
)


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of a table in a file, and how messages name a row of it.

    Attributes:
        frame: Text, numbers or times, null where empty.
        where: The name of its file in messages.
        row_word: What messages call a row: "line" in text, "row" in any other format.
        first_number: The number of the first row in messages.
        named: Whether the file names its columns; if not, they are known by position only.
    """

    frame: pl.DataFrame
    where: str
    row_word: str = "row"
    first_number: int = 1
    named: bool = True

    def name_row(self, row: int) -> str:
        """Return what messages call a row, such as "a.csv: line 3"; `row` counts from 0."""
        return f"{self.where}: {self.row_word} {row + self.first_number}"

    def to_rows(self) -> pl.DataFrame:
        """Return the rows in their order with the columns of CANDLE_SCHEMA; empty cells and absent columns are null.

        The columns must already have names of CANDLE_SCHEMA, `ts` among them.
        """
        cells = self.frame.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))
        numbers = self._to_numbers(cells.drop("ts"))
        absent = [pl.lit(None, dtype).alias(name) for name, dtype in CANDLE_SCHEMA.items() if name not in cells.columns]
        return numbers.with_columns(self._to_open_times(cells["ts"]), *absent).select(*CANDLE_SCHEMA)

    def _to_numbers(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Return columns named as in CANDLE_SCHEMA, without `ts`, in the types that it gives them; text is parsed."""
        for name, dtype in cells.schema.items():
            if not (dtype.is_numeric() or dtype in {pl.String, pl.Null}):
                raise InputError(f"{self.where}: column {name} is {dtype}, not numbers")
        numbers = cells.with_columns(pl.all().cast(pl.Float64, strict=False))
        for name in cells.columns:
            if numbers[name].null_count() != cells[name].null_count():
                self._refuse_first(cells[name], numbers[name].is_null() & cells[name].is_not_null(), "not a number")
        if "trades" in cells.columns:
            trades = numbers["trades"]
            whole = (trades == trades.round()) & (trades.abs() < 2**53)
            self._refuse_first(cells["trades"], ~whole.fill_null(True), "not a whole number")
        return numbers.cast({name: CANDLE_SCHEMA[name] for name in cells.columns})

    def _to_open_times(self, cells: pl.Series) -> pl.Series:
        """Return datetimes, dates, numbers or texts as the column `ts`: open times in ms, UTC."""
        if isinstance(cells.dtype, pl.Datetime | pl.Date):
            micros = cells.cast(pl.Datetime("us", getattr(cells.dtype, "time_zone", None))).dt.timestamp("us")
            ts_ms = (micros // 1000).set(micros % 1000 != 0, None)
        elif cells.dtype == pl.String or cells.dtype.is_numeric():
            ts_ms = _numbers_to_ms(cells.cast(pl.Float64, strict=False))
            if cells.dtype == pl.String and ts_ms.null_count():
                ts_ms = ts_ms.fill_null(_iso_to_ms(cells))
        else:
            raise InputError(f"{self.where}: column ts is {cells.dtype}, not times")
        if ts_ms.null_count():
            self._refuse_first(cells, ts_ms.is_null(), "not an open time")
        return ts_ms.cast(TS_DTYPE).alias("ts")

    def _refuse_first(self, cells: pl.Series, is_bad: pl.Series, problem: str) -> None:
        """Raise an InputError for the first cell of a column where `is_bad` is true, if there is one."""
        rows = is_bad.arg_true()
        if rows.len():
            value = cells[rows[0]]
            shown = "missing" if value is None else show(value) if isinstance(value, str) else value
            more = f" (and {rows.len() - 1} more)" if rows.len() > 1 else ""
            message = f"{self.name_row(rows[0])}: {cells.name} is {shown}: {problem}{more}"
            raise InputError(message, hint="correct that cell, or download the file again")


def _numbers_to_ms(numbers: pl.Series) -> pl.Series:
    """Return times in s, ms, µs or ns, distinguished by size, as ms; null where that is not a whole number.

    Between 1973 and 5138 the four ranges do not overlap. A float holds all of these numbers exactly except ns, whose
    last digits are zeros on any grid.
    """
    time = pl.col("time")
    from_s, from_us, from_ns = time * 1e3, time / 1e3, time / 1e6
    size = time.abs()
    s_or_ms = pl.when(size < 1e11).then(from_s).when(size < 1e14).then(time)
    ms = s_or_ms.when(size < 1e17).then(from_us).otherwise(from_ns)
    whole = pl.when((ms == ms.round()) & (ms.abs() < 1e14)).then(ms)
    return pl.DataFrame({"time": numbers}).select(whole.cast(pl.Int64).alias("ts")).to_series()


def _iso_to_ms(texts: pl.Series) -> pl.Series:
    """Return ISO 8601 texts as times in ms UTC; without a zone they are UTC; null for a text that is not a time."""
    names = ("date", "minute", "second", "fraction", "sign", "hours", "minutes")
    groups = texts.str.extract_groups(_ISO).struct.rename_fields(list(names)).struct.unnest()
    clock = pl.col("date") + "T" + pl.col("minute").fill_null("00:00") + pl.col("second").fill_null(":00")
    clock_ms = clock.str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False).dt.timestamp("ms")
    nanos = pl.col("fraction").fill_null(".0").str.slice(1).str.pad_end(9, "0").cast(pl.Int64)
    fraction_ms = pl.when(nanos % 1_000_000 == 0).then(nanos // 1_000_000)
    offset_ms = (pl.col("hours").cast(pl.Int64) * 60 + pl.col("minutes").cast(pl.Int64)) * MINUTE_MS
    zone_ms = pl.when(pl.col("sign") == "-").then(-offset_ms).otherwise(offset_ms).fill_null(0)
    return groups.select((clock_ms + fraction_ms - zone_ms).alias("ts")).to_series()


def as_ms(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return times in ms or µs since 1970, distinguished by size, as ms, rounded down; shape (n,)."""
    return np.where(times >= MICROS_FROM, times // 1000, times)
