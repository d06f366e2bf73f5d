"""Read untrusted files and pointers: no link is followed, no pipe or device opened, nothing read beyond a limit."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError, UsageError
from mltrain.names import show
from mltrain.storage.descriptors import CHUNK_BYTES, opened_for_reading
from mltrain.storage.disk_errors import as_machine_error

if TYPE_CHECKING:
    from pathlib import Path

# Others must not read a secret, and the group must not write it: secrets are often mounted readable for the group.
_FORBIDDEN_MODE: Final = stat.S_IWGRP | stat.S_IRWXO


def read_file(path: Path, *, max_bytes: int, what: str) -> bytes:
    """Return the bytes of a regular file; a symbolic link in the last part of `path` is refused.

    Args:
        path: The file.
        max_bytes: Largest size of the file.
        what: The file's role, such as "the manifest", with which messages begin.

    Raises:
        InputError: The file is missing, not a regular file, or too large.
    """
    with opened_for_reading(path, max_bytes, what) as fd:
        parts = []
        # One byte more than allowed: the file may have grown since its size was taken.
        left = max_bytes + 1
        while left and (part := os.read(fd, min(left, CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
    if not left:
        raise InputError(f"{what} {path} is too large: more than {max_bytes} bytes")
    return b"".join(parts)


def read_secret(path: Path, *, max_bytes: int, what: str) -> bytes:
    """Return the bytes of a file that only its owner, and at most its group, may read; arguments as for `read_file`.

    Raises:
        UsageError: Others may read the file, or its group may write it.
        InputError: The file is missing, not a regular file, or too large.
    """
    with opened_for_reading(path, max_bytes, what) as fd:
        mode = os.fstat(fd).st_mode
    data = read_file(path, max_bytes=max_bytes, what=what)
    if mode & _FORBIDDEN_MODE:
        raise UsageError(
            f"{what} {path} has the mode {stat.S_IMODE(mode):04o}: other users must not read or write it",
            hint=f"chmod 600 {path}",
        )
    return data


def read_pointer(link: Path) -> str | None:
    """Return the name that a pointer, a symbolic link to a name in its folder, leads to; None if there is no pointer.

    Raises:
        InputError: `link` is not a symbolic link, or leads out of its folder.
    """
    try:
        target = str(link.readlink())
    except OSError as err:
        if err.errno == errno.ENOENT:
            return None
        if err.errno == errno.EINVAL:
            raise InputError(f"{link} is not a symbolic link") from err
        raise as_machine_error(err, link, "read") from err
    if "/" in target or target in {".", ".."}:
        raise InputError(f"{link} leads to {show(target)}, which is not a name in its folder")
    return target
