"""The run time of the leakage guards, and their false alarms on features without a leak.

    python benchmarks/guards.py alarms [--markets 50]   both packaged registries on simulated markets of every kind
    python benchmarks/guards.py cost [--days 30] [--trials 20]       the guards' share of a training's run time

`alarms` exits with 1 if any guard failed. `cost` trains in a temporary folder: two symbols, default configuration.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mltrain.card.machine import available_cores
from mltrain.config.loading import load_config
from mltrain.features.registry import load_registry
from mltrain.guards.future_info import future_info
from mltrain.pipeline.request import TrainRequest
from mltrain.pipeline.train import train_anew
from mltrain.progress import Silent
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.store.store import Store
from mltrain.times import interval_ms
from mltrain.training.label import make_labels
from mltrain.training.search import ExecutionOptions
from support.markets import odd_market

SYMBOLS = ("BTCUSDT", "ETHUSDT")


def alarms(count: int) -> int:
    """Audit both registries on `count` markets, as in training; return the number of failed audits."""
    failed = audits = values = 0
    began = time.perf_counter()
    for number in range(count):
        interval, candles = odd_market(number)
        for name in ("features.yml", "features-ohlcv.yml"):
            features = load_registry(Path(name), interval=interval)
            result = future_info(
                features,
                candles,
                labels=lambda frame, f=features: make_labels(frame, f.label, interval_ms(f.interval)),
                seed=number,
                points=load_config(None, overrides={}).guards.points,
            )
            audits += 1
            values += sum(check.points for check in result.checks)
            failed += not result.passed
            for failure in result.failures:
                print(f"market {number}, {name}: {failure}")
    seconds = time.perf_counter() - began
    print(f"{audits} audits of {count} markets, {values:,} values compared, {failed} failed, {seconds:.0f} s")
    return failed


def cost(days: int, trials: int) -> int:
    """Train once, and compare the run time of the guards with the rest."""
    with tempfile.TemporaryDirectory() as folder:
        spec = SourceSpec(name="sim", signal="strong")
        request = SnapshotRequest(symbols=SYMBOLS, days=days, interval="1m", end_ms=None)
        taken = take_snapshot(Path(folder), open_source(spec), spec, request, now_ms=0, progress=Silent())
        wanted = TrainRequest(
            snapshot=taken.snapshot,
            feature_set=load_registry(interval="1m"),
            config=load_config(None, overrides={"search.trials": trials}),
            execution=ExecutionOptions(workers=available_cores()),
            promote=False,
            by="benchmark",
        )
        began = time.perf_counter()
        report = train_anew(wanted, Store(Path(folder)), now_ms=time.time_ns() // 1_000_000, progress=Silent())
        seconds = time.perf_counter() - began
    for guard in report.training.data.guards:
        print(f"{guard.name:14} {guard.seconds:6.1f} s")
    guards = sum(guard.seconds for guard in report.training.data.guards)
    rest = seconds - guards
    print(f"whole training {seconds:6.1f} s, {len(SYMBOLS)} x {days} days, {trials} trials")
    print(f"the guards cost {guards / rest:.1%} of the rest (budget: 10 % of a training of 200 trials)")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("alarms", "cost"))
    parser.add_argument("--markets", type=int, default=50)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--trials", type=int, default=20)
    chosen = parser.parse_args()
    return min(1, alarms(chosen.markets) if chosen.what == "alarms" else cost(chosen.days, chosen.trials))


if __name__ == "__main__":
    sys.exit(main())
