"""What is written to stderr and stdout, and how: Rich consoles for people, lines of JSON for machines."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console

LOG_VARIABLE: Final = "MLTRAIN_LOG_FORMAT"
LOG_OPTION: Final = "--log-format"
# Columns assumed for a pipe, which has no width: rows should stay on one line for grep and awk.
PIPE_WIDTH: Final = 160


def open_console(*, stderr: bool) -> Console:
    """Return a console on stdout or stderr; plain text where that is not a terminal."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    width = None if terminal or "COLUMNS" in os.environ else PIPE_WIDTH
    # Rich colours a pipe where FORCE_COLOR or GITHUB_ACTIONS is set: scripts read pipes.
    return Console(stderr=stderr, force_terminal=terminal, width=width, highlight=False, emoji=False, markup=False)


def print_labelled(label: str, style: str, message: str, *, console: Console | None = None) -> None:
    """Print `label: message` as one line, on stderr unless another console is given."""
    from rich.text import Text

    text = Text.assemble((f"{label}: ", style), message)
    (console or open_console(stderr=True)).print(text, soft_wrap=True)


def logs_json() -> bool:
    """Return whether stderr gets lines of JSON.

    Read from the command line itself, because errors are also reported before and after it is parsed.
    """
    words = sys.argv[1:]
    for i, word in enumerate(words):
        if word == LOG_OPTION and i + 1 < len(words):
            return words[i + 1] == "json"
        if word.startswith(f"{LOG_OPTION}="):
            return word == f"{LOG_OPTION}=json"
    return os.environ.get(LOG_VARIABLE) == "json"


def log_line(level: str, event: str, **fields: object) -> None:
    """Write one line of JSON to stderr: time (UTC), level, event, and the fields that are not None."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    known = {key: value for key, value in fields.items() if value is not None}
    sys.stderr.write(json.dumps({"time": now, "level": level, "event": event, **known}, ensure_ascii=False) + "\n")
    sys.stderr.flush()
