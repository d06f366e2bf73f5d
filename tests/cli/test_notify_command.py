"""Events of commands: what queues one, and that no command waits for its delivery."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import mltrain as mt
from mltrain.killswitch.switch import read_halts
from mltrain.monitoring.events import EVENTS, list_events
from mltrain.progress import Silent
from mltrain.store.store import Store
from support import disk_faults
from support.bare_versions import HAND, publish
from support.program import MLTRAIN, NEUTRAL, call
from support.receivers import SECRET, receiving, write_secret

HALT = ("halt", "--why", "wrong prices")


@pytest.fixture
def place(tmp_path):
    """Return a data folder with two versions, and the file of the secret."""
    (tmp_path / "data" / "models").mkdir(parents=True)
    return tmp_path / "data", write_secret(tmp_path)


def variables(received, secret):
    return {"MLTRAIN_NOTIFY_URL": received.url, "MLTRAIN_NOTIFY_SECRET_FILE": str(secret)}


def kinds(received):
    return [json.loads(body)["kind"] for _, body in received.posts]


def test_a_halt_and_a_resume_are_delivered(place):
    """By a process in the background, signed, each with what it was about."""
    data, secret = place
    with receiving() as received:
        env = variables(received, secret)
        halted = call(*HALT, data_dir=data, env=env)
        assert received.arrived.acquire(timeout=60)
        resumed = call("resume", "--why", "right again", data_dir=data, env=env)
        assert received.arrived.acquire(timeout=60)
        assert received.is_signed(0)

    assert (halted.code, halted.err, resumed.code, resumed.err) == (0, "", 0, "")
    documents = [json.loads(body) for _, body in received.posts]
    assert kinds(received) == ["halt", "resume"]
    assert documents[0]["details"]["halt"]["why"] == "wrong prices"
    assert documents[1]["details"]["lifted"] == [documents[0]["details"]["halt"]]


def test_a_halt_does_not_wait_for_a_receiver_that_hangs(place):
    """It has ended while its delivery still waits for an answer; the event stays in the queue."""
    data, secret = place
    with receiving("hang") as received:
        done = call(*HALT, data_dir=data, env=variables(received, secret))
        assert not read_halts(data / "models").is_running
        assert received.hanging.wait(60)

        assert (done.code, done.err) == (0, "")
        assert len(list_events(data / EVENTS)) == 1
        # The answer is still not given.
        assert not received.over.is_set()


def test_a_wrong_address_or_secret_never_fails_a_halt(place, tmp_path):
    """It is a warning, and serving is halted; the other commands refuse a wrong address before they do anything."""
    data, secret = place
    wrong = call(*HALT, "--notify", "ftp://nowhere", "--notify-secret-file", secret, data_dir=data)
    lost = call(*HALT, "--notify", "https://a.example", "--notify-secret-file", tmp_path / "none", data_dir=data)
    without = call(*HALT, "--notify", "https://a.example", data_dir=data)
    resumed = call("resume", "--why", "again", "--notify", "ftp://nowhere", data_dir=data)

    assert (wrong.code, lost.code, without.code, resumed.code) == (0, 0, 0, 2)
    assert "events cannot be posted to the given address" in wrong.err
    assert "events are queued, but not delivered: the secret file" in lost.err
    assert "name the file with the secret by --notify-secret-file" in without.err
    assert not read_halts(data / "models").is_running
    assert len(list_events(data / EVENTS)) == 3


def test_a_flush_that_was_killed_is_done_again(place):
    """Killed before the answer came: the event is still queued, and the next flush delivers it with the same id."""
    data, secret = place
    call(*HALT, "--notify", "https://a.example", data_dir=data)
    with receiving("hang") as received:
        words = [MLTRAIN, "notify", "--flush", "--data-dir", data]
        with subprocess.Popen(words, env={**NEUTRAL, **variables(received, secret)}) as run:
            assert received.hanging.wait(60)
            run.send_signal(signal.SIGKILL)
        done = call("notify", "--flush", "--json", data_dir=data, env=variables(received, secret))

    assert done.code == 0
    assert done.document["delivered"] == [headers["X-Mltrain-Event"] for headers, _ in received.posts][1:]
    assert received.posts[0][0]["X-Mltrain-Event"] == received.posts[1][0]["X-Mltrain-Event"]


def test_the_queue_is_shown_and_what_failed_is_told(place):
    """`notify` lists it; a flush without success ends with 6; the next command that queues an event warns."""
    data, secret = place
    with receiving(503, "hang") as received:
        env = variables(received, secret)
        flushed = call("notify", "--flush", "--test", data_dir=data, env=env)
        listed = call("notify", data_dir=data)
        halted = call(*HALT, "--notify", "https://a.example", data_dir=data)

    assert (flushed.code, listed.code, halted.code) == (6, 0, 0)
    assert "HTTP 503" in flushed.err
    assert "a test of the delivery" in listed.out
    assert "1 event(s) wait in" in halted.err
    assert call("notify", "--flush", data_dir=data).code == 2
    assert call("notify", "--test", data_dir=data, env=env).code == 2
    assert SECRET not in flushed.err + flushed.out


def test_promotions_and_rollbacks_are_queued(place):
    """With both versions; a second promotion of the live version is none."""
    data, _ = place
    names = [publish(Store(data), mark).name for mark in (b"1", b"2")]
    url = "https://a.example"
    for name in (*names, names[1]):
        mt.promote(name, other_meaning=True, notify=url, data_dir=data, now_ms=HAND["now_ms"], progress=Silent())
    mt.rollback(previous=True, notify=url, data_dir=data, now_ms=HAND["now_ms"] + 1, progress=Silent())

    waiting = mt.notify(data_dir=data).waiting
    assert [each.kind for each in waiting] == ["promotion", "promotion", "rollback"]
    assert f"{names[0]} is live in the slot lgbm in place of {names[1]}" in waiting[2].summary


PROGRAM = """
import sys, mltrain
print(mltrain.halt("wrong prices", notify="https://a.example", data_dir=sys.argv[1]).warnings)
"""


def test_a_full_disk_costs_the_event_and_not_the_halt():
    """At each operation on the queue: serving is halted, and a warning says that no event was queued."""
    disk_faults.need_strace()
    with disk_faults.memory_folder() as memory:
        (memory / "start" / "models").mkdir(parents=True)
        clean = shutil.copytree(memory / "start", memory / "clean")
        _, operations = disk_faults.run(PROGRAM, clean)
        of_queue = [each for each in operations if "/events" in each.arguments]
        assert {each.call for each in of_queue} >= {"mkdir", "write", "fsync"}
        for number, operation in enumerate(of_queue):
            folder = shutil.copytree(memory / "start", memory / f"run{number:02}")
            done = disk_faults.run_failing(PROGRAM, folder, operation, "ENOSPC")

            assert done.returncode == 0, done.stderr
            assert not read_halts(folder / "models").is_running
            assert "no event of this halt was queued" in done.stdout, operation


def test_the_receiver_of_the_page_checks_signatures(tmp_path):
    """The lines of docs/events.md accept what mltrain signs, and nothing else."""
    page = (Path(__file__).parents[2] / "docs" / "events.md").read_text("utf-8")
    lines = page.split("```python\n")[1].split("```")[0]
    secret = write_secret(tmp_path)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "data").mkdir()
    url = f"http://127.0.0.1:{port}/mltrain"
    serving = (
        lines.replace("9000", str(port))
        .replace("http.server.HTTPServer(", "s = http.server.HTTPServer(")
        .replace(".serve_forever()", "")
    )
    serving += "print('ready', flush=True)\ns.serve_forever()\n"
    with subprocess.Popen(
        [sys.executable, "-c", serving], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as run:
        while run.stdout.readline() != b"ready\n":
            pass
        good = mt.notify(flush=True, test=True, notify=url, notify_secret_file=secret, data_dir=tmp_path / "data")
        other = tmp_path / "other"
        other.write_text("f" * 64)
        other.chmod(0o600)
        wrong = mt.notify(flush=True, test=True, notify=url, notify_secret_file=other, data_dir=tmp_path / "data")
        run.kill()

    assert len(good.delivered) == 1
    assert wrong.waiting[0].error == "HTTP 401"
