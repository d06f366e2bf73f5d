"""FLAML and LightGBM's own tuner on given rows, for a given time, in an environment of theirs: see `search.py`.

    PYTHON benchmarks/search_peers.py ROWS.npz SECONDS THREADS

It needs numpy, lightgbm, and `flaml[automl]` and `optuna-integration[lightgbm]` or one of them; nothing of mltrain.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

import lightgbm
import numpy as np


def log_loss(p: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(np.clip(np.where(y == 1, p, 1 - p), 1e-15, 1)).mean())


def run_flaml(rows: dict[str, np.ndarray], seconds: float, threads: int) -> float:
    from flaml import AutoML

    auto = AutoML()
    auto.fit(rows["x"], rows["y"], X_val=rows["xv"], y_val=rows["yv"], task="classification", metric="log_loss",
             estimator_list=["lgbm"], time_budget=seconds, n_jobs=threads, verbose=0, seed=42)  # fmt: skip
    return log_loss(auto.predict_proba(rows["xv"])[:, 1], rows["yv"])


def run_tuner(rows: dict[str, np.ndarray], seconds: float, threads: int) -> float:
    import optuna
    from optuna_integration.lightgbm import LightGBMTuner

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    train = lightgbm.Dataset(rows["x"], rows["y"], free_raw_data=False)
    params = {"objective": "binary", "metric": "binary_logloss", "verbosity": -1, "num_threads": threads}
    tuner = LightGBMTuner(
        params,
        train,
        valid_sets=[lightgbm.Dataset(rows["xv"], rows["yv"], reference=train, free_raw_data=False)],
        num_boost_round=1000,
        time_budget=int(seconds),
        optuna_seed=42,
        show_progress_bar=False,
        callbacks=[lightgbm.early_stopping(50, verbose=False)],
    )
    tuner.run()
    return float(tuner.best_score)


def main() -> None:
    path, seconds, threads = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    with np.load(path) as file:
        rows = dict(file)
    for name, module, run in (("FLAML", "flaml", run_flaml), ("LightGBMTuner", "optuna_integration", run_tuner)):
        if find_spec(module) is None:
            print(f"{name}: not installed here", flush=True)
        else:
            print(f"{name}, last fold, {seconds:.0f} s: {run(rows, seconds, threads):.5f}", flush=True)


if __name__ == "__main__":
    main()
