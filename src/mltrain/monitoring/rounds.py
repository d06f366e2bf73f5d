"""Rounds of training: when they are due, and the log that says of each what it gave and why.

    data/rounds.jsonl      one line per round, and one per gap in which rounds were missed

The lines are chained (`mltrain.storage.chained_lines`): a line that was changed, or removed from the middle, is found.
Rounds of all slots share the log. Light, because a monitor reads it often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, Self, TypeAlias

from mltrain.documents.records import Key, Limits, record, to_json
from mltrain.documents.results import Result
from mltrain.documents.values import Sha256
from mltrain.errors import UsageError
from mltrain.names import SLOT, show
from mltrain.storage.chained_lines import read_chain, seal_line, split_lines
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import FOLDER_WAIT_S, hold_lock
from mltrain.storage.reading import read_file
from mltrain.storage.writing import append_lines
from mltrain.times import HOUR_MS, MINUTE_MS, WEEK_MS, format_duration, format_ms, parse_duration, parse_time

if TYPE_CHECKING:
    from pathlib import Path

#: The log in the data folder, and its lock.
ROUNDS_FILE: Final = "rounds.jsonl"
ROUNDS_LOCK: Final = "rounds.lock"

RoundOutcome: TypeAlias = Literal["promoted", "held", "no-go", "unchanged", "failed", "missed"]

# Some two hundred thousand lines.
_MAX_LOG_BYTES: Final = 1 << 28
_LONGEST_MS: Final = 4 * WEEK_MS
_AT: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
# Longer texts are cut: an error may hold any.
_MAX_SENTENCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """Fixed times in UTC.

    Attributes:
        every_ms: Time between two rounds, in ms.
        at_ms: Time of day of the first one, in ms; the times are counted from 1970-01-01 on.
    """

    every_ms: int
    at_ms: int

    @classmethod
    def parse(cls, every: str, at: str) -> Self:
        """Return the schedule of two texts such as "24h" and "02:00".

        Raises:
            UsageError: One of them cannot be read, or `every` is shorter than a minute or longer than four weeks.

        >>> Schedule.parse("24h", "02:00").newest_ms(parse_time("2025-10-15T12:00:00Z")) // 3_600_000 % 24
        2
        """
        every_ms, match = parse_duration(every), _AT.fullmatch(at)
        if not MINUTE_MS <= every_ms <= _LONGEST_MS:
            raise UsageError(f"rounds every {show(every)}: expected 1m to {format_duration(_LONGEST_MS)}")
        if match is None:
            raise UsageError(f"{show(at)} is not a time of day", hint="write it like 02:00, in UTC")
        return cls(every_ms, int(match[1]) * HOUR_MS + int(match[2]) * MINUTE_MS)

    def newest_ms(self, now_ms: int) -> int:
        """Return when the newest round was due at a time, ms UTC."""
        return (now_ms - self.at_ms) // self.every_ms * self.every_ms + self.at_ms

    def next_ms(self, now_ms: int) -> int:
        """Return when the next round is due after a time, ms UTC."""
        return self.newest_ms(now_ms) + self.every_ms


@record
@dataclass(frozen=True, slots=True)
class LiveScores:
    """How the answers of the live version came true since its promotion, by the ledger.

    Attributes:
        version: The live version.
        since: When it became live, UTC.
        rows: Number of answers whose outcome is known.
        mean_p: Their mean probability of up.
        up_share: Share of them that went up.
        ece: Expected calibration error over ten bins of equal mass, 0 to 1.
        log_loss: Mean log loss, in nats.
        base_log_loss: The same of the base rates of the training rows: a useful model is below.
    """

    version: str
    since: str
    rows: Annotated[int, Limits(1)]
    mean_p: Annotated[float, Limits(0, 1)]
    up_share: Annotated[float, Limits(0, 1)]
    ece: Annotated[float, Limits(0, 1)]
    log_loss: Annotated[float, Limits(0)]
    base_log_loss: Annotated[float, Limits(0)]

    def describe(self) -> str:
        """Return the same as a part of a sentence."""
        return (
            f"since its promotion {self.rows:,} answers of {self.version} came due: mean P(up) {self.mean_p:.3f}, "
            f"{self.up_share:.3f} went up, calibration error {self.ece:.3f}, log loss {self.log_loss:.4f} "
            f"({self.base_log_loss:.4f} by base rate)"
        )


@record
@dataclass(frozen=True, slots=True)
class Round(Result):
    """One round of training, or a gap in which rounds were missed.

    Attributes:
        slot: The slot that it trained for.
        outcome: "promoted", "held" (GO, not promoted), "no-go", "unchanged" (the same training was there already),
            "failed" or "missed".
        sentence: Why, in one sentence.
        due: When it was due, UTC; of a gap, when the last round in it was; null: it was asked for by hand.
        next_due: When the next round is due, UTC.
        begun: When it began, UTC; null: it was missed.
        ended: When it ended, UTC; null: it was missed.
        missed: Number of rounds that were missed; 0 unless it is a gap.
        exit_code: What `mltrain cycle --once` ends with: 0, 4 after a NO-GO, or that of the error.
        snapshot: Id of the snapshot; null: none was taken.
        version: The version that it gave; null: none.
        live: How the live version does; null: nothing is known.
        notes: What else happened, one sentence each: files that were removed, what did not work.
        prev_sha256: Hash of the line before; null in the first.
    """

    SCHEMA: ClassVar[str] = "round/1"

    slot: Annotated[str, SLOT]
    outcome: RoundOutcome
    sentence: str
    due: str | None
    next_due: str
    begun: str | None
    ended: str | None
    missed: Annotated[int, Limits(0)] = 0
    exit_code: int = 0
    snapshot: str | None = None
    version: str | None = None
    live: LiveScores | None = None
    notes: tuple[str, ...] = ()
    prev_sha256: Annotated[Sha256 | None, Key("prev")] = None

    @property
    def due_ms(self) -> int | None:
        """When it was due, ms UTC; None: it was asked for by hand."""
        return None if self.due is None else parse_time(self.due)


@dataclass(frozen=True, slots=True)
class RoundLog:
    """The log of rounds, as far as it can be read.

    Attributes:
        rounds: Its readable lines, oldest first.
        problems: Damage, one sentence each; empty if the log is whole.
    """

    rounds: tuple[Round, ...] = ()
    problems: tuple[str, ...] = ()

    def last(self, slot: str) -> Round | None:
        """Return the newest line of a slot; None: there is none."""
        return next((each for each in reversed(self.rounds) if each.slot == slot), None)

    def last_due_ms(self, slot: str) -> int | None:
        """Return when the last recorded round of a slot was due, ms UTC; None: no round of it was recorded."""
        dues = [each.due_ms for each in self.rounds if each.slot == slot and each.due_ms is not None]
        return dues[-1] if dues else None


def read_rounds(data_dir: Path) -> RoundLog:
    """Read the log of rounds of a data folder, and check its chain; empty if there is none.

    Raises:
        InputError: The log is not a file, or too large.
        MachineError: The machine refuses to read it.
    """
    path = data_dir / ROUNDS_FILE
    if not path.exists():
        return RoundLog()
    log = read_file(path, max_bytes=_MAX_LOG_BYTES, what="the log of rounds")
    rounds, problems = read_chain(log, Round, where=str(path))
    return RoundLog(tuple(rounds.values()), tuple(problems))


def append_round(data_dir: Path, made: Round) -> None:
    """Append a round to the log of a data folder, and flush it to the disk.

    Raises:
        InputError: The log is not a file, or too large.
        LockedError: Another process holds the lock for longer than the wait.
        MachineError: The machine refuses; the log is as before.
    """
    path = data_dir / ROUNDS_FILE
    with hold_lock(data_dir / ROUNDS_LOCK, wait_s=FOLDER_WAIT_S, purpose="recording a round"):
        log = read_file(path, max_bytes=_MAX_LOG_BYTES, what="the log of rounds") if path.exists() else b""
        lines, _ = split_lines(log)
        linked = replace(made, prev_sha256=sha256_bytes(lines[-1]) if lines else None)
        append_lines(path, [seal_line(to_json(linked))])


def as_sentence(text: str) -> str:
    """Return a text on one line, cut if it is very long."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _MAX_SENTENCE else f"{line[: _MAX_SENTENCE - 1]}…"


def describe_gap(first_ms: int, last_ms: int, count: int) -> str:
    """Return a sentence about missed rounds, of which the first and the last were due at these times, ms UTC."""
    why = "mltrain cycle was not running, or was ended in the round, or the round before took too long"
    if count == 1:
        return f"the round due at {format_ms(first_ms)} was missed: {why}"
    return f"{count} rounds, due from {format_ms(first_ms)} to {format_ms(last_ms)}, were missed: {why}"
