"""Whole trainings on simulated markets, whose true probabilities are known: are verdict, intervals and odds honest?

    python benchmarks/markets.py RESULTS.jsonl [--markets 20] [--days 30] [--trials 12] [--seconds S]

Of each kind, without a signal and with a strong one, so many markets are trained on, two symbols each. A result is one
line of the file; what stands there is not run again, and no market is begun after so many seconds: call it until it
tells that all are done. Told are, over the markets of the file:

- the verdicts: without a signal NO-GO, with a strong one GO;
- how often the interval of the accuracy covers the truth, the mean chance that the model's calls on the holdout had;
- with a signal, how often the calibrated ECE is below the 95 % point of its null floor;
- the mean log loss on the holdout with the calibration that `auto` chose, minus that without any.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mltrain.candles.sim import SimSource
from mltrain.candles.snapshot import Request, take_snapshot
from mltrain.candles.source import SourceSpec, open_source
from mltrain.config import load_config
from mltrain.features.registry import load_registry
from mltrain.learn.search import Manner
from mltrain.models.store import Store
from mltrain.pipeline.train import TrainRequest, train
from mltrain.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mltrain.features.registry import FeatureSet

SYMBOLS = ("BTCUSDT", "ETHUSDT")
SIGNALS = ("none", "strong")


def try_market(
    signal: str, seed: int, *, days: int, feature_set: FeatureSet, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Train on one market in a folder of its own, and return what its card and the market itself say."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        spec = SourceSpec(name="sim", seed=seed, signal=signal, interval="1m")
        now_ms = open_source(spec).clock_ms()
        taken = take_snapshot(
            Path(folder),
            open_source(spec),
            spec,
            Request(symbols=SYMBOLS, days=days, interval="1m", end_ms=None),
            now_ms=now_ms,
            progress=Silent(),
        )
        request = TrainRequest(
            snapshot=taken.snapshot,
            feature_set=feature_set,
            config=load_config(None, overrides=dict(overrides)),
            manner=Manner(workers=1),
            promote=False,
            by="the benchmark",
        )
        report = train(request, Store(Path(folder)), now_ms=now_ms, progress=Silent())
        scores = report.training.scores
        truth = true_accuracy(pl.read_parquet(report.folder / "holdout.parquet"), SimSource(seed=seed, signal=signal))
    accuracy = scores.intervals.accuracy
    return {
        "signal": signal,
        "seed": seed,
        "verdict": report.training.verdict.word,
        "failed": [outcome.name for outcome in report.training.verdict.failed],
        "accuracy": [accuracy.value, accuracy.low, accuracy.high],
        "true_accuracy": truth,
        "margin": scores.comparison.accuracy_margin.value,
        "ece": scores.after.ece,
        "ece_floor_p95": scores.null_floor.p95,
        "method": report.training.calibration.method,
        "log_loss_auto": scores.after.log_loss,
        "log_loss_none": scores.before.log_loss,
        "seconds": round(time.perf_counter() - started, 1),
    }


def true_accuracy(holdout: pl.DataFrame, market: SimSource) -> float:
    """Return the mean chance of being right that the calls of a holdout's rows had, given that the price moved."""
    right = []
    for (symbol,), rows in holdout.group_by("symbol"):
        ts_ms = rows["ts"].dt.timestamp("ms").to_numpy()
        up = market.true_probabilities(str(symbol), ts_ms)
        right.append(np.where(rows["p"].to_numpy() > 0.5, up, 1 - up))
    return float(np.concatenate(right).mean())


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the counts over some markets."""
    strong = [r for r in results if r["signal"] == "strong"]
    none = [r for r in results if r["signal"] == "none"]
    gains = [r["log_loss_auto"] - r["log_loss_none"] for r in results]
    return {
        "markets": len(results),
        "no_signal_no_go": [sum(r["verdict"] == "NO-GO" for r in none), len(none)],
        "strong_go": [sum(r["verdict"] == "GO" for r in strong), len(strong)],
        "accuracy_covered": [
            sum(r["accuracy"][1] <= r["true_accuracy"] <= r["accuracy"][2] for r in results),
            len(results),
        ],
        "strong_ece_below_floor": [sum(r["ece"] < r["ece_floor_p95"] for r in strong), len(strong)],
        "log_loss_auto_minus_none": float(np.mean(gains)) if gains else None,
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--markets", type=int, default=20)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    results = read_results(args.results)
    done = {(r["signal"], r["seed"]) for r in results}
    wanted = [(signal, args.first_seed + k) for k in range(args.markets) for signal in SIGNALS]
    for signal, seed in wanted:
        if (signal, seed) in done:
            continue
        if time.monotonic() > end:
            break
        overrides = {"search.trials": args.trials, "seed": seed}
        found = try_market(signal, seed, days=args.days, feature_set=load_registry(), overrides=overrides)
        results.append(found)
        with args.results.open("a") as out:
            out.write(json.dumps(found) + "\n")
        print(json.dumps(found))
    print(json.dumps(summarise([r for r in results if (r["signal"], r["seed"]) in set(wanted)]), indent=1))


if __name__ == "__main__":
    main()
