"""Walk forward: fit a version's model again before each part of a backtest, on candles earlier than that part only."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.artifact.bundle import Bundle
from mltrain.backtesting.result import WalkForwardStep
from mltrain.candles.frame import time_literal
from mltrain.card.model_card import ModelCard
from mltrain.errors import InputError, UsageError
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.pipeline.prepare import cut_samples
from mltrain.pipeline.retrain import read_training_config
from mltrain.progress import Silent
from mltrain.serving.model import model_from_bundle
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import DAY_MS, format_ms, interval_ms
from mltrain.training.booster import fit_final
from mltrain.training.calibration import calibrate
from mltrain.training.samples import build_samples, keep_symbols, take_rows
from mltrain.training.search import ExecutionOptions, refit_out_of_fold, search
from mltrain.training.workers import map_in_processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.candles.input_tables import InputTable
    from mltrain.config.train_config import TrainConfig
    from mltrain.features.spec import FeatureSet
    from mltrain.progress import Progress
    from mltrain.serving.model import Model
    from mltrain.store.versions import StoredVersion
    from mltrain.times import TimeRange
    from mltrain.training.samples import Samples

_MAX_STEPS: Final = 1_000


@dataclass(frozen=True, slots=True)
class WalkForward:
    """How to walk forward.

    Attributes:
        days: A model is used for so many days, then fitted again.
        train_days: Days before each fit that it learns from; None: all.
        trials: Trials of a search before each fit; None: the version's hyperparameters and rounds.
        workers: Number of processes that fit.
    """

    days: int
    train_days: int | None = None
    trials: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        """Check every field; a UsageError names all that are wrong."""
        given = {"walk-forward": self.days, "train-days": self.train_days, "search": self.trials}
        wrong = [
            f"{name} is {value}: expected 1 or more" for name, value in given.items() if value is not None and value < 1
        ]
        if wrong:
            raise UsageError("; ".join(wrong))


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """The input of one fit.

    Attributes:
        samples: Rows whose labels end before the cut.
        feature_set: The features.
        config: The configuration of the version's training.
        params: Its hyperparameters; None: search.
        rounds: Its boosting rounds; not used by a search.
    """

    samples: Samples
    feature_set: FeatureSet
    config: TrainConfig
    params: Mapping[str, float] | None
    rounds: int


def score_walk_forward(
    version: StoredVersion,
    model: Model,
    plan: WalkForward,
    *,
    candles: Mapping[str, pl.DataFrame],
    inputs: Mapping[str, InputTable],
    window: TimeRange,
    progress: Progress,
) -> tuple[pl.DataFrame, tuple[WalkForwardStep, ...]]:
    """Score each candle of a window by a model that was fitted before it.

    Args:
        version: The version whose configuration and hyperparameters are used.
        model: Its model.
        plan: How often to fit, and on what.
        candles: By symbol, leaders included, joined with the inputs; those before the window are learned from.
        inputs: The values of the inputs that the features read.
        window: Open times to score.
        progress: Receives the steps.

    Returns:
        The columns of `Model.predict_candles`, and the steps in order.

    Raises:
        UsageError: There would be too many steps.
        InputError: There are too few candles before a step.
    """
    if model.window > 1:
        raise UsageError(
            f"--walk-forward fits boosted trees again, and {model.version} is a network",
            hint="leave it out: the version itself is scored on candles later than its training",
        )
    step_ms, card = interval_ms(model.interval), ModelCard(model.card)
    cuts = range(window.start_ms, window.end_ms, plan.days * DAY_MS)
    if len(cuts) > _MAX_STEPS:
        raise UsageError(f"{len(cuts):,} steps: at most {_MAX_STEPS:,} are made", hint="use a longer --walk-forward")
    config = read_training_config(version, card)
    if config.holdout_from_ms is not None:
        # That time may lie after the rows of a step: each step sets aside the share that the version's holdout had.
        config = replace(config, holdout_from_ms=None, val_ratio=_holdout_share(card))
    if plan.trials is not None:
        config = replace(config, search=replace(config.search, trials=plan.trials))
    # A value of the card is checked by the code that uses it.
    hyperparameters: Any = card.value("hyperparameters")
    params = {name: hyperparameters[name] for name, _ in config.search.space.items()}
    until_end = {symbol: frame.filter(pl.col("ts") < time_literal(window.end_ms)) for symbol, frame in candles.items()}
    progress.stage("features and labels")
    samples = keep_symbols(build_samples(model.feature_set, until_end)[0], model.symbols)
    embargo_ms = model.label.horizon_bars * step_ms
    # As in a split, no row after one whose label ends too late: only the quickly decided ones would be left.
    latest_end_ms = np.maximum.accumulate(samples.label_end_ms)
    fits = []
    for cut_ms in cuts:
        start_ms = 0 if plan.train_days is None else cut_ms - plan.train_days * DAY_MS
        # A label that ends at the cut or within the embargo before it may depend on what is traded.
        rows = np.flatnonzero((latest_end_ms + embargo_ms < cut_ms) & (samples.ts_ms >= start_ms))
        if not rows.size:
            raise InputError(
                f"no candle before {format_ms(cut_ms)} can be learned from",
                hint="take a snapshot that begins earlier, or a longer --train-days",
            )
        fits.append(
            _Fit(
                samples=take_rows(samples, rows),
                feature_set=model.feature_set,
                config=config,
                params=params if plan.trials is None else None,
                rounds=int(hyperparameters["num_iterations"]),
            )
        )
    progress.stage("fit", total=len(fits))
    scores, steps = [], []
    fitted = map_in_processes(_fit, fits, count=plan.workers)
    for cut_ms, fit, bundle in zip(cuts, fits, fitted, strict=True):
        end_ms = min(cut_ms + plan.days * DAY_MS, window.end_ms)
        served = model_from_bundle(bundle)
        lookback_ms = cut_ms - (served.lookback_bars - 1) * step_ms
        needed = {
            symbol: frame.filter(
                pl.col("ts").is_between(time_literal(lookback_ms), time_literal(end_ms), closed="left")
            )
            for symbol, frame in until_end.items()
        }
        rows_of_step = served.predict_candles(needed, inputs=inputs, rows="all")
        scores.append(rows_of_step.filter(pl.col("ts") >= time_literal(cut_ms)))
        steps.append(WalkForwardStep(cut_ms, end_ms, fit.samples.y.size, sha256_bytes(bundle.to_bytes())))
        progress.advance(note=format_ms(cut_ms))
    return pl.concat(scores), tuple(steps)


def _holdout_share(card: ModelCard) -> float:
    """Return the share of a version's time range that was its holdout, within the limits of val_ratio."""
    blocks = [block for name in ("inner", "holdout") if (block := card.block(name)) is not None]
    times_ms = [time_ms for block in blocks for key in ("start", "end") if (time_ms := block.time_ms(key)) is not None]
    if len(times_ms) != 4:
        raise InputError("the card does not say where the version's holdout began")
    start_ms, _, holdout_start_ms, end_ms = times_ms
    return min(max((end_ms - holdout_start_ms) / (end_ms - start_ms), 0.05), 0.5)


def _fit(fit: _Fit) -> Bundle:
    """Fit a model on all rows of one step, and calibrate it on the scores of its walk-forward folds."""
    try:
        samples, split = cut_samples(fit.samples, fit.feature_set, fit.config, Silent())
    except InputError as err:
        raise InputError(
            f"the fit on rows until {format_ms(int(fit.samples.ts_ms[-1]))}: {err.message}",
            hint="take a snapshot that begins earlier, or a longer --train-days",
        ) from err
    if fit.params is None:
        with tempfile.TemporaryDirectory() as folder:
            found = search(
                samples,
                split,
                fit.config,
                journal=Path(folder) / "walk-forward.journal",
                execution=ExecutionOptions(workers=1),
                progress=Silent(),
            )
        params, rounds, oof = found.best.params, found.best.best_round, found.oof
    else:
        params, rounds = fit.params, fit.rounds
        oof = refit_out_of_fold(samples, split, fit.config, params=params, rounds=rounds)
    choice = calibrate(fit.config.calibration, oof.scores, samples.y[oof.rows], oof.fold)
    return Bundle(
        model_text=fit_final(samples, split, fit.config, tuned=params, rounds=rounds, fitted_on="all"),
        calibrator=choice.calibrator,
        feature_set=fit.feature_set,
        symbols=samples.symbols,
        ops_sha256=ops_sha256(),
        user_ops=fit.feature_set.user_ops(),
    )
