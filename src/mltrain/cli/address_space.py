"""Refuses to start a command that this process has too little address space for.

Under `ulimit -v` numerical libraries do not raise: one prints a line and exits with 1, another aborts, a third cannot
be loaded and says that it is broken. So the limit is checked before any of them is loaded.
"""

from __future__ import annotations

import errno
import resource
from typing import Final

from mltrain.errors import MachineError

# Peak address space (VmPeak, in MB of 2^20 bytes) of commands on 6 days of one symbol and two cores; with less,
# libraries abort or hang.
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
    """Check that the limit on this process's address space (`ulimit -v`) leaves a command what it needs.

    Args:
        need_mb: In MB of 2^20 bytes; 0 for a command that loads nothing large.

    Raises:
        MachineError: The limit is lower.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < need_mb << 20:
        raise MachineError(
            f"the address space of this process is limited to {limit >> 20} MB, and this command needs {need_mb} MB",
            hint="raise the limit with `ulimit -v unlimited`; most of the space is only reserved, never used",
        )


def is_shortage(err: BaseException) -> bool:
    """Return whether an error, or one that caused it, means that the system refused memory."""
    cause = err.__cause__ or err.__context__
    return (
        isinstance(err, MemoryError)
        or (isinstance(err, OSError) and err.errno == errno.ENOMEM)
        or any(words in str(err).lower() for words in _SHORT_OF_MEMORY)
        or (cause is not None and is_shortage(cause))
    )
