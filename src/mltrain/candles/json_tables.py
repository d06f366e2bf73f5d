"""Tables in JSON: lists of rows, lists of objects, and the answers of exchanges, as cells of text.

Pure. The order of columns is known where an answer shows from which exchange it comes: Kraken, OKX, KuCoin, Bybit,
Bitget, Deribit (their public documentation of candles). Any other list of rows has columns without names.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from mltrain.candles.cells import Cells
from mltrain.candles.parquet import MAX_ROWS
from mltrain.errors import InputError
from mltrain.names import show

#: Columns of the widest layout of candles: Binance's.
MAX_COLUMNS: Final = 12

# Four years of the exchange's answers; the parser takes about ten times as much memory.
_MAX_BYTES: Final = 1 << 28
# Python's parser takes up to thirty times the size of the text.
_MAX_ANSWER_BYTES: Final = 1 << 24
# Keys of an object, as more than a row of candles has in any layout.
_MAX_KEYS: Final = 60
_MAX_KEY: Final = 100
_CSV_HINT: Final = "save it as a CSV whose first line names its columns"

#: Inside a JSON list: a row that is a mapping, or one that holds a mapping or another list.
_NESTED: Final = re.compile(r'\{|\[[^\[\]{}"]*+(?:"[^"]*+"[^\[\]{}"]*+)*+[\[{]')

_OHLC: Final = ("ts", "open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class _Answer:
    """The rows in an exchange's answer: the exchange, the names of the columns, the rows, and the symbol."""

    exchange: str
    names: tuple[str, ...]
    rows: list[Any]
    symbol: str = ""


def read_json(data: bytes, where: str) -> Cells:
    """Return the cells of JSON as text; columns without names are called "0", "1" and so on.

    Raises:
        InputError: The text is not JSON, too large, or holds no rows in a known form.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise InputError(f"{where}: not UTF-8: {err.reason} at byte {err.start}") from err
    if len(data) > _MAX_BYTES:
        raise InputError(f"{where}: {len(data)} bytes of JSON, at most {_MAX_BYTES} are read", hint=_CSV_HINT)
    if re.match(r"\s*\[\s*\{", text):
        return _read_objects(text, where)
    if not text.lstrip().startswith("["):
        return _read_answer(text, where)
    return _read_lists(text, where)


def _read_lists(text: str, where: str) -> Cells:
    """Return the cells of a list of lists."""
    # Checked first, because the parser needs many times the size of the file.
    lists = text.count("[")
    if lists > MAX_ROWS or text.count(",") > lists * MAX_COLUMNS:
        raise InputError(f"{where}: JSON, but not a list of at most {MAX_ROWS} rows of at most {MAX_COLUMNS} values")
    try:
        rows = pl.Series([text]).str.json_decode(pl.List(pl.List(pl.String))).explode(empty_as_null=False)
    except pl.exceptions.PolarsError as err:
        raise _locate_bad_json(text, str(err), where) from err
    if rows.is_empty():
        return Cells(pl.DataFrame(), where, named=False)
    widths = rows.list.len().fill_null(0)
    ragged = (widths != widths[0]).arg_true()
    if ragged.len():
        row = ragged[0]
        raise InputError(f"{where}: row {row + 1} has {widths[row]} values, row 1 has {widths[0]}")
    if widths[0] == 0:
        raise InputError(f"{where}: row 1 has no values")
    frame = pl.DataFrame([rows.list.get(i).alias(str(i)) for i in range(widths[0])])
    return Cells(frame, where, named=False, file_format="json")


def _read_objects(text: str, where: str) -> Cells:
    """Return the cells of a list of objects: the columns are the keys of the first object."""
    if text.count("{") > MAX_ROWS or text.count(":") > text.count("{") * _MAX_KEYS:
        raise InputError(f"{where}: JSON, but not a list of at most {MAX_ROWS} objects of at most {_MAX_KEYS} keys")
    first = text[text.index("{") : text.index("{") + _MAX_KEYS * _MAX_KEY * 4]
    try:
        pairs, _ = json.JSONDecoder(object_pairs_hook=list).raw_decode(first)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{where}: row 1: not JSON at {show(first[:30])}", hint="download the file again") from err
    keys = [key for key, _ in pairs]
    nested = next((key for key, value in pairs if isinstance(value, list)), None)
    if not keys or nested is not None or len({*keys}) < len(keys):
        why = (
            f"{show(nested)} is not one value"
            if nested is not None
            else "a key is there twice"
            if keys
            else "no values"
        )
        raise InputError(f"{where}: row 1: {why}", hint=_CSV_HINT)
    try:
        decoded = pl.Series([text]).str.json_decode(pl.List(pl.Struct(dict.fromkeys(keys, pl.String))))
        frame = decoded.explode(empty_as_null=False).struct.unnest()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as err:
        raise _locate_bad_json(text, str(err), where, mark="{") from err
    return Cells(frame, where, file_format="json")


def _read_answer(text: str, where: str) -> Cells:
    """Return the cells of an exchange's answer, in which the rows are one of several values."""
    begins = f"it begins with {show(text.lstrip()[:40])}"
    if len(text) > _MAX_ANSWER_BYTES:
        raise InputError(
            f"{where}: JSON, but not a list of rows: {begins}; answers of exchanges are read up to {_MAX_ANSWER_BYTES} "
            "bytes",
            hint=_CSV_HINT,
        )
    try:
        document = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError) as err:
        raise InputError(f"{where}: not JSON: {str(err)[:100]}", hint="download the file again") from err
    answer = _find_rows(document) if isinstance(document, dict) else None
    if answer is None:
        raise InputError(f"{where}: JSON, but not a list of rows: {begins}", hint=_CSV_HINT)
    width = len(answer.names)
    for number, row in enumerate(answer.rows, start=1):
        values = row if isinstance(row, list) else []
        if len(values) != width or any(isinstance(value, list | dict) for value in values):
            expected = f"{width} values, as answers of {answer.exchange} have"
            raise InputError(f"{where}: row {number} is not a list of {expected}")
    columns = zip(*answer.rows, strict=True) if answer.rows else [[] for _ in answer.names]
    cells = {
        name: [value if value is None else str(value).lower() if isinstance(value, bool) else value for value in column]
        for name, column in zip(answer.names, columns, strict=True)
    }
    return Cells(
        pl.DataFrame(cells, schema=dict.fromkeys(answer.names, pl.String)),
        where,
        file_format=f"json of {answer.exchange}",
        symbols=(answer.symbol,) if answer.symbol else (),
    )


def _find_rows(document: dict[str, Any]) -> _Answer | None:
    """Return the rows in an exchange's answer; None if it is from no exchange whose order of columns is known."""
    code, data, result = document.get("code"), document.get("data"), document.get("result")
    if isinstance(data, list):
        width = len(data[0]) if data and isinstance(data[0], list) else 0
        known = {
            # https://www.okx.com/docs-v5: of swaps, `vol` counts contracts and `volCcy` is the base volume.
            ("0", 9): ("OKX", (*_OHLC, "vol", "vol_ccy", "quote_volume", "confirm")),
            # https://www.kucoin.com/docs: close comes second.
            ("200000", 7): ("KuCoin", ("ts", "open", "close", "high", "low", "volume", "quote_volume")),
            # https://www.bitget.com/api-doc
            ("00000", 8): ("Bitget", (*_OHLC, "volume", "usdt_volume", "quote_volume")),
        }.get((str(code), width))
        return None if known is None else _Answer(known[0], known[1], data)
    if not isinstance(result, dict):
        return None
    lists = {key: value for key, value in result.items() if isinstance(value, list)}
    # https://docs.kraken.com/api: the sixth value is an average price.
    if isinstance(document.get("error"), list) and {*result} - {*lists} == {"last"} and len(lists) == 1:
        ((pair, rows),) = lists.items()
        return _Answer("Kraken", (*_OHLC, "vwap", "volume", "trades"), rows, symbol=pair)
    # https://bybit-exchange.github.io/docs: of inverse contracts, the volume is in USD.
    if "retCode" in document and isinstance(result.get("list"), list) and result.get("category") in {"spot", "linear"}:
        names = (*_OHLC, "volume", "quote_volume")
        return _Answer("Bybit", names, result["list"], symbol=str(result.get("symbol") or ""))
    # https://docs.deribit.com: one list per column.
    columns = {"ticks": "ts", "open": "open", "high": "high", "low": "low", "close": "close", "volume": "volume"}
    if "jsonrpc" in document and columns.keys() <= lists.keys():
        if "cost" in lists:
            columns["cost"] = "quote_volume"
        if len({len(lists[key]) for key in columns}) == 1:
            rows = [list(row) for row in zip(*(lists[key] for key in columns), strict=True)]
            return _Answer("Deribit", tuple(columns.values()), rows)
    return None


def _locate_bad_json(text: str, reason: str, where: str, *, mark: str = "[") -> InputError:
    """Return an error with the row in which `text` is not a JSON list of rows; `reason` is the message of Polars.

    `mark` is the character that begins a row.
    """
    character = re.search(r"at character ([0-9]+)", reason)
    if character is not None:
        # Polars counts characters from 1.
        offset = int(character[1]) - 1
        row = max(text.count(mark, 0, offset) - (mark == "["), 1)
        hint = "download the file again"
        return InputError(f"{where}: row {row}: not JSON at {show(text[offset : offset + 30])}", hint=hint)
    nested = _NESTED.search(text, text.index("[") + 1) if mark == "[" else None
    if nested is not None:
        row = text.count("]", 0, nested.start()) + 1
        excerpt = show(text[nested.start() : nested.start() + 40])
        return InputError(f"{where}: row {row} is not a plain list of values: {excerpt}", hint=_CSV_HINT)
    kind = "rows" if mark == "[" else "objects with one value a key"
    return InputError(f"{where}: not a JSON list of {kind}: {(reason.splitlines() or [''])[0][:200]}")
