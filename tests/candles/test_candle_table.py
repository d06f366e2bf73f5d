"""Laws of tables of candles in files."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mltrain.candles.conversion import MAX_TABLE_ROWS, read_candle_table
from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.errors import InputError
from mltrain.sources.simulated import CLOCK_MS, SimSource
from mltrain.times import HOUR_MS, TimeRange


def written(frame, **options):
    data = io.BytesIO()
    frame.write_parquet(data, **options)
    return data.getvalue()


@pytest.fixture(scope="module")
def candles():
    frame = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - HOUR_MS, CLOCK_MS))
    return frame.with_columns(symbol=pl.lit("BTCUSDT"))


def test_parquet_of_any_writer_gives_the_same_candles(candles):
    """Types, names and further columns of other programs make no difference."""
    lists = candles.with_columns(more=pl.concat_list("open", "close"))
    named = candles.rename({"ts": "Open time", "open": "Open"}).with_columns(pl.col("symbol").cast(pl.Categorical))

    assert read_candle_table(written(candles), "parquet", where="x").equals(candles)
    assert read_candle_table(written(lists), "parquet", where="x").equals(candles)
    assert read_candle_table(written(named), "parquet", where="x").select(candles.columns).equals(candles)


def test_any_damage_is_an_input_error_or_changes_values_alone(candles):
    """Every byte of the first page's header, cuts, and random bytes: never another error, never the process's end."""
    data = written(candles.select(list(CANDLE_SCHEMA)), statistics=False)
    rng = np.random.default_rng(1)
    places = [*range(4, 48), *rng.integers(0, len(data), 100).tolist()]
    damaged = [data[:at] + bytes([byte]) + data[at + 1 :] for at in places for byte in (0x80, 0xFF, data[at] ^ 1)]
    damaged += [b"", b"PAR1", data[:-1], data[100:], *(data[:n] for n in rng.integers(0, len(data), 40).tolist())]

    messages = []
    for changed in damaged:
        try:
            assert read_candle_table(changed, "parquet", where="x").height <= candles.height
        except InputError as err:
            messages.append(err.message)
    assert len(messages) > 100
    assert all(message.startswith("x: ") for message in messages)


def test_a_table_without_times_is_refused_with_its_columns(candles):
    """The message names what the file has."""
    with pytest.raises(InputError, match="column ts missing; the columns are 'open', 'mood'"):
        read_candle_table(written(candles.select("open", mood=pl.lit("good"))), "parquet", where="x")


def test_a_small_file_of_many_rows_is_refused_unread():
    """One constant row after the other is nothing on the disk and gigabytes in memory."""
    rows = MAX_TABLE_ROWS + 1
    sink = io.BytesIO()
    pq.write_table(pa.table({"close": np.zeros(rows, np.int8)}), sink)

    with pytest.raises(InputError, match=f"{rows} rows, at most"):
        read_candle_table(sink.getvalue(), "parquet", where="x")
