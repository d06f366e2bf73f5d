"""Laws of the simulated exchange as a server: the behaviour of the real one, and exactly the market's candles."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import socket
import zipfile
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.errors import MachineError, UsageError
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.simulator.weight_meter import BAN_S, GRACE_S, WeightMeter
from mltrain.simulator.wire import MICROS_FROM_MS, write_number, write_page
from mltrain.sources.simulated_market import CLOCK_MS, GENESIS_MS, LAST_CLOCK_MS, SimSource
from mltrain.times import DAY_MS, INTERVALS_MS, MINUTE_MS, TimeRange, floor_to_grid

FLOATS = [name for name in CANDLE_SCHEMA if name not in {"ts", "trades"}]
PLACES = dict(
    zip(
        ("ts", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades",
         "taker_buy_base", "taker_buy_quote"),
        range(11), strict=True,
    )
)  # fmt: skip


@contextmanager
def open_client(**options):
    """Yield a server and a client of it."""
    with SimServer(**options) as server, httpx.Client(base_url=server.base_url, trust_env=False) as client:
        yield server, client


@pytest.fixture(scope="module")
def served():
    """Return a server whose clock is in the middle of a minute, and a client."""
    with open_client(seed=3, clock_ms=CLOCK_MS + 30_000, weight_limit=10**9) as found:
        yield found


@pytest.fixture
def klines(served):
    """Return a function that gets a page as rows."""
    _, client = served

    def get(**query):
        answer = client.get("/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m", **query})
        assert answer.status_code == 200, answer.text
        return answer.json()

    return get


def page_through(klines, symbol, interval, start_ms, end_ms):
    """Return all rows of a range, read page by page."""
    rows = []
    while start_ms < end_ms:
        page = klines(symbol=symbol, interval=interval, startTime=start_ms, endTime=end_ms - 1, limit=1000)
        if not page:
            break
        rows += page
        start_ms = page[-1][0] + 1
    return rows


def assert_same_values(rows, frame, step_ms, *, scale=1):
    """Every value of the rows reads back as exactly the double of the frame."""
    assert [int(row[0]) for row in rows] == [ts * scale for ts in times_ms(frame).tolist()]
    assert [int(row[6]) for row in rows] == [(ts + step_ms) * scale - 1 for ts in times_ms(frame).tolist()]
    assert [int(row[8]) for row in rows] == frame["trades"].to_list()
    for name in FLOATS:
        assert [float(row[PLACES[name]]) for row in rows] == frame[name].to_list(), name


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_pages_hold_exactly_the_markets_candles(klines, interval):
    """Over all pages each closed candle occurs once, and every value reads back bit for bit."""
    step = INTERVALS_MS[interval]
    end_ms = floor_to_grid(CLOCK_MS, step)
    window = TimeRange(end_ms - min(2500 * step, max(500 * DAY_MS, 500 * step)), end_ms)
    rows = page_through(klines, "SOLUSDT", interval, window.start_ms, window.end_ms)
    frame = SimSource(seed=3, interval=interval).candles("SOLUSDT", window)

    assert_same_values(rows, frame, step)
    assert frame.height > 400
    assert all(len(row) == 12 and row[11] == "0" for row in rows)
    assert all(isinstance(row[i], int) == (i in {0, 6, 8}) for row in rows[:5] for i in range(12))


def test_an_outage_is_a_gap_in_a_page(klines):
    """Candles of an outage are missing, so a page of 1000 rows covers a longer time."""
    opens = times_ms(SimSource(seed=3).candles("BTCUSDT", TimeRange(CLOCK_MS - 20 * DAY_MS, CLOCK_MS - DAY_MS)))
    # The last candle before a gap.
    gap = int(opens[:-1][np.diff(opens) > MINUTE_MS][0])
    rows = klines(startTime=gap - 10 * MINUTE_MS, limit=1000)

    assert len(rows) == 1000
    assert [row[0] for row in rows][:11][-1] == gap
    assert rows[11][0] > gap + 15 * MINUTE_MS


@pytest.mark.parametrize("value", [0.1, 1.0, 123456789.12345678, 1e-12, 9.2e10, 0.30000000000000004, 5e-324])
def test_numbers_are_written_to_be_read_back(value):
    """Numbers have eight decimals where those are exact, otherwise all digits."""
    assert float(write_number(value)) == value


def test_a_page_is_chosen_as_the_real_exchange_does(klines):
    """Both bounds are inclusive open times; without a start the newest rows; 500 by default, at most 1000."""
    start, end = CLOCK_MS - 100 * MINUTE_MS, CLOCK_MS - 90 * MINUTE_MS
    opens = [row[0] for row in klines(startTime=start, endTime=end)]

    assert opens == [*range(start, end + 1, MINUTE_MS)]
    assert [row[0] for row in klines(startTime=start + 1, endTime=end - 1)] == opens[1:-1]
    assert [row[0] for row in klines(startTime=start, endTime=end, limit=3)] == opens[:3]
    assert [row[0] for row in klines(endTime=end, limit=3)] == opens[-3:]
    assert [row[0] for row in klines(startTime=start, limit=3)] == opens[:3]
    assert [row[0] for row in klines(limit=2)] == [CLOCK_MS - MINUTE_MS, CLOCK_MS]
    assert len(klines()) == 500
    assert len(klines(limit=5000)) == 1000
    assert klines(startTime=end, endTime=start) == []
    assert klines(startTime=CLOCK_MS + MINUTE_MS) == []
    assert klines(endTime=GENESIS_MS - 1) == []
    assert klines(startTime=0, limit=1)[0][0] == GENESIS_MS


@given(st.integers(-5, 3000), st.integers(-5, 3000), st.integers(1, 1000), st.booleans())
def test_any_page_is_a_part_of_the_whole(first, last, limit, has_start):
    """A page holds the first rows of its range, or the last ones where no start is given."""
    source = SimSource(seed=3, end_ms=LAST_CLOCK_MS)
    base = GENESIS_MS + 20 * DAY_MS
    clock = base + 2000 * MINUTE_MS + 1
    start, end = base + first * MINUTE_MS // 2, base + last * MINUTE_MS // 2
    page = json.loads(
        write_page(
            source, "BTCUSDT", first_ms=start if has_start else None, last_ms=end, limit=limit, clock_ms=clock
        )
    )  # fmt: skip
    window = TimeRange(start if has_start else GENESIS_MS, min(end, clock) + 1)
    opens = times_ms(SimSource(seed=3, end_ms=LAST_CLOCK_MS).candles("BTCUSDT", window)).tolist()

    assert [row[0] for row in page] == (opens[:limit] if has_start else opens[-limit:])


@pytest.mark.parametrize("past_ms", [0, 1, 30_000, MINUTE_MS - 1])
def test_the_open_candle_is_incomplete(past_ms):
    """The newest row closes after the clock, is valid, and differs from the final candle; all others are final."""
    with open_client(seed=3, clock_ms=CLOCK_MS + past_ms) as (_, client):
        rows = client.get("/api/v3/klines", params={"symbol": "BTCUSDT", "interval": "1m", "limit": 3}).json()
    later = SimSource(seed=3, end_ms=CLOCK_MS + DAY_MS)
    final = later.candles("BTCUSDT", TimeRange(CLOCK_MS, CLOCK_MS + MINUTE_MS)).row(0, named=True)
    open_, high, low, close, volume = map(float, rows[-1][1:6])

    assert rows[-1][0] == CLOCK_MS
    assert rows[-1][6] >= CLOCK_MS + past_ms
    assert_same_values(rows[:-1], later.candles("BTCUSDT", TimeRange(CLOCK_MS - 2 * MINUTE_MS, CLOCK_MS)), MINUTE_MS)
    assert final["low"] <= low <= min(open_, close) <= max(open_, close) <= high <= final["high"]
    assert (open_, volume < final["volume"], rows[-1][8] < final["trades"]) == (final["open"], True, True)


def test_the_clock_stands_or_runs_and_can_be_set():
    """A fixed clock shows the time it was set to; a running one adds the time since."""
    seconds = [100.0]
    for ticking, passed_ms in ((False, 0), (True, 2500)):
        with open_client(ticking=ticking, monotonic=lambda: seconds[0]) as (server, client):
            seconds[0] += 2.5
            shown = client.get("/api/v3/time").json()
            server.set_clock(CLOCK_MS + DAY_MS)
            later = client.get("/api/v3/time").json()
            with pytest.raises(UsageError):
                server.set_clock(0)

        assert shown == {"serverTime": CLOCK_MS + passed_ms}
        assert later == {"serverTime": CLOCK_MS + DAY_MS}


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("klines", {}, 400, -1102),
        ("klines", {"symbol": "BTCUSDT"}, 400, -1102),
        ("klines", {"symbol": "", "interval": "1m"}, 400, -1102),
        ("klines", {"symbol": "BTCUSD", "interval": "1m"}, 400, -1121),
        ("klines", {"symbol": "BTC/USDT", "interval": "1m"}, 400, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1M"}, 400, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "soon"}, 400, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "endTime": "-1"}, 400, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "endTime": ""}, 400, -1105),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "0"}, 400, -1130),
        ("exchangeInfo", {"symbol": "BTCUSD"}, 400, -1121),
        ("exchangeInfo", {"symbols": '["BTCUSDT","X"]'}, 400, -1121),
        ("exchangeInfo", {"symbols": "BTCUSDT"}, 400, -1100),
        ("exchangeInfo", {"symbols": "[]"}, 400, -1100),
        ("exchangeInfo", {"symbols": '["BTCUSDT"]', "symbol": "BTCUSDT"}, 400, -1128),
        ("depth", {}, 404, None),
    ],
)
def test_a_wrong_request_is_refused_with_the_exchanges_code(served, path, query, status, code):
    """Each mistake has the real exchange's status and code."""
    answer = served[1].get(f"/api/v3/{path}", params=query)

    assert answer.status_code == status
    assert code is None or answer.json()["code"] == code


def _entry(symbol, base):
    traded = {"status": "TRADING", "isSpotTradingAllowed": True}
    return {"symbol": symbol, "baseAsset": base, "quoteAsset": "USDT", **traded}


def test_exchange_info_lists_symbols_and_limits(served):
    """It has all symbols, one, or some, the weight limit per minute, and the clock."""
    _, client = served
    info, one, some = (
        client.get("/api/v3/exchangeInfo", params=query).json()
        for query in ({}, {"symbol": "ETHUSDT"}, {"symbols": '["BTCUSDT","SIM01"]'})
    )

    assert [s["symbol"] for s in info["symbols"]] == list(SimSource().symbols())
    assert info["serverTime"] == CLOCK_MS + 30_000
    assert info["rateLimits"][0] == {
        "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 10**9
    }  # fmt: skip
    assert one["symbols"] == [_entry("ETHUSDT", "ETH")]
    assert [s["symbol"] for s in some["symbols"]] == ["BTCUSDT", "SIM01"]


def test_weight_is_counted_by_the_minute():
    """Each endpoint adds its weight, the header has the sum, and a new minute starts at zero."""
    seconds = [0.0]
    used = []
    with open_client(monotonic=lambda: seconds[0], clock_ms=CLOCK_MS + 50_000) as (_, client):
        for path, after_s in (("time", 0), ("ping", 0), ("klines", 0), ("exchangeInfo", 9.9), ("time", 0.2)):
            seconds[0] += after_s
            headers = client.get(f"/api/v3/{path}").headers
            used.append(int(headers["x-mbx-used-weight-1m"]))
            assert headers["x-mbx-used-weight"] == headers["x-mbx-used-weight-1m"]

    assert used == [1, 2, 4, 24, 1]


def test_above_the_limit_come_429_and_then_418():
    """Above the limit: 429 until the minute is over; a client that continues is banned for longer."""
    seconds = [0.0]
    seen = []
    with open_client(monotonic=lambda: seconds[0], weight_limit=3) as (server, client):
        for after_s in (0, 0, 0, 0, GRACE_S, 1, 100, 200):
            seconds[0] += after_s
            answer = client.get("/api/v3/time")
            seen.append((answer.status_code, answer.headers.get("retry-after")))
        log = server.log

    assert seen[:3] == [(200, None)] * 3
    assert seen[3:5] == [(429, "60"), (429, "60")]
    assert seen[5] == (418, str(60 + BAN_S - 1))
    assert seen[6] == (418, str(60 + BAN_S - 101))
    assert seen[7] == (200, None)
    assert [(a.status, a.retry_after) for a in log] == [(s, r or "") for s, r in seen]
    assert [a.weight_used for a in log][:6] == [1, 2, 3, 4, 5, 6]


def test_the_archive_has_no_weight(served):
    """The weight limit applies to the REST endpoints only."""
    server, client = served
    client.get(f"{server.archive_url}/data/spot/daily/klines/BTCUSDT/1m/none.zip")

    assert server.log[-1].weight_used == 0
    assert server.log[-1].status == 404


@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 40))), st.integers(1, 60))
def test_the_meter_lets_no_minute_cost_more_than_its_limit(steps, limit):
    """The answers with status 200 of a minute never exceed the limit; a refusal ends with the minute."""
    meter, now_s, spent = WeightMeter(limit), 1000.0, {}
    for weight, after_s in steps:
        now_s += after_s
        charge = meter.charge(weight, now_s)
        if charge.status == 200:
            spent[now_s // 60] = spent.get(now_s // 60, 0) + weight
        else:
            assert charge.retry_after_s >= 1

    assert all(total <= limit for total in spent.values())


@pytest.mark.parametrize(
    ("interval", "day_ms"),
    [("1m", CLOCK_MS - 2 * DAY_MS), ("1m", MICROS_FROM_MS - 1), ("1h", CLOCK_MS - 3 * DAY_MS)],
)
def test_an_archive_holds_the_days_rows_and_its_checksum(served, klines, interval, day_ms):
    """The zip matches its checksum and has the rows of REST, in microseconds from 2025 on."""
    server, client = served
    start = day_ms // DAY_MS * DAY_MS
    name = f"ETHUSDT-{interval}-{np.datetime64(start, 'ms').astype('datetime64[D]')}"
    url = f"{server.archive_url}/data/spot/daily/klines/ETHUSDT/{interval}/{name}.zip"
    data, checksum = client.get(url).content, client.get(f"{url}.CHECKSUM").text
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = archive.namelist()
        rows = [line.split(",") for line in archive.read(members[0]).decode().splitlines()]
    scale = 1000 if start >= MICROS_FROM_MS else 1
    frame = SimSource(seed=3, interval=interval).candles("ETHUSDT", TimeRange(start, start + DAY_MS))

    assert checksum == f"{hashlib.sha256(data).hexdigest()}  {name}.zip\n"
    assert members == [f"{name}.csv"]
    assert_same_values(rows, frame, INTERVALS_MS[interval], scale=scale)
    rest = page_through(klines, "ETHUSDT", interval, start, start + DAY_MS)
    assert [row[1:6] + row[7:8] + row[9:] for row in rows] == [row[1:6] + row[7:8] + row[9:] for row in rest]


@pytest.mark.parametrize("lag_days", [0, 1, 3])
def test_the_archive_lacks_the_newest_days(lag_days):
    """A day is available once it is over and the lag has passed, and none before the first candle."""
    names = {n: np.datetime64(CLOCK_MS - n * DAY_MS, "ms").astype("datetime64[D]") for n in range(6)}
    with open_client(archive_lag_days=lag_days) as (server, client):
        root = f"{server.archive_url}/data/spot/daily/klines"
        found = {n: client.get(f"{root}/BTCUSDT/1m/BTCUSDT-1m-{d}.zip.CHECKSUM").status_code for n, d in names.items()}
        others = [
            client.get(f"{root}/{rest}").status_code
            for rest in (
                "BTCUSDT/1m/BTCUSDT-1m-2023-12-31.zip", "BTCUSDT/1m/BTCUSDT-1m-2025-13-01.zip",
                "BTCUSD/1m/BTCUSD-1m-2025-01-01.zip", "BTCUSDT/7m/BTCUSDT-7m-2025-01-01.zip",
            )
        ]  # fmt: skip

    assert found == {n: 200 if n > lag_days else 404 for n in names}
    assert others == [404] * 4


def test_the_log_has_every_request():
    """Each record is in the log before its answer is sent, in order; the callback gets the same records."""
    heard = []
    with open_client(on_answer=heard.append) as (server, client):
        for query in ({"symbol": "BTCUSDT", "interval": "1m", "limit": "2"}, {"symbol": "X"}):
            answer = client.get("/api/v3/klines", params=query)
            record = server.log[-1]

            assert (record.path, record.query, record.symbol) == ("/api/v3/klines", query, query["symbol"])
            assert (record.status, record.sent_bytes) == (answer.status_code, len(answer.content))
        taken = server.log
        taken.clear()
        log = server.log

    assert heard == log
    assert [a.weight_used for a in log] == [2, 4]
    assert log[0].at_s <= log[1].at_s
    assert {a.fault for a in log} == {""}


def read_answer(stream):
    """Return status line and body of the next answer from a socket's file."""
    head = list(iter(stream.readline, b"\r\n"))
    length = next(int(line.split(b":")[1]) for line in head if line.lower().startswith(b"content-length"))
    return head[0], stream.read(length)


def test_a_connection_serves_many_requests_until_it_is_closed():
    """Pipelined requests are answered in order; `Connection: close`, other methods and noise end it."""
    ask = b"GET /api/v3/time HTTP/1.1\r\nHost: x\r\n\r\n"
    last = (ask[:-2] + b"Connection: close\r\n\r\n", b"POST /api/v3/time HTTP/1.1\r\nHost: x\r\n\r\n", b"noise\r\n\r\n")
    with SimServer() as server:
        for words in last:
            with socket.create_connection(server.base_url.removeprefix("http://").split(":")) as peer:
                peer.sendall(ask + ask + words)
                with peer.makefile("rb") as stream:
                    answers = [read_answer(stream) for _ in range(3)]
                    rest = stream.read()

            assert [line.split()[1] for line, _ in answers][:2] == [b"200", b"200"]
            assert (answers[2][0].split()[1] == b"200") == (b"GET" in words)
            assert rest == b""


def test_an_endless_head_is_refused():
    """A request head of more than 64 kB is refused."""
    with SimServer() as server, socket.create_connection(server.base_url[7:].split(":")) as peer:
        peer.sendall(b"GET /" + b"x" * 70_000)

        assert peer.recv(1) == b""


def test_it_listens_on_the_loopback_only():
    """The address is 127.0.0.1; a port in use is a machine error."""
    with SimServer() as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        with pytest.raises(MachineError, match=port), SimServer(port=int(port)):
            pass

    assert host == "127.0.0.1"
    assert server.archive_url == f"{server.base_url}/archive"


def test_stopping_closes_every_connection():
    """Idle connections are closed, and so is one that a fault would hold open for an hour."""
    with SimServer(faults=[Fault("hang", endpoint="ping")]) as server:
        address = server.base_url[7:].split(":")
        idle, held = socket.create_connection(address), socket.create_connection(address)
        held.sendall(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in itertools.takewhile(lambda _: not server.log, itertools.count()):
            pass
    with idle, held:
        assert (idle.recv(1), held.recv(1)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_latency_and_signal_are_as_given():
    """A delayed answer is unchanged; another signal makes another market."""
    query = {"symbol": "BTCUSDT", "interval": "1m"}
    with open_client(latency_ms=1) as (_, late), open_client() as (_, plain), open_client(signal="weak") as (_, weak):
        bodies = [client.get("/api/v3/klines", params=query).content for client in (late, plain, weak)]

    assert bodies[0] == bodies[1] != bodies[2]
    with pytest.raises(UsageError):
        SimServer(signal="strongest")
    with pytest.raises(UsageError):
        SimServer(clock_ms=0)


def test_an_answer_may_end_after_its_record_was_dropped(monkeypatch):
    """The log holds the newest records; a slow answer is still reported, and not put back."""
    monkeypatch.setattr("mltrain.simulator.server._MAX_RECORDS", 3)
    reported = []
    fault = Fault("hang", endpoint="ping", seconds=1.0)
    with open_client(faults=[fault], on_answer=reported.append) as (server, client):
        host, port = server.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"GET /api/v3/ping HTTP/1.1\r\nHost: x\r\n\r\n")
            for _ in itertools.takewhile(lambda _: not server.log, itertools.count()):
                pass
            for _ in range(5):
                client.get("/api/v3/time")
            assert slow.recv(1) == b""
        paths = [record.path for record in server.log]

    assert paths == ["/api/v3/time"] * 3
    assert reported[-1].path == "/api/v3/ping"
    assert reported[-1].fault == "hang"
