"""Ops: from candles to one stationary number per bar, each with its exact lookback.

An op returns a Polars expression over candle columns, and the number of bars (the newest included) that its value
depends on. What every op promises, and a test over all of them checks:

- finite lookback: the value at t is a function of the last `lookback_bars` candles, to the last bit;
- total: behind the warm-up the value is finite for every valid candle, also without volume, trades or any move (the
  value for those cases is stated), so that null means "warm-up or hole" and nothing else;
- no unit of its own: ratios, logarithms of ratios, scores; a rescaled price or volume gives the same value.

Columns named `leader_...` are those of the leader symbol's candle of the same time. Notation: c, o, h, l, v are close,
open, high, low and volume of the newest bar, c[k] is the close k bars earlier, r = ln(c / c[1]), and sums, means,
max and min run over the last `bars` bars.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.features import op, windows
from mltrain.features.ops import activity, candle, leader, levels, returns, terms

if TYPE_CHECKING:
    from mltrain.features.op import Op

#: Every op by its name, mltrain's own first; a user's module adds its ops (`mltrain.features.user_ops`).
OPS: Final[dict[str, Op]] = {
    **returns.OPS,
    **levels.OPS,
    **candle.OPS,
    **activity.OPS,
    **leader.OPS,
}

_SOURCES = (op, terms, returns, levels, candle, activity, leader, windows)


def ops_sha256() -> str:
    """Return the SHA-256 of the source of all that computes: a model can tell that its features have changed."""
    sources = [Path(__file__), *(Path(str(module.__file__)) for module in _SOURCES)]
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()
