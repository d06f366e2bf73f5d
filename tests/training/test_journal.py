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
    """Every record of every step, in order, to the last digit; nothing had to be cut off."""
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
    """Cut off anywhere, what is left are the steps that were whole; the file is cut there, and goes on from there."""
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
def test_what_is_no_step_is_cut_off(path, tail):
    """Blocks of zeros after a power cut, foreign lines, lines without a mark: none of them ever happened."""
    data = path.read_bytes()
    path.write_bytes(data + tail)
    _, cut = Journal.open(path)

    assert cut == len(tail)
    assert path.read_bytes() == data


def test_every_changed_byte_is_found(path):
    """A line that was changed is damage, and is never taken for a torn tail: the file stands as it was."""
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
    """There is nothing to go on from, and nothing of it is cut off."""
    path.write_bytes(content)
    journal, passed_over = Journal.open(path)

    assert journal.empty
    assert passed_over == len(content)
    assert path.read_bytes() == content


def test_begun_anew_keeps_what_was_there(path):
    """The earlier journal stands beside the new one."""
    data = path.read_bytes()
    Journal.begin(path)

    assert path.read_bytes() == b""
    assert path.with_name("study.journal.old").read_bytes() == data


def test_optunas_own_tools_read_it(tmp_path):
    """The file is a journal of Optuna's: the hash stands under a key that it passes over."""
    path = tmp_path / "study.journal"
    journal = Journal.begin(path)
    study = optuna.create_study(storage=optuna.storages.JournalStorage(journal), study_name="s")
    study.tell(study.ask({"a": optuna.distributions.FloatDistribution(0, 1)}), 0.25)
    journal.commit()
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    read = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(backend))

    assert [(t.value, t.params) for t in read.trials] == [(t.value, t.params) for t in study.trials]
    assert "step_sha256" in json.loads(path.read_bytes().splitlines()[-1])
