"""Samples: the rows of a training, of all symbols, in the order of time.

Features and labels are joined here; candles that do not become rows are counted by reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError
from mltrain.features.computation import check_inputs, compute_features
from mltrain.times import format_ms, interval_ms
from mltrain.training.label import make_labels

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet, LabelSpec

# Below this, a booster memorises its rows.
MIN_TRAIN_ROWS: Final = 1_000
# Rows of the matrix that are moved, and so held twice, in one step.
_MOVED_ROWS: Final = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Rows sorted by time, then symbol; no value is missing or infinite.

    Attributes:
        x: Features, shape (n, f), C order.
        y: Labels, shape (n,): 1 where the price went up, else 0.
        ts_ms: Open time of each row's candle, UTC ms, shape (n,), never falling.
        label_end_ms: Open time of the candle that decided each label, UTC ms, shape (n,).
        symbol_ix: Position of each row's symbol in `symbols`, shape (n,).
        last_move: Sign of the price move that ended with each row's candle, shape (n,); 0 also if it is unknown.
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
        is_valid = (
            self.x.shape == (n, len(self.names))
            and self.x.dtype == np.float32
            and self.x.flags.c_contiguous
            and all(c.shape == (n,) for c in columns)
            and bool((np.diff(self.ts_ms) >= 0).all() and (self.label_end_ms > self.ts_ms).all())
            # LightGBM would accept other labels silently.
            and bool((self.y <= 1).all())
        )
        if not is_valid:
            msg = f"samples of shape {self.x.shape} with {n} times are not rows in the order of time"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class SymbolQuality:
    """How many of one symbol's candles became rows, and why the others were dropped: each for its first reason.

    Attributes:
        symbol: The symbol.
        candles: Number of candles.
        rows: Candles that became rows.
        no_features: Candles dropped in the warm-up after the start or after a gap.
        no_label: Candles dropped because the candle at the horizon is missing or in the future.
        ties: Candles dropped because the price then moved by no more than the label's cost.
        tie_share: Share of ties among all candles with a known outcome, dropped or not; None without such candles.
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
    """Compute features and labels of every symbol, and join those of the candles that have all of them.

    Args:
        feature_set: Features, label and interval.
        candles: Checked candles by symbol; those of leaders also become rows.

    Returns:
        The rows, and the counts of each symbol, sorted by symbol.

    Raises:
        InputError: No row has all features and a label.
    """
    check_inputs(feature_set, candles)
    symbols = tuple(sorted(candles))
    symbol_times = [times_ms(candles[symbol]) for symbol in symbols]
    ts_ms = np.concatenate(symbol_times)
    symbol_ix = np.repeat(np.arange(len(symbols), dtype=np.int16), [times.size for times in symbol_times])
    # Stable: symbols keep their order within each time.
    order = np.argsort(ts_ms, kind="stable")
    candle_rows = Samples(
        # One matrix, filled in place: a second copy of a hundred symbols would not fit in memory.
        x=np.empty((ts_ms.size, len(feature_set.names)), np.float32),
        y=np.zeros(ts_ms.size, np.uint8),
        ts_ms=ts_ms[order],
        label_end_ms=ts_ms[order] + feature_set.label.horizon_bars * interval_ms(feature_set.interval),
        symbol_ix=symbol_ix[order],
        last_move=np.zeros(ts_ms.size, np.int8),
        symbols=symbols,
        names=feature_set.names,
    )
    is_complete = np.zeros(ts_ms.size, np.bool_)
    qualities = tuple(
        _fill_symbol(candle_rows, is_complete, feature_set, candles, symbol_ix=ix) for ix in range(len(symbols))
    )
    samples = _compact(candle_rows, is_complete)
    _check_label(feature_set.label, qualities)
    if not samples.y.size:
        raise InputError(
            f"no row of {', '.join(symbols)} has every feature and a label: the longest feature needs "
            f"{feature_set.lookback_bars} candles in a row, the label {feature_set.label.horizon_bars} more",
            hint="take a longer snapshot",
        )
    check_finite(samples)
    return samples, qualities


def _check_label(label: LabelSpec, qualities: Sequence[SymbolQuality]) -> None:
    """Raise an InputError if a threshold leaves fewer rows than any training needs; a longer snapshot hardly helps."""
    rows, ties = sum(quality.rows for quality in qualities), sum(quality.ties for quality in qualities)
    if label.kind == "threshold" and rows < MIN_TRAIN_ROWS < ties:
        raise InputError(
            f"only {rows:,} of {rows + ties:,} candles move by more than {label.cost_bps:g} bps in "
            f"{label.horizon_bars} bars: a training needs {MIN_TRAIN_ROWS:,} rows at least",
            hint="lower the label's cost_bps, or raise its horizon",
        )


def _fill_symbol(
    candle_rows: Samples,
    is_complete: NDArray[np.bool_],
    feature_set: FeatureSet,
    candles: Mapping[str, pl.DataFrame],
    *,
    symbol_ix: int,
) -> SymbolQuality:
    """Write one symbol's features, labels and last moves into its rows of `candle_rows`, a row per candle.

    Rows with every feature and a label are marked in `is_complete`, shape (n,); the other candles are counted.
    """
    symbol = candle_rows.symbols[symbol_ix]
    features = compute_features(feature_set, symbol, candles).drop("ts")
    labels = make_labels(candles[symbol], feature_set.label, interval_ms(feature_set.interval))
    rows = np.flatnonzero(candle_rows.symbol_ix == symbol_ix)
    # A null becomes NaN, in a row that is not complete.
    candle_rows.x[rows] = features.to_numpy()
    candle_rows.y[rows] = labels["y"].fill_null(0).to_numpy()
    candle_rows.last_move[rows] = labels["last_move"].fill_null(0).to_numpy()
    has_features = features.select(pl.all_horizontal(pl.all().is_not_null()))[:, 0].to_numpy()
    has_outcome, has_label = (labels[name].is_not_null().to_numpy() for name in ("tie", "y"))
    is_complete[rows] = has_features & has_label
    return SymbolQuality(
        symbol=symbol,
        candles=rows.size,
        rows=int(np.count_nonzero(has_features & has_label)),
        no_features=int(np.count_nonzero(~has_features)),
        no_label=int(np.count_nonzero(has_features & ~has_outcome)),
        ties=int(np.count_nonzero(has_features & has_outcome & ~has_label)),
        tie_share=labels.select(pl.col("tie").mean()).item(),
    )


def _compact(samples: Samples, is_kept: NDArray[np.bool_]) -> Samples:
    """Return the rows to keep; they overwrite the front of the matrix of `samples`, which must not be used again."""
    rows = np.flatnonzero(is_kept)
    for start in range(0, rows.size, _MOVED_ROWS):
        part = rows[start : start + _MOVED_ROWS]
        # Rows only move towards the front.
        samples.x[start : start + part.size] = samples.x[part]
    return _with_rows(samples, samples.x[: rows.size], rows)


def keep_symbols(samples: Samples, symbols: Collection[str]) -> Samples:
    """Return the rows of some of the samples' symbols.

    The matrix is compacted in place, because a copy of a hundred symbols would not fit in memory: do not use `samples`
    afterwards.
    """
    kept = tuple(symbol for symbol in samples.symbols if symbol in symbols)
    new_ix = np.array([kept.index(s) if s in kept else -1 for s in samples.symbols], np.int16)[samples.symbol_ix]
    renumbered = replace(samples, symbols=kept, symbol_ix=new_ix)
    return renumbered if (new_ix >= 0).all() else _compact(renumbered, new_ix >= 0)


def check_finite(samples: Samples) -> None:
    """Refuse features that are infinite or missing.

    Raises:
        InputError: Names feature, symbol, time and value of the first one.
    """
    # The sum of a column is finite only if each value is; this needs no mask of the size of x.
    is_finite = np.isfinite(samples.x.sum(axis=0, dtype=np.float64))
    if is_finite.all():
        return
    column = int(np.argmin(is_finite))
    row = int(np.argmin(np.isfinite(samples.x[:, column])))
    raise InputError(
        f"feature {samples.names[column]} of {samples.symbols[samples.symbol_ix[row]]} at "
        f"{format_ms(int(samples.ts_ms[row]))} is {samples.x[row, column]}: features must be finite",
        hint="see `mltrain features audit`",
    )


def keep_newest(candles: Mapping[str, pl.DataFrame], max_rows: int) -> dict[str, pl.DataFrame]:
    """Return every symbol's candles from one time on: the earliest that leaves no more than `max_rows` in all.

    Args:
        candles: Candles by symbol.
        max_rows: Greatest number of candles of all symbols together; 0: no limit.

    Raises:
        InputError: The candles of the newest time alone are more.
    """
    if not 0 < max_rows < sum(frame.height for frame in candles.values()):
        return dict(candles)
    times = np.sort(np.concatenate([times_ms(frame) for frame in candles.values()]))
    # Candles of one time are kept together: the first time after that of the newest candle that does not fit.
    start = int(np.searchsorted(times, times[times.size - max_rows - 1], side="right"))
    if start == times.size:
        raise InputError(
            f"max_rows = {max_rows} is too small: {np.count_nonzero(times == times[-1])} symbols have a candle at "
            f"{format_ms(int(times[-1]))}",
            hint="pass a larger --max-rows, or 0 for all candles",
        )
    return {symbol: frame.filter(pl.Series(times_ms(frame) >= times[start])) for symbol, frame in candles.items()}


def take_rows(samples: Samples, rows: slice | NDArray[np.int64]) -> Samples:
    """Return the rows at increasing positions; those of a slice share the memory of `samples`."""
    return _with_rows(samples, samples.x[rows], rows)


def _with_rows(samples: Samples, x: NDArray[np.float32], rows: slice | NDArray[np.int64]) -> Samples:
    """Return samples with the matrix `x`, and the rows at these positions of all other arrays."""
    return replace(
        samples,
        x=x,
        y=samples.y[rows],
        ts_ms=samples.ts_ms[rows],
        label_end_ms=samples.label_end_ms[rows],
        symbol_ix=samples.symbol_ix[rows],
        last_move=samples.last_move[rows],
    )


def matrix_sha256(samples: Samples) -> str:
    """Return the SHA-256 (hexadecimal) of feature names, symbols, shapes and the bytes of each array."""
    digest = hashlib.sha256()
    for text in ("samples 1", *samples.names, "", *samples.symbols):
        digest.update(text.encode() + b"\n")
    arrays = (samples.x, samples.y, samples.ts_ms, samples.label_end_ms, samples.symbol_ix, samples.last_move)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
