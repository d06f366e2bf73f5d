"""What pruning costs in log loss: a short search with and without rungs, on the same real candles, seed by seed.

    python benchmarks/pruning.py [results.jsonl] [--candles DIR] [--symbol BTCUSDT] [--days 90] [--trials 20]
        [--seeds 1,2,3,4,5]

The candles are those of DIR (default: `spot_1m` in the folder named by MLTRAIN_TEST_DATA), with the features of
`features.yml`. For each seed the search runs twice: with the rungs of `train.yml`, and with none. The regret is the
out-of-fold log loss of the best trial with rungs minus that without; below zero, the pruned search found the better
one. The cost is in rounds of one fold, and in seconds of processor time; both searches run one trial at a time.

Each search is one line of the results file. Searches in the file are not run again, so an interrupted benchmark
continues.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from search import our_search, read_samples

from mltrain.config.loading import load_config

if TYPE_CHECKING:
    from mltrain.config.train_config import SearchConfig
    from mltrain.training.trial import TrialRecord


def fold_rounds(trial: TrialRecord, config: SearchConfig, folds: int) -> int:
    """Return the rounds of a trial, summed over its folds."""
    if trial.state == "pruned":
        folds = min(folds, config.rungs[len(trial.rung_losses) - 1].folds)
    return folds * trial.rounds_run


def main() -> None:
    data = os.environ.get("MLTRAIN_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", help="JSON lines; default: a temporary file")
    parser.add_argument("--candles", type=Path, default=Path(data) / "spot_1m" if data else None, required=not data)
    parser.add_argument("--symbol", default="BTCUSDT")
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seeds", default="1,2,3,4,5", help="separated by commas")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or Path(folder) / "pruning.jsonl"
        run(args, results)
        print_regret(args, [json.loads(line) for line in results.read_text("utf-8").splitlines()])


def run(args: argparse.Namespace, results: Path) -> None:
    """Run each search that is not in the results yet."""
    samples, split = read_samples(args.candles, args.days, (args.symbol,), "features.yml")
    print(f"{args.symbol}, {split.inner.rows:,} rows x {len(samples.names)} features, {args.trials} trials", flush=True)
    lines = results.read_text("utf-8").splitlines() if results.exists() else []
    there = {(line["seed"], line["pruned"]) for line in map(json.loads, lines)}
    for seed in map(int, args.seeds.split(",")):
        for pruned in (True, False):
            if (seed, pruned) in there:
                continue
            config = load_config(None, overrides={"search.trials": args.trials, "seed": seed})
            if not pruned:
                config = replace(config, search=replace(config.search, rungs=()))
            took, found = our_search(samples, split, config, workers=1)
            line = {
                "seed": seed,
                "pruned": pruned,
                "log_loss": found.best.loss,
                "best": found.best.number,
                "complete": sum(t.state == "complete" for t in found.trials),
                "fold_rounds": sum(fold_rounds(t, config.search, len(split.folds)) for t in found.trials),
                "seconds": took.cpu_s,
                "trials": [[t.number, t.state, t.loss, t.best_round, t.rounds_run, list(t.rung_losses)]
                           for t in found.trials],
            }  # fmt: skip
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def print_regret(args: argparse.Namespace, lines: list[dict[str, float]]) -> None:
    """Print the regret of each seed, and the cost with pruning relative to that without."""
    regrets, rounds, seconds = [], [], []
    for seed in map(int, args.seeds.split(",")):
        with_rungs, without = (
            next(line for line in lines if (line["seed"], line["pruned"]) == (seed, pruned)) for pruned in (True, False)
        )
        regrets.append(with_rungs["log_loss"] - without["log_loss"])
        rounds.append(with_rungs["fold_rounds"] / without["fold_rounds"])
        seconds.append(with_rungs["seconds"] / without["seconds"])
        print(
            f"seed {seed}: log loss {with_rungs['log_loss']:.6f} (trial {with_rungs['best']}), without pruning "
            f"{without['log_loss']:.6f} (trial {without['best']}): regret {regrets[-1]:+.6f}; cost {rounds[-1]:.2f} of "
            f"the rounds, {seconds[-1]:.2f} of the time"
        )
    print(
        f"mean regret {statistics.fmean(regrets):+.6f} nats over {len(regrets)} seeds (budget: at most 0.0001), cost "
        f"{statistics.fmean(rounds):.2f} of the rounds, {statistics.fmean(seconds):.2f} of the time"
    )


if __name__ == "__main__":
    main()
