"""Repair: pointers and links that a copy of the data folder lost, or turned into files and folders, are restored.

What is left of a pointer shows where it led: a folder that is a copy of a version (links were followed), a file that
holds a version's name (links were stored as text), or a link with another path to a version. That also shows whether
the last line of the log happened. If nothing is left, the last line counts. Only copies of something else in the data
folder are removed; what cannot be decided is left as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from mltrain.errors import InputError
from mltrain.names import SNAPSHOT, VERSION, show
from mltrain.snapshots import FOLDER, LATEST
from mltrain.snapshots.snapshot import list_snapshots
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import remove_folder
from mltrain.storage.hashing import hash_file
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import read_manifest
from mltrain.storage.reading import read_file
from mltrain.storage.writing import append_lines, swap_pointer
from mltrain.store.history import Attribution, check_history, promotion_line
from mltrain.store.versions import open_version_folder

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator
    from pathlib import Path

    from mltrain.store.history import Promotion, PromotionLog
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion

# Longer files are not the text of a link.
_MAX_TEXT_BYTES: Final = 4096
# Larger files are not a model or a card.
_MAX_COPY_BYTES: Final = 1 << 30
_NO_COPY: Final = "it is not a copy of anything in the data folder: move {} away, and repair again"


@dataclass(frozen=True, slots=True)
class RepairStep:
    """One pointer or link that was not as it should be.

    Attributes:
        path: Its path.
        found: What was there: "missing", "a folder", "a link to X".
        target: What it leads to after the repair; None if that cannot be decided, and it is left as it is.
        left: Why it is left, and what to do; None if it is repaired.
    """

    path: Path
    found: str
    target: str | None
    left: str | None


@dataclass(frozen=True, slots=True)
class _Remains:
    """What is in the place of a pointer.

    Attributes:
        found: What it is: "missing", "a folder"; None if it is a link to a name of the right form.
        named: The version or snapshot that it names; None if it names none.
        removable: Whether it may be replaced: it is absent, or a copy of something else in the store.
    """

    found: str | None
    named: str | None
    removable: bool


def repair_store(store: Store, *, by: str, now_ms: int, dry_run: bool = False) -> tuple[RepairStep, ...]:
    """Restore every lost or damaged pointer and link of a data folder.

    Args:
        store: The store; all of its slots are repaired.
        by: Who asked, for the log of promotions.
        now_ms: Time, ms UTC.
        dry_run: Write nothing, and return what would be done.

    Raises:
        InputError: The log of promotions is not a file.
        LockedError: A folder is locked for longer than the wait.
        MachineError: The machine refuses; a second call completes the repair.
    """
    return (*_repair_models(store, by=by, now_ms=now_ms, dry_run=dry_run), *_repair_latest(store, dry_run=dry_run))


def _repair_models(store: Store, *, by: str, now_ms: int, dry_run: bool) -> tuple[RepairStep, ...]:
    if not store.models.is_dir():
        return ()
    if dry_run:
        return tuple(step for slot in store.promoted_slots() for step in _repair_slot(store.in_slot(slot), None))
    attribution = Attribution("the pointer was repaired", by, now_ms)
    with store.lock("repairing the pointers"):
        return tuple(step for slot in store.promoted_slots() for step in _repair_slot(store.in_slot(slot), attribution))


def _repair_slot(store: Store, attribution: Attribution | None) -> Iterator[RepairStep]:
    """Repair the pointer of a slot and the links through it; without an attribution, nothing is written."""
    log, remains = store.promotion_log(), _examine_pointer(store)
    if remains.found is not None and _was_live(store, log):
        try:
            target = _find_target(store, log, remains)
        except InputError as err:
            yield RepairStep(store.pointer.path, remains.found, None, err.message)
            return
        if attribution is not None:
            _restore(store, target, attribution)
        yield RepairStep(store.pointer.path, remains.found, target.name, None)
        live = True
    else:
        live = os.path.lexists(store.pointer.path)
    yield from _repair_links(store, live=live, dry_run=attribution is None)


def _was_live(store: Store, log: PromotionLog) -> bool:
    """Return whether the slot had a pointer, according to the log or to what is in its place.

    A first promotion that was interrupted had none yet; the next promotion completes it.
    """
    staged = store.pointer.staged_target()
    lost = check_history(log, store.slot, best=None, staged=staged, where=str(store.promotions_path)).lost
    return lost is not None or os.path.lexists(store.pointer.path)


def _examine_pointer(store: Store) -> _Remains:
    """Return what is in the place of the slot's pointer; a link to a version of another slot names none."""
    remains = _examine(store.pointer.path, VERSION, "version")
    if remains.found is not None or remains.named is None:
        return remains
    row = store.read_row(remains.named)
    if row.version is None:
        return replace(remains, found=f"a link to {remains.named}, which cannot be opened")
    if row.version.slot != store.slot:
        return _Remains(f"a link to {row.name}, a version of the slot {row.version.slot}", None, removable=True)
    return remains


def _examine(place: Path, names: re.Pattern[str], kind: str) -> _Remains:
    """Return what is in the place of a pointer.

    Args:
        place: The path of the pointer.
        names: The grammar of what it may lead to.
        kind: "version" or "snapshot".
    """
    with disk_errors(place, "read"):
        if not os.path.lexists(place):
            return _Remains("missing", None, removable=True)
        if place.is_symlink():
            target = str(place.readlink())
            sound = names.fullmatch(target) is not None
            return _Remains(None if sound else f"a link to {show(target)}", _name_in(target, names), removable=True)
        if place.is_dir():
            return _examine_folder(place, names, kind)
        if not place.is_file() or place.stat().st_size > _MAX_TEXT_BYTES:
            return _Remains("not a link", None, removable=False)
    text = read_file(place, max_bytes=_MAX_TEXT_BYTES, what="the pointer").decode("utf-8", "replace")
    name = _name_in(text, names)
    return _Remains("a file", name, removable=name is not None or not text)


def _name_in(text: str, names: re.Pattern[str]) -> str | None:
    """Return the name that the text of a link ends with; None if it is none."""
    name = PurePath(text.strip()).name
    return name if names.fullmatch(name) else None


def _examine_folder(place: Path, names: re.Pattern[str], kind: str) -> _Remains:
    """Return what a folder in the place of a pointer is a copy of, by its manifest and that of the original."""
    if not os.listdir(place):  # noqa: PTH208 (whether there is any)
        return _Remains("an empty folder", None, removable=True)
    try:
        manifest = read_manifest(place, kind=kind)
        name = str(manifest.head["version" if kind == "version" else "id"])
        original = read_manifest(place.parent / name, kind=kind) if names.fullmatch(name) else None
    except (InputError, KeyError):
        return _Remains("a folder", None, removable=False)
    return _Remains("a folder", name, removable=original == manifest)


def _find_target(store: Store, log: PromotionLog, remains: _Remains) -> StoredVersion:
    """Return the version that the pointer of the slot led to.

    Raises:
        InputError: That cannot be decided, or the version is not there as it was promoted.
    """
    entries, path = log.of_slot(store.slot), store.pointer.path
    by_hand = "name it with `mltrain promote VERSION`"
    if log.problems:
        raise InputError(f"the log is damaged ({log.problems[0]}): {by_hand}")
    if not remains.removable:
        raise InputError(_NO_COPY.format(path))
    if not entries:
        raise InputError(f"nothing was promoted in this slot, as far as the log says: remove {path}")
    line = _last_line_that_happened(entries, remains.named)
    if line is None:
        raise InputError(
            f"it names {remains.named}, and the log ends with {entries[-1].to_version}: remove {path}, and {by_hand}"
        )
    name = line.to_version
    version = open_version_folder(store.models / name)
    if version.card_sha256 != line.card_sha256:
        raise InputError(f"{name} was promoted, and is another version of that name now: {by_hand}")
    if version.slot != store.slot:
        raise InputError(f"{name} is a version of the slot {version.slot}: {by_hand}")
    if problems := version.verify():
        raise InputError(f"{name} was live and is damaged ({problems[0]}): copy it again, or {by_hand}")
    return version


def _last_line_that_happened(entries: tuple[Promotion, ...], named: str | None) -> Promotion | None:
    """Return the line that made the version live that the pointer named; None if the log contradicts that name.

    Args:
        entries: The lines of the slot, oldest first; at least one.
        named: The version that is left of the pointer; None: the last line counts.
    """
    last = entries[-1]
    if named in {None, last.to_version}:
        return last
    if named != last.from_version:
        return None
    # The last line never happened: the run was interrupted before it moved the pointer.
    return next((entry for entry in reversed(entries[:-1]) if entry.to_version == named), None)


def _restore(store: Store, version: StoredVersion, attribution: Attribution) -> None:
    """Make the pointer lead to a version; the caller holds the lock.

    The line comes first: from then on the log says the same as what is left of the pointer, which may be removed.
    """
    pointer = store.pointer
    line = promotion_line(
        store.read_promotions(),
        slot=store.slot,
        from_version=version.name,
        to_version=version.name,
        verdict=version.verdict,
        card_sha256=version.card_sha256,
        attribution=attribution,
    )
    append_lines(store.promotions_path, [line])
    if pointer.path.is_dir() and not pointer.path.is_symlink():
        remove_folder(pointer.path)
    swap_pointer(pointer.path, version.name)


def _repair_links(store: Store, *, live: bool, dry_run: bool) -> Iterator[RepairStep]:
    """Repair the links through the pointer of a slot; if no version is live, name what is in their place."""
    for name, target in store.pointer.links.items():
        link = store.models / name
        with disk_errors(link, "read"):
            present = os.path.lexists(link)
            leads_to = str(link.readlink()) if link.is_symlink() else None
        if leads_to == target or not (present or live):
            continue
        found = "missing" if not present else "a file" if leads_to is None else f"a link to {show(leads_to)}"
        if not live:
            yield RepairStep(link, found, None, f"nothing was promoted in this slot: remove {link}")
            continue
        known = PurePath(leads_to).name == PurePath(target).name if leads_to else _is_copy(store, link, target)
        if present and not known:
            yield RepairStep(link, found, None, _NO_COPY.format(link))
            continue
        if not dry_run:
            swap_pointer(link, target)
        yield RepairStep(link, found, target, None)


def _is_copy(store: Store, path: Path, target: str) -> bool:
    """Return whether a file is empty, holds the text of the link to `target`, or is a copy of a version's file."""
    with disk_errors(path, "read"):
        if not path.is_file() or path.stat().st_size > _MAX_COPY_BYTES:
            return False
        if not path.stat().st_size:
            return True
    if path.stat().st_size <= _MAX_TEXT_BYTES:
        text = read_file(path, max_bytes=_MAX_TEXT_BYTES, what="the link").decode("utf-8", "replace").strip()
        if text == target:
            return True
    found = hash_file(path, max_bytes=_MAX_COPY_BYTES, what="the link")
    versions = (store.read_row(name).version for name in store.version_names())
    entries = (version.manifest.entry(PurePath(target).name) for version in versions if version)
    return any(entry is not None and entry.sha256 == found for entry in entries)


def _repair_latest(store: Store, *, dry_run: bool) -> tuple[RepairStep, ...]:
    """Repair `snapshots/latest`; where nothing is left of it, the snapshot that was taken last counts."""
    folder = store.data_dir / FOLDER
    if not folder.is_dir():
        return ()
    if dry_run:
        return _repair_latest_in(store, folder, dry_run=True)
    with lock_folder(folder, purpose="repairing the pointer to the latest snapshot"):
        return _repair_latest_in(store, folder, dry_run=False)


def _repair_latest_in(store: Store, folder: Path, *, dry_run: bool) -> tuple[RepairStep, ...]:
    link = folder / LATEST
    remains = _examine(link, SNAPSHOT, "snapshot")
    intact = {row.id: row.created_at for row in list_snapshots(store.data_dir) if row.problem is None}
    if remains.found is None and remains.named in intact:
        return ()
    if not intact:
        # Of a folder without snapshots, nothing is missing.
        lost = os.path.lexists(link)
        left = "no snapshot is intact: run `mltrain snapshot`"
        return (RepairStep(link, remains.found or "a link to nowhere", None, left),) if lost else ()
    found = remains.found or f"a link to {remains.named}, which is not an intact snapshot"
    if not remains.removable:
        return (RepairStep(link, found, None, _NO_COPY.format(link)),)
    newest = max(intact, key=lambda name: (intact[name], name))
    target = remains.named if remains.named in intact else newest
    if not dry_run:
        if link.is_dir() and not link.is_symlink():
            remove_folder(link)
        swap_pointer(link, target)
    return (RepairStep(link, found, target, None),)
