"""One file of candles, parquet or CSV, as rows: the names, types and times that other programs write.

Read are Binance's headerless twelve columns and any file with named columns. Times may be numbers (seconds, ms, µs or
ns, told apart value by value) or ISO 8601; without a zone they are UTC. A cell that is no number or no time is refused
by file, line and column, and so is a file whose candles are of another interval. Whether a row can be a candle is not
asked here.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import (
    CANDLE_SCHEMA,
    INTERVALS_MS,
    OPTIONAL,
    TS_DTYPE,
    format_ms,
    interval_name,
    times_ms,
)
from mltrain.candles.parquet import ParquetFile
from mltrain.errors import InputError
from mltrain.files import read_file
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz")

_MAX_FILE_BYTES: Final = 1 << 30  # eight years of one-minute candles as CSV are half of it; also once unpacked

_BINANCE_COLUMNS: Final = (
    *("ts", "open", "high", "low", "close", "volume", "close_time"),
    *("quote_volume", "trades", "taker_buy_base", "taker_buy_quote", "ignore"),
)

#: What each column is called elsewhere, in lower case with one _ for anything but letters and digits; first one wins.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "ts": (
        *("ts", "open_time", "opentime", "timestamp", "datetime", "date", "time", "unix"),
        *("open_timestamp", "index", "index_level_0"),
    ),
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price"),
    "volume": ("volume", "v", "vol", "base_volume", "base_asset_volume"),
    "quote_volume": ("quote_volume", "quote_asset_volume", "quote_vol", "quotevolume", "qav"),
    "trades": ("trades", "number_of_trades", "num_trades", "trade_count", "n_trades", "tradecount", "count"),
    "taker_buy_base": (
        *("taker_buy_base", "taker_buy_base_asset_volume", "taker_buy_base_volume", "taker_buy_volume"),
        *("taker_base_volume", "taker_base_vol"),
    ),
    "taker_buy_quote": (
        *("taker_buy_quote", "taker_buy_quote_asset_volume", "taker_buy_quote_volume"),
        *("taker_quote_volume", "taker_quote_vol"),
    ),
}

_ISO: Final = (
    r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]([0-9]{2}:[0-9]{2})(:[0-9]{2})?(\.[0-9]{1,9})?)?"
    r"\s*(?:Z|UTC|([+-])([0-9]{2}):?([0-9]{2}))?$"
)

_RUN: Final = 20  # equal gaps in a row that no sparse market shows by chance


def read_rows(path: Path, symbol: str, step_ms: int) -> pl.DataFrame:
    """Return the rows of a file in its order, with the columns of CANDLE_SCHEMA; those that it lacks are null.

    Args:
        path: A file whose name ends in one of SUFFIXES; a symbolic link is followed.
        symbol: For messages.
        step_ms: Interval that its candles must have.

    Raises:
        InputError: It is missing, unreadable, too large or empty, lacks a column, holds a cell of the wrong kind, or
            its candles are of another interval.
        MachineError: The machine refuses to read it.
    """
    where = f"{path}: {symbol}"
    data = read_file(Path(os.path.realpath(path)), max_bytes=_MAX_FILE_BYTES, what="the candle file")
    if path.name.lower().endswith(".parquet"):
        first_line, rows = 1, _parquet_cells(data, where)
    else:
        first_line, rows = _csv_cells(_unpack(data, where) if path.name.lower().endswith(".gz") else data, where)
    if rows.is_empty():
        raise InputError(f"{where}: no rows")
    frame = pl.DataFrame([_as_times(rows["ts"], where, first_line)]).with_columns(
        _as_numbers(rows[name], where, first_line) for name in rows.columns if name != "ts"
    )
    _check_spacing(np.unique(times_ms(frame)), step_ms, where)
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in CANDLE_SCHEMA.items() if name not in frame.columns]
    return frame.with_columns(absent).select(*CANDLE_SCHEMA)


def _unpack(data: bytes, where: str) -> bytes:
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as err:
        raise InputError(f"{where}: not a whole gzip file: {err}") from err
    if len(plain) > _MAX_FILE_BYTES:
        raise InputError(f"{where}: more than {_MAX_FILE_BYTES} bytes once unpacked")
    return plain


def _find_columns(names: Sequence[str], where: str) -> dict[str, str]:
    """Return which column of a file is which of CANDLE_SCHEMA."""
    folded = {re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in reversed(names)}
    found = {ours: folded[theirs[0]] for ours, al in _ALIASES.items() if (theirs := [a for a in al if a in folded])}
    missing = [name for name in CANDLE_SCHEMA if name not in found and name not in OPTIONAL]
    if missing:
        shown = ", ".join(show(name) for name in names[:15])
        raise InputError(
            f"{where}: no column for {' and '.join(missing)} among {shown}",
            hint="the first line of a CSV names its columns: ts,open,high,low,close,volume",
        )
    return found


def _parquet_cells(data: bytes, where: str) -> pl.DataFrame:
    file = ParquetFile(data, where=where)
    columns = _find_columns(list(file.types), where)
    return file.read(list(columns.values())).rename({theirs: ours for ours, theirs in columns.items()})


def _csv_cells(data: bytes, where: str) -> tuple[int, pl.DataFrame]:
    """Return the number of the first line with values, and the cells as text."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    fields = data.split(b"\n", 1)[0].strip().split(b",")
    headless = _is_number(fields[0])
    if headless and len(fields) != len(_BINANCE_COLUMNS):
        raise InputError(
            f"{where}: no header, and {len(fields)} columns; only Binance's {len(_BINANCE_COLUMNS)} are known by place",
            hint="put a first line in, such as ts,open,high,low,close,volume",
        )
    try:
        cells = pl.read_csv(data, has_header=not headless, infer_schema=False)
    except (pl.exceptions.PolarsError, ValueError) as err:
        reason = str(err).split("\n", 1)[0][:200]
        raise InputError(f"{where}: not a readable CSV file: {reason}") from err
    if headless:
        cells.columns = list(_BINANCE_COLUMNS)
    columns = _find_columns(cells.columns, where)
    return 1 if headless else 2, cells.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _as_numbers(cells: pl.Series, where: str, first_line: int) -> pl.Series:
    """Return a column as its type in CANDLE_SCHEMA; empty cells are null."""
    dtype = CANDLE_SCHEMA[cells.name]
    if cells.dtype == pl.String:
        cells = _text(cells)
    elif not (cells.dtype.is_numeric() or cells.dtype == pl.Null):
        raise InputError(f"{where}: column {cells.name} is {cells.dtype}, not numbers")
    numbers = cells.cast(pl.Float64, strict=False)
    _refuse_first(cells, numbers.is_null() & cells.is_not_null(), where, first_line, "not a number")
    if dtype == pl.Int64:
        whole = (numbers == numbers.round()) & (numbers.abs() < 2**53)
        _refuse_first(cells, ~whole.fill_null(True), where, first_line, "not a whole number")
    return numbers.cast(dtype)


def _as_times(cells: pl.Series, where: str, first_line: int) -> pl.Series:
    """Return a column of times as TS_DTYPE, whatever it held."""
    cells = cells.rename("ts")
    if isinstance(cells.dtype, pl.Datetime | pl.Date):
        micros = cells.cast(pl.Datetime("us", getattr(cells.dtype, "time_zone", None))).dt.timestamp("us")
        stamps = micros // 1000
        bad = micros % 1000 != 0
    elif cells.dtype == pl.String or cells.dtype.is_numeric():
        texts = _text(cells) if cells.dtype == pl.String else cells
        from_numbers = _stamps_of_numbers(texts.cast(pl.Float64, strict=False))
        stamps = from_numbers if cells.dtype != pl.String else from_numbers.fill_null(_stamps_of_iso(texts))
        bad = stamps.is_null()
    else:
        raise InputError(f"{where}: column ts is {cells.dtype}, not times")
    _refuse_first(cells, bad.fill_null(True), where, first_line, "not an open time")
    return stamps.cast(TS_DTYPE).alias("ts")


def _text(cells: pl.Series) -> pl.Series:
    stripped = cells.str.strip_chars()
    return stripped.set(stripped == "", None)


def _stamps_of_numbers(numbers: pl.Series) -> pl.Series:
    """Return ms of seconds, ms, µs or ns, told apart by size; null where that is no whole ms.

    Between 1973 and 5138 the four ranges do not overlap, and a float holds each of these numbers exactly but the ns,
    whose last digits are zeros on any grid.
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
    """Return ms of ISO 8601 times, UTC where they name no zone; null where that is no time."""
    names = ("date", "minute", "second", "fraction", "sign", "hours", "minutes")
    groups = texts.str.extract_groups(_ISO).struct.rename_fields(list(names)).struct.unnest()
    clock = pl.col("date") + "T" + pl.col("minute").fill_null("00:00") + pl.col("second").fill_null(":00")
    at = clock.str.to_datetime("%Y-%m-%dT%H:%M:%S", strict=False).dt.timestamp("ms")
    fraction = ("0" + pl.col("fraction").fill_null(".0")).cast(pl.Float64) * 1000
    offset = (pl.col("hours").cast(pl.Int64) * 60 + pl.col("minutes").cast(pl.Int64)) * 60_000
    signed = pl.when(pl.col("sign") == "-").then(-offset).otherwise(offset).fill_null(0)
    return groups.select((at + fraction.cast(pl.Int64) - signed).alias("ts")).to_series()


def _refuse_first(cells: pl.Series, bad: pl.Series, where: str, first_line: int, law: str) -> None:
    rows = bad.arg_true()
    if rows.len():
        value = cells[rows[0]]
        shown = "missing" if value is None else show(value) if isinstance(value, str) else value
        more = f" (and {rows.len() - 1} more)" if rows.len() > 1 else ""
        raise InputError(f"{where}: line {rows[0] + first_line}: {cells.name} is {shown}: {law}{more}")


def _check_spacing(ts_ms: NDArray[np.int64], step_ms: int, where: str) -> None:
    """Refuse a file, or a long run inside one, whose candles are of another interval.

    Raises:
        InputError: Its rows are closer than `step_ms`, or many in a row stand equally far apart beyond it.
    """
    gaps = np.diff(ts_ms)
    if gaps.size == 0:
        return
    typical = int(np.median(gaps))
    run_starts = np.flatnonzero(np.diff(gaps, prepend=-1))
    run_lengths = np.diff(run_starts, append=gaps.size)
    wide = (gaps[run_starts] > step_ms) & (run_lengths >= max(2, min(_RUN, gaps.size)))
    if typical >= step_ms and not wide.any():
        return
    at = int(run_starts[wide][0]) if wide.any() else 0
    found = interval_name(int(gaps[at]) if wide.any() else typical)
    raise InputError(
        f"{where}: its candles are {found} apart from {format_ms(int(ts_ms[at]))} on, not {interval_name(step_ms)}",
        hint=f"pass --interval {found}" if found in INTERVALS_MS else None,
    )
