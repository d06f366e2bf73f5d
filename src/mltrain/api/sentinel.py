"""`sentinel`: evaluate the triggers of the kill switch, once or for as long as the process runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mltrain.api.notify import note_event, read_receiver
from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_clock, read_progress
from mltrain.documents.results import to_plain
from mltrain.errors import MltrainError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.config.halt_config import HaltConfig
    from mltrain.monitoring.sentinel import SentinelStep
    from mltrain.store.store import Store


def sentinel(
    *,
    config: PathText | Mapping[str, Any] | None = None,
    notify: str | None = None,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> SentinelStep:
    """Evaluate the triggers of every live version once, halt serving where one fires, and write a heartbeat.

    Args:
        config: Settings that override those of the packaged `halt.yml`: a file, or a mapping.
        notify: Queue an event of each halt for this address, https or http to this machine; None: none.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        The evidence of every trigger, and what was halted. A ledger that cannot be read is a breach, and no error.

    Raises:
        InputError: The configuration is wrong, or there is no models folder, or it has no live version.
        MachineError: The machine refuses a halt or the heartbeat.
    """
    from mltrain.monitoring.sentinel import Sentinel

    moment_ms, store = read_clock(now_ms), open_store(data_dir, None)
    watching = Sentinel(store, _read_config(config), now_ms=moment_ms, is_running=False)
    rows, found = 0, watching.step(moment_ms)
    while not found.is_current:
        rows, found = rows + found.rows, watching.step(moment_ms)
    warnings = _note_halts(found, store, notify=notify, now_ms=moment_ms)
    return replace(found, rows=rows + found.rows, warnings=(*found.warnings, *warnings))


def run_sentinel(
    *,
    config: PathText | Mapping[str, Any] | None = None,
    notify: str | None = None,
    notify_secret_file: PathText | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
    clock: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[SentinelStep]:
    """Return an iterator that evaluates the triggers again and again, and gives each evaluation that halted serving.

    Args:
        config: As in `sentinel`.
        notify: Queue an event of each halt for this address, https or http to this machine, and deliver it, and what
            else waits in the queue, in a thread; None: neither.
        notify_secret_file: File with the secret that events are signed with.
        data_dir: The data folder.
        progress: Receives a warning when an evaluation fails: it then writes no heartbeat, and goes on. Also if events
            cannot be delivered, as for want of a secret: it halts without them.
        clock: Returns seconds since 1970, as `time.time` does.
        wait: Called with the seconds to wait until the next evaluation.

    Returns:
        An iterator without an end.

    Raises:
        InputError: The configuration is wrong, or there is no models folder, or it has no live version.
        MachineError: The machine refuses to read the models folder.
    """
    from mltrain.monitoring.sentinel import Sentinel, run

    settings, store, shown = _read_config(config), open_store(data_dir, None), read_progress(progress)
    receiver = None
    try:
        receiver = read_receiver(notify, notify_secret_file)
    except MltrainError as err:
        # The kill switch must work without events.
        shown.warn(f"events are not delivered: {err.message}")
    watching = Sentinel(store, settings, now_ms=int(clock() * 1000), is_running=True)
    if notify is None:
        return run(watching, shown, every_s=settings.sentinel.every_s, clock=clock, wait=wait)
    from mltrain.monitoring.event_delivery import Courier
    from mltrain.monitoring.events import EVENTS

    courier = None if receiver is None else Courier(store.data_dir / EVENTS, receiver, clock=clock)

    def deliver_and_wait(seconds: float) -> None:
        for warning in () if courier is None else courier.poll():
            shown.warn(warning)
        wait(seconds)

    def steps() -> Iterator[SentinelStep]:
        for found in run(watching, shown, every_s=settings.sentinel.every_s, clock=clock, wait=deliver_and_wait):
            for warning in _note_halts(found, store, notify=notify, now_ms=int(clock() * 1000)):
                shown.warn(warning)
            yield found

    return steps()


def _note_halts(found: SentinelStep, store: Store, *, notify: str | None, now_ms: int) -> tuple[str, ...]:
    """Queue an event of each halt that an evaluation put in force; return what did not work."""
    from mltrain.monitoring.sentinel import BY

    return tuple(
        warning
        for each in found.fired
        if each.trigger in found.halted
        for warning in note_event(
            "halt",
            f"serving was halted by {each.trigger}: {each.sentence}",
            notify=notify,
            by=BY,
            data_dir=store.data_dir,
            now_ms=now_ms,
            version=each.version or None,
            details={"trigger": each.trigger, "evidence": to_plain(each.to_json())},
        )
    )


def _read_config(config: PathText | Mapping[str, Any] | None) -> HaltConfig:
    """Return the settings of a file or a mapping over the packaged ones."""
    from mltrain.config.loading import load_halt_config

    return load_halt_config(config if config is None or isinstance(config, Mapping) else check_path(config, "config"))
