"""Tables in files: Feather, Parquet, CSV, JSON and JSON lines, plain or packed in a zip or gzip, as cells.

The only door to the readers of tables: cells come as they were found, under the file's own column names. Which column
is which is decided elsewhere (`layouts` for candles).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import polars as pl

from mltrain.candles import feather
from mltrain.candles.cells import Cells
from mltrain.candles.compression import gunzip, unzip_single
from mltrain.candles.csv_tables import read_csv
from mltrain.candles.json_tables import MAX_COLUMNS, read_json
from mltrain.candles.parquet import MAX_ROWS, ParquetFile
from mltrain.errors import InputError, UsageError
from mltrain.names import did_you_mean, show
from mltrain.times import TIME_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Format: TypeAlias = Literal["parquet", "csv", "jsonl", "feather"]

#: The formats of the tables that a prediction reads and writes, by suffix.
FORMATS: Final[dict[str, Format]] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".feather": "feather",
}

#: Size of a file, also after unpacking: twice that of eight years of one-minute candles as CSV.
MAX_FILE_BYTES: Final = 1 << 30

#: What messages call the formats that are read.
READABLE: Final = "feather, parquet, CSV, JSON and JSON lines, plain or in a zip or gzip"

# The first bytes of formats that are not read.
_OTHER_FORMATS: Final = {
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"FEA1": "Feather version 1",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"SQLite format 3": "SQLite",
    b"Obj\x01": "Avro",
    b"\x93NUMPY": "a NumPy array",
    b"7z\xbc\xaf": "7z",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"%PDF": "PDF",
    b"\x80\x02": "pickle",
    b"\x80\x03": "pickle",
    b"\x80\x04": "pickle",
    b"\x80\x05": "pickle",
}
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_READ_ERRORS: Final = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)


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
    """Return the cells of a table in a file: typed in Feather, Parquet and JSON lines, text in CSV and JSON.

    Args:
        data: The bytes of the file.
        name: The file's name. The suffix says how it is packed and which format it has; Feather, Parquet and JSON lists
            are also recognised by their first bytes, and anything else is read as CSV.
        where: The file's name in messages.
        columns: Chooses from the names of a Feather or Parquet file's columns those to read; all by default.
        max_rows: Rows of a Feather or Parquet file at most, and lines of a CSV with MAX_COLUMNS columns at most.

    Raises:
        InputError: The file is damaged, too large (also after unpacking), or not a table.
    """
    name = name.lower()
    if name.endswith(".zip"):
        data = unzip_single(data, where=where, max_bytes=MAX_FILE_BYTES)
    elif name.endswith(".gz"):
        data = gunzip(data, where=where, max_bytes=MAX_FILE_BYTES)
        name = name.removesuffix(".gz")
    other = next((other for magic, other in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    if other is not None:
        raise InputError(f"{where}: is {other}, which is not read", hint=f"save it as one of {READABLE}")
    is_parquet = data.startswith(b"PAR1")
    if data.startswith(feather.MAGIC) or (name.endswith((".feather", ".arrow")) and not is_parquet):
        frame = feather.read_feather(data, where=where, columns=columns, max_rows=max_rows)
        return Cells(frame, where, file_format="feather")
    if is_parquet or name.endswith(".parquet"):
        file = ParquetFile(data, where=where, max_rows=max_rows)
        return Cells(file.read(columns(list(file.types))), where, file_format="parquet")
    if name.endswith((".jsonl", ".ndjson")):
        try:
            frame = pl.read_ndjson(io.BytesIO(data), infer_schema_length=None)
        except _READ_ERRORS as err:
            reason = (str(err).splitlines() or [type(err).__name__])[0][:200]
            raise InputError(f"{where}: not readable JSON lines: {reason}") from err
        return Cells(frame, where, file_format="json lines")
    data = data.removeprefix(_BYTE_ORDER_MARK)
    if data[:100].lstrip().startswith((b"[", b"{")):
        return read_json(data, where)
    return read_csv(data, where, max_cells=max_rows * MAX_COLUMNS)


def encode_table(table: pl.DataFrame, file_format: Format) -> bytes:
    """Return the bytes of a file that holds a table with a column `ts`; in CSV and JSON, times are ISO 8601 in UTC."""
    out = io.BytesIO()
    if file_format == "parquet":
        table.write_parquet(out)
        return out.getvalue()
    if file_format == "feather":
        table.write_ipc(out, compression="lz4")
        return out.getvalue()
    texts = table.with_columns(pl.col("ts").dt.strftime(TIME_FORMAT))
    if file_format == "csv":
        texts.write_csv(out)
    else:
        texts.write_ndjson(out)
    return out.getvalue()
