"""Drift: how far each feature's distribution has moved since training, and how far it moves by chance.

Pure; random draws come from a seed argument. On a million rows any difference is significant, so the result is its
size, the Kolmogorov-Smirnov distance of the two distribution functions, next to the distances that permutations of
whole days between the two groups give (a block permutation test).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.times import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Bins of equal mass on the earlier rows; distances are evaluated at their edges.
BINS: Final = 20
# Permutations of the days: enough for the 95 % quantile.
PERMUTATIONS: Final = 200


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """The drift of one feature.

    Attributes:
        name: The feature.
        effect: Greatest distance between the distribution functions of later and earlier rows, 0 to 1.
        null_p95: 95 % quantile of that distance over the permutations of the days.
        drifted: Whether the effect exceeds it.
    """

    name: str
    effect: float
    null_p95: float
    drifted: bool


def find_drift(
    x: NDArray[np.float32], ts_ms: NDArray[np.int64], *, later: NDArray[np.bool_], names: Sequence[str], seed: int
) -> tuple[FeatureDrift, ...]:
    """Compare the features of later and earlier rows, the greatest effect first.

    Args:
        x: Features, shape (n, f), finite.
        ts_ms: Open times, shape (n,), any order.
        later: Which rows are later ones, shape (n,); some are, some are not.
        names: The features, in column order.
        seed: Random seed of the permutations.
    """
    # A day with rows of both groups is two blocks.
    day = np.where(later, -1, 1) * (ts_ms // DAY_MS)
    _, block = np.unique(day, return_inverse=True)
    blocks = int(block.max()) + 1
    is_later = np.zeros(blocks, np.bool_)
    is_later[block[later]] = True
    rng = np.random.default_rng(seed)
    groups = np.stack([is_later, *(rng.permutation(is_later) for _ in range(PERMUTATIONS))]).astype(np.float64)
    found = []
    for i, name in enumerate(names):
        edges = np.unique(np.quantile(x[~later, i], np.linspace(0, 1, BINS + 1)[1:-1]))
        cell = block * (edges.size + 1) + np.searchsorted(edges, x[:, i])
        counts = np.bincount(cell, minlength=blocks * (edges.size + 1)).reshape(blocks, -1).astype(np.float64)
        distances = _distances(groups, counts)
        effect, null = float(distances[0]), float(np.quantile(distances[1:], 0.95))
        found.append(FeatureDrift(name, effect, null, effect > null))
    return tuple(sorted(found, key=lambda drift: (-drift.effect, drift.name)))


def _distances(groups: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each grouping of the blocks, shape (k,).

    Args:
        groups: 1 for a later block, else 0, shape (k, blocks).
        counts: Rows per block and bin, shape (blocks, bins).
    """
    later = np.einsum("kb,bn->kn", groups, counts)
    earlier = counts.sum(axis=0) - later
    later_cdf, earlier_cdf = (np.cumsum(part, axis=1) / part.sum(axis=1, keepdims=True) for part in (later, earlier))
    distances: NDArray[np.float64] = np.abs(later_cdf - earlier_cdf).max(axis=1)
    return distances
