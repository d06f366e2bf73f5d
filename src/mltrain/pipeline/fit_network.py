"""Fit a network on the rows of a training: search, out-of-fold calibration, final fit."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from mltrain.artifact.sequence_bundle import SequenceBundle
from mltrain.card.machine import available_cores
from mltrain.card.training_results import FittedModel
from mltrain.errors import InputError, MachineError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.storage.temps import note_temp
from mltrain.tft.architecture import Architecture
from mltrain.tft.network_search import (
    NetworkSearch,
    describe_identity,
    make_options,
    rows_folder,
    search_networks,
)
from mltrain.tft.sequences import Sequences, keep_windows
from mltrain.tft.variables import Scaler, find_constant
from mltrain.times import interval_ms
from mltrain.training.calibration import calibrate
from mltrain.training.sample_weights import compute_up_weight
from mltrain.training.split import MIN_VALID_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.card.training_results import TrainingData
    from mltrain.config.train_config import TrainConfig
    from mltrain.progress import Progress
    from mltrain.tft.network_search import FittedNetwork
    from mltrain.training.calibration import Calibrator
    from mltrain.training.samples import Samples
    from mltrain.training.search import ExecutionOptions
    from mltrain.training.split import Split


# Steps of a fit that a plan measures.
_MEASURED_STEPS: Final = 8
# Time to score a row, in times to learn from it.
_SCORING_COST: Final = 0.6


def check_torch() -> None:
    """Raise MachineError unless PyTorch is installed."""
    if find_spec("torch") is None:
        raise MachineError(
            "--model tft needs PyTorch for training, which is not installed",
            hint="pip install 'mltrain-lgbm[tft]'",
        )


def take_windows(data: TrainingData, config: TrainConfig, progress: Progress) -> TrainingData:
    """Return the data of a training without the rows that have no complete window, which windows still read.

    Do not use `data` afterwards: its matrices are compacted in place.

    Raises:
        InputError: A block has too few rows left.
    """
    window, step_ms = config.tft.window, interval_ms(data.feature_set.interval)
    samples, ties, short, split = keep_windows(data.samples, data.ties, data.split, window=window, step_ms=step_ms)
    for block in split.blocks():
        if block.rows < MIN_VALID_ROWS or len(np.unique(samples.y[block.span])) < 2:
            raise InputError(
                f"only {block.rows:,} rows of {block.name} have {window} consecutive bars before them",
                hint="take a longer snapshot, or one with fewer gaps; or lower tft.window",
            )
    for name in find_constant(samples.x, split.inner.span, samples.names):
        progress.warn(f"{name} has one value in all training rows: the network does not see it")
    return replace(data, samples=samples, ties=ties, short=short, split=split)


def fit_network(
    data: TrainingData,
    config: TrainConfig,
    *,
    journal: Path,
    execution: ExecutionOptions,
    progress: Progress,
    final: Literal["inner", "all"] = "inner",
) -> FittedModel:
    """Search hyperparameters, fit the calibrator on out-of-fold scores, and fit the final network.

    Arguments and errors are those of `mltrain.pipeline.train.fit_model`; the data is that of `take_windows`.
    """
    check_torch()
    with rows_folder(journal) as folder:
        search = _open_search(data, config, folder, workers=execution.workers)
        result = search_networks(
            search,
            identity=describe_identity(data.samples, data.ties, data.split, config),
            config=config,
            journal=journal,
            execution=execution,
            progress=progress,
        )
        progress.stage("final fit")
        oof, best = result.oof, result.best
        choice = calibrate(config.calibration, oof.scores, data.samples.y[oof.rows], oof.fold)
        evaluated = make_bundle(data, config, search.fit_final(best.params, best.best_round), choice.calibrator)
        served = evaluated
        if final == "all":
            fitted = search.fit_final(best.params, best.best_round, on_all=True)
            served = make_bundle(data, config, fitted, choice.calibrator)
    return FittedModel(search=result, calibration=choice, evaluated=evaluated, served=served, fitted_on=final)


def _open_search(data: TrainingData, config: TrainConfig, folder: Path, *, workers: int) -> NetworkSearch:
    """Return the search on the data of a training, whose rows go to an empty folder."""
    return NetworkSearch(
        data.samples,
        data.ties,
        data.short,
        data.split,
        config,
        folder=folder,
        step_ms=interval_ms(data.feature_set.interval),
        workers=workers,
    )


def make_bundle(
    data: TrainingData, config: TrainConfig, fitted: FittedNetwork, calibrator: Calibrator
) -> SequenceBundle:
    """Return the model of a fitted network."""
    samples, tft = data.samples, config.tft
    parameters: Mapping[str, np.ndarray] = fitted.result.parameters
    up_weight = compute_up_weight(samples, data.split, config)
    if up_weight != 1:
        # Dividing the odds by the class weight gives the probabilities of unweighted rows.
        bias = parameters["logit.bias"] - np.float32(math.log(up_weight))
        parameters = {**parameters, "logit.bias": bias}
    return SequenceBundle(
        architecture=Architecture(tft.window, len(samples.names), len(samples.symbols), fitted.hidden, tft.heads),
        parameters=parameters,
        scaler=fitted.result.scaler,
        calibrator=calibrator,
        feature_set=data.feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=data.feature_set.user_ops(),
    )


def refit_network(
    data: TrainingData,
    config: TrainConfig,
    hyperparameters: Mapping[str, float],
    *,
    fitted_on: Literal["inner", "all"],
    progress: Progress,
) -> tuple[SequenceBundle, Samples]:
    """Return the model with these hyperparameters and epochs, without a search, and the rows with a window.

    Arguments and errors are those of `take_windows` and `fit_network`.
    """
    check_torch()
    data = take_windows(data, config, progress)
    tuned = {name: hyperparameters[name] for name, _ in config.tft.search.space.items()}
    epochs = int(hyperparameters["epochs"])
    with tempfile.TemporaryDirectory() as folder:
        # A signal ends the process without leaving this block.
        note_temp(Path(folder))
        search = _open_search(data, config, Path(folder), workers=available_cores())
        oof, _ = search.join_scores(search.refit(tuned, epochs), epochs)
        choice = calibrate(config.calibration, oof.scores, data.samples.y[oof.rows], oof.fold)
        fitted = search.fit_final(tuned, epochs, on_all=fitted_on == "all")
    return make_bundle(data, config, fitted, choice.calibrator), data.samples


def measure_network_minutes(
    samples: Samples, split: Split, config: TrainConfig, *, step_ms: int, workers: int
) -> float:
    """Return the predicted duration of search and final fit, in minutes, from a few measured steps of a fit.

    Raises:
        MachineError: PyTorch is not installed.
    """
    check_torch()
    from mltrain.tft.fit import Fit

    tft, space = config.tft, config.tft.search.space
    sequences = Sequences.of([samples], step_ms=step_ms)
    measured = np.flatnonzero(sequences.has_window(tft.window))[-_MEASURED_STEPS * tft.step_windows :]
    is_learned = np.zeros(sequences.size, np.bool_)
    is_learned[measured] = True
    hidden = tft.round_hidden(space.hidden.default)
    fit = Fit(
        sequences,
        is_learned,
        weights=None,
        scaler=Scaler.fit(samples.x, measured),
        architecture=Architecture(tft.window, len(samples.names), len(samples.symbols), hidden, tft.heads),
        options=make_options(config, space.defaults(), fold=0),
    )
    # The first epoch also starts PyTorch.
    fit.run_epoch()
    start_s = time.perf_counter()
    fit.run_epoch()
    row_s = (time.perf_counter() - start_s) / max(1, measured.size)
    rows = sum(fold.train.rows + _SCORING_COST * fold.valid.rows for fold in split.folds)
    jobs = min(tft.search.batch, tft.search.trials) * len(split.folds)
    search_s = tft.search.trials * tft.epochs * rows * row_s / min(workers, jobs)
    return (search_s + tft.epochs * split.inner.rows * row_s) / 60
