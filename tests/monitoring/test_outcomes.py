from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.features.label_spec import LabelSpec
from mltrain.monitoring.outcomes import OutcomeFeed
from mltrain.times import MINUTE_MS
from mltrain.training.label import make_labels
from support.ledger_rows import START_MS, row

LABELS = [
    LabelSpec("direction", 1, "drop"),
    LabelSpec("direction", 3, "down"),
    LabelSpec("threshold", 2, "drop", 20.0),
    LabelSpec("threshold", 1, "down", 20.0),
    LabelSpec("barrier", 4, "drop", upper_bps=40, lower_bps=30),
    LabelSpec("barrier", 3, "down", upper_bps=60, lower_bps=60, timeout="sign"),
    LabelSpec("barrier", 4, "drop", upper=1.5, lower=1.0, volatility_bars=3),
]


def _id(label):
    return f"{label.kind}-{label.horizon_bars}-{label.ties}-{label.volatility_bars}"


def market(seed, bars, *, present=0.9):
    """Return a walk with ties as a frame, without some of its candles, and the numbers of those it has."""
    rng = np.random.default_rng(seed)
    close = 100 * np.cumprod(1 + rng.integers(-3, 4, bars) * 1e-3)
    reach = 1 + rng.integers(0, 4, bars) * 1e-3
    kept = np.flatnonzero(rng.random(bars) < present)
    frame = pl.DataFrame({"ts": START_MS + kept * MINUTE_MS, "close": close[kept]}).with_columns(
        pl.col("ts").cast(pl.Datetime("ms", "UTC")), high=close[kept] * reach[kept], low=close[kept] / reach[kept]
    )
    return kept.tolist(), frame


def labels_of(feed, batches):
    """Return what a feed settles, by number of the bar and by probability, which stands for the symbol."""
    first_bar = START_MS // MINUTE_MS
    settled = [bar for rows in batches for bar in feed.feed(rows)]
    assert [bar.bar for bar in settled] == sorted({bar.bar for bar in settled})
    return {(bar.bar - first_bar, outcome.p): outcome.y for bar in settled for outcome in bar.outcomes}


@pytest.mark.parametrize("label", LABELS, ids=_id)
@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from([1, 7, 60]))
def test_outcomes_are_the_labels_of_training(label, seed, batch):
    """For gaps, ties and every kind of label, row by row and in batches, of two symbols at once."""
    frames = {symbol: market(seed + i, 60) for i, symbol in enumerate(("BTCUSDT", "ETHUSDT"))}
    rows = sorted(
        (
            row(bar, p, symbol=symbol, close=candle["close"], high=candle["high"], low=candle["low"])
            for p, (symbol, (bars, frame)) in zip((0.25, 0.75), frames.items(), strict=True)
            for bar, candle in zip(bars, frame.iter_rows(named=True), strict=True)
        ),
        key=lambda row: row.ts,
    )
    feed = OutcomeFeed(label, MINUTE_MS, dict.fromkeys(frames, 0.5))
    found = labels_of(feed, [rows[i : i + batch] for i in range(0, len(rows), batch)])

    last = max(bars[-1] for bars, _ in frames.values())
    expected = {
        (bar, p): y
        for p, (bars, frame) in zip((0.25, 0.75), frames.values(), strict=True)
        for bar, y in zip(bars, make_labels(frame, label, MINUTE_MS)["y"].to_list(), strict=True)
        if y is not None and bar <= last - label.horizon_bars - 2
    }
    assert {key: y for key, y in found.items() if key[0] <= last - label.horizon_bars - 2} == expected


def test_a_bar_waits_for_all_symbols_that_answered_it():
    """It is settled when the last one's candle at the horizon is there, and not before."""
    feed = OutcomeFeed(LABELS[0], MINUTE_MS, {"BTCUSDT": 0.5, "ETHUSDT": 0.4})
    prices = {"BTCUSDT": 100.0, "ETHUSDT": 50.0}

    assert feed.feed([row(0, 0.6, symbol=s, close=close) for s, close in prices.items()]) == []
    assert feed.feed([row(1, close=101.0)]) == []
    (settled,) = feed.feed([row(1, symbol="ETHUSDT", close=49.0)])
    assert settled.answered == 2
    assert sorted(settled.outcomes) == [(0.6, 0, 0.4), (0.6, 1, 0.5)]


def test_a_candle_that_never_comes_gives_no_outcome():
    """The others of the bar are settled two bars later; the missing one still counts as answered."""
    feed = OutcomeFeed(LABELS[0], MINUTE_MS, {"BTCUSDT": 0.5, "ETHUSDT": 0.4})
    feed.feed([row(0, 0.6, close=100.0), row(0, 0.7, symbol="ETHUSDT")])

    assert feed.feed([row(1, close=101.0), row(2, refused="hole", close=99.0)]) == []
    first, second = feed.feed([row(3, close=102.0)])
    assert (first.answered, first.outcomes) == (2, ((0.6, 1, 0.5),))
    assert (second.answered, second.outcomes) == (1, ((0.5, 0, 0.5),))


def test_refused_and_repeated_rows_give_no_outcome():
    """A refused row has a price, but no probability; of two answers for one candle the first counts."""
    feed = OutcomeFeed(LABELS[0], MINUTE_MS, {"BTCUSDT": 0.5})
    rows = [row(0, 0.6, close=100.0), row(0, 0.9, close=100.0), row(1, refused="stale", close=101.0), row(2, close=99)]

    assert [bar.outcomes for bar in feed.feed([*rows, row(0, 0.1)])] == [((0.6, 1, 0.5),)]
    assert feed.feed([row(1, 0.3, symbol="XRPUSDT"), row(3, ts=None), row(3, symbol=None)]) == []


def test_what_was_settled_takes_no_memory():
    """After ten thousand bars only the newest candles are held."""
    feed = OutcomeFeed(LABELS[6], MINUTE_MS, {"BTCUSDT": 0.5})
    for start in range(0, 10_000, 500):
        feed.feed([row(bar, close=100.0 + bar % 7) for bar in range(start, start + 500)])

    assert max(map(len, feed._candles.values())) < 20
    assert len(feed._open) < 20
