"""Samples: the rows that a learner sees, of all symbols, in the order of time.

Pure. Features and labels meet here, once, for training; whatever cannot be a row is counted by its reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.frame import format_ms, interval_ms
from mltrain.errors import InputError
from mltrain.features.compute import check_inputs, compute_features
from mltrain.learn.label import make_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.features.registry import FeatureSet


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Rows sorted by time, then symbol; no value is missing or infinite.

    Attributes:
        x: Features, shape (n, f), C order.
        y: Labels, shape (n,): 1 where the price went up.
        ts_ms: Open time of each row's candle, shape (n,), never falling.
        label_end_ms: Open time of the candle that decided the label, shape (n,).
        symbol_ix: Position of the row's symbol in `symbols`, shape (n,).
        last_move: Sign of the move that ended with the row's candle, shape (n,); 0 too where it is unknown.
        symbols: The symbols, sorted.
        names: The features, in the order of the columns.
    """

    x: NDArray[np.float32]
    y: NDArray[np.uint8]
    ts_ms: NDArray[np.int64]
    label_end_ms: NDArray[np.int64]
    symbol_ix: NDArray[np.int16]
    last_move: NDArray[np.int8]
    symbols: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = self.ts_ms.size
        columns = (self.y, self.label_end_ms, self.symbol_ix, self.last_move)
        sound = (
            self.x.shape == (n, len(self.names))
            and self.x.dtype == np.float32
            and self.x.flags.c_contiguous
            and all(c.shape == (n,) for c in columns)
            and bool((np.diff(self.ts_ms) >= 0).all() and (self.label_end_ms > self.ts_ms).all())
            and bool((self.y <= 1).all())  # LightGBM would take any other label without a word
        )
        if not sound:
            msg = f"samples of shape {self.x.shape} with {n} times are not rows in the order of time"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class SymbolQuality:
    """What became of one symbol's candles. A candle that lacks several things counts under the first.

    Attributes:
        symbol: The symbol.
        candles: Candles in the snapshot.
        rows: Those that became rows.
        no_features: Dropped: in the warm-up behind the start or behind a hole.
        no_label: Dropped: the candle at the horizon is missing, or not there yet.
        ties: Dropped: the price did not move.
        tie_share: Share of ties among all candles whose label is known, dropped or not; None without such candles.
    """

    symbol: str
    candles: int
    rows: int
    no_features: int
    no_label: int
    ties: int
    tie_share: float | None


def build_samples(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]
) -> tuple[Samples, tuple[SymbolQuality, ...]]:
    """Compute features and labels of every symbol and join them to rows.

    Args:
        feature_set: Features, label and interval.
        candles: Checked candles by symbol; each of them becomes rows, a leader too.

    Returns:
        The rows, and what was dropped of each symbol, in the order of their names.

    Raises:
        InputError: Candles lack what a feature reads, a feature is infinite, or no row remains.
    """
    check_inputs(feature_set, candles)
    symbols = tuple(sorted(candles))
    parts = [_join_symbol(feature_set, symbol, candles, ix) for ix, symbol in enumerate(symbols)]
    # Stable: symbols stay in their order within each time.
    rows = pl.concat([kept for kept, _ in parts]).sort("ts", maintain_order=True)
    if rows.is_empty():
        raise InputError(
            f"no row of {', '.join(symbols)} has every feature and a label: the longest feature needs "
            f"{feature_set.lookback_bars} candles in a row, the label {feature_set.label.horizon_bars} more",
            hint="take a longer snapshot",
        )
    x = rows.select(feature_set.names).to_numpy(order="c").astype(np.float32, order="C", copy=False)
    _check_finite(x, rows, feature_set.names, symbols)
    samples = Samples(
        x=x,
        y=rows["y"].to_numpy(),
        ts_ms=rows["ts"].dt.timestamp("ms").to_numpy(),
        label_end_ms=rows["label_end"].to_numpy(),
        symbol_ix=rows["symbol_ix"].to_numpy(),
        last_move=rows["last_move"].to_numpy(),
        symbols=symbols,
        names=feature_set.names,
    )
    return samples, tuple(quality for _, quality in parts)


def _join_symbol(
    feature_set: FeatureSet, symbol: str, candles: Mapping[str, pl.DataFrame], symbol_ix: int
) -> tuple[pl.DataFrame, SymbolQuality]:
    features = compute_features(feature_set, symbol, candles)
    labels = make_labels(candles[symbol], feature_set.label, interval_ms(feature_set.interval))
    # Both have the rows of `candles[symbol]`, in order.
    joined = features.hstack(labels.drop("ts")).with_columns(
        pl.lit(symbol_ix, dtype=pl.Int16).alias("symbol_ix"), pl.col("last_move").fill_null(0)
    )
    featured = pl.all_horizontal(pl.col(feature_set.names).is_not_null())
    known = pl.col("tie").is_not_null()
    kept = joined.filter(featured, pl.col("y").is_not_null()).drop("tie")
    no_features, no_label, tie_share = joined.select(
        (~featured).sum(), (featured & ~known).sum().alias("no_label"), pl.col("tie").mean()
    ).row(0)
    quality = SymbolQuality(
        symbol=symbol,
        candles=joined.height,
        rows=kept.height,
        no_features=no_features,
        no_label=no_label,
        ties=joined.height - kept.height - no_features - no_label,
        tie_share=tie_share,
    )
    return kept, quality


def _check_finite(x: NDArray[np.float32], rows: pl.DataFrame, names: tuple[str, ...], symbols: tuple[str, ...]) -> None:
    # The sum of a column is finite only where each of its values is; it needs no mask of the size of x.
    bad = [i for i in range(len(names)) if not np.isfinite(x[:, i].sum(dtype=np.float64))]
    if not bad:
        return
    row = int(np.flatnonzero(~np.isfinite(x[:, bad[0]]))[0])
    time = format_ms(rows["ts"].dt.timestamp("ms")[row])
    raise InputError(
        f"feature {names[bad[0]]} of {symbols[rows['symbol_ix'][row]]} at {time} is {x[row, bad[0]]}: "
        "features must be finite",
        hint="run `mltrain features audit`" if len(bad) == 1 else f"so are {len(bad) - 1} more features",
    )


def take_rows(samples: Samples, rows: slice) -> Samples:
    """Return a run of rows as samples of their own, without copying them."""
    return replace(
        samples,
        x=samples.x[rows],
        y=samples.y[rows],
        ts_ms=samples.ts_ms[rows],
        label_end_ms=samples.label_end_ms[rows],
        symbol_ix=samples.symbol_ix[rows],
        last_move=samples.last_move[rows],
    )


def matrix_sha256(samples: Samples) -> str:
    """Return the hash of everything that a learner sees: names, symbols, shapes and the bytes of each array."""
    digest = hashlib.sha256()
    for text in ("samples 1", *samples.names, "", *samples.symbols):
        digest.update(text.encode() + b"\n")
    arrays = (samples.x, samples.y, samples.ts_ms, samples.label_end_ms, samples.symbol_ix, samples.last_move)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
