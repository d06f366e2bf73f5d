"""Build the Model Card v2 from the results of a training.

Pure: nothing is measured here, every figure is copied from the result that holds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mltrain.card.model_card import ModelCard
from mltrain.documents.results import to_plain
from mltrain.documents.strict_json import canonical_json
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import format_ms, format_seconds
from mltrain.training.booster import feature_gains
from mltrain.training.metrics import row_log_loss
from mltrain.training.sample_weights import up_weight
from mltrain.training.samples import matrix_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.card.training_results import Training
    from mltrain.documents.values import Json
    from mltrain.gates.latency import Latency
    from mltrain.snapshots.snapshot_record import SymbolFacts
    from mltrain.training.holdout import HoldoutScores
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split

CARD_VERSION: Final = "2"
MODEL_NAME: Final = "mltrain-lgbm"
# Gaps listed per symbol: a card is read by people, and the snapshot's manifest lists all of them.
MAX_GAPS: Final = 100


def build_card(training: Training, files: Mapping[str, bytes]) -> ModelCard:
    """Return the Model Card v2 of a training.

    Args:
        training: The results.
        files: The other files of the version, by name.
    """
    document: dict[str, Json] = {
        "version": CARD_VERSION,
        "model_name": MODEL_NAME,
        "created_at": format_seconds(training.provenance.now_ms),
        "train": _train(training),
        "metrics": {
            **_metrics(training.holdout.scores.after),
            "rows": training.holdout.scores.rows,
            "per_symbol": {s.symbol: to_plain(s) for s in training.holdout.scores.symbols},
            "per_week": to_plain(training.holdout.weeks),
            "per_volatility": to_plain(training.holdout.volatility),
        },
        "latency_ms": _latency(training.holdout.latency),
        "leakage_checks": {guard.name: guard.passed for guard in training.data.guards},
        "feature_importance": [
            {"name": name, "gain": gain, "contribution": training.holdout.contributions[name]}
            for name, gain in feature_gains(training.model.served.model_text)
        ],
        "hyperparameters": {**training.model.search.best.params, "num_iterations": training.model.search.best.rounds},
        "notes": _notes(training),
        "intervals": _intervals(training.holdout.scores),
        "baselines": {
            **to_plain(training.holdout.scores.baselines),
            **to_plain(training.holdout.scores.comparison),
            "priors": to_plain(training.holdout.priors),
            "logistic": to_plain(training.holdout.logistic),
        },
        "calibration": _calibration(training),
        "gates": {
            "verdict": training.verdict.word,
            "held": training.verdict.held,
            "outcomes": to_plain(training.verdict.outcomes),
            "symbols": to_plain(training.verdict.symbols),
            "loosened": to_plain(training.loosened),
        },
        "economics": {**to_plain(training.holdout.economics), "bounce": to_plain(training.holdout.bounce)},
        "splits": {"fitted_on": training.model.fitted_on, **_splits(training.data.split, training.data.samples)},
        "evidence": {guard.name: to_plain(guard) for guard in training.data.guards},
        "lineage": _lineage(training),
        "artifacts": [
            {"path": name, "sha256": sha256_bytes(data), "bytes": len(data)} for name, data in sorted(files.items())
        ],
        "search": _search(training),
        "looks": to_plain(training.holdout.looks),
        "data_quality": _data_quality(training),
    }
    return ModelCard(document)


def _train(training: Training) -> dict[str, Json]:
    inner = training.data.split.inner
    ups = int(training.data.samples.y[inner.span].sum())
    return {
        "snapshot_id": training.data.snapshot.id,
        "range": {"start": format_ms(inner.start_ms), "end": format_ms(inner.end_ms)},
        "rows": inner.rows,
        "class_balance": {"pos": ups, "neg": inner.rows - ups},
        "symbols": list(training.data.samples.symbols),
        "interval": training.data.feature_set.interval,
        "label": to_plain(training.data.feature_set.label),
    }


def _metrics(scores: Any) -> dict[str, Json]:  # noqa: ANN401 -- Metrics or MetricIntervals
    plain = to_plain(scores)
    return {"calibration_ece" if name == "ece" else name: value for name, value in plain.items()}


def _intervals(scores: HoldoutScores) -> dict[str, Json]:
    return {
        "level": scores.level,
        "draws": scores.draws,
        "blocks": scores.blocks,
        "by_day": scores.by_day,
        "metrics": _metrics(scores.intervals),
    }


def _latency(latency: Latency) -> dict[str, Json]:
    return {
        # The schema requires these figures, from candles to probability, at this level.
        **to_plain(latency.candles),
        "samples": latency.samples,
        "histogram": to_plain(latency.histogram),
        "one_row": to_plain(latency.one_row),
        "batch_rows_per_s": latency.batch_rows_per_s,
        "load_average": latency.load_average,
    }


def _notes(training: Training) -> str:
    label, holdout, looks = training.data.feature_set.label, training.data.split.holdout, training.holdout.looks
    cost = f" by more than {label.cost_bps:g} bps" if label.kind == "threshold" else ""
    condition = f", given that it moves{cost}" if label.ties == "drop" else ""
    time_range = f"{format_ms(holdout.start_ms)} to {format_ms(holdout.end_ms)}"
    lines = [
        f"Probability that the price is higher{cost} after {label.horizon_bars} bar(s){condition}.",
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
    up = up_weight(training.data.samples, training.data.split, training.config)
    if up != 1:
        lines.append(
            f"A row that went up counted {up:.4g} times in fits; this was taken out of every probability again."
        )
    if training.config.uniqueness:
        lines.append("Rows whose labels overlap in time counted less in fits.")
    lines += [f"The gate {x.name} was loosened: {x.used:g} instead of {x.packaged:g}." for x in training.loosened]
    return " ".join([*lines, *training.provenance.warnings])


def _calibration(training: Training) -> dict[str, Json]:
    scores = training.holdout.scores
    return {
        "method": training.model.calibration.calibrator.method,
        "requested": training.config.calibration,
        "forward_log_loss": {loss.method: loss.log_loss for loss in training.model.calibration.losses},
        "before": _metrics(scores.before),
        "after": _metrics(scores.after),
        "ece_null_floor": to_plain(scores.null_floor),
        "brier": to_plain(scores.brier),
        "reliability_before": to_plain(scores.reliability_before),
        "reliability": to_plain(scores.reliability_after),
    }


def _splits(split: Split, samples: Samples) -> dict[str, Json]:
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
            }
            for block in split.blocks()
        ],
    }


def _lineage(training: Training) -> dict[str, Json]:
    config = training.config.to_json()
    return {
        **to_plain(training.provenance.lineage),
        "dependencies": dict(training.provenance.lineage.dependencies),
        "snapshot_manifest_sha256": training.data.snapshot.manifest_sha256,
        "source": training.data.snapshot.source.to_dict(),
        "snapshot_days": training.data.snapshot.request.days,
        "registry_sha256": training.data.feature_set.registry_sha256,
        "ops_sha256": training.model.evaluated.ops_sha256,
        "own_ops": None if training.model.evaluated.user_ops is None else to_plain(training.model.evaluated.user_ops),
        "config_sha256": sha256_bytes(canonical_json(config)),
        "config": config,
        "matrix_sha256": matrix_sha256(training.data.samples),
        "study": training.provenance.study,
        "configuration_sha256": training.provenance.configuration_sha256,
        "seed": training.config.seed,
        "threads": 1,
    }


def _search(training: Training) -> dict[str, Json]:
    trials, best = training.model.search.trials, training.model.search.best
    complete = sorted(t.loss for t in trials if t.state == "complete")
    return {
        "trials": len(trials),
        "trials_asked_for": training.config.search.trials,
        "ended_by": "timeout" if training.model.search.timed_out else "trials",
        "pruned": sum(t.state == "pruned" for t in trials),
        "best": {"number": best.number, "log_loss": best.loss, "rounds": best.rounds, "params": dict(best.params)},
        "median_log_loss": complete[len(complete) // 2],
        "selection_optimism": _optimism(training, best.loss - complete[len(complete) // 2]),
        **({} if training.provenance.warm_start is None else {"warm_start": training.provenance.warm_start}),
    }


def _optimism(training: Training, best_minus_median: float) -> dict[str, Json]:
    """Compare the skill of the raw scores out of fold and on the holdout: 1 - log loss / log loss of the base rates."""
    samples, search, scores = training.data.samples, training.model.search, training.holdout.scores
    up_shares = np.array([prior.up_share for prior in training.holdout.priors])
    base = row_log_loss(up_shares[samples.symbol_ix[search.oof.rows]], samples.y[search.oof.rows])
    out_of_fold = 1 - search.best.loss / float(base.mean())
    holdout = 1 - scores.before.log_loss / scores.baselines.base_rate_log_loss
    return {
        "best_minus_median": best_minus_median,
        "out_of_fold_skill": out_of_fold,
        "holdout_skill": holdout,
        "out_of_fold_minus_holdout": out_of_fold - holdout,
    }


def _data_quality(training: Training) -> dict[str, Json]:
    facts = {f.symbol: f for f in training.data.snapshot.facts}
    return {
        "interval": training.data.snapshot.interval,
        "symbols": [
            {
                **to_plain(q),
                **_coverage(facts[q.symbol]),
                "zero_trade_rows": facts[q.symbol].zero_trade_rows,
            }
            for q in training.data.quality
        ],
        "warnings": list(training.provenance.warnings),
    }


def _coverage(facts: SymbolFacts) -> dict[str, Json]:
    """Return where a symbol has candles and gaps; of many gaps the largest, in order of time."""
    largest = sorted(facts.gaps, key=lambda gap: -gap.missing)[:MAX_GAPS]
    return {
        "first": format_ms(facts.first_ms),
        "last": format_ms(facts.last_ms),
        "holes": len(facts.gaps),
        "missing_candles": sum(h.missing for h in facts.gaps),
        "largest_holes": [
            {"from": format_ms(h.from_ms), "to": format_ms(h.to_ms), "missing": h.missing}
            for h in sorted(largest, key=lambda gap: gap.from_ms)
        ],
    }
