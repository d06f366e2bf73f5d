"""The variables of a bar: its features, standardised, and the time of day and of the week."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.tft.architecture import CLIP, KNOWN
from mltrain.times import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WEEK_MS: Final = 7 * DAY_MS
# Rows that are summed at once, in float64: a copy of a whole matrix would not fit in memory.
_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Scaler:
    """Standardises features by the rows that a network learns from.

    Attributes:
        mean: Mean of each feature, shape (f,).
        scale: 1 / its standard deviation, shape (f,); 0 where that is 0: such a feature is always 0.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]

    @classmethod
    def fit(cls, x: NDArray[np.float32], rows: NDArray[np.int64]) -> Scaler:
        """Return the scaler of some rows of a matrix of features, shape (n, f)."""
        parts = [rows[start : start + _ROWS] for start in range(0, rows.size, _ROWS)]
        mean = sum((x[part].sum(axis=0, dtype=np.float64) for part in parts), np.zeros(x.shape[1])) / rows.size
        squares = sum((((x[part] - mean) ** 2).sum(axis=0) for part in parts), np.zeros(x.shape[1]))
        deviation = np.sqrt(squares / rows.size)
        scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def apply(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return standardised features, shape (n, f), each from -CLIP to CLIP."""
        scaled: NDArray[np.float32] = np.clip((x - self.mean) * self.scale, -CLIP, CLIP)
        return scaled


def find_constant(x: NDArray[np.float32], rows: slice, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features that have one value in all of some rows."""
    block = x[rows]
    constant = block.min(axis=0) == block.max(axis=0)
    return tuple(name for name, is_constant in zip(names, constant.tolist(), strict=True) if is_constant)


def known_inputs(ts_ms: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return sine and cosine of the time of day and of the week, UTC, shape (n, 4), of open times in ms UTC."""
    angles = [2 * np.pi * (ts_ms % period / period) for period in (DAY_MS, _WEEK_MS)]
    return np.stack([wave(angle) for angle in angles for wave in (np.sin, np.cos)], axis=1).astype(np.float32)


def make_variables(x: NDArray[np.float32], ts_ms: NDArray[np.int64], scaler: Scaler) -> NDArray[np.float32]:
    """Return the variables of bars, shape (n, f + 4), from their features, shape (n, f), and open times, ms UTC."""
    variables = np.empty((x.shape[0], x.shape[1] + len(KNOWN)), np.float32)
    variables[:, : x.shape[1]] = scaler.apply(x)
    variables[:, x.shape[1] :] = known_inputs(ts_ms)
    return variables
