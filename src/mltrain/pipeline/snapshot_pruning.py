"""Remove old snapshots, except those that a version or a running training needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.names import SNAPSHOT
from mltrain.snapshots.snapshot import FOLDER, LATEST, list_snapshots
from mltrain.storage.folders import remove_folder
from mltrain.storage.locks import is_locked, lock_folder
from mltrain.storage.reading import read_pointer
from mltrain.store.listing import list_models
from mltrain.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

# The name of a study begins with the id of its snapshot (`TrainRequest.study`).
_SNAPSHOT_OF_STUDY: Final = re.compile(SNAPSHOT.pattern + r"(?=-)")


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """An old snapshot that was not removed.

    Attributes:
        id: Its id.
        why: Why it is still needed.
    """

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class PrunedSnapshots:
    """The result of `prune_snapshots`.

    Attributes:
        removed: Ids, oldest first.
        kept: Old ones that are still needed.
    """

    removed: tuple[str, ...]
    kept: tuple[KeptSnapshot, ...]


def prune_snapshots(data_dir: Path, *, keep: int) -> PrunedSnapshots:
    """Remove all but the `keep` newest snapshots; damaged ones do not count.

    Never removed are `latest`, a snapshot that the card of a version names (its figures could not be recomputed any
    more), one that is being trained on, and anything that is not a folder.

    Raises:
        InputError: A damaged version hides which snapshot it needs, `latest` is not a pointer, or the pointer to the
            live version was lost.
        LockedError: Another mltrain is publishing a snapshot.
        MachineError: A folder cannot be read or removed.
    """
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return PrunedSnapshots((), ())
    with lock_folder(folder, purpose="pruning snapshots"):
        # Raises if `latest` is damaged: it would be unknown which snapshot to keep.
        read_pointer(folder / LATEST)
        rows = list_snapshots(data_dir)
        intact = [place for place, row in enumerate(rows) if row.problem is None]
        # Everything before the `keep`-th newest intact snapshot.
        end = len(rows) if keep == 0 else intact[-keep] if keep <= len(intact) else 0
        old = rows[:end]
        needed = {
            **_trained_on(data_dir),
            **{row.id: "it is the latest" for row in old if row.latest},
            **{row.id: "it is not a folder" for row in old if not _is_folder(folder / row.id)},
        }
        removed = tuple(row.id for row in old if row.id not in needed)
        for name in removed:
            remove_folder(folder / name)
        return PrunedSnapshots(removed, tuple(KeptSnapshot(r.id, needed[r.id]) for r in old if r.id in needed))


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _trained_on(data_dir: Path) -> dict[str, str]:
    """Return the snapshots that versions or running trainings need, and why."""
    needed = {}
    store = Store(data_dir)
    store.check_pointer()
    for row in list_models(store):
        if row.snapshot is None:
            raise InputError(
                f"version {row.version} is damaged, so the snapshot that it needs is unknown: {row.problem}",
                hint="nothing was removed; repair or remove that version first",
            )
        needed[row.snapshot] = f"version {row.version} was trained on it"
    studies = data_dir / "studies"
    for lock in sorted(studies.glob("*.lock")) if studies.is_dir() else ():
        found = _SNAPSHOT_OF_STUDY.match(lock.name)
        if found is not None and is_locked(lock):
            needed.setdefault(found[0], "it is being trained on")
    return needed
