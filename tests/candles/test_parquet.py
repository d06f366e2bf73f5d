"""The safe Parquet reader."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mltrain.candles.candle_file import encode_candles
from mltrain.candles.checks import check_candles
from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.candles.parquet import MAX_ROWS, ParquetFile
from mltrain.errors import InputError
from mltrain.times import MINUTE_MS


def written(table):
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_candles_survive_the_file(make_candles):
    """Types, values and nulls are kept, and equal frames give equal bytes."""
    frame = check_candles(make_candles(range(3000)), symbol="A1", interval="1m", where="here")
    data = encode_candles(frame, MINUTE_MS).data
    file = ParquetFile(data, where="here")

    assert file.rows == 3000
    assert list(file.types) == list(CANDLE_SCHEMA)
    assert file.read(list(CANDLE_SCHEMA)).equals(frame)
    assert file.read(["close", "ts"]).equals(frame.select("close", "ts"))
    assert encode_candles(frame, MINUTE_MS).data == data


def test_the_file_carries_statistics(make_candles):
    """Other readers can skip by time."""
    frame = check_candles(make_candles(range(50)), symbol="A1", interval="1m", where="here")
    data = encode_candles(frame, MINUTE_MS).data
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(0)

    assert column.compression == "ZSTD"
    assert column.statistics.has_min_max


def test_damage_never_escapes_as_another_error_or_as_other_values(make_candles):
    """Any cut, any flipped byte, any other file: an InputError or (by the page checksums) the same values."""
    frame = check_candles(make_candles(range(200)), symbol="A1", interval="1m", where="here")
    data = encode_candles(frame, MINUTE_MS).data
    rng = np.random.default_rng(1)
    damaged = [b"", b"PAR1", b"PAR1" * 5, b"\x00" * 1000, data[:-1], data[100:]]
    damaged += [data[: int(n)] for n in rng.integers(0, len(data), 40)]
    for position in rng.integers(0, len(data), 120):
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    types = ParquetFile(data, where="here").types

    messages = []
    for bad in damaged:
        try:
            file = ParquetFile(bad, where="here")
            read = file.read(list(file.types))
            assert file.types != types or read.equals(frame)
        except InputError as err:
            messages.append(err.message)
    assert len(messages) > 100
    assert all(message.startswith("here: ") for message in messages)


def test_too_many_rows_are_refused_before_any_is_read():
    """A small file that unpacks to gigabytes is refused by its metadata."""
    rows = MAX_ROWS + 1
    data = written(pa.table({"close": np.zeros(rows, dtype=np.int8)}))

    assert len(data) < 1 << 20
    with pytest.raises(InputError, match=f"{rows} rows, at most"):
        ParquetFile(data, where="here")


def test_nested_columns_and_repeated_names_are_refused():
    """A list in a cell, and two columns of one name, are refused."""
    nested = ParquetFile(written(pa.table({"close": [[1.0], [2.0]]})), where="here")
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["close", "close"])

    with pytest.raises(InputError, match="not one value a row"):
        nested.read(["close"])
    with pytest.raises(InputError, match="two columns of one name"):
        ParquetFile(written(twice), where="here")


@pytest.mark.parametrize("dtype", [pl.String, pl.Float32, pl.Decimal(10, 2), pl.Date, pl.Categorical])
def test_flat_columns_of_any_type_are_read(dtype):
    """Whether a type makes sense is checked by the caller."""
    frame = pl.DataFrame({"x": pl.Series([1, 2]).cast(pl.Int32).cast(dtype if dtype != pl.Categorical else pl.String)})
    data = io.BytesIO()
    frame.cast({"x": dtype}).write_parquet(data)

    assert ParquetFile(data.getvalue(), where="here").read(["x"]).height == 2
