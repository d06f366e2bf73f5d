"""What all commands share: the common options, one reading of the clock, and how the result is shown."""

from __future__ import annotations

import inspect
import os
import time
import typing
import warnings
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mltrain.cli.address_space import check_address_space
from mltrain.cli.completion import complete_slot
from mltrain.cli.console import LOG_OPTION, LOG_VARIABLE, log_line, logs_json
from mltrain.cli.delivery import NOTIFY_VARIABLE, SECRET_FILE_VARIABLE, start_delivery
from mltrain.cli.help import common_option, notify_option
from mltrain.cli.progress import open_progress
from mltrain.cli.render import Outcome, show_failure_document, show_outcome
from mltrain.errors import LeakageError, UsageError
from mltrain.store import REQUIRE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.cli.progress import CommandProgress
    from mltrain.store.signature import Signer
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion


class LogFormat(StrEnum):
    """Format of stderr."""

    TEXT = "text"
    JSON = "json"


DataDir = Annotated[
    Path,
    common_option(
        "--data-dir", metavar="DIR", envvar="MLTRAIN_DATA_DIR", help="Folder of snapshots, studies and models."
    ),
]
AsJson = Annotated[bool, common_option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, common_option("--quiet", "-q", help="No progress and no warnings on stderr.")]
Debug = Annotated[bool, common_option("--debug", help="Show the traceback of an error.")]
Log = Annotated[
    LogFormat,
    common_option(
        LOG_OPTION, envvar=LOG_VARIABLE, help="Format of stderr; json: one JSON object per line, for log collectors."
    ),
]
Slot = Annotated[
    str | None,
    common_option(
        "--slot",
        metavar="NAME",
        envvar="MLTRAIN_SLOT",
        help="Slot: a line of live versions, independent of the others, such as one per market. Default: lgbm.",
        autocompletion=complete_slot,
    ),
]
RequireSignature = Annotated[
    Path | None,
    common_option(
        "--require-signature",
        metavar="FILE",
        help=f"Refuse versions that are not signed with this public key. The variable {REQUIRE_VARIABLE} does the "
        "same for every command.",
    ),
]

Notify = Annotated[
    str | None,
    notify_option(
        "--notify",
        metavar="URL",
        envvar=NOTIFY_VARIABLE,
        help="Post an event to this address: https, or http to this machine. Until it is accepted it waits on disk.",
    ),
]
NotifySecretFile = Annotated[
    Path | None,
    notify_option(
        "--notify-secret-file",
        metavar="FILE",
        envvar=SECRET_FILE_VARIABLE,
        help="Secret that events are signed with; other users must not be able to read the file.",
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
        slot: The slot that the user named; None if none was named.
        notify: The address that events are posted to; None if none was named.
        notify_secret_file: The file with the secret that events are signed with.
    """

    data_dir: Path
    as_json: bool
    quiet: bool
    now_ms: int
    progress: CommandProgress
    slot: str | None = None
    notify: str | None = None
    notify_secret_file: Path | None = None

    def open_store(self, *, signer: Signer | None = None) -> Store:
        """Return the store of the data folder, in the slot that the user named."""
        from mltrain.names import DEFAULT_SLOT
        from mltrain.store.store import Store

        return Store(self.data_dir, slot=self.slot or DEFAULT_SLOT, signer=signer)

    def open_version(self, ref: str | None) -> StoredVersion:
        """Open a version; None: the live one, or with a warning the latest if nothing was promoted yet."""
        version, warning = self.open_store().open_default(ref)
        if warning:
            self.progress.warn(warning)
        return version


def command(
    *,
    default_dir: Path = DEFAULT_DIR,
    opens_versions: bool = False,
    has_slot: bool = False,
    notifies: bool = False,
    need_mb: int = 0,
) -> Callable[[Callable[..., Outcome | None]], Callable[..., None]]:
    """Turn a function that takes a Session and options, and returns an Outcome, into a Typer command.

    Args:
        default_dir: The data folder if neither the option nor the environment names one.
        opens_versions: Whether to offer --require-signature and --slot.
        has_slot: Whether to offer --slot.
        notifies: Whether to offer --notify and --notify-secret-file; events that were queued are delivered afterwards.
        need_mb: Address space that the command needs, in MB of 2^20 bytes; see `check_address_space`.
    """

    def decorate(function: Callable[..., Outcome | None]) -> Callable[..., None]:
        def run(
            *,
            data_dir: Path,
            as_json: bool,
            quiet: bool,
            debug: bool,
            log_format: str,
            slot: str | None = None,
            **options: object,
        ) -> None:
            # Errors may come before the command line is parsed: what shows them reads these two itself.
            del debug, log_format
            check_address_space(need_mb)
            if (key := options.pop("require_signature", None)) is not None:
                # The library reads this variable whenever it opens a version.
                os.environ[REQUIRE_VARIABLE] = str(key)
            notify: Any = None
            secret_file: Any = None
            if notifies:
                # A variable that is set to nothing is as good as none.
                notify, secret_file = options.pop("notify") or None, options.pop("notify_secret_file")
            # A shell expands ~ in a word, but not in a variable of the environment.
            place = Path(os.path.expanduser(data_dir))  # noqa: PTH111 (pathlib's raises without a home)
            _run(
                function,
                options,
                data_dir=place,
                slot=slot,
                as_json=as_json,
                quiet=quiet,
                notify=notify,
                notify_secret_file=secret_file,
            )

        hints = typing.get_type_hints(function, include_extras=True)
        common = {
            **({"require_signature": (RequireSignature, None)} if opens_versions else {}),
            **({"slot": (Slot, None)} if opens_versions or has_slot else {}),
            **({"notify": (Notify, None), "notify_secret_file": (NotifySecretFile, None)} if notifies else {}),
            "data_dir": (DataDir, default_dir),
            "as_json": (AsJson, False),
            "quiet": (Quiet, False),
            "debug": (Debug, False),
            "log_format": (Log, LogFormat.TEXT),
        }
        # The function's first parameter is the session.
        parameters = [
            p.replace(annotation=hints[p.name], kind=inspect.Parameter.KEYWORD_ONLY)
            for p in list(inspect.signature(function).parameters.values())[1:]
        ]
        parameters += [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for name, (annotation, default) in common.items()
        ]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.outcome = function  # type: ignore[attr-defined]
        return run

    return decorate


def _run(
    function: Callable[..., Outcome | None],
    options: dict[str, object],
    *,
    data_dir: Path,
    slot: str | None,
    as_json: bool,
    quiet: bool,
    notify: str | None,
    notify_secret_file: Path | None,
) -> None:
    """Call a command, show its result, and end with its exit code."""
    start_s = time.monotonic()
    with open_progress(shown=not (quiet or as_json), warn=not quiet) as progress:
        warnings.showwarning = _warning_hook(progress)
        session = Session(data_dir, as_json, quiet, now_ms=time.time_ns() // 1_000_000, progress=progress, slot=slot)
        session = replace(session, notify=notify, notify_secret_file=notify_secret_file)
        try:
            outcome = function(session, **options)
        except LeakageError as err:
            if as_json:
                show_failure_document(err)
            raise
    if outcome is None:
        # A group whose command follows.
        return
    try:
        show_outcome(outcome, as_json=as_json)
    finally:
        start_delivery(data_dir, notify=notify, secret_file=notify_secret_file, progress=progress)
    exit_code = outcome.exit_code if outcome.failure is None else outcome.failure.exit_code
    if logs_json() and not quiet:
        seconds = round(time.monotonic() - start_s, 3)
        log_line("info", "end", command=function.__name__, exit_code=exit_code, seconds=seconds)
    if outcome.failure is not None:
        raise outcome.failure
    if exit_code:
        raise typer.Exit(exit_code)


def _warning_hook(progress: CommandProgress) -> Callable[..., None]:
    """Return a `warnings.showwarning` that shows the warnings of mltrain and drops those of other libraries."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if category.__module__.partition(".")[0] == "mltrain":
            progress.warn(str(message))

    return show


def refuse_misplaced_options(ctx: typer.Context) -> None:
    """Raise a UsageError if options stand between a group and its command, where they would have no effect."""
    if any(str(ctx.get_parameter_source(p)).endswith("COMMANDLINE") for p in ctx.params):
        raise UsageError(f"options go after the command: mltrain {ctx.info_name} {ctx.invoked_subcommand} --option")
