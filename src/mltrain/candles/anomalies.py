"""Possible but suspicious candles: without trades, with price jumps, or with volumes that contradict the prices.

Pure. Quote volume divided by volume is an average price, so it lies inside low..high in every candle, and takers buy no
more than is traded. This fails in files whose columns have another unit than their names say: COIN-M futures count
contracts as volume and coins as quote volume, Poloniex swaps the two, some exporters write zeros. In 309,000 real
candles of Binance's spot market it never fails. A column that is wrong in more than half of a symbol's traded candles
is emptied, so that no feature reads it. If fewer are wrong, they are only counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, Gap, segment_bounds, times_ms
from mltrain.documents.records import Limits, OneOf, RecordError, TimeMs, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Column = NDArray[np.float64]

#: The ratios and amounts that are checked, and the range in which each must lie.
BOUNDS: Final = {
    "quote_volume / volume": "low..high",
    "taker_buy_base": "0..volume",
    "taker_buy_quote / taker_buy_base": "low..high",
    "taker_buy_quote / volume": "0..high",
}
(QUOTE, BASE, PAIR, TAKER_QUOTE) = BOUNDS

# Relative rounding error of prices and volumes that were stored as 32-bit floats.
_FLOAT32: Final = 1e-6
# Relative. Another unit differs by far more, a candle's range and rounding by less.
_SHARES_AGREE: Final = 0.01
_MAX_DECIMALS: Final = 8


@record
@dataclass(frozen=True, slots=True)
class Jump:
    """An implausibly large move from one close to the next.

    Attributes:
        ts_ms: Open time of the second candle, ms UTC.
        before: The first close.
        after: The second close.
    """

    ts_ms: TimeMs
    before: float
    after: float


@record
@dataclass(frozen=True, slots=True)
class FalseVolume:
    """How often a volume contradicts the prices of its candles.

    Attributes:
        what: The ratio or amount that was checked, a key of BOUNDS.
        candles: Number of candles in which it lies outside its range by more than rounding explains; at least 1.
        traded: Number of candles that were checked: those in which something was traded.
        typical: Medians over `candles` of the value and of the lower and upper end of its range; None where the value
            is undefined because its divisor is 0.
        emptied: The columns that are left empty because of it; none unless `candles` is more than half of `traded`.
    """

    what: Annotated[str, OneOf(tuple(BOUNDS))]
    candles: Annotated[int, Limits(1)]
    traded: int
    typical: tuple[float, float, float] | None
    emptied: tuple[Annotated[str, OneOf(OPTIONAL)], ...]

    def __post_init__(self) -> None:
        if self.candles > self.traded:
            raise RecordError((("candles",), f"must not be above traded, {self.traded}; is {self.candles}"))

    def __str__(self) -> str:
        bounds = BOUNDS[self.what]
        text = f"{self.what} lies outside {bounds} in {self.candles:,} of {self.traded:,} traded candles"
        if self.typical is not None:
            found, low, high = self.typical
            text += f" (typically {found:.6g} where {bounds} is {low:.6g}..{high:.6g})"
        if not self.emptied:
            return f"{text}: kept, because in most of them it does not"
        return f"{text}: {' and '.join(self.emptied)} {'is' if len(self.emptied) == 1 else 'are'} left empty"


def count_zero_trade(frame: pl.DataFrame) -> int:
    """Count the candles without trades; where `trades` is missing, those without volume."""
    return int(frame.select(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0).sum()).item())


def find_zero_trade_runs(frame: pl.DataFrame, step_ms: int, *, most: int) -> tuple[Gap, ...]:
    """Return the `most` longest runs of candles without trades, by time; `missing` is their number."""
    quiet = frame.filter(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0))
    ts_ms = times_ms(quiet)
    runs = [Gap(int(ts_ms[a]), int(ts_ms[b - 1]), b - a) for a, b in segment_bounds(ts_ms, step_ms)]
    longest = sorted(runs, key=lambda run: (-run.missing, run.from_ms))[:most]
    return tuple(sorted(longest, key=lambda run: run.from_ms))


def find_jumps(frame: pl.DataFrame, *, share: float, most: int) -> tuple[Jump, ...]:
    """Return the first `most` moves by more than `share` of the previous close, by time."""
    before = pl.col("close").shift(1)
    moved = frame.select("ts", "close", before=before).filter((pl.col("close") / pl.col("before") - 1).abs() > share)
    moved = moved.head(most)
    return tuple(
        Jump(int(t), b, c)
        for t, b, c in zip(times_ms(moved), moved["before"].to_list(), moved["close"].to_list(), strict=True)
    )


def empty_false_volumes(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[FalseVolume, ...]]:
    """Empty the optional columns that contradict the prices in most candles.

    Args:
        frame: All candles of one symbol, as `check_candles` returns them.

    Returns:
        The candles, with such columns null in every row, and every contradiction, including those that emptied nothing.
    """
    found = tuple(_find_contradictions(frame)) if frame.height else ()
    return empty_columns(frame, found), found


def empty_columns(frame: pl.DataFrame, found: tuple[FalseVolume, ...]) -> pl.DataFrame:
    """Return the candles with the columns null that `found` lists as emptied."""
    names = dict.fromkeys(name for false in found for name in false.emptied)
    return frame.with_columns(pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in names) if names else frame


def _find_contradictions(frame: pl.DataFrame) -> Iterator[FalseVolume]:
    """Yield each ratio or amount that lies outside its range in some candles."""
    columns = {
        name: frame[name].to_numpy()
        for name in ("low", "high", "volume", "quote_volume", "taker_buy_base", "taker_buy_quote")
        if name in frame.columns and not frame[name].null_count()
    }
    low, high, volume = (columns[name] for name in ("low", "high", "volume"))
    quote, base, paid = (columns.get(name) for name in ("quote_volume", "taker_buy_base", "taker_buy_quote"))
    zero, one = np.zeros_like(volume), np.ones_like(volume)
    if quote is not None:
        yield from _compare(QUOTE, (quote, volume, low, high), empties=("quote_volume",))
    base_is_false = False
    if base is not None:
        found = tuple(_compare(BASE, (base, one, zero, volume), empties=("taker_buy_base",), exact=(1, 2)))
        base_is_false = any(false.emptied for false in found)
        yield from found
    if paid is None:
        return
    if base is None or base_is_false:
        yield from _compare(TAKER_QUOTE, (paid, volume, zero, high), empties=("taker_buy_quote",), exact=(2,))
    if base is None:
        return
    for false in _compare(PAIR, (paid, base, low, high), empties=("taker_buy_base", "taker_buy_quote")):
        # Either of the two may be wrong. If the takers' shares of both volumes agree, the base column is right.
        base_is_right = quote is not None and _shares_agree((base, volume), (paid, quote), (low, high))
        yield replace(false, emptied=false.emptied[1:]) if base_is_false or base_is_right else false


def _compare(
    what: str, columns: tuple[Column, Column, Column, Column], *, empties: tuple[str, ...], exact: tuple[int, ...] = ()
) -> Iterator[FalseVolume]:
    """Count how often first / second lies outside third..fourth; yields nothing if it never does.

    Columns at the positions `exact` are constants without rounding.
    """
    part, whole, low, high = columns
    if not _outside(columns).any():
        return
    wrong = _outside(columns, [0.0 if i in exact else _half_unit(column) for i, column in enumerate(columns)])
    candles = int(np.count_nonzero(wrong))
    if not candles:
        return
    traded = int(np.count_nonzero((part > 0) | ((high if what == BASE else whole) > 0)))
    has_value = wrong & (whole > 0)
    typical = None
    if has_value.any():
        ratio = part[has_value] / whole[has_value]
        typical = (float(np.median(ratio)), float(np.median(low[has_value])), float(np.median(high[has_value])))
    yield FalseVolume(what, candles, traded, typical, empties if 2 * candles > traded else ())


def _outside(
    columns: tuple[Column, Column, Column, Column], halves: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
) -> NDArray[np.bool_]:
    """Return where first / second lies outside third..fourth by more than rounding explains, shape (n,).

    Args:
        columns: Four, each of shape (n,).
        halves: The greatest rounding error of each.
    """
    (part, whole, low, high), (of_part, of_whole, of_low, of_high) = columns, halves
    least = (low - of_low) * (1 - _FLOAT32) * np.maximum(whole - of_whole, 0)
    most = (high + of_high) * (1 + _FLOAT32) * (whole + of_whole)
    below: NDArray[np.bool_] = part + of_part < least
    return below | (part - of_part > most)


def _half_unit(column: Column) -> float:
    """Return half a unit of a column's last decimal; 0 where it has more than eight decimals."""
    for decimals in range(_MAX_DECIMALS + 1):
        scaled = column * 10.0**decimals
        if (np.abs(scaled - np.round(scaled)) <= 1e-6 + 1e-15 * scaled).all():
            return float(0.5 * 10.0**-decimals)
    return 0.0


def _shares_agree(base: tuple[Column, Column], quote: tuple[Column, Column], prices: tuple[Column, Column]) -> bool:
    """Return whether takers have the same share of the volume and of the quote volume, as far as the prices allow.

    Args:
        base: Volume bought by takers, and all volume, in the base asset.
        quote: The same in the quote asset.
        prices: Low and high.
    """
    (part, whole), (paid, all_paid) = base, quote
    known = (part > 0) & (whole > 0) & (paid > 0) & (all_paid > 0)
    ratio = (paid[known] / all_paid[known]) / (part[known] / whole[known])
    spread = prices[1][known] / prices[0][known] * (1 + _SHARES_AGREE)
    return bool(2 * np.count_nonzero((ratio <= spread) & (ratio * spread >= 1)) > ratio.size)
