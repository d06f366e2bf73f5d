"""Ops on activity and order flow: volume, trades, takers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from mltrain.features.formula import col, where
from mltrain.features.op import Bars, Op, Spread, Window
from mltrain.features.ops.expressions import check_ordered, gap_to_average, imbalance, location, log_returns
from mltrain.features.windows import contrast, ratio, window_contrast, window_correlation, window_ratio, window_zscore

if TYPE_CHECKING:
    import polars as pl


def zscore(*, column: Literal["close", "volume", "quote_volume", "trades"], bars: Spread) -> Window:
    """Z-score of a column: (x - mean x) / s, s the population standard deviation, newest bar included.

    Unit: deviations, within sqrt(bars - 1). 0 where s is below 1e-9 of the mean.
    """
    return Window(window_zscore(col(column), bars), bars)


def activity_ratio(*, column: Literal["volume", "quote_volume", "trades"], short: Bars, long: Spread) -> Window:
    """Recent against longer-term activity: (a - b) / (a + b), a and b the column's mean over `short` and `long` bars.

    Unit: share, in [-1, 1]. 0 where nothing was traded.
    """
    check_ordered(short, long)
    return Window(window_contrast(col(column), short=short, long=long), long)


def money_flow(*, bars: Bars) -> Window:
    """Close location weighted by volume: sum v ((c - l) - (h - c)) / (h - l) / sum v.

    Unit: share, in [-1, 1]. 0 where nothing was traded. Source: Chaikin's money flow.
    """
    return Window(window_ratio(location() * col("volume"), col("volume"), bars).clip(-1, 1), bars)


def return_volume_correlation(*, bars: Spread) -> Window:
    """Correlation of returns with volume: sum r v / sqrt(sum r^2 sum v^2).

    Unit: correlation about zero, in [-1, 1]. 0 where nothing moved or nothing was traded.
    """
    return Window(window_correlation(log_returns(), col("volume"), bars), bars + 1)


def taker_imbalance(*, bars: Bars) -> Window:
    """Share of taker buys minus that of taker sells: (2 sum b - sum v) / sum v, b the volume that takers bought.

    Unit: share, in [-1, 1]. 0 where nothing was traded. Source: Chordia, Roll and Subrahmanyam (2002).
    """
    return Window(imbalance(bars), bars)


def _taker_volumes(side: Literal["buy", "sell"]) -> tuple[pl.Expr, pl.Expr]:
    """Return what takers of a side traded in each bar, in quote and in base units."""
    paid, traded = col("taker_buy_quote"), col("taker_buy_base")
    return (paid, traded) if side == "buy" else (col("quote_volume") - paid, col("volume") - traded)


def gap_to_taker_price(*, side: Literal["buy", "sell"], bars: Bars) -> Window:
    """How far the close is above the average price at which takers of a side traded: ln(c / (sum q / sum b)).

    Here q and b are their quote and base volume. Unit: log return. 0 where they traded nothing. The average is
    clipped to the range of its bars, because the exchange rounds both volumes.
    """
    return Window(gap_to_average(*_taker_volumes(side), bars), bars)


def taker_spread(*, bars: Bars) -> Window:
    """Average price of taker buys against that of taker sells: ln(p_buy / p_sell).

    Unit: log return. A side without trades counts as trading at the close. Both are clipped to the bars' range.
    """
    buy, sell = (gap_to_average(*_taker_volumes(side), bars) for side in ("buy", "sell"))
    return Window(sell - buy, bars)


def taker_price_gap() -> Window:
    """Price that takers paid against the bar's average: ln(q_b / b / (q / v)), q_b, b the takers' quote and base.

    Unit: log return. 0 where takers bought nothing. Both prices are clipped to the bar's range.
    """
    low, high = col("low"), col("high")
    paid = ratio(col("taker_buy_quote"), col("taker_buy_base")).clip(low, high)
    average = ratio(col("quote_volume"), col("volume")).clip(low, high)
    traded = (col("taker_buy_base") > 0) & (col("volume") > 0)
    return Window(where(traded, (paid / average).log(), 0.0), 1)


def trade_size_ratio(*, bars: Spread) -> Window:
    """Trade size of the newest bar against the window's: (a - b) / (a + b), a = v / n, b = sum v / sum n, n trades.

    Unit: share, in [-1, 1]; 0 where nothing was traded.
    """
    volume, trades = col("volume"), col("trades")
    return Window(contrast(ratio(volume, trades), window_ratio(volume, trades, bars)), bars)


OPS: Final[dict[str, Op]] = {
    "zscore": zscore,
    "activity_ratio": activity_ratio,
    "money_flow": money_flow,
    "return_volume_correlation": return_volume_correlation,
    "taker_imbalance": taker_imbalance,
    "gap_to_taker_price": gap_to_taker_price,
    "taker_spread": taker_spread,
    "taker_price_gap": taker_price_gap,
    "trade_size_ratio": trade_size_ratio,
}
