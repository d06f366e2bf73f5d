"""The type of an op: a function that returns a Polars expression and its exact lookback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from mltrain.documents.records import Limits
from mltrain.names import FEATURE

if TYPE_CHECKING:
    import polars as pl

# `Limits` too: the annotations of a user's op need it.
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
]

LEADER_PREFIX: Final = "leader_"

# One day of minutes: longer lookbacks leave few rows in a snapshot with gaps, and delay the start of serving.
MAX_BARS: Final = 1_440


@dataclass(frozen=True, slots=True)
class Window:
    """What an op returns: an expression and its lookback.

    Attributes:
        expr: The value at each bar, computed from candle columns and inputs (`expr.meta.root_names()`).
        lookback_bars: Number of bars that the value depends on, the newest included; 1 or more.
    """

    expr: pl.Expr
    lookback_bars: int


Op: TypeAlias = Callable[..., Window]
Bars: TypeAlias = Annotated[int, Limits(1, MAX_BARS)]
# Windows of statistics that need two values (a deviation) or three (a skewness).
Spread: TypeAlias = Annotated[int, Limits(2, MAX_BARS)]
Shape: TypeAlias = Annotated[int, Limits(3, MAX_BARS)]
Lag: TypeAlias = Annotated[int, Limits(0, MAX_BARS)]
# The name of one of the registry's inputs.
InputName: TypeAlias = Annotated[str, FEATURE]
# The parameter `interval` of an op that must know the candles' interval: the registry fills it in; "": not yet known.
Interval: TypeAlias = Literal[
    "", "1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w"
]
