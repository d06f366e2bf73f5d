"""The type of an op: a function that returns a Polars expression and its exact lookback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

if TYPE_CHECKING:
    import polars as pl

LEADER_PREFIX: Final = "leader_"

MAX_BARS: Final = 1_440  # one day of minutes: what a gapped snapshot and a quick restart can still afford


@dataclass(frozen=True, slots=True)
class Window:
    """What an op returns.

    Attributes:
        expr: The value at each bar, from candle columns (`expr.meta.root_names()`).
        lookback_bars: Bars that the value depends on, the newest included; 1 or more.
    """

    expr: pl.Expr
    lookback_bars: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The inclusive range of a number that an op takes."""

    minimum: int
    maximum: int


Op: TypeAlias = Callable[..., Window]
Bars: TypeAlias = Annotated[int, Limits(1, MAX_BARS)]
Spread: TypeAlias = Annotated[int, Limits(2, MAX_BARS)]  # for what one value alone does not have
Shape: TypeAlias = Annotated[int, Limits(3, MAX_BARS)]
Lag: TypeAlias = Annotated[int, Limits(0, MAX_BARS)]
