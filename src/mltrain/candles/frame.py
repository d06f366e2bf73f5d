"""The candle frame: its columns, its grid, its gaps, its content hash.

Pure: frames and arrays in, values out. A frame that passed `check_candles` is sorted and unique by `ts`, lies on the
grid of its interval, holds finite and possible values, and nothing here ever fills a gap or mends a value.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import polars as pl

from mltrain.documents.records import Limits, TimeMs, record
from mltrain.errors import InputError
from mltrain.times import LAST_MS, format_ms, interval_ms, interval_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

TS_DTYPE: Final = pl.Datetime("ms", "UTC")

#: Columns in order. `ts` is the open time; prices are in the quote asset, `volume` and `taker_buy_base` in the base
#: asset, `quote_volume` and `taker_buy_quote` in the quote asset, `trades` is a count.
CANDLE_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "ts": TS_DTYPE,
    "open": pl.Float64(),
    "high": pl.Float64(),
    "low": pl.Float64(),
    "close": pl.Float64(),
    "volume": pl.Float64(),
    "quote_volume": pl.Float64(),
    "trades": pl.Int64(),
    "taker_buy_base": pl.Float64(),
    "taker_buy_quote": pl.Float64(),
}

#: Columns that a source may lack; they are then null in every row.
OPTIONAL: Final = ("quote_volume", "trades", "taker_buy_base", "taker_buy_quote")

_SCHEMA: Final = pl.Schema(CANDLE_SCHEMA)
_ROWS_FOR_QUERY: Final = 5_000

PRICES: Final = ("open", "high", "low", "close")


@record
@dataclass(frozen=True, slots=True)
class Gap:
    """Candles that the market or the source did not give.

    Attributes:
        from_ms: Open time of the first missing candle, ms UTC.
        to_ms: Open time of the last missing candle, ms UTC.
        missing: How many are missing, at least 1.
    """

    from_ms: TimeMs
    to_ms: TimeMs
    missing: Annotated[int, Limits(1)]


@record
@dataclass(frozen=True, slots=True)
class Jump:
    """A price that moved further than markets do from one candle to the next.

    Attributes:
        ts_ms: Open time of the candle that jumped, ms UTC.
        before: The close before it.
        after: Its close.
    """

    ts_ms: TimeMs
    before: float
    after: float


def times_ms(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Return the open times of a candle frame in ms, shape (n,)."""
    ts = frame["ts"]
    if ts.dtype == TS_DTYPE and not ts.null_count():
        return ts.to_numpy().view(np.int64)  # a query takes 50 times as long, and serving asks for times often
    return ts.dt.timestamp("ms").to_numpy()


def find_gaps(
    ts_ms: NDArray[np.int64], step_ms: int, *, start_ms: int | None = None, end_ms: int | None = None
) -> tuple[Gap, ...]:
    """List the runs of missing candles.

    Args:
        ts_ms: Open times, rising strictly, on the grid of `step_ms`, inside [start_ms, end_ms).
        step_ms: Length of the interval.
        start_ms: First open time that should be there, on the grid; None: the first that is.
        end_ms: First open time that should not be there, on the grid; None: just after the last that is.

    Returns:
        The gaps in order of time, those at both ends included.

    >>> find_gaps(np.array([0, 1, 4]), 1, end_ms=6)
    (Gap(from_ms=2, to_ms=3, missing=2), Gap(from_ms=5, to_ms=5, missing=1))
    """
    first = ts_ms[:1] if start_ms is None else np.array([start_ms])
    last = ts_ms[-1:] + step_ms if end_ms is None else np.array([end_ms])
    if not first.size or not last.size:
        return ()
    # A candle is expected at the end of each one that is there, and at the start; another follows, or the end.
    expected = np.concatenate([first, ts_ms + step_ms])
    found = np.concatenate([ts_ms, last])
    at = np.flatnonzero(found > expected)
    return tuple(
        Gap(from_ms=int(e), to_ms=int(f) - step_ms, missing=int((f - e) // step_ms))
        for e, f in zip(expected[at], found[at], strict=True)
    )


def segment_bounds(ts_ms: NDArray[np.int64], step_ms: int) -> list[tuple[int, int]]:
    """Return the half-open row ranges without a gap inside, in order; together they are all rows.

    >>> segment_bounds(np.array([0, 1, 4]), 1)
    [(0, 2), (2, 3)]
    """
    if not ts_ms.size:
        return []
    breaks = (np.flatnonzero(np.diff(ts_ms) != step_ms) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, int(ts_ms.size)], strict=True))


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


def zero_trade_rows(frame: pl.DataFrame) -> int:
    """Count the candles in which nothing was traded: no trades, or no volume where trades are not known."""
    return int(frame.select(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0).sum()).item())


def zero_trade_runs(frame: pl.DataFrame, step_ms: int, *, most: int) -> tuple[Gap, ...]:
    """Return the longest runs of candles in which nothing was traded, `most` of them, by time."""
    quiet = frame.filter(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0))
    ts_ms = times_ms(quiet)
    runs = [Gap(int(ts_ms[a]), int(ts_ms[b - 1]), b - a) for a, b in segment_bounds(ts_ms, step_ms)]
    longest = sorted(runs, key=lambda run: (-run.missing, run.from_ms))[:most]
    return tuple(sorted(longest, key=lambda run: run.from_ms))


def find_jumps(frame: pl.DataFrame, *, share: float, most: int) -> tuple[Jump, ...]:
    """Return the first `most` moves of more than `share` from one close to the next, by time."""
    before = pl.col("close").shift(1)
    moved = frame.select("ts", "close", before=before).filter((pl.col("close") / pl.col("before") - 1).abs() > share)
    moved = moved.head(most)
    return tuple(
        Jump(int(t), b, c)
        for t, b, c in zip(times_ms(moved), moved["before"].to_list(), moved["close"].to_list(), strict=True)
    )


def content_sha256(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of the candles themselves, whatever library wrote their file.

    It covers, column by column in the order of CANDLE_SCHEMA: the name, the type, the number of rows, the validity of
    each row, and the values as little-endian 64-bit numbers with 0 in place of null.

    Args:
        frame: As `check_candles` returns it.
    """
    digest = hashlib.sha256(b"mltrain candles 1\n")
    all_there = np.packbits(np.ones(frame.height, dtype=np.bool_)).tobytes()
    for name in CANDLE_SCHEMA:
        column = frame[name].to_physical()
        valid = all_there
        if column.null_count():
            valid = np.packbits(column.is_not_null().to_numpy()).tobytes()
            column = column.fill_null(0)
        values = column.to_numpy()
        digest.update(f"{name} {values.dtype.name} {frame.height}\n".encode())
        digest.update(valid)
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
