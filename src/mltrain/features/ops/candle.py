"""Ops on a single candle: its shape and its time of day."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from mltrain.features.formula import col, maximum, minimum, open_times_ms
from mltrain.features.op import Bars, Lag, Op, Spread, Window
from mltrain.features.ops.expressions import location, log_range, log_returns
from mltrain.features.windows import contrast, share, window_scaled, window_sum

if TYPE_CHECKING:
    import polars as pl

MS_PER: Final = {"quarter": 900_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}


def _share_of_range(part: pl.Expr, lag: int) -> Window:
    """Return a part of the candle `lag` bars ago as a share of its range, high - low; 0 where there is no range."""
    return Window(share(part, col("high") - col("low")).shift(lag), lag + 1)


def candle_body(*, lag: Lag = 0) -> Window:
    """Body of the candle `lag` bars ago as a share of its range: (c - o) / (h - l).

    Unit: share, in [-1, 1]. 0 in a bar without range.
    """
    return _share_of_range(col("close") - col("open"), lag)


def upper_shadow(*, lag: Lag = 0) -> Window:
    """Upper shadow of the candle `lag` bars ago as a share of its range: (h - max(o, c)) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    return _share_of_range(col("high") - maximum(col("open"), col("close")), lag)


def lower_shadow(*, lag: Lag = 0) -> Window:
    """Lower shadow of the candle `lag` bars ago as a share of its range: (min(o, c) - l) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    return _share_of_range(minimum(col("open"), col("close")) - col("low"), lag)


def close_location(*, bars: Bars, lag: Lag = 0) -> Window:
    """Position of closes in their ranges, `bars` bars that ended `lag` bars ago: mean of ((c - l) - (h - c)) / (h - l).

    Unit: share, in [-1, 1]; -1 at the low. A bar without range counts 0. Source: Chaikin's close location value.
    """
    return Window((window_sum(location(), bars) / bars).shift(lag), bars + lag)


def scaled_wick(*, side: Literal["above", "below"], window: Bars) -> Window:
    """Distance from the close to the bar's high or low in volatilities: ln(h / c) / s above, ln(c / l) / s below.

    Here s is the root mean square of the one-bar log returns of the last `window` bars. Unit: deviations, 0 or more.
    0 where no bar of the window moved.
    """
    room = col("high") / col("close") if side == "above" else col("close") / col("low")
    return Window(window_scaled(room.log(), log_returns(), window), window + 1)


def bar_range() -> Window:
    """Range of the bar: ln(h / l).

    Unit: log return, 0 or more.
    """
    return Window(log_range(), 1)


def range_ratio(*, bars: Spread) -> Window:
    """Range of the bar against its mean: (a - b) / (a + b), a = ln(h / l), b its mean over `bars`.

    Unit: share, in [-1, 1]. 0 where no bar has a range.
    """
    return Window(contrast(log_range(), window_sum(log_range(), bars) / bars), bars)


def open_gap() -> Window:
    """Jump from the last close to the open: ln(o / c[1]).

    Unit: log return.
    """
    return Window((col("open") / col("close").shift(1)).log(), 2)


def clock(*, period: Literal["quarter", "hour", "day", "week"], wave: Literal["sin", "cos", "saw"]) -> Window:
    """Time of the bar's opening in a period: sin or cos of 2 pi p, or p itself (saw), p = (t mod period) / period.

    Here t is in UTC, and a quarter is one of an hour. Unit: none, in [-1, 1]. A week begins on Thursday, as the epoch
    did.
    """
    passed = open_times_ms() % MS_PER[period]
    if wave == "saw":
        return Window(passed * (1 / MS_PER[period]), 1)
    phase = passed * (2 * math.pi / MS_PER[period])
    return Window(phase.sin() if wave == "sin" else phase.cos(), 1)


OPS: Final[dict[str, Op]] = {
    "candle_body": candle_body,
    "upper_shadow": upper_shadow,
    "lower_shadow": lower_shadow,
    "close_location": close_location,
    "scaled_wick": scaled_wick,
    "bar_range": bar_range,
    "range_ratio": range_ratio,
    "open_gap": open_gap,
    "clock": clock,
}
