"""Laws of funding events: what is refused, where one is missing, and their Parquet file."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import TS_DTYPE
from mltrain.candles.funding import (
    FUNDING_SCHEMA,
    check_funding,
    encode_funding,
    find_funding_gaps,
    funding_sha256,
    read_funding,
    usual_interval_ms,
)
from mltrain.errors import InputError
from mltrain.times import HOUR_MS


def events(hours, *, rates=None, marks=None, late_ms=3):
    """Return a frame of events at whole hours since 1970, each a little late."""
    ts = pl.Series("ts", [hour * HOUR_MS + late_ms for hour in hours], pl.Int64).cast(TS_DTYPE)
    rates = [1e-4] * len(hours) if rates is None else rates
    marks = [None] * len(hours) if marks is None else marks
    return pl.DataFrame([ts, pl.Series("rate", rates, pl.Float64), pl.Series("mark_price", marks, pl.Float64)])


def gaps(hours, start, end):
    """Return the gaps in whole hours."""
    ts_ms = np.array([hour * HOUR_MS + 3 for hour in hours], np.int64)
    found = find_funding_gaps(ts_ms, start_ms=start * HOUR_MS, end_ms=end * HOUR_MS)
    return [(gap.from_ms // HOUR_MS, gap.to_ms // HOUR_MS) for gap in found]


@pytest.mark.parametrize(
    ("hours", "ends", "missing"),
    [
        # Every 8, 4 or 1 hours, from between two events to between two events.
        ([8, 16, 24], (1, 31), []),
        ([4, 8, 12, 16], (1, 19), []),
        ([1, 2, 3, 4], (0, 5), []),
        # The exchange changes the interval: nothing is missing.
        ([8, 16, 24, 28, 32, 36], (1, 39), []),
        ([4, 8, 12, 20, 28, 36], (1, 40), []),
        # One is missing, and two in a row.
        ([8, 24, 32], (1, 39), [(8, 24)]),
        ([4, 8, 16, 20, 24], (1, 27), [(8, 16)]),
        ([4, 8, 20, 24], (1, 27), [(8, 20)]),
        ([1, 2, 3, 5, 6, 7], (0, 8), [(3, 5)]),
        # At the beginning, at the end, and everywhere.
        ([16, 24], (1, 31), [(1, 16)]),
        ([8, 12, 16], (5, 27), [(16, 27)]),
        ([8, 16], (1, 33), [(16, 33)]),
        ([], (0, 9), [(0, 9)]),
        ([], (0, 8), []),
        ([8], (1, 15), []),
        ([8], (1, 24), [(8, 24)]),
    ],
)
def test_gaps_are_intervals_without_an_event_that_was_due(hours, ends, missing):
    """The neighbours of an interval and the longest interval, 8 hours, decide what was due."""
    assert gaps(hours, *ends) == missing


@given(st.sampled_from([1, 2, 4, 8]), st.integers(8, 60), st.data())
def test_an_event_that_is_taken_out_leaves_its_gap(interval, count, data):
    """Away from the ends, a single missing event is found, and nothing else is."""
    hours = [interval * (i + 1) for i in range(count)]
    at = data.draw(st.integers(3, count - 4))

    assert gaps(hours, 0, hours[-1] + 1) == []
    assert gaps(hours[:at] + hours[at + 1 :], 0, hours[-1] + 1) == [(hours[at - 1], hours[at + 1])]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (events([8, 16], rates=[1e-4, None]), "every funding event needs its time and its rate"),
        (events([8, 16], rates=[1e-4, float("nan")]), "rate is nan: not a rate"),
        (events([8, 16], rates=[1e-4, float("inf")]), "rate is inf"),
        (events([8, 16], rates=[1e-4, -1.0]), "BTCUSDT at 1970-01-01T16:00:00.003Z: rate is -1.0"),
        (events([8, 16], marks=[1.0, 0.0]), "mark_price is 0.0: a price must be above 0"),
        (events([8, 16], marks=[1.0, float("nan")]), "mark_price is nan"),
        (events([8, 8], rates=[1e-4, 2e-4]), "a second, different event"),
    ],
)
def test_an_impossible_event_is_refused(frame, words):
    """With symbol, time and value."""
    with pytest.raises(InputError) as refused:
        check_funding(frame, symbol="BTCUSDT", where="the host")

    assert words in refused.value.message
    assert refused.value.message.startswith("the host: BTCUSDT")


@given(st.permutations(range(1, 20)), st.integers(0, 5))
def test_any_order_and_repetitions_give_the_same_events(hours, repeated):
    """Events are sorted, exact repetitions are dropped, and the time is kept as it is."""
    frame = events(hours, rates=[hour * 1e-5 for hour in hours])
    checked = check_funding(pl.concat([frame, frame.head(repeated)]), symbol="BTCUSDT", where="here")

    assert checked.schema == pl.Schema(FUNDING_SCHEMA)
    assert checked["ts"].dt.timestamp("ms").to_list() == [hour * HOUR_MS + 3 for hour in range(1, 20)]
    assert checked["rate"].to_list() == [hour * 1e-5 for hour in range(1, 20)]
    sorted_first = check_funding(events(range(1, 20), rates=checked["rate"]), symbol="BTCUSDT", where="here")
    assert funding_sha256(checked) == funding_sha256(sorted_first)


def test_the_file_holds_every_event():
    """Two symbols, null and other mark prices, also no event at all; another number of rows is refused."""
    one = check_funding(events([8, 16], marks=[None, 1.5]), symbol="BTCUSDT", where="here")
    other = check_funding(events([8], rates=[-2e-4]), symbol="ETHUSDT", where="here")
    both = pl.concat([one, other])
    data = encode_funding(both)

    assert read_funding(data, rows=3, where="here").equals(both)
    assert encode_funding(both) == data
    assert read_funding(encode_funding(both.head(0)), rows=0, where="here").equals(both.head(0))
    with pytest.raises(InputError, match="expected 4 funding events, got 3 rows"):
        read_funding(data, rows=4, where="here")
    with pytest.raises(InputError, match="here"):
        read_funding(data[:-20], rows=3, where="here")


def test_the_usual_interval_is_the_most_frequent_one():
    """In whole hours, whatever the milliseconds; with fewer than two events, none is known."""
    ts_ms = np.array([0, 8, 16, 20, 28]) * HOUR_MS + np.array([0, 7, 3, 0, 12])

    assert usual_interval_ms(ts_ms) == 8 * HOUR_MS
    assert usual_interval_ms(ts_ms[:1]) is None


def test_changed_values_change_the_hash():
    """A rate, a time or a mark price."""
    frames = [
        events([8, 16]),
        events([8, 16], rates=[1e-4, 1.1e-4]),
        events([8, 16], late_ms=4),
        events([8, 16], marks=[None, 1.0]),
    ]

    assert len({funding_sha256(check_funding(f, symbol="BTCUSDT", where="here")) for f in frames}) == len(frames)
