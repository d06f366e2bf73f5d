"""JSON: a strict parser, and two canonical forms: one readable, one a line."""

from __future__ import annotations

import json
from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING

from mltrain.documents.values import (
    MAX_DEPTH,
    MAX_INT,
    MAX_VALUES,
    NOT_UNICODE,
    TOO_DEEP,
    Refused,
    decode_text,
    find_problem,
    format_place,
    is_unicode,
    parse_integer,
)
from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from mltrain.documents.values import Json, Place


def parse_json(data: bytes, *, where: str, max_bytes: int = 16 << 20) -> Json:
    """Parse a JSON document, refusing everything that parsers read differently.

    Args:
        data: The document, UTF-8.
        where: The document's name in messages, usually the path.
        max_bytes: Largest size of the document.

    Raises:
        InputError: The document is too large or too deep, has too many values, is not UTF-8 or not JSON, or holds a
            duplicate key, NaN, an infinite number, an integer of more than 64 bits or a lone surrogate. The message
            gives line and column, or the place of the value.

    >>> parse_json(b'{"a": [1, 2.5, null]}', where="demo")
    {'a': [1, 2.5, None]}
    """
    text = decode_text(data, where, max_bytes)
    if text.count(",") > MAX_VALUES:
        raise InputError(f"{where}: holds more than {MAX_VALUES} values")
    try:
        value = json.loads(text, object_pairs_hook=_read_object, parse_int=parse_integer)
    except json.JSONDecodeError as err:
        raise InputError(f"{where}: line {err.lineno}, column {err.colno}: not JSON: {err.msg}") from err
    except RecursionError as err:
        raise InputError(f"{where}: {TOO_DEEP}") from err
    _check_value(value, (), where)
    checked: Json = value
    return checked


def _read_object(pairs: list[tuple[str, object]]) -> dict[str, object] | Refused:
    """Return the keys and values of a JSON object as a dict; `Refused` if a key occurs twice."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
    return Refused(f"has the key {show(repeated)} twice")


def _check_value(value: object, place: Place, where: str) -> None:
    """Raise an InputError for the first invalid value or key in the part of a document at `place`."""
    problem = find_problem(value) if len(place) <= MAX_DEPTH else TOO_DEEP
    if problem is not None:
        raise InputError(f"{where}: {format_place(place) or 'the document'} {problem}")
    # The items of the deepest level go the long way, to be refused.
    is_deepest = len(place) == MAX_DEPTH
    if isinstance(value, dict):
        for key, item in value.items():
            if not key.isascii() and not is_unicode(key):
                raise InputError(f"{where}: the key {show(key)} {NOT_UNICODE}")
            if is_deepest or not _is_plain(item):
                _check_value(item, (*place, key), where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if is_deepest or not _is_plain(item):
                _check_value(item, (*place, index), where)


def _is_plain(value: object) -> bool:
    """Return whether a value is one of those that most documents consist of, which are valid: a short way for them."""
    kind = type(value)
    return (
        (kind is float and isfinite(value))  # type: ignore[arg-type]
        or (kind is str and value.isascii())  # type: ignore[attr-defined]
        or (kind is int and -MAX_INT <= value < MAX_INT)  # type: ignore[operator]
        or kind is bool
        or value is None
    )


def canonical_json(value: Json) -> bytes:
    r"""Return the canonical, readable form of a document: sorted keys, indent 1, UTF-8, a newline at the end.

    Equal values give equal bytes, and `parse_json` of them gives the value back.

    Raises:
        ValueError: The document holds NaN, an infinite number, a key that is not text or a lone surrogate.
        TypeError: It holds a value of a type that JSON does not have.

    >>> canonical_json({"b": 1, "a": [True]})
    b'{\n "a": [\n  true\n ],\n "b": 1\n}\n'
    """
    _refuse_other_keys(value)
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def json_line(value: Json) -> str:
    """Return the canonical form of a document as a line of a log: sorted keys, no spaces, ASCII, no newline.

    Errors are those of `canonical_json`, but a lone surrogate is escaped.

    >>> json_line({"b": 1, "a": [True]})
    '{"a":[true],"b":1}'
    """
    _refuse_other_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_other_keys(value: object) -> None:
    """Raise a ValueError if a key in a document is not text: json.dumps would turn 1 into "1", None into "null"."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not text")  # noqa: TRY004 (a wrong value, like NaN)
            _refuse_other_keys(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_other_keys(item)
