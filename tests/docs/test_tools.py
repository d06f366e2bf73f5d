"""The tools that check the pages find the faults they look for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import polars as pl
import pytest
from tools.follow import follow, untrue_lines
from tools.pages import anchors_of, blocks_of, calls_in, dead_links, problem_of
from tools.replay import Replay
from tools.summary import verdict_page

from support.program import NEUTRAL, call

ENV = {**NEUTRAL, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.fixture
def page(tmp_path):
    """Return a function that writes a page and returns its path."""

    def write(text):
        path = tmp_path / "page.md"
        path.write_text(text, "utf-8")
        return path

    return write


def fence(body, *, language="sh", marks=None):
    return (f"<!-- {marks} -->\n" if marks else "") + f"```{language}\n{body}\n```\n\n"


def run(path, **rest):
    return follow([b for b in blocks_of(path) if b.runs], path.parent, env=ENV, timeout_s=30, **rest)


def test_blocks_share_one_shell_and_end_at_the_first_failure(page):
    """Variables and the working directory carry over from block to block; after a failure no block is run."""
    path = page(
        fence("export A=1\nmkdir -p d; cd d") + fence("echo $A; pwd") + fence("false\necho no") + fence("echo x")
    )

    ran = run(path)
    assert [r.passed for r in ran] == [True, True, False]
    assert ran[1].output.split() == ["1", str(path.parent / "d")]
    assert "no" not in ran[2].output


@pytest.mark.parametrize(("command", "passed"), [("(exit 4)", True), ("(exit 3)", False), ("true", False)])
def test_a_block_ends_with_the_code_that_its_page_says(page, command, passed):
    """Another exit code, also 0, is reported."""
    ran = run(page(fence(command, marks="exit 4") + fence("echo on")))

    assert [r.passed for r in ran] == ([True, True] if passed else [False])


def test_lines_that_were_not_printed_are_found(page):
    """Boxes and spaces are ignored, … matches anything, and all other text must be printed."""
    shown = fence("│ a   b │\nc … e\nzzz", language="text", marks="prints")
    path = page(fence("echo 'x  a b'; echo 'c d e'") + shown)

    assert [line.partition("printed: ")[2] for line in untrue_lines(path, run(path))] == ["zzz"]


def test_python_blocks_run_and_options_are_added(page):
    """A block of Python is a program; `instead` adds options to each line."""
    path = page(fence("print(6 * 7)", language="python") + fence("echo one\necho two", marks="instead: more"))

    assert [r.output.split() for r in run(path, quick=True)] == [["42"], ["one", "more", "two", "more"]]
    assert [r.output.split() for r in run(path)] == [["42"], ["one", "two"]]


def test_blocks_with_requirements_are_not_run(page):
    """A block that needs the internet is parsed, but not run."""
    (block,) = blocks_of(page(fence("curl example.com", marks="needs the internet")))

    assert not block.runs


def test_dead_links_are_found(page):
    """Missing files and headings are found; web addresses are not checked."""
    path = page("# A `b` c!\n\n[x](gone.md) [y](#a-b-c) [z](#other) [w](https://example.com/none) [v](page.md#a-b-c)\n")

    assert dead_links(path) == ["gone.md", "#other"]
    assert anchors_of(path) == {"a-b-c"}


def test_calls_are_found_in_scripts():
    """Behind variables, pipes, conditions and redirections, over several lines; not inside quotes."""
    script = """
    A=1 mltrain models --json 2>err.txt | head
    mltrain card validate \\
      a.json || [ $? -eq 4 ]
    python -c "
    mltrain nothing" && /opt/x/bin/mltrain predict >out
    cat <<'EOF'
    mltrain nothing
EOF
    """

    assert calls_in(script) == [["models", "--json"], ["card", "validate", "a.json"], ["predict"]]


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["card", "nothing"],
        ["train", "--nothing"],
        ["snapshot", "--days", "0"],
        ["snapshot", "--days", "many"],
        ["train", "--final", "both"],
        ["promote"],
        ["models", "prune", "--keep"],
        ["demo", "extra"],
    ],
)
def test_calls_that_do_not_parse_are_found(words):
    """A wrong command, option or value, and a missing or superfluous argument."""
    assert problem_of(words) is not None


@pytest.mark.parametrize(
    "words", [["promote"], ["train", "--trials"], ["rollback", "VERSION"], ["card", "show", "PATH"]]
)
def test_prose_may_leave_values_out(words):
    """Only names of commands and options are checked in prose."""
    assert problem_of(words, loosely=True) is None


METRICS = ("accuracy", "auc_roc", "log_loss", "brier", "ece")


def gate(name, outcome):
    return {"name": name, "outcome": outcome, "value": 1.0, "margin": None, "reason": "a|b <c>"}


def test_the_summary_of_a_no_go_names_the_gate():
    """The verdict first, one row per gate; no text of a reason can end a table or open a tag."""
    training = {
        "version": "2025-10-15",
        "verdict": "NO-GO",
        "promoted": False,
        "held": None,
        "trials": 8,
        "snapshot": "S",
        "calibration": "none",
        "model_sha256": "ab",
        "warnings": ["constant"],
        "gates": [gate("skill", "failed")],
        "intervals": {name: {"value": 0.5, "low": 0.4, "high": 0.6} for name in METRICS},
    }

    lines = verdict_page(training).splitlines()
    assert lines[0] == "## NO-GO: version 2025-10-15, not promoted"
    assert "| skill | ❌ failed | 1.0000 |  | a\\|b &lt;c> |" in lines
    assert "| accuracy | 0.5000 | 0.4000 .. 0.6000 |" in lines

    held = training | {"verdict": "GO", "held": "no | days", "gates": [gate("champion", "held")]}
    lines = verdict_page(held).splitlines()
    assert lines[:3] == ["## GO: version 2025-10-15, not promoted", "", "Held for a person to decide: no \\| days"]
    assert any(line.startswith("| champion | ✋ held |") for line in lines)


def test_the_summary_of_a_round_without_news_says_so():
    """If no training was needed, there are no gates to show."""
    page = verdict_page({"version": "2025-10-15", "verdict": "GO", "promoted": False, "already_there": True})

    assert page.startswith("## GO: version 2025-10-15 is already there")


def test_replayed_candles_are_the_recorded_ones(trained_dir, tmp_path):
    """A snapshot over REST from the replay has the values of the files, to the last bit."""
    (recorded,) = (trained_dir / "snapshots").glob("latest/BTCUSDT.parquet")
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "BTCUSDT.parquet").write_bytes(recorded.read_bytes())
    with Replay(tmp_path / "recorded") as replay:
        done = call("snapshot", "--symbols", "BTCUSDT", "--days", "2", data_dir=tmp_path / "data",
                    env={"MLTRAIN_BASE_URL": replay.base_url})  # fmt: skip
    taken = pl.read_parquet(tmp_path / "data" / "snapshots" / "latest" / "BTCUSDT.parquet")

    assert done.code == 0, done.err
    assert taken.equals(pl.read_parquet(recorded).tail(2 * 1440))
