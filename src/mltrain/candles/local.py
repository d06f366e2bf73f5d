"""The source `files`: a folder of parquet and CSV files, one or several per symbol.

A file's symbol stands in its name: `BTCUSDT.parquet`, `BTCUSDT-1m-2025-01-01.csv`, `spot_BTCUSDT_1m.csv.gz`; what such
files may look like inside, `tables` says. Rows are sorted and exact duplicates dropped, which `notes` tells. Nothing
else is mended: a row that contradicts another, or cannot be a candle, is refused by file, symbol, time, field, value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE, check_candles, format_ms, interval_ms, times_ms
from mltrain.candles.source import Window
from mltrain.candles.tables import SUFFIXES, read_rows
from mltrain.errors import InputError
from mltrain.files import disk_edge
from mltrain.names import SYMBOL, did_you_mean, show

if TYPE_CHECKING:
    from pathlib import Path


class FilesSource:
    """A folder of candle files as a Source. Each file is read once, when its symbol is first asked for.

    Attributes:
        folder: Where the files are.
        interval: Interval that their candles must have.

    Raises:
        InputError: The folder is not there, is no folder, or holds no candle file.
        MachineError: The machine refuses to list it.
        UsageError: The interval is unknown.
    """

    def __init__(self, folder: Path, interval: str) -> None:
        self.folder = folder
        self.interval = interval
        self._step_ms = interval_ms(interval)
        self._files = _list_files(folder)
        self._read: dict[str, list[tuple[Path, pl.DataFrame]]] = {}
        self._notes: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Its name among the sources."""
        return "files"

    @property
    def host(self) -> str:
        """No host: the files are here."""
        return ""

    def clock_ms(self, symbols: tuple[str, ...]) -> int:
        """Return when the last candle of these symbols closes.

        Raises:
            InputError: A symbol is not there, or one of its files cannot be read.
            MachineError: The machine refuses to read a file.
        """
        return max(self.extent(symbol).end_ms for symbol in symbols)

    def symbols(self) -> tuple[str, ...]:
        """Return every symbol that a file is named after, sorted."""
        return tuple(sorted(self._files))

    def extent(self, symbol: str) -> Window:
        """Return the range of open times in the files of a symbol.

        Raises:
            InputError: The symbol is not there, or one of its files cannot be read.
            MachineError: The machine refuses to read a file.
        """
        ts_ms = np.concatenate([times_ms(frame) for _, frame in self._frames(symbol)])
        start, last = (int(t) // self._step_ms * self._step_ms for t in (ts_ms.min(), ts_ms.max()))
        return Window(start, last + self._step_ms)

    def candles(self, symbol: str, window: Window) -> pl.DataFrame:
        """Return the candles that open inside the window.

        Raises:
            InputError: The symbol is not there; or a row cannot be a candle, or contradicts another one.
            MachineError: The machine refuses to read a file.
        """
        inside = pl.col("ts").dt.timestamp("ms").is_between(window.start_ms, window.end_ms, closed="left")
        parts, dropped = [], 0
        for path, rows in self._frames(symbol):
            frame, repeated = _merge([(path, rows.filter(inside))], symbol)
            parts.append((path, check_candles(frame, symbol=symbol, interval=self.interval, where=str(path))))
            dropped += repeated
        frame, repeated = _merge(parts, symbol)
        self._note(symbol, dropped + repeated)
        return check_candles(frame, symbol=symbol, interval=self.interval, where=str(self.folder))

    def notes(self) -> tuple[str, ...]:
        """Return how many exact duplicates were dropped, by symbol."""
        return tuple(self._notes[symbol] for symbol in sorted(self._notes))

    def _note(self, symbol: str, dropped: int) -> None:
        self._notes.pop(symbol, None)
        if dropped:
            self._notes[symbol] = f"{symbol}: {dropped} exact duplicate row{'s' * (dropped > 1)} dropped"

    def _frames(self, symbol: str) -> list[tuple[Path, pl.DataFrame]]:
        if symbol not in self._files:
            hint = did_you_mean(symbol, self._files) or f"it has {', '.join(self.symbols()[:12])}"
            raise InputError(f"{self.folder} has no candle file of {show(symbol)}", hint=hint)
        if symbol not in self._read:
            self._read[symbol] = [(path, read_rows(path, symbol, self._step_ms)) for path in self._files[symbol]]
        return self._read[symbol]


def read_candle_file(path: Path, *, symbol: str, interval: str) -> pl.DataFrame:
    """Return the candles of one file, as `check_candles` does.

    Args:
        path: A parquet or CSV file.
        symbol: For messages.
        interval: Interval that its candles must have.

    Raises:
        InputError: It cannot be read, or a row cannot be a candle or contradicts another one.
        MachineError: The machine refuses to read it.
        UsageError: The interval is unknown.
    """
    rows, _ = _merge([(path, read_rows(path, symbol, interval_ms(interval)))], symbol)
    return check_candles(rows, symbol=symbol, interval=interval, where=str(path))


def symbol_of(path: Path) -> str | None:
    """Return the symbol that a file is named after; None where there is none.

    It is the first part of the name that is all capitals and digits and begins with a letter, else the first part.

    >>> from pathlib import Path
    >>> symbol_of(Path("binanceUS_BTCUSDT_1m.csv")), symbol_of(Path("ethusdt.parquet"))
    ('BTCUSDT', 'ETHUSDT')
    """
    parts = [part for part in re.split(r"[-_. ]", path.name) if part]
    capitals = [part for part in parts if SYMBOL.fullmatch(part) and not part[0].isdigit()]
    symbol = (capitals or [parts[0].upper()])[0] if parts else ""
    return symbol if SYMBOL.fullmatch(symbol) else None


def _list_files(folder: Path) -> dict[str, list[Path]]:
    """Return the candle files of each symbol, sorted by name."""
    found: dict[str, list[Path]] = {}
    with disk_edge(folder, "list"):
        if not folder.is_dir():
            what = "is a file: name the folder that it is in" if folder.exists() else "is not there"
            raise InputError(f"the folder of candle files {folder} {what}")
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in paths:
            symbol = symbol_of(path)
            if symbol is not None and path.name.lower().endswith(SUFFIXES) and path.is_file():
                found.setdefault(symbol, []).append(path)
    if not found:
        there = f"there are {', '.join(show(p.name) for p in paths[:5])}" if paths else "it is empty"
        raise InputError(
            f"{folder} holds no candle file: {there}",
            hint="name them after their symbol, like BTCUSDT.parquet or BTCUSDT-1m-2025-01-01.csv; unpack archives",
        )
    return found


def _merge(parts: list[tuple[Path, pl.DataFrame]], symbol: str) -> tuple[pl.DataFrame, int]:
    """Return the rows of all parts sorted by time, and how many exact duplicates were dropped.

    Raises:
        InputError: Two rows of one time differ; names both values and both files.
    """
    tagged = [frame.with_columns(pl.lit(i, pl.Int32).alias("part")) for i, (_, frame) in enumerate(parts)]
    rows = pl.concat(tagged).sort("ts", maintain_order=True)
    frame = rows.unique(subset=list(CANDLE_SCHEMA), keep="first", maintain_order=True)
    twice = (frame["ts"].diff().dt.total_milliseconds() == 0).fill_null(False).arg_true()
    if twice.len():
        one, other = frame.row(twice[0] - 1, named=True), frame.row(twice[0], named=True)
        raise _contradiction(one, other, symbol, [path for path, _ in parts])
    return frame.drop("part"), rows.height - frame.height


def _contradiction(one: dict[str, object], other: dict[str, object], symbol: str, paths: list[Path]) -> InputError:
    field = next(name for name in CANDLE_SCHEMA if one[name] != other[name])
    first, second = paths[int(str(one["part"]))], paths[int(str(other["part"]))]
    time_ms = int(times_ms(pl.DataFrame({"ts": [one["ts"]]}, schema={"ts": TS_DTYPE}))[0])
    values = ["empty" if row[field] is None else row[field] for row in (one, other)]
    where = f"{values[0]} in {first} and {values[1]} in {second}" if first != second else f"{values[0]} and {values[1]}"
    begin = f"{first}: " if first == second else ""
    return InputError(
        f"{begin}{symbol} at {format_ms(time_ms)}: {field} is {where}: two candles of one time",
        hint="remove the wrong row",
    )
