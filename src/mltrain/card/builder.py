"""Build the Model Card v2 from the results of a training.

Pure: nothing is measured here; figures are copied, or computed from those of the training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.artifact.bundle import Bundle
from mltrain.card.model_card import ModelCard
from mltrain.documents.results import to_plain
from mltrain.documents.strict_json import canonical_json
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import DAY_MS, format_ms, format_seconds, interval_ms
from mltrain.training.booster import feature_gains
from mltrain.training.economics import describe_break_even
from mltrain.training.metrics import row_log_loss
from mltrain.training.sample_weights import compute_up_weight, recency
from mltrain.training.samples import matrix_sha256
from mltrain.training.split import find_absent_symbols

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.card.training_results import NetworkInsight, Training, TrainingData
    from mltrain.documents.values import Json
    from mltrain.features.label_spec import LabelSpec
    from mltrain.gates.latency import Latency
    from mltrain.snapshots.snapshot_record import SymbolFacts
    from mltrain.training.bootstrap import MetricIntervals
    from mltrain.training.metrics import Metrics
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split

CARD_VERSION: Final = "2"
MODEL_NAMES: Final = {"lgbm": "mltrain-lgbm", "tft": "tft_prod"}
#: Rank correlation below which the weights of the variables do not explain a network.
LEAST_AGREEMENT: Final = 0.5
# Gaps listed per symbol, to keep a card readable: the snapshot's manifest lists all of them.
MAX_GAPS: Final = 100


def build_card(training: Training, files: Mapping[str, bytes]) -> ModelCard:
    """Return the Model Card v2 of a training; `files` has the contents of the version's other files by name."""
    data, model, holdout, verdict = training.data, training.model, training.holdout, training.verdict
    document: dict[str, Json] = {
        "version": CARD_VERSION,
        "model_name": MODEL_NAMES[training.config.model],
        "created_at": format_seconds(training.provenance.now_ms),
        **_validity(training),
        "train": _train_section(data),
        "metrics": {
            **_metric_values(holdout.scores.after),
            "rows": holdout.scores.rows,
            "per_symbol": {score.symbol: to_plain(score) for score in holdout.scores.symbols},
            "per_week": to_plain(holdout.weeks),
            "per_volatility": to_plain(holdout.volatility),
        },
        "latency_ms": _latency_section(holdout.latency),
        "leakage_checks": {guard.name: guard.passed for guard in data.guards},
        "feature_importance": _list_importance(training),
        "hyperparameters": {
            **model.search.best.params,
            "num_iterations" if isinstance(model.served, Bundle) else "epochs": model.search.best.best_round,
        },
        "notes": _describe_training(training),
        "intervals": {
            "level": holdout.scores.level,
            "draws": holdout.scores.draws,
            "blocks": holdout.scores.blocks,
            "by_day": holdout.scores.by_day,
            "metrics": _metric_values(holdout.scores.intervals),
        },
        "baselines": {
            **to_plain(holdout.scores.baselines),
            **to_plain(holdout.scores.comparison),
            "priors": to_plain(holdout.priors),
            "logistic": to_plain(holdout.logistic),
        },
        "calibration": _calibration_section(training),
        "gates": {
            "verdict": verdict.word,
            "held": verdict.held,
            "outcomes": to_plain(verdict.outcomes),
            "symbols": to_plain(verdict.symbols),
            "loosened": to_plain(training.loosened),
        },
        **({} if holdout.insight is None else {"sequence": _sequence_section(training, holdout.insight)}),
        "economics": {**to_plain(holdout.economics), "bounce": to_plain(holdout.bounce)},
        "splits": {"fitted_on": model.fitted_on, **_split_blocks(data.split, data.samples)},
        "evidence": {guard.name: to_plain(guard) for guard in data.guards},
        "lineage": _lineage_section(training),
        "artifacts": [
            {"path": name, "sha256": sha256_bytes(content), "bytes": len(content)}
            for name, content in sorted(files.items())
        ],
        "search": _search_section(training),
        "looks": to_plain(holdout.looks),
        "data_quality": _data_quality_section(training),
        "limits": {"not_in_holdout": list(find_absent_symbols(data.samples, data.split.holdout))},
    }
    return ModelCard(document)


def _validity(training: Training) -> dict[str, Json]:
    """Return the card's `valid_until`: so many days after the newest candle of the snapshot; empty without a limit."""
    days, snapshot = training.config.valid_days, training.data.snapshot
    if days is None:
        return {}
    close_ms = max(facts.last_ms for facts in snapshot.facts) + interval_ms(snapshot.interval)
    return {"valid_until": format_seconds(close_ms + int(days * DAY_MS))}


def _list_importance(training: Training) -> list[Json]:
    """Return the card's `feature_importance`, the greatest first.

    Of boosted trees, the gain of the splits and the mean contribution; of a network, the mean weight that its variable
    selection gives to a feature.
    """
    holdout, served = training.holdout, training.model.served
    if isinstance(served, Bundle):
        return [
            {"name": name, "gain": gain, "contribution": holdout.contributions[name]}
            for name, gain in feature_gains(served.model_text)
        ]
    if holdout.insight is None:
        return []
    weights = sorted(holdout.insight.variable_weights.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "gain": weight, "importance": holdout.insight.importance[name]} for name, weight in weights]


def _sequence_section(training: Training, insight: NetworkInsight) -> dict[str, Json]:
    """Return the card's `sequence`: the sizes of a network, how long it was fitted, and what it looks at."""
    return {
        "window": insight.window,
        "inputs": len(insight.variable_weights),
        "hidden": insight.hidden,
        "heads": insight.heads,
        "epochs": training.model.search.best.best_round,
        "parameters": insight.parameters,
        "rows": insight.rows,
        "variable_weights": dict(insight.variable_weights),
        "permutation_importance": dict(insight.importance),
        "rank_agreement": insight.rank_agreement,
        "attention_by_lag": list(insight.attention_by_lag),
    }


def _train_section(data: TrainingData) -> dict[str, Json]:
    """Return the card's `train`: the rows before the holdout, their classes, and the label."""
    inner = data.split.inner
    up_rows = int(data.samples.y[inner.span].sum())
    return {
        "snapshot_id": data.snapshot.id,
        "range": {"start": format_ms(inner.start_ms), "end": format_ms(inner.end_ms)},
        "rows": inner.rows,
        "class_balance": {"pos": up_rows, "neg": inner.rows - up_rows},
        "symbols": list(data.samples.symbols),
        "interval": data.feature_set.interval,
        "label": to_plain(data.feature_set.label),
    }


def _metric_values(scores: Metrics | MetricIntervals) -> dict[str, Json]:
    """Return scores, or their intervals, by the card's names of the metrics."""
    return {"calibration_ece" if name == "ece" else name: value for name, value in to_plain(scores).items()}


def _latency_section(latency: Latency) -> dict[str, Json]:
    """Return the card's `latency_ms`: durations of predictions in ms, and the conditions of the measurement."""
    return {
        # The schema requires these figures, from candles to probability, at this level.
        **to_plain(latency.candles),
        "samples": latency.samples,
        "histogram": to_plain(latency.histogram),
        "one_row": to_plain(latency.one_row),
        "batch_rows_per_s": latency.batch_rows_per_s,
        "load_average": latency.load_average,
    }


def _describe_probability(label: LabelSpec) -> str:
    """Return what the probability means, in a sentence."""
    if label.kind == "barrier":
        within = f"within {label.horizon_bars} bar(s)"
        otherwise, condition = "", f", given that one of them is {within}"
        if label.timeout == "sign":
            otherwise = f" {within} or, without a touch, the price is then higher"
            condition = ", given that one bar does not touch both"
            condition += " and that the price moves" if label.ties == "drop" else ""
        barriers = f"the upper barrier is touched before the lower one ({label.describe_barriers()})"
        return f"Probability that {barriers}{otherwise}{condition}."
    cost = f" by more than {label.cost_bps:g} bps" if label.kind == "threshold" else ""
    condition = f", given that it moves{cost}" if label.ties == "drop" else ""
    return f"Probability that the price is higher{cost} after {label.horizon_bars} bar(s){condition}."


def _describe_training(training: Training) -> str:
    """Return the card's `notes`: what the probability means, and what a reader of the figures has to know."""
    holdout, looks = training.data.split.holdout, training.holdout.looks
    time_range = f"{format_ms(holdout.start_ms)} to {format_ms(holdout.end_ms)}"
    lines = [
        _describe_probability(training.data.feature_set.label),
        f"Metrics are of the holdout {time_range}, which no fit, search or calibration has seen.",
    ]
    if training.model.fitted_on == "all":
        lines.append(
            "The served model was fitted on all rows, the holdout included: the metrics are those of a model with the "
            "same hyperparameters, fitted on the inner part only."
        )
    lines.append(f"This time range had been scored {looks.earlier} time(s) before ({looks.weighted:.2f} by overlap).")
    if looks.others:
        lines.append(f"{looks.others:.2f} of these tried another configuration or seed; the gates allow for them.")
    economics = training.holdout.economics
    sentence = describe_break_even(economics.break_even, taker_bps=economics.taker_bps)
    lines.append(f"{sentence[0].upper()}{sentence[1:]}.")
    up_weight = compute_up_weight(training.data.samples, training.data.split, training.config)
    if up_weight != 1:
        lines.append(
            f"A row that went up counted {up_weight:.4g} times in fits; this was taken out of every probability again."
        )
    if training.config.uniqueness:
        lines.append("Rows whose labels overlap in time counted less in fits.")
    if half_life_days := training.config.recency_half_life_days:
        inner = training.data.split.inner
        weight = float(recency(training.data.samples.ts_ms[inner.span], half_life_days=half_life_days).sum())
        lines.append(
            f"In fits, a row counted half as much for every {half_life_days:g} days before the newest one: the "
            f"{inner.rows:,} rows before the holdout counted like {weight:,.0f} of the newest."
        )
    booster = training.config.booster
    if booster.boosting != "gbdt":
        lines.append(f"Its trees were grown by {booster.boosting}.")
    if booster.has_monotone_constraints:
        signs = {sign: [name for name, x in booster.monotone_constraints.items() if x == sign] for sign in (1, -1)}
        parts = [
            f"never {verb} while {' or '.join(signs[sign])} rises"
            for sign, verb in ((1, "falls"), (-1, "rises"))
            if signs[sign]
        ]
        lines.append(f"By constraint, the probability {', and '.join(parts)}.")
    if booster.interaction_constraints:
        lines.append("By constraint, only some features interact; lineage.config.booster lists them.")
    insight = training.holdout.insight
    if insight is not None and (insight.rank_agreement is None or insight.rank_agreement < LEAST_AGREEMENT):
        agreement = "hardly agree with what shuffling a variable does to the log loss"
        lines.append(f"The weights of its variables do not explain this network: they {agreement}.")
    lines += [f"The gate {x.name} was loosened: {x.used:g} instead of {x.packaged:g}." for x in training.loosened]
    return " ".join([*lines, *training.provenance.warnings])


def _calibration_section(training: Training) -> dict[str, Json]:
    """Return the card's `calibration`: how the calibrator was chosen, and the holdout's scores without and with it."""
    scores, calibration = training.holdout.scores, training.model.calibration
    return {
        "method": calibration.calibrator.method,
        "requested": training.config.calibration,
        "forward_log_loss": dict(calibration.forward_losses),
        "before": _metric_values(scores.before),
        "after": _metric_values(scores.after),
        "ece_null_floor": to_plain(scores.null_floor),
        "brier": to_plain(scores.brier),
        "reliability_before": to_plain(scores.reliability_before),
        "reliability": to_plain(scores.reliability_after),
    }


def _split_blocks(split: Split, samples: Samples) -> dict[str, Json]:
    """Return the embargo in ms, and each block of time with its range and its numbers of rows, for the card."""
    return {
        "embargo_ms": split.embargo_ms,
        "blocks": [
            {
                "name": block.name,
                "start": format_ms(block.start_ms),
                "end": format_ms(block.end_ms),
                "last_label_end": format_ms(int(samples.label_end_ms[block.span].max())),
                "rows": block.rows,
                "purged_rows": block.purged_rows,
                "symbols_without_rows": list(find_absent_symbols(samples, block)),
            }
            for block in split.blocks()
        ],
    }


def _lineage_section(training: Training) -> dict[str, Json]:
    """Return the card's `lineage`: versions, hashes and settings from which the training can be repeated."""
    config, data, provenance = training.config.to_json(), training.data, training.provenance
    evaluated = training.model.evaluated
    return {
        **to_plain(provenance.lineage),
        "dependencies": dict(provenance.lineage.dependencies),
        "snapshot_manifest_sha256": data.snapshot.manifest_sha256,
        "source": data.snapshot.source.to_dict(),
        "snapshot_days": data.snapshot.request.days,
        "snapshot_align": data.snapshot.request.align,
        "registry_sha256": data.feature_set.registry_sha256,
        "ops_sha256": evaluated.ops_sha256,
        "own_ops": None if evaluated.user_ops is None else to_plain(evaluated.user_ops),
        "config_sha256": sha256_bytes(canonical_json(config)),
        "config": config,
        "matrix_sha256": matrix_sha256(data.samples),
        "study": provenance.study,
        "configuration_sha256": provenance.configuration_sha256,
        "seed": training.config.seed,
        "threads": 1,
    }


def _search_section(training: Training) -> dict[str, Json]:
    """Return the card's `search`: number of trials, the best one, and how far its skill is the luck of selection.

    Losses are out-of-fold log losses in nats. A skill is 1 - log loss / log loss of the symbols' base rates, of the
    uncalibrated scores.
    """
    search, scores, samples = training.model.search, training.holdout.scores, training.data.samples
    best = search.best
    losses = sorted(trial.loss for trial in search.trials if trial.state == "complete")
    median = losses[len(losses) // 2]
    up_shares = np.array([prior.up_share for prior in training.holdout.priors])
    base_loss = row_log_loss(up_shares[samples.symbol_ix[search.oof.rows]], samples.y[search.oof.rows])
    out_of_fold_skill = 1 - best.loss / float(base_loss.mean())
    holdout_skill = 1 - scores.before.log_loss / scores.baselines.base_rate_log_loss
    return {
        "trials": len(search.trials),
        "trials_asked_for": training.config.search.trials,
        "ended_by": "timeout" if search.timed_out else "trials",
        "pruned": sum(trial.state == "pruned" for trial in search.trials),
        "best": {"number": best.number, "log_loss": best.loss, "rounds": best.best_round, "params": dict(best.params)},
        "median_log_loss": median,
        "selection_optimism": {
            "best_minus_median": best.loss - median,
            "out_of_fold_skill": out_of_fold_skill,
            "holdout_skill": holdout_skill,
            "out_of_fold_minus_holdout": out_of_fold_skill - holdout_skill,
        },
        **({} if training.provenance.warm_start is None else {"warm_start": training.provenance.warm_start}),
    }


def _data_quality_section(training: Training) -> dict[str, Json]:
    """Return the card's `data_quality`: each symbol's rows, candles and gaps, and the warnings of the training."""
    snapshot, samples, split = training.data.snapshot, training.data.samples, training.data.split
    candle_facts = {facts.symbol: facts for facts in snapshot.facts}
    return {
        "interval": snapshot.interval,
        "symbols": [
            {
                **to_plain(quality),
                **_count_block_rows(quality.symbol, samples, split),
                **_describe_candles(candle_facts[quality.symbol]),
            }
            for quality in training.data.quality
        ],
        "warnings": list(training.provenance.warnings),
    }


def _count_block_rows(symbol: str, samples: Samples, split: Split) -> dict[str, Json]:
    """Return a symbol's rows in the inner part and in the holdout, and the numbers of the folds that do not score it.

    A symbol that the model was not trained on has no rows in any block.
    """
    is_symbol = np.zeros(samples.y.size, np.bool_)
    if symbol in samples.symbols:
        is_symbol = samples.symbol_ix == samples.symbols.index(symbol)
    return {
        "inner_rows": int(np.count_nonzero(is_symbol[split.inner.span])),
        "holdout_rows": int(np.count_nonzero(is_symbol[split.holdout.span])),
        "folds_without_rows": [k for k, fold in enumerate(split.folds, 1) if not is_symbol[fold.valid.span].any()],
    }


def _describe_candles(candles: SymbolFacts) -> dict[str, Json]:
    """Return when a symbol's candles start and end, and its gaps: the MAX_GAPS largest of them, in order of time."""
    largest = sorted(candles.gaps, key=lambda gap: -gap.missing)[:MAX_GAPS]
    return {
        "first": format_ms(candles.first_ms),
        "last": format_ms(candles.last_ms),
        "holes": len(candles.gaps),
        "missing_candles": candles.missing,
        "largest_holes": [
            {"from": format_ms(gap.from_ms), "to": format_ms(gap.to_ms), "missing": gap.missing}
            for gap in sorted(largest, key=lambda gap: gap.from_ms)
        ],
        "zero_trade_rows": candles.zero_trade_rows,
    }
