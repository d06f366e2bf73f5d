"""The searched ranges of hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mltrain.documents.records import RecordError, record


class _SearchRange:
    """A searched range of numbers: the rules that `IntRange` and `FloatRange` share."""

    __slots__ = ()

    low: float
    high: float
    scale: Literal["linear", "log"]
    default: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise RecordError((("low",), f"must not be above high, {self.high}; is {self.low}"))
        if not self.low <= self.default <= self.high:
            message = f"must lie from low, {self.low}, to high, {self.high}; is {self.default}"
            raise RecordError((("default",), message))
        if self.is_log and self.low == 0:
            raise RecordError((("low",), "must be above 0 on a logarithmic scale"))

    @property
    def is_log(self) -> bool:
        """Whether the range is searched on a logarithmic scale."""
        return self.scale == "log"


@record
@dataclass(frozen=True, slots=True)
class IntRange(_SearchRange):
    """The searched range of a whole number, both ends included.

    Attributes:
        low: Least value.
        high: Greatest value; equal to `low` if the parameter is fixed.
        scale: The scale on which values are drawn.
        default: The value in the first trial, LightGBM's own default where the range has it; in the range.
    """

    low: int
    high: int
    scale: Literal["linear", "log"]
    default: int


@record
@dataclass(frozen=True, slots=True)
class FloatRange(_SearchRange):
    """The searched range of a number, both ends included; the attributes are those of `IntRange`."""

    low: float
    high: float
    scale: Literal["linear", "log"]
    default: float
