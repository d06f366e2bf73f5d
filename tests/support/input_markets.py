"""Markets with inputs: honest ones of many kinds, and planted leaks, in the join and in the times of the data.

A market has persistent volatility and volume with a season of the day, heavy tails, and takers who follow the returns.
`joins` are wrong joins; `LEAKS` and `HONEST` make the times and values of an input from a market.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import polars as pl
from scipy.signal import lfilter

from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.candles.input_tables import InputTable, KnownValues
from mltrain.features.input_join import join_inputs, take_known_values
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, WEEK_MS, interval_ms

START_MS = 1_704_067_200_000


def make_persistent(rng, rows, half_life, size=1.0):
    """Return an autoregressive series of a standard deviation, whose correlation halves in `half_life` rows."""
    a = 0.5 ** (1 / max(1.0, half_life))
    shocks = rng.normal(0, size * np.sqrt(1 - a * a), rows)
    shocks[0] = rng.normal(0, size)
    return lfilter([1], [1, -a], shocks)


@dataclass(frozen=True)
class InputMarket:
    """Candles of one symbol, and what drives them."""

    frame: pl.DataFrame
    step_ms: int
    returns: np.ndarray
    flow: np.ndarray
    log_volatility: np.ndarray
    season: np.ndarray
    seed: int

    @property
    def rng(self):
        return np.random.default_rng(self.seed + 1)

    @property
    def ts_ms(self):
        return times_ms(self.frame)

    @property
    def close_ms(self):
        return self.ts_ms + self.step_ms

    def array(self, name):
        return self.frame[name].to_numpy()


@cache
def make_market(seed, bars, interval, drive=None, start_ms=START_MS):
    """Return a market; `drive`, a tuple of numbers per bar, moves the returns, in units of their deviation."""
    rng = np.random.default_rng(seed)
    step_ms = interval_ms(interval)
    day = DAY_MS / step_ms
    ts_ms = start_ms + np.arange(bars) * step_ms
    turn = 2 * np.pi * (ts_ms % DAY_MS) / DAY_MS
    season = 0.4 * np.sin(turn - 2) + 0.2 * np.sin(2 * turn) if day > 1 else np.zeros(bars)
    slow, fast = (make_persistent(rng, bars, days * day, size) for days, size in ((1, 0.5), (1 / 24, 0.3)))
    log_volatility = slow + fast + season
    shocks = rng.standard_t(5, bars) / np.sqrt(5 / 3)
    scale = 0.02 / np.sqrt(day) * np.exp(log_volatility)
    returns = scale * (shocks + (0.0 if drive is None else np.asarray(drive)))
    close = 100 * np.exp(np.cumsum(returns))
    before = np.append(100.0, close[:-1])
    wick = scale * np.abs(rng.normal(0.4, 0.2, bars))
    log_volume = 1.2 * log_volatility + make_persistent(rng, bars, day / 8, 0.6) + 0.5 * rng.normal(0, 1, bars)
    volume = np.exp(log_volume + 0.5 * np.abs(shocks))
    bought = volume * np.clip(0.5 + 0.12 * shocks + 0.1 * rng.normal(0, 1, bars), 0.02, 0.98)
    frame = pl.DataFrame(
        {
            "ts": pl.Series(ts_ms).cast(TS_DTYPE),
            "open": before,
            "high": np.maximum(before, close) * np.exp(wick),
            "low": np.minimum(before, close) * np.exp(-wick),
            "close": close,
            "volume": volume,
            "quote_volume": volume * close,
            "trades": (volume * 10).astype(np.int64),
            "taker_buy_base": bought,
            "taker_buy_quote": bought * close,
        }
    )
    return InputMarket(frame, step_ms, returns, 2 * bought - volume, log_volatility, season, seed)


MINUTES = (9_000, "5m")
HOURS = (5_000, "1h")
DAYS = (700, "1d")


# What a period contains.
def sums(values, first, stop):
    total = np.concatenate([[0.0], np.cumsum(values)])
    return total[np.clip(stop, 0, values.size)] - total[np.clip(first, 0, values.size)]


def returns(market, first, stop):
    return sums(market.returns, first, stop)


def flow(market, first, stop):
    return sums(market.flow, first, stop)


def volume(market, first, stop):
    return sums(market.array("volume"), first, stop)


def volatility(market, first, stop):
    return np.sqrt(sums(market.returns**2, first, stop))


def price(market, first, stop):  # noqa: ARG001 (as the others)
    return market.array("close")[stop - 1]


def count_trades(market, first, stop):
    return sums(market.array("trades").astype(float), first, stop)


def per(period_ms, what, *, early_ms=0, noise=0.0):
    """Return what makes an input of one value per period, known at its end or `early_ms` before."""

    def make(market):
        bars = period_ms // market.step_ms
        first = np.arange(market.ts_ms.size // bars) * bars
        values = what(market, first, first + bars)
        values = values + noise * values.std() * market.rng.normal(size=values.size)
        return market.ts_ms[first] + period_ms - early_ms, values

    return make


def at_each_close(what):
    """Return what makes an input of a value at each close."""
    return lambda market: (market.close_ms, np.asarray(what(market), np.float64))


def around(what, before, after):
    """Return the value over bars from `before` bars back to `after` bars ahead."""

    def make(market):
        row = np.arange(market.ts_ms.size)
        return what(market, row - before, row + after + 1)

    return at_each_close(make)


def lead(make, rows=1):
    """Move the values of an input to the times of earlier ones."""

    def moved(market):
        known_ms, values = make(market)
        return known_ms[:-rows], values[rows:]

    return moved


def read_as(zone, make, *, stated="UTC"):
    """Return an input whose times, in `zone`, were read as those of the zone `stated`."""

    def read(market):
        known_ms, values = make(market)
        local = pl.Series(known_ms).cast(TS_DTYPE).dt.convert_time_zone(zone).dt.replace_time_zone(None)
        utc = local.dt.replace_time_zone(stated, ambiguous="latest", non_existent="null").dt.convert_time_zone("UTC")
        there = utc.is_not_null().to_numpy()
        return utc.drop_nulls().dt.timestamp("ms").to_numpy(), values[there]

    return read


def revised(market):
    """An eight-hour flow, known at its end, whose stored value was corrected with the flow of the next hours."""
    bars = 8 * HOUR_MS // market.step_ms
    first = np.arange(market.ts_ms.size // bars - 1) * bars
    return market.ts_ms[first + bars], flow(market, first, first + bars) + flow(market, first + bars, first + 2 * bars)


def funding_rate(market):
    """A rate every eight hours: the mean premium of the hours before, which follows the price, and noise."""
    known_ms, moves = per(8 * HOUR_MS, returns)(market)
    return known_ms, 1e-4 + 1e-2 * moves + 1e-2 * moves.std() * market.rng.normal(size=moves.size)


def open_interest(market):
    """Open interest per hour: it grows with the takers' purchases, and wanders."""
    known_ms, bought = per(HOUR_MS, flow)(market)
    return known_ms, 1e6 + np.cumsum(bought / bought.std() + 0.5 * market.rng.normal(size=bought.size))


def label(horizon):
    def make(market):
        ahead = np.append(market.returns, np.zeros(horizon))
        return (sums(ahead, np.arange(market.returns.size) + 1, np.arange(market.returns.size) + 1 + horizon) > 0) * 1.0

    return at_each_close(make)


# Planted leaks in the data: (market, what makes the input).
LEAKS = {
    "daily return at the day's start": (MINUTES, per(DAY_MS, returns, early_ms=DAY_MS)),
    "daily volume at the day's start": (MINUTES, per(DAY_MS, volume, early_ms=DAY_MS)),
    "daily volatility at the day's start": (HOURS, per(DAY_MS, volatility, early_ms=DAY_MS)),
    "daily close at the day's start": (HOURS, per(DAY_MS, price, early_ms=DAY_MS)),
    "daily flow of daily candles, a bar early": (DAYS, per(DAY_MS, flow, early_ms=DAY_MS)),
    "weekly return at the week's start": (DAYS, per(WEEK_MS, returns, early_ms=WEEK_MS)),
    "weekly volume at the week's start": (DAYS, per(WEEK_MS, volume, early_ms=WEEK_MS)),
    "hourly return at the hour's start": (MINUTES, per(HOUR_MS, returns, early_ms=HOUR_MS)),
    "hourly trades at the hour's start": (MINUTES, per(HOUR_MS, count_trades, early_ms=HOUR_MS)),
    "hourly return one bar early": (MINUTES, per(HOUR_MS, returns, early_ms=5 * MINUTE_MS)),
    "hourly flow one bar early": (HOURS, per(HOUR_MS, flow, early_ms=HOUR_MS)),
    "price of another feed one bar early": (MINUTES, lead(at_each_close(lambda m: m.array("close")))),
    "New York's time read as UTC": (MINUTES, read_as("America/New_York", per(HOUR_MS, flow))),
    "UTC read as Tokyo's time": (MINUTES, read_as("UTC", per(HOUR_MS, volume), stated="Asia/Tokyo")),
    "UTC read as India's time": (MINUTES, read_as("UTC", per(HOUR_MS, returns), stated="Asia/Kolkata")),
    "UTC read as Berlin's time": (MINUTES, read_as("UTC", per(HOUR_MS, volatility), stated="Europe/Berlin")),
    "revised values": (HOURS, revised),
    "return in a centred window": (MINUTES, around(returns, 12, 12)),
    "the label": (MINUTES, label(12)),
    "next return": (HOURS, around(returns, -1, 1)),
    "next volume": (MINUTES, around(volume, -1, 1)),
    "next funding rate": (HOURS, lead(funding_rate)),
    "next open interest": (MINUTES, lead(open_interest)),
    "eight-hour return at its start, half noise": (HOURS, per(8 * HOUR_MS, returns, early_ms=8 * HOUR_MS, noise=1.0)),
}


# Wrong joins.
def _per_symbol(function):
    """Return a join that takes the values of each input for one symbol at a time from a function."""

    def join(feature_set, candles, inputs):
        step_ms = interval_ms(feature_set.interval)
        return {
            symbol: frame.with_columns(
                pl.Series(
                    spec.name,
                    function(inputs[spec.name].of(symbol), times_ms(frame) + step_ms, spec.max_age_ms),
                    dtype=pl.Float64,
                    nan_to_null=True,
                )
                for spec in feature_set.inputs
            )
            for symbol, frame in candles.items()
        }

    return join


def _take(known, rows):
    values = np.full(rows.size, np.nan)
    inside = (rows >= 0) & (rows < known.values.size)
    values[inside] = known.values[rows[inside]]
    return values


def _nearest(known, close_ms, _):
    if not known.known_ms.size:
        return np.full(close_ms.size, np.nan)
    after = np.searchsorted(known.known_ms, close_ms).clip(1, known.known_ms.size - 1)
    is_before = close_ms - known.known_ms[after - 1] <= known.known_ms[after] - close_ms
    return _take(known, after - is_before)


def _interpolated(known, close_ms, _):
    return np.interp(close_ms, known.known_ms, known.values) if known.values.size else np.full(close_ms.size, np.nan)


def _normalised(known, close_ms, max_age_ms):
    values = (known.values - known.values.mean()) / known.values.std() if known.values.size > 1 else known.values
    return take_known_values(KnownValues(known.known_ms, values), close_ms, max_age_ms=max_age_ms)


def _smoothed(known, close_ms, max_age_ms):
    values = np.convolve(known.values, np.ones(3) / 3, "same") if known.values.size > 2 else known.values
    return take_known_values(KnownValues(known.known_ms, values), close_ms, max_age_ms=max_age_ms)


def _filled_backwards(known, close_ms, max_age_ms):
    values = take_known_values(known, close_ms, max_age_ms=max_age_ms)
    return pl.Series(values).fill_nan(None).fill_null(strategy="backward").fill_null(np.nan).to_numpy()


def _of_the_first_symbol(feature_set, candles, inputs):
    first = {n: t if t.for_all else InputTable(for_all=t.of(min(t.by_symbol))) for n, t in inputs.items()}
    return join_inputs(feature_set, candles, first)


def _of_any_symbol(feature_set, candles, inputs):
    """The newest value of any symbol, where a symbol's is older."""

    def merge(table):
        known_ms = np.concatenate([known.known_ms for known in table.by_symbol.values()])
        values = np.concatenate([known.values for known in table.by_symbol.values()])
        times, first = np.unique(known_ms, return_index=True)
        return InputTable(for_all=KnownValues(times, values[first]))

    return join_inputs(feature_set, candles, {n: t if t.for_all else merge(t) for n, t in inputs.items()})


def _shifted(bars):
    def take(known, close_ms, max_age_ms):
        step_ms = int(np.diff(close_ms).min()) if close_ms.size > 1 else MINUTE_MS
        return take_known_values(known, close_ms + bars * step_ms, max_age_ms=max_age_ms)

    return _per_symbol(take)


JOINS = {
    "nearest row": _per_symbol(_nearest),
    "next row": _per_symbol(
        lambda known, close_ms, _: _take(known, np.searchsorted(known.known_ms, close_ms, "right"))
    ),
    "next row in time": _per_symbol(lambda known, close_ms, _: _take(known, np.searchsorted(known.known_ms, close_ms))),
    "close of the next bar": _shifted(1),
    "open instead of close": _shifted(-1),
    "never too old": _per_symbol(lambda known, close_ms, _: take_known_values(known, close_ms, max_age_ms=2**60)),
    "filled backwards": _per_symbol(_filled_backwards),
    "interpolated": _per_symbol(_interpolated),
    "normalised by the whole sample": _per_symbol(_normalised),
    "smoothed over three rows": _per_symbol(_smoothed),
    "values of the first symbol": _of_the_first_symbol,
    "values of any symbol": _of_any_symbol,
}


# Honest inputs: (market, what makes the input).
def predictive(correlation):
    """An input of which the next bar's return knows something."""

    def make(market):
        shocks = market.returns / np.exp(market.log_volatility)
        ahead = np.append(shocks[1:], 0.0) / shocks.std()
        return correlation * ahead + np.sqrt(1 - correlation**2) * market.rng.normal(size=ahead.size)

    return at_each_close(make)


def every(period_ms, what):
    """Return what makes an input of the value that a series per bar has at the end of each period."""

    def make(market):
        bars = period_ms // market.step_ms
        return market.close_ms[bars - 1 :: bars], np.asarray(what(market), np.float64)[bars - 1 :: bars]

    return make


def wander(market):
    return np.cumsum(market.rng.normal(size=market.returns.size))


def persist(half_life):
    return lambda market: make_persistent(market.rng, market.returns.size, half_life)


def smooth(values, span):
    return lfilter([1 / span], [1, 1 / span - 1], values)


def _with_noise(market, values):
    return values + values.std() * market.rng.normal(size=values.size)


_EIGHT_HOURS = 8 * HOUR_MS
HONEST = {
    "noise per bar": (MINUTES, at_each_close(lambda m: m.rng.normal(size=m.returns.size))),
    "noise per hour": (HOURS, every(HOUR_MS, lambda m: m.rng.normal(size=m.returns.size))),
    "return of the hour": (MINUTES, per(HOUR_MS, returns)),
    "return of the day": (HOURS, per(DAY_MS, returns)),
    "return of the day, daily candles": (DAYS, per(DAY_MS, returns)),
    "return of the week": (DAYS, per(WEEK_MS, returns)),
    "return of the hour, ten minutes late": (MINUTES, per(HOUR_MS, returns, early_ms=-10 * MINUTE_MS)),
    "volatility of the hour": (MINUTES, per(HOUR_MS, volatility)),
    "volatility of the day": (HOURS, per(DAY_MS, volatility)),
    "volatility, exponentially smoothed": (MINUTES, at_each_close(lambda m: np.sqrt(smooth(m.returns**2, 100)))),
    "the market's true volatility": (MINUTES, at_each_close(lambda m: m.log_volatility)),
    "the true volatility per hour": (HOURS, every(HOUR_MS, lambda m: m.log_volatility)),
    "the true volatility per day": (DAYS, every(DAY_MS, lambda m: m.log_volatility)),
    "implied volatility": (HOURS, every(DAY_MS, lambda m: _with_noise(m, smooth(m.log_volatility, 100)))),
    "volume of the hour": (MINUTES, per(HOUR_MS, volume)),
    "volume of eight hours": (HOURS, per(_EIGHT_HOURS, volume)),
    "volume of the day": (DAYS, per(DAY_MS, volume)),
    "flow of the hour": (MINUTES, per(HOUR_MS, flow)),
    "flow of the day": (HOURS, per(DAY_MS, flow)),
    "funding after the price": (HOURS, funding_rate),
    "persistent funding": (HOURS, every(_EIGHT_HOURS, persist(200))),
    "persistent funding of five-minute candles": (MINUTES, every(_EIGHT_HOURS, persist(600))),
    "open interest": (MINUTES, open_interest),
    "open interest of hourly candles": (HOURS, open_interest),
    "slow macro series": (HOURS, every(WEEK_MS, persist(3_000))),
    "monthly macro series": (DAYS, every(30 * DAY_MS, persist(300))),
    "predictive, 0.02": (MINUTES, predictive(0.02)),
    "predictive, 0.05": (HOURS, predictive(0.05)),
    "predictive, 0.1": (MINUTES, predictive(0.1)),
    "predictive, 0.1, hourly candles": (HOURS, predictive(0.1)),
    "predictive, 0.1, daily candles": (DAYS, predictive(0.1)),
    "season of the day": (MINUTES, at_each_close(lambda m: m.season)),
    "season of the coming hours": (HOURS, at_each_close(lambda m: np.roll(m.season, -3))),
    "day of the week": (HOURS, at_each_close(lambda m: m.ts_ms // DAY_MS % 7)),
    "nearly constant": (HOURS, every(HOUR_MS, lambda m: np.round(persist(200)(m)))),
    "constant": (MINUTES, at_each_close(lambda m: np.ones(m.returns.size))),
    "sparse events": (MINUTES, at_each_close(lambda m: m.rng.random(m.returns.size) < 0.002)),
    "events per hour": (HOURS, every(HOUR_MS, lambda m: m.rng.random(m.returns.size) < 0.02)),
    "random walk": (MINUTES, at_each_close(wander)),
    "random walk per hour": (MINUTES, every(HOUR_MS, wander)),
    "random walk per day": (HOURS, every(DAY_MS, wander)),
    "random walk of daily candles": (DAYS, every(DAY_MS, wander)),
    "price level": (MINUTES, at_each_close(lambda m: m.array("close"))),
    "price per hour": (MINUTES, per(HOUR_MS, price)),
    "price per day": (HOURS, per(DAY_MS, price)),
    "random walk around the price": (HOURS, every(HOUR_MS, lambda m: np.log(m.array("close")) + 0.01 * persist(50)(m))),
    "moving average of returns": (MINUTES, at_each_close(lambda m: smooth(m.returns, 30))),
    "trades of the hour": (MINUTES, per(HOUR_MS, count_trades)),
    "news after large moves": (
        HOURS,
        at_each_close(lambda m: np.abs(m.returns) > np.quantile(np.abs(m.returns), 0.99)),
    ),
    "drawdown": (HOURS, at_each_close(lambda m: m.array("close") / np.maximum.accumulate(m.array("close")))),
}


def as_known(times, values):
    """Return values known since some times, ms UTC; of several at one time, the first."""
    times, first = np.unique(np.asarray(times, np.int64), return_index=True)
    return KnownValues(times, np.asarray(values, np.float64)[first])
