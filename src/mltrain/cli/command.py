"""What every command shares: the common options, the run's one clock reading, and how its result is shown."""

from __future__ import annotations

import functools
import inspect
import time
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.render import Outcome, show_failure_document, show_outcome
from mltrain.errors import LeakageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.cli.progress import CommandProgress

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="MLTRAIN_DATA_DIR", help="Folder of snapshots, studies and models.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

_COMMON: Final = (
    inspect.Parameter("data_dir", inspect.Parameter.KEYWORD_ONLY, default=Path("data"), annotation=DataDir),
    inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson),
    inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
    inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug),
)


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


def command(function: Callable[..., Outcome]) -> Callable[..., None]:
    """Make a Typer command of a function that takes a Session and its own options and returns an Outcome."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in list(inspect.signature(function).parameters.values())[1:]]

    @functools.wraps(function)
    def run(*, data_dir: Path, as_json: bool, quiet: bool, debug: bool, **options: object) -> None:  # noqa: ARG001
        from mltrain.cli.progress import open_progress

        with open_progress(shown=not (quiet or as_json), warn=not quiet) as progress:
            session = Session(data_dir, as_json, quiet, time.time_ns() // 1_000_000, progress)
            try:
                outcome = function(session, **options)
            except LeakageError as err:
                if as_json:
                    show_failure_document(err)
                raise
        show_outcome(outcome, as_json=as_json)
        if outcome.exit_code:
            raise typer.Exit(outcome.exit_code)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = inspect.Signature([*parameters, *_COMMON])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*parameters, *_COMMON]}
    del run.__wrapped__  # Typer would look through to the function's own signature
    return run
