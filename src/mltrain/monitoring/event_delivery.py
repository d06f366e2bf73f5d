"""Delivery of queued events: one POST per event to the receiver's address, signed with a shared secret.

    X-Mltrain-Event: 1760529600250-3f2a9c0d1e5b7a84
    X-Mltrain-Timestamp: 1760529601                          when this attempt was made, seconds since 1970
    X-Mltrain-Signature: v1=<HMAC-SHA256 in hexadecimal>     of the timestamp, a period and the body

An event is delivered at least once: it leaves the queue after an answer with a status of 2xx, so that a process that
is killed in between delivers it again, with the same id. Redirects are not followed, proxies and other settings of the
environment are not used, and every attempt ends within its time limit, also if the receiver hangs.
"""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from mltrain._version import __version__
from mltrain.documents.results import Result
from mltrain.errors import LockedError, MltrainError
from mltrain.monitoring.events import (
    OVERDUE_DAYS,
    event_path,
    list_events,
    read_event,
    write_event,
)
from mltrain.monitoring.receiver import sign
from mltrain.names import show
from mltrain.sources.async_run import run_async
from mltrain.sources.http_client import ssl_context
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.locks import lock_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import httpx

    from mltrain.monitoring.events import Event, QueuedEvent
    from mltrain.monitoring.receiver import Receiver

#: Seconds that one attempt may take, and all attempts of one call together.
ATTEMPT_S: Final = 10.0
TOTAL_S: Final = 30.0

_FIRST_PAUSE_MS: Final = 2_000
_LONGEST_PAUSE_MS: Final = 300_000
_MAX_SHOWN: Final = 200
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """An event that waits in the queue.

    Attributes:
        id: Its identity.
        when: When it happened, UTC.
        kind: What happened.
        summary: The same in one sentence.
        attempts: How often its delivery failed.
        error: What the last attempt ended with; null: there was none.
        overdue: Whether it has failed for days.
    """

    id: str
    when: str
    kind: str
    summary: str
    attempts: int
    error: str | None
    overdue: bool


@dataclass(frozen=True, slots=True)
class Delivery(Result):
    """The queue, and what was delivered from it.

    Attributes:
        delivered: Ids of the events that the receiver accepted.
        waiting: The events that are left, oldest first.
        problems: What did not work, one sentence each.
    """

    SCHEMA: ClassVar[str] = "notify/1"

    delivered: tuple[str, ...]
    waiting: tuple[WaitingEvent, ...]
    problems: tuple[str, ...] = ()


def describe_queue(folder: Path, *, now_ms: int) -> Delivery:
    """Return what waits in a queue; a file that cannot be read is among the problems.

    Raises:
        MachineError: The folder cannot be read.
    """
    waiting, problems = [], []
    for path in list_events(folder):
        try:
            queued = read_event(path)
        except MltrainError as err:
            # Delivered by another process since the files were listed.
            if path.exists():
                problems.append(err.message)
            continue
        event = queued.event
        waiting.append(
            WaitingEvent(
                event.id,
                event.when,
                event.kind,
                event.summary,
                queued.attempts,
                queued.error,
                queued.is_overdue(now_ms),
            )
        )
    overdue = sum(each.overdue for each in waiting)
    if overdue:
        problems.append(f"{overdue} event(s) could not be delivered for {OVERDUE_DAYS} days; they are kept in {folder}")
    return Delivery((), tuple(waiting), tuple(problems))


def deliver(
    folder: Path,
    receiver: Receiver,
    *,
    clock: Callable[[], float],
    attempt_s: float = ATTEMPT_S,
    total_s: float = TOTAL_S,
) -> Delivery:
    """Post every event of a queue, oldest first, and remove those that the receiver accepts.

    Events after one that the receiver refuses (4xx) are posted, too; after one for which it does not answer, is
    overloaded or broken, the rest waits. Another process that delivers the same queue is waited for:
    it may have listed the queue before the newest event.

    Args:
        folder: The folder of the queue; it need not exist.
        receiver: The receiver.
        clock: Returns seconds since 1970, UTC.
        attempt_s: Seconds that one attempt may take.
        total_s: Seconds after which no attempt begins or goes on, and that another process is waited for.

    Raises:
        MachineError: The folder cannot be read or locked.
    """
    delivered: list[str] = []
    problems: list[str] = []

    async def post_all() -> None:
        import httpx

        loop = asyncio.get_running_loop()
        end_s = loop.time() + total_s
        # For http to this machine, no certificates are loaded.
        tls = ssl_context(None) if receiver.url.startswith("https:") else False
        async with httpx.AsyncClient(trust_env=False, verify=tls, follow_redirects=False, timeout=attempt_s) as client:
            for path in list_events(folder):
                try:
                    queued = read_event(path)
                except MltrainError:
                    # Reported with what is left.
                    continue
                left_s = min(attempt_s, end_s - loop.time())
                if left_s <= 0:
                    return
                error, goes_on = await _post(client, receiver, queued.event, timestamp=int(clock()), limit_s=left_s)
                if error is None:
                    with disk_errors(path, "remove"):
                        path.unlink(missing_ok=True)
                    delivered.append(queued.event.id)
                    continue
                problems.append(f"{queued.event.kind} of {queued.event.when}: {receiver.host}: {error}")
                try:
                    _note_failure(folder, queued, error)
                except MltrainError as err:
                    problems.append(err.message)
                if not goes_on:
                    return

    if list_events(folder):
        try:
            with lock_folder(folder, purpose="delivering events", wait_s=total_s):
                run_async(post_all)
        except LockedError:
            problems.append(f"another process delivers the events in {folder}")
    left = describe_queue(folder, now_ms=int(clock() * 1000))
    return Delivery(tuple(delivered), left.waiting, (*problems, *left.problems))


def _note_failure(folder: Path, queued: QueuedEvent, error: str) -> None:
    # Not written again if somebody has removed it: a person may empty the queue.
    if event_path(folder, queued.event.id).exists():
        write_event(folder, replace(queued, attempts=queued.attempts + 1, error=error))


async def _post(
    client: httpx.AsyncClient, receiver: Receiver, event: Event, *, timestamp: int, limit_s: float
) -> tuple[str | None, bool]:
    """Post one event; return what failed, None: nothing, and whether the next event may be tried at once."""
    import httpx

    body = json.dumps(event.to_json(), ensure_ascii=False, allow_nan=False).encode()
    headers: Mapping[str, str] = {
        "Content-Type": "application/json",
        "User-Agent": f"mltrain/{__version__}",
        "X-Mltrain-Event": event.id,
        "X-Mltrain-Timestamp": str(timestamp),
        "X-Mltrain-Signature": sign(receiver.secret, str(timestamp), body),
    }
    try:
        async with (
            asyncio.timeout(limit_s),
            # The answer's body is not read: the status says all.
            client.stream("POST", receiver.url, content=body, headers=headers) as response,
        ):
            status = response.status_code
    except TimeoutError:
        return f"no answer within {limit_s:.3g} s", False
    # The last two: a host name that only the encoding of international names refuses.
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as err:
        return f"cannot deliver: {show(str(err) or type(err).__name__)[:_MAX_SHOWN]}", False
    if 200 <= status < 300:
        return None, True
    if 300 <= status < 400:
        return f"HTTP {status}: it redirects, which is not followed", True
    return f"HTTP {status}", status < 500 and status != _TOO_MANY


class Courier:
    """Delivers a queue in a thread, for a process that goes on with its work; after failures it waits longer.

    Args:
        folder: The folder of the queue.
        receiver: The receiver.
        clock: Returns seconds since 1970, UTC.
    """

    def __init__(self, folder: Path, receiver: Receiver, *, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._receiver = receiver
        self._clock = clock
        self._thread: threading.Thread | None = None
        self._found: Delivery | None = None
        self._error: str | None = None
        self._pause_ms = 0
        self._not_before_ms = 0
        self._last_warnings: tuple[str, ...] = ()

    def poll(self) -> tuple[str, ...]:
        """Begin a delivery if events wait and none is in progress; return the warnings of the last, each set once."""
        if self._thread is not None:
            if self._thread.is_alive():
                return ()
            return self._take_result()
        now_ms = int(self._clock() * 1000)
        if now_ms < self._not_before_ms:
            return ()
        try:
            is_empty = not list_events(self._folder)
        except MltrainError as err:
            self._pause(now_ms)
            return self._tell((err.message,))
        if not is_empty:
            self._found, self._error = None, None
            self._thread = threading.Thread(target=self._deliver, daemon=True)
            self._thread.start()
        return ()

    def finish(self, timeout_s: float = TOTAL_S) -> tuple[str, ...]:
        """Wait for the delivery in progress, at most so many seconds; return its warnings."""
        if self._thread is None:
            return ()
        self._thread.join(timeout_s)
        return () if self._thread.is_alive() else self._take_result()

    def _deliver(self) -> None:
        try:
            self._found = deliver(self._folder, self._receiver, clock=self._clock)
        except MltrainError as err:
            self._error = err.message

    def _take_result(self) -> tuple[str, ...]:
        self._thread = None
        found = self._found
        if found is not None and not found.problems:
            self._pause_ms = self._not_before_ms = 0
            self._last_warnings = ()
            return ()
        self._pause(int(self._clock() * 1000))
        if found is not None:
            return self._tell(found.problems)
        return self._tell((self._error or "a delivery ended without a result",))

    def _pause(self, now_ms: int) -> None:
        self._pause_ms = min(max(2 * self._pause_ms, _FIRST_PAUSE_MS), _LONGEST_PAUSE_MS)
        self._not_before_ms = now_ms + self._pause_ms

    def _tell(self, warnings: tuple[str, ...]) -> tuple[str, ...]:
        """Return warnings unless they are those of the last time."""
        if warnings == self._last_warnings:
            return ()
        self._last_warnings = warnings
        return warnings
