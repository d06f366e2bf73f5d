# ruff: noqa: A006, ARG001, ARG005 -- an oracle takes every parameter of its op, also where the window already says it
"""Every op equals its formula in plain Python, and has the properties that all ops promise."""

from __future__ import annotations

import inspect
import itertools
import math
import statistics
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from mltrain.features.computation import evaluate
from mltrain.features.ops.catalogue import OPS
from support.op_cases import ALL_CASES, CASES, KINDS, LEADER_OF, ROWS, market, with_input

# Plain Python: `rows` are the candles of exactly one window as dicts, oldest first.


def returns(rows, prefix=""):
    closes = [row[prefix + "close"] for row in rows]
    return [math.log(b / a) for a, b in pairwise(closes)]


def root_mean_square(values):
    return math.sqrt(math.fsum(v * v for v in values) / len(values))


def contrast(a, b):
    return (a - b) / (a + b) if a + b > 0 else 0.0


def column(rows, name):
    return [float(row[name]) for row in rows]


def location(row, prefix=""):
    high, low, close = (row[prefix + name] for name in ("high", "low", "close"))
    return ((close - low) - (high - close)) / (high - low) if high > low else 0.0


def share_of_range(row, part):
    return part(row) / (row["high"] - row["low"]) if row["high"] > row["low"] else 0.0


def scaled_wick(rows, side):
    row, usual = rows[-1], root_mean_square(returns(rows))
    room = math.log(row["high"] / row["close"]) if side == "above" else math.log(row["close"] / row["low"])
    return room / usual if usual > 0 else 0.0


def run_length(rows, bars):
    newest = signs(rows)[-1]
    run = itertools.takewhile(lambda sign: sign == newest, reversed(signs(rows)))
    return newest * sum(1 for _ in run) / bars


def zscore(values):
    mean = math.fsum(values) / len(values)
    deviation = root_mean_square([v - mean for v in values])
    return (values[-1] - mean) / deviation if deviation > 1e-9 * abs(mean) else 0.0


def skew(values):
    mean = math.fsum(values) / len(values)
    deviation = root_mean_square([v - mean for v in values])
    return math.fsum((v - mean) ** 3 for v in values) / len(values) / deviation**3 if deviation > 1e-12 else 0.0


def autocorrelation(r):
    return correlation(r[1:], r[:-1])


def gap(rows, price):
    low, high = min(column(rows, "low")), max(column(rows, "high"))
    return math.log(rows[-1]["close"] / min(max(price, low), high))


def vwap_gap(rows, prices):
    volumes = column(rows, "volume")
    if math.fsum(volumes) == 0:
        return 0.0
    return gap(rows, math.fsum(p * v for p, v in zip(prices, volumes, strict=True)) / math.fsum(volumes))


def traded_gap(rows):
    volume = math.fsum(column(rows, "volume"))
    return gap(rows, math.fsum(column(rows, "quote_volume")) / volume) if volume > 0 else 0.0


def range_position(rows):
    low, high = min(column(rows, "low")), max(column(rows, "high"))
    return (rows[-1]["close"] - low) / (high - low) if high > low else 0.5


def rsi(rows):
    closes = column(rows, "close")
    moves = [b - a for a, b in pairwise(closes)]
    rises, falls = math.fsum(m for m in moves if m > 0), -math.fsum(m for m in moves if m < 0)
    return rises / (rises + falls) if rises + falls > 0 else 0.5


def weighted(values, weights):
    total = math.fsum(weights)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total if total > 0 else 0.0


def correlation(a, b):
    scale = math.sqrt(math.fsum(v * v for v in a)) * math.sqrt(math.fsum(v * v for v in b))
    return math.fsum(v * w for v, w in zip(a, b, strict=True)) / scale if scale > 0 else 0.0


def imbalance(rows, prefix=""):
    volume = math.fsum(column(rows, prefix + "volume"))
    bought = math.fsum(column(rows, prefix + "taker_buy_base"))
    return max(-1.0, min(1.0, (2 * bought - volume) / volume)) if volume > 0 else 0.0


def taker_gap(rows, side):
    base = math.fsum(b if side == "buy" else v - b for b, v in taken(rows, "taker_buy_base", "volume"))
    quote = math.fsum(b if side == "buy" else q - b for b, q in taken(rows, "taker_buy_quote", "quote_volume"))
    return gap(rows, quote / base) if base > 0 else 0.0


def taken(rows, bought, whole):
    return zip(column(rows, bought), column(rows, whole), strict=True)


def taker_price_gap(rows):
    row = rows[-1]
    if row["taker_buy_base"] == 0 or row["volume"] == 0:
        return 0.0
    paid, average = row["taker_buy_quote"] / row["taker_buy_base"], row["quote_volume"] / row["volume"]
    return math.log(min(max(paid, row["low"]), row["high"]) / min(max(average, row["low"]), row["high"]))


def trade_size_ratio(rows):
    volume, trades = math.fsum(column(rows, "volume")), math.fsum(column(rows, "trades"))
    newest = rows[-1]["volume"] / rows[-1]["trades"] if rows[-1]["trades"] else 0.0
    return contrast(newest, volume / trades if trades else 0.0)


def clock(rows, period, wave):
    length_s = {"quarter": 900, "hour": 3600, "day": 86_400, "week": 604_800}[period]
    angle = 2 * math.pi * (rows[-1]["ts"].timestamp() % length_s) / length_s
    return {"sin": math.sin(angle), "cos": math.cos(angle), "saw": angle / (2 * math.pi)}[wave]


def mean(values):
    return math.fsum(values) / len(values)


def log_ranges(rows):
    return [math.log(row["high"] / row["low"]) for row in rows]


def ema(values, bars):
    """Return the weighted mean of all values, the newest last, weights by the recursion of an exponential average."""
    factor = 2 / (bars + 1)
    weights = [(1 - factor) ** age for age in reversed(range(len(values)))]
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def closed_candles(rows, every):
    """Return the candles of a longer interval that have closed with the newest minute, as dicts, oldest first.

    The first may lack minutes, as does its high or low then; its close does not.
    """
    length_s = {"3m": 180, "5m": 300, "1h": 3600}[every]
    made = {}
    for row in rows:
        made.setdefault(int(row["ts"].timestamp()) // length_s, []).append(row)
    return [
        {
            "close": minutes[-1]["close"],
            "high": max(row["high"] for row in minutes),
            "low": min(row["low"] for row in minutes),
        }
        for number, minutes in made.items()
        if minutes[-1]["ts"].timestamp() + 60 == (number + 1) * length_s
    ]


def resample(rows, every, value, bars, interval):
    candles = closed_candles(rows, every)[-bars - (value in {"return", "volatility", "rsi"}) :]
    return {
        "return": lambda: math.log(candles[-1]["close"] / candles[0]["close"]),
        "volatility": lambda: root_mean_square(returns(candles)),
        "range": lambda: mean(log_ranges(candles)),
        "close_location": lambda: mean([location(candle) for candle in candles]),
        "range_position": lambda: range_position(candles),
        "gap_to_mean": lambda: math.log(candles[-1]["close"] / mean(column(candles, "close"))),
        "rsi": lambda: rsi(candles),
    }[value]()


def signs(rows):
    closes = column(rows, "close")
    return [(b > a) - (b < a) for a, b in pairwise(closes)]


ORACLES = {
    "log_return": lambda rows, bars, lag=0: math.log(rows[-1 - lag]["close"] / rows[-1 - lag - bars]["close"]),
    "scaled_return": lambda rows, bars, window, lag=0: (
        math.log(rows[-1 - lag]["close"] / rows[-1 - lag - bars]["close"])
        / (root_mean_square(returns(rows)) * math.sqrt(bars))
        if any(returns(rows))
        else 0.0
    ),
    "realised_volatility": lambda rows, bars: root_mean_square(returns(rows)),
    "volatility_ratio": lambda rows, short, long: contrast(
        root_mean_square(returns(rows)[-short:]), root_mean_square(returns(rows))
    ),
    "parkinson_volatility": lambda rows, bars: root_mean_square(log_ranges(rows)) / math.sqrt(4 * math.log(2)),
    "return_skew": lambda rows, bars: skew(returns(rows)),
    "return_autocorrelation": lambda rows, bars: autocorrelation(returns(rows)),
    "direction_balance": lambda rows, bars: mean(signs(rows)),
    "flat_share": lambda rows, bars: mean([s == 0 for s in signs(rows)]),
    "run_length": run_length,
    "rsi": lambda rows, bars: rsi(rows),
    "gap_to_mean": lambda rows, bars: math.log(rows[-1]["close"] / mean(column(rows, "close"))),
    "scaled_gap_to_mean": lambda rows, bars, window: (
        math.log(rows[-1]["close"] / mean(column(rows[-bars:], "close")))
        / (root_mean_square(returns(rows[-window - 1 :])) * math.sqrt(bars))
        if any(returns(rows[-window - 1 :]))
        else 0.0
    ),
    "gap_to_ema": lambda rows, bars, window: math.log(rows[-1]["close"] / ema(column(rows, "close"), bars)),
    "ema_gap": lambda rows, short, long, window: math.log(
        ema(column(rows, "close"), short) / ema(column(rows, "close"), long)
    ),
    "ema_volatility": lambda rows, bars, window: math.sqrt(ema([r * r for r in returns(rows)], bars)),
    "resample": resample,
    "gap_to_vwap": lambda rows, bars: vwap_gap(rows, [(r["high"] + r["low"] + r["close"]) / 3 for r in rows]),
    "gap_to_traded_vwap": lambda rows, bars: traded_gap(rows),
    "range_position": lambda rows, bars: range_position(rows),
    "gap_to_high": lambda rows, bars: math.log(rows[-1]["close"] / max(column(rows, "high"))),
    "gap_to_low": lambda rows, bars: math.log(rows[-1]["close"] / min(column(rows, "low"))),
    "candle_body": lambda rows, lag=0: share_of_range(rows[0], lambda row: row["close"] - row["open"]),
    "upper_shadow": lambda rows, lag=0: share_of_range(
        rows[0], lambda row: row["high"] - max(row["open"], row["close"])
    ),
    "lower_shadow": lambda rows, lag=0: share_of_range(
        rows[0], lambda row: min(row["open"], row["close"]) - row["low"]
    ),
    "close_location": lambda rows, bars, lag=0: mean([location(row) for row in rows[:bars]]),
    "scaled_wick": lambda rows, side, window: scaled_wick(rows, side),
    "bar_range": lambda rows: log_ranges(rows)[-1],
    "range_ratio": lambda rows, bars: contrast(log_ranges(rows)[-1], mean(log_ranges(rows))),
    "open_gap": lambda rows: math.log(rows[-1]["open"] / rows[-2]["close"]),
    "zscore": lambda rows, column, bars: zscore([float(row[column]) for row in rows]),
    "activity_ratio": lambda rows, column, short, long: contrast(
        mean([float(row[column]) for row in rows[-short:]]), mean([float(row[column]) for row in rows])
    ),
    "money_flow": lambda rows, bars: weighted([location(row) for row in rows], column(rows, "volume")),
    "return_volume_correlation": lambda rows, bars: correlation(returns(rows), column(rows[1:], "volume")),
    "taker_imbalance": lambda rows, bars: imbalance(rows),
    "gap_to_taker_price": lambda rows, side, bars: taker_gap(rows, side),
    "taker_spread": lambda rows, bars: taker_gap(rows, "sell") - taker_gap(rows, "buy"),
    "taker_price_gap": taker_price_gap,
    "trade_size_ratio": lambda rows, bars: trade_size_ratio(rows),
    "clock": clock,
    "leader_return": lambda rows, bars, lag=0: math.log(
        rows[-1 - lag]["leader_close"] / rows[-1 - lag - bars]["leader_close"]
    ),
    "leader_lead": lambda rows, bars: math.fsum(returns(rows, "leader_")) - math.fsum(returns(rows)),
    "leader_close_location": lambda rows, bars: mean([location(row, "leader_") for row in rows]),
    "leader_zscore": lambda rows, column, bars: zscore([float(row["leader_" + column]) for row in rows]),
    "leader_taker_imbalance": lambda rows, bars: imbalance(rows, "leader_"),
    "input_value": lambda rows, input, lag=0: rows[0][input],
    "input_change": lambda rows, input, bars: rows[-1][input] - rows[0][input],
    "input_zscore": lambda rows, input, bars: zscore([row[input] for row in rows]),
}


@pytest.fixture(scope="module", params=KINDS)
def frame(request):
    """Return candles joined with those of another market as the leader's columns."""
    return with_leader(with_input(market(request.param)), with_input(market(LEADER_OF[request.param])))


def with_leader(frame, leader):
    return pl.concat([frame, leader.drop("ts").rename(lambda name: "leader_" + name)], how="horizontal")


def values_of(frame, name, params):
    window = OPS[name](**params)
    return evaluate(frame, [window.expr.cast(pl.Float64)]).to_series().to_numpy(), window.lookback_bars


def identify(case):
    return "-".join(str(part) for part in [case[0], *case[1].values()])


def test_every_op_has_cases_and_an_oracle():
    """Every registered op has a case."""
    assert set(CASES) == set(ORACLES) == set(OPS)


@pytest.mark.parametrize("case", ALL_CASES, ids=identify)
def test_op_equals_plain_python_at_every_bar(case, frame):
    """Once the lookback is complete, the value is that of the formula on the window."""
    name, params = case
    got, lookback = values_of(frame, name, params)
    rows = frame.to_dicts()

    expected = [ORACLES[name](rows[i - lookback + 1 : i + 1], **params) for i in range(lookback - 1, ROWS)]

    assert np.isfinite(got[lookback - 1 :]).all()
    # Two rounding orders of a score of nearly equal values may part by 1e-7 of it, which float32 does not resolve.
    loose = name in {"zscore", "leader_zscore", "input_zscore", "return_skew"}
    np.testing.assert_allclose(got[lookback - 1 :], expected, rtol=1e-7 if loose else 1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ALL_CASES, ids=identify)
def test_value_is_made_of_the_lookback_alone(case, frame):
    """Prefixes, and the last `lookback` bars only, have the bits of the whole history."""
    name, params = case
    whole, lookback = values_of(frame, name, params)

    for row in {lookback - 1, lookback, 129, 131, 260, ROWS - 1} - set(range(lookback - 1)):
        alone, _ = values_of(frame[row - lookback + 1 : row + 1], name, params)
        prefix, _ = values_of(frame[: row + 1], name, params)
        assert alone[-1].tobytes() == prefix[-1].tobytes() == whole[row].tobytes()


@pytest.mark.parametrize("case", ALL_CASES, ids=identify)
def test_lookback_is_not_overstated(case):
    """With one bar fewer than the lookback there is no value: the lookback is minimal."""
    name, params = case
    frame = with_leader(with_input(market("ordinary")), with_input(market("ordinary")))
    whole, lookback = values_of(frame, name, params)

    if lookback > 1:
        short, _ = values_of(frame[ROWS - lookback + 1 :], name, params)
        assert short[-1].tobytes() != whole[-1].tobytes()


@pytest.mark.parametrize("case", ALL_CASES, ids=identify)
def test_value_has_no_unit(case):
    """Rescaled prices and volumes give the same value; an input has its own unit."""
    name, params = case
    both = with_leader(with_input(market("ordinary")), with_input(market("ordinary")))
    factors = {"open": 128, "high": 128, "low": 128, "close": 128, "volume": 0.25, "quote_volume": 32, "trades": 4}
    factors |= {"taker_buy_base": 0.25, "taker_buy_quote": 32}
    scaled = both.with_columns(pl.col(p + n) * f for n, f in factors.items() for p in ("", "leader_"))

    got, lookback = values_of(scaled, name, params)

    np.testing.assert_allclose(
        got[lookback - 1 :], values_of(both, name, params)[0][lookback - 1 :], rtol=1e-9, atol=1e-12
    )


def test_every_op_says_what_it_is():
    """Each docstring has a first line that fits a table, and the unit."""
    for function in OPS.values():
        summary, _, rest = inspect.getdoc(function).partition("\n")
        assert 20 < len(summary) < 120
        assert "Unit: " in rest


def test_oracle_of_the_deviation_is_the_population_one():
    """The oracle itself agrees with the standard library."""
    values = [1.0, 2.0, 4.0]

    assert math.isclose(zscore(values), (4.0 - 7 / 3) / statistics.pstdev(values))
