"""Join inputs to candles: the one rule by which a feature may know a value that is not a candle's, and its one place.

A candle that opens at `ts` closes at `ts` plus its interval. Its value of an input is that of the newest row whose
known-at time is not after this close. It has none if there is no such row, or if the row's known-at time is more than
`max_age` before the close. Training, audits, backtests and serving all call `join_inputs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError
from mltrain.times import interval_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.candles.input_tables import InputTable, KnownValues
    from mltrain.features.spec import FeatureSet


def join_inputs(
    feature_set: FeatureSet, candles: Mapping[str, pl.DataFrame], inputs: Mapping[str, InputTable]
) -> dict[str, pl.DataFrame]:
    """Add each input of the features to the candles of each symbol, as a column of its name.

    Args:
        feature_set: The features, with the inputs that they read.
        candles: Candles by symbol, sorted by `ts`.
        inputs: The values of the inputs, by the name of the input; others than those of `feature_set` are not read.

    Returns:
        The candles by symbol, each with a Float64 column per input: null where no value was known, or only one that was
        too old. A column of that name is replaced.

    Raises:
        InputError: An input has no table.
    """
    missing = [spec.name for spec in feature_set.inputs if spec.name not in inputs]
    if missing:
        raise InputError(f"there are no values of the input {' and '.join(missing)}, which the features read")
    if not feature_set.inputs:
        return dict(candles)
    step_ms = interval_ms(feature_set.interval)
    joined = {}
    for symbol, frame in candles.items():
        close_ms = times_ms(frame) + step_ms
        joined[symbol] = frame.with_columns(
            pl.Series(
                spec.name,
                take_known_values(inputs[spec.name].of(symbol), close_ms, max_age_ms=spec.max_age_ms),
                nan_to_null=True,
            )
            for spec in feature_set.inputs
        )
    return joined


def take_known_values(known: KnownValues, close_ms: NDArray[np.int64], *, max_age_ms: int) -> NDArray[np.float64]:
    """Return the value of an input at each close (ms UTC), shape (n,); NaN where none is known, or only an older one.

    >>> from mltrain.candles.input_tables import KnownValues
    >>> known = KnownValues(known_ms=np.array([10, 20]), values=np.array([1.0, 2.0]))
    >>> take_known_values(known, np.array([9, 10, 19, 20, 25, 26]), max_age_ms=5).tolist()
    [nan, 1.0, nan, 2.0, 2.0, nan]
    """
    rows = find_known_rows(known, close_ms)
    values = np.full(close_ms.size, np.nan)
    found = np.flatnonzero(rows >= 0)
    found = found[close_ms[found] - known.known_ms[rows[found]] <= max_age_ms]
    values[found] = known.values[rows[found]]
    return values


def find_known_rows(known: KnownValues, close_ms: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the position of the newest value known at each close (ms UTC), shape (n,); -1 where none was."""
    return np.searchsorted(known.known_ms, close_ms, side="right") - 1
