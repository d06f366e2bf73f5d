"""What is under audit: one symbol's features as the whole history gives them, and ways to compute them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.features.user_ops import user_module_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet

Candles: TypeAlias = Mapping[str, pl.DataFrame]
Compute: TypeAlias = Callable[["FeatureSet", str, Candles], pl.DataFrame]

CANARY: Final = "planted_future"  # ln(close[t+1] / close[t]), where every feature stands


@dataclass(frozen=True, slots=True)
class Part:
    """Features that read the same symbols.

    Attributes:
        features: They alone, as a registry.
        columns: Where each of them, and at last the canary, stands in the batch.
        reads: The symbols that they may read.
        own: Whether their ops are the user's own, which have no tests but the audit's.
    """

    features: FeatureSet
    columns: NDArray[np.intp]
    reads: tuple[str, ...]
    own: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """One symbol under audit.

    Attributes:
        symbol: Its name.
        ts_ms: Open time of each row.
        names: The features, and at last the canary.
        batch: What the whole history gives, shape (rows, names); NaN where there is no value.
        scale: Of each column: its standard deviation, or 1 where it has none.
        parts: The features, by the symbols that they read, and whether their ops are the user's own.
        lookbacks: The features, by these and by their declared lookback.
    """

    symbol: str
    ts_ms: NDArray[np.int64]
    names: tuple[str, ...]
    batch: NDArray[np.float32]
    scale: NDArray[np.float64]
    parts: tuple[Part, ...]
    lookbacks: tuple[tuple[int, Part], ...]


def values_of(compute: Compute, features: FeatureSet, symbol: str, candles: Candles) -> NDArray[np.float32]:
    """Return a symbol's features and at last the canary, shape (rows, features + 1); NaN where there is no value."""
    frame = compute(features, symbol, candles)
    close = candles[symbol]["close"].to_numpy()
    planted = np.full(close.size, np.nan, dtype=np.float32)
    planted[:-1] = np.log(close[1:] / close[:-1])
    return np.column_stack([*(frame[name].to_numpy() for name in features.names), planted])


def open_subject(compute: Compute, features: FeatureSet, symbol: str, candles: Candles) -> Subject:
    """Compute the whole history of one symbol, and sort its features by what they may read.

    Raises:
        InputError: The candles lack what a feature reads.
    """
    batch = values_of(compute, features, symbol, candles)
    by_reads: dict[tuple[str | None, bool], list[int]] = {}
    by_lookback: dict[tuple[str | None, bool, int], list[int]] = {}
    for i, (spec, window) in enumerate(zip(features.features, features.windows(), strict=True)):
        reads = None if spec.leader == symbol else spec.leader, user_module_of(spec.op) is not None
        by_reads.setdefault(reads, []).append(i)
        by_lookback.setdefault((*reads, window.lookback_bars), []).append(i)
    return Subject(
        symbol=symbol,
        ts_ms=times_ms(candles[symbol]),
        names=(*features.names, CANARY),
        batch=batch,
        scale=np.array([_scale(column) for column in batch.T]),
        parts=tuple(_part(features, symbol, *reads, indices) for reads, indices in by_reads.items()),
        lookbacks=tuple(
            (bars, _part(features, symbol, leader, own, indices))
            for (leader, own, bars), indices in by_lookback.items()
        ),
    )


def _part(features: FeatureSet, symbol: str, leader: str | None, own: bool, indices: Sequence[int]) -> Part:  # noqa: FBT001
    chosen = replace(features, features=tuple(features.features[i] for i in indices))
    reads = (symbol,) if leader is None else (symbol, leader)
    return Part(chosen, np.array([*indices, len(features.features)]), reads, own)


def differ(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell where two values have other bits; no value equals no value."""
    same = (one.view(np.uint32) == other.view(np.uint32)) | (np.isnan(one) & np.isnan(other))
    differs: NDArray[np.bool_] = ~same
    return differs


def _scale(values: NDArray[np.float32]) -> float:
    """Return the standard deviation of the values that there are, or 1 where there is none."""
    found = values[np.isfinite(values)].astype(np.float64)
    deviation = float(found.std()) if found.size else 0.0
    return deviation if 0 < deviation < np.inf else 1.0
