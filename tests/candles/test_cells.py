"""Cells become times and numbers, or are refused by line, column and value."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.cells import Cells
from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.candles.layouts import read_columns
from mltrain.errors import InputError
from mltrain.times import DAY_MS, MINUTE_MS, format_ms

PRICES = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 10.0}


def rows_of(times, **columns):
    times = times if isinstance(times, pl.Series) else pl.Series("ts", times)
    columns = {name: columns.get(name, [value] * len(times)) for name, value in PRICES.items()} | columns
    return read_columns(Cells(pl.DataFrame({"ts": times, **columns}), "here", "line", 2)).rows


TIMES = {
    "2025-10-15T12:00:00Z": "2025-10-15T12:00:00Z",
    "2025-10-15 12:00:00": "2025-10-15T12:00:00Z",
    "2025-10-15 12:00": "2025-10-15T12:00:00Z",
    "2025-10-15 12:00:00+00:00": "2025-10-15T12:00:00Z",
    "2025-10-15T12:00:00.000000+0200": "2025-10-15T10:00:00Z",
    "2025-10-15 12:00:00.250": "2025-10-15T12:00:00.250Z",
    "2025-10-15 12:00:00 UTC": "2025-10-15T12:00:00Z",
    "2025-10-15T12:00:00-03:30": "2025-10-15T15:30:00Z",
    "2025-10-15": "2025-10-15T00:00:00Z",
    " 1760529600 ": "2025-10-15T12:00:00Z",
    "1760529600000": "2025-10-15T12:00:00Z",
    "1760529600000.0": "2025-10-15T12:00:00Z",
    "1.7605296e12": "2025-10-15T12:00:00Z",
    "1760529600000000": "2025-10-15T12:00:00Z",
    "1760529600000000000": "2025-10-15T12:00:00Z",
}


@pytest.mark.parametrize(("text", "expected"), TIMES.items())
def test_times_in_text_are_understood(text, expected):
    """Numbers of any unit and ISO 8601, UTC unless a zone is given."""
    assert format_ms(times_ms(rows_of([text]))[0]) == expected


def test_numbers_and_iso_times_may_stand_in_one_column():
    """Each cell is read independently; only texts with and without an offset from UTC do not mix."""
    same_zone = {text: time for text, time in TIMES.items() if text[-5:] not in {"+0200", "03:30"}}

    assert [format_ms(ms) for ms in times_ms(rows_of(list(same_zone)))] == list(same_zone.values())
    with pytest.raises(InputError, match="here: column ts: some times state an offset from UTC, others none"):
        rows_of(list(TIMES))


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025/10/32 12:00", "32.10.2025", "2025-13-01", "2025-02-30 10:00", "nan", "inf", "1e30",
             "1760529600000001", "12:00", "2025-10-15 12:00:00.0001"],
)  # fmt: skip
def test_other_times_are_refused_by_line(text):
    """Ambiguous times and fractions of a ms are refused, with line and value."""
    with pytest.raises(InputError, match=rf"here: line 3: ts is ({text!r}|missing): not an open time") as err:
        rows_of(["1760529600000", text])

    assert ("missing" in err.value.message) == (text == "")


@given(st.lists(st.tuples(st.integers(2_000_000, 60_000_000), st.sampled_from([1e-3, 1, 1e3, 1e6])), min_size=1))
def test_the_unit_of_each_time_is_found_independently(minutes_and_units):
    """From 1973 to 2084, s, ms, µs and ns may alternate, as text and as numbers."""
    stamps = [int(minute * MINUTE_MS * unit) for minute, unit in minutes_and_units]
    expected = [minute * MINUTE_MS for minute, _ in minutes_and_units]

    assert times_ms(rows_of(stamps)).tolist() == expected
    assert times_ms(rows_of([str(stamp) for stamp in stamps])).tolist() == expected


@given(st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_any_iso_time_is_read_as_python_reads_it(moment, offset):
    """To the ms, in any zone."""
    zone = dt.timezone(dt.timedelta(minutes=offset))
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=zone)

    assert times_ms(rows_of([moment.isoformat()]))[0] == round(moment.timestamp() * 1000)


@pytest.mark.parametrize(
    "dtype", [pl.Datetime("ns"), pl.Datetime("us", "UTC"), pl.Datetime("ms", "Asia/Tokyo"), pl.Int64]
)
def test_times_of_any_type_are_understood(dtype):
    """A time zone is another notation of the same instant; without a zone a time is UTC."""
    expected = [1_760_529_600_000, 1_760_529_660_000]
    ts = pl.Series(expected)
    if dtype != pl.Int64:
        ts = ts.cast(pl.Datetime("ms", "UTC"))
        ts = ts.dt.convert_time_zone(dtype.time_zone) if dtype.time_zone else ts.dt.replace_time_zone(None)

    assert times_ms(rows_of(ts.cast(dtype))).tolist() == expected


def test_times_between_two_ms_are_refused_in_any_type():
    """Truncating them would put them on the grid."""
    with pytest.raises(InputError, match=r"line 3: ts is 1970-01-01 00:01:00.000001: not an open time"):
        rows_of(pl.Series([0, 60_000_001]).cast(pl.Datetime("us")))


def test_dates_are_midnights():
    """Daily candles often have dates."""
    days = pl.Series([20_000, 20_001]).cast(pl.Date)

    assert times_ms(rows_of(days)).tolist() == [20_000 * DAY_MS, 20_001 * DAY_MS]


@given(st.floats(min_value=0, allow_infinity=False), st.floats(min_value=0, allow_infinity=False))
def test_any_number_is_the_same_as_text(one, other):
    """In the shortest form, as Python prints it."""
    as_text = rows_of([60, 120], close=[str(one), f" {other!r} "])

    assert as_text.equals(rows_of([60, 120], close=[one, other]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"close": ["1", "abc"]}, "line 3: close is 'abc': not a number"),
        ({"close": ["x", "y"]}, r"line 2: close is 'x': not a number \(and 1 more\)"),
        ({"close": ["1", "1_5"]}, "line 3: close is '1_5': not a number"),
        ({"close": ["1", "0x10"]}, "line 3: close is '0x10': not a number"),
        ({"close": ["1", "1 5"]}, "line 3: close is '1 5': not a number"),
        ({"close": ["1", "1\0"]}, r"line 3: close is '1\\x00': not a number"),
        ({"trades": ["1", "2.5"]}, "line 3: trades is '2.5': not a whole number"),
        ({"trades": ["1", "1e300"]}, "line 3: trades is '1e300': not a whole number"),
        ({"trades": [1.0, float("nan")]}, "line 3: trades is nan: not a whole number"),
        ({"volume": [True, False]}, "here: column volume is Boolean, not numbers"),
        ({"volume": [[1], [2]]}, r"here: column volume is List\(Int64\), not numbers"),
        ({"ts": [True, False]}, "here: column ts is Boolean, not times"),
    ],
)
def test_cells_that_are_no_numbers_are_refused_with_their_place(columns, message):
    """Line, column and value are named."""
    with pytest.raises(InputError, match=message):
        rows_of(columns.pop("ts", [60, 120]), **columns)


def test_empty_cells_and_absent_columns_are_null():
    """The columns are always the same; whether a cell may be null is checked later."""
    rows = rows_of(["60", "120"], close=["", "1.5"], volume=[" ", None], trades=["", "7"])

    assert dict(rows.schema) == dict(CANDLE_SCHEMA)
    assert rows["close"].to_list() == [None, 1.5]
    assert rows["volume"].null_count() == rows["taker_buy_quote"].null_count() == 2
    assert rows["trades"].to_list() == [None, 7]
