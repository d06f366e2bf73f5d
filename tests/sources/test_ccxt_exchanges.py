"""Laws of the source `ccxt:EXCHANGE` with six real exchanges, whose documented answers a local server gives.

The classes of ccxt are real; only their pauses between requests are skipped.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from dataclasses import replace

import polars as pl
import pytest

from mltrain.candles.frame import OPTIONAL, times_ms
from mltrain.errors import InputError, SourceError, UsageError
from mltrain.progress import Silent
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.ccxt_source import CcxtSource
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, TimeRange, floor_to_grid, format_ms
from support.jumping_clock import JumpingClock
from support.recorded_exchanges import SELECT, recorded, rows_of, serve

pytest.importorskip("ccxt", reason="needs the extra [ccxt]")
pytestmark = pytest.mark.usefixtures("_no_pauses_of_ccxt")

FIRST_MS = CLOCK_MS - 4 * MINUTE_MS
RECORDED = [
    [FIRST_MS, 110.1, 112.5, 109.2, 111.4, 7.25],
    [FIRST_MS + MINUTE_MS, 111.4, 113.0, 110.9, 112.75, 3.5],
    [FIRST_MS + 2 * MINUTE_MS, 112.75, 112.75, 112.75, 112.75, 0.0],
    [FIRST_MS + 3 * MINUTE_MS, 112.8, 114.2, 111.6, 111.7, 12.125],
]
ALL = list(SELECT)


def source_of(exchange, base_url, **options):
    spec = SourceSpec(f"ccxt:{exchange}", base_url=base_url, **options)
    return open_source(spec), spec


@pytest.mark.parametrize("exchange", ALL)
def test_a_recorded_answer_gives_its_candles(exchange):
    """Each column has the numbers of its name, whatever the order; the candle that is still open is left out."""
    symbol = recorded(exchange).symbol
    with serve(exchange, clock_ms=CLOCK_MS + 30_000) as (base_url, _):
        source, _ = source_of(exchange, base_url)
        frame = source.candles(symbol, TimeRange(FIRST_MS, CLOCK_MS + HOUR_MS))

    numbers = [[ts, *row[1:6]] for ts, row in zip(times_ms(frame).tolist(), frame.rows(), strict=True)]
    assert numbers == RECORDED
    assert all(frame[name].null_count() == frame.height for name in OPTIONAL)


def market_until(clock_ms, candles):
    """Return so many candles of the simulated market, moved so that the last of them is still open at the clock.

    Two gaps are inside, one of them longer than a page of most exchanges.
    """
    frame = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - candles * MINUTE_MS, CLOCK_MS))
    shift_ms = floor_to_grid(clock_ms, MINUTE_MS) + MINUTE_MS - CLOCK_MS
    frame = frame.with_columns(pl.col("ts") + pl.duration(milliseconds=shift_ms))
    at = pl.int_range(pl.len())
    gap = at.is_between(candles // 3, candles // 3 + 9) | at.is_between(candles // 2, candles // 2 + 320)
    absent = [pl.lit(None, frame[name].dtype).alias(name) for name in OPTIONAL]
    return frame.filter(~gap).with_columns(absent)


def inside(frame, window):
    ts_ms = times_ms(frame)
    return frame.filter((ts_ms >= window.start_ms) & (ts_ms < window.end_ms))


# ccxt chooses other requests for candles that are old by the machine's clock; gate refuses those.
OLD = [exchange for exchange in ALL if exchange != "gate"]


@pytest.mark.parametrize(
    ("exchange", "clock_ms"),
    [*((exchange, CLOCK_MS + 30_000) for exchange in OLD), *((exchange, None) for exchange in ALL)],
)
def test_pages_are_put_together_as_each_exchange_cuts_them(exchange, clock_ms, tmp_path):
    """Two days in a snapshot, through the cache: every candle that the exchange has, and no other."""
    clock_ms = clock_ms or int(time.time() * 1000)
    market = market_until(clock_ms, 2400)
    symbol = recorded(exchange).symbol
    with serve(exchange, clock_ms=clock_ms, rows=rows_of(market)) as (base_url, requests):
        source, spec = source_of(exchange, base_url)
        request = SnapshotRequest((symbol,), 1, "1m")
        taken = take_snapshot(tmp_path, source, spec, request, now_ms=clock_ms, progress=Silent())
        extent = source.extent(symbol)
    snapshot = taken.snapshot
    expected = inside(market, snapshot.window)
    if exchange == "kraken":
        expected = inside(market[-720:], snapshot.window)

    assert snapshot.candles(symbol).equals(expected)
    assert snapshot.window.end_ms == floor_to_grid(clock_ms, MINUTE_MS)
    candle_requests = [query for path, query in requests if "time" not in path.lower()]
    assert len(candle_requests) < 60
    first = market[-720:] if exchange == "kraken" else market
    assert extent == TimeRange(int(times_ms(first)[0]), snapshot.window.end_ms)


def test_an_exchange_with_its_newest_candles_only_says_so(tmp_path):
    """Kraken: days that it does not keep are requested once, not page by page; the note names its first candle."""
    market = market_until(CLOCK_MS, 2400)
    with serve("kraken", clock_ms=CLOCK_MS, rows=rows_of(market)) as (base_url, requests):
        source, spec = source_of("kraken", base_url)
        request = SnapshotRequest(("BTCUSD",), 90, "1m")
        taken = take_snapshot(tmp_path, source, spec, request, now_ms=CLOCK_MS, progress=Silent())
        asked = [query for path, query in requests if path.endswith("OHLC")]
        request = SnapshotRequest(("BTCUSD",), 1, "1m", CLOCK_MS - 3 * DAY_MS)
        with pytest.raises(InputError, match=r"has no candles of BTCUSD from 2025-10-11.*it has those from"):
            take_snapshot(tmp_path, source, spec, request, now_ms=CLOCK_MS, progress=Silent())

    oldest = format_ms(int(times_ms(market[-720:])[0]))
    note = f"BTCUSD: {source.host} answers with its newest candles only, from {oldest} on: it does not return earlier"
    assert any(each.startswith(note) for each in taken.snapshot.notes)
    # 90 days are 181 pages.
    assert len(asked) < 20


def test_regular_snapshots_collect_what_kraken_forgets(tmp_path):
    """The cache keeps the days: two snapshots ten hours apart have more than the 720 candles of one answer."""
    clocks_ms = [CLOCK_MS, CLOCK_MS + 10 * HOUR_MS]
    whole = rows_of(market_until(clocks_ms[1], 2400))
    rows = [row for row in whole if row.ts <= clocks_ms[0]]
    now_ms, oldest_ms = clocks_ms[0], rows[-720].ts
    with serve("kraken", clock_ms=lambda: now_ms, rows=rows) as (base_url, _):
        for now_ms in clocks_ms:
            rows += [row for row in whole if rows[-1].ts < row.ts <= now_ms]
            source, spec = source_of("kraken", base_url)
            request = SnapshotRequest(("BTCUSD",), 2, "1m")
            taken = take_snapshot(tmp_path, source, spec, request, now_ms=now_ms, progress=Silent())

    expected = [row.ts for row in whole if oldest_ms <= row.ts < now_ms]
    assert len(expected) > 900
    assert times_ms(taken.snapshot.candles("BTCUSD")).tolist() == expected


def test_history_that_an_exchange_refuses_is_an_error(tmp_path):
    """Gate refuses candles of more than 10,000 intervals ago, in words that the message repeats."""
    now_ms = int(time.time() * 1000)
    with serve("gate", clock_ms=now_ms, rows=rows_of(market_until(now_ms, 2400))) as (base_url, _):
        source, spec = source_of("gate", base_url)
        request = SnapshotRequest(("BTCUSDT",), 30, "1m")
        with pytest.raises(SourceError, match="Maximum 10000 points ago are allowed") as caught:
            take_snapshot(tmp_path, source, spec, request, now_ms=now_ms, progress=Silent())

    assert "--days" in caught.value.hint
    assert not list(tmp_path.glob("snapshots/[!.]*"))


JUNK = [0, "x", [], {}, [None], [[]], [["x"]], {"data": None}, {"result": {"list": [[]], "XXBTZUSD": [[1, 2]]}}]
JUNK += [
    {"candles": [1], "code": "0", "data": [[str(FIRST_MS)]]},
    {"error": [[]], "retCode": [], "code": {}, "label": 3},
]


@pytest.mark.parametrize("exchange", ALL)
def test_junk_is_no_candle_and_no_crash(exchange):
    """Whatever JSON an exchange sends, the end is our error, or no candle."""
    ends = []
    for answer in JUNK:
        with serve(exchange, clock_ms=CLOCK_MS, answer=answer) as (base_url, _):
            source = CcxtSource(exchange, "1m", base_url, clock=JumpingClock())
            try:
                ends.append(source.candles(recorded(exchange).symbol, TimeRange(FIRST_MS, CLOCK_MS)).height)
            except (InputError, SourceError) as err:
                ends.append(str(err))

    assert all(end == 0 or exchange in str(end) for end in ends)
    assert any(end != 0 for end in ends)


def test_rows_off_the_grid_are_left_out_and_counted(tmp_path):
    """As in Binance's history of 2018: rows that open 15 s late belong to two minutes each."""
    market = rows_of(market_until(CLOCK_MS, 2400))
    odd = [replace(row, ts=row.ts + 15_000) for row in market[-600:-570]]
    rows = market[:-600] + odd + market[-570:]
    with serve("bybit", clock_ms=CLOCK_MS, rows=rows) as (base_url, _):
        source, spec = source_of("bybit", base_url)
        request = SnapshotRequest(("BTCUSDT",), 1, "1m")
        taken = take_snapshot(tmp_path, source, spec, request, now_ms=CLOCK_MS, progress=Silent())

    expected = [row.ts for row in market[:-600] + market[-570:] if row.ts < CLOCK_MS]
    window = taken.snapshot.window
    assert times_ms(taken.snapshot.candles("BTCUSDT")).tolist() == [t for t in expected if t >= window.start_ms]
    assert any("30 rows of the exchange's history left out" in note for note in taken.snapshot.notes)


def test_days_of_another_midnight_are_refused():
    """Days that begin at 16:00 UTC are not UTC days."""
    days = SimSource(interval="1d").candles("BTCUSDT", TimeRange(CLOCK_MS - 40 * DAY_MS, CLOCK_MS))
    rows = [replace(row, ts=row.ts - 8 * HOUR_MS) for row in rows_of(days)]
    with serve("bybit", clock_ms=CLOCK_MS, rows=rows) as (base_url, _):
        source, _ = source_of("bybit", base_url, interval="1d")
        with pytest.raises(InputError, match="not on the grid of 1d candles"):
            source.candles("BTCUSDT", TimeRange(CLOCK_MS - 30 * DAY_MS, CLOCK_MS))


def test_a_proxy_is_used_if_the_rules_name_one():
    """The only connection that is made is to the proxy; its failure is one of the network."""
    first_lines = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        server.first_lines = first_lines
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        rules = NetworkRules(proxy=f"http://127.0.0.1:{server.server_address[1]}", deadline_s=5.0)
        source = CcxtSource("kraken", "1m", rules=rules, clock=JumpingClock())
        with pytest.raises(SourceError, match="kraken: its markets: "):
            source.symbols()
        server.shutdown()

    assert set(first_lines) == {b"CONNECT api.kraken.com:443 HTTP/1.1\r\n"}


class Proxy(socketserver.StreamRequestHandler):
    """A proxy that connects to nothing."""

    def handle(self):
        self.server.first_lines.append(self.rfile.readline())
        self.wfile.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


def test_every_exchange_of_ccxt_can_be_opened_or_is_refused():
    """All of their addresses are replaced by the user's; those without candles are usage errors."""
    import ccxt

    from mltrain.sources.ccxt_client import _make_exchange

    opened, refused = set(), []
    for exchange_id in ccxt.exchanges:
        try:
            opened.add(CcxtSource(exchange_id, "1h").exchange)
        except UsageError as err:
            refused.append(err.message)
        addresses = json.dumps(_make_exchange(exchange_id, None, "http://127.0.0.1:1", "spot").urls["api"])
        assert "https://" not in addresses
        assert "wss://" not in addresses

    assert all("offers no candles" in message or "no candles of 1h" in message for message in refused)
    assert len(opened) > 80
    assert {"kraken", "okx", "coinbase", "bybit", "bitget", "gate", "kucoin", "bitstamp"} <= opened


def test_candles_of_another_interval_are_refused():
    """An exchange that answers with hours where minutes were requested is no source of minutes."""
    market = SimSource(interval="1h").candles("BTCUSDT", TimeRange(CLOCK_MS - 40 * HOUR_MS, CLOCK_MS))
    with serve("bybit", clock_ms=CLOCK_MS, rows=rows_of(market)) as (base_url, _):
        source, _ = source_of("bybit", base_url)
        with pytest.raises(InputError, match="60 minutes apart, not of 1m"):
            source.candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS))
