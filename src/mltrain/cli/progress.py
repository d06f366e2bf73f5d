"""Progress on stderr: bars with the time left on a terminal, lines of JSON for logs, warnings everywhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from mltrain.cli.console import log_line, logs_json, open_console, print_labelled
from mltrain.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID
    from rich.text import Text

# In fewer columns there is no room for a bar concurrent its figures.
NARROW: Final = 80


class CommandProgress(Progress, Protocol):
    """Where a command reports its stages, until it is closed."""

    def close(self, *, failed: bool) -> None:
        """End the last stage."""


class Warnings:
    """Shows warnings as lines, and no stages.

    Args:
        warn: False hides warnings, too (`--quiet`).
    """

    def __init__(self, *, warn: bool) -> None:
        self._warn = warn

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Print a warning line."""
        if self._warn:
            print_labelled("warning", "yellow", message)

    def close(self, *, failed: bool) -> None:
        """Do nothing."""


class LiveBars(Warnings):
    """Shows stages as bars on a terminal, and warnings as lines above them."""

    def __init__(self, *, warn: bool) -> None:
        super().__init__(warn=warn)
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Begin a stage; earlier ones are shown as finished, unless it runs concurrent them."""
        # Loaded with the first stage: a command without stages does not pay for it.
        if self._bars is None:
            self._bars = _open_bars()
            self._bars.start()
        if not concurrent:
            self._finish()
        self._tasks[name] = self._bars.add_task(name, total=total, note="")

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Advance a stage; None: the newest."""
        if self._bars is not None and self._tasks:
            task = list(self._tasks.values())[-1] if stage is None else self._tasks[stage]
            self._bars.update(task, advance=steps, note=note)

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
        if self._bars is not None:
            self._bars.stop()

    def warn(self, message: str) -> None:
        """Print a warning line above the bars."""
        if self._bars is None or not self._warn:
            super().warn(message)
            return
        print_labelled("warning", "yellow", message, console=self._bars.console)


class LogLines(Warnings):
    """Writes a line of JSON when a stage begins or ends, and for each warning."""

    def __init__(self, *, warn: bool, stages: bool) -> None:
        super().__init__(warn=warn)
        self._stages = stages
        self._open: dict[str, tuple[float, int, int | None]] = {}

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Log that a stage begins, and that earlier ones have ended."""
        if not concurrent:
            self._end("done")
        self._open[name] = (time.monotonic(), 0, total)
        if self._stages:
            log_line("info", "stage", stage=name, total=total)

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:  # noqa: ARG002 (a protocol)
        """Count the steps, for the line at the end of the stage."""
        if self._open:
            name = list(self._open)[-1] if stage is None else stage
            began, done, total = self._open[name]
            self._open[name] = (began, done + steps, total)

    def _end(self, how: str) -> None:
        for name, (began, done, total) in self._open.items():
            if self._stages:
                seconds = round(time.monotonic() - began, 3)
                log_line("info", f"stage {how}", stage=name, steps=done, total=total, seconds=seconds)
        self._open = {}

    def warn(self, message: str) -> None:
        """Log the warning."""
        if self._warn:
            log_line("warning", "warning", message=message)

    def close(self, *, failed: bool) -> None:
        """Log how the last stage ended."""
        self._end("failed" if failed else "done")


@contextmanager
def open_progress(*, shown: bool, warn: bool) -> Iterator[CommandProgress]:
    """Yield the progress of one command.

    Args:
        shown: Whether stages are shown: as bars if stderr is a terminal, as lines if logs are JSON.
        warn: Whether warnings are shown.
    """
    progress: CommandProgress
    if logs_json():
        progress = LogLines(warn=warn, stages=shown)
    elif shown and sys.stderr.isatty():
        progress = LiveBars(warn=warn)
    else:
        progress = Warnings(warn=warn)
    failed = True
    try:
        yield progress
        failed = False
    finally:
        progress.close(failed=failed)


def _open_bars() -> Bars:
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        """Steps done, of how many, the time taken, and the time left if it is known."""

        def render(self, task: Task) -> Text:
            taken = task.finished_time if task.finished else task.elapsed
            return Text(bar_figures(task.completed, task.total, taken, None if task.finished else task.time_remaining))

    console = open_console(stderr=True)
    bar = [BarColumn(bar_width=20)] if console.width >= NARROW else []
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        *bar,
        Figures(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
    )


def bar_figures(done: float, total: float | None, elapsed_s: float | None, left_s: float | None) -> str:
    """Return the figures of a bar.

    >>> bar_figures(1250, 5000, 30.0, 90.0)
    '1,250/5,000  0:30, 1:30 left'
    >>> bar_figures(0, None, 4000.0, None)
    '1:06:40'
    """
    steps = f"{done:,.0f}/{total:,.0f}  " if total is not None and total > 1 else ""
    left = "" if left_s is None else f", {_clock(left_s)} left"
    return f"{steps}{_clock(elapsed_s or 0)}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
