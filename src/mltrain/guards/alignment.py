"""Alignment: a leader's candles are not shifted in time against those of the symbols that read it.

Some exchanges label a candle by its close, and some files are in local time. Combined with candles that are labelled by
their open in UTC, such a file gives one symbol the other's next candle, although every feature is correct. The
cross-correlation of one-bar returns reveals the shift: at some lag within a day it is far above that at lag 0.

The correlation is judged over the whole history and in each part of it separately, so that a shift on some days
(summer time, one file of many) is not averaged away. Returns are clipped, and a correlation counts only if it is
significant by a standard error that a single jump inflates as much as the correlation itself, so that neither one
spike nor chance in a few hundred candles raises an alarm.

Shifts that it cannot detect: between symbols whose returns hardly correlate, the same one in all symbols, one of more
than a day, and one that lasts less than about a day (for longer intervals: two hundred candles).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.guards.evidence import Failure, format_names
from mltrain.times import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet
    from mltrain.guards.evidence import Findings

    Floats = NDArray[np.float64]

CHECK: Final = "alignment"
DETAIL: Final = (
    "cross-correlations of one-bar returns of two symbols, at all lags up to a day; worst: the largest significant one "
    "at another lag than 0"
)
HINT: Final = (
    "one of the files probably labels candles by their close, or is not in UTC: shift it so that ts is the open time "
    "in UTC, and take the snapshot again"
)

# The smallest correlation that counts as a shift, and the smallest multiple of the correlation at lag 0. For BTC, ETH
# and SOL of 2025, one and five minutes, it is 0.75 or more at lag 0 and below 0.03 at any other lag; in single parts,
# 0.45 or more and 0.2 or less.
_WHOLE_LIMITS: Final = 0.2, 2.0
# Stricter, because an illiquid symbol may follow a minute late for a day.
_PART_LIMITS: Final = 0.3, 3.0
# A part is a quarter of the history, within these limits, or a day if that has more bars.
_PART_BARS: Final = 192, 576

# In standard errors. By chance 2e-9 of the correlations exceed it, so 5e-4 of the pairs over 90 days of minutes, and
# hardly any of these also exceed the limits above.
_SIGNIFICANT: Final = 6.0
# Quantile of the nonzero absolute returns at which returns are clipped.
_CLIP_QUANTILE: Final = 0.98
# Of squared clipped returns, the largest being 1; smaller sums are rounding errors of the FFT.
_MIN_SUM: Final = 1e-6
_PARTS_AT_ONCE: Final = 16
# In a snapshot of more symbols, pairs that no feature reads are compared with one symbol only.
_MAX_SYMBOLS_FOR_ALL_PAIRS: Final = 10


@dataclass(frozen=True, slots=True)
class Shift:
    """Two symbols whose candles are shifted in time against each other.

    Attributes:
        lag_bars: How many bars later the second symbol makes the first one's moves; negative: earlier.
        correlation: Correlation of returns at that lag, in [-1, 1].
        at_zero: The same at lag 0.
        limit: The limit that `correlation` exceeds in absolute value.
        start_ms: First open time of the part of the history where the shift is clearest, UTC ms; None for the whole
            history.
        parts: Number of shifted parts, and of all parts.
    """

    lag_bars: int
    correlation: float
    at_zero: float
    limit: float
    start_ms: int | None
    parts: tuple[int, int]

    def describe(self, step_ms: int) -> str:
        """Format the correlation, its lag in bars of `step_ms` and as a time, and the number of shifted parts."""
        parts = "" if self.start_ms is None else f", in {self.parts[0]} of {self.parts[1]} parts of the history"
        return f"{self.correlation:.2f} at {_format_lag(self.lag_bars, step_ms)}{parts}"


def check_alignment(findings: Findings, feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame]) -> None:
    """Record a failure for each symbol whose candles are shifted in time against its leader's; warn of other pairs.

    In a snapshot of up to ten symbols, all pairs are compared. In a larger one, besides the pairs of a leader, each
    symbol is compared with the first leader or, without leaders, with the first symbol. `candles` are checked candles
    by symbol, with all leaders.
    """
    step_ms = interval_ms(feature_set.interval)
    symbols = sorted(candles)
    leader_pairs = [(leader, symbol) for leader in feature_set.leaders for symbol in symbols if leader != symbol]
    for leader, symbol in leader_pairs:
        shift = _check_pair(findings, candles, (leader, symbol), step_ms)
        if shift is not None:
            failure = Failure(
                feature=format_names(spec.name for spec in feature_set.features if spec.leader == leader),
                symbol=symbol,
                time_ms=shift.start_ms,
                expected=f"{shift.limit:.2f} at most, for {shift.at_zero:.2f} at lag 0",
                got=shift.describe(step_ms),
                why=f"its returns correlate with those of its leader {leader} at the wrong time",
                hint=HINT,
            )
            findings.fail(CHECK, failure)
    reference = min(feature_set.leaders, default=symbols[0])
    for pair in combinations(symbols, 2):
        if pair in leader_pairs or pair[::-1] in leader_pairs:
            continue
        if len(symbols) > _MAX_SYMBOLS_FOR_ALL_PAIRS and reference not in pair:
            continue
        shift = _check_pair(findings, candles, pair, step_ms)
        if shift is not None:
            findings.warnings.append(
                f"{pair[1]} seems to be shifted against {pair[0]}: their returns correlate by "
                f"{shift.describe(step_ms)}, and by {shift.at_zero:.2f} at lag 0; no feature reads both, but {HINT}"
            )


def _check_pair(
    findings: Findings, candles: Mapping[str, pl.DataFrame], pair: tuple[str, str], step_ms: int
) -> Shift | None:
    """Count the correlations of a pair of symbols, and return the shift between them; None if there is none."""
    sums = sum_products(candles[pair[0]], candles[pair[1]], step_ms)
    correlations, z_scores = _correlate(sums.by_lag.sum(axis=1))
    significant = np.where(np.abs(z_scores) > _SIGNIFICANT, np.abs(correlations), 0.0)
    significant[sums.max_lag] = 0.0
    lag_bars = int(significant.argmax()) - sums.max_lag
    case = f"{pair[1]} against {pair[0]} at {_format_lag(lag_bars, step_ms)}"
    findings.count(CHECK, sums.by_lag[0].size, float(significant.max()), case=case)
    return find_shift(sums)


def _format_lag(lag_bars: int, step_ms: int) -> str:
    """Return a lag in bars of `step_ms`, and in the unit of time that fits them."""
    units = {"d": DAY_MS, "h": HOUR_MS, "min": MINUTE_MS, "s": SECOND_MS}
    unit = next(name for name, length_ms in units.items() if step_ms % length_ms == 0)
    return f"lag {lag_bars:+d} ({lag_bars * step_ms // units[unit]:+d} {unit})"


@dataclass(frozen=True, slots=True, eq=False)
class LagSums:
    """Sums from which the cross-correlations of two symbols follow, for each part of their history.

    Attributes:
        start_ms: Open time of the first bar of each part, UTC ms, shape (parts,); empty if the symbols share no time.
        by_lag: Shape (4, parts, lags), from lag -max_lag to max_lag: sums of the product of the first symbol's return
            at t and the second one's at t + lag, of the squares of each, and of the squared product, over all t of
            the part at which both returns are known.
    """

    start_ms: NDArray[np.int64]
    by_lag: Floats

    @property
    def max_lag(self) -> int:
        """The largest lag in bars."""
        return int(self.by_lag.shape[-1]) // 2


def sum_products(first: pl.DataFrame, second: pl.DataFrame, step_ms: int) -> LagSums:
    """Sum the products of two symbols' clipped returns at all lags up to a day, or one bar, where both have candles.

    Args:
        first: Checked candles of the symbol that stays in place.
        second: Checked candles of the symbol that is moved by each lag.
        step_ms: Length of their interval, in ms.
    """
    max_lag = max(1, DAY_MS // step_ms)
    first_ms, second_ms = times_ms(first), times_ms(second)
    if not first_ms.size or not second_ms.size:
        return LagSums(np.empty(0, np.int64), np.zeros((4, 0, 2 * max_lag + 1)))
    start_ms, end_ms = max(int(first_ms[0]), int(second_ms[0])), min(int(first_ms[-1]), int(second_ms[-1]))
    shared_bars = max(0, (end_ms - start_ms) // step_ms + 1)
    part_bars = min(max(_PART_BARS[0], shared_bars // 4), max(_PART_BARS[1], max_lag))
    parts = -(-shared_bars // part_bars)
    bars = parts * part_bars
    first_parts = _clip_returns(first, step_ms, start_ms, bars).reshape(3, parts, part_bars)
    # A window is a part plus the longest lag on both sides, so that the circular correlation does not wrap around.
    window = part_bars + 2 * max_lag
    moved = _clip_returns(second, step_ms, start_ms - max_lag * step_ms, bars + 2 * max_lag)
    windows = np.lib.stride_tricks.sliding_window_view(moved, window, axis=1)[:, ::part_bars] if parts else moved
    by_lag = np.zeros((4, parts, 2 * max_lag + 1))
    for begin in range(0, parts, _PARTS_AT_ONCE):
        some = slice(begin, begin + _PARTS_AT_ONCE)
        a, a_square, a_known = np.conj(np.fft.rfft(first_parts[:, some], window))
        b, b_square, b_known = np.fft.rfft(windows[:, some])
        products = np.stack([a * b, a_square * b_known, a_known * b_square, a_square * b_square])
        by_lag[:, some] = np.fft.irfft(products, window)[..., : 2 * max_lag + 1]
    return LagSums(start_ms + np.arange(parts) * part_bars * step_ms, by_lag)


def _clip_returns(frame: pl.DataFrame, step_ms: int, start_ms: int, bars: int) -> Floats:
    """Return the clipped and centred log returns of `bars` bars from `start_ms` on, their squares, and a mask.

    The shape is (3, bars). The mask is 1 where the candle of a bar and the one before it exist; elsewhere, and if the
    price never moves, all three are 0.
    """
    ts_ms = times_ms(frame)
    positions = (ts_ms[1:] - start_ms) // step_ms
    has_return = (np.diff(ts_ms) == step_ms) & (positions >= 0) & (positions < bars)
    positions, returns = positions[has_return], np.diff(np.log(frame["close"].to_numpy()))[has_return]
    rows = np.zeros((3, bars))
    sizes = np.abs(returns[returns != 0])
    if sizes.size:
        clipped = np.clip(returns / np.quantile(sizes, _CLIP_QUANTILE), -1.0, 1.0)
        rows[0, positions] = clipped - clipped.mean()
        rows[1] = rows[0] ** 2
        rows[2, positions] = 1.0
    return rows


def _correlate(sums: Floats) -> tuple[Floats, Floats]:
    """Return the correlations that follow from `LagSums.by_lag`, and their z-scores; 0 where a price never moves."""
    products, first, second, squares = sums
    known = np.minimum(np.minimum(first, second), squares) > _MIN_SUM
    first, second, squares = (np.where(known, values, 1.0) for values in (first, second, squares))
    products = np.where(known, products, 0.0)
    return products / np.sqrt(first * second), products / np.sqrt(squares)


def find_shift(sums: LagSums) -> Shift | None:
    """Return the shift of the whole history or, if it has none, the clearest shift of a part; None if there is none."""
    whole = sums.by_lag.sum(axis=1, keepdims=True)
    for by_lag, (min_correlation, min_multiple) in ((whole, _WHOLE_LIMITS), (sums.by_lag, _PART_LIMITS)):
        correlations, z_scores = _correlate(by_lag)
        at_zero = correlations[:, sums.max_lag]
        limits = np.maximum(min_correlation, min_multiple * np.abs(at_zero))
        beyond = np.where(np.abs(z_scores) > _SIGNIFICANT, np.abs(correlations), 0.0)
        beyond[beyond <= limits[:, None]] = 0.0
        if beyond.any():
            part, lag = np.unravel_index(beyond.argmax(), beyond.shape)
            return Shift(
                lag_bars=int(lag) - sums.max_lag,
                correlation=float(correlations[part, lag]),
                at_zero=float(at_zero[part]),
                limit=float(limits[part]),
                start_ms=None if by_lag is whole else int(sums.start_ms[part]),
                parts=(int(beyond.any(axis=1).sum()), beyond.shape[0]),
            )
    return None
