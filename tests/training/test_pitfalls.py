"""Known pitfalls of such systems that no other test covers, each as a law."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mltrain.config.loading import load_config
from mltrain.training.calibration import calibrate
from mltrain.training.metrics import ece
from mltrain.training.search import refit_out_of_fold
from mltrain.training.split import plan_split

CONFIG = load_config(None, overrides={})
PARAMS = CONFIG.search.space.defaults()
ROUNDS = 15


@pytest.fixture(scope="module")
def split(samples):
    return plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)


@pytest.mark.parametrize("fold", [0, 2, 4])
def test_out_of_fold_scores_do_not_depend_on_their_labels(samples, split, fold):
    """Inverting the labels of a validation block and of all later rows changes no score up to that block."""
    y = samples.y.copy()
    y[split.folds[fold].valid.first_row :] ^= 1
    before = refit_out_of_fold(samples, split, CONFIG, params=PARAMS, rounds=ROUNDS)
    after = refit_out_of_fold(replace(samples, y=y), split, CONFIG, params=PARAMS, rounds=ROUNDS)
    earlier = before.fold <= fold

    assert np.array_equal(before.scores[earlier], after.scores[earlier])
    assert fold == 4 or not np.array_equal(before.scores[~earlier], after.scores[~earlier])


def test_in_sample_scores_would_be_noticed(new_samples):
    """On noise, in-sample scores calibrate to false skill, out-of-fold scores to none."""
    samples = new_samples(signal=0.0)
    split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)
    found = refit_out_of_fold(samples, split, CONFIG, params=PARAMS, rounds=100)
    choice = calibrate("auto", found.scores, samples.y[found.rows], found.fold)

    # The booster itself is sure of much.
    assert np.ptp(found.scores) > 0.4
    # What is served is not.
    assert np.std(choice.calibrator.apply(found.scores)) < 0.02


def test_certainty_and_small_bins_count_in_the_ece():
    """A probability of 0 or 1 is in a bin, and a small bin counts by its rows: neither is skipped."""
    p = np.concatenate([np.full(990, 0.5), np.ones(10)])
    y = np.concatenate([np.tile([0, 1], 495), np.zeros(10)]).astype(np.uint8)

    assert ece(p, y) == pytest.approx(10 / 1000)
    assert ece(np.ones(5), np.zeros(5, np.uint8)) == 1
