"""Progress on stderr: bars with the time left on a terminal, warnings everywhere."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mltrain.cli.render import stderr_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class CommandProgress:
    """Shows stages as bars on a terminal (nothing in a pipe), and warnings as lines.

    Args:
        bars: Rich's live display, or None where nothing is to move.
        warn: False swallows the warnings (`--quiet`).
    """

    def __init__(self, bars: Bars | None, *, warn: bool) -> None:
        self._bars = bars
        self._warn = warn
        self._tasks: dict[str, TaskID] = {}

    def stage(self, name: str, *, total: int | None = None, beside: bool = False) -> None:
        """Begin a stage; those before are shown as finished, unless it runs beside them."""
        if self._bars is None:
            return
        if not beside:
            self._finish()
        self._tasks[name] = self._bars.add_task(name, total=total, note="")

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Move a stage on; None: the newest."""
        if self._bars is not None and self._tasks:
            task = list(self._tasks.values())[-1] if stage is None else self._tasks[stage]
            self._bars.update(task, advance=steps, note=note)

    def warn(self, message: str) -> None:
        """Print a warning line above the bars."""
        if not self._warn:
            return
        from rich.text import Text

        console = self._bars.console if self._bars is not None else stderr_console()
        console.print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)

    def _finish(self) -> None:
        if self._bars is not None:
            for task in self._bars.tasks:
                if task.id in self._tasks.values():
                    self._bars.update(task.id, total=task.total or 1, completed=task.total or 1)
        self._tasks = {}

    def close(self, *, failed: bool) -> None:
        """End the last stage; after a failure its bar stays where it was."""
        if not failed:
            self._finish()


@contextmanager
def open_progress(*, shown: bool, warn: bool) -> Iterator[CommandProgress]:
    """Yield the progress of one command: live bars only where stderr is a terminal and `shown` is true."""
    if not (shown and sys.stderr.isatty()):
        yield CommandProgress(None, warn=warn)
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column

    with Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)),
        console=stderr_console(),
    ) as bars:
        progress = CommandProgress(bars, warn=warn)
        failed = True
        try:
            yield progress
            failed = False
        finally:
            progress.close(failed=failed)
