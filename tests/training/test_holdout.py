"""The holdout's scores."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.training.baselines import SymbolPrior
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.holdout import score_holdout
from mltrain.training.metrics import score
from mltrain.training.samples import Samples


def market(rows=4_000, seed=3):
    """Return rows over 12 days, calibrated probabilities, and overconfident raw scores."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.3, 0.7, rows)
    ts_ms = np.sort(rng.integers(0, 12 * 86_400_000, rows))
    samples = Samples(
        x=np.zeros((rows, 1), np.float32),
        y=(rng.random(rows) < p).astype(np.uint8),
        ts_ms=ts_ms,
        label_end_ms=ts_ms + 60_000,
        symbol_ix=rng.integers(0, 2, rows).astype(np.int16),
        last_move=rng.integers(-1, 2, rows).astype(np.int8),
        symbols=("AAA", "BBB"),
        names=("f",),
    )
    return samples, np.clip(2 * p - 0.5, 0, 1), p


def scores(*, seed=1):
    samples, raw, p = market()
    priors = [SymbolPrior(symbol, 0.5, "majority") for symbol in samples.symbols]
    bootstrap = plan_bootstrap(samples.ts_ms, draws=200, level=0.9, seed=seed)
    return samples, raw, p, score_holdout(samples, raw, p, priors=priors, train_up_share=0.5, bootstrap=bootstrap)


def test_every_part_is_of_the_same_rows():
    """Every figure equals that of the single function on the same rows."""
    samples, raw, p, found = scores()

    assert found.before == score(raw, samples.y)
    assert found.after == score(p, samples.y)
    assert found.comparison.accuracy_margin.value == found.skill.margin.value
    assert found.after.accuracy - found.baselines.accuracy == pytest.approx(found.skill.margin.value)
    assert [s.baseline for s in found.skill.symbols] == list(found.baselines.symbols)
    assert found.rows == sum(s.rows for s in found.symbols) == sum(b.rows for b in found.reliability_after)
    assert found.intervals.accuracy.value == found.after.accuracy
    assert (found.blocks, found.by_day, found.draws) == (12, True, 200)


def test_calibrated_scores_are_better():
    """Calibration improves log loss and ECE; the AUC is the same."""
    _, _, _, found = scores()

    assert found.after.log_loss < found.before.log_loss
    assert found.after.ece < found.before.ece
    assert found.after.auc_roc == found.before.auc_roc


def test_the_same_seed_gives_the_same_figures():
    """All random draws follow from the seed."""
    assert scores()[3] == scores()[3]
    assert scores(seed=2)[3].intervals != scores()[3].intervals
