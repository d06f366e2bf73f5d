"""Tables of candles in files, with a column for the symbol."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mltrain.candles.conversion import MAX_TABLE_ROWS, read_candle_table
from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.candles.tables import encode_table
from mltrain.errors import InputError
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import HOUR_MS, MINUTE_MS, TimeRange


def written(frame, **options):
    data = io.BytesIO()
    frame.write_parquet(data, **options)
    return data.getvalue()


def read_table(data, form, timezone=None):
    return read_candle_table(data, form, where="x", step_ms=MINUTE_MS, timezone=timezone)


@pytest.fixture(scope="module")
def candles():
    frame = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - HOUR_MS, CLOCK_MS))
    return frame.with_columns(symbol=pl.lit("BTCUSDT"))


def test_parquet_of_any_writer_gives_the_same_candles(candles):
    """Types, names and additional columns of other programs make no difference."""
    lists = candles.with_columns(more=pl.concat_list("open", "close"))
    named = candles.rename({"ts": "Open time", "open": "Open"}).with_columns(pl.col("symbol").cast(pl.Categorical))

    assert read_table(written(candles), "parquet")[0].equals(candles)
    assert read_table(written(lists), "parquet")[0].equals(candles)
    assert read_table(written(named), "parquet")[0].select(candles.columns).equals(candles)


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "feather"])
def test_a_table_is_read_as_it_was_written(candles, form):
    """Every format keeps the candles and their symbol, to the last bit."""
    read, notes = read_table(encode_table(candles, form), form)

    assert read.select(candles.columns).equals(candles)
    assert notes == ()


@pytest.mark.parametrize("form", ["parquet", "csv", "feather"])
def test_times_without_a_zone_are_read_as_in_a_snapshot(candles, form):
    """As UTC with a note, or in the user's zone, whether they are typed or text."""
    naive = candles.with_columns(pl.col("ts").dt.replace_time_zone(None))
    sink = io.BytesIO()
    {"parquet": naive.write_parquet, "csv": naive.write_csv, "feather": naive.write_ipc}[form](sink)

    read, notes = read_table(sink.getvalue(), form)
    moved, none = read_table(sink.getvalue(), form, "+02:00")

    assert read.equals(candles.select(read.columns))
    assert notes == ("its times state no zone and were read as UTC (--timezone ZONE reads them in another)",)
    assert ((read["ts"] - moved["ts"]).dt.total_minutes() == 120).all()
    assert none == ()


@pytest.mark.parametrize(("line", "fields"), [("2025-01-01T00:01:00Z,A", 2), ("2025-01-01T00:01:00Z,A,1,2", 4)])
def test_a_line_of_another_width_is_refused(line, fields):
    """Missing cells are not read as empty, and surplus cells are not dropped."""
    data = f"ts,symbol,open\n2025-01-01T00:00:00Z,A,1\n{line}\n".encode()

    with pytest.raises(InputError, match=f"^x: line 3 has {fields} fields, the first line 3$"):
        read_table(data, "csv")


def test_any_damage_is_an_input_error_or_changes_values_alone(candles):
    """Any byte of the first page's header, cuts and random bytes: never another error or a crash."""
    data = written(candles.select(list(CANDLE_SCHEMA)), statistics=False)
    rng = np.random.default_rng(1)
    places = [*range(4, 48), *rng.integers(0, len(data), 100).tolist()]
    damaged = [data[:at] + bytes([byte]) + data[at + 1 :] for at in places for byte in (0x80, 0xFF, data[at] ^ 1)]
    damaged += [b"", b"PAR1", data[:-1], data[100:], *(data[:n] for n in rng.integers(0, len(data), 40).tolist())]

    messages = []
    for changed in damaged:
        try:
            assert read_table(changed, "parquet")[0].height <= candles.height
        except InputError as err:
            messages.append(err.message)
    assert len(messages) > 100
    assert all(message.startswith("x: ") for message in messages)


def test_a_table_without_times_is_refused_with_its_columns(candles):
    """The message names the columns of the file."""
    with pytest.raises(InputError, match="column ts missing; the columns are 'open', 'mood'"):
        read_table(written(candles.select("open", mood=pl.lit("good"))), "parquet")


def test_a_small_file_of_many_rows_is_refused_unread():
    """A constant column takes no space on disk and gigabytes in memory."""
    rows = MAX_TABLE_ROWS + 1
    sink = io.BytesIO()
    pq.write_table(pa.table({"close": np.zeros(rows, np.int8)}), sink)

    with pytest.raises(InputError, match=f"{rows} rows, at most"):
        read_table(sink.getvalue(), "parquet")
