"""The label depends on the candles up to its horizon, and on no others."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mltrain.features.spec import LabelSpec
from mltrain.guards.future_info import future_info
from mltrain.guards.label_reach import LABEL
from mltrain.training.label import make_labels

STEP_MS = 60_000
CLOSE = pl.col("close")


def rows_ahead(frame, label, up):
    """Return a label table with the given outcomes, whose end is computed from the row's time."""
    end = pl.col("ts").dt.timestamp("ms") + label.horizon_bars * STEP_MS
    return frame.select("ts", end.alias("label_end"), up.cast(pl.UInt8).alias("y"))


def honest_labels(frame, label):
    return make_labels(frame, label, STEP_MS)


def zero_at_the_end(frame, label):
    return rows_ahead(frame, label, CLOSE.shift(-label.horizon_bars).gt(CLOSE).fill_null(value=False))


def across_gaps(frame, label):
    return rows_ahead(frame, label, CLOSE.shift(-label.horizon_bars).gt(CLOSE))


def one_bar_too_far(frame, label):
    return honest_labels(frame, label).with_columns(pl.col("y").shift(-1))


def of_the_past(frame, label):
    return rows_ahead(frame, label, CLOSE.gt(CLOSE.shift(label.horizon_bars)))


def against_the_sample_mean(frame, label):
    above = (frame["close"] > frame["close"].mean()).cast(pl.UInt8)
    return honest_labels(frame, label).with_columns(pl.when(pl.col("y").is_not_null()).then(above).alias("y"))


def ends_too_early(frame, label):
    return honest_labels(frame, label).with_columns(pl.col("label_end") - STEP_MS)


def of_other_rows(frame, label):
    return honest_labels(frame, label).reverse()


WRONG = {
    zero_at_the_end: "a candle up to the horizon is missing",
    across_gaps: "a candle up to the horizon is missing",
    one_bar_too_far: "beyond the horizon",
    of_the_past: "does not wait for the horizon",
    against_the_sample_mean: "beyond the horizon",
    ends_too_early: "its end is not",
    of_other_rows: "do not go together",
}


def label_failures(features, candles, labels):
    result = future_info(features, candles, labels=lambda f: labels(f, features.label), seed=0, points=9)
    assert {failure.feature for failure in result.failures} <= {LABEL}
    return result.failures


@pytest.mark.parametrize("horizon_bars", [1, 5])
@pytest.mark.parametrize("labels", WRONG, ids=lambda f: f.__name__)
def test_wrong_label_is_caught(labels, horizon_bars, plant, candles):
    """A label that depends on fewer or more candles than those up to its horizon fails with the reason."""
    failures = label_failures(plant(CLOSE / CLOSE.shift(1), 2, horizon_bars=horizon_bars), candles, labels)

    assert any(WRONG[labels] in failure.why for failure in failures)
    assert {failure.symbol for failure in failures} == set(candles)


@pytest.mark.parametrize("horizon_bars", [1, 5, 60])
def test_the_direction_label_passes(horizon_bars, plant, candles):
    """The direction label passes at each horizon."""
    features = plant(CLOSE / CLOSE.shift(1), 2, horizon_bars=horizon_bars)

    assert label_failures(features, candles, honest_labels) == ()


def test_the_threshold_label_passes(plant, candles):
    """The threshold label passes."""
    features = plant(CLOSE / CLOSE.shift(1), 2, horizon_bars=5)
    features = replace(features, label=LabelSpec("threshold", 5, "drop", 3.0))

    assert label_failures(features, candles, honest_labels) == ()


def test_a_horizon_beyond_the_data_passes(plant, candles):
    """A history shorter than the horizon, without labels, passes."""
    features = plant(CLOSE / CLOSE.shift(1), 2, horizon_bars=60)

    assert label_failures(features, {s: f[:50] for s, f in candles.items()}, honest_labels) == ()


BARRIER = LabelSpec("barrier", 8, "drop", upper=1.5, lower=1.5, volatility_bars=20)
SIGN = replace(BARRIER, timeout="sign")


def touch_one_bar_early(frame, label):
    """Return labels whose end is the bar before the touch, where there is one."""
    end = pl.col("ts").dt.timestamp("ms") + STEP_MS
    table = honest_labels(frame, label)
    return table.with_columns(label_end=pl.max_horizontal(pl.col("label_end") - STEP_MS, end))


def touch_in_the_next_bar(frame, label):
    return honest_labels(frame, label).with_columns(label_end=pl.col("ts").dt.timestamp("ms") + STEP_MS)


def no_length(frame, label):
    return honest_labels(frame, label).with_columns(label_end=pl.col("ts").dt.timestamp("ms"))


def end_at_the_horizon(frame, label):
    end = pl.col("ts").dt.timestamp("ms") + label.horizon_bars * STEP_MS
    return honest_labels(frame, label).with_columns(label_end=end)


def range_of_the_sample(frame, label):
    """Return labels whose barriers are as far apart as the highest and the lowest close of all candles."""
    wide_bps = min(5_000.0, 10_000 * float(frame["close"].max() / frame["close"].min() - 1) / 4 + 0.01)
    fixed = LabelSpec("barrier", label.horizon_bars, "drop", upper_bps=wide_bps, lower_bps=wide_bps)
    return honest_labels(frame, fixed)


WRONG_BARRIERS = {
    touch_one_bar_early: "it is not known at its end",
    touch_in_the_next_bar: "it is not known at its end",
    no_length: "its end is not 1 to 8 bars later",
    end_at_the_horizon: "it does not wait for its end",
    range_of_the_sample: "it does not wait for its end",
}


@pytest.mark.parametrize("labels", WRONG_BARRIERS, ids=lambda f: f.__name__)
def test_a_wrong_barrier_label_is_caught(labels, plant, candles):
    """An end that is not the touch, or a distance that later candles change, fails with the reason."""
    features = replace(plant(CLOSE / CLOSE.shift(1), 2), label=BARRIER)

    assert any(WRONG_BARRIERS[labels] in failure.why for failure in label_failures(features, candles, labels))


@pytest.mark.parametrize(
    "label", [BARRIER, SIGN, replace(SIGN, ties="down"), LabelSpec("barrier", 60, "drop", upper_bps=20, lower_bps=40)]
)
def test_barrier_labels_pass(label, plant, candles):
    """Barrier labels of each form and rule pass."""
    features = replace(plant(CLOSE / CLOSE.shift(1), 2), label=label)

    assert label_failures(features, candles, honest_labels) == ()
