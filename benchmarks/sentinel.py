"""The sentinel: its memory, and its share of a core while it watches; and how fast it reads a ledger at the start.

    python benchmarks/sentinel.py [--days 30] [--seconds 30]

A folder gets a live version of three symbols on minutes, of which only the card can be read, and a ledger of as many
days. The installed `mltrain sentinel` reads it with its default settings, and then watches for some seconds, in each of
which three answers are recorded, sixty times as many as on minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mltrain.monitoring.ledger import LEDGER, Ledger, LedgerRow, format_at
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from mltrain.times import DAY_MS, MINUTE_MS, floor_to_grid, format_ms

MLTRAIN = Path(sys.executable).with_name("mltrain")
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
VERSION = "2025-10-15"
CARD = {
    "train": {
        "label": {"kind": "direction", "horizon_bars": 1, "ties": "drop"},
        "interval": "1m",
        "symbols": list(SYMBOLS),
    },
    "lineage": {"config": {"gates": {"latency_p95_ms": 80.0}}},
}
# The ledger has been read when so many seconds in a row took less than so much processor time each, in seconds: on a
# busy machine a process may have to wait.
QUIET_SECONDS, QUIET_S = 5, 0.05


def prepare(folder: Path, begin_ms: int) -> Store:
    """Return a store with one version, live since a time."""
    store = Store(folder)
    files = {"lgbm.pkl": b"", "model_card.json": json.dumps(CARD).encode()}
    publish_version(store, files, verdict="GO", date=VERSION, now_ms=begin_ms)
    promote_version(store, VERSION, why="a benchmark", by="benchmark", now_ms=begin_ms)
    return store


class Answers:
    """Answers of a calibrated model on random walks, one row per symbol and bar."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(1)
        self._close = dict.fromkeys(SYMBOLS, 100.0)

    def at(self, ts_ms: int, now_ms: int) -> list[LedgerRow]:
        """Return the rows of a candle, recorded at a time."""
        rows = []
        for symbol, close in self._close.items():
            p = float(np.clip(self._rng.normal(0.5, 0.05), 0.3, 0.7))
            self._close[symbol] = close * (1.0001 if self._rng.random() < p else 0.9999)
            rows.append(
                LedgerRow(
                    at=format_at(now_ms),
                    ts=format_ms(ts_ms),
                    symbol=symbol,
                    version=VERSION,
                    code_sha256="c" * 64,
                    p=p,
                    raw=p,
                    refused=None,
                    permit=None,
                    high=close,
                    low=close,
                    close=close,
                    source_at=format_ms(now_ms),
                    latency_ms=2.0,
                )
            )
        return rows


def used_s(pid: int) -> float:
    """Return the processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> int:
    """Return the largest resident memory of a process so far, in MB of 2^20 bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) >> 10


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--seconds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        newest_ms = floor_to_grid(int(time.time() * 1000), MINUTE_MS) - MINUTE_MS
        begin_ms = newest_ms - int(args.days * DAY_MS) + MINUTE_MS
        store, answers, rows = prepare(Path(folder), begin_ms), Answers(), 0
        with Ledger(store.data_dir / LEDGER) as ledger:
            for ts_ms in range(begin_ms, newest_ms + 1, MINUTE_MS):
                ledger.append(answers.at(ts_ms, ts_ms + MINUTE_MS))
                rows += len(SYMBOLS)
            with subprocess.Popen([MLTRAIN, "sentinel", "--data-dir", folder, "--quiet"]) as sentinel:
                read_s, quiet = 0.0, 0
                while quiet < QUIET_SECONDS:
                    time.sleep(1)
                    before, read_s = read_s, used_s(sentinel.pid)
                    quiet = quiet + 1 if 0 < read_s - before < QUIET_S or 0 < read_s == before else 0
                print(
                    f"reading {rows:,} rows: {read_s:.1f} s of a processor, with the start of the process", flush=True
                )
                for second in range(args.seconds):
                    now_ms = int(time.time() * 1000)
                    ledger.append(answers.at(newest_ms + (second + 1) * MINUTE_MS, now_ms))
                    time.sleep(1)
                share = (used_s(sentinel.pid) - read_s) / args.seconds
                print(f"watching: {share:.2%} of a core, peak memory {peak_mb(sentinel.pid)} MB", flush=True)
                sentinel.terminate()
        halts = store.models / "halts.jsonl"
        assert not halts.exists(), halts.read_text("utf-8")


if __name__ == "__main__":
    main()
