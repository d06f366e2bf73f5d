"""Write a parquet file that is small on the disk and large in memory; a separate program, as pyarrow starts threads.

python bomb.py LABEL FILE      FILE is a snapshot's, and keeps its columns where the bomb is made of rows
"""

from __future__ import annotations

import sys
from pathlib import Path

BOMBS = {"rows": 200_000_000, "rows under the cap": 12_000_000, "columns": 50_000}
BLOCK = 1_000_000


def write_bomb(label, path):
    """Write a bomb over a snapshot's file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if label == "columns":
        pq.write_table(pa.table({f"c{i}": pa.array([1.0]) for i in range(BOMBS[label])}), path)
        return
    schema = pq.read_schema(path)
    table = pa.table([pa.array([1] * BLOCK, pa.int64()).cast(f.type) for f in schema], schema=schema)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for _ in range(BOMBS[label] // BLOCK):
            writer.write_table(table, row_group_size=BLOCK)


if __name__ == "__main__":
    write_bomb(sys.argv[1], Path(sys.argv[2]))
