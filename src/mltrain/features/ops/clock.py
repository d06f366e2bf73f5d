"""Ops on the time of day."""

from __future__ import annotations

import math
from typing import Final, Literal

import polars as pl

from mltrain.features.ops.catalogue import Window, op

MS_PER: Final = {"quarter": 900_000, "hour": 3_600_000, "day": 86_400_000, "week": 604_800_000}


@op
def clock(*, period: Literal["quarter", "hour", "day", "week"], wave: Literal["sin", "cos", "saw"]) -> Window:
    """Time of the bar's opening in a period: sin or cos of 2 pi p, or p itself (saw), p = (t mod period) / period.

    Here t is in UTC, and a quarter is one of an hour. Unit: none, in [-1, 1]. A week begins on Thursday, as the epoch
    did.
    """
    passed = pl.col("ts").dt.epoch("ms") % MS_PER[period]
    if wave == "saw":
        return Window(passed * (1 / MS_PER[period]), 1)
    phase = passed * (2 * math.pi / MS_PER[period])
    return Window(phase.sin() if wave == "sin" else phase.cos(), 1)
