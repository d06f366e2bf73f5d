"""The record of a training: what its results say, put down as a Model Card v2.

Pure: frozen results in, one plain document out. Nothing is measured or guessed here: every figure is copied from the
result that holds it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from mltrain.documents.strict_json import canonical_json
from mltrain.documents.values import SHA256
from mltrain.errors import InputError, UsageError
from mltrain.storage.edge import sha256_bytes
from mltrain.times import format_ms, format_seconds, parse_time
from mltrain.training.baselines import SymbolPrior
from mltrain.training.metrics import row_log_loss
from mltrain.training.weights import up_weight

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.card.lineage import Lineage
    from mltrain.config.train_config import TrainConfig
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet
    from mltrain.features.user_ops import UserOps
    from mltrain.gates.latency import Latency
    from mltrain.gates.looks import Looks
    from mltrain.gates.verdict import Loosened, Verdict
    from mltrain.guards.evidence import GuardResult
    from mltrain.snapshots.record import SymbolFacts
    from mltrain.snapshots.stored import Snapshot
    from mltrain.training.calibration import CalibrationChoice
    from mltrain.training.economics import Economics, SymbolBounce
    from mltrain.training.holdout import HoldoutScores
    from mltrain.training.logistic import LogisticScore
    from mltrain.training.samples import Samples, SymbolQuality
    from mltrain.training.search import SearchResult
    from mltrain.training.slices import SliceScore
    from mltrain.training.split import Split

CARD_VERSION: Final = "2"
MODEL_NAME: Final = "mltrain-lgbm"
MAX_GAPS: Final = 100  # of one symbol: a card is read by people, and the snapshot's manifest has them all


@dataclass(frozen=True, slots=True)
class Slices:
    """What the holdout's figures look like in parts, and what a simple model has on the whole of it.

    Attributes:
        weeks: Calibrated scores, week by week.
        volatility: The same where the market is calm, ordinary or wild.
        logistic: A logistic regression on five features, on the same rows.
    """

    weeks: tuple[SliceScore, ...]
    volatility: tuple[SliceScore, ...]
    logistic: LogisticScore


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """Everything that a training found out.

    Attributes:
        snapshot: The candles.
        feature_set: The features and the label.
        config: The configuration, options applied.
        study: Name of the search's journal.
        configuration_sha256: Hash of everything except the candles that the scores depend on.
        samples: All rows.
        matrix_sha256: Hash of what the learner saw.
        quality: What became of each symbol's candles.
        split: The blocks.
        guards: What the leakage guards found.
        search: The trials.
        final: Which rows the served model was fitted on; with "all", every figure is of its twin, fitted on "inner".
        warm_start: The version, and its parameters, that the search began with; None without one.
        calibration: The calibrator and why it was chosen.
        importance: Feature and total gain, highest first.
        contributions: Each feature's mean share in the log odds of holdout rows, without its sign.
        priors: What the rows before the holdout say about each symbol.
        scores: The holdout's scores.
        economics: What the calls earn on the holdout, before costs; shown, but not judged.
        bounce: What the candles of each symbol say about the bounce between bid and ask.
        latency: Measured with this very model.
        slices: The holdout in parts.
        champion: The best version at the time of the verdict; None where nothing was promoted.
        verdict: The gates.
        loosened: Thresholds of the gates that are easier to pass than the packaged ones.
        looks: Earlier looks at the holdout.
        lineage: Code, libraries and machine.
        ops_sha256: Identifier of the version of mltrain's feature ops.
        user_ops: The module of the user's that some ops are from.
        now_ms: When, ms UTC.
        warnings: What the user was warned of.
    """

    snapshot: Snapshot
    feature_set: FeatureSet
    config: TrainConfig
    study: str
    configuration_sha256: str
    samples: Samples
    matrix_sha256: str
    quality: tuple[SymbolQuality, ...]
    split: Split
    guards: tuple[GuardResult, ...]
    search: SearchResult
    final: Literal["inner", "all"]
    warm_start: dict[str, Json] | None
    calibration: CalibrationChoice
    importance: tuple[tuple[str, float], ...]
    contributions: Mapping[str, float]
    priors: tuple[SymbolPrior, ...]
    scores: HoldoutScores
    economics: Economics
    bounce: tuple[SymbolBounce, ...]
    latency: Latency
    slices: Slices
    champion: str | None
    verdict: Verdict
    loosened: tuple[Loosened, ...]
    looks: Looks
    lineage: Lineage
    ops_sha256: str
    user_ops: UserOps | None
    now_ms: int
    warnings: tuple[str, ...]


def build_card(run: Training, files: Mapping[str, bytes]) -> dict[str, Json]:
    """Return the Model Card v2 of a training.

    Args:
        run: The results.
        files: The version's other files by name, the card itself left out.
    """
    return {
        "version": CARD_VERSION,
        "model_name": MODEL_NAME,
        "created_at": format_seconds(run.now_ms),
        "train": _train(run),
        "metrics": {
            **_metrics(run.scores.after),
            "rows": run.scores.rows,
            "per_symbol": {s.symbol: _plain(s) for s in run.scores.symbols},
            "per_week": _plain(run.slices.weeks),
            "per_volatility": _plain(run.slices.volatility),
        },
        "latency_ms": _latency(run.latency),
        "leakage_checks": {guard.name: guard.passed for guard in run.guards},
        "feature_importance": [
            {"name": name, "gain": gain, "contribution": run.contributions[name]} for name, gain in run.importance
        ],
        "hyperparameters": {**run.search.best.params, "num_iterations": run.search.best.rounds},
        "notes": _notes(run),
        "intervals": _intervals(run.scores),
        "baselines": {
            **_plain(run.scores.baselines),
            **_plain(run.scores.comparison),
            "priors": _plain(run.priors),
            "logistic": _plain(run.slices.logistic),
        },
        "calibration": _calibration(run),
        "gates": {
            "verdict": run.verdict.word,
            "held": run.verdict.held,
            "outcomes": _plain(run.verdict.outcomes),
            "symbols": _plain(run.verdict.symbols),
            "loosened": _plain(run.loosened),
        },
        "economics": {**_plain(run.economics), "bounce": _plain(run.bounce)},
        "splits": {"fitted_on": run.final, **_splits(run.split, run.samples)},
        "evidence": {guard.name: _plain(guard) for guard in run.guards},
        "lineage": _lineage(run),
        "artifacts": [
            {"path": name, "sha256": sha256_bytes(data), "bytes": len(data)} for name, data in sorted(files.items())
        ],
        "search": _search(run),
        "looks": _plain(run.looks),
        "data_quality": _data_quality(run),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 (any frozen result)
    """Return a frozen result as JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _train(run: Training) -> dict[str, Json]:
    inner = run.split.inner
    ups = int(run.samples.y[inner.span].sum())
    return {
        "snapshot_id": run.snapshot.id,
        "range": {"start": format_ms(inner.start_ms), "end": format_ms(inner.end_ms)},
        "rows": inner.rows,
        "class_balance": {"pos": ups, "neg": inner.rows - ups},
        "symbols": list(run.samples.symbols),
        "interval": run.feature_set.interval,
        "label": _plain(run.feature_set.label),
    }


def _metrics(scores: Any) -> dict[str, Json]:  # noqa: ANN401 (Metrics, or their intervals under the same names)
    plain = _plain(scores)
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
    """The required figures are those from candles to probability; the others stand beside them."""
    return {
        **_plain(latency.candles),
        "samples": latency.samples,
        "histogram": _plain(latency.histogram),
        "one_row": _plain(latency.one_row),
        "batch_rows_per_s": latency.batch_rows_per_s,
        "load_average": latency.load_average,
    }


def _notes(run: Training) -> str:
    label, holdout = run.feature_set.label, run.split.holdout
    cost = f" by more than {label.cost_bps:g} bps" if label.kind == "threshold" else ""
    given = f", given that it moves{cost}" if label.ties == "drop" else ""
    seen = f"{format_ms(holdout.start_ms)} to {format_ms(holdout.end_ms)}"
    lines = [
        f"Probability that the price is higher{cost} after {label.horizon_bars} bar(s){given}.",
        f"Metrics are of the holdout {seen}, which no fit, search or calibration has seen.",
        *(
            ["The served model was fitted on every row, the holdout's too: the metrics are those of its twin."]
            if run.final == "all"
            else []
        ),
        f"This time range had been scored {run.looks.earlier} time(s) before ({run.looks.weighted:.2f} by overlap).",
        *(
            [f"{run.looks.others:.2f} of these tried another configuration or seed; the gates allow for them."]
            if run.looks.others
            else []
        ),
        *_weight_notes(run),
        *(f"The gate {x.name} was loosened: {x.used:g} instead of {x.packaged:g}." for x in run.loosened),
        *run.warnings,
    ]
    return " ".join(lines)


def _weight_notes(run: Training) -> list[str]:
    up = up_weight(run.samples, run.split, run.config)
    told = [f"A row that went up counted {up:.4g} times in fits; this was taken out of every probability again."]
    return (told if up != 1 else []) + (
        ["Rows whose labels overlap in time counted less in fits."] if run.config.uniqueness else []
    )


def _calibration(run: Training) -> dict[str, Json]:
    scores = run.scores
    return {
        "method": run.calibration.calibrator.method,
        "requested": run.config.calibration,
        "forward_log_loss": {loss.method: loss.log_loss for loss in run.calibration.losses},
        "before": _metrics(scores.before),
        "after": _metrics(scores.after),
        "ece_null_floor": _plain(scores.null_floor),
        "brier": _plain(scores.brier),
        "reliability_before": _plain(scores.reliability_before),
        "reliability": _plain(scores.reliability_after),
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


def fitted_rows(card: Any) -> Literal["inner", "all"]:  # noqa: ANN401 (a card as JSON)
    """Return which rows a version was fitted on, from its card."""
    return "all" if card.get("splits", {}).get("fitted_on") == "all" else "inner"


def configuration_of(card: Any) -> str | None:  # noqa: ANN401 (a card as JSON)
    """Return the hash of what a version's scores depend on, from its card; None where the card lacks it."""
    found = card.get("lineage", {}).get("configuration_sha256")
    return found if isinstance(found, str) and SHA256.fullmatch(found) else None


def priors_of(card: Any, symbols: tuple[str, ...]) -> tuple[SymbolPrior, ...]:  # noqa: ANN401 (a card as JSON)
    """Return what the training rows of a version say about some symbols, from its card.

    A card of an earlier release lacks it: the base rate of all rows is then used for each symbol's, and the majority
    for the best rule.
    """
    train = card["train"]
    up_share = train["class_balance"]["pos"] / train["rows"]
    priors = card.get("baselines", {}).get("priors", [])
    known = {p["symbol"]: SymbolPrior(p["symbol"], p["up_share"], p["rule"]) for p in priors}
    return tuple(known.get(symbol, SymbolPrior(symbol, up_share, "majority")) for symbol in symbols)


def last_label_end_ms(card: Any) -> int:  # noqa: ANN401 (a card as JSON)
    """Return the end of the last label that a version was trained on, from its card, ms UTC.

    Of a version that was fitted on everything, that is the end of the holdout's last one.

    Raises:
        InputError: The card does not tell: another tool wrote it.
    """
    try:
        last = "inner" if fitted_rows(card) == "inner" else "holdout"
        block = next(block for block in card["splits"]["blocks"] if block["name"] == last)
        return parse_time(block["last_label_end"])
    except (KeyError, StopIteration, TypeError, UsageError) as err:
        raise InputError("the card does not tell which labels the version was trained on") from err


def _lineage(run: Training) -> dict[str, Json]:
    config = run.config.to_json()
    return {
        **_plain(run.lineage),
        "dependencies": dict(run.lineage.dependencies),
        "snapshot_manifest_sha256": run.snapshot.manifest_sha256,
        "source": run.snapshot.source.to_dict(),
        "snapshot_days": run.snapshot.request.days,
        "registry_sha256": run.feature_set.registry_sha256,
        "ops_sha256": run.ops_sha256,
        "own_ops": None if run.user_ops is None else _plain(run.user_ops),
        "config_sha256": sha256_bytes(canonical_json(config)),
        "config": config,
        "matrix_sha256": run.matrix_sha256,
        "study": run.study,
        "configuration_sha256": run.configuration_sha256,
        "seed": run.config.seed,
        "threads": 1,
    }


def _search(run: Training) -> dict[str, Json]:
    trials, best = run.search.trials, run.search.best
    complete = sorted(t.loss for t in trials if t.state == "complete")
    return {
        "trials": len(trials),
        "trials_asked_for": run.config.search.trials,
        "ended_by": "timeout" if run.search.timed_out else "trials",
        "pruned": sum(t.state == "pruned" for t in trials),
        "best": {"number": best.number, "log_loss": best.loss, "rounds": best.rounds, "params": dict(best.params)},
        "median_log_loss": complete[len(complete) // 2],
        "selection_optimism": _optimism(run, best.loss - complete[len(complete) // 2]),
        **({} if run.warm_start is None else {"warm_start": run.warm_start}),
    }


def _optimism(run: Training, best_minus_median: float) -> dict[str, Json]:
    """Tell how much better the search looks than the holdout: raw log-loss skill over the base rate of each."""
    rows = run.search.oof_rows
    y, up = run.samples.y[rows], np.array([prior.up_share for prior in run.priors])[run.samples.symbol_ix[rows]]
    base = float(row_log_loss(up, y).mean())
    out_of_fold = 1 - run.search.best.loss / base
    holdout = 1 - run.scores.before.log_loss / run.scores.baselines.base_rate_log_loss
    return {
        "best_minus_median": best_minus_median,
        "out_of_fold_skill": out_of_fold,
        "holdout_skill": holdout,
        "out_of_fold_minus_holdout": out_of_fold - holdout,
    }


def _data_quality(run: Training) -> dict[str, Json]:
    facts = {f.symbol: f for f in run.snapshot.facts}
    return {
        "interval": run.snapshot.interval,
        "symbols": [
            {
                **_plain(q),
                **_coverage(facts[q.symbol]),
                "zero_trade_rows": facts[q.symbol].zero_trade_rows,
            }
            for q in run.quality
        ],
        "warnings": list(run.warnings),
    }


def _coverage(facts: SymbolFacts) -> dict[str, Json]:
    """Tell where a symbol has candles and where it has none; of many gaps the largest, in the order of time."""
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
