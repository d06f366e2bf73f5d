"""Laws of the exchange as a source: its requests, the answers it accepts, and the cache folders of its candles."""

from __future__ import annotations

import asyncio
import http.server
import json
import random
import tempfile
import threading
import urllib.parse
from pathlib import Path

import httpx
import polars as pl
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.errors import InputError, SourceError, UsageError
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.archive import ArchiveSource
from mltrain.sources.binance import BinanceSource
from mltrain.sources.day_cache import SymbolDays
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.simulated_market import CLOCK_MS, GENESIS_MS, SimSource
from mltrain.sources.source_spec import PUBLIC_ARCHIVE, PUBLIC_REST, SourceSpec
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, TimeRange, format_ms
from support.downloads import download_pages


class JumpingClock:
    """A clock whose waits pass at once."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, seconds):
        self.now_s += seconds


def open_at(server, **rules):
    chance = random.Random(0)  # noqa: S311 -- repeatable
    return BinanceSource("1m", server.base_url, rules=NetworkRules(**rules), clock=JumpingClock(), rng=chance)


def snapshot(server, data_dir, *, days=1, symbols=("BTCUSDT",), progress=None):
    request, spec = SnapshotRequest(symbols, days, "1m"), SourceSpec("binance", base_url=server.base_url)
    silent = progress or Silent()
    return take_snapshot(data_dir, open_at(server), spec, request, now_ms=CLOCK_MS, progress=silent).snapshot


# --- cache folders ---------------------------------------------------------------------------------------------------

names = st.from_regex(r"[A-Za-z0-9_.-]{1,30}", fullmatch=True)
addresses = st.tuples(
    st.sampled_from(["https://", "HTTPS://", "http://"]),
    st.one_of(names, st.sampled_from(["127.0.0.1", "[::1]", "localhost", "a_b", "a_1", "a"])),
    st.sampled_from(["", ":1", ":8000", ":65535"]),
    st.sampled_from(["", "/", "/x", "/x/y/", "/../x", "/%2e%2e", "/X", "/\"'`[]{}", "/" + "y" * 300]),
).map("".join)


@given(addresses)
def test_every_address_has_a_folder(address):
    """Every allowed host has a folder in the cache."""
    try:
        sources = [BinanceSource("1m", address), ArchiveSource("1m", address), ArchiveSource("1m", archive_url=address)]
    except UsageError:
        assume(False)
    for source in sources:
        SymbolDays(Path("cache"), source.cache_name, "BTCUSDT", "1m")


@given(addresses, addresses)
@example("http://[::1]:1", "http://[::1]:8000")
@example("https://a_1", "https://a:1")
@example("https://a/x", "https://a/y")
def test_two_hosts_have_two_folders(one, other):
    """Another host, or another path on it, is another market; case makes no difference."""
    try:
        urls = [BinanceSource("1m", address).base_url for address in (one, other)]
    except UsageError:
        assume(False)
    folders = [BinanceSource("1m", url).cache_name for url in urls]

    is_same = urls[0].partition("://")[2] == urls[1].partition("://")[2]
    assert (folders[0] == folders[1]) == is_same


def test_the_public_hosts_have_the_plain_names():
    """However their addresses are written, and only if all of them are the public ones."""
    rest, archive = PUBLIC_REST.upper().replace("HTTPS", "https"), f"{PUBLIC_ARCHIVE}/"

    assert BinanceSource("1m", rest).cache_name == "binance"
    assert ArchiveSource("1m", rest, archive).cache_name == "archive"
    others = {
        ArchiveSource("1m", base, files).cache_name
        for base in (PUBLIC_REST, "https://a.example")
        for files in (PUBLIC_ARCHIVE, "https://a.example/files", "https://b.example")
        if (base, files) != (PUBLIC_REST, PUBLIC_ARCHIVE)
    }
    assert len(others) == 5
    assert "archive" not in others


# --- clocks, limits and symbols --------------------------------------------------------------------------------------


@pytest.mark.parametrize("into_ms", [0, 1, 30_000, 59_999])
def test_an_open_candle_is_never_taken(tmp_path, into_ms):
    """At any time within a minute, only candles closed by the exchange's clock are returned."""
    with SimServer(clock_ms=CLOCK_MS + into_ms) as server:
        taken = snapshot(server, tmp_path)
        direct = open_at(server).candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS + DAY_MS))

    true = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS))
    assert taken.candles("BTCUSDT").equals(true)
    assert direct.equals(true)


def test_a_window_without_a_closed_candle_is_empty():
    """The current minute, the future and an empty window have no rows and need no request."""
    with SimServer(clock_ms=CLOCK_MS + 30_000) as server:
        source = open_at(server)
        frames = [
            source.candles("BTCUSDT", TimeRange(CLOCK_MS + start_ms, CLOCK_MS + end_ms))
            for start_ms, end_ms in ((0, MINUTE_MS), (DAY_MS, 2 * DAY_MS), (-MINUTE_MS, -MINUTE_MS))
        ]
        requested = [record for record in server.log if record.path.endswith("klines")]

    assert all(frame.equals(pl.DataFrame(schema=CANDLE_SCHEMA)) for frame in frames)
    assert requested == []


@pytest.mark.parametrize("skew_s", [-3600, 3600, -601, 601])
def test_clocks_that_disagree_stop_everything(tmp_path, skew_s):
    """The error names both times, and no candle is requested."""
    with SimServer(faults=[Fault("clock_skew", endpoint="exchangeInfo", times=0, seconds=skew_s)]) as server:
        with pytest.raises(SourceError) as caught:
            snapshot(server, tmp_path)
        requested = [record for record in server.log if record.path.endswith("klines")]

    assert format_ms(CLOCK_MS) in caught.value.message
    assert format_ms(CLOCK_MS + skew_s * 1000) in caught.value.message
    assert requested == []
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("skew_s", [-599, 599, 0])
def test_the_earlier_of_two_clocks_counts(skew_s):
    """A cached answer may be minutes old: only candles closed by both clocks are returned."""
    with SimServer(faults=[Fault("clock_skew", endpoint="exchangeInfo", times=0, seconds=skew_s)]) as server:
        source = open_at(server)
        source.check_symbols(("BTCUSDT",))

    assert source.clock_ms(("BTCUSDT",)) == CLOCK_MS + min(skew_s, 0) * 1000


@pytest.mark.parametrize("time_text", ["-1", "0", "true", "1.5", '"1760529600000"', "null", "9" * 30, "[]", "1e400"])
def test_an_invalid_time_is_requested_again(time_text):
    """It is given up after the sixth attempt."""
    faults = [Fault("garbage", endpoint="time", body=f'{{"serverTime":{time_text}}}', times=0)]
    with SimServer(faults=faults) as server:
        with pytest.raises(SourceError, match=r"its time: .* \(asked 6 times\)"):
            open_at(server).clock_ms(())
        assert len(server.log) == 6


def info(**changes):
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}
    plain = {"serverTime": CLOCK_MS, "rateLimits": [limit], "symbols": [{"symbol": "BTCUSDT"}]}
    return json.dumps({**plain, **changes})


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 1200}], 1200),
        ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 5, "limit": 10}], 6000),
        ([{"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": 10}], 6000),
        *(
            ([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": limit}], 6000)
            for limit in (0, -1, 10**9, "7", None, 1.5)
        ),
        ([], 6000),
        ([None, 1, "x", [], {}], 6000),
    ],
)
def test_the_limit_is_what_the_exchange_says(limits, expected):
    """A valid weight limit of the exchange is used, and the budget follows it."""
    with SimServer(faults=[Fault("garbage", endpoint="exchangeInfo", body=info(rateLimits=limits))]) as server:
        source = open_at(server)
        source.check_symbols(("BTCUSDT",))

    assert source._throttle.weight_limit == expected


@pytest.mark.parametrize(
    "body",
    [
        *("[]", "null", "{}", "1", '"x"', "{", "", info(serverTime="x"), info(rateLimits={}), info(symbols=None)),
        *('{"serverTime":1,"serverTime":2}', "[" * 100_000, info(more=[[]] * 3)[:-1]),
    ],
)
def test_an_invalid_exchange_info_is_requested_again(body):
    """It may be transient: the sixth answer counts."""
    with SimServer(faults=[Fault("garbage", endpoint="exchangeInfo", body=body, times=5)]) as server:
        open_at(server).check_symbols(("BTCUSDT",))

        assert len([record for record in server.log if record.path.endswith("exchangeInfo")]) == 6


@pytest.mark.parametrize("symbols", [[None, 1, {}, {"symbol": 7}, {"symbol": "ETHUSDT"}], []])
def test_a_symbol_that_the_answer_lacks_is_unknown(symbols):
    """Whatever other entries the list has."""
    fault = Fault("garbage", endpoint="exchangeInfo", body=info(symbols=symbols))
    with SimServer(faults=[fault]) as server, pytest.raises(InputError, match="has no symbol 'BTCUSDT'"):
        open_at(server).check_symbols(("BTCUSDT",))


@pytest.mark.parametrize("symbol", ["BTCUSDX", "BTCUSTD", "BTCUSD"])
def test_an_unknown_symbol_is_refused_with_the_nearest(tmp_path, symbol):
    """It is refused before any candle is requested, and nothing is written."""
    with SimServer() as server:
        with pytest.raises(InputError) as caught:
            snapshot(server, tmp_path, symbols=("ETHUSDT", symbol))
        requested = [record for record in server.log if record.path.endswith("klines")]

    assert f"has no symbol '{symbol}'" in caught.value.message
    assert "did you mean" in caught.value.hint
    assert "BTCUSDT" in caught.value.hint
    assert requested == []
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_extent_reaches_from_the_first_candle_to_the_last_closed_one():
    """Both ends come from answers of the exchange."""
    first = SimSource().candles("BTCUSDT", TimeRange(GENESIS_MS, GENESIS_MS + DAY_MS))
    with SimServer(clock_ms=CLOCK_MS + 30_000) as server:
        assert open_at(server).extent("BTCUSDT") == TimeRange(int(times_ms(first)[0]), CLOCK_MS)


def test_the_extent_of_a_symbol_that_is_traded_no_more_ends_at_its_last_candle():
    """The exchange still lists it, and its clock goes on."""
    last_ms = CLOCK_MS - 40 * DAY_MS
    with SimServer() as server:

        class Delisting(http.server.BaseHTTPRequestHandler):
            """Passes requests on to the simulated exchange, whose newest candles it withholds."""

            def do_GET(self):
                path, _, text = self.path.partition("?")
                query = dict(urllib.parse.parse_qsl(text))
                if path.endswith("/klines"):
                    query["endTime"] = str(min(int(query.get("endTime", last_ms)), last_ms))
                body = httpx.get(f"{server.base_url}{path}", params=query, trust_env=False).content
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Delisting) as delisting:
            threading.Thread(target=delisting.serve_forever, args=(0.01,), daemon=True).start()
            source = BinanceSource("1h", f"http://127.0.0.1:{delisting.server_address[1]}")
            extent = source.extent("BTCUSDT")
            delisting.shutdown()

    assert extent == TimeRange(SimSource(interval="1h").extent("BTCUSDT").start_ms, last_ms + HOUR_MS)


# --- gaps -----------------------------------------------------------------------------------------------------------

STEP_MS = 15 * MINUTE_MS
MIDNIGHT_MS = CLOCK_MS // DAY_MS * DAY_MS


def grid(missing):
    """Return half a day of 15-minute candles without some slots."""
    candles = SimSource(interval="15m").candles("BTCUSDT", TimeRange(MIDNIGHT_MS, CLOCK_MS))
    gone = [MIDNIGHT_MS + slot * STEP_MS for slot in missing]
    return candles.filter(~pl.col("ts").dt.timestamp("ms").is_in(gone))


class Late:
    """Returns pages without some candles, and applies a change to repeated requests."""

    def __init__(self, candles, pages_lack, change):
        self.candles = candles
        self.lacking = candles.filter(~pl.col("ts").dt.timestamp("ms").is_in(pages_lack))
        self.change = change
        self.again = []

    async def fetch_page(self, _, window):
        await asyncio.sleep(0)
        ts_ms = times_ms(self.lacking)
        return self.lacking.filter((ts_ms >= window.start_ms) & (ts_ms < window.end_ms))

    async def fetch_first(self, _, start_ms, *, limit):
        self.again.append(start_ms)
        return self.change(self.candles.filter(times_ms(self.candles) >= start_ms).head(limit), len(self.again))


def download(pages):
    """Return the candles from midnight to the clock, requested by one worker, eight per page."""
    window = TimeRange(MIDNIGHT_MS, CLOCK_MS)
    with tempfile.TemporaryDirectory() as folder:
        options = {"clock_ms": CLOCK_MS, "workers": 1, "page_candles": 8}
        return download_pages(pages, "BTCUSDT", window, Path(folder), **options)


slots = st.lists(st.integers(0, 47), unique=True, max_size=20)


@given(slots, slots, st.integers(1, 8))
def test_every_gap_is_requested_again_however_short_the_answers(missing, late, share):
    """An answer may have fewer rows than requested: the rest is requested, too."""
    candles = grid(missing)
    assume(candles.height)
    pages = Late(candles, [MIDNIGHT_MS + slot * STEP_MS for slot in late], lambda rows, _: rows.head(share))

    assert download(pages).equals(candles)
    assert len(set(pages.again)) == len(pages.again)


def test_the_open_candle_is_no_contradiction():
    """Two answers about gaps near the end may differ in the candle that is still open."""
    candles = grid([])
    open_ts = pl.lit(CLOCK_MS).cast(pl.Datetime("ms", "UTC"))

    def with_open(rows, number):
        return pl.concat([rows, candles.tail(1).with_columns(ts=open_ts, volume=pl.lit(float(number)))])

    late = [MIDNIGHT_MS + slot * STEP_MS for slot in (10, 11, 12, 30, 47)]
    pages = Late(candles, late, with_open)

    assert download(pages).equals(candles)
    assert len(pages.again) >= 2
