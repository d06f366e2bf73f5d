"""The source `files`: a folder of candle files in any known layout, one or several per symbol.

Names and folders state the symbol, and often the interval and the market: `mltrain.sources.candle_folder` finds the
files, `mltrain.candles.layouts` reads them. A file whose name has no trading pair may name it in a column. Files of
other intervals, of mark prices and the like, and files without rows are left out, rows are sorted, exact duplicates
are dropped, and `notes` lists all of it. Nothing else is repaired: a row that contradicts another or cannot be a candle
is an error that names file, symbol, time, field and value. A file with a `.CHECKSUM` file must match it. A candle that
closes after the machine's time, which the caller passes, is left out; times hours ahead of it are an error (see
`mltrain.candles.closed`).

Files are read again for each call; only one symbol's candles are in memory at a time.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np
import polars as pl

from mltrain.candles.checks import check_candles
from mltrain.candles.closed_candles import describe_unclosed, find_closed
from mltrain.candles.compression import parse_checksum
from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, times_ms
from mltrain.candles.layouts import read_rows
from mltrain.candles.symbols import canonical_symbol
from mltrain.candles.tables import MAX_FILE_BYTES
from mltrain.candles.time_zones import check_time_zone
from mltrain.errors import InputError
from mltrain.names import did_you_mean, join_first, show, show_path
from mltrain.sources.candle_folder import (
    choose_market,
    describe_left_out,
    group_by_symbol,
    list_candle_files,
)
from mltrain.sources.source import OTHER_SYMBOL, FileKind, InputFiles, LocalSource, check_known
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.reading import read_file
from mltrain.times import TimeRange, floor_to_grid, format_ms, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mltrain.candles.layouts import CandleRows
    from mltrain.candles.understood import FileLayout
    from mltrain.sources.candle_folder import FoundFile, SymbolFiles

# The name that the exchange's archive uses.
_CHECKSUM: Final = ".CHECKSUM"
_MAX_CHECKSUM_BYTES: Final = 1 << 16
_REPAIR_HINT: Final = "correct or remove that row, or download the file again"


class FilesSource(LocalSource):
    """A folder of candle files as a Source.

    Attributes:
        folder: The folder of the files.
        interval: Interval that their candles must have.
        market: Empty: files may be of any market.
        now_ms: The machine's time, ms UTC; None: every candle is closed.
        timezone: Zone of times that state none, such as "Europe/Berlin" or "+03:00"; None: UTC.

    Raises:
        InputError: The folder is missing, is not a folder, or has no candle file.
        UsageError: The interval or the zone is unknown.
    """

    def __init__(self, folder: Path, interval: str, *, now_ms: int | None = None, timezone: str | None = None) -> None:
        self.folder = folder
        self.interval = interval
        self.market = ""
        self.now_ms = now_ms
        self.timezone = None if timezone is None else check_time_zone(timezone)
        self._step_ms = interval_ms(interval)
        self._listing = list_candle_files(folder)
        # By symbol; None until the files that do not name a pair have been looked into.
        self._grouped: dict[str, SymbolFiles] | None = None
        # By symbol: the range of each file, None without rows; the number of duplicates dropped; the open times of
        # candles that are not closed and of rows off the grid; the names of files without rows.
        self._ranges: dict[str, dict[Path, TimeRange | None]] = {}
        self._dropped: dict[str, int] = {}
        self._open: dict[str, set[int]] = {}
        self._odd: dict[str, set[int]] = {}
        self._empty: dict[str, list[str]] = {}
        self._layouts: dict[Path, FileLayout] = {}
        self._counting_contracts: set[Path] = set()

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
        return tuple(sorted(self._group()))

    def default_symbols(self) -> tuple[str, ...]:
        """Return the symbols to read if none are named: the pairs with files of the interval; without any, all words.

        Raises:
            InputError: No file can be of the interval.
        """
        files = self._group()
        having = [symbol for symbol, of_symbol in files.items() if of_symbol.files]
        pairs = [symbol for symbol in having if files[symbol].files[0].named.is_pair]
        if not having:
            self._refuse_interval(self.symbols())
        return tuple(sorted(pairs or having))

    def check_symbols(self, symbols: tuple[str, ...]) -> None:
        """Check that each symbol has a file; InputError if one is unknown, or no symbol has files of the interval."""
        files = self._group()
        self._refuse_coins([symbol for symbol in symbols if symbol not in files])
        check_known(symbols, self.symbols(), f"the source files ({self.folder})")
        if not any(files[symbol].files for symbol in symbols):
            self._refuse_interval(symbols)

    def _refuse_coins(self, unknown: list[str]) -> None:
        """Raise an InputError if a file names only the coin of an unknown symbol: its quote asset is not guessed."""
        words = sorted(word for word, of_word in self._group().items() if not _has_pair(of_word))
        for symbol in unknown:
            for word in words:
                if symbol.startswith(word):
                    raise InputError(
                        f"{self.folder} has no candle file of {join_first(unknown, 5)}: "
                        f"{_first_place(self._group()[word])} names no pair",
                        hint=f"name the file after its symbol and interval, such as {symbol}-{self.interval}.csv",
                    )

    def _group(self) -> dict[str, SymbolFiles]:
        """Return the files by symbol. A file whose name has no pair is read once for the symbol in its columns."""
        if self._grouped is None:
            files = []
            for file in self._listing.files:
                named = file.named
                if not named.is_pair and (spelling := self._read_spelling(file)) is not None:
                    named = replace(named, symbol=canonical_symbol(spelling), spelling=spelling, is_pair=True)
                if named.symbol is None:
                    self._listing.leave_out("no symbol in the name", file.place)
                else:
                    files.append(replace(file, named=named))
            self._grouped = group_by_symbol(files, self.interval)
            self._counting_contracts = {file.path for file in files if file.named.counts_contracts}
            if not self._grouped:
                raise InputError(
                    f"{self.folder} holds no candle file whose name has a symbol: "
                    f"{'; '.join(describe_left_out(self._listing.left_out))}",
                    hint=f"name the files after their symbol and interval, such as BTCUSDT-{self.interval}.csv",
                )
        return self._grouped

    def _read_spelling(self, file: FoundFile) -> str | None:
        """Return the only symbol that a file's own columns name, as written there; None if there is none, or several.

        A file that cannot be read has none: the error is raised when its candles are read.
        """
        if file.named.interval not in {None, self.interval}:
            return None
        try:
            read = self._read_rows(file.path, _read_bytes(file.path), where=file.place)
        except InputError:
            return None
        spellings = read.layout.symbols if read.layout is not None else ()
        return spellings[0] if len(spellings) == 1 and canonical_symbol(spellings[0]) is not None else None

    def _refuse_interval(self, symbols: tuple[str, ...]) -> NoReturn:
        """Raise an InputError: the names of these symbols' files state other intervals."""
        others = [file for symbol in symbols for file in self._group()[symbol].others]
        stated = sorted({str(file.named.interval) for file in others})
        of_symbols = f" of {join_first(symbols, 3)}" if len(symbols) < len(self._group()) or len(symbols) == 1 else ""
        left_out = {
            reason: kept
            for reason, files in self._listing.left_out.items()
            if (kept := [file for file in files if file[0] in symbols])
        }
        message = (
            f"{self.folder} has no {self.interval} candles{of_symbols}: its files are named as of "
            f"{' and '.join(stated)}: {join_first([file.place for file in others], 3)}"
        )
        raise InputError(
            "; ".join([message, *describe_left_out(left_out)]),
            hint=f"pass --interval {stated[0]}, or rename what is named wrongly",
        )

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
        """Return what was dropped and left out of the symbols read so far, by symbol, and then of the folder."""
        notes = [note for symbol in sorted(self._ranges) for note in self._notes_of(symbol)]
        places: dict[str, list[str]] = {}
        for path, layout in sorted(self._layouts.items()):
            for note in layout.notes:
                places.setdefault(note, []).append(show_path(path.name))
        notes += [f"{note}: {join_first(names, 3)}" for note, names in places.items()]
        notes += describe_left_out(self._left_out())
        if self.now_ms is not None and (first_ms := {symbol: min(ts) for symbol, ts in self._open.items() if ts}):
            candles = sum(len(ts) for ts in self._open.values())
            notes.append(describe_unclosed(first_ms, candles, now_ms=self.now_ms))
        return tuple(notes)

    def input_files(self) -> InputFiles:
        """Return what was understood of the files read so far, and how many files were left out."""
        read = Counter(replace(layout, notes=()) for layout in self._layouts.values())
        kinds = tuple(FileKind(layout, files) for layout, files in read.most_common())
        spellings = {}
        for symbol, ranges in sorted(self._ranges.items()):
            named = [file.named.spelling for file in self._group()[symbol].files if file.path in ranges]
            inside = [spelling for path in ranges if path in self._layouts for spelling in self._layouts[path].symbols]
            if different := sorted({*named, *inside} - {symbol}):
                spellings[symbol] = tuple(different)
        left_out = {reason: len(files) for reason, files in self._left_out().items()}
        if others := sum(
            len(f.files) + len(f.others) for symbol, f in self._group().items() if symbol not in self._ranges
        ):
            left_out[OTHER_SYMBOL] = others
        return InputFiles(kinds, spellings, left_out)

    def _left_out(self) -> dict[str, list[tuple[str | None, str]]]:
        """Return the files that were left out of the symbols read so far, and those of no known symbol."""
        left_out: dict[str, list[tuple[str | None, str]]] = {}
        for symbol in sorted(self._ranges):
            of_symbol = self._group()[symbol]
            for file in of_symbol.others:
                place = (symbol, f"{file.place} ({file.named.interval})")
                left_out.setdefault("another interval", []).append(place)
            for file in of_symbol.files:
                if file.path not in self._ranges[symbol]:
                    left_out.setdefault("another market", []).append((symbol, f"{file.place} ({file.named.market})"))
        for reason, files in self._listing.left_out.items():
            kept = [file for file in files if file[0] is None or file[0] in self._ranges]
            if kept:
                left_out.setdefault(reason, []).extend(kept)
        return left_out

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
            names = join_first([show_path(name) for name in empty], 3)
            yield f"{symbol}: {len(empty)} file{'s' * (len(empty) > 1)} without rows passed over: {names}"

    def _ranges_of(self, symbol: str) -> dict[Path, TimeRange | None]:
        """Return the range of open times of each file of a symbol, None without rows; reads them the first time."""
        if symbol not in self._ranges:
            self._empty[symbol], self._open[symbol], self._odd[symbol] = [], set(), set()
            ranges = {path: self._range_of(self._read_closed(path, symbol)) for path in self._paths_of(symbol)}
            if not any(ranges.values()):
                why = "no candle has closed" if self._open[symbol] else "no rows"
                why = f"no row opens on the {self.interval} grid" if self._odd[symbol] else why
                raise InputError(f"{join_first([str(path) for path in ranges], 3)}: {symbol}: {why}")
            self._ranges[symbol] = ranges
        return self._ranges[symbol]

    def _range_of(self, rows: pl.DataFrame) -> TimeRange | None:
        """Return the range of open times of rows in any order, rounded down to the grid; None without rows."""
        if rows.is_empty():
            return None
        ts_ms = times_ms(rows)
        first_ms, last_ms = (floor_to_grid(int(t), self._step_ms) for t in (ts_ms.min(), ts_ms.max()))
        return TimeRange(first_ms, last_ms + self._step_ms)

    def _paths_of(self, symbol: str) -> list[Path]:
        """Return the files of a symbol that may be of the source's interval, all of one market; InputError without."""
        if symbol not in self._group():
            self._refuse_coins([symbol])
            hint = did_you_mean(symbol, self._group()) or f"it has {', '.join(self.symbols()[:12])}"
            raise InputError(f"{self.folder} has no candle file of {show(symbol)}", hint=hint)
        if not self._group()[symbol].files:
            self._refuse_interval((symbol,))
        return [file.path for file in choose_market(symbol, self._group()[symbol].files, self.folder)]

    def _read_closed(self, path: Path, symbol: str) -> pl.DataFrame:
        """Read a file's closed candles in its order, and keep for `notes` what is left out."""
        data = _read_bytes(path)
        where = f"{path}: {symbol}"
        read = self._read_rows(path, data, where=where, counts_contracts=path in self._counting_contracts)
        rows = read.rows
        if read.layout is not None:
            _check_symbol(read.layout, symbol, where)
            self._layouts[path] = read.layout
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

    def _read_rows(self, path: Path, data: bytes, *, where: str, counts_contracts: bool = False) -> CandleRows:
        """Return the rows in the bytes of a file, called `where` in messages; see `read_rows`."""
        return read_rows(
            data,
            name=path.name,
            where=where,
            step_ms=self._step_ms,
            timezone=self.timezone,
            counts_contracts=counts_contracts,
        )

    def _leave_out_odd(self, rows: pl.DataFrame, closes_ms: NDArray[np.int64], symbol: str) -> pl.DataFrame:
        """Leave out the odd rows of the exchange's history that open off the grid; see `split_odd`.

        Only rows whose close time (ms UTC) shows that they are candles of this interval are left out. `check_candles`
        refuses any other row off the grid, and any in a file without close times.
        """
        ts_ms = times_ms(rows)
        is_candle = (closes_ms >= ts_ms) & (closes_ms - ts_ms < self._step_ms)
        off_grid = is_candle & (ts_ms != floor_to_grid(ts_ms, self._step_ms))
        if not off_grid.any():
            return rows
        odd = off_grid | np.isin(ts_ms, floor_to_grid(ts_ms[off_grid], self._step_ms))
        self._odd[symbol].update(ts_ms[odd].tolist())
        return rows.filter(~odd)


def _has_pair(files: SymbolFiles) -> bool:
    """Return whether a symbol's name is that of a trading pair, and not just a word."""
    return any(file.named.is_pair for file in (*files.files, *files.others))


def _first_place(files: SymbolFiles) -> str:
    """Return the path of the first file of a symbol, for messages."""
    return (*files.files, *files.others)[0].place


def _check_symbol(layout: FileLayout, symbol: str, where: str) -> None:
    """Raise an InputError if a file's columns name another pair than its name does.

    Only a pair that is written in two parts is compared: Kraken calls XBTUSD XXBTZUSD in its answers.
    """
    for spelling in layout.symbols:
        other = canonical_symbol(spelling)
        if other not in {None, symbol} and re.search("[-/_:]", spelling):
            raise InputError(
                f"{where}: the file says that its candles are of {show(spelling)}",
                hint=f"rename the file after its symbol, such as {other}.csv",
            )


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
    frame = rows
    # Comparing whole rows takes much longer than comparing their times.
    if (rows["ts"].diff().dt.total_milliseconds() == 0).any():
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
