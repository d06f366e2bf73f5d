from __future__ import annotations

import math
import pickle
from dataclasses import replace

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.config.loading import load_config
from mltrain.config.train_config import study_sha256
from mltrain.progress import Silent
from mltrain.training.booster import bin_rows, booster_params, cut_block, fit_final
from mltrain.training.metrics import auc, row_log_loss
from mltrain.training.sample_weights import compute_row_weights, compute_up_weight, recency, undo_up_weight, uniqueness
from mltrain.training.search import ExecutionOptions, search
from mltrain.training.split import plan_split
from mltrain.training.trial import FoldData, FoldRunner

TUNED = {"learning_rate": 0.1, "num_leaves": 7, "min_data_in_leaf": 50, "feature_fraction": 1.0,
         "bagging_fraction": 1.0, "lambda_l1": 0.0, "lambda_l2": 0.0}  # fmt: skip


def configured(class_weight="none", uniqueness=False, **search):  # noqa: FBT002 (as the file has it)
    options = {"trials": 3, "batch": 2, "max_rounds": 30, "early_stop": 10, "rungs": [], **search}
    overrides = {"class_weight": class_weight, "uniqueness": uniqueness}
    return load_config(None, overrides={**overrides, **{f"search.{k}": v for k, v in options.items()}})


@pytest.fixture(scope="module")
def rare(new_samples):
    """Return rows of which one in six went up, and their split."""
    samples = new_samples(rows=8_000)
    rng = np.random.default_rng(5)
    y = (rng.random(8_000) < 1 / (1 + np.exp(2.0 - samples.x[:, 0]))).astype(np.uint8)
    samples = replace(samples, y=y)
    return samples, plan_split(samples, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=60_000)


def test_balanced_follows_from_the_first_folds_training_rows(rare):
    """Both classes have equal total weight there; later labels do not change the weight."""
    samples, split = rare
    first = split.folds[0].train.span
    y = samples.y.copy()
    y[first.stop :] = 1 - y[first.stop :]

    up = compute_up_weight(samples, split, configured("balanced"))

    assert up * samples.y[first].sum() == pytest.approx((1 - samples.y[first]).sum())
    assert compute_up_weight(replace(samples, y=y), split, configured("balanced")) == up
    assert compute_up_weight(samples, split, configured()) == 1
    assert compute_up_weight(samples, split, configured(2.5)) == 2.5


def test_weights_of_rows(rare):
    """None if all are equal; otherwise the class weight times the uniqueness, whose mean is 1."""
    samples, split = rare
    rows = split.inner.span

    assert compute_row_weights(samples, rows, configured(), up_weight=1.0) is None
    weighted = compute_row_weights(samples, rows, configured(3.0), up_weight=3.0)
    assert np.array_equal(weighted, np.where(samples.y[rows] == 1, 3, 1))
    overlapping = replace(samples, label_end_ms=samples.ts_ms + 5 * 60_000)
    own = compute_row_weights(overlapping, rows, configured(uniqueness=True), up_weight=1.0)
    assert own.mean() == pytest.approx(1)
    assert own[0] > 1.5 > own[100] > 0.9


def test_a_fold_keeps_the_weights_of_its_rows(rare):
    """A fold cut out of the binned rows has the weights of its rows."""
    samples, split = rare
    inner = bin_rows(samples, split, configured(3.0), rows=split.inner.span)
    for fold in split.folds:
        for block in (fold.train, fold.valid):
            weights = cut_block(inner, split, block).get_field("weight")
            assert np.array_equal(weights, np.where(samples.y[block.span] == 1, 3, 1))


@given(st.lists(st.integers(0, 2**42), min_size=1, max_size=9), st.floats(0.01, 10_000))
def test_recency_halves_with_every_half_life(times, half_life):
    """Each row has the weight of the definition, the newest has 1, and a shift in time changes none."""
    weights = recency(np.array(times), half_life_days=half_life)

    newest = max(times)
    assert weights.tolist() == pytest.approx([math.exp2(-(newest - t) / 86_400_000 / half_life) for t in times])
    assert weights.max() == 1
    assert np.array_equal(weights, recency(np.array(times) + 77, half_life_days=half_life))


def by_recency(half_life, **options):
    return load_config(None, overrides={"recency_half_life_days": half_life, **options})


def test_recency_is_one_factor_of_a_row_weight(rare):
    """It multiplies class weight and uniqueness; 0 is the same as no such key."""
    samples, split = rare
    rows, age = split.inner.span, recency(samples.ts_ms[split.inner.span], half_life_days=0.5)

    def weigh(config, up_weight=1.0):
        return compute_row_weights(samples, rows, config, up_weight=up_weight)

    assert weigh(by_recency(0)) is None
    assert np.array_equal(weigh(by_recency(0.5)), age.astype(np.float32))
    both = weigh(by_recency(0.5, uniqueness=True), up_weight=3.0)
    alone = weigh(by_recency(0, uniqueness=True), up_weight=3.0)
    assert both == pytest.approx(alone * age, rel=1e-6)
    assert (age[-1], age[0] < 0.1) == (1, True)


def test_each_fit_counts_age_from_its_own_newest_row(rare):
    """Folds and final fit equal plain fits whose newest training row weighs 1, in any process."""
    samples, split = rare
    config = by_recency(0.3)
    params = booster_params(config, TUNED, names=samples.names)
    edges = lightgbm.Dataset(samples.x[split.folds[0].train.span], params=dict(params))

    def plain(block):
        weight = recency(samples.ts_ms[block.span], half_life_days=0.3)
        rows = lightgbm.Dataset(samples.x[block.span], samples.y[block.span], weight=weight, reference=edges)
        return lightgbm.train(params, rows, num_boost_round=5)

    fold_data = FoldData.of(samples, split, config)
    runner = FoldRunner(pickle.loads(pickle.dumps(fold_data)), bin_rows(samples, split, config, rows=split.inner.span))
    scores, _ = runner.score(TUNED, 5)
    for fold, found in zip(split.folds, scores, strict=True):
        assert found == pytest.approx(plain(fold.train).predict(samples.x[fold.valid.span]), abs=1e-12)

    text = fit_final(samples, split, config, tuned=TUNED, rounds=5)
    x = samples.x[split.holdout.span]
    final = lightgbm.Booster(model_str=text).predict(x)
    assert final == pytest.approx(plain(split.inner).predict(x), abs=1e-12)
    assert np.abs(final - lightgbm.Booster(model_str=fit_final(
        samples, split, by_recency(0), tuned=TUNED, rounds=5)).predict(x)).max() > 0.01  # fmt: skip


def test_recency_follows_a_market_that_has_turned(rare):
    """If the first feature's effect turned round in the middle of the inner part, newer rows predict the holdout."""
    samples, split = rare
    x, turn = samples.x.copy(), split.inner.stop_row // 2
    x[:turn, 0] *= -1
    turned = replace(samples, x=x)

    def score_holdout(half_life):
        text = fit_final(turned, split, by_recency(half_life), tuned=TUNED, rounds=20)
        return auc(lightgbm.Booster(model_str=text).predict(x[split.holdout.span]), samples.y[split.holdout.span])

    assert score_holdout(0.2) > score_holdout(0) + 0.1


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6), st.integers(0, 1)), min_size=1, max_size=30))
def test_uniqueness_is_the_mean_share_of_its_minutes(labels):
    """It equals counting, minute by minute, the symbol's running labels."""
    start, bars, symbol = (np.array(column) for column in zip(*labels, strict=True))
    running = np.zeros((2, 50))
    for s, b, k in labels:
        running[k, s : s + b] += 1

    expected = [np.mean(1 / running[k, s : s + b]) for s, b, k in labels]
    assert np.allclose(uniqueness(start, start + bars, symbol.astype(np.int16)), expected)


@given(st.floats(0.001, 0.999), st.floats(0.01, 100))
def test_undoing_the_weight_divides_the_odds(p, up):
    """The result has the odds divided by the weight."""
    undone = undo_up_weight(np.array([p]), up)[0]

    assert undone / (1 - undone) == pytest.approx(p / (1 - p) / up)


@pytest.mark.parametrize("class_weight", ["balanced", 0.2, 12.0])
def test_a_weighted_fit_gives_unweighted_probabilities(rare, class_weight):
    """The model text predicts the base rate for any class weight; without the correction it would not."""
    samples, split = rare
    holdout = split.holdout.span
    config = configured(class_weight)
    text = fit_final(samples, split, config, tuned=TUNED, rounds=20)
    p = lightgbm.Booster(model_str=text).predict(samples.x[holdout])
    up = compute_up_weight(samples, split, config)

    assert text != fit_final(samples, split, configured(), tuned=TUNED, rounds=20)
    assert p.mean() == pytest.approx(samples.y[holdout].mean(), abs=0.03)
    assert abs(undo_up_weight(p, 1 / up).mean() - samples.y[holdout].mean()) > 0.08
    contributions = lightgbm.Booster(model_str=text).predict(samples.x[holdout], pred_contrib=True)
    assert np.allclose(1 / (1 + np.exp(-contributions.sum(axis=1))), p)


def test_the_search_scores_unweighted_probabilities(rare, tmp_path):
    """Losses and out-of-fold scores are those of the last fold fitted again, with the weight removed."""
    samples, split = rare
    config = configured("balanced")
    found = search(
        samples, split, config, journal=tmp_path / "a.journal", execution=ExecutionOptions(workers=1), progress=Silent()
    )
    fold = split.folds[-1]
    as_final = replace(split, inner=fold.train)
    text = fit_final(samples, as_final, config, tuned=found.best.params, rounds=found.best.best_round)
    scores = found.oof.scores[found.oof.fold == len(split.folds) - 1]

    assert np.allclose(scores, lightgbm.Booster(model_str=text).predict(samples.x[fold.valid.span]), atol=1e-12)
    assert abs(found.oof.scores.mean() - samples.y[found.oof.rows].mean()) < 0.03
    as_it_is = undo_up_weight(found.oof.scores, 1 / compute_up_weight(samples, split, config))
    assert row_log_loss(as_it_is, samples.y[found.oof.rows]).mean() > found.best.loss + 0.05


def test_weights_make_another_study():
    """A study with one class weight is not resumed with another."""
    configs = [configured(), configured("balanced"), configured(2.0), configured(uniqueness=True)]
    assert len({study_sha256(c, registry_sha256="", warm_start=None) for c in configs}) == 4
