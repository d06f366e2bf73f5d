"""The machine that a process runs on: processors, memory, and the processor's name."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path


def available_cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int | None:
    """Return the memory that this process and its children may still use, in bytes; None if the system does not say."""
    limits_bytes = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = meminfo.read_text("ascii", errors="replace").splitlines()
        limits_bytes += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    # OSError: this is not a control group; ValueError: the limit is the word "max".
    with suppress(OSError, ValueError):
        limits_bytes.append(max(0, int(limit.read_text("ascii")) - int(used.read_text("ascii"))))
    return min(limits_bytes, default=None)


def cpu_name() -> str:
    """Return the processor's name; the architecture if the system does not report a name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
