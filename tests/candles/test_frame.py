"""Laws of the candle frame."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.anomalies import count_zero_trade
from mltrain.candles.checks import check_candles
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, Gap, content_sha256, find_gaps, segment_bounds, times_ms
from mltrain.errors import InputError
from mltrain.sources.simulated import CLOCK_MS
from mltrain.times import MINUTE_MS, format_ms

STEP = 5
slots = st.sets(st.integers(0, 30)).map(sorted)


def check(frame, interval="1m"):
    return check_candles(frame, symbol="BTCUSDT", interval=interval, where="here")


def naive_gaps(present, start, end):
    """Walk the grid slot by slot."""
    gaps, run = [], []
    for slot in [*range(start, end), None]:
        if slot is not None and slot not in present:
            run.append(slot)
        elif run:
            gaps.append(Gap(run[0] * STEP, run[-1] * STEP, len(run)))
            run = []
    return tuple(gaps)


@given(slots, st.integers(0, 5), st.integers(0, 5))
def test_gaps_are_the_runs_of_missing_slots(present, before, after):
    """With a window, every missing candle of it is in exactly one gap, and gaps are maximal."""
    start, end = (present[0] - before, present[-1] + 1 + after) if present else (0, before)
    ts = np.array(present, dtype=np.int64) * STEP

    assert find_gaps(ts, STEP, start_ms=start * STEP, end_ms=end * STEP) == naive_gaps(present, start, end)


@given(slots)
def test_without_a_window_gaps_lie_between_candles(present):
    """Nothing is missing before the first candle or after the last."""
    ts = np.array(present, dtype=np.int64) * STEP
    expected = naive_gaps(present, present[0], present[-1] + 1) if present else ()

    assert find_gaps(ts, STEP) == expected


@given(slots)
def test_segments_are_the_maximal_runs_of_neighbours(present):
    """Segments cut all rows, in order, exactly where two rows are not neighbours on the grid."""
    bounds = segment_bounds(np.array(present, dtype=np.int64) * STEP, STEP)
    naive = [i for i in range(len(present)) if i == 0 or present[i] != present[i - 1] + 1]

    assert [a for a, _ in bounds] == naive
    assert [b for _, b in bounds] == [*naive[1:], len(present)][: len(naive)]


def test_checked_candles_have_every_column_in_order(make_candles):
    """Missing optional columns are null, further ones are left out, order and types are fixed."""
    frame = check(make_candles(range(5), junk=["x"] * 5).select("junk", "close", "low", "high", "open", "volume", "ts"))

    assert dict(frame.schema) == dict(CANDLE_SCHEMA)
    assert frame.select(OPTIONAL).null_count().row(0) == (5, 5, 5, 5)
    assert check(frame).equals(frame)


def test_whole_numbers_become_floats_and_nothing_is_rounded(make_candles):
    """Integer prices are prices; minus zero is zero."""
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
    """The message names place, symbol, time, field and value of the first row at fault."""
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
    assert field in err.value.message or field in {"close", "open"}  # a wild close shows as a high or low that is wrong
    assert str("missing" if value is None else value) in err.value.message or field in {"close", "open"}


@pytest.mark.parametrize(
    ("minutes", "law"),
    [([0, 2, 1], "sorted"), ([0, 1, 1], "unique"), ([2, 1, 0], "sorted")],
)
def test_rows_out_of_order_are_refused(make_candles, minutes, law):
    """Neither going back nor standing still is a series."""
    with pytest.raises(InputError, match=law):
        check(make_candles(minutes))


def test_times_off_the_grid_are_refused(make_candles):
    """A candle that opens at 28:15 is not a one-minute candle, as after the restart of February 2018."""
    frame = make_candles(range(3)).with_columns(pl.col("ts") + pl.duration(seconds=15))

    with pytest.raises(
        InputError, match=r"ts is 2025-10-15T12:00:15Z: not on the grid of 1m candles \(and 2 more rows\)"
    ):
        check(frame)


@pytest.mark.parametrize("time_ms", [-MINUTE_MS, 1_735_689_600_000_000])
def test_times_beyond_the_calendar_are_refused(make_candles, time_ms):
    """Microseconds taken for milliseconds are a time in the year 56,971."""
    frame = make_candles([0]).with_columns(pl.lit(time_ms).cast(CANDLE_SCHEMA["ts"]).alias("ts"))

    with pytest.raises(InputError, match="not a time between 1970 and 9999"):
        check(frame)


def test_a_missing_time_is_refused(make_candles):
    """A row without a time is named by its number."""
    frame = make_candles(range(3)).with_columns(pl.when(pl.int_range(pl.len()) != 1).then("ts").alias("ts"))

    with pytest.raises(InputError, match="row 2: ts is missing"):
        check(frame)


def test_missing_columns_are_all_named(make_candles):
    """One message tells every column that is lacking and those that are there."""
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
    """Text, lists, flags, broken counts and times without a zone are not candles."""
    with pytest.raises(InputError, match=f"column {column} is "):
        check(make_candles([0]).with_columns(pl.Series(column, values)))


def test_no_rows_are_valid(make_candles):
    """An empty frame has the columns and no fault."""
    frame = check(make_candles([]))

    assert frame.is_empty()
    assert find_gaps(times_ms(frame), MINUTE_MS) == ()
    assert segment_bounds(times_ms(frame), MINUTE_MS) == []


def test_zero_trade_rows_count_trades_and_else_volume(make_candles):
    """Where trades are not known, a candle without volume had none."""
    frame = make_candles(range(4)).with_columns(volume=pl.Series([0.0, 1.0, 0.0, 2.0]))

    assert count_zero_trade(check(frame)) == 2
    assert count_zero_trade(check(frame.with_columns(trades=pl.Series([0, 0, 0, 5])))) == 3
    assert count_zero_trade(check(frame.clear())) == 0


def test_the_content_hash_does_not_depend_on_the_writer(make_candles, tmp_path):
    """Polars, pyarrow and chunks in memory: other bytes, the same hash."""
    frame = check(make_candles(range(500), trades=list(range(500))))
    frame.write_parquet(tmp_path / "a.parquet", compression="snappy", row_group_size=64)
    frame.write_parquet(tmp_path / "b.parquet", use_pyarrow=True, compression="gzip")
    chunked = pl.concat([frame[:123], frame[123:]], rechunk=False)

    read = [pl.read_parquet(tmp_path / name) for name in ("a.parquet", "b.parquet")]

    assert len({content_sha256(f) for f in (frame, chunked, *read)}) == 1


@given(st.integers(0, 19), st.sampled_from(list(CANDLE_SCHEMA)))
def test_the_content_hash_sees_every_value(row, column):
    """Any value changed by the least step, or made null, is another hash; so is any row left out."""
    whole = pl.DataFrame({n: pl.Series(range(20)).cast(pl.Int64).cast(t) for n, t in CANDLE_SCHEMA.items()})
    there = pl.int_range(pl.len()) == row
    least = pl.col(column).cast(pl.Int64).cast(pl.Float64) + 2.0**-40 if column not in {"ts", "trades"} else None
    changed = least if least is not None else (pl.col(column).cast(pl.Int64) + 1).cast(CANDLE_SCHEMA[column])
    others = [
        whole.with_columns(pl.when(there).then(changed).otherwise(column).alias(column)),
        whole.with_columns(pl.when(~there).then(column).alias(column)),
        whole.filter(~there),
    ]

    assert len({content_sha256(f) for f in [whole, *others]}) == 4


def test_the_content_hash_is_as_it_was_released(make_candles):
    """Snapshots of earlier releases must still verify: packed by hand, column by column, the hash is the same."""
    frame = check(make_candles(range(3), trades=[1, 2, 3]))
    packed = b"mltrain candles 1\n"
    for name in CANDLE_SCHEMA:
        values = times_ms(frame).tolist() if name == "ts" else frame[name].to_list()
        kind = "q" if name in {"ts", "trades"} else "d"
        packed += f"{name} {'int64' if kind == 'q' else 'float64'} 3\n".encode()
        packed += bytes([0b000_00000 if values[0] is None else 0b111_00000])
        packed += struct.pack(f"<3{kind}", *(v or 0 for v in values))

    assert content_sha256(frame) == hashlib.sha256(packed).hexdigest()
    assert content_sha256(frame) == "2754d969b2d8d4039968c29d648206dd0972e9845ad5ffebaefa794a294be623"
