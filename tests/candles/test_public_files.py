"""Candle files as people keep them in public are read cell by cell, or refused for the reason that holds."""

from __future__ import annotations

import gzip
import json
import os
import re
import zipfile
from pathlib import Path

import polars as pl
import pyarrow.feather
import pyarrow.parquet
import pytest

from mltrain.candles.frame import PRICES, times_ms
from mltrain.errors import InputError
from mltrain.sources.files import FilesSource, read_candle_file
from mltrain.times import LAST_MS, TimeRange, format_ms

pytestmark = pytest.mark.real_data

FOLDER = Path(os.environ.get("MLTRAIN_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "public"
LIST = FOLDER / "expected.json"
ENTRIES = {entry["name"]: entry for entry in json.loads(LIST.read_bytes())} if LIST.is_file() else {}

#: What the message of a refusal says, for each entry that must be refused.
REFUSALS = {
    "freqtrade-h5": r"\(HDF5, which is not read\): UNITTEST_BTC-5m.h5",
    "tradingview-no-volume": "no column for volume among 'time', 'open'",
    "investing-chinese-no-volume": "no column for ts and open and high and low and close and volume among",
    "broken-quotes": "line 2: a quotation mark is not closed",
    "zero-placeholder": "open is 0.0: a price must be a number above 0",
    "header-only": "no rows",
}
#: What it says for each entry that may be refused, and is.
MAY_REFUSE = {
    "excel-bom-thousands-ddmm": "day or month first[?] no row has a day above 12",
    "pybinance-headerless": "has no candle file of BTCUSDT: btc_bars.csv names no pair",
    "pybinance-open-time-space": "has no candle file of BTCUSDT: btc_4h_data_2018_to_2025.csv names no pair",
}
#: Entries of MAY_REFUSE whose contents are read: they are refused for their names.
BY_NAME = {"pybinance-headerless", "pybinance-open-time-space"}


def numbers_in(path):
    """Return all numbers in a file, read without knowing what they mean."""
    if path.suffix in {".feather", ".parquet"}:
        read = pyarrow.feather.read_table if path.suffix == ".feather" else pyarrow.parquet.read_table
        columns = [column for column in read(path).columns if str(column.type) in {"double", "int64"}]
        return {float(value) for column in columns for value in column.to_pylist() if value is not None}
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            data = archive.read(archive.namelist()[0])
    text = data.decode("utf-8-sig")
    # With commas between fields, one is part of a number only in quotation marks.
    pattern = r"[-+0-9.,eE]+" if ";" in text else r"[-+0-9.eE]+|(?<=\")[0-9.,]+(?=\")"
    numbers = set()
    for token in re.findall(pattern, text):
        for plain in (token.replace(",", ""), token.replace(",", ".")):
            try:
                numbers.add(float(plain))
            except ValueError:
                continue
    return numbers


@pytest.mark.skipif(not ENTRIES, reason=f"no public candle files at {FOLDER}: set MLTRAIN_TEST_DATA")
@pytest.mark.parametrize("name", ENTRIES)
def test_a_public_file_is_read_right_or_refused(name):
    """Rows, first and last time, one whole candle, and every price and volume stands in a file."""
    entry = ENTRIES[name]
    folder = FOLDER / entry["dir"]
    message = REFUSALS[name] if entry["refuse"] else MAY_REFUSE.get(name)
    if message is not None:
        assert entry["refuse"] or entry["may_refuse"]
        with pytest.raises(InputError, match=message) as err:
            read(folder, entry, entry["symbols"][0])
        assert "\n" not in err.value.message
        if name not in BY_NAME:
            return
        (path,) = folder.iterdir()
        candles = read_candle_file(path, symbol=entry["symbols"][0], interval=entry["interval"])
    else:
        source, candles = read(folder, entry, entry["symbols"][0])
        assert {*entry["symbols"]} <= {*source.symbols()}
        for other in entry["symbols"][1:]:
            assert read(folder, entry, other)[1].height > 0

    ts_ms = times_ms(candles)
    found = (candles.height, format_ms(ts_ms[0]), format_ms(ts_ms[-1]))
    assert found == (entry["rows"], entry["first"], entry["last"])
    check = entry["check"]
    row = candles.filter(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ") == check["ts"]).row(0, named=True)
    assert {key: row[key] for key in (*PRICES, "volume")} == {key: check[key] for key in (*PRICES, "volume")}
    numbers = {
        number
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".CHECKSUM"
        for number in numbers_in(path)
    }
    for column in (*PRICES, "volume"):
        assert {*candles[column].to_list()} <= numbers


def read(folder, entry, symbol):
    """Return the source of a folder, and all candles of a symbol, as a snapshot reads them."""
    source = FilesSource(folder, entry["interval"])
    source.check_symbols((symbol,))
    return source, source.candles(symbol, TimeRange(0, LAST_MS))


@pytest.mark.skipif(not ENTRIES, reason=f"no public candle files at {FOLDER}: set MLTRAIN_TEST_DATA")
def test_the_lists_here_name_entries(real_data):
    """The lists of refusals name existing entries, and every entry that must be refused."""
    assert real_data / "public" == FOLDER
    assert {*REFUSALS, *MAY_REFUSE} <= {*ENTRIES}
    assert {*REFUSALS} == {name for name, entry in ENTRIES.items() if entry["refuse"]}
