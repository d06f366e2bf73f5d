"""What a market's features look like: how many are missing, and how the others are spread.

Pure. All symbols count together, as a learner is handed them.
"""

from __future__ import annotations

from dataclasses import dataclass
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
_TAIL: Final = 0.005  # left and right of the histogram; what lies there counts in its first and last bin


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values in bins of equal width.

    Attributes:
        low: Left end of the first bin, which holds all that is lower, too.
        high: Right end of the last one, which holds all that is higher, too.
        counts: Values in each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """One feature, of all symbols together.

    Attributes:
        name: The feature.
        rows: How many candles there are.
        null_share: Share of them without a value: in a warm-up, behind a gap.
        not_finite: How many values are NaN or infinite; the following leave them out.
        minimum: The least value; None, as all that follows, where there is none.
        maximum: The largest value.
        mean: Their mean.
        deviation: Their standard deviation.
        quantiles: Values at LEVELS.
        histogram: How they are spread, between the outer half percents.
    """

    name: str
    rows: int
    null_share: float
    not_finite: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    deviation: float | None
    quantiles: tuple[float, ...] | None
    histogram: Histogram | None


def profile_features(feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]) -> tuple[FeatureProfile, ...]:
    """Compute every feature of every symbol and tell how its values are spread, in column order.

    Raises:
        InputError: The candles lack what a feature reads.
    """
    check_inputs(feature_set, candles)
    tables = [compute_features(feature_set, symbol, candles) for symbol in sorted(candles)]
    return tuple(
        _profile(name, np.concatenate([t[name].to_numpy() for t in tables]), sum(t[name].null_count() for t in tables))
        for name in feature_set.names
    )


def _profile(name: str, values: NDArray[np.float32], nulls: int) -> FeatureProfile:
    """Describe values, NaN where there is none.

    Args:
        name: The feature.
        values: Its values, shape (rows,).
        nulls: How many of the NaN stand for no value.
    """
    rows = values.size
    finite = values[np.isfinite(values)].astype(np.float64)
    not_finite = rows - nulls - finite.size
    share = nulls / rows if rows else 0.0
    if not finite.size:
        return FeatureProfile(name, rows, share, not_finite, None, None, None, None, None, None)
    low, *levels, high = np.quantile(finite, [_TAIL, *LEVELS, 1 - _TAIL]).tolist()
    if low == high:
        low, high = float(finite.min()), float(finite.max())
    return FeatureProfile(
        name=name,
        rows=rows,
        null_share=share,
        not_finite=not_finite,
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        mean=float(finite.mean()),
        deviation=float(finite.std()),
        quantiles=tuple(levels),
        histogram=Histogram(low, high, _counts(finite, low, high)),
    )


def _counts(values: NDArray[np.float64], low: float, high: float) -> tuple[int, ...]:
    """Count values in BINS bins of equal width; equal values are in the middle."""
    share = (np.clip(values, low, high) - low) / (high - low) if high > low else np.full(values.size, 0.5)
    bins = np.minimum((share * BINS).astype(np.int64), BINS - 1)
    return tuple(np.bincount(bins, minlength=BINS).tolist())
