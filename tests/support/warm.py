"""Runs of `mltrain` as forks of a process that has imported it: separate processes without the time of a start.

The server imports what the commands import, and runs none of it: threads do not survive a fork. Of each run it reports
the process id and the exit code. A shell that inherits the socket of its requests runs `mltrain` in the same way: see
warm_command.py.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path

MLTRAIN = Path(sys.executable).with_name("mltrain")
TRACEBACK = "Traceback (most recent call last)"
# Loaded by the commands when they need them.
LATE = (
    *("httpx", "jsonschema", "optuna", "pyarrow.parquet", "rich.progress", "rich.table", "scipy.special"),
    *("scipy.stats", "typer._adapters", "yaml", "mltrain.cli.render", "mltrain.features.registry"),
    *("mltrain.pipeline.bench", "mltrain.pipeline.evaluate", "mltrain.pipeline.predict", "mltrain.pipeline.retrain"),
    *("mltrain.pipeline.train", "mltrain.report.page", "mltrain.snapshots.take", "mltrain.sources.opening"),
    # What typer.rich_utils imports, which itself reads the environment when it is imported.
    *("rich.columns", "rich.markdown", "rich.panel", "rich.traceback"),
)


def import_commands():
    """Import the modules that commands need."""
    from mltrain.cli.app import MODULES
    from mltrain.training.lightgbm_import import import_lightgbm, skip_scikit_learn

    skip_scikit_learn()
    import_lightgbm()
    for name in (*(f"mltrain.cli.{home}" for home in MODULES), *LATE):
        import_module(name)


def become(words, env):
    """Run `mltrain` with the descriptors 1 and 2 as stdout and stderr; never return."""
    code = 70
    try:
        os.environ.update(env)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
        sys.argv = [str(MLTRAIN), *words]
        from mltrain.cli import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException as bug:  # noqa: BLE001 (whatever it is, it must not run the parent's code)
        os.write(2, f"{TRACEBACK}: {bug!r}".encode())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run_program(source, arguments, env):
    """Run a program as `python -c` does, with the descriptors 1 and 2 as stdout and stderr; never return."""
    os.environ.update(env)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False, buffering=1)
    sys.argv = ["-c", *arguments]
    sys.dont_write_bytecode = True
    code = 1
    try:
        exec(compile(source, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 (the test wrote it)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 (whatever it is, it must not run the parent's code)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class WarmServer:
    """A process that forks runs; it ends when its parent does."""

    def __init__(self, env):
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words = [sys.executable, __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        atexit.register(self.close)

    def start(self, words, *, out, err, env, cwd, program=None, stdin=None):
        """Start a run; return a file that has a line with its process id now, and one with its exit code later.

        With `program`, it runs this source code with the words as its arguments, instead of `mltrain`.
        """
        reading, writing = os.pipe()
        request = {"words": list(map(str, words)), "env": env, "cwd": str(cwd), "program": program}
        with self._lock:
            given = [out, err, writing, *([] if stdin is None else [stdin])]
            socket.send_fds(self._socket, [json.dumps(request).encode()], given)
        os.close(writing)
        return os.fdopen(reading, "rb", buffering=0)

    def fileno(self):
        """Return the descriptor of the socket that takes requests, to be inherited by a shell."""
        return self._socket.fileno()

    def close(self):
        """End the server."""
        self._socket.close()
        self._process.wait()


def serve(requests):
    """Fork a run for each request, and report its process id and its exit code, until the other end is closed."""
    import_commands()
    gc.freeze()
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    reports = {}
    while True:
        ready = select.select([requests, waking], [], [])[0]
        if waking in ready:
            os.read(waking, 1 << 10)
            report_ended(reports)
        if requests in ready:
            message, (*given,), _, _ = socket.recv_fds(requests, 1 << 20, 4)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                requests.close()
                for descriptor in (waking, woken, *reports.values()):
                    os.close(descriptor)
                run(json.loads(message), *given)
            out, err, reports[pid], *rest = given
            tell(reports[pid], pid)
            # A writer into a pipe must see that the run has stopped reading.
            for descriptor in (out, err, *rest):
                os.close(descriptor)


def report_ended(reports):
    """Write the exit code of each run that has ended."""
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        report = reports.pop(pid)
        tell(report, os.waitstatus_to_exitcode(status))
        os.close(report)


def tell(report, number):
    """Write a number for the caller, who may have stopped waiting."""
    with contextlib.suppress(BrokenPipeError):
        os.write(report, b"%d\n" % number)


def run(request, out, err, report, stdin=0):
    """Be the requested run, with these descriptors as stdin, stdout and stderr; never return."""
    try:
        os.close(report)
        os.dup2(stdin, 0)
        if stdin:
            os.close(stdin)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        os.chdir(request["cwd"])
        if request["program"] is not None:
            run_program(request["program"], request["words"], request["env"])
        become(request["words"], request["env"])
    finally:
        os._exit(71)


if __name__ == "__main__":
    # As for the script `mltrain`: no module of the tests can be imported.
    sys.path[0] = str(MLTRAIN.parent)
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        os.set_inheritable(requests.fileno(), False)
        serve(requests)
