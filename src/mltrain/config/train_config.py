"""What a training is configured by: frozen values, without defaults of their own."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from mltrain.documents.values import Json

ClassWeight: TypeAlias = Literal["none", "balanced"] | float
Calibration: TypeAlias = Literal["auto", "isotonic", "sigmoid", "beta", "none"]
CALIBRATIONS: Final[tuple[Calibration, ...]] = ("auto", "isotonic", "sigmoid", "beta", "none")


@dataclass(frozen=True, slots=True)
class FoldConfig:
    """The walk-forward folds.

    Attributes:
        count: How many.
        start: Share of the inner part's time before the first validation block.
    """

    count: int
    start: float


@dataclass(frozen=True, slots=True)
class Range:
    """The range of one searched parameter, both ends included.

    Attributes:
        name: LightGBM's name of it.
        integer: Whether it takes whole numbers only.
        low: Least value.
        high: Greatest value; equal to `low` where the parameter is pinned.
        log: Whether it is searched on a logarithmic scale.
        default: LightGBM's own value, the first to be tried; in the range.
    """

    name: str
    integer: bool
    low: float
    high: float
    log: bool
    default: float


@dataclass(frozen=True, slots=True)
class Rung:
    """A point where a trial ends if it is worse than others were.

    Attributes:
        at: How far the trial has come, in rounds x learning rate x the root of its leaves over 31.
        keep: Share of the earlier trials at this rung that counts as the best; the best four always pass.
        most: Upper limit of that share, in trials; the best four always pass.
        folds: How many folds, from the first, it is judged by there; all of them where there are fewer.
    """

    at: float
    keep: float
    most: int
    folds: int


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The search for parameters.

    Attributes:
        trials: How many parameter sets are tried.
        batch: How many are on their way at once, at most: see `mltrain.training.study.on_their_way`.
        early_stop: Rounds without a better mean loss after which a trial ends.
        settle: The same where its loss is above that of a trial told before.
        max_rounds: Boosting rounds at most.
        rungs: Where trials are compared, the earliest first.
        space: What is searched, in this order.
    """

    trials: int
    batch: int
    early_stop: int
    settle: int
    max_rounds: int
    rungs: tuple[Rung, ...]
    space: tuple[Range, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it in the layout of train.yml."""
        space: dict[str, Json] = {
            r.name: {"low": r.low, "high": r.high, "scale": "log" if r.log else "linear", "default": r.default}
            for r in self.space
        }
        return {**asdict(self), "rungs": [asdict(rung) for rung in self.rungs], "space": space}


@dataclass(frozen=True, slots=True)
class BoosterConfig:
    """What every booster of a training shares.

    Attributes:
        max_bin: Histogram bins per feature.
    """

    max_bin: int


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """The intervals of the holdout's scores.

    Attributes:
        draws: How many draws of whole days.
        level: Coverage, such as 0.9.
    """

    draws: int
    level: float


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """The measurement of latency.

    Attributes:
        samples: Measured calls.
    """

    samples: int


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What a version must reach to be GO.

    Attributes:
        accuracy_margin_pp: Percentage points of accuracy above the symbols' baselines.
        log_loss_skill_percent: Log loss gained over the base rate, in percent; judged instead of the accuracy where
            the base rate is outside the next two.
        base_rate_low: Least base rate at which accuracy is judged.
        base_rate_high: Greatest base rate at which accuracy is judged.
        ece_max: Greatest calibration error.
        ece_excess_max: Greatest calibration error above what chance alone explains.
        latency_p95_ms: Greatest 95th percentile from candles to probability.
        champion_tolerance: Nats of log loss by which it may be worse than the champion.
        champion_margin: Nats; the lower end of its gain must be above minus this.
        champion_min_days: UTC days below which the two are not compared.
    """

    accuracy_margin_pp: float
    log_loss_skill_percent: float
    base_rate_low: float
    base_rate_high: float
    ece_max: float
    ece_excess_max: float
    latency_p95_ms: float
    champion_tolerance: float
    champion_margin: float
    champion_min_days: int


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """The guards against leaks.

    Attributes:
        points: Cuts per feature and symbol.
        auc_warn: AUC of a single feature above which it is suspect.
        auc_fail: AUC of a single feature above which it is a leak.
    """

    points: int
    auc_warn: float
    auc_fail: float


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Everything that configs/train.yml says.

    Attributes:
        seed: Of everything random.
        val_ratio: Share of the time range that is the holdout.
        max_rows: Of how many candles, all symbols together, the newest are taken; 0: all.
        calibration: One of CALIBRATIONS.
        class_weight: What a row that went up counts in a fit, where one that went down counts 1; "balanced": as many
            times as makes both classes count alike. No probability shows it: it is taken out before any loss.
        uniqueness: Whether a row counts in a fit by how much of its label's time it shares with no other label.
        folds: The walk-forward folds.
        search: The search for parameters.
        booster: What every booster shares.
        bootstrap: The intervals.
        bench: The measurement of latency.
        gates: What GO needs.
        guards: The guards against leaks.
    """

    seed: int
    val_ratio: float
    max_rows: int
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
        value: dict[str, Json] = asdict(self)
        value["search"] = self.search.to_json()
        return value
