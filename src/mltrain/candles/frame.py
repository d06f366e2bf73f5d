"""The candle frame: its columns, gaps and content hash.

Pure: frames and arrays in, values out. Nothing here fills a gap or corrects a value. That a frame is sorted and unique
by `ts`, lies on the grid of its interval, and holds finite and possible values is what `checks.check_candles` ensures.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import polars as pl

from mltrain.documents.records import Limits, TimeMs, record

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

#: Columns that a source of candles may lack; they are then null in every row.
OPTIONAL: Final = ("quote_volume", "trades", "taker_buy_base", "taker_buy_quote")

PRICES: Final = ("open", "high", "low", "close")


@record
@dataclass(frozen=True, slots=True)
class Gap:
    """A run of missing candles.

    Attributes:
        from_ms: Open time of the first missing candle, ms UTC.
        to_ms: Open time of the last missing candle, ms UTC.
        missing: Number of missing candles, at least 1.
    """

    from_ms: TimeMs
    to_ms: TimeMs
    missing: Annotated[int, Limits(1)]


def times_ms(frame: pl.DataFrame) -> NDArray[np.int64]:
    """Return the open times of a candle frame, ms UTC, shape (n,)."""
    ts = frame["ts"]
    # A query takes 50 times as long, and serving reads the times often.
    if ts.dtype == TS_DTYPE and not ts.null_count():
        return ts.to_numpy().view(np.int64)
    return ts.dt.timestamp("ms").to_numpy()


def time_literal(time_ms: int) -> pl.Expr:
    """Return a time in ms UTC as a literal to compare the open times of a candle frame with."""
    return pl.lit(time_ms).cast(TS_DTYPE)


def find_gaps(
    ts_ms: NDArray[np.int64], step_ms: int, *, start_ms: int | None = None, end_ms: int | None = None
) -> tuple[Gap, ...]:
    """List the runs of candles that are missing between two times, by the open times of those that exist.

    Args:
        ts_ms: Open times, ms UTC, shape (n,), strictly increasing, on the grid of `step_ms`, in [start_ms, end_ms).
        step_ms: Length of the interval.
        start_ms: First expected open time, on the grid; None: the first in `ts_ms`.
        end_ms: End of the expected open times, exclusive, on the grid; None: just after the last in `ts_ms`.

    Returns:
        The gaps by time, including those before the first candle and after the last one.

    >>> find_gaps(np.array([0, 1, 4]), 1, end_ms=6)
    (Gap(from_ms=2, to_ms=3, missing=2), Gap(from_ms=5, to_ms=5, missing=1))
    """
    start = ts_ms[:1] if start_ms is None else np.array([start_ms])
    end = ts_ms[-1:] + step_ms if end_ms is None else np.array([end_ms])
    if not start.size or not end.size:
        return ()
    # After the start and after each candle, the next candle (or the end) is expected at once.
    expected = np.concatenate([start, ts_ms + step_ms])
    actual = np.concatenate([ts_ms, end])
    late = actual > expected
    return tuple(
        Gap(from_ms=int(from_ms), to_ms=int(until_ms) - step_ms, missing=int((until_ms - from_ms) // step_ms))
        for from_ms, until_ms in zip(expected[late], actual[late], strict=True)
    )


def find_segments(ts_ms: NDArray[np.int64], step_ms: int) -> list[tuple[int, int]]:
    """Return the row ranges [start, stop) of the runs of candles without a gap, in order; they cover all rows.

    Args:
        ts_ms: Open times, ms UTC, shape (n,), strictly increasing.
        step_ms: Length of the interval.

    >>> find_segments(np.array([0, 1, 4]), 1)
    [(0, 2), (2, 3)]
    """
    if not ts_ms.size:
        return []
    breaks = (np.flatnonzero(np.diff(ts_ms) != step_ms) + 1).tolist()
    return list(zip([0, *breaks], [*breaks, int(ts_ms.size)], strict=True))


def content_sha256(frame: pl.DataFrame) -> str:
    """Return the SHA-256 of candles' values, in hexadecimal; it does not depend on the library that wrote their file.

    It covers, for each column of CANDLE_SCHEMA in order: name, type, number of rows, which rows are valid, and the
    values as little-endian 64-bit numbers with 0 in place of null. `frame` is as `check_candles` returns it.
    """
    return values_sha256(frame, tuple(CANDLE_SCHEMA), head=b"mltrain candles 1\n")


def values_sha256(frame: pl.DataFrame, columns: tuple[str, ...], *, head: bytes) -> str:
    """Return the SHA-256 of `head` and of the named columns of numbers or times, as `content_sha256` says."""
    digest = hashlib.sha256(head)
    all_valid = np.packbits(np.ones(frame.height, dtype=np.bool_)).tobytes()
    for name in columns:
        column = frame[name].to_physical()
        valid = all_valid
        if column.null_count():
            valid = np.packbits(column.is_not_null().to_numpy()).tobytes()
            column = column.fill_null(0)
        values = column.to_numpy()
        digest.update(f"{name} {values.dtype.name} {frame.height}\n".encode())
        digest.update(valid)
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
