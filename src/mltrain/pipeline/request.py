"""The request of a training: candles, features, configuration, options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mltrain.config.train_config import study_sha256
from mltrain.documents.strict_json import canonical_json
from mltrain.storage.hashing import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.config.train_config import TrainConfig
    from mltrain.documents.values import Json
    from mltrain.features.spec import FeatureSet
    from mltrain.snapshots.snapshot import Snapshot
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
        """Return the entry in the card of a training."""
        return {"version": self.version, "card_sha256": self.card_sha256, "params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train on and how.

    Attributes:
        snapshot: The candles.
        feature_set: The features and the label.
        config: The configuration, options applied.
        execution: How the search is run.
        final: Which rows the served model is fitted on; with "all", the figures are those of a second model, fitted
            on "inner".
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

    @property
    def study(self) -> str:
        """The study's name: two trainings share it if their trials of equal number are equal."""
        return f"{self.snapshot.id}-{self._study_sha256(self.warm_start)[:16]}-{self.config.seed}"

    def configuration_sha256(self, *, trials: int) -> str:
        """Return the hash of everything except the time of the cut that a person chooses and the scores depend on.

        The parameters of a warm start are left out, because the version that they are from changes with each
        promotion.

        Args:
            trials: Trials that were run; a timeout ends each search at another one.
        """
        chosen: dict[str, Json] = {
            "study": self._study_sha256(None),
            "warm_start": self.warm_start is not None,
            "seed": self.config.seed,
            "trials": trials,
            "calibration": self.config.calibration,
            "symbols": [*sorted(facts.symbol for facts in self.snapshot.facts)],
            "days": self.snapshot.request.days,
        }
        return sha256_bytes(canonical_json(chosen))

    def _study_sha256(self, warm_start: WarmStart | None) -> str:
        """Return the hash of everything except the candles and the seed that changes a trial."""
        registry, user_ops = self.feature_set.registry_sha256, self.feature_set.user_ops()
        if user_ops is not None:
            registry = sha256_bytes(f"{registry} {user_ops.module} {user_ops.sha256}".encode())
        params = None if warm_start is None else warm_start.params
        return study_sha256(self.config, registry_sha256=registry, warm_start=params)
