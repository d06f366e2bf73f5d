"""What the public functions have in common: the data folder, the clock, and where progress and warnings go."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from mltrain.progress import Progress
    from mltrain.store.signature import Signer
    from mltrain.store.store import Store

PathText: TypeAlias = str | os.PathLike[str]

#: The data folder of every function and command that is not given another.
DATA_DIR: Final = "data"


class MltrainWarning(UserWarning):
    """What a user should know although the call goes on; the commands print it as a warning."""


class WarningsOnly:
    """A `Progress` that shows no stages, and issues warnings as `MltrainWarning`."""

    def stage(self, name: str, *, total: int | None = None, concurrent: bool = False) -> None:
        """Show nothing."""

    def advance(self, steps: int = 1, *, note: str = "", stage: str | None = None) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Issue a warning."""
        warnings.warn(message, MltrainWarning, stacklevel=2)


def read_progress(progress: Progress | None) -> Progress:
    """Return the given progress; for None one that issues warnings and shows nothing else."""
    return WarningsOnly() if progress is None else progress


def read_clock(now_ms: int | None) -> int:
    """Return the given time, ms UTC; for None that of the machine's clock."""
    return time.time_ns() // 1_000_000 if now_ms is None else now_ms


def open_store(data_dir: PathText, slot: str | None, *, signer: Signer | None = None) -> Store:
    """Return the store of a data folder, in the named slot; None: the default slot."""
    from mltrain.names import DEFAULT_SLOT
    from mltrain.store.store import Store

    return Store(Path(data_dir), slot=slot or DEFAULT_SLOT, signer=signer)


def current_user() -> str:
    """Return the user as user@host, for the log of promotions."""
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # The user of a container may have no name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
