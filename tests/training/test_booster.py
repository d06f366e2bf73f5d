from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from mltrain.artifact.model_text import check_model_text
from mltrain.config.loading import load_config
from mltrain.errors import InputError
from mltrain.training.booster import (
    bin_rows,
    booster_params,
    cut_block,
    feature_gains,
    fit_final,
    normalise_model_text,
)
from mltrain.training.metrics import auc, row_log_loss
from mltrain.training.split import plan_split
from mltrain.training.trial import FoldData, FoldRunner, Proposal, PruningThresholds

TUNED = {"num_leaves": 15, "learning_rate": 0.1, "feature_fraction": 0.6, "bagging_fraction": 0.7}


@pytest.fixture(scope="module")
def config():
    return load_config(None, overrides={})


@pytest.fixture(scope="module")
def split(samples):
    return plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)


@pytest.fixture(scope="module")
def text(samples, split, config):
    return fit_final(samples, split, config, tuned=TUNED, rounds=10)


def poisoned(samples, rows):
    """Return the samples with impossible features and inverted labels in some rows."""
    x, y = samples.x.copy(), samples.y.copy()
    x[rows] = x[rows] * 1_000 - 77
    y[rows] = 1 - y[rows]
    return replace(samples, x=x, y=y)


def trees(text):
    """Return the trees of a model text, without its parameters."""
    return text[text.index("\nTree=0") : text.index("end of trees")]


def test_booster_learns_the_informative_feature(samples, split, text):
    """Only the first feature is informative: it has the greatest gain, and the booster predicts the holdout."""
    p = lightgbm.Booster(model_str=text).predict(samples.x[split.holdout.span])

    assert auc(p, samples.y[split.holdout.span]) > 0.65
    assert feature_gains(text)[0][0] == "f0"
    assert [gain for _, gain in feature_gains(text)] == sorted((g for _, g in feature_gains(text)), reverse=True)


def test_same_fit_gives_the_same_text(samples, split, config, text):
    """A second fit gives an identical text; another seed gives other trees."""
    assert fit_final(samples, split, config, tuned=TUNED, rounds=10) == text
    assert trees(fit_final(samples, split, replace(config, seed=7), tuned=TUNED, rounds=10)) != trees(text)


def test_holdout_never_reaches_the_booster(samples, split, config, text):
    """Corrupting every row after the inner part, purged rows included, does not change the text."""
    rows = slice(split.inner.stop_row, None)

    assert fit_final(poisoned(samples, rows), split, config, tuned=TUNED, rounds=10) == text


def test_bin_edges_come_from_the_first_fold_alone(samples, split, config):
    """Corrupting every row after the first fold's training rows changes no binned value before them."""
    params = booster_params(config, TUNED, names=samples.names)
    start = split.folds[0].train.stop_row
    fold = split.folds[0].train

    texts = []
    for rows in (samples, poisoned(samples, slice(start, None))):
        booster = lightgbm.Booster(params, cut_block(bin_rows(rows, split, config, rows=split.inner.span), split, fold))
        booster.update()
        texts.append(booster.model_to_string())

    assert texts[0] == texts[1]
    assert texts[0].count("[max_bin: 63]") == 1


def test_a_cut_block_equals_binning_separately(samples, split, config):
    """A fold cut out of the binned inner part gives the same booster as its rows binned by the same edges."""
    params = booster_params(config, TUNED, names=samples.names)
    inner = bin_rows(samples, split, config, rows=split.inner.span)
    block = split.folds[2].train
    separate = lightgbm.Dataset(
        samples.x[block.span],
        samples.y[block.span],
        reference=inner,
        feature_name=list(samples.names),
        params=dict(params),
    )

    boosters = [lightgbm.Booster(params, rows) for rows in (cut_block(inner, split, block), separate)]
    for booster in boosters:
        booster.update()

    assert boosters[0].model_to_string() == boosters[1].model_to_string()


def test_model_text_does_not_describe_the_machine(samples, text):
    """It names no threads, machines or devices, and LightGBM still reads it."""
    parameters = text[text.index("\nparameters:") :]
    booster = lightgbm.Booster(model_str=text)

    assert "[num_iterations: 10]" in parameters
    assert not any(word in parameters for word in ("thread", "machine", "gpu", "device", "_port", "time_out"))
    assert booster.num_trees() == 10
    assert booster.feature_name() == list(samples.names)


def test_normalising_changes_only_the_parameters():
    """A feature with the name of a parameter stays."""
    text = (
        "tree\nfeature_names=num_threads\n[num_threads: 3]\n\nparameters:\n[a: 1]\n[machines: ]\n\nend of parameters\n"
    )

    expected = "tree\nfeature_names=num_threads\n[num_threads: 3]\n\nparameters:\n[a: 1]\n\nend of parameters\n"

    assert normalise_model_text(text) == expected


def test_constant_features_get_no_split(new_samples, config):
    """A constant column has no gain; one that is constant in the first fold has little."""
    samples = new_samples()
    samples.x[:, 1] = 5
    split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)
    samples.x[: split.folds[0].train.stop_row, 2] = 3

    gains = dict(feature_gains(fit_final(samples, split, config, tuned=TUNED, rounds=5)))

    assert gains["f1"] == 0
    assert gains["f0"] > 10 * gains["f2"]


def test_only_constant_features_are_an_error(new_samples, split, config):
    """If all features are constant, our error comes before LightGBM's."""
    samples = new_samples()
    samples.x[:] = 1.5

    with pytest.raises(InputError, match="all 5 are constant in fold 1 train"):
        fit_final(samples, split, config, tuned=TUNED, rounds=5)


def test_every_seed_is_set(config):
    """All of LightGBM's seeds are set, in its 32 bits."""
    params = booster_params(replace(config, seed=2**31 - 1), TUNED, names=())
    seeds = {name: value for name, value in params.items() if name.endswith("seed")}

    assert len(seeds) == 7
    assert all(0 <= value < 2**31 for value in seeds.values())
    assert params["num_threads"] == 1


def with_options(**options):
    """Return the packaged configuration with these options of the boosters."""
    return load_config(None, overrides={f"booster.{key}": value for key, value in options.items()})


DART = {"boosting": "dart", "drop_rate": 0.5, "skip_drop": 0.0}


@pytest.mark.parametrize(
    ("off", "on"),
    [
        ({}, {"boosting": "dart", "skip_drop": 0.0}),
        (DART, {**DART, "drop_rate": 0.1}),
        (DART, {**DART, "max_drop": 1}),
        (DART, {**DART, "skip_drop": 0.9}),
        (DART, {**DART, "uniform_drop": True}),
        ({}, {"max_depth": 2}),
        ({}, {"min_gain_to_split": 4.0}),
        ({}, {"extra_trees": True}),
        ({}, {"path_smooth": 20.0}),
        ({}, {"max_bin": 15}),
        ({}, {"monotone_constraints": {"f0": -1}}),
        (
            {"monotone_constraints": {"f0": 1}},
            {"monotone_constraints": {"f0": 1}, "monotone_constraints_method": "advanced"},
        ),
        ({}, {"interaction_constraints": [["f0"], ["f1", "f2"]]}),
    ],
    ids="-".join,
)
def test_every_option_changes_the_trees(samples, split, off, on):
    """A booster with an option of the configuration has other trees than one without; a second fit has the same."""
    samples = bent(samples)
    texts = [fit_final(samples, split, with_options(**options), tuned=TUNED, rounds=8) for options in (off, on, on)]

    assert trees(texts[0]) != trees(texts[1])
    assert texts[1] == texts[2]
    assert check_model_text(texts[1], where="x") == samples.names


@pytest.mark.parametrize("name", ["max_depth", "min_gain_to_split", "extra_trees", "path_smooth", "drop_rate"])
def test_a_searched_value_equals_a_fixed_one(samples, split, name):
    """A hyperparameter of a trial gives the same trees as the same value of the configuration."""
    dart = {"boosting": "dart"} if name == "drop_rate" else {}
    value = {"max_depth": 3, "extra_trees": 1}.get(name, 0.5)
    fixed = with_options(**dart, **{name: True if name == "extra_trees" else value})

    searched = fit_final(samples, split, with_options(**dart), tuned={**TUNED, name: value}, rounds=4)

    assert fit_final(samples, split, fixed, tuned=TUNED, rounds=4) == searched


def bent(samples):
    """Return the samples with labels that rise and fall with f0, fall with f4, and depend on f1 together with f0."""
    x = samples.x
    odds = np.exp(2 * np.sin(2 * x[:, 0]) - x[:, 4] + x[:, 0] * x[:, 1])
    y = (np.random.default_rng(3).random(len(x)) < odds / (1 + odds)).astype(np.uint8)
    return replace(samples, y=y)


def steepest_wrong_step(text, samples, feature, sign):
    """Return the largest step of the raw score against a sign, along a feature, at 40 rows."""
    grid = np.linspace(-3, 3, 150)
    rows = np.repeat(samples.x[:40].astype(float), grid.size, axis=0)
    rows[:, feature] = np.tile(grid, 40)
    scores = lightgbm.Booster(model_str=text).predict(rows, raw_score=True).reshape(40, grid.size)
    return float(-(sign * np.diff(scores, axis=1)).min())


@pytest.mark.parametrize("method", ["basic", "intermediate", "advanced"])
@pytest.mark.parametrize("boosting", [{}, DART], ids=["gbdt", "dart"])
def test_monotone_constraints_hold_everywhere(samples, split, method, boosting):
    """Along a feature with a sign no score ever steps the other way; without constraints some do."""
    samples, tuned = bent(samples), {**TUNED, "num_leaves": 31, "min_data_in_leaf": 5}
    constrained = with_options(**boosting, monotone_constraints={"f4": -1, "f0": 1}, monotone_constraints_method=method)

    free = fit_final(samples, split, with_options(**boosting), tuned=tuned, rounds=15)
    bound = fit_final(samples, split, constrained, tuned=tuned, rounds=15)

    for feature, sign in ((0, 1), (4, -1)):
        assert steepest_wrong_step(free, samples, feature, sign) > 0.01
        assert steepest_wrong_step(bound, samples, feature, sign) <= 1e-12


def paths(node, above=frozenset()):
    """Yield the set of features on each path from the root of a tree to a leaf."""
    if "split_feature" not in node:
        yield above
        return
    for side in ("left_child", "right_child"):
        yield from paths(node[side], above | {node["split_feature"]})


def paths_of(text):
    return {path for tree in lightgbm.Booster(model_str=text).dump_model()["tree_info"]
            for path in paths(tree["tree_structure"])}  # fmt: skip


@pytest.mark.parametrize("boosting", [{}, DART], ids=["gbdt", "dart"])
def test_interaction_constraints_hold_on_every_path(samples, split, boosting):
    """Features share a path only if one list has them; those of no list are one more list, and are used too."""
    samples, tuned = bent(samples), {**TUNED, "num_leaves": 31, "min_data_in_leaf": 5, "feature_fraction": 1.0}
    config = with_options(**boosting, interaction_constraints=[["f1", "f4"], ["f4", "f0"]])
    allowed = ({1, 4}, {0, 4}, {2, 3})

    free = paths_of(fit_final(samples, split, with_options(**boosting), tuned=tuned, rounds=15))
    bound = paths_of(fit_final(samples, split, config, tuned=tuned, rounds=15))

    assert not all(any(path <= group for group in allowed) for path in free)
    assert all(any(path <= group for group in allowed) for path in bound)
    # Five lists of one feature each: those of no list are used as well.
    alone = with_options(**boosting, interaction_constraints=[["f1"], ["f2"], ["f3"], ["f4"]])
    assert frozenset({0}) in paths_of(fit_final(samples, split, alone, tuned=tuned, rounds=2))


def test_a_dart_booster_is_no_prefix_of_a_longer_one(samples, split):
    """Later rounds scale earlier trees: the first 8 trees of 16 are others than those of a fit for 8 rounds."""
    short, long = (fit_final(samples, split, with_options(**DART), tuned=TUNED, rounds=n) for n in (8, 16))
    x = samples.x[split.holdout.span]

    first = lightgbm.Booster(model_str=long).predict(x, num_iteration=8)
    assert np.abs(first - lightgbm.Booster(model_str=short).predict(x)).max() > 0.01
    assert lightgbm.Booster(model_str=short).num_trees() == 8


# Some rounds see the features without information alone, whose splits gain too little.
STARVED = {"num_leaves": 4, "learning_rate": 0.3, "feature_fraction": 0.6, "bagging_fraction": 0.5,
           "min_data_in_leaf": 20, "min_gain_to_split": 20.0}  # fmt: skip


def test_a_round_of_dart_without_a_split_spoils_nothing(samples, split):
    """LightGBM leaves trees with the wrong sign after such a round: the text is of the rounds before it."""
    config = with_options(**DART)
    inner = bin_rows(samples, split, config, rows=split.inner.span)
    naive = lightgbm.Booster(booster_params(config, STARVED, names=samples.names), inner)
    grown = [not naive.update() for _ in range(10)]
    rounds = grown.index(False)
    x = samples.x[split.holdout.span]

    text = fit_final(samples, split, config, tuned=STARVED, rounds=10)

    assert rounds > 0
    assert trees(text) == trees(fit_final(samples, split, config, tuned=STARVED, rounds=rounds))
    assert np.abs(naive.predict(x) - lightgbm.Booster(model_str=text).predict(x)).max() > 0.01


def test_the_scores_of_a_dart_trial_are_those_of_its_trees(samples, split):
    """Loss, best round and scores of a trial belong together, although a fold has a round without a split."""
    config = with_options(**DART)
    inner = bin_rows(samples, split, config, rows=split.inner.span)
    runner = FoldRunner(FoldData.of(samples, split, config), inner)
    valid = [samples.x[fold.valid.span] for fold in split.folds]
    no_thresholds = PruningThresholds((math.inf,) * len(config.search.rungs), math.inf)

    trial = runner.run(Proposal(0, STARVED), no_thresholds)

    assert 1 < trial.best_round < 10 < trial.rounds_run
    for rounds in (trial.best_round, 10):
        counted, predicted = runner.score(STARVED, rounds, valid)
        for kept, walked in zip(counted, predicted, strict=True):
            assert np.abs(kept - walked).max() < 1e-12
        losses = [row_log_loss(p, samples.y[f.valid.span]).mean() for p, f in zip(counted, split.folds, strict=True)]
        # No fold has a tree after its first round without a split.
        assert math.fsum(losses) / len(losses) == trial.loss


REPRODUCE = """
import hashlib, lightgbm, pathlib, sys
sys.path.insert(0, {folder!r})
from support.samples import make_samples
from mltrain.config.loading import load_config
from mltrain.training.calibration import fit_calibrator
from mltrain.training.booster import fit_final
from mltrain.training.bootstrap import plan_bootstrap, score_intervals
from mltrain.training.search import ExecutionOptions, search
from mltrain.training.split import plan_split
from mltrain.progress import Silent

samples = make_samples()
config = load_config(None, overrides={{"search.trials": 3, "search.batch": 2, "search.max_rounds": 20}})
split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)
journal, execution = pathlib.Path({journal!r}), ExecutionOptions(workers={threads})
found = search(samples, split, config, journal=journal, execution=execution, progress=Silent())
text = fit_final(samples, split, config, tuned=found.best.params, rounds=found.best.best_round)
y = samples.y[found.oof.rows]
calibrators = [fit_calibrator(m, found.oof.scores, y) for m in ("sigmoid", "beta", "isotonic")]
rows = split.holdout.span
p = calibrators[1].apply(lightgbm.Booster(model_str=text).predict(samples.x[rows]))
scores = score_intervals(p, samples.y[rows], plan_bootstrap(samples.ts_ms[rows], draws=500, level=0.9, seed=1))
result = repr((found.trials, found.oof.scores.tolist(), text, calibrators, scores))
print(hashlib.sha256(result.encode()).hexdigest())
"""


def test_thread_count_of_the_machine_changes_nothing(tmp_path):
    """Search, final fit, calibrators and intervals are the same bits in processes of one and of two OpenMP threads."""
    hashes = []
    for threads in ("1", "2"):
        code = REPRODUCE.format(
            folder=str(Path(__file__).parents[1]), journal=str(tmp_path / f"{threads}.journal"), threads=threads
        )
        variables = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        hashes.append(done.stdout)

    assert hashes[0] == hashes[1] != ""
