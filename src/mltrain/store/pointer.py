"""The pointer of a slot to its live version, and the links through that of the default slot for other tools.

Only `promotion` and `repair` move it. A first promotion creates the pointer under a hidden name, appends its line to
the log, and then renames the pointer. This distinguishes a first promotion that was interrupted, or is in progress,
from a pointer that was lost.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.artifact import MODEL_FILE
from mltrain.card.validation import CARD_FILE
from mltrain.errors import InputError
from mltrain.names import DEFAULT_SLOT, SLOT, VERSION, show
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.reading import read_pointer
from mltrain.store import REPAIR_HINT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_POINTER: Final = re.compile(rf"best_({SLOT.pattern})")
# Links through the pointer of the default slot, and their targets.
_LINKS: Final = {
    f"best_{DEFAULT_SLOT}.pkl": f"best_{DEFAULT_SLOT}/{MODEL_FILE}",
    f"best_{DEFAULT_SLOT}_{CARD_FILE}": f"best_{DEFAULT_SLOT}/{CARD_FILE}",
}


@dataclass(frozen=True, slots=True)
class Pointer:
    """The pointer of a slot; it need not exist.

    Attributes:
        models: The models folder; it need not exist.
        slot: The slot.
    """

    models: Path
    slot: str

    @property
    def path(self) -> Path:
        """Its path."""
        return self.models / f"best_{self.slot}"

    @property
    def staged(self) -> Path:
        """Its path until the first promotion is complete."""
        return self.models / f".best_{self.slot}.next"

    @property
    def links(self) -> Mapping[str, str]:
        """The name and the target of each link through it."""
        return _LINKS if self.slot == DEFAULT_SLOT else {}

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

    def has_link(self, name: str) -> bool:
        """Return whether a link through the pointer exists.

        Raises:
            InputError: Something else has its name.
            MachineError: The machine refuses to read it.
        """
        link, wanted = self.models / name, self.links[name]
        with disk_errors(link, "read"):
            if not os.path.lexists(link):
                return False
            target = str(link.readlink()) if link.is_symlink() else None
        if target != wanted:
            found = "is not a symbolic link" if target is None else f"leads to {show(target)}"
            raise InputError(f"{link} {found}, not to {wanted}", hint=REPAIR_HINT)
        return True


def pointer_at(path: Path) -> Pointer | None:
    """Return the pointer that a path names, itself or by a link through it; None if it names neither.

    >>> from pathlib import Path
    >>> pointer_at(Path("models/best_lgbm.pkl")).slot, pointer_at(Path("models/best_btc-1m")).slot
    ('lgbm', 'btc-1m')
    """
    if path.name in _LINKS:
        return Pointer(path.parent, DEFAULT_SLOT)
    found = _POINTER.fullmatch(path.name)
    return None if found is None else Pointer(path.parent, found[1])
