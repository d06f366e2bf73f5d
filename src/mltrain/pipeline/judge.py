"""Measure a model on the holdout, and collect the evidence that the gates judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mltrain.card.training_results import HoldoutResults
from mltrain.gates.gate_evidence import (
    BounceEvidence,
    CalibrationEvidence,
    Evidence,
    Selection,
    SimpleModelEvidence,
    SkillEvidence,
)
from mltrain.pipeline.champion import compare_meaning, find_origin, meet_champion
from mltrain.serving.explanation import mean_contributions
from mltrain.serving.latency_bench import measure
from mltrain.serving.loaded_model import load_bundle
from mltrain.serving.model import Model
from mltrain.times import interval_ms
from mltrain.training.baselines import find_priors, score_logistic
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.economics import find_bounce, forward_returns, score_economics
from mltrain.training.holdout import score_holdout
from mltrain.training.metrics import THRESHOLD, row_log_loss
from mltrain.training.samples import take_rows
from mltrain.training.slices import score_terciles, score_weeks, volatility_terciles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.card.training_results import FittedModel, TrainingData
    from mltrain.config.train_config import TrainConfig
    from mltrain.gates.holdout_looks import LookCounts
    from mltrain.pipeline.champion import Champion
    from mltrain.progress import Progress
    from mltrain.training.bootstrap import Bootstrap
    from mltrain.training.economics import ForwardReturns
    from mltrain.training.samples import Samples


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """The rows of the holdout with the predictions of the evaluated model.

    Attributes:
        rows: The rows, n of them.
        raw: Probabilities of the booster, shape (n,).
        p: Calibrated probabilities, shape (n,).
        logistic_p: Probabilities of a logistic regression on five features, shape (n,).
        moves: Price moves after each row.
        bootstrap: The bootstrap over these rows.
    """

    rows: Samples
    raw: NDArray[np.float64]
    p: NDArray[np.float64]
    logistic_p: NDArray[np.float64]
    moves: ForwardReturns
    bootstrap: Bootstrap


def measure_holdout(
    data: TrainingData, model: FittedModel, config: TrainConfig, *, looks: LookCounts, progress: Progress
) -> tuple[HoldoutResults, ScoredRows]:
    """Score the holdout and measure the latency of the evaluated model.

    Args:
        data: The rows.
        model: The model.
        config: Bootstrap, gates and samples of the latency measurement.
        looks: Earlier looks at the holdout; the one that follows is already in the log.
        progress: Receives every stage.

    Raises:
        InputError: The holdout holds one class alone.
    """
    progress.stage("holdout")
    samples, inner, held = data.samples, data.split.inner.span, data.split.holdout.span
    rows = take_rows(samples, held)
    loaded = load_bundle(model.evaluated)
    evaluated = Model(loaded)
    raw, p = evaluated.score(rows.x)
    priors = find_priors(samples, inner)
    bootstrap = plan_bootstrap(rows.ts_ms, draws=config.bootstrap.draws, level=config.bootstrap.level, seed=config.seed)
    scores = score_holdout(
        rows,
        raw,
        p,
        priors=priors,
        train_up_share=float(samples.y[inner].mean()),
        draws=bootstrap,
        bootstrap=config.bootstrap,
        seed=config.seed,
    )
    step_ms, horizon_bars = interval_ms(data.feature_set.interval), data.feature_set.label.horizon_bars
    moves = forward_returns(data.candles, rows, horizon_bars=horizon_bars, step_ms=step_ms)
    # If one class is rare, every probability lies on one side of one half: the base rate is then the threshold.
    low, high = config.gates.base_rate_low, config.gates.base_rate_high
    thresholds = np.array([THRESHOLD if low <= prior.up_share <= high else prior.up_share for prior in priors])
    calls = p > thresholds[rows.symbol_ix]
    economics = score_economics(calls, rows, moves, bootstrap, horizon_bars=horizon_bars, step_ms=step_ms)
    terciles = volatility_terciles(data.candles, samples, reference=inner, rows=held, step_ms=step_ms)
    logistic, logistic_p = score_logistic(samples, train=inner, holdout=held)
    bounce = find_bounce(data.candles, step_ms=step_ms)
    progress.stage("latency")
    results = HoldoutResults(
        looks=looks,
        priors=priors,
        scores=scores,
        weeks=score_weeks(p, rows.y, rows.ts_ms),
        volatility=score_terciles(p, rows.y, terciles),
        logistic=logistic,
        economics=economics,
        bounce=bounce,
        contributions=mean_contributions(loaded, rows.x),
        latency=measure(evaluated, data.candles, samples=config.bench.samples),
    )
    return results, ScoredRows(rows, raw, p, logistic_p, moves, bootstrap)


def gather_evidence(
    data: TrainingData, results: HoldoutResults, scored: ScoredRows, champion: Champion | None, config: TrainConfig
) -> Evidence:
    """Collect everything that the gates judge; the comparison with the champion is computed here.

    Args:
        data: The rows.
        results: The measurements on the holdout.
        scored: The rows of the holdout with predictions.
        champion: The live version; None if nothing is promoted yet.
        config: Bootstrap, seed and gates.
    """
    y, p, skill = scored.rows.y, scored.p, results.scores.skill
    train_up_share = float(data.samples.y[data.split.inner.span].mean())
    over_logistic = scored.bootstrap.estimate(row_log_loss(scored.logistic_p, y) - row_log_loss(p, y))
    return Evidence(
        skill=SkillEvidence(train_up_share, skill.margin, skill.log_loss_skill),
        simple_model=SimpleModelEvidence(over_logistic=over_logistic, over_base_rate=skill.log_loss_gain),
        symbols=skill.symbols,
        leaders=data.feature_set.leaders,
        calibration=CalibrationEvidence(results.scores.intervals.ece, ece_null_p95=results.scores.null_floor.p95),
        latency_p95_ms=results.latency.candles.p95,
        guards=data.guards,
        bounce=BounceEvidence(results.economics, results.bounce),
        champion=meet_champion(champion, data.feature_set, data.candles, scored.rows, p=p, config=config),
        meaning=compare_meaning(champion, data.feature_set, data.samples.symbols),
        origin=find_origin(champion, data.snapshot),
        selection=Selection(results.looks.others),
    )
