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
# The newest temporary paths of this process; one write has far fewer at a time.
_temps: Final[deque[Path]] = deque(maxlen=4096)


def temp_path(path: Path) -> Path:
    """Return a hidden, unused name in the folder of `path`, which `sweep_temps` finds."""
    temp = path.with_name(f".{path.name}.{os.urandom(4).hex()}{TEMP_SUFFIX}")
    note_temp(temp)
    return temp


def note_temp(path: Path) -> None:
    """Note a temporary file or folder of this process, for `discard_temps`."""
    _temps.append(path)


def discard(path: Path) -> None:
    """Remove a temporary file if it is there and can be removed; otherwise the next sweep does."""
    with suppress(OSError):
        path.unlink()


def discard_temps() -> None:
    """Remove the remaining temporary files and folders of this process, which is about to end."""
    for path in tuple(_temps):
        discard(path)
        shutil.rmtree(path, ignore_errors=True)


def sweep_temps(folder: Path, *, of: str = "") -> None:
    """Remove what a killed writer left in `folder`: every `.*.tmp`.

    Args:
        folder: The folder; the caller holds its lock, or the one that guards the names that begin with `of`.
        of: Only temps of files whose names begin with this.

    Raises:
        MachineError: The machine refuses.
    """
    with disk_errors(folder, "clean up"), os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.name.startswith(f".{of}") and entry.name.endswith(TEMP_SUFFIX)):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink(missing_ok=True)
