"""Laws of the source `ccxt:EXCHANGE`: the real client of ccxt against the simulated exchange.

Its pauses between requests, of some 50 ms, are skipped; the tests of the command line have them.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

import polars as pl
import pytest

from mltrain.candles.frame import OPTIONAL
from mltrain.errors import InputError, MachineError, SourceError, UsageError
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.ccxt_source import CcxtPages, CcxtSource, map_symbols, read_rows
from mltrain.sources.fetch_candles import fetch_candles
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.opening import open_recorded, open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, TimeRange, parse_time
from support.jumping_clock import JumpingClock
from support.program import MLTRAIN, NEUTRAL, call

pytest.importorskip("ccxt", reason="needs the extra [ccxt]")
pytestmark = pytest.mark.usefixtures("_no_pauses_of_ccxt")

SYMBOLS = ("BTCUSDT", "ETHUSDT")
WINDOW = TimeRange(CLOCK_MS - 2 * DAY_MS, CLOCK_MS)


def klines(kind, **options):
    return Fault(kind, endpoint="klines", **options)


def open_at(server, **rules):
    """Return ccxt's Binance, pointed at a server, with a clock that jumps over every wait."""
    rules = NetworkRules(**{"connections": 3, "deadline_s": 5.0} | rules)
    rng = random.Random(0)  # noqa: S311 -- repeatable
    return CcxtSource("binance", "1m", server.base_url, rules=rules, clock=JumpingClock(), rng=rng)


def take(server, data_dir, *, symbols=("BTCUSDT",), days=1, **rules):
    spec = SourceSpec("ccxt:binance", base_url=server.base_url)
    request = SnapshotRequest(symbols, days, "1m")
    return take_snapshot(data_dir, open_at(server, **rules), spec, request, now_ms=CLOCK_MS, progress=Silent())


def true_candles(symbol, window=WINDOW, **market):
    """Return the market's candles as ccxt can return them: without the columns that it lacks."""
    frame = SimSource(**market).candles(symbol, window)
    return frame.with_columns(pl.lit(None, frame[name].dtype).alias(name) for name in OPTIONAL)


def check_true(snapshot):
    for symbol in snapshot.symbols:
        assert snapshot.candles(symbol).equals(true_candles(symbol, snapshot.window))
    assert verify_snapshot(snapshot) == ()


@pytest.mark.parametrize("market", ["spot", "usdm"])
def test_it_takes_the_same_snapshot_as_our_own_client(market, tmp_path):
    """Every column that both have is equal, gaps included; the others are null. The manifest names the exchange."""
    frames, gaps = {}, {}
    with SimServer() as server:
        for name in ("binance", "ccxt:binance"):
            spec = SourceSpec(name, base_url=server.base_url, market=market)
            request = SnapshotRequest(SYMBOLS, 3, "1m")
            taken = take_snapshot(tmp_path / name, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent())
            frames[name] = [taken.snapshot.candles(symbol) for symbol in SYMBOLS]
            gaps[name] = [facts.gaps for facts in taken.snapshot.facts]
        snapshot, port = taken.snapshot, server.base_url.rpartition(":")[2]
        api = {"spot": "/api/v3/klines", "usdm": "/fapi/v1/klines"}[market]
        paths = {r.path for r in server.log if r.path.endswith("klines")}

    assert paths == {api}
    assert gaps["binance"] == gaps["ccxt:binance"] != [(), ()]
    for ours, theirs in zip(*frames.values(), strict=True):
        assert theirs.drop(OPTIONAL).equals(ours.drop(OPTIONAL))
        assert all(theirs[name].null_count() == theirs.height for name in OPTIONAL)
    assert snapshot.source == SourceSpec("ccxt:binance", base_url=server.base_url, market=market)
    assert snapshot.host == f"binance@127.0.0.1:{port}"
    assert "ccxt" in dict(snapshot.tools)
    folder = f"ccxt{'' if market == 'spot' else '-usdm'}@binance.127.0.0.1_{port}"
    assert [path.name for path in (tmp_path / "ccxt:binance" / "cache").glob("c*")] == [folder]


@pytest.mark.parametrize("interval", ["1m", "1h", "1w"])
def test_every_interval_ends_with_the_newest_closed_candle(interval):
    """The open candle, which the exchange sends too, is left out by the exchange's clock."""
    ahead_ms = {"1m": MINUTE_MS, "1h": HOUR_MS}.get(interval, 14 * DAY_MS)
    window = TimeRange(CLOCK_MS - 30 * ahead_ms, CLOCK_MS + ahead_ms)
    with SimServer() as server:
        source = open_source(SourceSpec("ccxt:binance", base_url=server.base_url, interval=interval))
        frame = source.candles("BTCUSDT", window)
        extent = source.extent("BTCUSDT")
        own = open_source(SourceSpec("binance", base_url=server.base_url, interval=interval)).extent("BTCUSDT")

    assert frame.equals(true_candles("BTCUSDT", window, interval=interval))
    assert extent == own


def test_the_library_fetches_candles(tmp_path):
    """`fetch_candles` takes the same specification, and keeps the days in the cache."""
    with SimServer() as server:
        spec = SourceSpec("ccxt:binance", base_url=server.base_url, interval="1h")
        asked = {"start": "2025-10-14", "spec": spec, "data_dir": tmp_path}
        frames = [fetch_candles(["BTCUSDT"], **asked)["BTCUSDT"] for _ in range(2)]
        pages = [r for r in server.log if r.path.endswith("klines")]

    assert frames[0].equals(frames[1])
    assert frames[0].height == 36
    # The second time, only the present day may be requested again.
    assert len(pages) <= 2


@dataclass
class Case:
    """Faults that the simulated exchange acts out, and the error with parts of its message; None: the true candles."""

    faults: list[Fault]
    error: type[Exception] | None = None
    words: tuple[str, ...] = ()
    rules: dict[str, float] = field(default_factory=dict)


def status(code, **options):
    return klines("status", status=code, **options)


CASES = {
    "a wait": Case([status(429, headers={"Retry-After": "20"}, times=2)]),
    "a wait without its length": Case([status(429)]),
    "a ban, short": Case([status(418, headers={"Retry-After": "100"})]),
    "two bans, with answers in between": Case(
        [status(418, headers={"Retry-After": "100"}), status(418, headers={"Retry-After": "100"}, nth=3)],
        rules={"connections": 1},
    ),
    "a ban, long": Case(
        [status(418, headers={"Retry-After": "259200"})], SourceError, ("too many requests", "max-wait")
    ),
    "no patience": Case([status(429, headers={"Retry-After": "5"})], SourceError, ("in 5 s",), {"max_wait_s": 0.0}),
    "unwell for a while": Case([status(503, times=3), status(500, nth=5)]),
    "unwell": Case([status(502, times=0)], SourceError, ("502", "asked 6 times", "what came is kept")),
    "a region": Case([status(451, times=0)], SourceError, ("451", "your region")),
    "a firewall": Case([status(403, times=0)], SourceError, ("firewall",)),
    "another exchange at that address": Case(
        [Fault("status", endpoint="exchangeInfo", status=404, times=0)], SourceError, ("its markets", "--base-url")
    ),
    "bytes lost": Case(
        [klines("short"), klines("reset", nth=2), klines("cut_chunk", nth=3), klines("empty_body", nth=4)]
    ),
    "no length": Case([klines("no_length_cut", times=3)]),
    "garbage": Case([klines("garbage"), klines("html", nth=2), Fault("garbage", endpoint="exchangeInfo")]),
    "nothing but garbage": Case([klines("garbage", times=0)], SourceError, ("not JSON", "asked 6 times")),
    "another type": Case([klines("wrong_type", times=0)]),
    "a drip": Case([klines("drip_body", times=0)], SourceError, ("no whole answer within 0.3 s",), {"deadline_s": 0.3}),
    "a bomb": Case([klines("gzip_bomb", times=0, count=20)], SourceError, ("more than 4194304 bytes",)),
    "a big answer": Case([klines("big_body", times=0, count=6)], SourceError, ("more than 4194304 bytes",)),
    "a redirect": Case([klines("redirect", times=0, value="https://evil.example/")], SourceError, ("not followed",)),
    "rows twice and in disorder": Case([klines("duplicate_rows", count=9), klines("shuffle_rows", nth=2)]),
    "rows that come late": Case([klines("drop_rows", count=40), klines("drop_rows", nth=3, count=300)]),
    "the rows before": Case([klines("overlap", times=0)]),
    "a price that is none": Case(
        [klines("bad_value", times=0, value="abc")], InputError, ("close is missing: not a number",)
    ),
    "a price of zero": Case([klines("bad_value", times=0, field="low", value="0")], InputError, ("low is 0.0",)),
    "microseconds": Case([klines("micros", times=0)], InputError, ("not a time",)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_costs_time_or_ends_clearly(case, tmp_path):
    """The true candles; or the documented error, no snapshot, and no temporary file."""
    with SimServer(faults=case.faults) as server:
        if case.error is None:
            check_true(take(server, tmp_path, **case.rules).snapshot)
        else:
            with pytest.raises(case.error) as caught:
                take(server, tmp_path, **case.rules)
            message = f"{caught.value.message} {caught.value.hint}"
            assert all(word in message for word in case.words), message
            assert not list(tmp_path.glob("snapshots/[!.]*"))
            assert not list(tmp_path.rglob("*.tmp*"))
        assert any(record.fault for record in server.log), "the fault never took effect"


def kept_days(data_dir):
    """Return the symbol and the midnight, ms UTC, of each whole day in the cache."""
    paths = [path for path in data_dir.glob("cache/*/*/1m/*.json") if ".part" not in path.name]
    return {(path.parts[-3], parse_time(path.stem)) for path in paths}


def requested_days(records):
    """Return the symbol and the midnight, ms UTC, of each day of which a whole page was requested."""
    pages = [(r.symbol, int(r.query["startTime"]), int(r.query["limit"])) for r in records if r.symbol]
    # The candle before the page is requested too, and gaps a second time.
    return {
        (symbol, at_ms // DAY_MS * DAY_MS)
        for symbol, start_ms, limit in pages
        if limit > 100
        for at_ms in (start_ms + MINUTE_MS, start_ms + (limit - 1) * MINUTE_MS)
    }


def test_no_request_is_sent_twice_after_a_failure(tmp_path):
    """A server that dies midway leaves the finished days in the cache; the next run requests only the others."""
    with SimServer(faults=[status(502, times=0, symbol="ETHUSDT")]) as server:
        port = int(server.base_url.rpartition(":")[2])
        with pytest.raises(SourceError):
            take(server, tmp_path, symbols=SYMBOLS, days=2)
    kept = kept_days(tmp_path)
    with SimServer(port=port) as server:
        check_true(take(server, tmp_path, symbols=SYMBOLS, days=2).snapshot)
        again = requested_days(server.log)

    assert kept
    assert not kept & again


def test_a_killed_run_is_resumed(tmp_path):
    """After SIGTERM, the same command requests the days that are missing; the candles are the true ones."""
    with SimServer(latency_ms=100) as server:
        words = ["snapshot", "--source", "ccxt:binance", "--base-url", server.base_url, "--days", "3"]
        words += ["--symbols", "BTC/USDT,ETH/USDT"]
        command = [MLTRAIN, *words, "--data-dir", str(tmp_path), "--quiet"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=NEUTRAL)
        limit_s = time.monotonic() + 60
        while not kept_days(tmp_path):
            assert process.poll() is None
            assert time.monotonic() < limit_s
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        kept, seen = kept_days(tmp_path), len(server.log)
        done = call(*words, "--json", data_dir=tmp_path)
        again = requested_days(server.log[seen:])

    assert process.returncode == 128 + signal.SIGTERM
    assert done.code == 0, done.err
    check_true(open_snapshot(tmp_path, "latest"))
    assert done.document["traffic"]["weight_limit"] == 0
    assert not kept & again


def test_a_damaged_snapshot_is_rebuilt_from_the_exchange(tmp_path):
    """The manifest alone opens the exchange again, if it is on this machine."""
    with SimServer() as server:
        snapshot = take(server, tmp_path, symbols=SYMBOLS).snapshot
        (snapshot.path / "BTCUSDT.parquet").write_bytes(b"damaged")
        source = open_recorded(snapshot.source)
        files = rebuild_snapshot(snapshot, source, data_dir=tmp_path / "other", progress=Silent())

    assert [file.outcome for file in files] == ["rebuilt", "sound"]


def test_a_manifest_does_not_choose_a_host():
    """Another host than this machine needs the user's --base-url; the exchange's own addresses do not."""
    with pytest.raises(InputError, match="cannot make this machine connect"):
        open_recorded(SourceSpec("ccxt:kraken", base_url="https://evil.example"))

    assert open_recorded(SourceSpec("ccxt:kraken")).host == "kraken"
    chosen = open_recorded(SourceSpec("ccxt:kraken", base_url="https://a.example"), base_url="https://b.example")
    assert chosen.host == "kraken@b.example"


REFUSED = {
    "an exchange that ccxt does not know": ({"exchange": "krakn"}, UsageError, "kraken"),
    "an exchange without candles": ({"exchange": "zaif"}, UsageError, "another exchange"),
    "an interval that it lacks": (
        {"exchange": "kraken", "interval": "3m"},
        UsageError,
        "1m, 5m, 15m, 30m, 1h, 4h, 1d, 1w",
    ),
    "a test network": ({"base_url": "https://testnet.binance.vision"}, UsageError, ""),
}


@pytest.mark.parametrize(("options", "error", "hint"), REFUSED.values(), ids=REFUSED)
def test_what_an_exchange_lacks_is_refused_before_any_request(options, error, hint):
    """The hint names what there is."""
    with pytest.raises(error) as caught:
        CcxtSource(**{"exchange": "binance", "interval": "1m"} | options)

    assert hint in (caught.value.hint or "")


def test_symbols_are_read_as_ccxt_writes_them(tmp_path):
    """BTC/USDT, btc-usdt and BTCUSDT are one spot market; a perpetual needs its market, as its candles are others."""
    with SimServer() as server:
        source = open_source(SourceSpec("ccxt:binance", base_url=server.base_url))
        assert {source.read_symbol(text) for text in ("BTC/USDT", "btc/usdt", "btc-usdt", "BTCUSDT")} == {"BTCUSDT"}
        with pytest.raises(InputError, match="no symbol 'BTCUSDX'") as unknown:
            source.check_symbols(("BTCUSDX",))
        words = ["snapshot", "--source", "ccxt:binance", "--base-url", server.base_url, "--symbols", "BTC/USDT:USDT"]
        refused = call(*words, "--days", "1", data_dir=tmp_path)
        taken = call(*words, "--days", "1", "--market", "usdm", "--json", data_dir=tmp_path)

    assert "BTCUSDT" in unknown.value.hint
    assert refused.code == 2
    assert "--market usdm" in refused.err
    assert taken.code == 0, taken.err
    assert taken.document["snapshot"]["source"]["market"] == "usdm"


def market_of(symbol, **options):
    """Return a market as ccxt describes it."""
    base, _, rest = symbol.partition("/")
    quote, _, settle = rest.partition(":")
    kinds = {"spot": not settle, "swap": bool(settle), "linear": settle == quote}
    return {symbol: {"symbol": symbol, "base": base, "quote": quote, "settle": settle, **kinds, **options}}


def test_each_market_has_its_symbols():
    """Coin-margined, delivery and odd markets are left out; a symbol that may mean two markets names both."""
    names = ("ABC/DUSD", "ABCD/USD", "BTC/USD", "币/USDT", "BTC/USD:USD", "BTC/USD:BTC")
    markets = {name: market for each in names for name, market in market_of(each).items()}
    markets |= market_of("ETH/USD:USD-251226", swap=False, linear=True)
    markets |= market_of("BTC/EUR:BTNL", spot=True, swap=False)

    assert map_symbols(markets, "spot") == {"ABCDUSD": ["ABC/DUSD", "ABCD/USD"], "BTCUSD": ["BTC/USD"]}
    assert map_symbols(markets, "usdm") == {"BTCUSD": ["BTC/USD:USD"]}


def test_a_symbol_of_two_markets_is_refused():
    """Which of them is meant cannot be known."""
    source = CcxtSource("kraken", "1m")
    source._markets, source._symbols = {}, {"ABCDUSD": ["ABCD/USD", "ABC/DUSD"]}
    with pytest.raises(InputError, match="may be ABC/DUSD or ABCD/USD"):
        source.check_symbols(("ABCDUSD",))


def test_volumes_in_contracts_are_said():
    """The size of a contract is known, but not whether the exchange sends contracts or coins."""
    source = CcxtSource("gate", "1m", market="usdm")
    source._markets = market_of("BTC/USDT:USDT", contractSize=0.0001) | market_of("ETH/USDT:USDT", contractSize=1.0)
    source._symbols = map_symbols(source._markets, "usdm")
    source.check_symbols(SYMBOLS)

    assert source.notes() == ("gate: volumes may count contracts, not coins: BTCUSDT (0.0001 coins)",)


class ForgetfulClient:
    """Answers its first request with its newest candles, and later ones as requested."""

    where = "here"

    def __init__(self, end_ms):
        self.end_ms, self.is_first = end_ms, True

    async def fetch_candles(self, market, interval, *, since_ms, limit, symbol, subject):
        del market, interval, symbol, subject
        first_ms = self.end_ms - 50 * MINUTE_MS if self.is_first else since_ms
        self.is_first = False
        times = range(first_ms, min(first_ms + limit * MINUTE_MS, self.end_ms), MINUTE_MS)
        return [[ts, 1.0, 1.0, 1.0, 1.0, 1.0] for ts in times]


def test_one_answer_with_the_newest_candles_is_not_believed_forever():
    """What is requested a second time decides; the note that the exchange keeps no others is withdrawn."""
    oldest_ms = {}
    pages = CcxtPages(ForgetfulClient(CLOCK_MS), "1m", 100, CLOCK_MS, str, oldest_ms)
    window = TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS - DAY_MS + 99 * MINUTE_MS)

    assert asyncio.run(pages.fetch_page("BTCUSDT", window)).is_empty()
    assert oldest_ms == {"BTCUSDT": CLOCK_MS - 50 * MINUTE_MS}
    assert asyncio.run(pages.fetch_first("BTCUSDT", window.start_ms, limit=99)).height == 99
    assert oldest_ms == {}


ROW = [CLOCK_MS, 1.0, 2.0, 0.5, 1.5, 3.0]
BAD_ROWS = {
    "too short": [ROW[:5]],
    "no row": [None],
    "a text": [[*ROW[:4], "1.5", 3.0]],
    "no volume": [[*ROW[:5], None]],
    "a time in µs": [[CLOCK_MS * 1000, *ROW[1:]]],
    "a time with a fraction": [[CLOCK_MS + 0.5, *ROW[1:]]],
    "a negative time": [[-1, *ROW[1:]]],
    "a huge number": [[CLOCK_MS, 10**400, *ROW[2:]]],
    "true": [[CLOCK_MS, True, *ROW[2:]]],
    "two candles of one time": [ROW, [*ROW[:5], 4.0]],
}


@pytest.mark.parametrize("rows", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_row_that_is_no_candle_is_refused(rows):
    """The message names the exchange and the symbol."""
    with pytest.raises(InputError, match="kraken: BTCUSD"):
        read_rows(rows, symbol="BTCUSD", where="kraken")


def test_the_clock_of_the_machine_is_used_where_the_exchange_has_none(monkeypatch):
    """Bitstamp has no request for its time: the machine's must be passed, and goes on."""
    with SimServer() as server:
        source = open_at(server)
        source._now_ms = CLOCK_MS - 90_000
        client = source._ccxt.CcxtClient
        monkeypatch.setattr(client, "has_time", False)
        before_ms = source.clock_ms(("BTCUSDT",))
        source._clock.now_s += 60
        source.renew_clock()
        after_ms = source.clock_ms(("BTCUSDT",))
        frame = source.candles("BTCUSDT", TimeRange(CLOCK_MS - HOUR_MS, CLOCK_MS + HOUR_MS))
        source._now_ms = None
        source.renew_clock()
        with pytest.raises(UsageError, match="does not tell its time"):
            source.clock_ms(("BTCUSDT",))

    assert before_ms == CLOCK_MS - 90_000
    assert after_ms == CLOCK_MS - 30_000
    assert int(frame["ts"].dt.timestamp("ms").max()) == CLOCK_MS - 2 * MINUTE_MS


def test_without_the_package_the_message_says_how_to_install_it(monkeypatch):
    """Exit code 8, and one command for each way of installing."""
    monkeypatch.setitem(sys.modules, "ccxt", None)
    monkeypatch.delitem(sys.modules, "mltrain.sources.ccxt_client", raising=False)
    monkeypatch.delattr("mltrain.sources.ccxt_client", raising=False)
    with pytest.raises(MachineError, match="package ccxt, which is not installed") as caught:
        CcxtSource("kraken", "1m")

    assert caught.value.exit_code == 8
    assert "pip install 'mltrain-lgbm[ccxt]'" in caught.value.hint
    assert "pipx inject mltrain-lgbm ccxt" in caught.value.hint


def test_a_run_without_it_does_not_import_ccxt():
    """It takes most of a second."""
    code = "import sys, mltrain.cli, mltrain.sources.opening, mltrain.sources.ccxt_source; print('ccxt' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


def test_the_command_line_refuses_clearly(tmp_path):
    """An unknown source and an unknown exchange are usage errors, with the nearest names."""
    assert call("snapshot", "--source", "krakn", data_dir=tmp_path).code == 2
    done = call("snapshot", "--source", "ccxt:krakn", data_dir=tmp_path)
    assert done.code == 2
    assert "did you mean kraken" in done.err
    assert replace(SourceSpec("ccxt:kraken"), interval="1h").exchange == "kraken"
