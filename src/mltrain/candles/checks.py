"""Checks that every row of a candle frame can be a candle: `check_candles`."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, PRICES, TS_DTYPE, times_ms
from mltrain.errors import InputError
from mltrain.times import LAST_MS, format_ms, interval_ms, interval_name

_SCHEMA: Final = pl.Schema(CANDLE_SCHEMA)

# From this many rows on a query is faster than numpy: it uses both cores.
_ROWS_FOR_QUERY: Final = 5_000


def check_candles(frame: pl.DataFrame, *, symbol: str, interval: str, where: str) -> pl.DataFrame:
    """Return the candles with the columns of CANDLE_SCHEMA in order, once every row has proved possible.

    Args:
        frame: `ts` in TS_DTYPE, OHLCV and perhaps the optional columns, as numbers; further columns are left out.
        symbol: For messages.
        interval: The grid that `ts` must lie on.
        where: The file or host that the candles came from, for messages.

    Raises:
        InputError: A column is missing or of a wrong type; or a row is unsorted, repeated, off the grid, null, not
            finite, negative, or has a high or low that its open and close contradict. Names symbol, time, field, value.
        UsageError: The interval is unknown.
    """
    if frame.height < _ROWS_FOR_QUERY and _is_sound(frame, interval_ms(interval)):
        return frame
    frame = _with_schema(frame, symbol=symbol, where=where)
    faults = _faults(interval_ms(interval), frame.height)
    found = frame.select(bad.fill_null(True).any().alias(str(i)) for i, (_, bad, _) in enumerate(faults)).row(0)
    for is_bad, (field, bad, law) in zip(found, faults, strict=True):
        if is_bad:
            rows = frame.select(bad.fill_null(True).arg_true()).to_series()
            raise InputError(f"{where}: {_tell_row(frame, rows[0], field, symbol)}: {law}{_more(rows.len())}")
    return frame


def _is_sound(frame: pl.DataFrame, step_ms: int) -> bool:
    """Tell whether the candles are as `check_candles` returns them; False where only a closer look could tell.

    The laws of `_faults`, by numpy: a few hundred rows take 50 us this way, and a query 2 ms.
    """
    if frame.schema != _SCHEMA or not frame.height:
        return False
    known = [name for name in OPTIONAL if frame[name].null_count() < frame.height]
    if any(frame[name].null_count() for name in ("ts", *PRICES, "volume", *known)):
        return False
    ts_ms = times_ms(frame)
    open_, high, low, close = prices = [frame[name].to_numpy() for name in PRICES]
    amounts = [frame[name].to_numpy() for name in ("volume", *known)]
    on_grid = ts_ms[0] >= 0 and ts_ms[-1] <= LAST_MS and not (ts_ms % step_ms).any() and (np.diff(ts_ms) > 0).all()
    return bool(
        on_grid
        # Written so that NaN fails; -0.0 is to become 0.0, so it fails, too.
        and all(np.minimum.reduce(column) > 0 and np.maximum.reduce(column) < np.inf for column in prices)
        and all(np.minimum.reduce(column) >= 0 and np.maximum.reduce(column) < np.inf for column in amounts)
        and not any(np.signbit(column).any() for column in amounts)
        and (high >= np.maximum(np.maximum(open_, close), low)).all()
        and (low <= np.minimum(open_, close)).all()
    )


def _with_schema(frame: pl.DataFrame, *, symbol: str, where: str) -> pl.DataFrame:
    missing = [name for name in CANDLE_SCHEMA if name not in frame.columns and name not in OPTIONAL]
    if missing:
        raise InputError(
            f"{where}: {symbol}: column {' and '.join(missing)} missing; there are {', '.join(frame.columns)}",
            hint=f"candles need the columns {', '.join(n for n in CANDLE_SCHEMA if n not in OPTIONAL)}",
        )
    for name, dtype in CANDLE_SCHEMA.items():
        have = frame.schema.get(name, dtype)
        if not _fits(name, have):
            raise InputError(f"{where}: {symbol}: column {name} is {have}, not {dtype}")
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in CANDLE_SCHEMA.items() if name not in frame.columns]
    # Adding 0.0 turns -0.0 into 0.0: one number, one content hash.
    columns = [
        pl.col(name).cast(dtype, strict=False) + 0.0 if dtype == pl.Float64 else pl.col(name).cast(dtype, strict=False)
        for name, dtype in CANDLE_SCHEMA.items()
    ]
    return frame.with_columns(absent).select(columns)


def _fits(name: str, have: pl.DataType) -> bool:
    """Tell whether a column of that type can be cast without changing what a value says."""
    if name == "ts":
        return have == TS_DTYPE
    return have == pl.Null or have.is_integer() or (name != "trades" and have.is_numeric())


def _faults(step_ms: int, height: int) -> list[tuple[str, pl.Expr, str]]:
    """List what a row may not be: the field at fault, where it is (null counts), and the law."""
    ts = pl.col("ts").dt.timestamp("ms")
    faults = [
        ("ts", ts.is_null(), "every candle needs its open time"),
        ("ts", (ts < 0) | (ts > LAST_MS), "not a time between 1970 and 9999"),
        ("ts", ts % step_ms != 0, f"not on the grid of {interval_name(step_ms)} candles"),
        ("ts", (ts.diff() <= 0).fill_null(False), "not after the row before it: rows must be sorted and unique"),
    ]
    for name in (*PRICES, "volume", *OPTIONAL):
        column = pl.col(name)
        possible = column.is_finite() & ((column > 0) if name in PRICES else (column >= 0))
        law = "a price must be a number above 0" if name in PRICES else "must be a number, 0 or above"
        if name in OPTIONAL:
            possible |= column.null_count() == height
            law += "; or leave the column empty in every row"
        faults.append((name, ~possible, law))
    faults += [
        ("high", pl.col("high") < pl.max_horizontal("open", "close", "low"), "below open, close or low of its candle"),
        ("low", pl.col("low") > pl.min_horizontal("open", "close"), "above open or close of its candle"),
    ]
    return faults


def _tell_row(frame: pl.DataFrame, row: int, field: str, symbol: str) -> str:
    time_ms = frame["ts"].dt.timestamp("ms")[row]
    time = f"row {row + 1}" if time_ms is None else format_ms(time_ms)
    value = time if field == "ts" and time_ms is not None else frame[field][row]
    return f"{symbol} at {time}: {field} is {'missing' if value is None else value}"


def _more(rows: int) -> str:
    return f" (and {rows - 1} more rows)" if rows > 1 else ""
