"""The training configuration: what train.yml may say, with the range of every value.

The defaults are those of the packaged train.yml. A field has one here only if it stands for an option that is off:
such an option is left out of documents and hashes, so that those of configurations without it stay as they are.

`read_record(document, TrainConfig)` checks a whole document; `to_json` of a configuration has the layout of train.yml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from mltrain.config.search_ranges import FloatRange, IntRange
from mltrain.config.tft_config import TftConfig
from mltrain.documents.records import OMIT_DEFAULT, Key, Limits, RecordError, TimeMs, record, to_json
from mltrain.documents.strict_json import canonical_json
from mltrain.errors import InputError
from mltrain.names import did_you_mean, show
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mltrain.documents.values import Json

ClassWeight: TypeAlias = Literal["none", "balanced"] | Annotated[float, Limits(0.01, 100)]
Calibration: TypeAlias = Literal["auto", "isotonic", "sigmoid", "beta", "none"]

Count: TypeAlias = Annotated[int, Limits(1, 100_000)]
Share: TypeAlias = Annotated[float, Limits(0, 1)]

# Parameters that LightGBM reads with `boosting: dart` alone.
_DART: Final = ("drop_rate", "max_drop", "skip_drop", "uniform_drop")
# Of 424 random boosters with both, 43 broke a constraint, by every method; of 805 without path_smooth, none did
# (LightGBM 4.7).
_SMOOTH: Final = "cannot be used with monotone_constraints: LightGBM would not keep them"


@record
@dataclass(frozen=True, slots=True)
class FoldConfig:
    """The walk-forward folds: training blocks, each with the validation block that follows it.

    Attributes:
        count: Number of folds.
        start: Share of the inner part's time before the first validation block.
    """

    count: Annotated[int, Limits(2, 20)]
    start: Annotated[float, Limits(0.1, 0.9)]


@record
@dataclass(frozen=True, slots=True)
class SearchSpace:
    """The searched hyperparameters, by LightGBM's names, with the widest range that each may have.

    Those that may be None are searched only if they are given; `extra_trees` is 0 or 1.
    """

    learning_rate: Annotated[FloatRange, Limits(1e-4, 1)]
    num_leaves: Annotated[IntRange, Limits(2, 4_096)]
    min_data_in_leaf: Annotated[IntRange, Limits(1, 1_000_000)]
    feature_fraction: Annotated[FloatRange, Limits(0.01, 1)]
    bagging_fraction: Annotated[FloatRange, Limits(0.01, 1)]
    lambda_l1: Annotated[FloatRange, Limits(0, 1e6)]
    lambda_l2: Annotated[FloatRange, Limits(0, 1e6)]
    max_depth: Annotated[IntRange | None, Limits(1, 64), OMIT_DEFAULT] = None
    min_gain_to_split: Annotated[FloatRange | None, Limits(0, 1e6), OMIT_DEFAULT] = None
    extra_trees: Annotated[IntRange | None, Limits(0, 1), OMIT_DEFAULT] = None
    path_smooth: Annotated[FloatRange | None, Limits(0, 1e6), OMIT_DEFAULT] = None
    drop_rate: Annotated[FloatRange | None, Limits(0, 1), OMIT_DEFAULT] = None
    max_drop: Annotated[IntRange | None, Limits(1, 100_000), OMIT_DEFAULT] = None
    skip_drop: Annotated[FloatRange | None, Limits(0, 1), OMIT_DEFAULT] = None

    def items(self) -> Iterator[tuple[str, IntRange | FloatRange]]:
        """Yield the name and range of each searched hyperparameter, in the order in which a sampler draws them."""
        for name in self.__slots__:
            search_range: IntRange | FloatRange | None = getattr(self, name)
            if search_range is not None:
                yield name, search_range

    def defaults(self) -> dict[str, float]:
        """Return the value of each searched hyperparameter in the first trial, by name."""
        return {name: search_range.default for name, search_range in self.items()}


#: How many trials always pass a rung that does not say so.
LEAST_OF_EARLIER_FILES: Final = 4


@record
@dataclass(frozen=True, slots=True)
class Rung:
    """A point of progress at which a trial is pruned if it is worse than earlier ones.

    Attributes:
        at: Progress of the trial: rounds x learning rate x sqrt(leaves / 31).
        keep: Share of the earlier trials at this rung that counts as the best.
        most: The most trials that count as the best.
        folds: Number of folds, from the first, whose losses are compared; all of them if there are fewer.
        least: The fewest trials that count as the best. Files of an earlier release do not state it.
    """

    at: Annotated[float, Limits(0.001, 100_000)]
    keep: Annotated[float, Limits(0.05, 1)]
    most: Count
    folds: Annotated[int, Limits(1, 20)]
    least: Annotated[Count, OMIT_DEFAULT] = LEAST_OF_EARLIER_FILES


@record
@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The hyperparameter search.

    Attributes:
        trials: Number of trials.
        batch: Largest number of trials in flight; see `mltrain.training.study.max_in_flight`.
        early_stop: Boosting rounds without a better mean loss over the folds after which a trial stops.
        settle: The same for a trial whose loss is above that of a completed trial.
        max_rounds: Largest number of boosting rounds of a trial.
        rungs: Where trials are compared, the earliest first; without any, no trial is pruned.
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
    """Parameters that all boosters of a training share, by LightGBM's names.

    Attributes:
        max_bin: Histogram bins per feature.
        boosting: "gbdt", or "dart": in each round, trees are drawn, left out while the new tree is fitted, and scaled
            down with it (Rashmi and Gilad-Bachrach 2015).
        drop_rate: With "dart", the share of the trees that is left out; None: LightGBM's own value, like those below.
        max_drop: With "dart", the most trees that are left out.
        skip_drop: With "dart", the probability of a round without trees left out.
        uniform_drop: With "dart", whether each tree is as likely to be left out as any other.
        max_depth: Most splits from the root of a tree to a leaf; 0: no limit.
        min_gain_to_split: Least gain of a split.
        extra_trees: Whether each feature of a node is tried with one random threshold only.
        path_smooth: Rows by which a leaf's value is drawn to that of its parent; 0: not at all.
        monotone_constraints: For each feature named, the sign of its effect: 1: the probability never falls while the
            feature rises; -1: never rises; 0: free, like every feature that is not named.
        monotone_constraints_method: How splits obey these constraints; the later ones lose less accuracy, but are
            slower.
        interaction_constraints: Lists of features; only features of one list share a path from the root to a leaf. The
            features that no list names form one more list.
    """

    max_bin: Annotated[int, Limits(3, 255)]
    boosting: Annotated[Literal["gbdt", "dart"], OMIT_DEFAULT] = "gbdt"
    drop_rate: Annotated[float | None, Limits(0, 1), OMIT_DEFAULT] = None
    max_drop: Annotated[int | None, Limits(1, 100_000), OMIT_DEFAULT] = None
    skip_drop: Annotated[float | None, Limits(0, 1), OMIT_DEFAULT] = None
    uniform_drop: Annotated[bool, OMIT_DEFAULT] = False
    max_depth: Annotated[int, Limits(0, 64), OMIT_DEFAULT] = 0
    min_gain_to_split: Annotated[float, Limits(0, 1e6), OMIT_DEFAULT] = 0.0
    extra_trees: Annotated[bool, OMIT_DEFAULT] = False
    path_smooth: Annotated[float, Limits(0, 1e6), OMIT_DEFAULT] = 0.0
    monotone_constraints: Annotated[Mapping[str, Annotated[int, Limits(-1, 1)]], OMIT_DEFAULT] = field(
        default_factory=dict
    )
    monotone_constraints_method: Annotated[Literal["basic", "intermediate", "advanced"], OMIT_DEFAULT] = "basic"
    interaction_constraints: Annotated[tuple[tuple[str, ...], ...], OMIT_DEFAULT] = ()

    def __post_init__(self) -> None:
        if self.boosting != "dart":
            for name in _DART:
                if (value := getattr(self, name)) is not None and value is not False:
                    raise RecordError(((name,), "has no effect without boosting: dart"))
        if not self.has_monotone_constraints:
            # LightGBM 4.7 crashes at such a method without constraints.
            if self.monotone_constraints_method != "basic":
                raise RecordError((("monotone_constraints_method",), "needs monotone_constraints"))
        elif self.path_smooth:
            raise RecordError((("path_smooth",), _SMOOTH))
        for index, names in enumerate(self.interaction_constraints):
            if not names or len(set(names)) < len(names):
                raise RecordError((("interaction_constraints", index), "must be a list of different features"))

    @property
    def has_monotone_constraints(self) -> bool:
        """Whether any feature has a sign."""
        return any(self.monotone_constraints.values())

    def check_features(self, names: Sequence[str]) -> None:
        """Check that the constraints name features of a registry, whose features are `names`.

        Raises:
            InputError: They name others; the message has the nearest feature for each.
        """
        unknown = sorted({*self.monotone_constraints}.union(*self.interaction_constraints).difference(names))
        if unknown:
            guesses = [(show(name), did_you_mean(name, names)) for name in unknown]
            listed = ", ".join(f"{name} ({guess})" if guess else name for name, guess in guesses)
            raise InputError(
                f"booster: the constraints name features that the registry does not have: {listed}",
                hint="list those that it has: `mltrain features info`",
            )


@record
@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """The confidence intervals of the holdout's scores.

    Attributes:
        draws: Number of bootstrap samples, each drawn from whole UTC days.
        level: Coverage of the intervals, such as 0.9.
    """

    draws: Annotated[int, Limits(200, 100_000)]
    level: Annotated[float, Limits(0.5, 0.99)]


@record
@dataclass(frozen=True, slots=True)
class BenchConfig:
    """The measurement of latency.

    Attributes:
        samples: Number of measured calls.
    """

    samples: Annotated[int, Limits(10, 1_000_000)]


@record
@dataclass(frozen=True, slots=True)
class GateConfig:
    """The thresholds of GO, for figures on the holdout.

    Attributes:
        accuracy_margin_pp: Percentage points by which the accuracy must exceed that of the symbols' baselines.
        log_loss_skill_percent: Percent by which the log loss must be below that of always predicting the base rate;
            required instead of the accuracy if the base rate is outside base_rate_low to base_rate_high.
        base_rate_low: Least base rate at which accuracy is judged.
        base_rate_high: Greatest base rate at which accuracy is judged.
        ece_max: Greatest expected calibration error (ECE), a difference of probabilities.
        ece_excess_max: Greatest ECE above what chance alone explains.
        latency_p95_ms: Greatest 95th percentile of the time from candles to probability.
        champion_tolerance: Nats of log loss by which a version may be worse than the champion.
        champion_margin: Nats; the lower end of the confidence interval of its gain over the champion must be above
            minus this.
        champion_min_days: Fewest UTC days on which a version is compared with the champion.
        break_even_bps: Cost per side, in bps, that the lower end of the break-even cost must exceed; 0: not judged.
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
    break_even_bps: Annotated[float, Limits(0, 1_000)]


@record
@dataclass(frozen=True, slots=True)
class EconomicsConfig:
    """What trading costs; it is compared with the break-even cost, but changes no verdict.

    Attributes:
        taker_bps: Taker fees per side, in bps.
    """

    taker_bps: Annotated[float, Limits(0, 1_000)]


@record
@dataclass(frozen=True, slots=True)
class GuardConfig:
    """The thresholds of the leakage guards.

    Attributes:
        points: Number of cut points, times after which candles are hidden, per feature and symbol.
        auc_warn: AUC of a single feature above which the feature is suspect.
        auc_fail: AUC of a single feature above which the feature is a leak.
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
        val_ratio: Share of the time range that is the holdout; None: `holdout_from_ms` says where it begins.
        max_rows: Number of the newest candles that are used, all symbols together; 0: all.
        calibration: The method; "auto" uses the one with the least log loss on later rows.
        class_weight: Weight of the positive class in a fit, the negative class having 1; "balanced": the ratio of
            the class counts. Probabilities are corrected for it before any loss is computed.
        uniqueness: Whether a row's weight in a fit is the share of its label's time that no other label covers.
        folds: The walk-forward folds.
        search: The hyperparameter search.
        booster: Parameters that all boosters share.
        bootstrap: The confidence intervals of the holdout's scores.
        bench: The measurement of latency.
        gates: The thresholds of GO.
        guards: The thresholds of the leakage guards.
        economics: What trading costs.
        recency_half_life_days: Days after which a row weighs half as much in a fit, counted back from the newest row of
            that fit; 0: all rows weigh the same.
        holdout_from_ms: Open time from which rows are the holdout, ms UTC; None: `val_ratio` says how long it is.
        valid_days: Days after the snapshot's newest candle until which the model may be served; None: no limit.
        model: What is trained: "lgbm", boosted trees, or "tft", a Temporal Fusion Transformer.
        tft: The settings of the latter.
    """

    seed: Annotated[int, Limits(0, 2**31 - 1)]
    val_ratio: Annotated[float | None, Limits(0.05, 0.5)]
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
    economics: EconomicsConfig
    tft: TftConfig
    recency_half_life_days: Annotated[float, Limits(0, 100_000), OMIT_DEFAULT] = 0.0
    holdout_from_ms: Annotated[TimeMs | None, Key("holdout_from"), OMIT_DEFAULT] = None
    valid_days: Annotated[float | None, Limits(0.01, 3_650), OMIT_DEFAULT] = None
    model: Annotated[Literal["lgbm", "tft"], OMIT_DEFAULT] = "lgbm"

    def __post_init__(self) -> None:
        if self.val_ratio is None and self.holdout_from_ms is None:
            raise RecordError((("val_ratio",), "must be a finite number, is null, and there is no holdout_from"))
        if self.val_ratio is not None and self.holdout_from_ms is not None:
            raise RecordError((("holdout_from",), "is given with val_ratio: give one of the two"))
        booster = self.booster
        for name in self.search.space.defaults():
            place = ("search", "space", name)
            fixed = getattr(booster, name, None)
            # 0 is "off" for all others.
            if fixed or (name in _DART and fixed is not None):
                raise RecordError((place, f"is fixed as well, by booster.{name}: give one of the two"))
            if name in _DART and booster.boosting != "dart":
                raise RecordError((place, "has no effect without booster.boosting: dart"))
            if name == "path_smooth" and booster.has_monotone_constraints:
                raise RecordError((place, _SMOOTH))

    def to_json(self) -> dict[str, Json]:
        """Return the configuration in the layout of train.yml, without the settings of a model that is not trained.

        `load_config` of such a file gives an equal one if those are the packaged ones.
        """
        document = to_json(self)
        if self.model != "tft":
            # The hashes of earlier versions have no such key.
            del document["tft"]
        return document


def study_sha256(config: TrainConfig, *, registry_sha256: str, warm_start: Mapping[str, float] | None) -> str:
    """Return the SHA-256, in hexadecimal, of all settings that change the results of a study's trials.

    It covers split, folds, boosters and search, but not the number of trials, the candles or the seed.

    Args:
        config: The training configuration.
        registry_sha256: SHA-256 of the feature registry, which includes the label.
        warm_start: Hyperparameters that are tried after the defaults and before any proposal; None: none.
    """
    covered: dict[str, Json] = {
        "registry": registry_sha256,
        "val_ratio": config.val_ratio,
        "max_rows": config.max_rows,
        "class_weight": config.class_weight,
        "uniqueness": config.uniqueness,
        "folds": to_json(config.folds),
        **(_cover_booster(config) if config.model == "lgbm" else _cover_tft(config)),
    }
    # Left out where it is off: the hashes of earlier versions have no such key.
    if config.recency_half_life_days:
        covered["recency_half_life_days"] = config.recency_half_life_days
    if config.holdout_from_ms is not None:
        covered["holdout_from"] = format_ms(config.holdout_from_ms)
    if warm_start is not None:
        covered["warm_start"] = dict(warm_start)
    return sha256_bytes(canonical_json(covered))


def _cover_booster(config: TrainConfig) -> dict[str, Json]:
    """Return the settings of boosted trees that change the results of trials."""
    search = {key: value for key, value in to_json(config.search).items() if key != "trials"}
    return {"booster": to_json(config.booster), "search": search}


def _cover_tft(config: TrainConfig) -> dict[str, Json]:
    """Return the settings of a network that change the results of trials."""
    search = {key: value for key, value in to_json(config.tft.search).items() if key != "trials"}
    return {"model": config.model, "tft": {**to_json(config.tft), "search": search}}
