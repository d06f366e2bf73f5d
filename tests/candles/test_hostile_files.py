"""A thousand damaged candle files of all formats, and files that unpack to gigabytes, are refused in little memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest

from mltrain.candles.layouts import read_rows
from mltrain.candles.parquet import MAX_ROWS
from mltrain.errors import InputError
from mltrain.times import MINUTE_MS

COUNT = 1_000
#: Bytes of addresses, of which libraries reserve more than they use, and of memory.
ADDRESSES, MEMORY = 4 << 30, 1_000_000_000


def test_damaged_files_of_every_format_are_refused_without_an_abort():
    """In a process with limited addresses: every outcome is rows or an error that begins with the file's name."""
    script = Path(__file__).parents[1] / "support" / "hostile_reading.py"
    done = subprocess.run(
        [sys.executable, script, str(COUNT), str(ADDRESSES)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    outcome = json.loads(done.stdout)
    assert outcome["read"] == COUNT
    assert COUNT // 2 < outcome["refused"] < COUNT
    assert outcome["formats"] >= 18
    assert outcome["kilobytes"] * 1024 < MEMORY


def feather_of(rows, compression="zstd"):
    sink = io.BytesIO()
    table = pa.table({name: np.zeros(rows) for name in ("date", "open", "high", "low", "close", "volume")})
    pyarrow.feather.write_feather(table, sink, compression=compression, chunksize=rows)
    return sink.getvalue()


def with_size(data, size):
    """Return a feather file whose first compressed buffer states another size after decompression."""
    stated = struct.pack("<q", 8 * 1000)
    assert stated in data
    return data.replace(stated, struct.pack("<q", size), 1)


def gzip_of_zeros(mebibytes):
    """Return a gzip file of zeros; after a full flush each mebibyte is packed to the same bytes."""
    packer = zlib.compressobj(wbits=31)
    first, again = (packer.compress(b"0" * (1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + again * (mebibytes - 1)


BOMBS = {
    "rows.feather": (lambda: feather_of(MAX_ROWS + 1), f"{MAX_ROWS + 1} rows, at most"),
    "size.feather": (lambda: with_size(feather_of(1000), 1 << 50), "more than [0-9]+ bytes after decompression"),
    "negative.feather": (lambda: with_size(feather_of(1000), -5), "damaged or cut short: a buffer has a negative size"),
    "zeros.csv.gz": (lambda: gzip_of_zeros(1025), "more than 1073741824 bytes after unpacking"),
    "cells.csv": (lambda: b"," * 100_000 + b"\n" * 100_000 + b"1", "at most 144000000 cells are read"),
    "deep.json": (lambda: b'{"a":' * 100_000, "not JSON|not a list"),
    "deep_rows.json": (lambda: b"[" * 1_000_000, "not a list of at most|not JSON at"),
    "keys.json": (lambda: b'[{"a":1' + b',"a":1' * 1_000_000 + b"}]", "not a list of at most|not JSON|twice"),
    "answer.json": (
        lambda: b'{"code":"0","data":[' + b"[]," * 6_000_000 + b"[]]}",
        "answers of exchanges are read up to",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(name):
    """Sizes are compared with the limits before anything of that size is made."""
    make, message = BOMBS[name]

    with pytest.raises(InputError, match=rf"^{name}: (.*)({message})"):
        read_rows(make(), name=name, where=name, step_ms=MINUTE_MS)


def test_a_zip_in_a_zip_is_not_unpacked_twice():
    """The bytes of an inner zip are no table."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.csv", b"PK\x03\x04" + b"\0" * 300)

    with pytest.raises(InputError, match=r"^a\.zip: "):
        read_rows(sink.getvalue(), name="a.zip", where="a.zip", step_ms=MINUTE_MS)
