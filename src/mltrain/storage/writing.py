"""Write files, logs and pointers: a reader, or the machine after a power cut, finds the old state or the new one."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mltrain.errors import InputError
from mltrain.storage.descriptors import CHUNK_BYTES, CREATE, opened_for_update, real_path, sync_folder
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import discard, temp_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def write_new(path: Path, data: bytes) -> None:
    """Write a new file down to the disk; the entry of its folder is not synced.

    Raises:
        MachineError: It cannot be written, or is already there. No part of it is left.
    """
    with disk_errors(path, "write"):
        _create(path, data)


def _create(path: Path, data: bytes) -> None:
    fd = os.open(path, CREATE, 0o666)
    try:
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        discard(path)
        raise


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that any reader finds the old bytes or the new ones, even after a crash.

    Raises:
        MachineError: It cannot be written; the old file is kept.
    """
    atomic_write_all(path.parent, {path.name: data})


def write_outputs(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that the user named, as `atomic_write_all` does, and follow the user's links.

    A device or a pipe is never replaced by a file: root would lose `/dev/null`.

    Raises:
        InputError: One is there and is not a regular file.
        MachineError: One cannot be written.
    """
    places = {real_path(folder / name): data for name, data in files.items()}
    for path in places:
        with disk_errors(path, "write"):
            if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
                raise InputError(
                    f"the output {path} is not a regular file", hint="name a file; where `-` is taken, it is stdout"
                )
    if len({path.parent for path in places}) == 1:
        atomic_write_all(next(iter(places)).parent, {path.name: data for path, data in places.items()})
        return
    # Links lead into different folders.
    for path, data in places.items():
        atomic_write(path, data)


def atomic_write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files of one folder, each as `atomic_write` does, with one sync of the folder for all.

    They are replaced in the order given; after a crash the first ones may be new and the others old.

    Raises:
        MachineError: One cannot be written; it and those after it are as before.
    """
    temps = {folder / name: temp_path(folder / name) for name in files}
    try:
        for path, temp in temps.items():
            with disk_errors(path, "write"):
                _create(temp, files[path.name])
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
    """Make `link` a symbolic link to `target`, in one atomic step.

    Args:
        link: The pointer. An existing one is replaced: check it with `read_pointer` first.
        target: A path relative to the link's folder, inside it.

    Raises:
        MachineError: The machine refuses; the pointer is as before.
        ValueError: `target` leaves the link's folder.
    """
    if Path(target).is_absolute() or ".." in Path(target).parts:
        raise ValueError(f"a pointer's target stays in its folder: {target}")
    with disk_errors(link, "move the pointer"):
        before = str(link.readlink()) if link.is_symlink() else None
        _point(link, target)
        try:
            sync_folder(link.parent)
        except BaseException:
            # A power cut may undo the move: after an error, the pointer must be as before.
            with suppress(OSError):
                if before is None:
                    link.unlink()
                else:
                    _point(link, before)
            raise


def place_pointer(staged: Path, link: Path) -> None:
    """Rename a link that `swap_pointer` made in the same folder to `link`, which is not there yet.

    Until the rename, the existence of `staged` shows that the move was begun.

    Raises:
        MachineError: The machine refuses; `staged` is still there.
    """
    with disk_errors(link, "move the pointer"):
        staged.rename(link)
        try:
            sync_folder(link.parent)
        except BaseException:
            with suppress(OSError):
                link.rename(staged)
            raise


def _point(link: Path, target: str) -> None:
    temp = temp_path(link)
    try:
        temp.symlink_to(target)
        temp.replace(link)
    except BaseException:
        discard(temp)
        raise


def append_line(path: Path, line: str) -> None:
    """Append one line to a file, down to the disk; a torn last line is cut off first.

    The caller holds the lock that guards the file. Earlier lines are never changed.

    Args:
        path: The file, made if absent. A symbolic link is refused.
        line: The text without its newline.

    Raises:
        InputError: `path` is a symbolic link or not a regular file.
        MachineError: The machine refuses; no part of the line is left.
        ValueError: `line` contains a newline.
    """
    append_lines(path, [line])


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines to a file, all with one write, as `append_line` does with one.

    Raises:
        InputError: `path` is a symbolic link or not a regular file.
        MachineError: The machine refuses; no part of any line is left.
        ValueError: One of them contains a newline.
    """
    if any("\n" in line for line in lines):
        raise ValueError("a line must not contain a newline")
    with opened_for_update(path, os.O_APPEND) as fd, disk_errors(path, "append to"):
        end = _end_of_last_line(fd)
        os.ftruncate(fd, end)
        try:
            _write_all(fd, "".join(f"{line}\n" for line in lines).encode())
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, end)
            raise
        sync_folder(path.parent)


def _end_of_last_line(fd: int) -> int:
    """Return the offset after the last newline; 0 without one."""
    end = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
