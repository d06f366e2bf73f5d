"""Reading a card that another tool may have written: what is not there, or is something else, is None or empty.

Pure. The schema has spoken for the required fields; the sections that it leaves open may hold anything at all.
"""

from __future__ import annotations

import math
from typing import Any

from mltrain.errors import UsageError
from mltrain.times import parse_time


def value_at(card: Any, *path: str | int) -> Any:  # noqa: ANN401 (JSON)
    """Return what stands at a place of a card; None where nothing does."""
    for step in path:
        inside = isinstance(card, dict) if isinstance(step, str) else isinstance(card, list) and step < len(card)
        if not inside:
            return None
        card = card.get(step) if isinstance(step, str) else card[step]
    return card


def number_at(card: Any, *path: str | int) -> float | None:  # noqa: ANN401 (JSON)
    """Return the finite number at a place; None where there is none.

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


def text_at(card: Any, *path: str | int) -> str | None:  # noqa: ANN401 (JSON)
    """Return the text at a place; None where there is none."""
    value = value_at(card, *path)
    return value if isinstance(value, str) else None


def flag_at(card: Any, *path: str | int) -> bool | None:  # noqa: ANN401 (JSON)
    """Return the true or false at a place; None where there is none."""
    value = value_at(card, *path)
    return value if isinstance(value, bool) else None


def mapping_at(card: Any, *path: str | int) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    """Return the mapping at a place; empty where there is none."""
    value = value_at(card, *path)
    return value if isinstance(value, dict) else {}


def items_at(card: Any, *path: str | int) -> list[dict[str, Any]]:  # noqa: ANN401 (JSON)
    """Return the mappings of the list at a place; empty where there is none."""
    value = value_at(card, *path)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def texts_at(card: Any, *path: str | int) -> list[str]:  # noqa: ANN401 (JSON)
    """Return the texts of the list at a place; empty where there is none."""
    value = value_at(card, *path)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def time_at(card: Any, *path: str | int) -> int | None:  # noqa: ANN401 (JSON)
    """Return the time at a place, ms UTC; None where there is none."""
    value = value_at(card, *path)
    try:
        return parse_time(value) if isinstance(value, str) else None
    except UsageError:
        return None
