"""Map values to positions along one side of a plot, with round ticks. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from mltrain.times import DAY_MS, EPOCH, FIRST_MONDAY_MS, HOUR_MS

_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
# Days and hours between two ticks.
_DAY_STEPS: Final = (1, 2, 7, 14, 28, 91, 182, 364)
_HOUR_STEPS: Final = (1, 2, 3, 6, 12, 24)


@dataclass(frozen=True, slots=True)
class Scale:
    """The range of values along one side of a plot.

    Attributes:
        low: The value at the start.
        high: The value at the end, above `low`.
        name: The measured quantity, with its unit.
        ticks: Value and text of each tick.
        logarithmic: Whether equal ratios have equal lengths, instead of equal differences; `low` is then above 0.
    """

    low: float
    high: float
    name: str
    ticks: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False

    def position(self, value: float) -> float:
        """Return where a value lies between `low` (0) and `high` (1); values outside lie at the nearer end."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(max(value, self.low)))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return min(max((value - low) / (high - low), 0.0), 1.0)


def linear_scale(low: float, high: float, name: str, *, count: int = 4, percent: bool = False) -> Scale:
    """Return a scale from `low` to `high` with about `count` round ticks; an empty range is widened.

    `name` is the measured quantity with its unit; `percent` writes shares, from 0 to 1, in percent.

    >>> [text for _, text in linear_scale(0.0, 1.0, "share").ticks]
    ['0', '0.25', '0.5', '0.75', '1']
    """
    if not high > low:
        pad = abs(low) * 0.05 or 0.5
        low, high = low - pad, high + pad
    least_step = (high - low) / count
    power = 10.0 ** math.floor(math.log10(least_step))
    step = next(s * power for s in _STEPS if s * power >= least_step * 0.999)
    values = [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    shown_step = step * 100 if percent else step
    # One digit more for steps such as 0.25.
    digits = max(0, -math.floor(math.log10(shown_step) + 1e-9))
    digits += round(shown_step * 10**digits, 6) % 1 > 1e-6
    texts = (f"{v * 100:.{digits}f}%" if percent else _format_tick(v, digits) for v in values)
    return Scale(low, high, name, tuple(zip(values, texts, strict=True)))


def _format_tick(value: float, digits: int) -> str:
    """Return a value with at most that many digits after the point, without trailing zeros: 0, not 0.00."""
    if value == 0:
        return "0"
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def time_scale(low_ms: float, high_ms: float, *, count: int = 4) -> Scale:
    """Return a scale of time, ms UTC, with at most about `count` ticks at whole hours, days or weeks."""
    if not high_ms > low_ms:
        high_ms = low_ms + DAY_MS
    span_h = (high_ms - low_ms) / HOUR_MS
    # A label with a time of day is one and a half times as long as a date: room for one tick less.
    hours = next((h for h in _HOUR_STEPS if span_h / h <= (count if h >= 24 else count - 1)), None)
    if hours is None:
        days = next((d for d in _DAY_STEPS if span_h / 24 / d <= count), math.ceil(span_h / 24 / count))
        hours = 24 * days
    step_ms = hours * HOUR_MS
    origin_ms = FIRST_MONDAY_MS if hours % (24 * 7) == 0 else 0
    first = math.ceil((low_ms - origin_ms) / step_ms)
    last = math.floor((high_ms - origin_ms) / step_ms)
    date_format = "%d %b %H:%M" if hours < 24 else "%d %b" if span_h < 24 * 300 else "%b %Y"
    values = [float(origin_ms + k * step_ms) for k in range(first, last + 1)]
    ticks = tuple((v, (EPOCH + timedelta(milliseconds=v)).strftime(date_format)) for v in values)
    return Scale(low_ms, high_ms, "UTC", ticks)


def log_scale(low: float, high: float, name: str) -> Scale:
    """Return a logarithmic scale with ticks at 1, 2 and 5 times each power of ten; of many, only at the powers."""
    low, high = max(low, 1e-9), max(high, low * 1.01, 1e-9 * 1.01)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [m * 10.0**k for k in powers for m in (1, 2, 5) if low <= m * 10.0**k <= high]
    if len(values) > 6:
        values = [v for v in values if round(math.log10(v), 9).is_integer()]
    # Less than a decade: the ticks of a linear scale.
    ticks = linear_scale(low, high, "").ticks if len(values) < 2 else tuple((v, f"{v:,g}") for v in values)
    return Scale(low, high, name, ticks, logarithmic=True)


def widen(low: float, high: float, *, pad: float = 0.06) -> tuple[float, float]:
    """Return the ends of a range, extended on both sides by `pad` times its length."""
    margin = (high - low) * pad
    return low - margin, high + margin
