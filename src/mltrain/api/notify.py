"""`notify`: the events that wait for delivery; and how other functions queue one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mltrain.api.workspace import DATA_DIR, check_path, current_user, read_clock
from mltrain.errors import InputError, MltrainError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mltrain.api.workspace import PathText
    from mltrain.documents.values import Json
    from mltrain.monitoring.event_delivery import Delivery
    from mltrain.monitoring.events import Kind
    from mltrain.monitoring.receiver import Receiver


def notify(
    *,
    flush: bool = False,
    test: bool = False,
    notify: str | None = None,
    notify_secret_file: PathText | None = None,
    by: str | None = None,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> Delivery:
    """Return the events that wait in the queue of a data folder; with `flush`, deliver them before.

    Args:
        flush: Deliver what waits, for half a minute at most. What fails stays in the queue, and is no error.
        test: Queue an event of the kind "test" before; goes with `flush`.
        notify: The address that events are posted to: https, or http to this machine.
        notify_secret_file: File with the secret that they are signed with; other users must not be able to read it.
        by: Who asks for the test, for the event; None: user@host.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: `flush` without an address or a secret, or `test` without `flush`; or the address is not allowed, or
            others may read the file of the secret.
        InputError: The file of the secret does not exist, or holds none; or there is no data folder.
        MachineError: The queue cannot be read or written.
    """
    from mltrain.monitoring.event_delivery import deliver, describe_queue
    from mltrain.monitoring.events import EVENTS, queue_event

    folder = check_path(data_dir, "data_dir")
    if not folder.is_dir():
        raise InputError(f"there is no data folder {folder}", hint="name it with --data-dir")
    if not flush:
        if test:
            raise UsageError("a test event is delivered at once", hint="add --flush")
        return describe_queue(folder / EVENTS, now_ms=read_clock(now_ms))
    receiver = read_receiver(notify, notify_secret_file)
    if receiver is None:
        raise UsageError(
            "there is no address to deliver to", hint="name it with --notify URL, or by the variable MLTRAIN_NOTIFY_URL"
        )
    if test:
        asked_by = by or current_user()
        queue_event(folder, "test", "a test of the delivery", by=asked_by, now_ms=read_clock(now_ms))
    clock: Callable[[], float] = time.time if now_ms is None else lambda: now_ms / 1000
    return deliver(folder / EVENTS, receiver, clock=clock)


def read_receiver(notify: str | None, notify_secret_file: PathText | None) -> Receiver | None:
    """Return the receiver that the arguments of a function name; None: there is none.

    Raises:
        UsageError: There is an address but no secret; or the address is not allowed, or others may read the file.
        InputError: The file does not exist, or holds no secret.
    """
    if notify is None:
        return None
    from mltrain.monitoring.receiver import open_receiver

    if notify_secret_file is None:
        raise UsageError(
            "events are signed, and there is no secret",
            hint="name its file with --notify-secret-file FILE, or by the variable MLTRAIN_NOTIFY_SECRET_FILE",
        )
    return open_receiver(notify, check_path(notify_secret_file, "notify_secret_file"))


def check_notify(notify: str | None) -> None:
    """Raise UsageError for an address that events cannot be posted to, before anything is done."""
    if notify is not None:
        from mltrain.sources.network_rules import check_receiver_url

        check_receiver_url(notify)


def note_event(
    kind: Kind,
    summary: str,
    *,
    notify: str | None,
    by: str,
    data_dir: Path,
    now_ms: int,
    slot: str | None = None,
    version: str | None = None,
    details: Mapping[str, Json] | None = None,
) -> tuple[str, ...]:
    """Queue an event if there is an address for it.

    What it is about has happened, and must not fail because of it: all that does not work is returned, as sentences.
    """
    if notify is None:
        return ()
    from mltrain.monitoring.events import EVENTS, describe_failures, queue_event

    problems = []
    try:
        check_notify(notify)
        if failures := describe_failures(data_dir / EVENTS):
            problems.append(failures)
    except MltrainError as err:
        problems.append(err.message)
    try:
        queue_event(data_dir, kind, summary, by=by, now_ms=now_ms, slot=slot, version=version, details=details)
    except MltrainError as err:
        problems.append(f"no event of this {kind} was queued: {err.message}")
    return tuple(problems)
