"""LightGBM: rows into histogram bins, bins into one booster, the booster into a normalised model text.

Pure but for LightGBM. What makes a fit reproducible on any machine is fixed here and cannot be configured: one thread,
column-wise histograms (row-wise ones differ between thread counts if weights vary widely), every seed. Bin edges come
from the first fold's training rows, so that no row of a later block changes a tree of an earlier one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.errors import InputError, MachineError
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.sample_weights import row_weights, up_weight

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split

_FIXED: Final[Mapping[str, Any]] = {
    "objective": "binary",
    # NumPy computes the losses: the last bits of LightGBM's depend on the number of threads.
    "metric": "None",
    "boosting": "gbdt",
    "tree_learner": "serial",
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
    # Otherwise the Dataset would depend on a trial's min_data_in_leaf.
    "feature_pre_filter": False,
    # LightGBM never bundles features of a Dataset with a reference, which folds have: the others must not differ.
    "enable_bundle": False,
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
# LightGBM stores seeds as 32-bit integers.
_SEED_END: Final = 2**31
# Parameters in a model text that describe the machine, not the model.
_MACHINE_PARAMETERS: Final = (
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
    """Return all parameters of a fit by LightGBM's names.

    Args:
        config: Its `seed`, from which all of LightGBM's seeds follow, and its `booster` are used.
        tuned: The hyperparameters.
    """
    seeds = {name: (config.seed + i) % _SEED_END for i, name in enumerate(_SEEDS)}
    return {**_FIXED, **seeds, "max_bin": config.booster.max_bin, **tuned}


def bin_rows(samples: Samples, split: Split, config: TrainConfig, *, rows: slice) -> Any:  # noqa: ANN401
    """Return rows as a constructed `lightgbm.Dataset` with the bin edges of the first fold's training rows.

    Args:
        samples: All rows.
        split: The split of these rows.
        config: Its `booster` and row weights are used.
        rows: The rows to bin.

    Raises:
        InputError: Every feature is constant in the first fold's training rows.
        MachineError: LightGBM cannot be loaded.
    """
    lightgbm = import_lightgbm()
    first = split.folds[0].train.span
    if not (samples.x[first].min(axis=0) < samples.x[first].max(axis=0)).any():
        raise InputError(
            f"no feature is usable: all {len(samples.names)} are constant in {split.folds[0].train.name}",
            hint="check the candles with `mltrain verify snapshot`, or take a longer snapshot",
        )

    def dataset(rows: slice, **options: Any) -> Any:  # noqa: ANN401 (LightGBM has no types)
        labels = samples.y[rows].astype(np.float32)
        params = booster_params(config, {})
        return lightgbm.Dataset(samples.x[rows], labels, feature_name=list(samples.names), params=params, **options)

    weight = row_weights(samples, rows, config, up=up_weight(samples, split, config))
    return _release_source(dataset(rows, reference=dataset(first), weight=weight).construct())


def subset(inner: Any, split: Split, block: Block) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return the rows of a fold's block from the binned inner part: the same bytes as binning them separately."""
    start = split.inner.first_row
    return _release_source(inner.subset(range(block.first_row - start, block.stop_row - start)).construct())


def _release_source(dataset: Any) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Drop a constructed Dataset's references to the Dataset it came from, and a Python integer per row.

    LightGBM has copied everything that it needs.
    """
    dataset.reference = dataset.used_indices = None
    return dataset


def save_binned(inner: Any, path: Path) -> None:  # noqa: ANN401 (LightGBM has no types)
    """Write a binned Dataset to a new file, for other processes to load.

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
    """Return the Dataset that `save_binned` wrote: the same bytes, so the same trees."""
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
    """Fit the final booster, without a validation set.

    Args:
        samples: All rows.
        split: The split of these rows.
        config: Its `seed`, `booster` and row weights are used.
        tuned: The hyperparameters by LightGBM's names.
        rounds: Boosting rounds, at least 1.
        final: "inner" fits on the inner part, so that no row of the holdout can leak; "all" fits on every row, and the
            scores of the holdout do not apply to the booster.

    Returns:
        LightGBM's model text, normalised: equal models have equal texts, whatever the number of threads.
    """
    rows = split.inner.span if final == "inner" else slice(0, samples.y.size)
    params = booster_params(config, tuned) | {"num_iterations": rounds}
    booster = import_lightgbm().Booster(params, bin_rows(samples, split, config, rows=rows))
    for _ in range(rounds):
        booster.update()
    if (up := up_weight(samples, split, config)) != 1:
        # The text must give the probabilities of unweighted rows. Dividing the odds by the class weight is a constant
        # subtracted from every leaf of the first tree, which also holds the base rate.
        for leaf in range(booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]):
            booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) - math.log(up))
    return normalise_model_text(booster.model_to_string(num_iteration=-1))


def normalise_model_text(text: str) -> str:
    r"""Return a model text without the parameters that describe the machine; LightGBM still loads it.

    >>> normalise_model_text("tree\nparameters:\n[seed: 1]\n[num_threads: 8]\n\nend of parameters\n")
    'tree\nparameters:\n[seed: 1]\n\nend of parameters\n'
    """
    head, marker, parameters = text.partition("\nparameters:\n")
    machine = tuple(f"[{name}: " for name in _MACHINE_PARAMETERS)
    return (
        head + marker + "".join(line for line in parameters.splitlines(keepends=True) if not line.startswith(machine))
    )


def predict(model_text: str, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return uncalibrated probabilities of "up", shape (n,), for features of shape (n, f) in the model's order.

    The text must come from this process or have been checked: LightGBM crashes on a damaged one.
    """
    p: NDArray[np.float64] = import_lightgbm().Booster(model_str=model_text).predict(x, num_threads=1)
    return p


def feature_gains(model_text: str) -> tuple[tuple[str, float], ...]:
    """Return each feature's name and the total gain of its splits, the greatest first.

    The text must come from this process or have been checked: LightGBM crashes on a damaged one.
    """
    booster = import_lightgbm().Booster(model_str=model_text)
    gains = zip(booster.feature_name(), booster.feature_importance("gain").tolist(), strict=True)
    return tuple(sorted(gains, key=lambda pair: (-pair[1], pair[0])))
