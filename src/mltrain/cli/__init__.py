"""The command line: parse, call the library, show.

`main` is the console script's entry. It imports nothing but the standard library before the signal handlers
stand, so that an interruption during start-up, too, ends with its documented exit code and no traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from mltrain.errors import Stopped

if TYPE_CHECKING:
    from types import FrameType


def main() -> NoReturn:
    """Run one command and end the process with its exit code."""
    try:
        _watch_signals()
        from mltrain.cli.app import run

        code = run()
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Stopped as stopped:
        code = stopped.exit_code
    _leave(code)


def _watch_signals() -> None:
    """Let SIGTERM and SIGHUP unwind the stack, as Ctrl-C does; an ignored SIGHUP (nohup) stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 (the handler's signature)
    signal.signal(signum, signal.SIG_IGN)  # a second one must not tear the unwinding
    raise Stopped(signum)


def _leave(code: int) -> NoReturn:
    """Flush what is left and exit; a reader that has gone, or goes now, is not our error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            # Python would try again at shutdown, and turn the failure into exit code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except OSError as err:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if code == 0:
                code = 8
                with suppress(OSError):  # stderr may lie on the same full disk
                    os.write(2, f"error: cannot write the results: {err.strerror}\n".encode())
    sys.exit(code)
