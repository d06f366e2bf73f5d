"""Forward returns, bid-ask bounce and gross returns, by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mltrain.candles.frame import TS_DTYPE
from mltrain.times import DAY_MS, MINUTE_MS
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.economics import find_bounce, forward_returns, score_economics
from mltrain.training.samples import Samples

# 2024-10-04, a Friday.
START_MS = 20_000 * DAY_MS


def candles(opens, closes, minutes=None):
    minutes = range(len(opens)) if minutes is None else minutes
    ts = pl.Series([START_MS + m * MINUTE_MS for m in minutes]).cast(TS_DTYPE)
    return pl.DataFrame({"ts": ts, "open": [float(v) for v in opens], "close": [float(v) for v in closes]})


def rows_at(minutes, symbol_ix=None, symbols=("AAA",)):
    ts_ms = np.array([START_MS + m * MINUTE_MS for m in minutes], np.int64)
    n = ts_ms.size
    return Samples(
        x=np.zeros((n, 1), np.float32),
        y=np.zeros(n, np.uint8),
        ts_ms=ts_ms,
        label_end_ms=ts_ms + MINUTE_MS,
        symbol_ix=np.zeros(n, np.int16) if symbol_ix is None else np.asarray(symbol_ix, np.int16),
        last_move=np.zeros(n, np.int8),
        symbols=symbols,
        names=("f",),
    )


def test_forward_returns_by_hand():
    """Returns from the close and from the next open to the close at the horizon, in bps, per symbol."""
    table = {"AAA": candles([100, 101, 104], [100, 102, 103]), "BBB": candles([10, 10, 20], [10, 20, 10])}
    rows = rows_at([0, 0, 1], [0, 1, 0], ("AAA", "BBB"))

    found = forward_returns(table, rows, horizon_bars=1, step_ms=MINUTE_MS)

    assert found.from_close.tolist() == pytest.approx([200, 10_000, (103 / 102 - 1) * 1e4])
    assert found.from_open.tolist() == pytest.approx([(102 / 101 - 1) * 1e4, 10_000, (103 / 104 - 1) * 1e4])


def test_without_a_next_candle_there_is_no_open():
    """A row before a gap has a return from the close and none from the open."""
    table = {"AAA": candles([1, 1], [1, 2], minutes=[0, 2])}

    found = forward_returns(table, rows_at([0]), horizon_bars=2, step_ms=MINUTE_MS)

    assert found.from_close.tolist() == [10_000]
    assert np.isnan(found.from_open).all()


def test_bounce_by_hand():
    """Gap share, repeated opens and autocorrelation of a few candles; nothing is compared across a gap."""
    (found,) = find_bounce(
        {"AAA": candles([1, 1, 2, 9, 9], [1, 2, 1, 9, 10], minutes=[0, 1, 2, 7, 8])}, step_ms=MINUTE_MS
    )

    # Joined pairs: 0-1, 1-2 and 7-8: opens 1, 2, 9 after closes 1, 2, 9; moves 1, 1, 1.
    assert (found.gap_share, found.repeated_opens) == (0.0, 1.0)
    (gapped,) = find_bounce({"AAA": candles([1, 1.5, 2], [1, 2, 1])}, step_ms=MINUTE_MS)
    assert gapped.gap_share == pytest.approx(0.25)
    assert gapped.repeated_opens == 0.5


def test_the_autocorrelation_is_that_of_a_plain_loop():
    """It equals the rank correlation of pairs of neighbouring returns, none across a gap."""
    rng = np.random.default_rng(3)
    closes = np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
    minutes = [m if m < 150 else m + 5 for m in range(300)]
    (found,) = find_bounce({"AAA": candles(closes, closes, minutes)}, step_ms=MINUTE_MS)

    returns = np.diff(np.log(closes))
    pairs = [(returns[i], returns[i - 1]) for i in range(1, 299) if 149 not in (i, i - 1)]
    a, b = np.array(pairs).T
    assert found.autocorrelation == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.pairs == len(pairs)


def test_bounce_gives_rolls_autocorrelation():
    """A spread of half a standard deviation on a random walk gives a lag-1 autocorrelation of -1/18 (Roll 1984)."""
    rng = np.random.default_rng(1)
    middle = np.cumsum(rng.normal(0, 1e-4, 200_000))
    closes = np.exp(middle + 0.25e-4 * rng.choice([-1, 1], middle.size))
    (found,) = find_bounce({"AAA": candles(np.append(1, closes[:-1]), closes)}, step_ms=MINUTE_MS)

    assert found.repeated_opens == pytest.approx(1, abs=1e-4)
    # Ranks of normal moves: 0.95 of it.
    assert found.autocorrelation == pytest.approx(-0.0625 / 1.125, abs=0.01)


def test_a_price_that_never_moves_has_no_bounce():
    """A constant price gives zeros instead of a division by zero."""
    (found,) = find_bounce({"AAA": candles([1] * 5, [1] * 5)}, step_ms=MINUTE_MS)

    assert (found.gap_share, found.repeated_opens, found.autocorrelation) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("horizon", [1, 3])
def test_economics_equal_a_plain_loop(horizon):
    """Each row holds its side for the horizon with 1/h of the capital, and trades the change of that part."""
    rng = np.random.default_rng(horizon)
    n, days = 600, 12
    minutes = np.sort(rng.choice(np.arange(days * 1440), n, replace=False))
    table = {"AAA": candles(rng.uniform(90, 110, days * 1440 + 5), rng.uniform(90, 110, days * 1440 + 5))}
    rows, p = rows_at(minutes.tolist()), rng.uniform(0, 1, n)
    moves = forward_returns(table, rows, horizon_bars=horizon, step_ms=MINUTE_MS)
    draws = plan_bootstrap(rows.ts_ms, draws=200, level=0.9, seed=1)

    found = score_economics(p > 0.5, rows, moves, draws, horizon_bars=horizon, step_ms=MINUTE_MS)

    side = [1 if v > 0.5 else -1 for v in p]
    earned = [s * m for s, m in zip(side, moves.from_open, strict=True)]
    traded = []
    for i in range(n):
        before = [j for j in range(n) if rows.ts_ms[j] <= rows.ts_ms[i] - horizon * MINUTE_MS]
        traded.append(abs(side[i] - side[before[-1]]) if before else 1)
    # Monday is 0.
    weekday = [((t // DAY_MS) + 3) % 7 for t in rows.ts_ms.tolist()]
    assert found.open_bps.value == pytest.approx(sum(earned) / n / horizon)
    assert found.turnover == pytest.approx(sum(traded) / n / horizon)
    assert found.break_even_bps == pytest.approx(found.open_bps.value / found.turnover)
    for value, days_of in ((found.weekdays_bps, range(5)), (found.weekends_bps, (5, 6))):
        own = [e for e, d in zip(earned, weekday, strict=True) if d in days_of]
        assert value == pytest.approx(sum(own) / len(own) / horizon)


def test_a_constant_prediction_trades_once():
    """Predictions of one side trade once; without weekend rows there is no weekend figure."""
    table = {"AAA": candles(range(100, 130), range(101, 131))}
    rows = rows_at(range(20))
    moves = forward_returns(table, rows, horizon_bars=1, step_ms=MINUTE_MS)
    draws = plan_bootstrap(rows.ts_ms, draws=200, level=0.9, seed=1)

    found = score_economics(np.full(20, fill_value=True), rows, moves, draws, horizon_bars=1, step_ms=MINUTE_MS)

    assert found.turnover == pytest.approx(1 / 20)
    assert found.weekends_bps is None
    assert found.weekdays_bps == pytest.approx(found.open_bps.value)
