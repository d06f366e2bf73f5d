"""LightGBM: rows into histogram bins, bins into one booster, the booster into a normalised model text.

A booster is always grown from its beginning for exactly the rounds it is used with, never cut out of a longer run: with
`boosting: dart`, every round scales earlier trees.

What makes a fit reproducible on any machine is fixed here and cannot be configured: one thread, column-wise histograms
(row-wise ones differ between thread counts if weights vary widely), every seed. Bin edges come from the first fold's
training rows, so that no row of a later block changes a tree of an earlier one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.errors import InputError, MachineError
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.sample_weights import compute_row_weights, compute_up_weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mltrain.config.train_config import BoosterConfig, TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split

_FIXED: Final[Mapping[str, Any]] = {
    "objective": "binary",
    # NumPy computes the losses: the last bits of LightGBM's depend on the number of threads.
    "metric": "None",
    "tree_learner": "serial",
    "deterministic": True,
    "force_col_wise": True,
    "num_threads": 1,
    "verbosity": -1,
    # With it, the Dataset would depend on a trial's min_data_in_leaf.
    "feature_pre_filter": False,
    # LightGBM never bundles features of a Dataset with a reference, such as a fold's: the others must not differ.
    "enable_bundle": False,
    "bagging_freq": 1,
}
_SEEDS: Final = ("seed", "data_random_seed", "bagging_seed", "feature_fraction_seed", "extra_seed", "objective_seed",
                 "drop_seed")  # fmt: skip
# LightGBM stores seeds as 32-bit integers.
_SEED_END: Final = 2**31
# The options of `BoosterConfig` that LightGBM takes as they are, if they are on. Of dart's, 0 is a value too.
_DART_OPTIONS: Final = ("drop_rate", "max_drop", "skip_drop", "uniform_drop")
_OPTIONS: Final = ("max_depth", "min_gain_to_split", "extra_trees", "path_smooth")
# Parameters in a model text that describe the machine, not the model.
_MACHINE_PARAMETERS: Final = (
    "num_threads", "device_type", "num_machines", "local_listen_port", "time_out", "machine_list_filename", "machines",
    "gpu_platform_id", "gpu_device_id", "gpu_device_id_list", "gpu_use_dp", "num_gpu",
)  # fmt: skip


def booster_params(config: TrainConfig, tuned: Mapping[str, float], *, names: Sequence[str]) -> dict[str, Any]:
    """Return all parameters of a LightGBM fit: fixed ones, seeds, those of the configuration, and tuned ones.

    Args:
        config: Its `seed` and `booster` are used.
        tuned: The hyperparameters by LightGBM's names.
        names: The features in the order of the columns, which the constraints refer to; () for a Dataset, which has
            no constraints.
    """
    seeds = {name: (config.seed + i) % _SEED_END for i, name in enumerate(_SEEDS)}
    params = {**_FIXED, **seeds, **_shared_params(config.booster, names), **tuned}
    if "extra_trees" in tuned:
        # LightGBM takes no number for it.
        params["extra_trees"] = bool(tuned["extra_trees"])
    return params


def _shared_params(config: BoosterConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that all boosters share; an option that is off is left to LightGBM."""
    params: dict[str, Any] = {"boosting": config.boosting, "max_bin": config.max_bin}
    params |= {name: value for name in _OPTIONS if (value := getattr(config, name))}
    params |= {name: value for name in _DART_OPTIONS if (value := getattr(config, name)) is not None}
    if names and config.has_monotone_constraints:
        params["monotone_constraints"] = [config.monotone_constraints.get(name, 0) for name in names]
        params["monotone_constraints_method"] = config.monotone_constraints_method
    if names and config.interaction_constraints:
        # LightGBM would never split by a feature that is in no list.
        listed = {name for group in config.interaction_constraints for name in group}
        groups = [*config.interaction_constraints, tuple(name for name in names if name not in listed)]
        columns = {name: column for column, name in enumerate(names)}
        params["interaction_constraints"] = [[columns[name] for name in group] for group in groups if group]
    return params


class GrowingBooster:
    """A booster that grows tree by tree.

    Args:
        params: All parameters by LightGBM's names.
        train: The training rows, a `lightgbm.Dataset`.

    Attributes:
        booster: The `lightgbm.Booster`.
        is_spoilt: Whether its trees can no longer be used. A round in which no split is found grows no tree. With dart,
            LightGBM 4.7 then leaves the trees that it had left out for this round with the wrong sign, so another
            booster has to be grown for the rounds before.
    """

    def __init__(self, params: Mapping[str, Any], train: Any) -> None:  # noqa: ANN401 (LightGBM has no types)
        self.booster = import_lightgbm().Booster(dict(params), train)
        self.is_spoilt = False
        self._is_dart, self._has_trees = params["boosting"] == "dart", False

    def grow_tree(self) -> None:
        """Grow one more tree: one boosting round."""
        if not self.booster.update():
            self._has_trees = True
        elif self._is_dart and self._has_trees:
            self.is_spoilt = True


def bin_rows(samples: Samples, split: Split, config: TrainConfig, *, rows: slice) -> Any:  # noqa: ANN401
    """Return the samples' rows at these positions, binned and weighted, as a constructed `lightgbm.Dataset`.

    Bin edges come from the first fold's training rows; seeds, number of bins and row weights from the configuration.

    Raises:
        InputError: Every feature is constant in the first fold's training rows.
    """
    lightgbm = import_lightgbm()
    first_train = split.folds[0].train
    first_x = samples.x[first_train.span]
    if not (first_x.min(axis=0) < first_x.max(axis=0)).any():
        raise InputError(
            f"no feature is usable: all {len(samples.names)} are constant in {first_train.name}",
            hint="check the candles with `mltrain verify snapshot`, or take a longer snapshot",
        )

    def make_dataset(rows: slice, **options: Any) -> Any:  # noqa: ANN401 (LightGBM has no types)
        labels = samples.y[rows].astype(np.float32)
        params = booster_params(config, {}, names=())
        return lightgbm.Dataset(samples.x[rows], labels, feature_name=list(samples.names), params=params, **options)

    weight = compute_row_weights(samples, rows, config, up_weight=compute_up_weight(samples, split, config))
    return _release_source(make_dataset(rows, reference=make_dataset(first_train.span), weight=weight).construct())


def cut_block(binned_inner: Any, split: Split, block: Block) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Copy the rows of a fold's block out of the binned inner part, a `lightgbm.Dataset`, into a Dataset.

    The result has the same bytes as binning these rows separately.
    """
    start = split.inner.first_row
    return _release_source(binned_inner.subset(range(block.first_row - start, block.stop_row - start)).construct())


def _release_source(dataset: Any) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Free the Dataset that a constructed `lightgbm.Dataset` was made from, and the list of its row numbers.

    LightGBM has copied everything that it needs.
    """
    dataset.reference = dataset.used_indices = None
    return dataset


def save_binned(dataset: Any, path: Path) -> None:  # noqa: ANN401 (LightGBM has no types)
    """Write a constructed `lightgbm.Dataset` to a new file, for other processes to load.

    Raises:
        MachineError: The file cannot be written.
    """
    lightgbm = import_lightgbm()
    try:
        dataset.save_binary(str(path))
    except lightgbm.basic.LightGBMError as err:
        raise MachineError(
            f"cannot write {path}: {err}", hint="free some space and run the same command again"
        ) from err


def load_binned(path: Path, config: TrainConfig) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return the `lightgbm.Dataset` that `save_binned` wrote: the same bytes, so the same trees."""
    return import_lightgbm().Dataset(str(path), params=booster_params(config, {}, names=())).construct()


def fit_final(
    samples: Samples,
    split: Split,
    config: TrainConfig,
    *,
    tuned: Mapping[str, float],
    rounds: int,
    fitted_on: Literal["inner", "all"] = "inner",
) -> str:
    """Fit one booster for a fixed number of rounds, without a validation set, and return its model text.

    Args:
        samples: All rows.
        split: The split of these rows.
        config: Its `seed`, `booster` and row weights are used.
        tuned: The hyperparameters by LightGBM's names.
        rounds: Boosting rounds, at least 1; a round in which no split is found adds no tree, and ends a fit by dart.
        fitted_on: "inner": the rows before the holdout, so that none of the holdout can leak. "all": every row; the
            scores of the holdout do not apply to this booster.

    Returns:
        The text, normalised: equal models have equal texts, for any number of threads.
    """
    rows = split.inner.span if fitted_on == "inner" else slice(0, samples.y.size)
    params = booster_params(config, tuned, names=samples.names) | {"num_iterations": rounds}
    booster = _grow_booster(params, bin_rows(samples, split, config, rows=rows), rounds)
    if (up_weight := compute_up_weight(samples, split, config)) != 1:
        # The text must give the probabilities of unweighted rows. Dividing the odds by the class weight is a constant
        # subtracted from every leaf of the first tree, which also holds the base rate.
        for leaf in range(booster.dump_model(num_iteration=1)["tree_info"][0]["num_leaves"]):
            booster.set_leaf_output(0, leaf, booster.get_leaf_output(0, leaf) - math.log(up_weight))
    return normalise_model_text(booster.model_to_string(num_iteration=-1))


def _grow_booster(params: Mapping[str, Any], train: Any, rounds: int) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return a `lightgbm.Booster` after so many rounds, or before the first round that would spoil it."""
    growing = GrowingBooster(params, train)
    for done in range(rounds):
        growing.grow_tree()
        if growing.is_spoilt:
            return _grow_booster(params, train, done)
    return growing.booster


def normalise_model_text(text: str) -> str:
    r"""Return a LightGBM model text without the parameters that describe the machine; LightGBM still loads it.

    >>> normalise_model_text("tree\nparameters:\n[seed: 1]\n[num_threads: 8]\n\nend of parameters\n")
    'tree\nparameters:\n[seed: 1]\n\nend of parameters\n'
    """
    head, marker, parameters = text.partition("\nparameters:\n")
    machine = tuple(f"[{name}: " for name in _MACHINE_PARAMETERS)
    kept = [line for line in parameters.splitlines(keepends=True) if not line.startswith(machine)]
    return "".join([head, marker, *kept])


def feature_gains(model_text: str) -> tuple[tuple[str, float], ...]:
    """Return each feature's name and the total gain of its splits, in LightGBM's units, the greatest first.

    The text must come from this process or have been checked: LightGBM crashes on a damaged one.
    """
    booster = import_lightgbm().Booster(model_str=model_text)
    gains = zip(booster.feature_name(), booster.feature_importance("gain").tolist(), strict=True)
    return tuple(sorted(gains, key=lambda pair: (-pair[1], pair[0])))
