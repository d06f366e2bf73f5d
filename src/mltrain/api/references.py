"""How a caller names a snapshot or a version: by a reference, by a path, or by the object itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

from mltrain.api.workspace import check_path
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion


class HasSnapshot(Protocol):
    """A result that holds a snapshot, as that of `mltrain.snapshot`."""

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot."""


class HasFolder(Protocol):
    """What lies in a folder of the store: a loaded model, or the result of a training."""

    @property
    def folder(self) -> Path | None:
        """The version's folder; None: it was not published."""


SnapshotRef: TypeAlias = Union[str, os.PathLike[str], "Snapshot", HasSnapshot]
VersionRef: TypeAlias = str | os.PathLike[str] | HasFolder


def read_snapshot(snapshot: SnapshotRef, data_dir: str | os.PathLike[str]) -> Snapshot:
    """Return the snapshot that a caller named or passed.

    Args:
        snapshot: "latest", an id, the path of its folder, a snapshot, or the result of `mltrain.snapshot`.
        data_dir: The data folder, for a name.

    Raises:
        UsageError: `snapshot` is none of these.
        InputError: There is no such snapshot, or its manifest is missing or damaged.
    """
    from mltrain.snapshots.snapshot import Snapshot, open_snapshot

    if isinstance(snapshot, Snapshot):
        return snapshot
    if isinstance(snapshot, str | os.PathLike):
        return open_snapshot(check_path(data_dir, "data_dir"), as_reference(snapshot))
    held = getattr(snapshot, "snapshot", None)
    if isinstance(held, Snapshot):
        return held
    from mltrain.names import describe

    raise UsageError(f"snapshot is {describe(snapshot)}: expected a snapshot, its id, or a path")


def read_version(version: VersionRef | None, store: Store, progress: Progress) -> StoredVersion:
    """Return the version that a caller named or passed.

    Args:
        version: "best" (the live one), "best:SLOT", "latest", a name, a path, a loaded model, or the result of a
            training; None: the live version or, with a warning, the latest if nothing was promoted yet.
        store: The store, for a name.
        progress: Receives the warning.

    Raises:
        UsageError: `version` is none of these, or a model that was not published.
        InputError: There is no such version, or it is damaged.
    """
    opened, warning = store.open_default(None if version is None else version_text(version))
    if warning:
        progress.warn(warning)
    return opened


def version_text(version: VersionRef) -> str:
    """Return a version that a caller named or passed, as the text that `Store.open_version` takes.

    Raises:
        UsageError: `version` is no reference, or a model that was not published.
    """
    if isinstance(version, str | os.PathLike):
        return as_reference(version)
    folder = getattr(version, "folder", None)
    if isinstance(folder, Path):
        return as_reference(folder)
    from mltrain.names import describe

    raise UsageError(f"version is {describe(version)}: expected a version's name, its path, or a published model")


def as_reference(given: str | os.PathLike[str]) -> str:
    """Return a text as it is, and a path with a / in it, so that it is not read as a name."""
    if isinstance(given, str):
        return given
    path = os.fspath(given)
    return path if "/" in path else f"./{path}"


def is_version_reference(text: str) -> bool:
    """Return whether a text is "best", "best:SLOT", "latest" or like a version's name, and so not a path.

    >>> [is_version_reference(text) for text in ("best:btc-1m", "2025-10-15.2", "models/best_lgbm", "lgbm.pkl")]
    [True, True, False, False]
    """
    from mltrain.names import VERSION

    return text in {"best", "latest"} or text.startswith("best:") or VERSION.fullmatch(text) is not None
