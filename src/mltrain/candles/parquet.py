"""The one place that reads and writes parquet.

pyarrow does it, not Polars: where a damaged or hostile file asks for more memory than there is, pyarrow raises, while
Polars aborts the process. Columns, types and rows are looked at before any value is read. Neither library notices
every changed byte, so that whoever knows a file's hash checks it first.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from mltrain.errors import InputError, MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_FEW_ROWS: Final = 10_000  # handing fewer to threads costs more than reading them
MAX_ROWS: Final = 12_000_000  # more than twenty years of minutes; 80 bytes each once they are read


def parquet_options() -> dict[str, Any]:
    """Return how files are written: zstd, with statistics and page checksums.

    No dictionary: prices and volumes hardly repeat, so that it makes files larger (8.6 MB against 6.0 for 90 days of
    minutes) and slower to write (82 ms against 33).
    """
    return {"compression": "zstd", "write_statistics": True, "write_page_checksum": True, "use_dictionary": False}


class ParquetFile:
    """A parquet file whose head is read and whose values are not yet.

    Attributes:
        rows: How many rows it says it has.
        types: The type of each column, in order, as pyarrow writes it.

    Args:
        data: The bytes of the file.
        where: Its name in messages, usually the path.
        max_rows: The most rows that are read.

    Raises:
        InputError: It is not parquet, is damaged, or has more than `max_rows` rows or a column name twice.
        MachineError: Not enough memory.
    """

    def __init__(self, data: bytes, *, where: str, max_rows: int = MAX_ROWS) -> None:
        import pyarrow.parquet as pq

        self._where = where
        with _parquet_edge(where):
            self._file: Any = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
            self._schema: Any = self._file.schema_arrow
            self.rows: int = self._file.metadata.num_rows
        if self.rows > max_rows:
            raise InputError(f"{where}: {self.rows} rows, at most {max_rows} are read")
        self.types: dict[str, str] = {field.name: str(field.type) for field in self._schema}
        if len(self.types) != len(self._schema):
            raise InputError(f"{where}: two columns of one name")

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """Return these columns, in this order.

        Raises:
            InputError: A column is nested, or the file is damaged.
            MachineError: Not enough memory.
        """
        import pyarrow as pa

        for name in columns:
            if pa.types.is_nested(self._schema.field(name).type):
                raise InputError(f"{self._where}: column {name} is {self.types[name]}, not one value a row")
        with _parquet_edge(self._where):
            table = self._file.read(columns=list(columns), use_threads=self.rows > _FEW_ROWS).select(list(columns))
            table.validate(full=True)
        if table.num_rows != self.rows:
            raise InputError(f"{self._where}: holds {table.num_rows} rows, its head says {self.rows}")
        frame = pl.from_arrow(table)
        return frame if isinstance(frame, pl.DataFrame) else frame.to_frame()


@contextmanager
def _parquet_edge(where: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except MemoryError as err:  # pyarrow's too
        raise MachineError(f"not enough memory to read {where}", hint="take fewer days or symbols") from err
    except (pa.ArrowException, OSError, OverflowError, ValueError) as err:
        reason = str(err).split("\n", 1)[0][:200]
        raise InputError(f"{where}: not a readable parquet file, damaged or cut short: {reason}") from err
