"""Whatever the market, the pages and the order and manners of the answers: the candles at hand are the market's."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.progress import Silent
from mltrain.sources.download import DownloadJob, DownloadSession, download_days
from mltrain.sources.http_client import MachineClock, Traffic
from mltrain.sources.simulated import CLOCK_MS
from mltrain.sources.throttle import Throttle
from mltrain.times import DAY_MS, TimeRange

STEP_MS = 15 * 60_000
SLOTS = 5 * 96  # five days of quarters of an hour
BEGIN_MS = CLOCK_MS // DAY_MS * DAY_MS - 4 * DAY_MS


def market(rng, share, gaps):
    """Return candles on a random part of the grid, with some long gaps, the last slots always missing."""
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


class Manners:
    """Answers from a market as an exchange of bad manners may: late, out of order, twice, and more than was asked."""

    def __init__(self, candles, rng, *, limit):
        self.candles = candles
        self.rng = rng
        self.limit = limit
        self.asked = []

    async def page(self, symbol, window):
        assert symbol == "AB"
        assert window.end_ms - window.start_ms <= self.limit * STEP_MS
        self.asked.append(window)
        for _ in range(int(self.rng.integers(4))):
            await asyncio.sleep(0)
        ts_ms = times_ms(self.candles)
        more = int(self.rng.integers(3)) * STEP_MS
        rows = self.candles.filter((ts_ms >= window.start_ms - more) & (ts_ms < window.end_ms + more))
        if rows.height:
            order = self.rng.permutation(np.concatenate([np.arange(rows.height), self.rng.integers(0, rows.height, 3)]))
            rows = rows[order.tolist()]
        return rows

    async def first(self, symbol, start_ms, *, limit):
        assert symbol == "AB"
        assert limit <= self.limit
        return self.candles.filter(times_ms(self.candles) >= start_ms).head(limit)


def download(manners, folder, window, clock_ms):
    """Return the candles of a window as a download gathers them."""

    @asynccontextmanager
    async def connect():
        yield DownloadSession(manners)

    job = DownloadJob(
        host="here",
        interval="15m",
        cache_name="binance",
        clock_ms=clock_ms,
        workers=4,
        connect=connect,
        clock=MachineClock(),
        throttle=Throttle(),
        traffic=Traffic(),
        page_candles=manners.limit,
    )
    with download_days(job, ("AB",), window, data_dir=folder, refresh=False, progress=Silent()) as downloaded:
        return downloaded.candles("AB").frame


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.02, 0.5, 0.97, 1.0]),
    gaps=st.lists(st.tuples(st.integers(0, SLOTS - 1), st.integers(1, 250)), max_size=3),
    limit=st.integers(1, 200),
    cuts=st.lists(st.integers(1, SLOTS), min_size=1, max_size=3),
    days=st.integers(1, 4),
)
def test_what_is_gathered_is_the_market(seed, share, gaps, limit, cuts, days):
    """In one go or in several, from a cache or without one: all candles of the window, and no other."""
    rng = np.random.default_rng(seed)
    candles = market(rng, share, gaps)
    with tempfile.TemporaryDirectory() as folder:
        for cut in sorted(cuts):
            clock_ms = BEGIN_MS + cut * STEP_MS
            closed = candles.filter(times_ms(candles) < clock_ms)
            window = TimeRange(max(clock_ms - days * DAY_MS, BEGIN_MS), clock_ms)
            manners = Manners(closed, rng, limit=limit)
            found = download(manners, Path(folder), window, clock_ms)
            asked_twice = Manners(closed, rng, limit=limit)
            again = download(asked_twice, Path(folder), window, clock_ms)

            expected = closed.filter(times_ms(closed) >= window.start_ms)
            assert found.equals(expected)
            assert again.equals(expected)
            assert asked_twice.asked == []
            starts = [page.start_ms for page in manners.asked]
            assert len(set(starts)) == len(starts)
