"""Laws of `mltrain sim`: it prints its address, serves until a signal, and ends at once."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange, parse_time
from support.program import MLTRAIN, NEUTRAL, Run, call

PAGE = {"symbol": "BTCUSDT", "interval": "1m", "startTime": parse_time("2025-01-31T10:00")}
NO_TRACEBACK = "Traceback (most recent call last)"


@contextmanager
def serving(*words):
    """Yield a running `mltrain sim` after its first line of output."""
    arguments = [MLTRAIN, "sim", *map(str, words)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=NEUTRAL) as run:
        try:
            yield run
        finally:
            run.kill()


def end(run, number):
    """Send a signal; return the exit code and the remaining output."""
    run.send_signal(number)
    out, err = run.communicate(timeout=30)
    return run.returncode, out, err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_it_serves_until_a_signal(number, code):
    """It prints two addresses at once and then nothing, also with an open connection; the exit code is the signal's."""
    with serving() as run:
        base, archive = run.stdout.readline().strip(), run.stdout.readline().strip()
        with httpx.Client(trust_env=False) as client:
            shown = client.get(f"{base}/api/v3/time").json()
            missing = client.get(f"{archive}/none").status_code
            ended = end(run, number)

    assert ended == (code, "", "")
    assert (shown, missing) == ({"serverTime": CLOCK_MS}, 404)
    assert archive == f"{base}/archive"
    assert base.startswith("http://127.0.0.1:")


def test_every_option_reaches_the_server(tmp_path):
    """Market, clock, faults and limit are as given; --json prints one document, --log one line per request."""
    faults, log = tmp_path / "faults.json", tmp_path / "log.jsonl"
    faults.write_text('[{"kind": "status", "endpoint": "ping", "status": 451}]')
    log.write_text('"kept"\n')
    words = ("--seed", 3, "--signal", "strong", "--clock", "2025-02-01", "--ticking", "--latency-ms", 1)
    with serving(*words, "--weight-limit", 27, "--faults", faults, "--log", log, "--json") as run:
        text = ""
        while not text.endswith("}\n"):
            text += run.stdout.readline()
        document = Run(0, text, "").document
        with httpx.Client(base_url=f"{document['base_url']}/api/v3", trust_env=False) as client:
            row = client.get("/klines", params={**PAGE, "limit": 1}).json()[0]
            shown_ms = client.get("/time").json()["serverTime"]
            statuses = [
                client.get(path).status_code for path in ("/ping", "/time", "/klines", "/exchangeInfo", "/time")
            ]
        # The line of a request is written after its answer.
        deadline = time.monotonic() + 10
        while len(log.read_text().splitlines()) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert end(run, signal.SIGTERM) == (143, "", "")
    candle = SimSource(seed=3, signal="strong").candles("BTCUSDT", TimeRange(PAGE["startTime"], PAGE["startTime"] + 1))
    kept, *lines = [json.loads(line) for line in log.read_text().splitlines()]

    assert document["schema"] == "mltrain/sim/1"
    assert (document["seed"], document["signal"], document["clock"][:16]) == (3, "strong", "2025-02-01T00:00")
    assert document["archive_url"] == f"{document['base_url']}/archive"
    assert shown_ms > parse_time("2025-02-01")
    assert float(row[4]) == candle["close"].item()
    assert statuses == [451, 200, 400, 200, 429]
    assert kept == "kept"
    assert [(r["path"], r["status"], r["fault"]) for r in lines[1:3]] == [
        ("/api/v3/time", 200, ""), ("/api/v3/ping", 451, "status"),
    ]  # fmt: skip
    assert [r["weight_used"] for r in lines] == [2, 3, 4, 5, 7, 27, 28]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--clock", "1999-01-01"], 2, "outside the life"),
        (["--clock", "noon"], 2, "'noon' is not a time"),
        (["--faults", "none.json"], 3, "none.json"),
        (["--faults", "bad.json"], 3, "faults[0].kind: 'hangs' is unknown; did you mean hang"),
        (["--log", "none/log"], 8, "none/log"),
    ],
)
def test_invalid_arguments_are_one_message(tmp_path, words, code, message):
    """A wrong option, file or port ends it before it serves, with a message and no traceback."""
    (tmp_path / "bad.json").write_text('[{"kind": "hangs"}]')
    done = call("sim", *words, cwd=tmp_path)

    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert NO_TRACEBACK not in done.err


def test_a_port_in_use_is_a_machine_error():
    """The message names the port and a remedy."""
    with serving() as run:
        port = run.stdout.readline().strip().rpartition(":")[2]
        done = call("sim", "--port", port)
        end(run, signal.SIGTERM)

    assert (done.code, done.out) == (8, "")
    assert f"port {port}" in done.err
    assert "--port" in done.err


def test_a_log_that_cannot_be_written_ends_it():
    """A full disk is reported once, with exit code 8; no later request is served."""
    with serving("--log", "/dev/full") as run:
        base = run.stdout.readline().strip()
        run.stdout.readline()
        with httpx.Client(trust_env=False) as client:
            assert client.get(f"{base}/api/v3/ping").status_code == 200
            out, err = run.communicate(timeout=30)

    assert (run.returncode, out) == (8, "")
    assert "cannot write /dev/full: No space left" in err
    assert NO_TRACEBACK not in err
