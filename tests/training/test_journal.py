from __future__ import annotations

import json

import optuna
import pytest

from mltrain.errors import InputError
from mltrain.training.journal import Journal

STEPS = [[{"op": 1, "loss": 0.1 + 0.2}], [{"op": 2}, {"op": 3, "text": "ü"}], [{"op": 4}] * 3]


@pytest.fixture
def path(tmp_path):
    """Return a journal of three steps and six records."""
    path = tmp_path / "study.journal"
    journal = Journal.begin(path)
    for step in STEPS:
        journal.append_logs(step)
        journal.commit()
    return path


def test_what_was_committed_is_read_back(path):
    """All records come back in order and unchanged; nothing is cut off."""
    journal, cut = Journal.open(path)

    assert list(journal.read_logs(0)) == [log for step in STEPS for log in step]
    assert list(journal.read_logs(4)) == STEPS[2][1:]
    assert cut == 0


def test_what_was_not_committed_is_not_written(path):
    """Records reach the file with their step, all at once, and only once."""
    before = path.read_bytes()
    journal, _ = Journal.open(path)
    journal.append_logs([{"op": 5}])

    assert path.read_bytes() == before
    journal.commit()
    journal.commit()
    assert path.read_bytes().count(b'"op":5') == 1


def test_a_torn_tail_of_any_length_gives_the_whole_steps(path):
    """A file cut anywhere is reduced to its whole steps, and continues to the same bytes."""
    data = path.read_bytes()
    ends = [0]
    for step in STEPS:
        ends.append(ends[-1] + sum(len(line) + 1 for line in data[ends[-1] :].split(b"\n")[: len(step)]))
    for size in range(ends[1], len(data)):
        path.write_bytes(data[:size])
        journal, cut = Journal.open(path)
        whole = max(k for k, end in enumerate(ends) if end <= size)

        assert list(journal.read_logs(0)) == [log for step in STEPS[:whole] for log in step]
        assert cut == size - ends[whole]
        assert path.read_bytes() == data[: ends[whole]]
        for step in STEPS[whole:]:
            journal.append_logs(step)
            journal.commit()
        assert path.read_bytes() == data


@pytest.mark.parametrize("tail", [b"\0" * 200, b"garbage\n", b'{"op":9}\n{"op":10}\n', b"[" * 5000 + b"\n", b"[]\n"])
def test_a_tail_without_a_step_is_cut_off(path, tail):
    """Zeros after a power cut, foreign lines and lines without a step hash are removed."""
    data = path.read_bytes()
    path.write_bytes(data + tail)
    _, cut = Journal.open(path)

    assert cut == len(tail)
    assert path.read_bytes() == data


def test_every_changed_byte_is_found(path):
    """A changed line is damage, never mistaken for a torn tail; the file stays unchanged."""
    data = path.read_bytes()
    last = data[:-1].rindex(b"\n") + 1
    for at in range(last):
        changed = data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        path.write_bytes(changed)
        with pytest.raises(InputError, match="damaged"):
            Journal.open(path)

        assert path.read_bytes() == changed


@pytest.mark.parametrize("content", [b"", b"what was here\n", b"torn"])
def test_a_file_without_a_step_is_left_alone(path, content):
    """It is opened as empty, and its bytes stay."""
    path.write_bytes(content)
    journal, dropped = Journal.open(path)

    assert journal.empty
    assert dropped == len(content)
    assert path.read_bytes() == content


def test_a_new_journal_keeps_the_old_one(path):
    """The earlier journal is kept as `.old`."""
    data = path.read_bytes()
    Journal.begin(path)

    assert path.read_bytes() == b""
    assert path.with_name("study.journal.old").read_bytes() == data


def test_optunas_own_tools_read_it(tmp_path):
    """Optuna reads the file as its own journal: it ignores the key of the hash."""
    path = tmp_path / "study.journal"
    journal = Journal.begin(path)
    study = optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name="s")
    study.tell(study.ask({"a": optuna.distributions.FloatDistribution(0, 1)}), 0.25)
    journal.commit()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    read = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))

    assert [(t.value, t.params) for t in read.trials] == [(t.value, t.params) for t in study.trials]
    assert "step_sha256" in json.loads(path.read_bytes().splitlines()[-1])
