"""Ops: from candles to one stationary number per bar, each with its exact lookback.

An op returns a Polars expression over candle columns, and the number of bars (the newest included) that its value
depends on. Every op has these properties, which tests check for all of them:

- finite lookback: the value at t is a function of the last `lookback_bars` candles, to the last bit;
- total: after the warm-up the value is finite for every valid candle, also without volume, trades or any move (the
  docstring states the value in those cases), so null always means a warm-up, a gap or an input that is not known;
- scale-free: ratios, logarithms of ratios or scores; a rescaled price or volume gives the same value. (An input is
  taken in its own unit.)

Columns named `leader_...` are those of the leader symbol's candle of the same time. Notation: c, o, h, l, v are close,
open, high, low and volume of the newest bar, c[k] is the close k bars earlier, r = ln(c / c[1]), and sums, means,
max and min run over the last `bars` bars.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mltrain.features.ops import (
    activity,
    candle,
    input_values,
    leader,
    levels,
    momentum,
    resampled,
    returns,
    volatility,
)

if TYPE_CHECKING:
    from mltrain.features.op import Op

#: Every op by name: the built-in ops, and those of imported user modules (`mltrain.features.user_ops`).
OPS: Final[dict[str, Op]] = {
    **returns.OPS,
    **volatility.OPS,
    **momentum.OPS,
    **levels.OPS,
    **candle.OPS,
    **activity.OPS,
    **leader.OPS,
    **input_values.OPS,
    **resampled.OPS,
}

#: Increased when a value of any op changes, but not for a new op. Models trained with another version warn.
OPS_VERSION: Final = 1

# Stored as `ops_sha256` in models and cards. Version 1 keeps the hash of the ops' source in mltrain 0.1.0; a later
# version takes the hash of its recorded values, which tests/features/test_ops_version.py prints when one differs.
IDENTIFIERS: Final = {
    1: "dad4d1147feaeda201fa8785b2672b5b73f225280d94ed8de5a4b58402412fef",
}


def ops_sha256() -> str:
    """Return the identifier of this version of the ops, 64 hexadecimal digits."""
    return IDENTIFIERS[OPS_VERSION]
