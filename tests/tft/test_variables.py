"""The variables of a bar: features, standardised by the learned rows alone, and the time."""

from __future__ import annotations

import numpy as np
import pytest

from mltrain.tft.sequences import Sequences, count_run, keep_windows
from mltrain.tft.variables import Scaler, find_constant, known_inputs, make_variables
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS
from mltrain.training.samples import Samples
from mltrain.training.split import Block, Fold, Split

RNG = np.random.default_rng(2)


def test_a_scaler_knows_its_rows_alone():
    """By the textbook's formulas; a constant feature is 0 everywhere, and large values are clipped."""
    x = RNG.normal(5, 3, (1_000, 3)).astype(np.float32)
    x[:, 2] = 7
    rows = np.arange(0, 500)
    scaler = Scaler.fit(x, rows)
    before = scaler.apply(x[rows])
    x[500:] = 1e9
    again = Scaler.fit(x, rows)

    assert np.array_equal(scaler.mean, again.mean)
    assert np.array_equal(scaler.scale, again.scale)
    assert scaler.mean[:2] == pytest.approx(x[rows, :2].mean(axis=0), rel=1e-6)
    assert 1 / scaler.scale[:2] == pytest.approx(x[rows, :2].std(axis=0), rel=1e-5)
    assert before[:, :2].std(axis=0) == pytest.approx([1, 1], rel=1e-5)
    assert set(before[:, 2]) == {0}
    assert np.array_equal(scaler.apply(x[500:])[0], np.array([8, 8, 0], np.float32))
    assert find_constant(x[:500], slice(0, 500), ("a", "b", "c")) == ("c",)


def test_known_inputs_are_those_of_the_day_and_of_the_week():
    """At midnight the day begins; a week later everything is the same."""
    monday = 4 * DAY_MS
    found = known_inputs(np.array([monday, monday + 6 * HOUR_MS, monday + 7 * DAY_MS]))

    assert found[0, :2] == pytest.approx([0, 1], abs=1e-6)
    assert found[1, :2] == pytest.approx([1, 0], abs=1e-6)
    assert np.array_equal(found[0], found[2])
    scaler = Scaler(np.zeros(1, np.float32), np.ones(1, np.float32))
    assert make_variables(np.ones((3, 1), np.float32), np.zeros(3, np.int64), scaler).shape == (3, 5)


def make_samples(minutes, symbols=("A", "B")):
    """Return samples of two symbols at these minutes, with the minute as their feature."""
    ts_ms = np.repeat(np.array(minutes) * MINUTE_MS, len(symbols))
    n = ts_ms.size
    return Samples(
        x=(ts_ms / MINUTE_MS + 0.1 * np.tile(np.arange(len(symbols)), n // len(symbols))).astype(np.float32)[:, None],
        y=np.zeros(n, np.uint8),
        ts_ms=ts_ms,
        label_end_ms=ts_ms + MINUTE_MS,
        symbol_ix=np.tile(np.arange(len(symbols), dtype=np.int16), n // len(symbols)),
        last_move=np.zeros(n, np.int8),
        symbols=symbols,
        names=("minute",),
    )


def test_windows_do_not_cross_gaps():
    """Rows, ties and the bars without a window are joined by time; the split keeps its times."""
    samples, ties = make_samples([0, 1, 3, 4, 8, 9, 10]), make_samples([2, 11])
    n = samples.y.size
    fold = Fold(Block("train", 0, 4 * MINUTE_MS, 0, 8, 0), Block("valid", 8 * MINUTE_MS, 9 * MINUTE_MS, 8, 12, 0))
    split = Split(Block("inner", 0, 9 * MINUTE_MS, 0, 12, 0), Block("holdout", 10, 11, 12, n, 0), (fold,), 0)
    kept, kept_ties, short, after = keep_windows(samples, ties, split, window=3, step_ms=MINUTE_MS)

    assert (kept.ts_ms // MINUTE_MS).tolist() == [3, 3, 4, 4, 10, 10]
    assert (kept_ties.ts_ms // MINUTE_MS).tolist() == [2, 2, 11, 11]
    assert sum(part.y.size for part in short) == n + ties.y.size - 10
    assert (after.folds[0].train.span, after.holdout.span) == (slice(0, 4), slice(4, 6))
    assert after.folds[0].valid.rows == 0
    assert after.inner.end_ms == split.inner.end_ms
    sequences = Sequences.of([kept, kept_ties, *short], step_ms=MINUTE_MS)
    spans = list(sequences.spans(sequences.mark(slice(0, 6)), 3))
    assert [(ix, stop - first) for ix, first, stop in spans] == [(0, 2), (0, 1), (1, 2), (1, 1)]
    ix, first, stop = spans[0]
    assert sequences.features(ix, slice(first - 2, stop))[:, 0].tolist() == [1, 2, 3, 4]
    values = np.arange(sequences.size, dtype=float)
    assert sequences.take(values, 1, slice(1, 3)).tolist() == [7, 8]


def test_runs_are_counted():
    """Also of nothing."""
    assert count_run(np.array([], np.int64), 1).tolist() == []
