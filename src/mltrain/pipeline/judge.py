"""Measure a model on the holdout, and collect the evidence that the gates judge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mltrain.artifact.sequence_bundle import SequenceBundle
from mltrain.card.training_results import HoldoutResults
from mltrain.gates.gate_evidence import (
    BounceEvidence,
    CalibrationEvidence,
    Evidence,
    NotEvaluated,
    Selection,
    SimpleModelEvidence,
    SkillEvidence,
)
from mltrain.pipeline.champion import compare_meaning, compare_with_champion, find_origin
from mltrain.pipeline.network_insight import look_inside
from mltrain.serving.explanation import average_contributions
from mltrain.serving.latency_bench import measure_latency
from mltrain.serving.loaded_model import load_bundle
from mltrain.serving.model import Model
from mltrain.tft.row_scores import score_rows
from mltrain.tft.sequences import Sequences
from mltrain.times import interval_ms
from mltrain.training.baselines import find_priors, score_logistic
from mltrain.training.bootstrap import plan_bootstrap
from mltrain.training.economics import ForwardReturns, find_bounce, forward_returns, score_economics, score_moves
from mltrain.training.holdout import score_holdout
from mltrain.training.metrics import THRESHOLD, row_log_loss
from mltrain.training.samples import merge_rows, take_rows
from mltrain.training.slices import score_terciles, score_weeks, volatility_terciles
from mltrain.training.split import span_within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.card.training_results import FittedModel, TrainingData
    from mltrain.config.train_config import TrainConfig
    from mltrain.gates.holdout_looks import LookCounts
    from mltrain.pipeline.champion import Champion
    from mltrain.progress import Progress
    from mltrain.serving.loaded_model import LoadedModel
    from mltrain.training.bootstrap import Bootstrap, Estimate
    from mltrain.training.samples import Samples


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """The rows of the holdout with the predictions of the evaluated model.

    Attributes:
        rows: The n rows, in the order of time.
        raw: Scores of the booster before calibration, in (0, 1), shape (n,).
        p: Calibrated probabilities of up, in [0, 1], shape (n,).
        logistic_p: Probabilities of up from a logistic regression on five features, in [0, 1], shape (n,).
        moves: Return after each row to the end of its label, in bps.
        bootstrap: Draws of blocks of these rows, for all intervals.
        ties: The candles of the holdout whose label was dropped as a tie, in the order of time.
        tie_raw: Scores of the booster of these, before calibration.
        tie_p: Calibrated probabilities of up of these.
        tie_moves: Return after each of these to the end of its label, in bps.
        break_even: Cost per side at which predictions earn nothing, in bps; None if there are hardly any trades.
    """

    rows: Samples
    raw: NDArray[np.float64]
    p: NDArray[np.float64]
    logistic_p: NDArray[np.float64]
    moves: ForwardReturns
    bootstrap: Bootstrap
    ties: Samples
    tie_raw: NDArray[np.float64]
    tie_p: NDArray[np.float64]
    tie_moves: ForwardReturns
    break_even: Estimate | None


def measure_holdout(
    data: TrainingData, model: FittedModel, config: TrainConfig, *, looks: LookCounts, progress: Progress
) -> tuple[HoldoutResults, ScoredRows]:
    """Score the evaluated model on the holdout, and measure its latency.

    The look at the holdout must already be in the log; `looks` counts the earlier ones.
    """
    progress.stage("holdout")
    samples, inner, holdout = data.samples, data.split.inner.span, data.split.holdout.span
    rows = take_rows(samples, holdout)
    ties = take_rows(data.ties, span_within(data.ties, data.split.holdout))
    loaded = load_bundle(model.evaluated)
    evaluated, is_network = Model(loaded), loaded.window > 1
    (raw, p), (tie_raw, tie_p) = _score_holdout(loaded, data, rows, ties)
    priors = find_priors(samples, inner)
    bootstrap = _plan_bootstrap(rows, data, config)
    scores = score_holdout(
        rows,
        raw,
        p,
        priors=priors,
        train_up_share=float(samples.y[inner].mean()),
        bootstrap=bootstrap,
    )
    step_ms, horizon_bars = interval_ms(data.feature_set.interval), data.feature_set.label.horizon_bars
    moves = forward_returns(data.candles, rows, step_ms=step_ms)
    # If one class is rare, nearly every probability is on the same side of 0.5: the base rate is then the threshold.
    low, high = config.gates.base_rate_low, config.gates.base_rate_high
    thresholds = np.array([THRESHOLD if low <= prior.up_share <= high else prior.up_share for prior in priors])
    calls_up = p > thresholds[rows.symbol_ix]
    tie_moves = forward_returns(data.candles, ties, step_ms=step_ms)
    # All candles that a trader of this model would trade, in the order of time.
    every, order = merge_rows(rows, ties)
    reference = take_rows(samples, inner)
    mean_moves = score_moves(
        np.concatenate([p, tie_p])[order],
        every,
        ForwardReturns(
            np.concatenate([moves.from_close, tie_moves.from_close])[order],
            np.concatenate([moves.from_open, tie_moves.from_open])[order],
        ),
        _plan_bootstrap(every, data, config),
        threshold=thresholds[every.symbol_ix],
        tercile=volatility_terciles(data.candles, reference, every, step_ms=step_ms),
        horizon_ms=horizon_bars * step_ms,
    )
    economics = score_economics(
        calls_up,
        rows,
        moves,
        bootstrap,
        mean_moves,
        taker_bps=config.economics.taker_bps,
        horizon_bars=horizon_bars,
        step_ms=step_ms,
    )
    terciles = volatility_terciles(data.candles, reference, rows, step_ms=step_ms)
    logistic, logistic_p = score_logistic(samples, train=inner, holdout=holdout)
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
        contributions={} if is_network else average_contributions(loaded, rows.x),
        insight=look_inside(loaded.bundle, data, seed=config.seed)
        if isinstance(loaded.bundle, SequenceBundle)
        else None,
        latency=measure_latency(evaluated, data.candles, samples=config.bench.samples),
    )
    scored = ScoredRows(
        rows=rows,
        raw=raw,
        p=p,
        logistic_p=logistic_p,
        moves=moves,
        bootstrap=bootstrap,
        ties=ties,
        tie_raw=tie_raw,
        tie_p=tie_p,
        tie_moves=tie_moves,
        break_even=mean_moves.break_even_estimate,
    )
    return results, scored


def _score_holdout(
    loaded: LoadedModel, data: TrainingData, rows: Samples, ties: Samples
) -> tuple[tuple[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return raw scores and calibrated probabilities of the rows and of the ties of the holdout."""
    bundle = loaded.bundle
    if not isinstance(bundle, SequenceBundle):
        return loaded.score(rows.x), loaded.score(ties.x)
    step_ms, tie_span = interval_ms(data.feature_set.interval), span_within(data.ties, data.split.holdout)
    sequences = Sequences.of([data.samples, data.ties, *data.short], step_ms=step_ms)
    is_wanted = sequences.mark(data.split.holdout.span, tie_span)
    scores = score_rows(bundle.forward(), sequences, bundle.scaler, is_wanted)
    raw, tie_raw = sequences.take(scores, 0, data.split.holdout.span), sequences.take(scores, 1, tie_span)
    return (raw, loaded.calibration.apply(raw)), (tie_raw, loaded.calibration.apply(tie_raw))


def _plan_bootstrap(rows: Samples, data: TrainingData, config: TrainConfig) -> Bootstrap:
    """Return the bootstrap of rows of the holdout, as configured."""
    return plan_bootstrap(
        rows.ts_ms,
        draws=config.bootstrap.draws,
        level=config.bootstrap.level,
        seed=config.seed,
        overlap_ms=data.feature_set.label_overlap_ms,
    )


def gather_evidence(
    data: TrainingData, results: HoldoutResults, scored: ScoredRows, champion: Champion | None, config: TrainConfig
) -> Evidence:
    """Compare the new model with the champion (None: there is none), and collect the evidence that the gates judge."""
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
        break_even=NotEvaluated("there are hardly any trades") if scored.break_even is None else scored.break_even,
        champion=compare_with_champion(
            champion, data.feature_set, data.candles, scored.rows, p=p, config=config, snapshot=data.snapshot
        ),
        meaning=compare_meaning(
            champion, data.feature_set, data.samples.symbols, market=data.snapshot.source.known_market
        ),
        origin=find_origin(champion, data.snapshot),
        selection=Selection(results.looks.others),
    )
