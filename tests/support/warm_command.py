"""The command `mltrain` of a shell whose runs are forks of the warm server: this program starts in some milliseconds.

The shell inherits the socket of the server; its descriptor is in WARM_SERVER. Without it, as in a program that closes
what it inherits, the installed `mltrain` runs. Signals that end a process are passed on.
"""

import json
import os
import signal
import socket
import sys


def main(installed, *words):
    """Run `mltrain` with the streams, the environment and the folder of this process; return its exit code."""
    try:
        server = socket.socket(fileno=int(os.environ["WARM_SERVER"]))
    except OSError:
        os.execv(installed, [installed, *words])  # noqa: S606 (a shell has parsed the words already)
    reading, writing = os.pipe()
    request = {"words": words, "env": dict(os.environ), "cwd": os.getcwd()}  # noqa: PTH109 (pathlib takes longer than the rest)
    request["program"] = None
    socket.send_fds(server, [json.dumps(request).encode()], [1, 2, writing, 0])
    os.close(writing)
    server.detach()
    with os.fdopen(reading, "rb", buffering=0) as report:
        pid = int(report.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = int(report.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
