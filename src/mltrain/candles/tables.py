"""One file of candles, parquet, CSV or JSON, as rows: the columns that other programs write, by name or by place.

Pure: bytes in, a frame out. Known by place are the layouts without a header of Binance, Kraken and freqtrade, in CSV
and in JSON alike; any other file names its columns. Six and seven columns are a guess, which every row has to prove:
what could be read two ways is refused. So is a file whose candles are of another interval.
"""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.cells import Cells, whole_ms
from mltrain.candles.compression import gunzip, unzip_single
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, times_ms
from mltrain.candles.parquet import MAX_ROWS, ParquetFile
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.times import INTERVALS_MS, format_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz", ".json", ".json.gz", ".zip")
MAX_FILE_BYTES: Final = 1 << 30  # eight years of one-minute candles as CSV are half of it; also once unpacked

MAX_CELLS: Final = MAX_ROWS * 12  # of a text: each takes 16 bytes and more, though it may be empty

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_MAX_JSON_BYTES: Final = 1 << 28  # four years of the exchange's answers; the parser takes some ten times as much

_OHLCV: Final = ("ts", "open", "high", "low", "close", "volume")
_BINANCE: Final = (*_OHLCV, "close_time", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote", "ignore")

#: What the columns are where no header names them, by how many there are: freqtrade's, Kraken's, Binance's.
BY_PLACE: Final[Mapping[int, tuple[str, ...]]] = {6: _OHLCV, 7: (*_OHLCV, "trades"), 12: _BINANCE}
_HEADER_HINT: Final = f"save it as a CSV whose first line names its columns: {','.join(_OHLCV)}"

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

#: Inside a JSON list: a row that is a mapping, or one that holds a mapping or another list.
_NESTED: Final = re.compile(r'\{|\[[^\[\]{}"]*+(?:"[^"]*+"[^\[\]{}"]*+)*+[\[{]')

# Equal steps in a row that no sparse market shows by chance.
_RUN: Final = 20


def read_rows(data: bytes, *, name: str, where: str, step_ms: int) -> pl.DataFrame:
    """Return the rows of a file in its order, with the columns of CANDLE_SCHEMA; those that it lacks are null.

    Args:
        data: The bytes of the file.
        name: Its name, which ends in one of SUFFIXES.
        where: Its name in messages.
        step_ms: Interval that its candles must have.

    Returns:
        The rows; none where the file says that there are none, as a JSON `[]` does or a header alone.

    Raises:
        InputError: It is damaged, too large once unpacked, lacks a column, holds a cell of the wrong kind, or its
            candles are of another interval.
        MachineError: Not enough memory.
    """
    return read_rows_and_closes(data, name=name, where=where, step_ms=step_ms)[0]


def read_rows_and_closes(
    data: bytes, *, name: str, where: str, step_ms: int
) -> tuple[pl.DataFrame, NDArray[np.int64] | None]:
    """Return the rows of a file as `read_rows` does, and their close times.

    Returns:
        The rows, and the close times of a text file in the exchange's layout, ms UTC, shape (n,); None where the file
        has none.
    """
    name = name.lower()
    if name.endswith(".zip"):
        data = unzip_single(data, where=where, max_bytes=MAX_FILE_BYTES)
    elif name.endswith(".gz"):
        data = gunzip(data, where=where, max_bytes=MAX_FILE_BYTES)
    if name.endswith(".parquet") or data.startswith(b"PAR1"):
        return _as_rows(_parquet_cells(data, where), step_ms), None
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if data[:100].lstrip().startswith((b"[", b"{")):
        cells, headless = _json_cells(data, where), True
        return _read_by_place(cells, step_ms), _closes(cells, headless=headless)
    cells, headless = _csv_cells(data, where)
    return _rows_of_csv(cells, step_ms, headless=headless), _closes(cells, headless=headless)


def read_binance_csv(data: bytes, *, where: str, symbol: str, step_ms: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return the rows of one of Binance's CSV files in its order.

    Args:
        data: The bytes of the CSV, unpacked; with a header or without, times in ms or µs.
        where: Its name in messages, usually the path or the address.
        symbol: For messages.
        step_ms: Interval that its candles must have.

    Returns:
        The rows, with the columns of CANDLE_SCHEMA, and their close times, ms UTC, shape (n,).

    Raises:
        InputError: It has no rows, lacks a column, holds a cell of the wrong kind, or its candles are of another
            interval.
    """
    where = f"{where}: {symbol}"
    cells, headless = _csv_cells(data, where)
    rows = _rows_of_csv(cells, step_ms, headless=headless)
    if rows.is_empty():
        raise InputError(f"{where}: no rows")
    closes_ms = _closes(cells, headless=headless)
    if closes_ms is None:
        raise InputError(f"{where}: a close time is missing, or is not a number")
    return rows, closes_ms


def _closes(cells: Cells, *, headless: bool) -> NDArray[np.int64] | None:
    """Return the close times of the exchange's layout, ms UTC; None if one is missing or is not a whole number."""
    names = _BINANCE if headless else [re.sub(r"[^a-z0-9]+", "_", name.lower()) for name in cells.frame.columns]
    if cells.frame.width < len(_BINANCE) or "close_time" not in names:
        return None
    closes = cells.frame[:, list(names).index("close_time")].str.strip_chars().cast(pl.Int64, strict=False)
    return None if closes.null_count() else whole_ms(closes.to_numpy())


def _as_rows(cells: Cells, step_ms: int) -> pl.DataFrame:
    rows = cells.to_rows()
    _check_spacing(np.unique(times_ms(rows)), step_ms, cells.where)
    return rows


def name_columns(names: Sequence[str]) -> dict[str, str]:
    """Map a table's columns to those of CANDLE_SCHEMA, by the names that other programs use."""
    folded = {re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"): name for name in reversed(names)}
    return {ours: folded[theirs[0]] for ours, al in _ALIASES.items() if (theirs := [a for a in al if a in folded])}


def _find_columns(names: Sequence[str], where: str) -> dict[str, str]:
    """Return which column of a file is which of CANDLE_SCHEMA."""
    found = name_columns(names)
    missing = [name for name in CANDLE_SCHEMA if name not in found and name not in OPTIONAL]
    if missing:
        shown = ", ".join(show(name) for name in names[:15])
        raise InputError(
            f"{where}: no column for {' and '.join(missing)} among {shown}",
            hint="the first line of a CSV names its columns, with commas: ts,open,high,low,close,volume",
        )
    return found


def _parquet_cells(data: bytes, where: str) -> Cells:
    file = ParquetFile(data, where=where)
    columns = _find_columns(list(file.types), where)
    return Cells(file.read(list(columns.values())).rename({theirs: ours for ours, theirs in columns.items()}), where)


def _csv_cells(data: bytes, where: str) -> tuple[Cells, bool]:
    """Return the cells of a CSV as text, and whether no header names its columns."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{where}: is UTF-16", hint="save it as UTF-8")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    text = data.strip(b"\r\n")
    if not text:
        raise InputError(f"{where}: not a readable CSV file: nothing is in it")
    begin = 1 + data.count(b"\n", 0, data.index(text[:1]))  # the line of its first text, after empty ones
    head = text[: text.find(b"\n")] if b"\n" in text else text
    headless = _is_number(head.split(b",", 1)[0])
    frame = _csv_frame(text, width=head.count(b",") + 1, headless=headless, begin=begin, where=where)
    return Cells(frame, where, "line", begin if headless else begin + 1), headless


def _rows_of_csv(cells: Cells, step_ms: int, *, headless: bool) -> pl.DataFrame:
    if headless:
        return _read_by_place(cells, step_ms)
    columns = _find_columns(cells.frame.columns, cells.where)
    named = cells.frame.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())
    return _as_rows(replace(cells, frame=named), step_ms)


def _is_number(field: bytes) -> bool:
    try:
        float(field.strip(b' "'))
    except ValueError:
        return False
    return True


def _csv_frame(text: bytes, *, width: int, headless: bool, begin: int, where: str) -> pl.DataFrame:
    """Return the cells of a CSV as text, once every line has proved as wide as the first."""
    lines = text.count(b"\n") + 1
    if lines * width > MAX_CELLS:
        raise InputError(f"{where}: {lines} lines of {width} columns: at most {MAX_CELLS} cells are read")
    try:
        frame = pl.read_csv(text, has_header=not headless, infer_schema=False)
    except (pl.exceptions.PolarsError, ValueError) as err:
        _refuse_odd_line(text, width, begin, where)
        reason = str(err).split("\n", 1)[0][:200]
        raise InputError(f"{where}: not a readable CSV file: {reason}") from err
    # The right sum of wrong lines has one with too many fields, which the reader has refused.
    if text.count(b",") != lines * (width - 1):
        _refuse_odd_line(text, width, begin, where)
    return frame


def _refuse_odd_line(text: bytes, width: int, begin: int, where: str) -> None:
    """Refuse the first line with more or fewer fields than the first; where quotes may hide commas, none is told."""
    if b'"' in text:
        return
    for number, line in enumerate(io.BytesIO(text), start=begin):
        if line.count(b",") != width - 1:
            have = line.count(b",") + 1
            raise InputError(
                f"{where}: line {number} has {have} field{'s' * (have > 1)}, the first line {width}",
                hint="fetch the file again, or mend the line",
            )


def _json_cells(data: bytes, where: str) -> Cells:
    """Return the cells of a JSON list of rows; its columns are named as they stand, "0" and up."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise InputError(f"{where}: not UTF-8: {err.reason} at byte {err.start}") from err
    if not text.lstrip().startswith("["):
        raise InputError(f"{where}: JSON, but no list of rows: it begins with {show(text.lstrip()[:40])}")
    _check_json_size(data, where)
    try:
        rows = pl.Series([text]).str.json_decode(pl.List(pl.List(pl.String))).explode(empty_as_null=False)
    except pl.exceptions.PolarsError as err:
        raise _bad_json(text, str(err), where) from err
    if rows.is_empty():
        return Cells(pl.DataFrame(), where)
    widths = rows.list.len().fill_null(0)
    other = (widths != widths[0]).arg_true()
    if other.len():
        row = other[0]
        raise InputError(f"{where}: row {row + 1} has {widths[row]} values, row 1 has {widths[0]}")
    if widths[0] == 0:
        raise InputError(f"{where}: row 1 has no values")
    return Cells(pl.DataFrame([rows.list.get(i).alias(str(i)) for i in range(widths[0])]), where)


def _check_json_size(data: bytes, where: str) -> None:
    """Refuse what no list of candles is: the parser would need many times its size."""
    if len(data) > _MAX_JSON_BYTES:
        raise InputError(f"{where}: {len(data)} bytes of JSON, at most {_MAX_JSON_BYTES} are read", hint=_HEADER_HINT)
    rows = data.count(b"[")
    if rows > MAX_ROWS or data.count(b",") > rows * len(_BINANCE):
        raise InputError(f"{where}: JSON, but no list of at most {MAX_ROWS} rows of at most {len(_BINANCE)} values")


def _bad_json(text: str, reason: str, where: str) -> InputError:
    at = re.search(r"at character ([0-9]+)", reason)  # counted from 1
    if at is not None:
        place = int(at[1]) - 1
        row = max(text.count("[", 0, place) - 1, 1)
        hint = "fetch the file again"
        return InputError(f"{where}: row {row}: not JSON at {show(text[place : place + 30])}", hint=hint)
    nested = _NESTED.search(text, text.index("[") + 1)
    if nested is not None:
        row = text.count("]", 0, nested.start()) + 1
        begin = show(text[nested.start() : nested.start() + 40])
        return InputError(f"{where}: row {row} is no plain list of values: {begin}", hint=_HEADER_HINT)
    return InputError(f"{where}: not a JSON list of rows: {reason.split(chr(10), 1)[0][:200]}")


def _read_by_place(cells: Cells, step_ms: int) -> pl.DataFrame:
    """Return the rows of cells whose columns no header names, once they have proved what they are taken for."""
    found = cells.frame.columns
    if not found:
        return pl.DataFrame(schema=dict(CANDLE_SCHEMA))
    names = BY_PLACE.get(len(found))
    if names is None:
        raise InputError(
            f"{cells.where}: no header, and {len(found)} columns: only "
            f"{', '.join(f'{n} ({names[-1]} last)' for n, names in BY_PLACE.items())} are known by place",
            hint=_HEADER_HINT,
        )
    frame = cells.frame.select(
        pl.col(theirs).alias(ours) for theirs, ours in zip(found, names, strict=True) if ours in CANDLE_SCHEMA
    )
    named = Cells(frame, cells.where, cells.unit, cells.first)
    if names is _BINANCE:
        return _as_rows(named, step_ms)
    try:
        rows = named.to_rows()
        _check_guess(rows, named)
    except InputError as err:
        raise InputError(
            f"{err.message}; without a header it is taken for {','.join(names)}", hint=_HEADER_HINT
        ) from err
    _check_spacing(np.unique(times_ms(rows)), step_ms, cells.where)
    return rows


def _check_guess(rows: pl.DataFrame, cells: Cells) -> None:
    """Refuse rows that are no candles in the order guessed: elsewhere close comes second, or an average sixth."""
    highest, lowest = pl.max_horizontal("open", "low", "close"), pl.min_horizontal("open", "close")
    bad = rows.select(((pl.col("high") < highest) | (pl.col("low") > lowest)).fill_null(True).arg_true()).to_series()
    if bad.len():
        row = rows.row(bad[0], named=True)
        prices = ", ".join(f"{name} {row[name]}" for name in ("open", "high", "low", "close"))
        raise InputError(f"{cells.place(bad[0])}: {prices} cannot be a candle")
    if rows.select(pl.col("volume").is_between("low", "high").all()).item():
        raise InputError(f"{cells.where}: its sixth column lies between low and high in every row, as an average does")


def _check_spacing(ts_ms: NDArray[np.int64], step_ms: int, where: str) -> None:
    """Refuse a file, or a long run inside one, whose candles are of another interval.

    Raises:
        InputError: Its rows are closer than `step_ms`, or many in a row stand equally far apart beyond it.
    """
    steps_ms = np.diff(ts_ms)
    if steps_ms.size == 0:
        return
    typical = int(np.median(steps_ms))
    run_starts = np.flatnonzero(np.diff(steps_ms, prepend=-1))
    run_lengths = np.diff(run_starts, append=steps_ms.size)
    wide = (steps_ms[run_starts] > step_ms) & (run_lengths >= max(2, min(_RUN, steps_ms.size)))
    if typical >= step_ms and not wide.any():
        return
    at = int(run_starts[wide][0]) if wide.any() else 0
    found = interval_name(int(steps_ms[at]) if wide.any() else typical)
    raise InputError(
        f"{where}: its candles are {found} apart from {format_ms(int(ts_ms[at]))} on, not {interval_name(step_ms)}",
        hint=f"pass --interval {found}" if found in INTERVALS_MS else None,
    )
