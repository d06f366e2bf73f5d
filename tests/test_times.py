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
    ceil_to_grid,
    check_time_ms,
    day_name,
    floor_to_grid,
    format_minutes,
    format_ms,
    format_seconds,
    grid_offset_ms,
    interval_ms,
    interval_name,
    parse_time,
)


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_every_interval_has_a_name_and_a_length(interval):
    """The length of each interval gives its name."""
    assert interval_name(interval_ms(interval)) == interval


@pytest.mark.parametrize(
    ("interval", "time", "expected"),
    [
        ("1s", "2025-10-15T12:34:56.789Z", "2025-10-15T12:34:56Z"),
        ("5m", "2025-10-15T12:34:56Z", "2025-10-15T12:30:00Z"),
        ("12h", "2025-10-15T11:59:59Z", "2025-10-15T00:00:00Z"),
        ("1d", "2025-10-15T12:34:56Z", "2025-10-15T00:00:00Z"),
        # Open times of Binance's BTCUSDT: its first candles of 3d, and one of its first weeks.
        ("3d", "2017-08-17T04:00:00Z", "2017-08-16T00:00:00Z"),
        ("1w", "2017-08-17T04:00:00Z", "2017-08-14T00:00:00Z"),
        ("1w", "2025-10-12T23:59:59Z", "2025-10-06T00:00:00Z"),
        ("1w", "2025-10-13T00:00:00Z", "2025-10-13T00:00:00Z"),
    ],
)
def test_candles_open_on_the_grid_of_their_interval(interval, time, expected):
    """Weeks begin on Monday, and every interval up to a day has each midnight."""
    assert format_ms(floor_to_grid(parse_time(time), interval_ms(interval))) == expected


@given(interval=st.sampled_from(list(INTERVALS_MS)), time_ms=st.integers(WEEK_MS, 4_000_000_000_000))
def test_rounding_to_the_grid_reaches_the_neighbouring_open_times(interval, time_ms):
    """Rounding down and up give the open times around a time, the time itself if it is one; arrays round alike."""
    step_ms = interval_ms(interval)
    below, above = floor_to_grid(time_ms, step_ms), ceil_to_grid(time_ms, step_ms)

    assert below <= time_ms <= above
    assert above - below == (0 if time_ms == below else step_ms)
    assert floor_to_grid(below, step_ms) == ceil_to_grid(below, step_ms) == below
    assert floor_to_grid(np.array([time_ms]), step_ms).tolist() == [below]
    assert (below - grid_offset_ms(step_ms)) % step_ms == 0


@pytest.mark.parametrize("text", ["1M", "60s", "", "1 m", "5m ", "1W", "2w", "x" * 10_000])
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
