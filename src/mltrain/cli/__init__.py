"""The command line: parse, call the library, show the result.

`main` is the entry point of the console script. The signal handlers are installed before anything but the standard
library is imported, so that a signal during start-up ends with its exit code and without a traceback.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

from mltrain.cli.signals import end_on_signals


def _replace_closed_streams() -> None:
    """Let the streams that the caller has closed lead nowhere: a watchdog without a terminal must be able to halt."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Takes the lowest free number, which is that of the stream: no other file may get it.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def main() -> NoReturn:
    """Run one command and end the process with its exit code."""
    end_on_signals()
    _replace_closed_streams()
    from mltrain.cli.app import run

    code = run()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as err:
            # Python would flush again at shutdown, and turn the failure into exit code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            # A reader that has left is not an error.
            if code == 0 and not isinstance(err, BrokenPipeError):
                code = 8
                # stderr may be on the same full disk.
                with suppress(OSError):
                    os.write(2, f"error: cannot write the results: {err.strerror}\n".encode())
    sys.exit(code)
