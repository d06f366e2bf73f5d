"""Tables in files: Parquet, CSV, JSON and JSON lines, plain or packed in a zip or gzip, as cells.

The only module that reads tables: cells come as they were found, under the file's own column names. Which column is
which is decided elsewhere (`layouts` for candles).
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import polars as pl

from mltrain.candles.cells import Cells
from mltrain.candles.compression import gunzip, unzip_single
from mltrain.candles.parquet import MAX_ROWS, ParquetFile
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.times import TIME_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Format: TypeAlias = Literal["parquet", "csv", "jsonl"]

#: The formats of the tables that a prediction reads and writes, by suffix.
FORMATS: Final[dict[str, Format]] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

#: Size of a file, also after unpacking: twice that of eight years of one-minute candles as CSV.
MAX_FILE_BYTES: Final = 1 << 30

#: Columns of the widest layout of candles: Binance's.
MAX_COLUMNS: Final = 12

# Four years of the exchange's answers; the parser takes about ten times as much memory.
_MAX_JSON_BYTES: Final = 1 << 28
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_READ_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)

#: Inside a JSON list: a row that is a mapping, or one that holds a mapping or another list.
_NESTED: Final = re.compile(r'\{|\[[^\[\]{}"]*+(?:"[^"]*+"[^\[\]{}"]*+)*+[\[{]')


def infer_format(path: Path) -> Format:
    """Return the format of tables that a file name's suffix stands for; raise a UsageError without a known suffix."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        known = f"use one of {', '.join(FORMATS)}"
        if not suffix:
            raise UsageError(f"{show(path.name)} has no suffix that names its format", hint=known)
        raise UsageError(
            f"{show(path.name)}: {show(path.suffix)} is not a format of tables",
            hint=did_you_mean(suffix, FORMATS) or known,
        )
    return FORMATS[suffix]


def read_cells(
    data: bytes,
    *,
    name: str,
    where: str,
    columns: Callable[[Sequence[str]], Sequence[str]] = list,
    max_rows: int = MAX_ROWS,
) -> Cells:
    """Return the cells of a table in a file: typed in Parquet and JSON lines, text in CSV and JSON.

    Args:
        data: The bytes of the file.
        name: The file's name. The suffix says how it is packed and which format it has; Parquet and JSON lists are also
            recognised by their first bytes, and anything else is read as CSV.
        where: The file's name in messages.
        columns: Chooses from the names of a Parquet file's columns those to read; all by default.
        max_rows: Rows of a Parquet file at most, and lines of a CSV with MAX_COLUMNS columns at most.

    Raises:
        InputError: The file is damaged, too large (also after unpacking), or not a table.
    """
    name = name.lower()
    if name.endswith(".zip"):
        data = unzip_single(data, where=where, max_bytes=MAX_FILE_BYTES)
    elif name.endswith(".gz"):
        data = gunzip(data, where=where, max_bytes=MAX_FILE_BYTES)
    if name.endswith(".parquet") or data.startswith(b"PAR1"):
        file = ParquetFile(data, where=where, max_rows=max_rows)
        return Cells(file.read(columns(list(file.types))), where)
    if name.endswith((".jsonl", ".ndjson")):
        try:
            return Cells(pl.read_ndjson(io.BytesIO(data), infer_schema_length=None), where)
        except _READ_ERRORS as err:
            raise InputError(f"{where}: not readable JSON lines: {_first_line(err)}") from err
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if data[:100].lstrip().startswith((b"[", b"{")):
        return _read_json(data, where)
    return _read_csv(data, where, max_cells=max_rows * MAX_COLUMNS)


def _read_csv(data: bytes, where: str, *, max_cells: int) -> Cells:
    """Return the cells of a CSV as text; the CSV has no header if its first field is a number."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{where}: is UTF-16", hint="save it as UTF-8")
    text = data.lstrip(b"\r\n")
    # One line end may stay: removing it would copy the whole text.
    if text[-4:].count(b"\n") > 1 or text.endswith(b"\r"):
        text = text.rstrip(b"\r\n")
    if not text:
        raise InputError(f"{where}: not a readable CSV file: nothing is in it")
    head = text[: text.find(b"\n")] if b"\n" in text else text
    lines, width = text.count(b"\n") + (not text.endswith(b"\n")), head.count(b",") + 1
    # Each cell takes 16 bytes and more, even an empty one.
    if lines * width > max_cells:
        raise InputError(f"{where}: {lines} lines of {width} columns: at most {max_cells} cells are read")
    named = not _is_number(head.partition(b",")[0])
    # Empty lines may come before the first line with text.
    first_number = 1 + data.count(b"\n", 0, data.index(text[:1]))
    try:
        frame = pl.read_csv(text, has_header=named, infer_schema=False)
    except _READ_ERRORS as err:
        _refuse_ragged_line(text, width=width, first_number=first_number, where=where)
        raise InputError(f"{where}: not a readable CSV file: {_first_line(err)}") from err
    # If the total is right in spite of a short line, another line is too long, which Polars has refused.
    if text.count(b",") != lines * (width - 1):
        _refuse_ragged_line(text, width=width, first_number=first_number, where=where)
    return Cells(frame, where, row_word="line", first_number=first_number + named, named=named)


def _is_number(field: bytes) -> bool:
    """Return whether a field of a CSV, quoted or not, is a number."""
    try:
        float(field.strip(b' "'))
    except ValueError:
        return False
    return True


def _refuse_ragged_line(text: bytes, *, width: int, first_number: int, where: str) -> None:
    """Raise an InputError for the first line of a CSV with more or fewer than `width` fields, if there is one.

    `first_number` is the number of the first line. A CSV with quotes, which may hold commas, is not checked.
    """
    if b'"' in text:
        return
    for number, line in enumerate(io.BytesIO(text), start=first_number):
        fields = line.count(b",") + 1
        if fields != width:
            raise InputError(
                f"{where}: line {number} has {fields} field{'s' * (fields > 1)}, the first line {width}",
                hint="download the file again, or correct the line",
            )


def _read_json(data: bytes, where: str) -> Cells:
    """Return the cells of a JSON list of rows as text; the columns are called "0", "1" and so on."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        raise InputError(f"{where}: not UTF-8: {err.reason} at byte {err.start}") from err
    if not text.lstrip().startswith("["):
        raise InputError(f"{where}: JSON, but not a list of rows: it begins with {show(text.lstrip()[:40])}")
    if len(data) > _MAX_JSON_BYTES:
        raise InputError(
            f"{where}: {len(data)} bytes of JSON, at most {_MAX_JSON_BYTES} are read",
            hint="save it as a CSV whose first line names its columns",
        )
    # Checked first, because the parser needs many times the size of the file.
    lists = data.count(b"[")
    if lists > MAX_ROWS or data.count(b",") > lists * MAX_COLUMNS:
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
    return Cells(pl.DataFrame([rows.list.get(i).alias(str(i)) for i in range(widths[0])]), where, named=False)


def _locate_bad_json(text: str, reason: str, where: str) -> InputError:
    """Return an error with the row in which `text` is not a JSON list of rows; `reason` is the message of Polars."""
    character = re.search(r"at character ([0-9]+)", reason)
    if character is not None:
        # Polars counts characters from 1.
        offset = int(character[1]) - 1
        row = max(text.count("[", 0, offset) - 1, 1)
        hint = "download the file again"
        return InputError(f"{where}: row {row}: not JSON at {show(text[offset : offset + 30])}", hint=hint)
    nested = _NESTED.search(text, text.index("[") + 1)
    if nested is not None:
        row = text.count("]", 0, nested.start()) + 1
        excerpt = show(text[nested.start() : nested.start() + 40])
        return InputError(
            f"{where}: row {row} is not a plain list of values: {excerpt}",
            hint="save it as a CSV whose first line names its columns",
        )
    return InputError(f"{where}: not a JSON list of rows: {_first_line(reason)}")


def _first_line(err: object) -> str:
    """Return the first 200 characters of the first line of an error's message; its class if there is no message."""
    return (str(err).splitlines() or [type(err).__name__])[0][:200]


def encode_table(table: pl.DataFrame, file_format: Format) -> bytes:
    """Return the bytes of a file that holds a table with a column `ts`; in CSV and JSON, times are ISO 8601 in UTC."""
    out = io.BytesIO()
    if file_format == "parquet":
        table.write_parquet(out)
        return out.getvalue()
    texts = table.with_columns(pl.col("ts").dt.strftime(TIME_FORMAT))
    if file_format == "csv":
        texts.write_csv(out)
    else:
        texts.write_ndjson(out)
    return out.getvalue()
