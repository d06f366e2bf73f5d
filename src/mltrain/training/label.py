"""Labels: what the price does after each candle.

A label of direction or threshold compares a candle with the one exactly `horizon_bars` intervals later. A barrier label
(the triple barrier of Lopez de Prado 2018, Advances in Financial Machine Learning, 3.4) is decided by the first bar
within the horizon whose high reaches an upper price or whose low reaches a lower one. If a gap or the end of the data
comes before the candle that decides, the label is null; `shift` and a comparison would give 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import find_segments, times_ms
from mltrain.features.computation import count_consecutive_bars, evaluate
from mltrain.features.ops.volatility import realised_volatility

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.features.spec import LabelSpec

# Basis points in a ratio of one.
BPS: Final = 10_000


def make_labels(frame: pl.DataFrame, label: LabelSpec, step_ms: int) -> pl.DataFrame:
    """Label every candle with the move that follows it.

    Args:
        frame: Candles of one symbol, sorted and unique by `ts`, on the grid of `step_ms`; `ts` and `close` are read,
            for a barrier label also `high` and `low`.
        label: Kind, horizon, cost or barriers, and treatment of ties.
        step_ms: Length of the interval, in ms.

    Returns:
        One row per candle, in order: `ts`; `label_end` (Int64), the open time, UTC ms, of the candle that decided the
        label: the one at the horizon or, of a barrier label, the first that touched a barrier; `y` (UInt8), 1 if the
        close at the horizon is above this candle's by more than the cost or the upper barrier was touched, else 0, null
        if unknown or a dropped tie; `tie` (Boolean), whether the two closes differ by no more than the cost, of a
        barrier label whether one bar touched both barriers, or none did (with `timeout: sign`: and the two closes are
        equal), null if unknown; `last_move` (Int8), the sign of the move of `horizon_bars` that ends with this candle,
        null if unknown.
    """
    h = label.horizon_bars
    ts_ms, close = times_ms(frame), frame["close"].to_numpy()
    # On a grid, h rows later is h intervals later exactly if no candle is missing between them.
    is_whole = ts_ms[h:] - ts_ms[:-h] == h * step_ms
    moves = np.where(is_whole, close[h:] - close[:-h], np.nan)
    unknown = np.full(min(h, ts_ms.size), np.nan)
    next_move, last_move = np.concatenate([moves, unknown]), np.concatenate([unknown, moves])
    end_bars = np.full(ts_ms.size, h)
    if label.kind == "barrier":
        touched, end_bars = _find_touches(frame, label, step_ms)
        # A touch decides, also before a gap; without a touch the move decides, or it is a tie.
        is_timeout = (touched == _NO_TOUCH) & ~np.isnan(next_move)
        is_known = is_timeout | (touched == _UPPER) | (touched == _LOWER) | (touched == _BOTH)
        has_sign = is_timeout if label.timeout == "sign" else np.zeros_like(is_timeout)
        is_up = (touched == _UPPER) | (has_sign & (next_move > 0))
        is_tie = (touched == _BOTH) | (is_timeout & ~(has_sign & (next_move != 0)))
        has_label = is_known & (~is_tie | (has_sign & (label.ties == "down")))
    else:
        cost = close * (label.cost_bps / BPS)
        is_known, is_tie, is_up = ~np.isnan(next_move), np.abs(next_move) <= cost, next_move > cost
        has_label = is_known & ~is_tie if label.ties == "drop" else is_known
    return pl.DataFrame(
        [
            frame["ts"],
            pl.Series("label_end", ts_ms + end_bars * step_ms),
            _nullable("y", is_up, has_label, pl.UInt8),
            _nullable("tie", is_tie, is_known, pl.Boolean),
            _nullable("last_move", np.sign(last_move), ~np.isnan(last_move), pl.Int8),
        ]
    )


# What a candle's barriers met with first within the horizon.
_UNKNOWN, _NO_TOUCH, _UPPER, _LOWER, _BOTH = range(5)


def _find_touches(frame: pl.DataFrame, label: LabelSpec, step_ms: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Return which barrier each candle's price touched first, shape (n,), and after how many bars, shape (n,).

    Unknown if the distances are, or a gap or the end of the data comes first. Without a touch, the bars are those of
    the horizon.
    """
    ts_ms = times_ms(frame)
    close, high, low = (frame[name].to_numpy() for name in ("close", "high", "low"))
    above, below = _find_distances(frame, label, step_ms)
    upper, lower = close * (1 + above), close * (1 - below)
    # Number of bars after each candle until the next gap or the end of the data.
    following = np.zeros(ts_ms.size, np.int64)
    for start, stop in find_segments(ts_ms, step_ms):
        following[start:stop] = np.arange(stop - start - 1, -1, -1)
    touched = np.full(ts_ms.size, _UNKNOWN, np.int8)
    end_bars = np.full(ts_ms.size, label.horizon_bars, np.int64)
    # A volatility of 0 is a barrier at the close, and one of more than the price a lower barrier below 0.
    rows = np.flatnonzero((above > 0) & (below > 0) & (below < 1))
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


def _find_distances(
    frame: pl.DataFrame, label: LabelSpec, step_ms: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances of both barriers as shares of each close, shape (n,); NaN without a volatility."""
    if label.volatility_bars is None:
        assert label.upper_bps is not None and label.lower_bps is not None  # noqa: S101, PT018 -- LabelSpec checks it
        return np.full(frame.height, label.upper_bps / BPS), np.full(frame.height, label.lower_bps / BPS)
    assert label.upper is not None and label.lower is not None  # noqa: S101, PT018 -- LabelSpec checks it
    volatility = evaluate(frame, [realised_volatility(bars=label.volatility_bars).expr])[:, 0].to_numpy()
    is_whole = count_consecutive_bars(times_ms(frame), step_ms) >= label.lookback_bars
    volatility = np.where(is_whole, volatility, np.nan)
    return label.upper * volatility, label.lower * volatility


def _nullable(
    name: str, values: NDArray[np.bool_ | np.float64], is_known: NDArray[np.bool_], dtype: type[pl.DataType]
) -> pl.Series:
    """Return a column of these values, null where they are not known."""
    return pl.Series(name, np.where(is_known, values, np.nan), nan_to_null=True).cast(dtype)
