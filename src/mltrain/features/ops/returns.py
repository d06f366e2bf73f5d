"""Ops on returns and their distribution."""

from __future__ import annotations

import math
from typing import Final

import polars as pl

from mltrain.features.op import Bars, Lag, Op, Shape, Spread, Window
from mltrain.features.ops.terms import check_ordered, directions, log_range, log_returns, realised
from mltrain.features.windows import (
    window_correlation,
    window_ratio,
    window_root_contrast,
    window_root_mean_square,
    window_run,
    window_scaled,
    window_skew,
    window_sum,
)

# Returns with a smaller deviation count as equal: price ratios are rounded to 1e-16, so the skewness of a narrower
# distribution would be that of the rounding errors.
MIN_RETURN_DEVIATION: Final = 1e-12

# The expected squared log range of a random walk is 4 ln 2 times its variance (Parkinson 1980).
PARKINSON: Final = 4 * math.log(2)


def log_return(*, bars: Bars, lag: Lag = 0) -> Window:
    """Return over `bars` bars that ended `lag` bars ago: ln(c[lag] / c[lag + bars]).

    Unit: natural logarithm of a price ratio; 0.001 is about 10 basis points.
    """
    return Window(log_returns(bars=bars, lag=lag), bars + lag + 1)


def scaled_return(*, bars: Bars, window: Bars, lag: Lag = 0) -> Window:
    """Return over `bars` bars, `lag` bars ago, in volatilities: ln(c[lag] / c[lag + bars]) / (s sqrt(bars)).

    Here s = sqrt(mean r^2) over the last `window` bars. Unit: deviations. 0 where no bar of the window moved.
    """
    if bars + lag > window:
        raise ValueError(f"bars ({bars}) and lag ({lag}) together must not be above window ({window})")
    return Window(window_scaled(log_returns(bars=bars, lag=lag), log_returns(), window) / math.sqrt(bars), window + 1)


def realised_volatility(*, bars: Bars) -> Window:
    """Realised volatility per bar: sqrt(mean r^2).

    Unit: log return per bar. 0 where nothing moved. Source: Andersen, Bollerslev, Diebold and Labys (2003).
    """
    return Window(realised(bars), bars + 1)


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


def direction_balance(*, bars: Bars) -> Window:
    """Share of bars that rose minus the share that fell, close to close.

    Unit: share, in [-1, 1]. 0 where nothing moved.
    """
    return Window(window_sum(directions(), bars) / bars, bars + 1)


def flat_share(*, bars: Bars) -> Window:
    """Share of bars that closed where the bar before had closed.

    Unit: share, in [0, 1].
    """
    flat = (pl.col("close") == pl.col("close").shift(1)).cast(pl.Float64)
    return Window(window_sum(flat, bars) / bars, bars + 1)


def run_length(*, bars: Bars) -> Window:
    """Length of the run in the direction of the newest bar, as a share of `bars`; negative for falls.

    Unit: share, in [-1, 1]; 1 / bars is a run of one bar. 0 where the newest bar did not move.
    """
    return Window(window_run(directions(), bars) / bars, bars + 1)


def rsi(*, bars: Bars) -> Window:
    """Relative strength: sum of rises / (sum of rises + sum of falls), of closes.

    Unit: share, in [0, 1] (the usual index is 100 times it). 0.5 where nothing moved. Source: Wilder (1978), with
    Cutler's plain sums in place of Wilder's smoothing, which never forgets.
    """
    moves = pl.col("close") - pl.col("close").shift(1)
    return Window(window_ratio(moves.clip(lower_bound=0), moves.abs(), bars, empty=0.5), bars + 1)


OPS: Final[dict[str, Op]] = {
    "log_return": log_return,
    "scaled_return": scaled_return,
    "realised_volatility": realised_volatility,
    "volatility_ratio": volatility_ratio,
    "parkinson_volatility": parkinson_volatility,
    "return_skew": return_skew,
    "return_autocorrelation": return_autocorrelation,
    "direction_balance": direction_balance,
    "flat_share": flat_share,
    "run_length": run_length,
    "rsi": rsi,
}
