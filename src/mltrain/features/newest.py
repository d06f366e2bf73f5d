"""The features of the newest candles only: in NumPy where possible, else in Polars.

An op whose expression has a formula (`mltrain.features.formula`) is computed by a `RowPlan`, in a fraction of the time
of a query. Other ops, and symbols whose lookback is not complete, are left to `StackedRows`. Both give the bits of
`compute_features`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.features.computation import check_inputs, compute_features, group_features
from mltrain.features.formula import NumpyExpr
from mltrain.features.op import LEADER_PREFIX
from mltrain.features.row_plan import RowPlan
from mltrain.features.stacked_rows import StackedRows
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from mltrain.features.computation import Reads
    from mltrain.features.formula import Floats
    from mltrain.features.spec import FeatureSet


@dataclass(frozen=True, slots=True, eq=False)
class CandleArrays:
    """Candles of one symbol as arrays, in the order of time.

    Attributes:
        ts_ms: Open times, rising, on the grid of the interval, ms UTC, shape (n,).
        columns: The columns with a value in every row, `ts` in ms, and inputs, NaN where they have none, shape (n,).
    """

    ts_ms: NDArray[np.int64]
    columns: Mapping[str, Floats]


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The g features that have formulas, and read the same leader and inputs.

    Attributes:
        reads: Their leader, and the inputs that they read.
        positions: Positions in column order, shape (g,).
        bars: The longest of their lookbacks.
        plan: Computes them.
    """

    reads: Reads
    positions: NDArray[np.intp]
    bars: int
    plan: RowPlan


class NewestFeatures:
    """Computes the features of the newest candle of one or many symbols; create it once per registry.

    Args:
        feature_set: The registry.
        without_formula: Names of features whose formulas are not used.

    Attributes:
        recorded: Names of the features that are computed by formulas.
    """

    def __init__(self, feature_set: FeatureSet, *, without_formula: Collection[str] = ()) -> None:
        self._feature_set = feature_set
        self._bars = feature_set.lookback_bars
        self._step_ms = interval_ms(feature_set.interval)
        position = {name: i for i, name in enumerate(feature_set.names)}
        self._groups: list[_Group] = []
        for reads, specs in group_features(feature_set).items():
            windows = {spec.name: spec.window() for spec in specs if spec.name not in without_formula}
            formulas = {name: w.expr.formula for name, w in windows.items() if isinstance(w.expr, NumpyExpr)}
            if formulas:
                positions = np.array([position[name] for name in formulas], np.intp)
                bars = max(windows[name].lookback_bars for name in formulas)
                self._groups.append(_Group(reads, positions, bars, RowPlan(list(formulas.values()))))
        self.recorded = tuple(feature_set.names[i] for group in self._groups for i in group.positions)
        self._all = StackedRows(feature_set, feature_set.names)
        self._others = StackedRows(feature_set, {*feature_set.names} - {*self.recorded})

    def compute(self, symbols: Sequence[str], candles: Mapping[str, pl.DataFrame]) -> NDArray[np.float32]:
        """Return the f features of each of n symbols' last candle, shape (n, f); NaN where a lookback is incomplete.

        `candles` are checked candles by symbol: at least the last `lookback_bars` of each symbol and leader.

        Raises:
            InputError: As in `compute_features`.
        """
        x = np.full((len(symbols), len(self._feature_set.names)), np.nan, np.float32)
        read = {*symbols, *self._feature_set.leaders} & candles.keys()
        complete = self._fill_complete(x, symbols, {name: self._read_arrays(candles[name]) for name in read})
        rest = [row for row in range(len(symbols)) if row not in complete]
        # The complete ones have no gap, and all columns that formulas read.
        is_recorded = len(self.recorded) == len(self._feature_set.names)
        checked = [symbols[row] for row in rest] if is_recorded else symbols
        check_inputs(self._feature_set, candles, symbols=checked)
        try:
            self._others.fill(x, complete, symbols, candles)
            self._all.fill(x, rest, symbols, candles)
        except (Exception, pl.exceptions.PanicException):
            # Raises an error that names the symbol and feature, if a user op failed.
            for symbol in symbols:
                compute_features(self._feature_set, symbol, candles)
            raise
        return x

    def compute_arrays(self, symbol: str, arrays: Mapping[str, CandleArrays]) -> NDArray[np.float32] | None:
        """Return the features of a symbol's last candle, shape (1, f); None if that takes `compute`.

        `arrays` are the newest candles of the symbol and its leaders, with the inputs that are read of each.
        """
        if len(self.recorded) < len(self._feature_set.names):
            return None
        x = np.empty((1, len(self._feature_set.names)), np.float32)
        return x if self._fill_complete(x, [symbol], arrays) else None

    def _read_arrays(self, frame: pl.DataFrame) -> CandleArrays:
        """Return the last candles of a frame, as many as the longest lookback has."""
        last = frame.tail(self._bars)
        columns = {
            column.name: column.to_numpy().astype(np.float64, copy=False)
            for column in last.get_columns()
            if column.dtype.is_numeric() and not (column.null_count() and column.name in CANDLE_SCHEMA)
        }
        ts_ms = times_ms(last)
        return CandleArrays(ts_ms, {**columns, "ts": ts_ms.astype(np.float64)})

    def _fill_complete(
        self, x: NDArray[np.float32], symbols: Sequence[str], arrays: Mapping[str, CandleArrays]
    ) -> list[int]:
        """Compute the features that have formulas for the symbols whose lookback is complete; return their rows."""
        found = {row: self._find_columns(symbol, arrays) for row, symbol in enumerate(symbols)}
        complete = {row: columns for row, columns in found.items() if columns is not None}
        rows = np.array(list(complete), np.intp)
        for number, group in enumerate(self._groups if complete else ()):
            parts = [columns[number] for columns in complete.values()]
            values = group.plan.compute({name: np.stack([part[name] for part in parts]) for name in group.plan.rows})
            with np.errstate(over="ignore"):
                x[rows[:, None], group.positions] = values
            if group.reads.leader is not None:
                led = np.array([row for row in complete if symbols[row] == group.reads.leader], np.intp)
                x[led[:, None], group.positions] = 0.0
        return list(complete)

    def _find_columns(self, symbol: str, arrays: Mapping[str, CandleArrays]) -> list[dict[str, Floats]] | None:
        """Return the columns that each group reads, up to the symbol's newest candle; None if anything is missing."""
        if symbol not in arrays or not arrays[symbol].ts_ms.size or not self._groups:
            return None
        last_ms = int(arrays[symbol].ts_ms[-1])
        stops: dict[str, int | None] = {}
        found = []
        for group in self._groups:
            leader = group.reads.leader or symbol
            for name in {symbol, leader} - stops.keys():
                stops[name] = self._find_stop(arrays.get(name), last_ms)
            own_stop, leader_stop = stops[symbol], stops[leader]
            if own_stop is None or leader_stop is None:
                return None
            if not _have_inputs(arrays[symbol], group.reads.inputs, own_stop, group.bars):
                return None
            if not _have_inputs(arrays[leader], group.reads.leader_inputs, leader_stop, group.bars):
                return None
            columns: dict[str, Floats] = {}
            for name, rows in group.plan.rows.items():
                is_led = name.startswith(LEADER_PREFIX)
                of, stop = (arrays[leader], leader_stop) if is_led else (arrays[symbol], own_stop)
                values = of.columns.get(name.removeprefix(LEADER_PREFIX))
                if values is None:
                    return None
                columns[name] = values[max(0, stop - rows) : stop]
            found.append(columns)
        return found

    def _find_stop(self, candles: CandleArrays | None, last_ms: int) -> int | None:
        """Return the index after the candle that opens at `last_ms`; None unless a whole lookback ends with it."""
        if candles is None:
            return None
        ts_ms = candles.ts_ms
        stop = int(np.searchsorted(ts_ms, last_ms, side="right"))
        if stop < self._bars or ts_ms[stop - 1] != last_ms:
            return None
        return stop if last_ms - ts_ms[stop - self._bars] == (self._bars - 1) * self._step_ms else None


def _have_inputs(candles: CandleArrays, inputs: Sequence[str], stop: int, bars: int) -> bool:
    """Return whether every input has a value at each of the `bars` candles before `stop`."""
    return all(
        name in candles.columns and np.isfinite(candles.columns[name][stop - bars : stop]).all() for name in inputs
    )
