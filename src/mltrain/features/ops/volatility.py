"""Ops on volatility."""

from __future__ import annotations

import math
from typing import Final

from mltrain.features.op import Bars, Op, Spread, Window
from mltrain.features.ops.expressions import check_ordered, log_range, log_returns
from mltrain.features.windows import window_root_contrast, window_root_mean_square

# The expected squared log range of a random walk is 4 ln 2 times its variance (Parkinson 1980).
PARKINSON: Final = 4 * math.log(2)


def realised_volatility(*, bars: Bars) -> Window:
    """Realised volatility per bar: sqrt(mean r^2).

    Unit: log return per bar. 0 where nothing moved. Source: Andersen, Bollerslev, Diebold and Labys (2003).
    """
    return Window(window_root_mean_square(log_returns(), bars), bars + 1)


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
    "volatility_ratio": volatility_ratio,
    "parkinson_volatility": parkinson_volatility,
}
