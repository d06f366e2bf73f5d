"""The peak memory of a large training: 100 symbols of 90 days of one-minute candles, 13 million rows.

    python benchmarks/memory.py [--symbols 100] [--days 90] [--workers N] [--keep FOLDER]

The candles are simulated: the same few markets under many names, in a folder of Parquet files. The training is the
installed `mltrain train` with the default registry, as many trials as workers, and ten rounds per trial: trees need
little memory, and everything else is allocated before the first round ends. Prints the peak of the memory of all its
processes (proportional set size, so shared pages count once), sampled five times a second, and the prediction of
`mltrain train --dry-run`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mltrain.sources.simulated_market import SimSource
from mltrain.times import DAY_MS, TimeRange

MARKETS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
MLTRAIN = Path(sys.executable).with_name("mltrain")
PERIOD_S = 0.2
CONFIG = "search: {max_rounds: 10, rungs: []}\nbootstrap: {draws: 200}\n"
GO_OR_NOT = (0, 4)


def tree(pid: int) -> list[int]:
    """Return the ids of a process and of its running descendants."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(word) for task in tasks for word in (task / "children").read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(p for child in children for p in tree(child))]


def held_bytes(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def run(*words: str) -> tuple[dict[str, Any], float, int]:
    """Run `mltrain`; return its JSON document, the seconds, and the peak memory of its processes in bytes."""
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([MLTRAIN, *words, "--json", "--quiet"], stdout=out)
        while process.poll() is None:
            peak = max(peak, sum(held_bytes(pid) for pid in tree(process.pid)))
            time.sleep(PERIOD_S)
        if process.returncode not in GO_OR_NOT:
            raise SystemExit(f"mltrain {words[0]} ended with {process.returncode}")
        out.seek(0)
        return json.load(out), time.perf_counter() - start, peak


def write_candles(folder: Path, count: int, days: int) -> list[str]:
    """Write the candles of `count` symbols, first BTCUSDT, the leader of the default registry; return their names."""
    folder.mkdir()
    source = SimSource(seed=1, signal="weak")
    names = [MARKETS[0], *(f"S{k:03}USDT" for k in range(1, count))]
    end_ms = source.clock_ms(MARKETS)
    window = TimeRange(end_ms - days * DAY_MS, end_ms)
    for market in MARKETS:
        frame = source.candles(market, window)
        for name in names[MARKETS.index(market) :: len(MARKETS)]:
            frame.write_parquet(folder / f"{name}.parquet")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=int, default=100)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--workers", type=int, help="workers of the training (default: its own choice)")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the snapshot for the next run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        data = ("--data-dir", str(folder))
        if not (folder / "snapshots").exists():
            candles = Path(scratch) / "candles"
            symbols = write_candles(candles, args.symbols, args.days)
            words = ("--source", "files", "--from", str(candles), "--symbols", ",".join(symbols))
            _, seconds, peak = run("snapshot", *words, "--days", str(args.days), *data)
            print(f"snapshot: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB", flush=True)
        config = Path(scratch) / "train.yml"
        config.write_text(CONFIG)
        workers = () if args.workers is None else ("--workers", str(args.workers))
        words = ("train", "--config", str(config), "--trials", str(args.workers or 2), *workers, *data)
        plan, _, _ = run(*words, "--dry-run")
        _, seconds, peak = run(*words)
        print(
            f"training of {args.symbols} symbols x {args.days} days: {plan['candles']:,} candles x {plan['features']} "
            f"features, {plan['workers']} workers: {seconds:.0f} s, peak {peak / 2**30:.2f} GiB, predicted "
            f"{plan['peak_bytes'] / 2**30:.2f} GiB"
        )


if __name__ == "__main__":
    main()
