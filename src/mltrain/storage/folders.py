"""Folders that are published and removed whole, so that a reader or a crash never finds half of one."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.storage.descriptors import CREATE, OPEN_NO_WAIT, READ, sync, sync_folder
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import TEMP_SUFFIX, temp_path

if TYPE_CHECKING:
    from collections.abc import Iterator

# One name, so that the next test removes what a killed one left: not every folder is ever swept.
_WRITE_TEST: Final = f".write-test{TEMP_SUFFIX}"


class Stage:
    """A hidden folder that is being filled.

    Attributes:
        path: Where to write; the commit record last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def publish(self, final: Path) -> None:
        """Rename the folder to `final`, in the same parent, in one step and down to the disk.

        Raises:
            InputError: `final` is already there.
            MachineError: The machine refuses.
        """
        with disk_errors(final, "publish"):
            _sync_tree(self.path)
            _check_free(final)
            self.path.rename(final)
            sync_folder(final.parent)


@contextmanager
def staging(parent: Path) -> Iterator[Stage]:
    """Give a hidden folder inside `parent` to fill; it is removed when the block ends unless it was published.

    The caller holds the lock of `parent`.

    Raises:
        MachineError: The machine refuses.
    """
    temp = temp_path(parent / "stage")
    try:
        with disk_errors(temp, "make the folder"):
            temp.mkdir()
        yield Stage(temp)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Give a hidden folder to fill; it becomes `final` when the block succeeds, and is removed otherwise.

    The caller holds the lock of the folder that `final` is in, and writes the commit record last.

    Raises:
        InputError: `final` is already there.
        MachineError: The machine refuses; nothing is left under either name.
    """
    with staging(final.parent) as stage:
        yield stage.path
        stage.publish(final)


def remove_folder(path: Path) -> None:
    """Remove a published folder and its contents; the caller holds the lock of its parent.

    It is renamed first, in one step: a crash leaves a hidden folder for `sweep_temps`, never half a published one.

    Raises:
        MachineError: The machine refuses.
    """
    temp = temp_path(path)
    with disk_errors(path, "remove"):
        path.rename(temp)
        sync_folder(path.parent)
        shutil.rmtree(temp)


def _check_free(path: Path) -> None:
    # A rename would silently replace an empty folder.
    if os.path.lexists(path):
        raise InputError(f"{path} is already there")


def _sync_tree(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _sync_tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                sync(Path(entry.path), READ)
    sync_folder(folder)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, and check that files can be written into it.

    Called before long work. A file is written, because modes alone do not show read-only mounts, root or quotas.

    Raises:
        MachineError: It cannot be made or written into.
    """
    with disk_errors(path, "make the folder"):
        _make_missing(path)
    test_file = path / _WRITE_TEST
    with disk_errors(path, "write into"):
        test_file.unlink(missing_ok=True)
        os.close(os.open(test_file, CREATE & ~os.O_EXCL | OPEN_NO_WAIT, 0o666))
        test_file.unlink(missing_ok=True)


def _make_missing(path: Path) -> None:
    if path.is_dir():
        return
    _make_missing(path.parent)
    # Another process may have been faster.
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)
