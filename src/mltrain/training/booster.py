"""Fitting: rows into histogram bins, bins into one booster, the booster into a text that equal models share.

Pure but for LightGBM. What makes a fit the same anywhere is set here and cannot be configured: one thread, column-wise
histograms (row-wise ones differ between thread counts where weights spread widely), every seed. Bin edges come from
the first fold's training rows, so that no row of a later block moves a tree of an earlier one; a row of the holdout
never enters a Dataset.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.errors import InputError, MachineError
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.weights import row_weights, up_weight

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split

_FIXED: Final[Mapping[str, Any]] = {
    "objective": "binary",
    "metric": "None",  # losses are computed by numpy: LightGBM's last bits depend on the thread count
    "boosting": "gbdt",
    "tree_learner": "serial",
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
    "feature_pre_filter": False,  # else the Dataset would depend on a trial's min_data_in_leaf
    "enable_bundle": False,  # a Dataset with a reference is never bundled; so no fold is either
    "bagging_freq": 1,
}
_SEEDS: Final = (
    "seed",
    "data_random_seed",
    "bagging_seed",
    "feature_fraction_seed",
    "extra_seed",
    "objective_seed",
    "drop_seed",
)
_SEED_END: Final = 2**31  # LightGBM keeps seeds in 32 bits
# What LightGBM notes about the machine, which says nothing about the model.
_MACHINE: Final = (
    "num_threads",
    "device_type",
    "num_machines",
    "local_listen_port",
    "time_out",
    "machine_list_filename",
    "machines",
    "gpu_platform_id",
    "gpu_device_id",
    "gpu_device_id_list",
    "gpu_use_dp",
    "num_gpu",
)


def booster_params(config: TrainConfig, tuned: Mapping[str, float]) -> dict[str, Any]:
    """Return all parameters of a fit, under LightGBM's names.

    Args:
        config: Its `seed`, which each of LightGBM's seeds follows from, and its `booster` count here.
        tuned: What the search chose.
    """
    seeds = {name: (config.seed + i) % _SEED_END for i, name in enumerate(_SEEDS)}
    return {**_FIXED, **seeds, "max_bin": config.booster.max_bin, **tuned}


def bin_rows(samples: Samples, split: Split, config: TrainConfig, *, rows: slice) -> Any:  # noqa: ANN401
    """Return rows as a constructed `lightgbm.Dataset`, its bin edges from the first fold's training.

    Args:
        samples: All rows.
        split: Of these rows.
        config: Its `booster` and the weights of rows count here.
        rows: Those to bin.

    Raises:
        InputError: Every feature is constant in those rows.
        MachineError: LightGBM cannot be loaded.
    """
    lightgbm = import_lightgbm()
    first = split.folds[0].train.span
    if not (samples.x[first].min(axis=0) < samples.x[first].max(axis=0)).any():
        raise InputError(
            f"no feature is usable: all {len(samples.names)} are constant in {split.folds[0].train.name}",
            hint="check the candles with `mltrain verify snapshot`, or take a longer snapshot",
        )
    params = booster_params(config, {})
    edges = _dataset(lightgbm, samples, first, params)
    weight = row_weights(samples, rows, config, up=up_weight(samples, split, config))
    return _let_go(_dataset(lightgbm, samples, rows, params, reference=edges, weight=weight).construct())


def _dataset(
    lightgbm: Any,  # noqa: ANN401
    samples: Samples,
    rows: slice,
    params: Mapping[str, Any],
    *,
    reference: Any | None = None,  # noqa: ANN401
    weight: NDArray[np.float32] | None = None,
) -> Any:  # noqa: ANN401
    return lightgbm.Dataset(
        samples.x[rows],
        samples.y[rows].astype(np.float32),
        weight=weight,
        reference=reference,
        feature_name=list(samples.names),
        params=dict(params),
    )


def subset(inner: Any, split: Split, block: Block) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return the rows of a block of a fold, out of the binned inner part: the same bytes as if binned anew."""
    start = split.inner.first_row
    return _let_go(inner.subset(range(block.first_row - start, block.stop_row - start)).construct())


def _let_go(rows: Any) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return constructed rows without what they were made from: LightGBM has copied all that it needs of it.

    They would else keep the whole Dataset that they are a part of, or that their edges are from, and a Python integer
    for each row.
    """
    rows.reference = rows.used_indices = None
    return rows


def save_binned(inner: Any, path: Path) -> None:  # noqa: ANN401 (LightGBM has no types)
    """Write a binned Dataset to a new file, for other processes to load: no edge has to be found twice.

    Raises:
        MachineError: The file cannot be written.
    """
    lightgbm = import_lightgbm()
    try:
        inner.save_binary(str(path))
    except lightgbm.basic.LightGBMError as err:
        raise MachineError(
            f"cannot write {path}: {err}", hint="free some space and run the same command again"
        ) from err


def load_binned(path: Path, config: TrainConfig) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return the Dataset that `save_binned` wrote: the same bytes, so the same trees.

    Raises:
        MachineError: LightGBM cannot be loaded.
    """
    return import_lightgbm().Dataset(str(path), params=booster_params(config, {})).construct()


def fit_final(
    samples: Samples,
    split: Split,
    config: TrainConfig,
    *,
    tuned: Mapping[str, float],
    rounds: int,
    final: Literal["inner", "all"] = "inner",
) -> str:
    """Fit a booster on the whole inner part, with no validation set: nothing of the holdout can reach it.

    Args:
        samples: All rows.
        split: Of these rows.
        config: Its `seed`, its `booster` and the weights of rows count here.
        tuned: What the search chose, by LightGBM's names.
        rounds: Boosting rounds, at least 1.
        final: With "all" it is fitted on every row, the holdout's too: no figure of the holdout is one of it.

    Returns:
        LightGBM's model text, normalised: equal models are equal texts, whatever the thread count.

    Raises:
        InputError: Every feature is constant in the first fold's training rows.
        MachineError: LightGBM cannot be loaded.
    """
    rows = split.inner.span if final == "inner" else slice(0, samples.y.size)
    params = booster_params(config, tuned) | {"num_iterations": rounds}
    booster = import_lightgbm().Booster(params, bin_rows(samples, split, config, rows=rows))
    for _ in range(rounds):
        booster.update()
    _take_out(booster, up_weight(samples, split, config))
    return normalise_model_text(booster.model_to_string(num_iteration=-1))


def _take_out(booster: Any, up: float) -> None:  # noqa: ANN401 (LightGBM has no types)
    """Take a class weight out of a booster: whoever reads its text gets the probabilities of unweighted rows.

    The odds are divided by the weight, which is a constant taken off every leaf of the first tree, where LightGBM keeps
    the base rate, too.
    """
    if up == 1:
        return
    for leaf in range(booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]):
        booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) - math.log(up))


def normalise_model_text(text: str) -> str:
    r"""Return a model text without what LightGBM notes about threads and machine; it still loads.

    >>> normalise_model_text("tree\nparameters:\n[seed: 1]\n[num_threads: 8]\n\nend of parameters\n")
    'tree\nparameters:\n[seed: 1]\n\nend of parameters\n'
    """
    head, marker, parameters = text.partition("\nparameters:\n")
    noted = tuple(f"[{name}: " for name in _MACHINE)
    return head + marker + "".join(line for line in parameters.splitlines(keepends=True) if not line.startswith(noted))


def predict(model_text: str, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the booster's own probabilities of "up" for rows of features, shape (n, f), in the model's order.

    The text must be one that this process has just made, or that has been checked: a damaged one ends the process.

    Raises:
        MachineError: LightGBM cannot be loaded.
    """
    p: NDArray[np.float64] = import_lightgbm().Booster(model_str=model_text).predict(x, num_threads=1)
    return p


def feature_gains(model_text: str) -> tuple[tuple[str, float], ...]:
    """Return each feature's name and the total loss that its splits took away, the most useful first.

    The text must be one that this process has just made, or that has been checked: a damaged one ends the process.

    Raises:
        MachineError: LightGBM cannot be loaded.
    """
    booster = import_lightgbm().Booster(model_str=model_text)
    gains = zip(booster.feature_name(), booster.feature_importance("gain").tolist(), strict=True)
    return tuple(sorted(gains, key=lambda pair: (-pair[1], pair[0])))
