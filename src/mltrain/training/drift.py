"""Drift: how far each feature has moved away from what a model learned from, and how far it moves by chance.

Pure: every draw comes from a seed that is an argument. On a million rows any difference is significant; so what is told
is its size, the greatest gap between the two distribution functions, beside the gap that whole days of the same candles
show when they are dealt out at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.times import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BINS: Final = 20  # of equal mass among the earlier rows; the gap is read at their edges
DRAWS: Final = 200  # deals of the days: enough for the 95 % point


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How far a feature has moved.

    Attributes:
        name: The feature.
        effect: Greatest gap between the distribution functions of later and earlier rows, 0 to 1.
        null_p95: 95 % of the random deals of the days show a smaller gap.
        drifted: Whether the effect is above that.
    """

    name: str
    effect: float
    null_p95: float
    drifted: bool


def find_drift(
    x: NDArray[np.float32], ts_ms: NDArray[np.int64], *, later: NDArray[np.bool_], names: Sequence[str], seed: int
) -> tuple[FeatureDrift, ...]:
    """Compare the later rows' features with the earlier ones', the greatest effect first.

    Args:
        x: Features, shape (n, f), finite.
        ts_ms: Open times, shape (n,), any order.
        later: Which rows are the later ones, shape (n,); there are both.
        names: Of the features.
        seed: Of the deals.
    """
    day = np.where(later, -1, 1) * (ts_ms // DAY_MS)  # a day that both share is two blocks
    _, block = np.unique(day, return_inverse=True)
    blocks = int(block.max()) + 1
    is_later = np.zeros(blocks, np.bool_)
    is_later[block[later]] = True
    rng = np.random.default_rng(seed)
    deals = np.stack([is_later, *(rng.permutation(is_later) for _ in range(DRAWS))]).astype(np.float64)
    found = []
    for i, name in enumerate(names):
        edges = np.unique(np.quantile(x[~later, i], np.linspace(0, 1, BINS + 1)[1:-1]))
        cell = block * (edges.size + 1) + np.searchsorted(edges, x[:, i])
        counts = np.bincount(cell, minlength=blocks * (edges.size + 1)).reshape(blocks, -1).astype(np.float64)
        gaps = _gaps(deals, counts)
        effect, null = float(gaps[0]), float(np.quantile(gaps[1:], 0.95))
        found.append(FeatureDrift(name, effect, null, effect > null))
    return tuple(sorted(found, key=lambda drift: (-drift.effect, drift.name)))


def _gaps(deals: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the greatest gap of each deal, from the rows per block and bin."""
    later = np.einsum("db,bk->dk", deals, counts)
    earlier = counts.sum(axis=0) - later
    ours, theirs = (np.cumsum(part, axis=1) / part.sum(axis=1, keepdims=True) for part in (later, earlier))
    gaps: NDArray[np.float64] = np.abs(ours - theirs).max(axis=1)
    return gaps
