"""Drift: how far each feature's distribution has moved since training, and how far it moves by chance.

On a million rows any difference is significant, so the result is its size, the Kolmogorov-Smirnov distance of the two
distribution functions, next to the distances that permutations of whole days between earlier and later rows give (a
block permutation test).
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
        drifted: Whether `effect` exceeds `null_p95`.
    """

    name: str
    effect: float
    null_p95: float
    drifted: bool


def find_drift(
    x: NDArray[np.float32], ts_ms: NDArray[np.int64], *, later: NDArray[np.bool_], names: Sequence[str], seed: int
) -> tuple[FeatureDrift, ...]:
    """Return how far each feature's distribution differs between later and earlier rows, the greatest effect first.

    Args:
        x: Features, shape (n, f), finite.
        ts_ms: Open times, UTC ms, shape (n,), any order.
        later: Which rows are later ones, shape (n,); some are, some are not.
        names: The features, in column order.
        seed: Random seed of the permutations.
    """
    # A day with earlier and later rows is two blocks.
    signed_day = np.where(later, -1, 1) * (ts_ms // DAY_MS)
    _, block = np.unique(signed_day, return_inverse=True)
    blocks = int(block.max()) + 1
    is_later = np.zeros(blocks, np.bool_)
    is_later[block[later]] = True
    rng = np.random.default_rng(seed)
    # The first row is the true assignment, the others are permutations of it.
    assignments = np.stack([is_later, *(rng.permutation(is_later) for _ in range(PERMUTATIONS))]).astype(np.float64)
    drifts = []
    for i, name in enumerate(names):
        edges = np.unique(np.quantile(x[~later, i], np.linspace(0, 1, BINS + 1)[1:-1]))
        cell = block * (edges.size + 1) + np.searchsorted(edges, x[:, i])
        counts = np.bincount(cell, minlength=blocks * (edges.size + 1)).reshape(blocks, -1).astype(np.float64)
        distances = _ks_distances(assignments, counts)
        effect, null_p95 = float(distances[0]), float(np.quantile(distances[1:], 0.95))
        drifts.append(FeatureDrift(name, effect, null_p95, effect > null_p95))
    return tuple(sorted(drifts, key=lambda drift: (-drift.effect, drift.name)))


def _ks_distances(is_later: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Kolmogorov-Smirnov distance between earlier and later blocks, for each of k assignments, shape (k,).

    Args:
        is_later: 1 for a later block, 0 for an earlier one, shape (k, blocks).
        counts: Number of rows in each block and bin, shape (blocks, bins).
    """
    later = np.einsum("kb,bn->kn", is_later, counts)
    earlier = counts.sum(axis=0) - later
    later_cdf, earlier_cdf = (np.cumsum(part, axis=1) / part.sum(axis=1, keepdims=True) for part in (later, earlier))
    distances: NDArray[np.float64] = np.abs(later_cdf - earlier_cdf).max(axis=1)
    return distances
