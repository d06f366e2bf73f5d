"""Leave out the candles of files that have not closed yet, by the machine's clock, which is an argument.

An export of an exchange usually ends with a candle that was still open: it closes after the clock. A candle that opens
after the clock should not exist. The machine's clock may be some minutes slow, but a lead of hours means that the times
are not UTC. Times that are hours behind cannot be distinguished from those of an old file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError
from mltrain.names import join_first
from mltrain.times import HOUR_MS, MINUTE_MS, format_ms, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import polars as pl
    from numpy.typing import NDArray

#: A candle that opens at most this far ahead of the machine's clock is left out; one that opens later is refused.
MAX_SKEW_MS: Final = 10 * MINUTE_MS

# The offset of every time zone is a multiple of a quarter of an hour.
_QUARTER_MS: Final = 15 * MINUTE_MS
# Kiribati's offset, the farthest ahead of UTC.
_MAX_OFFSET_MS: Final = 14 * HOUR_MS
_MAX_NAMED: Final = 3


def find_closed(ts_ms: NDArray[np.int64], *, step_ms: int, now_ms: int, symbol: str, where: str) -> NDArray[np.bool_]:
    """Return which of a symbol's candles have closed by the machine's clock, shape (n,).

    Args:
        ts_ms: Open times, ms UTC, shape (n,), in any order.
        step_ms: Length of the interval.
        now_ms: The machine's clock, ms UTC.
        symbol: Symbol of the candles, named in messages.
        where: The file or folder of the candles, named in messages.

    Raises:
        InputError: A candle opens more than MAX_SKEW_MS after the clock.
    """
    if ts_ms.size and (ahead_ms := int(ts_ms.max()) - now_ms) > MAX_SKEW_MS:
        raise InputError(
            f"{where}: {symbol}: its times are not UTC? The newest candle opens at {format_ms(int(ts_ms.max()))}, "
            f"{ahead_ms / HOUR_MS:.1f} hours after this machine's clock, {format_seconds(now_ms)}",
            hint=_explain_future_times(ahead_ms, step_ms),
        )
    closed: NDArray[np.bool_] = ts_ms + step_ms <= now_ms
    return closed


def describe_unclosed(first_ms: Mapping[str, int], candles: int, *, now_ms: int) -> str:
    """Describe in one sentence the candles that were left out because they had not closed.

    Args:
        first_ms: Open time of the first such candle of each symbol, ms UTC.
        candles: Number of such candles, all symbols together.
        now_ms: The machine's clock, ms UTC.
    """
    named = [f"{symbol} from {format_ms(ts_ms)} on" for symbol, ts_ms in sorted(first_ms.items())]
    return (
        f"{candles} candle{'s' * (candles > 1)} left out, not closed yet by this machine's clock, "
        f"{format_seconds(now_ms)}: {join_first(named, _MAX_NAMED)}"
    )


def _explain_future_times(ahead_ms: int, step_ms: int) -> str:
    """Return a hint for candles that open `ahead_ms` after the clock, with the time zone whose offset fits, if any.

    The newest candle opened up to two intervals ago, so the offset is the next multiple above its lead. Half of the
    allowed skew is subtracted, so that a clock that is some minutes slow does not give the multiple after that.
    """
    grid_ms = _QUARTER_MS if step_ms < _QUARTER_MS else HOUR_MS
    offset_ms = math.ceil((ahead_ms - MAX_SKEW_MS // 2) / grid_ms) * grid_ms
    if offset_ms > _MAX_OFFSET_MS:
        return "no time zone is that far ahead: check the unit of the times, and this machine's clock with `date -u`"
    return (
        f"convert the times to UTC: the offset looks like +{offset_ms / HOUR_MS:g} h; if they are UTC, ts must be the "
        "time at which a candle opens, and this machine's clock must be right (`date -u`)"
    )


def drop_unclosed(
    table: pl.DataFrame, *, symbols: Sequence[str], step_ms: int, now_ms: int, where: str
) -> tuple[pl.DataFrame, str]:
    """Leave out the candles of a table that have not closed yet.

    Args:
        table: Candles with `ts`, and with a column `symbol` if they are of several symbols.
        symbols: What messages call the candles of a table without a column `symbol`.
        step_ms: Length of the interval.
        now_ms: The machine's clock, ms UTC.
        where: The name of the table's file, for messages.

    Returns:
        The closed candles, in their order, and a sentence about those left out; empty if none were.
    """
    ts_ms = table["ts"].dt.timestamp("ms").fill_null(0).to_numpy()
    if not ts_ms.size or ts_ms.max() + step_ms <= now_ms:
        return table, ""
    has_symbols = "symbol" in table.columns
    row_symbols = table["symbol"].fill_null("").to_numpy() if has_symbols else np.full(ts_ms.size, ", ".join(symbols))
    closed = np.ones(ts_ms.size, np.bool_)
    first_ms: dict[str, int] = {}
    for symbol in sorted(set(row_symbols.tolist())):
        rows = np.flatnonzero(row_symbols == symbol)
        closed[rows] = find_closed(ts_ms[rows], step_ms=step_ms, now_ms=now_ms, symbol=symbol, where=where)
        if not closed[rows].all():
            first_ms[symbol] = int(ts_ms[rows][~closed[rows]].min())
    if not first_ms:
        return table, ""
    return table.filter(closed), describe_unclosed(first_ms, int(np.count_nonzero(~closed)), now_ms=now_ms)
