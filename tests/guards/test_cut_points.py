"""Cut points cover both sides of every kind of edge; false candles are plausible and only where they must be."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import times_ms
from mltrain.features.computation import count_consecutive_bars
from mltrain.guards.cut_points import choose_cut_points
from mltrain.guards.false_candles import make_garbage_candles, replace_after
from mltrain.times import DAY_MS


def naive_bars(ts_ms, there, step_ms):
    counts, run = [], 0
    for i, (ts, is_there) in enumerate(zip(ts_ms, there, strict=True)):
        goes_on = i > 0 and ts - ts_ms[i - 1] == step_ms
        run = (run + 1 if goes_on else 1) if is_there else 0
        counts.append(run)
    return counts


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=40))
def test_bars_in_a_row_equals_counting(rows):
    """The count equals counting bar by bar: a missing candle of any symbol restarts it."""
    ts_ms = np.cumsum([step for step, _ in rows]).astype(np.int64)
    there = np.array([is_there for _, is_there in rows], dtype=bool)

    assert count_consecutive_bars(ts_ms, 1, present=there).tolist() == naive_bars(ts_ms.tolist(), there.tolist(), 1)


def test_cut_points_are_around_gaps_and_midnights(honest, candles):
    """They include the first row, both sides of gaps and midnights, and the given number of random rows."""
    frame = candles["BTCUSDT"]
    ts_ms = times_ms(frame)
    cuts = choose_cut_points(honest, "BTCUSDT", candles, points=12, rng=np.random.default_rng(0))
    behind_gap = int(np.flatnonzero(np.diff(ts_ms) > 60_000)[0]) + 1
    midnight = int(np.flatnonzero(ts_ms % DAY_MS == 0)[0])

    assert {0, behind_gap - 1, behind_gap, midnight - 1, midnight} <= set(cuts.shared)
    assert len(cuts.random) == 12
    assert len(cuts.edges) <= 32
    assert {int(np.argmax(frame["volume"])), int(np.flatnonzero(frame["volume"] == 0)[0])} & set(cuts.edges)
    assert all(0 <= row < frame.height - 1 for row in cuts.full)
    bars = honest.lookback_bars
    assert {first + bars - 1 for first, _ in cuts.segments[:2]} <= set(cuts.find_first_complete(bars))


def test_garbage_is_finite_and_possible():
    """Garbage has no NaN, open and close lie between low and high, and takers buy no more than the volume."""
    for extreme in (False, True):
        frame = make_garbage_candles(np.random.default_rng(0), 500, extreme=extreme)

        assert frame.select(pl.all().is_finite().all()).row(0) == (True,) * frame.width
        assert (frame["high"] >= frame.select(pl.max_horizontal("open", "close", "low")).to_series()).all()
        assert (frame["low"] <= frame.select(pl.min_horizontal("open", "close")).to_series()).all()
        assert (frame["taker_buy_base"] <= frame["volume"]).all()


def test_poison_leaves_the_past_and_the_times_alone(candles):
    """Earlier rows and all times stay, later rows differ, and an empty column stays empty."""
    frame = candles["BTCUSDT"].with_columns(pl.lit(None, pl.Float64).alias("quote_volume"))
    moment_ms = int(times_ms(frame)[1000])
    false = replace_after(frame, moment_ms, make_garbage_candles(np.random.default_rng(0), frame.height, extreme=False))

    assert false[:1001].equals(frame[:1001])
    assert false["ts"].equals(frame["ts"])
    assert false["quote_volume"].null_count() == frame.height
    assert (false["close"][1001:] != frame["close"][1001:]).all()
