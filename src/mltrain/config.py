"""The training configuration: frozen values, without defaults of their own.

The defaults live in configs/train.yml alone; a user's file overrides it key by key, and options override both. What
comes out has been checked whole: every violation of a file is told in one message.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from mltrain.documents import Fields, Located, canonical_json, parse_yaml
from mltrain.errors import InputError, UsageError
from mltrain.files import read_file, sha256_bytes
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mltrain.documents import Json

MAX_FILE_BYTES: Final = 1 << 20
Calibration: TypeAlias = Literal["auto", "isotonic", "sigmoid", "beta", "none"]
CALIBRATIONS: Final[tuple[Calibration, ...]] = ("auto", "isotonic", "sigmoid", "beta", "none")

#: What may be searched, and the limits that LightGBM and reason set; those with whole limits count.
_TUNABLE: Final[Mapping[str, tuple[float, float]]] = {
    "learning_rate": (1e-4, 1.0),
    "num_leaves": (2, 4_096),
    "min_data_in_leaf": (1, 1_000_000),
    "feature_fraction": (0.01, 1.0),
    "bagging_fraction": (0.01, 1.0),
    "lambda_l1": (0.0, 1e6),
    "lambda_l2": (0.0, 1e6),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting.

    Attributes:
        key: Its dotted key, such as "search.trials".
        value: What holds.
        origin: Who said so last: "default", "file", "environment" or "option".
        where: The file and line, the variable or the option; None for what the package itself says.
    """

    key: str
    value: Json
    origin: Literal["default", "file", "environment", "option"]
    where: str | None


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
        at: How far the trial has come, in rounds x learning rate.
        keep: Share of the trials told before, at this rung, that it must be among.
    """

    at: float
    keep: float


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """The search for parameters.

    Attributes:
        trials: How many parameter sets are tried.
        batch: How many are asked before any of them is told.
        early_stop: Rounds without a better mean loss after which a trial ends.
        max_rounds: Boosting rounds at most.
        rungs: Where trials are compared, the earliest first.
        space: What is searched, in this order.
    """

    trials: int
    batch: int
    early_stop: int
    max_rounds: int
    rungs: tuple[Rung, ...]
    space: tuple[Range, ...]


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
        accuracy_margin_pp: Percentage points of accuracy above the better baseline.
        log_loss_skill_percent: Log loss gained over the base rate, in percent; judged instead of the accuracy where
            the base rate is outside the next two.
        base_rate_low: Least base rate at which accuracy is judged.
        base_rate_high: Greatest base rate at which accuracy is judged.
        ece_max: Greatest calibration error.
        latency_p95_ms: Greatest 95th percentile from candles to probability.
        champion_margin: Nats of log loss by which it may be worse than the champion.
        champion_gain_share: Share of the champion's gain over the base rate by which it may be worse, if more.
        champion_min_days: UTC days below which the two are not compared.
    """

    accuracy_margin_pp: float
    log_loss_skill_percent: float
    base_rate_low: float
    base_rate_high: float
    ece_max: float
    latency_p95_ms: float
    champion_margin: float
    champion_gain_share: float
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
        value["search"] = _search_to_json(self.search)
        return value


def packaged_config(name: str) -> Path:
    """Return the path of a configuration that travels with the package.

    Args:
        name: A bare file name such as "train.yml".

    Raises:
        InputError: There is no such file.
    """
    here = Path(__file__).parent
    # A wheel carries the folder inside the package; a checkout has it at the top, where people look for it.
    folder = next((f for f in (here / "configs", here.parents[1] / "configs") if f.is_dir()), here / "configs")
    known = sorted(p.name for p in folder.glob("*.yml"))
    if name not in known:
        raise InputError(f"there is no packaged configuration {show(name)}", hint=did_you_mean(name, known))
    return folder / name


def load_config(path: Path | None, *, overrides: Mapping[str, Json]) -> TrainConfig:
    """Load the configuration: the packaged defaults, a user's file over them, options over both.

    Args:
        path: The user's file; None: the defaults alone.
        overrides: Values by dotted key, such as {"search.trials": 50}; a mapping is overridden key by key too.

    Raises:
        InputError: A file is unreadable, has an unknown key, a missing value or one out of its range; the message
            names every violation with its line.
        UsageError: An override is wrong in such a way.
    """
    located = _read_yaml(packaged_config("train.yml"))
    if path is not None:
        own = _read_own(path)
        located = Located(_merged(located.value, own.value), own.where, own.lines)
    config = _read(located)
    if not overrides:
        return config
    value = located.value
    for key, override in overrides.items():
        value = _merged(value, _nested(key, override))
    try:
        return _read(Located(value, "options"))
    except InputError as err:
        raise UsageError(err.message, hint=err.hint) from err


def explain_config(path: Path | None, *, overrides: Mapping[str, Json]) -> tuple[Setting, ...]:
    """Return every setting that `load_config` would give, each with who said so last.

    Args:
        path: The user's file; None: the defaults alone.
        overrides: Values by dotted key, as options give them.

    Returns:
        In the order of train.yml; the keys are those of single values.

    Raises:
        InputError: As `load_config`.
        UsageError: As `load_config`.
    """
    config = load_config(path, overrides=overrides)
    own = None if path is None else _read_own(path)
    return tuple(_told(key, value, own, overrides, str(path)) for key, value in _flat(config.to_json()))


def comment_config() -> str:
    """Return the packaged train.yml with every setting commented out: a file to begin one's own from."""
    text = packaged_config("train.yml").read_text("utf-8")
    return "".join(
        line if line.startswith("#") or not line.strip() else f"# {line}" for line in text.splitlines(keepends=True)
    )


def _told(key: str, value: Json, own: Located | None, overrides: Mapping[str, Json], path: str) -> Setting:
    if key in overrides:
        return Setting(key, value, "option", None)
    place = tuple(key.split("."))
    if own is not None and place in own.lines:
        return Setting(key, value, "file", f"{path}, line {own.lines[place]}")
    return Setting(key, value, "default", None)


def _flat(value: Mapping[str, Json], prefix: str = "") -> Iterator[tuple[str, Json]]:
    for key, part in value.items():
        if isinstance(part, dict):
            yield from _flat(part, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", part


def study_sha256(config: TrainConfig, *, registry_sha256: str, warm_start: Mapping[str, float] | None) -> str:
    """Return the hash of all that changes a trial, but for the candles and the seed.

    Args:
        config: Of it: the split, the folds, the boosters and the search, though not how many trials.
        registry_sha256: Hash of the feature registry, which holds the label too.
        warm_start: Parameters that are tried before any is proposed, after the defaults.

    Returns:
        64 hexadecimal digits. Equal for two trainings whose trials of equal number are equal.
    """
    covered: dict[str, Json] = {
        "registry": registry_sha256,
        "val_ratio": config.val_ratio,
        "max_rows": config.max_rows,
        "folds": asdict(config.folds),
        "booster": asdict(config.booster),
        "search": {k: v for k, v in _search_to_json(config.search).items() if k != "trials"},
    }
    if warm_start is not None:
        covered["warm_start"] = dict(warm_start)
    return sha256_bytes(canonical_json(covered))


def _search_to_json(search: SearchConfig) -> dict[str, Json]:
    space: dict[str, Json] = {
        r.name: {"low": r.low, "high": r.high, "scale": "log" if r.log else "linear", "default": r.default}
        for r in search.space
    }
    return {**asdict(search), "rungs": [asdict(rung) for rung in search.rungs], "space": space}


def _read_yaml(path: Path) -> Located:
    return parse_yaml(read_file(path.resolve(), max_bytes=MAX_FILE_BYTES, what="configuration"), where=str(path))


def _read_own(path: Path) -> Located:
    """Return a user's file; one of comments alone says nothing, an empty one is no configuration."""
    data = read_file(path.resolve(), max_bytes=MAX_FILE_BYTES, what="configuration")
    own = parse_yaml(data, where=str(path))
    commented = data.strip() and all(line.lstrip().startswith(b"#") for line in data.splitlines() if line.strip())
    return replace(own, value={}) if commented else own


def _merged(base: Json, over: Json) -> Json:
    """Return `base` with the values of `over`, mapping by mapping."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{key: _merged(base[key], value) if key in base else value for key, value in over.items()}}


def _nested(dotted: str, value: Json) -> Json:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def _read(located: Located) -> TrainConfig:
    fields = Fields(located)
    config = TrainConfig(
        seed=fields.integer("seed", minimum=0, maximum=2**31 - 1),
        val_ratio=fields.number("val_ratio", minimum=0.05, maximum=0.5),
        max_rows=fields.integer("max_rows", minimum=0, maximum=2**40),
        calibration=_read_calibration(fields),
        folds=_read_folds(fields.fields("folds")),
        search=_read_search(fields.fields("search")),
        booster=BoosterConfig(max_bin=fields.fields("booster").integer("max_bin", minimum=3, maximum=255)),
        bootstrap=_read_bootstrap(fields.fields("bootstrap")),
        bench=BenchConfig(samples=fields.fields("bench").integer("samples", minimum=10, maximum=1_000_000)),
        gates=_read_gates(fields.fields("gates")),
        guards=_read_guards(fields.fields("guards")),
    )
    fields.finish()
    return config


def _read_calibration(fields: Fields) -> Calibration:
    text = fields.text("calibration", choices=CALIBRATIONS)
    return next(name for name in CALIBRATIONS if name == text)


def _read_folds(fields: Fields) -> FoldConfig:
    return FoldConfig(
        count=fields.integer("count", minimum=2, maximum=20),
        start=fields.number("start", minimum=0.1, maximum=0.9),
    )


def _read_search(fields: Fields) -> SearchConfig:
    rungs = tuple(_read_rung(rung) for rung in fields.items("rungs"))
    if any(b.at <= a.at for a, b in pairwise(rungs)):
        fields.problem("rungs", "must rise")
    space = fields.fields("space")
    return SearchConfig(
        trials=fields.integer("trials", minimum=1, maximum=100_000),
        batch=fields.integer("batch", minimum=1, maximum=256),
        early_stop=fields.integer("early_stop", minimum=1, maximum=100_000),
        max_rounds=fields.integer("max_rounds", minimum=1, maximum=100_000),
        rungs=rungs,
        space=tuple(_read_range(name, space.fields(name)) for name in _TUNABLE),
    )


def _read_rung(fields: Fields) -> Rung:
    return Rung(
        at=fields.number("at", minimum=0.001, maximum=100_000), keep=fields.number("keep", minimum=0.05, maximum=1)
    )


def _read_range(name: str, fields: Fields) -> Range:
    low, high, default = (_read_end(fields, key, *_TUNABLE[name]) for key in ("low", "high", "default"))
    log = fields.text("scale", choices=("linear", "log")) == "log"
    if low > high:
        fields.problem("low", f"must not be above high, {high}; is {low}")
    elif not low <= default <= high:
        fields.problem("default", f"must lie from low, {low}, to high, {high}; is {default}")
    if log and low == 0:
        fields.problem("low", "must be above 0 on a logarithmic scale")
    return Range(name=name, integer=isinstance(_TUNABLE[name][0], int), low=low, high=high, log=log, default=default)


def _read_end(fields: Fields, key: str, least: float, greatest: float) -> float:
    if isinstance(least, int) and isinstance(greatest, int):
        return fields.integer(key, minimum=least, maximum=greatest)
    return fields.number(key, minimum=least, maximum=greatest)


def _read_bootstrap(fields: Fields) -> BootstrapConfig:
    return BootstrapConfig(
        draws=fields.integer("draws", minimum=200, maximum=100_000),
        level=fields.number("level", minimum=0.5, maximum=0.99),
    )


def _read_gates(fields: Fields) -> GateConfig:
    return GateConfig(
        accuracy_margin_pp=fields.number("accuracy_margin_pp", minimum=0, maximum=50),
        log_loss_skill_percent=fields.number("log_loss_skill_percent", minimum=0, maximum=100),
        base_rate_low=fields.number("base_rate_low", minimum=0, maximum=0.5),
        base_rate_high=fields.number("base_rate_high", minimum=0.5, maximum=1),
        ece_max=fields.number("ece_max", minimum=0, maximum=1),
        latency_p95_ms=fields.number("latency_p95_ms", minimum=0.001, maximum=60_000),
        champion_margin=fields.number("champion_margin", minimum=0, maximum=1),
        champion_gain_share=fields.number("champion_gain_share", minimum=0, maximum=1),
        champion_min_days=fields.integer("champion_min_days", minimum=2, maximum=3_650),
    )


def _read_guards(fields: Fields) -> GuardConfig:
    guards = GuardConfig(
        points=fields.integer("points", minimum=1, maximum=100_000),
        auc_warn=fields.number("auc_warn", minimum=0.5, maximum=1),
        auc_fail=fields.number("auc_fail", minimum=0.5, maximum=1),
    )
    if guards.auc_warn > guards.auc_fail:
        fields.problem("auc_warn", f"must not be above auc_fail, {guards.auc_fail}; is {guards.auc_warn}")
    return guards
