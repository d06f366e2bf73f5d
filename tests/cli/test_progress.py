"""Reports on stderr during a command."""

from __future__ import annotations

import json

import pytest

from mltrain.cli.console import logs_json
from mltrain.cli.progress import CommandProgress, LogLines, open_progress
from support.program import call


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_log_has_each_stage_and_how_it_ended(capsys):
    """The start and the end of each stage are logged, with steps and seconds, also for concurrent stages."""
    log = LogLines(warn=True, stages=True)
    log.stage("read", total=2)
    log.advance()
    log.stage("hash", concurrent=True)
    log.advance(1, stage="read")
    log.warn("odd candles")  # noqa: G010 (no logger of the standard library)
    log.close(failed=True)

    lines = lines_of(capsys)
    assert [(t["event"], t.get("stage")) for t in lines] == [
        *(("stage", "read"), ("stage", "hash"), ("warning", None)),
        *(("stage failed", "read"), ("stage failed", "hash")),
    ]
    assert lines[3]["steps"] == lines[3]["total"] == 2
    assert all(t["time"].endswith("Z") for t in lines)


@pytest.mark.parametrize("quiet", [CommandProgress(warn=False), LogLines(warn=False, stages=False)])
def test_quiet_is_quiet(quiet, capsys):
    """With --quiet, neither stages nor warnings are shown."""
    quiet.stage("read")
    quiet.advance()
    quiet.warn("odd candles")
    quiet.close(failed=False)

    assert capsys.readouterr().err == ""


def test_the_option_has_precedence_over_the_variable(monkeypatch):
    """--log-format in either spelling decides; without it, the environment variable."""
    monkeypatch.setenv("MLTRAIN_LOG_FORMAT", "json")
    found = {}
    for words in ("train", "train --log-format text", "train --log-format=text", "train --log-format=json"):
        monkeypatch.setattr("sys.argv", ["mltrain", *words.split()])
        found[words] = logs_json()

    assert list(found.values()) == [True, False, False, True]


def test_a_pipe_gets_no_bars(capsys):
    """If stderr is not a terminal, a stage shows nothing."""
    with open_progress(shown=True, warn=True) as progress:
        progress.stage("read", total=2)
        progress.advance()

    assert capsys.readouterr().err == ""


def test_a_run_is_a_log(tmp_path):
    """With --log-format json, stderr is JSON lines from the first stage to the end or the error with its exit code."""
    words = ("--source", "sim", "--symbols", "BTCUSDT", "--days", "1", "--log-format", "json")
    done = call("snapshot", *words, data_dir=tmp_path)
    failed = call("verify", "snapshot", "2020-01-01T00-00-00Z", "--json", data_dir=tmp_path,
                  env={"MLTRAIN_LOG_FORMAT": "json"})  # fmt: skip

    lines = [json.loads(line) for line in done.err.splitlines()]
    assert done.code == 0
    assert {t["event"] for t in lines} == {"stage", "stage done", "end"}
    assert lines[-1]["command"] == "snapshot"
    (error,) = [json.loads(line) for line in failed.err.splitlines()]
    assert (error["level"], error["exit_code"], failed.code) == ("error", 3, 3)
    assert "hint" in error
