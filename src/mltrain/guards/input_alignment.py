"""Alignment of inputs: an input's values do not come from the market after the time since when they are called known.

A daily value that is stamped at the start of its day, a local time that was read as UTC, a known-at one bar early:
every feature is then computed correctly, and every score is wrong. No recomputation can detect this, because the time
itself is wrong. But such values are related to what the market does afterwards, far more closely than any forecast.

For each input and symbol, the level and the change of the value are correlated with four quantities of the market
(return, taker imbalance, range, volume) in windows of several lengths and offsets after the first close that knows the
value. What the same quantity did before (in windows of all lengths) and the calendar (time of the day and of the week)
explain of both is removed first: these are partial correlations. What an honest value owes to the past therefore counts
for nothing, and a value that contains 59 bars of the past and one of the future shows the one.

- Return and taker imbalance: nobody forecasts them well. A significant correlation above SIGNED_LIMIT is a failure.
- Range and volume are persistent, so an honest value may be related to both sides. A failure is a significant
  correlation above UNSIGNED_LIMIT that exceeds by UNSIGNED_MARGIN every one with windows before the value, of which
  what happened afterwards was removed in the same way; or that is ABRUPT_FACTOR times as large as the one with the next
  window, because a forecast does not end with a bar.

Rows whose windows overlap are left out, values become normal scores, and windows are clipped, so that neither
persistence nor a few large values make chance significant; a correlation counts from SIGNIFICANT standard errors on.

What it cannot detect: too few values, which are named in a warning; a value with no relation to the symbol's market; a
future part that is small against the rest of the value; one that is related to the past as strongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.guards.evidence import Failure, format_names
from mltrain.times import DAY_MS, MINUTE_MS, WEEK_MS, format_duration, interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputSpec, InputTable, KnownValues
    from mltrain.features.spec import FeatureSet
    from mltrain.guards.evidence import Findings

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

CHECK: Final = "input_alignment"
DETAIL: Final = (
    "partial correlations of inputs with the market after their known-at time, given the market before it; worst: the "
    "largest significant one"
)

# A forecast of returns that good would make a Sharpe ratio of six from one trade a day; the label itself has 0.5 to 1.
SIGNED_LIMIT: Final = 0.3
# The true volatility of a simulated market reaches 0.7, on both sides alike.
UNSIGNED_LIMIT: Final = 0.5
UNSIGNED_MARGIN: Final = 0.2
# Volatility that halves within a bar is related to the second bar after a value half as closely as to the first.
ABRUPT_FACTOR: Final = 3.0
# In standard errors. By chance 2e-9 of the correlations exceed it, so 1e-5 of the inputs and symbols.
SIGNIFICANT: Final = 6.0
# A correlation before the value counts as one from here on.
_NOTICEABLE: Final = 4.0
# With fewer independent rows, no correlation below 0.9 is significant.
MIN_ROWS: Final = 20
# Rows per length of window, evenly spread: a correlation of SIGNED_LIMIT is 12 standard errors.
_MAX_ROWS: Final = 1_500
# Windows of each length are taken at offsets of 0 to 15 times their length. Those as long as the time between two
# values are also taken where a value would belong that is known too early by a multiple of a quarter of an hour, up to
# a day: by the wrong time zone.
_OFFSETS: Final = 16
_ZONES_MS: Final = 15 * MINUTE_MS
_LENGTH_FACTOR: Final = 4
# Fewer rows only have controls of the window's own length and of the time between two values, and no calendar.
_ROWS_FOR_ALL_CONTROLS: Final = 60
_ROWS_FOR_CALENDAR: Final = 100
# In deviations of the normal distribution.
_CLIP: Final = 3.5
_QUANTILE_ROWS: Final = 5_000
# Of unit variance: a residual below it is rounding.
_MIN_VARIANCE: Final = 1e-8
_LARGEST: Final = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Relation:
    """How an input is related to the market after, or before, its values are known.

    Attributes:
        quantity: "return", "taker imbalance", "range" or "volume".
        of_change: Whether the change from the value before is correlated, not the value.
        bars: Length of the windows.
        offset_bars: Bars between the first close that knows the value and the window.
        rows: Number of values.
        correlation: The partial correlation, in [-1, 1].
        z_score: The same in standard errors.
    """

    quantity: str
    of_change: bool
    bars: int
    offset_bars: int
    rows: int
    correlation: float
    z_score: float

    def describe(self, step_ms: int) -> str:
        """Format the correlation and its window in bars of `step_ms` and as a time.

        >>> Relation("return", True, 60, 0, 700, 0.98, 60.0).describe(60_000)
        'its change correlates by 0.98 with the return of bars 1 to 60 (up to 1h) after it is known, 700 values'
        """
        what = "its change" if self.of_change else "it"
        first, last = self.offset_bars + 1, self.offset_bars + self.bars
        bars = f"bar {first}" if first == last else f"bars {first} to {last}"
        until = format_duration(last * step_ms)
        return (
            f"{what} correlates by {self.correlation:.2f} with the {self.quantity} of {bars} (up to {until}) after it "
            f"is known, {self.rows} values"
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known about the alignment of one input with one symbol.

    Attributes:
        leak: The closest implausible relation to the market after the value is known; None if there is none.
        worst: The closest significant relation to the market after the value is known; None if there is none.
        rows: Number of values that a bar of the symbol knows first.
        is_judged: Whether there are enough of them.
        compared: Number of correlations.
    """

    leak: Relation | None
    worst: Relation | None
    rows: int
    is_judged: bool
    compared: int


def check_input_alignment(
    findings: Findings,
    feature_set: FeatureSet,
    candles: Mapping[str, pl.DataFrame],
    inputs: Mapping[str, InputTable],
) -> None:
    """Record a failure for each input and symbol whose values come from the market after they are called known.

    Args:
        findings: Collects what is found; a warning names inputs with too few values.
        feature_set: The features, with the inputs that they read.
        candles: Checked candles by symbol.
        inputs: The values of the inputs, by the name of the input.
    """
    step_ms = interval_ms(feature_set.interval)
    not_judged = []
    for symbol in sorted(candles):
        market = Market.from_candles(candles[symbol], step_ms)
        for spec in feature_set.inputs:
            judgement = judge_alignment(market, inputs[spec.name].of(symbol))
            worst = judgement.worst
            case = f"{spec.name} of {symbol}: {worst.describe(step_ms)}" if worst else ""
            findings.count(CHECK, judgement.compared, abs(worst.correlation) if worst else 0.0, case=case)
            if judgement.leak is not None:
                findings.fail(CHECK, _make_failure(spec, symbol, judgement.leak, step_ms))
            elif not judgement.is_judged:
                not_judged.append(f"{spec.name} of {symbol} ({judgement.rows})")
    if not_judged:
        findings.warnings.append(
            f"too few values to judge whether they were known as early as they state, {MIN_ROWS} needed: "
            f"{format_names(not_judged)}"
        )


def _make_failure(spec: InputSpec, symbol: str, leak: Relation, step_ms: int) -> Failure:
    limit = SIGNED_LIMIT if leak.quantity in _SIGNED else UNSIGNED_LIMIT
    return Failure(
        feature=spec.name,
        symbol=symbol,
        expected=f"{limit} at most",
        got=leak.describe(step_ms),
        why=f"the input comes from candles after the time when it is called known (column {spec.known_at} of "
        f"{spec.file})",
        hint=f"a value is known when its period has ended and it was published, in UTC: correct {spec.known_at} in "
        f"{spec.file}, or name another column as known_at; `mltrain features show` prints the values around a time",
    )


_SIGNED: Final = ("return", "taker imbalance")


class Market:
    """The quantities of a symbol's market in windows of any length."""

    def __init__(self, ts_ms: Ints, step_ms: int, totals: Mapping[str, tuple[Floats, Floats | None]]) -> None:
        self.step_ms = step_ms
        self.close_ms = ts_ms + step_ms
        self.quantities = tuple(totals)
        # Running sums of each quantity and of its divisor.
        self._sums = {
            name: (_running_sum(total), None if divisor is None else _running_sum(divisor))
            for name, (total, divisor) in totals.items()
        }
        self._windows: dict[tuple[str, int], Floats] = {}

    @classmethod
    def from_candles(cls, frame: pl.DataFrame, step_ms: int) -> Market:
        """Return the quantities of checked candles; without taker volumes there is no taker imbalance."""
        close = frame["close"].to_numpy()
        volume = frame["volume"].to_numpy()
        totals: dict[str, tuple[Floats, Floats | None]] = {
            "return": (np.diff(np.log(close), prepend=np.log(close[:1])), None),
            "range": (np.log(frame["high"].to_numpy() / frame["low"].to_numpy()), None),
            "volume": (volume, None),
        }
        if "taker_buy_base" in frame.columns and not frame["taker_buy_base"].has_nulls():
            totals["taker imbalance"] = 2 * frame["taker_buy_base"].to_numpy() - volume, volume
        return cls(times_ms(frame), step_ms, totals)

    def windows(self, quantity: str, bars: int) -> Floats:
        """Return a quantity of `bars` bars from each row on, scaled and clipped, shape (rows - bars + 1,)."""
        key = quantity, bars
        if key not in self._windows:
            total, divisor = self._sums[quantity]
            values = total[bars:] - total[:-bars]
            if divisor is not None:
                divisors = divisor[bars:] - divisor[:-bars]
                values = np.divide(values, divisors, out=np.zeros_like(values), where=divisors > 0)
            elif quantity not in _SIGNED:
                positive = values[values > 0]
                values = np.log(np.maximum(values, positive.min() if positive.size else 1.0))
            self._windows[key] = _scale(values)
        return self._windows[key]


def _running_sum(values: Floats) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values)])


def _scale(values: Floats) -> Floats:
    """Subtract the median, divide by the distance that 68 % of the values have from it, and clip."""
    some = values[:: max(1, values.size // _QUANTILE_ROWS)]
    centre = np.median(some) if some.size else 0.0
    spread = float(np.quantile(np.abs(some - centre), 0.683)) if some.size else 0.0
    if not spread > 0:
        spread = float(some.std()) or 1.0
    scaled: Floats = np.clip((values - centre) / spread, -_CLIP, _CLIP)
    return scaled


def judge_alignment(market: Market, known: KnownValues) -> Judgement:
    """Compare how closely the values of an input are related to the market after and before they are known."""
    rows = np.searchsorted(market.close_ms, known.known_ms)
    in_time = rows < market.close_ms.size
    # After a gap, or before the first candle, a value waits for its first close.
    in_time[in_time] &= market.close_ms[rows[in_time]] - known.known_ms[in_time] < market.step_ms
    kept = np.flatnonzero(in_time)
    # Of several values that one close knows first, the newest is used.
    kept = kept[np.append(np.diff(rows[kept]) > 0, True)] if kept.size else kept
    rows, values, known_ms = rows[kept], known.values[kept], known.known_ms[kept]
    if rows.size < MIN_ROWS or np.ptp(values) == 0:
        return Judgement(None, None, rows.size, rows.size >= MIN_ROWS, 0)
    scores = np.column_stack([_normal_scores(values), _normal_scores(np.diff(values, prepend=values[:1]))])
    spacing = int(np.median(np.diff(rows)))
    lengths = _choose_lengths(market, spacing)
    after: list[Relation] = []
    before: list[Relation] = []
    is_judged, compared = False, 0
    for bars in lengths:
        chosen = _thin(rows, bars, market.close_ms.size)
        if chosen.size < MIN_ROWS:
            continue
        is_judged = is_judged or bars >= spacing
        sample = _Sample(market, rows[chosen], scores[chosen], _make_calendar(known_ms[chosen]), lengths, spacing)
        for quantity in market.quantities:
            relations, count = sample.correlate(quantity, bars, ahead=True)
            after += relations
            compared += count
            if quantity not in _SIGNED:
                before += sample.correlate(quantity, bars, ahead=False)[0]
    significant = [relation for relation in after if abs(relation.z_score) > SIGNIFICANT]
    leaks = [relation for relation in significant if _is_implausible(relation, before, after)]
    return Judgement(
        leak=max(leaks, key=lambda relation: abs(relation.correlation), default=None),
        worst=max(significant, key=lambda relation: abs(relation.correlation), default=None),
        rows=rows.size,
        is_judged=is_judged,
        compared=compared,
    )


def _is_implausible(relation: Relation, before: list[Relation], after: list[Relation]) -> bool:
    """Return whether an honest value cannot have a significant relation to the market after it."""
    size = abs(relation.correlation)
    if relation.quantity in _SIGNED:
        return size > SIGNED_LIMIT
    mirrored = max((abs(r.correlation) for r in before if _is_noticeable(r, relation)), default=0.0)
    following = [
        abs(r.correlation)
        for r in after
        if _is_noticeable(r, relation)
        and (r.quantity, r.bars, r.offset_bars) == (relation.quantity, relation.bars, relation.bars)
    ]
    ends_abruptly = relation.offset_bars == 0 and size > ABRUPT_FACTOR * max(following, default=0.0)
    return size > UNSIGNED_LIMIT and (size > mirrored + UNSIGNED_MARGIN or ends_abruptly)


def _is_noticeable(relation: Relation, other: Relation) -> bool:
    """Return whether a relation is beyond chance, and one of the value or of its change as another one is."""
    return relation.of_change == other.of_change and abs(relation.z_score) > _NOTICEABLE


def _normal_scores(values: Floats) -> Floats:
    """Return the quantiles of the normal distribution at the ranks of the values; equal values get the same."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores: Floats = ndtri(rankdata(values) / (values.size + 1))
    return scores


def _choose_lengths(market: Market, spacing: int) -> list[int]:
    """Return lengths of windows in bars, rising: each four times the last, and the one between two values."""
    longest = max(1, market.close_ms.size // MIN_ROWS)
    lengths = {spacing} if spacing <= longest else set()
    bars = 1
    while bars <= longest:
        if spacing == 1 or not spacing / 2 <= bars <= spacing * 2:
            lengths.add(bars)
        bars *= _LENGTH_FACTOR
    return sorted(lengths)


def _thin(rows: NDArray[np.intp], bars: int, size: int) -> NDArray[np.intp]:
    """Return positions of rows at least `bars` apart, with as many candles before and after, evenly spread."""
    if bars == 1:
        chosen = np.arange(rows.size)
    else:
        following = np.searchsorted(rows, rows + bars)
        found, i = [], 0
        while i < rows.size:
            found.append(i)
            i = int(following[i])
        chosen = np.array(found)
    # The first value has no change.
    inside = (rows[chosen] - bars + 1 >= 0) & (rows[chosen] + bars < size) & (chosen > 0)
    chosen = chosen[inside]
    if chosen.size > _MAX_ROWS:
        chosen = chosen[np.linspace(0, chosen.size - 1, _MAX_ROWS).astype(np.intp)]
    return chosen


def _inflate_error(first: Floats, second: Floats) -> float:
    """Return the factor by which persistence of two series of mean 0 makes a correlation's standard error larger.

    Bartlett, J. R. Stat. Soc. 98 (1935): its square is 1 plus twice the sum of the products of autocorrelations.
    """
    length = 2 * first.size
    powers = np.abs(np.fft.rfft([first, second], length)) ** 2
    products = np.prod(np.fft.irfft(powers, length)[:, : first.size // 3], axis=0)
    return float(np.sqrt(max(1.0, 1 + 2 * products[1:].sum() / products[0]))) if products[0] > 0 else 1.0


def _make_calendar(known_ms: Ints) -> Floats:
    """Return a constant and waves of the day and of the week at each time, shape (n, columns)."""
    if known_ms.size < _ROWS_FOR_CALENDAR:
        return np.ones((known_ms.size, 1))
    day, week = (2 * np.pi * (known_ms % length) / length for length in (DAY_MS, WEEK_MS))
    waves = [wave(turns) for turns in (day, 2 * day, week) for wave in (np.sin, np.cos)]
    return np.column_stack([np.ones(known_ms.size), *waves])


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """Values of an input whose windows of one length do not overlap.

    Attributes:
        market: The market.
        rows: The first bar whose close knows each value, shape (n,).
        scores: Normal scores of the values and of their changes, shape (n, 2).
        calendar: Controls of the calendar, shape (n, columns).
        lengths: Lengths of the windows whose quantities are controls.
        spacing: Bars between two values.
    """

    market: Market
    rows: NDArray[np.intp]
    scores: Floats
    calendar: Floats
    lengths: list[int]
    spacing: int

    def correlate(self, quantity: str, bars: int, *, ahead: bool) -> tuple[list[Relation], int]:
        """Return partial correlations with a quantity after the values (`ahead`) or, mirrored, before them.

        Returns:
            The correlations beyond _NOTICEABLE; no other can be a leak or its explanation. And how many there are.
        """
        n = self.rows.size
        lengths = self.lengths
        if n < _ROWS_FOR_ALL_CONTROLS:
            lengths = [length for length in lengths if length in {bars, self.spacing}]
        controls = [self._take(quantity, length, np.array([0]), ahead=not ahead)[0] for length in lengths]
        basis, _ = np.linalg.qr(np.column_stack([self.calendar, *controls]))
        freedom = n - basis.shape[1] - 3
        if freedom < MIN_ROWS // 2:
            return [], 0
        offsets = np.arange(_OFFSETS) * bars
        if bars == self.spacing:
            zones = np.arange(_ZONES_MS, DAY_MS + 1, _ZONES_MS) // self.market.step_ms - bars
            offsets = np.union1d(offsets, zones[zones >= 0])
        windows, known = self._take(quantity, bars, offsets, ahead=ahead)
        offsets, windows = offsets[known], windows[:, known]
        y, x = (values - basis @ (basis.T @ values) for values in (self.scores, windows))
        y_size, x_size = (np.maximum((values * values).sum(axis=0), _MIN_VARIANCE * n) for values in (y, x))
        correlations = np.clip((y.T @ x) / np.sqrt(np.outer(y_size, x_size)), -1.0, 1.0)
        z_scores = np.arctanh(np.clip(correlations, -_LARGEST, _LARGEST)) * np.sqrt(freedom)
        relations = [
            Relation(
                quantity=quantity,
                of_change=bool(column),
                bars=bars,
                offset_bars=int(offsets[i]),
                rows=n,
                correlation=float(correlations[column, i]),
                z_score=float(z_scores[column, i]) / _inflate_error(y[:, column], x[:, i]),
            )
            for column, i in np.argwhere(np.abs(z_scores) > _NOTICEABLE).tolist()
        ]
        return relations, correlations.size

    def _take(self, quantity: str, bars: int, offsets: Ints, *, ahead: bool) -> tuple[Floats, NDArray[np.bool_]]:
        """Return windows at offsets from the values, shape (n, offsets), and which offsets the candles cover.

        At the edges of the history, a window that it does not have is replaced by the nearest one.
        """
        windows = self.market.windows(quantity, bars)
        signed = offsets + 1 if ahead else 1 - bars - offsets
        first = self.rows[:, None] + signed[None, :]
        inside = (first >= 0) & (first < windows.size)
        return windows[np.clip(first, 0, windows.size - 1)], inside.mean(axis=0) > 0.9
