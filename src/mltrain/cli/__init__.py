"""The command line: parse, call the library, show.

`main` is the console script's entry. It imports nothing but the standard library before the signal handlers
stand, so that an interruption during start-up, too, ends with its documented exit code and no traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from mltrain.cli.signals import raise_asked, stop_watching, watch_signals
from mltrain.errors import Stopped


def main() -> NoReturn:
    """Run one command and end the process with its exit code."""
    try:
        watch_signals()
        code = _run()
        stop_watching()
    except KeyboardInterrupt:
        stop_watching()  # in here, where an alarm on its way sees that its signal has arrived
        code = 128 + signal.SIGINT
    except Stopped as stopped:
        stop_watching()
        code = stopped.exit_code
    _leave(code)


def _run() -> int:
    try:
        from mltrain.cli.app import run

        return run()
    except Exception as err:
        raise_asked(err)
        raise


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
