from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightgbm
import pytest

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
from mltrain.training.metrics import auc
from mltrain.training.split import plan_split

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
    params = booster_params(config, TUNED)
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
    params = booster_params(config, TUNED)
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
    params = booster_params(replace(config, seed=2**31 - 1), TUNED)
    seeds = {name: value for name, value in params.items() if name.endswith("seed")}

    assert len(seeds) == 7
    assert all(0 <= value < 2**31 for value in seeds.values())
    assert params["num_threads"] == 1


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
