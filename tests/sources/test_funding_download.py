"""Laws of funding rates from the exchange: REST and archive agree, limits are kept, nothing missing counts as zero."""

from __future__ import annotations

import asyncio
import itertools
import json
import random

import polars as pl
import pytest

from mltrain.errors import InputError, SourceError
from mltrain.simulator.exchange import Exchange, Request
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.sources.archive import ArchiveSource
from mltrain.sources.binance import BinanceSource
from mltrain.sources.funding_download import month_start_ms, next_month_ms, read_funding_csv, read_funding_page
from mltrain.sources.http_client import MalformedError
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, HOUR_MS, TimeRange, format_ms

QUARTER = TimeRange(CLOCK_MS - 90 * DAY_MS, CLOCK_MS)


class JumpingClock:
    """A clock whose waits pass at once."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds
        # The answers to other requests must be able to arrive.
        await asyncio.sleep(0.001)


def open_at(server, *, archive=False, clock=None, market="usdm", **rules):
    """Open the futures market of a server."""
    more = {
        "market": market,
        "rules": NetworkRules(**rules),
        "clock": clock or JumpingClock(),
        "rng": random.Random(0),  # noqa: S311 -- repeatable
    }
    if archive:
        return ArchiveSource("1m", server.base_url, server.archive_url, **more)
    return BinanceSource("1m", server.base_url, **more)


def truth(window, symbol="BTCUSDT"):
    return SimSource(market="usdm").funding((symbol,), window).symbols[symbol].frame


def requests(server):
    """Return the requests for funding rates over REST."""
    return [record for record in server.log if record.path == "/fapi/v1/fundingRate"]


# --- the same from everywhere ----------------------------------------------------------------------------------------


def test_rest_and_archive_give_the_same_rates():
    """A quarter of two symbols: the months that are over from proven files, the present one over REST."""
    symbols = ("BTCUSDT", "ETHUSDT")
    with SimServer() as server:
        rest = open_at(server).funding(symbols, QUARTER)
        rest_requests = requests(server)
        archive = open_at(server, archive=True).funding(symbols, QUARTER)
        of_months = requests(server)[len(rest_requests) :]

    for symbol in symbols:
        expected = truth(QUARTER, symbol)
        assert expected.height == 270
        assert rest.symbols[symbol].frame.equals(expected)
        assert archive.symbols[symbol].frame.equals(expected.with_columns(pl.lit(None, pl.Float64).alias("mark_price")))
        kinds = [origin.origin.partition(" ")[0] for origin in archive.symbols[symbol].origins]
        assert kinds == ["archive", "archive", "archive", "rest"]
        ends = [(origin.from_ms, origin.to_ms) for origin in archive.symbols[symbol].origins]
        assert [ends[0][0], *(end for _, end in ends)] == [*(start for start, _ in ends), QUARTER.end_ms]
    # A quarter fits one answer, and so does the present month.
    assert len(rest_requests) == len(of_months) == 2
    assert {record.query["startTime"] for record in of_months} == {str(month_start_ms(CLOCK_MS))}
    assert rest.notes == archive.notes == ()


def test_pages_follow_the_last_event():
    """Two years are three answers of up to 1,000 events, each beginning after the last event of the one before."""
    window = TimeRange(CLOCK_MS - 640 * DAY_MS, CLOCK_MS)
    with SimServer() as server:
        found = open_at(server).funding(("BTCUSDT",), window).symbols["BTCUSDT"].frame
        starts = [int(record.query["startTime"]) for record in requests(server)]
        limits = {record.query["limit"] for record in requests(server)}

    expected = truth(window)
    assert found.equals(expected)
    ts_ms = expected["ts"].dt.timestamp("ms").to_list()
    assert starts == [window.start_ms, ts_ms[999] + 1]
    assert expected.height == 1920
    assert limits == {"1000"}


@pytest.mark.parametrize(("start_ms", "end_ms"), [(-1, 1), (1, 5000), (13, 8 * HOUR_MS), (0, 8 * HOUR_MS + 1)])
def test_the_ends_of_a_window(start_ms, end_ms):
    """An event belongs to a window that begins at or before its millisecond and ends after it."""
    midnight_ms = CLOCK_MS // DAY_MS * DAY_MS
    window = TimeRange(midnight_ms + start_ms, midnight_ms + end_ms)
    with SimServer() as server:
        found = open_at(server).funding(("BTCUSDT",), window).symbols["BTCUSDT"].frame

    day = truth(TimeRange(midnight_ms - DAY_MS, CLOCK_MS))
    ts = pl.col("ts").dt.timestamp("ms")
    assert found.equals(day.filter((ts >= window.start_ms) & (ts < window.end_ms)))


def test_an_event_in_the_future_is_not_requested():
    """The window ends at the exchange's clock, whatever was asked for."""
    with SimServer() as server:
        wide = TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS + 90 * DAY_MS)
        found = [
            open_at(server, archive=archive).funding(("BTCUSDT",), wide).symbols["BTCUSDT"].frame.select("ts", "rate")
            for archive in (False, True)
        ]

    expected = truth(TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS)).select("ts", "rate")
    assert found[0].equals(expected)
    assert found[1].equals(expected)


def test_the_spot_market_has_no_funding():
    """Nothing is requested."""
    with SimServer() as server:
        assert open_at(server, market="spot").funding(("BTCUSDT",), QUARTER) is None
        assert server.log == []
    assert SimSource().funding(("BTCUSDT",), QUARTER) is None


# --- the other limit --------------------------------------------------------------------------------------------------


def test_the_limit_of_funding_rates_is_kept():
    """With 10 requests allowed in five minutes, 7 are sent, then the rest waits; weights reported do not count."""
    clock = JumpingClock()
    symbols = tuple(SimSource().symbols()[:20])
    with SimServer(funding_limit=10, monotonic=clock.monotonic_s) as server:
        source = open_at(server, clock=clock)
        source._funding_throttle.weight_limit = 10
        found = source.funding(symbols, QUARTER)
        records = requests(server)

    assert len(found.symbols) == 20
    assert {record.status for record in records} == {200}
    windows = [int((CLOCK_MS / 1000 + record.at_s) // 300) for record in records]
    assert max(len(list(group)) for _, group in itertools.groupby(windows)) <= 7
    assert clock.now_s > 300


@pytest.mark.parametrize("archive", [False, True])
def test_a_refusal_for_the_limit_is_waited_for(archive):
    """A 429 stops the requests for as long as the exchange says."""
    fault = Fault("status", endpoint="fundingRate", status=429, headers={"Retry-After": "30"})
    clock = JumpingClock()
    with SimServer(faults=[fault]) as server:
        found = open_at(server, archive=archive, clock=clock).funding(("BTCUSDT",), QUARTER)

    assert found.symbols["BTCUSDT"].frame.select("ts", "rate").equals(truth(QUARTER).select("ts", "rate"))
    assert clock.now_s >= 30


def test_the_server_refuses_requests_above_the_limit():
    """As the exchange does: 429 with Retry-After; candles are counted apart."""
    with SimServer(funding_limit=2) as server:
        source = open_at(server, max_wait_s=0)
        source.funding(("BTCUSDT", "ETHUSDT"), QUARTER)
        with pytest.raises(SourceError, match="HTTP 429"):
            source.funding(("BTCUSDT",), QUARTER)
        assert source.candles("BTCUSDT", TimeRange(CLOCK_MS - HOUR_MS, CLOCK_MS)).height == 60


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        ([Fault("bad_checksum", endpoint="fundingChecksum")], "has SHA-256"),
        ([Fault("corrupt_zip", endpoint="fundingArchive")], "BTCUSDT-fundingRate-2025-"),
        ([Fault("not_found", endpoint="fundingArchive")], "the archive has no BTCUSDT-fundingRate-2025-"),
        ([Fault("truncated_rows", endpoint="fundingArchive")], "the last line is cut short"),
        ([Fault("two_members", endpoint="fundingArchive")], "BTCUSDT-fundingRate-2025-"),
        ([Fault("zip_bomb", endpoint="fundingArchive", count=40)], "BTCUSDT-fundingRate-2025-"),
    ],
)
def test_a_month_that_is_damaged_is_taken_over_rest(faults, words):
    """It is never believed: the note says which file and why, and the rates are the true ones."""
    with SimServer(faults=faults) as server:
        found = open_at(server, archive=True).funding(("BTCUSDT",), QUARTER)

    assert found.symbols["BTCUSDT"].frame.select("ts", "rate").equals(truth(QUARTER).select("ts", "rate"))
    (note,) = found.notes
    assert words in note
    assert note.startswith("BTCUSDT 2025-0")
    assert note.endswith("funding rates taken over REST")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("short", endpoint="fundingRate"),
        Fault("status", endpoint="fundingRate", status=503),
        Fault("garbage", endpoint="fundingRate"),
        Fault("garbage", endpoint="fundingRate", body='{"code":0}'),
        Fault("garbage", endpoint="fundingRate", body='[{"symbol":"ETHUSDT","fundingTime":1,"fundingRate":"0"}]'),
        Fault("garbage", endpoint="fundingRate", body='[{"symbol":"BTCUSDT","fundingTime":1,"fundingRate":"0.1"}]'),
        Fault("reset", endpoint="fundingRate"),
    ],
)
def test_a_garbled_answer_is_requested_again(fault):
    """Cut, of another symbol, of another time, not JSON: the rates are the true ones."""
    with SimServer(faults=[fault]) as server:
        found = open_at(server).funding(("BTCUSDT",), QUARTER)

    assert found.symbols["BTCUSDT"].frame.equals(truth(QUARTER))


def events_json(frame):
    return json.dumps(
        [
            {"symbol": "BTCUSDT", "fundingTime": ts, "fundingRate": f"{rate:.8f}", "markPrice": ""}
            for ts, rate in zip(frame["ts"].dt.timestamp("ms"), frame["rate"], strict=True)
        ]
    )


def test_events_that_come_late_fill_their_gap():
    """An answer lacks three events; the gap is requested again, and the note counts them."""
    window = TimeRange(CLOCK_MS - 10 * DAY_MS, CLOCK_MS)
    whole = truth(window).with_columns(pl.lit(None, pl.Float64).alias("mark_price"))
    holed = pl.concat([whole.head(10), whole.tail(whole.height - 13)])
    faults = [Fault("garbage", endpoint="fundingRate", body=events_json(holed))]
    with SimServer(faults=faults) as server:
        found = open_at(server).funding(("BTCUSDT",), window)

    assert found.symbols["BTCUSDT"].frame.select("ts", "rate").equals(whole.select("ts", "rate"))
    assert found.notes == ("BTCUSDT: 3 funding events came only when requested again",)


def test_two_events_of_one_time_are_refused():
    """The host contradicts itself."""
    window = TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS)
    frame = truth(window)
    twice = pl.concat([frame, frame.head(1).with_columns(pl.lit(0.5).alias("rate"))])
    with (
        SimServer(faults=[Fault("garbage", endpoint="fundingRate", times=0, body=events_json(twice))]) as server,
        pytest.raises(InputError, match="a second, different event of this time"),
    ):
        open_at(server).funding(("BTCUSDT",), window)


# --- reading answers and files ---------------------------------------------------------------------------------------

EVENT = {"symbol": "BTCUSDT", "fundingTime": 1698768000003, "fundingRate": "-0.00012345", "markPrice": "34287.54619963"}


@pytest.mark.parametrize(("mark", "expected"), [("34287.5", 34287.5), ("", None), (None, None), ("0.00000000", None)])
def test_an_answer_is_read_exactly(mark, expected):
    """The time keeps its milliseconds; a mark price that is not stated is null."""
    body = json.dumps([{**EVENT, "markPrice": mark}]).encode()
    (row,) = read_funding_page(body, symbol="BTCUSDT", where="here").rows()

    assert format_ms(int(row[0].timestamp() * 1000)) == "2023-10-31T16:00:00.003Z"
    assert row[1:] == (-0.00012345, expected)
    assert read_funding_page(b"[]", symbol="BTCUSDT", where="here").is_empty()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"fundingTime": "soon"}, MalformedError),
        ({"fundingTime": True}, MalformedError),
        ({"fundingTime": -1}, MalformedError),
        ({"fundingTime": 1 << 60}, MalformedError),
        ({"fundingRate": None}, MalformedError),
        ({"fundingRate": 0.1}, MalformedError),
        ({"symbol": "ETHUSDT"}, MalformedError),
        ({"markPrice": 3}, MalformedError),
        ({"fundingRate": "abc"}, InputError),
        ({"fundingRate": ""}, InputError),
        ({"markPrice": "abc"}, InputError),
    ],
)
def test_an_answer_of_another_form(change, error):
    """It is requested again; a text that is no number is refused with its value."""
    with pytest.raises(error):
        read_funding_page(json.dumps([{**EVENT, **change}]).encode(), symbol="BTCUSDT", where="here")


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b"[1]", b"null", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_list(body):
    """It is requested again."""
    with pytest.raises(MalformedError):
        read_funding_page(body, symbol="BTCUSDT", where="here")


CSV = b"calc_time,funding_interval_hours,last_funding_rate\n1704067200000,8,0.00037409\n1704096000004,8,-0.00021\n"


def test_a_month_of_the_archive_is_read_exactly():
    """As the real files are: milliseconds, hours, the rate; any order of the columns."""
    frame = read_funding_csv(CSV, symbol="BTCUSDT", where="x.zip")
    turned = b"last_funding_rate,calc_time\n0.00037409,1704067200000\n-0.00021,1704096000004\n"

    assert frame["ts"].dt.timestamp("ms").to_list() == [1704067200000, 1704096000004]
    assert frame["rate"].to_list() == [0.00037409, -0.00021]
    assert frame["mark_price"].to_list() == [None, None]
    assert read_funding_csv(turned, symbol="BTCUSDT", where="x.zip").equals(frame)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "expected the columns"),
        (CSV.partition(b"\n")[2], "expected the columns"),
        (CSV.partition(b"\n")[0] + b"\n", "no funding events"),
        (CSV[:-3], "the last line is cut short: '1704096000004,8,-0.000'"),
        (CSV + b"1704124800000,8\n", "line 4 is not a funding event"),
        (CSV + b"soon,8,0.1\n", "line 4 is not a funding event"),
        (CSV + b"-1,8,0.1\n", "line 4"),
        (CSV + b"1704124800000,8,abc\n", "rate is 'abc': not a number"),
        (CSV + b"1704124800000,8,\n", "not a number"),
        (CSV + b"1704096000004,8,0.5\n", "a second, different event"),
        (CSV + b"\xff\xfe,8,1\n", "line 4"),
    ],
)
def test_a_month_of_another_form_is_refused(data, words):
    """With the file and the line or time."""
    with pytest.raises(InputError) as refused:
        read_funding_csv(data, symbol="BTCUSDT", where="x.zip")

    assert words in refused.value.message
    assert "x.zip: BTCUSDT" in refused.value.message


def test_months_follow_one_another():
    """Also over the end of a year, and from any millisecond of a month."""
    month_ms = month_start_ms(CLOCK_MS)
    names = [format_ms(month_ms := next_month_ms(month_ms)) for _ in range(5)]

    assert names == [f"{month}-01T00:00:00Z" for month in ("2025-11", "2025-12", "2026-01", "2026-02", "2026-03")]
    assert month_start_ms(month_ms - 1) == month_start_ms(next_month_ms(month_start_ms(month_ms - 40 * DAY_MS)))


# --- the simulated exchange ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"symbol": "BTCUSDT"}, 100),
        ({"symbol": "BTCUSDT", "limit": "1000"}, 1000),
        ({"symbol": "BTCUSDT", "startTime": str(QUARTER.start_ms)}, 100),
        ({"symbol": "BTCUSDT", "startTime": str(QUARTER.start_ms), "limit": "1000"}, 270),
        ({"symbol": "BTCUSDT", "startTime": str(QUARTER.start_ms), "endTime": str(QUARTER.start_ms + DAY_MS)}, 3),
    ],
)
def test_the_simulated_answers_are_those_documented(query, count):
    """Ascending; from the start on, or the latest ones; at most `limit`, 100 unless said otherwise."""
    answer = Exchange().answer(Request("/fapi/v1/fundingRate", query), CLOCK_MS)
    times = [event["fundingTime"] for event in json.loads(answer.body)]

    assert answer.status == 200
    assert len(times) == count
    assert times == sorted(times)
    if "startTime" in query:
        assert times[0] - QUARTER.start_ms < 8 * HOUR_MS
    else:
        assert CLOCK_MS - times[-1] < 8 * HOUR_MS


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/fapi/v1/fundingRate", {}, 400, -1102),
        ("/fapi/v1/fundingRate", {"symbol": "BTCUSD"}, 400, -1121),
        ("/fapi/v1/fundingRate", {"symbol": "BTCUSDT", "limit": "1001"}, 400, -1130),
        ("/fapi/v1/fundingRate", {"symbol": "BTCUSDT", "startTime": "2", "endTime": "1"}, 400, -1023),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "2", "endTime": "1"}, 400, -1023),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "1501"}, 400, -1130),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1s"}, 400, -1120),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT_251226", "interval": "1m"}, 400, -1121),
        ("/api/v3/fundingRate", {"symbol": "BTCUSDT"}, 404, None),
        ("/archive/data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2025-10.zip", {}, 404, None),
        ("/archive/data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2025-13.zip", {}, 404, None),
        ("/archive/data/futures/um/monthly/fundingRate/BTCUSDT/ETHUSDT-fundingRate-2025-09.zip", {}, 404, None),
        ("/archive/data/spot/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2025-09.zip", {}, 404, None),
        ("/archive/data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-2025-09.zip", {}, 200, None),
    ],
)
def test_the_simulated_refusals(path, query, status, code):
    """Codes as documented; the present month is not published yet."""
    answer = Exchange().answer(Request(path, query), CLOCK_MS)

    assert answer.status == status
    if code is not None:
        assert json.loads(answer.body)["code"] == code


def test_the_simulated_rates_are_of_a_sensible_size():
    """Every 8 hours, a few milliseconds late, mostly 0.01 %; the same for all intervals, and by seed and symbol."""
    frame = truth(QUARTER)
    late_ms = frame["ts"].dt.timestamp("ms").to_numpy() % (8 * HOUR_MS)

    assert late_ms.max() <= 12
    assert frame["rate"].abs().max() < 1e-3
    assert 0.4 < (frame["rate"] == 1e-4).mean() < 0.8
    hourly = SimSource(interval="1h", market="usdm").funding(("BTCUSDT",), QUARTER).symbols["BTCUSDT"].frame
    assert hourly.select("ts", "rate").equals(frame.select("ts", "rate"))
    others = [
        truth(QUARTER, "ETHUSDT"),
        SimSource(seed=1, market="usdm").funding(("BTCUSDT",), QUARTER).symbols["BTCUSDT"].frame,
    ]
    assert not any(other["rate"].equals(frame["rate"]) for other in others)
    closes = SimSource(market="usdm").candles("BTCUSDT", TimeRange(QUARTER.start_ms, CLOCK_MS))
    before = closes.filter(pl.col("ts") < frame["ts"][5])
    assert frame["mark_price"][5] == before["close"][-2] or frame["mark_price"][5] == before["close"][-1]
