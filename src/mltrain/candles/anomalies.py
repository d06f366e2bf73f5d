"""Finds volumes that contradict the prices of their own candles, and empties columns where most of them do.

Pure. Quote volume divided by volume is an average price: in every candle it lies inside low..high, and takers buy no
more than is traded. In some files a column has another unit than its name says, and this does not hold: COIN-M futures
count contracts as volume and coins as quote volume, Poloniex swaps the two, some exporters write zeros. In 309,000 real
candles of Binance's spot market it never happens. A column that is wrong in more than half of the traded candles of a
symbol has the wrong content; it is emptied, so that no feature reads it. If fewer are wrong, they are only counted.
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

#: What is checked, and the range in which it must lie.
BOUNDS: Final = {
    "quote_volume / volume": "low..high",
    "taker_buy_base": "0..volume",
    "taker_buy_quote / taker_buy_base": "low..high",
    "taker_buy_quote / volume": "0..high",
}
(QUOTE, BASE, PAIR, TAKER_QUOTE) = BOUNDS

_FLOAT32: Final = 1e-6  # relative: rounding error of prices and volumes that were stored as 32-bit floats
_SHARES_AGREE: Final = 0.01  # relative: another unit is far more, a candle's range and rounding are less
_MOST_DECIMALS: Final = 8


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


@record
@dataclass(frozen=True, slots=True)
class FalseVolume:
    """How often a volume contradicts the prices of its candles.

    Attributes:
        what: What was checked, such as "quote_volume / volume".
        candles: Candles in which it lies outside its range, by more than its rounding explains; at least 1.
        traded: Candles that were checked: those in which something was traded.
        typical: Medians over `candles` of the value and of the lower and the upper end of its range; None where it has
            no value because nothing was traded according to the other column.
        emptied: The columns that were left empty because of it; none where `candles` is not more than half of `traded`.
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
    """Count the candles in which nothing was traded: no trades, or no volume where trades are not known."""
    return int(frame.select(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0).sum()).item())


def find_zero_trade_runs(frame: pl.DataFrame, step_ms: int, *, most: int) -> tuple[Gap, ...]:
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


def empty_false_volumes(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[FalseVolume, ...]]:
    """Empty the optional columns that most candles contradict; return the candles and what was found.

    Args:
        frame: Candles of one symbol, as `check_candles` returns them; they are judged as a whole.

    Returns:
        The candles, in which such a column is null in every row, and each contradiction, those that emptied nothing
        included.
    """
    found = tuple(_judge(frame)) if frame.height else ()
    return empty_columns(frame, found), found


def empty_columns(frame: pl.DataFrame, found: tuple[FalseVolume, ...]) -> pl.DataFrame:
    """Return the candles with those columns null that `found` says were emptied."""
    names = dict.fromkeys(name for false in found for name in false.emptied)
    return frame.with_columns(pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in names) if names else frame


def _judge(frame: pl.DataFrame) -> Iterator[FalseVolume]:
    there = {
        name: frame[name].to_numpy()
        for name in ("low", "high", "volume", "quote_volume", "taker_buy_base", "taker_buy_quote")
        if name in frame.columns and not frame[name].null_count()
    }
    low, high, volume = (there[name] for name in ("low", "high", "volume"))
    quote, base, paid = (there.get(name) for name in ("quote_volume", "taker_buy_base", "taker_buy_quote"))
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
        vouched = quote is not None and _shares_agree((base, volume), (paid, quote), (low, high))
        yield replace(false, emptied=false.emptied[1:]) if base_is_false or vouched else false


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
    """Tell where first / second lies outside third..fourth by more than rounding explains.

    Args:
        columns: Four, each of shape (n,).
        halves: Greatest rounding error of each.
    """
    (part, whole, low, high), (of_part, of_whole, of_low, of_high) = columns, halves
    least = (low - of_low) * (1 - _FLOAT32) * np.maximum(whole - of_whole, 0)
    most = (high + of_high) * (1 + _FLOAT32) * (whole + of_whole)
    below: NDArray[np.bool_] = part + of_part < least
    return below | (part - of_part > most)


def _half_unit(column: Column) -> float:
    """Return half a unit of a column's last decimal; 0 where it has more than eight decimals."""
    for decimals in range(_MOST_DECIMALS + 1):
        scaled = column * 10.0**decimals
        if (np.abs(scaled - np.round(scaled)) <= 1e-6 + 1e-15 * scaled).all():
            return float(0.5 * 10.0**-decimals)
    return 0.0


def _shares_agree(base: tuple[Column, Column], quote: tuple[Column, Column], prices: tuple[Column, Column]) -> bool:
    """Tell whether takers' share of the volume equals their share of the quote volume, as far as the prices allow.

    Args:
        base: What takers bought, and what was traded, in the base asset.
        quote: The same in the quote asset.
        prices: Low and high.
    """
    (part, whole), (paid, all_paid) = base, quote
    known = (part > 0) & (whole > 0) & (paid > 0) & (all_paid > 0)
    ratio = (paid[known] / all_paid[known]) / (part[known] / whole[known])
    spread = prices[1][known] / prices[0][known] * (1 + _SHARES_AGREE)
    return bool(2 * np.count_nonzero((ratio <= spread) & (ratio * spread >= 1)) > ratio.size)
