"""`config show` and `config init`: the settings of a training, and files to start from."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias, get_args

from mltrain.api.workspace import DATA_DIR, check_path, read_time
from mltrain.documents.results import Result
from mltrain.errors import UsageError
from mltrain.names import check_choice
from mltrain.store import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.api.workspace import PathText, Time
    from mltrain.config.loading import Setting
    from mltrain.documents.values import Json

Calibration: TypeAlias = Literal["auto", "isotonic", "sigmoid", "beta", "none"]
ClassWeight: TypeAlias = Literal["none", "balanced"] | float
ModelName: TypeAlias = Literal["lgbm", "tft"]
ConfigName: TypeAlias = Literal["train", "halt", "operate"]

#: The option that overrides each of these keys of train.yml.
OPTIONS: Final = {
    "search.trials": "--trials",
    "search.early_stop": "--early-stop",
    "calibration": "--calibration",
    "class_weight": "--class-weight",
    "val_ratio": "--val-ratio",
    "holdout_from": "--holdout-from",
    "seed": "--seed",
    "max_rows": "--max-rows",
    "valid_days": "--valid-days",
    "model": "--model",
    "tft.search.trials": "--trials",
}


@dataclass(frozen=True, slots=True)
class ConfigShowResult(Result):
    """The result of `config show`.

    Attributes:
        settings: Every setting with its value and its origin.
    """

    SCHEMA: ClassVar[str] = "config-show/1"

    settings: list[Setting]


@dataclass(frozen=True, slots=True)
class ConfigInitResult(Result):
    """The result of `config init`.

    Attributes:
        file: Path of the file that was written.
        of: What it configures.
    """

    SCHEMA: ClassVar[str] = "config-init/1"

    file: Path
    of: ConfigName


def read_setting_time(holdout_from: Time | None) -> str | None:
    """Return the argument `holdout_from` as train.yml has it; None: not given."""
    from mltrain.times import format_ms

    return None if holdout_from is None else format_ms(read_time(holdout_from, "holdout_from"))


def trials_key(config: Path | Mapping[str, Any] | None, model: ModelName | None) -> str:
    """Return the key of train.yml that `trials` overrides: that of the model which is trained.

    Raises:
        InputError: The configuration, by which it is known, is wrong.
    """
    from mltrain.config.loading import load_config

    trained = load_config(config, overrides={}).model if model is None else model
    return "tft.search.trials" if trained == "tft" else "search.trials"


def config_show(
    config: PathText | None = None,
    *,
    model: ModelName | None = None,
    trials: int | None = None,
    early_stop: int | None = None,
    calibration: Calibration | None = None,
    class_weight: ClassWeight | None = None,
    val_ratio: float | None = None,
    holdout_from: Time | None = None,
    seed: int | None = None,
    max_rows: int | None = None,
    valid_days: float | None = None,
    data_dir: PathText = DATA_DIR,
) -> ConfigShowResult:
    """Return every setting that `train` would use with the same arguments, and where it comes from.

    Args:
        config: Your train.yml; its keys override those of the packaged one.
        model: What is trained: boosted trees, or a Temporal Fusion Transformer.
        trials: Hyperparameter sets to try.
        early_stop: Rounds without improvement before a fit stops.
        calibration: How scores become probabilities.
        class_weight: Weight of the positive class in a fit.
        val_ratio: Share of the time range held out.
        holdout_from: Hold out all candles that open at this time, UTC, or later, instead of a share.
        seed: Random seed.
        max_rows: Use only the newest candles; 0: all.
        valid_days: Days after the newest candle for which the model may be served.
        data_dir: The data folder.

    Returns:
        The settings of train.yml, then those of the command line, which have no effect on calls from Python:
        `log_format`, `base_url` and `archive_url`.

    Raises:
        InputError: The file is unreadable, or a setting in it is wrong; the message names every violation.
        UsageError: An argument is out of its range.
    """
    from mltrain.config.loading import Setting, explain_config

    path = None if config is None else check_path(config, "config")
    given: dict[str, Json] = {
        "model": model,
        trials_key(path, model): trials,
        "search.early_stop": early_stop,
        "calibration": calibration,
        "class_weight": class_weight,
        "val_ratio": val_ratio,
        "holdout_from": read_setting_time(holdout_from),
        "seed": seed,
        "max_rows": max_rows,
        "valid_days": valid_days,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    settings = [
        replace(s, where=OPTIONS[s.key]) if s.origin == "option" else s
        for s in explain_config(path, overrides=overrides)
    ]
    if str(data_dir) == DATA_DIR:
        settings.append(Setting("data_dir", DATA_DIR, "default", None))
    else:
        settings.append(Setting("data_dir", str(data_dir), "option", "--data-dir"))
    for key, value in (("log_format", "text"), ("base_url", None), ("archive_url", None)):
        settings.append(Setting(key, value, "default", None))
    named = os.environ.get(REQUIRE_VARIABLE) or None
    origin: Literal["environment", "default"] = "environment" if named else "default"
    settings.append(Setting("require_signature", named, origin, REQUIRE_VARIABLE if named else None))
    return ConfigShowResult(settings)


def config_init(file: PathText = "train.yml", *, of: ConfigName | None = None) -> ConfigInitResult:
    """Write a configuration with every setting commented out, ready to be changed.

    Args:
        file: The file to write.
        of: What it configures: a training, the triggers of the kill switch ("halt"), or the limits of the status
            ("operate"); None: what the name of the file says, and a training if it says nothing.

    Raises:
        UsageError: The file exists, or `of` is none of these.
        MachineError: The file cannot be written.
    """
    from mltrain.config.loading import comment_config
    from mltrain.storage.writing import atomic_write

    path = check_path(file, "file")
    kinds: tuple[ConfigName, ...] = get_args(ConfigName)
    kind = next((each for each in kinds if path.name == f"{each}.yml"), kinds[0]) if of is None else of
    check_choice(kind, "of", kinds)
    if path.exists() or path.is_symlink():
        shown = f"to see its settings: mltrain config show --config {path}"
        raise UsageError(f"{path} already exists", hint=shown if kind == "train" else "name another file, or remove it")
    atomic_write(path.absolute(), comment_config(f"{kind}.yml").encode())
    return ConfigInitResult(path, kind)
