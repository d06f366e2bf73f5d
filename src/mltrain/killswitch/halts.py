"""Halts in force, and the two documents that hold them: the state file and the lines of the log.

Pure: bytes in, records or bytes out. `models/halt.json` lists the halts in force. `models/halts.jsonl` is append-only:
one line for each halt, resume, arming and disarming, with a hash of itself. Because `mltrain halt` takes no lock, two
lines may be written at once, so a line is not chained to the one before it: it holds the length of the log that its
writer saw, and the hash of those bytes. So does the state file. A later line or the state thus proves every line that
its writer saw, and a line that was changed or removed is found, except at the end of the log. A line torn by a crash is
proven by the next one, and does no harm.

The halts in force are those in the state file and those that the log has after the part that the state file covers. A
resume takes effect with the state file alone: a crash between its two writes leaves serving stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

from mltrain.documents.records import (
    DERIVED,
    OMIT_DEFAULT,
    RAW,
    REQUIRED,
    REST,
    Limits,
    read_record,
    record,
    refuse_newer,
    to_json,
)
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError
from mltrain.names import SYMBOL, join_first
from mltrain.storage.chained_lines import BROKEN_SEAL, seal_line, unseal_line
from mltrain.storage.hashing import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

HALT_FILE: Final = "halt.json"
LOG_FILE: Final = "halts.jsonl"
FORMAT: Final = 1

Mode: TypeAlias = Literal["halt", "reduce"]
Action: TypeAlias = Literal["halt", "resume", "arm", "disarm"]

#: Triggers that no log has: what stands on the disk, or is missing there, stops serving by itself.
STATE_UNREADABLE: Final = "state-unreadable"
SENTINEL_SILENT: Final = "sentinel-silent"

#: Readers look at the heartbeat every tenth of a second.
SHORTEST_TIMEOUT_S: Final = 0.5
LONGEST_TIMEOUT_S: Final = 86_400.0

#: Far above what a log of its largest size can put in force.
MAX_STATE_BYTES: Final = 1 << 25
_MOST_SHOWN: Final = 5
_EMPTY_SHA256: Final = sha256_bytes(b"")


@record
@dataclass(frozen=True, slots=True)
class Halt:
    """One halt in force.

    Attributes:
        serial: The number of its line in the log, from 1; 0: the log has no line of it.
        mode: "halt": nothing is answered. "reduce": answers are given, and marked to be used only to reduce positions.
        symbols: The symbols that are halted; empty: all.
        when: Since when, UTC, such as 2025-10-15T12:00:00Z; None: not known.
        why: The reason, as given.
        by: Who asked, as given.
        trigger: The trigger that asked; None: a person did.
        evidence: What the trigger saw.
    """

    serial: Annotated[int, Limits(0)]
    mode: Mode
    symbols: tuple[Annotated[str, SYMBOL], ...]
    when: str | None
    why: str
    by: str
    trigger: str | None = None
    evidence: Annotated[Mapping[str, Json], RAW] = field(default_factory=dict)

    def covers(self, symbol: str | None) -> bool:
        """Return whether it concerns a symbol; None stands for an answer whose symbol is unknown."""
        return symbol is None or not self.symbols or symbol in self.symbols

    def describe(self) -> str:
        """Return what is halted, since when, by whom and why, as a sentence without its period."""
        what = "serving is halted" if self.mode == "halt" else "serving is restricted to reducing positions"
        symbols = f" for {join_first(self.symbols, _MOST_SHOWN)}" if self.symbols else ""
        since = f" since {self.when}" if self.when else ""
        number = f"halt {self.serial}, by " if self.serial else ""
        return f"{what}{symbols}{since} ({number}{self.trigger or self.by}): {self.why}"


@record
@dataclass(frozen=True, slots=True)
class Armed:
    """Since when, and how strictly, serving needs the sentinel.

    Attributes:
        when: Since when, UTC, such as 2025-10-15T12:00:00Z.
        by: Who asked, as given.
        timeout_s: Seconds without a heartbeat after which serving is halted.
    """

    when: str
    by: str
    timeout_s: Annotated[float, Limits(SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S)]


@dataclass(frozen=True, slots=True)
class HaltState:
    """What is in force now.

    Attributes:
        halts: The halts in force, oldest first.
        armed: Whether serving needs the sentinel; None: it does not.
    """

    halts: tuple[Halt, ...] = ()
    armed: Armed | None = None

    def with_silence(self, silence: str | None) -> HaltState:
        """Return this state, halted if the sentinel is silent; `silence` says why it counts as silent, if it does."""
        if silence is None:
            return self
        why = f"the sentinel is silent: {silence}"
        return replace(self, halts=(*self.halts, Halt(0, "halt", (), None, why, "mltrain", SENTINEL_SILENT)))

    @property
    def is_running(self) -> bool:
        """Whether nothing is halted or reduced."""
        return not self.halts

    @property
    def mode(self) -> Mode | None:
        """The strictest mode in force for any symbol; None: everything runs."""
        return self.mode_of(None)

    def mode_of(self, symbol: str | None) -> Mode | None:
        """Return the strictest mode in force for a symbol; None: it runs. An unknown symbol (None) is any of them."""
        strictest = self.strictest_of(symbol)
        return None if strictest is None else strictest.mode

    def strictest_of(self, symbol: str | None) -> Halt | None:
        """Return the strictest halt in force for a symbol, of equals the oldest; None: it runs."""
        concerned = [halt for halt in self.halts if halt.covers(symbol)]
        return min(concerned, key=lambda halt: halt.mode != "halt", default=None)


def unreadable(problem: str) -> Halt:
    """Return the halt that stands for a state that cannot be read; `problem` says why."""
    return Halt(0, "halt", (), None, problem, "mltrain", STATE_UNREADABLE)


@record
@dataclass(frozen=True, slots=True)
class HaltLine:
    """One line of `halts.jsonl`.

    Attributes:
        action: What was done.
        when: UTC, such as 2025-10-15T12:00:00Z.
        why: The reason, as given.
        by: Who asked, as given.
        seen_bytes: The length of the log when the line was written; filled in when it is.
        seen_sha256: The hash of those bytes.
        mode: That of a halt.
        symbols: Those of a halt; empty: all.
        trigger: The trigger that asked for a halt; None: a person did.
        evidence: What the trigger saw.
        lifted: The serials of the halts that a resume ended.
        forced: Whether a resume ended them although a trigger's condition still held.
        timeout_s: That of an arming, in seconds.
        serial: The line's number in the log, from 1; 0: not known yet.
    """

    action: Action
    when: str
    why: str
    by: str
    seen_bytes: Annotated[int, Limits(0), REQUIRED] = 0
    seen_sha256: Annotated[Sha256, REQUIRED] = _EMPTY_SHA256
    mode: Annotated[Mode | None, OMIT_DEFAULT] = None
    symbols: Annotated[tuple[Annotated[str, SYMBOL], ...], OMIT_DEFAULT] = ()
    trigger: Annotated[str | None, OMIT_DEFAULT] = None
    evidence: Annotated[Mapping[str, Json], RAW, OMIT_DEFAULT] = field(default_factory=dict)
    lifted: Annotated[tuple[int, ...], OMIT_DEFAULT] = ()
    forced: Annotated[bool, OMIT_DEFAULT] = False
    timeout_s: Annotated[float | None, OMIT_DEFAULT] = None
    serial: Annotated[int, DERIVED] = 0

    def as_halt(self) -> Halt:
        """Return the halt that the line of a halt put in force."""
        mode: Mode = "reduce" if self.mode == "reduce" else "halt"
        return Halt(self.serial, mode, self.symbols, self.when, self.why, self.by, self.trigger, self.evidence)

    def as_armed(self) -> Armed:
        """Return what the line of an arming put in force."""
        return Armed(self.when, self.by, SHORTEST_TIMEOUT_S if self.timeout_s is None else self.timeout_s)


@dataclass(frozen=True, slots=True)
class HaltLog:
    """The log, as far as it can be read.

    Attributes:
        lines: Its readable lines, oldest first.
        problems: Damage, one sentence each; empty if the log is whole.
        notes: Remarks that are no damage.
    """

    lines: tuple[HaltLine, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@record
@dataclass(frozen=True, slots=True)
class StateDocument:
    """The content of `halt.json`.

    Attributes:
        halts: The halts in force.
        armed: Whether serving needs the sentinel; None: it does not.
        seen_bytes: The length of the log when the state was written.
        seen_sha256: The hash of those bytes.
    """

    halts: tuple[Halt, ...]
    armed: Armed | None
    seen_bytes: Annotated[int, Limits(0)]
    seen_sha256: Sha256

    @classmethod
    def of(cls, state: HaltState, log: bytes) -> StateDocument:
        """Return the document of a state that takes every byte of a log into account."""
        return cls(state.halts, state.armed, len(log), sha256_bytes(log))

    def is_prefix_of(self, log: bytes) -> bool:
        """Return whether a log begins with the bytes that the writer of the state saw."""
        return len(log) >= self.seen_bytes and sha256_bytes(log[: self.seen_bytes]) == self.seen_sha256

    def to_bytes(self) -> bytes:
        """Return the bytes of the file."""
        content = to_json(self)
        return canonical_json(to_json(_Envelope(FORMAT, _hash_content(content), content)))

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> StateDocument:
        """Read the bytes of the file, which messages call `where`; raise an InputError unless they are as written."""
        located = Located(parse_json(data, where=where, max_bytes=MAX_STATE_BYTES), where)
        refuse_newer(located, newest=FORMAT)
        found = read_record(located, _Envelope)
        if found.self_sha256 != _hash_content(found.content):
            raise InputError(f"{where}: {BROKEN_SEAL}")
        return read_record(Located(dict(found.content), where), cls)


@record
@dataclass(frozen=True, slots=True)
class _Envelope:
    """The state file: the document, its format, and the hash of both."""

    format: Annotated[int, Limits(FORMAT, FORMAT)]
    self_sha256: Sha256
    content: Annotated[Mapping[str, Json], REST]


def _hash_content(content: Mapping[str, Json]) -> str:
    return sha256_bytes(canonical_json({**content, "format": FORMAT}))


def encode_line(line: HaltLine) -> str:
    """Return a line of the log, without its newline."""
    return seal_line(to_json(line))


def find_unreadable(line: HaltLine) -> str | None:
    """Return why a line could not be read from the log again, such as for its length; None: it could be."""
    try:
        found = _read_line(encode_line(line).encode(), line.serial, LOG_FILE)
    except (ValueError, TypeError, RecursionError) as err:
        return str(err)
    return found if isinstance(found, str) else None


def combine(state: bytes | None, log: bytes, *, state_name: str, log_name: str) -> HaltState:
    """Return what is in force by the bytes of the state file and of the log; a contradiction stops serving.

    Args:
        state: The bytes of `halt.json`; None: there is none.
        log: The bytes of `halts.jsonl`; empty if there is none.
        state_name: The path of the state file, for messages.
        log_name: The path of the log, for messages.
    """
    if state is None and not log:
        return HaltState()
    if state is None:
        return _combine_without_state(log, log_name, f"{state_name} is missing, and {log_name} is not empty")
    try:
        document = StateDocument.from_bytes(state, where=state_name)
    except InputError as err:
        return _combine_without_state(log, log_name, err.message)
    if not document.is_prefix_of(log):
        lost = unreadable(f"{log_name} was changed or cut off after {state_name} was written")
        return HaltState((*document.halts, lost), document.armed)
    later = read_log(log, where=log_name, start=document.seen_bytes)
    # What these lines lifted or disarmed takes effect with the state file.
    stricter = _replay([line for line in later.lines if line.action in {"halt", "arm"}])
    return HaltState(
        (*document.halts, *stricter.halts, *map(unreadable, later.problems)), stricter.armed or document.armed
    )


def _combine_without_state(log: bytes, log_name: str, problem: str) -> HaltState:
    """Return what is in force by the log alone; `problem`, which says what is wrong with the state, is a halt, too."""
    whole = read_log(log, where=log_name)
    by_log = _replay(whole.lines)
    return HaltState((*by_log.halts, *map(unreadable, whole.problems), unreadable(problem)), by_log.armed)


def _replay(lines: Iterable[HaltLine]) -> HaltState:
    """Return what lines of the log put in force together."""
    halts: list[Halt] = []
    armed = None
    for line in lines:
        match line.action:
            case "halt":
                halts.append(line.as_halt())
            case "resume":
                halts = [halt for halt in halts if halt.serial not in line.lifted]
            case "arm":
                armed = line.as_armed()
            case "disarm":
                armed = None
    return HaltState(tuple(halts), armed)


def _read_line(content: bytes, number: int, name: str) -> HaltLine | str:
    """Return a line of the log called `name`, or what is wrong with it."""
    place = f"{name}: line {number}"
    try:
        document, sealed = unseal_line(content, place)
        if not sealed:
            return f"{place}: {BROKEN_SEAL}"
        line = read_record(Located(document, place), HaltLine)
    except InputError as err:
        return err.message
    return replace(line, serial=number)


def read_log(log: bytes, *, where: str, start: int = 0) -> HaltLog:
    """Read a log as far as it can be read, and check it.

    Args:
        log: The bytes of `halts.jsonl`.
        where: Its name in messages, usually the path.
        start: The length of the beginning that is known to be unchanged; only the lines after it are read.
    """
    lines: list[HaltLine] = []
    # Lines that cannot be read and were cut off by a crash, as it seems: the end of each, its number, and its problem.
    torn: list[tuple[int, int, str]] = []
    problems: list[str] = []
    # How much of the log a later writer saw as it is now.
    proven = start
    prefixes = _Prefixes(log)
    for number, content in enumerate(log[start:].split(b"\n")[:-1], start=log.count(b"\n", 0, start) + 1):
        stop = start + len(content) + 1
        line = _read_line(content, number, where) if content else None
        if isinstance(line, str):
            # The beginning of a line is not closed by a brace, unless by one of its evidence: that counts as damage.
            if content.endswith(b"}"):
                problems.append(line)
            else:
                torn.append((stop, number, line))
        elif line is not None:
            lines.append(line)
            if line.seen_bytes <= start and prefixes.sha256(line.seen_bytes) == line.seen_sha256:
                proven = max(proven, line.seen_bytes)
            else:
                problems.append(f"{where}: a line before line {number} was changed or removed after it was written")
        start = stop
    # The writer of the next line saw a torn line without the newline that now ends it.
    problems += [problem for stop, _, problem in torn if stop > proven + 1]
    notes = [f"{where}: line {number} is torn and is ignored" for stop, number, _ in torn if stop <= proven + 1]
    if start < len(log):
        notes.append(f"{where}: the last line is torn and is ignored")
    return HaltLog(tuple(lines), tuple(problems), tuple(notes))


class _Prefixes:
    """Hashes of the beginnings of a log; rising lengths cost one pass together."""

    def __init__(self, log: bytes) -> None:
        self._log = log
        self._hasher, self._length = hashlib.sha256(), 0

    def sha256(self, length: int) -> str:
        """Return the hash of the first `length` bytes."""
        if length < self._length:
            return sha256_bytes(self._log[:length])
        self._hasher.update(self._log[self._length : length])
        self._length = length
        return self._hasher.hexdigest()
