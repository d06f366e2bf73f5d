"""Every row that cannot be a candle is refused, with its place."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, find_gaps, find_segments, times_ms
from mltrain.errors import InputError
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.times import MINUTE_MS, format_ms
from support.candles import check


def test_checked_candles_have_every_column_in_order(make_candles):
    """Missing optional columns become null, other columns are dropped, order and types are fixed."""
    frame = check(make_candles(range(5), junk=["x"] * 5).select("junk", "close", "low", "high", "open", "volume", "ts"))

    assert dict(frame.schema) == dict(CANDLE_SCHEMA)
    assert frame.select(OPTIONAL).null_count().row(0) == (5, 5, 5, 5)
    assert check(frame).equals(frame)


def test_whole_numbers_become_floats_and_nothing_is_rounded(make_candles):
    """Integer prices become floats, and -0.0 becomes 0.0."""
    frame = check(make_candles(range(3)).with_columns(pl.lit(-0.0).alias("volume"), quote_volume=pl.lit(3)))

    assert frame["quote_volume"].to_list() == [3.0] * 3
    assert not np.signbit(frame["volume"].to_numpy()).any()


FAULTS = {
    "open": [None, float("nan"), float("inf"), 0.0, -1.0],
    "high": [None, float("nan"), float("inf"), 0.0, 99.0],
    "low": [None, float("nan"), -float("inf"), 0.0, 104.5],
    "close": [None, float("nan"), -5.0, 1e9, 1e-9],
    "volume": [None, float("nan"), -0.5, float("inf")],
    "quote_volume": [None, float("nan"), -1.0, float("inf")],
    "trades": [None, -1],
    "taker_buy_base": [None, -1e-9],
    "taker_buy_quote": [None, float("inf")],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in FAULTS.items() for v in values])
def test_each_impossible_value_is_named(make_candles, field, value):
    """The message names file, symbol, time, field and value of the first wrong row."""
    good = make_candles(
        range(6), quote_volume=[1.0] * 6, trades=[1] * 6, taker_buy_base=[0.5] * 6, taker_buy_quote=[0.5] * 6
    )
    row = pl.int_range(pl.len()) == 4
    frame = good.with_columns(pl.when(row).then(pl.lit(value, CANDLE_SCHEMA[field])).otherwise(field).alias(field))

    check(good)
    with pytest.raises(InputError) as err:
        check(frame)
    at = f"here: BTCUSDT at {format_ms(CLOCK_MS + 4 * MINUTE_MS)}: "
    assert err.value.message.startswith(at)
    # An extreme open or close appears as a wrong high or low.
    assert field in err.value.message or field in {"close", "open"}
    assert str("missing" if value is None else value) in err.value.message or field in {"close", "open"}


@pytest.mark.parametrize(
    ("minutes", "law"),
    [([0, 2, 1], "sorted"), ([0, 1, 1], "unique"), ([2, 1, 0], "sorted")],
)
def test_rows_out_of_order_are_refused(make_candles, minutes, law):
    """Times must strictly increase."""
    with pytest.raises(InputError, match=law):
        check(make_candles(minutes))


def test_times_off_the_grid_are_refused(make_candles):
    """A candle that opens at 28:15 is not a one-minute candle (Binance's restart of February 2018)."""
    frame = make_candles(range(3)).with_columns(pl.col("ts") + pl.duration(seconds=15))

    with pytest.raises(InputError, match=r"ts is 2025-10-15T12:00:15Z: not on the grid of 1m candles \(and 2 more\)"):
        check(frame)


@pytest.mark.parametrize("time_ms", [-MINUTE_MS, 1_735_689_600_000_000])
def test_times_beyond_the_calendar_are_refused(make_candles, time_ms):
    """Microseconds read as milliseconds are in the year 56,971."""
    frame = make_candles([0]).with_columns(pl.lit(time_ms).cast(CANDLE_SCHEMA["ts"]).alias("ts"))

    with pytest.raises(InputError, match="not a time between 1970 and 9999"):
        check(frame)


def test_a_missing_time_is_refused(make_candles):
    """A row without a time is named by its number."""
    frame = make_candles(range(3)).with_columns(pl.when(pl.int_range(pl.len()) != 1).then("ts").alias("ts"))

    with pytest.raises(InputError, match="row 2: ts is missing"):
        check(frame)


def test_missing_columns_are_all_named(make_candles):
    """One message names all missing columns and all that exist."""
    with pytest.raises(InputError, match="high and close missing; the columns are ts, open, low, volume"):
        check(make_candles([0]).drop("high", "close"))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("close", ["100.5"]),
        ("trades", [2.5]),
        ("volume", [True]),
        ("ts", [dt.datetime(2025, 10, 15, 12)]),  # noqa: DTZ001 -- that is the point
        ("ts", [1_760_529_600_000]),
        ("open", [[1.0]]),
    ],
)
def test_columns_of_another_type_are_refused(make_candles, column, values):
    """Text, lists, booleans, fractional counts and times without a zone are refused."""
    with pytest.raises(InputError, match=f"column {column} is "):
        check(make_candles([0]).with_columns(pl.Series(column, values)))


def test_no_rows_are_valid(make_candles):
    """An empty frame has all columns and passes."""
    frame = check(make_candles([]))

    assert frame.is_empty()
    assert find_gaps(times_ms(frame), MINUTE_MS) == ()
    assert find_segments(times_ms(frame), MINUTE_MS) == []
