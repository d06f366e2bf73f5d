"""Manifests: the files of a published folder by name, size and SHA-256, of snapshots and of versions.

`manifest.json` is the commit record of its folder: written last, in canonical form, with a hash of itself. A folder
without one is not a snapshot and not a version. Names are bare file names of a fixed grammar, so nothing in a manifest
can lead out of its folder, and files are checked by the very bytes that are then used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.documents.records import REST, Limits, RecordError, read_record, record, refuse_newer, to_json
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError
from mltrain.names import did_you_mean, show
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.hashing import hash_file, sha256_bytes
from mltrain.storage.reading import read_file

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
# Enough for a thousand symbols with a hundred gaps each.
MAX_MANIFEST_BYTES: Final = 16 << 20
# The largest file that `verify_files` hashes; no published file comes near it.
MAX_FILE_BYTES: Final = 1 << 32

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERIFY: Final = {
    "snapshot": "mltrain verify snapshot",
    "version": "mltrain verify model",
    "backtest": "mltrain backtest show",
}
# Hints for a folder whose manifest is missing or damaged.
_DAMAGE_HINTS: Final = {
    "snapshot": "`mltrain snapshots` shows which ones are sound; `mltrain snapshot` takes a new one",
    "version": "`mltrain models` shows which ones are sound; `mltrain rollback --previous` leaves a damaged one",
    "backtest": "`mltrain backtest list` shows which ones are sound; `mltrain backtest prune` removes old ones",
}


@record
@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a published folder.

    Attributes:
        path: Its bare name.
        sha256: The SHA-256 of its bytes, in lower-case hexadecimal.
        bytes: Its size in bytes.
        facts: Further facts about it, such as the number of a symbol's candles.
    """

    path: Annotated[str, _FILE_NAME]
    sha256: Sha256
    bytes: Annotated[int, Limits(0)]
    facts: Annotated[Mapping[str, Json], REST] = field(default_factory=dict)


def describe_file(path: str, data: bytes, facts: Mapping[str, Json] | None = None) -> FileEntry:
    """Return the manifest's entry for a file called `path` that holds `data`."""
    return FileEntry(path, sha256_bytes(data), len(data), facts or {})


@record
@dataclass(frozen=True, slots=True)
class _Envelope:
    """The content of a `manifest.json`: the manifest, its format and the hash of both."""

    format: Annotated[int, Limits(FORMAT, FORMAT)]
    self_sha256: Sha256
    content: Annotated[Mapping[str, Json], REST]


@record
@dataclass(frozen=True, slots=True)
class Manifest:
    """The list of the files in a published folder. `Manifest.from_bytes(m.to_bytes(), kind=m.kind, where="") == m`.

    Attributes:
        kind: "snapshot" or "version".
        head: Facts about the whole folder, under keys that the manifest does not use itself.
        files: Every file of the folder but the manifest, in the order written.
    """

    kind: str
    head: Annotated[Mapping[str, Json], REST]
    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for index, entry in enumerate(self.files):
            name = entry.path.casefold()
            if name == MANIFEST:
                raise RecordError((("files", index), "the manifest lists itself"))
            # On a file system that ignores case, names that differ only in case are one file.
            if name in seen:
                raise RecordError((("files", index), f"{show(entry.path)} is listed twice"))
            seen.add(name)

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of `manifest.json`.

        Raises:
            ValueError: A key of the head or of a file's facts is one that the manifest itself uses.
        """
        return canonical_json(to_json(_Envelope(FORMAT, self.self_sha256, to_json(self))))

    @property
    def self_sha256(self) -> str:
        """The SHA-256, in hexadecimal, of the canonical bytes without this hash: it covers the folder's content."""
        return sha256_bytes(canonical_json({**to_json(self), "format": FORMAT}))

    @classmethod
    def from_bytes(cls, data: bytes, *, kind: str, where: str) -> Manifest:
        """Parse a `manifest.json`, and check that the bytes are its canonical form.

        Args:
            data: The bytes of the file.
            kind: The expected kind, "snapshot" or "version".
            where: The file's name in messages, usually the path.

        Raises:
            InputError: The manifest is malformed, has another kind or format, is not in canonical form, does not match
                its own hash, or names a file that such a folder cannot contain.
        """
        located = Located(parse_json(data, where=where, max_bytes=MAX_MANIFEST_BYTES), where)
        refuse_newer(located, newest=FORMAT)
        envelope = read_record(located, _Envelope)
        manifest = read_record(Located(dict(envelope.content), where), cls)
        if manifest.kind != kind:
            raise InputError(f"{where}: is the manifest of a {show(manifest.kind)}, expected that of a {kind}")
        if data != manifest.to_bytes():
            message = f"{where}: does not match its own hash: it was changed after it was written"
            raise InputError(message, hint=_DAMAGE_HINTS.get(kind))
        return manifest

    def entry(self, name: str) -> FileEntry | None:
        """Return the entry of the file `name`; None if the manifest does not list it."""
        return next((entry for entry in self.files if entry.path == name), None)


def read_manifest(folder: Path, *, kind: str) -> Manifest:
    """Return the manifest of a published folder, which is not a link; `kind` is "snapshot" or "version".

    Raises:
        InputError: The folder has no manifest, so it is not complete; or `Manifest.from_bytes` refuses it.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise InputError(f"{folder} has no {MANIFEST}: it is not a complete {kind}", hint=_DAMAGE_HINTS.get(kind))
    data = read_file(path, max_bytes=MAX_MANIFEST_BYTES, what="the manifest")
    return Manifest.from_bytes(data, kind=kind, where=str(path))


def read_listed(folder: Path, manifest: Manifest, name: str, *, max_bytes: int) -> bytes:
    """Return the bytes of the file `name` of a published folder, after checking them against the folder's manifest.

    Raises:
        InputError: The file is not listed in the manifest, is missing, larger than `max_bytes` or not a regular file,
            or its size or hash is not the one in the manifest.
    """
    entry = manifest.entry(name)
    if entry is None:
        guess = did_you_mean(name, [listed.path for listed in manifest.files])
        raise InputError(f"{folder / MANIFEST} does not list {show(name)}", hint=guess)
    data = read_file(folder / name, max_bytes=max_bytes, what=f"the {manifest.kind}'s file")
    sha256 = sha256_bytes(data)
    if (len(data), sha256) != (entry.bytes, entry.sha256):
        raise InputError(
            f"{folder / name} is not the file that was published: "
            f"{len(data)} bytes with SHA-256 {sha256}, the manifest says {entry.bytes} with {entry.sha256}",
            hint=f"run `{_VERIFY[manifest.kind]} {folder.name}` to see all that changed",
        )
    return data


def verify_files(folder: Path, manifest: Manifest, *, unlisted: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Compare every byte of a published folder with its manifest.

    Args:
        folder: The published folder.
        manifest: Its manifest.
        unlisted: Names of other files that the folder may contain, such as the signature of the manifest.

    Returns:
        Every problem, one sentence each: missing, changed, not regular, not listed; empty if the folder is sound.
    """
    problems = []
    for entry in manifest.files:
        path = folder / entry.path
        try:
            sha256 = hash_file(path, max_bytes=min(entry.bytes, MAX_FILE_BYTES), what="the file")
        except InputError as err:
            problems.append(err.message)
        else:
            if sha256 != entry.sha256:
                problems.append(f"{path} has SHA-256 {sha256}, the manifest says {entry.sha256}")
    with disk_errors(folder, "list"):
        present = {path.name for path in folder.iterdir()}
    extra = present - {entry.path for entry in manifest.files} - {MANIFEST, *unlisted}
    return (*problems, *(f"{folder}: {show(name)} is not in the manifest" for name in sorted(extra)))
