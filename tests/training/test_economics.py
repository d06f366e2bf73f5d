"""Forward returns, bid-ask bounce and gross returns, by hand and against plain loops."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy import stats

from mltrain.candles.frame import TS_DTYPE
from mltrain.times import DAY_MS, MINUTE_MS
from mltrain.training.bootstrap import Interval, expanded_tail, plan_bootstrap
from mltrain.training.economics import (
    ForwardReturns,
    Moves,
    describe_break_even,
    find_bounce,
    forward_returns,
    score_economics,
    score_moves,
)
from mltrain.training.samples import Samples

# 2024-10-04, a Friday.
START_MS = 20_000 * DAY_MS
NO_MOVES = Moves(None, None, (), ())


def candles(opens, closes, minutes=None):
    minutes = range(len(opens)) if minutes is None else minutes
    ts = pl.Series([START_MS + m * MINUTE_MS for m in minutes]).cast(TS_DTYPE)
    return pl.DataFrame({"ts": ts, "open": [float(v) for v in opens], "close": [float(v) for v in closes]})


def rows_at(minutes, symbol_ix=None, symbols=("AAA",), *, horizon=1):
    ts_ms = np.array([START_MS + m * MINUTE_MS for m in minutes], np.int64)
    n = ts_ms.size
    return Samples(
        x=np.zeros((n, 1), np.float32),
        y=np.zeros(n, np.uint8),
        ts_ms=ts_ms,
        label_end_ms=ts_ms + np.asarray(horizon) * MINUTE_MS,
        symbol_ix=np.zeros(n, np.int16) if symbol_ix is None else np.asarray(symbol_ix, np.int16),
        last_move=np.zeros(n, np.int8),
        symbols=symbols,
        names=("f",),
    )


def test_forward_returns_by_hand():
    """Returns from the close and from the next open to the close at the horizon, in bps, per symbol."""
    table = {"AAA": candles([100, 101, 104], [100, 102, 103]), "BBB": candles([10, 10, 20], [10, 20, 10])}
    rows = rows_at([0, 0, 1], [0, 1, 0], ("AAA", "BBB"))

    found = forward_returns(table, rows, step_ms=MINUTE_MS)

    assert found.from_close.tolist() == pytest.approx([200, 10_000, (103 / 102 - 1) * 1e4])
    assert found.from_open.tolist() == pytest.approx([(102 / 101 - 1) * 1e4, 10_000, (103 / 104 - 1) * 1e4])


def test_without_a_next_candle_there_is_no_open():
    """A row before a gap has a return from the close and none from the open."""
    table = {"AAA": candles([1, 1], [1, 2], minutes=[0, 2])}

    found = forward_returns(table, rows_at([0], horizon=2), step_ms=MINUTE_MS)

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
    rows, p = rows_at(minutes.tolist(), horizon=horizon), rng.uniform(0, 1, n)
    moves = forward_returns(table, rows, step_ms=MINUTE_MS)
    draws = plan_bootstrap(rows.ts_ms, draws=200, level=0.9, seed=1)

    found = score_economics(
        p > 0.5, rows, moves, draws, NO_MOVES, taker_bps=10.0, horizon_bars=horizon, step_ms=MINUTE_MS
    )

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


def test_positions_close_when_their_labels_end():
    """Moves and trades are those of a loop over minutes: open at a row, close at the end of its label, net the two."""
    rng = np.random.default_rng(5)
    n, days, horizon = 400, 3, 6
    minutes = np.sort(rng.choice(days * 1440, n, replace=False)).tolist()
    ends = rng.integers(1, horizon + 1, n)
    table = {"AAA": candles(rng.uniform(90, 110, days * 1440 + 9), rng.uniform(90, 110, days * 1440 + 9))}
    rows, p = rows_at(minutes, horizon=ends), rng.uniform(0, 1, n)
    moves = forward_returns(table, rows, step_ms=MINUTE_MS)
    draws = plan_bootstrap(rows.ts_ms, draws=200, level=0.9, seed=1)

    found = score_economics(
        p > 0.5, rows, moves, draws, NO_MOVES, taker_bps=10.0, horizon_bars=horizon, step_ms=MINUTE_MS
    )

    close, traded = table["AAA"]["close"].to_list(), 0
    for minute in range(minutes[-1] + 1):
        opened = sum(1 if p[i] > 0.5 else -1 for i in range(n) if minutes[i] == minute)
        closed = sum(1 if p[i] > 0.5 else -1 for i in range(n) if minutes[i] + ends[i] == minute)
        traded += abs(opened - closed)
    assert found.turnover == pytest.approx(traded / n / horizon)
    assert moves.from_close.tolist() == pytest.approx(
        [(close[m + k] / close[m] - 1) * 1e4 for m, k in zip(minutes, ends.tolist(), strict=True)]
    )


def test_positions_of_whole_horizons_trade_alike_under_both_rules():
    """Where every row has a next one, closing at the end of the label trades what replacing a horizon later does."""
    p, horizon = np.random.default_rng(2).uniform(0, 1, 300), 4
    # The last label alone ends earlier, after the last row: it only selects the other rule.
    ends = np.full(300, horizon)
    ends[-1] = 1
    turnovers = []
    for end in (horizon, ends):
        rows = rows_at(range(300), horizon=end)
        draws = plan_bootstrap(rows.ts_ms, draws=20, level=0.9, seed=1)
        moves = ForwardReturns(np.ones(300), np.ones(300))
        found = score_economics(
            p > 0.5, rows, moves, draws, NO_MOVES, taker_bps=10.0, horizon_bars=horizon, step_ms=MINUTE_MS
        )
        turnovers.append(found.turnover)
    assert turnovers[0] == pytest.approx(turnovers[1])


def test_a_constant_prediction_trades_once():
    """Predictions of one side trade once; without weekend rows there is no weekend figure."""
    table = {"AAA": candles(range(100, 130), range(101, 131))}
    rows = rows_at(range(20))
    moves = forward_returns(table, rows, step_ms=MINUTE_MS)
    draws = plan_bootstrap(rows.ts_ms, draws=200, level=0.9, seed=1)

    up = np.full(20, fill_value=True)
    found = score_economics(up, rows, moves, draws, NO_MOVES, taker_bps=10.0, horizon_bars=1, step_ms=MINUTE_MS)

    assert found.turnover == pytest.approx(1 / 20)
    assert found.weekends_bps is None
    assert found.weekdays_bps == pytest.approx(found.open_bps.value)


def scored(p, moves, *, minutes, threshold=0.5, tercile=None, horizon_bars=1, symbol_ix=None, symbols=("AAA",)):
    """Return the moves of rows of one symbol with these probabilities and moves from the next open, in bps."""
    rows = rows_at(minutes, symbol_ix, symbols, horizon=horizon_bars)
    values = np.asarray(moves, np.float64)
    return score_moves(
        np.asarray(p, np.float64),
        rows,
        ForwardReturns(values, values),
        plan_bootstrap(rows.ts_ms, draws=300, level=0.9, seed=1),
        threshold=np.broadcast_to(threshold, values.shape),
        tercile=np.zeros(values.size, np.int8) if tercile is None else np.asarray(tercile, np.int8),
        horizon_ms=horizon_bars * MINUTE_MS,
    )


def test_moves_by_hand():
    """Ten rows in two blocks: fifths of two rows each; a fall after a prediction of down counts as a gain."""
    p = [0.51, 0.48, 0.53, 0.46, 0.55, 0.44, 0.57, 0.42, 0.59, 0.40]
    moves = [1, 1, 2, -2, 3, -3, 4, -4, 5, -5]
    found = scored(p, moves, minutes=range(10), tercile=[0, 0, 0, 1, 1, 1, -1, -1, 2, 2])

    assert [(part.name, part.rows) for part in found.by_confidence] == [
        *(("lowest", 2), ("low", 2), ("middle", 2), ("high", 2), ("highest", 2)),
    ]
    assert [part.confidence for part in found.by_confidence] == pytest.approx([0.015, 0.035, 0.055, 0.075, 0.095])
    assert [part.move_bps.value for part in found.by_confidence] == pytest.approx([0, 2, 3, 4, 5])
    assert [(part.name, part.rows) for part in found.by_volatility] == [("calm", 3), ("ordinary", 3), ("wild", 2)]
    assert [part.move_bps.value for part in found.by_volatility] == pytest.approx([2 / 3, 8 / 3, 5])
    # One side to open, then nine reversals of two sides.
    assert found.break_even.value == pytest.approx(28 / 19)
    assert found.break_even_estimate.value == found.break_even.value


def test_confidence_is_the_distance_from_the_rows_own_threshold():
    """Where up is rare, a probability above the base rate is a prediction of up."""
    p, threshold = [0.375, 0.75, 0.125, 0.25], [0.25, 0.5, 0.25, 0.5]
    found = scored(p, [1, 2, 4, 8], minutes=[0, 1, 700, 701], threshold=threshold)

    # Two fifths have no rows: equal distances are in one of them.
    assert [(part.name, part.confidence) for part in found.by_confidence] == [("low", 0.125), ("high", 0.25)]
    # Up, up, down, down.
    assert [part.move_bps.value for part in found.by_confidence] == [(1 - 4) / 2, (2 - 8) / 2]


@pytest.mark.parametrize(("horizon", "seed"), [(1, 0), (1, 1), (3, 2)])
def test_moves_equal_a_plain_loop(horizon, seed):
    """Values and interval ends are those of sums over the rows of each draw; rows without a next open are left out."""
    rng = np.random.default_rng(seed)
    n, days = 900, 14
    minutes = np.sort(rng.choice(days * 1440, n, replace=False)).tolist()
    symbol_ix = rng.integers(0, 2, n)
    # Few distinct values, as from isotonic regression.
    p = np.round(rng.uniform(0.4, 0.6, n), 2)
    moves, tercile = rng.normal(0, 5, n) + 20 * (p - 0.5), rng.integers(-1, 3, n)
    moves[rng.random(n) < 0.05] = np.nan
    found = scored(
        p, moves, minutes=minutes, tercile=tercile, horizon_bars=horizon, symbol_ix=symbol_ix, symbols=("AAA", "BBB")
    )

    draws = plan_bootstrap(rows_at(minutes).ts_ms, draws=300, level=0.9, seed=1)
    tail = expanded_tail(draws.blocks, level=0.9)
    side = [1 if v > 0.5 else -1 for v in p]
    known = [i for i in range(n) if not np.isnan(moves[i])]
    sizes = []
    for i in range(n):
        before = [j for j in range(n) if symbol_ix[j] == symbol_ix[i] and minutes[j] <= minutes[i] - horizon]
        sizes.append(abs(side[i] - side[before[-1]]) if before else 1)

    def compare(interval, rows, whole):
        """Compare an interval with ratios of sums over all rows, and over the rows of each draw, as often as drawn."""
        ratios = []
        for weights in [np.ones(draws.blocks), *draws.weights]:
            top = sum(weights[draws.block[i]] * side[i] * moves[i] for i in rows)
            bottom = sum(weights[draws.block[i]] * whole[i] for i in rows)
            ratios.append(top / bottom)
        assert interval.value == pytest.approx(ratios[0], rel=1e-9)
        assert [interval.low, interval.high] == pytest.approx(np.quantile(ratios[1:], [tail, 1 - tail]), rel=1e-9)
        return ratios

    ratios = compare(found.break_even, known, sizes)
    assert found.break_even_estimate.se == pytest.approx(np.std(ratios[1:]), rel=1e-9)
    assert sum(part.rows for part in found.by_confidence) == len(known)
    ranked = sorted(known, key=lambda i: abs(p[i] - 0.5))
    start = 0
    for part in found.by_confidence:
        rows, start = ranked[start : start + part.rows], start + part.rows
        # Rows of equal confidence are in the same fifth.
        assert start == len(ranked) or abs(p[ranked[start]] - 0.5) > abs(p[ranked[start - 1]] - 0.5)
        compare(part.move_bps, rows, np.ones(n))
    for k, part in enumerate(found.by_volatility):
        rows = [i for i in known if tercile[i] == k]
        assert part.rows == len(rows)
        compare(part.move_bps, rows, np.ones(n))


def test_a_part_in_one_block_has_no_mean_and_an_empty_one_no_confidence():
    """An interval from one block would be a point."""
    found = scored([0.6] * 20, range(20), minutes=range(20), tercile=[0] * 18 + [1] * 2)

    assert [(part.rows, part.move_bps is None) for part in found.by_volatility] == [(18, False), (2, True), (0, True)]
    assert [part.confidence for part in found.by_volatility] == [pytest.approx(0.1), pytest.approx(0.1), None]


def test_a_prediction_that_never_changes_has_no_break_even_cost():
    """It trades in one block only: the cost at which it earns nothing is a matter of the length of the holdout."""
    found = scored([0.6] * 20, range(20), minutes=range(20))

    assert (found.break_even, found.break_even_estimate) == (None, None)
    assert found.by_confidence[0].rows == 20


def test_rows_that_nobody_could_trade_give_no_moves():
    """Without any next open there is no mean and no cost."""
    found = scored([0.6, 0.4], [np.nan, np.nan], minutes=[0, 700])

    assert found.by_confidence == ()
    assert found.break_even is None


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (8.0, 9.99, "not tradable at taker fees of 10 bps per side: it breaks even at 9.00 (8.00 to 9.99)"),
        (
            8.0,
            10.0,
            "breaks even at 9.00 bps per side (8.00 to 10.00), not clearly above or below the taker fees of 10",
        ),
        (10.01, 12.0, "breaks even at 9.00 bps per side (10.01 to 12.00), above the taker fees of 10"),
        (
            10.0,
            12.0,
            "breaks even at 9.00 bps per side (10.00 to 12.00), not clearly above or below the taker fees of 10",
        ),
    ],
)
def test_the_sentence_follows_from_the_ends_of_the_interval(low, high, sentence):
    """Below the fees with its upper end: not tradable. Above them with its lower end: above. Else undecided."""
    assert describe_break_even(Interval(9.0, low, high), taker_bps=10.0) == sentence


def test_without_trades_the_break_even_cost_is_unknown():
    """There is nothing to compare with the fees."""
    assert describe_break_even(None, taker_bps=10.0) == "break-even cost unknown: there are hardly any trades"
