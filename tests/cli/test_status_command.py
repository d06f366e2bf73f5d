"""The command status: a screen, the lines of --check, and their exit codes."""

from __future__ import annotations

import pytest

from mltrain.store.store import Store
from support.operated import operate
from support.program import call

# The folder is of 2025: everything is old.
WITHOUT_AGES = """
training: {every_h: null}
live: {max_age_days: null}
candles: {max_age_h: null}
ledger: {max_age_bars: null}
sentinel: {max_silence_s: null}
"""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Return a folder in operation; read only."""
    store = Store(tmp_path_factory.mktemp("operated") / "data")
    operate(store)
    return store.data_dir


@pytest.fixture
def quiet(tmp_path):
    """Return an operate.yml by which nothing is overdue."""
    path = tmp_path / "operate.yml"
    path.write_text(WITHOUT_AGES, "utf-8")
    return path


def test_a_check_prints_one_line_for_each_problem_and_exits_4(data_dir):
    """The screen has the same lines at its end, and exits 0; the document has them, too, with their kind."""
    done, screen = call("status", "--check", data_dir=data_dir), call("status", data_dir=data_dir)
    found = call("status", "--check", "--json", data_dir=data_dir)

    assert (done.code, done.err, screen.code, found.code) == (4, "", 0, 4)
    lines = done.out.splitlines()
    assert len(lines) == len(found.document["problems"]) == 5
    assert f"{len(lines)} overdue or wrong:" in screen.out.splitlines()
    assert {each["kind"] for each in found.document["problems"]} == {
        "sentinel-silent",
        "candles-old",
        "round-overdue",
        "live-version-old",
        "answers-old",
    }


def test_a_check_without_a_problem_is_silent(data_dir, quiet):
    """So that cron mails nothing; the screen says it."""
    done = call("status", "--check", "--config", quiet, data_dir=data_dir)

    assert (done.code, done.out, done.err) == (0, "", "")
    assert call("status", "--config", quiet, data_dir=data_dir).out.endswith("nothing is overdue or wrong\n")


def test_a_wrong_setting_or_slot_is_an_error(data_dir, tmp_path):
    """Exit codes 3 and 2, not 4: an alert must not hide that nothing was checked."""
    path = tmp_path / "operate.yml"
    path.write_text("training: {every: 24}\n", "utf-8")
    done = call("status", "--check", "--config", path, data_dir=data_dir)

    assert (done.code, done.out) == (3, "")
    assert "training.every (line 1): unknown key; did you mean every_h?" in done.err
    assert call("status", "--check", "--slot", "a/b", data_dir=data_dir).code == 2
