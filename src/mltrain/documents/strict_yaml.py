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
    find_problem,
    parse_integer,
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
        where: The document's name in messages, usually the path.
        max_bytes: Largest size of the document.

    Raises:
        InputError: `data` is too large or too deep, has too many values, is not UTF-8 or not YAML, or holds more than
            one document, an anchor, an alias, a tag, a duplicate key, a key that is not text, a number that is not
            finite or has more than 64 bits, or a lone surrogate. The message gives the line.

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
    # PyYAML raises a ValueError for \U00110000 and for %YAML 1.<5,000 digits>.
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

        # The first event is the start of the stream.
        self._next()
        event = self._next()
        value: Json = None
        if isinstance(event, DocumentStartEvent):
            value = self._read_value(self._next(), ())
            # The end of the document.
            self._next()
            event = self._next()
        if not isinstance(event, StreamEndEvent):
            raise self._error(event, "a second document begins")
        return Located(value, self._where, self._lines)

    def _next(self) -> Event:
        """Return the next event; raise an InputError after too many."""
        event = next(self._events)
        self._count += 1
        if self._count > MAX_YAML_EVENTS:
            raise self._error(event, f"more than {MAX_YAML_EVENTS} values and brackets")
        return event

    def _read_value(self, event: Event, place: Place) -> Json:
        """Return the value that begins with an event, and note the lines of it and of all values in it."""
        from yaml.events import MappingStartEvent, ScalarEvent

        self._lines.setdefault(place, _line(event))
        if len(place) > MAX_DEPTH:
            raise self._error(event, TOO_DEEP)
        self._check_plain(event)
        if isinstance(event, ScalarEvent):
            return self._read_scalar(event)
        return self._read_mapping(place) if isinstance(event, MappingStartEvent) else self._read_sequence(place)

    def _check_plain(self, event: Event) -> None:
        """Raise an InputError for an anchor, an alias or a tag."""
        from yaml.events import CollectionStartEvent, NodeEvent, ScalarEvent

        # An alias has an anchor too.
        if isinstance(event, NodeEvent) and event.anchor is not None:
            raise self._error(event, "anchors and aliases are not allowed: write the value out")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise self._error(event, f"the tag {show(event.tag)} is not allowed")

    def _read_mapping(self, place: Place) -> dict[str, Json]:
        """Return the mapping at `place`, whose start event has been read."""
        from yaml.events import MappingEndEvent, ScalarEvent

        mapping: dict[str, Json] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            self._check_plain(event)
            key = self._read_scalar(event) if isinstance(event, ScalarEvent) else None
            if not isinstance(key, str):
                raise self._error(event, "this key is not text: put it in quotes")
            if key in mapping:
                raise self._error(event, f"the key {show(key)} is here and in line {self._lines[*place, key]}")
            self._lines[*place, key] = _line(event)
            mapping[key] = self._read_value(self._next(), (*place, key))
        return mapping

    def _read_sequence(self, place: Place) -> list[Json]:
        """Return the sequence at `place`, whose start event has been read."""
        from yaml.events import SequenceEndEvent

        items: list[Json] = []
        while not isinstance(event := self._next(), SequenceEndEvent):
            items.append(self._read_value(event, (*place, len(items))))
        return items

    def _read_scalar(self, event: ScalarEvent) -> Json:
        """Return the value of a scalar: text if it is in quotes, otherwise null, true, false, a number or text."""
        value: Json | Refused = _parse_unquoted(event.value) if event.style is None else event.value
        problem = find_problem(value)
        if isinstance(value, Refused) or problem is not None:
            raise self._error(event, f"{show(event.value)} {problem}")
        return value

    def _error(self, event: Event, message: str) -> InputError:
        return InputError(f"{self._where}: line {_line(event)}: {message}")


def _line(event: Event) -> int:
    """Return the line in which an event starts, counted from 1; 0 if it is unknown."""
    return event.start_mark.line + 1 if event.start_mark else 0


def _parse_unquoted(text: str) -> bool | int | float | str | Refused | None:
    """Return the value of an unquoted YAML scalar; `Refused` for a number that JSON cannot hold."""
    if text in _YAML_WORDS:
        return _YAML_WORDS[text]
    if _YAML_INT.fullmatch(text):
        return parse_integer(text)
    if _YAML_FLOAT.fullmatch(text):
        return float(text)
    return Refused(NOT_FINITE) if _YAML_NOT_FINITE.fullmatch(text) else text
