from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mltrain.errors import InputError
from mltrain.times import DAY_MS
from mltrain.training.bootstrap import (
    _AUC_CHUNK,
    Interval,
    _count_wins,
    expanded_tail,
    log_loss_gain,
    plan_bootstrap,
    score_intervals,
)
from mltrain.training.metrics import Metrics, auc, score


def market(*, days=12, per_day=40, seed=0):
    """Return rows of several days whose skill differs by day, with ties."""
    rng = np.random.default_rng(seed)
    ts = np.repeat(np.arange(days), per_day) * DAY_MS + np.tile(np.arange(per_day), days) * 60_000
    p = np.clip(rng.normal(0.5, 0.1, ts.size), 0.01, 0.99).round(2)
    lean = np.repeat(rng.normal(0, 0.1, days), per_day)
    y = (rng.random(ts.size) < np.clip(p + lean, 0, 1)).astype(np.uint8)
    return ts, p, y


def test_every_interval_equals_a_naive_bootstrap():
    """Copying and scoring the rows of each draw gives the same intervals, except for the ECE."""
    ts, p, y = market()
    plan = plan_bootstrap(ts, draws=200, level=0.9, seed=1)
    found = score_intervals(p, y, plan)
    copies = [np.repeat(np.arange(p.size), w[plan.block].astype(int)) for w in plan.weights]
    drawn = [score(p[rows], y[rows]) for rows in copies]
    tail = expanded_tail(plan.blocks, level=0.9)

    for name in set(Metrics.__dataclass_fields__) - {"ece"}:
        low, high = np.quantile([getattr(d, name) for d in drawn], [tail, 1 - tail])
        interval = getattr(found, name)
        assert interval.value == pytest.approx(getattr(score(p, y), name)), name
        assert (interval.low, interval.high) == pytest.approx((low, high)), name


def test_auc_pairs_are_counted_across_steps():
    """With more distinct scores than one step holds, the pairs of all blocks give the exact AUC."""
    ts, p, y = market(per_day=1_000)
    p = p + np.arange(p.size) * 1e-7
    assert np.unique(p).size > 2 * _AUC_CHUNK

    wins = _count_wins(p, y, plan_bootstrap(ts, draws=200, level=0.9, seed=1))

    assert wins.sum() / (y.sum() * (1.0 - y).sum()) == auc(p, y)


def test_ece_interval_holds_its_value():
    """Resampling noise inflates the ECE; the corrected interval contains the value and stays above zero."""
    ts, p, y = market(days=20, per_day=200)

    found = score_intervals(p, y, plan_bootstrap(ts, draws=500, level=0.9, seed=1)).ece

    assert 0 <= found.low <= found.value <= found.high


@given(st.lists(st.integers(0, 30 * 1_440), min_size=2, max_size=200))
def test_blocks_are_days_or_ten_equal_parts(minutes):
    """From ten days on a block is a UTC day, before a tenth of the range; every block has rows."""
    ts = np.array(minutes, np.int64) * 60_000
    days = np.unique(ts // DAY_MS).size
    if np.unique(ts).size == 1:
        return

    plan = plan_bootstrap(ts, draws=200, level=0.9, seed=0)

    assert plan.by_day == (days >= 10)
    assert set(plan.block.tolist()) == set(range(plan.blocks))
    assert plan.blocks == days if plan.by_day else plan.blocks <= 10
    assert (np.diff(plan.block[np.argsort(ts)]) >= 0).all()
    assert (plan.weights.sum(axis=1) == plan.blocks).all()
    if not plan.by_day:
        part = (ts.max() - ts.min() + 1) / 10
        assert all(np.ptp(ts[plan.block == b]) <= part for b in range(plan.blocks))


def test_two_full_days_become_ten_blocks():
    """A holdout of two days has ten blocks, not two."""
    plan = plan_bootstrap(np.arange(2 * 1_440) * 60_000, draws=200, level=0.9, seed=0)

    assert (plan.blocks, plan.by_day) == (10, False)
    assert np.bincount(plan.block).tolist() == [288] * 10


@pytest.mark.parametrize("ts", [[], [5], [5, 5, 5]])
def test_fewer_than_two_blocks_are_an_error(ts):
    """Rows of one time have no interval."""
    with pytest.raises(InputError, match="two blocks"):
        plan_bootstrap(np.array(ts, np.int64), draws=200, level=0.9, seed=0)


@pytest.mark.parametrize("blocks", [2, 10, 18, 90])
def test_tail_is_expanded_for_few_blocks(blocks):
    """The tail follows Hesterberg's formula, with SciPy's distributions."""
    reach = np.sqrt(blocks / (blocks - 1)) * stats.t.ppf(0.95, blocks - 1)

    assert expanded_tail(blocks, level=0.9) == pytest.approx(stats.norm.sf(reach))
    assert expanded_tail(blocks, level=0.9) < 0.05


def test_intervals_have_their_nominal_coverage():
    """With ten heterogeneous blocks, a 90 % interval covers the truth in about 90 %; plain percentiles do not."""
    rng = np.random.default_rng(5)
    ts = np.repeat(np.arange(10), 20) * DAY_MS
    held = plain = 0
    for seed in range(400):
        values = np.repeat(rng.normal(0, 1, 10), 20) + rng.normal(0, 1, 200)
        plan = plan_bootstrap(ts, draws=400, level=0.9, seed=seed)
        found = plan.mean(values)
        held += found.low <= 0 <= found.high
        low, high = np.quantile(plan.draw_sums(plan.block_sums(values)) / 200, [0.05, 0.95])
        plain += low <= 0 <= high

    assert 0.86 <= held / 400 <= 0.94
    assert plain < held


def test_the_seed_decides_the_draws():
    """Equal seeds give equal intervals, other seeds give others."""
    ts, p, y = market()
    first, again, reseeded = (
        score_intervals(p, y, plan_bootstrap(ts, draws=200, level=0.9, seed=s)).log_loss for s in (1, 1, 2)
    )

    assert first == again
    assert first != reseeded


def test_an_estimate_has_the_standard_error_of_its_draws():
    """The standard error is that of block sums with ddof 0; the end at 95 % follows Student's t."""
    ts, p, y = market()
    plan = plan_bootstrap(ts, draws=20_000, level=0.9, seed=1)
    right = (p > 0.5) == (y == 1)

    found = plan.estimate(right)
    n, wholes = plan.blocks, plan.block_sums(np.ones(y.size))
    residuals = plan.block_sums(right.astype(float)) - found.value * wholes

    assert found.value == right.mean()
    assert found.se == pytest.approx(math.sqrt(np.square(residuals).sum()) / y.size, rel=0.05)
    reach = stats.t.ppf(0.95, n - 1) * found.se * math.sqrt(n / (n - 1))
    assert found.low(0.95) == pytest.approx(found.value - reach)
    assert found.interval(0.95).high == pytest.approx(found.value + reach)
    assert found.scaled(100).low(0.95) == pytest.approx(100 * found.low(0.95))


def test_pairing_cancels_shared_noise():
    """A model minus itself is exactly 0, and a paired interval is narrower than either alone."""
    ts, p, y = market(per_day=300)
    plan = plan_bootstrap(ts, draws=500, level=0.9, seed=1)
    other_p = np.clip(p + np.where(np.arange(p.size) % 2 == 0, 0.01, -0.01), 0.01, 0.99)

    gain = log_loss_gain(p, other_p, y, plan)
    alone = score_intervals(p, y, plan).log_loss

    assert log_loss_gain(p, p, y, plan) == Interval(0, 0, 0)
    assert gain.high - gain.low < (alone.high - alone.low) / 2
    assert log_loss_gain(other_p, p, y, plan).value == -gain.value


def test_a_draw_of_one_class_has_no_auc():
    """Draws with only one class are left out instead of counting as 0 or 1."""
    ts = np.arange(10).repeat(2) * DAY_MS
    y = np.array([1] + [0] * 19, np.uint8)
    p = np.linspace(0.9, 0.1, 20)

    found = score_intervals(p, y, plan_bootstrap(ts, draws=500, level=0.9, seed=1)).auc_roc

    assert (found.value, found.high) == (1, 1)
    assert found.low > 0.9


def test_blocks_are_longer_than_overlapping_labels():
    """Labels of five days that overlap by four give blocks of sixteen days, and wider intervals than single days."""
    rng = np.random.default_rng(4)
    days, ahead = 800, 5
    ts = np.arange(days, dtype=np.int64) * DAY_MS
    moves = np.convolve(rng.standard_normal(days + ahead - 1), np.ones(ahead), "valid")
    blocks = plan_bootstrap(ts, draws=500, level=0.9, seed=1, overlap_ms=(ahead - 1) * DAY_MS)
    single = plan_bootstrap(ts, draws=500, level=0.9, seed=1)
    true_se = ahead / math.sqrt(days)

    assert np.bincount(blocks.block).max() == 16
    assert blocks.by_day
    assert blocks.estimate(moves).se > 0.75 * true_se > 1.3 * single.estimate(moves).se
    assert plan_bootstrap(ts, draws=500, level=0.9, seed=1, overlap_ms=359 * 60_000).blocks == days
