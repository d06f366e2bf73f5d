"""Labels: the direction of the price move after each candle.

A label compares a candle with the one exactly `horizon_bars` intervals later. If a gap or the end of the data lies
between them, the label is null; `shift` and a comparison would give 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.features.spec import LabelSpec

# Basis points in a ratio of one.
BPS: Final = 10_000


def make_labels(frame: pl.DataFrame, label: LabelSpec, step_ms: int) -> pl.DataFrame:
    """Label every candle with the direction of the move that follows it.

    Args:
        frame: Candles of one symbol, sorted and unique by `ts`, on the grid of `step_ms`; `ts` and `close` are read.
        label: Horizon, cost, and treatment of ties.
        step_ms: Length of the interval, in ms.

    Returns:
        One row per candle, in order: `ts`; `label_end` (Int64), the open time, UTC ms, of the candle at the horizon;
        `y` (UInt8), 1 if the close at the horizon is above this candle's by more than the cost, else 0, null if unknown
        or a dropped tie; `tie` (Boolean), whether the two closes differ by no more than the cost, null if unknown;
        `last_move` (Int8), the sign of the move of `horizon_bars` that ends with this candle, null if unknown.
    """
    h = label.horizon_bars
    ts_ms, close = times_ms(frame), frame["close"].to_numpy()
    # On a grid, h rows later is h intervals later exactly if no candle is missing between them.
    is_whole = ts_ms[h:] - ts_ms[:-h] == h * step_ms
    moves = np.where(is_whole, close[h:] - close[:-h], np.nan)
    unknown = np.full(min(h, ts_ms.size), np.nan)
    next_move, last_move = np.concatenate([moves, unknown]), np.concatenate([unknown, moves])
    cost = close * (label.cost_bps / BPS)
    is_known, is_tie = ~np.isnan(next_move), np.abs(next_move) <= cost
    has_label = is_known & ~is_tie if label.ties == "drop" else is_known
    return pl.DataFrame(
        [
            frame["ts"],
            pl.Series("label_end", ts_ms + h * step_ms),
            _nullable("y", next_move > cost, has_label, pl.UInt8),
            _nullable("tie", is_tie, is_known, pl.Boolean),
            _nullable("last_move", np.sign(last_move), ~np.isnan(last_move), pl.Int8),
        ]
    )


def _nullable(
    name: str, values: NDArray[np.bool_ | np.float64], is_known: NDArray[np.bool_], dtype: type[pl.DataType]
) -> pl.Series:
    """Return a column of these values, null where they are not known."""
    return pl.Series(name, np.where(is_known, values, np.nan), nan_to_null=True).cast(dtype)
