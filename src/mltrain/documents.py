"""The strict doors: bytes of JSON or YAML come in, plain values go out, or one error says what is wrong and where.

Both doors refuse whatever two readers could read differently (duplicate keys, NaN, integers beyond 64 bits, lone
surrogates, byte order marks) and whatever is built to hurt the reader (size, depth, number of values, aliases, tags).
What passes is made of None, bool, int, finite float, str, list and dict with str keys, nothing else. `Fields` then
reads a mapping strictly: every violation is collected, and one error names them all.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, final

from mltrain.errors import InputError
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from yaml.events import Event, ScalarEvent

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Place: TypeAlias = tuple[str | int, ...]  # keys and indices from the root of a document to a value

MAX_DEPTH: Final = 64
MAX_VALUES: Final = 1_000_000  # 16 MB of "[],[],..." would otherwise become half a gigabyte of lists
MAX_YAML_EVENTS: Final = 50_000  # some seconds of parsing; the registry of features has a few hundred
MAX_INT: Final = 2**63  # integers lie in [-MAX_INT, MAX_INT): what every reader of JSON can hold
_MAX_INT_DIGITS: Final = 20  # more are not even converted: that takes quadratic time

_BYTE_ORDER_MARKS: Final = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")

# YAML 1.2's core schema without what is ambiguous (007, 0x1F, 1_000 stay text), so `no`, `on` and dates are text.
_YAML_WORDS: Final[Mapping[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_YAML_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_YAML_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_YAML_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF|nan|NaN|NAN)")

_NOT_FINITE: Final = "is not a finite number"
_NOT_64_BITS: Final = "is an integer of more than 64 bits"
_NOT_UNICODE: Final = "holds half of a surrogate pair, which is not text"
_TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} levels deep"

D = TypeVar("D")
T = TypeVar("T")


@final
class Missing:
    """The type of `MISSING`: no default, the key has to be there."""


MISSING: Final = Missing()


@dataclass(frozen=True, slots=True)
class Located:
    """A document that passed its door, and where its values stand.

    Attributes:
        value: The document.
        where: Its name in messages, usually the path.
        lines: The line of each value, by its place, counted from 1; without lines where they are not known.
    """

    value: Json
    where: str
    lines: Mapping[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands in a parsed document for a value that must not pass, until its place is known."""

    why: str


def parse_json(data: bytes, *, where: str, max_bytes: int = 16 << 20) -> Json:
    """Return the value of a JSON document that every reader would read alike.

    Args:
        data: The document, UTF-8.
        where: Its name in messages, usually the path.
        max_bytes: The most that it may hold.

    Raises:
        InputError: It is too large or too deep, has too many values, is not UTF-8 or not JSON, or holds a duplicate
            key, NaN, an infinite number, an integer of more than 64 bits or a lone surrogate; with line and column or
            with the place.

    >>> parse_json(b'{"a": [1, 2.5, null]}', where="demo")
    {'a': [1, 2.5, None]}
    """
    text = _decode(data, where, max_bytes)
    if text.count(",") > MAX_VALUES:
        raise InputError(f"{where}: holds more than {MAX_VALUES} values")
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_int=_small_int)
    except json.JSONDecodeError as err:
        raise InputError(f"{where}: line {err.lineno}, column {err.colno}: not JSON: {err.msg}") from err
    except RecursionError as err:
        raise InputError(f"{where}: {_TOO_DEEP}") from err
    _check_value(value, (), where)
    checked: Json = value
    return checked


def _decode(data: bytes, where: str, max_bytes: int) -> str:
    if len(data) > max_bytes:
        raise InputError(f"{where}: is too large: {len(data)} bytes, at most {max_bytes}")
    if data.startswith(_BYTE_ORDER_MARKS):
        raise InputError(f"{where}: begins with a byte order mark", hint="save it as UTF-8 without a byte order mark")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as err:
        line = data.count(b"\n", 0, err.start) + 1
        raise InputError(f"{where}: line {line}: not UTF-8: {err.reason}") from err


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object] | _Refused:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return _Refused(f"has the key {show(twice)} twice")


def _small_int(digits: str) -> int | _Refused:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else _Refused(_NOT_64_BITS)


def _check_value(value: object, place: Place, where: str) -> None:
    why = _why_refused(value) if len(place) <= MAX_DEPTH else _TOO_DEEP
    if why is not None:
        raise InputError(f"{where}: {_spell(place) or 'the document'} {why}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not _is_unicode(key):
                raise InputError(f"{where}: the key {show(key)} {_NOT_UNICODE}")
            _check_value(item, (*place, key), where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_value(item, (*place, index), where)


def _why_refused(value: object) -> str | None:
    match value:
        case _Refused():
            return value.why
        case float() if not math.isfinite(value):
            return _NOT_FINITE
        case int() if not -MAX_INT <= value < MAX_INT:
            return _NOT_64_BITS
        case str() if not _is_unicode(value):
            return _NOT_UNICODE
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _spell(place: Place) -> str:
    """Return a place as people write it.

    >>> _spell(("gates", 2, "value"))
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


def canonical_json(value: Json) -> bytes:
    r"""Return the one readable form of a document: keys sorted, one space of indent, UTF-8, a newline at the end.

    Equal values give equal bytes, and `parse_json` of them gives the value back.

    Raises:
        ValueError: It holds NaN, an infinite number, a key that is not text or a lone surrogate.
        TypeError: It holds something that JSON does not know.

    >>> canonical_json({"b": 1, "a": [True]})
    b'{\n "a": [\n  true\n ],\n "b": 1\n}\n'
    """
    _refuse_other_keys(value)
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def json_line(value: Json) -> str:
    """Return the one form of a document as a line of a log: keys sorted, no spaces, ASCII, no newline.

    Raises:
        ValueError: It holds NaN, an infinite number or a key that is not text.
        TypeError: It holds something that JSON does not know.

    >>> json_line({"b": 1, "a": [True]})
    '{"a":[true],"b":1}'
    """
    _refuse_other_keys(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _refuse_other_keys(value: object) -> None:
    # json.dumps would turn 1 and None into "1" and "null", and read back they would be other keys.
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is not text")  # noqa: TRY004 (a wrong value, like NaN)
            _refuse_other_keys(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_other_keys(item)


def parse_yaml(data: bytes, *, where: str, max_bytes: int = 1 << 20) -> Located:
    """Return the value of a YAML document of plain JSON types, with the line of each value.

    Scalars are read by YAML 1.2's core schema: `no`, `on` and dates are text.

    Args:
        data: The document, UTF-8.
        where: Its name in messages, usually the path.
        max_bytes: The most that it may hold.

    Raises:
        InputError: It is too large or too deep, has too many values, is not UTF-8 or not YAML, or holds more than one
            document, an anchor, an alias, a tag, a duplicate key, a key that is not text, a number that is not finite
            or has more than 64 bits, or a lone surrogate; with the line.

    >>> parse_yaml(b"a: [1, no]", where="demo").value
    {'a': [1, 'no']}
    """
    import yaml

    text = _decode(data, where, max_bytes)
    try:
        return _YamlReader(yaml.parse(text, Loader=yaml.SafeLoader), where).read()
    except yaml.MarkedYAMLError as err:
        place = f" line {err.problem_mark.line + 1}, column {err.problem_mark.column + 1}:" if err.problem_mark else ""
        raise InputError(f"{where}:{place} not YAML: {err.problem or err.context}") from err
    except (yaml.YAMLError, ValueError) as err:  # ValueError: \U00110000, %YAML 1.<5,000 digits>
        raise InputError(f"{where}: not YAML: {show(str(err))}") from err


class _YamlReader:
    """Builds the value from PyYAML's events, which come one by one: what is refused is never parsed to its end."""

    def __init__(self, events: Iterator[Event], where: str) -> None:
        self._events = events
        self._where = where
        self._count = 0
        self._lines: dict[Place, int] = {}

    def read(self) -> Located:
        from yaml.events import DocumentStartEvent, StreamEndEvent

        self._next()  # the stream's start
        event = self._next()
        value: Json = None
        if isinstance(event, DocumentStartEvent):
            value = self._value(self._next(), ())
            self._next()  # the document's end
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
            raise self._refuse(event, _TOO_DEEP)
        self._check_plain(event)
        if isinstance(event, ScalarEvent):
            return self._scalar(event)
        return self._mapping(place) if isinstance(event, MappingStartEvent) else self._sequence(place)

    def _check_plain(self, event: Event) -> None:
        from yaml.events import CollectionStartEvent, NodeEvent, ScalarEvent

        if isinstance(event, NodeEvent) and event.anchor is not None:  # an alias has one, too
            raise self._refuse(event, "anchors and aliases are not allowed: write the value out")
        if isinstance(event, ScalarEvent | CollectionStartEvent) and event.tag is not None:
            raise self._refuse(event, f"the tag {show(event.tag)} is not allowed")

    def _mapping(self, place: Place) -> dict[str, Json]:
        from yaml.events import MappingEndEvent

        found: dict[str, Json] = {}
        while not isinstance(event := self._next(), MappingEndEvent):
            key = self._key(event)
            if key in found:
                raise self._refuse(event, f"the key {show(key)} stands here and in line {self._lines[*place, key]}")
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
        value: Json | _Refused = _plain_scalar(event.value) if event.style is None else event.value
        why = _why_refused(value)
        if isinstance(value, _Refused) or why is not None:
            raise self._refuse(event, f"{show(event.value)} {why}")
        return value

    def _refuse(self, event: Event, why: str) -> InputError:
        return InputError(f"{self._where}: line {_line(event)}: {why}")


def _line(event: Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _plain_scalar(text: str) -> bool | int | float | str | _Refused | None:
    if text in _YAML_WORDS:
        return _YAML_WORDS[text]
    if _YAML_INT.fullmatch(text):
        return _small_int(text)
    if _YAML_FLOAT.fullmatch(text):
        return float(text)
    return _Refused(_NOT_FINITE) if _YAML_NOT_FINITE.fullmatch(text) else text


@dataclass(frozen=True, slots=True)
class _Findings:
    """What the readers of one document share."""

    where: str
    lines: Mapping[Place, int]
    problems: list[str]
    closers: list[Callable[[], None]]

    def add(self, place: Place, message: str) -> None:
        line = f" (line {self.lines[place]})" if place in self.lines else ""
        field_and_line = f" {_spell(place)}{line}:" if place else ""
        self.problems.append(f"{self.where}:{field_and_line} {message}")


class Fields:
    """Reads one mapping strictly; nested readers share the list of violations, which `finish` on the root raises.

    A getter that meets a violation records it and returns a harmless value of its type, so that reading goes on. A
    getter with a default returns it where the key is absent; where the default is None, also where the value is null.

    Args:
        located: The document, or the part of one that this reads.
        place: Where in the document it stands; for nested readers only.
        findings: What the readers of the document share; for nested readers only.

    Raises:
        InputError: The document is not a mapping.
    """

    def __init__(self, located: Located, *, place: Place = (), findings: _Findings | None = None) -> None:
        self._located = located
        self._place = place
        self._known: set[str] = set()
        if not isinstance(located.value, dict) and findings is None:
            raise InputError(f"{located.where}: must be a mapping, is {_describe(located.value)}")
        self._findings = findings or _Findings(located.where, located.lines, [], [])
        self._findings.closers.append(self._refuse_unknown_keys)
        # A nested value that is no mapping was reported by whoever made this reader: all its keys read as harmless.
        self._sound = isinstance(located.value, dict)
        self.value: dict[str, Json] = located.value if isinstance(located.value, dict) else {}

    def keys(self) -> list[str]:
        """Return the keys in the document's order."""
        return list(self.value)

    def problem(self, key: str | None, message: str) -> None:
        """Record a violation of the value at `key`, or of this mapping itself where `key` is None."""
        self._findings.add(self._place if key is None else (*self._place, key), message)

    def raw(self, key: str, *, default: D | Missing = MISSING) -> Json | D:
        """Return the value at `key` whatever it is."""
        return self._read(key, default, lambda value: value, harmless=None)

    def text(
        self,
        key: str,
        *,
        choices: Sequence[str] | None = None,
        pattern: re.Pattern[str] | None = None,
        default: D | Missing = MISSING,
    ) -> str | D:
        """Return a text, where asked one of `choices` or one that `pattern` matches whole."""
        check = partial(_check_text, choices=choices, pattern=pattern)
        return self._read(key, default, check, harmless=choices[0] if choices else "")

    def integer(
        self, key: str, *, minimum: int | None = None, maximum: int | None = None, default: D | Missing = MISSING
    ) -> int | D:
        """Return an integer from `minimum` to `maximum`, both included."""
        check = partial(_check_integer, minimum=minimum, maximum=maximum)
        return self._read(key, default, check, harmless=minimum or 0)

    def number(
        self, key: str, *, minimum: float | None = None, maximum: float | None = None, default: D | Missing = MISSING
    ) -> float | D:
        """Return a finite number from `minimum` to `maximum`, both included."""
        check = partial(_check_number, minimum=minimum, maximum=maximum)
        return self._read(key, default, check, harmless=float(minimum or 0))

    def flag(self, key: str, *, default: D | Missing = MISSING) -> bool | D:
        """Return true or false."""
        return self._read(key, default, _check_flag, harmless=False)

    def texts(
        self, key: str, *, pattern: re.Pattern[str] | None = None, default: D | Missing = MISSING
    ) -> list[str] | D:
        """Return a list of texts, where asked such as `pattern` matches whole."""
        check = partial(_check_each, check=partial(_check_text, pattern=pattern))
        return self._read(key, default, check, harmless=list[str]())

    def numbers(self, key: str, *, default: D | Missing = MISSING) -> list[float] | D:
        """Return a list of finite numbers."""
        return self._read(key, default, partial(_check_each, check=_check_number), harmless=list[float]())

    def fields(self, key: str) -> Fields:
        """Return the reader of a nested mapping."""
        return self._nested(self._read(key, MISSING, _check_mapping, harmless=None), key)

    def items(self, key: str, *, default: D | Missing = MISSING) -> list[Fields] | D:
        """Return the readers of a list of mappings."""
        found = self._read(key, default, partial(_check_each, check=_check_mapping), harmless=list[Json]())
        if not isinstance(found, list):
            return found
        return [self._nested(item, key, index) for index, item in enumerate(found)]

    def finish(self) -> None:
        """End the reading of the whole document; called once, on the root.

        Raises:
            InputError: There were violations, or keys that no reader asked for; it names every one.
        """
        for close in self._findings.closers:
            close()
        if self._findings.problems:
            raise InputError("\n".join(self._findings.problems))

    def _nested(self, value: Json, *steps: str | int) -> Fields:
        located = Located(value, self._findings.where, self._findings.lines)
        return Fields(located, place=(*self._place, *steps), findings=self._findings)

    def _refuse_unknown_keys(self) -> None:
        for key in self.value:
            if key not in self._known:
                guess = did_you_mean(key, self._known)
                self.problem(key, "unknown key" + (f"; {guess}" if guess else ""))

    def _read(self, key: str, default: D | Missing, check: Callable[[Json], T | _Refused], *, harmless: T) -> T | D:
        self._known.add(key)
        if key not in self.value:
            if not isinstance(default, Missing):
                return default
            if self._sound:
                self.problem(key, "is missing")
            return harmless
        value = self.value[key]
        if value is None and default is None:
            return default
        checked = check(value)
        if isinstance(checked, _Refused):
            self.problem(key, checked.why)
            return harmless
        return checked


def _describe(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case str():
            return f"the text {show(value)}"
        case list():
            return "a list"
    return "a mapping"


def _must_be(what: str, value: Json) -> _Refused:
    return _Refused(f"must be {what}, is {_describe(value)}")


def _check_text(
    value: Json, *, choices: Sequence[str] | None = None, pattern: re.Pattern[str] | None = None
) -> str | _Refused:
    if not isinstance(value, str):
        return _must_be("a text", value)
    if choices is not None and value not in choices:
        guess = did_you_mean(value, choices)
        return _Refused(f"{show(value)} is unknown" + (f"; {guess}" if guess else ""))
    if pattern is not None and pattern.fullmatch(value) is None:
        return _Refused(f"{show(value)} does not have the form {pattern.pattern}")
    return value


def _check_integer(value: Json, *, minimum: int | None, maximum: int | None) -> int | _Refused:
    if not isinstance(value, int) or isinstance(value, bool):
        return _must_be("an integer", value)
    return _out_of_range(value, minimum, maximum) or value


def _check_number(value: Json, *, minimum: float | None = None, maximum: float | None = None) -> float | _Refused:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return _must_be("a finite number", value)
    return _out_of_range(value, minimum, maximum) or float(value)


def _out_of_range(value: float, minimum: float | None, maximum: float | None) -> _Refused | None:
    if minimum is not None and value < minimum:
        return _Refused(f"must be at least {minimum}, is {value}")
    if maximum is not None and value > maximum:
        return _Refused(f"must be at most {maximum}, is {value}")
    return None


def _check_flag(value: Json) -> bool | _Refused:
    return value if isinstance(value, bool) else _must_be("true or false", value)


def _check_mapping(value: Json) -> Json | _Refused:
    return value if isinstance(value, dict) else _must_be("a mapping", value)


def _check_each(value: Json, *, check: Callable[[Json], T | _Refused]) -> list[T] | _Refused:
    if not isinstance(value, list):
        return _must_be("a list", value)
    found = []
    for index, item in enumerate(value):
        checked = check(item)
        if isinstance(checked, _Refused):
            return _Refused(f"item {index} {checked.why}")
        found.append(checked)
    return found
