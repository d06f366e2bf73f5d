"""Planted leaks: a module of user ops, each of which depends on something that it must not know.

Every op here is wrong. `LEAKS` has the registry line of each, and the symbols in which the audit must catch it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl

from mltrain.features.op import Window

CLOSE, HIGH, LOW, VOLUME, TS = (pl.col(name) for name in ("close", "high", "low", "volume", "ts"))
RETURN = CLOSE / CLOSE.shift(1) - 1
AHEAD = CLOSE.shift(-1) / CLOSE - 1
DAY = TS.dt.truncate("1d")
# True at about one candle in two thousand.
RARE = (CLOSE * 100).round().cast(pl.Int64) % 1_999 == 7
GAP_NEXT = TS.diff().shift(-1) > pl.duration(minutes=1)

#: Files that leaks read; the tests write there the candles of the whole market, and (time in ms, next return) pairs.
MARKET = Path("market.parquet")
RETURNS = Path("returns.npy")


def python(function, *inputs):
    """Return an expression that calls a function with NumPy arrays."""
    return pl.map_batches(
        list(inputs),
        lambda columns: pl.Series(function(*(c.to_numpy().astype(float) for c in columns))),
        return_dtype=pl.Float64,
    )


# Later candles.


def next_close():
    return Window(AHEAD, 2)


def far_ahead():
    return Window(CLOSE.shift(-500) / CLOSE, 2)


def centred_mean():
    return Window(CLOSE.rolling_mean(5, center=True) / CLOSE, 5)


def label_inside():
    return Window((CLOSE.shift(-1) > CLOSE).cast(pl.Float64) + RETURN, 2)


def backward_fill():
    return Window(pl.when(VOLUME.diff() > 0).then(CLOSE).backward_fill() / CLOSE, 2)


def interpolated():
    return Window(pl.when(VOLUME.diff() > 0).then(CLOSE).interpolate() / CLOSE, 2)


def bar_stamped_at_its_start():
    """The close of a five-minute bar, used from its first minute on."""
    return Window(CLOSE.last().over(TS.dt.truncate("5m")) / CLOSE, 5)


def nearest_in_time():
    """Join every minute with the nearest of the seven-minute marks, which may be in the future."""

    def nearest(columns):
        frame = pl.DataFrame({"ts": columns[0], "close": columns[1]})
        marks = frame.filter(pl.col("ts").dt.epoch("ms") // 60_000 % 7 == 0).rename({"close": "mark"})
        return frame.join_asof(marks, on="ts", strategy="nearest")["mark"] / frame["close"]

    return Window(pl.map_batches([TS, CLOSE], nearest, return_dtype=pl.Float64), 7)


def sorted_by_another_key():
    return Window(CLOSE.sort_by(VOLUME).shift(1) / CLOSE, 2)


def smoothed_both_ways():
    forward = RETURN.fill_null(0).ewm_mean(alpha=0.5, adjust=False)
    return Window(forward.reverse().ewm_mean(alpha=0.5, adjust=False).reverse(), 40)


def sum_of_what_comes():
    return Window(VOLUME.cum_sum(reverse=True) / VOLUME.sum(), 1)


# Statistics of the whole sample.


def sample_zscore():
    return Window((CLOSE - CLOSE.mean()) / CLOSE.std(), 1)


def sample_quantile():
    return Window(CLOSE.gt(CLOSE.quantile(0.9)).cast(pl.Float64), 1)


def sample_range():
    return Window((CLOSE - CLOSE.min()) / (CLOSE.max() - CLOSE.min()), 1)


def sample_rank():
    return Window(CLOSE.rank() / pl.len(), 1)


def target_encoding():
    """The share of rises after this minute of the hour, over all rows."""
    return Window((AHEAD > 0).cast(pl.Float64).mean().over(TS.dt.minute()), 1)


def share_of_the_days_volume():
    return Window(VOLUME / VOLUME.sum().over(DAY), 1)


def high_of_the_day():
    return Window(CLOSE / HIGH.max().over(DAY), 1)


def distance_to_the_last_row():
    return Window(python(lambda c: c / c[-1], CLOSE), 1)


def number_of_rows():
    return Window(RETURN * (pl.len() % 97), 2)


def long_frames_only():
    """The value differs between a whole history and the few candles of a server."""
    return Window(pl.when(pl.len() > 1_000).then(AHEAD).otherwise(RETURN), 2)


def row_number():
    return Window(RETURN + (pl.int_range(pl.len()) % 5 == 0) * 0.01, 2)


def last_row_is_special():
    return Window(pl.when(pl.int_range(pl.len()) == pl.len() - 1).then(0.0).otherwise(RETURN), 2)


# Candles before the declared lookback.


def lookback_short_by_one():
    return Window(CLOSE.rolling_mean(20) / CLOSE, 19)


def long_maximum_short_by_one():
    """The undeclared candle changes one value in four hundred."""
    return Window(HIGH.rolling_max(400) / CLOSE, 399)


def lookback_far_too_short():
    return Window(CLOSE.rolling_mean(120) / CLOSE, 2)


def short_lookback_now_and_then():
    return Window(pl.when(RARE).then(CLOSE.shift(30)).otherwise(CLOSE.shift(1)) / CLOSE, 2)


def endless_average():
    return Window(CLOSE.ewm_mean(half_life=40, adjust=False) / CLOSE, 60)


def endless_sum():
    return Window(RETURN.fill_null(0).cum_sum(), 60)


def highest_ever():
    return Window(CLOSE / HIGH.cum_max(), 60)


def window_across_a_gap():
    """Five rows back, across gaps."""
    return Window(CLOSE / CLOSE.shift(5) - 1, 1)


def filled_over_a_gap():
    return Window(pl.when(TS.dt.minute() == 0).then(CLOSE).forward_fill() / CLOSE, 30)


# Other symbols.


def leaders_next_close():
    return Window(pl.col("leader_close").shift(-1) / pl.col("leader_close"), 2)


def leaders_sample_mean():
    return Window(pl.col("leader_close") / pl.col("leader_close").mean(), 1)


_seen = {}


def undeclared_symbol():
    """The returns of the previous computation, which is often of another symbol."""

    def remember(returns):
        before = _seen.get("returns", returns)
        _seen["returns"] = returns.copy()
        return returns + np.resize(np.nan_to_num(before), returns.size)

    return Window(python(remember, RETURN), 2)


# Leaks in few rows.


def next_close_now_and_then():
    return Window(pl.when(RARE).then(AHEAD).otherwise(RETURN), 2)


def next_close_now_and_then_after_long_memory():
    return Window(pl.when(RARE).then(AHEAD).otherwise(CLOSE / CLOSE.rolling_mean(240) - 1), 240)


def three_ahead_now_and_then():
    return Window(pl.when(RARE).then(CLOSE.shift(-3) / CLOSE - 1).otherwise(RETURN), 2)


def next_close_before_a_gap():
    return Window(pl.when(GAP_NEXT).then(1.0).otherwise(RETURN), 2)


def next_close_after_a_gap():
    """Only at the first value after a gap."""
    behind = (TS.diff().shift(4) > pl.duration(minutes=1)).fill_null(value=False)
    return Window(pl.when(behind).then(AHEAD).otherwise(RETURN), 5)


def next_close_at_midnight():
    return Window(pl.when(TS.dt.time() == pl.time(23, 59)).then(AHEAD).otherwise(RETURN), 2)


def next_close_without_trades():
    return Window(pl.when(VOLUME == 0).then(AHEAD).otherwise(RETURN), 2)


def next_close_where_nothing_divides():
    """0 / 0 is NaN, which is filled with the next close."""
    middle = (CLOSE - LOW) / (HIGH - LOW)
    return Window(middle.fill_nan(0.5 + AHEAD), 1)


def next_close_of_one_symbol():
    """Only where the price is that of one symbol."""
    return Window(pl.when(CLOSE > 20_000).then(AHEAD).otherwise(RETURN), 2)


def a_millionth_of_the_next_close():
    return Window(RETURN + 1e-6 * AHEAD, 2)


# Other inputs than candles.


def random():
    return Window(python(lambda r: r + np.random.random() * 1e-3, RETURN), 2)  # noqa: NPY002


_calls = count()


def random_now_and_then():
    """One value in some thousand differs from call to call, never the newest."""

    def shake(returns):
        shaken = returns.copy()
        shaken[next(_calls) * 37 % max(returns.size - 1, 1)] = 0.5
        return shaken

    return Window(python(shake, RETURN), 2)


def wall_clock():
    return Window(python(lambda r: r * (1 + time.time() % 1), RETURN), 2)


def age_of_the_candle():
    """Days between the candle and today, which differs between training and serving."""
    return Window((pl.lit(time.time() * 1e3) - TS.dt.epoch("ms")) // 86_400_000 + RETURN, 2)


def table_by_time():
    """The next return, looked up by time in a file that Polars reads."""

    def look_up(columns):
        market = pl.read_parquet(MARKET).with_columns(ahead=AHEAD)
        return pl.DataFrame({"ts": columns[0]}).join(market, on="ts", how="left")["ahead"].fill_null(0.0)

    return Window(pl.map_batches([TS], look_up, return_dtype=pl.Float64), 1)


def file_by_time():
    """The next return, looked up by time in a file that Python opens."""

    def look_up(ts_ms):
        known_ms, returns = np.load(RETURNS)
        at = np.searchsorted(known_ms, ts_ms).clip(max=known_ms.size - 1)
        return np.where(known_ms[at] == ts_ms, returns[at], 0.0)

    return Window(python(look_up, TS.dt.epoch("ms")), 1)


@dataclass(frozen=True)
class Leak:
    """The registry entry of a leak, and the symbols in which it must be caught."""

    op: str
    leader: str | None = None
    symbols: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")

    @property
    def line(self):
        """The registry's line."""
        leader = f", leader: {self.leader}" if self.leader else ""
        return f"  - {{name: suspect, op: {self.op}{leader}}}"


_OPS = (
    *(next_close, far_ahead, centred_mean, label_inside, backward_fill, interpolated, bar_stamped_at_its_start),
    *(nearest_in_time, sorted_by_another_key, smoothed_both_ways, sum_of_what_comes, sample_zscore, sample_quantile),
    *(sample_range, sample_rank, target_encoding, share_of_the_days_volume, high_of_the_day, distance_to_the_last_row),
    *(number_of_rows, long_frames_only, row_number, last_row_is_special, lookback_short_by_one),
    *(long_maximum_short_by_one, lookback_far_too_short, short_lookback_now_and_then, endless_average, endless_sum),
    *(highest_ever, window_across_a_gap, filled_over_a_gap, leaders_next_close, leaders_sample_mean),
    *(undeclared_symbol, next_close_now_and_then, next_close_now_and_then_after_long_memory, three_ahead_now_and_then),
    *(next_close_before_a_gap, next_close_after_a_gap, next_close_at_midnight, next_close_without_trades),
    *(next_close_where_nothing_divides, next_close_of_one_symbol, a_millionth_of_the_next_close, random),
    *(random_now_and_then, wall_clock, age_of_the_candle, table_by_time, file_by_time),
)
OPS = {function.__name__: function for function in _OPS}
_LED = {"leaders_next_close", "leaders_sample_mean"}
_ONE = {"next_close_of_one_symbol": ("BTCUSDT",), "undeclared_symbol": (), "random_now_and_then": ()}
LEAKS = {
    name: Leak(name, "BTCUSDT", ("ETHUSDT",)) if name in _LED else Leak(name, symbols=_ONE.get(name, Leak.symbols))
    for name in OPS
}
