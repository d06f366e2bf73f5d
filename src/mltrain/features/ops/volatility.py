"""Ops on volatility."""

from __future__ import annotations

import math
from typing import Final

from mltrain.features.op import Bars, Op, Spread, Window
from mltrain.features.ops.expressions import check_ordered, ema_decay, log_range, log_returns
from mltrain.features.windows import window_exponential_mean, window_root_contrast, window_root_mean_square

# The expected squared log range of a random walk is 4 ln 2 times its variance (Parkinson 1980).
PARKINSON: Final = 4 * math.log(2)


def realised_volatility(*, bars: Bars) -> Window:
    """Realised volatility per bar: sqrt(mean r^2).

    Unit: log return per bar. 0 where nothing moved. Source: Andersen, Bollerslev, Diebold and Labys (2003).
    """
    return Window(window_root_mean_square(log_returns(), bars), bars + 1)


def ema_volatility(*, bars: Spread, window: Spread) -> Window:
    """Volatility that forgets gradually: sqrt(ema r^2), over `bars`, cut off after `window`.

    Unit: log return per bar. 0 where nothing moved. Truncation: older squares would have the share s = (1 - 2 / (bars +
    1))^window of the weight, below exp(-2 window / bars): 1.8 % at twice `bars`, 0.25 % at three times. If they are on
    average x times the truncated average, the value is off by the factor sqrt(1 + s (x - 1)).
    Source: RiskMetrics (1996).
    """
    returns = log_returns()
    squares = window_exponential_mean(returns * returns, window, decay=ema_decay(bars, window))
    return Window(squares.sqrt(), window + 1)


def volatility_ratio(*, short: Bars, long: Spread) -> Window:
    """Short against long volatility: (a - b) / (a + b), a and b the realised volatility over `short` and `long` bars.

    Unit: share, in [-1, 1]. 0 where nothing moved.
    """
    check_ordered(short, long)
    return Window(window_root_contrast(log_returns(), short=short, long=long), long + 1)


def parkinson_volatility(*, bars: Bars) -> Window:
    """Volatility from the bars' ranges: sqrt(mean ln(h / l)^2 / (4 ln 2)).

    Unit: log return per bar. 0 where no bar has a range. Source: Parkinson (1980).
    """
    return Window(window_root_mean_square(log_range(), bars) / math.sqrt(PARKINSON), bars)


OPS: Final[dict[str, Op]] = {
    "realised_volatility": realised_volatility,
    "ema_volatility": ema_volatility,
    "volatility_ratio": volatility_ratio,
    "parkinson_volatility": parkinson_volatility,
}
