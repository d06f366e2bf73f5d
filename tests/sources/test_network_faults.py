"""Under any fault of the network or the exchange: the candles of a clean run, or one clear error and nothing written.

Waits are waited by a clock of the test, which jumps, so that no test sleeps; the exchange's log shows when it
was asked by that clock.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from functools import cache

import pytest

from mltrain.candles.frame import content_sha256
from mltrain.errors import InputError, SourceError
from mltrain.progress import Silent
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot import verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.archive import ArchiveSource
from mltrain.sources.binance import BinanceSource
from mltrain.sources.network_rules import NetworkRules
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, TimeRange, format_ms
from support.downloads import requested_pages

SYMBOLS = ("BTCUSDT", "ETHUSDT")
MIDDLE_MS = CLOCK_MS - DAY_MS + 1234 * 60_000
MIDDLE = format_ms(MIDDLE_MS)
FIRST_DAY_MS = CLOCK_MS // DAY_MS * DAY_MS - DAY_MS


class JumpingClock:
    """A clock whose waits pass at once, for all waiting tasks."""

    def __init__(self):
        self.now_s = 0.0
        self.waits = []

    def monotonic_s(self):
        return self.now_s

    async def sleep(self, seconds):
        self.waits.append(seconds)
        until_s = self.now_s + seconds
        await asyncio.sleep(0)
        self.now_s = max(self.now_s, until_s)


@dataclass
class Case:
    """The faults and the expected end: None for the candles of a clean run, otherwise the error and its words."""

    faults: list[Fault]
    error: type[Exception] | None = None
    words: tuple[str, ...] = ()
    archive: bool = False
    rules: dict = field(default_factory=dict)


def klines(kind, **options):
    return Fault(kind, endpoint="klines", **options)


def status(code, *, times=1, retry_after=None, endpoint="klines", **options):
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Fault("status", endpoint=endpoint, status=code, headers=headers, times=times, **options)


def zipped(kind, **options):
    return Case([Fault(kind, at_ms=FIRST_DAY_MS + DAY_MS // 2, times=0, **options)], archive=True)


GIVEN_UP = (SourceError, ("127.0.0.1:", "BTCUSDT from 2025-10-1", "asked 6 times"))

CASES = {
    # Of N1 and N2, too many requests, bans
    "429 seconds": Case([status(429, retry_after="7")]),
    "429 date": Case([status(429, retry_after="Wed, 15 Oct 2025 12:00:30 GMT")]),
    "429 date in the past": Case([status(429, retry_after="Wed, 15 Oct 2015 12:00:30 GMT")]),
    "429 absent": Case([status(429)]),
    "429 negative": Case([status(429, retry_after="-5")]),
    "429 garbage": Case([status(429, retry_after="soon")]),
    "429 huge": Case([status(429, retry_after="86400")], SourceError, ("HTTP 429", "it answers again at 2025-10-16T1")),
    "429 forever": Case([status(429, retry_after="50", times=0)], SourceError, ("HTTP 429", "it answers again at")),
    "429 beyond any number": Case([status(429, retry_after="9" * 40)]),
    "429 once for everyone": Case([status(429, retry_after="5", nth=2, times=4)]),
    "418": Case([status(418, retry_after="60")]),
    "418 absent": Case([status(418)]),
    "418 of three days": Case([status(418, retry_after="259200")], SourceError, ("HTTP 418", "2025-10-18T1")),
    "429 at the time": Case([status(429, retry_after="3", endpoint="time")]),
    "429 in many words": Case([status(429, retry_after="3", endpoint="time", body="x" * 100_000)]),
    "429 of no time": Case([status(429, retry_after="0", times=9)]),
    "429 of no time forever": Case(
        [status(429, retry_after="0", times=0)], SourceError, ("HTTP 429", "it answers again at 2025-10-15T12:02")
    ),
    "418 forever": Case([status(418, times=0)], SourceError, ("HTTP 418", "it answers again at 2025-10-15T12:0")),
    "429 with no patience": Case(
        [status(429, retry_after="1")], SourceError, ("HTTP 429", "--max-wait"), rules={"max_wait_s": 0}
    ),
    "429 of the archive": Case([Fault("status", endpoint="archive", status=429)], archive=True),
    # Of N3, server errors, refusals
    "500": Case([status(500, times=5)]),
    "503 forever": Case([status(503, times=0, symbol="BTCUSDT")], SourceError, (*GIVEN_UP[1], "HTTP 503")),
    "403": Case([status(403, times=0)], SourceError, ("HTTP 403",)),
    "451": Case([status(451, times=0)], SourceError, ("HTTP 451", "restricted location")),
    "403 in many words": Case([status(403, times=0, endpoint="time", body="x" * 100_000)], SourceError, ("HTTP 403",)),
    "451 at once": Case([status(451, times=0, endpoint="any")], SourceError, ("HTTP 451",)),
    "400": Case([status(400, times=0, body='{"code":-1003,"msg":"Too much."}')], SourceError, ("-1003", "Too much.")),
    # Of N5 and N6, slow, cut, empty
    "hang": Case([klines("hang")], rules={"deadline_s": 1.0}),
    "drip of a body": Case([klines("drip_body", seconds=0.05)], rules={"deadline_s": 1.0}),
    "drip of a head": Case([klines("drip_header", seconds=0.05)], rules={"deadline_s": 1.0}),
    "slow forever": Case([klines("hang", times=0, symbol="BTCUSDT")], *GIVEN_UP, rules={"deadline_s": 0.5}),
    "short": Case([klines("short", times=3)]),
    "cut chunk": Case([klines("cut_chunk", times=3)]),
    "no length, cut": Case([klines("no_length_cut", times=3)]),
    "reset": Case([klines("reset", times=2)]),
    "reset in the body": Case([klines("reset", times=2, count=5000)]),
    "reset forever": Case([klines("reset", times=0, symbol="BTCUSDT")], *GIVEN_UP),
    "empty": Case([klines("empty_body", times=3)]),
    "empty forever": Case(
        [klines("empty_body", times=0, symbol="BTCUSDT")], SourceError, (*GIVEN_UP[1], "not a list of rows")
    ),
    "cut forever": Case(
        [klines("no_length_cut", times=0, symbol="BTCUSDT")], SourceError, (*GIVEN_UP[1], "not a JSON list")
    ),
    "exchangeInfo in HTML": Case([Fault("html", endpoint="exchangeInfo", times=5)]),
    "exchangeInfo of nothing": Case(
        [Fault("garbage", endpoint="exchangeInfo", body="{}", times=0)],
        SourceError,
        ("exchangeInfo: ", "asked 6 times"),
    ),
    "a time that is none": Case(
        [Fault("garbage", endpoint="time", body='{"serverTime":true}', times=0)],
        SourceError,
        ("its time: ", "has no time"),
    ),
    "big head": Case([klines("big_header", times=2)]),
    # Of N7, other content
    "html": Case([klines("html", times=3)]),
    "html forever": Case([klines("html", times=0, symbol="BTCUSDT")], SourceError, (*GIVEN_UP[1], "not a JSON list")),
    "garbage": Case([klines("garbage", times=3)]),
    "an object": Case([klines("garbage", body='{"code":0}')]),
    "a list of nothing": Case([klines("garbage", body="[null]")]),
    "a word": Case([klines("garbage", body='"maintenance"', times=5)]),
    "a packing that is none": Case([klines("header", headers={"Content-Encoding": "br"}, times=2)]),
    "packed, it says": Case([klines("header", headers={"Content-Encoding": "gzip"}, times=2)]),
    "wrong type": Case([klines("wrong_type", times=0)]),
    "gzip bomb": Case([klines("gzip_bomb", times=2)]),
    "big body": Case([klines("big_body", times=2, count=20)]),
    "big body forever": Case([klines("big_body", times=0, count=5, symbol="BTCUSDT")], *GIVEN_UP),
    # Of N8, redirects
    "redirect": Case([klines("redirect", times=0)], SourceError, ("redirects to", "not followed")),
    "redirect to a file": Case([klines("redirect", value="file:///etc/passwd")], SourceError, ("file:///etc/passwd",)),
    # Of N10, rows twice, in another order, from elsewhere
    "duplicates": Case([klines("duplicate_rows", times=0, count=50)]),
    "shuffled": Case([klines("shuffle_rows", times=0)]),
    "overlap": Case([klines("overlap", times=0, count=30)]),
    "overlap that contradicts": Case(
        [klines("overlap_conflict", nth=2, times=1, symbol="BTCUSDT")], InputError, ("BTCUSDT at 2025", "volume is")
    ),
    "never advances": Case([klines("stuck", times=0, symbol="BTCUSDT")], SourceError, ("outside what was asked",)),
    # Of N11, missing
    "rows that come at the second time": Case([klines("drop_rows", times=1, count=40)]),
    "the last rows come late": Case([klines("drop_rows", at_ms=CLOCK_MS - 5 * 60_000, count=5)]),
    "rows that come late, twice each": Case(
        [klines("drop_rows", times=2, count=40), klines("duplicate_rows", times=0, count=7)]
    ),
    "rows that come late and contradict": Case(
        [
            klines("drop_rows", at_ms=MIDDLE_MS, count=2, symbol="BTCUSDT"),
            klines("restate", at_ms=MIDDLE_MS + 120_000, symbol="BTCUSDT", nth=2, times=0),
        ],
        InputError,
        (f"BTCUSDT at {format_ms(MIDDLE_MS + 120_000)}: volume is ", " and ", "two candles of one time"),
    ),
    "rows that come late": Case([klines("drop_rows", times=2, count=40)]),
    "a day that comes late": Case([klines("drop_day", at_ms=FIRST_DAY_MS + DAY_MS // 2, times=2)]),
    # Of N12, clocks and units
    "clock an hour fast": Case([Fault("clock_skew", endpoint="time", times=0)], SourceError, ("clocks disagree",)),
    "clock an hour slow": Case(
        [Fault("clock_skew", endpoint="time", times=0, seconds=-3600)], SourceError, ("clocks disagree",)
    ),
    "microseconds": Case([klines("micros", times=0)]),
    "microseconds now and then": Case([klines("micros", nth=2)]),
    # Of N13, impossible rows
    **{
        f"{name} is {value}": Case(
            [klines("bad_value", at_ms=MIDDLE_MS, field=name, value=value, times=0)],
            InputError,
            ("BTCUSDT", name.replace("open_time", "ts")),
        )
        for name, value in [
            *(("close", "abc"), ("close", "NaN"), ("open", "0"), ("low", "-1"), ("high", "1e400"), ("high", "1")),
            *(("volume", "-1"), ("trades", "1.5"), ("quote_volume", ""), ("open_time", "x"), ("close_time", "5")),
        ]
    },
    "a high below its low": Case(
        [klines("bad_value", at_ms=MIDDLE_MS, field="high", value="0.5", times=0)],
        InputError,
        (f"BTCUSDT at {MIDDLE}: high",),
    ),
    "eleven columns": Case([klines("columns_11", at_ms=MIDDLE_MS, times=0)], InputError, ("11 fields, not 12",)),
    # The archive: whatever is wrong there, REST has it
    "zip missing": zipped("not_found"),
    "checksum of another": zipped("bad_checksum"),
    "checksum under another name": zipped("wrong_checksum_name"),
    "zip cut in a row": zipped("truncated_rows"),
    "zip with a header": zipped("with_header"),
    "zip damaged": zipped("corrupt_zip"),
    "zip bomb": zipped("zip_bomb", count=20),
    "zip of two": zipped("two_members"),
    "zip with a path": zipped("path_traversal_member"),
    "zip with fewer rows": zipped("drop_rows", endpoint="archive", count=100),
    "zip with a bad value": zipped("bad_value", endpoint="archive"),
    "archive unwell": Case([Fault("status", endpoint="archive", status=500, times=3)], archive=True),
}


def open_at(server, clock, *, archive, **rules):
    """Return the source of a server, and its spec."""
    name = "archive" if archive else "binance"
    spec = SourceSpec(name, base_url=server.base_url, archive_url=server.archive_url if archive else "")
    rules = NetworkRules(**{"connections": 3, "deadline_s": 5.0} | rules)
    options = {"rules": rules, "clock": clock, "rng": random.Random(0)}  # noqa: S311 -- repeatable
    if archive:
        return ArchiveSource("1m", spec.base_url, spec.archive_url, **options), spec
    return BinanceSource("1m", spec.base_url, **options), spec


def take(server, data_dir, *, archive=False, days=2, progress=None, refresh=False, **rules):
    source, spec = open_at(server, JumpingClock(), archive=archive, **rules)
    request = SnapshotRequest(SYMBOLS, days, "1m")
    options = {"now_ms": CLOCK_MS, "progress": progress or Silent(), "refresh": refresh}
    return take_snapshot(data_dir, source, spec, request, **options)


@cache
def true_content(days=2, end_ms=CLOCK_MS):
    window = TimeRange(end_ms - days * DAY_MS, end_ms)
    return [content_sha256(SimSource(end_ms=end_ms).candles(symbol, window)) for symbol in SYMBOLS]


def visible(data_dir):
    """Return the content of the folder of snapshots, and all temporary files."""
    temps = list(data_dir.rglob("*.tmp*"))
    return sorted(p.name for p in (data_dir / "snapshots").glob("[!.]*")) if data_dir.exists() else [], temps


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_costs_time_or_ends_clearly(case, tmp_path):
    """The candles of a clean run, or the documented error and no snapshot; then a clean run succeeds."""
    progress = Silent()
    with SimServer(faults=case.faults) as server:
        if case.error is None:
            taken = take(server, tmp_path, archive=case.archive, progress=progress, **case.rules)
            assert [f.content_sha256 for f in taken.snapshot.facts] == true_content()
            assert verify_snapshot(taken.snapshot) == ()
        else:
            with pytest.raises(case.error) as caught:
                take(server, tmp_path, archive=case.archive, **case.rules)
            message = f"{caught.value.message} {caught.value.hint}"
            assert all(word in message for word in case.words), message
            assert visible(tmp_path) == ([], [])
        assert any(record.fault for record in server.log), "the fault never took effect"
    with SimServer() as server:
        clean = take(server, tmp_path)

    assert [f.content_sha256 for f in clean.snapshot.facts] == true_content()


@pytest.mark.parametrize("code", [429, 418])
def test_no_request_goes_out_while_the_exchange_orders_to_wait(code, tmp_path):
    """No worker sends a request until the wait is over by the exchange's clock."""
    clock = JumpingClock()
    requested = []
    with SimServer(
        faults=[status(code, retry_after="20", nth=3)], on_answer=lambda r: requested.append((clock.now_s, r))
    ) as server:
        source, spec = open_at(server, clock, archive=False)
        take_snapshot(tmp_path, source, spec, SnapshotRequest(SYMBOLS, 3, "1m"), now_ms=CLOCK_MS, progress=Silent())

    (stopped_s,) = [at for at, r in requested if r.status == code]
    after = [at for at, r in requested[requested.index(next(a for a in requested if a[1].status == code)) + 1 :]]
    in_flight = [at for at in after if at < stopped_s + 20]
    # Those that were already in flight, with three connections.
    assert len(in_flight) <= 2
    assert [at for at in after if at >= stopped_s + 20]


def test_the_budget_is_kept_whatever_the_size(tmp_path):
    """A download of many times the limit uses at most 70 % of it in any minute of the exchange."""
    clock = JumpingClock()
    with SimServer(weight_limit=120, monotonic=clock.monotonic_s) as server:
        source, spec = open_at(server, clock, archive=False, connections=8)
        taken = take_snapshot(
            tmp_path, source, spec, SnapshotRequest(SYMBOLS, 30, "1m"), now_ms=CLOCK_MS, progress=Silent()
        )
        statuses = {record.status for record in server.log}

    assert statuses == {200}
    assert 0 < taken.traffic.peak_weight <= 84
    assert clock.now_s > 120


def test_finished_days_are_not_requested_again(tmp_path):
    """After a failure the finished days are cached; the next run requests only the others."""
    with SimServer(faults=[klines("reset", nth=8, times=0)]) as server:
        with pytest.raises(SourceError):
            take(server, tmp_path, days=6, connections=1)
        port = int(server.base_url.rpartition(":")[2])
        done = [page for page in requested_pages(server.log) if page[0] == "BTCUSDT"][:7]
    kept = sorted(path.stem for path in tmp_path.glob("cache/*/BTCUSDT/1m/*.parquet"))
    with SimServer(port=port) as server:
        taken = take(server, tmp_path, days=6)
        again = requested_pages(server.log)

    # Seven pages of 1000 minutes: four whole days.
    assert len(kept) == 4
    whole = [format_ms(start)[:10] for name, start, _ in again if name == "BTCUSDT"]
    assert not set(kept) & set(whole)
    assert len(done) == 7
    assert [f.content_sha256 for f in taken.snapshot.facts] == true_content(6)


def test_a_changed_history_is_reported_and_changes_no_old_snapshot(tmp_path):
    """With refresh, the restated candles are reported and make another snapshot."""
    progress = Silent()
    with SimServer() as server:
        first = take(server, tmp_path)
        port = int(server.base_url.rpartition(":")[2])
    with SimServer(port=port, faults=[klines("restate", at_ms=MIDDLE_MS, symbol="BTCUSDT", times=0)]) as server:
        unchanged = take(server, tmp_path)
        second = take(server, tmp_path, progress=progress, refresh=True)

    assert not unchanged.created
    assert second.snapshot.id == f"{first.snapshot.id}.2"
    assert verify_snapshot(first.snapshot) == ()
    message = " ".join(progress.warnings)
    assert "the exchange changed its history since 2025-10-15T12:00:00Z: 1 candle changed" in message
    assert f"volume at {MIDDLE}" in message
    assert f"BTCUSDT differs from snapshot {first.snapshot.id}" in message
    assert "ETHUSDT differs" not in message


def test_gaps_are_requested_twice_and_then_accepted(tmp_path):
    """Each real gap costs one more request; the next snapshot does not repeat it."""
    with SimServer() as server:
        taken = take(server, tmp_path, days=8)
        before = len(server.log)
        server.set_clock(CLOCK_MS + 3_600_000)
        later = take(server, tmp_path, days=8)
        new = server.log[before:]
    open_ended = [r for r in new if r.path.endswith("klines") and "endTime" not in r.query]

    assert sum(len(f.gaps) for f in taken.snapshot.facts) >= 2
    assert open_ended == []
    assert len(new) <= 2 + len(SYMBOLS)
    assert [f.content_sha256 for f in later.snapshot.facts] == true_content(8, CLOCK_MS + 3_600_000)


def test_the_archive_names_its_zips(tmp_path):
    """The manifest names the origin of each day, a zip by its checksum."""
    with SimServer() as server:
        facts = take(server, tmp_path, archive=True, days=4).snapshot.facts[0]

    kinds = [origin.origin.split()[0] for origin in facts.origins]
    assert kinds == ["archive", "archive", "archive", "rest"]
    assert facts.origins[0].from_ms == CLOCK_MS - 4 * DAY_MS
    assert facts.origins[-1].to_ms == CLOCK_MS
