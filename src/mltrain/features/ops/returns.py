"""Ops on returns and their distribution."""

from __future__ import annotations

import math
from typing import Final

from mltrain.features.op import Bars, Lag, Op, Shape, Spread, Window
from mltrain.features.ops.expressions import log_returns
from mltrain.features.windows import window_correlation, window_scaled, window_skew

# Returns with a smaller deviation count as equal: price ratios are rounded to 1e-16, so the skewness of a narrower
# distribution would be that of the rounding errors.
MIN_RETURN_DEVIATION: Final = 1e-12


def log_return(*, bars: Bars, lag: Lag = 0) -> Window:
    """Return over `bars` bars that ended `lag` bars ago: ln(c[lag] / c[lag + bars]).

    Unit: natural logarithm of a price ratio; 0.001 is about 10 basis points.
    """
    return Window(log_returns(bars=bars, lag=lag), bars + lag + 1)


def scaled_return(*, bars: Bars, window: Bars, lag: Lag = 0) -> Window:
    """Return over `bars` bars, `lag` bars ago, in volatilities: ln(c[lag] / c[lag + bars]) / (s sqrt(bars)).

    Here s is the root mean square of the one-bar log returns of the last `window` bars. Unit: deviations. 0 where no
    bar of the window moved.
    """
    if bars + lag > window:
        raise ValueError(f"bars ({bars}) and lag ({lag}) together must not be above window ({window})")
    return Window(window_scaled(log_returns(bars=bars, lag=lag), log_returns(), window) / math.sqrt(bars), window + 1)


def return_skew(*, bars: Shape) -> Window:
    """Skewness of the last `bars` returns: m3 / m2^(3/2), the population's central moments.

    Unit: none, within sqrt(bars). 0 where the returns are equal. Source: Pebay (2008) for the moments of a window.
    """
    return Window(window_skew(log_returns(), bars, min_deviation=MIN_RETURN_DEVIATION), bars + 1)


def return_autocorrelation(*, bars: Spread) -> Window:
    """Autocorrelation of returns at lag 1: sum r r[1] / sqrt(sum r^2 sum r[1]^2).

    Unit: correlation about zero, in [-1, 1]; below 0: moves reverse. 0 where nothing moved. Source: Roll (1984).
    """
    return Window(window_correlation(log_returns(), log_returns(lag=1), bars), bars + 2)


OPS: Final[dict[str, Op]] = {
    "log_return": log_return,
    "scaled_return": scaled_return,
    "return_skew": return_skew,
    "return_autocorrelation": return_autocorrelation,
}
