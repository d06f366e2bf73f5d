"""Possible but suspicious candles: without trades, with price jumps, or with volumes that contradict the prices.

Pure. Quote volume divided by volume is an average price, so it lies inside low..high in every candle, and takers buy no
more than is traded. This fails in files whose columns have another unit than their names say: COIN-M futures count
contracts as volume and coins as quote volume, Poloniex swaps the two, some exporters write zeros. In 309,000 real
candles of Binance's spot market it never fails. A column that is wrong in more than half of a symbol's traded candles
is emptied, so that no feature reads it. If fewer are wrong, they are only counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, Gap, find_segments, times_ms
from mltrain.documents.records import Limits, OneOf, RecordError, TimeMs, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Column = NDArray[np.float64]

#: The ratios and amounts that are checked in each candle, and the range in which each must lie.
BOUNDS: Final = {
    "quote_volume / volume": "low..high",
    "taker_buy_base": "0..volume",
    "taker_buy_quote / taker_buy_base": "low..high",
    "taker_buy_quote / volume": "0..high",
}
(QUOTE, BASE, PAIR, TAKER_QUOTE) = BOUNDS

#: The volumes that are checked and may be emptied.
VOLUMES: Final = ("quote_volume", "taker_buy_base", "taker_buy_quote")

# Relative rounding error of prices and volumes that were stored as 32-bit floats.
_FLOAT32: Final = 1e-6
# Relative difference of two shares that agree. Another unit differs by far more, rounding by less.
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
    """How often a volume of a symbol contradicts the prices of its candles.

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
            value, low, high = self.typical
            text += f" (typically {value:.6g} where {bounds} is {low:.6g}..{high:.6g})"
        if not self.emptied:
            return f"{text}: kept, because in most of them it does not"
        return f"{text}: {' and '.join(self.emptied)} {'is' if len(self.emptied) == 1 else 'are'} left empty"


def count_zero_trade(frame: pl.DataFrame) -> int:
    """Count the candles without trades; where `trades` is missing, those without volume."""
    return int(frame.select(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0).sum()).item())


def find_zero_trade_runs(frame: pl.DataFrame, step_ms: int, *, max_runs: int) -> tuple[Gap, ...]:
    """Return the `max_runs` longest runs of consecutive candles without trades, by time.

    A run is a `Gap` from its first to its last open time; `missing` is its number of candles.
    """
    ts_ms = times_ms(frame.filter(pl.coalesce(pl.col("trades") == 0, pl.col("volume") == 0)))
    segments = find_segments(ts_ms, step_ms)
    runs = [Gap(int(ts_ms[start]), int(ts_ms[stop - 1]), missing=stop - start) for start, stop in segments]
    longest = sorted(runs, key=lambda run: (-run.missing, run.from_ms))[:max_runs]
    return tuple(sorted(longest, key=lambda run: run.from_ms))


def find_jumps(frame: pl.DataFrame, *, min_share: float, max_jumps: int) -> tuple[Jump, ...]:
    """Return the first `max_jumps` moves from a close to the next by more than `min_share` of the former, by time."""
    pairs = frame.select("ts", "close", before=pl.col("close").shift(1))
    moved = pairs.filter((pl.col("close") / pl.col("before") - 1).abs() > min_share).head(max_jumps)
    closes = zip(times_ms(moved), moved["before"].to_list(), moved["close"].to_list(), strict=True)
    return tuple(Jump(int(ts_ms), before, after) for ts_ms, before, after in closes)


def empty_false_volumes(frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[FalseVolume, ...]]:
    """Set volume columns that contradict the prices in more than half of the traded candles to null.

    Args:
        frame: All candles of one symbol, as `check_candles` returns them.

    Returns:
        The candles, with such columns null in every row, and every contradiction, including those that emptied nothing.
    """
    columns: dict[str, Column] = {
        name: frame[name].to_numpy()
        for name in ("low", "high", "volume", *VOLUMES)
        if name in frame.columns and not frame[name].null_count()
    }
    contradictions = find_false_volumes(columns) if frame.height else ()
    return empty_columns(frame, contradictions), contradictions


def find_false_volumes(columns: Mapping[str, Column]) -> tuple[FalseVolume, ...]:
    """Check the volumes of a symbol's candles against BOUNDS, and return each one that lies outside in some candle.

    `columns` are low, high, volume and those of VOLUMES that have a value in every candle, shape (n,) each.
    """
    # Of values near the largest float a product is infinite, and no number times it; both lie outside as they should.
    with np.errstate(over="ignore", invalid="ignore"):
        return tuple(_find_contradictions(columns))


def empty_columns(frame: pl.DataFrame, false_volumes: tuple[FalseVolume, ...]) -> pl.DataFrame:
    """Return the candles with every column null that one of `false_volumes` lists as emptied."""
    names = dict.fromkeys(name for false in false_volumes for name in false.emptied)
    return frame.with_columns(pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in names) if names else frame


def _find_contradictions(columns: Mapping[str, Column]) -> Iterator[FalseVolume]:
    """Yield what `find_false_volumes` returns."""
    low, high, volume = (columns[name] for name in ("low", "high", "volume"))
    quote, taker_base, taker_quote = (columns.get(name) for name in VOLUMES)
    zero, one = np.zeros_like(volume), np.ones_like(volume)
    if quote is not None:
        yield from _check_ratio(QUOTE, _Ratio(quote, volume, low, high), empties=("quote_volume",))
    base_is_false = False
    if taker_base is not None:
        ratio, exact = _Ratio(taker_base, one, low=zero, high=volume), ("divisor", "low")
        for false in _check_ratio(BASE, ratio, empties=("taker_buy_base",), exact=exact):
            base_is_false = bool(false.emptied)
            yield false
    if taker_quote is None:
        return
    if taker_base is None or base_is_false:
        ratio = _Ratio(taker_quote, volume, low=zero, high=high)
        yield from _check_ratio(TAKER_QUOTE, ratio, empties=("taker_buy_quote",), exact=("low",))
    if taker_base is None:
        return
    ratio = _Ratio(taker_quote, taker_base, low, high)
    for false in _check_ratio(PAIR, ratio, empties=("taker_buy_base", "taker_buy_quote")):
        # Either of the two may be wrong. If the takers' shares of both volumes agree, the base column is right.
        base_is_right = quote is not None and _shares_agree((taker_base, volume), (taker_quote, quote), (low, high))
        yield replace(false, emptied=false.emptied[1:]) if base_is_false or base_is_right else false


class _Ratio(NamedTuple):
    """A ratio, dividend / divisor, that should lie in low..high in each of n candles; four arrays of shape (n,)."""

    dividend: Column
    divisor: Column
    low: Column
    high: Column


def _check_ratio(
    what: str, ratio: _Ratio, *, empties: tuple[str, ...], exact: tuple[str, ...] = ()
) -> Iterator[FalseVolume]:
    """Yield how often a ratio lies outside its range by more than rounding explains; nothing if it never does.

    Args:
        what: The ratio's name, a key of BOUNDS.
        ratio: Its values in the candles of one symbol.
        empties: The columns to empty if it lies outside in more than half of the traded candles.
        exact: The arrays of `ratio` that are constants without rounding.
    """
    if not _is_outside(ratio, (0.0, 0.0, 0.0, 0.0)).any():
        return
    errors = [0.0 if name in exact else _half_unit(column) for name, column in ratio._asdict().items()]
    wrong = _is_outside(ratio, errors)
    candles = int(np.count_nonzero(wrong))
    if not candles:
        return
    traded = int(np.count_nonzero((ratio.dividend > 0) | ((ratio.high if what == BASE else ratio.divisor) > 0)))
    has_value = wrong & (ratio.divisor > 0)
    typical = None
    if has_value.any():
        dividend, divisor, low, high = (column[has_value] for column in ratio)
        typical = (float(np.median(dividend / divisor)), float(np.median(low)), float(np.median(high)))
    emptied = empties if 2 * candles > traded else ()
    yield FalseVolume(what, candles=candles, traded=traded, typical=typical, emptied=emptied)


def _is_outside(ratio: _Ratio, errors: Sequence[float]) -> NDArray[np.bool_]:
    """Return where a ratio lies outside its range although its arrays may be wrong by `errors`, shape (n,)."""
    dividend_error, divisor_error, low_error, high_error = errors
    least = (ratio.low - low_error) * (1 - _FLOAT32) * np.maximum(ratio.divisor - divisor_error, 0)
    most = (ratio.high + high_error) * (1 + _FLOAT32) * (ratio.divisor + divisor_error)
    below: NDArray[np.bool_] = ratio.dividend + dividend_error < least
    return below | (ratio.dividend - dividend_error > most)


def _half_unit(column: Column) -> float:
    """Return half a unit of a column's last decimal, its greatest rounding error; 0 beyond eight decimals."""
    for decimals in range(_MAX_DECIMALS + 1):
        scaled = column * 10.0**decimals
        if (np.abs(scaled - np.round(scaled)) <= 1e-6 + 1e-15 * scaled).all():
            return float(0.5 * 10.0**-decimals)
    return 0.0


def _shares_agree(base: tuple[Column, Column], quote: tuple[Column, Column], prices: tuple[Column, Column]) -> bool:
    """Return whether takers bought the same share of both volumes, within high / low, in more than half of the candles.

    Args:
        base: Volume bought by takers, and all volume, in the base asset, shape (n,) each.
        quote: The same in the quote asset.
        prices: Low and high, shape (n,) each.
    """
    (taker_base, all_base), (taker_quote, all_quote) = base, quote
    known = (taker_base > 0) & (all_base > 0) & (taker_quote > 0) & (all_quote > 0)
    ratio = (taker_quote[known] / all_quote[known]) / (taker_base[known] / all_base[known])
    spread = prices[1][known] / prices[0][known] * (1 + _SHARES_AGREE)
    return bool(2 * np.count_nonzero((ratio <= spread) & (ratio * spread >= 1)) > ratio.size)
