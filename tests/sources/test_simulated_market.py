"""Laws of the simulated exchange."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import CANDLE_SCHEMA, content_sha256, find_gaps, times_ms
from mltrain.errors import InputError, UsageError
from mltrain.sources.simulated_market import (
    CLOCK_MS,
    GENESIS_MS,
    LAST_CLOCK_MS,
    STRENGTH,
    TIE_SHARE,
    SimSource,
    _Market,
    _moves,
    _shocks,
)
from mltrain.times import DAY_MS, INTERVALS_MS, MINUTE_MS, TimeRange, floor_to_grid

YEAR = TimeRange(CLOCK_MS - 400 * DAY_MS, CLOCK_MS)
BASE = TimeRange(CLOCK_MS - 40 * DAY_MS, CLOCK_MS)


@pytest.fixture(scope="module")
def year():
    """Return 400 days of one symbol for each signal."""
    return {signal: SimSource(seed=3, signal=signal).candles("BTCUSDT", YEAR) for signal in STRENGTH}


@pytest.fixture(scope="module")
def forty_days():
    """Return forty days of another market, computed at once."""
    return SimSource(seed=5, signal="strong").candles("SOLUSDT", BASE)


def direction(minute, interval):
    """Return v of the candle that opens at a minute of the day, straight from the definition."""
    if interval in {"1m", "3m", "5m"}:
        slot = minute % 15 // {"1m": 1, "3m": 3, "5m": 5}[interval]
        return {
            "1m": [1] * 7 + [0] + [-1] * 7,
            "3m": [1, 1, 0, -1, -1],
            "5m": [1, 0, -1],
        }[interval][slot]
    if interval == "1d":
        return 0
    if interval == "8h":
        return {0: 1, 480: 0, 960: -1}[minute]
    return 1 if minute < 720 else -1


def next_moves(frame, step_ms=MINUTE_MS):
    """Return (open times, whether the next candle rose) where the next candle exists and moved."""
    ts, close = times_ms(frame), frame["close"].to_numpy()
    moved = (np.diff(ts) == step_ms) & (np.diff(close) != 0)
    return ts[:-1][moved], (np.diff(close) > 0)[moved]


@given(st.integers(0, 40 * 1440), st.integers(0, 3 * 1440))
def test_any_range_holds_the_same_candles(forty_days, first_minute, minutes):
    """A range equals the same part of a longer one, bit for bit."""
    source = SimSource(seed=5, signal="strong")
    start = BASE.start_ms + first_minute * MINUTE_MS
    part = source.candles("SOLUSDT", TimeRange(start, start + minutes * MINUTE_MS))
    whole = forty_days.filter(
        pl.col("ts").dt.timestamp("ms").is_between(start, start + minutes * MINUTE_MS, closed="left")
    )

    assert content_sha256(part) == content_sha256(whole)


def test_a_later_clock_adds_candles_and_changes_none():
    """Past candles do not depend on the exchange's clock."""
    later = SimSource(seed=5, end_ms=CLOCK_MS + DAY_MS).candles("BTCUSDT", BASE)

    assert later.equals(SimSource(seed=5).candles("BTCUSDT", BASE))


@pytest.mark.parametrize("end_ms", [CLOCK_MS, CLOCK_MS + 1, CLOCK_MS + MINUTE_MS - 1])
def test_only_closed_candles_are_given(end_ms):
    """A candle that closes after the clock is left out, whatever the window."""
    source = SimSource(end_ms=end_ms)
    frame = source.candles("BTCUSDT", TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS + DAY_MS))

    assert times_ms(frame)[-1] + MINUTE_MS == CLOCK_MS
    assert source.clock_ms(("BTCUSDT",)) == end_ms
    assert source.extent("BTCUSDT") == TimeRange(GENESIS_MS, CLOCK_MS)


def test_markets_differ_by_seed_symbol_signal_and_interval():
    """Each of the four makes another market."""
    window = TimeRange(CLOCK_MS - DAY_MS, CLOCK_MS)
    frames = [
        SimSource().candles("BTCUSDT", window),
        SimSource(seed=1).candles("BTCUSDT", window),
        SimSource().candles("ETHUSDT", window),
        SimSource(signal="strong").candles("BTCUSDT", window),
        SimSource(interval="5m").candles("BTCUSDT", window),
    ]

    assert len({content_sha256(f) for f in frames}) == len(frames)


@pytest.mark.parametrize("signal", STRENGTH)
def test_the_true_probability_is_calibrated(year, signal):
    """In each bin of the true probability the share of rises is that probability, within four standard errors."""
    ts, rose = next_moves(year[signal])
    p = SimSource(seed=3, signal=signal).true_probabilities("BTCUSDT", ts)
    edges = np.unique(np.quantile(p, np.linspace(0, 1, 21)))
    which = np.searchsorted(edges[1:-1], p, side="right") if edges.size > 1 else np.zeros(p.size, dtype=int)

    for b in np.unique(which):
        rows = which == b
        error = rose[rows].mean() - p[rows].mean()
        assert abs(error) < 4 * math.sqrt(0.25 / rows.sum())


@pytest.mark.parametrize("interval", ["1m", "3m", "5m", "15m", "1h", "8h", "12h", "1d"])
def test_the_moves_follow_the_recursion(interval):
    """Over ten days, also across midnight, moves and probabilities are those of the definition."""
    step_ms, k, first = INTERVALS_MS[interval], 0.35, GENESIS_MS // DAY_MS + 100
    market = _Market(symbol="ETHUSDT", seed=4, step_ms=step_ms, strength=k)
    # Values of the previous candle.
    z, passed_on = 0.0, 0.0
    moves, drifts, ts = [], [], []
    for day in range(first - 70, first + 10):
        for slot, (e, tie) in enumerate(zip(*_shocks(market, day), strict=True)):
            a = -k * passed_on
            z = 0.0 if tie else a * z + math.sqrt(1 - a * a) * e
            v = direction(slot * step_ms // MINUTE_MS, interval)
            passed_on = 0.0 if tie else v
            moves.append(z)
            drifts.append(-k * v * z / math.sqrt(1 - (k * v) ** 2))
            ts.append(day * DAY_MS + slot * step_ms)
    kept = 10 * market.bars
    source = SimSource(seed=4, signal="strong", interval=interval)
    p = source.true_probabilities("ETHUSDT", np.array(ts[-kept:]))

    assert np.concatenate([_moves(market, d) for d in range(first, first + 10)]) == pytest.approx(moves[-kept:])
    assert p == pytest.approx([0.5 * math.erfc(-d / math.sqrt(2)) for d in drifts[-kept:]])


def test_a_move_has_variance_one_whatever_came_before():
    """In every minute of the quarter-hour, and after a tie, a move other than a tie is standard normal."""
    market = _Market(symbol="BTCUSDT", seed=3, step_ms=MINUTE_MS, strength=STRENGTH["strong"])
    z = np.concatenate([_moves(market, d) for d in range(GENESIS_MS // DAY_MS, GENESIS_MS // DAY_MS + 400)])
    slot, after_tie = np.arange(1, z.size) % 15, z[:-1] == 0
    groups = [z[1:][slot == s] for s in range(15)] + [z[1:][after_tie]]

    for group in groups:
        moved = group[group != 0]
        assert moved.var() == pytest.approx(1, abs=5 * math.sqrt(2 / moved.size))


@pytest.mark.parametrize(("signal", "accuracy"), [("strong", 0.6014), ("weak", 0.5142), ("none", 0.5)])
def test_the_best_possible_accuracy_is_as_promised(year, signal, accuracy):
    """Predicting by the true probability is as accurate as the formula at STRENGTH says."""
    ts, rose = next_moves(year[signal])
    p = SimSource(seed=3, signal=signal).true_probabilities("BTCUSDT", ts)
    moved = np.isin(ts, times_ms(year[signal].filter(pl.col("close") != pl.col("open"))))
    eighth = ts // MINUTE_MS % 15 == 7

    assert 0.5 + math.asin(STRENGTH[signal]) / math.pi * 14 / 15 * (1 - TIE_SHARE) == pytest.approx(accuracy, abs=1e-4)
    assert np.maximum(p, 1 - p).mean() == pytest.approx(accuracy, abs=0.001)
    assert ((p > 0.5) == rose).mean() == pytest.approx(accuracy, abs=0.003)
    assert (p[~moved] == 0.5).all()
    assert (p[eighth] == 0.5).all()


@pytest.mark.parametrize("interval", ["1m", "3m", "5m", "15m"])
def test_no_simple_rule_knows_the_signal(interval):
    """Persistence and its opposite have an accuracy of 50 %, a linear model hardly more; the true probability has."""
    source = SimSource(seed=3, signal="strong", interval=interval)
    step_ms = INTERVALS_MS[interval]
    frame = source.candles("BTCUSDT", TimeRange(CLOCK_MS - 150_000 * step_ms, CLOCK_MS))
    ts, rose = next_moves(frame, step_ms)
    returns = np.log(frame["close"].to_numpy() / frame["open"].to_numpy())
    at = np.flatnonzero(np.isin(times_ms(frame), ts))
    at, rose = at[at >= 10], rose[at >= 10]
    ts, last = times_ms(frame)[at], returns[at]
    angle = 2 * np.pi * (ts % DAY_MS) / DAY_MS
    clock = [ts / MINUTE_MS % 15, np.sin(angle), np.cos(angle)]
    x = np.column_stack([returns[at - lag] / returns.std() for lag in range(10)] + [np.ones(at.size), *clock])
    learned = at.size * 2 // 3
    weights = np.linalg.lstsq(x[:learned], rose[:learned] - 0.5, rcond=None)[0]
    linear = ((x[learned:] @ weights > 0) == rose[learned:]).mean()
    p = source.true_probabilities("BTCUSDT", ts)

    assert ((last > 0) == rose)[last != 0].mean() == pytest.approx(0.5, abs=0.007)
    assert linear < 0.54
    assert ((p > 0.5) == rose).mean() > linear + 0.04


def test_volume_says_nothing_about_the_next_direction(year):
    """No column but the prices predicts the part of the next move that the true probability leaves open."""
    frame = year["strong"]
    ts, rose = next_moves(frame)
    surprise = rose - SimSource(seed=3, signal="strong").true_probabilities("BTCUSDT", ts)
    rows = frame.filter(pl.Series(np.isin(times_ms(frame), ts)))

    for name in ("volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote"):
        column = np.log1p(rows[name].to_numpy())
        assert abs(np.corrcoef(column, surprise)[0, 1]) < 4 / math.sqrt(ts.size)
    share = (rows["taker_buy_base"] / rows["volume"]).fill_nan(0.5).to_numpy()
    assert abs(np.corrcoef(share, surprise)[0, 1]) < 4 / math.sqrt(ts.size)


def test_ties_come_by_chance(year):
    """About 4.5 % of minutes close where they opened, as often after a large move as after a small one."""
    frame = year["strong"]
    tie = (frame["close"] == frame["open"]).to_numpy()
    size = np.abs(np.log(frame["close"].to_numpy() / frame["open"].to_numpy()))[:-1]
    after_large = tie[1:][size > np.median(size)].mean()

    assert tie.mean() == pytest.approx(TIE_SHARE, abs=0.002)
    assert after_large == pytest.approx(tie.mean(), abs=0.002)
    assert 0.002 < (frame["trades"] == 0).mean() < 0.006
    assert frame.filter(pl.col("trades") == 0).select((pl.col("high") == pl.col("low")).all()).item()


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT", "SOLUSDT", "SIM01"])
def test_prices_stay_sane_for_400_days(symbol):
    """A price neither explodes nor vanishes, no minute moves by 5 %, and a candle opens at the last close."""
    frame = SimSource(seed=11).candles(symbol, YEAR)
    close, ts = frame["close"].to_numpy(), times_ms(frame)
    joined = np.diff(ts) == MINUTE_MS

    assert close[0] / 10 < close.min() <= close.max() < close[0] * 10
    assert np.abs(np.diff(np.log(close))[joined]).max() < 0.05
    assert (frame["open"].to_numpy()[1:] == close[:-1])[joined].all()


def test_each_week_has_one_outage_of_all_symbols():
    """The gaps of all symbols are the same: one a week, 15 to 60 minutes long."""
    # A Thursday, as the epoch: weeks are counted from it.
    start = GENESIS_MS + 3 * DAY_MS
    weeks = TimeRange(start, start + 70 * DAY_MS)
    source = SimSource(seed=2)
    gaps = [
        find_gaps(times_ms(source.candles(s, weeks)), MINUTE_MS, start_ms=weeks.start_ms, end_ms=weeks.end_ms)
        for s in ("BTCUSDT", "ETHUSDT")
    ]

    assert gaps[0] == gaps[1]
    assert [(h.from_ms - start) // (7 * DAY_MS) for h in gaps[0]] == list(range(10))
    assert all(15 <= h.missing <= 60 for h in gaps[0])


def test_windows_outside_history_are_empty():
    """Before the first candle and after the clock the frame has all columns and no rows."""
    for window in (
        TimeRange(0, GENESIS_MS),
        TimeRange(CLOCK_MS, LAST_CLOCK_MS),
        TimeRange(CLOCK_MS, CLOCK_MS - DAY_MS),
    ):
        frame = SimSource().candles("BTCUSDT", window)

        assert frame.is_empty()
        assert dict(frame.schema) == dict(CANDLE_SCHEMA)


def test_an_unknown_symbol_is_named_with_the_nearest():
    """A mistyped symbol is an input error that names the right one."""
    for ask in (SimSource().extent, lambda s: SimSource().candles(s, BASE)):
        with pytest.raises(InputError, match="BTCUSD") as err:
            ask("BTCUSD")
        assert "BTCUSDT" in err.value.hint
    with pytest.raises(InputError) as err:
        SimSource().extent("QQ")
    assert "BTCUSDT" in err.value.hint


@pytest.mark.parametrize(
    "options", [{"end_ms": GENESIS_MS}, {"end_ms": LAST_CLOCK_MS + 1}, {"signal": "strongest"}, {"interval": "1 m"}]
)
def test_impossible_exchanges_are_refused(options):
    """A clock outside the exchange's history and unknown names are usage errors."""
    with pytest.raises(UsageError):
        SimSource(**options)


@pytest.mark.parametrize(
    ("signal", "closes"),
    [
        ("none", [60015.94704267, 60004.62274377, 60351.61680521, 59959.36298498]),
        ("strong", [60022.39736743, 60003.98631331, 60216.13309862, 59911.73840844]),
    ],
)
def test_the_market_is_the_released_one(signal, closes):
    """The same seed gives the same candles in every release, machine and process; change these lines knowingly."""
    frame = SimSource(seed=42, signal=signal).candles("BTCUSDT", TimeRange(GENESIS_MS, GENESIS_MS + 2 * DAY_MS))

    assert frame["close"].gather([0, 1, 1000, 2800]).to_list() == pytest.approx(closes, rel=1e-12)
    assert frame["trades"].gather([0, 1, 1000, 2800]).to_list() == [827, 761, 1390, 477]


@pytest.mark.parametrize("interval", INTERVALS_MS)
def test_every_interval_gives_valid_candles_on_its_grid(interval):
    """The candles are possible ones, follow each other without a jump, and none is missing but in outages."""
    step_ms = INTERVALS_MS[interval]
    source = SimSource(seed=3, interval=interval)
    end_ms = source.extent("SOLUSDT").end_ms
    window = TimeRange(end_ms - max(300 * step_ms, 2 * DAY_MS), end_ms)
    frame = source.candles("SOLUSDT", window)
    missing = sum(gap.missing for gap in find_gaps(times_ms(frame), step_ms, end_ms=end_ms))

    assert dict(frame.schema) == dict(CANDLE_SCHEMA)
    assert check_candles(frame, symbol="SOLUSDT", interval=interval, where="sim").equals(frame)
    assert times_ms(frame)[-1] + step_ms == end_ms <= CLOCK_MS < end_ms + step_ms
    assert frame.height + missing == (window.end_ms - window.start_ms) // step_ms
    assert missing == 0 or step_ms <= 60 * MINUTE_MS
    consecutive = np.diff(times_ms(frame)) == step_ms
    assert (frame["open"].to_numpy()[1:] == frame["close"].to_numpy()[:-1])[consecutive].all()


@pytest.mark.parametrize("interval", ["1h", "1d", "3d", "1w"])
def test_long_intervals_reach_ten_years_back(interval):
    """Two years of 1h and ten of 1d, before and after the first price, are one path."""
    source = SimSource(interval=interval)
    step_ms = INTERVALS_MS[interval]
    middle_ms = floor_to_grid(GENESIS_MS, step_ms)
    around = source.candles("BTCUSDT", TimeRange(middle_ms - 200 * step_ms, middle_ms + 200 * step_ms))

    assert source.extent("BTCUSDT").start_ms <= CLOCK_MS - 3_650 * DAY_MS
    assert source.extent("BTCUSDT").start_ms == floor_to_grid(source.extent("BTCUSDT").start_ms, step_ms)
    assert np.array_equal(around["open"].to_numpy()[1:], around["close"].to_numpy()[:-1])
    assert source.candles("BTCUSDT", TimeRange(0, source.extent("BTCUSDT").start_ms)).is_empty()
    assert around["close"].is_between(1_000, 1_000_000).all()


def test_the_longest_history_is_the_price_of_a_coin():
    """Ten years before the first price the simulated price is not absurd."""
    source = SimSource(interval="3d")
    close = source.candles("SOLUSDT", source.extent("SOLUSDT"))["close"]

    assert 1e-3 < close.min() < close.max() < 1e7
