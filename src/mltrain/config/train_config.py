"""The training configuration: what train.yml may say, with the range of every value and no default.

`read_record(document, TrainConfig)` checks a whole document; `to_json` of a configuration has the layout of train.yml.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from mltrain.documents.records import Limits, RecordError, record, to_json
from mltrain.documents.strict_json import canonical_json
from mltrain.storage.hashing import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mltrain.documents.values import Json

ClassWeight: TypeAlias = Literal["none", "balanced"] | Annotated[float, Limits(0.01, 100)]
Calibration: TypeAlias = Literal["auto", "isotonic", "sigmoid", "beta", "none"]

Count: TypeAlias = Annotated[int, Limits(1, 100_000)]
Share: TypeAlias = Annotated[float, Limits(0, 1)]


@record
@dataclass(frozen=True, slots=True)
class FoldConfig:
    """The walk-forward folds.

    Attributes:
        count: Number of folds.
        start: Share of the inner part's time before the first validation block.
    """

    count: Annotated[int, Limits(2, 20)]
    start: Annotated[float, Limits(0.1, 0.9)]


class _SearchRange:
    """The rules of `IntRange` and `FloatRange`."""

    __slots__ = ()

    low: float
    high: float
    scale: Literal["linear", "log"]
    default: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise RecordError((("low",), f"must not be above high, {self.high}; is {self.low}"))
        if not self.low <= self.default <= self.high:
            message = f"must lie from low, {self.low}, to high, {self.high}; is {self.default}"
            raise RecordError((("default",), message))
        if self.is_log and self.low == 0:
            raise RecordError((("low",), "must be above 0 on a logarithmic scale"))

    @property
    def is_log(self) -> bool:
        """Whether it is searched on a logarithmic scale."""
        return self.scale == "log"


@record
@dataclass(frozen=True, slots=True)
class IntRange(_SearchRange):
    """The searched range of a whole number, both ends included.

    Attributes:
        low: Least value.
        high: Greatest value; equal to `low` where the parameter is pinned.
        scale: On which scale it is searched.
        default: LightGBM's own value, the first to be tried; in the range.
    """

    low: int
    high: int
    scale: Literal["linear", "log"]
    default: int


@record
@dataclass(frozen=True, slots=True)
class FloatRange(_SearchRange):
    """The searched range of a number; see `IntRange`."""

    low: float
    high: float
    scale: Literal["linear", "log"]
    default: float


@record
@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The searched hyperparameters, by LightGBM's names, each within the limits that LightGBM and reason set."""

    learning_rate: Annotated[FloatRange, Limits(1e-4, 1)]
    num_leaves: Annotated[IntRange, Limits(2, 4_096)]
    min_data_in_leaf: Annotated[IntRange, Limits(1, 1_000_000)]
    feature_fraction: Annotated[FloatRange, Limits(0.01, 1)]
    bagging_fraction: Annotated[FloatRange, Limits(0.01, 1)]
    lambda_l1: Annotated[FloatRange, Limits(0, 1e6)]
    lambda_l2: Annotated[FloatRange, Limits(0, 1e6)]

    def items(self) -> Iterator[tuple[str, IntRange | FloatRange]]:
        """Yield name and range of each hyperparameter, in the order in which a sampler draws them."""
        return ((name, getattr(self, name)) for name in self.__slots__)

    def defaults(self) -> dict[str, float]:
        """Return LightGBM's own values by name."""
        return {name: searched.default for name, searched in self.items()}


@record
@dataclass(frozen=True, slots=True)
class Rung:
    """A point of progress at which a trial is pruned if it is worse than earlier ones.

    Attributes:
        at: Progress of the trial: rounds x learning rate x the root of (leaves / 31).
        keep: Share of the earlier trials at this rung that counts as the best; the best four always pass.
        most: Upper limit of that share, in trials; the best four always pass.
        folds: How many folds, from the first, it is judged by there; all of them where there are fewer.
    """

    at: Annotated[float, Limits(0.001, 100_000)]
    keep: Annotated[float, Limits(0.05, 1)]
    most: Count
    folds: Annotated[int, Limits(1, 20)]


@record
@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The hyperparameter search.

    Attributes:
        trials: Number of trials.
        batch: Trials in flight at most, see `mltrain.training.study.in_flight`.
        early_stop: Rounds without a better mean loss after which a trial stops.
        settle: The same if its loss is above that of a completed trial.
        max_rounds: Boosting rounds at most.
        rungs: Where trials are compared, the earliest first; none prunes nothing.
        space: The searched hyperparameters.
    """

    trials: Count
    batch: Annotated[int, Limits(1, 256)]
    early_stop: Count
    settle: Count
    max_rounds: Count
    rungs: tuple[Rung, ...]
    space: SearchSpace

    def __post_init__(self) -> None:
        if any((b.at, b.folds) <= (a.at, a.folds) for a, b in pairwise(self.rungs)):
            raise RecordError((("rungs",), "must rise, in `at` or with more folds at the same"))


@record
@dataclass(frozen=True, slots=True)
class BoosterConfig:
    """Parameters that all boosters of a training share.

    Attributes:
        max_bin: Histogram bins per feature.
    """

    max_bin: Annotated[int, Limits(3, 255)]


@record
@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """The confidence intervals of the holdout's scores.

    Attributes:
        draws: Number of draws of whole days.
        level: Coverage, such as 0.9.
    """

    draws: Annotated[int, Limits(200, 100_000)]
    level: Annotated[float, Limits(0.5, 0.99)]


@record
@dataclass(frozen=True, slots=True)
class BenchConfig:
    """The measurement of latency.

    Attributes:
        samples: Measured calls.
    """

    samples: Annotated[int, Limits(10, 1_000_000)]


@record
@dataclass(frozen=True, slots=True)
class GateConfig:
    """The thresholds of GO.

    Attributes:
        accuracy_margin_pp: Percentage points of accuracy above the symbols' baselines.
        log_loss_skill_percent: Log loss gained over the base rate, in percent; judged instead of the accuracy where
            the base rate is outside the next two.
        base_rate_low: Least base rate at which accuracy is judged.
        base_rate_high: Greatest base rate at which accuracy is judged.
        ece_max: Greatest calibration error.
        ece_excess_max: Greatest calibration error above what chance alone explains.
        latency_p95_ms: Greatest 95th percentile from candles to probability.
        champion_tolerance: Nats of log loss by which a version may be worse than the champion.
        champion_margin: Nats; the lower end of its gain must be above minus this.
        champion_min_days: Fewest UTC days on which the two are compared.
    """

    accuracy_margin_pp: Annotated[float, Limits(0, 50)]
    log_loss_skill_percent: Annotated[float, Limits(0, 100)]
    base_rate_low: Annotated[float, Limits(0, 0.5)]
    base_rate_high: Annotated[float, Limits(0.5, 1)]
    ece_max: Share
    ece_excess_max: Share
    latency_p95_ms: Annotated[float, Limits(0.001, 60_000)]
    champion_tolerance: Share
    champion_margin: Share
    champion_min_days: Annotated[int, Limits(2, 3_650)]


@record
@dataclass(frozen=True, slots=True)
class GuardConfig:
    """The leakage guards.

    Attributes:
        points: Cut points per feature and symbol.
        auc_warn: AUC of a single feature above which it is suspect.
        auc_fail: AUC of a single feature above which it is a leak.
    """

    points: Count
    auc_warn: Annotated[float, Limits(0.5, 1)]
    auc_fail: Annotated[float, Limits(0.5, 1)]

    def __post_init__(self) -> None:
        if self.auc_warn > self.auc_fail:
            raise RecordError((("auc_warn",), f"must not be above auc_fail, {self.auc_fail}; is {self.auc_warn}"))


@record
@dataclass(frozen=True, slots=True)
class TrainConfig:
    """The settings of train.yml.

    Attributes:
        seed: Random seed of the search, the boosters, the bootstrap and the guards.
        val_ratio: Share of the time range that is the holdout.
        max_rows: How many of the newest candles are taken, all symbols together; 0: all.
        calibration: The method; "auto" takes the one with the least forward log loss.
        class_weight: Weight of the positive class in a fit, the negative class having 1; "balanced": the ratio of
            the class counts. Probabilities do not show it: it is taken out before any loss.
        uniqueness: Whether a row's weight in a fit is the share of its label's time that no other label covers.
        folds: The walk-forward folds.
        search: The hyperparameter search.
        booster: Parameters that all boosters share.
        bootstrap: The confidence intervals.
        bench: The measurement of latency.
        gates: The thresholds of GO.
        guards: The leakage guards.
    """

    seed: Annotated[int, Limits(0, 2**31 - 1)]
    val_ratio: Annotated[float, Limits(0.05, 0.5)]
    max_rows: Annotated[int, Limits(0, 2**40)]
    calibration: Calibration
    class_weight: ClassWeight
    uniqueness: bool
    folds: FoldConfig
    search: SearchConfig
    booster: BoosterConfig
    bootstrap: BootstrapConfig
    bench: BenchConfig
    gates: GateConfig
    guards: GuardConfig

    def to_json(self) -> dict[str, Json]:
        """Return the configuration in the layout of train.yml.

        A file that holds it, loaded by `load_config`, gives an equal configuration.
        """
        return to_json(self)


def study_sha256(config: TrainConfig, *, registry_sha256: str, warm_start: Mapping[str, float] | None) -> str:
    """Return the hash of the settings that change a trial; candles and seed are not part of it.

    Args:
        config: Covered are split, folds, boosters and search, except for the number of trials.
        registry_sha256: Hash of the feature registry, which holds the label too.
        warm_start: Hyperparameters that are tried after the defaults and before any proposal.

    Returns:
        64 hexadecimal digits. Equal for two trainings whose trials of equal number are equal.
    """
    covered: dict[str, Json] = {
        "registry": registry_sha256,
        "val_ratio": config.val_ratio,
        "max_rows": config.max_rows,
        "class_weight": config.class_weight,
        "uniqueness": config.uniqueness,
        "folds": to_json(config.folds),
        "booster": to_json(config.booster),
        "search": {k: v for k, v in to_json(config.search).items() if k != "trials"},
    }
    if warm_start is not None:
        covered["warm_start"] = dict(warm_start)
    return sha256_bytes(canonical_json(covered))
