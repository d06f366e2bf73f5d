"""The `--json` documents of the commands on snapshots and the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mltrain.snapshots.rebuild import RebuiltFile
    from mltrain.snapshots.snapshot import SnapshotRow, SymbolDiff
    from mltrain.sources.cache_upkeep import CacheRow


@dataclass(frozen=True, slots=True)
class RebuildDocument:
    """The document of `snapshot --rebuild`.

    Attributes:
        id: Id of the snapshot.
        sound: Whether every file matches its manifest now; exit code 0 or 3.
        files: Every file, and how its rebuilding ended.
    """

    id: str
    sound: bool
    files: tuple[RebuiltFile, ...]


@dataclass(frozen=True, slots=True)
class SnapshotsDocument:
    """The document of `snapshots`.

    Attributes:
        snapshots: The snapshots, oldest first.
    """

    snapshots: tuple[SnapshotRow, ...]


@dataclass(frozen=True, slots=True)
class SnapshotsDiffDocument:
    """The document of `snapshots diff`.

    Attributes:
        before: Id of the first snapshot.
        after: Id of the second snapshot.
        symbols: The differences of each symbol that either of them has.
    """

    before: str
    after: str
    symbols: tuple[SymbolDiff, ...]


@dataclass(frozen=True, slots=True)
class CacheInfoDocument:
    """The document of `cache info`.

    Attributes:
        cached: One row per source, symbol and interval.
    """

    cached: tuple[CacheRow, ...]
