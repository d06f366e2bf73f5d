"""Publishing: a version appears whole under the next free name, or not at all, and never changes."""

from __future__ import annotations

from itertools import chain, count
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError
from mltrain.names import check_version
from mltrain.storage.folders import staged_folder
from mltrain.storage.manifest import MANIFEST, read_manifest, verify_files
from mltrain.storage.writing import write_new
from mltrain.store.signature import SIGNATURE
from mltrain.store.versions import version_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mltrain.store.history import Verdict
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion

# Versions of one day: the grammar has six digits.
MAX_NUMBER: Final = 1_000_000


def publish_version(
    store: Store,
    files: Mapping[str, bytes],
    *,
    verdict: Verdict,
    date: str,
    now_ms: int,
    named: Callable[[str], Mapping[str, bytes]] = lambda _: {},
) -> StoredVersion:
    """Publish a version: it appears whole, or not at all, and never changes.

    Args:
        store: Where to publish it, and in which slot.
        files: Its files by bare name; `lgbm.pkl` and `model_card.json` among them.
        verdict: The verdict of the gates.
        date: The UTC date of training, such as 2025-10-15; a second version of that day gets the suffix `.2`.
        now_ms: Time of training, ms UTC.
        named: Returns the files that contain the version's name, given that name; called while the folder is locked.

    Raises:
        InputError: A file's name is not one that a version can hold, or the pointer or the log is damaged.
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; nothing is left.
    """
    store.prepare()
    with store.lock("publishing a version"):
        name, serial = _next_name_and_serial(store, date)
        named_files = named(name)
        if SIGNATURE in files or SIGNATURE in named_files or files.keys() & named_files.keys():
            raise ValueError(f"a file is given twice, or is {SIGNATURE}, which is not one of the files that are signed")
        files = {**files, **named_files}
        manifest = version_manifest(files, name=name, serial=serial, verdict=verdict, now_ms=now_ms, slot=store.slot)
        with staged_folder(store.models / name) as staged:
            for path, data in files.items():
                write_new(staged / path, data)
            if store.signer is not None:
                write_new(staged / SIGNATURE, store.signer.sign(manifest))
            write_new(staged / MANIFEST, manifest.to_bytes())
            if verify_files(staged, read_manifest(staged, kind="version"), unlisted=(SIGNATURE,)):
                raise MachineError(f"what was written to {staged} does not read back")
    return store.open_named(name)


def _next_name_and_serial(store: Store, date: str) -> tuple[str, int]:
    """Return the next name of a day and the next serial; the caller holds the lock."""
    rows = store.versions()
    # A name that was ever promoted is never used again: a pointer or a line of the log could mean the new version.
    taken = {row.name for row in rows} | {store.live_name()}
    taken |= {entry.to_version for entry in store.promotion_log().entries}
    # The number after the highest: lower ones may have been those of versions that were removed.
    numbers = [int(name[len(date) + 1 :] or 1) for name in taken if name and name.partition(".")[0] == date]
    after = max(numbers, default=0) + 1
    names = (date if number == 1 else f"{date}.{number}" for number in chain(range(after, MAX_NUMBER), count(1)))
    name = next(name for name in names if name not in taken)
    serials = [row.version.serial for row in rows if row.version]
    # Serials of damaged versions cannot be read and must not be used twice: each damaged version counts as one.
    return check_version(name), max([*serials, len(rows)], default=0) + 1
