"""The command sentinel: one evaluation, and a process that runs until a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from mltrain.killswitch.heartbeat import find_silence
from mltrain.killswitch.switch import read_halts
from mltrain.monitoring.events import queue_event
from mltrain.monitoring.ledger import LEDGER, Ledger, format_at
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from support.bare_versions import HAND
from support.ledger_rows import VERSION, row
from support.program import MLTRAIN, NEUTRAL, call
from support.receivers import receiving, write_secret

LABEL = {"kind": "direction", "horizon_bars": 1, "ties": "drop"}
CARD = {
    "train": {"label": LABEL, "interval": "1m", "symbols": ["BTCUSDT"]},
    "lineage": {"config": {"gates": {"latency_p95_ms": 15.0}}},
}


@pytest.fixture
def store(tmp_path):
    """Return a store with one live version, of which only the card can be read."""
    made = Store(tmp_path / "data")
    files = {"lgbm.pkl": b"", "model_card.json": json.dumps(CARD).encode()}
    publish_version(made, files, verdict="GO", date=VERSION, now_ms=HAND["now_ms"])
    promote_version(made, VERSION, **HAND)
    return made


def fail(store):
    """Record that serving has just failed with an exception."""
    with Ledger(store.data_dir / LEDGER) as ledger:
        ledger.append([row(0, refused="error", at=format_at(int(time.time() * 1000)))])


def test_one_evaluation_ends_with_4_if_a_trigger_fires(store):
    """Quiet: 0, and a heartbeat; after a failure: a table with the breach, and a halt in force."""
    assert call("sentinel", "--once", data_dir=store.data_dir).code == 0
    assert find_silence(store.models, 600) is None
    fail(store)
    done = call("sentinel", "--once", data_dir=store.data_dir)

    assert done.code == 4
    assert "error: serving failed with an exception 1 time(s)" in done.out
    assert "mltrain resume --acknowledge error --why TEXT" in done.out
    assert [each.trigger for each in read_halts(store.models).halts] == ["error"]
    again = call("sentinel", "--once", "--json", data_dir=store.data_dir)
    assert (again.code, again.document["halted"]) == (4, [])


def test_a_resume_is_refused_while_the_condition_holds(store):
    """A feed that still stands still is one; a failure that is over is none."""
    old = row(0, at=format_at(int(time.time() * 1000)), source_at=None)
    with Ledger(store.data_dir / LEDGER) as ledger:
        ledger.append([old, row(1, refused="error", at=old.at, source_at=None)])
    assert call("sentinel", "--once", "--json", data_dir=store.data_dir).document["halted"] == ["stale", "error"]
    words = ["resume", "--why", "restarted", "--acknowledge", "error", "--acknowledge", "stale"]
    refused = call(*words, data_dir=store.data_dir)

    assert refused.code == 4
    assert "the condition of halt 1 (stale) still holds: BTCUSDT" in refused.err
    assert call(*words, "--force", data_dir=store.data_dir).code == 0
    assert read_halts(store.models).is_running


def test_a_wrong_configuration_is_an_error(store, tmp_path):
    """It names the key, and nothing is evaluated."""
    (tmp_path / "own.yml").write_text("triggers: {stale: {bars: 0}}")
    done = call("sentinel", "--once", "--config", tmp_path / "own.yml", data_dir=store.data_dir)

    assert done.code == 3
    assert "triggers.stale.bars (line 1): must be at least 1" in done.err
    assert find_silence(store.models, 600) is not None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_runs_until_a_signal(store, tmp_path, number, code):
    """It prints a line when it halts, and ends at once with the code of the signal and without a traceback."""
    (tmp_path / "own.yml").write_text("sentinel: {every_s: 0.1}")
    words = [MLTRAIN, "sentinel", "--config", tmp_path / "own.yml", "--data-dir", store.data_dir]
    fail(store)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=NEUTRAL, text=True) as run:
        line = run.stdout.readline()
        run.send_signal(number)
        out, err = run.communicate(timeout=20)

    assert line.split()[1:4] == ["halted", "error", "serving"]
    assert (run.returncode, out, err) == (code, "", "")
    assert find_silence(store.models, 600) is None


def test_it_halts_without_a_secret(store, tmp_path):
    """Events that cannot be delivered are a warning; their halt is in force."""
    (tmp_path / "own.yml").write_text("sentinel: {every_s: 0.1}")
    fail(store)
    words = [MLTRAIN, "sentinel", "--config", tmp_path / "own.yml", "--notify", "https://a.example"]
    with subprocess.Popen(
        [*words, "--data-dir", store.data_dir], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=NEUTRAL, text=True
    ) as run:
        line = run.stdout.readline()
        run.terminate()
        _, err = run.communicate(timeout=20)

    assert line.split()[1:3] == ["halted", "error"]
    assert "warning: events are not delivered: events are signed, and there is no secret" in err


def test_it_delivers_events(store, tmp_path):
    """That of the halt that it asked for, and one that another command has queued."""
    (tmp_path / "own.yml").write_text("sentinel: {every_s: 0.1}")
    queue_event(store.data_dir, "test", "a test", by="me@host", now_ms=int(time.time() * 1000))
    fail(store)
    with receiving() as received:
        env = {"MLTRAIN_NOTIFY_URL": received.url, "MLTRAIN_NOTIFY_SECRET_FILE": str(write_secret(tmp_path))}
        words = [MLTRAIN, "sentinel", "--config", tmp_path / "own.yml", "--data-dir", store.data_dir]
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**NEUTRAL, **env}) as run:
            assert received.arrived.acquire(timeout=60)
            assert received.arrived.acquire(timeout=60)
            run.terminate()
        documents = [json.loads(body) for _, body in received.posts]

    assert sorted(document["kind"] for document in documents) == ["halt", "test"]
    halted = next(document for document in documents if document["kind"] == "halt")
    assert halted["details"]["trigger"] == "error"
    assert halted["by"] == "mltrain sentinel"
