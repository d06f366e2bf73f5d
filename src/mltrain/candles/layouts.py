"""Read a file of candles: find out which column is which, by name or by position.

Pure: bytes in, a frame out. Known by position are the layouts without a header of Binance, Kraken and freqtrade, in CSV
and in JSON alike; any other file names its columns. Six and seven columns are a guess that every row has to confirm: a
file that could be read in two ways is refused. So is a file whose candles have another interval.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.cells import as_ms
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, times_ms
from mltrain.candles.tables import read_cells
from mltrain.candles.understood import FileLayout
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.times import INTERVALS_MS, format_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.candles.cells import Cells

SUFFIXES: Final = (".parquet", ".csv", ".csv.gz", ".json", ".json.gz", ".zip")

_OHLCV: Final = ("ts", "open", "high", "low", "close", "volume")
_BINANCE: Final = (*_OHLCV, "close_time", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote", "ignore")

#: The columns of files without a header, by their number: freqtrade's, Kraken's, Binance's layout.
BY_PLACE: Final[Mapping[int, tuple[str, ...]]] = {6: _OHLCV, 7: (*_OHLCV, "trades"), 12: _BINANCE}
_HEADER_HINT: Final = f"save it as a CSV whose first line names its columns: {','.join(_OHLCV)}"

#: The names that other programs use, in lower case, with one _ for anything but letters and digits; the first wins.
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

# A run of this many equal steps does not occur by chance even in a sparse market.
_LONG_RUN: Final = 20


@dataclass(frozen=True, slots=True)
class CandleRows:
    """The rows of a candle file, and how they were read.

    Attributes:
        rows: In the file's order, with the columns of CANDLE_SCHEMA, null where the file lacks one.
        closes_ms: The close times of a text file in Binance's layout, ms UTC, shape (n,); None for other files.
        layout: What was understood of the file; None if it has no rows.
    """

    rows: pl.DataFrame
    closes_ms: NDArray[np.int64] | None
    layout: FileLayout | None


def read_rows(data: bytes, *, name: str, where: str, step_ms: int) -> CandleRows:
    """Return the rows of a candle file in the file's order, and how they were read.

    Args:
        data: The bytes of the file.
        name: The file's name, which ends in one of SUFFIXES.
        where: The file's name in messages.
        step_ms: The interval that its candles must have.

    Returns:
        No rows if the file is a JSON `[]` or a header alone.
    """
    cells = read_cells(data, name=name, where=where, columns=lambda names: list(_find_columns(names, where).values()))
    if not cells.frame.width:
        return CandleRows(pl.DataFrame(schema=dict(CANDLE_SCHEMA)), _read_close_times(cells), None)
    rows = _read_named(cells) if cells.named else _read_unnamed(cells)
    _check_spacing(np.unique(times_ms(rows)), step_ms, where)
    layout = None if rows.is_empty() else _describe_layout(cells, name)
    return CandleRows(rows, _read_close_times(cells), layout)


def _describe_layout(cells: Cells, name: str) -> FileLayout:
    """Return what was understood of a file with rows; `name` is its name."""
    columns = (
        name_columns(cells.frame.columns)
        if cells.named
        else dict(zip(CANDLE_SCHEMA, BY_PLACE[cells.frame.width], strict=False))
    )
    their_names = [column for column in cells.frame.columns if column in columns.values()]
    return FileLayout(
        file_format=name.lower().removesuffix(".gz").rpartition(".")[2],
        time="open",
        unit="numbers or text",
        zone="UTC",
        columns=tuple(their_names if cells.named else columns.values()),
        named=cells.named,
    )


def read_binance_csv(data: bytes, *, where: str, symbol: str, step_ms: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return the rows of one of Binance's CSV files in the file's order, and their close times, ms UTC, shape (n,).

    Args:
        data: The bytes of the CSV, unpacked; with a header or without, times in ms or µs.
        where: The file's name in messages, usually the path or the address.
        symbol: Symbol of the candles, named in messages.
        step_ms: The interval that its candles must have.

    Raises:
        InputError: The file has no rows or no close times.
    """
    where = f"{where}: {symbol}"
    read = read_rows(data, name=".csv", where=where, step_ms=step_ms)
    if read.rows.is_empty():
        raise InputError(f"{where}: no rows")
    if read.closes_ms is None:
        raise InputError(f"{where}: a close time is missing, or is not a number")
    return read.rows, read.closes_ms


def name_columns(names: Sequence[str]) -> dict[str, str]:
    """Map the names of CANDLE_SCHEMA to a table's own column names, where it has such a column.

    >>> name_columns(["Open time", "Close", "mood"])
    {'ts': 'Open time', 'close': 'Close'}
    """
    unfolded = {_fold(name): name for name in reversed(names)}
    matches = {name: [unfolded[alias] for alias in aliases if alias in unfolded] for name, aliases in _ALIASES.items()}
    return {name: their_names[0] for name, their_names in matches.items() if their_names}


def _fold(name: str) -> str:
    """Return a column name in lower case, with one _ for each run of other characters: "Open time" is "open_time"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _find_columns(names: Sequence[str], where: str) -> dict[str, str]:
    """Map the names of CANDLE_SCHEMA to a file's column names; an InputError if `ts` or one of OHLCV is missing."""
    columns = name_columns(names)
    missing = [name for name in CANDLE_SCHEMA if name not in columns and name not in OPTIONAL]
    if missing:
        shown = ", ".join(show(name) for name in names[:15])
        raise InputError(
            f"{where}: no column for {' and '.join(missing)} among {shown}",
            hint="the first line of a CSV names its columns, with commas: ts,open,high,low,close,volume",
        )
    return columns


def _read_close_times(cells: Cells) -> NDArray[np.int64] | None:
    """Return the close times of a file in Binance's layout, ms UTC, shape (n,).

    None for another layout, and if one is missing or not a whole number.
    """
    names = [_fold(name) for name in cells.frame.columns] if cells.named else list(_BINANCE)
    if cells.frame.width < len(_BINANCE) or "close_time" not in names:
        return None
    closes = cells.frame[:, names.index("close_time")].cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
    return None if closes.null_count() else as_ms(closes.to_numpy())


def _read_named(cells: Cells) -> pl.DataFrame:
    """Return the cells of a file that names its columns as rows with the columns of CANDLE_SCHEMA."""
    columns = _find_columns(cells.frame.columns, cells.where)
    named = cells.frame.select(pl.col(their_name).alias(name) for name, their_name in columns.items())
    return replace(cells, frame=named).to_rows()


def _read_unnamed(cells: Cells) -> pl.DataFrame:
    """Return the cells of a file without column names as rows with the columns of CANDLE_SCHEMA.

    The number of columns gives the layout; every row is checked against it.
    """
    width = cells.frame.width
    names = BY_PLACE.get(width)
    if names is None:
        known = ", ".join(f"{number} ({columns[-1]} last)" for number, columns in BY_PLACE.items())
        message = f"{cells.where}: no header, and {width} columns: only {known} are known by position"
        raise InputError(message, hint=_HEADER_HINT)
    positions = zip(cells.frame.columns, names, strict=True)
    frame = cells.frame.select(pl.col(position).alias(name) for position, name in positions if name in CANDLE_SCHEMA)
    named = replace(cells, frame=frame)
    if names is _BINANCE:
        return named.to_rows()
    try:
        rows = named.to_rows()
        _check_guessed_layout(rows, named)
    except InputError as err:
        message = f"{err.message}; without a header it is taken for {','.join(names)}"
        raise InputError(message, hint=_HEADER_HINT) from err
    return rows


def _check_guessed_layout(rows: pl.DataFrame, cells: Cells) -> None:
    """Raise an InputError for rows that are no candles in this order: some files put close second, an average sixth."""
    highest, lowest = pl.max_horizontal("open", "low", "close"), pl.min_horizontal("open", "close")
    bad = rows.select(((pl.col("high") < highest) | (pl.col("low") > lowest)).fill_null(True).arg_true()).to_series()
    if bad.len():
        row = rows.row(bad[0], named=True)
        prices = ", ".join(f"{name} {row[name]}" for name in ("open", "high", "low", "close"))
        raise InputError(f"{cells.name_row(bad[0])}: {prices} cannot be a candle")
    if rows.select(pl.col("volume").is_between("low", "high").all()).item():
        raise InputError(f"{cells.where}: its sixth column lies between low and high in every row, as an average does")


def _check_spacing(ts_ms: NDArray[np.int64], step_ms: int, where: str) -> None:
    """Raise an InputError if most candles are closer together than `step_ms`, or a long run of them is farther apart.

    Args:
        ts_ms: Open times, ms UTC, shape (n,), strictly increasing.
        step_ms: The expected interval.
        where: The file's name in messages.
    """
    steps_ms = np.diff(ts_ms)
    if steps_ms.size == 0:
        return
    median_ms = int(np.median(steps_ms))
    run_starts = np.flatnonzero(np.diff(steps_ms, prepend=-1))
    run_lengths = np.diff(run_starts, append=steps_ms.size)
    wide = (steps_ms[run_starts] > step_ms) & (run_lengths >= max(2, min(_LONG_RUN, steps_ms.size)))
    if median_ms >= step_ms and not wide.any():
        return
    first_row = int(run_starts[wide][0]) if wide.any() else 0
    actual = interval_name(int(steps_ms[first_row]) if wide.any() else median_ms)
    from_time, expected = format_ms(int(ts_ms[first_row])), interval_name(step_ms)
    raise InputError(
        f"{where}: its candles are {actual} apart from {from_time} on, not {expected}",
        hint=f"pass --interval {actual}" if actual in INTERVALS_MS else None,
    )
