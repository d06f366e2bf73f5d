"""The cost of a training: its peak memory, predicted from sizes, and its time, from a few measured rounds.

Both are estimates. The constants of the memory were measured on 200,000 rows of 30 features, where a worker holds
290 MB.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from mltrain.training.booster import bin_rows
from mltrain.training.trial import FoldData, FoldRunner

if TYPE_CHECKING:
    from mltrain.config.train_config import FoldConfig, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split

# A process that has imported LightGBM, SciPy, Polars and Optuna.
_PROCESS_BYTES: Final = 240 << 20
# Ten columns of eight bytes.
_CANDLE_BYTES: Final = 80
# Label, times, symbol and last move of a row, and its position in the order of time.
_ROW_BYTES: Final = 32
# Label, gradient, hessian, score and index of a training row of a fold.
_TRAIN_ROW_BYTES: Final = 28
# Overhead of allocators: 1.3 million candles took 1.10 times the sum of the parts.
_ALLOCATOR_FACTOR: Final = 1.15
_PROBE_ROUNDS: Final = 10
# Rounds of all folds per trial of the packaged search on real one-minute candles, pruned trials included. The first 20
# have few trials to be compared with, so most of them run to their end (five searches: 27 to 87 rounds).
_EARLY_TRIALS: Final = 20
_ROUNDS_PER_EARLY_TRIAL: Final = 55
_ROUNDS_PER_TRIAL: Final = 25


def predict_peak_bytes(rows: int, features: int, folds: FoldConfig, *, val_ratio: float, workers: int) -> int:
    """Return the peak memory of all processes of a training together, in bytes.

    Args:
        rows: Number of candles of all symbols.
        features: Number of features.
        folds: Number of walk-forward folds, and share of the inner part before the first validation block.
        val_ratio: Share of the rows in the holdout, in [0, 1].
        workers: Number of processes that run trials; 1: this process runs them.
    """
    inner_rows = rows * (1 - val_ratio)
    # Training rows of all folds, and validation rows of all folds, as multiples of the inner part's rows.
    train_share = sum(folds.start + (1 - folds.start) * k / folds.count for k in range(folds.count))
    valid_share = 1 - folds.start
    # One byte per cell in each fold's Dataset, and in the binned inner part until the folds are cut out of it.
    folds_row_bytes = features * (train_share + valid_share)
    worker_bytes = inner_rows * (folds_row_bytes + max(features, _TRAIN_ROW_BYTES * train_share))
    samples_bytes = rows * (4 * features + _CANDLE_BYTES + _ROW_BYTES)
    binning_bytes = inner_rows * 2 * features if workers > 1 else 0
    search_bytes = workers * worker_bytes + (workers if workers > 1 else 0) * _PROCESS_BYTES
    return int(_ALLOCATOR_FACTOR * (_PROCESS_BYTES + samples_bytes + max(binning_bytes, search_bytes)))


def measure_minutes(samples: Samples, split: Split, config: TrainConfig, *, workers: int) -> float:
    """Return the expected time of a search by so many workers, in minutes, from a few rounds of LightGBM's defaults."""
    search_config = config.search
    binned_inner = bin_rows(samples, split, config, rows=split.inner.span)
    runner = FoldRunner(FoldData.of(samples, split, config), binned_inner)
    rounds = min(_PROBE_ROUNDS, search_config.max_rounds)
    start_s = time.perf_counter()
    runner.score(search_config.space.defaults(), rounds)
    round_s = (time.perf_counter() - start_s) / rounds
    parallel_trials = max(1, min(workers, search_config.batch, search_config.trials))
    return _expected_rounds(search_config.trials, search_config.max_rounds) * round_s / parallel_trials / 60


def _expected_rounds(trials: int, max_rounds: int) -> int:
    """Return the expected number of boosting rounds of all trials together, each trial's at most `max_rounds`.

    >>> _expected_rounds(10, 1000), _expected_rounds(220, 1000), _expected_rounds(10, 3)
    (550, 6100, 30)
    """
    early = min(trials, _EARLY_TRIALS)
    return early * min(_ROUNDS_PER_EARLY_TRIAL, max_rounds) + (trials - early) * min(_ROUNDS_PER_TRIAL, max_rounds)
