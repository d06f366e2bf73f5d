"""The ledger: one line for each answer that a model gave, or refused to give.

    data/ledger/2025-10-15.jsonl     the answers of a UTC day, one JSON document per line

Lines are only ever appended. Each holds its own hash and that of the line before (`mltrain.storage.chained_lines`), and
the first line of a day that of the last line of the day before: a line that was changed is found, and so is one that
was removed from the middle. Lines removed from either end are not: old days may be deleted. Bytes after the last
newline are the torn end of an interrupted write; readers ignore them, and the next append cuts them off.

Several processes may append to one ledger, and others may read it at the same time. Polars is not imported, so that a
process that only watches the ledger stays small.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import threading
import time
import weakref
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from functools import cache, partial
from itertools import islice
from operator import attrgetter
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Self

from mltrain.card.lineage import PACKAGE, hash_package
from mltrain.documents.records import Limits, RecordError, read_record, record
from mltrain.documents.results import Result
from mltrain.documents.values import SHA256, Located, Sha256, is_unicode
from mltrain.errors import InputError, LockedError, MachineError
from mltrain.names import read_folder, show
from mltrain.storage.chained_lines import BROKEN_CHAIN, BROKEN_SEAL, unseal_line
from mltrain.storage.descriptors import CHUNK_BYTES, OPEN_NO_WAIT, opened_for_reading, opened_for_update, sync_folder
from mltrain.storage.disk_errors import as_machine_error, disk_errors
from mltrain.storage.folders import make_folder
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import FOLDER_WAIT_S, lock_folder
from mltrain.storage.writing import end_of_last_line, write_all
from mltrain.times import DAY_MS, day_name, format_ms, format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from mltrain.documents.values import Json
    from mltrain.serving.answers import Answer

#: The folder of the ledger in the data folder.
LEDGER: Final = "ledger"
#: Seconds after which an appended line is on the disk at the latest.
SYNC_S: Final = 1.0
# A line of some 600 bytes is far below; the limit keeps a damaged file from filling the memory.
_MAX_LINE_BYTES: Final = 1 << 16
# A file is read line by line: its size does not matter.
_MAX_FILE_BYTES: Final = 1 << 50
_LOCK_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | OPEN_NO_WAIT
# Others hold the lock for less.
_LOCK_POLL_S: Final = 0.0002

_DAY_FILE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.jsonl")
_SECONDS: Final = r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_TIME: Final = re.compile(_SECONDS + r"(?:\.[0-9]{3})?Z")
# Always with ms, so that texts are in the order of time.
_AT: Final = re.compile(_SECONDS + r"\.[0-9]{3}Z")
_SYMBOL: Final = re.compile(rb'"symbol":"([A-Z0-9]{1,40})"')
_MAX_TEXT: Final = 300
# How far back the newest row of a symbol is looked for.
_NEWEST_DAYS: Final = 7
# Stands for the hash of a line that is not known, because the days before were deleted or are not read.
_UNKNOWN: Final = "unknown"
_WITHHELD: Final = "an answer that cannot be recorded is not given"
_DAMAGE_HINT: Final = "restore the file from a backup, or move the folder away: a new ledger is begun"


# The fields that more is demanded of than their type; of p and raw written so that NaN fails.
_RULES: Final[tuple[tuple[str, Callable[[Any], bool], str], ...]] = (
    ("at", lambda text: _AT.fullmatch(text) is not None, "a time such as 2025-10-15T12:00:00.250Z"),
    *(
        (name, lambda text: _TIME.fullmatch(text) is not None, "a time such as 2025-10-15T12:00:00Z")
        for name in ("ts", "source_at")
    ),
    *(
        (name, lambda text: len(text) <= _MAX_TEXT and is_unicode(text), f"a text of at most {_MAX_TEXT} characters")
        for name in ("symbol", "version", "refused", "permit")
    ),
    *((name, lambda score: 0 <= score <= 1, "a number from 0 to 1") for name in ("p", "raw")),
    *((name, math.isfinite, "a finite number") for name in ("high", "low", "close", "latency_ms")),
    ("missed", lambda count: count >= 0, "a number from 0 on"),
    ("code_sha256", lambda text: SHA256.fullmatch(text) is not None, "a SHA-256"),
)
_TEXT: Final = frozenset({str, NoneType})
_NUMBER: Final = frozenset({float, NoneType})
# The types of the values of each field in a line.
_TYPES: Final = {
    **dict.fromkeys(("at", "version", "code_sha256"), frozenset({str})),
    **dict.fromkeys(("ts", "symbol", "refused", "permit", "source_at"), _TEXT),
    **dict.fromkeys(("p", "raw", "high", "low", "close", "latency_ms"), _NUMBER),
    "missed": frozenset({int}),
}
_WHOLE: Final = dict.fromkeys(_TYPES, True)
_SHA256_CHARACTERS: Final = 64


def format_at(time_ms: int) -> str:
    """Return a time in ms UTC as the ledger writes that of an answer, always with ms.

    >>> format_at(1_760_529_600_000)
    '2025-10-15T12:00:00.000Z'
    """
    return f"{format_seconds(time_ms)[:-1]}.{time_ms % 1000:03d}Z"


@record
@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One answer.

    Attributes:
        at: When it was given, by the machine's clock, UTC, such as 2025-10-15T12:00:00.250Z.
        ts: Open time of the candle, UTC, such as 2025-10-15T11:59:00Z; None: there was no candle.
        symbol: The symbol; None: features were scored, not candles.
        version: Name of the version that answered; empty: the model was not published.
        code_sha256: Hash of the mltrain package and of the user ops in use.
        p: Calibrated probability of up, in [0, 1]; None where refused.
        raw: Score before calibration, in [0, 1]; None where refused.
        refused: Why there is no probability: a code such as "stale", "halted" or "error"; None: it was given.
        permit: "reduce": the answer may only be used to make positions smaller; None: for everything.
        high: High of the candle. With `low` and `close`, outcomes can be computed from the ledger alone.
        low: Low of the candle.
        close: Close of the candle.
        source_at: Time of the source's clock when the candle was read, UTC; None: not known.
        latency_ms: From the moment when the candles were there to the answer; None: not measured.
        missed: How many candles of this symbol before this one were not answered since its last row.
    """

    at: Annotated[str, _AT]
    ts: Annotated[str, _TIME] | None
    symbol: str | None
    version: str
    code_sha256: Sha256
    p: Annotated[float, Limits(0, 1)] | None
    raw: Annotated[float, Limits(0, 1)] | None
    refused: str | None
    permit: str | None
    high: float | None
    low: float | None
    close: float | None
    source_at: Annotated[str, _TIME] | None
    latency_ms: float | None
    missed: Annotated[int, Limits(0)] = 0

    def __post_init__(self) -> None:
        """Check the values before they are written: the ledger must be able to read every line back."""
        for name, is_valid, expected in _RULES:
            value = getattr(self, name)
            if value is not None and not is_valid(value):
                raise RecordError(((name,), f"{show(str(value))} is not {expected}"))
        if (self.p is None) == (self.refused is None):
            raise RecordError((("p",), "is null if and only if the answer was refused"))


_FIELDS: Final = tuple(field.name for field in fields(LedgerRow))
_read_fields: Final = attrgetter(*_FIELDS)
_encode: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode
# The key after the hash of a line, in which keys are sorted. A text cannot contain it, because its quotes are escaped.
_AFTER_SEAL: Final = ',"source_at":'


@dataclass(slots=True)
class _Day:
    """The file that is appended to.

    Attributes:
        name: The UTC day, such as 2025-10-15.
        path: The file.
        fd: Its descriptor, open for appending.
        end: Its size after the last line that is known, in bytes.
        last_sha256: Hash of that line; None: it is the first of the ledger.
        folder_ns: When the folder's entries had changed last when the file was opened, in ns.
    """

    name: str
    path: Path
    fd: int
    end: int
    last_sha256: str | None
    folder_ns: int


class Ledger:
    """Appends answers to a ledger.

    It is safe for several threads and processes, and goes on after the last line, also that of another process. A line
    goes to the file of the UTC day of its `at`; after the clock was set back, to the newest file.

    Once `append` has returned, the rows survive a kill of the process at any moment. A thread flushes them to the disk
    within a second: a power cut can lose the answers of the last second, never earlier ones.

    Args:
        folder: The folder of the ledger, created if absent.
        clock: Returns seconds since 1970, UTC: the time of an answer.

    Raises:
        UsageError: `folder` is not a path.
        MachineError: The folder cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._begin()
        _ledgers.add(self)
        # Absolute, so that a process may change its working directory.
        self._folder = read_folder(folder, "folder").absolute()
        self._clock = clock
        make_folder(self._folder)
        # The package as it is now, which an upgrade may replace while this process runs.
        hash_own_package()

    def _begin(self) -> None:
        """Begin without an open file, as a new process does."""
        self._mutex = threading.Lock()
        self._lock_fd: int | None = None
        self._day: _Day | None = None
        self._sync_error: OSError | None = None
        self._unsynced = threading.Event()
        self._closed = threading.Event()
        self._syncing: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Ends the thread, which does not keep the ledger alive; the kernel flushes the lines in its own time.
        self._closed.set()
        self._unsynced.set()
        self._drop_files()

    def _drop_files(self) -> None:
        """Close the files as they are."""
        for fd in (self._lock_fd, None if self._day is None else self._day.fd):
            if fd is not None:
                os.close(fd)

    def _leave_to_parent(self) -> None:
        """Begin again in the child of a fork: files, lock and thread are those of the parent.

        The lock would otherwise outlive a parent that is killed while it holds it.
        """
        self._drop_files()
        self._begin()

    def __reduce__(self) -> tuple[partial[Ledger], tuple[Path]]:
        return partial(Ledger, clock=self._clock), (self._folder,)

    def record(self, answers: Sequence[Answer]) -> None:
        """Append the answers of a model that are given now; errors as in `append`."""
        at = format_at(int(self._clock() * 1000))
        self.append([_as_row(answer, at) for answer in answers])

    def last_rows(self, symbols: Iterable[str]) -> dict[str, LedgerRow]:
        """Return the newest row of each symbol; one without a row in the newest seven days is left out.

        Raises:
            InputError: Such a row was changed; the message names its file.
            MachineError: A file cannot be read.
        """
        missing, found = set(symbols), dict[str, LedgerRow]()
        for path in reversed(list_days(self._folder)[-_NEWEST_DAYS:]):
            if not missing:
                break
            with opened_for_reading(path, _MAX_FILE_BYTES, "the ledger") as fd:
                for line in _read_backwards(fd):
                    # Faster than to read every line; the form of a line is canonical.
                    named = _SYMBOL.search(line)
                    symbol = named and named[1].decode()
                    if symbol not in missing:
                        continue
                    found[symbol], _ = _read_line(line, str(path))
                    missing.remove(symbol)
                    if not missing:
                        break
        return found

    def append(self, rows: Sequence[LedgerRow]) -> None:
        """Append rows, in order, as one write.

        Raises:
            MachineError: They could not be written, or earlier ones not be flushed: the answers must not be given.
                Some of the rows may have been written.
            LockedError: Another process held the lock for too long.
        """
        if not rows:
            return
        with self._mutex:
            try:
                with self._holding_lock():
                    self._append(rows)
            except OSError as err:
                path = self._folder if self._day is None else self._day.path
                # What the file holds now is not known. Another error of closing it would say less.
                with suppress(OSError):
                    self._close_files()
                raise _withhold(as_machine_error(err, path, "append to")) from err
            except (InputError, MachineError) as err:
                raise _withhold(err) from err
        self._unsynced.set()

    @contextmanager
    def _holding_lock(self) -> Iterator[None]:
        """Hold the lock of the folder for the block.

        The lock file stays open: `mltrain.storage.locks.hold_lock` opens it each time, writes into it, and waits in
        steps of 50 ms, longer than an answer may take.
        """
        path = self._folder / ".lock"
        deadline_s = time.monotonic() + FOLDER_WAIT_S
        while True:
            if self._lock_fd is None:
                self._lock_fd = os.open(path, _LOCK_FLAGS, 0o666)
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    raise LockedError(
                        f"another mltrain holds {path}: {_WITHHELD}",
                        hint=f"end it: `fuser {path}` shows the processes",
                    ) from None
                time.sleep(_LOCK_POLL_S)
                continue
            with suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(self._lock_fd).st_ino:  # noqa: PTH116 (half the time)
                    break
            # The folder was deleted: nobody else has the lock that we hold.
            self._close_files()
        try:
            yield
        finally:
            if self._lock_fd is not None:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _append(self, rows: Sequence[LedgerRow]) -> None:
        """Append rows; the caller holds the lock."""
        if self._sync_error is not None:
            err, self._sync_error = self._sync_error, None
            raise err
        day = self._open_day(max(row.at[:10] for row in rows))
        lines = []
        before = day.last_sha256
        for row in rows:
            line = _write_line(row, before)
            before = sha256_bytes(line)
            lines += [line, b"\n"]
        data = b"".join(lines)
        # Not flushed here: the kernel has the lines, so that a killed process loses nothing, and the answer would wait
        # for milliseconds. A power cut loses those of the last second at most, because a thread flushes them.
        write_all(day.fd, data)
        day.end += len(data)
        day.last_sha256 = before

    def _open_day(self, name: str) -> _Day:
        """Return the file for rows of a day, ready to be appended to; the caller holds the lock."""
        day = self._day
        if day is not None:
            # A file that was begun or deleted changes the folder's time, and lines of other processes the file's size.
            seen = os.stat(self._folder).st_mtime_ns, os.fstat(day.fd).st_size  # noqa: PTH116 (half the time)
            if name <= day.name and seen == (day.folder_ns, day.end):
                return day
            self._close_day()
        earlier = list_days(self._folder)
        path = max([self._folder / f"{name}.jsonl", *earlier])
        last_sha256 = None
        for each in reversed(earlier):
            last_sha256 = _read_last_sha256(each)
            if last_sha256 is not None:
                break
        with opened_for_update(path, os.O_APPEND) as opened:
            fd = os.dup(opened)
        self._day = day = _Day(path.stem, path, fd, os.fstat(fd).st_size, last_sha256, 0)
        if path not in earlier:
            sync_folder(self._folder)
        day.folder_ns = self._folder.stat().st_mtime_ns
        if self._syncing is None:
            events = self._unsynced, self._closed
            self._syncing = threading.Thread(target=_sync_often, args=(weakref.ref(self), *events), daemon=True)
            self._syncing.start()
        return day

    def _close_day(self) -> None:
        """Flush and close the open file."""
        day, self._day = self._day, None
        if day is not None:
            try:
                os.fsync(day.fd)
            finally:
                os.close(day.fd)

    def _close_files(self) -> None:
        """Flush and close the open file, and close the lock file."""
        lock_fd, self._lock_fd = self._lock_fd, None
        if lock_fd is not None:
            os.close(lock_fd)
        self._close_day()

    def sync(self) -> None:
        """Flush the newest lines to the disk; an error is raised by the next append."""
        try:
            with self._mutex:
                # A copy, so that appends need not wait.
                fd = None if self._day is None else os.dup(self._day.fd)
            if fd is not None:
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
        except OSError as err:
            self._sync_error = err

    def close(self) -> None:
        """Flush all lines to the disk and close the files; a later append opens them again.

        Raises:
            MachineError: The lines could not be flushed.
        """
        self._closed.set()
        self._unsynced.set()
        if self._syncing is not None:
            self._syncing.join()
        with self._mutex, disk_errors(self._folder, "write into"):
            err = self._sync_error
            try:
                self._close_files()
            finally:
                self._begin()
            if err is not None:
                raise err


# Every ledger of this process.
_ledgers: Final[weakref.WeakSet[Ledger]] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for ledger in list(_ledgers):
        ledger._leave_to_parent()  # noqa: SLF001 -- as a method of the class


os.register_at_fork(after_in_child=_leave_to_parent)


def _sync_often(ledger: weakref.ref[Ledger], unsynced: threading.Event, closed: threading.Event) -> None:
    """Flush the new lines of a ledger to the disk, at most once a second, until it is closed."""
    while not closed.is_set():
        unsynced.wait()
        unsynced.clear()
        held = ledger()
        if held is not None:
            held.sync()
            del held
        closed.wait(SYNC_S)


def _withhold(err: InputError | MachineError) -> MachineError:
    """Return the error of an append that failed."""
    return MachineError(f"{err.message}: {_WITHHELD}", hint=err.hint)


def list_days(folder: Path) -> list[Path]:
    """Return the files of a ledger, oldest first; none if there is no folder."""
    try:
        with disk_errors(folder, "read"):
            return sorted(folder / name for name in os.listdir(folder) if _DAY_FILE.fullmatch(name))  # noqa: PTH208
    except MachineError as err:
        if isinstance(err.__cause__, FileNotFoundError):
            return []
        raise


def _read_line(line: bytes, where: str) -> tuple[LedgerRow, Json]:
    """Return the row of a line and the hash of the line before; raise InputError if it was changed."""
    found = _read_own_line(line)
    if found is not None:
        return found
    document, is_unchanged = unseal_line(line, where)
    prev = document.pop("prev", None)
    row = read_record(Located(document, where), LedgerRow)
    if not is_unchanged:
        raise InputError(f"{where}: {BROKEN_SEAL}", hint=_DAMAGE_HINT)
    return row, prev


def _write_line(row: LedgerRow, prev: str | None) -> bytes:
    """Return the line that `seal_line` gives for a row and the hash of the line before, in a third of the time."""
    body = _encode({**dict(zip(_FIELDS, _read_fields(row), strict=True)), "prev": prev})
    before, at, after = body.partition(_AFTER_SEAL)
    return f'{before},"self_sha256":"{sha256_bytes(body.encode())}"{at}{after}'.encode()


def _read_own_line(line: bytes) -> tuple[LedgerRow, Json] | None:
    """Return what `_read_line` does, in a sixth of the time; None unless the line is certainly one of the ledger's."""
    before, seal, after = line.partition(b'"self_sha256":"')
    end = _SHA256_CHARACTERS + len(b'",')
    if not seal or sha256_bytes(before + after[end:]).encode() + b'",' != after[:end]:
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    document.pop("self_sha256", None)
    prev = document.pop("prev", None)
    if {name: type(value) in _TYPES.get(name, ()) for name, value in document.items()} != _WHOLE:
        return None
    try:
        return LedgerRow(**document), prev
    except RecordError:
        return None


def _read_backwards(fd: int) -> Iterator[bytes]:
    """Yield the whole lines of an open file, last one first."""
    end, tail = max(0, end_of_last_line(fd) - 1), b""
    while end > 0:
        start = max(0, end - CHUNK_BYTES)
        tail, *lines = (os.pread(fd, end - start, start) + tail).split(b"\n")
        yield from reversed(lines)
        end = start
    if tail:
        yield tail


def _as_row(answer: Answer, at: str) -> LedgerRow:
    """Return the row of an answer that was given at `at`."""
    high, low, close = answer.prices
    symbol = answer.symbol
    # A caller's name for a symbol may be anything.
    if symbol is not None and (len(symbol) > _MAX_TEXT or not is_unicode(symbol)):
        symbol = show(symbol)
    return LedgerRow(
        at=at,
        ts=None if answer.ts_ms is None else format_ms(answer.ts_ms),
        symbol=symbol,
        version=answer.version,
        code_sha256=_hash_code(answer.ops_sha256),
        p=answer.p,
        raw=answer.raw,
        refused=answer.refused,
        permit=answer.permit,
        high=high,
        low=low,
        close=close,
        source_at=None if answer.source_ms is None else format_ms(answer.source_ms),
        latency_ms=None if answer.latency_ms is None else round(answer.latency_ms, 3),
        missed=answer.missed,
    )


@cache
def hash_own_package() -> str:
    """Return the hash of this package's source, as it is at the first call."""
    return hash_package(PACKAGE)


@cache
def _hash_code(ops_sha256: str | None) -> str:
    """Return one hash of this package and of a module of user ops."""
    return hash_own_package() if ops_sha256 is None else sha256_bytes(f"{hash_own_package()} {ops_sha256}".encode())


def _read_last_sha256(path: Path) -> str | None:
    """Return the hash of a file's last line; None if it has no line. The torn end of a line is cut off first."""
    with opened_for_update(path) as fd:
        end = end_of_last_line(fd)
        if end < os.fstat(fd).st_size:
            os.ftruncate(fd, end)
        if end == 0:
            return None
        # Without the newline at its end.
        start = max(0, end - 1 - _MAX_LINE_BYTES)
        return sha256_bytes(os.pread(fd, end - 1 - start, start).rpartition(b"\n")[2])


class LedgerTail:
    """Reads a ledger from a time on, and then what has been appended since the last call.

    Args:
        folder: The folder of the ledger; it may be created later.
        since_ms: Rows of answers from this time on, ms UTC; None: from the first row on.
    """

    def __init__(self, folder: str | os.PathLike[str], *, since_ms: int | None = None) -> None:
        self._folder = read_folder(folder, "folder")
        self._since = None if since_ms is None else format_at(since_ms)
        # The file that was read last, up to which byte and line, and the hash of that line.
        self._path: Path | None = None
        self._offset = self._line = 0
        self._last_sha256: str | None = _UNKNOWN

    def new_rows(self) -> Iterator[LedgerRow]:
        """Yield the rows that were not yielded before, in order.

        Raises:
            InputError: A line was changed, or lines before it were removed; the message names file and line.
            MachineError: A file cannot be read.
        """
        # Listed before any file is read: every file but the last of the list is complete.
        days = list_days(self._folder)
        if self._since is not None:
            # No answer is later than the day of its file.
            days = [path for path in days if path.stem >= self._since[:10]]
        if self._path is not None:
            if self._path in days:
                days = days[days.index(self._path) :]
            else:
                # Deleted: what its last line was is not known.
                days = [path for path in days if path > self._path]
                self._last_sha256 = _UNKNOWN
        for path in days:
            if path != self._path:
                self._path, self._offset, self._line = path, 0, 0
            try:
                yield from self._read_day(path, is_complete=path != days[-1])
            except InputError as err:
                if not isinstance(err.__cause__, FileNotFoundError):
                    raise
                # Deleted since the files were listed.
                self._last_sha256 = _UNKNOWN

    def _read_day(self, path: Path, *, is_complete: bool) -> Iterator[LedgerRow]:
        with opened_for_reading(path, _MAX_FILE_BYTES, "the ledger") as fd:
            if os.fstat(fd).st_size < self._offset:
                raise InputError(f"{path}: lines that were read before have been removed", hint=_DAMAGE_HINT)
            torn = b""
            at = self._offset
            while part := os.pread(fd, CHUNK_BYTES, at):
                at += len(part)
                *lines, torn = (torn + part).split(b"\n")
                for line in lines:
                    row = self._check(line, f"{path}: line {self._line + 1}")
                    self._offset += len(line) + 1
                    self._line += 1
                    self._last_sha256 = sha256_bytes(line)
                    if self._since is None or row.at >= self._since:
                        yield row
                if len(torn) > _MAX_LINE_BYTES:
                    raise InputError(f"{path}: line {self._line + 1}: is too long", hint=_DAMAGE_HINT)
            if torn and is_complete:
                raise InputError(f"{path}: line {self._line + 1}: has no end, and a later day follows")

    def _check(self, line: bytes, where: str) -> LedgerRow:
        """Return the row of a line; raise InputError if it or the line before was changed."""
        row, prev = _read_line(line, where)
        # A tuple: what a damaged line holds may not be hashable.
        if self._last_sha256 not in (_UNKNOWN, prev):
            raise InputError(f"{where}: {BROKEN_CHAIN}", hint=_DAMAGE_HINT)
        return row


def read_ledger(
    folder: str | os.PathLike[str], *, since_ms: int | None = None, until_ms: int | None = None
) -> Iterator[LedgerRow]:
    """Yield the rows of a ledger, in order, and check the lines that are read; none if there is no ledger.

    Args:
        folder: The folder of the ledger.
        since_ms: Rows of answers from this time on, ms UTC; None: from the first row on.
        until_ms: Rows of answers before this time, ms UTC; None: up to the last row.

    Raises:
        InputError: A line was changed, or lines before it were removed; the message names file and line.
        MachineError: A file cannot be read.
    """
    until = None if until_ms is None else format_at(until_ms)
    return (row for row in LedgerTail(folder, since_ms=since_ms).new_rows() if until is None or row.at < until)


def newest_rows(folder: Path) -> Iterator[LedgerRow]:
    """Yield the rows of a ledger, newest first; that none was removed is not checked.

    Raises:
        InputError: A line was changed; the message names its file.
        MachineError: A file cannot be read.
    """
    for path in reversed(list_days(folder)):
        with opened_for_reading(path, _MAX_FILE_BYTES, "the ledger") as fd:
            for line in _read_backwards(fd):
                yield _read_line(line, str(path))[0]


def read_newest(folder: Path, count: int) -> list[LedgerRow]:
    """Return up to `count` of the newest rows of a ledger, newest first; errors as in `newest_rows`."""
    return list(islice(newest_rows(folder), count))


@dataclass(frozen=True, slots=True)
class PrunedLedger(Result):
    """The days of a ledger that were removed.

    Attributes:
        removed: The UTC days, such as 2025-10-15, oldest first.
        kept: Number of days that are left.
        bytes: Size of the removed files.
    """

    SCHEMA: ClassVar[str] = "ledger-prune/1"

    removed: tuple[str, ...]
    kept: int
    bytes: int


def prune_ledger(folder: Path, *, keep_days: int, now_ms: int, dry_run: bool = False) -> PrunedLedger:
    """Remove the oldest days of a ledger; the newest file always stays.

    The lines that are left still prove each other; only that of the first one before is not known any more.

    Args:
        folder: The folder of the ledger; it need not exist.
        keep_days: How many UTC days to keep, the present one included; 1 or more.
        now_ms: The time, ms UTC.
        dry_run: Only return what would be removed.

    Raises:
        MachineError: A file cannot be removed.
        LockedError: Another process holds the lock.
    """
    first = day_name(max(0, now_ms - (keep_days - 1) * DAY_MS))
    days = list_days(folder)
    with lock_folder(folder, purpose="removing old days") if days and not dry_run else nullcontext():
        days = list_days(folder)
        # Oldest first: if this is interrupted, no day is missing between others.
        old = [path for path in days[:-1] if path.stem < first]
        size = 0
        for path in old:
            with disk_errors(path, "remove"):
                size += path.stat().st_size
                if not dry_run:
                    path.unlink()
        if old and not dry_run:
            sync_folder(folder)
    return PrunedLedger(tuple(path.stem for path in old), len(days) - len(old), size)
