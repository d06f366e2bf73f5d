"""List and prune the cache of downloaded days."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mltrain.documents.results import Result
from mltrain.names import SYMBOL
from mltrain.sources.day_cache import FOLDER, SOURCE_FOLDER, lock_cache, read_day_file, remove_files
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import sweep_temps
from mltrain.times import DAY_MS, INTERVALS_MS, day_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.times import TimeRange


@dataclass(frozen=True, slots=True)
class CacheRow:
    """What the cache holds of one symbol.

    Attributes:
        source: Folder of the source.
        symbol: The symbol.
        interval: Interval of the candles.
        days: Number of whole days.
        first: The earliest whole day, such as 2025-10-15; empty without any.
        last: The latest whole day.
        bytes: Size of all its files.
    """

    source: str
    symbol: str
    interval: str
    days: int
    first: str
    last: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned(Result):
    """What was removed from the cache.

    Attributes:
        days: Number of days, whole or in part.
        bytes: Size of their files.
    """

    SCHEMA: ClassVar[str] = "cache-prune/1"

    days: int
    bytes: int


def list_cache(data_dir: Path) -> tuple[CacheRow, ...]:
    """List the cached days, one row per source, symbol and interval in this order; no file is verified."""
    rows = []
    for folder, files in _day_folders(data_dir / FOLDER):
        if not files:
            continue
        whole = [days for name, (days, _) in files.items() if name.endswith(".parquet") and ".part." not in name]
        source, symbol, interval = folder.parts[-3:]
        first = day_name(min(days.start_ms for days in whole)) if whole else ""
        last = day_name(max(days.end_ms for days in whole) - DAY_MS) if whole else ""
        rows.append(
            CacheRow(
                source, symbol, interval, sum(map(_count, whole)), first, last, sum(size for _, size in files.values())
            )
        )
    return tuple(rows)


def prune_cache(
    data_dir: Path, is_removable: Callable[[str, str, TimeRange], bool], *, dry_run: bool = False
) -> Pruned:
    """Remove cached days; a later snapshot downloads them again.

    Args:
        data_dir: The data folder.
        is_removable: Given a symbol, an interval and the UTC days of a file, returns whether to remove them.
        dry_run: Remove nothing, and return what would be removed.

    Raises:
        LockedError: Another mltrain is downloading.
    """
    days, freed_bytes = 0, 0
    if not (data_dir / FOLDER).is_dir():
        return Pruned(0, 0)
    with lock_cache(data_dir, "pruning the cache") as cache:
        for folder, files in _day_folders(cache):
            sweep_temps(folder)
            symbol, interval = folder.parts[-2:]
            old = [name for name, (of_file, _) in files.items() if is_removable(symbol, interval, of_file)]
            # Metadata first: a day without metadata is absent, metadata without its day would be reported as damaged.
            by_metadata = sorted(old, key=lambda name: (not name.endswith(".json"), name))
            remove_files(folder / name for name in by_metadata if not dry_run)
            days += sum(_count(files[name][0]) for name in old if name.endswith(".json"))
            freed_bytes += sum(files[name][1] for name in old)
    return Pruned(days, freed_bytes)


def _count(days: TimeRange) -> int:
    """Return the number of days in a range of UTC days."""
    return (days.end_ms - days.start_ms) // DAY_MS


def _day_folders(cache: Path) -> Iterator[tuple[Path, dict[str, tuple[TimeRange, int]]]]:
    """Yield each folder of cached days, and by name the UTC days and the size in bytes of each file in it."""
    for source in _subfolders(cache, SOURCE_FOLDER):
        for symbol in _subfolders(source, SYMBOL):
            for interval in _subfolders(symbol, re.compile("|".join(INTERVALS_MS))):
                with disk_errors(interval, "list"), os.scandir(interval) as entries:
                    found = [(e.name, days, e) for e in entries if (days := read_day_file(e.name)) is not None]
                    stats = [(name, days, e.stat(follow_symlinks=False)) for name, days, e in found]
                yield interval, {name: (days, s.st_size) for name, days, s in stats if stat.S_ISREG(s.st_mode)}


def _subfolders(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the subfolders, sorted, whose whole name matches; symbolic links are not followed."""
    if not folder.is_dir():
        return []
    with disk_errors(folder, "list"), os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
