"""Run FLAML and LightGBMTuner on given rows and folds for a given time, in a separate environment.

    PYTHON benchmarks/search_peers.py ROWS.npz SECONDS THREADS

`search.py` writes the rows and calls this script. It needs numpy, lightgbm, and `flaml[automl]` or
`optuna-integration[lightgbm]` or both; it does not import mltrain.
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import lightgbm
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

EARLY_STOP = 50


class Folds:
    """Walk-forward folds with the interface of scikit-learn's splitters.

    Args:
        blocks: First and stop row of each fold's training and validation, shape (folds, 4).
    """

    shuffle = False

    def __init__(self, blocks: np.ndarray) -> None:
        self._blocks = blocks.tolist()

    def get_n_splits(self, x: object = None, y: object = None, groups: object = None) -> int:  # noqa: ARG002
        """Return the number of folds."""
        return len(self._blocks)

    def split(self, x: object, y: object = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # noqa: ARG002
        """Yield the training and validation rows of each fold."""
        for a, b, c, d in self._blocks:
            yield np.arange(a, b), np.arange(c, d)


def run_flaml(rows: dict[str, np.ndarray], seconds: float, threads: int) -> tuple[float, int]:
    """Return the mean loss over the folds of its best trial, and its number of trials."""
    from flaml import AutoML

    auto = AutoML()
    # Without `sample=False` it would start with a subset of the rows, which does not fit these folds.
    auto.fit(rows["x"], rows["y"], task="classification", metric="log_loss", estimator_list=["lgbm"], sample=False,
             eval_method="cv", split_type=Folds(rows["blocks"]), time_budget=seconds, n_jobs=threads, verbose=0,
             retrain_full=False, seed=42)  # fmt: skip
    return float(auto.best_loss), int(auto._iter_per_learner["lgbm"])  # noqa: SLF001 (there is no public attribute)


def run_tuner(rows: dict[str, np.ndarray], seconds: float, threads: int) -> tuple[float, int]:
    """Return the minimum of the mean curve of its best trial, and its number of trials."""
    import optuna
    from optuna_integration.lightgbm import LightGBMTunerCV

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    tuner = LightGBMTunerCV(
        {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "num_threads": threads},
        lightgbm.Dataset(rows["x"], rows["y"], free_raw_data=False),
        folds=list(Folds(rows["blocks"]).split(rows["x"])),
        num_boost_round=1000,
        time_budget=int(seconds),
        optuna_seed=42,
        show_progress_bar=False,
        callbacks=[lightgbm.early_stopping(EARLY_STOP, verbose=False)],
        study=study,
    )
    tuner.run()
    return float(tuner.best_score), len(study.trials)


def main() -> None:
    path, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    with np.load(path) as file:
        rows = dict(file)
    for name, module, run in (("FLAML", "flaml", run_flaml), ("LightGBMTuner", "optuna_integration", run_tuner)):
        if find_spec(module) is None:
            print(f"{name}: not installed here", flush=True)
        else:
            start = time.perf_counter()
            loss, trials = run(rows, seconds, threads)
            print(f"{name}: {time.perf_counter() - start:7.1f} s, {trials} trials, log loss {loss:.5f}", flush=True)


if __name__ == "__main__":
    main()
