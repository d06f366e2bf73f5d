from __future__ import annotations

import json
import logging
import math
from dataclasses import replace

import lightgbm
import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.config.loading import load_config
from mltrain.config.train_config import IntRange, Rung
from mltrain.errors import InputError, MachineError, MltrainError
from mltrain.progress import Silent
from mltrain.training.booster import booster_params
from mltrain.training.metrics import row_log_loss
from mltrain.training.samples import take_rows
from mltrain.training.search import ExecutionOptions, pruning_thresholds, search
from mltrain.training.split import plan_split
from mltrain.training.study import completed_when_proposed
from mltrain.training.trial import PruningThresholds, TrialRecord, rounds_to_reach

IN_PROCESS = ExecutionOptions(workers=1)
RUNGS = [{"at": 0.3, "keep": 0.6, "most": 9, "folds": 1}, {"at": 1.0, "keep": 0.34, "most": 3, "folds": 5}]


class RecordingProgress(Silent):
    """A progress that keeps its stages and notes."""

    def __init__(self):
        super().__init__()
        self.stages, self.notes = [], []

    def stage(self, name, *, total=None):
        """Keep the stage."""
        self.stages.append((name, total))

    def advance(self, steps=1, *, note=""):
        """Keep the note."""
        self.notes.append((steps, note))


def configured(**overrides):
    options = {"trials": 6, "batch": 3, "max_rounds": 30, "early_stop": 10, "settle": 4, "rungs": [], **overrides}
    return load_config(None, overrides={f"search.{key}": value for key, value in options.items()})


@pytest.fixture(scope="module")
def split(samples):
    return plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)


def run(samples, split, config, folder, *, progress=None, execution=IN_PROCESS, **options):
    return search(
        samples,
        split,
        config,
        journal=folder / "study.journal",
        execution=execution,
        progress=progress or Silent(),
        **options,
    )


@pytest.fixture(scope="module")
def found(samples, split, tmp_path_factory):
    """Six trials without rungs."""
    return run(samples, split, configured(), tmp_path_factory.mktemp("found"))


@pytest.fixture(scope="module")
def with_rungs(samples, split, tmp_path_factory):
    """Sixteen trials with two rungs, and the folder of the study."""
    folder = tmp_path_factory.mktemp("with_rungs")
    return run(samples, split, configured(trials=16, rungs=RUNGS), folder), folder


def stored_study(folder):
    """Return the study of a journal, opened by Optuna's own tools."""
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))


def test_first_trial_is_lightgbms_defaults(found):
    """The search starts from LightGBM's default parameters."""
    assert found.trials[0].params == {
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 20,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
        "lambda_l1": 0.001,
        "lambda_l2": 0.001,
    }


def test_every_trial_is_reported_once_in_order(samples, split, tmp_path):
    """Records, progress and journal agree on every trial; the best is the complete one of least loss."""
    progress = RecordingProgress()

    found = run(samples, split, configured(), tmp_path, progress=progress)

    assert progress.stages == [("search", 6)]
    assert [steps for steps, _ in progress.notes] == [1] * 6
    assert progress.notes[-1][1] == f"best {found.best.loss:.5f}"
    assert [t.number for t in found.trials] == list(range(6))
    assert found.best.loss == min(t.loss for t in found.trials)
    # The study proposes further trials ahead.
    stored = stored_study(tmp_path).trials[:6]
    assert [(t.number, t.value, t.params) for t in stored] == [(t.number, t.loss, dict(t.params)) for t in found.trials]


def test_every_parameter_lies_in_its_range(found):
    """Parameters keep the type and range that the configuration gives; each is varied."""
    for name, searched in configured().search.space.items():
        values = [t.params[name] for t in found.trials]
        assert all(searched.low <= value <= searched.high for value in values)
        assert all(isinstance(value, int) for value in values) == isinstance(searched, IntRange)
        assert len(set(values)) > 1


def test_loss_is_the_least_mean_of_the_folds(samples, split, found):
    """Plain training and prediction, fold by fold and round by round, give the same loss and rounds."""
    trial = found.best
    params = booster_params(configured(), trial.params, names=samples.names)
    curves = []
    for fold in split.folds:
        edges = lightgbm.Dataset(
            samples.x[split.folds[0].train.span], samples.y[split.folds[0].train.span], params=dict(params)
        )
        rows = lightgbm.Dataset(
            samples.x[fold.train.span], samples.y[fold.train.span], reference=edges, params=dict(params)
        )
        booster = lightgbm.train(params, rows, num_boost_round=trial.rounds_run)
        curves.append(
            [
                row_log_loss(
                    booster.predict(samples.x[fold.valid.span], num_iteration=k), samples.y[fold.valid.span]
                ).mean()
                for k in range(1, trial.rounds_run + 1)
            ]
        )
    curve = np.mean(curves, axis=0)

    assert trial.best_round == curve.argmin() + 1
    assert trial.loss == pytest.approx(curve.min(), abs=1e-12)


def test_a_trial_ends_after_rounds_without_improvement(found):
    """It ends ten rounds after its least mean loss; four if a trial completed before it was proposed is better."""
    patiences = set()
    for trial in found.trials:
        behind = any(t.loss < trial.loss for t in found.trials[: max(0, trial.number - 2)])
        patiences.add(4 if behind else 10)
        assert trial.rounds_run == min(trial.best_round + (4 if behind else 10), 30)

    assert patiences == {4, 10}
    assert any(t.rounds_run < 30 for t in found.trials)


def test_out_of_fold_scores_are_those_of_the_best_trial(samples, split, found):
    """They cover every validation row once, in order, and their mean loss over the folds is the trial's loss."""
    rows = np.concatenate([np.arange(f.valid.first_row, f.valid.stop_row) for f in split.folds])
    losses = row_log_loss(found.oof.scores, samples.y[found.oof.rows])

    assert np.array_equal(found.oof.rows, rows)
    assert np.array_equal(np.unique(found.oof.fold), np.arange(5))
    assert all(
        np.isin(found.oof.rows[found.oof.fold == k], np.r_[f.valid.span]).all() for k, f in enumerate(split.folds)
    )
    assert np.mean([losses[found.oof.fold == k].mean() for k in range(5)]) == pytest.approx(found.best.loss, abs=1e-15)


def test_ties_are_scored_by_the_booster_of_their_fold(samples, split, found, tmp_path):
    """Rows given as ties get the bits that they have as validation rows; no trial reads them."""
    every_third = np.arange(0, samples.y.size, 3)
    ties = replace(take_rows(samples, every_third), y=np.zeros(every_third.size, np.uint8))
    with_ties = run(samples, split, configured(), tmp_path, ties=ties)
    is_third = found.oof.rows % 3 == 0

    assert with_ties.trials == found.trials
    assert with_ties.oof.scores.tobytes() == found.oof.scores.tobytes()
    assert np.array_equal(every_third[with_ties.tie_oof.rows], found.oof.rows[is_third])
    assert with_ties.tie_oof.scores.tobytes() == found.oof.scores[is_third].tobytes()
    assert np.array_equal(with_ties.tie_oof.fold, found.oof.fold[is_third])
    assert found.tie_oof.scores.size == found.tie_oof.rows.size == found.tie_oof.fold.size == 0


def test_a_longer_search_begins_like_a_shorter_one(samples, split, found, tmp_path):
    """The number of trials requested changes no trial, even when the search ends inside a batch."""
    shorter = run(samples, split, configured(trials=4), tmp_path)

    assert shorter.trials == found.trials[:4]


def test_the_same_search_twice_is_the_same(samples, split, found, tmp_path):
    """Equal seeds give bit-identical trials and scores; another seed gives other trials."""
    again = run(samples, split, configured(), tmp_path)
    other = run(samples, split, replace(configured(), seed=1), tmp_path)

    assert again.trials == found.trials
    assert np.array_equal(again.oof.scores, found.oof.scores)
    assert other.trials[1].params != found.trials[1].params


def test_the_holdout_is_never_read(samples, split, found, tmp_path):
    """Corrupting every row after the inner part changes no trial."""
    x, y = samples.x.copy(), samples.y.copy()
    x[split.inner.stop_row :] = 1e6
    y[split.inner.stop_row :] ^= 1

    assert run(replace(samples, x=x, y=y), split, configured(), tmp_path).trials == found.trials


def record(number, rung_losses, state="complete"):
    return TrialRecord(number, {}, 1, rung_losses[-1], 1, tuple(rung_losses), state, 0.0)


def test_pruning_thresholds_by_hand():
    """The best four pass; of more trials the share `keep`, at most `most`; the best loss is a complete trial's."""
    rungs = (Rung(1, 0.5, 9, 1, 3), Rung(2, 0.34, 9, 1, 3), Rung(2, 1.0, 2, 5, 3), Rung(3, 1.0, 9, 5, 3))
    search_config = replace(configured().search, rungs=rungs)
    completed = [
        record(0, [0.5, 0.4, 0.3]),
        record(1, [0.6, 0.5, 0.5]),
        record(2, [0.9], "pruned"),
        record(3, [0.7, 0.6], "pruned"),
        record(4, [0.4, 0.3, 0.1]),
    ]
    many = [record(n, [n / 10, n / 10, n / 10, n / 10]) for n in range(1, 13)]

    assert pruning_thresholds(completed, search_config) == PruningThresholds((0.6, 0.5, 0.5, math.inf), 0.1)
    assert pruning_thresholds(completed[:3], search_config) == PruningThresholds((0.9, *[math.inf] * 3), 0.3)
    assert pruning_thresholds(completed[2:3], search_config) == PruningThresholds((math.inf,) * 4, math.inf)
    assert pruning_thresholds([], search_config) == PruningThresholds((math.inf,) * 4, math.inf)
    # Of twelve: .5 of them; .34 of them, rounded up; three instead of two; nine.
    assert pruning_thresholds(many, search_config) == PruningThresholds((0.6, 0.5, 0.3, 0.9), 0.1)


@given(
    losses=st.lists(st.sampled_from([k / 8 for k in range(8)]), max_size=40),
    loss=st.sampled_from([k / 16 for k in range(16)]),
    keep=st.floats(0.05, 1),
    most=st.integers(1, 30),
    least=st.integers(1, 6),
)
def test_a_trial_is_pruned_only_by_enough_better_ones(losses, loss, keep, most, least):
    """A trial is pruned if at least `least`, and as many as may pass, of the earlier trials were better at the rung."""
    search_config = replace(configured().search, rungs=(Rung(1, keep, most, 1, least),))
    better = sum(other < loss for other in losses)
    allowed = min(most, math.ceil(keep * len(losses)))

    completed = [record(n, [other]) for n, other in enumerate(losses)]
    passes = loss <= pruning_thresholds(completed, search_config).max_rung_losses[0]

    assert passes == (better < least or better < allowed)


def test_the_study_records_the_search_method(samples, split, tmp_path):
    """Its identity holds the rules that no setting changes: other ones make another study."""
    run(samples, split, configured(trials=1, batch=1, max_rounds=2), tmp_path)

    assert stored_study(tmp_path).user_attrs["identity"]["search method"] == "4 always pass, 10 at random"


def test_rungs_lie_at_equal_progress():
    """Half the learning rate or a quarter of the leaves doubles the rounds; a rung is never before round 1."""
    rung = Rung(at=2, keep=0.5, most=9, folds=1)

    assert rounds_to_reach(rung, {"learning_rate": 0.1, "num_leaves": 31}) == 20
    assert rounds_to_reach(rung, {"learning_rate": 0.05, "num_leaves": 31}) == 40
    assert rounds_to_reach(rung, {"learning_rate": 0.1, "num_leaves": 124}) == 10
    assert rounds_to_reach(replace(rung, at=0.001), {"learning_rate": 0.1, "num_leaves": 31}) == 1


def test_pruned_trials_end_at_a_rung_that_they_do_not_pass(with_rungs):
    """A trial is pruned at the round of the first rung where its loss exceeds the threshold, and only there."""
    found, _ = with_rungs
    search_config = configured(trials=16, rungs=RUNGS).search

    assert {len(t.rung_losses) for t in found.trials if t.state == "pruned"} == {1, 2}
    for trial in found.trials:
        before = found.trials[: completed_when_proposed(trial.number, search_config.batch)]
        thresholds = pruning_thresholds(before, search_config)
        passed = [a <= b for a, b in zip(trial.rung_losses, thresholds.max_rung_losses, strict=False)]
        assert passed == [True] * (len(passed) - 1) + [trial.state == "complete"]
        if trial.state == "pruned":
            assert trial.rounds_run == rounds_to_reach(search_config.rungs[len(passed) - 1], trial.params)
        else:
            assert len(passed) == 2


def test_a_rung_uses_its_folds_alone(samples, split, tmp_path):
    """The loss at a rung of one fold is the first fold's least loss by plain training and prediction."""
    config = configured(trials=1, rungs=RUNGS[:1])
    trial = run(samples, split, config, tmp_path).best
    fold, params = split.folds[0], booster_params(config, trial.params, names=samples.names)
    rows = lightgbm.Dataset(samples.x[fold.train.span], samples.y[fold.train.span], params=dict(params))
    rounds = rounds_to_reach(config.search.rungs[0], trial.params)
    booster = lightgbm.train(params, rows, num_boost_round=rounds)
    x, y = samples.x[fold.valid.span], samples.y[fold.valid.span]
    curve = [row_log_loss(booster.predict(x, num_iteration=k), y).mean() for k in range(1, rounds + 1)]

    assert trial.rung_losses == (pytest.approx(min(curve), abs=1e-12),)


def test_optuna_learns_of_pruned_trials(with_rungs):
    """In the journal a pruned trial is pruned, with its loss at the rung where it ended."""
    found, folder = with_rungs
    stored = stored_study(folder).trials

    for trial in [t for t in found.trials if t.state == "pruned"]:
        assert stored[trial.number].state is optuna.trial.TrialState.PRUNED
        assert stored[trial.number].value == trial.loss
    assert found.best.state == "complete"


def test_an_earlier_journal_is_kept_aside(samples, split, tmp_path):
    """An existing file does not enter a new study, and is not lost."""
    (tmp_path / "study.journal").write_bytes(b"what was here\n")

    run(samples, split, configured(trials=1, batch=1, max_rounds=2), tmp_path)

    assert (tmp_path / "study.journal.old").read_bytes() == b"what was here\n"
    lines = (tmp_path / "study.journal").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.journal", "study.journal.old"]


def test_an_unwritable_folder_is_a_machine_error(samples, split, tmp_path):
    """A journal that cannot be created raises MachineError, not an exception of Optuna."""
    with pytest.raises(MachineError, match=r"study\.journal"):
        run(samples, split, configured(), tmp_path / "missing")


def test_a_best_trial_at_the_last_round_warns(samples, split, tmp_path):
    """A best trial that was still improving at `max_rounds` names that setting."""
    progress = Silent()

    run(samples, split, configured(trials=1, batch=1, max_rounds=3), tmp_path, progress=progress)

    assert progress.warnings == ["the best trial was still improving after search.max_rounds = 3 rounds"]


def test_the_log_level_of_optuna_is_restored(samples, split, tmp_path, capfd):
    """The search prints nothing and leaves the user's log level of Optuna unchanged."""
    optuna.logging.set_verbosity(logging.INFO)

    run(samples, split, configured(trials=1, batch=1, max_rounds=2), tmp_path)

    assert optuna.logging.get_verbosity() == logging.INFO
    assert capfd.readouterr() == ("", "")


def test_pinned_parameters_are_not_searched(samples, split, tmp_path):
    """A range of one value gives that value in every trial."""
    config = configured(trials=4, max_rounds=2, space={"num_leaves": {"low": 7, "high": 7, "default": 7}})

    assert {t.params["num_leaves"] for t in run(samples, split, config, tmp_path).trials} == {7}


def test_data_without_signal_ends_early(new_samples, tmp_path):
    """Noise is no error: the search ends after few rounds, near the log loss of a coin."""
    samples = new_samples(signal=0.0)
    split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)

    found = run(samples, split, configured(max_rounds=200), tmp_path)

    assert found.best.best_round < 50
    assert abs(found.best.loss - math.log(2)) < 0.01


def test_constant_features_are_refused_before_anything_is_written(new_samples, split, tmp_path):
    """Without a varying feature there is no trial and no journal."""
    samples = new_samples()
    samples.x[:] = 0

    with pytest.raises(InputError, match="constant"):
        run(samples, split, configured(), tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_planted_symlink_is_not_followed(samples, split, tmp_path):
    """A journal that is a symlink ends the search before anything is written to its target."""
    (tmp_path / "study.journal").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MltrainError, match=r"study\.journal"):
        run(samples, split, configured(), tmp_path)

    assert not (tmp_path / "elsewhere").exists()


class Clock:
    """Advances by one second per call."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        """Return the time."""
        self.now_s += 1.0
        return self.now_s


def test_a_search_that_runs_out_of_time_is_one_of_fewer_trials(samples, split, found, tmp_path):
    """A search stopped after n trials, at least one, equals a search for n trials."""
    counts = set()
    for timeout_s in (0.5, 60.0, 100.0, 1e9):
        folder = tmp_path / str(timeout_s)
        folder.mkdir()
        timed = run(
            samples, split, configured(), folder, execution=ExecutionOptions(1, timeout_s=timeout_s), clock=Clock()
        )
        counts.add(len(timed.trials))

        assert timed.trials == found.trials[: len(timed.trials)]
        assert timed.timed_out == (len(timed.trials) < 6)
        again = run(samples, split, configured(trials=len(timed.trials)), folder)
        assert again.trials == timed.trials
        assert np.array_equal(again.oof.scores, timed.oof.scores)
    assert {1, 6} < counts


def test_time_ends_workers_too(samples, split, found, tmp_path):
    """Once the first trial has completed, a timeout ends the workers; the completed trials are the result."""
    timed = run(samples, split, configured(), tmp_path, execution=ExecutionOptions(2, timeout_s=0.001))

    assert timed.trials == found.trials[: len(timed.trials)]
    assert 1 <= len(timed.trials) < 6
    assert timed.timed_out


def test_a_finished_search_is_read_from_its_journal(samples, split, found, tmp_path):
    """Searching again returns the same trials and scores without running a trial."""
    first = run(samples, split, configured(), tmp_path)
    again = run(samples, split, configured(), tmp_path)
    fewer = run(samples, split, configured(trials=4), tmp_path)

    assert (first.resumed, again.resumed, fewer.resumed) == (0, 6, 4)
    assert first.trials == again.trials == found.trials
    assert fewer.trials == found.trials[:4]
    assert np.array_equal(again.oof.scores, found.oof.scores)


def test_a_resumed_search_equals_the_uninterrupted_one(samples, split, with_rungs, tmp_path):
    """Stopped after any number of trials, with pruning, it has the same trials, and resumed it ends the same."""
    whole, _ = with_rungs
    for completed in (1, 8, 13):
        folder = tmp_path / str(completed)
        folder.mkdir()
        shorter = run(samples, split, configured(trials=completed, rungs=RUNGS), folder)
        config = configured(trials=16, rungs=RUNGS)
        resumed = run(samples, split, config, folder, execution=ExecutionOptions(1, resume=True))

        assert shorter.trials == whole.trials[:completed]
        assert resumed.resumed == completed
        assert resumed.trials == whole.trials
        assert np.array_equal(resumed.oof.scores, whole.oof.scores)
