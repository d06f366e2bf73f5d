"""Ops on the leader symbol, which others tend to follow (Lo and MacKinlay 1990)."""

from __future__ import annotations

from typing import Final, Literal

from mltrain.features.formula import col
from mltrain.features.op import LEADER_PREFIX, Bars, Lag, Op, Spread, Window
from mltrain.features.ops.expressions import imbalance, location, log_returns
from mltrain.features.windows import window_sum, window_zscore


def leader_return(*, bars: Bars, lag: Lag = 0) -> Window:
    """Leader's return over `bars` bars that ended `lag` bars ago.

    Unit: log return.
    """
    return Window(log_returns(bars=bars, lag=lag, leader=True), bars + lag + 1)


def leader_lead(*, bars: Bars) -> Window:
    """Leader's return over `bars` bars minus this symbol's.

    Unit: log return.
    """
    return Window(log_returns(bars=bars, leader=True) - log_returns(bars=bars), bars + 1)


def leader_close_location(*, bars: Bars) -> Window:
    """Close location of the leader, mean over `bars` bars.

    Unit: share, in [-1, 1].
    """
    return Window(window_sum(location(LEADER_PREFIX), bars) / bars, bars)


def leader_zscore(*, column: Literal["close", "volume", "quote_volume", "trades"], bars: Spread) -> Window:
    """Z-score of a column of the leader; see zscore.

    Unit: deviations, within sqrt(bars - 1).
    """
    return Window(window_zscore(col(LEADER_PREFIX + column), bars), bars)


def leader_taker_imbalance(*, bars: Bars) -> Window:
    """Taker imbalance of the leader; see taker_imbalance.

    Unit: share, in [-1, 1].
    """
    return Window(imbalance(bars, LEADER_PREFIX), bars)


OPS: Final[dict[str, Op]] = {
    "leader_return": leader_return,
    "leader_lead": leader_lead,
    "leader_close_location": leader_close_location,
    "leader_zscore": leader_zscore,
    "leader_taker_imbalance": leader_taker_imbalance,
}
