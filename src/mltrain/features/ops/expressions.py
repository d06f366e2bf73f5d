"""Expressions that several ops share."""

from __future__ import annotations

import polars as pl

from mltrain.features.formula import col
from mltrain.features.windows import share, window_price_ratio, window_ratio


def log_returns(*, bars: int = 1, lag: int = 0, leader: bool = False) -> pl.Expr:
    """Return ln(c[lag] / c[lag + bars]), where c[k] is the close k bars earlier, of the symbol or of its leader."""
    close = col("leader_close" if leader else "close")
    return (close.shift(lag) / close.shift(lag + bars)).log()


def directions() -> pl.Expr:
    """Return 1 where the bar closed above the one before, -1 where below, 0 where neither."""
    close = col("close")
    return (close > close.shift(1)).cast(pl.Float64) - (close < close.shift(1)).cast(pl.Float64)


def log_range() -> pl.Expr:
    """Return the range of the bar: ln(h / l)."""
    return (col("high") / col("low")).log()


def location(prefix: str = "") -> pl.Expr:
    """Return the close's position in the bar's range: -1 at the low, 1 at the high, 0 in a bar without range."""
    high, low, close = (col(prefix + name) for name in ("high", "low", "close"))
    return share((close - low) - (high - close), high - low)


def imbalance(bars: int, prefix: str = "") -> pl.Expr:
    """Return the volume that takers bought minus what they sold, as a share of the volume of the last `bars` bars."""
    bought, volume = col(prefix + "taker_buy_base"), col(prefix + "volume")
    return window_ratio(bought - (volume - bought), volume, bars).clip(-1, 1)


def gap_to_average(paid: pl.Expr, volume: pl.Expr, bars: int) -> pl.Expr:
    """Return ln(close / (sum paid / sum volume)), the average clipped to its bars' range; 0 where the volume is 0."""
    return window_price_ratio(col("close"), paid, volume, col("low"), col("high"), bars=bars).log()


def ema_decay(bars: int, window: int) -> float:
    """Return the factor by which the weight of an exponential average over `bars` falls from a bar to the one before.

    The smoothing factor of an exponential average over n bars is 2 / (n + 1). Raises ValueError if `window`, the number
    of bars that have a weight at all, is below twice `bars`: the bars left out would have more than 2 % of the weight.
    """
    if window < 2 * bars:
        raise ValueError(f"window ({window}) must be at least twice bars ({bars}): older bars would matter")
    return 1 - 2 / (bars + 1)


def check_ordered(short: int, long: int) -> None:
    """Raise ValueError unless `short` is below `long`."""
    if short >= long:
        raise ValueError(f"short ({short}) must be below long ({long})")
