"""Irregular rows that the exchange's history will always have: they cost at most a candle, not the download."""

from __future__ import annotations

import asyncio
import json

import pytest

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.sources.binance import RestPages
from mltrain.sources.files import FilesSource
from mltrain.sources.http_client import Answer
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, TimeRange
from support.downloads import TODAY_MS, download, requested_pages

# A noon whose day the archive has.
AT_MS = TODAY_MS - 3 * DAY_MS // 2
DAY = "2025-10-13"
SOURCES = pytest.mark.parametrize("archive", [False, True], ids=["rest", "archive"])


def restate(field, value, **rest):
    return Fault("restate", at_ms=rest.pop("at_ms", AT_MS), field=field, value=str(value), times=0, **rest)


def take(tmp_path, faults, *, archive=False, **rest):
    progress = Silent()
    with SimServer(faults=faults) as server:
        taken = download(server, tmp_path, days=3, archive=archive, progress=progress, **rest)
    # The archive does not have yesterday yet, which is no oddity.
    return taken.snapshot, [note for note in progress.warnings if "taken over REST" not in note]


def true_times():
    return times_ms(SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - 3 * DAY_MS, CLOCK_MS))).tolist()


@SOURCES
def test_a_row_off_the_grid_leaves_a_gap(tmp_path, archive):
    """Candles that open at HH:28:15 are reported once and listed in the manifest; all others are there."""
    snapshot, warnings = take(tmp_path, [restate("open_time", AT_MS + 15_000)], archive=archive)

    expected = [ts for ts in true_times() if ts != AT_MS]
    assert times_ms(snapshot.candles("BTCUSDT")).tolist() == expected
    note = f"BTCUSDT: 1 row of the exchange's history left out, off the 1m grid ({DAY}): their candles are missing"
    assert snapshot.notes[-1] == note
    assert warnings == [note]
    assert [(h.from_ms, h.to_ms) for h in snapshot.facts[0].gaps if h.from_ms <= AT_MS <= h.to_ms] == [(AT_MS, AT_MS)]


@SOURCES
def test_a_candle_that_closed_early_is_taken(tmp_path, archive):
    """If trading stopped inside it and no row follows, it is the candle of its interval."""
    snapshot, warnings = take(tmp_path, [restate("close_time", AT_MS + 14_788)], archive=archive)

    assert times_ms(snapshot.candles("BTCUSDT")).tolist() == true_times()
    note = f"BTCUSDT: kept 1 candle that closed before the end of the interval ({DAY}): trading had stopped"
    assert snapshot.notes[-1] == note
    assert warnings == [note]


def test_the_cache_remembers_irregular_rows(tmp_path):
    """A second snapshot downloads nothing and has the same notes; one of other days has none."""
    # On another page than AT_MS.
    early_ms = AT_MS - DAY_MS
    faults = [restate("open_time", AT_MS + 15_000), restate("close_time", early_ms + 5, at_ms=early_ms)]
    with SimServer(faults=faults) as server:
        first = download(server, tmp_path, days=3).snapshot
        longer = download(server, tmp_path, days=4).snapshot
        other = download(server, tmp_path, days=1, end_ms=TODAY_MS).snapshot
        days = [page for page in requested_pages(server.log) if page[1] <= AT_MS < page[2]]

    assert len(first.notes) == 2
    assert longer.notes == first.notes
    assert other.notes == ()
    assert len(days) == 1


@SOURCES
@pytest.mark.parametrize("interval", ["1m", "1h"])
def test_a_row_that_is_no_candle_is_still_refused(tmp_path, archive, interval):
    """A close time beyond the interval or before the open time is refused."""
    step_ms = MINUTE_MS if interval == "1m" else HOUR_MS
    for value in (AT_MS + step_ms, AT_MS - 1):
        with pytest.raises(InputError, match=f"close_time is {value}: not the end of a {interval} candle"):
            take(tmp_path, [restate("close_time", value)], archive=archive, interval=interval)


class History:
    """Answers as the exchange does, with a long run of rows off the grid."""

    host = "here"

    def __init__(self, opens_ms):
        self.opens_ms = opens_ms
        self.requested = 0

    async def get(self, query, parse):
        self.requested += 1
        start_ms, limit = query.params["startTime"], query.params["limit"]
        opens_ms = [ts for ts in self.opens_ms if ts >= start_ms][:limit]
        rows = [[ts, "3", "4", "1", "2", "5", ts + MINUTE_MS - 1, "10", 7, "1", "2", "0"] for ts in opens_ms]
        return parse(Answer(200, {}, json.dumps(rows).encode()))


@pytest.mark.parametrize("limit", [1, 1000])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_rows_after_a_long_run_off_the_grid_are_found(limit, after):
    """In December 2017, thirteen days were off the grid: more rows than an answer holds."""
    run = [AT_MS + 14_789 + minute * MINUTE_MS for minute in range(2_500)]
    behind = [AT_MS + (2_501 + minute) * MINUTE_MS for minute in range(after)]
    history = History([*run, *behind])
    pages = RestPages(history, "1m")

    rows = asyncio.run(pages.fetch_first("BTCUSDT", AT_MS, limit=limit))

    assert times_ms(rows).tolist() == behind[: rows.height]
    assert bool(rows.height) == bool(after)
    assert sum(len(odd.left_out) for odd in pages.odd.values()) == len(run)
    assert history.requested <= 5


# --- files in the exchange's layout ----------------------------------------------------------------------------------

RESTART = (
    (1518044400000, 1518047999999),
    # Closed early.
    (1518048000000, 1518049694788),
    # Off the grid.
    (1518168494789, 1518172094788),
    (1518319694789, 1518321600999),
    (1518321600000, 1518325199999),
)
ON_GRID = [1518044400000, 1518048000000, 1518321600000]
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def csv_of(times):
    return "".join(f"{ts},3,4,1,2,5,{closed},10,7,1,2,0\n" for ts, closed in times)


def json_of(times):
    return json.dumps([[ts, "3", "4", "1", "2", "5", closed, "10", 7, "1", "2", "0"] for ts, closed in times])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BTCUSDT-1h-2018-02.csv", csv_of(RESTART)),
        ("BTCUSDT-1h-2018-02.csv", f"{HEADER}\n{csv_of(RESTART)}"),
        ("BTCUSDT-1h-2018-02.json", json_of(RESTART)),
    ],
    ids=["csv", "csv with a header", "json"],
)
def test_files_of_the_exchange_are_read_without_irregular_rows(tmp_path, name, text):
    """The notes on its daily files of 2018 list missing candles; the rest is read."""
    (tmp_path / name).write_text(text)
    source = FilesSource(tmp_path, "1h")

    assert times_ms(source.candles("BTCUSDT", TimeRange(0, 1 << 42))).tolist() == ON_GRID
    (note,) = source.notes()
    assert note.startswith(
        "BTCUSDT: 2 rows of the exchange's history left out, off the 1h grid, from 2018-02-09T09:28:14"
    )
    assert note.endswith("to 2018-02-11T03:28:14.789Z: their candles are missing")


def test_a_file_that_is_wholly_off_the_grid_has_no_candles(tmp_path):
    """Such as a file whose times are shifted by half a minute."""
    shifted = [(ts + 30_000, closed + 30_000) for ts, closed in RESTART if ts in ON_GRID]
    (tmp_path / "BTCUSDT-1h.csv").write_text(csv_of(shifted))

    with pytest.raises(InputError, match="BTCUSDT: no row opens on the 1h grid"):
        FilesSource(tmp_path, "1h").clock_ms(("BTCUSDT",))


@pytest.mark.parametrize("closed", [0, 1518168494788, 1518168494789 + HOUR_MS])
def test_a_row_of_a_file_off_the_grid_by_itself_is_refused(tmp_path, closed):
    """Its close time does not make it a candle of the interval; nor does a file without close times."""
    rows = [(1518044400000, 1518047999999), (1518168494789, closed), (1518321600000, 1518325199999)]
    (tmp_path / "BTCUSDT-1h.csv").write_text(csv_of(rows))
    plain = "ts,open,high,low,close,volume\n" + "".join(f"{ts},3,4,1,2,5\n" for ts, _ in rows)
    (tmp_path / "ETHUSDT-1h.csv").write_text(plain)

    for symbol in ("BTCUSDT", "ETHUSDT"):
        with pytest.raises(InputError, match=f"{symbol} at 2018-02-09T09:28:14.789Z: .*not on the grid of 1h candles"):
            FilesSource(tmp_path, "1h").candles(symbol, TimeRange(0, 1 << 42))
