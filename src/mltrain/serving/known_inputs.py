"""The values of a model's inputs that a caller passes, and why a row that lacks one is refused."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.candles.cells import Cells
from mltrain.candles.conversion import as_frame
from mltrain.candles.input_tables import InputTable, KnownValues, normalise_input
from mltrain.errors import UsageError
from mltrain.features.input_join import find_known_rows
from mltrain.features.spec import inputs_read
from mltrain.names import describe, did_you_mean, show
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputSpec
    from mltrain.features.spec import FeatureSet

NO_VALUES: Final = InputTable()


def read_given_inputs(given: object, specs: Sequence[InputSpec]) -> dict[str, InputTable]:
    """Return the values of each of a model's inputs, from what a caller passes as `inputs`.

    Args:
        given: By the input's name a table with the columns that the input declares, in any form that candles may have,
            or an `InputTable`; None: no values.
        specs: The inputs that the model reads; one that is not passed has no values.

    Raises:
        UsageError: `given` is no mapping, names an input that the model does not read, or holds something else.
        InputError: As in `mltrain.candles.input_tables.normalise_input`.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise UsageError(f"inputs is {describe(given)}: expected a mapping of the input's name to a table")
    names = [spec.name for spec in specs]
    for name in given:
        if name not in names:
            guess = isinstance(name, str) and did_you_mean(name, names)
            known = f"its inputs are {', '.join(names)}" if names else "it reads none"
            raise UsageError(f"inputs: the model reads no input {show(str(name))}: {known}", hint=guess or None)
    return {spec.name: _read_table(given[spec.name], spec) if spec.name in given else NO_VALUES for spec in specs}


def _read_table(given: object, spec: InputSpec) -> InputTable:
    """Return the values in a caller's table."""
    if isinstance(given, InputTable):
        return given
    where = f"inputs[{spec.name!r}]"
    return normalise_input(spec, Cells(as_frame(given, where), where)).table


def find_lacking_inputs(
    symbol: str,
    ts_ms: NDArray[np.int64],
    x: NDArray[np.float32],
    feature_set: FeatureSet,
    inputs: Mapping[str, InputTable],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows of features lack a value because of an input: none was known, or only one that was too old.

    Args:
        symbol: The symbol of the rows.
        ts_ms: Open times of all candles that were read, ms UTC, shape (m,).
        x: Features of the last n of these candles, shape (n, f); NaN: the feature has no value.
        feature_set: The model's registry.
        inputs: The values of its inputs.

    Returns:
        Two masks, shape (n,).
    """
    rows, candles = x.shape[0], np.arange(ts_ms.size)
    missing, stale = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    close_ms = ts_ms + interval_ms(feature_set.interval)
    max_age_ms = {spec.name: spec.max_age_ms for spec in feature_set.inputs}
    lacks_value = np.isnan(x)
    for column, of, name, bars in _list_reads(feature_set, symbol):
        if not lacks_value[:, column].any():
            continue
        known = inputs[name].of(of)
        row = find_known_rows(known, close_ms)
        unknown = row < 0
        known_ms = np.where(unknown, close_ms, known.known_ms[row]) if known.known_ms.size else close_ms
        too_old = close_ms - known_ms > max_age_ms[name]
        # Of each candle, the newest one up to it that has no value.
        newest_gap = np.maximum.accumulate(np.where(unknown | too_old, candles, -1))[-rows:]
        is_cause = lacks_value[:, column] & (newest_gap >= 0) & (candles[-rows:] - newest_gap < bars)
        missing |= is_cause & unknown[newest_gap]
        stale |= is_cause & too_old[newest_gap]
    return missing, stale


def _list_reads(feature_set: FeatureSet, symbol: str) -> Iterator[tuple[int, str, str, int]]:
    """Yield of each feature that reads an input: its column, the symbol of the values, the input, its lookback."""
    for column, spec in enumerate(feature_set.features):
        for leader in (False, True):
            of = spec.leader if leader and spec.leader is not None else symbol
            for name in inputs_read(spec, leader=leader):
                yield column, of, name, spec.window().lookback_bars


class PushedInput:
    """The values of one input that a stream was given, in the order of the times since when they were known."""

    def __init__(self, table: InputTable = NO_VALUES) -> None:
        parts = dict(table.by_symbol) if table.for_all is None else {None: table.for_all}
        self._known_ms: dict[str | None, list[int]] = {of: each.known_ms.tolist() for of, each in parts.items()}
        self._values: dict[str | None, list[float]] = {of: each.values.tolist() for of, each in parts.items()}
        self._table: InputTable | None = table

    def push(self, symbol: str | None, known_ms: int, value: float) -> bool:
        """Add a value for a symbol (None: for all), known since a time, ms UTC.

        Returns:
            False if another value was already known since this time; then nothing changes.

        Raises:
            ValueError: Earlier values were for all symbols and this one is for one, or the other way round.
        """
        if self._known_ms and (None in self._known_ms) != (symbol is None):
            raise ValueError("values are for all symbols, or for each")
        times, values = self._known_ms.setdefault(symbol, []), self._values.setdefault(symbol, [])
        at = bisect_left(times, known_ms)
        if at < len(times) and times[at] == known_ms:
            return values[at] == value
        times.insert(at, known_ms)
        values.insert(at, value)
        self._table = None
        return True

    def forget_before(self, time_ms: int) -> None:
        """Drop the values known before a time, ms UTC, except the newest, which shows that there were some."""
        for symbol, times in self._known_ms.items():
            if (old := bisect_left(times, time_ms) - 1) > 0:
                del times[:old], self._values[symbol][:old]
                self._table = None

    def table(self) -> InputTable:
        """Return all values that are held."""
        if self._table is None:
            parts = {
                symbol: KnownValues(np.array(times, np.int64), np.array(self._values[symbol], np.float64))
                for symbol, times in self._known_ms.items()
            }
            by_symbol = {symbol: known for symbol, known in parts.items() if symbol is not None}
            self._table = InputTable(for_all=parts.get(None), by_symbol=by_symbol)
        return self._table
