"""The label's reach: a label depends on the candles up to its end, and on no later one.

The end of a label is its horizon or, of a barrier label, the touch of a barrier within the horizon. The purge relies on
it: a label that ended later than it says could reach into the next block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import polars as pl

from mltrain.candles.frame import PRICES, times_ms
from mltrain.features.computation import count_consecutive_bars
from mltrain.guards.evidence import NO_VALUE, Failure
from mltrain.guards.false_candles import make_garbage_candles, replace_after, take_until
from mltrain.times import format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.features.label_spec import LabelSpec
    from mltrain.features.spec import FeatureSet
    from mltrain.guards.evidence import Findings

# Candles of one symbol -> `ts`, `label_end` (UTC ms) and `y` of each.
Labels: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]

LABEL: Final = "label"
DETAIL: Final = (
    "labels: no candle between row and horizon is missing, the end time is the horizon's, rises and falls up to the "
    "horizon change them, candles beyond it do not, without the horizon's candle there is none"
)

_BARRIER_DETAIL: Final = (
    "labels: no candle up to the end of a label is missing, it ends within the horizon and is known then and no "
    "earlier, rises and falls up to the horizon change it, candles beyond its end do not"
)

# Candles before the row, in addition to the horizon, so that a label of the past would have all that it reads.
_BEFORE_BARS: Final = 2
# Candles beyond the horizon that are falsified.
_AFTER_BARS: Final = 8
_RISE: Final = 1.5
# Beyond every barrier.
_RISE_TO_BARRIER: Final = 1e6


def describe_check(label: LabelSpec) -> str:
    """Return what is checked of labels of a kind."""
    return _BARRIER_DETAIL if label.kind == "barrier" else DETAIL


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
    """Check the end time of every label of one symbol, and which candles the labels of some `rows` depend on.

    `frame` has the symbol's candles; `labels` computes their labels; `rng` draws false candles beyond the horizon.
    """
    audited = _AuditedLabels(findings, feature_set, symbol, frame, labels)
    can_continue = audited.check_times()
    false = make_garbage_candles(rng, audited.horizon_bars + _AFTER_BARS, extreme=False)
    if can_continue:
        for row in rows:
            audited.check_row(row, false)


class _AuditedLabels:
    """The labels of one symbol under audit."""

    def __init__(
        self, findings: Findings, feature_set: FeatureSet, symbol: str, frame: pl.DataFrame, labels: Labels
    ) -> None:
        self.horizon_bars = feature_set.label.horizon_bars
        self._is_barrier = feature_set.label.kind == "barrier"
        self._lookback_bars = feature_set.label.lookback_bars
        self._findings = findings
        self._symbol = symbol
        self._frame = frame
        self._labels = labels
        self._step_ms = interval_ms(feature_set.interval)
        self._ts_ms = times_ms(frame)
        self._table = labels(frame)
        self._y = _read_labels(self._table)
        # Open time of the last candle that each label may depend on.
        self._end_ms = self._ts_ms + self.horizon_bars * self._step_ms

    def check_times(self) -> bool:
        """Check that no label has a wrong end time or spans a gap; return whether there is one label per candle."""
        self._findings.count(LABEL, self._y.size)
        if self._table.height != self._frame.height or (times_ms(self._table) != self._ts_ms).any():
            got = f"{self._y.size} rows"
            self._fail(None, "one per candle, in order", got, "labels and candles do not go together")
            return False
        has_label = ~np.isnan(self._y)
        end_ms = self._table["label_end"].cast(pl.Int64).fill_null(-1).to_numpy()
        horizon_ms, end_name = self._end_ms, "the horizon"
        if self._is_barrier:
            is_wrong = (end_ms <= self._ts_ms) | (end_ms > horizon_ms) | ((end_ms - self._ts_ms) % self._step_ms != 0)
            why, end_name = f"its end is not 1 to {self.horizon_bars} bars later", "its end"
            self._end_ms = np.where(has_label & ~is_wrong, end_ms, horizon_ms)
        else:
            is_wrong, why = end_ms != horizon_ms, f"its end is not {self.horizon_bars} bars later"
        for row in np.flatnonzero(has_label & is_wrong)[:1].tolist():
            self._fail(row, format_ms(int(horizon_ms[row])), format_ms(int(end_ms[row])), why)
        # Consecutive bars that end with the label's last candle; none where that is not in the data.
        end_bars = (self._end_ms - self._ts_ms) // self._step_ms
        end_rows = np.arange(self._ts_ms.size) + end_bars
        bars = np.append(count_consecutive_bars(self._ts_ms, self._step_ms), 0)[np.minimum(end_rows, self._ts_ms.size)]
        for row in np.flatnonzero(has_label & (bars <= end_bars))[:1].tolist():
            self._fail(row, NO_VALUE, f"{self._y[row]:g}", f"a candle up to {end_name} is missing")
        return True

    def check_row(self, row: int, false: pl.DataFrame) -> None:
        """Check that a row's label depends on candles up to its end, not on later ones, which `false` replaces."""
        horizon_row = row + self.horizon_bars
        first = max(0, row - self.horizon_bars - _BEFORE_BARS - self._lookback_bars + 1)
        window = self._frame[first : horizon_row + _AFTER_BARS + 1]
        horizon_ms, end_ms = int(self._ts_ms[row]) + self.horizon_bars * self._step_ms, int(self._end_ms[row])
        window_row, y = row - first, self._y[row]
        end_name = "its end" if self._is_barrier else "the horizon"
        self._findings.count(LABEL, 1)
        falsified = self._label_at(window_row, replace_after(window, end_ms, false))
        if not np.array_equal(falsified, y, equal_nan=True):
            self._fail(row, _format_label(y), _format_label(falsified), f"it changes with candles beyond {end_name}")
        early = self._label_at(window_row, take_until(window, end_ms - 1))
        if not np.isnan(early):
            self._fail(row, NO_VALUE, _format_label(early), f"it does not wait for {end_name}'s candle")
        if self._is_barrier:
            in_time = self._label_at(window_row, take_until(window, end_ms))
            if not np.array_equal(in_time, y, equal_nan=True):
                self._fail(row, _format_label(y), _format_label(in_time), "it is not known at its end")
            # Without a label, the distance of its barriers may be unknown.
            can_react = not np.isnan(y)
        else:
            can_react = horizon_row < self._ts_ms.size and self._ts_ms[horizon_row] == horizon_ms
        if can_react:
            self._check_reaction(row, window, window_row)

    def _check_reaction(self, row: int, window: pl.DataFrame, window_row: int) -> None:
        """Check that a rise and a fall up to the horizon give different labels."""
        start_price = window["close"][window_row]
        rise = _RISE_TO_BARRIER if self._is_barrier else _RISE
        labels = []
        for price in (start_price * rise, start_price / rise):
            columns = window.get_columns()
            for i, column in enumerate(columns):
                if column.name in PRICES:
                    values = column.to_numpy().copy()
                    values[window_row + 1 : window_row + self.horizon_bars + 1] = price
                    columns[i] = pl.Series(column.name, values)
            labels.append(self._label_at(window_row, pl.DataFrame(columns)))
        if np.isnan(labels).any() or labels[0] == labels[1]:
            got = " and ".join(map(_format_label, labels))
            self._fail(row, "two labels", got, "a rise and a fall up to the horizon give the same label")

    def _label_at(self, row: int, frame: pl.DataFrame) -> float:
        """Compute the label of a row of other candles; NaN if it has none."""
        return float(_read_labels(self._labels(frame))[row])

    def _fail(self, row: int | None, expected: str, got: str, why: str) -> None:
        time_ms = None if row is None else int(self._ts_ms[row])
        failure = Failure(feature=LABEL, symbol=self._symbol, time_ms=time_ms, expected=expected, got=got, why=why)
        self._findings.fail(f"{LABEL}: {why}", failure)


def _read_labels(table: pl.DataFrame) -> NDArray[np.float64]:
    """Return the column `y` of labels, shape (rows,); NaN for no label."""
    y: NDArray[np.float64] = table["y"].cast(pl.Float64).to_numpy()
    return y


def _format_label(y: float) -> str:
    return NO_VALUE if np.isnan(y) else f"{y:g}"
