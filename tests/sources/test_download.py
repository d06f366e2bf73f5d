"""A download returns the candles of the market, for any market, page size and order of answers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.times import DAY_MS, TimeRange
from support.downloads import download_pages

STEP_MS = 15 * 60_000
# Five days of quarters of an hour.
SLOTS = 5 * 96
BEGIN_MS = CLOCK_MS // DAY_MS * DAY_MS - 4 * DAY_MS


def market(rng, share, gaps):
    """Return candles on a random part of the grid, with some long gaps."""
    there = rng.random(SLOTS) < share
    for start, length in gaps:
        there[start : start + length] = False
    at = np.flatnonzero(there)
    close = 100 + rng.random(at.size).round(4)
    frame = pl.DataFrame(
        {
            "ts": pl.Series(BEGIN_MS + at * STEP_MS, dtype=pl.Int64).cast(TS_DTYPE),
            **{name: close + extra for name, extra in (("open", 0.0), ("high", 1.0), ("low", -1.0), ("close", 0.0))},
            "volume": rng.random(at.size),
        }
    )
    return check_candles(frame, symbol="AB", interval="15m", where="here")


class UnreliableApi:
    """An exchange whose answers are late, out of order, duplicated, and longer than requested."""

    def __init__(self, candles, rng, *, limit):
        self.candles = candles
        self.rng = rng
        self.limit = limit
        self.requested = []

    async def fetch_page(self, symbol, window):
        assert symbol == "AB"
        assert window.end_ms - window.start_ms <= self.limit * STEP_MS
        self.requested.append(window)
        for _ in range(int(self.rng.integers(4))):
            await asyncio.sleep(0)
        ts_ms = times_ms(self.candles)
        extra = int(self.rng.integers(3)) * STEP_MS
        rows = self.candles.filter((ts_ms >= window.start_ms - extra) & (ts_ms < window.end_ms + extra))
        if rows.height:
            order = self.rng.permutation(np.concatenate([np.arange(rows.height), self.rng.integers(0, rows.height, 3)]))
            rows = rows[order.tolist()]
        return rows

    async def fetch_first(self, symbol, start_ms, *, limit):
        assert symbol == "AB"
        assert limit <= self.limit
        return self.candles.filter(times_ms(self.candles) >= start_ms).head(limit)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.02, 0.5, 0.97, 1.0]),
    gaps=st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(1, 250)), max_size=3),
    limit=st.integers(1, 200),
    cuts=st.lists(st.integers(1, SLOTS), min_size=1, max_size=3),
    days=st.integers(1, 4),
)
def test_a_download_is_the_market(seed, share, gaps, limit, cuts, days):
    """In one run or several, with or without a cache: all candles of the window, and no others."""
    rng = np.random.default_rng(seed)
    candles = market(rng, share, gaps)
    with tempfile.TemporaryDirectory() as folder:
        for cut in sorted(cuts):
            clock_ms = BEGIN_MS + cut * STEP_MS
            closed = candles.filter(times_ms(candles) < clock_ms)
            window = TimeRange(max(clock_ms - days * DAY_MS, BEGIN_MS), clock_ms)
            first = UnreliableApi(closed, rng, limit=limit)
            options = {"clock_ms": clock_ms, "workers": 4, "page_candles": limit}
            found = download_pages(first, "AB", window, Path(folder), **options)
            second = UnreliableApi(closed, rng, limit=limit)
            again = download_pages(second, "AB", window, Path(folder), **options)

            expected = closed.filter(times_ms(closed) >= window.start_ms)
            assert found.equals(expected)
            assert again.equals(expected)
            assert second.requested == []
            starts = [page.start_ms for page in first.requested]
            assert len(set(starts)) == len(starts)
