"""What an op is, and the catalogue of all ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

if TYPE_CHECKING:
    import polars as pl

LEADER_PREFIX: Final = "leader_"

MAX_BARS: Final = 1_440  # one day of minutes: what a holed snapshot and a quick restart can still afford


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

OPS: Final[dict[str, Op]] = {}


def op(function: Op) -> Op:
    """Register an op under its function's name."""
    if function.__name__ in OPS:
        raise ValueError(f"two ops are called {function.__name__}")
    OPS[function.__name__] = function
    return function
