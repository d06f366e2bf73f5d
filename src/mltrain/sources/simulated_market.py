"""The source `sim`: a simulated market whose true probabilities are known, for the demo and for tests.

Deterministic: a day of a symbol is a pure function of seed, symbol, interval and signal, drawn from counter-based
random numbers, so that every request for a time range returns the same candles. With 3d and 1w candles, a "day" is one
candle, as long as it lasts. The model, per candle, for a
standardised move z and an independent standard normal e:

    z[t] = 0                                        in a tie, which happens by chance and does not depend on the past
    z[t] = e                                        after a tie
    z[t] = -k * v[t-1] * z[t-1] + sqrt(1 - (k * v[t-1])²) * e    otherwise
    log(close[t] / close[t-1]) = scale[t] * z[t]

`k` is the strength of the signal. `v`, its direction, depends on the time of day alone: +1 (the next move tends to
reverse this one) in the first seven minutes of each quarter-hour, 0 in the eighth, and -1 (it tends to continue) in
the last seven. Other candles divide the quarter-hour in the same way: first half +1, a candle in the middle 0, second
half -1. From 15m on, the UTC day is divided instead; a daily or longer candle is all of it, so 1d, 3d and 1w have no
signal.

Over each such period v sums to zero: the last move, persistence and its opposite predict nothing; the predictor of the
next move is the product of the last move and v. A linear model can use only the move before the last, because v is
mostly the same twice in a row: a correlation of about 0.7 * k² (0.08 where the signal is strong), which gives an
accuracy of 52.7 %.

A move's variance is 1 in all three cases, and P(close[t+1] > close[t] | it moved) is exactly
Φ(-k * v[t] * z[t] / sqrt(1 - (k * v[t])²)). `scale` follows the hour, the day and slow swings. Volume, trades and
taker columns follow `scale` and chance alone: they do not predict the next direction.
Every UTC week has one outage, of all symbols at once, whose candles are missing.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE
from mltrain.candles.funding import check_funding
from mltrain.errors import UsageError
from mltrain.names import did_you_mean, show
from mltrain.sources.markets import MARKETS, SPOT, USDM
from mltrain.sources.source import FundingDownload, LocalSource, SymbolFunding, check_known
from mltrain.sources.source_spec import SIGNALS
from mltrain.times import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    WEEK_MS,
    TimeRange,
    ceil_to_grid,
    floor_to_grid,
    format_ms,
    grid_offset_ms,
    interval_ms,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

# A time in ms UTC, or an array of them.
_Times = TypeVar("_Times", int, "NDArray[np.int64]")

# 2024-01-01T00:00:00Z, the first candle of intervals from 1m to below 1h; the price of all but 1s starts there.
GENESIS_MS: Final = 1_704_067_200_000
# 2025-10-01T00:00:00Z, the first candle of 1s: a price path costs time from its beginning.
SHORT_GENESIS_MS: Final = 1_759_276_800_000
# 2014-01-06T00:00:00Z, a Monday, the first candle of 1h and longer intervals: ten years of 1d before CLOCK_MS.
LONG_GENESIS_MS: Final = 1_388_966_400_000
# 2025-10-15T12:00:00Z, the time unless one is given.
CLOCK_MS: Final = 1_760_529_600_000
# 2035-01-01T00:00:00Z: a price path costs time from its beginning.
LAST_CLOCK_MS: Final = 2_051_222_400_000

#: k of each signal. On 1m candles the best possible accuracy is 1/2 + asin(k)/π * 14/15 * (1 - TIE_SHARE), which is
#: 60.1 % (strong) and 51.4 % (weak): there is no signal in one minute of fifteen, nor after a tie.
STRENGTH: Final[Mapping[str, float]] = {"none": 0.0, "weak": 0.05, "strong": 0.35}

_QUARTER_MS: Final = 15 * MINUTE_MS

# 5.3 % of BTCUSDT's real minutes close where they opened.
TIE_SHARE: Final = 0.045
# Share of the ties without any trade.
_FLAT_SHARE: Final = 0.08

# First price, standard deviation of a one-minute log return, quote volume of a minute.
_MARKETS: Final[Mapping[str, tuple[float, float, float]]] = {
    "BTCUSDT": (60_000.0, 4.5e-4, 1_500_000.0),
    "ETHUSDT": (2_500.0, 6.0e-4, 900_000.0),
    "SOLUSDT": (150.0, 8.0e-4, 300_000.0),
} | {f"SIM{n:02d}": (100.0, 6.0e-4, 100_000.0) for n in range(1, 98)}

# Streams of random numbers of a day of one market.
_MOVE_STREAM, _VOLATILITY_STREAM, _TRADE_STREAM = range(3)
# 0.35 ** 64 is 1e-29, far below the last bit of a float, so that a candle depends on 64 earlier ones only.
_MEMORY_BARS: Final = 64
# Days whose prices are computed together; a day of 1s candles costs sixty times as much.
_CHUNK_DAYS: Final = 64
_CHUNK_DAYS_1S: Final = 4
_OUTAGE_MINUTES: Final = (15, 60)
_FUNDING_PER_DAY: Final = 3
# Rate of most events: the interest rate that the real exchange assumes.
_USUAL_FUNDING: Final = 1e-4
_USUAL_FUNDING_SHARE: Final = 0.6
_MAX_FUNDING_DELAY_MS: Final = 12
# Of prices and volumes, as from exchanges.
_DECIMALS: Final = 8


def first_open_ms(interval: str) -> int:
    """Return the open time of the market's first candle of an interval, ms UTC."""
    step_ms = interval_ms(interval)
    if step_ms < HOUR_MS:
        return GENESIS_MS if step_ms >= MINUTE_MS else SHORT_GENESIS_MS
    return ceil_to_grid(LONG_GENESIS_MS, step_ms)


@dataclass(frozen=True, slots=True)
class SimSource(LocalSource):
    """The simulated market as a Source.

    Attributes:
        interval: Interval of its candles. Intervals are separate markets: five 1m candles do not add up to a 5m one.
        seed: Seed of the market.
        signal: How predictable the market is: a key of STRENGTH.
        end_ms: Time of its clock, ms UTC; None: CLOCK_MS.
        market: "spot" or "usdm": their prices have nothing in common.
    """

    interval: str = "1m"
    seed: int = 0
    signal: str = "none"
    end_ms: int | None = None
    market: str = SPOT

    def __post_init__(self) -> None:
        """Raise UsageError for a clock outside the exchange's life, or an unknown interval or signal."""
        interval_ms(self.interval)
        if self.signal not in SIGNALS:
            raise UsageError(f"signal {show(self.signal)} is unknown", hint=did_you_mean(self.signal, SIGNALS))
        if self.market not in MARKETS:
            raise UsageError(f"market {show(self.market)} is unknown", hint=did_you_mean(self.market, tuple(MARKETS)))
        first_ms = first_open_ms(self.interval)
        if not first_ms < self.clock_ms() <= LAST_CLOCK_MS:
            raise UsageError(
                f"{format_ms(self.clock_ms())} is outside the life of the simulated exchange",
                hint=f"pass an end between {format_ms(first_ms)} and {format_ms(LAST_CLOCK_MS)}",
            )

    @property
    def name(self) -> str:
        """Name of this kind of source: "sim"."""
        return "sim"

    @property
    def host(self) -> str:
        """Empty: no network is used."""
        return ""

    def clock_ms(self, symbols: tuple[str, ...] = ()) -> int:  # noqa: ARG002 -- one clock for all symbols
        """Return the exchange's time, ms UTC."""
        return CLOCK_MS if self.end_ms is None else self.end_ms

    def renew_clock(self) -> None:
        """Do nothing: this clock does not run, unlike that of `mltrain sim --ticking`."""

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol, sorted."""
        return tuple(sorted(_MARKETS))

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that each symbol is known; InputError if one is not."""
        check_known(symbols, self.symbols(), "the simulated exchange")

    def extent(self, symbol: str) -> TimeRange:
        """Return the range of open times of a symbol's closed candles; InputError if the symbol is unknown."""
        market = self._market(symbol)
        return TimeRange(first_open_ms(self.interval), floor_to_grid(self.clock_ms(), market.step_ms))

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside the window; InputError if the symbol is unknown."""
        market, extent = self._market(symbol), self.extent(symbol)
        start_ms, end_ms = max(window.start_ms, extent.start_ms), min(window.end_ms, extent.end_ms)
        if start_ms >= end_ms:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        numbers = range(market.day_of(start_ms), market.day_of(end_ms - 1) + 1)
        days = [_candles_of_day(market, day) for day in numbers]
        ts_ms = np.concatenate([columns["ts"] for columns in days])
        keep = (ts_ms >= start_ms) & (ts_ms < end_ms) & ~_is_in_outage(self.seed, ts_ms, market.step_ms)
        columns = {name: np.concatenate([day[name] for day in days])[keep] for name in CANDLE_SCHEMA}
        return pl.DataFrame(columns).with_columns(pl.col("ts").cast(TS_DTYPE))

    def funding(self, symbols: tuple[str, ...], window: TimeRange) -> FundingDownload | None:
        """Return the funding events of each symbol in a window, before the clock; None for the spot market.

        There is one every 8 hours, up to 12 ms after the hour, at the price of the last candle before it. The rates do
        not depend on the interval and tell nothing about prices: 0.01 % in most cases, as on the real market, otherwise
        around it with a standard deviation of 0.01 %.
        """
        if self.market != USDM:
            return None
        return FundingDownload({symbol: SymbolFunding(self.funding_of(symbol, window)) for symbol in symbols})

    def funding_of(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the funding events of a symbol in a window, as `check_funding` returns them."""
        market = self._market(symbol)
        start_ms = max(window.start_ms, first_open_ms(self.interval))
        end_ms = min(window.end_ms, self.clock_ms())
        days = range(start_ms // DAY_MS, -(-end_ms // DAY_MS))
        drawn = [_funding_of_day(market.seed, symbol, day) for day in days]
        ts_ms = np.concatenate([np.empty(0, np.int64), *(times for times, _ in drawn)])
        rates = np.concatenate([np.empty(0), *(of_day for _, of_day in drawn)])
        inside = (ts_ms >= start_ms) & (ts_ms < end_ms)
        events = pl.DataFrame({"ts": ts_ms[inside], "rate": rates[inside]})
        events = events.with_columns(pl.col("ts").cast(TS_DTYPE).set_sorted())
        # A day and a candle earlier: the last candle before an event may be older than it in an outage.
        candles = self.candles(symbol, TimeRange(start_ms - DAY_MS - market.step_ms, max(end_ms, start_ms)))
        closes = candles.select((pl.col("ts") + pl.duration(milliseconds=market.step_ms)).alias("ts"), "close")
        marked = events.join_asof(closes, on="ts").rename({"close": "mark_price"})
        return check_funding(marked, symbol=symbol, where="the simulated exchange")

    def notes(self) -> tuple[str, ...]:
        """Return nothing: nothing is dropped or left out."""
        return ()

    def true_probabilities(self, symbol: str, ts_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the true P(close[t+1] > close[t] | it moved), given all candles up to the one that opens at t.

        Args:
            symbol: One of `symbols()`.
            ts_ms: Open times on the grid, ms UTC, from GENESIS_MS on, shape (n,), in any order; may include outages.

        Returns:
            Probabilities in [0, 1], shape (n,).
        """
        market = self._market(symbol)
        reversion = market.reversion()
        # Φ(slope * z), as in the module's docstring.
        slope = -reversion / np.sqrt(1 - reversion**2)
        x = np.empty(ts_ms.size)
        days = market.day_of(ts_ms)
        for day in np.unique(days).tolist():
            rows = days == day
            x[rows] = (slope * _moves(market, day))[(ts_ms[rows] - market.day_start_ms(day)) // market.step_ms]
        return _normal_cdf(x)

    def _market(self, symbol: str) -> _Market:
        """Return what determines the candles of a symbol; InputError if the symbol is unknown."""
        self.check_symbols((symbol,))
        return _Market(
            symbol=symbol,
            seed=self.seed,
            step_ms=interval_ms(self.interval),
            strength=STRENGTH[self.signal],
            kind=self.market,
        )


@dataclass(frozen=True, slots=True)
class _Market:
    """What determines the candles of a day: symbol, seed, candle length, strength k in [0, 1), "spot" or "usdm"."""

    symbol: str
    seed: int
    step_ms: int
    strength: float
    kind: str = SPOT

    @property
    def key(self) -> str:
        """The text that its random numbers are drawn from; without the market for spot, which came first."""
        key = f"{self.seed}/{self.symbol}/{self.step_ms}"
        return key if self.kind == SPOT else f"{self.kind}/{key}"

    @property
    def day_ms(self) -> int:
        """Length of a day, or of one candle if that is longer, in ms."""
        return max(DAY_MS, self.step_ms)

    @property
    def bars(self) -> int:
        """Number of candles in a day."""
        return self.day_ms // self.step_ms

    @property
    def chunk_days(self) -> int:
        """Number of days whose prices are computed together."""
        return _CHUNK_DAYS if self.step_ms >= MINUTE_MS else _CHUNK_DAYS_1S

    def day_of(self, ts_ms: _Times) -> _Times:
        """Return the number of the day (since 1970) that contains each time, ms UTC, a number or an array."""
        return (ts_ms - grid_offset_ms(self.day_ms)) // self.day_ms

    def day_start_ms(self, day: int) -> int:
        """Return the time at which a day (number since 1970) begins, ms UTC."""
        return day * self.day_ms + grid_offset_ms(self.day_ms)

    def reversion(self) -> NDArray[np.float64]:
        """Return how strongly each move of a day tends to be reversed by the next (< 0: repeated), shape (bars,)."""
        period = _QUARTER_MS // self.step_ms if self.step_ms < _QUARTER_MS else self.bars
        return self.strength * np.sign(period - 1 - 2 * (np.arange(self.bars) % period))


@lru_cache(maxsize=256)
def _philox_key(text: str) -> NDArray[np.uint64]:
    """Return a hash of a text as key of a random generator, shape (2,)."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u8")


def _generator(key: str, stream: int, number: int) -> np.random.Generator:
    """Return the random generator of one day or week, by its number since 1970; no two share any random number."""
    return np.random.Generator(np.random.Philox(key=_philox_key(key), counter=[0, stream, number, 0]))


def _day_generator(market: _Market, stream: int, day: int) -> np.random.Generator:
    """Return the random generator of one of the streams of a day (days since 1970)."""
    return _generator(market.key, stream, day)


@lru_cache(maxsize=256)
def _shocks(market: _Market, day: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the normal shocks of a day (days since 1970), and whether each candle is a tie, each of shape (bars,)."""
    generator = _day_generator(market, _MOVE_STREAM, day)
    return generator.standard_normal(market.bars), generator.random(market.bars) < TIE_SHARE


def _moves(market: _Market, day: int) -> NDArray[np.float64]:
    """Return the log return of each candle of a day (days since 1970), in standard deviations, shape (bars,).

    A tie is 0; any other depends on the move before it, and through it on up to _MEMORY_BARS earlier candles.
    """
    past_days = -(-_MEMORY_BARS // market.bars)
    shocks = [_shocks(market, d) for d in range(day - past_days, day + 1)]
    bars = _MEMORY_BARS + market.bars
    moved = ~np.concatenate([tie for _, tie in shocks])[-bars:]
    before = np.arange(-_MEMORY_BARS - 1, market.bars - 1)
    # z[t] = a[t] * z[t-1] + sqrt(1 - a[t]²) * e[t], as in the module's docstring.
    a = -market.reversion()[before % market.bars] * moved
    # No signal after a tie.
    a[1:] *= moved[:-1]
    z: NDArray[np.float64] = np.sqrt(1 - a**2) * np.concatenate([e for e, _ in shocks])[-bars:] * moved
    # The recursion z[t] += a[t] * z[t-1], all candles at once: after the pass of span s each knows its last 2s shocks.
    span = 1
    while span < _MEMORY_BARS:
        z[span:] = z[span:] + a[span:] * z[:-span]
        a[span:] = a[span:] * a[:-span]
        span *= 2
    return z[_MEMORY_BARS:]


@lru_cache(maxsize=256)
def _log_volatility(market: _Market, day: int) -> tuple[float, NDArray[np.float64]]:
    """Return the random log volatility at the start of a day (days since 1970), and of its hours, shape (24,)."""
    generator = _day_generator(market, _VOLATILITY_STREAM, day)
    return 0.35 * generator.standard_normal(), 0.2 * generator.standard_normal(24)


def _scale(market: _Market, day: int) -> NDArray[np.float64]:
    """Return the standard deviation of each candle's log return in a day (days since 1970), shape (bars,)."""
    (level, hours), (next_level, next_hours) = _log_volatility(market, day), _log_volatility(market, day + 1)
    day_share = np.arange(market.bars) / market.bars
    hour = day_share * 24
    h = hour.astype(np.int64)
    knots = np.append(hours, next_hours[0])
    # Interpolated linearly, from midnight to midnight and from hour to hour.
    swing = level + (next_level - level) * day_share + knots[h] + (knots[h + 1] - knots[h]) * (hour - h)
    # Busiest in the American morning.
    season = 0.25 * np.cos(2 * np.pi * (hour - 15) / 24)
    scale: NDArray[np.float64] = np.exp(swing + season)
    return _MARKETS[market.symbol][1] * math.sqrt(market.step_ms / MINUTE_MS) * scale


def _log_prices(market: _Market, day: int, start: float) -> NDArray[np.float64]:
    """Return the log prices of a day (days since 1970): `start`, then that of each close, shape (bars + 1,)."""
    path = np.zeros(market.bars + 1)
    np.cumsum(_scale(market, day) * _moves(market, day), out=path[1:])
    return start + path


def _genesis_day(market: _Market) -> int:
    """Return the first day (number since 1970) of chunk 0, at whose beginning the first price of a market holds."""
    genesis_ms = GENESIS_MS if market.step_ms >= MINUTE_MS else SHORT_GENESIS_MS
    return market.day_of(ceil_to_grid(genesis_ms, market.day_ms))


@lru_cache(maxsize=4096)
def _midnight_log_prices(market: _Market, chunk: int) -> tuple[float, ...]:
    """Return the log price at each of the midnights of a chunk of days, and at the one after.

    Chunk 0 begins at the first price; those before it, down to LONG_GENESIS_MS, have negative numbers.
    """
    start = _midnight_log_prices(market, chunk - 1)[-1] if chunk > 0 else math.log(_MARKETS[market.symbol][0])
    first_day = _genesis_day(market) + chunk * market.chunk_days
    log_prices = [start]
    for day in range(first_day, first_day + market.chunk_days):
        log_prices.append(float(_log_prices(market, day, log_prices[-1])[-1]))
    if chunk < 0:
        # Moved, so that the path ends where the next chunk begins.
        end = _midnight_log_prices(market, chunk + 1)[0]
        log_prices = [*(price + end - log_prices[-1] for price in log_prices[:-1]), end]
    return tuple(log_prices)


def _candles_of_day(market: _Market, day: int) -> dict[str, NDArray[np.float64] | NDArray[np.int64]]:
    """Return the columns of CANDLE_SCHEMA for all candles of a day (days since 1970), those in outages included."""
    bars = market.bars
    chunk, day_of_chunk = divmod(day - _genesis_day(market), market.chunk_days)
    start, end = _midnight_log_prices(market, chunk)[day_of_chunk : day_of_chunk + 2]
    log_prices = _log_prices(market, day, start)
    # The same number as the next day begins with, also where a chunk's path was moved.
    log_prices[-1] = end
    prices = np.exp(log_prices).round(_DECIMALS)
    scale, ties = _scale(market, day), _shocks(market, day)[1]
    generator = _day_generator(market, _TRADE_STREAM, day)
    noise = generator.standard_normal((5, bars))
    traded = ~(ties & (generator.random(bars) < _FLAT_SHARE))

    open_, close = prices[:-1], prices[1:]
    wicks = np.exp(0.35 * scale * np.abs(noise[:2]) * traded)
    high = (np.maximum(open_, close) * wicks[0]).round(_DECIMALS)
    low = (np.minimum(open_, close) / wicks[1]).round(_DECIMALS)
    _, sigma, turnover = _MARKETS[market.symbol]
    mean_turnover = turnover * market.step_ms / MINUTE_MS * (scale / sigma) * traded
    volume = (mean_turnover / open_ * np.exp(0.5 * noise[2])).round(_DECIMALS)
    taker_buy = (volume * np.clip(0.5 + 0.12 * noise[3], 0.02, 0.98)).round(_DECIMALS)
    mean_price = (open_ + high + low + close) / 4
    return {
        "ts": market.day_start_ms(day) + np.arange(bars) * market.step_ms,
        "open": open_,
        "high": high,
        "low": low,
        "close": close,
        "volume": volume,
        "quote_volume": (volume * mean_price).round(_DECIMALS),
        "trades": np.ceil(mean_turnover / 1_500 * np.exp(0.3 * noise[4])).astype(np.int64),
        "taker_buy_base": taker_buy,
        "taker_buy_quote": (taker_buy * mean_price).round(_DECIMALS),
    }


@lru_cache(maxsize=4096)
def _funding_of_day(seed: int, symbol: str, day: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return times, ms UTC, and rates of the funding events of a day (days since 1970), each of shape (3,)."""
    generator = _generator(f"{USDM}/{seed}/{symbol}/funding", 0, day)
    late_ms = generator.integers(0, _MAX_FUNDING_DELAY_MS, size=_FUNDING_PER_DAY, endpoint=True)
    is_usual = generator.random(_FUNDING_PER_DAY) < _USUAL_FUNDING_SHARE
    noise = generator.standard_normal(_FUNDING_PER_DAY)
    rates = np.where(is_usual, _USUAL_FUNDING, np.round(_USUAL_FUNDING * (1 + noise), _DECIMALS))
    return day * DAY_MS + np.arange(_FUNDING_PER_DAY) * (DAY_MS // _FUNDING_PER_DAY) + late_ms, rates


@lru_cache(maxsize=1024)
def _outage_ms(seed: int, week: int) -> tuple[int, int]:
    """Return the start and the end, ms UTC, of the one outage of a week, counted in weeks since 1970."""
    shortest, longest = _OUTAGE_MINUTES
    generator = _generator(f"{seed}/outages", 0, week)
    minutes = int(generator.integers(shortest, longest, endpoint=True))
    start = week * 7 * 1440 + int(generator.integers(0, 7 * 1440 - longest))
    return start * MINUTE_MS, (start + minutes) * MINUTE_MS


def _is_in_outage(seed: int, ts_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.bool_]:
    """Return which candles of length `step_ms` are entirely inside an outage; open times in ms UTC, shape (n,)."""
    is_out = np.zeros(ts_ms.size, dtype=np.bool_)
    for week in np.unique(ts_ms // WEEK_MS).tolist():
        start_ms, end_ms = _outage_ms(seed, week)
        is_out |= (ts_ms >= start_ms) & (ts_ms + step_ms <= end_ms)
    return is_out


def _normal_cdf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that a standard normal variable is below each x, shape (n,)."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])
