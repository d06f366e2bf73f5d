"""Values of a document, their limits, and the places in it; shared by the readers of JSON, YAML and records."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
# Keys and indices from the root of a document to a value.
Place: TypeAlias = tuple[str | int, ...]

MAX_DEPTH: Final = 64
# 16 MB of "[],[],..." would otherwise become half a gigabyte of lists.
MAX_VALUES: Final = 1_000_000
# Some seconds of parsing; the feature registry has a few hundred.
MAX_YAML_EVENTS: Final = 50_000
# Integers lie in [-MAX_INT, MAX_INT): every reader of JSON can hold them.
MAX_INT: Final = 2**63
# An integer with more characters is not converted: that would take quadratic time.
_MAX_INT_DIGITS: Final = 20

_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

# A SHA-256 as it is written, in lower-case hexadecimal.
SHA256: Final = re.compile(r"[0-9a-f]{64}")
Sha256: TypeAlias = Annotated[str, SHA256]

NOT_FINITE: Final = "is not a finite number"
NOT_64_BITS: Final = "is an integer of more than 64 bits"
NOT_UNICODE: Final = "holds half of a surrogate pair, which is not text"
TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} levels deep"


@dataclass(frozen=True, slots=True)
class Located:
    """A parsed document, and the line of each value.

    Attributes:
        value: The document.
        where: The document's name in messages, usually the path.
        lines: The line of each value, counted from 1, by its place; empty if lines are unknown.
    """

    value: Json
    where: str
    lines: Mapping[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands for an invalid value in a parsed document until its place is known; messages give `problem`."""

    problem: str


def decode_text(data: bytes, where: str, max_bytes: int) -> str:
    """Return the text of a document called `where` in messages.

    Raises:
        InputError: The document has more than `max_bytes` bytes, is not UTF-8, or begins with a byte order mark.
    """
    if len(data) > max_bytes:
        raise InputError(f"{where}: is too large: {len(data)} bytes, at most {max_bytes}")
    if data.startswith(_BYTE_ORDER_MARKS):
        raise InputError(f"{where}: begins with a byte order mark", hint="save it as UTF-8 without a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise InputError(f"{where}: line {line}: not UTF-8: {err.reason}") from err


def parse_integer(digits: str) -> int | Refused:
    """Return a text of digits, with or without a sign, as an integer; `Refused` if it is longer than 20 characters."""
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else Refused(NOT_64_BITS)


def find_problem(value: object) -> str | None:
    """Return what is wrong with a value, not with its items, such as "is not a finite number"; None if it is valid."""
    match value:
        case Refused():
            return value.problem
        case float() if not math.isfinite(value):
            return NOT_FINITE
        case int() if not -MAX_INT <= value < MAX_INT:
            return NOT_64_BITS
        case str() if not is_unicode(value):
            return NOT_UNICODE
    return None


def is_unicode(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8, which half of a surrogate pair cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def format_place(place: Place) -> str:
    """Return the place of a value in a document as messages write it.

    >>> format_place(("gates", 2, "value"))
    'gates[2].value'
    """
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            name = step if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", step) else show(step)
            text += f".{name}" if text else name
    return text
