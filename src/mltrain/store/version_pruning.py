"""Pruning: old versions of a slot are removed, except those that are still needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mltrain.documents.results import Result
from mltrain.storage.folders import remove_folder
from mltrain.storage.locks import hold_folder

if TYPE_CHECKING:
    from mltrain.store.store import Store


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """An old version that was not removed.

    Attributes:
        version: Its name.
        why: Why it is still needed.
    """

    version: str
    why: str


@dataclass(frozen=True, slots=True)
class PrunedVersions(Result):
    """The result of pruning.

    Attributes:
        removed: Versions that were removed, oldest first.
        kept: Old versions that are still needed.
    """

    SCHEMA: ClassVar[str] = "models-prune/1"

    removed: tuple[str, ...]
    kept: tuple[KeptVersion, ...]


def prune_versions(store: Store, *, keep: int, dry_run: bool = False) -> PrunedVersions:
    """Remove all but the `keep` newest versions of the slot; the logs and the other slots stay as they are.

    Never removed are the live version, the one that `rollback --previous` would go back to, the latest (its serial
    must not be used twice), one that a running mltrain is reading, and what cannot be read as a version. A dry run
    removes nothing, and returns what would be removed.

    Raises:
        InputError: The pointer or the log of promotions is damaged, or the pointer was lost.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses.
    """
    if not store.models.is_dir():
        return PrunedVersions((), ())
    with store.lock("removing old versions"):
        history = store.check_pointer()
        rows = [row for row in store.versions() if row.version is None or row.version.slot == store.slot]
        needed = {row.name: "it cannot be read: remove it by hand" for row in rows if row.version is None}
        needed |= {row.name: "it is the latest" for row in rows if row.latest}
        if (previous := history.previous()) is not None:
            needed[previous] = "`rollback --previous` goes back to it"
        if history.best is not None:
            needed[history.best] = "it is the live version"
        removed, kept = [], []
        for row in rows[: max(len(rows) - keep, 0)]:
            with hold_folder(store.models / row.name, alone=True) as alone:
                why = needed.get(row.name) or (None if alone else "a running mltrain is reading it")
                if why is not None:
                    kept.append(KeptVersion(row.name, why))
                    continue
                removed.append(row.name)
                if not dry_run:
                    remove_folder(store.models / row.name)
    return PrunedVersions(tuple(removed), tuple(kept))
