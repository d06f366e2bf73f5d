r"""The search against a plain Optuna loop and other tuners on real candles: trials per second, and the log loss found.

    python benchmarks/search.py [--candles DIR] [--symbols BTCUSDT,ETHUSDT ...] [--seeds 42 ...] [--trials 40]
        [--days 90] [--workers 2] [--profile] [--plain-trials N | --only-search]
        [--flaml-python PY [--results results.jsonl]]

The candles are those of DIR (default: `spot_1m` in the folder named by MLTRAIN_TEST_DATA), with the features of
`features-ohlcv.yml`. Each set of symbols is searched with each seed. All sides have the same rows and folds, and as
many threads as the search has workers.

The plain loop is the usual first version, with the space, limits and number of trials of the search: a Dataset per fold
and trial with LightGBM's own bins, one trial at a time, each fold stopped after 50 rounds without gain, no pruning. The
ratio is that of the times of equally many trials, in wall-clock and in processor time: on a shared machine, the latter
is more stable. `--plain-trials N` runs N of the plain loop's trials and extrapolates the time. `--profile` prints the
cost of the search's trials.

`--flaml-python PY` runs FLAML and LightGBMTunerCV, each in its own space for as long as the search took, with another
interpreter:

    python -m venv PEERS && PEERS/bin/pip install 'flaml[automl]' 'optuna-integration[lightgbm]'
    python benchmarks/search.py --symbols BTCUSDT BTCUSDT,ETHUSDT --seeds 1 2 3 --trials 200 --only-search \
        --flaml-python PEERS/bin/python

At 200 trials this takes an hour or two. With `--results`, what the tuners found with a seed is one line of that file,
and is not searched again, so that an interrupted benchmark continues.

All losses are compared by one measure. Those that the tuners report are not: each is the best of many, by chance too;
the plain loop stops each fold on the rows that it is scored on; FLAML treats the number of rounds as one more
hyperparameter. So each one's best hyperparameters, those of the search included, are run again with three other seeds
in lockstep, with the best round count that is the same for all folds: the log loss out of fold is their mean. That of
the holdout is the mean of boosters with these hyperparameters and rounds, fitted on all rows before it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
from mltrain.training.booster import bin_rows, fit_final
from mltrain.training.metrics import row_log_loss
from mltrain.training.samples import build_samples
from mltrain.training.search import ExecutionOptions, pruning_thresholds, search
from mltrain.training.trial import FoldData, FoldRunner, Proposal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mltrain.config.train_config import FloatRange, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.search import SearchResult
    from mltrain.training.split import Split

# FLAML's slow learners need more rounds than a trial of the search may have.
MOST_ROUNDS = 10_000
# Runs of the best hyperparameters with new seeds.
RUNS = 3


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


@dataclass(frozen=True)
class Found:
    """The best trial of a tuner.

    Attributes:
        tuner: Its name.
        seconds: Wall time of its search.
        trials: Number of trials.
        reported: The loss that it reports, in nats.
        params: Its hyperparameters, by LightGBM's names.
        loss: Mean loss of the folds with one round count for all and new seeds, in nats.
        holdout: Loss of refits on the holdout, in nats.
    """

    tuner: str
    seconds: float
    trials: int
    reported: float
    params: dict[str, float]
    loss: float
    holdout: float


def plain_loop(
    samples: Samples, split: Split, config: TrainConfig, threads: int
) -> tuple[Stopwatch, float, dict[str, float]]:
    """Return the time taken, the best loss that the loop reports, and its hyperparameters."""

    def objective(trial: optuna.Trial) -> float:
        params = {name: suggest(trial, name, searched) for name, searched in config.search.space.items()}
        fixed = {"objective": "binary", "metric": "binary_logloss", "bagging_freq": 1, "verbosity": -1}
        losses = []
        for fold in split.folds:
            rows = lightgbm.Dataset(samples.x[fold.train.span], samples.y[fold.train.span])
            valid = lightgbm.Dataset(samples.x[fold.valid.span], samples.y[fold.valid.span], reference=rows)
            booster = lightgbm.train(
                {**fixed, "num_threads": threads, **params},
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


def in_lockstep(samples: Samples, split: Split, config: TrainConfig, params: dict[str, float]) -> dict[str, float]:
    """Return the mean losses of hyperparameters with new seeds: on the folds in lockstep, and on the holdout."""
    # The number of bins belongs to the rows, not to a trial.
    booster = replace(config.booster, max_bin=int(params.get("max_bin", config.booster.max_bin)))
    config = replace(config, booster=booster, search=replace(config.search, max_rounds=MOST_ROUNDS, rungs=()))
    losses, held = [], []
    for number in range(1, RUNS + 1):
        seeded = replace(config, seed=config.seed + number)
        binned = bin_rows(samples, split, seeded, rows=split.inner.span)
        record = FoldRunner(FoldData.of(samples, split, seeded), binned).run(
            Proposal(0, params), pruning_thresholds([], seeded.search)
        )
        assert record is not None
        text = fit_final(samples, split, seeded, tuned=params, rounds=record.best_round)
        scores = lightgbm.Booster(model_str=text).predict(samples.x[split.holdout.span])
        losses.append(record.loss)
        held.append(float(row_log_loss(scores, samples.y[split.holdout.span]).mean()))
    return {"loss": statistics.fmean(losses), "holdout": statistics.fmean(held)}


def run_peers(
    python: Path, samples: Samples, split: Split, config: TrainConfig, *, seconds: float, threads: int
) -> list[Found]:
    """Run the other tuners on the same folds for the same time, and measure what they find like the search's best."""
    inner, start = split.inner.span, split.inner.first_row
    spans = [(f.train.first_row, f.train.stop_row, f.valid.first_row, f.valid.stop_row) for f in split.folds]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npz"
        np.savez(rows, x=samples.x[inner], y=samples.y[inner], blocks=np.array(spans) - start)
        words = [python, Path(__file__).with_name("search_peers.py"), rows, seconds, threads, config.seed]
        done = subprocess.run([str(word) for word in words], check=True, stdout=subprocess.PIPE, text=True)
    # Libraries print lines, too.
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return [Found(**f, **in_lockstep(samples, split, config, f["params"])) for f in found]


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


def compare(symbols: str, seeds: Sequence[int], runs: Sequence[Sequence[Found]]) -> None:
    """Print what each tuner found with each seed, and the losses of the others minus those of the search.

    Args:
        symbols: The symbols searched.
        seeds: The seed of each run.
        runs: For each seed, what the search found, then what the others found.
    """
    print(f"{symbols}\n| seed | tuner | seconds | trials | it reports | out of fold | holdout |\n|{'---|' * 7}")
    for seed, run in zip(seeds, runs, strict=True):
        for f in run:
            losses = f"{f.reported:.5f} | {f.loss:.5f} | {f.holdout:.5f}"
            print(f"| {seed} | {f.tuner} | {f.seconds:.0f} | {f.trials} | {losses} |")
    for others in zip(*(run[1:] for run in runs), strict=True):
        pairs = list(zip(others, (run[0] for run in runs), strict=True))
        fold, held = ([getattr(f, name) - getattr(ours, name) for f, ours in pairs] for name in ("loss", "holdout"))
        print(
            f"{symbols}, {others[0].tuner} minus search: out of fold {statistics.fmean(fold):+.6f} nats, better with "
            f"{sum(d < 0 for d in fold)} of {len(fold)} seeds ({', '.join(f'{d:+.6f}' for d in fold)}); "
            f"holdout {statistics.fmean(held):+.6f} ({', '.join(f'{d:+.6f}' for d in held)})",
            flush=True,
        )


def run(args: argparse.Namespace, samples: Samples, split: Split, config: TrainConfig) -> list[Found]:
    """Search with one seed, then run the plain loop and the other tuners; return what the search and these found."""
    took, result = our_search(samples, split, config, args.workers)
    best, params = result.best, dict(result.best.params)
    measured = in_lockstep(samples, split, config, params)
    ours = Found("search", took.wall_s, args.trials, best.loss, params, **measured)
    print(
        f"search:     {_format(took, args.trials)}, log loss {ours.loss:.5f} (as it reports: {best.loss:.5f})",
        flush=True,
    )
    if args.profile:
        profile(result)
    if not args.only_search:
        count = args.plain_trials or args.trials
        fewer = replace(config, search=replace(config.search, trials=count))
        slow, reported, params = plain_loop(samples, split, fewer, args.workers)
        fair = in_lockstep(samples, split, config, params)["loss"]
        print(f"plain loop: {_format(slow, count)}, log loss {fair:.5f} (as it reports: {reported:.5f})")
        more = args.trials / count
        by_wall, by_cpu = more * slow.wall_s / took.wall_s, more * slow.cpu_s / took.cpu_s
        print(f"ratio {by_wall:.1f}, by processor time {by_cpu:.1f} (budget: at least 8)", flush=True)
    if not args.flaml_python:
        return []
    others = run_peers(args.flaml_python, samples, split, config, seconds=took.wall_s, threads=args.workers)
    for f in others:
        print(
            f"{f.tuner}: {f.seconds:.1f} s, {f.trials} trials, log loss {f.loss:.5f} (as it reports: {f.reported:.5f})"
        )
    return [ours, *others]


def main() -> None:
    data = os.environ.get("MLTRAIN_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candles", type=Path, default=Path(data) / "spot_1m" if data else None, required=not data)
    parser.add_argument("--symbols", nargs="+", default=["BTCUSDT,ETHUSDT"], help="sets of symbols to search")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--set", nargs="*", default=[], help="settings as KEY=NUMBER, such as search.batch=4")
    parser.add_argument("--config", type=Path, help="your own train.yml")
    parser.add_argument("--only-search", action="store_true", help="skip the plain loop")
    parser.add_argument("--plain-trials", type=int, help="run fewer trials of the plain loop than of the search")
    parser.add_argument("--flaml-python", type=Path, help="an interpreter with FLAML and LightGBMTuner")
    parser.add_argument("--results", type=Path, help="JSON lines to continue with")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    if args.results and not args.flaml_python:
        parser.error("--results needs --flaml-python")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    changed = {key: float(v) if "." in v else int(v) for key, v in (pair.split("=") for pair in args.set)}
    kept = args.results.read_text("utf-8").splitlines() if args.results and args.results.exists() else []
    there = {tuple(line["run"]): line["found"] for line in map(json.loads, kept)}
    for symbols in args.symbols:
        samples, split = read_samples(args.candles, args.days, tuple(symbols.split(",")), "features-ohlcv.yml")
        runs = []
        for seed in args.seeds:
            config = load_config(args.config, overrides={"search.trials": args.trials, "seed": seed, **changed})
            size = f"{split.inner.rows:,} rows x {len(samples.names)} features, {args.trials} trials"
            print(f"{symbols}, seed {seed}: {size}, {args.workers} workers")
            key = (symbols, args.days, args.trials, seed)
            if key not in there:
                there[key] = [asdict(found) for found in run(args, samples, split, config)]
                if args.results:
                    with args.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"run": key, "found": there[key]}) + "\n")
            runs.append([Found(**found) for found in there[key]])
        if args.flaml_python:
            compare(symbols, args.seeds, runs)


def _format(watch: Stopwatch, trials: int) -> str:
    return f"{watch.wall_s:7.1f} s, {trials / watch.wall_s:6.3f} trials/s, {watch.cpu_s:7.1f} s of processors"


if __name__ == "__main__":
    main()
