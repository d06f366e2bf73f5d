"""Scores of the holdout by week and by volatility."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import TS_DTYPE
from mltrain.times import DAY_MS, MINUTE_MS, WEEK_MS, floor_to_grid, parse_time
from mltrain.training.metrics import score
from mltrain.training.samples import take_rows
from mltrain.training.slices import score_terciles, score_weeks, volatility_terciles


def candles(samples, scale, seed=6):
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(size=samples.ts_ms.size) * scale))
    return pl.DataFrame({"ts": pl.Series(samples.ts_ms).cast(TS_DTYPE), "close": close})


def test_weeks_begin_on_monday_and_hold_every_row():
    """Every row is in the week of its Monday, whose scores are those of its rows."""
    ts_ms = 1_760_000_000_000 + np.arange(400) * 3_600_000
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 400).astype(np.uint8), rng.random(400)
    weeks = score_weeks(p, y, ts_ms)
    first = datetime.fromisoformat(weeks[0].name).replace(tzinfo=UTC)
    until = np.flatnonzero(ts_ms < (first.timestamp() + 7 * 86_400) * 1000)

    assert sum(week.rows for week in weeks) == 400
    assert first.weekday() == 0
    assert weeks[0].metrics == score(p[until], y[until])


def test_a_week_of_one_class_has_no_scores():
    """A week of one class has its number of rows and no metrics."""
    (week,) = score_weeks(np.full(9, 0.6), np.ones(9, np.uint8), 1_760_000_000_000 + np.arange(9))

    assert (week.rows, week.up_share, week.metrics) == (9, 1.0, None)


def test_terciles_follow_from_the_rows_before(new_samples):
    """If the holdout is ten times as volatile as the reference rows, all of its rows are in the top tercile."""
    samples = new_samples(rows=3_000, features=1, symbols=1)
    scale = np.where(np.arange(3_000) < 2_000, 0.001, 0.01)
    reference, later = slice(0, 2_000), slice(2_100, 3_000)
    by_symbol = {"SYM0": candles(samples, scale)}
    found, usual = (
        volatility_terciles(by_symbol, take_rows(samples, reference), take_rows(samples, rows), step_ms=MINUTE_MS)
        for rows in (later, reference)
    )

    assert (found == 2).all()
    assert (usual[:60] == -1).all()
    counts = np.bincount(usual[60:])
    assert counts.min() > 640
    assert counts.sum() == 1_940


def test_rows_of_unknown_volatility_are_left_out():
    """Rows with tercile -1 are in no slice."""
    tercile = np.array([-1, 0, 0, 1, 1, 2, 2], np.int8)
    y = np.array([1, 0, 1, 0, 1, 1, 1], np.uint8)
    found = score_terciles(np.linspace(0.2, 0.8, 7), y, tercile)

    assert [(s.name, s.rows) for s in found] == [("calm", 2), ("ordinary", 2), ("wild", 2)]
    assert found[2].metrics is None


@pytest.mark.parametrize(("days", "weeks_of_a_slice"), [(400, 1), (700, 4), (3_650, 13), (9_000, 52)])
def test_many_weeks_are_joined(days, weeks_of_a_slice):
    """Years of daily candles give at most 60 slices, each from a Monday on, with every row in one."""
    ts_ms = parse_time("2001-01-03") + np.arange(days) * DAY_MS
    y = (np.arange(days) % 2).astype(np.uint8)
    slices = score_weeks(np.full(days, 0.5), y, ts_ms)
    starts_ms = np.array([parse_time(each.name) for each in slices])

    assert len(slices) <= 61
    assert set(np.diff(starts_ms).tolist()) == {weeks_of_a_slice * WEEK_MS}
    assert all(floor_to_grid(start, WEEK_MS) == start for start in starts_ms.tolist())
    assert sum(each.rows for each in slices) == days
