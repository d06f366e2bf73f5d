"""SHA-256 of bytes and of files, in lower-case hexadecimal."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from mltrain.storage.descriptors import CHUNK_BYTES, opened_for_reading

if TYPE_CHECKING:
    from pathlib import Path


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path, *, max_bytes: int, what: str) -> str:
    """Return the SHA-256 of a regular file of at most `max_bytes` bytes in lower-case hexadecimal.

    Memory use is constant. `what` is the file's role, such as "the manifest", with which messages begin.
    """
    digest = hashlib.sha256()
    with opened_for_reading(path, max_bytes, what) as fd:
        while part := os.read(fd, CHUNK_BYTES):
            digest.update(part)
    return digest.hexdigest()
