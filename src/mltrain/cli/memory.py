"""Whether this process may have the memory that a command takes; no command is started that cannot end well.

Under `ulimit -v` numerical libraries do not raise: one prints a line and exits with 1, another aborts, a third cannot
be loaded and says that it is broken. So the limit is held against what a command takes before any of them is loaded.
"""

from __future__ import annotations

import errno
import resource
from typing import TYPE_CHECKING, Final

from mltrain.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator

# What commands take at their peak (VmPeak) for 6 days of one symbol on two cores; below it libraries end them, or spin.
SERVING_MB: Final = 1_300
VERIFYING_MB: Final = 900
CANDLES_MB: Final = 2_400
LEARNING_MB: Final = 2_800

_SHORT_OF_MEMORY: Final = (
    "failed to map segment",
    "cannot allocate memory",
    "could not spawn threads",
    "can't spawn worker",
)


def check_address_space(need_mb: int) -> None:
    """Refuse to start a command that the process's limit on its addresses would end in its midst.

    Args:
        need_mb: What it takes, in MB of 2^20 bytes; 0 where it loads nothing large.

    Raises:
        MachineError: The limit is lower.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < need_mb << 20:
        raise MachineError(
            f"the address space of this process is limited to {limit >> 20} MB, and this command takes {need_mb} MB",
            hint="raise the limit: `ulimit -v unlimited`; most of it is only reserved, never filled",
        )


def is_shortage(err: BaseException) -> bool:
    """Tell whether an error, or one that it came from, is the system's refusal of memory in other words."""
    return any(
        isinstance(seen, MemoryError)
        or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM)
        or any(words in str(seen).lower() for words in _SHORT_OF_MEMORY)
        for seen in _chain(err)
    )


def _chain(err: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from, back to the first one."""
    seen: BaseException | None = err
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
