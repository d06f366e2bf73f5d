"""What every touch of the disk shares: errors that say what was refused, temp names, and the sync of a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError, MachineError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMP_SUFFIX: Final = ".tmp"
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
OPEN_NO_WAIT: Final = os.O_NONBLOCK  # opening a FIFO would otherwise wait for its writer
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK_BYTES: Final = 1 << 20
#: The newest temporary paths of this process; one write has far fewer at a time.
_temps: Final[deque[Path]] = deque(maxlen=4096)
_WAY_OUT: Final = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "check the owner and the mode of the folder",
    errno.EPERM: "check the owner and the mode of the folder",
}


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextmanager
def disk_edge(path: Path, doing: str) -> Iterator[None]:
    """Turn what the operating system refuses inside the block into a MachineError.

    Args:
        path: What the work is on; the message names it.
        doing: A verb phrase that fits "cannot ... PATH", such as "write".

    Raises:
        MachineError: An OSError came out of the block.
    """
    try:
        yield
    except OSError as err:
        raise refused(err, path, doing) from err


def refused(err: OSError, path: Path, doing: str) -> MachineError:
    """Return what the machine refused as an error: what was done to which path, why not, and the way out."""
    code = err.errno or 0
    reason = err.strerror or str(err)
    if code in {errno.ENOSPC, errno.EDQUOT}:
        reason += f" ({_bytes_free(path)} bytes free)"
    return MachineError(f"cannot {doing} {path}: {reason}", hint=_WAY_OUT.get(code))


def _bytes_free(path: Path) -> int:
    for folder in path.absolute().parents:
        with suppress(OSError):
            space = os.statvfs(folder)
            return space.f_bavail * space.f_frsize
    return 0


def real_path(path: Path) -> Path:
    """Return where a path of the user's leads: on the command line a link is the user's own, and is followed.

    Links in a circle are left as they are: whatever then opens the path refuses them.

    Raises:
        InputError: It has a NUL in it.
    """
    try:
        return Path(os.path.realpath(path))  # pathlib's resolve raises a RuntimeError where links go in a circle
    except ValueError as err:
        raise InputError(f"{show(str(path))} cannot be a path") from err


def sync_folder(folder: Path) -> None:
    """Bring the entries of a folder down to the disk."""
    # Without it the rename may be lost in a power cut although the file is not.
    sync(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync(path: Path, flags: int) -> None:
    """Bring a file or a folder, opened with these flags, down to the disk."""
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def temp_beside(path: Path) -> Path:
    """Return a hidden name in the same folder that nobody else has, and that `sweep_temps` finds."""
    temp = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMP_SUFFIX}")
    note_temp(temp)
    return temp


def note_temp(path: Path) -> None:
    """Note a temporary file or folder of this process, for `discard_temps`."""
    _temps.append(path)


def discard_temps() -> None:
    """Remove the temporary files and folders of this process that are still there: it is about to end."""
    for path in tuple(_temps):
        discard(path)
        shutil.rmtree(path, ignore_errors=True)


def discard(path: Path) -> None:
    """Remove a temporary file; that it is there no more, or cannot be removed, is for the next sweep."""
    with suppress(OSError):
        path.unlink()
