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
from mltrain.training.search import Manner, search, set_bar
from mltrain.training.split import plan_split
from mltrain.training.study import told_before
from mltrain.training.trial import Bar, TrialRecord, rounds_at

ALONE = Manner(workers=1)
RUNGS = [{"at": 0.3, "keep": 0.6, "most": 9, "folds": 1}, {"at": 1.0, "keep": 0.34, "most": 3, "folds": 5}]


class Told(Silent):
    """A progress that keeps what it was told."""

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


def run(samples, split, config, folder, *, progress=None, manner=ALONE, **options):
    return search(
        samples,
        split,
        config,
        journal=folder / "study.journal",
        manner=manner,
        progress=progress or Silent(),
        **options,
    )


@pytest.fixture(scope="module")
def found(samples, split, tmp_path_factory):
    """Six trials without rungs."""
    return run(samples, split, configured(), tmp_path_factory.mktemp("found"))


def test_first_trial_is_lightgbms_defaults(found):
    """Nothing is searched before what everybody starts from."""
    assert found.trials[0].params == {
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 20,
        "feature_fraction": 1.0,
        "bagging_fraction": 1.0,
        "lambda_l1": 0.001,
        "lambda_l2": 0.001,
    }


def test_every_trial_is_told_once_in_order(samples, split, tmp_path):
    """Records, progress and journal agree on every trial; the best is the complete one of least loss."""
    progress = Told()

    found = run(samples, split, configured(), tmp_path, progress=progress)

    assert progress.stages == [("search", 6)]
    assert [steps for steps, _ in progress.notes] == [1] * 6
    assert progress.notes[-1][1] == f"best {found.best.loss:.5f}"
    assert [t.number for t in found.trials] == list(range(6))
    assert found.best.loss == min(t.loss for t in found.trials)
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    )
    kept = optuna.load_study(study_name="study", storage=storage).trials[:6]  # the others were asked ahead
    assert [(t.number, t.value, t.params) for t in kept] == [(t.number, t.loss, dict(t.params)) for t in found.trials]


def test_every_parameter_lies_in_its_range(found):
    """The space is what the configuration says."""
    for name, searched in configured().search.space.items():
        values = [t.params[name] for t in found.trials]
        assert all(searched.low <= value <= searched.high for value in values)
        assert all(isinstance(value, int) for value in values) == isinstance(searched, IntRange)
        assert len(set(values)) > 1


def test_loss_is_the_least_mean_of_the_folds(samples, split, found):
    """A trial's loss and rounds, computed again by plain training and prediction, fold by fold, round by round."""
    trial = found.best
    params = booster_params(configured(), trial.params)
    curves = []
    for fold in split.folds:
        edges = lightgbm.Dataset(
            samples.x[split.folds[0].train.span], samples.y[split.folds[0].train.span], params=dict(params)
        )
        rows = lightgbm.Dataset(
            samples.x[fold.train.span], samples.y[fold.train.span], reference=edges, params=dict(params)
        )
        booster = lightgbm.train(params, rows, num_boost_round=trial.curve_rounds)
        curves.append(
            [
                row_log_loss(
                    booster.predict(samples.x[fold.valid.span], num_iteration=k), samples.y[fold.valid.span]
                ).mean()
                for k in range(1, trial.curve_rounds + 1)
            ]
        )
    curve = np.mean(curves, axis=0)

    assert trial.rounds == curve.argmin() + 1
    assert trial.loss == pytest.approx(curve.min(), abs=1e-12)


def test_a_trial_ends_after_the_rounds_without_gain(found):
    """Ten rounds behind the least point of the mean curve, four where a trial told when it was asked was better."""
    patiences = set()
    for trial in found.trials:
        behind = any(t.loss < trial.loss for t in found.trials[: max(0, trial.number - 2)])
        patiences.add(4 if behind else 10)
        assert trial.curve_rounds == min(trial.rounds + (4 if behind else 10), 30)

    assert patiences == {4, 10}
    assert any(t.curve_rounds < 30 for t in found.trials)


def test_out_of_fold_scores_are_those_of_the_best_trial(samples, split, found):
    """Every validation row once, in order; their mean loss over the folds is the trial's loss."""
    rows = np.concatenate([np.arange(f.valid.first_row, f.valid.stop_row) for f in split.folds])
    losses = row_log_loss(found.oof_scores, samples.y[found.oof_rows])

    assert np.array_equal(found.oof_rows, rows)
    assert np.array_equal(np.unique(found.oof_fold), np.arange(5))
    assert all(
        np.isin(found.oof_rows[found.oof_fold == k], np.r_[f.valid.span]).all() for k, f in enumerate(split.folds)
    )
    assert np.mean([losses[found.oof_fold == k].mean() for k in range(5)]) == pytest.approx(found.best.loss, abs=1e-15)


def test_a_longer_search_begins_like_a_shorter_one(samples, split, found, tmp_path):
    """The number of trials changes no trial: not even where it ends inside a batch."""
    shorter = run(samples, split, configured(trials=4), tmp_path)

    assert shorter.trials == found.trials[:4]


def test_the_same_search_twice_is_the_same(samples, split, found, tmp_path):
    """Equal seeds give equal trials and equal scores to the bit; another seed gives other trials."""
    again = run(samples, split, configured(), tmp_path)
    other = run(samples, split, replace(configured(), seed=1), tmp_path)

    assert again.trials == found.trials
    assert np.array_equal(again.oof_scores, found.oof_scores)
    assert other.trials[1].params != found.trials[1].params


def test_the_holdout_is_never_looked_at(samples, split, found, tmp_path):
    """With every row behind the inner part poisoned, all trials are the same."""
    x, y = samples.x.copy(), samples.y.copy()
    x[split.inner.stop_row :] = 1e6
    y[split.inner.stop_row :] ^= 1

    assert run(replace(samples, x=x, y=y), split, configured(), tmp_path).trials == found.trials


def record(number, rung_losses, state="complete"):
    return TrialRecord(number, {}, 1, rung_losses[-1], 1, tuple(rung_losses), state, 0.0)


def test_the_bar_by_hand():
    """At least the best four pass; of more, rung by rung the share to keep, or the most; the best that is complete."""
    rungs = (Rung(1, 0.5, 9, 1), Rung(2, 0.34, 9, 1), Rung(2, 1.0, 2, 5), Rung(3, 1.0, 9, 5))
    plan = replace(configured().search, rungs=rungs)
    told = [
        record(0, [0.5, 0.4, 0.3]),
        record(1, [0.6, 0.5, 0.5]),
        record(2, [0.9], "pruned"),
        record(3, [0.7, 0.6], "pruned"),
        record(4, [0.4, 0.3, 0.1]),
    ]
    many = [record(n, [n / 10, n / 10, n / 10, n / 10]) for n in range(1, 13)]

    assert set_bar(told, plan) == Bar((0.7, 0.6, math.inf, math.inf), 0.1)
    assert set_bar(told[:3], plan) == Bar((math.inf,) * 4, 0.3)
    assert set_bar(told[2:3], plan) == Bar((math.inf,) * 4, math.inf)
    assert set_bar([], plan) == Bar((math.inf,) * 4, math.inf)
    assert set_bar(many, plan) == Bar((0.6, 0.5, 0.4, 0.9), 0.1)  # 12 x .5; 12 x .34, rounded up; four, not two; nine


@given(
    losses=st.lists(st.sampled_from([k / 8 for k in range(8)]), max_size=40),
    loss=st.sampled_from([k / 16 for k in range(16)]),
    keep=st.floats(0.05, 1),
    most=st.integers(1, 30),
)
def test_a_trial_is_pruned_only_by_enough_better_ones(losses, loss, keep, most):
    """At least four earlier trials must have been better at the rung; counted one by one, ties and all."""
    plan = replace(configured().search, rungs=(Rung(1, keep, most, 1),))
    better = sum(other < loss for other in losses)
    allowed = min(most, math.ceil(keep * len(losses)))

    passes = loss <= set_bar([record(n, [other]) for n, other in enumerate(losses)], plan).rungs[0]

    assert passes == (better < 4 or better < allowed)


def test_the_number_of_trials_asked_for_prunes_none(samples, split, tmp_path):
    """A search of more trials begins with those of a shorter one, and prunes the same."""
    found = []
    for trials in (24, 13):
        (tmp_path / str(trials)).mkdir()
        found.append(run(samples, split, configured(trials=trials, rungs=RUNGS), tmp_path / str(trials)).trials)

    assert found[0][:13] == found[1]
    assert any(t.state == "pruned" for t in found[1])


def test_no_trial_that_was_among_the_best_four_at_a_rung_is_pruned_there(samples, split, tmp_path):
    """Even where the configuration lets only one pass: a pruned trial had four better ones before it."""
    strict = [{"at": at, "keep": 0.05, "most": 1, "folds": folds} for at, folds in ((0.3, 1), (1.0, 5))]
    config = configured(trials=16, rungs=strict)
    found = run(samples, split, config, tmp_path)
    pruned = [t for t in found.trials if t.state == "pruned"]

    assert pruned
    for trial in pruned:
        before = found.trials[: told_before(trial.number, config.search.batch)]
        rung = len(trial.rung_losses) - 1
        assert sum(len(t.rung_losses) > rung and t.rung_losses[rung] < trial.loss for t in before) >= 4


def test_a_study_says_how_it_was_searched(samples, split, tmp_path):
    """Its identity names the trials that always pass and those at random: under another rule it is another study."""
    run(samples, split, configured(trials=1, batch=1, max_rounds=2), tmp_path)

    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    study = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))
    assert study.user_attrs["identity"]["search method"] == "4 always pass, 10 at random"


def test_rungs_lie_where_trials_have_come_equally_far():
    """Half the rate, or a quarter of the leaves, doubles the rounds; a rung is never before the first round."""
    rung = Rung(at=2, keep=0.5, most=9, folds=1)

    assert rounds_at(rung, {"learning_rate": 0.1, "num_leaves": 31}) == 20
    assert rounds_at(rung, {"learning_rate": 0.05, "num_leaves": 31}) == 40
    assert rounds_at(rung, {"learning_rate": 0.1, "num_leaves": 124}) == 10
    assert rounds_at(replace(rung, at=0.001), {"learning_rate": 0.1, "num_leaves": 31}) == 1


def test_pruned_trials_end_at_a_rung_that_they_do_not_pass(samples, split, tmp_path):
    """Once enough are told, at the round of a rung, with a loss above what those told when it was asked allow."""
    config = configured(trials=16, rungs=RUNGS)
    found = run(samples, split, config, tmp_path)

    ended_at = {len(t.rung_losses) for t in found.trials if t.state == "pruned"}
    assert ended_at == {1, 2}
    for trial in found.trials:
        bar = set_bar(found.trials[: told_before(trial.number, config.search.batch)], config.search)
        passed = [a <= b for a, b in zip(trial.rung_losses, bar.rungs, strict=False)]
        assert passed == [True] * (len(passed) - 1) + [trial.state == "complete"]
        if trial.state == "pruned":
            assert trial.curve_rounds == rounds_at(config.search.rungs[len(passed) - 1], trial.params)
        else:
            assert len(passed) == 2


def test_a_rung_looks_at_its_folds_alone(samples, split, tmp_path):
    """The loss at a rung of one fold is the first fold's own least, by plain training and prediction."""
    config = configured(trials=1, rungs=RUNGS[:1])
    trial = run(samples, split, config, tmp_path).best
    fold, params = split.folds[0], booster_params(config, trial.params)
    rows = lightgbm.Dataset(samples.x[fold.train.span], samples.y[fold.train.span], params=dict(params))
    rounds = rounds_at(config.search.rungs[0], trial.params)
    booster = lightgbm.train(params, rows, num_boost_round=rounds)
    x, y = samples.x[fold.valid.span], samples.y[fold.valid.span]
    curve = [row_log_loss(booster.predict(x, num_iteration=k), y).mean() for k in range(1, rounds + 1)]

    assert trial.rung_losses == (pytest.approx(min(curve), abs=1e-12),)


def test_optuna_learns_of_pruned_trials(samples, split, tmp_path):
    """In the journal a pruned trial is pruned, with its loss at the rung where it ended."""
    config = configured(trials=14, rungs=[{"at": 0.3, "keep": 0.05, "most": 9, "folds": 5}])
    found = run(samples, split, config, tmp_path)

    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    kept = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend)).trials
    pruned = [t for t in found.trials if t.state == "pruned"]
    assert pruned
    for trial in pruned:
        assert kept[trial.number].state is optuna.trial.TrialState.PRUNED
        assert kept[trial.number].value == trial.loss
    assert found.best.state == "complete"


def test_an_earlier_journal_is_kept_aside(samples, split, tmp_path):
    """A study that is there is no part of a new one, and is not lost."""
    (tmp_path / "study.journal").write_bytes(b"what was here\n")

    run(samples, split, configured(trials=1, batch=1, max_rounds=2), tmp_path)

    assert (tmp_path / "study.journal.old").read_bytes() == b"what was here\n"
    lines = (tmp_path / "study.journal").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.journal", "study.journal.old"]


def test_a_folder_that_cannot_be_written_is_the_machines_fault(samples, split, tmp_path):
    """A journal that has no place ends with the machine's error, not with a traceback of Optuna's."""
    with pytest.raises(MachineError, match=r"study\.journal"):
        run(samples, split, configured(), tmp_path / "missing")


def test_the_last_round_is_warned_of(samples, split, tmp_path):
    """A best trial that still improved at the most rounds says which setting held it."""
    progress = Silent()

    run(samples, split, configured(trials=1, batch=1, max_rounds=3), tmp_path, progress=progress)

    assert progress.warnings == ["the best trial was still improving after search.max_rounds = 3 rounds"]


def test_optuna_speaks_as_before_afterwards(samples, split, tmp_path, capfd):
    """The search is silent, and leaves the user's own setting of Optuna's log as it was."""
    optuna.logging.set_verbosity(logging.INFO)

    run(samples, split, configured(trials=1, batch=1, max_rounds=2), tmp_path)

    assert optuna.logging.get_verbosity() == logging.INFO
    assert capfd.readouterr() == ("", "")


def test_pinned_parameters_are_not_searched(samples, split, tmp_path):
    """A range of one value gives that value in every trial."""
    config = configured(trials=4, max_rounds=2, space={"num_leaves": {"low": 7, "high": 7, "default": 7}})

    assert {t.params["num_leaves"] for t in run(samples, split, config, tmp_path).trials} == {7}


def test_data_without_signal_ends_early(new_samples, tmp_path):
    """Noise is no error: the search ends, on few rounds, near the loss of a coin."""
    samples = new_samples(signal=0.0)
    split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)

    found = run(samples, split, configured(max_rounds=200), tmp_path)

    assert found.best.rounds < 50
    assert abs(found.best.loss - math.log(2)) < 0.01


def test_constant_features_are_told_before_anything_is_written(new_samples, split, tmp_path):
    """Nothing to learn from: no trial, no journal."""
    samples = new_samples()
    samples.x[:] = 0

    with pytest.raises(InputError, match="constant"):
        run(samples, split, configured(), tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_planted_symlink_is_not_followed(samples, split, tmp_path):
    """A journal's name that points elsewhere ends the search before anything is written there."""
    (tmp_path / "study.journal").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(MltrainError, match=r"study\.journal"):
        run(samples, split, configured(), tmp_path)

    assert not (tmp_path / "elsewhere").exists()


class Clock:
    """Tells one second more whenever it is asked."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        """Return the time."""
        self.now_s += 1.0
        return self.now_s


def test_a_search_that_runs_out_of_time_is_one_of_fewer_trials(samples, split, found, tmp_path):
    """Wherever the time ends it, it is the search that was asked for the trials that it told; one at least."""
    counts = set()
    for timeout_s in (0.5, 60.0, 100.0, 1e9):
        folder = tmp_path / str(timeout_s)
        folder.mkdir()
        timed = run(samples, split, configured(), folder, manner=Manner(1, timeout_s=timeout_s), clock=Clock())
        counts.add(len(timed.trials))

        assert timed.trials == found.trials[: len(timed.trials)]
        assert timed.timed_out == (len(timed.trials) < 6)
        again = run(samples, split, configured(trials=len(timed.trials)), folder)
        assert again.trials == timed.trials
        assert np.array_equal(again.oof_scores, timed.oof_scores)
    assert {1, 6} < counts


def test_time_ends_workers_too(samples, split, found, tmp_path):
    """With the first trial told and no time left, the other processes are ended, and what is told is the result."""
    timed = run(samples, split, configured(), tmp_path, manner=Manner(2, timeout_s=0.001))

    assert timed.trials == found.trials[: len(timed.trials)]
    assert 1 <= len(timed.trials) < 6
    assert timed.timed_out


def test_a_finished_search_is_told_again_without_running(samples, split, found, tmp_path):
    """The same study a second time: the same records, scores and best trial, from the journal."""
    first = run(samples, split, configured(), tmp_path)
    again = run(samples, split, configured(), tmp_path)
    fewer = run(samples, split, configured(trials=4), tmp_path)

    assert (first.resumed, again.resumed, fewer.resumed) == (0, 6, 4)
    assert first.trials == again.trials == found.trials
    assert fewer.trials == found.trials[:4]
    assert np.array_equal(again.oof_scores, found.oof_scores)


def test_a_resumed_search_is_the_uninterrupted_one(samples, split, tmp_path):
    """Rungs and all: ended after any number of trials and resumed, it prunes and finds the same."""
    options = {"trials": 14, "rungs": RUNGS}
    (tmp_path / "whole").mkdir()
    whole = run(samples, split, configured(**options), tmp_path / "whole")
    assert {t.state for t in whole.trials} == {"complete", "pruned"}
    for told in (1, 8, 12):
        folder = tmp_path / str(told)
        folder.mkdir()
        run(samples, split, configured(**options | {"trials": told}), folder)
        resumed = run(samples, split, configured(**options), folder, manner=Manner(1, resume=True))

        assert resumed.resumed == told
        assert resumed.trials == whole.trials
        assert np.array_equal(resumed.oof_scores, whole.oof_scores)
