"""Write files, logs and pointers: a reader, or the machine after a power cut, finds the old state or the new one."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError, MachineError
from mltrain.storage.descriptors import CHUNK_BYTES, CREATE, opened_for_update, real_path, sync_folder
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import discard, new_temp_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Files that are open at a time, far below the usual limit of 256 or 1024.
_MAX_OPEN_FILES: Final = 64
# Files that are flushed at a time: the disk then flushes them together. While other programs flush too, that of 32
# files took 12 ms instead of 128.
_MAX_FLUSHES: Final = 4
# How often the temporary file of `write_without_lock` may be removed: the folder is locked for moments, now and then.
_MAX_REMOVALS: Final = 5


def write_new(path: Path, data: bytes) -> None:
    """Create a file with `data` and flush it to the disk, but not the folder's entry for it.

    Raises:
        MachineError: The file exists or cannot be written. No part of a new file is left.
    """
    with disk_errors(path, "write"):
        fd = os.open(path, CREATE, 0o666)
        try:
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            discard(path)
            raise


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, of which os.write may write only a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that any reader finds the old bytes or the new ones, even after a crash or an error."""
    atomic_write_all(path.parent, {path.name: data})


def write_without_lock(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write a file as `atomic_write` does, without the lock of its folder.

    A process that takes the lock removes temporary files, also this one; then the file is written again. Without
    `flush` the file need not survive a power cut, and does not wait for a busy disk.
    """
    write = atomic_write if flush else _replace_unflushed
    for _ in range(_MAX_REMOVALS):
        try:
            write(path, data)
        except MachineError as err:
            if not isinstance(err.__cause__, FileNotFoundError) or not path.parent.is_dir():
                raise
        else:
            return
    write(path, data)


def _replace_unflushed(path: Path, data: bytes) -> None:
    """Replace a file so that any reader finds the old bytes or the new ones, unless the power fails."""
    temp = new_temp_path(path)
    with disk_errors(path, "write"):
        try:
            temp.write_bytes(data)
            temp.replace(path)
        except BaseException:
            discard(temp)
            raise


def _create_all(files: Mapping[Path, tuple[Path, bytes]]) -> None:
    """Create temporary files and flush them to the disk; after an error, usually a MachineError, some may be left.

    `files` gives the temporary path and the content by the path that messages name.
    """
    fds = {}
    with ExitStack() as opened:
        for path, (temp, data) in files.items():
            with disk_errors(path, "write"):
                fds[path] = os.open(temp, CREATE, 0o666)
                opened.callback(os.close, fds[path])
                write_all(fds[path], data)

        def flush(path: Path) -> None:
            with disk_errors(path, "write"):
                os.fsync(fds[path])

        if len(fds) == 1:
            flush(*fds)
        else:
            # Imported here, because every command imports this module, and few write several files.
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(_MAX_FLUSHES) as threads:
                # The first error cancels the flushes that have not begun.
                for _ in threads.map(flush, fds):
                    pass


def write_outputs(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write output files, whose content `files` gives by name, to the user's folder; the user's links are followed.

    A device or a pipe is never replaced by a file: root would lose `/dev/null`.

    Raises:
        InputError: An output exists and is not a regular file.
    """
    outputs = {real_path(folder / name): data for name, data in files.items()}
    for path in outputs:
        with disk_errors(path, "write"):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise InputError(
                    f"the output {path} is not a regular file", hint="name a file; where `-` is taken, it is stdout"
                )
    # There are several folders only if links lead to them.
    for parent in dict.fromkeys(path.parent for path in outputs):
        atomic_write_all(parent, {path.name: data for path, data in outputs.items() if path.parent == parent})


def atomic_write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a folder, whose content `files` gives by name, each as `atomic_write` does.

    They are replaced in the order given; after a crash or an error the first ones may be new and the others old.
    """
    temps = {folder / name: new_temp_path(folder / name) for name in files}
    paths = list(temps)
    try:
        for start in range(0, len(paths), _MAX_OPEN_FILES):
            _create_all({path: (temps[path], files[path.name]) for path in paths[start : start + _MAX_OPEN_FILES]})
        for path, temp in temps.items():
            with disk_errors(path, "write"):
                temp.replace(path)
    except BaseException:
        for temp in temps.values():
            discard(temp)
        raise
    with disk_errors(folder, "write into"):
        sync_folder(folder)


def swap_pointer(link: Path, target: str) -> None:
    """Make the pointer `link` a symbolic link to `target`, in one atomic step; after an error it is as before.

    Args:
        link: The pointer. An existing one is replaced: check it with `read_pointer` first.
        target: A path relative to the link's folder, inside it.

    Raises:
        ValueError: `target` leaves the link's folder.
    """
    if Path(target).is_absolute() or ".." in Path(target).parts:
        raise ValueError(f"a pointer's target stays in its folder: {target}")
    with disk_errors(link, "move the pointer"):
        old_target = str(link.readlink()) if link.is_symlink() else None
        _replace_link(link, target)
        try:
            sync_folder(link.parent)
        except BaseException:
            # A power cut may undo the move: after an error, the pointer must be as before.
            with suppress(OSError):
                if old_target is None:
                    link.unlink()
                else:
                    _replace_link(link, old_target)
            raise


def place_pointer(staged: Path, link: Path) -> None:
    """Rename the link `staged`, which `swap_pointer` made in the same folder, to `link`, which does not exist yet.

    Until then, and after an error, `staged` exists and shows that the move was begun.
    """
    with disk_errors(link, "move the pointer"):
        staged.rename(link)
        try:
            sync_folder(link.parent)
        except BaseException:
            with suppress(OSError):
                link.rename(staged)
            raise


def _replace_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` in one step, whether it existed or not."""
    temp = new_temp_path(link)
    try:
        temp.symlink_to(target)
        temp.replace(link)
    except BaseException:
        discard(temp)
        raise


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines to a file and flush it to the disk; a last line without a newline, a torn one, is cut off first.

    The caller holds the lock that guards the file. Earlier lines are never changed; after an error no new one is left.

    Args:
        path: The file, created if absent. A symbolic link is refused.
        lines: The lines without their newlines.

    Raises:
        ValueError: A line contains a newline.
    """
    if any("\n" in line for line in lines):
        raise ValueError("a line must not contain a newline")
    with opened_for_update(path, os.O_APPEND) as fd, disk_errors(path, "append to"):
        end = end_of_last_line(fd)
        os.ftruncate(fd, end)
        try:
            write_all(fd, "".join(f"{line}\n" for line in lines).encode())
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, end)
            raise
        sync_folder(path.parent)


def end_of_last_line(fd: int) -> int:
    """Return the offset of the byte after the last newline of an open file; 0 if there is no newline."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
