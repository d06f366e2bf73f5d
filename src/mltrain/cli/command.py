"""What every command shares: the common options, the run's one clock reading, and how its result is shown."""

from __future__ import annotations

import inspect
import os
import time
import typing
import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.console import LOG_OPTION, LOG_VARIABLE, log_line, logs_json
from mltrain.cli.memory import check_address_space
from mltrain.cli.progress import open_progress
from mltrain.cli.render import Outcome, show_failure_document, show_outcome
from mltrain.errors import LeakageError, UsageError
from mltrain.store.signature import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.cli.progress import CommandProgress


class LogFormat(StrEnum):
    """How stderr tells what goes on."""

    TEXT = "text"
    JSON = "json"


DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="MLTRAIN_DATA_DIR", help="Folder of snapshots, studies and models.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Log = Annotated[
    LogFormat, typer.Option(LOG_OPTION, envvar=LOG_VARIABLE, help="json: stderr is one JSON object a line, for logs.")
]

RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        help=f"Use no version that this public key has not signed. The variable {REQUIRE_VARIABLE} does the same.",
    ),
]

DEFAULT_DIR: Final = Path("data")
_REQUIRED: Final = "require_signature"


def _required_signature() -> list[inspect.Parameter]:
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(_REQUIRED, kind, default=None, annotation=RequireSignature)]


def _common(default_dir: Path) -> list[inspect.Parameter]:
    kinds = {"data_dir": (DataDir, default_dir), "as_json": (AsJson, False), "quiet": (Quiet, False)}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in {
            **kinds,
            "debug": (Debug, False),
            "log_format": (Log, LogFormat.TEXT),
        }.items()
    ]


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one command.

    Attributes:
        data_dir: Where snapshots, studies and models live.
        as_json: The result goes to stdout as one JSON document.
        quiet: No progress and no warnings.
        now_ms: The clock, read once, in milliseconds since the epoch, UTC.
        progress: Where the library reports what it does; stderr.
    """

    data_dir: Path
    as_json: bool
    quiet: bool
    now_ms: int
    progress: CommandProgress


def command(
    *, default_dir: Path = DEFAULT_DIR, opens_versions: bool = False, takes_mb: int = 0
) -> Callable[[Callable[..., Outcome | None]], Callable[..., None]]:
    """Make Typer commands of functions that take a Session and their own options and return an Outcome.

    Args:
        default_dir: The data folder where neither option nor environment names one.
        takes_mb: What it takes of addresses, as `check_address_space` has it.
        opens_versions: Offer --require-signature; the variable of that name holds for every command, offered or not.
    """

    def decorate(function: Callable[..., Outcome | None]) -> Callable[..., None]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in list(inspect.signature(function).parameters.values())[1:]
        ]

        def run(*, data_dir: Path, as_json: bool, quiet: bool, debug: bool, log_format: str, **options: object) -> None:
            del debug, log_format  # whoever tells an error asks for these itself: it may come before the parsing
            check_address_space(takes_mb)
            if (key := options.pop(_REQUIRED, None)) is not None:
                os.environ[REQUIRE_VARIABLE] = str(key)  # the one switch, which holds for whatever is opened
            _run(function, options, data_dir=data_dir, as_json=as_json, quiet=quiet)

        parameters = [*own, *(_required_signature() if opens_versions else ()), *_common(default_dir)]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.outcome = function  # type: ignore[attr-defined]
        return run

    return decorate


def _pass_on(progress: CommandProgress) -> Callable[..., None]:
    """Return a hook that shows the library's own Python warnings as ours are shown, and others' not at all."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if category.__module__.partition(".")[0] == "mltrain":
            progress.warn(str(message))

    return show


def _run(
    function: Callable[..., Outcome | None], options: dict[str, object], *, data_dir: Path, as_json: bool, quiet: bool
) -> None:
    """Call a command, show what it found, and end with its exit code."""
    began = time.monotonic()
    with open_progress(shown=not (quiet or as_json), warn=not quiet) as progress:
        warnings.showwarning = _pass_on(progress)
        session = Session(data_dir, as_json, quiet, time.time_ns() // 1_000_000, progress)
        try:
            outcome = function(session, **options)
        except LeakageError as err:
            if as_json:
                show_failure_document(err)
            raise
    if outcome is None:  # a group whose command follows
        return
    show_outcome(outcome, as_json=as_json)
    exit_code = outcome.exit_code if outcome.failure is None else outcome.failure.exit_code
    if logs_json() and not quiet:
        seconds = round(time.monotonic() - began, 3)
        log_line("info", "end", command=function.__name__, exit_code=exit_code, seconds=seconds)
    if outcome.failure is not None:
        raise outcome.failure
    if exit_code:
        raise typer.Exit(exit_code)


def refuse_misplaced_options(ctx: typer.Context) -> None:
    """Refuse options between a group and its command: they would be read and forgotten."""
    given = [p for p in ctx.params if str(ctx.get_parameter_source(p)).endswith("COMMANDLINE")]
    if given:
        raise UsageError(
            f"options go behind the command: mltrain {ctx.info_name} {ctx.invoked_subcommand} --option",
        )


def who() -> str:
    """Return who runs this, as user@host, for the log of promotions."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
