"""Ops on the time of day."""

from __future__ import annotations

import math
from typing import Final, Literal

import polars as pl

from mltrain.features.ops.catalogue import Window, op

MS_PER: Final = {"hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}


@op
def clock(*, period: Literal["hour", "day", "week"], wave: Literal["sin", "cos"]) -> Window:
    """Time of the bar's opening in a period: sin or cos of 2 pi (t mod period) / period, t in UTC.

    Unit: none, in [-1, 1]. A week begins on Thursday, as the epoch did.
    """
    phase = pl.col("ts").dt.epoch("ms") % MS_PER[period] * (2 * math.pi / MS_PER[period])
    return Window(phase.sin() if wave == "sin" else phase.cos(), 1)
