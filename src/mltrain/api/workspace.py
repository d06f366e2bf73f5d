"""What the public functions have in common: the data folder, the clock, and where progress and warnings go."""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from mltrain.errors import UsageError
from mltrain.names import describe
from mltrain.progress import Progress
from mltrain.times import as_time_ms, check_time_ms

if TYPE_CHECKING:
    from mltrain.store.signature import Signer
    from mltrain.store.store import Store

PathText: TypeAlias = str | os.PathLike[str]
#: Text such as "2025-10-15T12:00:00Z", a datetime with a zone, a date (its midnight, UTC), or ms since 1970.
Time: TypeAlias = str | dt.date | int
#: Called with the name of a stage, its steps done, their total (None: unknown) and a note such as "best 0.68311".
ProgressFunction: TypeAlias = Callable[[str, int, int | None, str], object]
#: Receives the progress: an object with the methods of `mltrain.Progress`, or a function.
ProgressLike: TypeAlias = Progress | ProgressFunction

#: The data folder of every function and command that is not given another.
DATA_DIR: Final = "data"


class MltrainWarning(UserWarning):
    """What a user should know although the call goes on; the commands print it as a warning."""


class WarningsOnly:
    """A `Progress` that shows no stages, and issues warnings as `MltrainWarning`."""

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Issue a warning that points to the caller's own line."""
        frame, level = sys._getframe(1), 2  # noqa: SLF001 -- the documented way to the callers
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("mltrain."):
            frame, level = frame.f_back, level + 1
        warnings.warn(message, MltrainWarning, stacklevel=level)


class CallingProgress(WarningsOnly):
    """A `Progress` that calls a function when a stage begins or advances, and issues warnings as `MltrainWarning`.

    Args:
        function: An exception that it raises ends the run, as Ctrl-C does.
    """

    def __init__(self, function: ProgressFunction) -> None:
        self._function = function
        # By stage that is running: the steps done, and their total.
        self._running: dict[str, tuple[int, int | None]] = {}

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Call the function with no step done; the earlier stages have ended unless the new one is `concurrent`."""
        if not concurrent:
            self._running = {}
        self._running[name] = (0, total)
        self._function(name, 0, total, "")

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Call the function with the steps of a stage done so far; `stage` None: the newest."""
        if self._running:
            name = list(self._running)[-1] if stage is None else stage
            done, total = self._running[name]
            self._running[name] = (done + steps, total)
            self._function(name, done + steps, total, note)


def read_progress(progress: ProgressLike | None) -> Progress:
    """Return what shows the progress of a call.

    Args:
        progress: An object with the methods of `Progress`, or a function; None: warnings are issued as
            `MltrainWarning`, and nothing else is shown.

    Raises:
        UsageError: `progress` is none of these.
    """
    if progress is None:
        return WarningsOnly()
    if not isinstance(progress, type) and all(hasattr(progress, name) for name in ("stage", "advance", "warn")):
        return progress  # type: ignore[return-value]
    # What `mltrain.rich_progress()` returns can be called, but as a decorator.
    if isinstance(progress, AbstractContextManager):
        raise UsageError(
            "progress is a context manager: expected the Progress that it gives",
            hint="write `with mltrain.rich_progress() as progress:`",
        )
    if callable(progress):
        return CallingProgress(progress)
    raise UsageError(
        f"progress is {describe(progress)}: expected a Progress or a function",
        hint="such as lambda stage, done, total, note: print(stage, done, total, note)",
    )


def check_path(path: PathText, argument: str) -> Path:
    """Return a caller's path.

    Raises:
        UsageError: `path` is neither text nor a path; the message names `argument`.
    """
    # A path of bytes is one for `os`, and none for `pathlib`.
    if isinstance(path, str | os.PathLike) and isinstance(text := os.fspath(path), str):
        return Path(text)
    raise UsageError(f"{argument} is {describe(path)}: expected a path")


def read_number(number: float, argument: str) -> float:
    """Return a caller's number as one of Python's, whole if it is whole; NumPy's are taken, too.

    Raises:
        UsageError: `number` is no number; the message names `argument`.
    """
    if isinstance(number, bool) or not isinstance(number, Real):
        raise UsageError(f"{argument} is {describe(number)}: expected a number")
    return int(number) if isinstance(number, Integral) else float(number)


def read_whole(number: int, argument: str) -> int:
    """Return a caller's whole number as one of Python's; NumPy's are taken, too.

    Raises:
        UsageError: `number` is no whole number; the message names `argument`.
    """
    if isinstance(number, bool) or not isinstance(number, Integral):
        raise UsageError(f"{argument} is {describe(number)}: expected a whole number")
    return int(number)


def read_time(time: Time, argument: str) -> int:
    """Return a caller's time in ms UTC.

    Args:
        time: Text, a datetime with a zone, a date, or a number of ms since 1970.
        argument: Name of the caller's argument, for messages.

    Raises:
        UsageError: `time` is not one of these.
    """
    # NumPy's integers and floats are Real, its times and booleans are not.
    if isinstance(time, Real) and not isinstance(time, bool):
        return check_time_ms(time, argument)
    return as_time_ms(time, argument)


def read_clock(now_ms: int | None) -> int:
    """Return the given time, ms UTC; for None that of the machine's clock."""
    return time.time_ns() // 1_000_000 if now_ms is None else now_ms


def open_store(data_dir: PathText, slot: str | None, *, signer: Signer | None = None) -> Store:
    """Return the store of a data folder, in the named slot; None: the default slot."""
    from mltrain.names import DEFAULT_SLOT
    from mltrain.store.store import Store

    return Store(check_path(data_dir, "data_dir"), slot=slot or DEFAULT_SLOT, signer=signer)


def current_user() -> str:
    """Return the user as user@host, for the log of promotions."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # The user of a container may have no name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
