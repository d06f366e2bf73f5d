"""Parameters to test every op with, and the candles to test it on."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl

ROWS = 400
# 90 minutes before a UTC midnight, which is inside the sample.
START_MS = 1_735_689_600_000 - 90 * 60_000

# op -> the parameter sets that are tested; powers of two, odd ones and 1 take different ways through a window.
CASES = {
    "log_return": [{"bars": 1, "lag": 0}, {"bars": 5, "lag": 3}, {"bars": 60}],
    "scaled_return": [
        {"bars": 1, "window": 1},
        {"bars": 1, "window": 60},
        {"bars": 5, "window": 31},
        {"bars": 2, "window": 7, "lag": 3},
    ],
    "realised_volatility": [{"bars": 1}, {"bars": 15}, {"bars": 64}],
    "volatility_ratio": [{"short": 1, "long": 2}, {"short": 5, "long": 60}],
    "parkinson_volatility": [{"bars": 1}, {"bars": 30}],
    "return_skew": [{"bars": 3}, {"bars": 16}, {"bars": 60}],
    "return_autocorrelation": [{"bars": 2}, {"bars": 60}],
    "direction_balance": [{"bars": 1}, {"bars": 10}],
    "flat_share": [{"bars": 1}, {"bars": 30}],
    "run_length": [{"bars": 1}, {"bars": 8}],
    "rsi": [{"bars": 1}, {"bars": 14}],
    "gap_to_mean": [{"bars": 2}, {"bars": 20}, {"bars": 240}],
    "scaled_gap_to_mean": [{"bars": 10, "window": 60}, {"bars": 33, "window": 5}],
    "gap_to_ema": [{"bars": 2, "window": 4}, {"bars": 10, "window": 35}],
    "ema_gap": [{"short": 12, "long": 26, "window": 64}],
    "ema_volatility": [{"bars": 20, "window": 61}],
    "gap_to_vwap": [{"bars": 1}, {"bars": 60}],
    "gap_to_traded_vwap": [{"bars": 1}, {"bars": 60}],
    "range_position": [{"bars": 1}, {"bars": 60}],
    "gap_to_high": [{"bars": 1}, {"bars": 30}],
    "gap_to_low": [{"bars": 1}, {"bars": 30}],
    "candle_body": [{}, {"lag": 2}],
    "upper_shadow": [{}, {"lag": 2}],
    "lower_shadow": [{}, {"lag": 2}],
    "close_location": [{"bars": 1}, {"bars": 10}, {"bars": 3, "lag": 2}],
    "scaled_wick": [{"side": "above", "window": 60}, {"side": "below", "window": 1}],
    "bar_range": [{}],
    "range_ratio": [{"bars": 2}, {"bars": 60}],
    "open_gap": [{}],
    "zscore": [
        {"column": "volume", "bars": 2},
        {"column": "volume", "bars": 60},
        {"column": "trades", "bars": 30},
        {"column": "quote_volume", "bars": 33},
        {"column": "close", "bars": 20},
    ],
    "activity_ratio": [{"column": "volume", "short": 1, "long": 60}, {"column": "trades", "short": 5, "long": 30}],
    "money_flow": [{"bars": 1}, {"bars": 20}],
    "return_volume_correlation": [{"bars": 2}, {"bars": 60}],
    "taker_imbalance": [{"bars": 1}, {"bars": 15}],
    "gap_to_taker_price": [{"side": side, "bars": bars} for side, bars in [("buy", 1), ("sell", 1), ("sell", 13)]],
    "taker_spread": [{"bars": 1}, {"bars": 6}],
    "taker_price_gap": [{}],
    "trade_size_ratio": [{"bars": 2}, {"bars": 60}],
    "clock": [
        {"period": period, "wave": wave}
        for period, wave in [("quarter", "saw"), ("hour", "sin"), ("day", "sin"), ("day", "cos"), ("week", "cos")]
    ],
    "resample": [
        {"every": every, "value": value, "bars": bars, "interval": "1m"}
        for every, bars, values in [
            ("3m", 1, ("return",)),
            ("5m", 7, ("return", "volatility", "range", "close_location", "range_position", "gap_to_mean", "rsi")),
            ("1h", 3, ("range",)),
        ]
        for value in values
    ],
    "leader_return": [{"bars": 1}, {"bars": 5, "lag": 2}],
    "leader_lead": [{"bars": 1}, {"bars": 15}],
    "leader_close_location": [{"bars": 1}, {"bars": 4}],
    "leader_zscore": [{"column": "volume", "bars": 60}],
    "leader_taker_imbalance": [{"bars": 1}, {"bars": 10}],
    "input_value": [{"input": "funding"}, {"input": "leader_funding", "lag": 3}],
    "input_change": [{"input": "funding", "bars": 1}, {"input": "leader_funding", "bars": 9}],
    "input_zscore": [{"input": "funding", "bars": 2}, {"input": "leader_funding", "bars": 60}],
}
ALL_CASES = [(name, params) for name, many in CASES.items() for params in many]


def with_input(frame, prefix=""):
    """Return candles with an input, `funding`, that is repeated for some bars, changes its sign and is at times 0."""
    return frame.with_columns(((pl.col(f"{prefix}trades") % 7 - 3) * 1e-4).alias(f"{prefix}funding"))


# Markets: what valid candles can look like at their worst.


def candles(rng, close, volume, trades):
    """Return valid candles around the closes, with the columns that an exchange gives."""
    first = np.concatenate([close[:1], close[:-1]])
    wick = np.abs(rng.normal(0, 3e-4, (2, close.size)))
    high, low = np.maximum(first, close) * (1 + wick[0]), np.minimum(first, close) * (1 - wick[1])
    bought = volume * rng.random(close.size)
    paid = low + (high - low) * rng.random(close.size)
    stamps = [dt.datetime.fromtimestamp(START_MS / 1000, dt.UTC) + dt.timedelta(minutes=i) for i in range(close.size)]
    return pl.DataFrame(
        {
            "ts": pl.Series(stamps, dtype=pl.Datetime("ms", "UTC")),
            "open": first,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
            "quote_volume": volume * (high + low) / 2,
            "trades": trades.astype(np.int64),
            "taker_buy_base": bought,
            "taker_buy_quote": bought * paid,
        }
    )


def walk(rng, deviation, start):
    return start * np.exp(np.cumsum(rng.normal(0, deviation, ROWS)))


def flat_bars(frame, rows):
    """Make bars in which nothing happens out of some rows: no range, no volume, no trades."""
    quiet = pl.arange(pl.len()).is_in(rows)
    still = [
        pl.when(quiet).then(frame["close"][0]).otherwise(pl.col(n)).alias(n) for n in ("open", "high", "low", "close")
    ]
    empty = [
        pl.when(quiet).then(0).otherwise(pl.col(n)).alias(n)
        for n in ("volume", "quote_volume", "trades", "taker_buy_base", "taker_buy_quote")
    ]
    return frame.with_columns(still + empty)


def market(kind):  # noqa: PLR0911 -- a table of worlds
    rng = np.random.default_rng(len(kind))
    volume, trades = rng.lognormal(2, 1.5, ROWS), rng.poisson(50, ROWS)
    if kind == "ordinary":
        return candles(rng, walk(rng, 5e-4, 60_000.0), volume, trades)
    # Most bars close at the previous close.
    if kind == "ticks":
        return candles(rng, np.round(walk(rng, 5e-6, 60_000.0), 0), volume, trades)
    # No trade at all.
    if kind == "still":
        return flat_bars(candles(rng, np.full(ROWS, 0.1), volume, trades), range(ROWS))
    # Trading stops for longer than the longest window, and for shorter.
    if kind == "pauses":
        return flat_bars(candles(rng, walk(rng, 5e-4, 3.7), volume, trades), [*range(20, 60), 90, *range(120, 370)])
    # Always the same bar: every deviation is 0, and rounding must not make one.
    if kind == "equal":
        frame = candles(rng, np.full(ROWS, 0.3), np.full(ROWS, 0.7), np.full(ROWS, 7))
        return frame.with_columns(pl.col("high", "low").first())
    # One huge volume among tiny ones enters and leaves each window.
    if kind == "spikes":
        volume = np.where(np.arange(ROWS) % 97 == 30, 5e8, 1e-3 * rng.random(ROWS))
        return candles(rng, walk(rng, 5e-4, 1.0) * np.where(np.arange(ROWS) == 100, 50, 1), volume, trades)
    # Prices near 1e-8 on a coarse grid, volumes of 5e8.
    if kind == "tiny":
        return candles(rng, np.round(walk(rng, 5e-2, 4e-8), 9), volume * 5e8, trades * 10**6)
    raise ValueError(kind)


KINDS = ("ordinary", "ticks", "still", "pauses", "equal", "spikes", "tiny")
LEADER_OF = dict(zip(KINDS, KINDS[1:] + KINDS[:1], strict=True))
