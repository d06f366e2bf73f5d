"""The Parquet files of candles that mltrain writes: one row group per block of whole UTC days.

A block is one range of bytes whose hash is kept, so that the damaged days of a file are known before it is parsed. The
reader accepts exactly the columns, types and number of rows that were written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
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

# Blocks of one file: the manifest lists them all.
_MAX_BLOCKS: Final = 128
# A smaller block would take more bytes than its candles.
_MIN_BLOCK_ROWS: Final = 1440
# Digits of a block's hash. Few are enough: the file's own hash shows that there is damage, the blocks' only where.
_DIGEST_DIGITS: Final = 16
# Offset of the first block: a Parquet file begins with the 4 bytes "PAR1".
FIRST_OFFSET: Final = 4

#: Name and type of each column as pyarrow writes it.
_COLUMN_TYPES: Final = tuple(
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
    """The bytes of a Parquet file of candles, and the blocks of days in it, in order."""

    data: bytes
    blocks: tuple[Block, ...]


def encode_candles(frame: pl.DataFrame, step_ms: int) -> CandleFile:
    """Encode candles as Parquet, with one row group per block of whole UTC days; nothing is written to disk.

    Args:
        frame: Candles of one symbol, at least one, as `check_candles` returns them.
        step_ms: Length of the interval.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, ts_ms = frame.to_arrow(), times_ms(frame)
    days = int(ts_ms[-1]) // DAY_MS - int(ts_ms[0]) // DAY_MS + 1
    block_ms = max(-(-days // _MAX_BLOCKS), _MIN_BLOCK_ROWS * step_ms // DAY_MS, 1) * DAY_MS
    block_numbers = ts_ms // block_ms
    starts = np.flatnonzero(np.diff(block_numbers, prepend=block_numbers[0] - 1)).tolist()
    # Not a Python file, whose every write waits for the interpreter's lock while other threads run.
    sink = pa.BufferOutputStream(pa.system_memory_pool())
    offsets = [FIRST_OFFSET]
    writer: Any
    with pq.ParquetWriter(sink, table.schema, **parquet_options()) as writer:
        for start, stop in zip(starts, [*starts[1:], frame.height], strict=True):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
            offsets.append(sink.tell())
    data = sink.getvalue().to_pybytes()
    blocks = [
        Block(from_ms=day_ms, to_ms=day_ms + block_ms, end=end, digest=_block_digest(data, begin, end))
        for day_ms, (begin, end) in zip((block_numbers[starts] * block_ms).tolist(), pairwise(offsets), strict=True)
    ]
    return CandleFile(data, tuple(blocks))


def _block_digest(data: bytes, begin: int, end: int) -> str:
    """Return the digest of the block at data[begin:end]."""
    return sha256_bytes(data[begin:end])[:_DIGEST_DIGITS]


def find_damaged_blocks(data: bytes, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    """Return the blocks whose bytes in the file `data` have changed; a changed header or footer is in no block."""
    bounds = pairwise([FIRST_OFFSET, *(block.end for block in blocks)])
    return tuple(
        block
        for block, (begin, end) in zip(blocks, bounds, strict=True)
        if _block_digest(data, begin, end) != block.digest
    )


def read_candles(data: bytes, *, rows: int, symbol: str, interval: str, where: str) -> pl.DataFrame:
    """Read a Parquet file of candles whose hash has been verified, and check every candle.

    Args:
        data: The bytes of the file.
        rows: The number of rows that it must have.
        symbol: Symbol of the candles, named in messages.
        interval: Interval of the candles, such as "1m".
        where: The file's name in messages, usually the path.
    """
    return check_candles(read_unchecked(data, rows=rows, where=where), symbol=symbol, interval=interval, where=where)


def read_unchecked(data: bytes, *, rows: int, where: str) -> pl.DataFrame:
    """Read a Parquet file of `rows` candles, called `where` in messages, without checking their values.

    Raises:
        InputError: Columns, types or number of rows are not those that `encode_candles` writes.
    """
    file = ParquetFile(data, where=where)
    if file.rows != rows or tuple(file.types.items()) != _COLUMN_TYPES:
        columns = ", ".join(f"{name} {dtype}" for name, dtype in file.types.items())
        raise InputError(f"{where}: expected {rows} rows of candles, got {file.rows} rows of {columns}")
    return file.read(list(CANDLE_SCHEMA))
