"""Funding of perpetual futures: rates from a snapshot, a file or a constant, without gaps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.candles.tables import MAX_FILE_BYTES, read_cells
from mltrain.candles.time_text import read_time_texts
from mltrain.errors import InputError
from mltrain.names import show
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.times import HOUR_MS, MINUTE_MS, TimeRange, format_ms
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.snapshots.snapshot import Snapshot

_PERIOD_MS: Final = 8 * HOUR_MS
# The longest time between two fundings of an exchange, and how late one may be stamped.
_LONGEST_MS: Final = 8 * HOUR_MS
_LATE_MS: Final = 5 * MINUTE_MS
_NUMBER: Final = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_TIMES: Final = ("ts", "calc_time", "fundingtime", "funding_time", "time", "timestamp", "date")
_RATES: Final = ("rate", "last_funding_rate", "fundingrate", "funding_rate")


def read_constant(text: str) -> float | None:
    """Return a rate in bps per 8 hours as a ratio; None if the text is not a number, so a file's name."""
    return float(text) / BPS if _NUMBER.fullmatch(text.strip()) else None


def constant_funding(rate: float, symbols: Sequence[str], window: TimeRange) -> dict[str, NDArray[np.float64]]:
    """Return funding at a constant rate every 8 hours from midnight, UTC, by symbol, shape (m, 2): time (ms), rate."""
    first, last = -(-window.start_ms // _PERIOD_MS), window.end_ms // _PERIOD_MS
    times = np.arange(first, last + 1) * float(_PERIOD_MS)
    return {symbol: np.column_stack([times, np.full(times.size, rate)]) for symbol in symbols}


def read_funding_table(table: pl.DataFrame, symbols: Sequence[str], *, where: str) -> dict[str, NDArray[np.float64]]:
    """Return the funding in a table by symbol, shape (m, 2): time (ms UTC), rate.

    Args:
        table: A column of times (Datetime, ISO 8601, or ms since 1970), one of rates as ratios, and `symbol` if there
            are several symbols.
        symbols: The symbols to read.
        where: The table's name in messages.

    Raises:
        InputError: A column is missing or not readable, a rate is as large as the position, or two of one time differ.
    """
    columns = {name.lower(): name for name in table.columns}
    time = next((columns[name] for name in _TIMES if name in columns), None)
    rate = next((columns[name] for name in _RATES if name in columns), None)
    if time is None or rate is None or ("symbol" not in columns and len(symbols) > 1):
        raise InputError(
            f"{where}: has the columns {', '.join(table.columns)}: expected ts, rate, and symbol for several symbols"
        )
    try:
        frame = table.select(
            ts=_read_times(table[time]),
            rate=pl.col(rate).cast(pl.Float64),
            symbol=pl.col(columns["symbol"]).cast(pl.String) if "symbol" in columns else pl.lit(symbols[0]),
        )
    except pl.exceptions.PolarsError as err:
        raise InputError(f"{where}: {show(time)} must hold times and {show(rate)} numbers") from err
    if frame.null_count().sum_horizontal().item() or not frame["rate"].is_finite().all():
        raise InputError(f"{where}: a time or a rate is missing")
    if (frame["rate"].abs() >= 1).any():
        raise InputError(f"{where}: a rate is as large as the position", hint="write 1 bp as 0.0001")
    frame = frame.unique().sort("ts")
    if frame.select("ts", "symbol").is_duplicated().any():
        raise InputError(f"{where}: two rates of one symbol and time differ")
    return {
        symbol: frame.filter(pl.col("symbol") == symbol).select("ts", "rate").cast(pl.Float64).to_numpy()
        for symbol in symbols
    }


def _read_times(column: pl.Series) -> pl.Series:
    """Return times as ms UTC; null where there is none, or where day and month could be mistaken."""
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("ms", "UTC")).dt.timestamp("ms")
    if column.dtype != pl.String or column.str.contains(r"^\s*[0-9]+\s*$").all():
        return column.cast(pl.String).str.strip_chars().cast(pl.Int64)
    texts = read_time_texts(column.str.strip_chars())
    return texts.ms if texts.order == "none" else texts.ms.clear(column.len())


def check_complete(funding: Mapping[str, NDArray[np.float64]], windows: Mapping[str, TimeRange], *, where: str) -> None:
    """Raise an InputError that names the first gap if funding is missing while a symbol is traded.

    Args:
        funding: By symbol, shape (m, 2): time (ms UTC), rate.
        windows: From the first to the last moment at which each symbol is traded.
        where: Where the funding comes from, for messages.
    """
    for symbol, window in windows.items():
        times = funding[symbol][:, 0]
        inside = times[(times > window.start_ms) & (times <= window.end_ms)]
        edges = np.concatenate([[window.start_ms], inside, [window.end_ms]])
        late = np.flatnonzero(np.diff(edges) > _LONGEST_MS + _LATE_MS)
        if late.size:
            begin, end = (int(edges[late[0] + step]) for step in (0, 1))
            raise InputError(
                f"{where}: {symbol} has no funding between {format_ms(begin)} and {format_ms(end)}: a missing rate is "
                "not zero",
                hint="pass a complete file, or a constant in bps per 8 hours, with --funding",
            )


def read_funding(
    snapshot: Snapshot,
    symbols: tuple[str, ...],
    candles: Mapping[str, pl.DataFrame],
    window: TimeRange,
    text: str | None,
    *,
    step_ms: int,
) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Return the funding that a position in each symbol pays, and where it comes from.

    Args:
        snapshot: Its funding is taken if `text` is None.
        symbols: The symbols.
        candles: Their candles, `step_ms` apart: funding must be complete while a symbol has any.
        window: The open times that are traded.
        text: A number of bps per 8 hours, or the path of a file.
        step_ms: The interval of the candles, in ms.

    Returns:
        By symbol time (ms UTC) and rate, shape (m, 2); and the source, with the hash of a file.

    Raises:
        InputError: Rates are missing, or the file is not a table of rates.
        MachineError: The file cannot be read.
    """
    if text is not None and (rate := read_constant(text)) is not None:
        return constant_funding(rate, symbols, window), f"{rate * BPS:g} bps per 8 hours"
    if text is None:
        funding = {
            symbol: snapshot.funding(symbol).select(pl.col("ts").dt.timestamp("ms"), "rate").cast(pl.Float64).to_numpy()
            for symbol in symbols
        }
        where = name = f"snapshot {snapshot.id}"
    else:
        data = read_file(Path(text), max_bytes=MAX_FILE_BYTES, what="the funding rates")
        cells = read_cells(data, name=Path(text).name, where=text)
        funding, where = read_funding_table(cells.frame, symbols, where=text), text
        name = f"{Path(text).name}, SHA-256 {sha256_bytes(data)}"
    ranges = {}
    for symbol in symbols:
        ts_ms = times_ms(candles[symbol])
        inside = ts_ms[(ts_ms >= window.start_ms) & (ts_ms < window.end_ms)]
        ranges[symbol] = TimeRange(int(inside[0]), int(inside[-1]) + step_ms)
    check_complete(funding, ranges, where=where)
    return funding, name
