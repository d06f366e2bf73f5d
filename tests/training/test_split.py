from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mltrain.errors import InputError
from mltrain.times import MINUTE_MS
from mltrain.training.samples import take_rows
from mltrain.training.split import MIN_TRAIN_ROWS, MIN_VALID_ROWS, plan_split


def plan(samples, *, val_ratio=0.2, fold_count=5, fold_start=0.5, embargo_ms=MINUTE_MS):
    return plan_split(samples, val_ratio=val_ratio, fold_count=fold_count, fold_start=fold_start, embargo_ms=embargo_ms)


def neighbours(split):
    """Return every pair of an earlier and a later block that are used together."""
    valid = [fold.valid for fold in split.folds]
    yield split.inner, split.holdout
    yield from ((fold.train, fold.valid) for fold in split.folds)
    yield from ((a, b) for i, a in enumerate(valid) for b in valid[i + 1 :])
    yield from ((fold.train, later) for i, fold in enumerate(split.folds) for later in valid[i + 1 :])
    yield from ((block, split.holdout) for fold in split.folds for block in (fold.train, fold.valid))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    horizon=st.integers(1, 60),
    embargo=st.integers(0, 120),
    count=st.integers(2, 8),
    ratios=st.tuples(st.floats(0.05, 0.5), st.floats(0.1, 0.9)),
)
def test_no_label_of_an_earlier_block_reaches_a_later_one(new_samples, seed, horizon, embargo, count, ratios):
    """For any gaps, horizon, embargo and folds, label end + embargo is before the next block's first time."""
    whole = new_samples(rows=30_000, symbols=3, horizon_bars=horizon, features=1)
    rng = np.random.default_rng(seed)
    kept = rng.random(30_000) < 0.8
    for start in rng.integers(0, 30_000, 5):
        kept[start : start + 1_000] = False
    arrays = ("x", "y", "ts_ms", "label_end_ms", "symbol_ix", "last_move")
    samples = replace(whole, **{name: getattr(whole, name)[kept] for name in arrays})
    embargo_ms = embargo * MINUTE_MS
    try:
        split = plan(samples, val_ratio=ratios[0], fold_count=count, fold_start=ratios[1], embargo_ms=embargo_ms)
    except InputError:
        assume(False)

    for earlier, later in neighbours(split):
        assert samples.label_end_ms[earlier.span].max() + embargo_ms < samples.ts_ms[later.span].min()
    for block in split.blocks():
        assert samples.ts_ms[block.span][[0, -1]].tolist() == [block.start_ms, block.end_ms]


def from_time(samples, time_ms, **options):
    options = {"fold_count": 5, "fold_start": 0.5, "embargo_ms": MINUTE_MS, **options}
    return plan_split(samples, val_ratio=None, holdout_from_ms=time_ms, **options)


@settings(max_examples=40)
@given(start=st.integers(MINUTE_MS * 2_000, MINUTE_MS * 2_800), fold_start=st.floats(0.3, 0.5), count=st.integers(2, 5))
def test_the_holdout_begins_at_the_given_time(new_samples, start, fold_start, count):
    """Its first row is the first at or after the time, its last is the last of all, and the folds end before it."""
    samples = new_samples()
    split = from_time(samples, start, fold_start=fold_start, fold_count=count)

    assert split.holdout.start_ms == samples.ts_ms[samples.ts_ms >= start].min()
    assert split.holdout.stop_row == samples.ts_ms.size
    for block in split.blocks()[2:]:
        assert block.end_ms < start
    for earlier, later in neighbours(split):
        assert samples.label_end_ms[earlier.span].max() + MINUTE_MS < samples.ts_ms[later.span].min()


@pytest.mark.parametrize(
    ("minute", "message", "hint"),
    [
        (0, r"cannot begin at 1970-01-01T00:00:00Z \(holdout_from\)", "a time between these two"),
        (3_000, "from 1970-01-01T00:00:00Z to 1970-01-03T01:59:00Z", "a time between these two"),
        (2_999, "too little data: holdout has 2 of the 200 rows", "an earlier --holdout-from"),
        (600, "too little data: fold 1 train has 596", "a later --holdout-from"),
    ],
)
def test_a_time_that_leaves_too_little_is_refused(samples, minute, message, hint):
    """Outside the rows, or with too few on either side; the hint says in which direction to go."""
    with pytest.raises(InputError, match=message) as caught:
        from_time(samples, minute * MINUTE_MS)
    assert hint in caught.value.hint


def test_blocks_by_hand(new_samples):
    """The bounds for ten thousand minutes of one symbol, with horizon and embargo of one bar."""
    split = plan(new_samples(rows=10_000, symbols=1))

    assert (split.inner.first_row, split.inner.stop_row, split.inner.purged_rows) == (0, 7_998, 2)
    assert (split.holdout.first_row, split.holdout.stop_row, split.holdout.purged_rows) == (8_000, 10_000, 0)
    assert [f.train.stop_row for f in split.folds] == [3_998, 4_798, 5_598, 6_398, 7_198]
    assert [(f.valid.first_row, f.valid.stop_row) for f in split.folds] == [
        (4_000, 4_798),
        (4_800, 5_598),
        (5_600, 6_398),
        (6_400, 7_198),
        (7_200, 7_998),
    ]
    assert all(f.train.first_row == 0 and f.train.purged_rows == f.valid.purged_rows == 2 for f in split.folds)
    assert split.blocks()[-1].name == "fold 5 validation"


def test_holdout_is_cut_by_time_not_by_rows(new_samples):
    """A symbol that trades only at the end does not shift the bound: the holdout is the last fifth of the time."""
    whole = new_samples(rows=20_000, symbols=2)
    late = (whole.symbol_ix == 0) | (whole.ts_ms > whole.ts_ms[-1] * 0.9)
    arrays = ("x", "y", "ts_ms", "label_end_ms", "symbol_ix", "last_move")
    samples = replace(whole, **{name: getattr(whole, name)[late] for name in arrays})

    split = plan(samples)

    assert split.holdout.start_ms == np.ceil((samples.ts_ms[-1] + 1) * 0.8 / MINUTE_MS) * MINUTE_MS


def test_symbols_of_one_time_stay_together(new_samples):
    """All rows of one minute are in the same block, or purged."""
    samples = new_samples(rows=30_000, symbols=3)

    for block in plan(samples).blocks():
        assert block.first_row % 3 == block.stop_row % 3 == block.purged_rows % 3 == 0


def test_a_longer_embargo_purges_more_rows(new_samples):
    """The purge grows with the embargo, row by row."""
    samples = new_samples(rows=10_000, symbols=1)

    assert [plan(samples, embargo_ms=k * MINUTE_MS).inner.purged_rows for k in (0, 1, 5)] == [1, 2, 6]


@pytest.mark.parametrize(("symbols", "days"), [(1, 0.2), (1, 0.9), (1, 1.7), (3, 0.1), (3, 0.5)])
def test_too_little_data_says_how_many_days_suffice(new_samples, symbols, days):
    """The message names block and rows; the days in its hint are enough, and not far too many."""
    per_day = 1_440 * symbols
    whole = new_samples(rows=5 * per_day, symbols=symbols, features=1)

    with pytest.raises(InputError, match=r"too little data: .* rows that it needs") as caught:
        plan(take_rows(whole, slice(0, int(days * per_day))))

    needed = int(re.search(r"at least (\d+) days", caught.value.hint)[1])
    assert needed == {1: 2, 3: 1}[symbols]
    plan(take_rows(whole, slice(0, needed * per_day)))


def test_every_block_has_its_minimum_rows(new_samples):
    """In the smallest valid split, every block has at least its minimum rows."""
    split = plan(new_samples(rows=2_600, symbols=1, features=1))

    assert all(fold.train.rows >= MIN_TRAIN_ROWS and fold.valid.rows >= MIN_VALID_ROWS for fold in split.folds)


def test_a_single_row_is_too_little(new_samples):
    """One row has no time range, and gives the same message."""
    with pytest.raises(InputError, match="1 of the 200 rows"):
        plan(take_rows(new_samples(rows=10), slice(0, 1)))


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("name", ["holdout", "fold 1 train", "fold 3 validation"])
def test_a_block_of_one_class_is_named(new_samples, name, value):
    """A block in which all prices moved one way is an error that names it."""
    samples = new_samples(rows=10_000, symbols=1)
    block = next(b for b in plan(samples).blocks() if b.name == name)
    y = samples.y.copy()
    y[block.span] = value

    with pytest.raises(InputError, match=f"^{name}: all {block.rows:,} rows went {'up' if value else 'down'}"):
        plan(replace(samples, y=y))
