"""Processes of this machine that tests look for: workers, and those with a mark in their environment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def _running():
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # It may end while it is read, and a zombie has neither command line nor environment.
            with suppress(OSError):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), int(stat[1]), folder


def workers_of(parent=None):
    """Return the spawned workers of a process (None: of this one)."""
    found = []
    for pid, ppid, folder in _running():
        with suppress(OSError):
            if ppid == (parent or os.getpid()) and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(pid)
    return found


def marked(mark):
    """Return the processes that have a text in their environment."""
    found = []
    for pid, _, folder in _running():
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(pid)
    return found
