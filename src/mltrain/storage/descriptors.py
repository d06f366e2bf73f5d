"""Open files safely and flush them to the disk: no symbolic link, pipe or device is opened as a regular file."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.names import show
from mltrain.storage.disk_errors import as_machine_error, disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without it, opening a FIFO would wait for its writer.
OPEN_NO_WAIT: Final = os.O_NONBLOCK
CHUNK_BYTES: Final = 1 << 20

# Errors for which the path is to blame, not the machine.
_BAD_PATH: Final = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.ELOOP: "is a symbolic link, which is never followed",
    errno.ENXIO: "is not a regular file",
    errno.ENAMETOOLONG: "has too long a name",
}


def real_path(path: Path) -> Path:
    """Return a path that the user gave as an absolute path without symbolic links; an InputError if it holds a NUL."""
    try:
        # Keeps a circle of links, which fails when it is opened; pathlib's resolve would raise a RuntimeError.
        return Path(os.path.realpath(path))
    except ValueError as err:
        raise InputError(f"{show(str(path))} cannot be a path") from err


@contextmanager
def opened_for_reading(path: Path, max_bytes: int, what: str) -> Iterator[int]:
    """Open a regular file for the block, and yield its descriptor.

    Args:
        path: The file. A symbolic link in its last part is refused.
        max_bytes: Largest size of the file when it is opened.
        what: The file's role, such as "the manifest", with which messages begin.

    Raises:
        InputError: The file is missing, not a regular file, or too large.
        MachineError: The operating system refuses to open or read it.
    """
    try:
        fd = os.open(path, READ | OPEN_NO_WAIT)
    # The path has a NUL in it.
    except ValueError as err:
        raise InputError(f"{what} {show(str(path))} cannot be a path") from err
    except OSError as err:
        if err.errno in _BAD_PATH:
            raise InputError(f"{what} {path} {_BAD_PATH[err.errno]}") from err
        raise as_machine_error(err, path, "read") from err
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{what} {path} is not a regular file")
        if status.st_size > max_bytes:
            raise InputError(f"{what} {path} is too large: {status.st_size} bytes, at most {max_bytes}")
        with disk_errors(path, "read"):
            yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_for_update(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a regular file for reading and writing, created if absent, for the block, and yield its descriptor.

    `flags` are further flags for os.open, such as O_APPEND.

    Raises:
        InputError: The file is a symbolic link or not a regular file.
        MachineError: The operating system refuses to open it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | OPEN_NO_WAIT | flags, 0o666)
    except OSError as err:
        if err.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise InputError(f"{path} is not a regular file") from err
        raise as_machine_error(err, path, "open") from err
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"{path} is not a regular file")
        yield fd
    finally:
        os.close(fd)


def sync_path(path: Path, flags: int) -> None:
    """Flush the file or folder at `path`, opened with these flags of os.open, to the disk."""
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk: a power cut may otherwise undo a rename in it."""
    sync_path(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
