"""Show a result as tables or as one JSON document, and an error as one readable message."""

from __future__ import annotations

import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from mltrain.cli.console import log_line, logs_json, open_console, print_labelled
from mltrain.documents.results import Result, format_document
from mltrain.errors import MachineError
from mltrain.times import format_minutes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.console import Console, RenderableType

    from mltrain.errors import MltrainError

#: What people see of a result, from top to bottom: texts and tables.
View: TypeAlias = "Iterable[RenderableType]"

# The exit code of a check that found something.
FAILED_CHECK: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command found or did.

    Attributes:
        data: The document; printed whole with `--json`.
        view: What people see instead, from top to bottom.
        exit_code: 0; 2 for a list instead of a choice; 3 for a failed check; 4 for a NO-GO.
        to_stderr: Print to stderr: the command did not do what it is for (exit 2).
        failure: Error to raise after the result is printed; it gives the message and the exit code.
    """

    data: Result
    view: Callable[[], View]
    exit_code: int = 0
    to_stderr: bool = False
    failure: MltrainError | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """What is wrong, and what to do.

    Attributes:
        exit_code: Exit code of the process.
        message: What is wrong and where.
        hint: What to do about it.
    """

    exit_code: int
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class FailureDocument(Result):
    """A check that failed.

    Attributes:
        error: The failure.
    """

    SCHEMA: ClassVar[str] = "error/1"

    error: Failure


def show_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """Print a result: one JSON document, or its view.

    Raises:
        BrokenPipeError: The reader has left.
        MachineError: The output cannot be written, as where a disk is full.
    """
    stream = sys.stderr if outcome.to_stderr else sys.stdout
    try:
        if as_json:
            stream.write(format_document(outcome.data))
        else:
            parts = list(outcome.view())
            if not stream.isatty() and all(isinstance(part, str) for part in parts):
                # As Rich would print it, but the import of Rich takes a tenth of the time of a short command.
                stream.writelines(f"{part}\n" for part in parts)
            else:
                show_view(open_console(stderr=outcome.to_stderr), parts)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        raise MachineError(f"cannot write the results: {err.strerror}") from err


def show_view(console: Console, view: View) -> None:
    """Print the parts of a view, with a blank line before each titled part and between tables."""
    before: RenderableType | None = None
    for part in view:
        if isinstance(part, str):
            _show_text(console, part)
        else:
            if before is not None and (getattr(part, "title", None) or type(part) is type(before)):
                console.print()
            console.print(part)
        before = part


def _show_text(console: Console, text: str) -> None:
    """Print a text; on a terminal it is wrapped between words."""
    # A pipe gets each line whole; so does a terminal where a text has several lines, because that is a file.
    if not console.is_terminal or "\n" in text:
        console.print(text, soft_wrap=True)
        return
    from rich.text import Text

    for line in Text(text).wrap(console, console.width):
        line.rstrip()
        console.print(line)


def show_failure_document(err: MltrainError) -> None:
    """Print the document of a run that ended in a failed check."""
    failure = Failure(exit_code=err.exit_code, message=err.message, hint=err.hint)
    sys.stdout.write(format_document(FailureDocument(failure)))
    sys.stdout.flush()


def show_error(err: MltrainError, *, debug: bool) -> None:
    """Print one readable message: what is wrong and where, then what to do; before it the traceback if `debug`."""
    if debug:
        traceback.print_exception(err)
    if logs_json():
        log_line("error", "error", message=err.message, hint=err.hint, exit_code=err.exit_code)
        return
    print_labelled("error", "bold red", err.message)
    if err.hint:
        print_labelled("hint", "cyan", err.hint)


def show_bug(err: BaseException, *, debug: bool) -> None:
    """Print that mltrain itself is at fault; before it the traceback if `debug`."""
    if debug:
        traceback.print_exception(err)
    message = f"{type(err).__name__}: {err}"
    if logs_json():
        log_line("error", "bug", message=message, exit_code=1)
        return
    print_labelled("bug", "bold red", message)
    if not debug:
        open_console(stderr=True).print("run again with --debug and report the traceback", soft_wrap=True)


def number_text(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` decimals and separated thousands; None is a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def interval_text(low: float | None, high: float | None) -> str:
    """Return the ends of an interval with four decimals; None is a dash."""
    return "-" if low is None or high is None else f"{low:.4f} .. {high:.4f}"


def time_text(time_ms: int | None) -> str:
    """Return a time in milliseconds since the epoch as 2025-10-15 12:00, UTC; None is a dash."""
    return "-" if time_ms is None else format_minutes(time_ms)


def minute_text(time: str | None) -> str | None:
    """Return a time such as 2025-10-15T12:00:07Z to the minute, as tables show it: 2025-10-15 12:00."""
    return None if time is None else time[:16].replace("T", " ")


def view_pruned(removed: Sequence[str], kept: Mapping[str, str], *, dry_run: bool) -> View:
    """Show the names of what was or would be removed, and of each old thing that was kept, why."""
    yield f"{len(removed)} {'would be removed' if dry_run else 'removed'}" + (
        f": {', '.join(removed)}" if removed else ""
    )
    yield from (f"{name} kept: {reason}" for name, reason in kept.items())
