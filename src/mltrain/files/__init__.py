"""The disk edge: every byte that must survive a crash is written here, and every untrusted file is opened here.

Writing: a hidden temp name in the same folder, fsync, rename, fsync of the folder, so that a reader (or the machine
after a power cut) sees the old state or the new one and nothing between. Temp names are made and swept only by
whoever holds the lock of their folder, and are never trusted. Reading: no symbolic link is followed, nothing but a
regular file is opened, none is read beyond the size its caller names.

This is the one room that renames, links or locks. What the operating system refuses becomes a MachineError, what
lies on the disk and should not an InputError; no OSError leaves.
"""

from __future__ import annotations

from mltrain.files.edge import TEMP_SUFFIX, disk_edge, note_temp, real_path, sha256_bytes
from mltrain.files.folders import Stage, make_folder, remove_folder, staged_folder, staging, sweep_temps
from mltrain.files.locks import hold_folder, hold_lock
from mltrain.files.reading import hash_file, read_file, read_pointer
from mltrain.files.writing import (
    append_line,
    append_lines,
    atomic_write,
    atomic_write_all,
    place_pointer,
    swap_pointer,
    write_new,
    write_outputs,
)

__all__ = [
    "TEMP_SUFFIX",
    "Stage",
    "append_line",
    "append_lines",
    "atomic_write",
    "atomic_write_all",
    "disk_edge",
    "hash_file",
    "hold_folder",
    "hold_lock",
    "make_folder",
    "note_temp",
    "place_pointer",
    "read_file",
    "read_pointer",
    "real_path",
    "remove_folder",
    "sha256_bytes",
    "staged_folder",
    "staging",
    "swap_pointer",
    "sweep_temps",
    "write_new",
    "write_outputs",
]
