"""Laws of times: intervals, and times as text."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.errors import UsageError
from mltrain.times import (
    DAY_MS,
    EPOCH,
    FIRST_MONDAY_MS,
    INTERVALS_MS,
    TIME_FORMAT,
    WEEK_MS,
    check_time_ms,
    day_name,
    format_minutes,
    format_ms,
    format_seconds,
    interval_ms,
    interval_name,
    parse_time,
)


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_every_interval_divides_a_day(interval):
    """The grid of each interval includes midnight UTC, and its length gives its name."""
    assert DAY_MS % interval_ms(interval) == 0
    assert interval_name(interval_ms(interval)) == interval


@pytest.mark.parametrize("text", ["1M", "60s", "", "1 m", "5m ", "1w", "x" * 10_000])
def test_unknown_intervals_are_usage_errors(text):
    """Case and spaces matter: 1M is a month on other exchanges."""
    with pytest.raises(UsageError) as err:
        interval_ms(text)

    assert len(err.value.message) < 100


@given(st.integers(0, 253_402_300_799_999))
def test_times_survive_text(time_ms):
    """`parse_time` reads the output of `format_ms`."""
    assert parse_time(format_ms(time_ms)) == time_ms


@pytest.mark.parametrize("time_ms", [-1, 253_402_300_800_000, 2**62, -(2**63)])
def test_times_beyond_the_calendar_are_shown_as_numbers(time_ms):
    """A message about a damaged time must not fail."""
    assert format_ms(time_ms) == f"{time_ms} ms"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-10-15T12:00:00Z", "2025-10-15T12:00:00Z"),
        ("2025-10-15", "2025-10-15T00:00:00Z"),
        ("2025-10-15 12:00", "2025-10-15T12:00:00Z"),
        ("2025-10-15T12:00:00.5Z", "2025-10-15T12:00:00.500Z"),
        ("2025-10-15T14:00:00+02:00", "2025-10-15T12:00:00Z"),
    ],
)
def test_times_are_utc_unless_they_say_otherwise(text, expected):
    """The common notations are read, and none as local time."""
    assert format_ms(parse_time(text)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "now", "2025-13-01", "2025-02-30", "2025-10-15T25:00", "20251015", "2025-W42-3", "1969-12-31",
     "2025-10-15T12:00:00Z\n", "٢٠٢٥-10-15", "0000-01-01", "2025-10-15T12:00:00+99:99", "9" * 10_000],
)  # fmt: skip
def test_other_times_are_usage_errors(text):
    """An ambiguous time is refused, with an example."""
    with pytest.raises(UsageError) as err:
        parse_time(text)

    assert "2025-10-15T12:00:00Z" in err.value.hint


@given(time_ms=st.integers(0, 4_000_000_000_000))
def test_every_format_is_the_same_instant_cut_shorter(time_ms):
    """Milliseconds, seconds, minutes and the day are prefixes of one text, as Python's datetime writes it."""
    moment = EPOCH + dt.timedelta(milliseconds=time_ms)

    assert format_seconds(time_ms) == moment.strftime(TIME_FORMAT)
    assert format_ms(time_ms).startswith(format_seconds(time_ms)[:-1])
    assert format_minutes(time_ms) == format_seconds(time_ms)[:16].replace("T", " ")
    assert day_name(time_ms) == moment.date().isoformat()
    assert parse_time(day_name(time_ms)) == time_ms // DAY_MS * DAY_MS


def test_the_first_monday_is_one():
    """UTC weeks counted from it begin on Mondays."""
    first = EPOCH + dt.timedelta(milliseconds=FIRST_MONDAY_MS)

    assert first.weekday() == 0
    assert (first + dt.timedelta(milliseconds=5 * WEEK_MS)).weekday() == 0


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float64, np.float32])
def test_a_number_of_any_kind_is_a_time(kind):
    """NumPy's integers and floats are accepted like Python's."""
    assert check_time_ms(kind(1_760_529_600_000), "now_ms") == int(float(kind(1_760_529_600_000)))


@pytest.mark.parametrize("time", [True, None, "now", 1_760_529_600, 1_760_529_600_000_000, float("nan")])
def test_anything_but_a_time_in_ms_is_refused(time):
    """Seconds, microseconds, booleans and text are not taken for ms."""
    with pytest.raises(UsageError, match="now_ms is "):
        check_time_ms(time, "now_ms")
