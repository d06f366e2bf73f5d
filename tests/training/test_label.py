from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.features.spec import LabelSpec
from mltrain.times import MINUTE_MS
from mltrain.training.label import make_labels


def frame(minutes, closes):
    ts = pl.Series("ts", [m * MINUTE_MS for m in minutes], dtype=pl.Int64).cast(pl.Datetime("ms", "UTC"))
    return pl.DataFrame({"ts": ts, "close": pl.Series(closes, dtype=pl.Float64)})


def labels(minutes, closes, *, horizon=1, ties="drop"):
    return make_labels(frame(minutes, closes), LabelSpec("direction", horizon, ties), MINUTE_MS)


def test_labels_by_hand():
    """Up, tie, down, and null at the end."""
    found = labels([0, 1, 2, 3], [10, 11, 11, 9])

    assert found["y"].to_list() == [1, None, 0, None]
    assert found["tie"].to_list() == [False, True, False, None]
    assert found["last_move"].to_list() == [None, 1, 0, -1]
    assert found["label_end"].to_list() == [MINUTE_MS * m for m in (1, 2, 3, 4)]
    assert found.schema == {
        "ts": pl.Datetime("ms", "UTC"),
        "label_end": pl.Int64,
        "y": pl.UInt8,
        "tie": pl.Boolean,
        "last_move": pl.Int8,
    }


def test_a_move_within_the_cost_is_a_tie():
    """Only moves beyond the cost, relative to the candle's close, are up or down."""
    closes = [100.0, 100.05, 100.0, 100.2, 99.9, 99.9]
    expected = [None, None, 1, 0, None, None]
    for ties in ("drop", "down"):
        found = make_labels(frame(range(6), closes), LabelSpec("threshold", 1, ties, 10.0), MINUTE_MS)

        assert found["tie"].to_list() == [True, True, False, False, True, None]
        assert found["y"].to_list() == (expected if ties == "drop" else [0, 0, 1, 0, 0, None])
        assert found["last_move"].to_list() == [None, 1, -1, 1, -1, 0]


def test_ties_can_count_as_down():
    """With `ties: down` a tie has label 0 and is still marked as a tie."""
    found = labels([0, 1, 2], [10, 10, 11], ties="down")

    assert found["y"].to_list() == [0, 1, None]
    assert found["tie"].to_list() == [True, False, None]


def test_a_gap_is_never_labelled_across():
    """The candle before a gap has no label, and the one after it no last move."""
    found = labels([0, 1, 5, 6], [10, 11, 12, 13])

    assert found["y"].to_list() == [1, None, 1, None]
    assert found["last_move"].to_list() == [None, 1, None, 1]


def test_a_gap_inside_the_horizon_hides_the_label():
    """A missing candle before the horizon makes the label null, though the one at the horizon exists."""
    found = labels([0, 1, 3, 4, 5], [10, 11, 12, 13, 14], horizon=3)

    assert found["y"].to_list() == [None] * 5


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_the_last_rows_have_no_label(horizon):
    """As many rows as the horizon have a null label, never 0."""
    found = labels(range(8), range(8), horizon=horizon)

    assert found["y"].to_list() == [1] * (8 - horizon) + [None] * horizon


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=40),
    st.integers(1, 4),
    st.sampled_from(["drop", "down"]),
)
def test_labels_equal_a_naive_lookup(steps, horizon, ties):
    """Labels and last moves equal those looked up by time in a dictionary."""
    minutes = np.cumsum([gap for gap, _ in steps]).tolist()
    close = dict(zip(minutes, [price for _, price in steps], strict=True))
    found = labels(minutes, list(close.values()), horizon=horizon, ties=ties)

    for minute, row in zip(minutes, found.iter_rows(named=True), strict=True):
        ahead = all(minute + k in close for k in range(horizon + 1))
        behind = all(minute - k in close for k in range(horizon + 1))
        move = close[minute + horizon] - close[minute] if ahead else None
        assert row["tie"] == (None if move is None else move == 0)
        assert row["y"] == (None if move is None or (move == 0 and ties == "drop") else int(move > 0))
        assert row["last_move"] == (np.sign(close[minute] - close[minute - horizon]) if behind else None)


def test_a_label_depends_on_its_horizon_alone():
    """Changing a close beyond t + h changes no label at t; changing the one at t + h does."""
    closes = [10.0, 12, 11, 13, 12, 14, 13, 15]
    before = labels(range(8), closes, horizon=2)["y"].to_list()

    for row in range(8):
        changed = closes.copy()
        changed[row] = 1.0 if before[row - 2] == 1 else 100.0
        after = labels(range(8), changed, horizon=2)["y"].to_list()
        differ = {i for i in range(8) if after[i] != before[i]}
        assert differ <= {row, row - 2}
        if row >= 2:
            assert row - 2 in differ


def test_no_candles_give_no_labels():
    """An empty frame has no labels."""
    assert labels([], []).height == 0
