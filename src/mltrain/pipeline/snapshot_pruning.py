"""Remove old snapshots, but none that somebody still needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError, LockedError
from mltrain.names import SNAPSHOT
from mltrain.snapshots.snapshot import FOLDER, LATEST, list_snapshots
from mltrain.storage.folders import remove_folder, sweep_temps
from mltrain.storage.locks import hold_lock
from mltrain.storage.reading import read_pointer
from mltrain.store.listing import list_models
from mltrain.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.snapshots.snapshot import SnapshotRow

# A study is called after its snapshot, as mltrain.pipeline.train names it.
_SNAPSHOT_OF_STUDY: Final = re.compile(SNAPSHOT.pattern + r"(?=-)")
_LOCK: Final = ".lock"
_LOCK_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """An old snapshot that was not removed.

    Attributes:
        id: Which.
        why: Who needs it.
    """

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class PrunedSnapshots:
    """What `prune_snapshots` did.

    Attributes:
        removed: Ids, oldest first.
        kept: Older ones that somebody still needs.
    """

    removed: tuple[str, ...]
    kept: tuple[KeptSnapshot, ...]


def prune_snapshots(data_dir: Path, *, keep: int) -> PrunedSnapshots:
    """Remove all but the `keep` newest snapshots; one that does not open is not counted.

    Never removed are `latest`, one that a version's card names (its numbers could not be recomputed any more), one
    that is being trained on, and what is no folder.

    Raises:
        InputError: A version is damaged, so that the snapshot that it names is not known; `latest` is no pointer; or
            the pointer to the best version was lost.
        LockedError: Another mltrain is publishing a snapshot.
        MachineError: The machine refuses.
    """
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return PrunedSnapshots((), ())
    with hold_lock(folder / _LOCK, wait_s=_LOCK_WAIT_S, purpose="pruning snapshots"):
        sweep_temps(folder)
        read_pointer(folder / LATEST)  # raises where it cannot be told which one is the latest
        old = _older(list_snapshots(data_dir), keep)
        needed = {
            **_trained_on(data_dir),
            **{row.id: "it is the latest" for row in old if row.latest},
            **{row.id: "it is no folder" for row in old if not _is_folder(folder / row.id)},
        }
        removed = tuple(row.id for row in old if row.id not in needed)
        for name in removed:
            remove_folder(folder / name)
        return PrunedSnapshots(removed, tuple(KeptSnapshot(r.id, needed[r.id]) for r in old if r.id in needed))


def _older(rows: tuple[SnapshotRow, ...], keep: int) -> tuple[SnapshotRow, ...]:
    """Return what is older than the `keep` newest ones that open."""
    sound = [place for place, row in enumerate(rows) if row.problem is None]
    if keep == 0:
        return rows
    return rows[: sound[-keep]] if keep <= len(sound) else ()


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
                f"version {row.version} is damaged, so that the snapshot that it names is not known: {row.problem}",
                hint="nothing was removed; mend or remove that version first",
            )
        needed[row.snapshot] = f"version {row.version} was trained on it"
    studies = data_dir / "studies"
    for lock in sorted(studies.glob("*.lock")) if studies.is_dir() else ():
        try:
            with hold_lock(lock, wait_s=0, purpose="looking whether it is held"):
                continue
        except LockedError:
            found = _SNAPSHOT_OF_STUDY.match(lock.name)
            if found is not None:
                needed.setdefault(found[0], "it is being trained on")
    return needed
