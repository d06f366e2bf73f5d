"""Signals that ask the process to end: they unwind the stack, wherever it is, and are not lost.

What a handler raises can be lost: in the callback of a weak reference, of which every import has some, in compiled code
that cannot pass it on, or in a library's own `except:`. So it is raised again until the stack unwinds.

Nothing but the standard library is imported here: the handlers stand before anything else is loaded.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final

from mltrain.errors import Stopped, trail

if TYPE_CHECKING:
    from types import FrameType

_AGAIN_S: Final = 0.05
_WATCHED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_asked: list[int] = []  # the signals that have come


def watch_signals() -> None:
    """Let SIGTERM, SIGHUP and Ctrl-C unwind the stack; what is ignored (nohup) stays ignored."""
    sys.unraisablehook = _show_lost
    signal.signal(signal.SIGALRM, _ask_again)
    for number in _WATCHED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def stop_watching() -> None:
    """Raise no more, the command is over; while its results are flushed, a signal ends the process at once."""
    for number in _WATCHED:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)


def raise_asked(err: BaseException) -> None:
    """Raise what a signal says in place of an error that came of it; do nothing where none has come.

    An error may wrap it: Python 3.11 makes a RuntimeError of whatever a class's `__set_name__` raises. Or an error is
    all that is left of it: Polars, interrupted while it formats a message, says in a TypeError that it cannot.

    Raises:
        Stopped: SIGTERM or SIGHUP.
        KeyboardInterrupt: Ctrl-C.
    """
    for seen in trail(err):
        if isinstance(seen, (Stopped, KeyboardInterrupt)):
            raise seen
    if _asked:
        raise _exception(_asked[0]) from err


def _exception(signum: int) -> BaseException:
    return KeyboardInterrupt() if signum == signal.SIGINT else Stopped(signum)


def _stop(signum: int, _: FrameType | None) -> None:
    """Raise what the signal says, unless the stack unwinds already: that must not be torn, but by one more Ctrl-C."""
    impatient = signum == signal.SIGINT in _asked
    _asked.append(signum)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    if impatient or not _is_unwinding():
        raise _exception(signum)


def _ask_again(_: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(_asked[0])  # an event loop has its own meanwhile, which passes the signal on to `_stop`
    if callable(handler) and sys.exception() is None:  # while any error is handled, it may be what came of the signal
        handler(_asked[0], frame)
    else:
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)


def _is_unwinding() -> bool:
    raised = sys.exception()
    return raised is not None and any(isinstance(seen, (Stopped, KeyboardInterrupt)) for seen in trail(raised))


def _show_lost(lost: sys.UnraisableHookArgs) -> None:
    if lost.exc_type not in {Stopped, KeyboardInterrupt}:  # those come again
        sys.__unraisablehook__(lost)
