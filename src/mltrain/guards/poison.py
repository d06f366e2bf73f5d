"""Poison: candles that nobody may have seen, in place of those after a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# Far beyond any market, and far from where squares and sums overflow.
_EXTREME: Final = 1e30
_MOST_TRADES: Final = 2**52


def garbage(rng: np.random.Generator, rows: int, *, extreme: bool) -> pl.DataFrame:
    """Return candles without `ts` that have nothing to do with any market, finite and otherwise valid, in their types.

    Args:
        rng: Where they come from.
        rows: How many.
        extreme: Whether every number is as small or as large as can be, instead of spread over 16 decades.
    """
    prices = np.sort(_amounts(rng, (4, rows), extreme=extreme), axis=0)
    swap = rng.random(rows) < 1 / 2
    volumes = _amounts(rng, (2, rows), extreme=extreme) * (rng.random(rows) < 3 / 4)
    bought = rng.random(rows)
    trades: NDArray[Any] = rng.integers(0, _MOST_TRADES if extreme else 10_000, rows)
    return pl.DataFrame(
        {
            "open": np.where(swap, prices[1], prices[2]),
            "high": prices[3],
            "low": prices[0],
            "close": np.where(swap, prices[2], prices[1]),
            "volume": volumes[0],
            "quote_volume": volumes[1],
            "trades": trades,
            "taker_buy_base": volumes[0] * bought,
            "taker_buy_quote": volumes[1] * bought,
        }
    )


def poison_after(frame: pl.DataFrame, moment_ms: int, poison: pl.DataFrame) -> pl.DataFrame:
    """Return the candles with those that open after a moment replaced; their times stay.

    Args:
        frame: Candles of one symbol.
        moment_ms: Open time of the last candle that stays true.
        poison: At least as many candles as are replaced, as `garbage` gives them.
    """
    kept = int(np.searchsorted(times_ms(frame), moment_ms, side="right"))
    after = frame[kept:]
    # A column that the source lacks stays empty, as it would in any candle still to come.
    false = [
        column if column.name not in poison.columns or column.has_nulls() else poison[column.name].head(after.height)
        for column in after.get_columns()
    ]
    return pl.concat([frame[:kept], pl.DataFrame(false)])


def until(frame: pl.DataFrame, moment_ms: int) -> pl.DataFrame:
    """Return the candles that open at or before a moment."""
    return frame[: int(np.searchsorted(times_ms(frame), moment_ms, side="right"))]


def between(frame: pl.DataFrame, from_ms: int, to_ms: int) -> pl.DataFrame:
    """Return the candles that open from one moment to another, both included."""
    first, stop = np.searchsorted(times_ms(frame), [from_ms, to_ms + 1])
    return frame[int(first) : int(stop)]


def between_all(candles: Mapping[str, pl.DataFrame], from_ms: int, to_ms: int) -> dict[str, pl.DataFrame]:
    """Return every symbol's candles that open from one moment to another, both included."""
    return {symbol: between(frame, from_ms, to_ms) for symbol, frame in candles.items()}


def _amounts(rng: np.random.Generator, shape: tuple[int, int], *, extreme: bool) -> NDArray[np.float64]:
    if extreme:
        return np.where(rng.random(shape) < 1 / 2, 1 / _EXTREME, _EXTREME)
    amounts: NDArray[np.float64] = 10 ** rng.uniform(-8, 8, shape)
    return amounts
