"""The source `files`: a folder of parquet, CSV and JSON files, plain or packed, one or several per symbol.

The name of a file states its symbol, and often its interval: `BTCUSDT.parquet`, `BTCUSDT-1m-2025-01-01.zip`,
`BTC_USDT-1m.json.gz`; `mltrain.candles.tables` describes their contents. Files of another interval and files without
rows are left out, rows are sorted, exact duplicates are dropped, and `notes` lists all of it. Nothing else is repaired:
a row that contradicts another or cannot be a candle is an error that names file, symbol, time, field and value. A file
with a `.CHECKSUM` file must match it. A candle that closes after the machine's time, which the caller passes, is left
out; times hours ahead of it are an error (see `mltrain.candles.closed`).

Files are read again for each call; only one symbol's candles are in memory at a time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.checks import check_candles
from mltrain.candles.closed_candles import describe_unclosed, find_closed
from mltrain.candles.compression import parse_checksum
from mltrain.candles.filenames import parse_interval, parse_symbol
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, times_ms
from mltrain.candles.layouts import SUFFIXES, read_rows
from mltrain.candles.tables import MAX_FILE_BYTES
from mltrain.errors import InputError
from mltrain.names import did_you_mean, show
from mltrain.sources.source import LocalSource, check_known
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.times import TimeRange, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


# The name that the exchange's archive uses.
_CHECKSUM: Final = ".CHECKSUM"
_MAX_CHECKSUM_BYTES: Final = 1 << 16
_REPAIR_HINT: Final = "correct or remove that row, or download the file again"


@dataclass(frozen=True, slots=True)
class _SymbolFiles:
    """The files of one symbol, sorted by name.

    Attributes:
        files: Files whose name states the source's interval or none.
        others: Files of other intervals, with the interval that their name states.
    """

    files: list[Path]
    others: list[tuple[Path, str]]


class FilesSource(LocalSource):
    """A folder of candle files as a Source.

    Attributes:
        folder: The folder of the files.
        interval: Interval that their candles must have.
        now_ms: The machine's time, ms UTC; None: every candle is closed.

    Raises:
        InputError: The folder is missing, is not a folder, or has no candle file.
        UsageError: The interval is unknown.
    """

    def __init__(self, folder: Path, interval: str, *, now_ms: int | None = None) -> None:
        self.folder = folder
        self.interval = interval
        self.now_ms = now_ms
        self._step_ms = interval_ms(interval)
        self._files = _list_files(folder, interval)
        # By symbol: the range of each file, None without rows; the number of duplicates dropped; the open times of
        # candles that are not closed and of rows off the grid; the names of files without rows.
        self._ranges: dict[str, dict[Path, TimeRange | None]] = {}
        self._dropped: dict[str, int] = {}
        self._open: dict[str, set[int]] = {}
        self._odd: dict[str, set[int]] = {}
        self._empty: dict[str, list[str]] = {}

    @property
    def name(self) -> str:
        """Name of this kind of source: "files"."""
        return "files"

    @property
    def host(self) -> str:
        """Empty: the files are on this machine."""
        return ""

    def clock_ms(self, symbols: tuple[str, ...]) -> int:
        """Return when the last closed candle of these symbols ended, ms UTC."""
        return max(self.extent(symbol).end_ms for symbol in symbols)

    def renew_clock(self) -> None:
        """Do nothing: files are read again for each call."""

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols of all files, sorted."""
        return tuple(sorted(self._files))

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that each symbol has a file; InputError if one is unknown."""
        check_known(symbols, self.symbols(), f"the source files ({self.folder})")

    def extent(self, symbol: str) -> TimeRange:
        """Return the range of open times of the closed candles in the files of a symbol."""
        ranges = [each for each in self._ranges_of(symbol).values() if each is not None]
        return TimeRange(min(each.start_ms for each in ranges), max(each.end_ms for each in ranges))

    def candles(self, symbol: str, window: TimeRange) -> pl.DataFrame:
        """Return the closed candles that open inside the window; InputError if their times are hours ahead."""
        inside = pl.col("ts").dt.timestamp("ms").is_between(window.start_ms, window.end_ms, closed="left")
        paths = [
            path
            for path, each in self._ranges_of(symbol).items()
            if each is not None and each.start_ms < window.end_ms and each.end_ms > window.start_ms
        ]
        parts = [(path, rows) for path in paths if (rows := self._read_closed(path, symbol).filter(inside)).height]
        frame, self._dropped[symbol] = _join(parts, symbol, self.interval)
        return frame

    def notes(self) -> tuple[str, ...]:
        """Return what was dropped and left out of the symbols read so far, by symbol."""
        notes = [note for symbol in sorted(self._ranges) for note in self._notes_of(symbol)]
        if self.now_ms is not None and (first_ms := {symbol: min(ts) for symbol, ts in self._open.items() if ts}):
            candles = sum(len(ts) for ts in self._open.values())
            notes.append(describe_unclosed(first_ms, candles, now_ms=self.now_ms))
        return tuple(notes)

    def _notes_of(self, symbol: str) -> Iterator[str]:
        """Yield notes on what was dropped and left out of a symbol's files."""
        if dropped := self._dropped.get(symbol, 0):
            yield f"{symbol}: {dropped} exact duplicate row{'s' * (dropped > 1)} dropped"
        if odd := self._odd[symbol]:
            yield (
                f"{symbol}: {len(odd):,} row{'s' * (len(odd) > 1)} of the exchange's history left out, off the "
                f"{self.interval} grid, from {format_ms(min(odd))} to {format_ms(max(odd))}: their candles are missing"
            )
        if empty := self._empty[symbol]:
            yield f"{symbol}: {_count_files(empty)} without rows passed over: {_some(empty)}"
        if others := [f"{path.name} ({stated})" for path, stated in self._files[symbol].others]:
            yield f"{symbol}: {_count_files(others)} of another interval left out: {_some(others)}"

    def _ranges_of(self, symbol: str) -> dict[Path, TimeRange | None]:
        """Return the range of open times of each file of a symbol, None without rows; reads them the first time."""
        if symbol not in self._ranges:
            self._empty[symbol], self._open[symbol], self._odd[symbol] = [], set(), set()
            ranges = {path: self._range_of(self._read_closed(path, symbol)) for path in self._paths_of(symbol)}
            if not any(ranges.values()):
                why = "no candle has closed" if self._open[symbol] else "no rows"
                why = f"no row opens on the {self.interval} grid" if self._odd[symbol] else why
                raise InputError(f"{_some([str(path) for path in ranges])}: {symbol}: {why}")
            self._ranges[symbol] = ranges
        return self._ranges[symbol]

    def _range_of(self, rows: pl.DataFrame) -> TimeRange | None:
        """Return the range of open times of rows in any order, rounded down to the grid; None without rows."""
        if rows.is_empty():
            return None
        ts_ms = times_ms(rows)
        first_ms, last_ms = (int(t) // self._step_ms * self._step_ms for t in (ts_ms.min(), ts_ms.max()))
        return TimeRange(first_ms, last_ms + self._step_ms)

    def _paths_of(self, symbol: str) -> list[Path]:
        """Return the files of a symbol whose name states the source's interval or none; InputError without any."""
        if symbol not in self._files:
            hint = did_you_mean(symbol, self._files) or f"it has {', '.join(self.symbols()[:12])}"
            raise InputError(f"{self.folder} has no candle file of {show(symbol)}", hint=hint)
        named = self._files[symbol]
        if not named.files:
            stated = sorted({interval for _, interval in named.others})
            raise InputError(
                f"{self.folder} has no {self.interval} candles of {symbol}: its files are named as of "
                f"{' and '.join(stated)}: {_some([path.name for path, _ in named.others])}",
                hint=f"pass --interval {stated[0]}, or rename what is named wrongly",
            )
        return named.files

    def _read_closed(self, path: Path, symbol: str) -> pl.DataFrame:
        """Read a file's closed candles in its order, and keep for `notes` what is left out."""
        data = _read_bytes(path)
        where = f"{path}: {symbol}"
        read = read_rows(data, name=path.name, where=where, step_ms=self._step_ms)
        rows = read.rows
        if rows.is_empty() and path.name not in self._empty[symbol]:
            self._empty[symbol].append(path.name)
        if read.closes_ms is not None:
            rows = self._leave_out_odd(rows, read.closes_ms, symbol)
        if self.now_ms is None:
            return rows
        ts_ms = times_ms(rows)
        closed = find_closed(ts_ms, step_ms=self._step_ms, now_ms=self.now_ms, symbol=symbol, where=str(path))
        if closed.all():
            return rows
        self._open[symbol].update(ts_ms[~closed].tolist())
        return rows.filter(closed)

    def _leave_out_odd(self, rows: pl.DataFrame, closes_ms: NDArray[np.int64], symbol: str) -> pl.DataFrame:
        """Leave out the odd rows of the exchange's history that open off the grid; see `split_odd`.

        Only rows whose close time (ms UTC) shows that they are candles of this interval are left out. `check_candles`
        refuses any other row off the grid, and any in a file without close times.
        """
        ts_ms = times_ms(rows)
        off_grid = (ts_ms % self._step_ms != 0) & (closes_ms >= ts_ms) & (closes_ms - ts_ms < self._step_ms)
        if not off_grid.any():
            return rows
        odd = off_grid | np.isin(ts_ms, ts_ms[off_grid] // self._step_ms * self._step_ms)
        self._odd[symbol].update(ts_ms[odd].tolist())
        return rows.filter(~odd)


def _count_files(names: list[str]) -> str:
    """Return the number of files, such as "2 files"."""
    return f"{len(names)} file{'s' * (len(names) > 1)}"


def _some(names: list[str]) -> str:
    """Return the first three names, and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_candle_file(path: Path, *, symbol: str, interval: str) -> pl.DataFrame:
    """Read the candles of one file, as `check_candles` returns them.

    Args:
        path: A parquet, CSV or JSON file, plain or packed; its name is not used.
        symbol: For messages.
        interval: Interval that its candles must have.

    Raises:
        InputError: The file cannot be read, has no rows, or a row cannot be a candle or contradicts another one.
        UsageError: The interval is unknown.
    """
    data = _read_bytes(path)
    rows = read_rows(data, name=path.name, where=f"{path}: {symbol}", step_ms=interval_ms(interval)).rows
    if rows.is_empty():
        raise InputError(f"{path}: {symbol}: no rows")
    return _join([(path, rows)], symbol, interval)[0]


def _read_bytes(path: Path) -> bytes:
    """Read a candle file, and check it against its `.CHECKSUM` file if there is one."""
    data = read_file(real_path(path), max_bytes=MAX_FILE_BYTES, what="the candle file")
    checksum_path = path.with_name(path.name + _CHECKSUM)
    if os.path.lexists(checksum_path):
        text = read_file(real_path(checksum_path), max_bytes=_MAX_CHECKSUM_BYTES, what="the checksum")
        expected = parse_checksum(text, file_name=path.name, where=str(checksum_path))
        if (actual := sha256_bytes(data)) != expected:
            raise InputError(
                f"{path}: its SHA-256 is {actual}, but {checksum_path.name} says {expected}",
                hint="one of the two is damaged or out of date: fetch both again",
            )
    return data


def _list_files(folder: Path, interval: str) -> dict[str, _SymbolFiles]:
    """Return the candle files of each symbol in a folder; those of other intervals are listed separately."""
    files_by_symbol: dict[str, list[Path]] = {}
    with disk_errors(folder, "list"):
        if not folder.is_dir():
            what = "is a file: name the folder that it is in" if folder.exists() else "is not there"
            raise InputError(f"the folder of candle files {folder} {what}")
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in paths:
            symbol = parse_symbol(path.name)
            if symbol is not None and path.name.lower().endswith(SUFFIXES) and path.is_file():
                files_by_symbol.setdefault(symbol, []).append(path)
    if not files_by_symbol:
        raise _no_candle_file(folder, paths)
    return {symbol: _split_by_interval(files, interval) for symbol, files in files_by_symbol.items()}


def _split_by_interval(paths: list[Path], interval: str) -> _SymbolFiles:
    """Split the files of a symbol by the interval that their names state."""
    names = [path.name for path in paths]
    named = [(path, parse_interval(path.name, siblings=names)) for path in paths]
    return _SymbolFiles(
        files=[path for path, stated in named if stated in {None, interval}],
        others=[(path, stated) for path, stated in named if stated is not None and stated != interval],
    )


def _no_candle_file(folder: Path, paths: list[Path]) -> InputError:
    """Return the error for a folder without candle files; `paths` are its files and subfolders."""
    contents = f"there are {', '.join(show(p.name) for p in paths[:5])}" if paths else "it is empty"
    subfolder = next((path.name for path in paths if path.is_dir()), None)
    hint = f"candle files end in {', '.join(SUFFIXES)}: name them after their symbol, like BTCUSDT-1m-2025-01-01.csv"
    if subfolder is not None:
        hint = f"folders in it are not looked into: name one of them, like --from {folder / subfolder}"
    return InputError(f"{folder} holds no candle file: {contents}", hint=hint)


def _join(parts: Sequence[tuple[Path, pl.DataFrame]], symbol: str, interval: str) -> tuple[pl.DataFrame, int]:
    """Merge and check the rows of several files; return the candles and the number of exact duplicates dropped.

    Raises:
        InputError: A row cannot be a candle, or contradicts another one; or a file lacks a column that others have.
    """
    if not parts:
        return pl.DataFrame(schema=dict(CANDLE_SCHEMA)), 0
    _check_columns(parts, symbol)
    frame, dropped = _merge(parts, symbol)
    where = str(parts[0][0] if len(parts) == 1 else parts[0][0].parent)
    try:
        return check_candles(frame, symbol=symbol, interval=interval, where=where), dropped
    except InputError:
        # Each file alone, so that the error names the file.
        for path, rows in parts:
            frame, _ = _merge([(path, rows)], symbol)
            try:
                check_candles(frame, symbol=symbol, interval=interval, where=str(path))
            except InputError as err:
                raise InputError(err.message, hint=err.hint or _REPAIR_HINT) from err
        raise


def _check_columns(parts: Sequence[tuple[Path, pl.DataFrame]], symbol: str) -> None:
    """Check that each optional column is in all rows of all files or in none: features would be null in the middle."""
    for name in OPTIONAL:
        for path, rows in parts:
            empty = rows[name].is_null().arg_true()
            if 0 < empty.len() < rows.height:
                more = f", and so in {empty.len() - 1} more row{'s' * (empty.len() > 2)}" if empty.len() > 1 else ""
                filled = rows.height - empty.len()
                raise InputError(
                    f"{path}: {symbol} at {format_ms(int(times_ms(rows)[empty[0]]))}: {name} is missing{more}; "
                    f"{filled} {'row has' if filled == 1 else 'rows have'} it",
                    hint="complete or remove these rows, or leave the column empty in every row",
                )
        lacking = [path for path, rows in parts if rows[name].null_count()]
        having = [path for path, rows in parts if not rows[name].null_count()]
        if lacking and having:
            raise InputError(
                f"{symbol}: {lacking[0]} has no {name}, {having[0]} has: candles with and without do not mix",
                hint="keep files of one kind in the folder, or leave the column empty in all of them",
            )


def _merge(parts: Sequence[tuple[Path, pl.DataFrame]], symbol: str) -> tuple[pl.DataFrame, int]:
    """Return the rows of several files sorted by time, and the number of exact duplicates dropped."""
    tagged = [frame.with_columns(pl.lit(i, pl.Int32).alias("part")) for i, (_, frame) in enumerate(parts)]
    rows = pl.concat(tagged).sort("ts", maintain_order=True)
    frame = rows.unique(subset=list(CANDLE_SCHEMA), keep="first", maintain_order=True)
    repeats = (frame["ts"].diff().dt.total_milliseconds() == 0).fill_null(False).arg_true()
    if repeats.len():
        raise _contradiction(frame[repeats[0] - 1 : repeats[0] + 1], symbol, [path for path, _ in parts])
    return frame.drop("part"), rows.height - frame.height


def _contradiction(two: pl.DataFrame, symbol: str, paths: list[Path]) -> InputError:
    """Return the error for two rows of one time; their column `part` is the position of their file in `paths`."""
    field = next(name for name in CANDLE_SCHEMA if two[name].n_unique() > 1)
    first, second = (paths[part] for part in two["part"])
    values = ["empty" if value is None else value for value in two[field]]
    where = f"{values[0]} in {first} and {values[1]} in {second}" if first != second else f"{values[0]} and {values[1]}"
    begin = f"{first}: " if first == second else ""
    return InputError(
        f"{begin}{symbol} at {format_ms(int(times_ms(two)[0]))}: {field} is {where}: two candles of one time",
        hint="remove the wrong row",
    )
