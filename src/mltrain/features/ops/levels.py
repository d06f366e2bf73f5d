"""Ops on the price against its recent past."""

from __future__ import annotations

import math
from typing import Final

from mltrain.features.formula import col
from mltrain.features.op import Bars, Op, Spread, Window
from mltrain.features.ops.expressions import check_ordered, ema_decay, gap_to_average, log_returns
from mltrain.features.windows import (
    window_exponential_mean,
    window_max,
    window_mean,
    window_min,
    window_range_position,
    window_scaled,
)


def gap_to_mean(*, bars: Spread) -> Window:
    """How far the close is above its moving average: ln(c / mean c).

    Unit: log return.
    """
    return Window((col("close") / window_mean(col("close"), bars)).log(), bars)


def scaled_gap_to_mean(*, bars: Spread, window: Bars) -> Window:
    """How far the close is above its moving average, in volatilities: ln(c / mean c) / (s sqrt(bars)).

    Here s is the root mean square of the one-bar log returns of the last `window` bars. Unit: deviations. 0 where no
    bar of the window moved.
    """
    gap = (col("close") / window_mean(col("close"), bars)).log()
    return Window(window_scaled(gap, log_returns(), window) / math.sqrt(bars), max(bars, window + 1))


def gap_to_ema(*, bars: Spread, window: Spread) -> Window:
    """How far the close is above its exponential moving average: ln(c / ema c), over `bars`, cut off after `window`.

    The weight of the close k bars ago is d^k / (1 + d + ... + d^(window - 1)), d = 1 - 2 / (bars + 1). Unit: log
    return. Truncation: older closes would have the share d^window of the weight, below exp(-2 window / bars): 1.8 % at
    twice `bars`, 0.25 % at three times. If they are on average x times the truncated average, the value is off by
    ln(1 + d^window (x - 1)): with 0.25 % and prices 10 % away, by 2.5 basis points.
    """
    average = window_exponential_mean(col("close"), window, decay=ema_decay(bars, window))
    return Window((col("close") / average).log(), window)


def ema_gap(*, short: Spread, long: Spread, window: Spread) -> Window:
    """How far a short exponential average is above a long one: ln(ema c over `short` / ema c over `long`).

    Unit: log return. Both are cut off after `window` bars, with the truncation error of gap_to_ema. Source: Appel's
    MACD, as a ratio.
    """
    check_ordered(short, long)
    averages = (window_exponential_mean(col("close"), window, decay=ema_decay(bars, window)) for bars in (short, long))
    return Window((next(averages) / next(averages)).log(), window)


def gap_to_vwap(*, bars: Bars) -> Window:
    """How far the close is above the volume-weighted typical price: ln(c / (sum v (h + l + c) / 3 / sum v)).

    Unit: log return. 0 where nothing was traded. Needs OHLCV alone.
    """
    volume = col("volume")
    typical = (col("high") + col("low") + col("close")) / 3
    return Window(gap_to_average(typical * volume, volume, bars), bars)


def gap_to_traded_vwap(*, bars: Bars) -> Window:
    """How far the close is above the average price paid: ln(c / (sum quote volume / sum v)).

    Unit: log return. 0 where nothing was traded. The average is clipped to the range of its bars, because the
    exchange rounds both volumes.
    """
    return Window(gap_to_average(col("quote_volume"), col("volume"), bars), bars)


def range_position(*, bars: Bars) -> Window:
    """Position of the close between the lowest low and the highest high: (c - min l) / (max h - min l).

    Unit: share, in [0, 1]. 0.5 where there is no range. Source: Lane's stochastic oscillator (%K).
    """
    return Window(window_range_position(col("close"), col("low"), col("high"), bars), bars)


def gap_to_high(*, bars: Bars) -> Window:
    """How far the close is below the highest high: ln(c / max h).

    Unit: log return, 0 or less.
    """
    return Window((col("close") / window_max(col("high"), bars)).log(), bars)


def gap_to_low(*, bars: Bars) -> Window:
    """How far the close is above the lowest low: ln(c / min l).

    Unit: log return, 0 or more.
    """
    return Window((col("close") / window_min(col("low"), bars)).log(), bars)


OPS: Final[dict[str, Op]] = {
    "gap_to_mean": gap_to_mean,
    "scaled_gap_to_mean": scaled_gap_to_mean,
    "gap_to_ema": gap_to_ema,
    "ema_gap": ema_gap,
    "gap_to_vwap": gap_to_vwap,
    "gap_to_traded_vwap": gap_to_traded_vwap,
    "range_position": range_position,
    "gap_to_high": gap_to_high,
    "gap_to_low": gap_to_low,
}
