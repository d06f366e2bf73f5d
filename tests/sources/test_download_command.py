"""The installed `mltrain snapshot` against a faulty exchange: the same candles, or an exit code with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from mltrain.candles.frame import content_sha256
from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, TimeRange, format_ms
from support.program import call

SYMBOLS = ("BTCUSDT", "ETHUSDT")
ROW_MS = CLOCK_MS - DAY_MS + 100 * 60_000
AT = f"BTCUSDT at {format_ms(ROW_MS)}"


@dataclass
class Case:
    """The faults, the additional options, the exit code, and parts of the message."""

    faults: list[Fault]
    code: int = 0
    words: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    archive: bool = False
    env: dict[str, str] = field(default_factory=dict)


def klines(kind, **options):
    return Fault(kind, endpoint="klines", **options)


BANNED = klines("status", status=418, headers={"Retry-After": "259200"})
CASES = {
    "nothing": Case([]),
    "rows twice, in disorder, in microseconds": Case(
        [klines("duplicate_rows", count=9), klines("shuffle_rows", nth=2), klines("micros", nth=3)]
    ),
    "bytes lost in transit": Case([klines("short"), klines("reset"), klines("empty_body")]),
    "a wait": Case([klines("status", status=429, headers={"Retry-After": "0"})]),
    "rows that come late": Case([klines("drop_rows", count=40)]),
    "an archive out of order": Case(
        [Fault("bad_checksum", times=0, symbol="BTCUSDT"), Fault("corrupt_zip", times=0, symbol="ETHUSDT")],
        archive=True,
        options=("--days", "4"),
    ),
    "no archive": Case([Fault("not_found", times=0)], archive=True, options=("--days", "4")),
    "a ban": Case([BANNED], 6, ("HTTP 418", "it answers again at 2025-10-18T12:0", "--max-wait")),
    "a wait, and no patience": Case(
        [klines("status", status=429, headers={"Retry-After": "5"})],
        6,
        ("HTTP 429", "BTCUSDT from 2025-10-1", "it answers again at"),
        ("--max-wait", "0"),
    ),
    "a region": Case([Fault("status", status=451, times=0)], 6, ("HTTP 451", "restricted location", "your region")),
    "a firewall": Case([klines("status", status=403, times=0)], 6, ("HTTP 403", "firewall")),
    "a redirect": Case(
        [klines("redirect", times=0, value="https://evil.example/")], 6, ("evil.example", "not followed")
    ),
    "a price that is none": Case(
        [klines("bad_value", at_ms=ROW_MS, value="abc", times=0, symbol="BTCUSDT")], 3, (AT, "close is 'abc'")
    ),
    "a price of zero": Case(
        [klines("bad_value", at_ms=ROW_MS, field="low", value="0", times=0, symbol="BTCUSDT")], 3, (AT, "low is 0.0")
    ),
    "two candles of one time": Case(
        [klines("overlap_conflict", times=0, symbol="BTCUSDT", at_ms=CLOCK_MS - DAY_MS // 2)],
        3,
        ("BTCUSDT at 2025-10-14T16:39:00Z: volume is ", " and ", "two candles of one time"),
    ),
    "too much missing": Case(
        [klines("drop_rows", times=0, at_ms=ROW_MS, count=400)],
        3,
        ("of 1,440 candles are missing", "--max-missing"),
        ("--max-missing", "0.1"),
    ),
    "an unknown symbol": Case([], 3, ("no symbol 'BTCUSDX'", "BTCUSDT"), ("--symbols", "BTCUSDX")),
    "a test network": Case([], 2, ("testnet",), ("--base-url", "https://testnet.binance.vision")),
    "plain http": Case([], 2, ("only https",), ("--base-url", "http://api.binance.com")),
    "a proxy of another kind": Case(
        [], 2, ("proxy must be an address",), ("--use-env-proxy",), env={"ALL_PROXY": "socks5://me:secret@h:1"}
    ),
}


def snapshot(server, data_dir, case):
    where = ["--base-url", server.base_url]
    if case.archive:
        where += ["--source", "archive", "--archive-url", server.archive_url]
    plain = ["--symbols", ",".join(SYMBOLS), "--days", "1", "--connections", "3"]
    return call("snapshot", *where, *plain, *case.options, "--json", data_dir=data_dir, env=case.env)


def true_content(days):
    window = TimeRange(CLOCK_MS - days * DAY_MS, CLOCK_MS)
    return [content_sha256(SimSource().candles(symbol, window)) for symbol in SYMBOLS]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fault_is_overcome_or_reported(case, tmp_path):
    """One JSON document and the candles of a clean run; or no stdout, one message, the exit code and no snapshot."""
    with SimServer(faults=case.faults) as server:
        done = snapshot(server, tmp_path, case)
        assert not case.faults or any(record.fault for record in server.log), "the fault never took effect"

    assert done.code == case.code, done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob(".*.tmp"))
    if case.code == 0:
        taken = open_snapshot(tmp_path, "latest")
        days = 4 if "4" in case.options else 1
        assert done.document["snapshot"]["id"] == taken.id
        assert [facts.content_sha256 for facts in taken.facts] == true_content(days)
        assert verify_snapshot(taken) == ()
    else:
        assert done.out == ""
        assert "secret" not in done.err
        shown = " ".join(done.err.split())
        assert all(word in shown for word in case.words), shown
        assert not list(tmp_path.glob("snapshots/[!.]*"))


def test_a_failure_leaves_the_last_snapshot_and_the_finished_days(tmp_path):
    """`latest` is unchanged to the byte; the next run requests no day that had arrived before."""
    plain = Case([], options=("--days", "3"))
    with SimServer() as server:
        port = int(server.base_url.rpartition(":")[2])
        assert snapshot(server, tmp_path, Case([])).code == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("snapshots/2*/*")}
    with SimServer(
        port=port, clock_ms=CLOCK_MS + DAY_MS, faults=[klines("status", status=403, symbol="ETHUSDT")]
    ) as server:
        failed = snapshot(server, tmp_path, plain)
    with SimServer(port=port, clock_ms=CLOCK_MS + DAY_MS) as server:
        kept = {path.stem for path in tmp_path.glob("cache/*/BTCUSDT/1m/*.json") if ".part" not in path.name}
        first = open_snapshot(tmp_path, "latest")
        again = snapshot(server, tmp_path, plain)
        requested = [r.query["startTime"] for r in server.log if r.symbol == "BTCUSDT" and "endTime" in r.query]

    assert failed.code == 6
    assert first.cut_ms == CLOCK_MS
    assert {path: path.read_bytes() for path in before} == before
    assert again.code == 0
    assert open_snapshot(tmp_path, "latest").cut_ms == CLOCK_MS + DAY_MS
    assert not kept & {format_ms(int(start))[:10] for start in requested}
