"""The safe reader of Feather files."""

from __future__ import annotations

import io

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pytest

from mltrain.candles.feather import read_feather
from mltrain.errors import InputError


def written(table, **options):
    sink = io.BytesIO()
    pyarrow.feather.write_feather(table, sink, **options)
    return sink.getvalue()


TABLE = pa.table({"date": pa.array([0, 60_000], pa.timestamp("ms", "UTC")), "close": [1.5, 2.5], "pair": ["A", "B"]})


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_columns_are_read_as_they_were_written(compression):
    """In the order in which they are chosen, whatever the batches."""
    data = written(TABLE, compression=compression, chunksize=1)

    assert read_feather(data, where="x", columns=list).equals(pl.from_arrow(TABLE))
    assert read_feather(data, where="x", columns=lambda _: ["close", "date"]).columns == ["close", "date"]


def test_words_that_are_kept_as_numbers_are_read():
    """As pandas keeps a categorical column."""
    data = written(TABLE.set_column(2, "pair", TABLE["pair"].dictionary_encode()))

    assert read_feather(data, where="x", columns=list)["pair"].cast(pl.String).to_list() == ["A", "B"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged or cut short: its first or last bytes are wrong"),
        (b"ARROW1", "damaged or cut short"),
        (written(TABLE)[:-1], "damaged or cut short: its first or last bytes are wrong"),
        (b"ARROW1\0\0" + b"\xff" * 40 + b"ARROW1", "damaged or cut short"),
        (written(pa.table({"a": [[1.0]]})), "column a is list<.*>, not one value a row"),
        (written(TABLE), "2 rows, at most 1 are read"),
    ],
    ids=str,
)
def test_other_files_are_refused(data, message):
    """With the reason, before anything is decompressed."""
    with pytest.raises(InputError, match=f"^x: (not a readable feather file, )?{message}"):
        read_feather(data, where="x", columns=list, max_rows=1)


def test_two_columns_of_one_name_are_refused():
    """Which one is meant is not known."""
    sink = io.BytesIO()
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
    with pa.ipc.new_file(sink, twice.schema) as writer:
        writer.write_table(twice)

    with pytest.raises(InputError, match="x: two columns of one name"):
        read_feather(sink.getvalue(), where="x", columns=list)
