"""`mltrain snapshot` against a sequential loop of 1000-row pages, as whole processes, on the simulated exchange.

    python benchmarks/snapshot.py [--runs 3] [--latency-ms 50] [--days 90] [--ccxt]

The exchange runs in a separate process and delays every response by the latency; an unmeasured first run makes it
format its candles. The two programs alternate. Prints the medians and their ratio (budget: at least 6), the requests of
the same snapshot an hour later (budget: 6), the peak weight when the limit is below what the download needs at once
(budget: 70 % of the limit; takes a minute), and the peak memory of 20 symbols (budget: 300 MB). `--ccxt` uses a ccxt
loop instead of the plain one; ccxt must be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MLTRAIN = str(Path(sys.executable).with_name("mltrain"))
CLOCK = "2025-10-15T12:00:00Z"
HOUR_LATER = "2025-10-15T13:00:00Z"
THREE = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
TWENTY = (*THREE, *(f"SIM{n:02d}" for n in range(1, 18)))

LOOP = """
import sys, httpx
base, days, out, *symbols = sys.argv[1:]
client = httpx.Client(base_url=base)
now = client.get("/api/v3/time").json()["serverTime"]
for symbol in symbols:
    rows, since = [], now - int(days) * 86_400_000
    while True:
        page = client.get(
            "/api/v3/klines", params={"symbol": symbol, "interval": "1m", "startTime": since, "limit": 1000}
        ).json()
        rows += [[int(r[0]), *map(float, r[1:6])] for r in page if r[6] < now]
        if len(page) < 1000:
            break
        since = page[-1][0] + 60_000
    with open(f"{out}/{symbol}.csv", "w") as file:
        file.writelines(",".join(map(str, row)) + "\\n" for row in rows)
"""

CCXT = """
import sys, ccxt
base, days, out, *symbols = sys.argv[1:]
exchange = ccxt.binance({"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}})
exchange.urls["api"]["public"] = base + "/api/v3"
exchange.set_markets([{"id": s, "symbol": s, "base": s[:-4], "quote": "USDT", "spot": True, "type": "spot",
                       "limits": {}, "precision": {}, "info": {}} for s in symbols])
now = exchange.fetch_time()
for symbol in symbols:
    rows, since = [], now - int(days) * 86_400_000
    while True:
        page = exchange.fetch_ohlcv(symbol, "1m", since, 1000)
        rows += page
        if len(page) < 1000:
            break
        since = page[-1][0] + 60_000
    with open(f"{out}/{symbol}.csv", "w") as file:
        file.writelines(",".join(map(str, row)) + "\\n" for row in rows)
"""


@contextmanager
def exchange(clock: str, *, latency_ms: float, weight_limit: int, port: int = 0) -> Iterator[str]:
    """Serve the simulated exchange in a separate process; yield its address."""
    words = ["sim", "--json", "--clock", clock, "--latency-ms", str(latency_ms), "--weight-limit", str(weight_limit)]
    with subprocess.Popen([MLTRAIN, *words, "--port", str(port)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            text = ""
            while not text.rstrip().endswith("}"):
                text += server.stdout.readline()
            yield json.loads(text)["base_url"]
        finally:
            server.terminate()


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def snapshot(base_url: str, folder: Path, symbols: tuple[str, ...], days: int) -> list[str]:
    words = ["snapshot", "--base-url", base_url, "--symbols", ",".join(symbols), "--days", str(days), "--quiet"]
    return [MLTRAIN, *words, "--data-dir", str(folder)]


def traffic_of(command: list[str]) -> dict[str, float]:
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)["traffic"]


def race(work: Path, args: argparse.Namespace) -> None:
    """Print the speed of the snapshot relative to the loop, and its requests an hour later."""
    ours, loop, peaks = [], [], []
    program = CCXT if args.ccxt else LOOP
    with exchange(CLOCK, latency_ms=args.latency_ms, weight_limit=60_000) as base_url:
        port = int(base_url.rpartition(":")[2])
        for run in range(args.runs + 1):
            folder = work / f"run{run}"
            start = time.perf_counter()
            peak = traffic_of(snapshot(base_url, folder, THREE, args.days))["peak_weight"]
            took = time.perf_counter() - start
            slow = seconds([sys.executable, "-c", program, base_url, str(args.days), str(work), *THREE])
            if run:
                ours.append(took)
                loop.append(slow)
                peaks.append(peak)
                print(f"run {run}: mltrain {took:.2f} s, loop {slow:.2f} s, {slow / took:.1f}x, weight {peak:,.0f}")
    with exchange(HOUR_LATER, latency_ms=args.latency_ms, weight_limit=60_000, port=port) as base_url:
        again = traffic_of(snapshot(base_url, folder, THREE, args.days))
    ratios = [slow / took for slow, took in zip(loop, ours, strict=True)]
    print(
        f"3 symbols x {args.days} days: mltrain {statistics.median(ours):.2f} s, "
        f"loop {statistics.median(loop):.2f} s, ratio {statistics.median(ratios):.1f} (budget: at least 6)"
    )
    print(f"weight used in a minute, the loop's included, at most: {max(peaks):,.0f}")
    print(f"the same an hour later: {again['requests']:.0f} requests (budget: 6)")


def measure_budget(work: Path, days: int) -> None:
    """Print the peak weight per minute when the limit is below what the download needs at once."""
    with exchange(CLOCK, latency_ms=0, weight_limit=1000) as base_url:
        peak = traffic_of(snapshot(base_url, work / "tight", THREE, days))["peak_weight"]
    print(f"limit of 1,000 a minute: {peak:,.0f} used at most (budget: 700)")


def measure_memory(work: Path, days: int) -> None:
    """Print the peak memory of a snapshot of twenty symbols."""
    with exchange(CLOCK, latency_ms=0, weight_limit=1_000_000) as base_url:
        command = snapshot(base_url, work / "twenty", TWENTY, days)
        pid = os.spawnv(os.P_NOWAIT, command[0], command)
        _, status, usage = os.wait4(pid, 0)
    assert status == 0
    print(f"20 symbols x {days} days: peak memory {usage.ru_maxrss / 1000:.0f} MB (budget: 300)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--ccxt", action="store_true")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    try:
        race(work, args)
        measure_budget(work, args.days)
        measure_memory(work, args.days)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
