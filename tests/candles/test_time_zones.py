"""Local times are converted to UTC by the rules of their zone, and back."""

from __future__ import annotations

import datetime as dt
import zoneinfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.time_zones import check_time_zone, local_to_utc, utc_to_local
from mltrain.errors import UsageError
from mltrain.times import EPOCH, HOUR_MS, MINUTE_MS, parse_time

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
#: Instants of a database of 2020 and later give the same offsets everywhere.
INSTANTS = st.integers(parse_time("1972-01-01") // MINUTE_MS, parse_time("2030-01-01") // MINUTE_MS)


@given(st.sampled_from(ZONES), INSTANTS.map(lambda minutes: minutes * MINUTE_MS))
def test_local_times_are_those_of_the_standard_library(zone, utc_ms):
    """There and back gives the same instant, unless the clocks show its local time twice."""
    moment = (EPOCH + dt.timedelta(milliseconds=utc_ms)).astimezone(zoneinfo.ZoneInfo(zone))
    shown = moment.replace(tzinfo=dt.UTC, fold=0)
    local = utc_to_local(pl.Series([utc_ms]), zone)

    assert local[0] == (shown - EPOCH) // dt.timedelta(milliseconds=1)
    back = local_to_utc(local, zone)[0]
    is_twice = moment.replace(fold=0).utcoffset() != moment.replace(fold=1).utcoffset()
    assert back == (None if is_twice else utc_ms)
    if is_twice:
        assert local_to_utc(local, zone, twice=True)[0] in {utc_ms, utc_ms - HOUR_MS, utc_ms - HOUR_MS // 2}


def test_a_fixed_offset_has_no_summer_time():
    """Local time is ahead of UTC by the offset."""
    local = pl.Series([parse_time("2026-03-29T02:30:00Z")])

    assert local_to_utc(local, "+03:00")[0] == local[0] - 3 * HOUR_MS
    assert local_to_utc(local, "-05:30")[0] == local[0] + 11 * HOUR_MS // 2
    assert local_to_utc(local, "Europe/Berlin")[0] is None
    assert local_to_utc(local, "Europe/Berlin", twice=True)[0] is None


@pytest.mark.parametrize("zone", ["Europe/Berlin", "+03:00", "-11:30", "UTC", "Etc/GMT-3", "America/Port-au-Prince"])
def test_zones_are_accepted(zone):
    """IANA names and offsets."""
    assert check_time_zone(zone) == zone


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin"),
        ("europe/berlin", "did you mean Europe/Berlin"),
        ("+3", "+03:00"),
        ("+25:00", "+03:00"),
        ("UTC+3", ""),
        ("", "+03:00"),
        ("\x1b[31m", "+03:00"),
    ],
)
def test_other_zones_are_refused(zone, hint):
    """With the nearest name, or a form that works."""
    with pytest.raises(UsageError, match="is not a time zone") as err:
        check_time_zone(zone)

    assert hint in err.value.hint
