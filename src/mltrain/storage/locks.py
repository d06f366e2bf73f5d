"""Locks of files and folders; the kernel releases them when their process ends."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from mltrain.errors import LockedError
from mltrain.storage.descriptors import opened_for_update
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import sweep_temps
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Writers hold the lock of a folder for some milliseconds.
FOLDER_WAIT_S: Final = 10.0

_POLL_S: Final = 0.05
# Largest size of the lock file's text: pid, host, time, purpose.
_HOLDER_BYTES: Final = 300


@contextmanager
def hold_lock(path: Path, *, wait_s: float, purpose: str) -> Iterator[None]:
    """Hold a lock file for the block. The kernel releases the lock when the process ends, so that it never goes stale.

    Args:
        path: The lock file, in an existing folder. It is not removed afterwards.
        wait_s: How long to wait for another holder, in seconds; 0 tries once.
        purpose: What the lock is held for; shown by another process that has waited without success.

    Raises:
        LockedError: Another process still holds the lock; the message gives pid, host, time and purpose.
    """
    from filelock import lock_descriptor

    deadline_s = time.monotonic() + wait_s
    with opened_for_update(path) as fd:
        with disk_errors(path, "lock"):
            while not lock_descriptor(fd, blocking=False):
                if time.monotonic() >= deadline_s:
                    raise LockedError(
                        f"another mltrain holds {path}: {_read_holder(fd)}",
                        hint="wait until it ends, then run this again",
                    )
                time.sleep(_POLL_S)
        # On a full disk the lock has to work without its text: pruning, which needs the lock, frees space.
        with suppress(OSError):
            _write_holder(fd, purpose)
        try:
            yield
        finally:
            # Closing the descriptor releases the lock even if its text is still there.
            with suppress(OSError):
                os.ftruncate(fd, 0)


@contextmanager
def lock_folder(folder: Path, *, purpose: str, wait_s: float | None = None) -> Iterator[None]:
    """Hold the writers' lock of a folder, the file `.lock` in it, for the block, and remove what killed writers left.

    `purpose` and `wait_s`, in seconds, are as for `hold_lock`; None: FOLDER_WAIT_S.
    """
    with hold_lock(folder / ".lock", wait_s=FOLDER_WAIT_S if wait_s is None else wait_s, purpose=purpose):
        sweep_temps(folder)
        yield


def is_locked(path: Path) -> bool:
    """Return whether another process holds a lock file; this process holds it for a moment to find out."""
    try:
        with hold_lock(path, wait_s=0, purpose="checking whether it is held"):
            return False
    except LockedError:
        return True


@contextmanager
def hold_folder(path: Path, *, alone: bool) -> Iterator[bool]:
    """Lock a published folder for the block, without waiting: shared with other readers, or alone, to remove it.

    Nothing is written: the lock is on the folder itself, and works on a read-only file system.

    Args:
        path: The folder; a link is not followed.
        alone: Whether to lock it exclusively.

    Yields:
        Whether the lock is held. A reader may continue without: its reads fail if the folder is removed or missing.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            held = True
        except OSError:
            held = False
        yield held
    finally:
        os.close(fd)


def _write_holder(fd: int, purpose: str) -> None:
    """Write into an open lock file which process holds the lock, since when and for which purpose."""
    # The clock is read here and nowhere else below the CLI: the time is for people and decides nothing.
    since = format_seconds(time.time_ns() // 1_000_000)
    text = f"pid {os.getpid()} on {os.uname().nodename} since {since}, {purpose}\n"
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode("ascii", "replace")[:_HOLDER_BYTES], 0)


def _read_holder(fd: int) -> str:
    """Return what the holder of a lock has written into the open lock file."""
    text = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text) or "it left no name"
