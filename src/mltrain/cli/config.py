"""Options that override train.yml, and the commands config show and config init."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.console import LOG_OPTION, LOG_VARIABLE
from mltrain.cli.help import DATA, MODEL, SEARCH, Command, add_command, new_group
from mltrain.cli.render import Outcome
from mltrain.cli.sources import ARCHIVE_URL_VARIABLE, BASE_URL_VARIABLE
from mltrain.cli.tables import table
from mltrain.errors import UsageError
from mltrain.store import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mltrain.config.loading import Setting
    from mltrain.documents.values import Json


class Calibration(StrEnum):
    """How scores become probabilities."""

    AUTO = "auto"
    ISOTONIC = "isotonic"
    SIGMOID = "sigmoid"
    BETA = "beta"
    NONE = "none"


Trials = Annotated[
    int | None, typer.Option("--trials", min=1, help="Hyperparameter sets to try.", rich_help_panel=SEARCH)
]
EarlyStop = Annotated[
    int | None,
    typer.Option("--early-stop", min=1, help="Rounds without improvement before a fit stops.", rich_help_panel=SEARCH),
]
CalibrationOption = Annotated[
    Calibration | None,
    typer.Option(
        "--calibration",
        help="How scores become probabilities; auto takes the method of least out-of-fold log loss.",
        rich_help_panel=MODEL,
    ),
]
ClassWeight = Annotated[
    str | None,
    typer.Option(
        "--class-weight",
        metavar="none|balanced|NUMBER",
        help="Weight of the positive class in a fit; probabilities are corrected for it.",
        rich_help_panel=MODEL,
    ),
]
ValRatio = Annotated[
    float | None, typer.Option("--val-ratio", help="Share of the time range held out.", rich_help_panel=DATA)
]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Random seed.", rich_help_panel=SEARCH)]
MaxRows = Annotated[
    int | None, typer.Option("--max-rows", min=0, help="Use only the newest candles; 0: all.", rich_help_panel=DATA)
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Your train.yml; its keys override those of the packaged one.",
        rich_help_panel=MODEL,
    ),
]

_OPTIONS: Final = {
    "search.trials": "--trials",
    "search.early_stop": "--early-stop",
    "calibration": "--calibration",
    "class_weight": "--class-weight",
    "val_ratio": "--val-ratio",
    "seed": "--seed",
    "max_rows": "--max-rows",
}
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
        """Read the defaults, which takes time: only when the help is shown."""
        from mltrain.config.loading import explain_config

        settings = explain_config(None, overrides={})
        return {_OPTIONS[s.key]: _value_text(s.value) for s in settings if s.key in _OPTIONS}


@dataclass(frozen=True, slots=True)
class ConfigShowDocument:
    """The document of `config show`.

    Attributes:
        settings: Every setting with its value and its origin.
    """

    settings: list[Setting]


@dataclass(frozen=True, slots=True)
class ConfigInitDocument:
    """The document of `config init`.

    Attributes:
        file: Path of the file that was written.
    """

    file: Path


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    config = new_group("Show the settings and their origins, or write a file to start from.")
    add_command(config, "show", config_show, example="mltrain config show --trials 50", cls=SettingsCommand)
    add_command(config, "init", config_init, example="mltrain config init train.yml")
    app.add_typer(config, name="config")


def given_settings(
    trials: int | None,
    early_stop: int | None,
    calibration: Calibration | None,
    class_weight: str | None,
    val_ratio: float | None,
    seed: int | None,
    max_rows: int | None,
) -> dict[str, Json]:
    """Return the settings that the options override, by dotted key."""
    values: tuple[Json, ...] = (
        trials,
        early_stop,
        None if calibration is None else calibration.value,
        None if class_weight is None else _number_or_text(class_weight),
        val_ratio,
        seed,
        max_rows,
    )
    return {key: value for key, value in zip(_OPTIONS, values, strict=True) if value is not None}


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


@command()
def config_show(
    session: Session,
    ctx: typer.Context,
    config: Config = None,
    trials: Trials = None,
    early_stop: EarlyStop = None,
    calibration: CalibrationOption = None,
    class_weight: ClassWeight = None,
    val_ratio: ValRatio = None,
    seed: Seed = None,
    max_rows: MaxRows = None,
) -> Outcome:
    """Show every setting that `train` would use with the same options, and where it comes from."""
    from mltrain.config.loading import explain_config

    overrides = given_settings(trials, early_stop, calibration, class_weight, val_ratio, seed, max_rows)
    found = [
        replace(s, where=_OPTIONS[s.key]) if s.origin == "option" else s
        for s in explain_config(config, overrides=overrides)
    ]
    found += _settings_outside_files(session, ctx)

    def view() -> Iterator[RenderableType]:
        yield table(None, ("setting", "value", "from"), _rows(found), kinds=" ff")
        changed = sum(s.origin != "default" for s in found)
        yield f"{changed} of {len(found)} settings are not the default" if changed else "all settings are the defaults"

    return Outcome("config-show/1", ConfigShowDocument(found), view)


def _rows(settings: list[Setting]) -> Iterator[tuple[str, str, str]]:
    """Yield one row per setting, and a single one for a searched range if all its keys have the same origin."""
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

    found = [
        _common_setting(ctx, "data_dir", "--data-dir", "MLTRAIN_DATA_DIR", str(session.data_dir)),
        _common_setting(ctx, "log_format", LOG_OPTION, LOG_VARIABLE, str(ctx.params["log_format"])),
    ]
    for key, variable in _VARIABLES.items():
        value = os.environ.get(variable) or None
        found.append(Setting(key, value, "environment" if value else "default", variable if value else None))
    return found


def _common_setting(ctx: typer.Context, name: str, option: str, variable: str, value: str) -> Setting:
    from mltrain.config.loading import Setting

    source = str(ctx.get_parameter_source(name))
    if source.endswith("COMMANDLINE"):
        return Setting(name, value, "option", option)
    if source.endswith("ENVIRONMENT"):
        return Setting(name, value, "environment", variable)
    return Setting(name, value, "default", None)


def _value_text(value: Any) -> str:  # noqa: ANN401 (JSON)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "; ".join(_value_text(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value_text(v)}" for key, v in value.items())
    return str(value)


@command()
def config_init(
    session: Session,  # noqa: ARG001 (the file may be anywhere)
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("train.yml"),
) -> Outcome:
    """Write a train.yml with every setting commented out, ready to be changed."""
    from mltrain.config.loading import comment_config, load_config
    from mltrain.storage.writing import atomic_write

    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} already exists", hint=f"to see its settings: mltrain config show --config {file}")
    atomic_write(file.absolute(), comment_config().encode())
    load_config(file, overrides={})

    def view() -> Iterator[RenderableType]:
        yield f"{file}: remove the # from the lines you change, then: mltrain train --config {file}"

    return Outcome("config-init/1", ConfigInitDocument(file), view)
