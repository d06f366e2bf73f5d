"""False candles: what replaces the candles, and their inputs, that a feature or a label must not depend on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, PRICES, times_ms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

# Far beyond any market, and far from where squares and sums overflow.
_EXTREME: Final = 1e30
_MAX_TRADES: Final = 2**52
# Factor of a false price or volume, or its inverse: never 1, the true one.
_FALSE_FACTOR: Final = (0.4, 0.8)


def make_garbage_candles(
    rng: np.random.Generator, rows: int, *, extreme: bool, inputs: Sequence[str] = ()
) -> pl.DataFrame:
    """Return candles without `ts` that resemble no market, but are finite, consistent and of the right types.

    If `extreme`, every price and volume is 1e-30 or 1e30; otherwise they are spread over 16 decades. So is the size of
    the values of `inputs`, half of which are negative.
    """
    prices = np.sort(_draw_amounts(rng, (4, rows), extreme=extreme), axis=0)
    swap = rng.random(rows) < 1 / 2
    volumes = _draw_amounts(rng, (2, rows), extreme=extreme) * (rng.random(rows) < 3 / 4)
    bought = rng.random(rows)
    trades: NDArray[Any] = rng.integers(0, _MAX_TRADES if extreme else 10_000, rows)
    false_inputs = {
        name: _draw_amounts(rng, (1, rows), extreme=extreme)[0] * rng.choice([-1.0, 1.0], rows) for name in inputs
    }
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
            **false_inputs,
        }
    )


def _draw_amounts(rng: np.random.Generator, shape: tuple[int, int], *, extreme: bool) -> NDArray[np.float64]:
    """Draw amounts: 1e-30 or 1e30 if `extreme`, otherwise 1e-8 to 1e8, each decade equally often."""
    if extreme:
        return np.where(rng.random(shape) < 1 / 2, 1 / _EXTREME, _EXTREME)
    amounts: NDArray[np.float64] = 10 ** rng.uniform(-8, 8, shape)
    return amounts


def make_plausible_candles(frame: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """Return candles at the open times of `frame`, each a candle of another time, rescaled; no true value is kept."""
    rows = frame.height
    order = np.roll(np.arange(rows), int(rng.integers(rows // 4, rows - rows // 4 + 1)))
    price, volume, trades = (_draw_factors(rng, rows) for _ in range(3))
    factors: Mapping[str, NDArray[np.float64]] = {
        **dict.fromkeys(PRICES, price),
        **dict.fromkeys(("volume", "taker_buy_base"), volume),
        **dict.fromkeys(("quote_volume", "taker_buy_quote"), price * volume),
        "trades": trades,
    }
    columns = []
    for column in frame.get_columns():
        if column.name not in CANDLE_SCHEMA:
            columns.append(pl.Series(column.name, _falsify(column.to_numpy()[order], rng)))
        elif column.name not in factors or column.has_nulls():
            columns.append(column)
        else:
            columns.append(pl.Series(column.name, column.to_numpy()[order] * factors[column.name]).cast(column.dtype))
    return pl.DataFrame(columns)


def _falsify(values: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return values of an input of the same size, none of which is true; a value also where there is none."""
    finite = values[np.isfinite(values)]
    scale = float(np.abs(finite).max()) if finite.size else 0.0
    # Added, because a factor would keep a value of 0.
    return np.nan_to_num(values) * _draw_factors(rng, values.size) + (scale or 1.0) * rng.normal(0, 0.1, values.size)


def _draw_factors(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """Draw factors in `_FALSE_FACTOR`, half of them inverted, shape (rows,)."""
    factors: NDArray[np.float64] = rng.uniform(*_FALSE_FACTOR, rows)
    return np.where(rng.random(rows) < 1 / 2, factors, 1 / factors)


def replace_after(frame: pl.DataFrame, time_ms: int, false: pl.DataFrame) -> pl.DataFrame:
    """Return the candles, with those that open after `time_ms` replaced by false ones of the same open times.

    Args:
        frame: Candles of one symbol.
        time_ms: Open time of the last candle that stays true, UTC ms.
        false: At least as many candles as are replaced, without `ts`.
    """
    kept = int(np.searchsorted(times_ms(frame), time_ms, side="right"))
    after = frame[kept:]
    # A column that the source lacks stays empty, as it would in any candle still to come; an input may have any value.
    columns = [
        false[column.name].head(after.height)
        if column.name in false.columns and not (column.name in CANDLE_SCHEMA and column.has_nulls())
        else column
        for column in after.get_columns()
    ]
    return pl.concat([frame[:kept], pl.DataFrame(columns)])


def take_until(frame: pl.DataFrame, time_ms: int) -> pl.DataFrame:
    """Return the candles that open at or before `time_ms`, UTC ms."""
    return frame[: int(np.searchsorted(times_ms(frame), time_ms, side="right"))]


def take_between(candles: Mapping[str, pl.DataFrame], from_ms: int, to_ms: int) -> dict[str, pl.DataFrame]:
    """Return each symbol's candles that open from `from_ms` to `to_ms`, UTC ms, both included."""
    between = {}
    for symbol, frame in candles.items():
        first, stop = np.searchsorted(times_ms(frame), [from_ms, to_ms + 1])
        between[symbol] = frame[int(first) : int(stop)]
    return between
