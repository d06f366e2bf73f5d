"""Feature profiles: how many values are missing, and how the others are distributed.

Pure. The values of all symbols are pooled, as in the training matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.features.computation import check_inputs, compute_features

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet

LEVELS: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS: Final = 24
# Share of the values below and above the histogram's range; they count in its first and last bin.
_TAIL: Final = 0.005


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        low: Left edge of the first bin; lower values count in it.
        high: Right edge of the last bin; higher values count in it.
        counts: Number of values in each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """The distribution of one feature, all symbols pooled.

    Attributes:
        name: The feature.
        rows: Number of candles.
        null_share: Share of the rows without a value, because of a warm-up or a gap.
        not_finite: Number of values that are NaN or infinite; the statistics below leave them out.
        minimum: Smallest finite value; None, like all that follow, if there is no finite value.
        maximum: Largest finite value.
        mean: Mean.
        deviation: Standard deviation.
        quantiles: Quantiles at LEVELS.
        histogram: Counts between the quantiles 0.005 and 0.995.
    """

    name: str
    rows: int
    null_share: float
    not_finite: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    quantiles: tuple[float, ...] | None = None
    histogram: Histogram | None = None


def profile_features(feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]) -> tuple[FeatureProfile, ...]:
    """Compute every feature of every symbol, and return the profiles in column order.

    Raises:
        InputError: The candles lack what a feature reads.
    """
    check_inputs(feature_set, candles)
    tables = [compute_features(feature_set, symbol, candles) for symbol in sorted(candles)]
    return tuple(
        profile(name, np.concatenate([t[name].to_numpy() for t in tables]), sum(t[name].null_count() for t in tables))
        for name in feature_set.names
    )


def profile(name: str, values: NDArray[np.float32], nulls: int) -> FeatureProfile:
    """Summarize a feature's values, shape (rows,), in which `nulls` of the NaN stand for null."""
    rows = values.size
    finite = values[np.isfinite(values)].astype(np.float64)
    null_share = nulls / rows if rows else 0.0
    counts = FeatureProfile(name=name, rows=rows, null_share=null_share, not_finite=rows - nulls - finite.size)
    if not finite.size:
        return counts
    minimum, maximum = float(finite.min()), float(finite.max())
    low, *levels, high = np.quantile(finite, [_TAIL, *LEVELS, 1 - _TAIL]).tolist()
    if low == high:
        low, high = minimum, maximum
    return replace(
        counts,
        minimum=minimum,
        maximum=maximum,
        mean=float(finite.mean()),
        deviation=float(finite.std()),
        quantiles=tuple(levels),
        histogram=Histogram(low, high, _count_bins(finite, low, high)),
    )


def _count_bins(values: NDArray[np.float64], low: float, high: float) -> tuple[int, ...]:
    """Count the values in BINS bins of equal width from `low` to `high`; if they are equal, all are in the middle."""
    share = (np.clip(values, low, high) - low) / (high - low) if high > low else np.full(values.size, 0.5)
    bins = np.minimum((share * BINS).astype(np.int64), BINS - 1)
    return tuple(np.bincount(bins, minlength=BINS).tolist())
