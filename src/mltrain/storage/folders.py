"""Folders that are published and removed whole, so that a reader or a crash never finds half of one."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.storage.descriptors import CREATE, OPEN_NO_WAIT, READ, sync_folder, sync_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import TEMP_SUFFIX, new_temp_path

if TYPE_CHECKING:
    from collections.abc import Iterator

# Always the same name, so that the next test removes what a killed one left: some folders are never swept.
_WRITE_TEST: Final = f".write-test{TEMP_SUFFIX}"


class Stage:
    """A hidden folder that is being filled before it is published.

    Attributes:
        path: The folder to write into; the commit record (the manifest) is written last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def publish(self, final: Path) -> None:
        """Flush the folder to the disk and rename it to `final`, in the same parent, in one step.

        Raises:
            InputError: `final` exists.
        """
        with disk_errors(final, "publish"):
            _sync_tree(self.path)
            # A rename would silently replace an empty folder.
            if os.path.lexists(final):
                raise InputError(f"{final} already exists")
            self.path.rename(final)
            sync_folder(final.parent)


@contextmanager
def staging(parent: Path) -> Iterator[Stage]:
    """Yield a new hidden folder in `parent` to fill; it is removed when the block ends unless it was published.

    The caller holds the lock of `parent`.
    """
    temp = new_temp_path(parent / "stage")
    try:
        with disk_errors(temp, "make the folder"):
            temp.mkdir()
        yield Stage(temp)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """Yield a hidden folder to fill; it is renamed to `final` when the block succeeds, and is removed otherwise.

    The caller holds the lock of the folder that `final` is in, and writes the commit record (the manifest) last.
    """
    with staging(final.parent) as stage:
        yield stage.path
        stage.publish(final)


def remove_folder(path: Path) -> None:
    """Remove a published folder and its contents; the caller holds the lock of its parent.

    It is renamed first, in one step: a crash leaves a hidden folder for `sweep_temps`, never half a published one.
    """
    temp = new_temp_path(path)
    with disk_errors(path, "remove"):
        path.rename(temp)
        sync_folder(path.parent)
        shutil.rmtree(temp)


def _sync_tree(folder: Path) -> None:
    """Flush all files and folders in a folder, and the folder itself, to the disk."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _sync_tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                sync_path(Path(entry.path), READ)
    sync_folder(folder)


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, and check that files can be written into it, before long work.

    A file is written, because modes alone do not show read-only mounts, root or quotas.
    """
    with disk_errors(path, "make the folder"):
        _make_missing(path)
    test_file = path / _WRITE_TEST
    with disk_errors(path, "write into"):
        test_file.unlink(missing_ok=True)
        os.close(os.open(test_file, CREATE & ~os.O_EXCL | OPEN_NO_WAIT, 0o666))
        test_file.unlink(missing_ok=True)


def _make_missing(path: Path) -> None:
    """Create a folder and its missing parents, each flushed to the disk."""
    if path.is_dir():
        return
    _make_missing(path.parent)
    # Another process may have created it since.
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)
