"""Errors of the operating system at work on the disk, as MachineErrors that say what failed and what to do."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HINTS: Final = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "check the owner and the mode of the folder",
    errno.EPERM: "check the owner and the mode of the folder",
}


@contextmanager
def disk_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an OSError inside the block into a MachineError "cannot DOING PATH", where `doing` is such as "write"."""
    try:
        yield
    except OSError as err:
        raise as_machine_error(err, path, doing) from err


def as_machine_error(err: OSError, path: Path, doing: str) -> MachineError:
    """Return an OSError as a MachineError "cannot DOING PATH"; for a full disk the message has the free space."""
    code = err.errno or 0
    reason = err.strerror or str(err)
    if code in {errno.ENOSPC, errno.EDQUOT}:
        reason += f" ({_free_bytes(path)} bytes free)"
    return MachineError(f"cannot {doing} {path}: {reason}", hint=_HINTS.get(code))


def _free_bytes(path: Path) -> int:
    """Return the free space, in bytes, of the file system of a path; 0 if it cannot be found out."""
    for folder in path.absolute().parents:
        with suppress(OSError):
            space = os.statvfs(folder)
            return space.f_bavail * space.f_frsize
    return 0
