"""The label's reach: what follows a candle decides its label, up to the horizon and not a candle further."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import PRICES, times_ms
from mltrain.guards.cut_points import consecutive_bars
from mltrain.guards.evidence import NO_VALUE, Failure
from mltrain.guards.poison import garbage, poison_after, until
from mltrain.times import format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.features.spec import FeatureSet
    from mltrain.guards.evidence import Findings

Labels: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]

LABEL: Final = "label"
DETAIL: Final = (
    "labels: no candle between row and horizon is missing, the end time is the horizon's, rises and falls up to the "
    "horizon change them, candles beyond it do not, without the horizon's candle there is none"
)

_BEFORE_BARS: Final = 2  # besides the horizon: so that a label of the past would have all that it reads
_AFTER_BARS: Final = 8  # candles beyond the horizon that are falsified
_RISE: Final = 1.5


def check_label(
    findings: Findings,
    feature_set: FeatureSet,
    symbol: str,
    frame: pl.DataFrame,
    *,
    labels: Labels,
    rows: Sequence[int],
    rng: np.random.Generator,
) -> None:
    """Check every label of one symbol for its time, and those of some rows for what they react to.

    Args:
        findings: Takes what was done and found, under "label".
        feature_set: Whose horizon and interval.
        symbol: Whose candles.
        frame: Its candles.
        labels: Gives `ts`, `label_end` and `y` of each candle.
        rows: Rows to look at closely.
        rng: Of the garbage beyond the horizon.
    """
    reach = _Reach(findings, feature_set, symbol, frame, labels)
    reach.check_times()
    poison = garbage(rng, reach.horizon_bars + _AFTER_BARS, extreme=False)
    for row in rows:
        reach.check_row(row, poison)


class _Reach:
    def __init__(
        self, findings: Findings, feature_set: FeatureSet, symbol: str, frame: pl.DataFrame, labels: Labels
    ) -> None:
        self.horizon_bars = feature_set.label.horizon_bars
        self._findings = findings
        self._symbol = symbol
        self._frame = frame
        self._labels = labels
        self._step_ms = interval_ms(feature_set.interval)
        self._ts_ms = times_ms(frame)
        table = labels(frame)
        self._same_rows = table.height == frame.height and (times_ms(table) == self._ts_ms).all()
        self._y = _outcomes(table)
        self._end_ms = table["label_end"].cast(pl.Int64).fill_null(-1).to_numpy()

    def check_times(self) -> None:
        """Check all rows at once: one label per candle, with the horizon's time, and none across a gap or the end."""
        self._findings.did(LABEL, self._y.size)
        if not self._same_rows:
            self._fail(
                None, "one per candle, in order", f"{self._y.size} rows", "labels and candles do not go together"
            )
            return
        has = ~np.isnan(self._y)
        end_ms = self._ts_ms + self.horizon_bars * self._step_ms
        for row in np.flatnonzero(has & (self._end_ms != end_ms))[:1].tolist():
            why = f"its end is not {self.horizon_bars} bars later"
            self._fail(row, format_ms(int(end_ms[row])), format_ms(int(self._end_ms[row])), why)
        counts = consecutive_bars(self._ts_ms, np.ones(self._ts_ms.size, dtype=np.bool_), self._step_ms)
        ahead = np.zeros(counts.size, dtype=np.int64)
        ahead[: -self.horizon_bars] = counts[self.horizon_bars :]
        for row in np.flatnonzero(has & (ahead <= self.horizon_bars))[:1].tolist():
            self._fail(row, NO_VALUE, f"{self._y[row]:g}", "a candle up to the horizon is missing, so nobody knows it")

    def check_row(self, row: int, poison: pl.DataFrame) -> None:
        """Check what the label of one row reacts to."""
        if not self._same_rows:
            return
        first, stop = max(0, row - self.horizon_bars - _BEFORE_BARS), row + self.horizon_bars
        near = self._frame[first : stop + _AFTER_BARS + 1]
        end_ms = int(self._ts_ms[row]) + self.horizon_bars * self._step_ms
        at, known = row - first, self._y[row]
        self._findings.did(LABEL, 1)
        beyond = self._y_of(poison_after(near, end_ms, poison), at)
        if not _equal(beyond, known):
            self._fail(row, _tell(known), _tell(beyond), "it changes with candles beyond the horizon")
        without = self._y_of(until(near, end_ms - 1), at)
        if not np.isnan(without):
            self._fail(row, NO_VALUE, _tell(without), "it does not wait for the horizon's candle")
        if stop < self._ts_ms.size and self._ts_ms[stop] == end_ms:
            self._check_reaction(near, row, at)

    def _check_reaction(self, near: pl.DataFrame, row: int, at: int) -> None:
        moved = slice(at + 1, at + self.horizon_bars + 1)
        start = near["close"][at]
        found = []
        for close in (start * _RISE, start / _RISE):
            columns = [_moved(c, moved, close) if c.name in PRICES else c for c in near.get_columns()]
            found.append(self._y_of(pl.DataFrame(columns), at))
        if np.isnan(found).any() or found[0] == found[1]:
            got = f"{_tell(found[0])} and {_tell(found[1])}"
            self._fail(row, "two labels", got, "a rise and a fall up to the horizon give the same label")

    def _y_of(self, frame: pl.DataFrame, at: int) -> float:
        return float(_outcomes(self._labels(frame))[at])

    def _fail(self, row: int | None, expected: str, got: str, why: str) -> None:
        time_ms = None if row is None else int(self._ts_ms[row])
        self._findings.fail(f"{LABEL}: {why}", Failure(LABEL, self._symbol, time_ms, expected, got, why))


def _moved(prices: pl.Series, rows: slice, to: float) -> pl.Series:
    values = prices.to_numpy().copy()
    values[rows] = to
    return pl.Series(prices.name, values)


def _outcomes(table: pl.DataFrame) -> NDArray[np.float64]:
    outcomes: NDArray[np.float64] = table["y"].cast(pl.Float64).to_numpy()  # null becomes NaN
    return outcomes


def _equal(one: float, other: float) -> bool:
    return one == other or bool(np.isnan(one) and np.isnan(other))


def _tell(y: float) -> str:
    return NO_VALUE if np.isnan(y) else f"{y:g}"
