"""Ops on the direction of moves: momentum and runs."""

from __future__ import annotations

from typing import Final

import polars as pl

from mltrain.features.formula import col
from mltrain.features.op import Bars, Op, Window
from mltrain.features.ops.expressions import directions
from mltrain.features.windows import window_ratio, window_run, window_sum


def direction_balance(*, bars: Bars) -> Window:
    """Share of bars that rose minus the share that fell, close to close.

    Unit: share, in [-1, 1]. 0 where nothing moved.
    """
    return Window(window_sum(directions(), bars) / bars, bars + 1)


def flat_share(*, bars: Bars) -> Window:
    """Share of bars that closed where the bar before had closed.

    Unit: share, in [0, 1].
    """
    flat = (col("close") == col("close").shift(1)).cast(pl.Float64)
    return Window(window_sum(flat, bars) / bars, bars + 1)


def run_length(*, bars: Bars) -> Window:
    """Length of the run in the direction of the newest bar, as a share of `bars`; negative for falls.

    Unit: share, in [-1, 1]; 1 / bars is a run of one bar. 0 where the newest bar did not move.
    """
    return Window(window_run(directions(), bars) / bars, bars + 1)


def rsi(*, bars: Bars) -> Window:
    """Relative strength: sum of rises / (sum of rises + sum of falls), of closes.

    Unit: share, in [0, 1] (the usual index is 100 times it). 0.5 where nothing moved. Source: Wilder (1978), with
    Cutler's plain sums in place of Wilder's smoothing, which never forgets.
    """
    moves = col("close") - col("close").shift(1)
    return Window(window_ratio(moves.clip(lower_bound=0), moves.abs(), bars, empty=0.5), bars + 1)


OPS: Final[dict[str, Op]] = {
    "direction_balance": direction_balance,
    "flat_share": flat_share,
    "run_length": run_length,
    "rsi": rsi,
}
