"""Which old versions go, and who still needs those that stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mltrain.storage.folders import remove_folder
from mltrain.storage.locks import hold_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mltrain.store.history import History
    from mltrain.store.versions import VersionRow


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """An old version that was not removed.

    Attributes:
        version: Which.
        why: Who needs it.
    """

    version: str
    why: str


@dataclass(frozen=True, slots=True)
class PrunedVersions:
    """What `Store.prune` did.

    Attributes:
        removed: Versions, oldest first.
        kept: Older ones that somebody still needs.
    """

    removed: tuple[str, ...]
    kept: tuple[KeptVersion, ...]


def remove_old(models: Path, rows: Sequence[VersionRow], history: History, *, keep: int) -> PrunedVersions:
    """Remove all but the newest versions; the caller holds the lock of the folder.

    Args:
        models: The folder.
        rows: Its versions, oldest first.
        history: Its promotions.
        keep: How many of the newest stay.

    Raises:
        MachineError: The machine refuses.
    """
    needed = {row.name: "it cannot be read: remove it by hand" for row in rows if row.version is None}
    needed |= {row.name: "it is the latest" for row in rows if row.latest}
    if (previous := history.previous()) is not None:
        needed[previous] = "`rollback --previous` goes back to it"
    if history.best is not None:
        needed[history.best] = "it is the best version"
    removed, kept = [], []
    for row in rows[: max(len(rows) - keep, 0)]:
        with hold_folder(models / row.name, alone=True) as alone:
            why = needed.get(row.name) or (None if alone else "a running mltrain is reading it")
            if why is None:
                remove_folder(models / row.name)
                removed.append(row.name)
            else:
                kept.append(KeptVersion(row.name, why))
    return PrunedVersions(tuple(removed), tuple(kept))
