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
    """The cells of a table in a file, and how to name a place in it.

    Attributes:
        frame: Text, numbers or times, null where empty.
        where: The name of its file in messages.
        unit: The word for a row in messages: "line" for text, "row" for any other format.
        first: The number of the first row, in that unit.
        named: Whether the file names its columns; if not, they are known by position only.
    """

    frame: pl.DataFrame
    where: str
    unit: str = "row"
    first: int = 1
    named: bool = True

    def place(self, row: int) -> str:
        """Return the name of a row, counted from 0, for messages."""
        return f"{self.where}: {self.unit} {row + self.first}"

    def to_rows(self) -> pl.DataFrame:
        """Return the rows in their order with the columns of CANDLE_SCHEMA; empty cells and absent columns are null.

        The columns must already have names of CANDLE_SCHEMA, `ts` among them.

        Raises:
            InputError: A cell is not a number or not a time; names its place, column and value.
        """
        texts = self.frame.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))
        numbers = self._numbers(texts.drop("ts"))
        absent = [pl.lit(None, dtype).alias(name) for name, dtype in CANDLE_SCHEMA.items() if name not in texts.columns]
        return numbers.with_columns(self._times(texts["ts"]), *absent).select(*CANDLE_SCHEMA)

    def _numbers(self, texts: pl.DataFrame) -> pl.DataFrame:
        """Return all columns but `ts` with the types of CANDLE_SCHEMA."""
        for name, dtype in texts.schema.items():
            if not (dtype.is_numeric() or dtype in {pl.String, pl.Null}):
                raise InputError(f"{self.where}: column {name} is {dtype}, not numbers")
        numbers = texts.with_columns(pl.all().cast(pl.Float64, strict=False))
        for name in texts.columns:
            if numbers[name].null_count() != texts[name].null_count():
                self._refuse_first(texts[name], numbers[name].is_null() & texts[name].is_not_null(), "not a number")
        if "trades" in texts.columns:
            trades = numbers["trades"]
            whole = (trades == trades.round()) & (trades.abs() < 2**53)
            self._refuse_first(texts["trades"], ~whole.fill_null(True), "not a whole number")
        return numbers.cast({name: CANDLE_SCHEMA[name] for name in texts.columns})

    def _times(self, texts: pl.Series) -> pl.Series:
        """Return the column `ts` in TS_DTYPE."""
        if isinstance(texts.dtype, pl.Datetime | pl.Date):
            micros = texts.cast(pl.Datetime("us", getattr(texts.dtype, "time_zone", None))).dt.timestamp("us")
            stamps = (micros // 1000).set(micros % 1000 != 0, None)
        elif texts.dtype == pl.String or texts.dtype.is_numeric():
            stamps = _stamps_of_numbers(texts.cast(pl.Float64, strict=False))
            if texts.dtype == pl.String and stamps.null_count():
                stamps = stamps.fill_null(_stamps_of_iso(texts))
        else:
            raise InputError(f"{self.where}: column ts is {texts.dtype}, not times")
        if stamps.null_count():
            self._refuse_first(texts, stamps.is_null(), "not an open time")
        return stamps.cast(TS_DTYPE).alias("ts")

    def _refuse_first(self, cells: pl.Series, bad: pl.Series, rule: str) -> None:
        """Refuse the first bad cell, if there is one."""
        rows = bad.arg_true()
        if rows.len():
            value = cells[rows[0]]
            shown = "missing" if value is None else show(value) if isinstance(value, str) else value
            more = f" (and {rows.len() - 1} more)" if rows.len() > 1 else ""
            message = f"{self.place(rows[0])}: {cells.name} is {shown}: {rule}{more}"
            raise InputError(message, hint="correct that cell, or download the file again")


def _stamps_of_numbers(numbers: pl.Series) -> pl.Series:
    """Return times in s, ms, µs or ns, distinguished by size, as ms; null where that is not a whole number.

    Between 1973 and 5138 the four ranges do not overlap. A float holds all of these numbers exactly except ns, whose
    last digits are zeros on any grid.
    """
    value = pl.col("n")
    size = value.abs()
    ms = (
        pl.when(size < 1e11)
        .then(value * 1e3)
        .when(size < 1e14)
        .then(value)
        .when(size < 1e17)
        .then(value / 1e3)
        .otherwise(value / 1e6)
    )
    whole = pl.when((ms == ms.round()) & (ms.abs() < 1e14)).then(ms)
    return pl.DataFrame({"n": numbers}).select(whole.cast(pl.Int64).alias("ts")).to_series()


def _stamps_of_iso(texts: pl.Series) -> pl.Series:
    """Return ISO 8601 times as ms UTC; without a zone they are UTC, and null where the text is not a time."""
    names = ("date", "minute", "second", "fraction", "sign", "hours", "minutes")
    groups = texts.str.extract_groups(_ISO).struct.rename_fields(list(names)).struct.unnest()
    clock = pl.col("date") + "T" + pl.col("minute").fill_null("00:00") + pl.col("second").fill_null(":00")
    at = clock.str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False).dt.timestamp("ms")
    nanos = pl.col("fraction").fill_null(".0").str.slice(1).str.pad_end(9, "0").cast(pl.Int64)
    fraction = pl.when(nanos % 1_000_000 == 0).then(nanos // 1_000_000)
    offset = (pl.col("hours").cast(pl.Int64) * 60 + pl.col("minutes").cast(pl.Int64)) * MINUTE_MS
    signed = pl.when(pl.col("sign") == "-").then(-offset).otherwise(offset).fill_null(0)
    return groups.select((at + fraction - signed).alias("ts")).to_series()


def whole_ms(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return times in ms or µs, distinguished by size, as ms.

    A close time in µs ends in 999 and is rounded down, as the open time is.
    """
    return np.where(times >= MICROS_FROM, times // 1000, times)
