"""Stored backtests: immutable folders in `backtests`, each with a manifest that is written last."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain.backtesting.result import BACKTEST, BacktestResult, StoredHead
from mltrain.candles.parquet import ParquetFile
from mltrain.documents.records import read_record, to_json
from mltrain.documents.results import Result
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Located
from mltrain.errors import InputError
from mltrain.names import did_you_mean, show
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder, remove_folder, staged_folder
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MANIFEST, Manifest, describe_file, read_listed, read_manifest, verify_files
from mltrain.storage.writing import write_new
from mltrain.times import day_name, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

FOLDER: Final = "backtests"
REQUEST_FILE: Final = "request.json"
RESULT_FILE: Final = "result.json"
_KIND: Final = "backtest"
_MAX_RESULT_BYTES: Final = 64 << 20
_MAX_TABLE_BYTES: Final = 1 << 30
_MAX_TABLE_ROWS: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class StoredBacktest:
    """A backtest whose manifest is sound; its files are checked when they are read.

    Attributes:
        name: Such as 2025-10-15-2025-11-01 or 2025-10-15-2025-11-01.2.
        folder: Its folder.
        manifest: Its files.
        created_at: When it was run, UTC, such as 2025-11-01T12:00:00Z.
        version: The version that was traded.
    """

    name: str
    folder: Path
    manifest: Manifest
    created_at: str
    version: str

    def result(self) -> BacktestResult:
        """Read its result; raise InputError if the file is not the published one."""
        data = read_listed(self.folder, self.manifest, RESULT_FILE, max_bytes=_MAX_RESULT_BYTES)
        where = str(self.folder / RESULT_FILE)
        return read_record(Located(parse_json(data, where=where, max_bytes=_MAX_RESULT_BYTES), where), BacktestResult)

    def table(self, name: str) -> pl.DataFrame:
        """Read one of its tables, such as "equity.parquet"; raise InputError if it is not the published one."""
        data = read_listed(self.folder, self.manifest, name, max_bytes=_MAX_TABLE_BYTES)
        file = ParquetFile(data, where=str(self.folder / name), max_rows=_MAX_TABLE_ROWS)
        return file.read(list(file.types))

    def verify(self) -> tuple[str, ...]:
        """Hash every file and return every problem, one sentence each; empty if the backtest is sound."""
        return verify_files(self.folder, self.manifest)


@dataclass(frozen=True, slots=True)
class BacktestRow:
    """One line of the list of backtests.

    Attributes:
        name: Its name.
        backtest: The backtest; None if it is damaged.
        result: Its result; None if it is damaged.
        problem: What is wrong with it; None if it is sound.
    """

    name: str
    backtest: StoredBacktest | None
    result: BacktestResult | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class PrunedBacktests(Result):
    """The result of `prune_backtests`.

    Attributes:
        removed: The backtests that were removed, by name.
        bytes: Their size.
    """

    SCHEMA: ClassVar[str] = "backtest-prune/1"

    removed: tuple[str, ...]
    bytes: int


def publish_backtest(
    data_dir: Path,
    result: BacktestResult,
    files: Mapping[str, bytes],
    *,
    now_ms: int,
    named: Callable[[str], Mapping[str, bytes]],
    folder: Path | None = None,
) -> StoredBacktest:
    """Write a backtest under the next free name: it appears whole or not at all, and never changes.

    Args:
        data_dir: The data folder.
        result: What was asked, and what was found.
        files: Its tables, by bare name.
        now_ms: The time of the run, ms UTC; its date is part of the name.
        named: Returns the files that contain the backtest's name, given that name.
        folder: Where to put it instead of the data folder's `backtests`.

    Raises:
        LockedError: The folder is locked for longer than the wait.
        MachineError: The machine refuses; nothing is left.
    """
    folder = data_dir / FOLDER if folder is None else folder
    make_folder(folder)
    result_json = canonical_json(to_json(result))
    with lock_folder(folder, purpose="publishing a backtest"):
        first = f"{result.request.version}-{day_name(now_ms)}"
        names = (first if number == 1 else f"{first}.{number}" for number in count(1))
        name = next(name for name in names if not os.path.lexists(folder / name))
        written = {
            REQUEST_FILE: canonical_json(to_json(result.request)),
            RESULT_FILE: result_json,
            **files,
            **named(name),
        }
        head = StoredHead(name, format_seconds(now_ms), result.request.version, sha256_bytes(result_json))
        manifest = Manifest(_KIND, to_json(head), tuple(describe_file(path, data) for path, data in written.items()))
        with staged_folder(folder / name) as staged:
            for path, data in written.items():
                write_new(staged / path, data)
            write_new(staged / MANIFEST, manifest.to_bytes())
    return _open(folder / name)


def open_backtest(data_dir: Path, name: str) -> StoredBacktest:
    """Open a backtest by its name, or by its path, which contains a "/"; "latest" is the one that was run last.

    Raises:
        InputError: There is none of that name, or its manifest is damaged.
    """
    if "/" in name:
        return _open(Path(name))
    known = _names(data_dir)
    if name == "latest":
        rows = [row.backtest for row in list_backtests(data_dir) if row.backtest]
        if not rows:
            raise InputError(f"there is no backtest in {data_dir}", hint="run one with `mltrain backtest`")
        return rows[-1]
    if name not in known:
        guess = did_you_mean(name, known) or "`mltrain backtest list` lists them"
        raise InputError(f"there is no backtest {show(name)} in {data_dir / FOLDER}", hint=guess)
    return _open(data_dir / FOLDER / name)


def _open(folder: Path) -> StoredBacktest:
    """Open the backtest in a folder; raise an InputError if the folder is not one, or its manifest is damaged."""
    if not folder.is_dir():
        raise InputError(
            f"there is no backtest {folder}", hint="`mltrain backtest list` lists those of the data folder"
        )
    manifest = read_manifest(folder, kind=_KIND)
    head = read_record(Located(dict(manifest.head), str(folder / MANIFEST)), StoredHead)
    entry = manifest.entry(RESULT_FILE)
    if head.backtest != folder.name or entry is None or entry.sha256 != head.result_sha256:
        raise InputError(f"{folder / MANIFEST}: was published as backtest {head.backtest}, or with another result")
    return StoredBacktest(head.backtest, folder, manifest, head.created_at, head.version)


def list_backtests(data_dir: Path) -> tuple[BacktestRow, ...]:
    """List the backtests, those that were run first before those that were run last."""
    rows = []
    for name in _names(data_dir):
        try:
            backtest = open_backtest(data_dir, name)
            rows.append(BacktestRow(name, backtest, backtest.result(), None))
        except InputError as err:
            rows.append(BacktestRow(name, None, None, err.message))
    return tuple(sorted(rows, key=lambda row: (row.backtest.created_at if row.backtest else "", _number(row.name))))


def prune_backtests(data_dir: Path, *, keep: int, dry_run: bool = False) -> PrunedBacktests:
    """Remove all but the newest backtests; a damaged one counts as old.

    Args:
        data_dir: The data folder.
        keep: How many to keep.
        dry_run: Remove nothing, and return what would be removed.
    """
    folder = data_dir / FOLDER
    if not folder.is_dir():
        return PrunedBacktests((), 0)
    with lock_folder(folder, purpose="removing backtests"):
        rows = list_backtests(data_dir)
        removed, freed_bytes = [row.name for row in rows[: max(0, len(rows) - keep)]], 0
        for name in removed:
            with disk_errors(folder / name, "read"):
                freed_bytes += sum(path.stat().st_size for path in (folder / name).iterdir())
            if not dry_run:
                remove_folder(folder / name)
    return PrunedBacktests(tuple(removed), freed_bytes)


def _names(data_dir: Path) -> list[str]:
    """Return the names of the folders that are backtests by their names."""
    folder = data_dir / FOLDER
    with disk_errors(folder, "list"):
        paths = list(folder.iterdir()) if folder.is_dir() else []
    return sorted(
        (p.name for p in paths if BACKTEST.fullmatch(p.name) and p.is_dir() and not p.is_symlink()), key=_number
    )


def _number(name: str) -> tuple[str, int]:
    """Return version and date of a backtest's name, and its number on that day."""
    first, _, number = name.rpartition(".")
    return (first, int(number)) if first and "-" not in number else (name, 1)
