"""What SIGTERM, SIGHUP and Ctrl-C do to the command line: it ends at once, with 128 + the signal's number.

The handler does not raise. What a handler raises is lost in the callback of a weak reference (every import has some),
in compiled code and in a library's `except:`: one signal in sixty was, and the command went on. Nothing needs to be
unwound: every write survives a kill, and workers end when the kernel closes their pipe.

The library installs no handler: a notebook gets its KeyboardInterrupt.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

#: What the number of a signal is added to for the exit code.
SIGNAL_CODE: Final = 128

_STDERR: Final = 2
# Progress bars hide the cursor and leave it at the end of the last bar.
_SHOW_CURSOR: Final = b"\x1b[?25h\n"


def end_on_signals() -> None:
    """Let SIGTERM, SIGHUP and SIGINT end the process; one that is ignored, as under nohup, stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


class FirstSignal:
    """The first signal that asked to end.

    Attributes:
        number: Its number; None: there was none yet.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def has_come(self) -> bool:
        """Return whether there was one."""
        return self.number is not None


@contextmanager
def noting_signals() -> Iterator[FirstSignal]:
    """Let SIGTERM, SIGHUP and SIGINT in the block only be noted, for a command that has something to finish after it.

    After the block a signal ends the process at once again. One that is ignored stays ignored.
    """
    first = FirstSignal()

    def note(signum: int, _: FrameType | None) -> None:
        first.number = first.number or signum

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield first
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(signum: int, _: FrameType | None) -> None:
    """Show the cursor again, discard unfinished files, and end the process with 128 + the signal's number."""
    if "rich.live" in sys.modules and os.isatty(_STDERR):
        os.write(_STDERR, _SHOW_CURSOR)
    # Looked up, not imported: what has not been loaded yet has written nothing.
    if (temps := sys.modules.get("mltrain.storage.temps")) is not None:
        temps.discard_temps()
    os._exit(SIGNAL_CODE + signum)
