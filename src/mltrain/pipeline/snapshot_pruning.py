"""Remove old snapshots, except those that a version or a running training needs."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.documents.results import Result
from mltrain.errors import InputError
from mltrain.names import SNAPSHOT
from mltrain.pipeline.study_pruning import STUDIES
from mltrain.snapshots import FOLDER, LATEST
from mltrain.snapshots.snapshot import list_snapshots, open_snapshot
from mltrain.storage.folders import remove_folder
from mltrain.storage.locks import is_locked, lock_folder
from mltrain.storage.reading import read_pointer
from mltrain.store.listing import list_models
from mltrain.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mltrain.times import TimeRange

# The name of a study begins with the id of its snapshot (`TrainRequest.study`).
_SNAPSHOT_OF_STUDY: Final = re.compile(SNAPSHOT.pattern + r"(?=-)")


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """An old snapshot that was not removed.

    Attributes:
        id: Id of the snapshot.
        why: Why it is still needed.
    """

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class PrunedSnapshots(Result):
    """Which old snapshots were removed, and which were not.

    Attributes:
        removed: Ids of the removed snapshots, oldest first.
        kept: Old snapshots that are still needed, oldest first.
    """

    SCHEMA: ClassVar[str] = "snapshots-prune/1"

    removed: tuple[str, ...]
    kept: tuple[KeptSnapshot, ...]


def prune_snapshots(data_dir: Path, *, keep: int, dry_run: bool = False) -> PrunedSnapshots:
    """Remove the snapshots that are older than the `keep` newest sound ones; damaged ones do not count as kept.

    Never removed are `latest`, a snapshot that the card of a version names (the card's figures could not be recomputed
    any more), one that is being trained on, and anything that is not a folder. A dry run removes nothing, and returns
    what would be removed.

    Raises:
        InputError: A version is damaged, so that the snapshot it needs is unknown; `latest` is not a pointer; or the
            pointer to the live version was lost.
        LockedError: Another mltrain is publishing a snapshot.
    """
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return PrunedSnapshots((), ())
    with lock_folder(folder, purpose="pruning snapshots"):
        # Raises if `latest` is damaged: it would be unknown which snapshot to keep.
        read_pointer(folder / LATEST)
        snapshots = list_snapshots(data_dir)
        sound = [position for position, row in enumerate(snapshots) if row.problem is None]
        # Everything before the `keep`-th newest sound snapshot.
        end = len(snapshots) if keep == 0 else sound[-keep] if keep <= len(sound) else 0
        needed = _find_needed(data_dir)
        removed, kept = [], []
        for row in snapshots[:end]:
            path = folder / row.id
            if path.is_symlink() or not path.is_dir():
                needed[row.id] = "it is not a folder"
            elif row.latest:
                needed[row.id] = "it is the latest"
            if row.id in needed:
                kept.append(KeptSnapshot(row.id, needed[row.id]))
            else:
                removed.append(row.id)
        for snapshot_id in () if dry_run else removed:
            remove_folder(folder / snapshot_id)
        return PrunedSnapshots(tuple(removed), tuple(kept))


def find_days_in_use(data_dir: Path) -> Callable[[str, str, TimeRange], bool]:
    """Return a function that says whether a snapshot has candles of some days, so that their file can rebuild them.

    It takes a symbol, an interval and the UTC days.

    Raises:
        InputError: A snapshot is damaged, so that its days are unknown.
    """
    windows: dict[tuple[str, str], list[TimeRange]] = defaultdict(list)
    for row in list_snapshots(data_dir):
        if row.problem is not None:
            raise InputError(
                f"snapshot {row.id} is damaged, so that the days it needs are unknown: {row.problem}",
                hint="nothing was removed; repair or remove that snapshot first",
            )
        snapshot = open_snapshot(data_dir, row.id)
        for symbol in snapshot.symbols:
            windows[symbol, snapshot.interval].append(snapshot.window)

    def in_use(symbol: str, interval: str, days: TimeRange) -> bool:
        return any(w.start_ms < days.end_ms and days.start_ms < w.end_ms for w in windows[symbol, interval])

    return in_use


def _find_needed(data_dir: Path) -> dict[str, str]:
    """Return, by id, why snapshots are needed: a version was trained on them, or they are being trained on."""
    needed = {}
    store = Store(data_dir)
    for slot in store.promoted_slots():
        store.in_slot(slot).check_pointer()
    for row in list_models(store):
        if row.snapshot is None:
            raise InputError(
                f"version {row.version} is damaged, so the snapshot that it needs is unknown: {row.problem}",
                hint="nothing was removed; repair or remove that version first",
            )
        needed[row.snapshot] = f"version {row.version} was trained on it"
    studies = data_dir / STUDIES
    for lock in sorted(studies.glob("*.lock")) if studies.is_dir() else ():
        snapshot_id = _SNAPSHOT_OF_STUDY.match(lock.name)
        if snapshot_id is not None and is_locked(lock):
            needed.setdefault(snapshot_id[0], "it is being trained on")
    return needed
