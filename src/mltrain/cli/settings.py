"""The options that override train.yml, and the commands on settings: config show, config init."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperOption

from mltrain.cli.command import Session, command
from mltrain.cli.console import LOG_OPTION, LOG_VARIABLE
from mltrain.cli.render import Outcome
from mltrain.cli.sources import ARCHIVE_URL_VARIABLE, BASE_URL_VARIABLE
from mltrain.cli.tables import table
from mltrain.config.loading import Setting, comment_config, explain_config, load_config
from mltrain.errors import UsageError
from mltrain.store.signature import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mltrain.documents.values import Json


class Calibration(StrEnum):
    """How scores become probabilities."""

    AUTO = "auto"
    ISOTONIC = "isotonic"
    SIGMOID = "sigmoid"
    BETA = "beta"
    NONE = "none"


Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Parameter sets tried.")]
EarlyStop = Annotated[int | None, typer.Option("--early-stop", min=1, help="Rounds without a better loss.")]
CalibrationOption = Annotated[Calibration | None, typer.Option("--calibration", help="auto: by forward log loss.")]
ClassWeight = Annotated[
    str | None,
    typer.Option(
        "--class-weight",
        help="What a row that went up counts in a fit: none, balanced or a number; "
        "probabilities are those of unweighted rows.",
    ),
]
ValRatio = Annotated[float | None, typer.Option("--val-ratio", help="Share of the time range held out.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Of everything random.")]
MaxRows = Annotated[int | None, typer.Option("--max-rows", min=0, help="Take the newest so many candles; 0 takes all.")]
Config = Annotated[
    Path | None, typer.Option("--config", help="Your own train.yml; it overrides the packaged one key by key.")
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
_DEFAULT: Final = " Default: "
_RANGE: Final = re.compile(r"(search\.space\.\w+)\.\w+")
#: What only the environment can say once for all commands; without it the next.
_VARIABLES: Final = {
    "base_url": (BASE_URL_VARIABLE, None),
    "archive_url": (ARCHIVE_URL_VARIABLE, None),
    "require_signature": (REQUIRE_VARIABLE, None),
}


class SettingsCommand(TyperCommand):
    """A command with options of train.yml, whose help names the defaults that the packaged file gives them."""

    def add_defaults(self) -> None:
        """Write the defaults into the help; the file is read here, not when the command is made or run."""
        defaults = {_OPTIONS[s.key]: s.value for s in explain_config(None, overrides={}) if s.key in _OPTIONS}
        for option in self.params:
            if isinstance(option, TyperOption) and option.opts[0] in defaults:
                text = (option.help or "").partition(_DEFAULT)[0]
                option.help = f"{text}{_DEFAULT}{_shown(defaults[option.opts[0]])}."

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 (Typer's private classes)
        """Show the help, with the defaults."""
        self.add_defaults()
        super().format_help(ctx, formatter)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    config = typer.Typer(help="Settings: what holds and who says so, and a file to begin from.", no_args_is_help=True)
    config.command("show", cls=SettingsCommand)(config_show)
    config.command("init")(config_init)
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
    """Return the settings that options give, by their dotted keys."""
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
    """Return an option's value as the configuration has it."""
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
    """Show every setting that `train` would use with the same options, and who said so last."""
    overrides = given_settings(trials, early_stop, calibration, class_weight, val_ratio, seed, max_rows)
    found = [_named(setting) for setting in explain_config(config, overrides=overrides)]
    found += _around(session, ctx)

    def view() -> Iterator[RenderableType]:
        yield table(None, ("setting", "value", "from"), _rows(found), kinds=" ff")
        own = sum(s.origin != "default" for s in found)
        yield f"{own} of {len(found)} settings are yours" if own else "all settings are the defaults"

    return Outcome("config-show/1", {"settings": found}, view)


def _rows(settings: list[Setting]) -> Iterator[tuple[str, str, str]]:
    """Yield a row a setting, and one for each searched range whose ends come from the same place."""
    for key, group in groupby(settings, lambda s: _RANGE.sub(r"\1", s.key)):
        parts = list(group)
        if len(parts) > 1 and len({part.origin for part in parts}) == 1:
            low, high, scale, default = (_shown(part.value) for part in parts)
            yield key, f"{low} to {high}, {scale}, default {default}", _who(parts[0])
        else:
            yield from ((part.key, _shown(part.value), _who(part)) for part in parts)


def _who(setting: Setting) -> str:
    return setting.origin if setting.where is None else f"{setting.origin}: {setting.where}"


def _named(setting: Setting) -> Setting:
    if setting.origin != "option":
        return setting
    return Setting(setting.key, setting.value, setting.origin, _OPTIONS[setting.key])


def _around(session: Session, ctx: typer.Context) -> list[Setting]:
    """Return the settings that stand in no file: those of the commands' common options and of the environment."""
    found = [
        _asked(ctx, "data_dir", "--data-dir", "MLTRAIN_DATA_DIR", str(session.data_dir)),
        _asked(ctx, "log_format", LOG_OPTION, LOG_VARIABLE, str(ctx.params["log_format"])),
    ]
    for key, (variable, default) in _VARIABLES.items():
        value = os.environ.get(variable)
        found.append(Setting(key, value or default, "environment" if value else "default", variable if value else None))
    return found


def _asked(ctx: typer.Context, name: str, option: str, variable: str, value: str) -> Setting:
    source = str(ctx.get_parameter_source(name))
    if source.endswith("COMMANDLINE"):
        return Setting(name, value, "option", option)
    if source.endswith("ENVIRONMENT"):
        return Setting(name, value, "environment", variable)
    return Setting(name, value, "default", None)


def _shown(value: Any) -> str:  # noqa: ANN401 (JSON)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "; ".join(_shown(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(v)}" for key, v in value.items())
    return str(value)


@command()
def config_init(
    session: Session,  # noqa: ARG001 (a file of the user's, wherever they want it)
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("train.yml"),
) -> Outcome:
    """Write a train.yml of your own: every setting with its comment, commented out, for you to change what you need."""
    from mltrain.storage.writing import atomic_write

    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} is there already", hint=f"see what it says: mltrain config show --config {file}")
    atomic_write(file.absolute(), comment_config().encode())
    load_config(file, overrides={})

    def view() -> Iterator[RenderableType]:
        yield f"{file}: take the # away from what you change, then: mltrain train --config {file}"

    return Outcome("config-init/1", {"file": file}, view)
