"""Times in UTC: lengths, candle intervals, and instants in milliseconds since 1970 as text and back.

Light on purpose: every command imports this, so it needs nothing but the standard library.
"""

from __future__ import annotations

import datetime as dt
import numbers
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

# A time in ms UTC, or an array of them.
_Times = TypeVar("_Times", int, "NDArray[np.int64]")

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WEEK_MS: Final = 7 * DAY_MS

#: An instant to the second, for `strftime`; `format_ms` writes the same.
TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"

#: 1970-01-05, the first Monday: UTC weeks begin here.
FIRST_MONDAY_MS: Final = 4 * DAY_MS

#: The candle intervals, shortest first. `floor_to_grid` says at which times their candles open.
INTERVALS_MS: Final[Mapping[str, int]] = {
    "1s": SECOND_MS,
    "1m": MINUTE_MS,
    "3m": 3 * MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "30m": 30 * MINUTE_MS,
    "1h": HOUR_MS,
    "2h": 2 * HOUR_MS,
    "4h": 4 * HOUR_MS,
    "6h": 6 * HOUR_MS,
    "8h": 8 * HOUR_MS,
    "12h": 12 * HOUR_MS,
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
    "1w": WEEK_MS,
}

_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,3})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
# Longest first.
_UNITS_MS: Final[Mapping[str, int]] = {"w": WEEK_MS, "d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": SECOND_MS}
EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MILLISECOND: Final = dt.timedelta(milliseconds=1)
# A smaller number is taken for seconds: it is 1973 in ms, and 5138 in seconds.
_SECONDS_BELOW: Final = 100_000_000_000
# This and any larger number is taken for microseconds or smaller units: it is 5138 in ms.
MICROS_FROM: Final = 100_000_000_000_000
# 9999-12-31T23:59:59.999Z, the last time that Python's datetime can hold.
LAST_MS: Final = 253_402_300_799_999


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The times from `start_ms` to just before `end_ms`; a range of candles is one of open times.

    Attributes:
        start_ms: Its first time, ms UTC.
        end_ms: The time just after its last one, ms UTC.
    """

    start_ms: int
    end_ms: int

    def __str__(self) -> str:
        return f"{format_ms(self.start_ms)} to {format_ms(self.end_ms)}"


def interval_ms(interval: str) -> int:
    """Return the length in ms of an interval such as "1m"; raise a UsageError for one not in INTERVALS_MS.

    >>> interval_ms("5m")
    300000
    """
    if not isinstance(interval, str) or interval not in INTERVALS_MS:
        raise UsageError(f"{show(interval)} is not a candle interval", hint=did_you_mean(interval, INTERVALS_MS))
    return INTERVALS_MS[interval]


def interval_name(step_ms: int) -> str:
    """Return the name of the interval of `step_ms`, or the number of seconds where it has none.

    >>> interval_name(300_000), interval_name(7_000)
    ('5m', '7 s')
    """
    return next((name for name, length_ms in INTERVALS_MS.items() if length_ms == step_ms), f"{step_ms / 1000:g} s")


def parse_duration(text: str) -> int:
    """Return the length in ms of a text such as "9h": a whole number of seconds, minutes, hours, days or weeks.

    Raises:
        UsageError: `text` is not a duration.

    >>> parse_duration("9h")
    32400000
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"{show(text)} is not a duration", hint="write it like 90s, 15m, 9h, 2d or 1w")
    return int(match[1]) * _UNITS_MS[match[2]]


def format_duration(length_ms: int) -> str:
    """Return a positive length of whole seconds, in ms, in its longest unit; the inverse of `parse_duration`.

    >>> format_duration(32_400_000), format_duration(parse_duration("48h"))
    ('9h', '2d')
    """
    unit = next(unit for unit, unit_ms in _UNITS_MS.items() if length_ms % unit_ms == 0)
    return f"{length_ms // _UNITS_MS[unit]}{unit}"


def grid_offset_ms(step_ms: int) -> int:
    """Return the open time of the first candle since 1970 on the grid of an interval of `step_ms`.

    Weeks begin on Monday, and 1970-01-01 was a Thursday. Every other grid begins at 1970-01-01: those that divide a day
    then contain each midnight, and that of 3d is the one that Binance uses.
    """
    return FIRST_MONDAY_MS if step_ms % WEEK_MS == 0 else 0


def floor_to_grid(time_ms: _Times, step_ms: int) -> _Times:
    """Round times (ms UTC, a number or an array) down to the grid on which candles of `step_ms` open.

    >>> format_ms(floor_to_grid(parse_time("2025-10-15T12:34:00Z"), WEEK_MS))
    '2025-10-13T00:00:00Z'
    """
    offset_ms = grid_offset_ms(step_ms)
    return (time_ms - offset_ms) // step_ms * step_ms + offset_ms


def ceil_to_grid(time_ms: int, step_ms: int) -> int:
    """Round a time, ms UTC, up to the grid on which candles of `step_ms` open.

    >>> format_ms(ceil_to_grid(parse_time("2025-10-15T12:34:00Z"), WEEK_MS))
    '2025-10-20T00:00:00Z'
    """
    return floor_to_grid(time_ms + step_ms - 1, step_ms)


def format_ms(time_ms: int) -> str:
    """Return a time in ms UTC as ISO 8601; outside 1970 to 9999, as its number of ms.

    >>> format_ms(1_760_529_600_000)
    '2025-10-15T12:00:00Z'
    """
    if not 0 <= time_ms <= LAST_MS:
        return f"{time_ms} ms"
    # int() for numpy's integers, which timedelta refuses.
    text = (EPOCH + dt.timedelta(milliseconds=int(time_ms))).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{time_ms % 1000:03d}Z" if time_ms % 1000 else f"{text}Z"


def format_age(seconds: float) -> str:
    """Return an age with one unit.

    >>> format_age(42), format_age(600), format_age(7_200), format_age(400_000)
    ('42 s', '10 min', '2.0 h', '4.6 days')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def format_seconds(time_ms: int) -> str:
    """Return a time in ms UTC as ISO 8601, rounded down to the second.

    >>> format_seconds(1_760_529_607_999)
    '2025-10-15T12:00:07Z'
    """
    return format_ms(time_ms // SECOND_MS * SECOND_MS)


def format_minutes(time_ms: float) -> str:
    """Return a time in ms UTC as tables and figures show it, rounded down to the minute.

    >>> format_minutes(1_760_529_607_999)
    '2025-10-15 12:00'
    """
    return (EPOCH + dt.timedelta(milliseconds=time_ms)).strftime("%Y-%m-%d %H:%M")


def day_name(time_ms: int) -> str:
    """Return the UTC day of a time in ms UTC.

    >>> day_name(1_760_529_600_000)
    '2025-10-15'
    """
    return format_ms(time_ms)[:10]


def parse_time(text: str) -> int:
    """Return the time in ms UTC that a text such as 2025-10-15T12:00:00Z gives; without a zone it is UTC.

    A date alone is its midnight.

    Raises:
        UsageError: `text` is not a time, or before 1970.

    >>> parse_time("2025-10-15T14:00+02:00")
    1760529600000
    """
    try:
        if _TIME.fullmatch(text) is None:
            raise ValueError  # noqa: TRY301 -- fromisoformat takes week dates and other forms that few people can read
        moment = dt.datetime.fromisoformat(text)
        time_ms = ((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)) - EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        time_ms = -1
    if time_ms < 0:
        raise UsageError(f"{show(text)} is not a time", hint="write it like 2025-10-15T12:00:00Z, in UTC")
    return time_ms


def as_time_ms(time: object, argument: str) -> int:
    """Return a caller's time in ms UTC.

    Args:
        time: Text as `parse_time` reads it, a datetime with a zone, or a date, which is its midnight, UTC.
        argument: Name of the caller's argument, for messages.

    Raises:
        UsageError: `time` has another type or no zone, or is before 1970.

    >>> as_time_ms(dt.date(2025, 10, 15), "start")
    1760486400000
    """
    expected = 'expected text such as "2025-10-15T12:00:00Z", a datetime with a zone, or a date'
    if isinstance(time, str):
        return parse_time(time)
    if isinstance(time, dt.datetime):
        if time.tzinfo is None:
            raise UsageError(f"{argument}: {time} has no zone: {expected}", hint="give it one, such as datetime.UTC")
        time_ms = (time - EPOCH) // _MILLISECOND
    elif isinstance(time, dt.date):
        time_ms = (dt.datetime.combine(time, dt.time(), dt.UTC) - EPOCH) // _MILLISECOND
    else:
        raise UsageError(f"{argument} is {show(str(time))} ({type(time).__name__}): {expected}")
    if time_ms < 0:
        raise UsageError(f"{argument}: {time} is before 1970")
    return time_ms


def check_time_ms(time: object, argument: str) -> int:
    """Return a caller's number of ms since 1970, UTC, as a whole number, rounded down.

    Raises:
        UsageError: `time` is not a number, or its size suggests seconds or microseconds; the message names `argument`.

    >>> check_time_ms(1_760_529_600_000.7, "now_ms")
    1760529600000
    """
    expected = "expected ms since 1970 in UTC, such as int(time.time() * 1000)"
    if not isinstance(time, numbers.Real) or isinstance(time, bool):
        raise UsageError(f"{argument} is {show(str(time))} ({type(time).__name__}): {expected}")
    number = float(time)
    if not is_ms(number):
        unit = (
            "seconds" if 0 < number < _SECONDS_BELOW else "microseconds or smaller" if number >= MICROS_FROM else None
        )
        raise UsageError(f"{argument} is {time}{f', which reads as {unit}' if unit else ''}: {expected}")
    return int(number)


def is_ms(time: float) -> bool:
    """Return whether a number has the size of a time in ms since 1970, not in seconds, microseconds or nanoseconds.

    >>> is_ms(1_760_529_600_000), is_ms(1_760_529_600)
    (True, False)
    """
    return _SECONDS_BELOW <= time < MICROS_FROM
