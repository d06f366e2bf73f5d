"""Labels: what happened next, by time.

Pure. A label joins a candle with the one exactly `horizon_bars` intervals later; where a hole or the end of the data
lies between, nobody knows what happened, and the label is null: never 0, as `shift` and a comparison would have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import polars as pl

if TYPE_CHECKING:
    from mltrain.features.registry import LabelSpec

_BPS: Final = 10_000  # basis points in one


def make_labels(frame: pl.DataFrame, label: LabelSpec, step_ms: int) -> pl.DataFrame:
    """Label every candle with the move that follows it: up, down, or too little to tell.

    Args:
        frame: Candles of one symbol, sorted and unique by `ts`, on the grid of `step_ms`; `ts` and `close` are read.
        label: Horizon, cost, and what a tie is.
        step_ms: Length of the interval.

    Returns:
        One row per candle, in order: `ts`; `label_end` (Int64), the open time in ms of the candle at the horizon;
        `y` (UInt8), 1 where its close is above this one's by more than the cost, null where it is unknown or a dropped
        tie; `tie` (Boolean), whether the two closes lie no further apart than the cost, null where unknown;
        `last_move` (Int8), the sign of the move of the same length that ends here, null where unknown.
    """
    h = label.horizon_bars
    close, ts = pl.col("close"), pl.col("ts").dt.timestamp("ms")
    # Unique times on a grid: h rows later is h intervals later exactly where no candle is missing in between.
    ahead = pl.when(ts.shift(-h) - ts == h * step_ms).then(close.shift(-h) - close)
    cost = close * (label.cost_bps / _BPS)
    behind = pl.when(ts - ts.shift(h) == h * step_ms).then(close - close.shift(h))
    labels = frame.select(
        "ts",
        (ts + h * step_ms).alias("label_end"),
        (ahead > cost).cast(pl.UInt8).alias("y"),
        (ahead.abs() <= cost).alias("tie"),
        behind.sign().cast(pl.Int8).alias("last_move"),
    )
    return labels.with_columns(pl.when(~pl.col("tie")).then("y").alias("y")) if label.ties == "drop" else labels
