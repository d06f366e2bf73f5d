"""Options that override train.yml, and the commands config show and config init."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from mltrain.api.config import OPTIONS
from mltrain.cli.command import Session, command
from mltrain.cli.console import LOG_OPTION, LOG_VARIABLE
from mltrain.cli.help import Command, add_command, data_option, model_option, new_group, output_option, search_option
from mltrain.cli.render import Outcome
from mltrain.cli.sources import ARCHIVE_URL_VARIABLE, BASE_URL_VARIABLE
from mltrain.cli.tables import folding, table
from mltrain.store import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.api import config as api
    from mltrain.cli.render import View
    from mltrain.config.loading import Setting


class Calibration(StrEnum):
    """How scores become probabilities."""

    AUTO = "auto"
    ISOTONIC = "isotonic"
    SIGMOID = "sigmoid"
    BETA = "beta"
    NONE = "none"


class ConfigName(StrEnum):
    """What a configuration is of."""

    TRAIN = "train"
    HALT = "halt"
    OPERATE = "operate"


class ModelName(StrEnum):
    """What is trained."""

    LGBM = "lgbm"
    TFT = "tft"


ModelOption = Annotated[
    ModelName | None,
    model_option("--model", help="lgbm: boosted trees; tft: a Temporal Fusion Transformer, which needs the extra tft."),
]
Trials = Annotated[int | None, search_option("--trials", min=1, help="Hyperparameter sets to try.")]
EarlyStop = Annotated[
    int | None, search_option("--early-stop", min=1, help="Rounds without improvement before a fit stops.")
]
CalibrationOption = Annotated[
    Calibration | None,
    model_option(
        "--calibration", help="How scores become probabilities; auto takes the method of least out-of-fold log loss."
    ),
]
ClassWeight = Annotated[
    str | None,
    model_option(
        "--class-weight",
        metavar="none|balanced|NUMBER",
        help="Weight of the positive class in a fit; probabilities are corrected for it.",
    ),
]
ValRatio = Annotated[float | None, data_option("--val-ratio", help="Share of the time range held out.")]
HoldoutFrom = Annotated[
    str | None,
    data_option("--holdout-from", metavar="TIME", help="Hold out all candles from this open time, UTC, on."),
]
Seed = Annotated[int | None, search_option("--seed", min=0, help="Random seed.")]
MaxRows = Annotated[int | None, data_option("--max-rows", min=0, help="Use only the newest candles; 0: all.")]
ValidDays = Annotated[
    float | None,
    output_option(
        "--valid-days",
        metavar="DAYS",
        help="Days after the newest candle for which the version may be served; later, serving warns.",
    ),
]
Config = Annotated[
    Path | None,
    model_option("--config", metavar="FILE", help="Your train.yml; its keys override those of the packaged one."),
]

#: The command that reads a configuration.
_USES: Final = {"train": "mltrain train", "halt": "mltrain sentinel", "operate": "mltrain status"}
# The keys of one searched range.
_RANGE: Final = re.compile(r"(search\.space\.\w+)\.\w+")
#: Settings that only the environment can make for all commands.
_VARIABLES: Final = {
    "base_url": BASE_URL_VARIABLE,
    "archive_url": ARCHIVE_URL_VARIABLE,
    "require_signature": REQUIRE_VARIABLE,
}


class SettingsCommand(Command):
    """A command with options of train.yml; its help shows the defaults of the packaged file."""

    def defaults(self) -> dict[str, str]:
        """Read the packaged default of each option; called only for the help, because it takes time."""
        from mltrain.config.loading import explain_config

        settings = explain_config(None, overrides={})
        shown = [s for s in settings if s.key in OPTIONS and not s.key.startswith("tft.") and s.value is not None]
        return {OPTIONS[s.key]: _value_text(s.value) for s in shown}


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    config = new_group("Show the settings and their origins, or write a file to start from.")
    add_command(config, "show", config_show, example="mltrain config show --trials 50", cls=SettingsCommand)
    add_command(config, "init", config_init, example="mltrain config init train.yml")
    app.add_typer(config, name="config")


def read_class_weight(text: str | None) -> api.ClassWeight | None:
    """Return the value of --class-weight; a text that is no number is checked together with the other settings."""
    if text is not None:
        with suppress(ValueError):
            return float(text)
    return cast("api.ClassWeight | None", text)


@command()
def config_show(
    session: Session,
    ctx: typer.Context,
    config: Config = None,
    model: ModelOption = None,
    trials: Trials = None,
    early_stop: EarlyStop = None,
    calibration: CalibrationOption = None,
    class_weight: ClassWeight = None,
    val_ratio: ValRatio = None,
    holdout_from: HoldoutFrom = None,
    seed: Seed = None,
    max_rows: MaxRows = None,
    valid_days: ValidDays = None,
) -> Outcome:
    """Show every setting that `train` would use with the same options, and where it comes from."""
    from mltrain.api.config import config_show

    result = config_show(
        config,
        model=None if model is None else model.value,
        trials=trials,
        early_stop=early_stop,
        calibration=None if calibration is None else calibration.value,
        class_weight=read_class_weight(class_weight),
        val_ratio=val_ratio,
        holdout_from=holdout_from,
        seed=seed,
        max_rows=max_rows,
        valid_days=valid_days,
        data_dir=session.data_dir,
    )
    outside = {setting.key: setting for setting in _settings_outside_files(session, ctx)}
    settings = [outside.get(setting.key, setting) for setting in result.settings]

    def view() -> View:
        yield table(None, "setting", *folding("value", "from"), rows=_setting_rows(settings))
        changed = sum(s.origin != "default" for s in settings)
        yield (
            f"{changed} of {len(settings)} settings are not the default" if changed else "all settings are the defaults"
        )

    return Outcome(replace(result, settings=settings), view)


def _setting_rows(settings: list[Setting]) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and origin of each setting; one row for a searched range if all its keys have one origin."""
    for key, group in groupby(settings, lambda s: _RANGE.sub(r"\1", s.key)):
        parts = list(group)
        if len(parts) > 1 and len({part.origin for part in parts}) == 1:
            low, high, scale, default = (_value_text(part.value) for part in parts)
            yield key, f"{low} to {high}, {scale}, default {default}", _origin_text(parts[0])
        else:
            yield from ((part.key, _value_text(part.value), _origin_text(part)) for part in parts)


def _origin_text(setting: Setting) -> str:
    return setting.origin if setting.where is None else f"{setting.origin}: {setting.where}"


def _settings_outside_files(session: Session, ctx: typer.Context) -> list[Setting]:
    """Return the settings of the common options and of the environment."""
    from mltrain.config.loading import Setting

    settings = []
    for key, option, variable, value in (
        ("data_dir", "--data-dir", "MLTRAIN_DATA_DIR", str(session.data_dir)),
        ("log_format", LOG_OPTION, LOG_VARIABLE, str(ctx.params["log_format"])),
    ):
        source = str(ctx.get_parameter_source(key))
        if source.endswith("COMMANDLINE"):
            settings.append(Setting(key, value, origin="option", where=option))
        elif source.endswith("ENVIRONMENT"):
            settings.append(Setting(key, value, origin="environment", where=variable))
        else:
            settings.append(Setting(key, value, origin="default", where=None))
    for key, variable in _VARIABLES.items():
        text = os.environ.get(variable) or None
        settings.append(Setting(key, text, "environment" if text else "default", where=variable if text else None))
    return settings


def _value_text(value: Any) -> str:  # noqa: ANN401 (JSON)
    """Return the value of a setting, which is any JSON value, as one line of text."""
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "; ".join(", ".join(map(_value_text, v)) if isinstance(v, list) else _value_text(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value_text(v)}" for key, v in value.items())
    return str(value)


@command()
def config_init(
    session: Session,  # noqa: ARG001 (the file may be anywhere)
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("train.yml"),
    of: Annotated[
        ConfigName | None,
        output_option(
            "--of",
            help="What it configures: train; halt, the triggers of the kill switch; operate, the limits of the status. "
            "Default: what the name of FILE says, else train.",
        ),
    ] = None,
) -> Outcome:
    """Write a configuration with every setting commented out, ready to be changed."""
    from mltrain.api.config import config_init

    written = config_init(file, of=None if of is None else of.value)
    text = f"{file}: remove the # from the lines you change, then: {_USES[written.of]} --config {file}"
    return Outcome(written, lambda: [text])
