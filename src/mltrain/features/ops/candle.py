"""Ops on the shape of the candle."""

from __future__ import annotations

from typing import Literal

import polars as pl

from mltrain.features.ops.catalogue import Bars, Lag, Spread, Window, op
from mltrain.features.ops.terms import location, log_range, log_returns
from mltrain.features.windows import contrast, share, window_scaled, window_sum


def _share_of_range(part: pl.Expr, lag: int) -> Window:
    return Window(share(part, pl.col("high") - pl.col("low")).shift(lag), lag + 1)


@op
def candle_body(*, lag: Lag = 0) -> Window:
    """Body of the candle `lag` bars ago as a share of its range: (c - o) / (h - l).

    Unit: share, in [-1, 1]. 0 in a bar without range.
    """
    return _share_of_range(pl.col("close") - pl.col("open"), lag)


@op
def upper_shadow(*, lag: Lag = 0) -> Window:
    """Upper shadow of the candle `lag` bars ago as a share of its range: (h - max(o, c)) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    return _share_of_range(pl.col("high") - pl.max_horizontal("open", "close"), lag)


@op
def lower_shadow(*, lag: Lag = 0) -> Window:
    """Lower shadow of the candle `lag` bars ago as a share of its range: (min(o, c) - l) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    return _share_of_range(pl.min_horizontal("open", "close") - pl.col("low"), lag)


@op
def close_location(*, bars: Bars, lag: Lag = 0) -> Window:
    """Where closes stand in `bars` bars that ended `lag` bars ago: mean of ((c - l) - (h - c)) / (h - l).

    Unit: share, in [-1, 1]; -1 at the low. A bar without range counts 0. Source: Chaikin's close location value.
    """
    return Window((window_sum(location(), bars) / bars).shift(lag), bars + lag)


@op
def scaled_wick(*, side: Literal["above", "below"], window: Bars) -> Window:
    """Room from the close to the bar's high or low in units of usual moves: ln(h / c) / s above, ln(c / l) / s below.

    Here s = sqrt(mean r^2) over `window`. Unit: deviations, 0 or more. 0 where no bar of the window moved.
    """
    room = pl.col("high") / pl.col("close") if side == "above" else pl.col("close") / pl.col("low")
    return Window(window_scaled(room.log(), log_returns(), window), window + 1)


@op
def bar_range() -> Window:
    """Range of the bar: ln(h / l).

    Unit: log return, 0 or more.
    """
    return Window(log_range(), 1)


@op
def range_ratio(*, bars: Spread) -> Window:
    """Range of the bar against the usual: (a - b) / (a + b), a = ln(h / l), b its mean over `bars`.

    Unit: share, in [-1, 1]. 0 where no bar has a range.
    """
    return Window(contrast(log_range(), window_sum(log_range(), bars) / bars), bars)


@op
def open_gap() -> Window:
    """Jump between the bars: ln(o / c[1]).

    Unit: log return.
    """
    return Window((pl.col("open") / pl.col("close").shift(1)).log(), 2)
