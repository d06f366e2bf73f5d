"""The outcome of one gate.

`passed`, `failed`, `held`, `not_applicable` and `measured` build outcomes for the gates in `rules`. A figure that is
not finite never passes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

Outcome: TypeAlias = Literal["passed", "failed", "held", "not applicable"]


@dataclass(frozen=True, slots=True)
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
    value: float | None
    low: float | None
    high: float | None
    margin: float | None
    reason: str


def measured(
    name: str,
    *,
    passed: bool,
    target: str,
    value: float,
    ends: tuple[float, float] | None = None,
    margin: float,
    reason: str,
) -> GateOutcome:
    """Return the outcome of a gate that judges a figure: failed if the figure, an end or the margin is not finite."""
    if not all(map(math.isfinite, (value, margin, *(ends or ())))):
        return failed(name, target, reason)
    low, high = ends or (None, None)
    return GateOutcome(name, "passed" if passed else "failed", target, value, low, high, margin, reason)


def passed(name: str, target: str, reason: str) -> GateOutcome:
    """Return the outcome of a gate that judges no figure and passed."""
    return GateOutcome(name, "passed", target, None, None, None, None, reason)


def failed(name: str, target: str, reason: str) -> GateOutcome:
    """Return a failure without a figure."""
    return GateOutcome(name, "failed", target, None, None, None, None, reason)


def held(name: str, target: str, reason: str) -> GateOutcome:
    """Return an outcome that keeps a GO from being promoted automatically, without a figure."""
    return GateOutcome(name, "held", target, None, None, None, None, reason)


def not_applicable(name: str, target: str, reason: str) -> GateOutcome:
    """Return the outcome of a gate that has nothing to judge."""
    return GateOutcome(name, "not applicable", target, None, None, None, None, reason)
