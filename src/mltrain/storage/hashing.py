"""SHA-256 of bytes and of files, in lower-case hexadecimal."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from mltrain.storage.descriptors import CHUNK_BYTES, opened_for_reading

if TYPE_CHECKING:
    from pathlib import Path


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path, *, max_bytes: int, what: str) -> str:
    """Return the SHA-256 of a regular file, in constant memory.

    Args:
        path: The file. A symbolic link in its last part is refused.
        max_bytes: Largest size of the file; bytes beyond are not read.
        what: The file's role: begins the message.

    Raises:
        InputError: It is missing, not a regular file, or too large.
        MachineError: The machine refuses to read it.
    """
    digest = hashlib.sha256()
    with opened_for_reading(path, max_bytes, what) as fd:
        while part := os.read(fd, CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()
