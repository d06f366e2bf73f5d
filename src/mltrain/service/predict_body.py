"""Read the JSON body of a request for predictions.

A client may send anything. What would cost much more than its bytes, such as a table with a column per cell, is refused
before a table is built; the values themselves are judged by the library, as for any other caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import polars as pl

from mltrain.candles.conversion import is_columns
from mltrain.documents.records import RAW, RecordError, read_record, record
from mltrain.documents.values import Json, Located
from mltrain.errors import InputError
from mltrain.names import SYMBOL, show

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What messages call the body.
BODY: Final = "the body"
# Tables of candles, or symbols in one table: more than any model has symbols.
_MAX_TABLES: Final = 1_000
# Columns of a table: more than a candle has in any layout.
_MAX_COLUMNS: Final = 60


@record
@dataclass(frozen=True, slots=True)
class PredictBody:
    """A request for predictions: of the candles in it, or of the candles that the service has read itself.

    Attributes:
        candles: Candles by symbol, leaders included, or one table of candles.
        inputs: The values of the model's inputs, by the input's name.
        now_ms: The time at which the candles are judged, ms UTC; None: the machine's clock.
        symbols: The symbols whose candles the service reads itself.
    """

    candles: Annotated[Json, RAW] = None
    inputs: Annotated[Json, RAW] = None
    now_ms: int | None = None
    symbols: tuple[Annotated[str, SYMBOL], ...] | None = None

    def __post_init__(self) -> None:
        """Check that there are candles or symbols, and not both."""
        if (self.candles is None) == (self.symbols is None):
            raise RecordError(((), 'holds either "candles" or "symbols"'))
        if self.symbols is not None and (self.inputs is not None or self.now_ms is not None):
            raise RecordError(
                ((), '"inputs" and "now_ms" go with "candles": the service reads those of "symbols" itself')
            )
        if self.symbols is not None and not 0 < len(set(self.symbols)) <= _MAX_TABLES:
            raise RecordError((("symbols",), f"holds {len(self.symbols)} symbols: expected 1 to {_MAX_TABLES}"))


def read_predict_body(document: Json) -> PredictBody:
    """Return the request that a parsed body holds.

    Raises:
        RecordError: A key is unknown, a value has the wrong type, or there are both candles and symbols, or neither.
    """
    return read_record(Located(document, BODY), PredictBody)


def read_candle_tables(candles: Json) -> object:
    """Return the candles of a body in a form that `Model.predict_candles` takes.

    Raises:
        InputError: They are no tables, or have too many columns or symbols.
    """
    if isinstance(candles, dict) and not is_columns(candles):
        _check_number(len(candles), "symbols", "candles")
        return {symbol: _read_table(table, f"candles[{show(symbol)}]") for symbol, table in candles.items()}
    table = _read_table(candles, "candles")
    if isinstance(table, pl.DataFrame) and "symbol" in table.columns:
        _check_number(table["symbol"].n_unique(), "symbols", "candles")
    return table


def read_input_tables(inputs: Json) -> Mapping[str, object] | None:
    """Return the inputs of a body in a form that `Model.predict_candles` takes; None without any.

    Raises:
        InputError: They are not tables by name, or have too many columns.
    """
    if inputs is None:
        return None
    if not isinstance(inputs, dict):
        raise InputError(f"{BODY}: inputs must be a mapping of the input's name to a table")
    _check_number(len(inputs), "inputs", "inputs")
    return {name: _read_table(table, f"inputs[{show(name)}]") for name, table in inputs.items()}


def _check_number(count: int, noun: str, where: str) -> None:
    if count > _MAX_TABLES:
        raise InputError(f"{BODY}: {where} has {count} {noun}: expected at most {_MAX_TABLES}")


def _read_table(table: Json, where: str) -> object:
    """Return a table of a body: a frame if its columns have names, else the rows as they are."""
    if isinstance(table, dict):
        lengths = {len(column) if isinstance(column, list) else -1 for column in table.values()}
        if len(lengths) > 1 or -1 in lengths:
            raise InputError(f"{BODY}: {where}: expected columns of one length")
        return _as_frame({name: column for name, column in table.items() if isinstance(column, list)}, where)
    if not isinstance(table, list):
        raise InputError(f"{BODY}: {where}: expected a list of objects, or of kline rows")
    if all(isinstance(row, dict) for row in table):
        rows = [row for row in table if isinstance(row, dict)]
        names = dict.fromkeys(name for row in rows for name in row)
        # Before the columns are built: each row may name others.
        _check_columns(len(names), where)
        return _as_frame({name: [row.get(name) for row in rows] for name in names}, where)
    for row in table:
        if not isinstance(row, list):
            raise InputError(f"{BODY}: {where}: expected a list of objects, or of kline rows")
        _check_columns(len(row), where)
        _check_cells(row, where)
    return table


def _as_frame(columns: Mapping[str, list[Json]], where: str) -> pl.DataFrame:
    _check_columns(len(columns), where)
    for column in columns.values():
        _check_cells(column, where)
    # Not strict, so that whole numbers and text may stand among floats, as the library reads them elsewhere.
    return pl.DataFrame([pl.Series(name, column, strict=False) for name, column in columns.items()])


def _check_columns(count: int, where: str) -> None:
    if count > _MAX_COLUMNS:
        raise InputError(f"{BODY}: {where}: has {count} columns: expected at most {_MAX_COLUMNS}")


def _check_cells(cells: list[Json], where: str) -> None:
    if any(isinstance(cell, list | dict) for cell in cells):
        raise InputError(f"{BODY}: {where}: a value is a list or an object: expected numbers, texts or null")
