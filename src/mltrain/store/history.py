"""The two logs of the models folder: who became the best version when, and which holdouts were looked at.

Pure: bytes of a log in, entries or the next line out. Both logs only grow, one JSON document a line; what stands after
the last newline is the torn end of a write that was cut off, and counts for nothing.

A line of `promotions.jsonl` is written before the pointer moves, so the pointer decides: a line happened where the
next one starts from its target, or, for the last line, where the pointer stands on its target. A lost pointer
changes nothing in this: the last line still holds, and the line of the promotion that restores the pointer starts from
its target. Each line of either log has the SHA-256 of the line before and of itself: a damaged or edited log is
detected, in its last line too; that lines were cut off its end is not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from mltrain.documents.fields import Fields
from mltrain.documents.strict_json import json_line, parse_json
from mltrain.documents.values import SHA256, Located
from mltrain.errors import InputError
from mltrain.gates.looks import Look
from mltrain.names import VERSION
from mltrain.storage.edge import sha256_bytes
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.documents.values import Json

Verdict = Literal["GO", "NO-GO"]

VERDICTS: Final = ("GO", "NO-GO")
_MAX_LINE_BYTES: Final = 1 << 16
_SEAL: Final = "self_sha256"
_BROKEN_SEAL: Final = "does not match its own hash: it was changed after it was written"


@dataclass(frozen=True, slots=True)
class Note:
    """What a line of `promotions.jsonl` tells of the hand that moved the pointer.

    Attributes:
        why: The reason.
        by: Who asked.
        now_ms: When, ms UTC.
    """

    why: str
    by: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class Promotion:
    """One line of `promotions.jsonl`.

    Attributes:
        serial: Its number, from 1.
        when: UTC, such as 2025-10-15T12:00:00Z.
        from_version: The best version before; None where there was none. The same as `to_version` where a lost pointer
            was restored.
        to_version: The best version after.
        verdict: What the gates said of `to_version`.
        why: The reason, as given.
        by: Who asked, as given.
        card_sha256: Hash of the card of `to_version`: tells a version from a later one of the same name.
        prev_sha256: Hash of the line before; None in the first.
        happened: Whether the pointer moved; read from the lines after and the pointer, not from the line itself.
    """

    serial: int
    when: str
    from_version: str | None
    to_version: str
    verdict: Verdict
    why: str
    by: str
    card_sha256: str
    prev_sha256: str | None
    happened: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """The log of promotions, judged.

    Attributes:
        best: The version that the pointer names now; None where there is no pointer.
        lost: The version that the pointer named last, if there was a pointer and it is missing; otherwise None.
        entries: The readable lines, oldest first.
        problems: What is wrong with the log; empty where it is whole.
        notes: What is worth knowing and no damage.
    """

    best: str | None
    lost: str | None
    entries: tuple[Promotion, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def was_promoted(self, version: str, card_sha256: str) -> bool:
        """Return whether this very version, not merely one of its name, was ever the best one."""
        return any((e.to_version, e.card_sha256) == (version, card_sha256) for e in self.entries if e.happened)

    def previous(self) -> str | None:
        """Return the version that was best before the present one; None where the log tells of none."""
        moves = [e for e in self.entries if e.happened and e.from_version != e.to_version]
        return moves[-1].from_version if moves and moves[-1].to_version == self.best else None


def promotion_line(
    log: bytes, *, from_version: str | None, to_version: str, verdict: Verdict, card_sha256: str, note: Note
) -> str:
    """Return the line that continues a log of promotions.

    Args:
        log: The log so far.
        from_version: The best version now; None where there is none.
        to_version: The best version to be.
        verdict: What the gates said of it.
        card_sha256: Hash of its card.
        note: Why, by whom and when.
    """
    lines, _ = _split(log)
    return _seal(
        {
            "serial": len(lines) + 1,
            "prev": sha256_bytes(lines[-1]) if lines else None,
            "when": format_seconds(note.now_ms),
            "from": from_version,
            "to": to_version,
            "verdict": verdict,
            "why": note.why,
            "by": note.by,
            "card_sha256": card_sha256,
        }
    )


def read_history(log: bytes, *, best: str | None, staged: str | None = None, where: str) -> History:
    """Read a log of promotions as far as it can be read, and judge it by the pointer.

    Args:
        log: The log's bytes.
        best: The version that the pointer names; None where there is no pointer.
        staged: The version that a first promotion was about to point to when it was cut off; None where none was.
        where: The log's name in messages, usually the path.
    """
    lines, torn = _split(log)
    entries: list[Promotion] = []
    problems: list[str] = []
    before = None
    for number, line in enumerate(lines, start=1):
        try:
            entry = _read_promotion(line, where=f"{where}: line {number}")
        except InputError as err:
            problems.append(err.message)
        else:
            entries.append(entry)
            problems += _chain_problems(entry, number, before, where)
            if not _is_sealed(line):
                problems.append(f"{where}: line {number}: {_BROKEN_SEAL}")
        before = sha256_bytes(line)
    notes = (f"{where}: the last line is torn and counts for nothing",) if torn else ()
    lost = entries[-1].to_version if best is None and entries and not _is_cut_off(entries, staged) else None
    judged = tuple(_judge(entries, best or lost))
    happened = [entry.to_version for entry in judged if entry.happened]
    if best is not None and happened[-1:] != [best]:
        problems.append(f"{where}: no line tells how {best} became the best version")
    if lost is not None:
        problems.append(f"{where}: {lost} was the best version, and the pointer to it is missing")
    return History(best, lost, judged, tuple(problems), notes)


def read_looks(log: bytes, *, where: str) -> tuple[Look, ...]:
    """Read a log of looks at holdouts.

    Args:
        log: The log's bytes.
        where: The log's name in messages, usually the path.

    Raises:
        InputError: A line cannot be read, or was changed: how often a holdout was looked at is never guessed.
    """
    lines, _ = _split(log)
    befores = (None, *map(sha256_bytes, lines))
    return tuple(
        _read_look(line, before, where=f"{where}: line {number}")
        for number, (line, before) in enumerate(zip(lines, befores, strict=False), start=1)
    )


def look_line(log: bytes, look: Look) -> str:
    """Return the line that tells of a look and continues a log of looks; `read_looks` gives the look back."""
    lines, _ = _split(log)
    return _seal(
        {
            "prev": sha256_bytes(lines[-1]) if lines else None,
            "start_ms": look.start_ms,
            "end_ms": look.end_ms,
            "when": look.when,
            "study": look.study,
            "configuration_sha256": look.configuration_sha256,
        }
    )


def _seal(document: dict[str, Json]) -> str:
    return json_line({**document, _SEAL: sha256_bytes(json_line(document).encode())})


def _is_sealed(line: bytes) -> bool:
    """Tell whether a line that can be read is the very line that was written."""
    document = parse_json(line, where="", max_bytes=_MAX_LINE_BYTES)
    return isinstance(document, dict) and line == _seal({k: v for k, v in document.items() if k != _SEAL}).encode()


def _split(log: bytes) -> tuple[list[bytes], bytes]:
    *lines, torn = log.split(b"\n")
    return lines, torn


def _read_line(line: bytes, where: str) -> Fields:
    return Fields(Located(parse_json(line, where=where, max_bytes=_MAX_LINE_BYTES), where))


def _read_promotion(line: bytes, *, where: str) -> Promotion:
    fields = _read_line(line, where)
    entry = Promotion(
        serial=fields.integer("serial"),
        when=fields.text("when"),
        from_version=fields.text("from", pattern=VERSION, default=None),
        to_version=fields.text("to", pattern=VERSION),
        verdict="GO" if fields.text("verdict", choices=VERDICTS) == "GO" else "NO-GO",
        why=fields.text("why"),
        by=fields.text("by"),
        card_sha256=fields.text("card_sha256", pattern=SHA256),
        prev_sha256=fields.text("prev", pattern=SHA256, default=None),
    )
    fields.text(_SEAL, pattern=SHA256)
    fields.finish()
    return entry


def _read_look(line: bytes, before_sha256: str | None, *, where: str) -> Look:
    fields = _read_line(line, where)
    look = Look(
        fields.integer("start_ms"),
        fields.integer("end_ms"),
        fields.text("when"),
        fields.text("study"),
        fields.text("configuration_sha256", pattern=SHA256, default=None),
    )
    found_before = fields.text("prev", pattern=SHA256, default=None)
    fields.text(_SEAL, pattern=SHA256)
    fields.finish()
    if not _is_sealed(line):
        raise InputError(f"{where}: {_BROKEN_SEAL}")
    if found_before != before_sha256:
        raise InputError(f"{where}: does not continue the line before: the log was changed after it was written")
    return look


def _chain_problems(entry: Promotion, number: int, before_sha256: str | None, where: str) -> Iterator[str]:
    if entry.serial != number:
        yield f"{where}: line {number}: has the serial {entry.serial}"
    if entry.prev_sha256 != before_sha256:
        yield f"{where}: line {number}: does not continue the line before: the log was changed after it was written"


def _is_cut_off(entries: list[Promotion], staged: str | None) -> bool:
    """Return whether every line belongs to a first promotion that was cut off before the pointer was in place."""
    return all(e.from_version is None for e in entries) and any(e.to_version == staged for e in entries)


def _judge(entries: list[Promotion], stands: str | None) -> Iterator[Promotion]:
    stands_on = [*(entry.from_version for entry in entries), stands][1:]  # what the next line, or the pointer, found
    for entry, found in zip(entries, stands_on, strict=True):
        yield replace(entry, happened=entry.to_version == found)
