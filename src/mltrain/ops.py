"""What a module of user ops imports: the type of an op, the types of its parameters, and statistics of windows.

A statistic of the last n bars (`window_...`) reads exactly n bars and gives the same bits for any number of rows, which
the guards require; Polars' rolling functions carry a running sum. Expressions that are made of these functions have a
form for NumPy, with which serving is fast. `docs/own-ops.md` shows examples.
"""

from __future__ import annotations

from mltrain.features.formula import col, maximum, minimum, open_times_ms, where
from mltrain.features.op import (
    LEADER_PREFIX,
    MAX_BARS,
    Bars,
    InputName,
    Interval,
    Lag,
    Limits,
    Op,
    Shape,
    Spread,
    Window,
)
from mltrain.features.ops.expressions import (
    directions,
    gap_to_average,
    imbalance,
    location,
    log_range,
    log_returns,
)
from mltrain.features.windows import (
    contrast,
    ratio,
    share,
    window_contrast,
    window_correlation,
    window_exponential_mean,
    window_max,
    window_mean,
    window_min,
    window_price_ratio,
    window_range_position,
    window_ratio,
    window_root_contrast,
    window_root_mean_square,
    window_run,
    window_scaled,
    window_skew,
    window_sum,
    window_zscore,
)

__all__ = [
    "LEADER_PREFIX",
    "MAX_BARS",
    "Bars",
    "InputName",
    "Interval",
    "Lag",
    "Limits",
    "Op",
    "Shape",
    "Spread",
    "Window",
    "col",
    "contrast",
    "directions",
    "gap_to_average",
    "imbalance",
    "location",
    "log_range",
    "log_returns",
    "maximum",
    "minimum",
    "open_times_ms",
    "ratio",
    "share",
    "where",
    "window_contrast",
    "window_correlation",
    "window_exponential_mean",
    "window_max",
    "window_mean",
    "window_min",
    "window_price_ratio",
    "window_range_position",
    "window_ratio",
    "window_root_contrast",
    "window_root_mean_square",
    "window_run",
    "window_scaled",
    "window_skew",
    "window_sum",
    "window_zscore",
]
