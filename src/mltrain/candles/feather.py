"""The safe reader of Feather files (version 2, which are Arrow IPC files), freqtrade's default format.

pyarrow decompresses the buffers of a file to whatever size they state. The sizes are therefore summed up first, from
the file's own tables of contents (flatbuffers, https://arrow.apache.org/docs/format/Columnar.html), and a file that
states more rows or bytes than are read is refused before anything is decompressed. Values are validated before Polars
sees them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from mltrain.candles.parquet import MAX_ROWS, check_types, from_arrow, translate_errors
from mltrain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import polars as pl

MAGIC: Final = b"ARROW1"

# Bytes of all buffers after decompression: eight columns of MAX_ROWS numbers.
_MAX_BYTES: Final = 8 * 8 * MAX_ROWS
_MAX_BATCHES: Final = 20_000
_MAX_BUFFERS: Final = 1_000_000
# Numbers of the fields in the flatbuffer tables Footer, Message, DictionaryBatch and RecordBatch.
_FOOTER_DICTIONARIES, _FOOTER_BATCHES = 2, 3
_MESSAGE_HEADER, _DICTIONARY_DATA = 2, 1
_BATCH_LENGTH, _BATCH_BUFFERS, _BATCH_COMPRESSION = 0, 2, 3
_CONTINUATION: Final = b"\xff\xff\xff\xff"


def read_feather(
    data: bytes, *, where: str, columns: Callable[[Sequence[str]], Sequence[str]], max_rows: int = MAX_ROWS
) -> pl.DataFrame:
    """Return columns of a Feather file.

    Args:
        data: The bytes of the file.
        where: The file's name in messages, usually the path.
        columns: Chooses from the names of the file's columns those to read.
        max_rows: The largest accepted number of rows.

    Raises:
        InputError: The file is damaged, has more than `max_rows` rows, states more bytes than are read, or has two
            columns of one name; or a column is nested.
        MachineError: Not enough memory.
    """
    import pyarrow as pa
    from pyarrow import ipc

    rows, size = _measure(data, where)
    if rows > max_rows:
        raise InputError(f"{where}: {rows} rows, at most {max_rows} are read")
    if size > _MAX_BYTES:
        raise InputError(f"{where}: more than {_MAX_BYTES} bytes after decompression")
    with translate_errors(where, "feather"):
        schema: Any = ipc.open_file(pa.py_buffer(data)).schema
        names = check_types(schema, where, columns)
        options = ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in names])
        table: Any = ipc.open_file(pa.py_buffer(data), options=options).read_all().select(names)
        table.validate(full=True)
    return from_arrow(table, where, "feather")


def _measure(data: bytes, where: str) -> tuple[int, int]:
    """Return the number of rows of a Feather file and the bytes of its buffers after decompression, as it states."""
    try:
        if not data.startswith(MAGIC) or not data.endswith(MAGIC):
            raise ValueError("its first or last bytes are wrong")  # noqa: TRY301
        end = len(data) - len(MAGIC) - 4
        (length,) = struct.unpack_from("<i", data, end)
        if not 0 < length <= end:
            raise ValueError("its list of contents is missing")  # noqa: TRY301
        footer = memoryview(data)[end - length : end]
        root = _root(footer)
        rows = size = 0
        for field in (_FOOTER_DICTIONARIES, _FOOTER_BATCHES):
            for offset, _, _ in _structs(footer, root, field, "<qi4xq", _MAX_BATCHES):
                batch_rows, batch_size = _measure_batch(data, offset, is_dictionary=field == _FOOTER_DICTIONARIES)
                rows += batch_rows if field == _FOOTER_BATCHES else 0
                size += batch_size
    except (ValueError, struct.error, IndexError, OverflowError) as err:
        raise InputError(f"{where}: not a readable feather file, damaged or cut short: {str(err)[:200]}") from err
    return rows, size


def _measure_batch(data: bytes, offset: int, *, is_dictionary: bool) -> tuple[int, int]:
    """Return the rows and the decompressed bytes that the message at `offset` of a file states."""
    if not 0 <= offset < len(data):
        raise ValueError("a batch lies outside the file")
    if data[offset : offset + 4] == _CONTINUATION:
        offset += 4
    (length,) = struct.unpack_from("<i", data, offset)
    body = offset + 4 + length
    if length <= 0 or body > len(data):
        raise ValueError("a batch lies outside the file")
    message = memoryview(data)[offset + 4 : body]
    table = _table(message, _root(message), _MESSAGE_HEADER)
    if table is not None and is_dictionary:
        table = _table(message, table, _DICTIONARY_DATA)
    if table is None:
        raise ValueError("a batch has no contents")
    place = _field(message, table, _BATCH_LENGTH)
    rows = struct.unpack_from("<q", message, place)[0] if place else 0
    is_compressed = _field(message, table, _BATCH_COMPRESSION) is not None
    size = 0
    for start, stored in _structs(message, table, _BATCH_BUFFERS, "<qq", _MAX_BUFFERS):
        if start < 0 or stored < 0 or body + start + stored > len(data):
            raise ValueError("a buffer lies outside the file")
        # Before a compressed buffer stands its size after decompression; -1: it is not compressed.
        stated = struct.unpack_from("<q", data, body + start)[0] if is_compressed and stored >= 8 else -1
        size += stored if stated == -1 else stated
        if stated < -1:
            raise ValueError("a buffer has a negative size")
    if rows < 0:
        raise ValueError("a batch has a negative number of rows")
    return rows, size


def _root(buffer: memoryview) -> int:
    """Return the place of the root table of a flatbuffer."""
    return int(struct.unpack_from("<I", buffer, 0)[0])


def _field(buffer: memoryview, table: int, number: int) -> int | None:
    """Return the place of a field of the flatbuffer table at `table`; None if the table lacks it."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if vtable < 0:
        raise ValueError("a table lies outside the file")
    (vtable_size,) = struct.unpack_from("<H", buffer, vtable)
    place = 4 + 2 * number
    if place + 2 > vtable_size:
        return None
    (offset,) = struct.unpack_from("<H", buffer, vtable + place)
    return table + offset if offset else None


def _table(buffer: memoryview, table: int, number: int) -> int | None:
    """Return the place of the table that a field refers to; None if the field is absent."""
    place = _field(buffer, table, number)
    return None if place is None else place + struct.unpack_from("<I", buffer, place)[0]


def _structs(buffer: memoryview, table: int, number: int, layout: str, limit: int) -> Iterator[tuple[int, ...]]:
    """Yield the structs of the vector that a field refers to; `layout` is their format for `struct`."""
    start = _table(buffer, table, number)
    if start is None:
        return
    (count,) = struct.unpack_from("<I", buffer, start)
    if count > limit:
        raise ValueError(f"{count} entries in one list, at most {limit} are read")
    for i in range(count):
        yield struct.unpack_from(layout, buffer, start + 4 + i * struct.calcsize(layout))
