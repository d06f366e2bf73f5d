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


def main() -> NoReturn:
    """Run one command and end the process with its exit code."""
    end_on_signals()
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
