"""Labels: what the price does after each candle.

A label of direction or threshold compares a candle with the one exactly `horizon_bars` intervals later. A barrier label
(the triple barrier of Lopez de Prado 2018, Advances in Financial Machine Learning, 3.4) is decided by the first bar
within the horizon whose high reaches an upper price or whose low reaches a lower one. If a gap or the end of the data
comes before the candle that decides, the label is null; `shift` and a comparison would give 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.features.computation import count_consecutive_bars, evaluate
from mltrain.features.ops.volatility import realised_volatility
from mltrain.training.label_rules import Prices, find_outcomes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.features.label_spec import LabelSpec


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
    is_barrier = label.kind == "barrier"
    prices = Prices(
        ts_ms=times_ms(frame),
        close=frame["close"].to_numpy(),
        step_ms=step_ms,
        high=frame["high"].to_numpy() if is_barrier else None,
        low=frame["low"].to_numpy() if is_barrier else None,
    )
    found = find_outcomes(prices, label, _find_volatility(frame, label, step_ms))
    last_move = np.concatenate([np.full(min(h, frame.height), np.nan), prices.moves(h)])
    return pl.DataFrame(
        [
            frame["ts"],
            pl.Series("label_end", prices.ts_ms + found.end_bars * step_ms),
            _nullable("y", found.is_up, found.has_label, pl.UInt8),
            _nullable("tie", found.is_tie, found.is_known, pl.Boolean),
            _nullable("last_move", np.sign(last_move), ~np.isnan(last_move), pl.Int8),
        ]
    )


def _find_volatility(frame: pl.DataFrame, label: LabelSpec, step_ms: int) -> NDArray[np.float64] | None:
    """Return the volatility per bar at each candle, shape (n,), NaN where unknown; None if the label reads none."""
    if label.volatility_bars is None:
        return None
    volatility = evaluate(frame, [realised_volatility(bars=label.volatility_bars).expr])[:, 0].to_numpy()
    is_whole = count_consecutive_bars(times_ms(frame), step_ms) >= label.lookback_bars
    return np.where(is_whole, volatility, np.nan)


def _nullable(
    name: str, values: NDArray[np.bool_ | np.float64], is_known: NDArray[np.bool_], dtype: type[pl.DataType]
) -> pl.Series:
    """Return a column of these values, null where they are not known."""
    return pl.Series(name, np.where(is_known, values, np.nan), nan_to_null=True).cast(dtype)
