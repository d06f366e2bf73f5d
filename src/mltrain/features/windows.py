"""Sliding windows for ops: the value depends only on the rows of the window, to the last bit.

A running sum keeps the rounding errors of rows that have left it: after a volume of 5e8, a sum of thousandths stays
wrong. Here every window is combined from blocks of 1, 2, 4, ... bars, always in the same order, so that a batch, a
prefix and the last `bars` rows give the same bits, with log2(bars) passes over the data. Mean, deviation and skewness
are merged by the pairwise formulas of Chan, Golub and LeVeque (1983) and Pebay (2008, SAND2008-6212), which subtract no
large sums and give a deviation of exactly 0 where all values are equal.

A window that reaches before the first row or contains a missing value is NaN. Gaps are handled by
`mltrain.features.computation`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

import numpy as np
import polars as pl

from mltrain.features.formula import Formula, float_formula, fold, merge_states, run_kernel, where, with_formula

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mltrain.features.formula import Floats, Kernel, Merge, State

Statistic: TypeAlias = Literal["sum", "mean", "root_mean_square", "share", "range_position"]

# Values whose deviation is below this share of their mean count as equal: at 1e-9, rounding (1e-16 of the mean) can
# change a z-score by 1e-7 of its size, the resolution of float32.
EQUAL_SHARE: Final = 1e-9

# Rows per chunk: the dozen arrays of a third moment then fit into the second-level cache of the processor.
_CHUNK_ROWS: Final = 16_384


def window_sum(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the sum of the last `bars` values."""
    return _windowed(_sums, bars, values)


def window_mean(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the mean of the last `bars` values; exactly their value where all are equal."""
    return _windowed(_means, bars, values)


def window_exponential_mean(values: pl.Expr, bars: int, *, decay: float) -> pl.Expr:
    """Return the mean of the last `bars` values, each weighted `decay` (0 to 1) times the one after it."""
    return _windowed(partial(_exponential_means, decay=decay), bars, values)


def window_root_mean_square(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the square root of the mean square of the last `bars` values."""
    return _windowed(_root_mean_squares, bars, values)


def window_zscore(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the z-score of the newest of the last `bars` values; 0 where they are equal."""
    return _windowed(_zscores, bars, values)


def window_skew(values: pl.Expr, bars: int, *, min_deviation: float) -> pl.Expr:
    """Return the skewness of the last `bars` values; 0 where their deviation is not above `min_deviation`."""
    return _windowed(partial(_skews, min_deviation=min_deviation), bars, values)


def window_max(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the largest of the last `bars` values."""
    return _windowed(_maxima, bars, values)


def window_min(values: pl.Expr, bars: int) -> pl.Expr:
    """Return the smallest of the last `bars` values."""
    return _windowed(_minima, bars, values)


def window_ratio(numerator: pl.Expr, denominator: pl.Expr, bars: int, *, empty: float = 0.0) -> pl.Expr:
    """Return the ratio of the sums of the last `bars` values; `empty` where the denominator's is not above 0."""
    return _windowed(partial(_sum_ratios, empty=empty), bars, numerator, denominator)


def window_scaled(value: pl.Expr, moves: pl.Expr, bars: int) -> pl.Expr:
    """Return the newest value over the root mean square of the last `bars` moves; 0 where that is not above 0."""
    return _windowed(_scaled, bars, value, moves)


def window_range_position(value: pl.Expr, low: pl.Expr, high: pl.Expr, bars: int) -> pl.Expr:
    """Return the newest value's position between the lowest low (0) and the highest high (1); 0.5 without a range."""
    return _windowed(_range_positions, bars, value, low, high)


def window_contrast(values: pl.Expr, *, short: int, long: int) -> pl.Expr:
    """Return (a - b) / (a + b), a and b the means of the last `short` and `long` values, which are 0 or more."""
    return _windowed(partial(_window_contrasts, short=short), long, values)


def window_root_contrast(values: pl.Expr, *, short: int, long: int) -> pl.Expr:
    """Return (a - b) / (a + b), a and b the root mean squares of the last `short` and `long` values."""
    return _windowed(partial(_root_contrasts, short=short), long, values)


def window_correlation(first: pl.Expr, second: pl.Expr, bars: int) -> pl.Expr:
    """Return the correlation about zero of the last `bars` pairs, in [-1, 1]; 0 where either is zero throughout."""
    return _windowed(_correlations, bars, first, second)


def window_price_ratio(
    price: pl.Expr, paid: pl.Expr, volume: pl.Expr, low: pl.Expr, high: pl.Expr, *, bars: int
) -> pl.Expr:
    """Return the newest price divided by the average price, sum paid / sum volume, of the last `bars` values.

    The average is clipped to the lowest low and the highest high; the ratio is 1 where the sum of volumes is not above
    0.
    """
    return _windowed(_price_ratios, bars, price, paid, volume, low, high)


def window_run(signs: pl.Expr, bars: int) -> pl.Expr:
    """Return the length of the run of signs that equal the newest, at most `bars`, times that sign."""
    return _windowed(_runs, bars, signs, recorded=False)


def window_at_ends(statistic: Statistic, is_end: pl.Expr, *inputs: pl.Expr, count: int, bars: int) -> pl.Expr:
    """Return a statistic of the last `count` of those rows where `is_end` is 1.

    Args:
        statistic: "sum", "mean" or "root_mean_square" of one input; "share": the ratio of the sums of two, 0.5 where
            that of the second is not above 0; "range_position" of three as in `window_range_position`.
        is_end: 1 or 0 at each row; at least `count` of `bars` rows without a gap are 1.
        inputs: The values.
        count: Number of values that the statistic is of.
        bars: Number of rows that it depends on, the newest included.
    """
    kernel = partial(_at_ends, kernel=_STATISTICS[statistic], count=count)
    return _windowed(kernel, bars, is_end, *inputs, recorded=False)


def ratio(numerator: pl.Expr, denominator: pl.Expr, *, empty: float = 0.0) -> pl.Expr:
    """Return numerator / denominator; `empty` where the denominator is not above 0."""
    return window_ratio(numerator, denominator, 1, empty=empty)


def share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """Return part / whole, two expressions of the same candle; 0 where the whole is not above 0.

    Equals `ratio`, without its call into Python, which dominates for few rows; but Polars computes `whole` twice.
    """
    return where(whole > 0, part / whole, 0.0)


def contrast(a: pl.Expr, b: pl.Expr) -> pl.Expr:
    """Return (a - b) / (a + b) of two amounts of 0 or more, in [-1, 1]; 0 where both are 0."""
    return _windowed(_contrasts, 1, a, b)


def _windowed(kernel: Kernel, bars: int, *inputs: pl.Expr, recorded: bool = True) -> pl.Expr:
    """Return an expression that applies a kernel to every window of `bars` rows; NaN in the first `bars` - 1 rows.

    A kernel that works on each row of its windows' statistics alike is `recorded` as a formula by calling it with the
    formulas of its inputs.
    """
    # A Polars expression that uses a window three times computes it three times; a kernel computes it once.
    expr = pl.map_batches(inputs, partial(_apply_kernel, bars=bars, kernel=kernel), return_dtype=pl.Float64)
    formulas = tuple(formula for value in inputs if (formula := float_formula(value)) is not None)
    if len(formulas) < len(inputs):
        return expr
    # mypy: a formula stands for an array.
    formula = cast("Formula", kernel(bars, *formulas)) if recorded else run_kernel(kernel, bars, formulas)
    return with_formula(expr, formula)


def _apply_kernel(inputs: Sequence[pl.Series], *, bars: int, kernel: Kernel) -> pl.Series:
    """Apply a kernel, which maps n values to their n - bars + 1 windows, chunk by chunk."""
    # Null becomes NaN.
    arrays = [series.to_numpy().astype(np.float64, copy=False) for series in inputs]
    rows = arrays[0].size
    out = np.full(rows, np.nan)
    # A warm-up is NaN, and the false candles of an audit may overflow.
    with np.errstate(all="ignore"):
        for start in range(bars - 1, rows, _CHUNK_ROWS):
            stop = min(start + _CHUNK_ROWS, rows)
            out[start:stop] = kernel(bars, *(array[start - bars + 1 : stop] for array in arrays))
    return pl.Series(out, nan_to_null=False)


def merge_windows(leaf: State, bars: int, merge: Merge) -> State:
    """Combine every window of `bars` rows from windows of 1, 2, 4, ... rows.

    Args:
        leaf: The state of each single row, arrays of shape (n,).
        bars: Rows of a window, 1 to n.
        merge: Merges the states of two adjacent windows (earlier, its bars, later, its bars).

    Returns:
        The state of each window, arrays of shape (n - bars + 1,), ordered by the window's first row.
    """
    if isinstance(leaf[0], Formula):
        return cast("State", merge_states(cast("tuple[Formula, ...]", leaf), bars, merge))
    block, block_bars = leaf, 1
    whole: State | None = None
    whole_bars = 0
    while True:
        if bars & block_bars:
            whole = block if whole is None else _join(block, block_bars, whole, whole_bars, merge)
            whole_bars += block_bars
        if whole is not None and whole_bars == bars:
            return whole
        block = _join(block, block_bars, block, block_bars, merge)
        block_bars *= 2


def fold_windows(values: Floats, bars: int, join: np.ufunc) -> Floats:
    """Combine windows like `merge_windows`, for a state that is one number, merged by `join`.

    A separate function, because without tuples the few rows of a prediction take 40 % of the time.
    """
    if isinstance(values, Formula):
        return cast("Floats", fold(values, bars, join) if bars > 1 else values)
    block, block_bars = values, 1
    whole: Floats | None = None
    whole_bars = 0
    while True:
        if bars & block_bars:
            whole = block if whole is None else join(block[: whole.size - block_bars], whole[block_bars:])
            whole_bars += block_bars
        if whole is not None and whole_bars == bars:
            return whole
        block = join(block[:-block_bars], block[block_bars:])
        block_bars *= 2


def _join(earlier: State, earlier_bars: int, later: State, later_bars: int, merge: Merge) -> State:
    """Merge each window of `earlier` with the window of `later` that follows it."""
    later = tuple(part[earlier_bars:] for part in later)
    earlier = tuple(part[: later[0].size] for part in earlier)
    return merge(earlier, earlier_bars, later, later_bars)


def _merge_means(earlier: State, earlier_bars: int, later: State, later_bars: int) -> State:
    """Merge the means of two adjacent windows."""
    return (earlier[0] + (later[0] - earlier[0]) * (later_bars / (earlier_bars + later_bars)),)


def _merge_squares(earlier: State, earlier_bars: int, later: State, later_bars: int) -> State:
    """Merge (mean, sum of squared deviations) of two adjacent windows."""
    bars = earlier_bars + later_bars
    gap = later[0] - earlier[0]
    mean = earlier[0] + gap * (later_bars / bars)
    return mean, earlier[1] + later[1] + gap * gap * (earlier_bars * later_bars / bars)


def _merge_cubes(earlier: State, earlier_bars: int, later: State, later_bars: int) -> State:
    """Merge (mean, sum of squared deviations, sum of cubed deviations) of two adjacent windows."""
    bars = earlier_bars + later_bars
    mean, squares = _merge_squares(earlier[:2], earlier_bars, later[:2], later_bars)
    gap = later[0] - earlier[0]
    cubes = earlier[2] + later[2]
    cubes += gap * (later[1] * (3 * earlier_bars / bars) - earlier[1] * (3 * later_bars / bars))
    if earlier_bars != later_bars:
        cubes += gap * gap * gap * (earlier_bars * later_bars * (earlier_bars - later_bars) / bars**2)
    return mean, squares, cubes


def _sums(bars: int, values: Floats) -> Floats:
    return fold_windows(values, bars, np.add)


def _minima(bars: int, values: Floats) -> Floats:
    return fold_windows(values, bars, np.minimum)


def _maxima(bars: int, values: Floats) -> Floats:
    return fold_windows(values, bars, np.maximum)


def _range_positions(bars: int, values: Floats, low: Floats, high: Floats) -> Floats:
    """Return the position of each window's newest value between its lowest low (0) and its highest high (1)."""
    lowest, highest = _minima(bars, low), _maxima(bars, high)
    return np.where(highest <= lowest, 0.5, (values[bars - 1 :] - lowest) / (highest - lowest))


def _means(bars: int, values: Floats) -> Floats:
    return merge_windows((values,), bars, _merge_means)[0]


def _exponential_means(bars: int, values: Floats, *, decay: float) -> Floats:
    def merge(earlier: State, earlier_bars: int, later: State, later_bars: int) -> State:
        # The weights of both windows, by the sum of a geometric series.
        weight = decay**later_bars * (1 - decay**earlier_bars) / (1 - decay ** (earlier_bars + later_bars))
        return (later[0] + (earlier[0] - later[0]) * weight,)

    return merge_windows((values,), bars, merge)[0]


def _at_ends(bars: int, is_end: Floats, *inputs: Floats, kernel: Kernel, count: int) -> Floats:
    """Apply a kernel to the rows where `is_end` is 1, and return its newest value at each row from `bars` - 1 on."""
    ends = np.flatnonzero(is_end == 1)
    rows = np.arange(bars - 1, is_end.size)
    if ends.size < count:
        return np.full(rows.size, np.nan)
    values = kernel(count, *(values[ends] for values in inputs))
    newest = np.searchsorted(ends, rows, side="right") - count
    # Fewer ends than promised: rows of several segments, which are masked later.
    return np.where(newest >= 0, values[np.maximum(newest, 0)], np.nan)


def _root_mean_squares(bars: int, values: Floats) -> Floats:
    return _root(_sums(bars, values * values) / bars)


def _scaled(bars: int, values: Floats, moves: Floats) -> Floats:
    """Return the newest value of each window over the root mean square of its moves; 0 where nothing moves."""
    volatility = _root_mean_squares(bars, moves)
    return np.where(volatility > 0, values[bars - 1 :] / volatility, 0.0)


def _zscores(bars: int, values: Floats) -> Floats:
    mean, squares = merge_windows((values, np.zeros_like(values)), bars, _merge_squares)
    deviation = _root(squares / bars)
    return np.where(deviation > EQUAL_SHARE * np.abs(mean), (values[bars - 1 :] - mean) / deviation, 0.0)


def _skews(bars: int, values: Floats, *, min_deviation: float) -> Floats:
    zeros = np.zeros_like(values)
    _, squares, cubes = merge_windows((values, zeros, zeros), bars, _merge_cubes)
    deviation = _root(squares / bars)
    return np.where(deviation > min_deviation, cubes / bars / (deviation * deviation * deviation), 0.0)


def _sum_ratios(bars: int, numerator: Floats, denominator: Floats, *, empty: float) -> Floats:
    """Return the ratio of two sums over each window; `empty` where the denominator's is not above 0."""
    numerators, denominators = _sums(bars, numerator), _sums(bars, denominator)
    return np.where(denominators > 0, numerators / denominators, empty)


def _price_ratios(bars: int, price: Floats, paid: Floats, volume: Floats, *bounds: Floats) -> Floats:
    """Return the newest price of each window over its average price, clipped to its `bounds`, lows and highs."""
    low, high = bounds
    volumes = _sums(bars, volume)
    average = np.clip(_sums(bars, paid) / volumes, _minima(bars, low), _maxima(bars, high))
    return np.where(volumes <= 0, 1.0, price[bars - 1 :] / average)


def _runs(bars: int, signs: Floats) -> Floats:
    """Return the length of the run that ends each window, times its sign; NaN where a sign is missing."""
    if signs.size == bars:
        # A single window, as in serving.
        is_other = signs[::-1] != signs[-1]
        length = is_other.argmax() if is_other.any() else bars
        return np.array([np.nan if np.isnan(signs).any() else length * signs[-1]])
    newest = signs[bars - 1 :]
    is_running = np.ones(newest.size, dtype=np.bool_)
    length = np.zeros(newest.size)
    for lag in range(bars):
        is_running &= signs[bars - 1 - lag : signs.size - lag] == newest
        length += is_running
    return np.where(np.isnan(_sums(bars, signs)), np.nan, length * newest)


def _correlations(bars: int, first: Floats, second: Floats) -> Floats:
    products = _sums(bars, first * second)
    scale = _root(_sums(bars, first * first)) * _root(_sums(bars, second * second))
    return np.where(scale > 0, np.clip(products / scale, -1, 1), 0.0)


def _contrasts(_bars: int, a: Floats, b: Floats) -> Floats:
    """Return (a - b) / (a + b) of each row; 0 where the sum is not above 0."""
    total = a + b
    return np.where(total > 0, (a - b) / total, 0.0)


def _window_contrasts(long: int, values: Floats, *, short: int) -> Floats:
    """Return (a - b) / (a + b), a and b the means of the last `short` and of all rows of each window of `long` rows."""
    return _contrasts(1, _sums(short, values)[long - short :] / short, _sums(long, values) / long)


def _root_contrasts(long: int, values: Floats, *, short: int) -> Floats:
    """Return the same as `_window_contrasts` of the root mean squares of the values."""
    return _contrasts(1, _root_mean_squares(short, values)[long - short :], _root_mean_squares(long, values))


def _root(squares: Floats) -> Floats:
    root: Floats = np.sqrt(squares)
    return root


_STATISTICS: Final[Mapping[Statistic, Kernel]] = {
    "sum": _sums,
    "mean": _means,
    "root_mean_square": _root_mean_squares,
    "share": partial(_sum_ratios, empty=0.5),
    "range_position": _range_positions,
}
