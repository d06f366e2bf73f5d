"""Check that every row of a candle frame is a possible candle."""

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
    """Check every row, and return the candles with the columns of CANDLE_SCHEMA in order.

    Args:
        frame: `ts` in TS_DTYPE, OHLCV and any of the optional columns, as numbers; other columns are dropped.
        symbol: For messages.
        interval: The grid that `ts` must lie on.
        where: The file or host that the candles came from, for messages.

    Raises:
        InputError: A column is missing or of a wrong type; rows are not sorted or not unique; or a value is off the
            grid, null, not finite, negative, or contradicts the other prices of its candle. Names symbol, time, field
            and value.
        UsageError: The interval is unknown.
    """
    if frame.height < _ROWS_FOR_QUERY and _is_valid(frame, interval_ms(interval)):
        return frame
    frame = _with_schema(frame, symbol=symbol, where=where)
    rules = _rules(interval_ms(interval), frame.height)
    found = frame.select(bad.fill_null(True).any().alias(str(i)) for i, (_, bad, _) in enumerate(rules)).row(0)
    for is_bad, (field, bad, rule) in zip(found, rules, strict=True):
        if is_bad:
            rows = frame.select(bad.fill_null(True).arg_true()).to_series()
            more = f" (and {rows.len() - 1} more rows)" if rows.len() > 1 else ""
            raise InputError(f"{where}: {_describe_cell(frame, rows[0], field, symbol)}: {rule}{more}")
    return frame


def _is_valid(frame: pl.DataFrame, step_ms: int) -> bool:
    """Return whether `check_candles` would return the frame unchanged; False may also mean that it needs a cast.

    The rules of `_rules` in numpy: a few hundred rows take 50 us, and 2 ms as a query.
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
        # Written so that NaN fails. -0.0 fails too, because it has to become 0.0.
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
            f"{where}: {symbol}: column {' and '.join(missing)} missing; the columns are {', '.join(frame.columns)}",
            hint=f"candles need the columns {', '.join(n for n in CANDLE_SCHEMA if n not in OPTIONAL)}",
        )
    for name, dtype in CANDLE_SCHEMA.items():
        have = frame.schema.get(name, dtype)
        # A type whose cast changes no value.
        if name == "ts":
            fits = have == TS_DTYPE
        else:
            fits = have == pl.Null or have.is_integer() or (name != "trades" and have.is_numeric())
        if not fits:
            raise InputError(f"{where}: {symbol}: column {name} is {have}, not {dtype}")
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in CANDLE_SCHEMA.items() if name not in frame.columns]
    # Adding 0.0 turns -0.0 into 0.0, so that equal numbers have equal content hashes.
    columns = [
        pl.col(name).cast(dtype, strict=False) + 0.0 if dtype == pl.Float64 else pl.col(name).cast(dtype, strict=False)
        for name, dtype in CANDLE_SCHEMA.items()
    ]
    return frame.with_columns(absent).select(columns)


def _rules(step_ms: int, height: int) -> list[tuple[str, pl.Expr, str]]:
    """Return the rules that every row must follow: field, where it is violated (true or null), and message."""
    ts = pl.col("ts").dt.timestamp("ms")
    rules = [
        ("ts", ts.is_null(), "every candle needs its open time"),
        ("ts", (ts < 0) | (ts > LAST_MS), "not a time between 1970 and 9999"),
        ("ts", ts % step_ms != 0, f"not on the grid of {interval_name(step_ms)} candles"),
        ("ts", (ts.diff() <= 0).fill_null(False), "not after the row before it: rows must be sorted and unique"),
    ]
    for name in (*PRICES, "volume", *OPTIONAL):
        column = pl.col(name)
        possible = column.is_finite() & ((column > 0) if name in PRICES else (column >= 0))
        message = "a price must be a number above 0" if name in PRICES else "must be a number, 0 or above"
        if name in OPTIONAL:
            possible |= column.null_count() == height
            message += "; or leave the column empty in every row"
        rules.append((name, ~possible, message))
    rules += [
        ("high", pl.col("high") < pl.max_horizontal("open", "close", "low"), "below open, close or low of its candle"),
        ("low", pl.col("low") > pl.min_horizontal("open", "close"), "above open or close of its candle"),
    ]
    return rules


def _describe_cell(frame: pl.DataFrame, row: int, field: str, symbol: str) -> str:
    time_ms = frame["ts"].dt.timestamp("ms")[row]
    time = f"row {row + 1}" if time_ms is None else format_ms(time_ms)
    value = time if field == "ts" and time_ms is not None else frame[field][row]
    return f"{symbol} at {time}: {field} is {'missing' if value is None else value}"
