"""Opening untrusted files: no symbolic link is followed, no pipe or device opened, none read beyond a size."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.names import show
from mltrain.storage.edge import CHUNK_BYTES, OPEN_NO_WAIT, READ, disk_edge, refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What is wrong with the thing at that path, rather than with the machine.
_BAD_PATH: Final = {
    errno.ENOENT: "is not there",
    errno.ENOTDIR: "is not there",
    errno.ELOOP: "is a symbolic link, which is never followed",
    errno.ENXIO: "is not a regular file",
    errno.ENAMETOOLONG: "has too long a name",
}


@contextmanager
def _opened(path: Path, max_bytes: int, what: str) -> Iterator[int]:
    """Open a regular file for reading and give its descriptor; the size is that of the open file."""
    try:
        fd = os.open(path, READ | OPEN_NO_WAIT)
    except ValueError as err:  # a NUL in the path
        raise InputError(f"{what} {show(str(path))} cannot be a path") from err
    except OSError as err:
        if err.errno in _BAD_PATH:
            raise InputError(f"{what} {path} {_BAD_PATH[err.errno]}") from err
        raise refused(err, path, "read") from err
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{what} {path} is not a regular file")
        if found.st_size > max_bytes:
            raise InputError(f"{what} {path} is too large: {found.st_size} bytes, at most {max_bytes}")
        with disk_edge(path, "read"):
            yield fd
    finally:
        os.close(fd)


def read_file(path: Path, *, max_bytes: int, what: str) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file. A symbolic link in its last part is refused.
        max_bytes: The most that the file may hold.
        what: The file's role, such as "the manifest": begins the message.

    Raises:
        InputError: It is missing, not a regular file, or too large.
        MachineError: The machine refuses to read it.
    """
    with _opened(path, max_bytes, what) as fd:
        parts = []
        left = max_bytes + 1  # one more than allowed: the file may have grown since its size was taken
        while left and (part := os.read(fd, min(left, CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
    if not left:
        raise InputError(f"{what} {path} is too large: more than {max_bytes} bytes")
    return b"".join(parts)


def hash_file(path: Path, *, max_bytes: int, what: str) -> str:
    """Return the SHA-256 of a regular file, in constant memory.

    Args:
        path: The file. A symbolic link in its last part is refused.
        max_bytes: The most that the file may hold; bytes beyond are not read.
        what: The file's role: begins the message.

    Raises:
        InputError: It is missing, not a regular file, or too large.
        MachineError: The machine refuses to read it.
    """
    digest = hashlib.sha256()
    with _opened(path, max_bytes, what) as fd:
        while part := os.read(fd, CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()


def read_pointer(link: Path) -> str | None:
    """Return the name that a pointer names in its own folder; None where there is no pointer.

    Raises:
        InputError: It is not a symbolic link, or leads out of its folder.
        MachineError: The machine refuses to read it.
    """
    try:
        target = str(link.readlink())
    except OSError as err:
        if err.errno == errno.ENOENT:
            return None
        if err.errno == errno.EINVAL:
            raise InputError(f"{link} is not a symbolic link") from err
        raise refused(err, link, "read") from err
    if "/" in target or target in {".", ".."}:
        raise InputError(f"{link} leads to {show(target)}, which is not a name beside it")
    return target
