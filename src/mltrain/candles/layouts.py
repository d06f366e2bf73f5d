"""Read a file of candles: find out which column is which, by name or by position.

Pure: bytes in, a frame out. Known by position are the layouts without a header of Binance, Kraken and freqtrade, in CSV
and in JSON alike; any other file names its columns. Six and seven columns are a guess that every row has to confirm: a
file that could be read in two ways is refused. So is a file whose candles have another interval.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.cells import whole_ms
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, times_ms
from mltrain.candles.tables import read_cells
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

#: The columns of files without a header, by their number: freqtrade's, Kraken's, Binance's.
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

# Equal steps in a row that do not occur by chance even in a sparse market.
_LONG_RUN: Final = 20


def read_rows(data: bytes, *, name: str, where: str, step_ms: int) -> tuple[pl.DataFrame, NDArray[np.int64] | None]:
    """Return the rows of a candle file in its order, and their close times.

    Args:
        data: The bytes of the file.
        name: Its name, which ends in one of SUFFIXES.
        where: Its name in messages.
        step_ms: The interval that its candles must have.

    Returns:
        The rows with the columns of CANDLE_SCHEMA, null where the file lacks one; no rows where the file says that
        there are none, as a JSON `[]` or a header alone does. The close times of a text file in Binance's layout, ms
        UTC, shape (n,); None where the file has none.

    Raises:
        InputError: It is damaged, too large after unpacking, lacks a column, holds a cell of the wrong kind, or its
            candles have another interval.
        MachineError: Not enough memory.
    """
    cells = read_cells(data, name=name, where=where, columns=lambda names: list(_find_columns(names, where).values()))
    return _to_rows(cells, step_ms), _closes(cells)


def read_binance_csv(data: bytes, *, where: str, symbol: str, step_ms: int) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return the rows of one of Binance's CSV files in its order, and their close times, ms UTC, shape (n,).

    Args:
        data: The bytes of the CSV, unpacked; with a header or without, times in ms or µs.
        where: Its name in messages, usually the path or the address.
        symbol: For messages.
        step_ms: The interval that its candles must have.

    Raises:
        InputError: As `read_rows`; or it has no rows or no close times.
    """
    where = f"{where}: {symbol}"
    rows, closes_ms = read_rows(data, name=".csv", where=where, step_ms=step_ms)
    if rows.is_empty():
        raise InputError(f"{where}: no rows")
    if closes_ms is None:
        raise InputError(f"{where}: a close time is missing, or is not a number")
    return rows, closes_ms


def name_columns(names: Sequence[str]) -> dict[str, str]:
    """Map the names of CANDLE_SCHEMA to a table's own column names, where it has such a column.

    >>> name_columns(["Open time", "Close", "mood"])
    {'ts': 'Open time', 'close': 'Close'}
    """
    folded = {_fold(name): name for name in reversed(names)}
    return {ours: folded[theirs[0]] for ours, al in _ALIASES.items() if (theirs := [a for a in al if a in folded])}


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _find_columns(names: Sequence[str], where: str) -> dict[str, str]:
    """Map the names of CANDLE_SCHEMA to a file's column names, as `name_columns` does; all OHLCV must be there."""
    found = name_columns(names)
    missing = [name for name in CANDLE_SCHEMA if name not in found and name not in OPTIONAL]
    if missing:
        shown = ", ".join(show(name) for name in names[:15])
        raise InputError(
            f"{where}: no column for {' and '.join(missing)} among {shown}",
            hint="the first line of a CSV names its columns, with commas: ts,open,high,low,close,volume",
        )
    return found


def _closes(cells: Cells) -> NDArray[np.int64] | None:
    """Return the close times of Binance's layout, ms UTC; None if one is missing or is not a whole number."""
    names = [_fold(name) for name in cells.frame.columns] if cells.named else list(_BINANCE)
    if cells.frame.width < len(_BINANCE) or "close_time" not in names:
        return None
    closes = cells.frame[:, names.index("close_time")].cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
    return None if closes.null_count() else whole_ms(closes.to_numpy())


def _to_rows(cells: Cells, step_ms: int) -> pl.DataFrame:
    """Return the cells as rows with the columns of CANDLE_SCHEMA, whose interval is checked."""
    if not cells.frame.width:
        return pl.DataFrame(schema=dict(CANDLE_SCHEMA))
    rows = _rows_by_name(cells) if cells.named else _rows_by_place(cells)
    _check_spacing(np.unique(times_ms(rows)), step_ms, cells.where)
    return rows


def _rows_by_name(cells: Cells) -> pl.DataFrame:
    columns = _find_columns(cells.frame.columns, cells.where)
    named = cells.frame.select(pl.col(theirs).alias(ours) for ours, theirs in columns.items())
    return replace(cells, frame=named).to_rows()


def _rows_by_place(cells: Cells) -> pl.DataFrame:
    """Return the rows of cells without column names, after checking that they fit the guessed layout."""
    found = cells.frame.columns
    names = BY_PLACE.get(len(found))
    if names is None:
        raise InputError(
            f"{cells.where}: no header, and {len(found)} columns: only "
            f"{', '.join(f'{n} ({names[-1]} last)' for n, names in BY_PLACE.items())} are known by position",
            hint=_HEADER_HINT,
        )
    named = replace(
        cells,
        frame=cells.frame.select(
            pl.col(theirs).alias(ours) for theirs, ours in zip(found, names, strict=True) if ours in CANDLE_SCHEMA
        ),
    )
    if names is _BINANCE:
        return named.to_rows()
    try:
        rows = named.to_rows()
        _check_guess(rows, named)
    except InputError as err:
        message = f"{err.message}; without a header it is taken for {','.join(names)}"
        raise InputError(message, hint=_HEADER_HINT) from err
    return rows


def _check_guess(rows: pl.DataFrame, cells: Cells) -> None:
    """Refuse rows that are not candles in the guessed order: some exchanges put close second, or an average sixth."""
    highest, lowest = pl.max_horizontal("open", "low", "close"), pl.min_horizontal("open", "close")
    bad = rows.select(((pl.col("high") < highest) | (pl.col("low") > lowest)).fill_null(True).arg_true()).to_series()
    if bad.len():
        row = rows.row(bad[0], named=True)
        prices = ", ".join(f"{name} {row[name]}" for name in ("open", "high", "low", "close"))
        raise InputError(f"{cells.place(bad[0])}: {prices} cannot be a candle")
    if rows.select(pl.col("volume").is_between("low", "high").all()).item():
        raise InputError(f"{cells.where}: its sixth column lies between low and high in every row, as an average does")


def _check_spacing(ts_ms: NDArray[np.int64], step_ms: int, where: str) -> None:
    """Refuse a file, or a long run inside one, whose candles have another interval.

    Raises:
        InputError: Rows are closer than `step_ms`, or many in a row have one larger distance.
    """
    steps_ms = np.diff(ts_ms)
    if steps_ms.size == 0:
        return
    typical = int(np.median(steps_ms))
    run_starts = np.flatnonzero(np.diff(steps_ms, prepend=-1))
    run_lengths = np.diff(run_starts, append=steps_ms.size)
    wide = (steps_ms[run_starts] > step_ms) & (run_lengths >= max(2, min(_LONG_RUN, steps_ms.size)))
    if typical >= step_ms and not wide.any():
        return
    at = int(run_starts[wide][0]) if wide.any() else 0
    found = interval_name(int(steps_ms[at]) if wide.any() else typical)
    raise InputError(
        f"{where}: its candles are {found} apart from {format_ms(int(ts_ms[at]))} on, not {interval_name(step_ms)}",
        hint=f"pass --interval {found}" if found in INTERVALS_MS else None,
    )
