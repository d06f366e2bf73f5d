"""Run FLAML and LightGBMTunerCV on given rows and folds for a given time, in a separate environment.

    PYTHON benchmarks/search_peers.py ROWS.npz SECONDS THREADS SEED

`search.py` writes the rows and calls this script. It needs numpy, lightgbm, `flaml[automl]` and
`optuna-integration[lightgbm]`; it does not import mltrain. It prints a line of JSON for each tuner: its name, the
seconds it took, its number of trials, and the loss that it reports and the hyperparameters of the best trial.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import lightgbm
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

EARLY_STOP = 50
# The tuners' names of hyperparameters that LightGBM names differently.
NAMES = {
    "min_child_samples": "min_data_in_leaf",
    "colsample_bytree": "feature_fraction",
    "reg_alpha": "lambda_l1",
    "reg_lambda": "lambda_l2",
}
WHOLE = {"num_leaves", "min_data_in_leaf", "bagging_freq", "max_bin"}
TUNED = WHOLE | {"learning_rate", "feature_fraction", "bagging_fraction", "lambda_l1", "lambda_l2"}


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


def run_flaml(rows: dict[str, np.ndarray], seconds: float, threads: int, seed: int) -> tuple[int, float, dict]:
    """Return the number of trials, the mean loss over the folds of the best one, and its hyperparameters."""
    from flaml import AutoML

    auto = AutoML()
    # Without `sample=False` it would start with a subset of the rows, which does not fit these folds.
    auto.fit(rows["x"], rows["y"], task="classification", metric="log_loss", estimator_list=["lgbm"], sample=False,
             eval_method="cv", split_type=Folds(rows["blocks"]), time_budget=seconds, n_jobs=threads, verbose=0,
             retrain_full=False, seed=seed)  # fmt: skip
    best = auto.best_config
    params = {**best, "max_bin": 2 ** round(best["log_max_bin"]) - 1}
    # There is no public attribute.
    return auto._iter_per_learner["lgbm"], auto.best_loss, params  # noqa: SLF001


def run_tuner(rows: dict[str, np.ndarray], seconds: float, threads: int, seed: int) -> tuple[int, float, dict]:
    """Return the number of trials, the minimum of the mean curve of the best one, and its hyperparameters."""
    import optuna
    from optuna_integration.lightgbm import LightGBMTunerCV

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="minimize")
    fixed = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "num_threads": threads, "seed": seed}
    tuner = LightGBMTunerCV(
        fixed,
        lightgbm.Dataset(rows["x"], rows["y"], free_raw_data=False),
        folds=list(Folds(rows["blocks"]).split(rows["x"])),
        num_boost_round=1000,
        time_budget=int(seconds),
        optuna_seed=seed,
        show_progress_bar=False,
        callbacks=[lightgbm.early_stopping(EARLY_STOP, verbose=False)],
        study=study,
    )
    tuner.run()
    # LightGBM's own number of bins.
    return len(study.trials), tuner.best_score, {"max_bin": 255, **tuner.best_params}


def main() -> None:
    path, seconds, threads, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with np.load(path) as file:
        rows = dict(file)
    for name, run in (("FLAML", run_flaml), ("LightGBMTunerCV", run_tuner)):
        start = time.perf_counter()
        trials, loss, params = run(rows, seconds, threads, seed)
        seconds_taken = time.perf_counter() - start
        tuned = {NAMES.get(key, key): float(value) for key, value in params.items() if NAMES.get(key, key) in TUNED}
        # LightGBM takes no 31.0 for a whole number.
        whole = {key: round(value) if key in WHOLE else value for key, value in tuned.items()}
        found = {"seconds": seconds_taken, "trials": int(trials), "reported": float(loss), "params": whole}
        print(json.dumps({"tuner": name, **found}), flush=True)


if __name__ == "__main__":
    main()
