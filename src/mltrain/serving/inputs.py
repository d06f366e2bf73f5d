"""Read the candles and features that callers pass to a model.

Features are read by name, if the names are exactly the model's, or by position, if the positions are known to be the
model's. Nothing is filled in, reordered or guessed; the error names what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mltrain.candles.conversion import as_candles, as_frame, as_record, is_columns
from mltrain.errors import InputError, RefusedError, UsageError
from mltrain.names import describe, show
from mltrain.serving.rows import NOT_FINITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray


def read_candles_by_symbol(
    candles: object, symbols: tuple[str, ...], argument: str = "candles"
) -> dict[str, pl.DataFrame]:
    """Convert a caller's candles to tables by symbol; their values are not checked.

    Accepted are a mapping of symbol to table, and one table, which needs a column `symbol` if the model knows several
    symbols. Messages call it `argument`.

    Raises:
        UsageError: `candles` is neither a mapping nor a table, or a value of the mapping is not a table.
        InputError: The symbol is missing, or the columns cannot be read as candles.
    """
    if isinstance(candles, Mapping) and not is_columns(candles):
        tables = {}
        for symbol, table in candles.items():
            if not isinstance(symbol, str):
                raise UsageError(f"{argument} has the key {describe(symbol)}: expected symbols such as 'BTCUSDT'")
            frame = as_frame(table, f"{argument}[{symbol!r}]")
            if "symbol" in frame.columns:
                frame = frame.drop("symbol")
            tables[symbol] = as_candles(frame, f"the candles given: {symbol}")
        return tables
    frame = as_candles(as_frame(candles, argument), "the candles given")
    if "symbol" in frame.columns:
        if frame["symbol"].null_count():
            raise InputError("the candles' column symbol must name a symbol in every row")
        return {str(key[0]): part for key, part in frame.partition_by("symbol", as_dict=True).items()}
    if len(symbols) > 1:
        raise InputError(
            f"the candles name no symbol (the model knows {', '.join(symbols)}): expected a column `symbol`",
            hint="add the column, name the file after its symbol, or pass a mapping of symbol to candles",
        )
    return {symbols[0]: frame}


def _check_names(given: Iterable[str], names: tuple[str, ...], argument: str) -> None:
    """Raise unless the given names are exactly those of the model's features, in any order."""
    given = list(given)
    problems = [f"{show(name)} missing" for name in names if name not in set(given)]
    problems += [f"{show(str(name))} unknown" for name in given if name not in set(names)]
    if problems:
        raise InputError(f"{argument}: {', '.join(problems)}")


def read_mapping_or_array(features: object) -> Mapping[str, Any] | NDArray[Any]:
    """Convert a caller's row of features: to a mapping if it has names, else to an array; nothing is checked.

    Raises:
        UsageError: `features` is neither a mapping nor a row of values.
        InputError: `features` is a table without exactly one row.
    """
    if isinstance(features, Mapping | np.ndarray):
        return features
    if isinstance(features, Sequence) and not isinstance(features, str | bytes):
        return np.asarray(features)
    try:
        return as_record(features, "features", index=False)
    except UsageError as err:
        if hasattr(features, "__array__"):
            return np.asarray(features)
        message = f"features is {describe(features)}: expected a mapping of names to numbers, or the numbers in order"
        raise UsageError(message) from err


def read_matrix(x: object, names: tuple[str, ...], *, check_positions: Callable[[], None]) -> NDArray[np.float32]:
    """Convert a caller's rows of features to a matrix, shape (n, f): by name if they have names, else by position.

    Accepted are an array, a list of rows, and a table. `check_positions` is called before positions are used; it raises
    unless they are the model's.

    Raises:
        UsageError: `x` is none of these.
        InputError: Columns are missing, unknown, out of order or not floats.
    """
    # The order of a dict's keys does not matter; the order of a table's columns is checked.
    are_records = False
    if isinstance(x, Sequence) and not isinstance(x, str | bytes):
        are_records = len(x) > 0 and all(isinstance(row, Mapping) for row in x)
        if not are_records:
            try:
                rows: list[list[float]] = [[float(value) for value in row] for row in x]
                x = np.array(rows, np.float64).reshape(len(rows), -1 if rows else len(names))
            except (TypeError, ValueError) as err:
                raise InputError(f"x: a list of rows must hold {len(names)} numbers in each: {err}") from err
    elif not hasattr(type(x), "columns") and hasattr(x, "__array__"):
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.names is None:
        check_positions()
        return read_positional_matrix(x, names)
    frame = as_frame(x, "x", index=False)
    if are_records:
        _check_names(frame.columns, names, "x")
        frame = frame.select(names).cast({pl.Int64: pl.Float64})
    return read_named_matrix(frame, names)


def read_named_row(features: Mapping[str, float], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return numbers, given by feature name, as a row in the model's order, shape (f,); raise InputError otherwise."""
    # Only a row that is not as usual is examined, because this takes a good part of the time of a prediction.
    try:
        values = [features[name] for name in names]
    except KeyError:
        values = []
    if not values or len(values) != len(features):
        _check_names(features, names, "features")
    if any(type(value) is not float for value in values):
        wrong = [
            name
            for name, value in zip(names, values, strict=True)
            if isinstance(value, bool) or not isinstance(value, float | int | np.number)
        ]
        if wrong:
            raise InputError(f"features: {', '.join(wrong)} must be numbers")
    return _to_float32(np.array(values, np.float64))


def read_positional_matrix(x: NDArray[Any], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return an array of floats, shape (n, f), in the model's order, as float32; raise InputError if it is none."""
    if x.ndim != 2 or x.dtype.kind != "f":
        raise InputError(
            f"features must be a frame or an array of floats with shape (n, {len(names)}), "
            f"not an array of {x.dtype} with shape {x.shape}"
        )
    if x.shape[1] != len(names):
        raise InputError(f"the model has {len(names)} features, the array {x.shape[1]} columns")
    return _to_float32(x)


def read_positional_row(row: NDArray[Any], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return an array of floats, shape (f,), in the model's order, as float32; raise InputError if it is none."""
    # The usual row needs no conversion.
    if row.dtype == np.float32 and row.shape == (len(names),):
        return row
    if row.ndim != 1:
        raise InputError(f"one row of features has one dimension, not shape {row.shape}")
    first: NDArray[np.float32] = read_positional_matrix(row[None, :], names)[0]
    return first


def read_named_matrix(frame: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return a table of floats, whose columns are the model's features in order, as a matrix, shape (n, f).

    A null becomes NaN. Raise InputError if columns are missing, unknown, out of order or not floats.
    """
    _check_names(frame.columns, names, "columns")
    for expected, given in zip(names, frame.columns, strict=True):
        if given != expected:
            raise InputError(
                f"columns are out of order: expected {expected}, got {given}",
                hint="select them as `frame.select(model.feature_names_in_)`",
            )
    wrong = [f"{name} is {dtype}" for name, dtype in frame.schema.items() if not dtype.is_float()]
    if wrong:
        raise InputError(f"columns must be Float32 or Float64: {', '.join(wrong)}")
    return _to_float32(frame.select(pl.all().fill_null(float("nan"))).to_numpy(order="c"))


def _to_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    """Return a C-contiguous float32 array; a value that overflows becomes infinite, and is later refused."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, np.float32)


def check_finite_row(row: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return a row of features, shape (f,), unchanged; raise RefusedError if a value is NaN or infinite."""
    # Faster than `check_finite`, but an infinite sum of squares may be an overflow of finite values.
    if not math.isfinite(row.dot(row)):
        check_finite(row[None, :], names)
    return row


def check_finite(x: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return rows of features, shape (n, f), unchanged; raise RefusedError if a value is NaN or infinite."""
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise RefusedError(
            f"feature {names[column]} of row {row} is {x[row, column]}: expected a finite number", reason=NOT_FINITE
        )
    return x
