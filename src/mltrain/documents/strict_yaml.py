"""YAML: a strict parser that keeps the line of each value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mltrain.documents.values import (
    MAX_DEPTH,
    MAX_YAML_EVENTS,
    NOT_FINITE,
    TOO_DEEP,
    Located,
    Refused,
    decode_text,
    small_int,
    why_refused,
)
from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from yaml.events import Event, ScalarEvent

    from mltrain.documents.values import Json, Place

# YAML 1.2's core schema without what is ambiguous (007, 0x1F, 1_000 stay text), so `no`, `on` and dates are text.
_YAML_WORDS: Final[Mapping[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_YAML_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_YAML_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_YAML_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF|nan|NaN|NAN)")


def parse_yaml(data: bytes, *, where: str, max_bytes: int = 1 << 20) -> Located:
    """Parse a YAML document of plain JSON types, with the line of each value.

    Scalars are read by YAML 1.2's core schema: `no`, `on` and dates are text.

    Args:
        data: The document, UTF-8.
        where: Its name in messages, usually the path.
        max_bytes: Largest size of the document.

    Raises:
        InputError: It is too large or too deep, has too many values, is not UTF-8 or not YAML, or holds more than one
            document, an anchor, an alias, a tag, a duplicate key, a key that is not text, a number that is not finite
            or has more than 64 bits, or a lone surrogate. The message gives the line.

    >>> parse_yaml(b"a: [1, no]", where="demo").value
    {'a': [1, 'no']}
    """
    import yaml

    text = decode_text(data, where, max_bytes)
    try:
        return _YamlReader(yaml.parse(text, Loader=yaml.SafeLoader), where).read()
    except yaml.MarkedYAMLError as err:
        place = f" line {err.problem_mark.line + 1}, column {err.problem_mark.column + 1}:" if err.problem_mark else ""
        raise InputError(f"{where}:{place} not YAML: {err.problem or err.context}") from err
    # ValueError: \U00110000, %YAML 1.<5,000 digits>.
    except (yaml.YAMLError, ValueError) as err:
        raise InputError(f"{where}: not YAML: {show(str(err))}") from err


class _YamlReader:
    """Builds the value from PyYAML's events as they come, so that a refused document is not parsed to its end."""

    def __init__(self, events: Iterator[Event], where: str) -> None:
        self._events = events
        self._where = where
        self._count = 0
        self._lines: dict[Place, int] = {}

    def read(self) -> Located:
        from yaml.events import DocumentStartEvent, StreamEndEvent

        # The start of the stream.
        self._next()
        event = self._next()
        value: Json = None
        if isinstance(event, DocumentStartEvent):
            value = self._value(self._next(), ())
            # The end of the document.
            self._next()
            event = self._next()
        if not isinstance(event, StreamEndEvent):
            raise self._refuse(event, "a second document begins")
        return Located(value, self._where, self._lines)

    def _next(self) -> Event:
        event = next(self._events)
        self._count += 1
        if self._count > MAX_YAML_EVENTS:
            raise self._refuse(event, f"more than {MAX_YAML_EVENTS} values and brackets")
        return event

    def _value(self, event: Event, place: Place) -> Json:
        from yaml.events import MappingStartEvent, ScalarEvent

        self._lines.setdefault(place, _line(event))
        if len(place) > MAX_DEPTH:
            raise self._refuse(event, TOO_DEEP)
        self._check_plain(event)
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        return self._mapping(place) if isinstance(event, MappingStartEvent) else self._sequence(place)

    def _check_plain(self, event: Event) -> None:
        from yaml.events import CollectionStartEvent, NodeEvent, ScalarEvent

        # An alias has an anchor too.
        if isinstance(event, NodeEvent) and event.anchor is not None:
            raise self._refuse(event, "anchors and aliases are not allowed: write the value out")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise self._refuse(event, f"the tag {show(event.tag)} is not allowed")

    def _mapping(self, place: Place) -> dict[str, Json]:
        from yaml.events import MappingEndEvent

        found: dict[str, Json] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._key(event)
            if key in found:
                raise self._refuse(event, f"the key {show(key)} is here and in line {self._lines[*place, key]}")
            self._lines[*place, key] = _line(event)
            found[key] = self._value(self._next(), (*place, key))
        return found

    def _key(self, event: Event) -> str:
        from yaml.events import ScalarEvent

        self._check_plain(event)
        key = self._scalar(event) if isinstance(event, ScalarEvent) else None
        if not isinstance(key, str):
            raise self._refuse(event, "this key is not text: put it in quotes")
        return key

    def _sequence(self, place: Place) -> list[Json]:
        from yaml.events import SequenceEndEvent

        found: list[Json] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            found.append(self._value(event, (*place, len(found))))
        return found

    def _scalar(self, event: ScalarEvent) -> Json:
        value: Json | Refused = _plain_scalar(event.value) if event.style is None else event.value
        why = why_refused(value)
        if isinstance(value, Refused) or why is not None:
            raise self._refuse(event, f"{show(event.value)} {why}")
        return value

    def _refuse(self, event: Event, why: str) -> InputError:
        return InputError(f"{self._where}: line {_line(event)}: {why}")


def _line(event: Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _plain_scalar(text: str) -> bool | int | float | str | Refused | None:
    if text in _YAML_WORDS:
        return _YAML_WORDS[text]
    if _YAML_INT.fullmatch(text):
        return small_int(text)
    if _YAML_FLOAT.fullmatch(text):
        return float(text)
    return Refused(NOT_FINITE) if _YAML_NOT_FINITE.fullmatch(text) else text
