"""The Parquet files of candles that mltrain writes: one row group per block of whole UTC days.

A block is one range of bytes whose hash is kept, so that the damaged days of a file are known before it is parsed. The
reader accepts exactly the columns, types and number of rows that were written.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.candles.parquet import ParquetFile, parquet_options
from mltrain.documents.records import TimeMs, record
from mltrain.errors import InputError
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import DAY_MS

if TYPE_CHECKING:
    import polars as pl

# Of a file: the manifest lists them all.
_MAX_BLOCKS: Final = 128
# A smaller block would take more bytes than its candles.
_MIN_BLOCK_ROWS: Final = 1440
# Digits of a block's hash. Few are enough: the file's own hash shows that there is damage, the blocks' only where.
_DIGEST: Final = 16

#: The type of each column as pyarrow writes it.
_TYPES: Final = tuple(
    (name, {"ts": "timestamp[ms, tz=UTC]", "trades": "int64"}.get(name, "double")) for name in CANDLE_SCHEMA
)


@record
@dataclass(frozen=True, slots=True)
class Block:
    """The candles of some whole UTC days, and their position in the file.

    Attributes:
        from_ms: First midnight, ms UTC.
        to_ms: The midnight after the last day, ms UTC.
        end: Offset of the byte after its last one; it begins where the previous block ends, the first block at 4.
        digest: The first 16 hexadecimal digits of the SHA-256 of its bytes.
    """

    from_ms: TimeMs
    to_ms: TimeMs
    end: int
    digest: Annotated[str, re.compile(r"[0-9a-f]{16}")]


@dataclass(frozen=True, slots=True)
class CandleFile:
    """The bytes of a file of candles, and its blocks in order."""

    data: bytes
    blocks: tuple[Block, ...]


def write_candles(frame: pl.DataFrame, step_ms: int) -> CandleFile:
    """Return the Parquet file of candles that `check_candles` returned, at least one row."""
    import pyarrow.parquet as pq

    table, ts_ms = frame.to_arrow(), times_ms(frame)
    length_ms = _block_ms(int(ts_ms[0]), int(ts_ms[-1]), step_ms)
    number = ts_ms // length_ms
    starts = np.flatnonzero(np.diff(number, prepend=number[0] - 1)).tolist()
    sink = io.BytesIO()
    ends: list[tuple[int, int]] = []
    writer: Any
    with pq.ParquetWriter(sink, table.schema, **parquet_options()) as writer:
        for start, stop in zip(starts, [*starts[1:], frame.height], strict=True):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
            ends.append((int(number[start]), sink.tell()))
    data = sink.getvalue()
    # After the magic number.
    blocks, begin = [], 4
    for n, end in ends:
        blocks.append(Block(n * length_ms, (n + 1) * length_ms, end, sha256_bytes(data[begin:end])[:_DIGEST]))
        begin = end
    return CandleFile(data, tuple(blocks))


def _block_ms(first_ms: int, last_ms: int, step_ms: int) -> int:
    """Return the length of the blocks, in ms: a multiple of a day."""
    days = last_ms // DAY_MS - first_ms // DAY_MS + 1
    return max(-(-days // _MAX_BLOCKS), _MIN_BLOCK_ROWS * step_ms // DAY_MS, 1) * DAY_MS


def damaged_blocks(data: bytes, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Return the blocks whose bytes have changed; none where only the file's header or footer has changed."""
    begins = [4, *(block.end for block in blocks)]
    return tuple(
        block
        for begin, block in zip(begins[:-1], blocks, strict=True)
        if sha256_bytes(data[begin : block.end])[:_DIGEST] != block.digest
    )


def read_candles(data: bytes, *, rows: int, symbol: str, interval: str, where: str) -> pl.DataFrame:
    """Read and check the candles of a file whose hash has been verified.

    Args:
        data: The bytes of the file.
        rows: The number of rows that it must have.
        symbol: For messages.
        interval: Interval of the candles.
        where: Its name in messages, usually the path.

    Raises:
        InputError: Columns, types or number of rows are not those written, or a row is not a possible candle.
        MachineError: Not enough memory.
    """
    return check_candles(read_unchecked(data, rows=rows, where=where), symbol=symbol, interval=interval, where=where)


def read_unchecked(data: bytes, *, rows: int, where: str) -> pl.DataFrame:
    """Read the rows of a file without checking their values.

    Raises:
        InputError: Columns, types or number of rows are not those written.
        MachineError: Not enough memory.
    """
    file = ParquetFile(data, where=where)
    if file.rows != rows or tuple(file.types.items()) != _TYPES:
        columns = ", ".join(f"{name} {dtype}" for name, dtype in file.types.items())
        raise InputError(f"{where}: expected {rows} rows of candles, got {file.rows} rows of {columns}")
    return file.read(list(CANDLE_SCHEMA))
