"""Fail a Python program at each of its operations on a folder, with strace: by a kill or a disk error.

A power cut shows in the order of operations: `unsynced_renames` reads it from the same log.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory, TemporaryFile

import pytest

from support.program import warm_server

CALLS = (
    "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "ftruncate"
)


@dataclass(frozen=True)
class Operation:
    """One system call on the folder: thread, name, its number among the thread's calls of that name, arguments."""

    thread: str
    call: str
    number: int
    arguments: str


@contextmanager
def memory_folder():
    """Yield a temporary folder in memory, if possible: there a sync costs nothing."""
    memory = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@cache
def need_strace():
    """Skip the test if strace is missing or may not trace."""
    strace = which("strace")
    if strace is None:
        pytest.skip("needs strace")
    if subprocess.run([strace, "-f", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace may not trace here")


# Every call after this is counted: the run waits until it is traced, and lets any process of this user trace it, where
# otherwise only parents may (PR_SET_PTRACER, PR_SET_PTRACER_ANY).
WAIT = """
import ctypes, os
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
os.read(0, 1)
"""


def run(program, folder, *inject):
    """Run a program under strace with the folder as its argument; return the process and its operations there."""
    log = folder.parent / f"{folder.name}.strace"
    done = _run_traced(program, folder, ["strace", "-f", "-y", "-s0", "-e", f"trace={CALLS}", *inject, "-o", str(log)])
    counts = Counter()
    operations = []
    for line in log.read_text(errors="replace").splitlines():
        if match := re.match(r"(\d+)\s+(\w+)\((.*)", line):
            # strace counts the calls of each thread.
            counts[match[1], match[2]] += 1
            if str(folder) in match[3]:
                operations.append(Operation(match[1], match[2], counts[match[1], match[2]], match[3]))
    return done, operations


def _run_traced(program, folder, tracer):
    """Run a program in a fork of the warm server, under a tracer that is attached before its first line."""
    held, release = os.pipe()
    with TemporaryFile() as out, TemporaryFile() as err:
        report = warm_server().start(
            [folder],
            out=out.fileno(),
            err=err.fileno(),
            env=dict(os.environ),
            cwd=Path.cwd(),
            program=WAIT + program,
            stdin=held,
        )
        os.close(held)
        pid = int(report.readline())
        with report, subprocess.Popen([*tracer, "-p", str(pid)], stderr=subprocess.PIPE, text=True) as run:
            line = run.stderr.readline()
            os.close(release)
            assert "attached" in line, line
            code = int(report.readline())
            # Threads are reported as well; after the last line, the log is complete.
            run.stderr.read()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    return subprocess.CompletedProcess([program, folder], code, *texts)


def run_failing(program, folder, operation, fault):
    """Run a program that fails at one operation; `fault` is KILL or an error's name such as ENOSPC.

    The folder's path must be as long as that of the run which found the operation, so that all counts agree.
    """
    effect = "signal=KILL" if fault == "KILL" else f"error={fault}"
    done, operations = run(program, folder, "-e", f"inject={operation.call}:{effect}:when={operation.number}")
    if fault == "KILL":
        assert done.returncode == -signal.SIGKILL
    else:
        assert any("(INJECTED)" in seen.arguments for seen in operations)
    return done


def unsynced_renames(operations):
    """Return every rename whose source was written and not synced before, or whose folder is not synced right after.

    Several renames into one folder, one right after the other, share the sync. "Right after" is the thread's own next
    operation: what another thread does in between may come anywhere.
    """
    dirty, broken = set(), []
    for at, operation in enumerate(operations):
        paths = _paths(operation)
        if operation.call in {"write", "pwrite64", "ftruncate"}:
            dirty.add(paths[0])
        elif operation.call == "fsync":
            dirty.discard(paths[0])
        elif operation.call.startswith("rename"):
            source, final = paths[-2:]
            folder = str(Path(final).parent)
            broken += [path for path in dirty if path == source or path.startswith(f"{source}/")]
            own = (o for o in operations[at + 1 :] if o.thread == operation.thread)
            following = next((o for o in own if not _moves_into(o, folder)), Operation(operation.thread, "exit", 1, ""))
            if (following.call, _paths(following)[:1]) != ("fsync", [folder]):
                broken.append(final)
    return broken


def _moves_into(operation, folder):
    return operation.call.startswith("rename") and str(Path(_paths(operation)[-1]).parent) == folder


def _paths(operation):
    return re.findall(r'["<](/[^">]*)[">]', operation.arguments)
