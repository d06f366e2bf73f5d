"""Convert the tables of callers, in memory or in a file, to Polars frames of candles.

In memory, these are Polars frames (eager and lazy), pandas frames, Arrow tables, other objects with the Arrow
PyCapsule or the dataframe interchange protocol, mappings of columns, lists of mappings, and candle rows of 12 (Binance)
or 6 (ccxt) fields. pandas is never imported here: only a caller that has imported it can have a pandas frame.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.cells import Cells
from mltrain.candles.checks import is_accepted_type
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, TS_DTYPE
from mltrain.candles.layouts import BY_PLACE, describe_unread, find_columns, read_columns
from mltrain.candles.open_times import time_columns
from mltrain.candles.parquet import MAX_ROWS
from mltrain.candles.tables import read_cells
from mltrain.errors import InputError, UsageError
from mltrain.names import describe, show
from mltrain.times import is_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.candles.layouts import NamedColumns
    from mltrain.candles.tables import Format

ACCEPTED: Final = "a Polars or pandas frame, an Arrow table, a list of dicts, or a list of Binance kline rows"

MAX_TABLE_BYTES: Final = 4 << 30
#: Rows of a table of many symbols: a year of one-minute candles of ninety symbols.
MAX_TABLE_ROWS: Final = 4 * MAX_ROWS

# Numbers of fields that a candle row without names may have: ccxt's OHLCV, Binance's kline.
_ROW_FIELDS: Final = (6, 12)
_REQUIRED: Final = {name for name in CANDLE_SCHEMA if name not in OPTIONAL}
# Those of the last two that Binance sends are not read.
_USUAL_NAMES: Final = {*CANDLE_SCHEMA, "symbol", "close_time", "ignore"}
_FAILURES: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError, ValueError, OverflowError)


def is_columns(given: Mapping[Any, object]) -> bool:
    """Return whether a mapping holds the columns of one table of candles, not one table per symbol."""
    return "open" in given and "close" in given


def as_frame(given: object, argument: str, *, index: bool = True) -> pl.DataFrame:
    """Return a caller's table as a Polars frame.

    Args:
        given: The table, of any kind that the module's docstring lists.
        argument: Name of the caller's argument, for messages.
        index: Whether a time index of a pandas frame becomes the column `ts`, whatever its name, and other named index
            levels become columns.

    Raises:
        UsageError: `given` is not a table.
        InputError: `given` cannot be converted, such as a list of rows of different lengths.
    """
    if isinstance(given, pl.DataFrame):
        return given
    try:
        frame = _convert_table(given, index=index)
    except _FAILURES as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0]
        raise InputError(f"{argument}: cannot be converted to a table: {reason[:200]}") from err
    if frame is None:
        raise UsageError(f"{argument} is {describe(given)}: expected {ACCEPTED}")
    return frame


def _convert_table(given: object, *, index: bool) -> pl.DataFrame | None:
    """Return a table of any kind but an eager Polars frame as such a frame; None if it is not a table."""
    if isinstance(given, pl.LazyFrame):
        return given.collect()
    if (pandas := _find_pandas(given, "DataFrame")) is not None:
        return _convert_pandas(given, pandas, index=index)
    if _exports_arrow(given):
        arrow: Any = given
        return pl.DataFrame(arrow)
    if hasattr(given, "__dataframe__"):
        import pyarrow.interchange

        return pl.DataFrame(pyarrow.interchange.from_dataframe(given))
    if isinstance(given, Mapping):
        return pl.DataFrame(dict(given))
    return _convert_rows(given)


def _exports_arrow(given: object) -> bool:
    """Return whether an object exports a table, not a single column, by the Arrow PyCapsule protocol."""
    if isinstance(given, pl.Series) or _find_pandas(given, "Series") is not None:
        return False
    return hasattr(given, "__arrow_c_stream__") or (hasattr(given, "__arrow_c_array__") and hasattr(given, "columns"))


def _find_pandas(given: object, class_name: str) -> Any:  # noqa: ANN401 -- the module
    """Return the module pandas if `given` is an instance of its class `class_name`; None otherwise."""
    pandas = sys.modules.get("pandas")
    return pandas if pandas is not None and isinstance(given, getattr(pandas, class_name, ())) else None


def _convert_pandas(given: Any, pandas: Any, *, index: bool) -> pl.DataFrame:  # noqa: ANN401 -- pandas is not imported
    """Return a pandas frame as a Polars frame; `index` is as for `as_frame`."""
    if index and isinstance(given.index, pandas.DatetimeIndex):
        if "ts" not in given.columns:
            given = given.rename_axis("ts").reset_index()
    elif index and any(name is not None and name not in given.columns for name in given.index.names):
        given = given.reset_index()
    frame: pl.DataFrame = pl.from_pandas(given)
    return frame


def _convert_rows(rows: object) -> pl.DataFrame | None:
    """Return a list or array of rows, with or without column names, as a frame; None if it is not such a list."""
    if isinstance(rows, np.ndarray):
        names = rows.dtype.names
        if names is not None:
            return pl.DataFrame({name: rows[name] for name in names})
        rows = rows.tolist() if rows.ndim > 1 else None
    if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
        return None
    if not rows:
        return pl.DataFrame()
    if all(isinstance(row, Mapping) for row in rows):
        return pl.DataFrame([dict(row) for row in rows], infer_schema_length=None, strict=False)
    if not all(isinstance(row, Sequence | np.ndarray) and not isinstance(row, str | bytes) for row in rows):
        return None
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1 or widths[0] not in _ROW_FIELDS:
        fields = ", ".join(map(str, widths[:3]))
        raise ValueError(f"rows of {fields} fields: a kline row has 12, an OHLCV row 6")
    columns = zip(BY_PLACE[widths[0]], zip(*rows, strict=True), strict=True)
    return pl.DataFrame([pl.Series(name, list(column), strict=False) for name, column in columns])


def as_record(given: object, argument: str, *, index: bool = True) -> Mapping[str, Any]:
    """Return a caller's single row as a mapping.

    Args:
        given: A mapping, a pandas row, a frame of one row, or a candle row without names.
        argument: Name of the caller's argument, for messages.
        index: Whether the time by which a pandas row is indexed becomes its `ts`.

    Raises:
        UsageError: `given` is not a row.
        InputError: `given` is a table that does not have exactly one row.
    """
    if isinstance(given, Mapping):
        return given
    if (pandas := _find_pandas(given, "Series")) is not None:
        series: Any = given
        record = {str(name): value for name, value in series.items()}
        # In a frame with a time index, the name of a row is its time.
        if index and isinstance(series.name, pandas.Timestamp):
            record.setdefault("ts", series.name)
        return record
    is_row = isinstance(given, list | tuple) and given and not isinstance(given[0], Mapping | list | tuple)
    try:
        frame = as_frame([given] if is_row else given, argument, index=index)
    except UsageError as err:
        expected = "a mapping of names to values, a frame of one row, or a kline row"
        raise UsageError(f"{argument} is {describe(given)}: expected {expected}") from err
    if frame.height != 1:
        raise InputError(f"{argument}: a table of {frame.height} rows: expected one row")
    return frame.row(0, named=True)


def as_candles(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return candles with the column names and types of CANDLE_SCHEMA, and `symbol`, if there is one, as text.

    A frame that already has them is returned unchanged; `check_candles` checks whether its rows are possible. Otherwise
    columns are recognised by the names that other programs use, other columns are dropped, text is read as numbers, and
    times (with a zone, as ISO 8601 text in UTC, or as numbers since 1970 in s, ms, µs or ns) are converted to ms UTC.

    Args:
        frame: The candles, in any of these forms.
        where: What messages call them, usually the caller's argument or the file.

    Raises:
        InputError: There is no column of times, or its times have no zone.
    """
    # A caller's empty list has become a frame without columns.
    if not frame.columns:
        return pl.DataFrame(schema=dict(CANDLE_SCHEMA))
    frame = _symbols_as_text(frame, where)
    if _is_canonical(frame):
        return frame
    usual = _read_usual(frame)
    return _read_any(frame, where) if usual is None else usual


def _read_any(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return the candles of a table in any form, as `as_candles` does."""
    times = _find_times(frame, where)
    ts_type = frame.schema[times[0]]
    if isinstance(ts_type, pl.Date) or (isinstance(ts_type, pl.Datetime) and ts_type.time_zone is None):
        raise InputError(
            f"{where}: column ts has no time zone: expected times in UTC, got {ts_type}",
            hint='convert it: `dt.replace_time_zone("UTC")` in Polars, `tz_localize("UTC")` in pandas',
        )
    return _keep_found(read_columns(Cells(frame.select(find_columns(frame.columns)), where)), frame)


def _read_usual(frame: pl.DataFrame) -> pl.DataFrame | None:
    """Return the candles of a table in the usual form: the names of CANDLE_SCHEMA, ms since 1970, and plain numbers.

    None for any other form. `_read_any` gives the same, but its twenty queries take longer than a prediction.
    """
    names = set(frame.columns)
    ts = frame["ts"] if frame.height and _REQUIRED <= names <= _USUAL_NAMES else None
    if ts is None or ts.dtype != pl.Int64 or ts.null_count():
        return None
    ts_ms = ts.to_numpy()
    columns = {name: _read_usual_numbers(frame[name]) for name in CANDLE_SCHEMA if name in names and name != "ts"}
    numbers = {name: column.to_numpy() for name, column in columns.items() if column is not None}
    is_usual = (
        is_ms(int(ts_ms.min()))
        and is_ms(int(ts_ms.max()))
        and len(numbers) == len(columns)
        and all(np.isfinite(number).all() for number in numbers.values())
        and ("trades" not in numbers or _are_counts(numbers["trades"]))
        and ("quote_volume" not in numbers or _is_quote_volume(numbers))
    )
    if not is_usual:
        return None
    read = [column.cast(CANDLE_SCHEMA[name]) for name, column in columns.items() if column is not None]
    return pl.DataFrame([ts.cast(TS_DTYPE), *read, *([frame["symbol"]] if "symbol" in names else [])])


def _read_usual_numbers(column: pl.Series) -> pl.Series | None:
    """Return a column of numbers, or of numbers as text, as floats; None if it is none, or has a cell without one."""
    if column.dtype not in {pl.Float64, pl.Int64, pl.String}:
        return None
    read = column.cast(pl.Float64, strict=False)
    return None if read.null_count() else read


def _are_counts(numbers: NDArray[np.float64]) -> bool:
    """Return whether all numbers are whole, and small enough that a float holds each exactly."""
    return bool(((numbers == numbers.round()) & (np.abs(numbers) < 2**53)).all())


def _is_quote_volume(numbers: Mapping[str, NDArray[np.float64]]) -> bool:
    """Return whether the volume in the quote asset divided by that in the base asset is a price in most candles."""
    base, quote = numbers["volume"], numbers["quote_volume"]
    traded = (base > 0) & (quote > 0)
    # A volume of 1e308 has no price, and is no usual one.
    with np.errstate(over="ignore"):
        price = quote[traded] / base[traded]
    inside = (price >= numbers["low"][traded]) & (price <= numbers["high"][traded])
    return bool(inside.size and inside.mean() > 0.5)


def _symbols_as_text(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    """Return a frame whose column `symbol`, if it has one, is text; an InputError if it cannot be."""
    symbol_type = frame.schema.get("symbol")
    if symbol_type == pl.Categorical or isinstance(symbol_type, pl.Enum):
        return frame.with_columns(pl.col("symbol").cast(pl.String))
    if symbol_type not in {None, pl.String}:
        raise InputError(f"{where}: column symbol is {symbol_type}: expected text")
    return frame


def _find_times(frame: pl.DataFrame, where: str) -> list[str]:
    """Return the columns of a frame that may hold times of candles; an InputError if there is none."""
    times = time_columns(frame.columns)
    if not times:
        raise InputError(
            f"{where}: column ts missing; the columns are {', '.join(map(show, frame.columns[:20]))}",
            hint="`ts` is the open time of a candle, in UTC",
        )
    return times


def _keep_found(read: NamedColumns, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of CANDLE_SCHEMA that a frame has, and its column `symbol` if it has one."""
    rows = read.rows.select("ts", *(name for name in CANDLE_SCHEMA if name in read.columns))
    return rows.with_columns(frame["symbol"]) if "symbol" in frame.columns else rows


def _is_canonical(frame: pl.DataFrame) -> bool:
    """Return whether the columns have the names of CANDLE_SCHEMA and types that `check_candles` accepts."""
    schema = frame.schema
    return all(is_accepted_type(name, schema[name]) if name in schema else name in OPTIONAL for name in CANDLE_SCHEMA)


def read_candle_table(
    data: bytes, file_format: Format, *, where: str, step_ms: int, timezone: str | None = None
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the candles in the bytes of a file, and notes on what was decided although the file does not state it.

    The columns have the names and types of CANDLE_SCHEMA; `symbol` is kept if the file has it. Times are found as in
    the files of a snapshot: those without a zone are read in `timezone`.

    Args:
        data: The bytes of the file.
        file_format: Its format.
        where: The file's name in messages.
        step_ms: The interval of the candles.
        timezone: The zone of times that state none, as `check_time_zone` returns it; None: UTC.
    """
    offered: list[str] = []

    def choose(names: Sequence[str]) -> list[str]:
        offered[:] = names
        return _choose_columns(names)

    cells = read_cells(data, name=f".{file_format}", where=where, columns=choose, max_rows=MAX_TABLE_ROWS)
    frame = _symbols_as_text(cells.frame, where)
    unread = describe_unread(offered or frame.columns)
    if _is_canonical(frame):
        return frame, (*cells.notes, *unread)
    _find_times(frame, where)
    read = read_columns(replace(cells, frame=frame.select(find_columns(frame.columns))), step_ms, timezone)
    return _keep_found(read, frame), (*cells.notes, *read.notes, *read.times.notes, *unread)


def _choose_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of a file that hold candles; all if none holds times, so that the error can name them."""
    return find_columns(names) if time_columns(names) else list(names)
