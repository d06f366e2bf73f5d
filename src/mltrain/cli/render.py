"""How a result becomes a table or a JSON document, and an error one readable message."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mltrain.errors import MachineError
from mltrain.times import format_minutes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console, RenderableType

    from mltrain.cli.grid import Framed, Grid
    from mltrain.errors import MltrainError

PIPE_WIDTH: Final = 160  # a pipe has no width; rows should stay on one line for grep and awk
FAILED_CHECK: Final = 3  # exit code of a check that found something


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command found or did.

    Attributes:
        schema: Name and number of the JSON document, such as "snapshot/1".
        data: A frozen result of the library, or a mapping of such; printed whole with `--json`.
        view: What people see instead, top to bottom.
        exit_code: 0, or 2, 3 or 4 for a listing without choice, a failed check or a NO-GO.
        to_stderr: The result is an answer to a question that was not asked (exit 2): it goes to stderr.
        failure: Error that is raised after the result is printed; it gives the message and the exit code.
    """

    schema: str
    data: Any
    view: Callable[[], Iterable[RenderableType]]
    exit_code: int = 0
    to_stderr: bool = False
    failure: MltrainError | None = None


def to_plain(value: Any) -> Any:  # noqa: ANN401 (any result of the library)
    """Return `value` as JSON's own types: dataclasses and mappings become objects, tuples arrays, paths text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def document(schema: str, data: Any) -> str:  # noqa: ANN401 (any result of the library)
    """Return the JSON document of a result; NaN and infinity are refused, for they are not JSON."""
    plain = to_plain(data)
    body = plain if isinstance(plain, dict) else {"items": plain}
    return json.dumps({"schema": f"mltrain/{schema}", **body}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    width = None if terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    # Rich colours a pipe where FORCE_COLOR or GITHUB_ACTIONS is set: what is no terminal gets plain text.
    return Console(stderr=stderr, force_terminal=terminal, width=width, highlight=False, emoji=False, markup=False)


def stderr_console() -> Console:
    """Return a console on stderr, plain where that is no terminal."""
    return _console(stderr=True)


def show_outcome(outcome: Outcome, *, as_json: bool) -> None:
    """Print a result: one JSON document, or its view.

    Raises:
        BrokenPipeError: The reader has left.
        MachineError: The output cannot be written, as where a disk is full.
    """
    stream = sys.stderr if outcome.to_stderr else sys.stdout
    try:
        if as_json:
            stream.write(document(outcome.schema, outcome.data))
        else:
            console = _console(stderr=outcome.to_stderr)
            show_view(console, outcome.view())
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as err:
        raise MachineError(f"cannot write the results: {err.strerror}") from err


def show_view(console: Console, parts: Iterable[RenderableType]) -> None:
    """Print the parts of a view, a blank line before each that has a title of its own, and between tables."""
    before: RenderableType | None = None
    for part in parts:
        if (
            before is not None
            and not isinstance(part, str)
            and (getattr(part, "title", None) or type(part) is type(before))
        ):
            console.print()
        before = part
        _show_part(console, part)


def _show_part(console: Console, part: RenderableType) -> None:
    # A pipe keeps its lines in one piece; so does a terminal a text of several lines, which is a file's.
    if not isinstance(part, str) or not console.is_terminal or "\n" in part:
        console.print(part, soft_wrap=isinstance(part, str))
        return
    from rich.text import Text

    for line in Text(part).wrap(console, console.width):
        line.rstrip()
        console.print(line)


def show_failure_document(err: MltrainError) -> None:
    """Print the document of a run that ended in a failed check."""
    body = {"exit_code": err.exit_code, "message": err.message, "hint": err.hint}
    sys.stdout.write(document("error/1", {"error": body}))
    sys.stdout.flush()


def show_error(err: MltrainError, *, debug: bool) -> None:
    """Print one readable message: what is wrong and where, then what to do."""
    if debug:
        _print_traceback(err)
    from mltrain.cli.progress import log_line, logs_json

    if logs_json():
        log_line("error", "error", message=err.message, hint=err.hint, exit_code=err.exit_code)
        return
    from rich.text import Text

    console = stderr_console()
    console.print(Text.assemble(("error: ", "bold red"), err.message), soft_wrap=True)
    if err.hint:
        console.print(Text.assemble(("hint: ", "cyan"), err.hint), soft_wrap=True)


def show_bug(err: BaseException, *, debug: bool) -> None:
    """Print that mltrain itself is at fault; the traceback only where it was asked for."""
    if debug:
        _print_traceback(err)
    from mltrain.cli.progress import log_line, logs_json

    if logs_json():
        log_line("error", "bug", message=f"{type(err).__name__}: {err}", exit_code=1)
        return
    from rich.text import Text

    console = stderr_console()
    console.print(Text.assemble(("bug: ", "bold red"), f"{type(err).__name__}: {err}"), soft_wrap=True)
    if not debug:
        console.print("run again with --debug and report the traceback", soft_wrap=True)


def _print_traceback(err: BaseException) -> None:
    import traceback

    traceback.print_exception(err, file=sys.stderr)


def table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> Grid:
    """Return a table that fits the terminal, of plain cells.

    Args:
        title: Shown above; None for none.
        columns: Headers.
        rows: Cells; None is shown as a dash.
        right: One character a column: "r" aligns it right, "f" lets it fold (left out where all is empty), "b" draws
            shares from 0 to 1 as bars, "o" leaves it out where there is no room, anything else keeps it on one line.
    """
    from mltrain.cli.grid import grid

    return grid(title, columns, list(rows), right)


def framed(title: str, parts: Iterable[RenderableType], *, style: str) -> Framed:
    """Return parts under a title, in a box where the terminal can draw one."""
    from mltrain.cli.grid import Framed

    return Framed(title, tuple(parts), style)


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure with fixed digits, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def ends(low: float | None, high: float | None) -> str:
    """Return an interval, or a dash."""
    return "-" if low is None or high is None else f"{low:.4f} .. {high:.4f}"


def time_text(ms: int | None) -> str:
    """Return a time in milliseconds since the epoch as 2025-10-15 12:00, UTC."""
    return "-" if ms is None else format_minutes(ms)


def minute_text(time: str | None) -> str | None:
    """Return a time such as 2025-10-15T12:00:07Z to the minute, as tables show it: 2025-10-15 12:00."""
    return None if time is None else time[:16].replace("T", " ")
