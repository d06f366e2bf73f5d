"""Progress on stderr: bars with the time left on a terminal, lines of JSON for logs, warnings everywhere."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mltrain.cli.console import log_line, logs_json, open_console, print_labelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import Task, TaskID
    from rich.text import Text

    from mltrain.progress import Progress

# A terminal with fewer columns has room for the figures of a stage, but not for its bar.
MIN_COLUMNS_OF_BARS: Final = 80


class CommandProgress:
    """The progress of a command: shows warnings as lines, and no stages. Subclasses also show the stages.

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
        """End the stages that still run."""


class LiveBars(CommandProgress):
    """Shows stages as bars, and warnings as lines above them.

    Args:
        warn: False hides warnings.
        console: Where; None: stderr, as a terminal.
    """

    def __init__(self, *, warn: bool, console: Console | None = None) -> None:
        super().__init__(warn=warn)
        self._console = console
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Begin a stage; the earlier ones are shown as finished, unless it is `concurrent` with them."""
        # Loaded with the first stage: a command without stages does not pay for it.
        if self._bars is None:
            self._bars = _open_bars(self._console or open_console(stderr=True))
            self._bars.start()
        if not concurrent:
            self._finish()
        self._tasks[name] = self._bars.add_task(name, total=total, note="")

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Add steps and a note to the bar of a stage; `stage` None: the newest."""
        if self._bars is not None and self._tasks:
            task = list(self._tasks.values())[-1] if stage is None else self._tasks[stage]
            self._bars.update(task, advance=steps, note=note)

    def _finish(self) -> None:
        """Show the stages that still run as finished."""
        if self._bars is not None:
            for task in self._bars.tasks:
                if task.id in self._tasks.values():
                    self._bars.update(task.id, total=task.total or 1, completed=task.total or 1)
        self._tasks = {}

    def close(self, *, failed: bool) -> None:
        """End the stages that still run; after a failure their bars stay where they were."""
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


class LogLines(CommandProgress):
    """Writes a line of JSON when a stage begins or ends, and for each warning."""

    def __init__(self, *, warn: bool, stages: bool) -> None:
        super().__init__(warn=warn)
        self._log_stages = stages
        # By stage: the monotonic time of its begin in s, the steps done, and their total.
        self._running: dict[str, tuple[float, int, int | None]] = {}

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Log that a stage begins, and that the earlier ones have ended, unless it is `concurrent` with them."""
        if not concurrent:
            self._end("done")
        self._running[name] = (time.monotonic(), 0, total)
        if self._log_stages:
            log_line("info", "stage", stage=name, total=total)

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:  # noqa: ARG002 (a protocol)
        """Count the steps, for the line at the end of the stage."""
        if self._running:
            name = list(self._running)[-1] if stage is None else stage
            start_s, done, total = self._running[name]
            self._running[name] = (start_s, done + steps, total)

    def _end(self, state: str) -> None:
        """Log that the stages that still run are "done" or "failed"."""
        for name, (start_s, done, total) in self._running.items():
            if self._log_stages:
                seconds = round(time.monotonic() - start_s, 3)
                log_line("info", f"stage {state}", stage=name, steps=done, total=total, seconds=seconds)
        self._running = {}

    def warn(self, message: str) -> None:
        """Log the warning."""
        if self._warn:
            log_line("warning", "warning", message=message)

    def close(self, *, failed: bool) -> None:
        """Log how the stages that still run ended."""
        self._end("failed" if failed else "done")


@contextmanager
def open_progress(*, shown: bool, warn: bool) -> Iterator[CommandProgress]:
    """Yield the progress of one command, and close it at the end.

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
        progress = CommandProgress(warn=warn)
    failed = True
    try:
        yield progress
        failed = False
    finally:
        progress.close(failed=failed)


@contextmanager
def rich_progress() -> Iterator[Progress]:
    """Yield a `Progress` that shows Rich's bars while the `with` block lasts, in a notebook or on stderr.

    A notebook needs the package ipywidgets for bars that move.

        with mltrain.rich_progress() as progress:
            mltrain.train(progress=progress)
    """
    from rich.console import Console

    # Unlike that of a command, Rich chooses the width and whether it is in a notebook.
    bars = LiveBars(warn=True, console=Console(stderr=True, highlight=False, emoji=False, markup=False))
    failed = True
    try:
        yield bars
        failed = False
    finally:
        bars.close(failed=failed)


def _open_bars(console: Console) -> Bars:
    """Return progress bars on a console, without any stage yet."""
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        """The steps done and their total, the time since the begin, and the time left if it is known."""

        def render(self, task: Task) -> Text:
            elapsed_s = task.finished_time if task.finished else task.elapsed
            left_s = None if task.finished else task.time_remaining
            return Text(bar_figures(task.completed, task.total, elapsed_s=elapsed_s, left_s=left_s))

    bar = [BarColumn(bar_width=20)] if console.width >= MIN_COLUMNS_OF_BARS else []
    return Bars(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        *bar,
        Figures(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
    )


def bar_figures(done: float, total: float | None, *, elapsed_s: float | None, left_s: float | None) -> str:
    """Return the steps of a stage as text, and its times as minutes and seconds.

    >>> bar_figures(1250, 5000, elapsed_s=30.0, left_s=90.0)
    '1,250/5,000  0:30, 1:30 left'
    >>> bar_figures(0, None, elapsed_s=4000.0, left_s=None)
    '1:06:40'
    """
    steps = f"{done:,.0f}/{total:,.0f}  " if total is not None and total > 1 else ""
    left = "" if left_s is None else f", {_clock_text(left_s)} left"
    return f"{steps}{_clock_text(elapsed_s or 0)}{left}"


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
