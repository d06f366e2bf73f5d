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
# A thousand symbols with a hundred gaps each.
MAX_MANIFEST_BYTES: Final = 16 << 20
# The largest file that `verify_files` hashes; no published file comes near it.
MAX_FILE_BYTES: Final = 1 << 32

_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERIFY: Final = {"snapshot": "mltrain verify snapshot", "version": "mltrain verify model"}
# Hints for a folder whose manifest is lost.
_OTHERS: Final = {
    "snapshot": "`mltrain snapshots` shows which ones are sound; `mltrain snapshot` takes a new one",
    "version": "`mltrain models` shows which ones are sound; `mltrain rollback --previous` leaves a damaged one",
}


@record
@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a published folder.

    Attributes:
        path: Its bare name.
        sha256: The SHA-256 of its bytes, in lower-case hexadecimal.
        bytes: Its size.
        facts: Further facts, such as the rows of a symbol's candles.
    """

    path: Annotated[str, _FILE_NAME]
    sha256: Sha256
    bytes: Annotated[int, Limits(0)]
    facts: Annotated[Mapping[str, Json], REST] = field(default_factory=dict)


def describe_file(path: str, data: bytes, facts: Mapping[str, Json] | None = None) -> FileEntry:
    """Return the entry of a file called `path` that holds `data`."""
    return FileEntry(path, sha256_bytes(data), len(data), facts or {})


@record
@dataclass(frozen=True, slots=True)
class _Envelope:
    """A `manifest.json`: the manifest, its format and the hash of both."""

    format: Annotated[int, Limits(FORMAT, FORMAT)]
    self_sha256: Sha256
    content: Annotated[Mapping[str, Json], REST]


@record
@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of a published folder.

    `Manifest.from_bytes(m.to_bytes(), kind=m.kind, where="") == m` for every manifest.

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
            # One file on a file system that ignores case.
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
        """The SHA-256 of the canonical bytes without this hash: names the folder's whole content."""
        return sha256_bytes(canonical_json({**to_json(self), "format": FORMAT}))

    @classmethod
    def from_bytes(cls, data: bytes, *, kind: str, where: str) -> Manifest:
        """Parse a manifest, and check that the bytes are its canonical form.

        Args:
            data: The bytes of a `manifest.json`.
            kind: The expected kind, "snapshot" or "version".
            where: Its name in messages, usually the path.

        Raises:
            InputError: It is malformed, of another kind or format, not in canonical form, does not match its own
                hash, or names a file that such a folder cannot contain.
        """
        located = Located(parse_json(data, where=where, max_bytes=MAX_MANIFEST_BYTES), where)
        refuse_newer(located, newest=FORMAT)
        envelope = read_record(located, _Envelope)
        manifest = read_record(Located(dict(envelope.content), where), cls)
        if manifest.kind != kind:
            raise InputError(f"{where}: is the manifest of a {show(manifest.kind)}, expected that of a {kind}")
        if data != manifest.to_bytes():
            raise InputError(
                f"{where}: does not match its own hash: it was changed after it was written", hint=_OTHERS.get(kind)
            )
        return manifest

    def entry(self, name: str) -> FileEntry | None:
        """Return the entry of a file; None if the manifest does not list it."""
        return next((entry for entry in self.files if entry.path == name), None)


def read_manifest(folder: Path, *, kind: str) -> Manifest:
    """Return the manifest of a published folder.

    Args:
        folder: The folder; not a link to it.
        kind: "snapshot" or "version".

    Raises:
        InputError: It has no manifest, so it is not complete; or `Manifest.from_bytes` refuses it.
        MachineError: The machine refuses to read it.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        raise InputError(f"{folder} has no {MANIFEST}: it is not a complete {kind}", hint=_OTHERS.get(kind))
    data = read_file(path, max_bytes=MAX_MANIFEST_BYTES, what="the manifest")
    return Manifest.from_bytes(data, kind=kind, where=str(path))


def read_listed(folder: Path, manifest: Manifest, name: str, *, max_bytes: int) -> bytes:
    """Return the bytes of a listed file, the very bytes whose size and hash were checked.

    Args:
        folder: The published folder.
        manifest: Its manifest.
        name: The file's bare name.
        max_bytes: Largest size of the file.

    Raises:
        InputError: It is not listed, missing, too large, not a regular file, or not the bytes that were published.
        MachineError: The machine refuses to read it.
    """
    entry = manifest.entry(name)
    if entry is None:
        guess = did_you_mean(name, [listed.path for listed in manifest.files])
        raise InputError(f"{folder / MANIFEST} does not list {show(name)}", hint=guess)
    data = read_file(folder / name, max_bytes=max_bytes, what=f"the {manifest.kind}'s file")
    found = sha256_bytes(data)
    if (len(data), found) != (entry.bytes, entry.sha256):
        raise InputError(
            f"{folder / name} is not the file that was published: "
            f"{len(data)} bytes with SHA-256 {found}, the manifest says {entry.bytes} with {entry.sha256}",
            hint=f"run `{_VERIFY[manifest.kind]} {folder.name}` to see all that changed",
        )
    return data


def verify_files(folder: Path, manifest: Manifest, *, unlisted: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Compare a published folder with its manifest, every byte.

    Args:
        folder: The published folder.
        manifest: Its manifest.
        unlisted: Names of other files that may be there, such as the signature of the manifest.

    Returns:
        Every problem, one sentence each: missing, changed, not regular, not listed; empty if the folder is sound.

    Raises:
        MachineError: The machine refuses to read the folder or a file.
    """
    problems = [problem for entry in manifest.files if (problem := _file_problem(folder, entry))]
    with disk_errors(folder, "list"):
        present = {path.name for path in folder.iterdir()}
    extra = present - {entry.path for entry in manifest.files} - {MANIFEST, *unlisted}
    return (*problems, *(f"{folder}: {show(name)} is not in the manifest" for name in sorted(extra)))


def _file_problem(folder: Path, entry: FileEntry) -> str | None:
    path = folder / entry.path
    try:
        found = hash_file(path, max_bytes=min(entry.bytes, MAX_FILE_BYTES), what="the file")
    except InputError as err:
        return err.message
    if found == entry.sha256:
        return None
    return f"{path} has SHA-256 {found}, the manifest says {entry.sha256}"
