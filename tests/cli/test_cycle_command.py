"""The command cycle: one round, and a process that runs until a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

import mltrain as mt
from mltrain.documents.results import to_plain
from mltrain.monitoring.rounds import ROUNDS_FILE, Round, append_round, read_rounds
from mltrain.times import format_seconds
from support.program import FEW_FEATURES, MLTRAIN, NEUTRAL, QUICK, call

WORDS = ("cycle", "--source", "sim", "--sim-signal", "strong", "--symbols", "BTCUSDT,ETHUSDT", "--days", "6")
TRAINING = ("--trials", "1", "--config", QUICK, "--features", FEW_FEATURES, "--workers", "1")


def test_one_round_is_what_the_function_gives(tmp_path):
    """The document is the line of the log; the function finds the same training, and lists what it does."""
    data = tmp_path / "data"
    done = call(*WORDS, *TRAINING, "--once", "--json", data_dir=data)
    (line,) = read_rounds(data).rounds
    (again,) = mt.cycle(
        once=True,
        sim_signal="strong",
        symbols=["BTCUSDT", "ETHUSDT"],
        days=6,
        trials=1,
        config=QUICK,
        features=FEW_FEATURES,
        workers=1,
        keep_versions=1,
        keep_snapshot_days=1,
        keep_study_days=1,
        keep_backtest_days=1,
        keep_ledger_days=1,
        data_dir=data,
    )

    assert done.code == done.document["exit_code"] == (4 if done.document["outcome"] == "no-go" else 0)
    assert {**done.document, "prev_sha256": None} == {"schema": "mltrain/round/1", **to_plain(line)}
    assert (again.outcome, again.due, again.version) == ("unchanged", None, done.document["version"])
    assert again.version in again.sentence


def test_a_failing_round_ends_with_the_code_of_its_error(tmp_path):
    """Its line says why."""
    done = call(
        "cycle", "--once", "--from", tmp_path / "none", "--source", "files", "--interval", "1m", data_dir=tmp_path
    )
    (made,) = read_rounds(tmp_path).rounds

    assert done.code == made.exit_code == 3
    assert made.outcome == "failed"
    assert f"warning: {made.sentence}" in done.err
    assert made.sentence in done.out


@pytest.mark.parametrize(
    "words",
    [("--every", "30s"), ("--at", "25:00"), ("--keep-versions", "0"), ("--trials", "0"), ("--notify", "ftp://x")],
)
def test_a_wrong_option_is_an_error_before_any_round(words, tmp_path):
    """No round is run at night only to find it."""
    done = call(*WORDS, *words, data_dir=tmp_path / "data")

    assert done.code == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_waits_until_a_signal(tmp_path, number, code):
    """It prints a line per round and per gap, ends at once, and a second one in the same slot ends with 7."""
    now_ms = int(time.time() * 1000)
    long_ago = format_seconds(now_ms - 30 * 86_400_000)[:11] + "00:00:00Z"
    append_round(tmp_path, Round("lgbm", "held", "a test", long_ago, long_ago, long_ago, long_ago))
    words = [MLTRAIN, "cycle", "--source", "files", "--from", "none", "--interval", "1m", "--json"]
    with subprocess.Popen(
        [*words, "--data-dir", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=NEUTRAL, text=True
    ) as run:
        gap, failed = (json.loads(run.stdout.readline()) for _ in range(2))
        second = call(*words[1:], data_dir=tmp_path)
        run.send_signal(number)
        out, err = run.communicate(timeout=20)

    assert (gap["outcome"], failed["outcome"]) == ("missed", "failed")
    assert gap["missed"] in {28, 29}
    assert second.code == 7
    assert "rounds of training in the slot lgbm" in second.err
    assert (run.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert len((tmp_path / ROUNDS_FILE).read_text().splitlines()) == 3
