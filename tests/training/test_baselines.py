"""Baselines by hand, and a model's skill against a naive count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.times import DAY_MS
from mltrain.training.baselines import (
    LOGISTIC_FEATURES,
    RULES,
    SymbolPrior,
    find_priors,
    predict_by_rules,
    score_baselines,
    score_logistic,
)
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.metrics import row_log_loss
from mltrain.training.samples import Samples


def rows_of(y, last_move, symbol_ix=None, *, days=12, symbols=("AAA", "BBB")):
    """Return rows spread evenly over some days."""
    n = len(y)
    ts_ms = np.arange(n, dtype=np.int64) * (days * DAY_MS // n)
    return Samples(
        x=np.zeros((n, 1), np.float32),
        y=np.asarray(y, np.uint8),
        ts_ms=ts_ms,
        label_end_ms=ts_ms + 60_000,
        symbol_ix=np.zeros(n, np.int16) if symbol_ix is None else np.asarray(symbol_ix, np.int16),
        last_move=np.asarray(last_move, np.int8),
        symbols=symbols,
        names=("f",),
    )


def scored(rows, priors, p=None, *, train_up_share=0.5):
    bootstrap = plan_bootstrap(rows.ts_ms, draws=400, level=0.9, seed=1)
    p = np.full(rows.y.size, 0.5) if p is None else p
    return score_baselines(p, rows, priors, train_up_share=train_up_share, bootstrap=bootstrap)


def test_rules_by_hand():
    """Without a last move, persistence and contrarian follow the majority."""
    calls = predict_by_rules(np.array([1, 0, -1, 0], np.int8), up_share=0.6)

    assert calls["majority"].tolist() == [True, True, True, True]
    assert calls["persistence"].tolist() == [True, True, False, True]
    assert calls["contrarian"].tolist() == [False, True, True, True]
    assert predict_by_rules(np.array([0], np.int8), up_share=0.5)["majority"].tolist() == [False]


def test_the_rows_before_the_holdout_choose_a_rule_per_symbol():
    """AAA always reverses, BBB continues; the holdout's rows, which do the opposite, are not used."""
    last = np.tile([1, -1], 20)
    up = np.where(last > 0, 0, 1)
    y = np.concatenate([up[:10], 1 - up[:10], 1 - up[:10], up[:10]])
    symbol_ix = np.repeat([0, 1, 0, 1], 10)
    rows = rows_of(y, last, symbol_ix)

    found = find_priors(rows, slice(0, 20))

    assert found == (SymbolPrior("AAA", 0.5, "contrarian"), SymbolPrior("BBB", 0.5, "persistence"))


def test_a_base_rate_of_few_rows_is_shrunk():
    """Five rows that all went up hardly move a symbol's base rate: the overall one counts 1,000 rows."""
    y = np.append(np.tile([0, 1], 500), np.ones(5))
    rows = rows_of(y, np.ones(1_005), np.append(np.zeros(1_000), np.ones(5)))

    found = find_priors(rows, slice(0, 1_005))[1]

    assert found.up_share == pytest.approx((5 + 1_000 * 505 / 1_005) / 1_005)


def test_knowing_the_symbol_alone_is_no_skill():
    """A model that predicts each symbol's base rate has no skill over the symbols' base rates."""
    rng = np.random.default_rng(0)
    symbol_ix = np.tile([0, 1], 600)
    rates = np.array([0.15, 0.5])
    rows = rows_of(rng.random(1_200) < rates[symbol_ix], np.ones(1_200), symbol_ix)
    priors = [SymbolPrior(s, r, "majority") for s, r in zip(rows.symbols, rates, strict=True)]

    _, skill = scored(rows, priors, rates[symbol_ix], train_up_share=0.325)

    assert skill.log_loss_skill.value == skill.log_loss_gain.value == 0


def test_a_symbol_without_holdout_rows_is_listed():
    """It is listed, with the coin as baseline and without figures."""
    rows = rows_of([1, 0] * 60, [1] * 120)

    baselines, skill = scored(rows, [SymbolPrior(s, 0.5, "majority") for s in rows.symbols])

    assert [(s.symbol, s.rows) for s in baselines.symbols] == [("AAA", 120), ("BBB", 0)]
    assert (skill.symbols[1].accuracy, skill.symbols[1].log_loss_skill) == (None, None)


def test_a_symbol_without_training_rows_gets_the_overall_base_rate():
    """Its rule is the majority."""
    rows = rows_of([1, 1, 0, 1, 1], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1])

    assert find_priors(rows, slice(0, 4))[1] == SymbolPrior("BBB", 0.75, "majority")


def test_the_baseline_is_never_below_a_coin():
    """A rule that was best before and is wrong on the holdout is replaced by the coin."""
    last = np.tile([1, -1], 300)
    rows = rows_of(np.where(last > 0, 1, 0), last, symbols=("AAA",))
    baselines, skill = scored(rows_of(1 - rows.y, last, symbols=("AAA",)), [SymbolPrior("AAA", 0.5, "persistence")])

    # Contrarian is right at every row, and surely: it is the baseline although it was not the best rule before.
    assert (baselines.symbols[0].rule, baselines.accuracy) == ("contrarian", 1.0)
    assert baselines.persistence == 0.0
    assert skill.margin.value == -0.5

    rng = np.random.default_rng(0)
    noise = rows_of(rng.integers(0, 2, 600), np.ones(600), symbols=("AAA",))
    wrong = "persistence" if noise.y.mean() < 0.5 else "contrarian"
    found, _ = scored(noise, [SymbolPrior("AAA", 0.5, wrong)])

    assert (found.symbols[0].rule, found.accuracy) == ("coin", 0.5)


def test_each_symbol_has_its_own_baseline_weighted_by_rows():
    """AAA always reverses and BBB always continues: together 1, though no single rule exceeds 0.75."""
    last = np.tile([1, -1], 200)
    symbol_ix = np.repeat([0, 1], [300, 100])
    y = np.where((last > 0) == (symbol_ix == 1), 1, 0)
    order = np.argsort(np.tile(np.arange(400), 1))
    rows = rows_of(y[order], last[order], symbol_ix[order])

    found, _ = scored(rows, [SymbolPrior("AAA", 0.5, "contrarian"), SymbolPrior("BBB", 0.5, "persistence")])

    assert found.accuracy == 1.0
    assert (found.contrarian, found.persistence) == (0.75, 0.25)
    assert [(s.symbol, s.rows, s.rule) for s in found.symbols] == [
        ("AAA", 300, "contrarian"),
        ("BBB", 100, "persistence"),
    ]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_margin_and_skill_equal_a_naive_count(seed):
    """They equal hits minus the baseline's hits, and log losses, summed row by row."""
    rng = np.random.default_rng(seed)
    n = 240
    rows = rows_of(rng.integers(0, 2, n), rng.integers(-1, 2, n), rng.integers(0, 2, n))
    p = rng.uniform(0.1, 0.9, n)
    rules = [RULES[i] for i in rng.integers(0, 3, 2)]
    priors = [SymbolPrior(s, float(rng.uniform(0.3, 0.7)), r) for s, r in zip(rows.symbols, rules, strict=True)]

    baselines, skill = scored(rows, priors, p, train_up_share=0.45)

    chosen = {s.symbol: s for s in baselines.symbols}
    margin = gain = base = 0.0
    for i in range(n):
        prior = priors[rows.symbol_ix[i]]
        rule = chosen[prior.symbol].rule
        majority = prior.up_share > 0.5
        moved = int(rows.last_move[i])
        call = {
            "majority": majority,
            "persistence": majority if moved == 0 else moved > 0,
            "contrarian": majority if moved == 0 else moved < 0,
            "coin": None,
        }[rule]
        hit = 0.5 if call is None else float(call == bool(rows.y[i]))
        margin += float((p[i] > 0.5) == bool(rows.y[i])) - hit
        happened = prior.up_share if rows.y[i] else 1 - prior.up_share
        base -= math.log(happened)
        gain += math.log(p[i] if rows.y[i] else 1 - p[i]) - math.log(happened)

    assert skill.margin.value == pytest.approx(margin / n, abs=1e-12)
    assert skill.log_loss_gain.value == pytest.approx(gain / n, abs=1e-12)
    assert skill.log_loss_skill.value == pytest.approx(gain / base, abs=1e-12)
    assert baselines.base_rate_log_loss == pytest.approx(base / n)
    for ix, found in enumerate(skill.symbols):
        own = rows.symbol_ix == ix
        base_loss = row_log_loss(np.full(int(own.sum()), priors[ix].up_share), rows.y[own])
        expected = 1 - row_log_loss(p[own], rows.y[own]).sum() / base_loss.sum()
        assert found.log_loss_skill is not None
        assert found.log_loss_skill.value == pytest.approx(expected, abs=1e-12)


def test_a_symbol_within_one_block_is_not_judged_alone():
    """Rows of one time have no interval; the pooled figures still count them."""
    rows = rows_of([1, 0] * 60 + [1], [1] * 121, [0] * 120 + [1])

    baselines, skill = scored(rows, [SymbolPrior("AAA", 0.5, "majority"), SymbolPrior("BBB", 0.5, "majority")])

    assert skill.symbols[1].margin is None
    assert skill.symbols[1].log_loss_skill is None
    assert sum(s.rows for s in baselines.symbols) == 121


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_a_base_rate_of_one_class_is_refused(share):
    """A certain base rate has no finite log loss."""
    rows = rows_of([1, 0] * 20, [1] * 40, symbols=("AAA",))

    with pytest.raises(ValueError, match="share"):
        scored(rows, [SymbolPrior("AAA", 0.5, "majority")], train_up_share=share)


def test_the_logistic_regression_finds_the_informative_feature(new_samples):
    """It uses five features, the informative one among them, and no label of the rows that it is scored on."""
    samples = new_samples(rows=3_000, features=6, symbols=1, signal=2.0)
    train, holdout = slice(0, 2_000), slice(2_000, 3_000)
    scores, p = score_logistic(samples, train=train, holdout=holdout)
    samples.y[holdout] ^= 1
    inverted, same_p = score_logistic(samples, train=train, holdout=holdout)

    assert "f0" in scores.features
    assert len(scores.features) == LOGISTIC_FEATURES
    assert scores.accuracy > 0.7
    assert inverted.features == scores.features
    assert scores.log_loss == row_log_loss(p, samples.y[holdout] ^ 1).mean()
    assert (p == same_p).all()
    assert inverted.auc_roc == pytest.approx(1 - scores.auc_roc, abs=1e-9)
