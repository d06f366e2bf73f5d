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


def candles_by_symbol(candles: object, symbols: tuple[str, ...], argument: str = "candles") -> dict[str, pl.DataFrame]:
    """Return candles by symbol from any accepted input.

    Args:
        candles: A mapping of symbol to table, or one table, which needs a column `symbol` if the model knows several
            symbols. A table is anything that `mltrain.candles.conversion.as_frame` converts.
        symbols: The model's symbols.
        argument: Name of the argument, for messages.

    Raises:
        UsageError: It is neither, or a value is not a table.
        InputError: The symbol is missing, or the columns cannot be read as candles.
    """
    if isinstance(candles, Mapping) and not is_columns(candles):
        found = {}
        for symbol, table in candles.items():
            if not isinstance(symbol, str):
                raise UsageError(f"{argument} has the key {describe(symbol)}: expected symbols such as 'BTCUSDT'")
            frame = as_frame(table, f"{argument}[{symbol!r}]")
            if "symbol" in frame.columns:
                frame = frame.drop("symbol")
            found[symbol] = as_candles(frame, f"the candles given: {symbol}")
        return found
    frame = as_candles(as_frame(candles, argument), "the candles given")
    if "symbol" in frame.columns:
        if frame["symbol"].null_count():
            raise InputError("the candles' column symbol must name a symbol in every row")
        return {str(key[0]): part for key, part in frame.partition_by("symbol", as_dict=True).items()}
    if len(symbols) > 1:
        raise InputError(
            f"the candles name no symbol (the model knows {', '.join(symbols)}): expected a column `symbol`",
            hint="add the column, or pass a mapping of symbol to candles",
        )
    return {symbols[0]: frame}


def _check_names(found: Iterable[str], names: tuple[str, ...], what: str) -> None:
    """Raise unless the names are exactly the model's, in any order."""
    given = list(found)
    problems = [f"{show(name)} missing" for name in names if name not in set(given)]
    problems += [f"{show(str(name))} unknown" for name in given if name not in set(names)]
    if problems:
        raise InputError(f"{what}: {', '.join(problems)}")


def feature_row(features: object) -> Mapping[str, Any] | NDArray[Any]:
    """Return one row of features: a mapping if it has names, else an array.

    Raises:
        UsageError: It is neither.
        InputError: It is a table without exactly one row.
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


def feature_matrix(x: object, names: tuple[str, ...], *, positions: Callable[[], None]) -> NDArray[np.float32]:
    """Return features as a matrix, shape (n, f): read by name if they have names, else by position.

    Args:
        x: An array, a list of rows, or a table.
        names: The model's features in order.
        positions: Raises if positions mean nothing; called before they are used.

    Raises:
        UsageError: It is none of these.
        InputError: Columns are missing, unknown, out of order or of another type.
    """
    # The order of a dict's keys does not matter; the order of a table's columns is checked.
    by_record = False
    if isinstance(x, Sequence) and not isinstance(x, str | bytes):
        by_record = len(x) > 0 and all(isinstance(row, Mapping) for row in x)
        if not by_record:
            try:
                rows: list[list[float]] = [[float(value) for value in row] for row in x]
                x = np.array(rows, np.float64).reshape(len(rows), -1 if rows else len(names))
            except (TypeError, ValueError) as err:
                raise InputError(f"x: a list of rows must hold {len(names)} numbers in each: {err}") from err
    elif not hasattr(type(x), "columns") and hasattr(x, "__array__"):
        x = np.asarray(x)
    if isinstance(x, np.ndarray) and x.dtype.names is None:
        positions()
        return matrix_in_order(x, names)
    frame = as_frame(x, "x", index=False)
    if by_record:
        _check_names(frame.columns, names, "x")
        frame = frame.select(names).cast({pl.Int64: pl.Float64})
    return matrix_by_name(frame, names)


def row_by_name(features: Mapping[str, float], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return one row of named features in the model's order, shape (f,).

    Raises:
        InputError: A name is missing or unknown, or a value is not a number.
    """
    try:
        values = [features[name] for name in names]
    except KeyError:
        values = []
    if len(values) != len(features):
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


def matrix_in_order(x: object, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return positional features as a matrix, shape (n, f).

    Raises:
        InputError: It is not a two-dimensional array of floats with one column per feature.
    """
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.dtype.kind != "f":
        what = f"an array of {x.dtype} with shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise InputError(f"features must be a frame or an array of floats with shape (n, {len(names)}), not {what}")
    if x.shape[1] != len(names):
        raise InputError(f"the model has {len(names)} features, the array {x.shape[1]} columns")
    return _to_float32(x)


def row_in_order(features: object, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return one row of positional features, shape (f,).

    Raises:
        InputError: It is not a one-dimensional array of floats with one value per feature.
    """
    row: NDArray[Any] = np.asarray(features)
    if row.dtype == np.float32 and row.shape == (len(names),):
        return row
    if row.ndim != 1:
        raise InputError(f"one row of features has one dimension, not shape {row.shape}")
    first: NDArray[np.float32] = matrix_in_order(row[None, :], names)[0]
    return first


def matrix_by_name(frame: pl.DataFrame, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the columns of a frame as a matrix, shape (n, f).

    Raises:
        InputError: Columns are missing, unknown, out of order or of another type.
    """
    _check_names(frame.columns, names, "columns")
    if tuple(frame.columns) != names:
        at = next(i for i, name in enumerate(names) if frame.columns[i] != name)
        raise InputError(
            f"columns are out of order: expected {names[at]}, got {frame.columns[at]}",
            hint="select them as `frame.select(model.feature_names_in_)`",
        )
    wrong = [f"{name} is {dtype}" for name, dtype in frame.schema.items() if not dtype.is_float()]
    if wrong:
        raise InputError(f"columns must be Float32 or Float64: {', '.join(wrong)}")
    return _to_float32(frame.select(pl.all().fill_null(float("nan"))).to_numpy(order="c"))


def _to_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    # A value that overflows becomes infinite, and is then refused as not finite.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, np.float32)


def check_finite_row(row: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the row unchanged, shape (f,), if every value is finite; see `check_finite`."""
    # A finite sum of squares proves that every value is finite; an infinite one may be an overflow.
    if not math.isfinite(row.dot(row)):
        check_finite(row[None, :], names)
    return row


def check_finite(x: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the rows unchanged, shape (n, f), if every value is finite.

    Raises:
        RefusedError: A value is NaN or infinite.
    """
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise RefusedError(
            f"feature {names[column]} of row {row} is {x[row, column]}: expected a finite number", reason=NOT_FINITE
        )
    return x
