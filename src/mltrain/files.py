"""The disk edge: every byte that must survive a crash is written here, and every untrusted file is opened here.

Writing: a hidden temp name in the same folder, fsync, rename, fsync of the folder, so that a reader (or the machine
after a power cut) sees the old state or the new one and nothing between. Temp names are made and swept only by
whoever holds the lock of their folder, and are never trusted. Reading: no symbolic link is followed, nothing but a
regular file is opened, none is read beyond the size its caller names.

This is the one module that renames, links or locks. What the operating system refuses becomes a MachineError, what
lies on the disk and should not an InputError; no OSError leaves.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError, LockedError, MachineError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TEMP_SUFFIX: Final = ".tmp"

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
_OPEN_NO_WAIT: Final = os.O_NONBLOCK  # opening a FIFO would otherwise wait for its writer
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES: Final = 1 << 20
_POLL_S: Final = 0.05
_HOLDER_BYTES: Final = 300  # of the lock file's text: pid, host, time, purpose

# What is wrong with the thing at that path, rather than with the machine.
_BAD_PATH: Final = {
    errno.ENOENT: "is not there",
    errno.ENOTDIR: "is not there",
    errno.ELOOP: "is a symbolic link, which is never followed",
    errno.ENXIO: "is not a regular file",
    errno.ENAMETOOLONG: "has too long a name",
}
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
        raise _refused(err, path, doing) from err


def _refused(err: OSError, path: Path, doing: str) -> MachineError:
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


@contextmanager
def _opened(path: Path, max_bytes: int, what: str) -> Iterator[int]:
    """Open a regular file for reading and give its descriptor; the size is that of the open file."""
    try:
        fd = os.open(path, _READ | _OPEN_NO_WAIT)
    except ValueError as err:  # a NUL in the path
        raise InputError(f"{what} {show(str(path))} cannot be a path") from err
    except OSError as err:
        if err.errno in _BAD_PATH:
            raise InputError(f"{what} {path} {_BAD_PATH[err.errno]}") from err
        raise _refused(err, path, "read") from err
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
        while left and (part := os.read(fd, min(left, _CHUNK_BYTES))):
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
        while part := os.read(fd, _CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there yet, down to the disk; its folder's entry is not synced.

    Raises:
        MachineError: It cannot be written, or is already there. No part of it is left.
    """
    with disk_edge(path, "write"):
        _create(path, data)


def _create(path: Path, data: bytes) -> None:
    fd = os.open(path, _CREATE, 0o666)
    try:
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        _discard(path)
        raise


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that any reader sees the old bytes or the new ones, whatever happens in between.

    Raises:
        MachineError: It cannot be written; the old file stands.
    """
    atomic_write_all(path.parent, {path.name: data})


def write_outputs(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that the user named, as `atomic_write_all` does, through the user's own links.

    A device or a pipe is never replaced by a file: root would lose `/dev/null`.

    Raises:
        InputError: What has the name is not a regular file.
        MachineError: One cannot be written.
    """
    places = {real_path(folder / name): data for name, data in files.items()}
    for path in places:
        with disk_edge(path, "write"):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise InputError(
                    f"the output {path} is not a regular file", hint="name a file; where `-` is taken, it is stdout"
                )
    if len({path.parent for path in places}) == 1:
        atomic_write_all(next(iter(places)).parent, {path.name: data for path, data in places.items()})
        return
    for path, data in places.items():  # links into folders of their own
        atomic_write(path, data)


def atomic_write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of one folder, each as `atomic_write` does, with one sync of the folder for all.

    They take their places in the order given; after a crash the first ones may be new and the others old.

    Raises:
        MachineError: One cannot be written; it and those after it stand as they were.
    """
    temps = {folder / name: _temp_beside(folder / name) for name in files}
    try:
        for path, temp in temps.items():
            with disk_edge(path, "write"):
                _create(temp, files[path.name])
        for path, temp in temps.items():
            with disk_edge(path, "write"):
                temp.replace(path)
    except BaseException:
        for temp in temps.values():
            _discard(temp)
        raise
    with disk_edge(folder, "write into"):
        _sync_folder(folder)


class Stage:
    """A hidden folder that is being filled.

    Attributes:
        path: Where to write; the commit record last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def publish(self, final: Path) -> None:
        """Let the folder become `final`, in the same folder, whole and down to the disk.

        Raises:
            InputError: Something called `final` is already there.
            MachineError: The machine refuses.
        """
        with disk_edge(final, "publish"):
            _sync_tree(self.path)
            _check_free(final)
            self.path.rename(final)
            _sync_folder(final.parent)


@contextmanager
def staging(parent: Path) -> Iterator[Stage]:
    """Give a hidden folder inside `parent` to fill; what is not published when the block ends vanishes.

    The caller holds the lock of `parent`.

    Raises:
        MachineError: The machine refuses.
    """
    temp = _temp_beside(parent / "stage")
    try:
        with disk_edge(temp, "make the folder"):
            temp.mkdir()
        yield Stage(temp)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Give a hidden folder to fill, which becomes `final` whole when the block ends well, and else vanishes.

    The caller holds the lock of the folder that `final` is in, and writes the commit record last.

    Raises:
        InputError: Something called `final` is already there.
        MachineError: The machine refuses; nothing is left under either name.
    """
    with staging(final.parent) as stage:
        yield stage.path
        stage.publish(final)


def remove_folder(path: Path) -> None:
    """Remove a published folder with all that is in it; the caller holds the lock of the folder around it.

    Its name goes first, in one step: a crash leaves hidden remains for `sweep_temps` and never half a folder.

    Raises:
        MachineError: The machine refuses.
    """
    temp = _temp_beside(path)
    with disk_edge(path, "remove"):
        path.rename(temp)
        _sync_folder(path.parent)
        shutil.rmtree(temp)


def _check_free(path: Path) -> None:
    if os.path.lexists(path):  # rename would silently replace an empty folder
        raise InputError(f"{path} is already there")


def _sync_tree(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _sync_tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                _sync(Path(entry.path), _READ)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    # Without it the rename may be lost in a power cut although the file is not.
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def swap_pointer(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, in one step that no reader can catch half done.

    Args:
        link: The pointer. What is there is replaced: check it with `read_pointer` first.
        target: A path relative to the link's folder, inside it.

    Raises:
        MachineError: The machine refuses; the pointer stands where it stood.
        ValueError: `target` leaves the link's folder.
    """
    if Path(target).is_absolute() or ".." in Path(target).parts:
        raise ValueError(f"a pointer's target stays in its folder: {target}")
    with disk_edge(link, "move the pointer"):
        before = str(link.readlink()) if link.is_symlink() else None
        _point(link, target)
        try:
            _sync_folder(link.parent)
        except BaseException:
            # Moved, but perhaps not for long: whoever is told that it failed must find it where it stood.
            with suppress(OSError):
                if before is None:
                    link.unlink()
                else:
                    _point(link, before)
            raise


def _point(link: Path, target: str) -> None:
    temp = _temp_beside(link)
    try:
        temp.symlink_to(target)
        temp.replace(link)
    except BaseException:
        _discard(temp)
        raise


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
        raise _refused(err, link, "read") from err
    if "/" in target or target in {".", ".."}:
        raise InputError(f"{link} leads to {show(target)}, which is not a name beside it")
    return target


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, down to the disk; a torn last line is cut off first.

    The caller holds the lock that guards the file. Whatever happens, the lines before stay as they are.

    Args:
        path: The file, made where absent. A symbolic link is refused.
        line: The text without its newline.

    Raises:
        InputError: `path` is a symbolic link or not a regular file.
        MachineError: The machine refuses; no part of the line is left.
        ValueError: `line` has a newline in it.
    """
    append_lines(path, [line])


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines to a file, all with one write, as `append_line` does with one.

    Raises:
        InputError: `path` is a symbolic link or not a regular file.
        MachineError: The machine refuses; no part of any line is left.
        ValueError: One of them has a newline in it.
    """
    if any("\n" in line for line in lines):
        raise ValueError("a line has no newline in it")
    with _opened_for_update(path, os.O_APPEND) as fd, disk_edge(path, "append to"):
        end = _end_of_last_line(fd)
        os.ftruncate(fd, end)
        try:
            _write_all(fd, "".join(f"{line}\n" for line in lines).encode())
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, end)
            raise
        _sync_folder(path.parent)


@contextmanager
def _opened_for_update(path: Path, flags: int = 0) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | _OPEN_NO_WAIT | flags, 0o666)
    except OSError as err:
        if err.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
            raise InputError(f"{path} is not a regular file") from err
        raise _refused(err, path, "open") from err
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"{path} is not a regular file")
        yield fd
    finally:
        os.close(fd)


def _end_of_last_line(fd: int) -> int:
    """Return the offset after the last newline; 0 where there is none."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - _CHUNK_BYTES)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


@contextmanager
def hold_lock(path: Path, *, wait_s: float, purpose: str) -> Iterator[None]:
    """Hold the lock file at `path` for the length of the block. It dies with its process, so it never goes stale.

    Args:
        path: The lock file, in a folder that exists. It stays after the release.
        wait_s: How long to wait for another holder, in seconds; 0 tries once.
        purpose: What the lock is held for, told to whoever waits in vain.

    Raises:
        LockedError: Another holder has it still; the message names pid, host, time and purpose.
        InputError: `path` is a symbolic link or not a regular file.
        MachineError: The machine refuses.
    """
    from filelock import lock_descriptor

    deadline_s = time.monotonic() + wait_s
    with _opened_for_update(path) as fd:
        with disk_edge(path, "lock"):
            while not lock_descriptor(fd, blocking=False):
                if time.monotonic() >= deadline_s:
                    raise LockedError(
                        f"another mltrain holds {path}: {_holder(fd)}", hint="wait until it ends, then run this again"
                    )
                time.sleep(_POLL_S)
        with suppress(OSError):  # on a full disk the lock has to work without its text: pruning is the way out
            _sign(fd, purpose)
        try:
            yield
        finally:
            with suppress(OSError):  # closing the descriptor releases the lock whatever its text says
                os.ftruncate(fd, 0)


@contextmanager
def hold_folder(path: Path, *, alone: bool) -> Iterator[bool]:
    """Hold a published folder for the length of the block: together with other readers, or alone, to remove it.

    Nobody waits, and nothing is written: the lock is on the folder itself, and works where it is read only.

    Args:
        path: The folder; no link is followed.
        alone: Nobody else may hold it.

    Yields:
        Whether it is held. A reader goes on without it: the folder is being removed, or is not there, and reads say so.
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


def _sign(fd: int, purpose: str) -> None:
    # The clock is read here and nowhere else below the CLI: the time is for people and decides nothing.
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"pid {os.getpid()} on {os.uname().nodename} since {since}, {purpose}\n"
    os.ftruncate(fd, 0)
    os.pwrite(fd, text.encode("ascii", "replace")[:_HOLDER_BYTES], 0)


def _holder(fd: int) -> str:
    text = os.pread(fd, _HOLDER_BYTES, 0).decode("ascii", "replace").strip()
    return "".join(c if c.isprintable() else "?" for c in text) or "it does not say who it is"


def sweep_temps(folder: Path) -> None:
    """Remove what a killed writer left in `folder`: every `.*.tmp`. The caller holds the folder's lock.

    Raises:
        MachineError: The machine refuses.
    """
    with disk_edge(folder, "clean up"), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(".") and entry.name.endswith(TEMP_SUFFIX)):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents where they are missing, and make sure that it can be written into.

    Called before long work starts: a write is tried, because modes alone do not tell (read-only mounts, root, quota).

    Raises:
        MachineError: It cannot be made or written into.
    """
    with disk_edge(path, "make the folder"):
        _make_missing(path)
    trial = _temp_beside(path / "write-test")
    with disk_edge(path, "write into"):
        os.close(os.open(trial, _CREATE, 0o666))
        trial.unlink(missing_ok=True)


def _make_missing(path: Path) -> None:
    if path.is_dir():
        return
    _make_missing(path.parent)
    path.mkdir(exist_ok=True)  # another process may have been faster
    _sync_folder(path.parent)


def _temp_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMP_SUFFIX}")


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
