"""Features: cells per second, memory, linearity and latency of a registry, against Qlib's Alpha158.

    python benchmarks/features.py [--features features.yml] [--rows 1000000] [--runs 3] [--qlib-python PY]

The candles are random walks on a tick grid, one for a symbol and one for its leader, so that leader features are
included. PY is the interpreter of another environment, with Qlib and Polars (`pip install pyqlib polars`); without it,
Alpha158 is not run. Budgets: 8 times the cells per second of Alpha158, memory at most 3 times the output, 2 ms at the
99th percentile for the newest row of one symbol. Memory is read from /proc, so only on Linux.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from mltrain.features.computation import compute_features
from mltrain.features.registry import load_registry
from mltrain.serving.checked_features import open_newest_features

START_MS = 1_735_689_600_000
SYMBOL, LEADER = "ETHUSDT", "BTCUSDT"
CALLS = 1_000


def walk(seed: int, rows: int) -> pl.DataFrame:
    """Return candles with every column: prices on a grid of 0.01, log-normal volume."""
    rng = np.random.default_rng(seed)
    path = np.round(60_000 * np.exp(np.cumsum(rng.normal(0, 4e-4, rows))), 2)
    first = np.concatenate([path[:1], path[:-1]])
    wicks = np.round(np.abs(rng.normal(0, 10, (2, rows))), 2)
    high, low = np.maximum(first, path) + wicks[0], np.minimum(first, path) - wicks[1]
    volume, share, level = rng.lognormal(2, 1, rows), rng.random(rows), rng.random((2, rows))
    average, bought = low + (high - low) * level[0], volume * share
    return pl.DataFrame(
        {
            "ts": pl.Series(START_MS + 60_000 * np.arange(rows)).cast(pl.Datetime("ms", "UTC")),
            "open": first,
            "high": high,
            "low": low,
            "close": path,
            "volume": volume,
            "quote_volume": volume * average,
            "trades": rng.poisson(200, rows).astype(np.int64),
            "taker_buy_base": bought,
            "taker_buy_quote": bought * (low + (high - low) * level[1]),
        }
    )


def memory(field: str) -> int:
    """Return VmRSS or VmHWM (the peak) of this process in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def measure(rows: int, features: Path | None, runs: int) -> None:
    """Print peak memory relative to the output, cells per second by size, and the latency of the newest row."""
    registry = load_registry(features, interval="1m")
    candles = {SYMBOL: walk(1, rows), LEADER: walk(2, rows)}
    # Fill caches and import modules before the first measurement.
    compute_features(registry, SYMBOL, {name: frame[:1_000] for name, frame in candles.items()})
    if os.access("/proc/self/clear_refs", os.W_OK):
        # Reset the peak.
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        out = compute_features(registry, SYMBOL, candles)
        peak, size = memory("VmHWM") - before, out.estimated_size()
        del out
        print(f"memory    {peak / 1e6:.0f} MB at the peak, {size / 1e6:.0f} MB of output: {peak / size:.2f} x")
    for part in (rows // 8, rows // 2, rows):
        some = {name: frame[:part] for name, frame in candles.items()}
        taken = min(timed(lambda some=some: compute_features(registry, SYMBOL, some)) for _ in range(runs))
        cells = part * len(registry.names)
        rate = cells / taken / 1e6
        print(f"speed     {part:9} rows x {len(registry.names)} features {taken:7.3f} s   {rate:.1f} M cells/s")
    newest, last = open_newest_features(registry), {n: frame[-registry.lookback_bars :] for n, frame in candles.items()}
    served_ms, batch_ms = [], []
    for _ in range(CALLS):
        served_ms.append(timed(lambda: newest.compute([SYMBOL], last)) * 1e3)
        batch_ms.append(timed(lambda: compute_features(registry, SYMBOL, last)) * 1e3)
    middle, late = np.quantile(served_ms, [0.5, 0.99])
    print(
        f"latency   {registry.lookback_bars} candles to the newest row: p50 {middle:.2f} ms, p99 {late:.2f} ms; "
        f"as a batch of one row: p50 {np.median(batch_ms):.2f} ms"
    )


def timed(call) -> float:  # noqa: ANN001 -- any callable
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alpha158(python: Path, rows: int) -> None:
    """Run Alpha158 on the same candles and print its speed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "candles.parquet"
        walk(1, rows).write_parquet(path)
        words = [python, Path(__file__).with_name("features_peers.py"), path]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    print(next(line for line in done.stdout.splitlines() if line.startswith("alpha158 ")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--qlib-python", type=Path, help="an interpreter with Qlib and Polars")
    options = parser.parse_args()
    measure(options.rows, options.features, options.runs)
    if options.qlib_python:
        alpha158(options.qlib_python, options.rows)


if __name__ == "__main__":
    main()
