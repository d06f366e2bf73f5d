"""The rules of labels on arrays of prices: shared by training and by the outcomes of the prediction ledger.

Pure, and without Polars, which a process that only watches a ledger does not need. What the kinds of labels mean is in
`mltrain.features.label_spec`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.features.label_spec import LabelSpec

# Basis points in a ratio of one.
BPS: Final = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Prices of the candles of one symbol, in time order and without duplicates, on the grid of `step_ms`.

    Attributes:
        ts_ms: Open times, ms UTC, shape (n,).
        close: Closes, shape (n,).
        step_ms: Length of the interval, in ms.
        high: Highs, shape (n,); of no use but for a barrier label.
        low: Lows, shape (n,).
    """

    ts_ms: NDArray[np.int64]
    close: NDArray[np.float64]
    step_ms: int
    high: NDArray[np.float64] | None = None
    low: NDArray[np.float64] | None = None

    def moves(self, bars: int) -> NDArray[np.float64]:
        """Return the difference of the closes of each candle and the one `bars` later; NaN where a candle is missing.

        Shape (n - bars,), or (0,).
        """
        # On a grid, h rows later is h intervals later exactly if no candle is missing between them.
        is_whole = self.ts_ms[bars:] - self.ts_ms[:-bars] == bars * self.step_ms
        return np.where(is_whole, self.close[bars:] - self.close[:-bars], np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What followed each candle, shape (n,) each.

    Attributes:
        is_up: Whether the label is 1; of no meaning without a label.
        has_label: Whether there is a label: the outcome is known, and no dropped tie.
        is_tie: Whether it is a tie; of no meaning unless it is known.
        is_known: Whether the candles that decide it are there.
        end_bars: Number of bars until the candle that decided it; the horizon where none did.
    """

    is_up: NDArray[np.bool_]
    has_label: NDArray[np.bool_]
    is_tie: NDArray[np.bool_]
    is_known: NDArray[np.bool_]
    end_bars: NDArray[np.int64]


def find_outcomes(
    prices: Prices, label: LabelSpec, volatility: NDArray[np.float64] | None, *, rows: NDArray[np.intp] | None = None
) -> Outcomes:
    """Return the outcome of each candle by the rules of a label.

    Args:
        prices: The candles.
        label: Kind, horizon, cost or barriers, and treatment of ties.
        volatility: Volatility per bar at each candle, shape (n,), NaN where it is unknown; read only if the barriers
            are multiples of it.
        rows: The candles whose outcomes are wanted; None: all. Saves time for a barrier label, no other is touched.
    """
    h, close = label.horizon_bars, prices.close
    next_move = np.concatenate([prices.moves(h), np.full(min(h, close.size), np.nan)])
    if label.kind != "barrier":
        cost = close * (label.cost_bps / BPS)
        is_known, is_tie, is_up = ~np.isnan(next_move), np.abs(next_move) <= cost, next_move > cost
        has_label = is_known & ~is_tie if label.ties == "drop" else is_known
        return Outcomes(is_up, has_label, is_tie, is_known, np.full(close.size, h))
    touched, end_bars = _find_touches(prices, label, volatility, np.arange(close.size) if rows is None else rows)
    # A touch decides, also before a gap; without a touch the move decides, or it is a tie.
    is_timeout = (touched == _NO_TOUCH) & ~np.isnan(next_move)
    is_known = is_timeout | (touched == _UPPER) | (touched == _LOWER) | (touched == _BOTH)
    has_sign = is_timeout if label.timeout == "sign" else np.zeros_like(is_timeout)
    is_up = (touched == _UPPER) | (has_sign & (next_move > 0))
    is_tie = (touched == _BOTH) | (is_timeout & ~(has_sign & (next_move != 0)))
    has_label = is_known & (~is_tie | (has_sign & (label.ties == "down")))
    return Outcomes(is_up, has_label, is_tie, is_known, end_bars)


# What a candle's barriers met with first within the horizon.
_UNKNOWN, _NO_TOUCH, _UPPER, _LOWER, _BOTH = range(5)


def _find_touches(
    prices: Prices, label: LabelSpec, volatility: NDArray[np.float64] | None, rows: NDArray[np.intp]
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return which barrier each candle's price touched first, shape (n,), and after how many bars, shape (n,).

    Unknown if the distances are, or a gap or the end of the data comes first. Without a touch, the bars are those of
    the horizon.
    """
    ts_ms, close, high, low = prices.ts_ms, prices.close, prices.high, prices.low
    assert high is not None and low is not None  # noqa: S101, PT018 -- the caller gives them for a barrier label
    if volatility is None:
        assert label.upper_bps is not None and label.lower_bps is not None  # noqa: S101, PT018 -- LabelSpec checks it
        above, below = (np.full(ts_ms.size, bps / BPS) for bps in (label.upper_bps, label.lower_bps))
    else:
        assert label.upper is not None and label.lower is not None  # noqa: S101, PT018 -- LabelSpec checks it
        above, below = label.upper * volatility, label.lower * volatility
    upper, lower = close * (1 + above), close * (1 - below)
    # Number of bars after each candle until the next gap or the end of the data.
    last_rows = np.append(np.flatnonzero(np.diff(ts_ms) != prices.step_ms), ts_ms.size - 1)
    every_row = np.arange(ts_ms.size)
    following = last_rows[np.searchsorted(last_rows, every_row)] - every_row
    touched = np.full(ts_ms.size, _UNKNOWN, np.int8)
    end_bars = np.full(ts_ms.size, label.horizon_bars, np.int64)
    # A volatility of 0 is a barrier at the close, and one of more than the price a lower barrier below 0.
    rows = rows[(above[rows] > 0) & (below[rows] > 0) & (below[rows] < 1)]
    for bars in range(1, label.horizon_bars + 1):
        rows = rows[following[rows] >= bars]
        if not rows.size:
            break
        is_above, is_below = high[rows + bars] >= upper[rows], low[rows + bars] <= lower[rows]
        is_touch = is_above | is_below
        hit = rows[is_touch]
        touched[hit] = np.where(is_above & is_below, _BOTH, np.where(is_above, _UPPER, _LOWER))[is_touch]
        end_bars[hit] = bars
        rows = rows[~is_touch]
    touched[rows] = _NO_TOUCH
    return touched, end_bars
