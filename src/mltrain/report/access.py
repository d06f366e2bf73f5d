"""Read values of a card that another tool may have written: a missing or wrong value is None or empty.

Pure. The schema guarantees the required fields; the optional sections may hold anything.
"""

from __future__ import annotations

import math
from typing import Any

from mltrain.errors import UsageError
from mltrain.times import parse_time


def value_at(card: Any, *path: str | int) -> Any:  # noqa: ANN401 (JSON)
    """Return the value at a path, or None."""
    for step in path:
        inside = isinstance(card, dict) if isinstance(step, str) else isinstance(card, list) and step < len(card)
        if not inside:
            return None
        card = card.get(step) if isinstance(step, str) else card[step]
    return card


def number_at(card: Any, *path: str | int) -> float | None:  # noqa: ANN401 (JSON)
    """Return the finite number at a path, or None.

    >>> number_at({"a": [1]}, "a", 0), number_at({"a": True}, "a"), number_at({}, "a", "b")
    (1.0, None, None)
    """
    value = value_at(card, *path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def interval_at(card: Any, *path: str | int) -> tuple[float, float] | None:  # noqa: ANN401 (JSON)
    """Return the numbers `low` and `high` of the mapping at a path; None unless both are there."""
    low, high = number_at(card, *path, "low"), number_at(card, *path, "high")
    return None if low is None or high is None else (low, high)


def text_at(card: Any, *path: str | int) -> str | None:  # noqa: ANN401 (JSON)
    """Return the text at a path, or None."""
    value = value_at(card, *path)
    return value if isinstance(value, str) else None


def flag_at(card: Any, *path: str | int) -> bool | None:  # noqa: ANN401 (JSON)
    """Return the boolean at a path, or None."""
    value = value_at(card, *path)
    return value if isinstance(value, bool) else None


def mapping_at(card: Any, *path: str | int) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """Return the mapping at a path, or an empty one."""
    value = value_at(card, *path)
    return value if isinstance(value, dict) else {}


def items_at(card: Any, *path: str | int) -> list[dict[str, Any]]:  # noqa: ANN401 (JSON)
    """Return the mappings of the list at a path, or an empty list."""
    value = value_at(card, *path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts_at(card: Any, *path: str | int) -> list[str]:  # noqa: ANN401 (JSON)
    """Return the texts of the list at a path, or an empty list."""
    value = value_at(card, *path)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def time_at(card: Any, *path: str | int) -> int | None:  # noqa: ANN401 (JSON)
    """Return the time at a path, ms UTC, or None."""
    value = value_at(card, *path)
    try:
        return parse_time(value) if isinstance(value, str) else None
    except UsageError:
        return None
