"""Open files safely and bring them down to the disk: no symbolic link, pipe or device is opened as a regular file."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.names import show
from mltrain.storage.disk_errors import disk_errors, machine_error

if TYPE_CHECKING:
    from collections.abc import Iterator

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without it, opening a FIFO would wait for its writer.
OPEN_NO_WAIT: Final = os.O_NONBLOCK
CHUNK_BYTES: Final = 1 << 20

# What is wrong with the path, not with the machine.
_BAD_PATH: Final = {
    errno.ENOENT: "is not there",
    errno.ENOTDIR: "is not there",
    errno.ELOOP: "is a symbolic link, which is never followed",
    errno.ENXIO: "is not a regular file",
    errno.ENAMETOOLONG: "has too long a name",
}


def real_path(path: Path) -> Path:
    """Return where the user's path leads: on the command line, links are the user's own and are followed.

    A circle of links is left as it is: whatever then opens the path refuses it.

    Raises:
        InputError: It has a NUL in it.
    """
    try:
        # pathlib's resolve raises a RuntimeError for a circle of links.
        return Path(os.path.realpath(path))
    except ValueError as err:
        raise InputError(f"{show(str(path))} cannot be a path") from err


@contextmanager
def opened_for_reading(path: Path, max_bytes: int, what: str) -> Iterator[int]:
    """Open a regular file and give its descriptor.

    Args:
        path: The file. A symbolic link in its last part is refused.
        max_bytes: Largest size of the open file.
        what: The file's role, such as "the manifest": begins the message.

    Raises:
        InputError: It is missing, not a regular file, or too large.
        MachineError: The machine refuses to open or read it.
    """
    try:
        fd = os.open(path, READ | OPEN_NO_WAIT)
    # ValueError: a NUL in the path.
    except ValueError as err:
        raise InputError(f"{what} {show(str(path))} cannot be a path") from err
    except OSError as err:
        if err.errno in _BAD_PATH:
            raise InputError(f"{what} {path} {_BAD_PATH[err.errno]}") from err
        raise machine_error(err, path, "read") from err
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{what} {path} is not a regular file")
        if found.st_size > max_bytes:
            raise InputError(f"{what} {path} is too large: {found.st_size} bytes, at most {max_bytes}")
        with disk_errors(path, "read"):
            yield fd
    finally:
        os.close(fd)


@contextmanager
def opened_for_update(path: Path, flags: int = 0) -> Iterator[int]:
    """Open a regular file for reading and writing, made if absent, and give its descriptor.

    Raises:
        InputError: It is a symbolic link or not a regular file.
        MachineError: The machine refuses to open it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | OPEN_NO_WAIT | flags, 0o666)
    except OSError as err:
        if err.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise InputError(f"{path} is not a regular file") from err
        raise machine_error(err, path, "open") from err
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"{path} is not a regular file")
        yield fd
    finally:
        os.close(fd)


def sync(path: Path, flags: int) -> None:
    """Bring a file or a folder, opened with these flags, down to the disk."""
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Bring the entries of a folder down to the disk."""
    # A power cut may otherwise undo a rename although the file itself is safe.
    sync(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
