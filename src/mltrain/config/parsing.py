"""From a document to the configuration: every value is checked, and all violations are told in one message."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from mltrain.config.train_config import (
    CALIBRATIONS,
    BenchConfig,
    BoosterConfig,
    BootstrapConfig,
    FoldConfig,
    GateConfig,
    GuardConfig,
    Range,
    Rung,
    SearchConfig,
    TrainConfig,
)
from mltrain.documents.fields import Fields
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mltrain.config.train_config import Calibration, ClassWeight
    from mltrain.documents.values import Located

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


def read_config(located: Located) -> TrainConfig:
    """Return the configuration that a document holds.

    Raises:
        InputError: A key is unknown, a value is missing or out of its range; the message names every violation.
    """
    fields = Fields(located)
    config = TrainConfig(
        seed=fields.integer("seed", minimum=0, maximum=2**31 - 1),
        val_ratio=fields.number("val_ratio", minimum=0.05, maximum=0.5),
        max_rows=fields.integer("max_rows", minimum=0, maximum=2**40),
        calibration=_read_calibration(fields),
        class_weight=_read_class_weight(fields),
        uniqueness=fields.flag("uniqueness"),
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


def _read_class_weight(fields: Fields) -> ClassWeight:
    named = fields.raw("class_weight")
    if not isinstance(named, str):
        return fields.number("class_weight", minimum=0.01, maximum=100)
    if named not in ("none", "balanced"):
        fields.problem("class_weight", f"{show(named)} is unknown; known: none, balanced, a number from 0.01 to 100")
    return "balanced" if named == "balanced" else "none"


def _read_folds(fields: Fields) -> FoldConfig:
    return FoldConfig(
        count=fields.integer("count", minimum=2, maximum=20),
        start=fields.number("start", minimum=0.1, maximum=0.9),
    )


def _read_search(fields: Fields) -> SearchConfig:
    rungs = tuple(_read_rung(rung) for rung in fields.items("rungs"))
    if any((b.at, b.folds) <= (a.at, a.folds) for a, b in pairwise(rungs)):
        fields.problem("rungs", "must rise, in `at` or with more folds at the same")
    space = fields.fields("space")
    return SearchConfig(
        trials=fields.integer("trials", minimum=1, maximum=100_000),
        batch=fields.integer("batch", minimum=1, maximum=256),
        early_stop=fields.integer("early_stop", minimum=1, maximum=100_000),
        settle=fields.integer("settle", minimum=1, maximum=100_000),
        max_rounds=fields.integer("max_rounds", minimum=1, maximum=100_000),
        rungs=rungs,
        space=tuple(_read_range(name, space.fields(name)) for name in _TUNABLE),
    )


def _read_rung(fields: Fields) -> Rung:
    return Rung(
        at=fields.number("at", minimum=0.001, maximum=100_000),
        keep=fields.number("keep", minimum=0.05, maximum=1),
        most=fields.integer("most", minimum=1, maximum=100_000),
        folds=fields.integer("folds", minimum=1, maximum=20),
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
    # No longer used, but still in users' files and in the cards of stored versions.
    fields.number("champion_gain_share", minimum=0, maximum=1, default=None)
    return GateConfig(
        accuracy_margin_pp=fields.number("accuracy_margin_pp", minimum=0, maximum=50),
        log_loss_skill_percent=fields.number("log_loss_skill_percent", minimum=0, maximum=100),
        base_rate_low=fields.number("base_rate_low", minimum=0, maximum=0.5),
        base_rate_high=fields.number("base_rate_high", minimum=0.5, maximum=1),
        ece_max=fields.number("ece_max", minimum=0, maximum=1),
        ece_excess_max=fields.number("ece_excess_max", minimum=0, maximum=1),
        latency_p95_ms=fields.number("latency_p95_ms", minimum=0.001, maximum=60_000),
        champion_tolerance=fields.number("champion_tolerance", minimum=0, maximum=1),
        champion_margin=fields.number("champion_margin", minimum=0, maximum=1),
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
