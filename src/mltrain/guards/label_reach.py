"""The label's reach: a label depends on the candles up to its horizon, and on no later one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import PRICES, times_ms
from mltrain.features.computation import consecutive_bars
from mltrain.guards.evidence import NO_VALUE, Failure
from mltrain.guards.false_candles import garbage, replace_after, take_until
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

# Candles before the row, in addition to the horizon, so that a label of the past would have all that it reads.
_BEFORE_BARS: Final = 2
# Candles beyond the horizon that are falsified.
_AFTER_BARS: Final = 8
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
    """Check the end time of every label of one symbol, and what the labels of some rows depend on.

    Args:
        findings: Collects the evidence, under "label".
        feature_set: Its label's horizon, and its interval.
        symbol: The symbol.
        frame: Its candles.
        labels: Returns `ts`, `label_end` (ms UTC) and `y` of each candle.
        rows: Rows whose dependence is checked.
        rng: Source of the garbage beyond the horizon.
    """
    reach = _Reach(findings, feature_set, symbol, frame, labels)
    sound = reach.check_times()
    false = garbage(rng, reach.horizon_bars + _AFTER_BARS, extreme=False)
    if sound:
        for row in rows:
            reach.check_row(row, false)


class _Reach:
    """The labels of one symbol."""

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
        self._table = labels(frame)
        self._y = _outcomes(self._table)

    def check_times(self) -> bool:
        """Check that no label has a wrong end time or spans a gap; return whether there is one label per candle."""
        self._findings.count(LABEL, self._y.size)
        if self._table.height != self._frame.height or (times_ms(self._table) != self._ts_ms).any():
            got = f"{self._y.size} rows"
            self._fail(None, "one per candle, in order", got, "labels and candles do not go together")
            return False
        has_label = ~np.isnan(self._y)
        found_ms = self._table["label_end"].cast(pl.Int64).fill_null(-1).to_numpy()
        end_ms = self._ts_ms + self.horizon_bars * self._step_ms
        for row in np.flatnonzero(has_label & (found_ms != end_ms))[:1].tolist():
            why = f"its end is not {self.horizon_bars} bars later"
            self._fail(row, format_ms(int(end_ms[row])), format_ms(int(found_ms[row])), why)
        counts = consecutive_bars(self._ts_ms, self._step_ms)
        ahead = np.zeros(counts.size, dtype=np.int64)
        ahead[: -self.horizon_bars] = counts[self.horizon_bars :]
        for row in np.flatnonzero(has_label & (ahead <= self.horizon_bars))[:1].tolist():
            self._fail(row, NO_VALUE, f"{self._y[row]:g}", "a candle up to the horizon is missing")
        return True

    def check_row(self, row: int, false: pl.DataFrame) -> None:
        """Check which candles the label of one row depends on."""
        first, stop = max(0, row - self.horizon_bars - _BEFORE_BARS), row + self.horizon_bars
        near = self._frame[first : stop + _AFTER_BARS + 1]
        end_ms = int(self._ts_ms[row]) + self.horizon_bars * self._step_ms
        at, y = row - first, self._y[row]
        self._findings.count(LABEL, 1)
        beyond = self._label(replace_after(near, end_ms, false), at)
        if not np.array_equal(beyond, y, equal_nan=True):
            self._fail(row, _format_label(y), _format_label(beyond), "it changes with candles beyond the horizon")
        without = self._label(take_until(near, end_ms - 1), at)
        if not np.isnan(without):
            self._fail(row, NO_VALUE, _format_label(without), "it does not wait for the horizon's candle")
        if stop < self._ts_ms.size and self._ts_ms[stop] == end_ms:
            self._check_reaction(near, row, at)

    def _check_reaction(self, near: pl.DataFrame, row: int, at: int) -> None:
        """Check that a rise and a fall up to the horizon give different labels."""
        start = near["close"][at]
        labels = []
        for price in (start * _RISE, start / _RISE):
            columns = near.get_columns()
            for i, column in enumerate(columns):
                if column.name in PRICES:
                    values = column.to_numpy().copy()
                    values[at + 1 : at + self.horizon_bars + 1] = price
                    columns[i] = pl.Series(column.name, values)
            labels.append(self._label(pl.DataFrame(columns), at))
        if np.isnan(labels).any() or labels[0] == labels[1]:
            got = " and ".join(map(_format_label, labels))
            self._fail(row, "two labels", got, "a rise and a fall up to the horizon give the same label")

    def _label(self, frame: pl.DataFrame, at: int) -> float:
        return float(_outcomes(self._labels(frame))[at])

    def _fail(self, row: int | None, expected: str, got: str, why: str) -> None:
        time_ms = None if row is None else int(self._ts_ms[row])
        self._findings.fail(f"{LABEL}: {why}", Failure(LABEL, self._symbol, time_ms, expected, got, why))


def _outcomes(table: pl.DataFrame) -> NDArray[np.float64]:
    """Return the labels, NaN for none."""
    outcomes: NDArray[np.float64] = table["y"].cast(pl.Float64).to_numpy()
    return outcomes


def _format_label(y: float) -> str:
    return NO_VALUE if np.isnan(y) else f"{y:g}"
