from __future__ import annotations

from dataclasses import replace

from mltrain.config.loading import load_config
from mltrain.training.cost import measure_minutes, predict_peak_bytes
from mltrain.training.split import plan_split

CONFIG = load_config(None, overrides={})


def peak(rows=1_000_000, features=30, workers=2, config=CONFIG):
    return predict_peak_bytes(rows, features, config.folds, val_ratio=config.val_ratio, workers=workers)


def test_memory_grows_with_every_size():
    """More rows, features, workers or folds need more memory, a larger holdout less."""
    more_folds = replace(CONFIG, folds=replace(CONFIG.folds, count=9))

    assert peak(rows=2_000_000) > peak()
    assert peak(features=60) > peak()
    assert peak(workers=3) > peak() > peak(workers=1)
    assert peak(config=more_folds) > peak()
    assert peak(config=replace(CONFIG, val_ratio=0.5)) < peak()


def test_memory_covers_the_matrix_and_the_folds():
    """The prediction is never below the matrix and each worker's folds."""
    rows, features = 10_000_000, 60

    assert peak(rows, features, workers=1) > 4 * rows * features + 5 * 0.8 * rows * features
    assert peak(rows, features) - peak(rows, features, workers=1) > 5 * 0.8 * rows * features


def test_minutes_grow_with_the_trials(samples):
    """The expected time is positive and proportional to the number of trials."""
    split = plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)

    assert measure_minutes(samples, split, CONFIG, workers=1) > 0
