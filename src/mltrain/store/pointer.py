"""The pointer to the live version, and the links through it for other tools.

`promotion` alone moves it. A first promotion creates the pointer under a hidden name, appends its line to the log, and
then renames the pointer. This distinguishes a first promotion that was interrupted, or is in progress, from a pointer
that was lost.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.artifact import MODEL_FILE
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError
from mltrain.names import VERSION, show
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.reading import read_pointer

if TYPE_CHECKING:
    from pathlib import Path

POINTER: Final = "best_lgbm"
# Each companion link and its target.
LINKS: Final = {f"{POINTER}.pkl": f"{POINTER}/{MODEL_FILE}", f"{POINTER}_{CARD_FILE}": f"{POINTER}/{CARD_FILE}"}


@dataclass(frozen=True, slots=True)
class Pointer:
    """The pointer of a models folder.

    Attributes:
        models: The folder; it need not exist.
    """

    models: Path

    @property
    def path(self) -> Path:
        """Its path."""
        return self.models / POINTER

    @property
    def staged(self) -> Path:
        """Its path until the first promotion is complete."""
        return self.models / f".{POINTER}.next"

    def target(self) -> str | None:
        """Return the name of the live version; None if there is no pointer.

        Raises:
            InputError: It is not a symbolic link to the name of a version.
            MachineError: The machine refuses to read it.
        """
        target = read_pointer(self.path)
        if target is not None and VERSION.fullmatch(target) is None:
            raise InputError(f"{self.path} leads to {show(target)}, which is not a version")
        return target

    def staged_target(self) -> str | None:
        """Return the version that an interrupted first promotion was about to make live; None if there was none."""
        try:
            return read_pointer(self.staged)
        except InputError:
            return None

    def obstacles(self) -> tuple[Path, ...]:
        """Return files and folders in the place of the pointer or of a link, as a copy that followed links has them."""
        places = [self.models / name for name in (POINTER, *LINKS)]
        with disk_errors(self.models, "read"):
            return tuple(place for place in places if os.path.lexists(place) and not place.is_symlink())

    def has_link(self, name: str) -> bool:
        """Return whether a companion link exists.

        Raises:
            InputError: Something else has its name.
            MachineError: The machine refuses to read it.
        """
        link, wanted = self.models / name, LINKS[name]
        with disk_errors(link, "read"):
            if not os.path.lexists(link):
                return False
            target = str(link.readlink()) if link.is_symlink() else None
        if target != wanted:
            found = "is not a symbolic link" if target is None else f"leads to {show(target)}"
            raise InputError(f"{link} {found}, not to {wanted}", hint=f"remove {link}, then run `mltrain promote best`")
        return True
