"""The search against a plain Optuna loop on real candles: trials per second, and the out-of-fold log loss found.

    python benchmarks/search.py [--candles DIR] [--trials 40] [--days 90] [--workers 2] [--profile]
        [--plain-trials N | --only-search] [--peer-python PY]

The candles are BTCUSDT and ETHUSDT of DIR (default: `spot_1m` in the folder named by MLTRAIN_TEST_DATA), with the
features of `features-ohlcv.yml`. Both sides have the same rows, folds, space, limits and number of trials. The plain
loop is the usual first version: a Dataset per fold and trial with LightGBM's own bins, two threads, one trial at a
time, each fold stopped after 50 rounds without gain, no pruning.

Prints wall-clock and processor time: on a shared machine, the ratio of processor times is more stable. The loss that
the plain loop reports is too good, because each fold is stopped on the rows that it is scored on. So its best
hyperparameters are run once more in lockstep, with one round count for all folds, like the trials of the search, and
that loss is compared. `--plain-trials N` runs N of the plain loop's trials and extrapolates the time. `--profile`
prints the cost of the search's trials.

`--peer-python PY` runs FLAML and LightGBMTunerCV, from another environment, on the same folds for as long as the search
took:

    python -m venv PEERS && PEERS/bin/pip install 'flaml[automl]' 'optuna-integration[lightgbm]'
    python benchmarks/search.py --trials 40 --only-search --peer-python PEERS/bin/python

Both minimise the mean log loss of the folds and are compared by it. LightGBMTunerCV, too, has one round count for all
folds; FLAML treats the number of rounds as one more hyperparameter.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import lightgbm
import numpy as np
import optuna

from mltrain.card.machine import available_cores
from mltrain.config.loading import load_config
from mltrain.config.train_config import IntRange
from mltrain.features.registry import load_registry
from mltrain.pipeline.prepare import split_samples
from mltrain.progress import Silent
from mltrain.sources.opening import open_source
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import DAY_MS, TimeRange
from mltrain.training.booster import bin_rows
from mltrain.training.samples import build_samples
from mltrain.training.search import ExecutionOptions, pruning_thresholds, search
from mltrain.training.trial import FoldData, FoldRunner, Proposal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.config.train_config import FloatRange, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.search import SearchResult
    from mltrain.training.split import Split

SYMBOLS = ("BTCUSDT", "ETHUSDT")
THREADS = 2


def read_samples(folder: Path, days: int, symbols: tuple[str, ...], registry: str) -> tuple[Samples, Split]:
    source = open_source(SourceSpec(name="files", folder=folder))
    end_ms = source.clock_ms(symbols)
    candles = {s: source.candles(s, TimeRange(end_ms - days * DAY_MS, end_ms)) for s in symbols}
    features = load_registry(Path(registry), interval="1m")
    samples, _ = build_samples(features, candles)
    return samples, split_samples(samples, features, load_config(None, overrides={}))


def suggest(trial: optuna.Trial, name: str, searched: IntRange | FloatRange) -> float:
    if isinstance(searched, IntRange):
        return trial.suggest_int(name, searched.low, searched.high, log=searched.is_log)
    return trial.suggest_float(name, searched.low, searched.high, log=searched.is_log)


def cpu_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usages)


@dataclass
class Stopwatch:
    """Wall-clock and processor seconds of a block."""

    wall_s: float = 0.0
    cpu_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the block."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        yield
        self.wall_s, self.cpu_s = time.perf_counter() - wall, cpu_seconds() - cpu


def plain_loop(samples: Samples, split: Split, config: TrainConfig) -> tuple[Stopwatch, float, dict[str, float]]:
    """Return the time taken, the best loss that the loop reports, and its hyperparameters."""

    def objective(trial: optuna.Trial) -> float:
        params = {name: suggest(trial, name, searched) for name, searched in config.search.space.items()}
        fixed = {"objective": "binary", "metric": "binary_logloss", "bagging_freq": 1, "verbosity": -1}
        losses = []
        for fold in split.folds:
            rows = lightgbm.Dataset(samples.x[fold.train.span], samples.y[fold.train.span])
            valid = lightgbm.Dataset(samples.x[fold.valid.span], samples.y[fold.valid.span], reference=rows)
            booster = lightgbm.train(
                {**fixed, "num_threads": THREADS, **params},
                rows,
                num_boost_round=config.search.max_rounds,
                valid_sets=[valid],
                callbacks=[lightgbm.early_stopping(config.search.early_stop, verbose=False)],
            )
            losses.append(booster.best_score["valid_0"]["binary_logloss"])
        return statistics.fmean(losses)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=config.seed))
    study.enqueue_trial(config.search.space.defaults())
    watch = Stopwatch()
    with watch.running():
        study.optimize(objective, n_trials=config.search.trials)
    return watch, study.best_value, study.best_params


def our_search(samples: Samples, split: Split, config: TrainConfig, workers: int) -> tuple[Stopwatch, SearchResult]:
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, watch.running():
        journal = Path(folder) / "study.journal"
        found = search(samples, split, config, journal=journal, execution=ExecutionOptions(workers), progress=Silent())
    return watch, found


def in_lockstep(samples: Samples, split: Split, config: TrainConfig, params: dict[str, float]) -> float:
    """Return the loss of hyperparameters with one round count for all folds."""
    fold_data = FoldData.of(samples, split, config)
    runner = FoldRunner(fold_data, bin_rows(samples, split, config, rows=split.inner.span))
    record = runner.run(Proposal(0, params), pruning_thresholds([], config.search))
    assert record is not None
    return record.loss


def peers(python: Path, samples: Samples, split: Split, seconds: float) -> None:
    """Run the other tuners on the same folds for the same time; they print their results."""
    inner, start = split.inner.span, split.inner.first_row
    spans = [(f.train.first_row, f.train.stop_row, f.valid.first_row, f.valid.stop_row) for f in split.folds]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npz"
        np.savez(rows, x=samples.x[inner], y=samples.y[inner], blocks=np.array(spans) - start)
        script = Path(__file__).with_name("search_peers.py")
        subprocess.run([python, script, rows, str(seconds), str(THREADS)], check=True)


def profile(found: SearchResult) -> None:
    """Print the cost of complete and of pruned trials."""
    for state in ("complete", "pruned"):
        trials = [t for t in found.trials if t.state == state]
        rounds, seconds = sum(t.rounds_run for t in trials), sum(t.wall_s for t in trials)
        if trials:
            print(
                f"  {state:8} {len(trials):4} trials {seconds / len(trials):6.2f} s each, {rounds / len(trials):5.0f} "
                f"rounds each, {1000 * seconds / rounds:5.1f} ms a round of all folds"
            )


def main() -> None:
    data = os.environ.get("MLTRAIN_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candles", type=Path, default=Path(data) / "spot_1m" if data else None, required=not data)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--set", nargs="*", default=[], help="settings as KEY=NUMBER, such as search.batch=4")
    parser.add_argument("--config", type=Path, help="your own train.yml")
    parser.add_argument("--only-search", action="store_true", help="skip the plain loop")
    parser.add_argument("--plain-trials", type=int, help="run fewer trials of the plain loop than of the search")
    parser.add_argument("--peer-python", type=Path, help="an interpreter with FLAML and LightGBMTuner")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    changed = {key: float(v) if "." in v else int(v) for key, v in (pair.split("=") for pair in args.set)}
    config = load_config(args.config, overrides={"search.trials": args.trials, **changed})
    samples, split = read_samples(args.candles, args.days, SYMBOLS, "features-ohlcv.yml")
    print(f"{split.inner.rows:,} rows x {len(samples.names)} features, {args.trials} trials, {args.workers} workers")

    took, found = our_search(samples, split, config, args.workers)
    print(f"search:     {_format(took, args.trials)}, log loss {found.best.loss:.5f}", flush=True)
    if args.profile:
        profile(found)
    if not args.only_search:
        count = args.plain_trials or args.trials
        slow, reported, params = plain_loop(
            samples, split, replace(config, search=replace(config.search, trials=count))
        )
        fair = in_lockstep(samples, split, config, params)
        print(f"plain loop: {_format(slow, count)}, log loss {fair:.5f} (as it reports: {reported:.5f})")
        more = args.trials / count
        by_wall, by_cpu = more * slow.wall_s / took.wall_s, more * slow.cpu_s / took.cpu_s
        print(f"ratio {by_wall:.1f}, by processor time {by_cpu:.1f} (budget: at least 5)", flush=True)
    if args.peer_python:
        peers(args.peer_python, samples, split, took.wall_s)


def _format(watch: Stopwatch, trials: int) -> str:
    return f"{watch.wall_s:7.1f} s, {trials / watch.wall_s:6.3f} trials/s, {watch.cpu_s:7.1f} s of processors"


if __name__ == "__main__":
    main()
