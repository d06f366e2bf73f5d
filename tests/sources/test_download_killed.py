"""A download that is killed at any moment and run again: the same snapshot, and no kept day is fetched twice.

The suite kills a few times; MLTRAIN_TEST_KILLS=30 kills as often as that.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import pytest

from mltrain.candles.frame import content_sha256
from mltrain.simulator.server import SimServer
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, TimeRange
from support.downloads import requested_pages
from support.program import MLTRAIN, NEUTRAL, call

KILLS = int(os.environ.get("MLTRAIN_TEST_KILLS", "4"))
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
DAYS = 60


def words(server):
    return ["snapshot", "--base-url", server.base_url, "--symbols", ",".join(SYMBOLS), "--days", str(DAYS), "--quiet"]


def start(server, data_dir):
    return subprocess.Popen(
        [MLTRAIN, *words(server), "--data-dir", data_dir],
        env=NEUTRAL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def kept(data_dir):
    """Return the symbol and the midnight of each whole day in the cache."""
    notes = data_dir.glob("cache/*/*/1m/*.json")
    return {(p.parts[-3], p.stem) for p in notes if ".part" not in p.name and not p.name.startswith(".")}


def days_of(pages):
    """Return the symbol and the day of each whole day that pages request."""
    first = CLOCK_MS // DAY_MS * DAY_MS - DAYS * DAY_MS
    days = {}
    for day_ms in range(first, CLOCK_MS // DAY_MS * DAY_MS, DAY_MS):
        name = time.strftime("%Y-%m-%d", time.gmtime(day_ms / 1000))
        for symbol, begin, end in pages:
            if begin < day_ms + DAY_MS and end > day_ms:
                days.setdefault((symbol, name), []).append((begin, end))
    return set(days)


def test_a_killed_download_is_resumed(tmp_path):
    """After any number of kills, all candles are there and no kept day is requested again."""
    chance = random.Random(20251015)  # noqa: S311 -- the moments must come back on the next run
    data_dir, killed = tmp_path / "data", 0
    with SimServer(latency_ms=25) as server:
        for _ in range(KILLS * 3):
            before, requested = kept(data_dir), len(server.log)
            run = start(server, data_dir)
            while len(server.log) == requested and run.poll() is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.25))
            run.kill()
            run.communicate()
            killed += run.returncode == -signal.SIGKILL
            again = days_of(requested_pages(server.log[requested:])) & before
            assert not again, sorted(again)
            if killed == KILLS:
                break
        before, requested = kept(data_dir), len(server.log)
        done = call(*words(server), data_dir=data_dir)
        again = days_of(requested_pages(server.log[requested:])) & before
        assert done.code == 0, done.err
    snapshot = open_snapshot(data_dir, "latest")
    window = TimeRange(CLOCK_MS - DAYS * DAY_MS, CLOCK_MS)

    assert killed == KILLS
    assert not again
    assert [f.content_sha256 for f in snapshot.facts] == [
        content_sha256(SimSource().candles(symbol, window)) for symbol in SYMBOLS
    ]
    assert verify_snapshot(snapshot) == ()
    assert list(data_dir.rglob("*.tmp")) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_download_keeps_finished_days(tmp_path, number, code):
    """The documented code, no traceback, no snapshot, no temporary file; finished days are kept and used."""
    data_dir = tmp_path / "data"
    with SimServer(latency_ms=60) as server:
        run = start(server, data_dir)
        while len(kept(data_dir)) < 10 and run.poll() is None:
            time.sleep(0.005)
        run.send_signal(number)
        _, err = run.communicate(timeout=20)
        before, requested = kept(data_dir), len(server.log)
        temps = list(data_dir.rglob("*.tmp"))
        done = call(*words(server), data_dir=data_dir)
        again = days_of(requested_pages(server.log[requested:])) & before

    assert run.returncode == code, err
    assert b"Traceback" not in err
    assert temps == []
    assert len(before) >= 10
    assert not again
    assert done.code == 0, done.err
