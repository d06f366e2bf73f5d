"""The doors of serving: candles and features as callers have them, checked, and as arrays.

Features are taken by name, exactly the model's, or by position where the positions are known to be the model's.
Nothing is filled in, reordered or guessed: what does not fit is an error that names it.
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
        candles: A mapping of symbol to table, or one table, with a column `symbol` where the model knows several
            symbols. A table is whatever `mltrain.candles.conversion.as_frame` converts.
        symbols: Those of the model.
        argument: Name of the argument, for messages.

    Raises:
        UsageError: It is neither, or a value is not a table.
        InputError: The symbol of the candles is missing, or its columns cannot be read as candles.
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
            f"whose candles are these? The model knows {', '.join(symbols)}",
            hint="add a column `symbol`, or pass a mapping of symbol to candles",
        )
    return {symbols[0]: frame}


def _check_names(found: Iterable[str], names: tuple[str, ...], what: str) -> None:
    """Refuse names that are not exactly the model's, in any order."""
    have = list(found)
    problems = [f"{show(name)} missing" for name in names if name not in set(have)]
    problems += [f"{show(str(name))} unknown" for name in have if name not in set(names)]
    if problems:
        raise InputError(f"{what}: {', '.join(problems)}")


def feature_row(features: object) -> Mapping[str, Any] | NDArray[Any]:
    """Return one row of features by name, or by position where it has no names.

    Raises:
        UsageError: It is neither.
        InputError: It is a table with no row or several.
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
    """Return features as a matrix, shape (n, f): by name where they have names, else by position.

    Args:
        x: An array, a list of rows, or a table.
        names: The model's features in order.
        positions: Called before positions are relied on.

    Raises:
        UsageError: It is none of these.
        InputError: Columns are missing, unknown, out of order or of another type.
    """
    by_record = False  # the order of a dict's keys does not matter, the order of a table's columns is checked
    if isinstance(x, Sequence) and not isinstance(x, str | bytes):
        by_record = len(x) > 0 and all(isinstance(row, Mapping) for row in x)
        if not by_record:
            x = _matrix_of_lists(x, names)
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


def _matrix_of_lists(rows: Sequence[Any], names: tuple[str, ...]) -> NDArray[np.float64]:
    try:
        found: list[list[float]] = [[float(value) for value in row] for row in rows]
        return np.array(found, np.float64).reshape(len(found), -1 if found else len(names))
    except (TypeError, ValueError) as err:
        raise InputError(f"x: a list of rows must hold {len(names)} numbers in each: {err}") from err


def row_by_name(features: Mapping[str, float], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return one row in order, shape (f,).

    Raises:
        InputError: A name is missing or unknown, or a value is no number.
    """
    try:
        values = [features[name] for name in names]
    except KeyError:
        values = []
    if len(values) != len(features):
        _check_names(features, names, "features")
    if any(type(value) is not float for value in values):
        wrong = [n for n, v in zip(names, values, strict=True) if not _is_number(v)]
        if wrong:
            raise InputError(f"features: {', '.join(wrong)} must be numbers")
    return _to_float32(np.array(values, np.float64))


def _is_number(value: object) -> bool:
    return isinstance(value, float | int | np.number) and not isinstance(value, bool)


def matrix_in_order(x: object, names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return positional features as a matrix, shape (n, f).

    Raises:
        InputError: It is no array of floats of the model's width.
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
        InputError: It is no row of floats of the model's width.
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
            f"columns are out of order: {frame.columns[at]} stands where {names[at]} belongs",
            hint="select them as `frame.select(model.feature_names_in_)`",
        )
    wrong = [f"{name} is {dtype}" for name, dtype in frame.schema.items() if not dtype.is_float()]
    if wrong:
        raise InputError(f"columns must be Float32 or Float64: {', '.join(wrong)}")
    return _to_float32(frame.select(pl.all().fill_null(float("nan"))).to_numpy(order="c"))


def _to_float32(x: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as that
        return np.ascontiguousarray(x, np.float32)


def check_finite_row(row: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the row as it is, shape (f,), once every value has proved finite; see `check_finite`."""
    # A sum of squares that is finite has finite terms only; one that is not may have overflowed.
    if not math.isfinite(row.dot(row)):
        check_finite(row[None, :], names)
    return row


def check_finite(x: NDArray[np.float32], names: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the rows as they are, shape (n, f), once every value has proved finite.

    Raises:
        RefusedError: One has not.
    """
    bad = ~np.isfinite(x)
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise RefusedError(
            f"feature {names[column]} of row {row} is {x[row, column]}: nothing is filled in for it", reason=NOT_FINITE
        )
    return x
