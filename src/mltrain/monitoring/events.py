"""Events for other systems: the documents that are posted, and the queue on the disk that they wait in.

    data/events/1760529600250-3f2a9c0d1e5b7a84.json      one event: the document, and the attempts to deliver it

A command only queues: it never waits for the network. `event_delivery` delivers, and removes an event once the receiver
has accepted it, so that a killed process or an unreachable receiver loses none. The names are in the order of time.
Light, because `mltrain halt` loads this.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal, TypeAlias

from mltrain.documents.records import RAW, Limits, read_record, record, to_json
from mltrain.documents.results import Result
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Json, Located
from mltrain.errors import InputError
from mltrain.storage.descriptors import real_path
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder
from mltrain.storage.reading import read_file
from mltrain.storage.writing import write_without_lock
from mltrain.times import DAY_MS, format_seconds

if TYPE_CHECKING:
    from pathlib import Path

#: The folder of the queue in the data folder.
EVENTS: Final = "events"
#: Days after which an event that could not be delivered is reported as overdue.
OVERDUE_DAYS: Final = 3

Kind: TypeAlias = Literal[
    "halt", "resume", "promotion", "rollback", "no-go", "held", "round-missed", "round-late", "round-failed", "test"
]

_MAX_BYTES: Final = 1 << 20
_ID: Final = re.compile(r"[0-9]{13}-[0-9a-f]{16}")
_SUFFIX: Final = ".json"


@record
@dataclass(frozen=True, slots=True)
class Event(Result):
    """One event.

    Attributes:
        id: Its identity, the same at each attempt: a receiver that has seen it already drops a repeat.
        when: When it happened, UTC, such as 2025-10-15T12:00:00Z.
        kind: What happened: "halt", "resume", "promotion", "rollback"; "no-go" or "held": a training whose version was
            not promoted; "round-missed", "round-late" or "round-failed": of `mltrain cycle`; "test": nothing.
        summary: What happened, in one sentence.
        by: Who asked, such as user@host.
        host: Name of the machine.
        data_dir: The data folder on that machine.
        slot: The slot; null: it concerns all of them.
        version: The version that is live now, or was not promoted; null: none.
        details: What belongs to this kind of event, such as the halt, or the gates that failed.
    """

    SCHEMA: ClassVar[str] = "event/1"

    id: Annotated[str, _ID]
    when: str
    kind: Kind
    summary: str
    by: str
    host: str
    data_dir: str
    slot: str | None
    version: str | None
    details: Annotated[Mapping[str, Json], RAW] = field(default_factory=dict)


@record
@dataclass(frozen=True, slots=True)
class QueuedEvent:
    """An event that waits, as its file holds it.

    Attributes:
        event: The event.
        attempts: How often its delivery failed.
        error: What the last attempt ended with; None: there was none.
    """

    event: Event
    attempts: Annotated[int, Limits(0)] = 0
    error: str | None = None

    def is_overdue(self, now_ms: int) -> bool:
        """Return whether it has failed for OVERDUE_DAYS; `now_ms` is the time, ms UTC."""
        return self.attempts > 0 and now_ms - queued_ms(self.event.id) >= OVERDUE_DAYS * DAY_MS


def queue_event(
    data_dir: Path,
    kind: Kind,
    summary: str,
    *,
    by: str,
    now_ms: int,
    slot: str | None = None,
    version: str | None = None,
    details: Mapping[str, Json] | None = None,
) -> Event:
    """Write an event into the queue of a data folder.

    Args:
        data_dir: The data folder, which exists.
        kind: What happened.
        summary: The same in one sentence.
        by: Who asked.
        now_ms: Time, ms UTC.
        slot: The slot; None: it concerns all of them.
        version: The version that it is about.
        details: What belongs to this kind of event.

    Raises:
        MachineError: The machine refuses; the event is lost.
    """
    event = Event(
        # Thirteen digits until the year 2286, so that names are in the order of time.
        id=f"{now_ms:013d}-{os.urandom(8).hex()}",
        when=format_seconds(now_ms),
        kind=kind,
        summary=summary,
        by=by,
        host=os.uname().nodename,
        data_dir=str(real_path(data_dir)),
        slot=slot,
        version=version,
        details=dict(details or {}),
    )
    folder = data_dir / EVENTS
    make_folder(folder)
    write_event(folder, QueuedEvent(event))
    return event


def write_event(folder: Path, queued: QueuedEvent) -> None:
    """Write the file of an event, or replace it; raise MachineError if the machine refuses."""
    write_without_lock(event_path(folder, queued.event.id), canonical_json(to_json(queued)))


def event_path(folder: Path, event_id: str) -> Path:
    """Return the file of an event in the folder of a queue."""
    return folder / f"{event_id}{_SUFFIX}"


def list_events(folder: Path) -> list[Path]:
    """Return the files of a queue, oldest event first; none if there is no folder."""
    with disk_errors(folder, "list"):
        try:
            names = os.listdir(folder)  # noqa: PTH208 (each second)
        except FileNotFoundError:
            return []
    return [
        folder / name for name in sorted(names) if name.endswith(_SUFFIX) and _ID.fullmatch(name.removesuffix(_SUFFIX))
    ]


def read_event(path: Path) -> QueuedEvent:
    """Read an event of a queue.

    Raises:
        InputError: The file is missing or damaged.
        MachineError: The machine refuses to read it.
    """
    data = read_file(path, max_bytes=_MAX_BYTES, what="the event")
    where = str(path)
    queued = read_record(Located(parse_json(data, where=where, max_bytes=_MAX_BYTES), where), QueuedEvent)
    if event_path(path.parent, queued.event.id) != path:
        raise InputError(f"{path} holds the event {queued.event.id}", hint="restore it from a backup, or remove it")
    return queued


def describe_failures(folder: Path) -> str | None:
    """Return that earlier events could not be delivered, and why, as a sentence; None: none has failed.

    Only the oldest event is read: it has failed if any has.
    """
    waiting = list_events(folder)
    if not waiting:
        return None
    oldest = read_event(waiting[0])
    if not oldest.attempts:
        return None
    return (
        f"{len(waiting)} event(s) wait in {folder}, the oldest since {oldest.event.when}; "
        f"its last of {oldest.attempts} attempt(s): {oldest.error}"
    )


def queued_ms(event_id: str) -> int:
    """Return when the event with this id was queued, ms UTC."""
    return int(event_id.partition("-")[0])
