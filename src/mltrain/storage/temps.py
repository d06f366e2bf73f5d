"""Temporary files and folders: hidden names (`.*.tmp`) next to what they become, and their removal."""

from __future__ import annotations

import os
import shutil
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from mltrain.storage.disk_errors import disk_errors

TEMP_SUFFIX: Final = ".tmp"
# The newest temporary paths of this process, for `discard_temps`; far more than one write has at a time.
_temps: Final[deque[Path]] = deque(maxlen=4096)


def new_temp_path(path: Path) -> Path:
    """Return an unused hidden path, such as `.NAME.1a2b3c4d.tmp`, next to `path`; nothing is created."""
    temp = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMP_SUFFIX}")
    note_temp(temp)
    return temp


def note_temp(path: Path) -> None:
    """Note a temporary file or folder of this process, so that `discard_temps` removes it."""
    _temps.append(path)


def discard(path: Path) -> None:
    """Remove a temporary file if it exists and can be removed; otherwise `sweep_temps` does later."""
    with suppress(OSError):
        path.unlink()


def discard_temps() -> None:
    """Remove the temporary files and folders that this process, which is about to end, still has."""
    # Other threads may still create some while this goes on.
    while _temps:
        path = _temps.popleft()
        discard(path)
        shutil.rmtree(path, ignore_errors=True)


def sweep_temps(folder: Path, *, of: str = "") -> None:
    """Remove the temporary files and folders, `.*.tmp`, that killed writers left in `folder`.

    Args:
        folder: The folder; the caller holds its lock, or the one that guards the names that begin with `of`.
        of: Only temporary files of files whose names begin with this are removed.
    """
    with disk_errors(folder, "clean up"), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(f".{of}") and entry.name.endswith(TEMP_SUFFIX)):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink(missing_ok=True)
