"""Lines of a log that are chained by hashes, so that a changed log is recognised.

Each line is one JSON document. It holds the SHA-256 of itself, and that of the line before, which the caller adds: any
damaged or edited line is detected, the last one included. Lines removed from the end are not. Bytes after the last
newline are the torn end of an interrupted write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Protocol, TypeVar

from mltrain.documents.records import REST, read_record, record, to_json
from mltrain.documents.strict_json import json_line, parse_json
from mltrain.documents.values import Json, Located, Sha256
from mltrain.errors import InputError
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


class Linked(Protocol):
    """A record of a line that holds the hash of the line before."""

    @property
    def prev_sha256(self) -> str | None:
        """SHA-256 of the line before; None in the first line."""


_L = TypeVar("_L", bound=Linked)


def read_chain(log: bytes, kind: type[_L], *, where: str) -> tuple[dict[int, _L], list[str]]:
    """Read a log of records as far as it can be read.

    Args:
        log: The log's bytes.
        kind: The type of the records.
        where: The log's name in messages, usually the path.

    Returns:
        The records by the number of their line, from 1; and the damage, one sentence each.
    """
    records: dict[int, _L] = {}
    problems: list[str] = []
    before = None
    for number, line in enumerate(split_lines(log)[0], start=1):
        place = f"{where}: line {number}"
        try:
            document, is_sealed = unseal_line(line, place)
            found = read_record(Located(document, place), kind)
        except InputError as err:
            problems.append(err.message)
        else:
            records[number] = found
            if found.prev_sha256 != before:
                problems.append(f"{place}: {BROKEN_CHAIN}")
            if not is_sealed:
                problems.append(f"{place}: {BROKEN_SEAL}")
        before = sha256_bytes(line)
    return records, problems


def split_lines(log: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines of a log, and the bytes after the last newline."""
    *lines, torn = log.split(b"\n")
    return lines, torn
