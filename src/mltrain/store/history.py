"""The two logs of the models folder: which version became live when, and which holdouts were looked at.

Pure: bytes of a log in, entries or the next line out. Both logs are append-only, one JSON document per line; bytes
after the last newline are the torn end of an interrupted write and are ignored.

A line of `promotions.jsonl` is written before the pointer moves, so the pointer decides: a line happened if the next
line of its slot starts from its target, or, for the last line, if the slot's pointer names its target. A lost pointer
does not change this: the last line still counts, and the line that restores the pointer starts from its target. The
slots share one log: serials and hashes run over the lines of all of them. The lines of both logs are chained, see
`mltrain.storage.chained_lines`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from mltrain.documents.records import DERIVED, OMIT_DEFAULT, Key, read_record, record, to_json
from mltrain.documents.results import Result
from mltrain.documents.values import Located, Sha256
from mltrain.errors import InputError
from mltrain.gates.holdout_looks import Look
from mltrain.names import DEFAULT_SLOT, SLOT, VERSION
from mltrain.storage.chained_lines import (
    BROKEN_CHAIN,
    BROKEN_SEAL,
    read_chain,
    seal_line,
    split_lines,
    unseal_line,
)
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Verdict = Literal["GO", "NO-GO"]


@dataclass(frozen=True, slots=True)
class Attribution:
    """Why, by whom and when the pointer was moved.

    Attributes:
        why: The reason.
        by: Who asked.
        now_ms: Time, ms UTC.
    """

    why: str
    by: str
    now_ms: int


@record
@dataclass(frozen=True, slots=True)
class Promotion:
    """One line of `promotions.jsonl`.

    Attributes:
        serial: Its number, from 1.
        when: UTC, such as 2025-10-15T12:00:00Z.
        from_version: The live version before; None if there was none. The same as `to_version` if a lost pointer was
            restored.
        to_version: The live version after.
        verdict: The verdict on `to_version`.
        why: The reason, as given.
        by: Who asked, as given.
        card_sha256: Hash of the card of `to_version`: distinguishes a version from a later one of the same name.
        prev_sha256: Hash of the line before; None in the first.
        slot: The slot whose pointer was moved.
        happened: Whether the pointer moved; read from the lines after and the pointer, not from the line itself.
    """

    serial: int
    when: str
    from_version: Annotated[Annotated[str, VERSION] | None, Key("from")]
    to_version: Annotated[str, VERSION, Key("to")]
    verdict: Verdict
    why: str
    by: str
    card_sha256: Sha256
    prev_sha256: Annotated[Sha256 | None, Key("prev")]
    slot: Annotated[str, SLOT, OMIT_DEFAULT] = DEFAULT_SLOT
    happened: Annotated[bool, DERIVED] = False


@dataclass(frozen=True, slots=True)
class PromotionLog:
    """The log of the promotions in every slot, without regard to the pointers.

    Attributes:
        entries: The readable lines, oldest first; of none is it known whether it happened.
        problems: Damage of the log, one sentence each; empty if it is whole.
        notes: Remarks that are no damage.
    """

    entries: tuple[Promotion, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def of_slot(self, slot: str) -> tuple[Promotion, ...]:
        """Return the lines of one slot, oldest first."""
        return tuple(entry for entry in self.entries if entry.slot == slot)


@dataclass(frozen=True, slots=True)
class History(Result):
    """The promotions in one slot, checked against its pointer.

    Attributes:
        slot: The slot.
        best: The live version: the one that the pointer names; None if there is no pointer.
        lost: The version that the pointer named last, if there was a pointer and it is missing; otherwise None.
        entries: The readable lines of the slot, oldest first.
        problems: Damage of the log or of the pointer, one sentence each; empty if there is none.
        notes: Remarks that are no damage.
    """

    SCHEMA: ClassVar[str] = "history/1"

    slot: str
    best: str | None
    lost: str | None
    entries: tuple[Promotion, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def was_promoted(self, version: str, card_sha256: str) -> bool:
        """Return whether the version with this name and card was ever live."""
        return any((e.to_version, e.card_sha256) == (version, card_sha256) for e in self.entries if e.happened)

    def previous(self) -> str | None:
        """Return the version that was live before the present one; None if the log names none."""
        moves = [e for e in self.entries if e.happened and e.from_version != e.to_version]
        return moves[-1].from_version if moves and moves[-1].to_version == self.best else None


def promotion_line(
    log: bytes,
    *,
    slot: str,
    from_version: str | None,
    to_version: str,
    verdict: Verdict,
    card_sha256: str,
    attribution: Attribution,
) -> str:
    """Return the line that continues a log of promotions.

    Args:
        log: The log so far.
        slot: The slot whose pointer moves.
        from_version: The live version now; None if there is none.
        to_version: The live version after the move.
        verdict: The verdict on it.
        card_sha256: Hash of its card.
        attribution: Why, by whom and when.
    """
    lines, _ = split_lines(log)
    promotion = Promotion(
        serial=len(lines) + 1,
        when=format_seconds(attribution.now_ms),
        from_version=from_version,
        to_version=to_version,
        verdict=verdict,
        why=attribution.why,
        by=attribution.by,
        card_sha256=card_sha256,
        prev_sha256=sha256_bytes(lines[-1]) if lines else None,
        slot=slot,
    )
    return seal_line(to_json(promotion))


def read_promotions(log: bytes, *, where: str) -> PromotionLog:
    """Read a log of promotions as far as it can be read.

    Args:
        log: The log's bytes.
        where: The log's name in messages, usually the path.
    """
    entries, problems = read_chain(log, Promotion, where=where)
    problems += [
        f"{where}: line {number}: has the serial {entry.serial}"
        for number, entry in entries.items()
        if entry.serial != number
    ]
    torn = split_lines(log)[1]
    notes = (f"{where}: the last line is torn and is ignored",) if torn else ()
    return PromotionLog(tuple(entries.values()), tuple(problems), notes)


def check_history(log: PromotionLog, slot: str, *, best: str | None, staged: str | None = None, where: str) -> History:
    """Check the promotions in a slot against its pointer.

    Args:
        log: The log of every slot.
        slot: The slot.
        best: The version that its pointer names; None if there is no pointer.
        staged: The version that an interrupted first promotion was about to make live; None if there was none.
        where: The log's name in messages, usually the path.
    """
    entries, problems = log.of_slot(slot), list(log.problems)
    lost = entries[-1].to_version if best is None and entries and not _was_interrupted(entries, staged) else None
    judged = tuple(_mark_happened(entries, best or lost))
    happened = [entry.to_version for entry in judged if entry.happened]
    if best is not None and happened[-1:] != [best]:
        problems.append(f"{where}: no line says how {best} became the live version")
    if lost is not None:
        problems.append(f"{where}: {lost} was the live version, and the pointer to it is missing")
    return History(slot, best, lost, judged, tuple(problems), log.notes)


def read_looks(log: bytes, *, where: str) -> tuple[Look, ...]:
    """Read a log of looks at holdouts.

    Args:
        log: The log's bytes.
        where: The log's name in messages, usually the path.

    Raises:
        InputError: A line cannot be read, or was changed: the number of looks is never guessed.
    """
    lines, _ = split_lines(log)
    looks = []
    before = None
    for number, line in enumerate(lines, start=1):
        place = f"{where}: line {number}"
        document, sealed = unseal_line(line, place)
        prev = document.pop("prev", None)
        looks.append(read_record(Located(document, place), Look))
        if not sealed:
            raise InputError(f"{place}: {BROKEN_SEAL}")
        if prev != before:
            raise InputError(f"{place}: {BROKEN_CHAIN}")
        before = sha256_bytes(line)
    return tuple(looks)


def look_line(log: bytes, look: Look) -> str:
    """Return the line that continues a log of looks; `read_looks` returns the look again."""
    lines, _ = split_lines(log)
    return seal_line({"prev": sha256_bytes(lines[-1]) if lines else None, **to_json(look)})


def _was_interrupted(entries: Sequence[Promotion], staged: str | None) -> bool:
    """Return whether every line belongs to a first promotion that was interrupted before the pointer was in place."""
    return all(e.from_version is None for e in entries) and any(e.to_version == staged for e in entries)


def _mark_happened(entries: Sequence[Promotion], live: str | None) -> Iterator[Promotion]:
    # The live version when the next line was written; for the last line, now.
    live_after = [*(entry.from_version for entry in entries), live][1:]
    for entry, found in zip(entries, live_after, strict=True):
        yield replace(entry, happened=entry.to_version == found)
