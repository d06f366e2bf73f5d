"""List and prune the cache of downloaded days."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mltrain.names import SYMBOL
from mltrain.sources.day_cache import FOLDER, SOURCE_FOLDER, is_day_file, lock_cache, remove_files
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.temps import sweep_temps
from mltrain.times import INTERVALS_MS, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
class Pruned:
    """What was removed from the cache.

    Attributes:
        days: Number of days, whole or in part.
        bytes: Size of their files.
    """

    days: int
    bytes: int


def list_cache(data_dir: Path) -> tuple[CacheRow, ...]:
    """List the cached days, one row per source, symbol and interval in this order; no file is verified."""
    rows = []
    for folder, size_bytes in _day_folders(data_dir / FOLDER):
        if not size_bytes:
            continue
        days = sorted(name[:10] for name in size_bytes if name.endswith(".parquet") and ".part." not in name)
        source, symbol, interval = folder.parts[-3:]
        first, last = (days[0], days[-1]) if days else ("", "")
        rows.append(CacheRow(source, symbol, interval, len(days), first, last, sum(size_bytes.values())))
    return tuple(rows)


def prune_cache(data_dir: Path, is_removable: Callable[[str, str, int], bool], *, dry_run: bool = False) -> Pruned:
    """Remove cached days; a later snapshot downloads them again.

    Args:
        data_dir: The data folder.
        is_removable: Given a symbol, an interval and the start of a UTC day in ms, returns whether to remove that day.
        dry_run: Remove nothing, and return what would be removed.

    Raises:
        LockedError: Another mltrain is downloading.
    """
    days, freed_bytes = 0, 0
    if not (data_dir / FOLDER).is_dir():
        return Pruned(0, 0)
    with lock_cache(data_dir, "pruning the cache") as cache:
        for folder, size_bytes in _day_folders(cache):
            sweep_temps(folder)
            symbol, interval = folder.parts[-2:]
            old = [name for name in size_bytes if is_removable(symbol, interval, parse_time(name[:10]))]
            # Metadata first: a day without metadata is absent, metadata without its day would be reported as damaged.
            by_metadata = sorted(old, key=lambda name: (not name.endswith(".json"), name))
            remove_files(folder / name for name in by_metadata if not dry_run)
            days += sum(name.endswith(".json") for name in old)
            freed_bytes += sum(size_bytes[name] for name in old)
    return Pruned(days, freed_bytes)


def _day_folders(cache: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    """Yield each folder of cached days, and the size in bytes of each day's files in it, by file name."""
    for source in _subfolders(cache, SOURCE_FOLDER):
        for symbol in _subfolders(source, SYMBOL):
            for interval in _subfolders(symbol, re.compile("|".join(INTERVALS_MS))):
                with disk_errors(interval, "list"), os.scandir(interval) as entries:
                    stats = {e.name: e.stat(follow_symlinks=False) for e in entries if is_day_file(e.name)}
                yield interval, {name: s.st_size for name, s in stats.items() if stat.S_ISREG(s.st_mode)}


def _subfolders(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """Return the subfolders, sorted, whose whole name matches; symbolic links are not followed."""
    if not folder.is_dir():
        return []
    with disk_errors(folder, "list"), os.scandir(folder) as entries:
        return sorted(Path(e.path) for e in entries if pattern.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
