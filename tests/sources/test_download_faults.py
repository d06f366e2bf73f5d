"""Laws of an interrupted download: finished days are kept, and the next run completes it.

The suite kills 3 downloads and fails a small one at every thirtieth of its operations. Thirty kills, and every
operation, take ten minutes: MLTRAIN_TEST_KILLS=30 MLTRAIN_TEST_STRIDE=1 pytest tests/sources/test_download_faults.py
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from contextlib import contextmanager

import pytest

from mltrain.simulator.faults import Fault
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot import list_snapshots, open_snapshot, verify_snapshot
from mltrain.sources.day_cache import SymbolDays
from mltrain.times import DAY_MS
from support import disk_faults
from support.downloads import download, requested_pages
from support.program import MLTRAIN, NEUTRAL, call

KILLS = int(os.environ.get("MLTRAIN_TEST_KILLS", "2"))
STRIDE = int(os.environ.get("MLTRAIN_TEST_STRIDE", "30"))
SYMBOLS = ("BTCUSDT", "ETHUSDT")
CONNECTIONS = 2
LATENCY_MS = 200
# Between an answer and the day on the disk: parsing, writing and three syncs on a busy machine.
IN_FLIGHT_S = 1.0


def words_of(server, days):
    """Return the command that takes the snapshot."""
    symbols = ("--symbols", ",".join(SYMBOLS), "--days", str(days), "--connections", str(CONNECTIONS))
    return ["snapshot", "--base-url", server.base_url, *symbols]


@contextmanager
def started(server, data_dir, days=20):
    """Run `mltrain snapshot` in the background; it is killed when the block ends."""
    command = [MLTRAIN, *words_of(server, days), "--data-dir", str(data_dir), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=NEUTRAL)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def temps(data_dir):
    return list(data_dir.rglob(".*.tmp"))


def pages_by_day(records):
    """Return the records of requests by symbol and UTC day."""
    found = defaultdict(list)
    for record in records:
        for symbol, start, end in requested_pages([record]):
            for day in range(start // DAY_MS, (end - 1) // DAY_MS + 1):
                found[symbol, day].append(record)
    return found


def finished_days(records, ended_s):
    """Return the days whose pages were all answered well before a run ended: they must be on disk."""
    return {key for key, pages in pages_by_day(records).items() if is_finished(pages, key[1], ended_s)}


def is_finished(pages, day, ended_s):
    covered = sum(
        max(0, min(end, (day + 1) * DAY_MS) - max(start, day * DAY_MS)) for _, start, end in requested_pages(pages)
    )
    answered_s = max(page.at_s for page in pages) + LATENCY_MS / 1000
    return covered >= DAY_MS and answered_s < ended_s - IN_FLIGHT_S


def check_sound(data_dir):
    """Check that every file in place is whole."""
    for row in list_snapshots(data_dir):
        assert verify_snapshot(open_snapshot(data_dir, row.id)) == ()
    for note in (data_dir / "cache").rglob("*.json"):
        source, symbol, interval = note.parts[-4:-1]
        days = SymbolDays(data_dir / "cache", source, symbol, interval)
        for day_ms in range(20_000 * DAY_MS, 21_000 * DAY_MS, DAY_MS):
            found, damage = days.find(day_ms)
            assert damage == ""
            assert found is None or days.read(found).height == found.rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the snapshot of an undisturbed run, and its number of pages."""
    data_dir = tmp_path_factory.mktemp("undisturbed")
    with SimServer(seed=4, weight_limit=10**9) as server:
        assert call(*words_of(server, 20), data_dir=data_dir).code == 0
        return open_snapshot(data_dir, "latest"), len(requested_pages(server.log))


def kill_once(server, data_dir, chance):
    """Kill one run at a random moment; return the records of its requests and when it was killed."""
    seen = len(server.log)
    while True:
        pages, delay_s = chance.randrange(20), chance.random() * LATENCY_MS / 1000
        limit_s = time.monotonic() + 0.3 + 0.7 * chance.random()
        with started(server, data_dir) as process:
            while process.poll() is None and len(requested_pages(server.log[seen:])) < pages:
                if requested_pages(server.log[seen:]):
                    limit_s = time.monotonic() + 5
                # It requests nothing: it has just started, or has everything.
                if time.monotonic() > limit_s:
                    break
                time.sleep(0.002)
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
            killed_s = time.monotonic()
            process.wait()
            if process.returncode == -signal.SIGKILL:
                return server.log[seen:], killed_s


def test_a_download_killed_repeatedly_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    """A day answered a second before a kill is not requested again; no temporary file stays."""
    expected, _ = undisturbed
    chance, runs = random.Random(6), []  # noqa: S311 -- the moments come back on the next run
    with SimServer(seed=4, weight_limit=10**9, latency_ms=LATENCY_MS) as server:
        for _ in range(KILLS):
            runs.append(kill_once(server, tmp_path, chance))
            check_sound(tmp_path)
        seen = len(server.log)
        last = call(*words_of(server, 20), data_dir=tmp_path)
        runs.append((server.log[seen:], time.monotonic()))

    assert last.code == 0, last.err
    snapshot = open_snapshot(tmp_path, "latest")
    assert [f.content_sha256 for f in snapshot.facts] == [f.content_sha256 for f in expected.facts]
    assert [f.sha256 for f in snapshot.facts] == [f.sha256 for f in expected.facts]
    assert verify_snapshot(snapshot) == ()
    assert temps(tmp_path) == []
    for at, (records, ended_s) in enumerate(runs):
        again = {key for later, _ in runs[at + 1 :] for key in pages_by_day(later)}
        assert finished_days(records, ended_s) & again == set()


def test_the_check_above_detects_a_day_fetched_twice(tmp_path):
    """If the cache is removed between two runs, the days of the first are fetched again."""
    with SimServer(seed=4, weight_limit=10**9, latency_ms=LATENCY_MS) as server:
        runs = []
        for name in ("one", "other"):
            seen = len(server.log)
            download(server, tmp_path / name, SYMBOLS, days=1)
            runs.append(server.log[seen:])

    first = finished_days(runs[0], time.monotonic() + 60)
    assert first & set(pages_by_day(runs[1])) == first != set()


def test_a_signal_ends_a_pending_request(tmp_path):
    """The run ends at once, although the answer would take a minute."""
    with (
        SimServer(faults=[Fault("hang", endpoint="klines", times=0)]) as server,
        started(server, tmp_path) as process,
    ):
        while not requested_pages(server.log) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=25)

    assert process.returncode == 143, err
    assert temps(tmp_path) == []


def program_of(server):
    """Return a program that takes a small snapshot into the folder given to it."""
    words = ["mltrain", *words_of(server, 1), "--quiet", "--data-dir"]
    return f"""
import io, os, sys
sys.argv = {words!r} + sys.argv[1:]
sys.stdout, sys.stderr = io.StringIO(), io.StringIO()  # a call that is no file's must not be the one that fails
from mltrain.cli import main
try:
    main()
finally:
    os.writev(2, [sys.stderr.getvalue().encode() or b" "])
"""


@pytest.fixture(scope="module")
def small():
    """Return an exchange, and the candles of a small snapshot of it."""
    disk_faults.need_strace()
    with SimServer(seed=4, weight_limit=10**9) as server, disk_faults.memory_folder() as memory:
        done, operations = disk_faults.run(program_of(server), memory / "clean")
        assert done.returncode == 0, done.stderr
        yield server, operations, open_snapshot(memory / "clean", "latest").facts


@pytest.mark.parametrize("fault", ["KILL", "ENOSPC", "EIO"])
def test_a_fault_at_any_operation_leaves_old_or_new(small, fault):
    """There is no snapshot or a whole one; a refusal is exit 8 with the path; a rerun completes it."""
    server, operations, expected = small
    points = sorted({(o.call, o.number) for o in operations})[
        {"KILL": 0, "ENOSPC": 3, "EIO": 6}[fault] % STRIDE :: STRIDE
    ]
    effect = "signal=KILL" if fault == "KILL" else f"error={fault}"
    with disk_faults.memory_folder() as memory:
        for at, (name, number) in enumerate(points):
            folder = memory / f"{at:05d}"
            done, seen = disk_faults.run(program_of(server), folder, "-e", f"inject={name}:{effect}:when={number}")
            check_after(folder, done, seen, fault)

            again = call(*words_of(server, 1), data_dir=folder)
            assert again.code == 0, again.err
            snapshot = open_snapshot(folder, "latest")
            assert snapshot.facts == expected
            assert verify_snapshot(snapshot) == ()
            assert temps(folder) == []
    assert len(operations) > 40


def check_after(folder, done, seen, fault):
    """Check the files that a run left whose one operation failed."""
    check_sound(folder)
    assert len(list_snapshots(folder)) <= 1
    if done.returncode == 0:
        assert open_snapshot(folder, "latest").id == list_snapshots(folder)[0].id
    elif fault == "KILL":
        assert done.returncode == -signal.SIGKILL
    else:
        assert done.returncode == 8, done.stderr
        assert f" {folder}" in done.stderr
        assert (fault == "ENOSPC") <= ("bytes free" in done.stderr)
        lost = [o for o in seen if "(INJECTED)" in o.arguments and o.call in {"unlink", "rmdir", "unlinkat"}]
        assert lost or temps(folder) == []


def test_every_file_of_a_download_is_synced_before_it_is_named(small):
    """After a power cut no name lacks its bytes: days, metadata, the snapshot's folder and the pointer."""
    _, operations, _ = small
    renames = [operation for operation in operations if operation.call.startswith("rename")]

    assert len(renames) >= 2 * 2 * 2 + 2
    assert disk_faults.unsynced_renames(operations) == []
