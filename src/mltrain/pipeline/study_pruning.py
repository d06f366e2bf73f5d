"""List and remove the journals of searches; the versions that they led to keep their trials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.documents.results import Result
from mltrain.errors import LockedError
from mltrain.names import STUDY
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.locks import hold_lock
from mltrain.times import format_ms

if TYPE_CHECKING:
    from pathlib import Path

STUDIES: Final = "studies"
_JOURNAL: Final = re.compile(f"({STUDY.pattern})\\.journal")


@dataclass(frozen=True, slots=True)
class StudyRow:
    """The journal of one search.

    Attributes:
        study: Its name: snapshot, hash of the configuration, seed.
        written: When a trial was last written, UTC.
        bytes: Its size.
    """

    study: str
    written: str
    bytes: int


@dataclass(frozen=True, slots=True)
class KeptStudy:
    """An old study that was not removed.

    Attributes:
        study: Its name.
        why: Why it is still needed.
    """

    study: str
    why: str


@dataclass(frozen=True, slots=True)
class PrunedStudies(Result):
    """The result of `prune_studies`.

    Attributes:
        removed: The studies that were removed, by name.
        kept: Old ones that are still needed.
        bytes: Size of the removed journals.
    """

    SCHEMA: ClassVar[str] = "studies-prune/1"

    removed: tuple[str, ...]
    kept: tuple[KeptStudy, ...]
    bytes: int


def list_studies(data_dir: Path) -> tuple[StudyRow, ...]:
    """List the studies by name; no journal is read."""
    return tuple(StudyRow(name, format_ms(written_ms), size) for name, written_ms, size in _journals(data_dir))


def prune_studies(data_dir: Path, *, before_ms: int, dry_run: bool = False) -> PrunedStudies:
    """Remove the journals that were last written before a time, except those that are being trained.

    A removed study can no longer be resumed; the same training starts again. The lock files stay: if one was removed,
    two trainings could hold it at the same time.

    Args:
        data_dir: The data folder.
        before_ms: The time, ms UTC.
        dry_run: Remove nothing, and return what would be removed.
    """
    removed, kept, freed_bytes = [], [], 0
    for study, written_ms, size in _journals(data_dir):
        if written_ms >= before_ms:
            continue
        journal = data_dir / STUDIES / f"{study}.journal"
        try:
            with hold_lock(journal.with_suffix(".lock"), wait_s=0, purpose=f"removing {study}"):
                if not dry_run:
                    with disk_errors(journal, "remove"):
                        journal.unlink(missing_ok=True)
        except LockedError:
            kept.append(KeptStudy(study, "it is being trained"))
        else:
            removed.append(study)
            freed_bytes += size
    return PrunedStudies(tuple(removed), tuple(kept), freed_bytes)


def _journals(data_dir: Path) -> list[tuple[str, int, int]]:
    """Return name, time of the last write (ms UTC) and size (bytes) of each journal, by name."""
    folder = data_dir / STUDIES
    found = []
    with disk_errors(folder, "list"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = _JOURNAL.fullmatch(path.name)
            if name is not None and path.is_file() and not path.is_symlink():
                state = path.stat()
                found.append((name[1], state.st_mtime_ns // 1_000_000, state.st_size))
    return found
