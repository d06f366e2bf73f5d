"""Ops: from candles to one stationary number per bar, each with its exact lookback.

An op returns a Polars expression over candle columns, and the number of bars (the newest included) that its value
depends on. What every op promises, and a test over all of them checks:

- finite lookback: the value at t is a function of the last `lookback_bars` candles, to the last bit;
- total: behind the warm-up the value is finite for every valid candle, also without volume, trades or any move (the
  value for those cases is stated), so that null means "warm-up or hole" and nothing else;
- no unit of its own: ratios, logarithms of ratios, scores; a rescaled price or volume gives the same value.

Columns named `leader_...` are those of the leader symbol's candle of the same time. Notation: c, o, h, l, v are close,
open, high, low and volume of the newest bar, c[k] is the close k bars earlier, r = ln(c / c[1]), and sums, means,
max and min run over the last `bars` bars.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import polars as pl

from mltrain.features import windows
from mltrain.features.windows import (
    contrast,
    ratio,
    window_correlation,
    window_max,
    window_mean,
    window_min,
    window_ratio,
    window_root_mean_square,
    window_skew,
    window_sum,
    window_zscore,
)

LEADER_PREFIX: Final = "leader_"

MAX_BARS: Final = 1_440  # one day of minutes: what a holed snapshot and a quick restart can still afford

# Returns that differ by less are called equal: a price ratio is rounded to 1e-16, so that the shape of a return
# distribution narrower than this would be the shape of the rounding.
LEAST_RETURN_DEVIATION: Final = 1e-12

# The range of a random walk's extremes is 4 ln 2 times its variance (Parkinson 1980).
PARKINSON: Final = 4 * math.log(2)

MS_PER: Final = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}


@dataclass(frozen=True, slots=True)
class Window:
    """What an op returns.

    Attributes:
        expr: The value at each bar, from candle columns (`expr.meta.root_names()`).
        lookback_bars: Bars that the value depends on, the newest included; 1 or more.
    """

    expr: pl.Expr
    lookback_bars: int


@dataclass(frozen=True, slots=True)
class Limits:
    """The inclusive range of a number that an op takes."""

    minimum: int
    maximum: int


Op: TypeAlias = Callable[..., Window]
Bars: TypeAlias = Annotated[int, Limits(1, MAX_BARS)]
Spread: TypeAlias = Annotated[int, Limits(2, MAX_BARS)]  # for what one value alone does not have
Shape: TypeAlias = Annotated[int, Limits(3, MAX_BARS)]
Lag: TypeAlias = Annotated[int, Limits(0, MAX_BARS)]

OPS: Final[dict[str, Op]] = {}


def op(function: Op) -> Op:
    """Register an op under its function's name."""
    if function.__name__ in OPS:
        raise ValueError(f"two ops are called {function.__name__}")
    OPS[function.__name__] = function
    return function


def ops_sha256() -> str:
    """Return the SHA-256 of the source of all that computes: a model can tell that its features have changed."""
    sources = (Path(__file__), Path(windows.__file__))
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def _returns(*, bars: int = 1, lag: int = 0, leader: bool = False) -> pl.Expr:
    close = pl.col("leader_close" if leader else "close")
    return (close.shift(lag) / close.shift(lag + bars)).log()


def _realised(bars: int) -> pl.Expr:
    return window_root_mean_square(_returns(), bars)


def _log_range() -> pl.Expr:
    return (pl.col("high") / pl.col("low")).log()


def _location(prefix: str = "") -> pl.Expr:
    """Return where the close stands in its own bar: -1 at the low, 1 at the high, 0 in a bar without range."""
    high, low, close = (pl.col(prefix + name) for name in ("high", "low", "close"))
    return ratio((close - low) - (high - close), high - low)


def _imbalance(bars: int, prefix: str = "") -> pl.Expr:
    bought, volume = pl.col(prefix + "taker_buy_base"), pl.col(prefix + "volume")
    return window_ratio(bought - (volume - bought), volume, bars).clip(-1, 1)


def _gap_to_average(paid: pl.Expr, volume: pl.Expr, bars: int) -> pl.Expr:
    """Return ln(c / (sum paid / sum volume)), the average held inside its bars' range; 0 where the volume is 0."""
    close, low, high = pl.col("close"), window_min(pl.col("low"), bars), window_max(pl.col("high"), bars)
    average = window_ratio(paid, volume, bars, empty=math.inf)
    return (close / pl.when(average.is_infinite()).then(close).otherwise(average.clip(low, high))).log()


def _ordered(short: int, long: int) -> None:
    if short >= long:
        raise ValueError(f"short ({short}) must be below long ({long})")


# Returns and their distribution.


@op
def log_return(*, bars: Bars, lag: Lag = 0) -> Window:
    """Return over `bars` bars, that ended `lag` bars ago: ln(c[lag] / c[lag + bars]).

    Unit: natural logarithm of a price ratio; 0.001 is about 10 basis points.
    """
    return Window(_returns(bars=bars, lag=lag), bars + lag + 1)


@op
def scaled_return(*, bars: Bars, window: Bars) -> Window:
    """Return over `bars` bars in units of what the last `window` bars make usual: ln(c / c[bars]) / (s sqrt(bars)).

    Here s = sqrt(mean r^2) over `window`. Unit: deviations. 0 where no bar of the window moved.
    """
    if bars > window:
        raise ValueError(f"bars ({bars}) must not be above window ({window})")
    usual = _realised(window) * math.sqrt(bars)
    return Window(ratio(_returns(bars=bars), usual), window + 1)


@op
def realised_volatility(*, bars: Bars) -> Window:
    """Realised volatility per bar: sqrt(mean r^2).

    Unit: log return per bar. 0 where nothing moved. Source: Andersen, Bollerslev, Diebold and Labys (2003).
    """
    return Window(_realised(bars), bars + 1)


@op
def volatility_ratio(*, short: Bars, long: Spread) -> Window:
    """Volatility now against before: (a - b) / (a + b), a and b the realised volatility over `short` and `long` bars.

    Unit: share, in [-1, 1]. 0 where nothing moved.
    """
    _ordered(short, long)
    return Window(contrast(_realised(short), _realised(long)), long + 1)


@op
def parkinson_volatility(*, bars: Bars) -> Window:
    """Volatility from the bars' ranges: sqrt(mean ln(h / l)^2 / (4 ln 2)).

    Unit: log return per bar. 0 where no bar has a range. Source: Parkinson (1980).
    """
    return Window(window_root_mean_square(_log_range(), bars) / math.sqrt(PARKINSON), bars)


@op
def return_skew(*, bars: Shape) -> Window:
    """Skewness of the last `bars` returns: m3 / m2^(3/2), the population's central moments.

    Unit: none, within sqrt(bars). 0 where the returns are equal. Source: Pebay (2008) for the moments of a window.
    """
    return Window(window_skew(_returns(), bars, least_deviation=LEAST_RETURN_DEVIATION), bars + 1)


@op
def return_autocorrelation(*, bars: Spread) -> Window:
    """Whether moves go on or turn: sum r r[1] / sqrt(sum r^2 sum r[1]^2).

    Unit: correlation about zero, in [-1, 1]; below 0 the price bounces. 0 where nothing moved. Source: Roll (1984).
    """
    return Window(window_correlation(_returns(), _returns(lag=1), bars), bars + 2)


@op
def direction_balance(*, bars: Bars) -> Window:
    """Share of bars that rose less share that fell, by close against the close before.

    Unit: share, in [-1, 1]. 0 where nothing moved.
    """
    close = pl.col("close")
    signs = (close > close.shift(1)).cast(pl.Float64) - (close < close.shift(1)).cast(pl.Float64)
    return Window(window_sum(signs, bars) / bars, bars + 1)


@op
def flat_share(*, bars: Bars) -> Window:
    """Share of bars that closed where the bar before had closed.

    Unit: share, in [0, 1].
    """
    flat = (pl.col("close") == pl.col("close").shift(1)).cast(pl.Float64)
    return Window(window_sum(flat, bars) / bars, bars + 1)


@op
def rsi(*, bars: Bars) -> Window:
    """Relative strength: sum of rises / (sum of rises + sum of falls), of closes.

    Unit: share, in [0, 1] (the usual index is 100 times it). 0.5 where nothing moved. Source: Wilder (1978), with
    Cutler's plain sums in place of Wilder's smoothing, which never forgets.
    """
    moves = pl.col("close") - pl.col("close").shift(1)
    return Window(window_ratio(moves.clip(lower_bound=0), moves.abs(), bars, empty=0.5), bars + 1)


# The price against its recent past.


@op
def gap_to_mean(*, bars: Spread) -> Window:
    """How far the close is above its moving average: ln(c / mean c).

    Unit: log return.
    """
    return Window((pl.col("close") / window_mean(pl.col("close"), bars)).log(), bars)


@op
def gap_to_vwap(*, bars: Bars) -> Window:
    """How far the close is above the volume-weighted typical price: ln(c / (sum v (h + l + c) / 3 / sum v)).

    Unit: log return. 0 where nothing was traded. Needs OHLCV alone.
    """
    volume = pl.col("volume")
    typical = (pl.col("high") + pl.col("low") + pl.col("close")) / 3
    return Window(_gap_to_average(typical * volume, volume, bars), bars)


@op
def gap_to_traded_vwap(*, bars: Bars) -> Window:
    """How far the close is above the average price paid: ln(c / (sum quote volume / sum v)).

    Unit: log return. 0 where nothing was traded. The average is held inside the range of its bars, because the
    exchange rounds both volumes.
    """
    return Window(_gap_to_average(pl.col("quote_volume"), pl.col("volume"), bars), bars)


@op
def range_position(*, bars: Bars) -> Window:
    """Where the close stands between the lowest low and the highest high: (c - min l) / (max h - min l).

    Unit: share, in [0, 1]. 0.5 where there is no range. Source: Lane's stochastic oscillator (%K).
    """
    low, high = window_min(pl.col("low"), bars), window_max(pl.col("high"), bars)
    return Window(ratio(pl.col("close") - low, high - low, empty=0.5), bars)


@op
def gap_to_high(*, bars: Bars) -> Window:
    """How far the close is below the highest high: ln(c / max h).

    Unit: log return, 0 or less.
    """
    return Window((pl.col("close") / window_max(pl.col("high"), bars)).log(), bars)


@op
def gap_to_low(*, bars: Bars) -> Window:
    """How far the close is above the lowest low: ln(c / min l).

    Unit: log return, 0 or more.
    """
    return Window((pl.col("close") / window_min(pl.col("low"), bars)).log(), bars)


# The shape of the candle.


@op
def candle_body() -> Window:
    """Body of the candle as a share of its range: (c - o) / (h - l).

    Unit: share, in [-1, 1]. 0 in a bar without range.
    """
    return Window(ratio(pl.col("close") - pl.col("open"), pl.col("high") - pl.col("low")), 1)


@op
def upper_shadow() -> Window:
    """Upper shadow as a share of the range: (h - max(o, c)) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    top = pl.max_horizontal("open", "close")
    return Window(ratio(pl.col("high") - top, pl.col("high") - pl.col("low")), 1)


@op
def lower_shadow() -> Window:
    """Lower shadow as a share of the range: (min(o, c) - l) / (h - l).

    Unit: share, in [0, 1]. 0 in a bar without range.
    """
    bottom = pl.min_horizontal("open", "close")
    return Window(ratio(bottom - pl.col("low"), pl.col("high") - pl.col("low")), 1)


@op
def close_location(*, bars: Bars) -> Window:
    """Where closes stand in their bars: mean of ((c - l) - (h - c)) / (h - l).

    Unit: share, in [-1, 1]; -1 at the low. A bar without range counts 0. Source: Chaikin's close location value.
    """
    return Window(window_sum(_location(), bars) / bars, bars)


@op
def bar_range() -> Window:
    """Range of the bar: ln(h / l).

    Unit: log return, 0 or more.
    """
    return Window(_log_range(), 1)


@op
def range_ratio(*, bars: Spread) -> Window:
    """Range of the bar against the usual: (a - b) / (a + b), a = ln(h / l), b its mean over `bars`.

    Unit: share, in [-1, 1]. 0 where no bar has a range.
    """
    return Window(contrast(_log_range(), window_sum(_log_range(), bars) / bars), bars)


@op
def open_gap() -> Window:
    """Jump between the bars: ln(o / c[1]).

    Unit: log return.
    """
    return Window((pl.col("open") / pl.col("close").shift(1)).log(), 2)


# Activity and order flow.


@op
def zscore(*, column: Literal["close", "volume", "quote_volume", "trades"], bars: Spread) -> Window:
    """How unusual the newest value of a column is: (x - mean x) / s, s the population deviation, newest bar included.

    Unit: deviations, within sqrt(bars - 1). 0 where s is below 1e-9 of the mean.
    """
    return Window(window_zscore(pl.col(column), bars), bars)


@op
def activity_ratio(*, column: Literal["volume", "quote_volume", "trades"], short: Bars, long: Spread) -> Window:
    """Activity now against before: (a - b) / (a + b), a and b the column's mean over `short` and `long` bars.

    Unit: share, in [-1, 1]. 0 where nothing was traded.
    """
    _ordered(short, long)
    values = pl.col(column)
    return Window(contrast(window_sum(values, short) / short, window_sum(values, long) / long), long)


@op
def money_flow(*, bars: Bars) -> Window:
    """Close location weighted by volume: sum v ((c - l) - (h - c)) / (h - l) / sum v.

    Unit: share, in [-1, 1]. 0 where nothing was traded. Source: Chaikin's money flow.
    """
    return Window(window_ratio(_location() * pl.col("volume"), pl.col("volume"), bars).clip(-1, 1), bars)


@op
def return_volume_correlation(*, bars: Spread) -> Window:
    """Whether rises or falls carry the volume: sum r v / sqrt(sum r^2 sum v^2).

    Unit: correlation about zero, in [-1, 1]. 0 where nothing moved or nothing was traded.
    """
    return Window(window_correlation(_returns(), pl.col("volume"), bars), bars + 1)


@op
def taker_imbalance(*, bars: Bars) -> Window:
    """Aggressive buying less aggressive selling: (2 sum b - sum v) / sum v, b the volume that takers bought.

    Unit: share, in [-1, 1]. 0 where nothing was traded. Source: Chordia, Roll and Subrahmanyam (2002).
    """
    return Window(_imbalance(bars), bars)


@op
def taker_price_gap() -> Window:
    """Whether takers bought above the bar's average price: ln(q_b / b / (q / v)), q_b, b the takers' quote and base.

    Unit: log return. 0 where takers bought nothing. Both prices are held inside the bar's range.
    """
    low, high = pl.col("low"), pl.col("high")
    paid = ratio(pl.col("taker_buy_quote"), pl.col("taker_buy_base")).clip(low, high)
    average = ratio(pl.col("quote_volume"), pl.col("volume")).clip(low, high)
    traded = (pl.col("taker_buy_base") > 0) & (pl.col("volume") > 0)
    return Window(pl.when(traded).then((paid / average).log()).otherwise(0.0), 1)


@op
def trade_size_ratio(*, bars: Spread) -> Window:
    """Size of the newest bar's trades against the usual: (a - b) / (a + b), a = v / n, b = sum v / sum n, n trades.

    Unit: share, in [-1, 1]; 0 where nothing was traded.
    """
    volume, trades = pl.col("volume"), pl.col("trades")
    return Window(contrast(ratio(volume, trades), window_ratio(volume, trades, bars)), bars)


# The clock.


@op
def clock(*, period: Literal["hour", "day", "week"], wave: Literal["sin", "cos"]) -> Window:
    """Time of the bar's opening in a period: sin or cos of 2 pi (t mod period) / period, t in UTC.

    Unit: none, in [-1, 1]. A week begins on Thursday, as the epoch did.
    """
    phase = pl.col("ts").dt.epoch("ms") % MS_PER[period] * (2 * math.pi / MS_PER[period])
    return Window(phase.sin() if wave == "sin" else phase.cos(), 1)


# The leader symbol, which others tend to follow (Lo and MacKinlay 1990).


@op
def leader_return(*, bars: Bars, lag: Lag = 0) -> Window:
    """Leader's return over `bars` bars, that ended `lag` bars ago.

    Unit: log return.
    """
    return Window(_returns(bars=bars, lag=lag, leader=True), bars + lag + 1)


@op
def leader_lead(*, bars: Bars) -> Window:
    """What the leader has moved and this symbol has not: the leader's return over `bars` bars less this one's.

    Unit: log return.
    """
    return Window(_returns(bars=bars, leader=True) - _returns(bars=bars), bars + 1)


@op
def leader_close_location(*, bars: Bars) -> Window:
    """Close location of the leader, mean over `bars` bars.

    Unit: share, in [-1, 1].
    """
    return Window(window_sum(_location(LEADER_PREFIX), bars) / bars, bars)


@op
def leader_zscore(*, column: Literal["close", "volume", "quote_volume", "trades"], bars: Spread) -> Window:
    """How unusual the leader's newest value of a column is; see zscore.

    Unit: deviations, within sqrt(bars - 1).
    """
    return Window(window_zscore(pl.col(LEADER_PREFIX + column), bars), bars)


@op
def leader_taker_imbalance(*, bars: Bars) -> Window:
    """Taker imbalance of the leader; see taker_imbalance.

    Unit: share, in [-1, 1].
    """
    return Window(_imbalance(bars, LEADER_PREFIX), bars)
