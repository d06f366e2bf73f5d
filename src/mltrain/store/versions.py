"""A published version: a folder whose manifest lists every file with its hash, and that never changes.

The manifest's head holds name, serial, time, verdict, and the hash of the card. A folder whose manifest is missing,
forged or another version's is refused. Files are hashed when they are read, so that listing a thousand versions hashes
none.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from mltrain.artifact import MODEL_FILES
from mltrain.card.validation import CARD_FILE, check_card
from mltrain.documents.records import OMIT_DEFAULT, Limits, read_record, record, to_json
from mltrain.documents.values import Located, Sha256
from mltrain.errors import InputError
from mltrain.names import DEFAULT_SLOT, SLOT, VERSION
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import hold_folder
from mltrain.storage.manifest import MANIFEST, Manifest, describe_file, read_listed, read_manifest, verify_files
from mltrain.store.history import Verdict
from mltrain.store.signature import SIGNATURE, check_signature, is_required
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from mltrain.card.validation import CardCheck
    from mltrain.store.history import History


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version whose manifest is sound; its files are checked when they are read.

    Attributes:
        name: Such as 2025-10-15 or 2025-10-15.2.
        folder: Its folder; never a link.
        manifest: Its files.
        serial: Its number in the order of publication, from 1.
        created_at: Time of training, UTC, such as 2025-10-15T12:00:00Z.
        verdict: The verdict of the gates.
        card_sha256: Hash of its card.
        slot: The slot in which it can become live.
        promoted: Whether it is or ever was live.
        live: Whether it is live now.
    """

    name: str
    folder: Path
    manifest: Manifest
    serial: int
    created_at: str
    verdict: Verdict
    card_sha256: str
    slot: str
    promoted: bool = False
    live: bool = False

    def checked_against(self, history: History) -> StoredVersion:
        """Return the version with `promoted` and `live` as the history of its slot has them."""
        live = self.name == history.best
        return replace(self, live=live, promoted=live or history.was_promoted(self.name, self.card_sha256))

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """Return the bytes of one of its files, the same bytes whose hash was checked.

        Raises:
            InputError: It has no such file, or the file is not the published one.
            MachineError: The machine refuses to read it.
        """
        return read_listed(self.folder, self.manifest, name, max_bytes=max_bytes)

    def verify(self) -> tuple[str, ...]:
        """Hash every file and return every problem, one sentence each; empty if the version is sound.

        Raises:
            MachineError: The machine refuses to read it.
        """
        with self.in_use():
            return verify_files(self.folder, self.manifest, unlisted=(SIGNATURE,))

    def in_use(self) -> AbstractContextManager[bool]:
        """Keep `models prune` from removing it during a block that reads several of its files."""
        return hold_folder(self.folder, alone=False)


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One line of the list of versions.

    Attributes:
        name: Its name.
        version: The version; None if it is damaged or not complete.
        latest: Whether it has the highest serial.
        problem: What is wrong with it; None if it is sound.
    """

    name: str
    version: StoredVersion | None
    latest: bool
    problem: str | None


@record
@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a version's manifest."""

    version: Annotated[str, VERSION]
    serial: Annotated[int, Limits(1)]
    created_at: str
    verdict: Verdict
    card_sha256: Sha256
    slot: Annotated[str, SLOT, OMIT_DEFAULT] = DEFAULT_SLOT


def version_manifest(
    files: Mapping[str, bytes], *, name: str, serial: int, verdict: Verdict, now_ms: int, slot: str
) -> Manifest:
    """Return the manifest of a version that is about to be published.

    Args:
        files: Its files by bare name; the model and the card among them.
        name: Its name.
        serial: Its number in the order of publication.
        verdict: The verdict of the gates.
        now_ms: Time of training, ms UTC.
        slot: The slot in which it can become live.
    """
    entries = tuple(describe_file(path, data) for path, data in files.items())
    card = next(entry for entry in entries if entry.path == CARD_FILE)
    head = _Head(name, serial, format_seconds(now_ms), verdict, card.sha256, slot)
    return Manifest("version", to_json(head), entries)


def open_version_folder(folder: Path) -> StoredVersion:
    """Open a version's folder, without regard to promotions: `StoredVersion.checked_against` adds them.

    Args:
        folder: The folder; its name is the version's.

    Raises:
        InputError: It is missing, not a folder, not complete, forged, or another version's; or it lacks a required
            signature.
        MachineError: The machine refuses to read it.
    """
    _check_folder(folder)
    manifest = read_manifest(folder, kind="version")
    check_signature(folder, manifest)
    where = str(folder / MANIFEST)
    head = read_record(Located(dict(manifest.head), where), _Head)
    hashes = {entry.path: entry.sha256 for entry in manifest.files}
    if head.version != folder.name:
        raise InputError(f"{where}: was published as version {head.version}")
    if not hashes.keys() & {*MODEL_FILES} or hashes.get(CARD_FILE) != head.card_sha256:
        raise InputError(f"{where}: lists no model, or not the card that it was published with")
    return StoredVersion(
        name=head.version,
        folder=folder,
        manifest=manifest,
        serial=head.serial,
        created_at=head.created_at,
        verdict=head.verdict,
        card_sha256=head.card_sha256,
        slot=head.slot,
    )


def check_stored_card(data: bytes, *, where: str, folder: Path) -> CardCheck:
    """Check a card against its schema, its own figures, the other files of its folder, and their manifest.

    Args:
        data: The bytes of the card.
        where: Its name in messages, usually the path.
        folder: Its folder.

    Returns:
        Every violation and every warning; a missing manifest is a violation only if signatures are required.
    """
    check = check_card(data, where=where, folder=folder)
    if not os.path.lexists(folder / MANIFEST) and not is_required():
        return check
    try:
        manifest = read_manifest(folder, kind="version")
        check_signature(folder, manifest)
        entry = manifest.entry(CARD_FILE)
    except InputError as err:
        return replace(check, violations=(*check.violations, f"{where}: {err.message}"))
    found = sha256_bytes(data)
    if entry is not None and entry.sha256 == found:
        return check
    listed = "lists no card" if entry is None else f"says {entry.sha256}"
    problem = f"{where}: the card has SHA-256 {found}, {MANIFEST} {listed}: it was changed after it was published"
    return replace(check, violations=(*check.violations, problem))


def _check_folder(folder: Path) -> None:
    with disk_errors(folder, "read"):
        try:
            mode = folder.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError) as err:
            raise InputError(
                f"there is no version {folder.name} in {folder.parent}", hint="`mltrain models` lists the versions"
            ) from err
    if not stat.S_ISDIR(mode):
        raise InputError(f"{folder} is not a folder, so it is not a version")
