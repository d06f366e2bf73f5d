"""Start the delivery of queued events when a command has ended, without waiting for it.

The delivery is a process in the background, `mltrain notify --flush`. So the command ends in its usual time, also
if the receiver hangs, and a halt never waits for the network. What the delivery cannot do stays in the queue, and the
next command that queues an event warns of it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from mltrain.errors import MltrainError

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.progress import Progress

NOTIFY_VARIABLE: Final = "MLTRAIN_NOTIFY_URL"
SECRET_FILE_VARIABLE: Final = "MLTRAIN_NOTIFY_SECRET_FILE"  # noqa: S105 (the name of a variable)


def start_delivery(data_dir: Path, *, notify: str | None, secret_file: Path | None, progress: Progress) -> None:
    """Start the delivery if the command has an address for events, and some are queued."""
    if notify is None:
        return
    from mltrain.monitoring.events import EVENTS, list_events
    from mltrain.monitoring.receiver import open_receiver

    try:
        if not list_events(data_dir / EVENTS):
            return
        if secret_file is None:
            progress.warn("events are queued, but not delivered: name the file with the secret by --notify-secret-file")
            return
        open_receiver(notify, secret_file)
    except MltrainError as err:
        progress.warn(f"events are queued, but not delivered: {err.message}")
        return
    # By the environment: everybody can see the arguments of a process.
    environment = {
        **os.environ,
        NOTIFY_VARIABLE: notify,
        SECRET_FILE_VARIABLE: str(secret_file),
    }
    # Python without the working directory on its path (-P): it may hold anything.
    words = [sys.executable, "-P", "-m", "mltrain", "notify", "--flush", "--quiet", "--data-dir", str(data_dir)]
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    try:
        os.posix_spawn(sys.executable, words, environment, file_actions=nothing, setsid=True)
    except OSError as err:
        progress.warn(f"events are queued, but not delivered: cannot start a process: {err.strerror}")
