"""The one pointer, `best_lgbm`, and the links through it for other tools; `store` alone moves them.

A first promotion creates the pointer under a hidden name, writes its line of the log, and then renames the pointer.
This distinguishes a promotion that was cut off, or is in progress, from a pointer that was lost.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from mltrain.artifact import MODEL_FILE
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError
from mltrain.names import VERSION, show
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.reading import read_pointer

if TYPE_CHECKING:
    from pathlib import Path

BEST: Final = "best_lgbm"
STAGED: Final = f".{BEST}.next"  # name of the pointer until its first move is done
LINKS: Final = {f"{BEST}.pkl": f"{BEST}/{MODEL_FILE}", f"{BEST}_{CARD_FILE}": f"{BEST}/{CARD_FILE}"}


def best_name(models: Path) -> str | None:
    """Return the version that the pointer of a models folder names; None where there is no pointer.

    Raises:
        InputError: It names no version.
        MachineError: The machine refuses to read it.
    """
    link = models / BEST
    target = read_pointer(link)
    if target is not None and VERSION.fullmatch(target) is None:
        raise InputError(f"{link} leads to {show(target)}, which is not a version")
    return target


def staged_name(models: Path) -> str | None:
    """Return the version that a first promotion was about to point to when it was cut off; None where none was."""
    try:
        return read_pointer(models / STAGED)
    except InputError:
        return None


def strays(models: Path) -> tuple[Path, ...]:
    """Return files and folders with the name of the pointer or of a link; a copy that followed links leaves them."""
    places = [models / name for name in (BEST, *LINKS)]
    with disk_errors(models, "read"):
        return tuple(place for place in places if os.path.lexists(place) and not place.is_symlink())


def has_link(link: Path) -> bool:
    """Return whether a link through the pointer is there.

    Raises:
        InputError: Something else has its name.
        MachineError: The machine refuses to read it.
    """
    wanted = LINKS[link.name]
    with disk_errors(link, "read"):
        if not os.path.lexists(link):
            return False
        found = str(link.readlink()) if link.is_symlink() else None
    if found != wanted:
        is_what = "is not a symbolic link" if found is None else f"leads to {show(found)}"
        raise InputError(f"{link} {is_what}, not to {wanted}", hint=f"remove {link}, then run `mltrain promote best`")
    return True
