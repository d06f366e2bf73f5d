"""Ops on the shape of the candle."""

from __future__ import annotations

import polars as pl

from mltrain.features.ops.catalogue import Bars, Spread, Window, op
from mltrain.features.ops.terms import location, log_range
from mltrain.features.windows import contrast, ratio, window_sum


@op
def candle_body() -> Window:
    """Body of the candle as a share of its range: (c - o) / (h - l).

    Unit: share, in [-1, 1]. 0 in a bar without range.
    """
    return Window(ratio(pl.col("close") - pl.col("open"), pl.col("high") - pl.col("low")), 1)


@op
def upper_shadow() -> Window:
    """Upper shadow as a share of the range: (h - max(o, c)) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    top = pl.max_horizontal("open", "close")
    return Window(ratio(pl.col("high") - top, pl.col("high") - pl.col("low")), 1)


@op
def lower_shadow() -> Window:
    """Lower shadow as a share of the range: (min(o, c) - l) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    bottom = pl.min_horizontal("open", "close")
    return Window(ratio(bottom - pl.col("low"), pl.col("high") - pl.col("low")), 1)


@op
def close_location(*, bars: Bars) -> Window:
    """Where closes stand in their bars: mean of ((c - l) - (h - c)) / (h - l).

    Unit: share, in [-1, 1]; -1 at the low. A bar without range counts 0. Source: Chaikin's close location value.
    """
    return Window(window_sum(location(), bars) / bars, bars)


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
