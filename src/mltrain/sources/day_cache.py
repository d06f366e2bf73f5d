"""The cache of downloaded days, shared by all snapshots: `cache/<source>/<SYMBOL>/<interval>/<UTC day>.parquet`.

Candles of an hour or longer are few, so a file holds several days of them: `2025-09-30_30d.parquet` begins on that day.
Such a run of days is called a day here, too.

Each day has a metadata file, `<UTC day>.json`, which is written after it, names its source, symbol and interval, and
holds the hash of the day's file and of itself. A day whose bytes and metadata do not agree counts as absent and is
downloaded again. A day that is not over is kept as `<UTC day>.part.parquet` until it is whole.

Writing and removing need the lock `cache/.lock`, held for a whole download.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.candles.candle_file import encode_candles, read_unchecked
from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.documents.records import (
    OMIT_DEFAULT,
    REQUIRED,
    REST,
    Encoded,
    Key,
    Limits,
    TimeMs,
    read_record,
    record,
    to_json,
)
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import SHA256, Json, Located, Sha256
from mltrain.errors import InputError, UsageError
from mltrain.names import SYMBOL
from mltrain.sources.source import ORIGIN
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import lock_folder
from mltrain.storage.reading import read_file
from mltrain.storage.temps import sweep_temps
from mltrain.storage.writing import atomic_write_all
from mltrain.times import DAY_MS, HOUR_MS, SECOND_MS, TimeRange, day_name, floor_to_grid, interval_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import polars as pl

FOLDER: Final = "cache"

SOURCE_FOLDER: Final = re.compile(r"[a-z]{2,20}(?:-[a-z]{2,20})?(?:@[a-z0-9.-]{1,200}(?:_[0-9]{1,5})?)?")
_DAY_FILE: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:_([1-9][0-9]{0,4})d)?(?:\.part)?\.(?:parquet|json)")
_MAX_METADATA_BYTES: Final = 4096
# Candles of an hour or longer in one file: a month of 1h. Ten years of 1d in files of one candle took 36 s a symbol,
# most of it for 7,300 syncs.
_UNIT_CANDLES: Final = 720
# 1,440 candles take 70 kB, the 86,400 of a day of 1s candles 4.2 MB.
_MAX_DAY_BYTES: Final = 16 << 20


@record
@dataclass(frozen=True, slots=True)
class CachedDay:
    """A day of one symbol, or its beginning, as its metadata file describes it.

    Attributes:
        day_ms: The midnight at which it begins, ms UTC.
        until_ms: End of the requested range, ms UTC: the midnight after its last day if it is whole.
        origin: "rest", or "archive" and the SHA-256 of the zip.
        gaps_rechecked: Whether its gaps were requested a second time, or it has none.
        fetched_ms: When it was downloaded, by the exchange's clock, ms UTC; whole seconds in the cache.
        left_out: How many odd rows were left out; see `mltrain.sources.klines.split_odd`.
        closed_early: How many of its candles closed before their interval ended.
        rows: How many candles its file has; set by `SymbolDays.write`.
        sha256: SHA-256 of its file; empty without rows, which have no file.
        days: Number of UTC days that it spans if it is whole; see `cached_unit_days`.
    """

    day_ms: Annotated[int, Encoded(str, parse_time, day_name), Key("day")]
    until_ms: Annotated[TimeMs, Key("until")]
    origin: Annotated[str, ORIGIN]
    gaps_rechecked: Annotated[bool, Key("holes_asked")]
    fetched_ms: Annotated[TimeMs, Key("fetched_at")]
    # Left out if zero, so that metadata of an earlier version, which had neither key, keeps its bytes.
    left_out: Annotated[int, Limits(0), OMIT_DEFAULT] = 0
    closed_early: Annotated[int, Limits(0), OMIT_DEFAULT] = 0
    rows: Annotated[int, Limits(0), REQUIRED] = 0
    sha256: Annotated[str, re.compile(f"{SHA256.pattern}|"), REQUIRED] = ""
    days: Annotated[int, Limits(1, 99_999), OMIT_DEFAULT] = 1

    @property
    def is_whole(self) -> bool:
        """Whether it reaches the end of its last day."""
        return self.until_ms - self.day_ms >= self.days * DAY_MS

    @property
    def name(self) -> str:
        """Name of its files without the ending, such as "2025-10-15.part"."""
        return _whole_name(self.day_ms, self.days) + ("" if self.is_whole else ".part")


def _whole_name(day_ms: int, days: int) -> str:
    """Return the name of the files of a whole day without the ending, such as "2025-09-30_30d"."""
    return day_name(day_ms) + (f"_{days}d" if days > 1 else "")


def cached_unit_days(step_ms: int) -> int:
    """Return how many UTC days of candles of `step_ms` one file of the cache holds.

    >>> cached_unit_days(60_000), cached_unit_days(3_600_000), cached_unit_days(86_400_000)
    (1, 30, 720)
    """
    return 1 if step_ms < HOUR_MS else _UNIT_CANDLES * step_ms // DAY_MS


@contextmanager
def lock_cache(data_dir: Path, purpose: str) -> Iterator[Path]:
    """Yield the cache's folder, made if missing and locked for `purpose` while the block lasts."""
    folder = data_dir / FOLDER
    make_folder(folder)
    with lock_folder(folder, purpose=purpose):
        yield folder


class SymbolDays:
    """The cached days of one symbol at one interval. Writing needs the lock of the cache.

    Attributes:
        folder: Folder of the days' files.
        symbol: The symbol.
        interval: Interval of the candles.
        unit_days: How many UTC days one file holds.
    """

    def __init__(self, cache: Path, source: str, symbol: str, interval: str, *, unit_days: int = 1) -> None:
        if SOURCE_FOLDER.fullmatch(source) is None or SYMBOL.fullmatch(symbol) is None:
            raise ValueError(f"{source!r} and {symbol!r} do not name a folder of the cache")
        self._owner = f"{source}/{symbol}/{interval}"
        self.folder = cache / self._owner
        self.symbol = symbol
        self.interval = interval
        self.unit_days = unit_days

    def open_for_writing(self) -> None:
        """Make the folder if it is missing, and remove the temporary files of a killed writer.

        Files of another number of days are removed, too: an earlier version kept each day of 1h candles in a file.
        """
        make_folder(self.folder)
        sweep_temps(self.folder)
        others = []
        with disk_errors(self.folder, "list"), os.scandir(self.folder) as entries:
            for entry in entries:
                days = read_day_file(entry.name)
                if days is not None and entry.is_dir(follow_symlinks=False):
                    raise InputError(f"{entry.path} is a folder, where a cached day belongs", hint="move it away")
                if days is not None and days.end_ms - days.start_ms != self.unit_days * DAY_MS:
                    others.append(self.folder / entry.name)
        # Metadata first, as when the cache is pruned.
        remove_files(sorted(others, key=lambda path: path.suffix != ".json"))

    def find(self, day_ms: int) -> tuple[CachedDay | None, str]:
        """Find the cached day of a midnight, ms UTC, whole or in part, and check its file against its metadata.

        Returns:
            The day, or None if it is absent or damaged; and a description of the damage, or "".
        """
        damage = ""
        whole = _whole_name(day_ms, self.unit_days)
        for name in (whole, f"{whole}.part"):
            if not os.path.lexists(self.folder / f"{name}.json"):
                continue
            try:
                day = self._read_metadata(name)
                self._read_verified(day)
            except InputError as err:
                damage = err.message.partition("\n")[0]
            else:
                return day, damage
        return None, damage

    def read(self, day: CachedDay) -> pl.DataFrame:
        """Return the candles of a day that `find` or `write` returned; InputError if its file was changed since."""
        import polars as pl

        if not day.rows:
            return pl.DataFrame(schema=CANDLE_SCHEMA)
        return read_unchecked(self._read_verified(day), rows=day.rows, where=str(self.folder / f"{day.name}.parquet"))

    def write(self, days: Iterable[tuple[CachedDay, pl.DataFrame]]) -> tuple[CachedDay, ...]:
        """Write the candles of days, then their metadata.

        Args:
            days: Each day with its candles, as `check_candles` returns them.

        Returns:
            The days with `rows` and `sha256` of their files; `gaps_rechecked` is set for days without a gap.
        """
        step_ms = interval_ms(self.interval)
        files: dict[str, bytes] = {}
        written = []
        for day, candles in days:
            data = encode_candles(candles, step_ms).data if candles.height else b""
            if data:
                files[f"{day.name}.parquet"] = data
            is_complete = candles.height == (day.until_ms - day.day_ms) // step_ms
            written.append(
                replace(
                    day,
                    gaps_rechecked=day.gaps_rechecked or is_complete,
                    fetched_ms=day.fetched_ms // SECOND_MS * SECOND_MS,
                    rows=candles.height,
                    sha256=sha256_bytes(data) if data else "",
                )
            )
        self._write_all(files, written)
        return tuple(written)

    def mark_rechecked(self, days: Iterable[CachedDay]) -> tuple[CachedDay, ...]:
        """Record that the gaps of days were requested a second time and remain; return the changed days."""
        marked = [replace(day, gaps_rechecked=True) for day in days]
        self._write_all({}, marked)
        return tuple(marked)

    def _write_all(self, files: dict[str, bytes], days: list[CachedDay]) -> None:
        """Write candle files, by name, and the metadata of days; then remove the files that these replace."""
        # Metadata after files: a day that is killed in between has metadata that does not match, and counts as absent.
        if files:
            atomic_write_all(self.folder, files)
        if days:
            atomic_write_all(self.folder, {f"{day.name}.json": _write_metadata(day, self._owner) for day in days})
        parts = [f"{day.name}.part.{end}" for day in days if day.is_whole for end in ("json", "parquet")]
        remove_files(self.folder / name for name in (*parts, *(f"{day.name}.parquet" for day in days if not day.rows)))

    def _read_metadata(self, name: str) -> CachedDay:
        """Read and check a metadata file, given by its name without the ending."""
        path = self.folder / f"{name}.json"
        data = read_file(path, max_bytes=_MAX_METADATA_BYTES, what="the metadata of a cached day")
        day = _parse_metadata(data, owner=self._owner, step_ms=interval_ms(self.interval), where=str(path))
        if day.name != name:
            raise InputError(f"{path}: is the metadata of {day.name}")
        return day

    def _read_verified(self, day: CachedDay) -> bytes:
        """Return the content of a day's file, whose hash must be that of the metadata; empty without candles."""
        if not day.rows:
            return b""
        path = self.folder / f"{day.name}.parquet"
        data = read_file(path, max_bytes=_MAX_DAY_BYTES, what="the cached day")
        if sha256_bytes(data) != day.sha256:
            raise InputError(f"{path}: is not what was downloaded")
        return data


@record
@dataclass(frozen=True, slots=True)
class _Metadata:
    """The metadata file of a day: its source, symbol and interval, the day, and the hash of both."""

    of: str
    self_sha256: Sha256
    day: Annotated[Mapping[str, Json], REST]


def _write_metadata(day: CachedDay, owner: str) -> bytes:
    """Return the metadata file of a day, as JSON; `owner` is such as "binance/BTCUSDT/1m"."""
    day_json = to_json(day)
    self_sha256 = sha256_bytes(canonical_json({"of": owner, **day_json}))
    return canonical_json(to_json(_Metadata(owner, self_sha256, day_json)))


def _parse_metadata(data: bytes, *, owner: str, step_ms: int, where: str) -> CachedDay:
    """Read a day's metadata file; `owner` is such as "binance/BTCUSDT/1m", `where` the file's path, for messages.

    Raises:
        InputError: The file was changed, is of another owner, or does not describe a day of candles of `step_ms`.
    """
    metadata = read_record(Located(parse_json(data, where=where, max_bytes=_MAX_METADATA_BYTES), where), _Metadata)
    if metadata.of != owner:
        raise InputError(f"{where}: is not metadata of {owner}")
    day = read_record(Located(dict(metadata.day), where), CachedDay)
    length_ms = day.days * DAY_MS
    is_on_grid = (day.day_ms, day.until_ms) == (
        floor_to_grid(day.day_ms, length_ms),
        floor_to_grid(day.until_ms, step_ms),
    )
    if not is_on_grid or not day.day_ms < day.until_ms <= day.day_ms + length_ms:
        raise InputError(f"{where}: until: must be a time of the day, on the grid of its candles")
    if day.rows > (day.until_ms - day.day_ms) // step_ms:
        raise InputError(f"{where}: rows: must be at most {(day.until_ms - day.day_ms) // step_ms}, is {day.rows}")
    if bool(day.rows) != bool(day.sha256):
        raise InputError(f"{where}: sha256: must be that of a file with rows, and empty without rows")
    if data != _write_metadata(day, owner):
        raise InputError(f"{where}: does not match its own hash: it was changed after it was written")
    return day


def read_day_file(name: str) -> TimeRange | None:
    """Return the UTC days of a cached file or its metadata, by a name such as "2025-10-15.part.json"; else None."""
    match = _DAY_FILE.fullmatch(name)
    if match is None:
        return None
    try:
        start_ms = parse_time(match[1])
    except UsageError:
        # Such as a 31st of February.
        return None
    return TimeRange(start_ms, start_ms + int(match[2] or 1) * DAY_MS)


def remove_files(paths: Iterable[Path]) -> None:
    """Remove those of the files that exist."""
    for path in paths:
        # Most are absent, and a failing unlink costs more than this check.
        if os.path.lexists(path):
            with disk_errors(path, "remove"):
                path.unlink(missing_ok=True)
