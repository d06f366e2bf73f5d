"""The outcome of one gate; a figure that is not finite never passes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["passed", "failed", "held", "not applicable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOutcome:
    """The outcome of one gate.

    Attributes:
        name: The gate.
        outcome: Whether it passed.
        target: The rule, in words, with its unit.
        value: The figure judged, in the target's unit; None if the gate judges no figure.
        low: Lower end of its interval; None if it has none.
        high: Upper end of its interval; None if it has none.
        margin: By how much it passed (0 or above) or failed (0 or below), in the target's unit; None without a value.
        reason: What was found, in one sentence.
    """

    name: str
    outcome: Outcome
    target: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    reason: str


def judge_figure(
    name: str,
    *,
    passed: bool,
    target: str,
    value: float,
    ends: tuple[float, float] | None = None,
    margin: float,
    reason: str,
) -> GateOutcome:
    """Return the outcome of a gate that judges a figure: failed if the figure, an end or the margin is not finite.

    `value`, `margin` and `ends`, the lower and upper end of the figure's interval, are in the unit of `target`.
    """
    if not all(map(math.isfinite, (value, margin, *(ends or ())))):
        return GateOutcome(name=name, outcome="failed", target=target, reason=reason)
    low, high = ends or (None, None)
    return GateOutcome(
        name=name,
        outcome="passed" if passed else "failed",
        target=target,
        value=value,
        low=low,
        high=high,
        margin=margin,
        reason=reason,
    )
