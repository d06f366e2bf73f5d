"""Lines of a log that are chained by hashes, so that a changed log is recognised.

Each line is one JSON document. It holds the SHA-256 of itself, and that of the line before, which the caller adds: any
damaged or edited line is detected, the last one included. Lines removed from the end are not. Bytes after the last
newline are the torn end of an interrupted write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from mltrain.documents.records import REST, read_record, record, to_json
from mltrain.documents.strict_json import json_line, parse_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.storage.hashing import sha256_bytes

BROKEN_SEAL: Final = "does not match its own hash: it was changed after it was written"
BROKEN_CHAIN: Final = "does not continue the line before: the log was changed after it was written"

_MAX_LINE_BYTES: Final = 1 << 16


@record
@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a log: a document, and the hash of that document."""

    self_sha256: Sha256
    document: Annotated[Mapping[str, Json], REST]


def seal_line(document: Mapping[str, Json]) -> str:
    """Return the line, without a newline, that holds a document and its hash."""
    return json_line(to_json(_Line(sha256_bytes(json_line(dict(document)).encode()), document)))


def unseal_line(line: bytes, where: str) -> tuple[dict[str, Json], bool]:
    """Return a line's document, and whether the line is unchanged since it was written.

    Raises:
        InputError: The line is no document with a hash; the message calls it `where`.
    """
    found = read_record(Located(parse_json(line, where=where, max_bytes=_MAX_LINE_BYTES), where), _Line)
    document = dict(found.document)
    return document, line == seal_line(document).encode()


def split_lines(log: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines of a log, and the bytes after the last newline."""
    *lines, torn = log.split(b"\n")
    return lines, torn
