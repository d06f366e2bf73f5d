from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.config.loading import load_config
from mltrain.errors import InputError
from mltrain.progress import Silent
from mltrain.training.study import completed_when_proposed, max_in_flight, open_study
from mltrain.training.trial import TrialRecord

TRIALS, BATCH = 14, 4
SEARCH_CONFIG = load_config(None, overrides={"search.trials": TRIALS, "search.batch": BATCH}).search
DEFAULTS = SEARCH_CONFIG.space.defaults()
IDENTITY = {"set of rows": "these"}


def opened(folder, *, search_config=SEARCH_CONFIG, resume=False, identity=IDENTITY, progress=None):
    return open_study(
        folder / "study.journal",
        search_config,
        seed=3,
        identity=identity,
        first_params=[DEFAULTS],
        resume=resume,
        progress=progress or Silent(),
    )


def record_of(proposal):
    """Return an invented result of a trial: a pure function of its parameters, as a real one."""
    loss = 0.6 + 0.01 * math.sin(sum(v * (i + 1) for i, v in enumerate(proposal.params.values())))
    pruned = proposal.number > 0 and proposal.number % 3 == 0
    rungs = (loss + 0.1, loss) if pruned else (loss + 0.1, loss, loss, loss)
    return TrialRecord(proposal.number, proposal.params, 3, loss, 9, rungs, "pruned" if pruned else "complete", 1.5)


def finish(study, *, until=TRIALS):
    """Report results in order, as a search does, until so many trials have completed."""
    while len(study.completed) < until:
        study.report(record_of(study.proposed[len(study.completed)]))
    return study.completed


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of an uninterrupted study, and its completed trials."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(finish(opened(folder)))


def test_a_study_resumed_after_any_trial_equals_the_uninterrupted_one(whole, tmp_path):
    """It has the same proposals and the same records, to the last bit."""
    for completed in range(TRIALS + 1):
        folder = tmp_path / str(completed)
        folder.mkdir()
        finish(opened(folder), until=completed)
        study = opened(folder, resume=True)

        assert study.completed == whole[1][:completed]
        assert finish(study) == whole[1]


def test_a_torn_tail_costs_no_more_than_its_step(whole, tmp_path):
    """With up to 200 bytes missing at the end the study resumes, and a warning counts the bytes cut off."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "study.journal"
    data = path.read_bytes()
    steps = [line for line in data.splitlines(keepends=True) if b"step_sha256" in line]
    # tests/training/test_journal.py cuts at every byte.
    for missing in (1, 2, 3, 50, len(steps[-1]) - 1, len(steps[-1]), len(steps[-1]) + 1, 200):
        path.write_bytes(data[:-missing] + b'{"op' * (missing % 2))
        progress = Silent()
        study = opened(tmp_path, resume=True, progress=progress)

        assert len(study.completed) >= TRIALS - 1 - (missing > len(steps[-1]))
        assert len(progress.warnings) == 1
        assert "cut off" in progress.warnings[0]
        assert finish(study) == whole[1]


def test_as_many_trials_are_in_flight_as_have_completed(tmp_path):
    """Two at first, at most a batch; a resumed study has the same proposals."""
    study = opened(tmp_path)
    for number in range(TRIALS):
        assert len(study.proposed) == number + (2, 2, 2, 3, BATCH)[min(number, 4)]
        assert [p.number for p in study.proposed] == list(range(len(study.proposed)))
        study.report(record_of(study.proposed[number]))

    assert opened(tmp_path, resume=True).proposed == study.proposed


def test_the_sampler_learns_after_ten_trials(tmp_path):
    """Proposals depend on results from the tenth completed trial on, and not before."""
    proposed = []
    for sign in (1, -1):
        folder = tmp_path / str(sign)
        folder.mkdir()
        study = opened(folder)
        for _ in range(11):
            record = record_of(study.proposed[len(study.completed)])
            study.report(replace(record, loss=0.6 + sign * (record.loss - 0.6)))
        proposed.append([dict(proposal.params) for proposal in study.proposed])

    first = next(n for n in range(TRIALS + 1) if completed_when_proposed(n, BATCH) == 10)
    assert proposed[0][:first] == proposed[1][:first]
    assert proposed[0][first] != proposed[1][first]


@given(number=st.integers(0, 400), batch=st.integers(1, 40))
def test_a_trial_is_proposed_as_soon_as_there_is_room(number, batch):
    """With one completed trial fewer there would have been no room for it."""
    completed = completed_when_proposed(number, batch)

    assert completed <= number < completed + max_in_flight(completed, batch)
    assert completed == 0 or completed - 1 + max_in_flight(completed - 1, batch) <= number


def test_a_result_and_the_next_proposals_are_one_step(whole, tmp_path):
    """Cut anywhere inside the step, the study resumes as if neither had happened."""
    path = tmp_path / "study.journal"
    finish(opened(tmp_path), until=2 * BATCH)
    before = len(path.read_bytes())
    finish(opened(tmp_path, resume=True), until=2 * BATCH + 1)
    after = path.read_bytes()
    for size in range(before, len(after), 397):
        path.write_bytes(after[:size])
        study = opened(tmp_path, resume=True)

        assert len(study.completed) == 2 * BATCH
        assert finish(study) == whole[1]


def test_an_unfinished_study_is_kept_aside(whole, tmp_path):
    """Without `resume` a new study begins, and the old journal is kept."""
    finish(opened(tmp_path), until=5)
    before = (tmp_path / "study.journal").read_bytes()
    study = opened(tmp_path)

    assert study.completed == []
    assert (tmp_path / "study.journal.old").read_bytes() == before
    assert finish(study) == whole[1]


def test_a_finished_study_is_reused(whole, tmp_path):
    """With or without `resume`, for as many trials or fewer, every trial is there and no byte is written."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "study.journal").read_bytes()
    fewer = load_config(None, overrides={"search.trials": 5, "search.batch": BATCH}).search
    for search_config in (SEARCH_CONFIG, fewer):
        for resume in (False, True):
            assert opened(tmp_path, search_config=search_config, resume=resume).completed == whole[1]

    assert (tmp_path / "study.journal").read_bytes() == before
    assert not (tmp_path / "study.journal.old").exists()


def test_a_missing_study_to_resume_warns(tmp_path):
    """A new study begins."""
    progress = Silent()
    study = opened(tmp_path, resume=True, progress=progress)

    assert progress.warnings == ["there is no study study to resume: a new one begins"]
    assert study.completed == []


@pytest.mark.parametrize("content", [b"", b'{"op_code":0'])
def test_a_study_without_a_whole_step_begins_again(whole, tmp_path, content):
    """A study that was killed in its first step is no error."""
    (tmp_path / "study.journal").write_bytes(content)
    progress = Silent()
    study = opened(tmp_path, resume=True, progress=progress)

    assert len(progress.warnings) == 1
    assert "a new one begins" in progress.warnings[0]
    assert finish(study) == whole[1]


def test_a_journal_under_another_name_is_refused(whole, tmp_path):
    """A renamed file belongs to another study."""
    shutil.copy(whole[0] / "study.journal", tmp_path / "other.journal")
    with pytest.raises(InputError, match="does not hold the study other"):
        open_study(
            tmp_path / "other.journal",
            SEARCH_CONFIG,
            seed=3,
            identity=IDENTITY,
            first_params=[],
            resume=True,
            progress=Silent(),
        )


def test_trials_of_other_data_are_not_used(whole, tmp_path):
    """A study of other rows is refused with `resume` and kept as `.old` without it."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(InputError, match="another set of rows") as caught:
        opened(tmp_path, identity={"set of rows": "others"}, resume=True)

    assert "without --resume" in caught.value.hint
    assert opened(tmp_path, identity={"set of rows": "others"}).completed == []
    assert (tmp_path / "study.journal.old").read_bytes() == (whole[0] / "study.journal").read_bytes()


def test_a_damaged_study_is_refused_or_kept_aside(whole, tmp_path):
    """A changed byte in the middle is an error with `resume`; without it a new study begins."""
    path = tmp_path / "study.journal"
    data = (whole[0] / "study.journal").read_bytes()
    damaged = data.replace(b'"rounds":3', b'"rounds":4', 1)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        opened(tmp_path, resume=True)

    assert path.read_bytes() == damaged
    assert opened(tmp_path).completed == []
    assert (tmp_path / "study.journal.old").read_bytes() == damaged
