# ruff: noqa: A002 -- the registry names the parameter `input`
"""Ops on inputs: the user's own columns, such as funding rates, as they were known at each close.

Their values have the unit of the input. A value that no later one has replaced is repeated at every bar, so that a
change over few bars is 0 at most of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.features.formula import col
from mltrain.features.op import LEADER_PREFIX, Bars, InputName, Lag, Op, Spread, Window
from mltrain.features.windows import window_zscore

if TYPE_CHECKING:
    import polars as pl


def _values(input: str) -> pl.Expr:
    """Return the column of an input, `leader_...` being the leader's; raise a ValueError for a column of candles."""
    if input.removeprefix(LEADER_PREFIX) in CANDLE_SCHEMA:
        raise ValueError(f"{input} is a column of candles, not an input")
    return col(input)


def input_value(*, input: InputName, lag: Lag = 0) -> Window:
    """Value of an input that was known at the close `lag` bars ago.

    Unit: that of the input.
    """
    return Window(_values(input).shift(lag), lag + 1)


def input_change(*, input: InputName, bars: Bars) -> Window:
    """Value of an input minus the one that was known `bars` bars ago.

    Unit: that of the input.
    """
    return Window(_values(input) - _values(input).shift(bars), bars + 1)


def input_zscore(*, input: InputName, bars: Spread) -> Window:
    """Z-score of an input among its values at the last `bars` bars; see zscore.

    Unit: deviations, within sqrt(bars - 1). 0 where the values are equal.
    """
    return Window(window_zscore(_values(input), bars), bars)


OPS: Final[dict[str, Op]] = {
    "input_value": input_value,
    "input_change": input_change,
    "input_zscore": input_zscore,
}
