"""The request of a training: candles, features, configuration and options."""

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
    """A version whose hyperparameters are tried right after LightGBM's defaults.

    Attributes:
        version: Name of the version.
        card_sha256: Hash of the version's card.
        params: The hyperparameters, each inside its range in the search space.
        start_ms: First open time of the rows that the hyperparameters were chosen on, ms UTC.
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
        """Return the entry in the model card of a training that starts from this version."""
        return {"version": self.version, "card_sha256": self.card_sha256, "params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What to train on and how.

    Attributes:
        snapshot: The candles.
        feature_set: The features and the label.
        config: The configuration, with the options of the command line applied.
        execution: Number of workers and timeout of the search, and whether to resume it.
        promote: Whether the version becomes the live one if its verdict is GO.
        by: The user, for the log of promotions.
        final: Which rows the served model is fitted on; with "all", the figures are those of a second model, fitted
            on "inner".
        warm_start: A version whose hyperparameters are tried right after LightGBM's defaults; None: none.
        warnings: What the user should know about the request, for the log and the model card.

    Raises:
        InputError: The constraints of the configuration name a feature that is not in the feature set.
    """

    snapshot: Snapshot
    feature_set: FeatureSet
    config: TrainConfig
    execution: ExecutionOptions
    promote: bool
    by: str
    final: Literal["inner", "all"] = "inner"
    warm_start: WarmStart | None = None
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.config.booster.check_features(self.feature_set.names)

    @property
    def study(self) -> str:
        """Name of the study; trainings with the same name would run the same trials."""
        return f"{self.snapshot.id}-{self._study_sha256(self.warm_start)[:16]}-{self.config.seed}"

    def configuration_sha256(self, *, trials: int) -> str:
        """Return the hash of the user's choices that the scores depend on, except the time at which the snapshot ends.

        Whether there is a warm start counts, but not its hyperparameters: a nightly training starts from another
        version each time. `trials` is the number that were run, which a timeout makes smaller than the configured one.
        """
        choices: dict[str, Json] = {
            "study": self._study_sha256(None),
            "warm_start": self.warm_start is not None,
            "seed": self.config.seed,
            "trials": trials,
            "calibration": self.config.calibration,
            "symbols": [*sorted(facts.symbol for facts in self.snapshot.facts)],
            "days": self.snapshot.request.days,
        }
        # Left out where it is the default: the hashes of earlier versions have no such key.
        if self.snapshot.request.align != "union":
            choices["align"] = self.snapshot.request.align
        return sha256_bytes(canonical_json(choices))

    def _study_sha256(self, warm_start: WarmStart | None) -> str:
        """Return the hash of all that trials after this warm start depend on, except the candles and the seed."""
        registry, user_ops = self.feature_set.registry_sha256, self.feature_set.user_ops()
        if user_ops is not None:
            registry = sha256_bytes(f"{registry} {user_ops.module} {user_ops.sha256}".encode())
        params = None if warm_start is None else warm_start.params
        return study_sha256(self.config, registry_sha256=registry, warm_start=params)
