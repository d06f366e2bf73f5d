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
from mltrain.training.study import on_their_way, open_study, told_before
from mltrain.training.trial import TrialRecord

TRIALS, BATCH = 14, 4
PLAN = load_config(None, overrides={"search.trials": TRIALS, "search.batch": BATCH}).search
DEFAULTS = PLAN.space.defaults()
IDENTITY = {"set of rows": "these"}


def opened(folder, *, plan=PLAN, resume=False, identity=IDENTITY, progress=None):
    return open_study(
        folder / "study.journal",
        plan,
        seed=3,
        identity=identity,
        first=[DEFAULTS],
        resume=resume,
        progress=progress or Silent(),
    )


def record_of(proposal):
    """Return what a trial of these parameters would be told as: a pure function, as a real one's."""
    loss = 0.6 + 0.01 * math.sin(sum(v * (i + 1) for i, v in enumerate(proposal.params.values())))
    pruned = proposal.number > 0 and proposal.number % 3 == 0
    rungs = (loss + 0.1, loss) if pruned else (loss + 0.1, loss, loss, loss)
    return TrialRecord(proposal.number, proposal.params, 3, loss, 9, rungs, "pruned" if pruned else "complete", 1.5)


def go_on(study, *, until=TRIALS):
    """Run a study's trials as a search does."""
    while len(study.told) < until:
        study.tell(record_of(study.asked[len(study.told)]))
    return study.told


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the folder of a study that nothing interrupted, and what was told."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, list(go_on(opened(folder)))


def test_after_every_trial_a_resumed_study_is_the_uninterrupted_one(whole, tmp_path):
    """Stopped after each number of trials and resumed: the same proposals, the same records, to the last bit."""
    for told in range(TRIALS + 1):
        folder = tmp_path / str(told)
        folder.mkdir()
        go_on(opened(folder), until=told)
        study = opened(folder, resume=True)

        assert study.told == whole[1][:told]
        assert go_on(study) == whole[1]


def test_a_torn_tail_costs_no_more_than_its_step(whole, tmp_path):
    """With 1 to 200 bytes missing at its end the study goes on; bytes of a step that was not whole are told of."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    path = tmp_path / "study.journal"
    data = path.read_bytes()
    steps = [line for line in data.splitlines(keepends=True) if b"step_sha256" in line]
    for missing in range(1, 201):
        path.write_bytes(data[:-missing] + b'{"op' * (missing % 2))
        progress = Silent()
        study = opened(tmp_path, resume=True, progress=progress)

        assert len(study.told) >= TRIALS - 1 - (missing > len(steps[-1]))
        assert len(progress.warnings) == 1
        assert "cut off" in progress.warnings[0]
        assert go_on(study) == whole[1]


def test_as_many_are_on_their_way_as_were_told(tmp_path):
    """Two at first, at last a batch: each trial that is told makes room for others, which know of it."""
    study = opened(tmp_path)
    for number in range(TRIALS):
        assert len(study.asked) == number + (2, 2, 2, 3, BATCH)[min(number, 4)]
        assert [p.number for p in study.asked] == list(range(len(study.asked)))
        study.tell(record_of(study.asked[number]))

    assert opened(tmp_path, resume=True).asked == study.asked


def test_the_sampler_learns_after_ten_trials(tmp_path):
    """What is proposed before ten trials have finished depends on no result; what is proposed then does."""
    proposed = []
    for sign in (1, -1):
        folder = tmp_path / str(sign)
        folder.mkdir()
        study = opened(folder)
        for _ in range(11):
            told = record_of(study.asked[len(study.told)])
            study.tell(replace(told, loss=0.6 + sign * (told.loss - 0.6)))
        proposed.append([dict(proposal.params) for proposal in study.asked])

    first = next(n for n in range(TRIALS + 1) if told_before(n, BATCH) == 10)
    assert proposed[0][:first] == proposed[1][:first]
    assert proposed[0][first] != proposed[1][first]


@given(number=st.integers(0, 400), batch=st.integers(1, 40))
def test_what_was_told_before_a_trial_is_what_made_room_for_it(number, batch):
    """One trial fewer, and there would have been no room."""
    told = told_before(number, batch)

    assert told <= number < told + on_their_way(told, batch)
    assert told == 0 or told - 1 + on_their_way(told - 1, batch) <= number


def test_a_trial_is_told_and_the_next_one_asked_or_neither(whole, tmp_path):
    """Cut off anywhere in the step that does both, the study goes on as if nothing had happened."""
    path = tmp_path / "study.journal"
    go_on(opened(tmp_path), until=2 * BATCH)
    before = len(path.read_bytes())
    go_on(opened(tmp_path, resume=True), until=2 * BATCH + 1)
    after = path.read_bytes()
    for size in range(before, len(after), 97):
        path.write_bytes(after[:size])
        study = opened(tmp_path, resume=True)

        assert len(study.told) == 2 * BATCH
        assert go_on(study) == whole[1]


def test_an_unfinished_study_is_kept_aside(whole, tmp_path):
    """Without --resume it begins anew, and what was there is not lost."""
    go_on(opened(tmp_path), until=5)
    before = (tmp_path / "study.journal").read_bytes()
    study = opened(tmp_path)

    assert study.told == []
    assert (tmp_path / "study.journal.old").read_bytes() == before
    assert go_on(study) == whole[1]


def test_a_finished_study_is_taken_as_it_is(whole, tmp_path):
    """With or without --resume, for as many trials or fewer: every trial is there, and no byte is written."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "study.journal").read_bytes()
    fewer = load_config(None, overrides={"search.trials": 5, "search.batch": BATCH}).search
    for plan in (PLAN, fewer):
        for resume in (False, True):
            assert opened(tmp_path, plan=plan, resume=resume).told == whole[1]

    assert (tmp_path / "study.journal").read_bytes() == before
    assert not (tmp_path / "study.journal.old").exists()


def test_no_study_to_resume_is_said(tmp_path):
    """It begins then."""
    progress = Silent()
    study = opened(tmp_path, resume=True, progress=progress)

    assert progress.warnings == ["there is no study study to resume: it begins now"]
    assert study.told == []


@pytest.mark.parametrize("content", [b"", b'{"op_code":0'])
def test_a_study_that_was_killed_as_it_began_begins_now(whole, tmp_path, content):
    """Without a whole step there is nothing to resume, and nothing to complain of."""
    (tmp_path / "study.journal").write_bytes(content)
    progress = Silent()
    study = opened(tmp_path, resume=True, progress=progress)

    assert len(progress.warnings) == 1
    assert "begins now" in progress.warnings[0]
    assert go_on(study) == whole[1]


def test_a_journal_under_another_name_is_refused(whole, tmp_path):
    """A file that was renamed is another study's."""
    shutil.copy(whole[0] / "study.journal", tmp_path / "other.journal")
    with pytest.raises(InputError, match="does not hold the study other"):
        open_study(
            tmp_path / "other.journal", PLAN, seed=3, identity=IDENTITY, first=[], resume=True, progress=Silent()
        )


def test_another_studys_trials_are_not_taken(whole, tmp_path):
    """Of other rows: refused where it was to be resumed, and else kept aside."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    with pytest.raises(InputError, match="another set of rows") as caught:
        opened(tmp_path, identity={"set of rows": "others"}, resume=True)

    assert "without --resume" in caught.value.hint
    assert opened(tmp_path, identity={"set of rows": "others"}).told == []
    assert (tmp_path / "study.journal.old").read_bytes() == (whole[0] / "study.journal").read_bytes()


def test_a_damaged_study_is_refused_or_kept_aside(whole, tmp_path):
    """A changed byte in the middle is no torn tail: --resume ends there, and without it a new one begins."""
    path = tmp_path / "study.journal"
    data = (whole[0] / "study.journal").read_bytes()
    damaged = data.replace(b'"rounds":3', b'"rounds":4', 1)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="damaged"):
        opened(tmp_path, resume=True)

    assert path.read_bytes() == damaged
    assert opened(tmp_path).told == []
    assert (tmp_path / "study.journal.old").read_bytes() == damaged
