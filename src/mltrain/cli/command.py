"""What all commands share: the common options, one reading of the clock, and how the result is shown."""

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

from mltrain.cli.address_space import check_address_space
from mltrain.cli.console import LOG_OPTION, LOG_VARIABLE, log_line, logs_json
from mltrain.cli.help import COMMON
from mltrain.cli.progress import open_progress
from mltrain.cli.render import Outcome, show_failure_document, show_outcome
from mltrain.errors import LeakageError, UsageError
from mltrain.store import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.cli.progress import CommandProgress


class LogFormat(StrEnum):
    """Format of stderr."""

    TEXT = "text"
    JSON = "json"


DataDir = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        envvar="MLTRAIN_DATA_DIR",
        help="Folder of snapshots, studies and models.",
        rich_help_panel=COMMON,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.", rich_help_panel=COMMON)]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr.", rich_help_panel=COMMON)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=COMMON)]
Log = Annotated[
    LogFormat,
    typer.Option(
        LOG_OPTION,
        envvar=LOG_VARIABLE,
        help="Format of stderr; json: one JSON object per line, for log collectors.",
        rich_help_panel=COMMON,
    ),
]
RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature",
        metavar="FILE",
        help=f"Refuse versions that are not signed with this public key. The variable {REQUIRE_VARIABLE} does the "
        "same for every command.",
        rich_help_panel=COMMON,
    ),
]

DEFAULT_DIR: Final = Path("data")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one command.

    Attributes:
        data_dir: Folder of snapshots, studies and models.
        as_json: Whether stdout gets the result as one JSON document.
        quiet: Whether stderr gets no progress and no warnings.
        now_ms: The clock, read once: milliseconds since the epoch, UTC.
        progress: Receives stages and warnings; writes to stderr.
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
        default_dir: The data folder if neither the option nor the environment names one.
        opens_versions: Whether to offer --require-signature.
        takes_mb: Address space that the command needs, in MB of 2^20 bytes; see `check_address_space`.
    """

    def decorate(function: Callable[..., Outcome | None]) -> Callable[..., None]:
        hints = typing.get_type_hints(function, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in list(inspect.signature(function).parameters.values())[1:]
        ]

        def run(*, data_dir: Path, as_json: bool, quiet: bool, debug: bool, log_format: str, **options: object) -> None:
            # Errors may come before the command line is parsed: what shows them reads these two itself.
            del debug, log_format
            check_address_space(takes_mb)
            if (key := options.pop("require_signature", None)) is not None:
                # The library reads this variable whenever it opens a version.
                os.environ[REQUIRE_VARIABLE] = str(key)
            _run(function, options, data_dir=data_dir, as_json=as_json, quiet=quiet)

        common = {
            **({"require_signature": (RequireSignature, None)} if opens_versions else {}),
            "data_dir": (DataDir, default_dir),
            "as_json": (AsJson, False),
            "quiet": (Quiet, False),
            "debug": (Debug, False),
            "log_format": (Log, LogFormat.TEXT),
        }
        parameters = [
            *own,
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for name, (annotation, default) in common.items()
            ),
        ]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.outcome = function  # type: ignore[attr-defined]
        return run

    return decorate


def _warning_hook(progress: CommandProgress) -> Callable[..., None]:
    """Return a `warnings.showwarning` that shows the warnings of mltrain and drops those of other libraries."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if category.__module__.partition(".")[0] == "mltrain":
            progress.warn(str(message))

    return show


def _run(
    function: Callable[..., Outcome | None], options: dict[str, object], *, data_dir: Path, as_json: bool, quiet: bool
) -> None:
    """Call a command, show its result, and end with its exit code."""
    began = time.monotonic()
    with open_progress(shown=not (quiet or as_json), warn=not quiet) as progress:
        warnings.showwarning = _warning_hook(progress)
        session = Session(data_dir, as_json, quiet, time.time_ns() // 1_000_000, progress)
        try:
            outcome = function(session, **options)
        except LeakageError as err:
            if as_json:
                show_failure_document(err)
            raise
    if outcome is None:
        # A group whose command follows.
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
    """Refuse options between a group and its command, which would have no effect.

    Raises:
        UsageError: There are some.
    """
    given = [p for p in ctx.params if str(ctx.get_parameter_source(p)).endswith("COMMANDLINE")]
    if given:
        raise UsageError(
            f"options go after the command: mltrain {ctx.info_name} {ctx.invoked_subcommand} --option",
        )


def who() -> str:
    """Return the user as user@host, for the log of promotions."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # The user of a container may have no name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
