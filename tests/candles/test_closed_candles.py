"""Candles that have not closed are left out, and times hours ahead of the clock are refused."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.closed_candles import MAX_SKEW_MS, describe_unclosed, find_closed
from mltrain.candles.frame import times_ms
from mltrain.errors import InputError, UsageError
from mltrain.progress import Silent
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.fetch_candles import fetch_candles
from mltrain.sources.files import FilesSource
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, LAST_CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import HOUR_MS, INTERVALS_MS, MINUTE_MS, TimeRange, format_ms
from support.program import call

# Two seconds into the newest minute.
NOW_MS = CLOCK_MS + 2_000
ALL = TimeRange(0, 1 << 42)
LEFT_OUT = "1 candle left out, not closed yet by this machine's clock, 2025-10-15T12:00:02Z: "


def closed(opens_ms, *, step_ms=MINUTE_MS, now_ms=NOW_MS):
    ts_ms = np.array(opens_ms, np.int64)
    return find_closed(ts_ms, step_ms=step_ms, now_ms=now_ms, symbol="BTCUSDT", where="here").tolist()


# --- which candles have closed ---------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(INTERVALS_MS.values())), st.lists(st.integers(-5, 1), min_size=1), st.integers(0, 10**8))
def test_a_candle_has_closed_once_the_clock_shows_its_close(step_ms, bars, into_ms):
    """For any interval and clock; today's daily candle may close up to 24 hours from now."""
    now_ms = CLOCK_MS + into_ms % step_ms
    opens_ms = [CLOCK_MS // step_ms * step_ms + bar * step_ms for bar in bars]
    opens_ms = [ts for ts in opens_ms if ts <= now_ms + MAX_SKEW_MS] or [0]

    assert closed(opens_ms, step_ms=step_ms, now_ms=now_ms) == [ts + step_ms <= now_ms for ts in opens_ms]


@pytest.mark.parametrize("slow_ms", [0, 1, 30_000, 5 * MINUTE_MS, MAX_SKEW_MS])
def test_a_clock_that_is_some_minutes_slow_only_costs_candles(slow_ms):
    """The newest candles are left out, because they may not have closed."""
    assert closed([CLOCK_MS, CLOCK_MS + slow_ms], now_ms=CLOCK_MS) == [False, False]


def test_candles_beyond_any_clock_skew_are_refused():
    """One millisecond beyond the limit is too much."""
    with pytest.raises(InputError, match=r"here: BTCUSDT: its times are not UTC\? The newest candle opens at "):
        closed([0, NOW_MS + MAX_SKEW_MS + 1])


@pytest.mark.parametrize(
    ("zone", "hint"),
    [
        (timedelta(hours=1), "+1 h"),
        (timedelta(hours=5, minutes=30), "+5.5 h"),
        (timedelta(hours=5, minutes=45), "+5.75 h"),
        (timedelta(hours=9), "+9 h"),
        (timedelta(hours=14), "+14 h"),
    ],
)
@pytest.mark.parametrize("last", [0, 1], ids=["ends open", "ends closed"])
@pytest.mark.parametrize("into_s", [-240, 0.001, 2, 59])
def test_the_hint_names_the_offset_of_the_time_zone(zone, hint, last, into_s):
    """The message names symbol, newest time, clock and lead; the hint names the zone's offset."""
    now_ms = CLOCK_MS + round(into_s * 1000)
    newest_ms = CLOCK_MS + zone // timedelta(milliseconds=1) - last * MINUTE_MS
    with pytest.raises(InputError) as caught:
        closed([newest_ms], now_ms=now_ms)

    message, ahead = caught.value.message, (newest_ms - now_ms) / HOUR_MS
    assert f"opens at {format_ms(newest_ms)}" in message
    assert f"after this machine's clock, {format_ms(now_ms // 1000 * 1000)}" in message
    assert f"{ahead:.1f} hours after" in message
    assert f"the offset looks like {hint};" in caught.value.hint


def test_no_zone_is_a_day_ahead():
    """A wrong unit or a stopped clock is more likely."""
    with pytest.raises(InputError) as caught:
        closed([NOW_MS + 24 * HOUR_MS])

    assert "offset" not in caught.value.hint
    assert "date -u" in caught.value.hint


def test_open_candles_are_described_in_one_sentence():
    """For any number of symbols."""
    first_ms = dict.fromkeys(("E", "D", "C", "B", "A"), CLOCK_MS)

    assert describe_unclosed({"A": CLOCK_MS}, 1, now_ms=NOW_MS) == LEFT_OUT + "A from 2025-10-15T12:00:00Z on"
    text = describe_unclosed(first_ms, 7, now_ms=NOW_MS)
    assert text.startswith("7 candles left out")
    assert text.endswith("C from 2025-10-15T12:00:00Z on and 2 more")


# --- the source files ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, make_candles):
    """Return a folder of BTCUSDT, whose last candle opens at the clock, and ETHUSDT, which ends two minutes before."""
    path = tmp_path / "candles"
    path.mkdir()
    make_candles(range(-1440, 1)).write_parquet(path / "BTCUSDT.parquet")
    make_candles(range(-1440, -2)).write_parquet(path / "ETHUSDT.parquet")
    return path


def test_the_candle_still_open_is_left_out(folder, make_candles):
    """The newest remaining candle has closed, so the source's clock is not ahead of the machine's."""
    source = FilesSource(folder, "1m", now_ms=NOW_MS)

    assert source.candles("BTCUSDT", ALL)["ts"].to_list() == make_candles(range(-1440, 0))["ts"].to_list()
    assert source.clock_ms(("BTCUSDT", "ETHUSDT")) == CLOCK_MS
    assert source.extent("ETHUSDT").end_ms == CLOCK_MS - 2 * MINUTE_MS
    assert source.notes() == (LEFT_OUT + "BTCUSDT from 2025-10-15T12:00:00Z on",)
    source.candles("BTCUSDT", ALL)
    assert len(source.notes()) == 1


def test_a_candle_closes_with_the_clock(folder):
    """To the millisecond; without a clock all candles count as closed."""
    at_close = FilesSource(folder, "1m", now_ms=CLOCK_MS + MINUTE_MS)
    before = FilesSource(folder, "1m", now_ms=CLOCK_MS + MINUTE_MS - 1)
    without = FilesSource(folder, "1m")

    assert [s.candles("BTCUSDT", ALL).height for s in (at_close, before, without)] == [1441, 1440, 1441]
    assert at_close.notes() == without.notes() == ()


def test_two_dumps_of_one_open_candle_are_no_contradiction(folder, make_candles):
    """Two files may differ in an open candle, but not in a closed one."""
    make_candles(range(-5, 1), base=100.0).with_columns(volume=pl.lit(3.0)).tail(1).write_parquet(
        folder / "BTCUSDT-later.parquet"
    )

    assert FilesSource(folder, "1m", now_ms=NOW_MS).candles("BTCUSDT", ALL).height == 1440
    with pytest.raises(InputError, match="two candles of one time"):
        FilesSource(folder, "1m").candles("BTCUSDT", ALL)


def test_a_file_of_open_candles_alone_has_none(tmp_path, make_candles):
    """The error says that no candle has closed, not that the file is empty."""
    make_candles([0]).write_parquet(tmp_path / "BTCUSDT.parquet")
    source = FilesSource(tmp_path, "1m", now_ms=NOW_MS)

    with pytest.raises(InputError, match="BTCUSDT: no candle has closed"):
        source.clock_ms(("BTCUSDT",))


def test_one_symbol_in_local_time_is_refused(folder, make_candles):
    """The error appears when that symbol is requested; the others are still read."""
    make_candles(range(-1440 + 540, 541)).write_parquet(folder / "ETHUSDT.parquet")
    source = FilesSource(folder, "1m", now_ms=NOW_MS)

    assert source.candles("BTCUSDT", ALL).height == 1440
    with pytest.raises(InputError, match=r"ETHUSDT: its times are not UTC\?.* 9\.0 hours after"):
        source.clock_ms(("BTCUSDT", "ETHUSDT"))


def test_times_behind_the_clock_are_old_candles(folder, make_candles):
    """Local times west of UTC look like a file that was exported hours ago."""
    make_candles(range(-1440 - 300, -299)).write_parquet(folder / "BTCUSDT.parquet")

    assert FilesSource(folder, "1m", now_ms=NOW_MS).candles("BTCUSDT", ALL).height == 1441


@pytest.mark.parametrize("interval", ["1h", "4h", "1d"])
def test_the_open_candle_of_a_long_interval_is_left_out(tmp_path, make_candles, interval):
    """It closes hours from now, and is not taken for a local time."""
    step_ms = INTERVALS_MS[interval]
    frame = make_candles(range(-10, 1), step_ms=step_ms).with_columns(
        ts=pl.Series(np.arange(-10, 1) * step_ms + CLOCK_MS // step_ms * step_ms).cast(pl.Datetime("ms", "UTC"))
    )
    frame.write_parquet(tmp_path / "BTCUSDT.parquet")
    source = FilesSource(tmp_path, interval, now_ms=CLOCK_MS // step_ms * step_ms + step_ms - 1)

    assert source.candles("BTCUSDT", ALL).height == 10
    assert len(source.notes()) == 1


def test_a_snapshot_records_the_open_candles_left_out(folder, tmp_path):
    """In a warning and its manifest; an end after the last closed candle is still refused."""
    progress = Silent()
    spec = SourceSpec("files", folder=folder)
    request = SnapshotRequest(("BTCUSDT", "ETHUSDT"), 1)
    source = open_source(spec, now_ms=NOW_MS)
    snapshot = take_snapshot(tmp_path / "data", source, spec, request, now_ms=NOW_MS, progress=progress).snapshot

    note = LEFT_OUT + "BTCUSDT from 2025-10-15T12:00:00Z on"
    assert snapshot.cut_ms == CLOCK_MS
    assert snapshot.notes == (note,)
    assert note in progress.warnings
    assert int(times_ms(snapshot.candles("BTCUSDT"))[-1]) == CLOCK_MS - MINUTE_MS
    late = SnapshotRequest(("BTCUSDT",), 1, end_ms=CLOCK_MS + MINUTE_MS)
    with pytest.raises(UsageError, match="later than the clock of the source files"):
        take_snapshot(tmp_path / "data", source, spec, late, now_ms=NOW_MS, progress=Silent())


def test_fetching_takes_the_clock(folder):
    """In Python the clock is an argument; without it all candles count as closed."""
    spec, start = SourceSpec("files", folder=folder), format_ms(CLOCK_MS - HOUR_MS)

    assert fetch_candles(["BTCUSDT"], start=start, spec=spec, now_ms=NOW_MS)["BTCUSDT"].height == 60
    assert fetch_candles(["BTCUSDT"], start=start, spec=spec)["BTCUSDT"].height == 61


def test_the_simulator_has_its_own_clock():
    """A simulated market may be years ahead of this machine."""
    ahead_ms = LAST_CLOCK_MS
    source = open_source(SourceSpec("sim", end_ms=ahead_ms), now_ms=NOW_MS)

    assert source.candles("BTCUSDT", TimeRange(ahead_ms - 3 * MINUTE_MS, ahead_ms)).height == 3


# --- the command line ------------------------------------------------------------------------------------------------


def write_days(path, last_open_ms):
    """Write a day of simulated candles whose last one opens at `last_open_ms`."""
    frame = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - 26 * HOUR_MS, CLOCK_MS))
    shift_ms = last_open_ms - int(times_ms(frame)[-1])
    path.mkdir()
    frame.with_columns(pl.col("ts") + pl.duration(milliseconds=shift_ms)).write_parquet(path / "BTCUSDT.parquet")
    return path


def test_the_command_goes_by_the_machines_clock(tmp_path):
    """In any time zone of the machine, open candles are left out with a warning, and local times are refused."""
    # It will not have closed when it is read.
    minute_ms = (int(time.time() * 1000) // MINUTE_MS + 2) * MINUTE_MS
    dump, local = write_days(tmp_path / "dump", minute_ms), write_days(tmp_path / "local", minute_ms + 9 * HOUR_MS)
    options = {"data_dir": tmp_path / "data", "env": {"TZ": "Asia/Tokyo", "PATH": os.environ["PATH"]}}
    words = ("snapshot", "--source", "files", "--symbols", "BTCUSDT", "--days", "1", "--json", "--from")
    taken, refused = call(*words, dump, **options), call(*words, local, **options)

    assert taken.code == 0, taken.err
    assert taken.document["snapshot"]["facts"][0]["last_ms"] + MINUTE_MS <= time.time() * 1000
    assert "not closed yet by this machine's clock" in taken.err
    assert refused.code == 3
    assert "BTCUSDT: its times are not UTC?" in refused.err
    assert "the offset looks like +9 h" in refused.err
