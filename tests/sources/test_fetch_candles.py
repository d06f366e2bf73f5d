"""Laws of the public functions that only fetch candles."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

import mltrain.candles
from mltrain.errors import InputError, UsageError
from mltrain.simulator.server import SimServer
from mltrain.sources.fetch_candles import fetch_candles
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange

EXPECTED = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS))
START = "2025-10-14T12:00:00Z"


@pytest.fixture(scope="module")
def served():
    """Return the spec of a served exchange, and its server."""
    with SimServer() as server:
        yield SourceSpec(name="binance", base_url=server.base_url), server


def test_a_range_is_given_by_text_or_datetime(served):
    """Both name the same range; a start between two candles is rounded down, the end is exclusive."""
    spec, _ = served
    whole = fetch_candles(["BTCUSDT"], start=START, spec=spec)
    zone = dt.timezone(dt.timedelta(hours=2))
    part = fetch_candles(
        ["BTCUSDT"], start=dt.datetime(2025, 10, 14, 14, 0, 30, tzinfo=zone), end="2025-10-15T11:00Z", spec=spec
    )

    assert whole["BTCUSDT"].equals(EXPECTED)
    assert part["BTCUSDT"].equals(
        SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS - 60 * MINUTE_MS))
    )


def test_a_date_and_a_single_symbol(served):
    """A date is its midnight in UTC, and a text is one symbol."""
    spec, _ = served
    found = fetch_candles("BTCUSDT", start=dt.date(2025, 10, 14), end=dt.date(2025, 10, 15), spec=spec)
    midnight_ms = CLOCK_MS - DAY_MS // 2

    assert found["BTCUSDT"].equals(SimSource().candles("BTCUSDT", TimeRange(midnight_ms - DAY_MS, midnight_ms)))


def test_days_are_kept_where_a_folder_is_named(served, tmp_path):
    """A second call requests only missing days; without a folder nothing is kept."""
    spec, server = served
    fetch_candles(["BTCUSDT", "ETHUSDT"], start=START, spec=spec, data_dir=tmp_path)
    before = len(server.log)
    again = fetch_candles(["BTCUSDT", "BTCUSDT"], start=START, spec=spec, data_dir=str(tmp_path))

    assert again["BTCUSDT"].equals(EXPECTED)
    assert {answered.path for answered in server.log[before:]} == {"/api/v3/time", "/api/v3/exchangeInfo"}
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_it_works_inside_a_running_event_loop(served):
    """It returns the candles in a notebook, too."""
    spec, _ = served

    async def ask():
        return fetch_candles(["BTCUSDT"], start=START, spec=spec)

    assert asyncio.run(ask())["BTCUSDT"].equals(EXPECTED)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"symbols": []}, UsageError, "symbols is empty"),
        ({"symbols": None}, UsageError, "symbols is None"),
        ({"symbols": [5]}, UsageError, "5 is not a symbol"),
        ({"spec": "sim"}, UsageError, "spec is 'sim'"),
        ({"start": 1_760_529_600}, UsageError, "start is '1760529600'"),
        ({"end": b"2025"}, UsageError, "end is"),
        ({"symbols": ["btc"]}, UsageError, "is not a symbol"),
        ({"symbols": ["BTCUSDX"]}, InputError, "has no symbol 'BTCUSDX'"),
        ({"start": "soon"}, UsageError, "'soon' is not a time"),
        ({"start": dt.datetime(2025, 10, 14)}, UsageError, "has no zone"),  # noqa: DTZ001 -- that is the point
        ({"start": START, "end": START}, UsageError, "no candle opens and closes"),
        ({"start": "2030-01-01"}, UsageError, "no candle opens and closes"),
    ],
)
def test_an_invalid_request_is_refused(served, options, error, message):
    """The message names the invalid argument."""
    spec, _ = served

    with pytest.raises(error, match=message):
        fetch_candles(**{"symbols": ["BTCUSDT"], "start": START, "spec": spec} | options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mltrain.snapshots.snapshot.open_snapshot(5, "latest"), "data_dir is 5"),
        (lambda: mltrain.snapshots.snapshot.open_snapshot("data", None), "ref is None"),
        (lambda: mltrain.snapshots.snapshot.list_snapshots(None), "data_dir is None"),
        (lambda: mltrain.sources.opening.open_source("sim"), "spec is 'sim'"),
        (lambda: mltrain.snapshots.snapshot_record.SnapshotRequest(symbols=None, days=3), "symbols is None"),
        (lambda: mltrain.snapshots.snapshot_record.SnapshotRequest(symbols=["BTCUSDT"], days="3"), "days is '3'"),
        (
            lambda: mltrain.snapshots.snapshot_record.SnapshotRequest(symbols=["BTCUSDT"], days=3, interval=5),
            "5 is not a candle interval",
        ),
        (
            lambda: mltrain.snapshots.snapshot_record.SnapshotRequest(symbols=["BTCUSDT"], days=3, end_ms="now"),
            "end_ms is 'now'",
        ),
        (lambda: SourceSpec(name=None), "source None"),
        (lambda: SourceSpec(name="sim", seed="1"), "seed 1"),
        (lambda: mltrain.FeatureSchemaValidator(5), "path is 5"),
    ],
)
def test_arguments_of_the_public_names_are_checked(call, message):
    """A wrong type is a usage error that names the argument."""
    with pytest.raises(UsageError, match=message):
        call()
