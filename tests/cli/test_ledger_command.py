"""Laws of `mltrain ledger`: what it shows, and how it ends."""

from __future__ import annotations

import pytest

from support.ledgers import write_ledger
from support.program import call
from support.record import NOW_MS


@pytest.fixture
def folder(tmp_path):
    """Return a data folder with a ledger of three days."""
    write_ledger(tmp_path, now_ms=NOW_MS)
    return tmp_path


def test_a_whole_ledger_is_shown(folder):
    """Exit 0; the options select answers."""
    done = call("ledger", data_dir=folder)
    some = call("ledger", "--json", "--since", "2025-10-15", "--symbols", "ETHUSDT", "--newest", "2", data_dir=folder)

    assert (done.code, done.err) == (0, "")
    assert "36 answers" in done.out
    assert "no line was changed or removed" in done.out
    assert (some.code, some.document["rows"], len(some.document["newest"])) == (0, 6, 2)
    assert {row["symbol"] for row in some.document["newest"]} == {"ETHUSDT"}


def test_a_damaged_ledger_is_exit_3(folder):
    """The file and the line are named, in the document as well, and stdout has the rest."""
    path = folder / "ledger" / "2025-10-14.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"p":0.53', b'"p":0.93'))
    done, as_json = call("ledger", data_dir=folder), call("ledger", "--json", data_dir=folder)

    assert (done.code, as_json.code) == (3, 3)
    assert "DAMAGED: " in done.out
    assert "2025-10-14.jsonl: line 7: does not match its own hash" in as_json.document["problem"]
    assert call("ledger", "--since", "2025-10-15", data_dir=folder).code == 0


def test_without_answers_it_says_how_to_get_some(tmp_path):
    """Exit 0, as for other lists; nothing is created."""
    done = call("ledger", data_dir=tmp_path / "none")

    assert (done.code, done.err) == (0, "")
    assert "`mltrain predict --watch --ledger` records them" in done.out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "yesterday"],
        ["--symbols", "no symbol"],
        ["--symbols", ""],
        ["--newest", "-1"],
        ["prune"],
        ["prune", "--keep-days", "0"],
        ["--newest", "3", "prune", "--keep-days", "3"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_usage_errors(folder, words):
    """Exit 2, and nothing is removed."""
    assert call("ledger", *words, data_dir=folder).code == 2
    assert len(list((folder / "ledger").glob("*.jsonl"))) == 3


def test_old_days_are_removed(folder):
    """The newest always stays."""
    done = call("ledger", "prune", "--keep-days", "1", data_dir=folder)

    assert done.code == 0
    assert done.out.startswith("2 removed: 2025-10-13, 2025-10-14\n")
    assert [path.name for path in (folder / "ledger").glob("*.jsonl")] == ["2025-10-15.jsonl"]
