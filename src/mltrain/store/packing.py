"""Carry a version from one data folder to another in one file, with the manifest of its snapshot.

The file is a tar archive without compression:

    <version>/manifest.json           first: what follows is checked against it, file by file
    <version>/signature.json          if the version is signed
    <version>/<file>                  every file that the manifest lists, in its order
    snapshots/<id>/manifest.json      if the snapshot is there: `snapshot --rebuild` can fetch its candles again

Equal versions make equal archives. Nothing in an archive is trusted: only regular files with exactly these names are
read, and none of its paths is ever used.
"""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE
from mltrain.documents.results import Result
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError
from mltrain.names import SNAPSHOT, VERSION, show
from mltrain.snapshots import FOLDER
from mltrain.snapshots.snapshot_record import KIND
from mltrain.storage.descriptors import real_path
from mltrain.storage.folders import make_folder, staged_folder
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MANIFEST, MAX_FILE_BYTES, Manifest, read_manifest
from mltrain.storage.reading import read_file
from mltrain.storage.writing import write_new, write_outputs
from mltrain.store.signature import MAX_SIGNATURE_BYTES, SIGNATURE, check_signature

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.store.store import Store

#: The largest archive that is read or written.
MAX_ARCHIVE_BYTES: Final = 1 << 31
_MAKE: Final = "make one with `mltrain models pack VERSION -o FILE`"
_PLAIN: Final = (tarfile.REGTYPE, tarfile.AREGTYPE)


@dataclass(frozen=True, slots=True)
class PackedVersion(Result):
    """A version that was packed.

    Attributes:
        version: Its name.
        slot: Its slot.
        path: The archive.
        bytes: The size of the archive.
        sha256: The SHA-256 of the archive.
        snapshot: The snapshot whose manifest is in the archive; None if it is no longer in the data folder.
    """

    SCHEMA: ClassVar[str] = "models-pack/1"

    version: str
    slot: str
    path: Path
    bytes: int
    sha256: str
    snapshot: str | None


@dataclass(frozen=True, slots=True)
class UnpackedVersion(Result):
    """A version that was unpacked; it is not promoted.

    Attributes:
        version: Its name.
        slot: Its slot.
        folder: Its folder.
        created: False if the same version was there already.
        snapshot: The snapshot whose manifest was written; None if the archive has none, or the snapshot was there.
    """

    SCHEMA: ClassVar[str] = "models-unpack/1"

    version: str
    slot: str
    folder: Path
    created: bool
    snapshot: str | None


def pack_version(store: Store, ref: str, path: Path) -> PackedVersion:
    """Write a version and the manifest of its snapshot to an archive; every file is hashed.

    Args:
        store: The store of the version.
        ref: As `Store.open_version` takes it.
        path: The archive; an existing file is replaced.

    Raises:
        UsageError: `ref` is no reference.
        InputError: There is no such version, or it is damaged; or `path` is not a regular file.
        MachineError: The machine refuses.
    """
    version = store.open_version(ref)
    with version.in_use():
        files = {f"{version.name}/{MANIFEST}": version.manifest.to_bytes()}
        if os.path.lexists(version.folder / SIGNATURE):
            signature = read_file(version.folder / SIGNATURE, max_bytes=MAX_SIGNATURE_BYTES, what="the signature")
            files[f"{version.name}/{SIGNATURE}"] = signature
        for entry in version.manifest.files:
            files[f"{version.name}/{entry.path}"] = version.read(entry.path, max_bytes=MAX_FILE_BYTES)
    snapshot, sha256 = _snapshot_of(files[f"{version.name}/{CARD_FILE}"], str(version.folder / CARD_FILE))
    manifest = None if snapshot is None else _snapshot_manifest(store, snapshot, sha256)
    if manifest is not None:
        files[f"{FOLDER}/{snapshot}/{MANIFEST}"] = manifest
    data = _to_tar(files)
    write_outputs(path.parent, {path.name: data})
    return PackedVersion(
        version.name, version.slot, path, len(data), sha256_bytes(data), snapshot if manifest else None
    )


def _snapshot_of(card: bytes, where: str) -> tuple[str | None, str | None]:
    """Return the snapshot that a card names, and the hash of its manifest."""
    read = ModelCard.from_json(parse_json(card, where=where))
    snapshot = read.text("train", "snapshot_id")
    named = snapshot is not None and SNAPSHOT.fullmatch(snapshot) is not None
    return snapshot if named else None, read.text("lineage", "snapshot_manifest_sha256")


def _snapshot_manifest(store: Store, snapshot: str, sha256: str | None) -> bytes | None:
    """Return the manifest of a snapshot; None if another one or none is there."""
    try:
        manifest = read_manifest(store.data_dir / FOLDER / snapshot, kind=KIND)
    except InputError:
        return None
    return manifest.to_bytes() if manifest.self_sha256 == sha256 else None


def _to_tar(files: dict[str, bytes]) -> bytes:
    """Return an archive of these files, without times, owners or anything else that differs between machines."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack_version(store: Store, path: Path) -> UnpackedVersion:
    """Publish the version in an archive, under the name and in the slot that it has; it is never promoted.

    Args:
        store: Where to publish it.
        path: The archive.

    Raises:
        InputError: The archive is damaged, holds anything else, or lacks a required signature; or another version of
            that name is or was there.
        LockedError: A folder is locked for longer than the wait.
        MachineError: The machine refuses; nothing is left.
    """
    where = str(path)
    if not os.path.lexists(path):
        raise InputError(
            f"the archive {path} does not exist", hint="`mltrain models pack VERSION --output FILE` writes one"
        )
    files = _from_tar(read_file(real_path(path), max_bytes=MAX_ARCHIVE_BYTES, what="the archive"), where)
    name, manifest = _read_version(files, where)
    contents = {entry.path: files.get(f"{name}/{entry.path}") for entry in manifest.files}
    for entry in manifest.files:
        data = contents[entry.path]
        if data is None or sha256_bytes(data) != entry.sha256:
            problem = "is missing" if data is None else "does not have the hash that the manifest gives"
            raise InputError(f"{where}: {name}/{entry.path} {problem}", hint="pack the version again")
    snapshot = _read_snapshot(files, name, where)
    make_folder(store.models)
    with store.lock("unpacking a version"):
        created = not _is_there(store, name, manifest)
        if created:
            with staged_folder(store.models / name) as staged:
                for file, data in contents.items():
                    write_new(staged / file, data or b"")
                if (signature := files.get(f"{name}/{SIGNATURE}")) is not None:
                    write_new(staged / SIGNATURE, signature)
                check_signature(staged, manifest)
                write_new(staged / MANIFEST, manifest.to_bytes())
    version = store.open_named(name)
    written = None if snapshot is None else _write_snapshot(store, snapshot)
    return UnpackedVersion(name, version.slot, version.folder, created, written)


def _from_tar(data: bytes, where: str) -> dict[str, bytes]:
    """Return the files of an archive by name, in its order.

    Raises:
        InputError: It is not a tar archive without compression, or it holds anything but plain files.
    """
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for info in archive:
                content = archive.extractfile(info) if info.type in _PLAIN else None
                if content is None or info.name in files:
                    raise InputError(f"{where}: {show(info.name)} is not a plain file, or is there twice")
                files[info.name] = content.read()
    # ValueError, such as a number out of range; EOFError: a header is cut.
    except (tarfile.TarError, ValueError, EOFError) as err:
        raise InputError(f"{where} is not a packed version: {err}", hint=_MAKE) from err
    return files


def _read_version(files: dict[str, bytes], where: str) -> tuple[str, Manifest]:
    """Return the name and the manifest of the version in an archive.

    Raises:
        InputError: The first file is not the manifest of a version, or there are files of anything else.
    """
    first = next(iter(files), "")
    name = first.removesuffix(f"/{MANIFEST}")
    if VERSION.fullmatch(name) is None or first != f"{name}/{MANIFEST}":
        raise InputError(f"{where} is not a packed version: it does not begin with the manifest of one", hint=_MAKE)
    manifest = Manifest.from_bytes(files[first], kind="version", where=f"{where}: {first}")
    if manifest.head.get("version") != name:
        raise InputError(f"{where}: {first} is the manifest of another version")
    expected = {first, f"{name}/{SIGNATURE}", *(f"{name}/{entry.path}" for entry in manifest.files)}
    other = [file for file in files if file not in expected and not file.startswith(f"{FOLDER}/")]
    if other:
        raise InputError(f"{where}: {show(other[0])} is not in the manifest")
    return name, manifest


def _read_snapshot(files: dict[str, bytes], name: str, where: str) -> tuple[str, bytes] | None:
    """Return the id and the manifest of the snapshot in an archive; None if it has none.

    Raises:
        InputError: It is not the manifest of the snapshot that the version's card names.
    """
    found = [file for file in files if file.startswith(f"{FOLDER}/")]
    if not found:
        return None
    snapshot, sha256 = _snapshot_of(files[f"{name}/{CARD_FILE}"], f"{where}: {name}/{CARD_FILE}")
    expected = f"{FOLDER}/{snapshot}/{MANIFEST}"
    if found != [expected] or snapshot is None:
        raise InputError(f"{where}: {show(found[0])} is not the manifest of the snapshot that the card names")
    manifest = Manifest.from_bytes(files[expected], kind=KIND, where=f"{where}: {expected}")
    if manifest.self_sha256 != sha256:
        raise InputError(f"{where}: {expected} is not the manifest that the card names")
    return snapshot, files[expected]


def _is_there(store: Store, name: str, manifest: Manifest) -> bool:
    """Return whether the same version is there; the caller holds the lock.

    Raises:
        InputError: Another version of that name is there, or was promoted there.
    """
    hint = "unpack it into another data folder, with --data-dir"
    folder = store.models / name
    if os.path.lexists(folder):
        if read_manifest(folder, kind="version") != manifest:
            raise InputError(f"{folder} is another version of that name", hint=hint)
        return True
    card = manifest.head.get("card_sha256")
    if any(line.to_version == name and line.card_sha256 != card for line in store.promotion_log().entries):
        raise InputError(f"another version {name} was promoted in {store.models}", hint=hint)
    return False


def _write_snapshot(store: Store, snapshot: tuple[str, bytes]) -> str | None:
    """Write the manifest of a snapshot that is not there yet, and return its id; None if it is there."""
    name, data = snapshot
    folder = store.data_dir / FOLDER
    make_folder(folder)
    with lock_folder(folder, purpose=f"unpacking the manifest of the snapshot {name}"):
        if os.path.lexists(folder / name):
            return None
        with staged_folder(folder / name) as staged:
            write_new(staged / MANIFEST, data)
    return name
