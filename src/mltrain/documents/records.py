"""Typed records: a frozen dataclass declares what a mapping holds, one function reads it, and one writes it.

    @record
    @dataclass(frozen=True, slots=True)
    class Folds:
        count: Annotated[int, Limits(2, 20)]
        start: Annotated[float, Limits(0.1, 0.9)]
        names: tuple[Annotated[str, FEATURE], ...] = ()

| annotation | in the document |
|---|---|
| `bool`, `int`, `float`, `str` | that type and no other; a `float` takes an integer too, and is finite |
| `Literal["a", "b"]`, `Annotated[str, OneOf(names)]` | one of these texts |
| `Annotated[str, re.compile(...)]` | a text that the pattern matches whole |
| `Annotated[T, Limits(low, high)]` | every number in it lies in this range |
| `tuple[T, ...]`, `tuple[T, T]`, `Mapping[str, T]` | a list of any length; of this length; a mapping with any keys |
| a record; `Annotated[a record, ROW]` | a mapping; a list of its values in the order of its fields |
| `T | None` | null too |
| `Annotated[T, Encoded(U, decode, encode)]` | a `U` that `decode` turns into a `T`, and `encode` back |
| `Annotated[Json, RAW]` | any value |
| `Annotated[Mapping[str, Json], REST]` | the keys that no other field has |

A key may be absent where its field has a default. A rule between fields belongs in `__post_init__` and raises
`RecordError`, so that a record built in code obeys it too. It is checked once each field by itself is valid.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, is_dataclass
from dataclasses import fields as dataclass_fields
from functools import cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    Protocol,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from mltrain.documents.values import spell
from mltrain.errors import InputError, MltrainError
from mltrain.names import did_you_mean, show
from mltrain.times import format_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from mltrain.documents.values import Json, Located, Place

T = TypeVar("T")

Violation: TypeAlias = "tuple[Place, str]"

#: Every class that `record` marks, for the test of them all.
RECORDS: Final[list[type]] = []


@dataclass(frozen=True, slots=True)
class Limits:
    """The range of a number, both ends included."""

    minimum: float = -math.inf
    maximum: float = math.inf


@dataclass(frozen=True, slots=True)
class OneOf:
    """The texts that a field may hold, where they are not known until run time."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value that a document holds in another form.

    Attributes:
        form: The annotation of that form.
        decode: From the form to the value; raises an MltrainError where there is no such value.
        encode: From the value to the form.
    """

    form: Any
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a field in the document, where it is not the field's name."""

    name: str


#: A value that is not looked into.
RAW: Final = "raw"
#: A field that holds all the keys which no other field has.
REST: Final = "rest"
#: A record that is written as a list of its values.
ROW: Final = "row"
#: A field that is left out of the document where it has its default.
OMIT_DEFAULT: Final = "omit default"
#: A field whose key the document must have although the field has a default.
REQUIRED: Final = "required"
#: A field with a default that is no part of the document.
DERIVED: Final = "derived"


class RecordError(InputError):
    """Values are missing, out of range or contradict each other.

    Attributes:
        violations: What is wrong, each with its place in the record.
    """

    def __init__(self, *violations: Violation, where: str = "", lines: Mapping[Place, int] | None = None) -> None:
        self.violations = violations
        parts = []
        for place, message in violations:
            line = f" (line {lines[place]})" if lines and place in lines else ""
            parts.append(": ".join(filter(None, (where, f"{spell(place)}{line}" if place else "", message))))
        super().__init__("\n".join(parts))


def record(cls: type[T]) -> type[T]:
    """Mark a frozen dataclass that `read_record` reads: its annotations are used at run time."""
    RECORDS.append(cls)
    return cls


#: A time, UTC, that is a text such as 2025-10-15T12:00:00Z in the document.
TimeMs: TypeAlias = Annotated[int, Encoded(str, parse_time, format_ms)]


def read_record(located: Located, cls: type[T]) -> T:
    """Return the record that a document holds.

    Raises:
        RecordError: A key is missing or unknown, or a value wrong; names every violation, with its line where known.
    """
    target: Callable[..., object] = cls
    found: Any = _Record.of(target, None).read(located.value)
    if isinstance(found, _Violations):
        raise RecordError(*found, where=located.where, lines=located.lines)
    read: T = found
    return read


def refuse_newer(located: Located, *, newest: int) -> None:
    """Refuse a document of a newer format, whatever else it holds.

    Raises:
        InputError: Its key `format` is above `newest`.
    """
    found = located.value.get("format") if isinstance(located.value, dict) else None
    if isinstance(found, int) and found > newest:
        raise InputError(
            f"{located.where}: has format {found}, written by a newer mltrain: expected at most {newest}",
            hint="upgrade mltrain",
        )


def read_arguments(value: Json, function: Callable[..., object]) -> dict[str, Any]:
    """Return the arguments of a function that a mapping holds, with the defaults of those that it does not hold.

    Raises:
        RecordError: A key is missing or unknown, or a value wrong.
    """
    form = _Record.of(function, None)
    found = form.read_fields(value)
    if isinstance(found, _Violations):
        raise RecordError(*found)
    return {field.name: found.get(field.name, field.default) for field in form.fields}


def to_json(value: object) -> dict[str, Json]:
    """Return a record as the mapping that `read_record` reads it from.

    Raises:
        ValueError: The other keys that it holds are not all others.
    """
    cls: Callable[..., object] = type(value)
    return _Record.of(cls, None).write(value)


class _Violations(list["Violation"]):
    """What a form returns instead of a value; places are relative to the value that it was given."""

    def add(self, step: str | int, found: object) -> None:
        """Add the violations that reading the value at `step` gave, if any."""
        if isinstance(found, _Violations):
            self += [((step, *place), message) for place, message in found]


# The forms below have no generated methods but `__init__`: all of them together would cost 5 ms at every start.
class _Form(Protocol):
    def read(self, value: Json) -> object:
        """Return the value, or the violations."""

    def write(self, value: Any) -> Json:  # noqa: ANN401 -- the type is that of the annotation
        """Return the value as a document holds it."""


class _Anything:
    """Any value, as it is."""

    def read(self, value: Json) -> object:
        return value

    def write(self, value: Any) -> Json:  # noqa: ANN401
        written: Json = value
        return written


@dataclass(eq=False, repr=False)
class _Scalar(_Anything):
    """A text, a number, or true and false."""

    kind: type
    limits: Limits | None = None
    pattern: re.Pattern[str] | None = None
    choices: tuple[str, ...] | None = None

    def read(self, value: Json) -> object:
        why = self._problem(value)
        if why is not None:
            return _Violations([((), why)])
        return float(value) if self.kind is float and isinstance(value, int) else value

    def takes(self, value: Json) -> bool:
        """Return whether the type is right."""
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))

    @property
    def expected(self) -> str:
        """What a value must be, for messages."""
        if self.choices is not None:
            return ", ".join(self.choices)
        noun = {str: "a text", int: "an integer", float: "a finite number", bool: "true or false"}[self.kind]
        return noun if self.limits is None else f"{noun} from {self.limits.minimum} to {self.limits.maximum}"

    def _problem(self, value: Json) -> str | None:
        if not self.takes(value):
            return _must_be(_Scalar(self.kind).expected, value)
        if isinstance(value, str):
            if self.choices is not None and value not in self.choices:
                guess = did_you_mean(value, self.choices)
                return f"{show(value)} is unknown" + (f"; {guess}" if guess else "")
            if self.pattern is not None and self.pattern.fullmatch(value) is None:
                return f"{show(value)} does not have the form {self.pattern.pattern}"
        elif self.limits is not None and isinstance(value, int | float):
            if value < self.limits.minimum:
                return f"must be at least {self.limits.minimum}, is {value}"
            if value > self.limits.maximum:
                return f"must be at most {self.limits.maximum}, is {value}"
        return None


@dataclass(eq=False, repr=False)
class _Either(_Anything):
    """One of several scalars of different types."""

    forms: tuple[_Scalar, ...]

    def read(self, value: Json) -> object:
        form = next((form for form in self.forms if form.takes(value)), self.forms[-1])
        found = form.read(value)
        if isinstance(found, _Violations) and isinstance(value, str):
            return _Violations([((), f"{show(value)} is unknown; known: {', '.join(f.expected for f in self.forms)}")])
        return found


@dataclass(eq=False, repr=False)
class _OrNull:
    form: _Form

    def read(self, value: Json) -> object:
        return None if value is None else self.form.read(value)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return None if value is None else self.form.write(value)


@dataclass(eq=False, repr=False)
class _List:
    item: _Form
    length: int | None

    def read(self, value: Json) -> object:
        if not isinstance(value, list):
            return _Violations([((), _must_be("a list", value))])
        if self.length not in {None, len(value)}:
            return _Violations([((), f"must be a list of {self.length} values, has {len(value)}")])
        found = [self.item.read(item) for item in value]
        bad = _Violations()
        for index, item in enumerate(found):
            bad.add(index, item)
        return bad or tuple(found)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return [self.item.write(item) for item in value]


@dataclass(eq=False, repr=False)
class _Mapping:
    item: _Form

    def read(self, value: Json) -> object:
        if not isinstance(value, dict):
            return _Violations([((), _must_be("a mapping", value))])
        found = {key: self.item.read(item) for key, item in value.items()}
        bad = _Violations()
        for key, item in found.items():
            bad.add(key, item)
        return bad or found

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return {key: self.item.write(item) for key, item in value.items()}


@dataclass(eq=False, repr=False)
class _Converted:
    form: _Form
    codec: Encoded

    def read(self, value: Json) -> object:
        found = self.form.read(value)
        return found if isinstance(found, _Violations) else _build(self.codec.decode, found)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return self.form.write(self.codec.encode(value))


@dataclass(eq=False, repr=False)
class _Field:
    name: str
    key: str
    form: _Form
    default: Any
    required: bool
    omit_default: bool


@dataclass(eq=False, repr=False)
class _Record:
    target: Callable[..., object]
    fields: tuple[_Field, ...]
    keys: frozenset[str]
    rest: str | None

    @classmethod
    @cache
    def of(cls, target: Callable[..., object], limits: Limits | None) -> _Record:
        """Return the form of a record, or of a function's arguments; `limits` hold for every number in it."""
        hints = get_type_hints(target, include_extras=True)
        factories = {f.name: f.default_factory for f in dataclass_fields(target)} if is_dataclass(target) else {}
        fields, rest = [], None
        for name, parameter in inspect.signature(target).parameters.items():
            notes = get_args(hints[name])[1:] if get_origin(hints[name]) is Annotated else ()
            if DERIVED in notes:
                continue
            if REST in notes:
                rest = name
                continue
            key = next((note.name for note in notes if isinstance(note, Key)), name)
            form = _form(hints[name], limits)
            required = REQUIRED in notes or parameter.default is inspect.Parameter.empty
            factory = factories.get(name, MISSING)
            default = parameter.default if factory is MISSING else factory()
            fields.append(_Field(name, key, form, default, required, OMIT_DEFAULT in notes))
        return cls(target, tuple(fields), frozenset(field.key for field in fields), rest)

    def read(self, value: Json) -> object:
        found = self.read_fields(value)
        return found if isinstance(found, _Violations) else _build(self.target, **found)

    def read_fields(self, value: Json) -> dict[str, Any] | _Violations:
        if not isinstance(value, dict):
            return _Violations([((), _must_be("a mapping", value))])
        found, bad = {}, _Violations()
        for field in self.fields:
            if field.key in value:
                found[field.name] = field.form.read(value[field.key])
                bad.add(field.key, found[field.name])
            elif field.required:
                bad.append(((field.key,), "is missing"))
        others = {key: item for key, item in value.items() if key not in self.keys}
        if self.rest is not None:
            found[self.rest] = others
        else:
            for key in others:
                guess = did_you_mean(key, self.keys)
                bad.append(((key,), "unknown key" + (f"; {guess}" if guess else "")))
        return bad or found

    def write(self, value: Any) -> dict[str, Json]:  # noqa: ANN401
        written = {
            field.key: field.form.write(item)
            for field in self.fields
            if (item := getattr(value, field.name)) != field.default or not field.omit_default
        }
        others = {} if self.rest is None else getattr(value, self.rest)
        if taken := sorted(others.keys() & self.keys):
            raise ValueError(f"{type(value).__name__} itself uses the key {taken[0]}")
        return {**others, **written}


@dataclass(eq=False, repr=False)
class _Row:
    record: _Record

    def read(self, value: Json) -> object:
        fields = self.record.fields
        if not isinstance(value, list) or len(value) != len(fields):
            names = ", ".join(field.key for field in fields)
            return _Violations([((), f"must be a list of {len(fields)} values: {names}")])
        bad = _Violations()
        found = [field.form.read(item) for field, item in zip(fields, value, strict=True)]
        for index, item in enumerate(found):
            bad.add(index, item)
        return bad or _build(self.record.target, *found)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return [field.form.write(getattr(value, field.name)) for field in self.record.fields]


def _build(target: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Return what `target` makes of the arguments, or the violations that it raises."""
    try:
        return target(*args, **kwargs)
    except RecordError as err:
        return _Violations(err.violations)
    except MltrainError as err:
        return _Violations([((), err.message)])


@cache
def _form(hint: Any, limits: Limits | None = None) -> _Form:  # noqa: ANN401, PLR0911 -- an annotation; one exit for each
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    limits = next((note for note in notes if isinstance(note, Limits)), limits)
    codec = next((note for note in notes if isinstance(note, Encoded)), None)
    if codec is not None:
        return _Converted(_form(codec.form), codec)
    if RAW in notes:
        return _Anything()
    parts = get_args(hint)
    match get_origin(hint):
        case origin if origin is Union or origin is UnionType:
            return _union([_form(part, limits) for part in parts if part is not NoneType], null=NoneType in parts)
        case origin if origin is Literal:
            return _Scalar(str, choices=parts)
        case origin if origin is tuple:
            return _List(_form(parts[0], limits), None if parts[-1] is ... else len(parts))
        case origin if origin is Mapping:
            return _Mapping(_form(parts[1], limits))
    if is_dataclass(hint):
        form = _Record.of(hint, limits)  # type: ignore[arg-type]
        return _Row(form) if ROW in notes else form
    return _plain(hint, notes, limits)


def _plain(hint: Any, notes: tuple[Any, ...], limits: Limits | None) -> _Form:  # noqa: ANN401
    if hint is int or hint is float:
        return _Scalar(hint, limits)
    if hint is str or hint is bool:
        pattern = next((note for note in notes if isinstance(note, re.Pattern)), None)
        choices = next((note.names for note in notes if isinstance(note, OneOf)), None)
        return _Scalar(hint, pattern=pattern, choices=choices)
    raise TypeError(f"a record cannot hold {hint}")


def _union(forms: list[_Form], *, null: bool) -> _Form:
    scalars = tuple(form for form in forms if isinstance(form, _Scalar))
    if len(forms) > 1 and len(scalars) < len(forms):
        raise TypeError("a union holds scalars alone, or one type and None")
    form = forms[0] if len(forms) == 1 else _Either(scalars)
    return _OrNull(form) if null else form


def _must_be(expected: str, value: Json) -> str:
    return f"must be {expected}, is {_describe(value)}"


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
