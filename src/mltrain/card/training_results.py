"""The results of a training that a card is built from, grouped by the step that produced them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

    from mltrain.artifact.bundle import Bundle
    from mltrain.artifact.sequence_bundle import SequenceBundle
    from mltrain.card.lineage import Lineage
    from mltrain.config.train_config import TrainConfig
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet
    from mltrain.gates.holdout_looks import LookCounts
    from mltrain.gates.latency import Latency
    from mltrain.gates.thresholds import LoosenedThreshold
    from mltrain.gates.verdict import Verdict
    from mltrain.guards.evidence import GuardResult
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.training.baselines import LogisticScore, SymbolPrior
    from mltrain.training.calibration import CalibrationChoice
    from mltrain.training.economics import Economics, SymbolBounce
    from mltrain.training.holdout import HoldoutScores
    from mltrain.training.samples import Samples, SymbolQuality
    from mltrain.training.search import SearchResult
    from mltrain.training.slices import SliceScore
    from mltrain.training.split import Split


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Candles that passed the leakage guards, as rows cut into blocks.

    Attributes:
        snapshot: The snapshot that the candles are from.
        feature_set: The features and the label.
        candles: Candles by symbol, the newest `max_rows` of them.
        samples: The rows of all symbols.
        quality: How many of each symbol's candles became rows, and why the others did not.
        split: The blocks of these rows.
        guards: The results of the leakage guards.
        ties: The candles whose label was dropped as a tie; they are scored, but no fit learns from them.
        short: For a model that reads windows: rows and ties that have no complete window, which are read as parts of
            those of others.
    """

    snapshot: Snapshot
    feature_set: FeatureSet
    candles: Mapping[str, pl.DataFrame]
    samples: Samples
    quality: tuple[SymbolQuality, ...]
    split: Split
    guards: tuple[GuardResult, ...]
    ties: Samples
    short: tuple[Samples, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class FittedModel:
    """A search, and the calibrator and the model that came of it.

    Attributes:
        search: The trials and the out-of-fold scores of the best one.
        calibration: The calibrator, and the log losses by which it was chosen.
        evaluated: The model fitted on the inner part, which the holdout judges.
        served: The model that is stored: `evaluated`, or with `final: all` the same parameters fitted on every row.
        fitted_on: The rows that `served` was fitted on.
    """

    search: SearchResult
    calibration: CalibrationChoice
    evaluated: Bundle | SequenceBundle
    served: Bundle | SequenceBundle
    fitted_on: Literal["inner", "all"]


@dataclass(frozen=True, slots=True)
class NetworkInsight:
    """What a network looks at, in stretches of the holdout.

    Attributes:
        window: Bars of a window.
        hidden: Width of its layers.
        heads: Number of attention heads.
        parameters: Number of parameters.
        rows: Rows of the holdout that this was measured on.
        variable_weights: Mean weight of each feature, and of each known input, in the variable selection.
        importance: Log loss, in nats, that shuffling the values of each of them adds.
        rank_agreement: Rank correlation of the two; None if one of them is constant.
        attention_by_lag: Mean weight of each bar of the window in the attention, from the newest back.
    """

    window: int
    hidden: int
    heads: int
    parameters: int
    rows: int
    variable_weights: Mapping[str, float]
    importance: Mapping[str, float]
    rank_agreement: float | None
    attention_by_lag: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class HoldoutResults:
    """The measurements of the evaluated model on the holdout.

    Attributes:
        looks: Number of earlier scorings of the holdout's time range.
        priors: Base rate and best simple rule of each symbol, from the rows before the holdout.
        scores: Metrics, intervals and baselines.
        weeks: Calibrated scores, week by week.
        volatility: Calibrated scores in calm, ordinary and wild markets.
        logistic: A logistic regression on five features, on the same rows.
        economics: What trading on the predictions earns before costs, and the cost at which that is nothing.
        bounce: The bounce between bid and ask in each symbol's candles.
        contributions: Mean absolute contribution of each feature to a score of boosted trees, in log odds.
        insight: What a network looks at; None for boosted trees.
        latency: Durations of single predictions, measured with this model.
    """

    looks: LookCounts
    priors: tuple[SymbolPrior, ...]
    scores: HoldoutScores
    weeks: tuple[SliceScore, ...]
    volatility: tuple[SliceScore, ...]
    logistic: LogisticScore
    economics: Economics
    bounce: tuple[SymbolBounce, ...]
    contributions: Mapping[str, float]
    insight: NetworkInsight | None
    latency: Latency


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a training can be repeated, and where and when it ran.

    Attributes:
        study: Name of the journal of the search.
        configuration_sha256: Hash of all that the scores depend on, except the candles.
        warm_start: The version and the parameters that the search began with; None without a warm start.
        lineage: Code, libraries and machine.
        now_ms: Time of the training, ms UTC.
        warnings: The warnings that the training showed.
    """

    study: str
    configuration_sha256: str
    warm_start: dict[str, Json] | None
    lineage: Lineage
    now_ms: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """All results of a training.

    Attributes:
        config: The configuration, with the command's options applied.
        data: The rows, cut into blocks of time.
        model: The fitted model and the search that chose it.
        holdout: The measurements of the model on the holdout.
        verdict: GO or NO-GO, with the outcome of each gate.
        loosened: Thresholds that are easier to pass than the packaged ones.
        provenance: How the training can be repeated.
    """

    config: TrainConfig
    data: TrainingData
    model: FittedModel
    holdout: HoldoutResults
    verdict: Verdict
    loosened: tuple[LoosenedThreshold, ...]
    provenance: Provenance
