"""Read a thousand damaged candle files in this process, and write how many were refused to stdout; run by its test.

Usage: python hostile_reading.py COUNT BYTES
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from mltrain.candles.layouts import read_rows
from mltrain.errors import MltrainError
from mltrain.times import MINUTE_MS


def samples():
    """Return one small file of each format, by name."""
    count = 60
    minute = np.arange(count)
    frame = pl.DataFrame(
        {
            "date": pl.Series(1_760_529_600_000 + minute * MINUTE_MS).cast(pl.Datetime("ms", "UTC")),
            "open": 100.0 + minute % 7,
            "high": 102.0 + minute % 7,
            "low": 99.0 + minute % 7,
            "close": 101.0 + minute % 7,
            "volume": 1.5 + minute,
        }
    )
    numbers = frame.with_columns(pl.col("date").dt.timestamp("ms"))
    texts = frame.with_columns(pl.col("date").dt.strftime("%d.%m.%Y %H:%M"))
    lists = [list(row) for row in numbers.iter_rows()]
    found = {}
    for compression in ("lz4", "zstd", "uncompressed"):
        sink = io.BytesIO()
        frame.with_columns(symbol=pl.lit("BTCUSDT").cast(pl.Categorical)).write_ipc(sink, compression=compression)
        found[f"{compression}.feather"] = sink.getvalue()
    for compression in ("snappy", "zstd"):
        sink = io.BytesIO()
        frame.write_parquet(sink, compression=compression)
        found[f"{compression}.parquet"] = sink.getvalue()
    plain = numbers.write_csv().encode()
    found["comma.csv"] = b"# exported\nhttps://example.com\n" + plain
    found["quoted.csv"] = texts.write_csv(quote_style="always").encode()
    found["german.csv"] = texts.write_csv(separator=";", decimal_comma=True).encode()
    found["tabs.tsv"] = texts.write_csv(separator="\t").encode()
    found["headerless.csv"] = numbers.write_csv(include_header=False).encode()
    found["packed.csv.gz"] = gzip.compress(plain)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", plain)
    found["packed.zip"] = sink.getvalue()
    found["lists.json"] = json.dumps(lists).encode()
    found["objects.json"] = numbers.write_json().encode()
    found["lines.jsonl"] = numbers.write_ndjson().encode()
    okx = [[*map(str, row), *[str(row[4] * row[5])] * 2, "1"] for row in lists]
    found["okx.json"] = json.dumps({"code": "0", "msg": "", "data": okx}).encode()
    kraken = [[row[0] // 1000, *row[1:5], row[4], row[5], 3] for row in lists]
    found["kraken.json"] = json.dumps({"error": [], "result": {"XBTUSD": kraken, "last": 1}}).encode()
    ticks = {name: numbers["date" if name == "ticks" else name].to_list() for name in ("ticks", *frame.columns[1:])}
    found["deribit.json"] = json.dumps({"jsonrpc": "2.0", "result": ticks}).encode()
    return found


def damage(data, rng):
    """Return bytes with some of them changed, cut out, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(len(changed), 1)))
        length = int(rng.integers(1, 40))
        kind = int(rng.integers(0, 6))
        if kind == 0 and changed:
            changed[at % len(changed)] = int(rng.integers(0, 256))
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = changed[at : at + length] * int(rng.integers(1, 9))
        elif kind == 3:
            changed[at:at] = bytes(rng.integers(0, 256, length, dtype=np.uint8))
        elif kind == 4:
            # Sizes and offsets of binary formats.
            number = int(rng.choice([-1, 0, 1, 2**31 - 1, 2**40, 2**62]))
            changed[at : at + 8] = number.to_bytes(8, "little", signed=True)
        else:
            changed[at : at + 1] = bytes(rng.choice(list(b',;\t"\n\r[]{}:0-.e'), 1).astype(np.uint8))
    return bytes(changed)


def main(count, limit):
    """Read the undamaged files, then `count` damaged ones, with at most `limit` bytes of address space."""
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    files = samples()
    for name, data in files.items():
        assert read_rows(data, name=name, where=name, step_ms=MINUTE_MS).rows.height == 60, name
    refused = 0
    names = list(files)
    for seed in range(count):
        rng = np.random.default_rng(seed)
        name = names[seed % len(names)]
        try:
            read_rows(damage(files[name], rng), name=name, where=name, step_ms=MINUTE_MS)
        except MltrainError as err:
            refused += 1
            if not err.message.startswith((name, "not enough memory")) or "\n" in err.message:
                raise AssertionError(f"seed {seed}, {name}: {err.message}") from err
        except BaseException as err:
            raise AssertionError(f"seed {seed}, {name}") from err
    # Not getrusage: its peak is at least that of the process that started this one.
    status = Path("/proc/self/status").read_text("utf-8")
    usage = int(status.split("VmHWM:")[1].split()[0])
    sys.stdout.write(json.dumps({"read": count, "refused": refused, "formats": len(files), "kilobytes": usage}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
