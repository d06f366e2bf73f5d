"""The heartbeat of the sentinel: a small file that says when it was last at work.

Times are those of the boot clock, which no one sets and which runs on while the machine sleeps, so that neither a wrong
wall clock nor a pause of the whole machine makes an old heartbeat look new. It starts from zero at each start of the
machine, so a heartbeat counts only with the identity of that start.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.documents.records import Limits, read_record, record, to_json
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.values import Located
from mltrain.errors import MltrainError
from mltrain.storage.reading import read_file
from mltrain.storage.writing import write_without_lock

if TYPE_CHECKING:
    from collections.abc import Callable

HEARTBEAT_FILE: Final = "sentinel.json"

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_MAX_BYTES: Final = 4096
# Where the system has no boot clock, its monotonic one, which stops while the machine sleeps.
_BOOT_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@record
@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One heartbeat.

    Attributes:
        boot_id: Identity of the start of the machine; empty where the system has none.
        at_s: Time of the boot clock, in seconds.
        pid: The process of the sentinel.
        when: UTC, such as 2025-10-15T12:00:00Z; for people.
    """

    boot_id: str
    at_s: Annotated[float, Limits(0)]
    pid: int
    when: str


def boot_clock() -> float:
    """Return the seconds since the machine was started, with those in which it slept."""
    return time.clock_gettime(_BOOT_CLOCK)


@cache
def boot_id() -> str:
    """Return the identity of this start of the machine; empty where the system has none."""
    with suppress(OSError):
        return _BOOT_ID.read_text("ascii").strip()
    return ""


def beat(models: Path, *, when: str, clock: Callable[[], float] = boot_clock) -> None:
    """Write a heartbeat; it need not survive a power cut.

    Args:
        models: The models folder.
        when: The time, UTC, such as 2025-10-15T12:00:00Z, for people.
        clock: Returns seconds by the boot clock.

    Raises:
        MachineError: The machine refuses.
    """
    heartbeat = Heartbeat(boot_id(), clock(), os.getpid(), when)
    # Not flushed: a busy disk may delay that until the sentinel counts as silent.
    write_without_lock(models / HEARTBEAT_FILE, canonical_json(to_json(heartbeat)), flush=False)


def read_heartbeat(models: Path) -> Heartbeat:
    """Return the last heartbeat.

    Raises:
        InputError: There is none, or it is damaged.
        MachineError: The machine refuses to read it.
    """
    path = models / HEARTBEAT_FILE
    data = read_file(path, max_bytes=_MAX_BYTES, what="the heartbeat")
    return read_record(Located(parse_json(data, where=str(path)), str(path)), Heartbeat)


def find_silence(models: Path, timeout_s: float, *, clock: Callable[[], float] = boot_clock) -> str | None:
    """Return why the sentinel counts as silent, for a message; None: it is at work.

    Args:
        models: The models folder.
        timeout_s: Seconds after which a heartbeat is too old.
        clock: Returns seconds by the boot clock.
    """
    try:
        last = read_heartbeat(models)
    except MltrainError as err:
        return err.message
    if last.boot_id != boot_id():
        return f"the machine was started again after its last heartbeat, of {last.when}"
    age_s = clock() - last.at_s
    if not 0 <= age_s <= timeout_s:
        return f"its last heartbeat is {age_s:.1f} s old, of at most {timeout_s:g}"
    return None
