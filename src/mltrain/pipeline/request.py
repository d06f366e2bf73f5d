"""The request of a training: candles, features, configuration, options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.config.train_config import TrainConfig
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet
    from mltrain.snapshots.stored import Snapshot
    from mltrain.training.search import ExecutionOptions


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A version whose parameters are tried right after LightGBM's defaults.

    Attributes:
        version: Its name.
        card_sha256: Hash of its card.
        params: What is tried, of the search's space and inside it.
        start_ms: First open time that its parameters were chosen on, ms UTC.
        chosen_until_ms: End of the last label that they were chosen on, ms UTC.
        end_ms: End of the last label that they were chosen or judged on, ms UTC.
    """

    version: str
    card_sha256: str
    params: Mapping[str, float]
    start_ms: int
    chosen_until_ms: int
    end_ms: int

    def to_json(self) -> dict[str, Json]:
        """Return what the card of a training tells of it."""
        return {"version": self.version, "card_sha256": self.card_sha256, "params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train on and how.

    Attributes:
        snapshot: The candles.
        feature_set: The features and the label.
        config: The configuration, options applied.
        execution: How the search is run.
        final: Which rows the served model is fitted on; with "all", the figures are of its twin, fitted on "inner".
        warm_start: A version whose parameters are tried right after LightGBM's defaults; None: no such.
        promote: Whether a GO promotes.
        by: Who asked, for the log of promotions.
    """

    snapshot: Snapshot
    feature_set: FeatureSet
    config: TrainConfig
    execution: ExecutionOptions
    promote: bool
    by: str
    final: Literal["inner", "all"] = "inner"
    warm_start: WarmStart | None = None
