"""The backtest against vectorbt, as whole processes with the same scores, one policy and a grid.

    python benchmarks/backtest.py [--runs 3] [--days 90] [--policies 200] [--vectorbt-python PY]

Three simulated symbols of one-minute candles with given probabilities; hysteresis, 5 bps fees, 1 bp slippage, filled at
the next open. The programs alternate. PY is the interpreter of another environment, with vectorbt; without it, only
mltrain is measured. vectorbt runs with an empty cache of compiled code once, and with a filled one in the other runs.
Budgets: one policy at most a third of vectorbt with an empty cache, and at most its cached run plus a second; the grid
at most as long as vectorbt's, warm; at most 1.5 GB. Then `mltrain backtest` as a whole: features, scores, simulation,
report.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
MLTRAIN = str(Path(sys.executable).with_name("mltrain"))
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
END = "2025-10-15T00:00:00Z"


def write_rows(path: Path, days: int) -> None:
    """Write candles without gaps, and probabilities that know a part of the next move."""
    rng = np.random.default_rng(0)
    bars = days * 1440
    close = 100 * np.exp(np.cumsum(rng.normal(0, 5e-4, (bars, 3)), axis=0))
    opens = np.vstack([close[:1], close[:-1]])
    ahead = np.vstack([np.diff(np.log(close), axis=0), np.zeros((1, 3))])
    p = np.clip(0.5 + 0.02 * np.sign(ahead) * (rng.random((bars, 3)) < 0.2) + rng.normal(0, 0.015, (bars, 3)), 0, 1)
    ts_ms = 1_752_710_400_000 + 60_000 * np.arange(bars)
    np.savez(path, ts=ts_ms, open=opens, close=close, p=p)


def run_engine(path: Path, count: int) -> None:
    """Trade the rows with mltrain, and print what `backtest_peers.py` prints."""
    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.engine import simulate
    from mltrain.backtesting.grid import compare_policies
    from mltrain.backtesting.performance import measure
    from mltrain.backtesting.policies import Policy, find_answered, target_weights

    rows = np.load(path)
    began = time.perf_counter()
    close, opens = rows["close"], rows["open"]
    exists = np.ones(close.shape, np.bool_)
    bars = Bars(
        symbols=SYMBOLS,
        step_ms=60_000,
        ts_ms=rows["ts"],
        open=opens,
        high=np.maximum(opens, close),
        low=np.minimum(opens, close),
        close=close,
        volume=np.full(close.shape, 1e9),
        quote_volume=np.full(close.shape, 1e11),
        p=rows["p"],
        refused=~exists,
        exists=exists,
        mark=close,
        last=np.full(3, len(close) - 1),
    )
    costs = Costs(market="spot", taker_bps=5.0, slippage_bps=1.0, participation=None)
    policies = [
        Policy("hysteresis", enter, leave, side="both")
        for enter in np.linspace(0.505, 0.55, 20).tolist()
        for leave in np.linspace(0.5, 0.505, 10).tolist()
    ][:count]
    if count == 1:
        targets = target_weights(bars, policies, statistics=None, cost=costs.taker_cost)
        simulation = simulate(bars, targets, costs, equity=10_000.0, answered=find_answered(bars))
        found = measure(bars, simulation, costs, start=10_000.0, draws=2000, level=0.9, seed=42)
        net, sharpe = found.net_return, found.sharpe.value if found.sharpe else 0.0
    else:
        table, _ = compare_policies(bars, policies, costs, start=10_000.0, statistics=None, funding=None)
        net, sharpe = table[0].net_return, table[0].sharpe or 0.0
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"net": net, "sharpe": sharpe, "seconds": time.perf_counter() - began, "mb": peak_mb}))


def call(words: list[str], cache: Path) -> tuple[float, dict[str, float]]:
    """Return the seconds that a process took, and what it printed."""
    began = time.perf_counter()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(words, env=environment, check=True, stdout=subprocess.PIPE)
    return time.perf_counter() - began, json.loads(done.stdout)


def measure_whole(folder: Path, days: int) -> None:
    """Time `mltrain backtest` with features, scores and report, on a version of two trials."""
    words = ["--data-dir", str(folder), "--quiet"]
    sim = ["--source", "sim", "--sim-signal", "strong", "--symbols", ",".join(SYMBOLS)]
    subprocess.run([MLTRAIN, "snapshot", *sim, "--days", "20", "--end", "2025-07-15T00:00:00Z", *words],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    subprocess.run([MLTRAIN, "train", "--trials", "2", *words], check=False, stdout=subprocess.DEVNULL)
    subprocess.run([MLTRAIN, "snapshot", *sim, "--days", str(days), "--end", END, *words],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    for policy in ("cost-aware", "hysteresis", "sign"):
        began = time.perf_counter()
        options = ["--policy", policy, "--market", "perp", "--funding", "1", "--in-sample"]
        subprocess.run([MLTRAIN, "backtest", "latest", *options, *words], check=True, stdout=subprocess.DEVNULL)
        print(f"mltrain backtest --policy {policy}, {days} days of {len(SYMBOLS)}: {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--policies", type=int, default=200)
    parser.add_argument("--vectorbt-python", help="an interpreter with vectorbt")
    parser.add_argument("--engine", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        run_engine(Path(options.engine[0]), int(options.engine[1]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_rows(folder / "rows.npz", options.days)
        for count in (1, options.policies):
            ours, theirs = [], []
            for _ in range(options.runs):
                mine = call([sys.executable, __file__, "--engine", str(folder / "rows.npz"), str(count)], folder)
                ours.append(mine)
                if options.vectorbt_python:
                    words = [str(HERE / "backtest_peers.py"), str(folder / "rows.npz"), str(count)]
                    theirs.append(call([options.vectorbt_python, *words], folder / "cache"))
            seconds = statistics.median(s for s, _ in ours)
            peak = max(found["mb"] for _, found in ours)
            print(f"{count} policies: mltrain {seconds:.2f} s, {peak:.0f} MB, net {ours[0][1]['net']:+.6%}")
            if theirs:
                first, later = theirs[0][0], statistics.median(s for s, _ in theirs[1:] or theirs)
                peak = max(found["mb"] for _, found in theirs)
                print(f"  vectorbt {first:.2f} s, later {later:.2f} s, {peak:.0f} MB, net {theirs[0][1]['net']:+.6%}")
                print(f"  ratios {seconds / first:.2f}, {seconds / later:.2f}")
        measure_whole(folder / "data", options.days)


if __name__ == "__main__":
    main()
