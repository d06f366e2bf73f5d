from __future__ import annotations

import math
import random

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.errors import InputError
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


BPS = 10_000


def barrier(horizon=3, **changes):
    return LabelSpec("barrier", horizon, **{"ties": "drop", "upper_bps": 100, "lower_bps": 200, **changes})


def bars(minutes, closes, highs, lows):
    return frame(minutes, closes).with_columns(
        high=pl.Series(highs, dtype=pl.Float64), low=pl.Series(lows, dtype=pl.Float64)
    )


def find_barrier_label(bar, minute, label):  # noqa: PLR0911 -- the definition, case by case
    """Return y, whether it is a tie, and the minute of the label's end, by the definition: bar by bar, in plain Python.

    `bar` has (close, high, low) by minute.
    """
    close, end, unknown = bar[minute][0], minute + label.horizon_bars, (None, None, minute + label.horizon_bars)
    above, below = (label.upper_bps or 0) / BPS, (label.lower_bps or 0) / BPS
    if label.volatility_bars is not None:
        history = range(minute - label.volatility_bars, minute + 1)
        if any(m not in bar for m in history):
            return unknown
        moves = [math.log(bar[m][0] / bar[m - 1][0]) for m in history[1:]]
        volatility = math.sqrt(sum(move * move for move in moves) / len(moves))
        above, below = label.upper * volatility, label.lower * volatility
        if volatility == 0 or below >= 1:
            return unknown
    for later in range(minute + 1, end + 1):
        if later not in bar:
            return unknown
        _, high, low = bar[later]
        touches_upper, touches_lower = high >= close * (1 + above), low <= close * (1 - below)
        if touches_upper and touches_lower:
            return None, True, later
        if touches_upper or touches_lower:
            return int(touches_upper), False, later
    move = bar[end][0] - close
    if label.timeout == "drop" or (move == 0 and label.ties == "drop"):
        return None, True, end
    return int(move > 0), move == 0, end


def random_bars(rng):
    """Return up to 40 candles by minute, with gaps, equal closes, and now and then a bar of a wide range."""
    bar, close, minute = {}, 100.0, 0
    for _ in range(rng.randint(1, 40)):
        minute += rng.choice([1, 1, 1, 1, 1, 1, 1, 2, 5])
        # Few distinct prices, so that some are equal, and some lie exactly on a barrier.
        close = rng.choice([98.0, 99.0, 99.5, 100.0, 100.0, 100.5, 101.0, 102.0])
        spread = rng.choice([0.0, 0.25, 0.5, 1.0, 1.0, 3.0])
        bar[minute] = close, close + spread * rng.choice([0, 1]), close - spread * rng.choice([0, 1])
    return bar


def random_barrier(rng):
    timeout = rng.choice(["drop", "sign"])
    ties = rng.choice(["drop", "down"]) if timeout == "sign" else "drop"
    distances = rng.choice(
        [
            {"upper_bps": rng.choice([50, 100, 300]), "lower_bps": rng.choice([50, 100, 300])},
            {
                "upper": rng.choice([0.5, 1.0, 2.5]),
                "lower": rng.choice([0.7, 1.5]),
                "volatility_bars": rng.choice([2, 5]),
            },
        ]
    )
    return LabelSpec("barrier", rng.randint(1, 8), ties, timeout=timeout, **distances)


def test_barrier_labels_equal_a_naive_loop():
    """On 500 random markets, with gaps, ties, bars that touch both barriers, and each rule for timeouts."""
    # A generator of plain Python draws the same on every platform.
    rng, seen = random.Random(7), set()  # noqa: S311
    for _ in range(500):
        bar, label = random_bars(rng), random_barrier(rng)
        found = make_labels(bars([*bar], *zip(*bar.values(), strict=True)), label, MINUTE_MS)
        expected = [find_barrier_label(bar, minute, label) for minute in bar]

        rows = zip(found["y"], found["tie"], (found["label_end"] // MINUTE_MS).to_list(), strict=True)
        assert list(rows) == expected, (bar, label)
        seen |= {(label.timeout, label.ties, label.volatility_bars is None, y, tie) for y, tie, _ in expected}
    # Every outcome has occurred: 3 rules by 2 forms, unknown, a tie without a label, and a label of either class; and
    # ties that count as down.
    assert len(seen) == 3 * 2 * 4 + 2


def test_a_barrier_label_ends_at_the_touch():
    """By hand: the upper one in the second bar, the lower one in the first, both in one bar, a timeout."""
    found = make_labels(
        bars(range(7), [100, 100, 99.9, 100, 100, 100, 100], [100, 100.5, 101, 100, 103, 100, 100],
             [100, 100, 99.5, 97, 97, 100, 100]), barrier(2), MINUTE_MS,
    )  # fmt: skip

    assert found["y"].to_list() == [1, 1, 0, None, None, None, None]
    assert found["tie"].to_list() == [False, False, False, True, True, None, None]
    assert (found["label_end"] // MINUTE_MS).to_list() == [2, 2, 3, 4, 6, 7, 8]


def test_a_touch_before_a_gap_counts():
    """A candle that is missing after the touch does not hide the label; one before it does."""
    found = make_labels(bars([0, 1, 5, 6], [100] * 4, [100, 102, 100, 100], [100] * 4), barrier(3), MINUTE_MS)

    assert found["y"].to_list() == [1, None, None, None]
    assert found["tie"].to_list() == [False, None, None, None]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"lower_bps": None}, "needs upper_bps and lower_bps, or upper, lower and volatility_bars; it has upper_bps"),
        ({"upper": 2.0}, "it has upper_bps, lower_bps, upper"),
        ({"ties": "down"}, "must be drop, unless the barrier has `timeout: sign`"),
        ({"cost_bps": 2.0}, "belongs to a label of the kind threshold"),
        ({"kind": "direction"}, "upper_bps: belongs to a label of the kind barrier"),
    ],
)
def test_a_barrier_takes_one_pair_of_distances(values, problem):
    """Distances in bps or in volatilities, both sides; and no other kind takes them."""
    given = {"kind": "barrier", "horizon_bars": 3, "ties": "drop", "upper_bps": 10.0, "lower_bps": 10.0, **values}
    with pytest.raises(InputError, match=problem.replace("(", "\\(")):
        LabelSpec(**given)
