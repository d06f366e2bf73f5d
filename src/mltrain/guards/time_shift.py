"""Once more: the same candles give the same values, at any date, and nothing but candles is read.

The whole history is computed a second time with every time moved by 28 years, after which weekdays, months and leap
years repeat: a clock or a calendar gives the same bits, a table that is looked up by time, or an age against today,
does not, and neither does a feature that is random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.features.user_ops import reads_of, user_module_of
from mltrain.guards.audited_symbol import differ, values_of
from mltrain.guards.evidence import Failure

if TYPE_CHECKING:
    from mltrain.features.spec import FeatureSet
    from mltrain.guards.audited_symbol import Candles, Compute, Subject
    from mltrain.guards.equality import Verdicts
    from mltrain.guards.evidence import Findings

DETAIL: Final = (
    "values computed a second time, with all times moved by 28 years, equal bit for bit; worst: share that differs"
)
READING_DETAIL: Final = "features of the user's own ops, none of which has opened a file or a connection"

_MOVED: Final = pl.duration(days=10_227)  # 28 years, seven of them leap years, and just 1461 weeks


def moved_candles(candles: Candles) -> Candles:
    """Return the same candles 28 years later."""
    return {symbol: frame.with_columns(pl.col("ts") + _MOVED) for symbol, frame in candles.items()}


def check_again(subject: Subject, verdicts: Verdicts, *, compute: Compute, candles: Candles, moved: Candles) -> None:
    """Compute one symbol's features a second time, at other dates; where that differs, once more at their own.

    Args:
        subject: Whose features.
        verdicts: Takes what is found.
        compute: What computes features.
        candles: Of all symbols, as the batch was computed from them.
        moved: The same, as `moved_candles` gives them.
    """
    for part in subject.parts:
        expected = subject.batch[:, part.columns[:-1]]
        got = values_of(compute, part.features, subject.symbol, moved)[:, :-1]
        differs = differ(expected, got)
        rows = np.arange(subject.ts_ms.size)
        verdicts.did("again", part, rows, differs.astype(np.float64))
        if not differs.any():
            continue
        repeated = values_of(compute, part.features, subject.symbol, candles)[:, :-1]
        random = differ(expected, repeated)
        for i in np.flatnonzero(differs.any(axis=0)).tolist():
            check, other, where = ("repeat", repeated, random) if random[:, i].any() else ("calendar", got, differs)
            row = int(np.flatnonzero(where[:, i])[0])
            verdicts.fail(check, part, i, row, got=float(other[row, i]))


def check_reading(findings: Findings, features: FeatureSet) -> None:
    """Check that no op of the user's own has read anything but its candles, so far."""
    own = [spec for spec in features.features if user_module_of(spec.op)]
    findings.did("reading", len(own))
    for spec in own:
        for what in reads_of(spec.op)[:1]:
            why = "its op reads more than candles while it computes, and what that holds may be of later"
            findings.fail("reading", Failure(spec.name, "all", None, "candles alone", what, why))
