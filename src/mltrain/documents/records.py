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

A key may be absent if its field has a default. A rule between fields belongs in `__post_init__` and raises
`RecordError`, so that a record built in code obeys it too. It is checked after every field has been found valid.
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

from mltrain.documents.values import format_place
from mltrain.errors import InputError, MltrainError
from mltrain.names import describe, did_you_mean, show
from mltrain.times import format_ms, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mltrain.documents.values import Json, Located, Place

T = TypeVar("T")

Violation: TypeAlias = "tuple[Place, str]"

#: Every class that `record` marks; a test goes through them all.
RECORDS: Final[list[type]] = []


@dataclass(frozen=True, slots=True)
class Limits:
    """The range of a number, both ends included."""

    minimum: float = -math.inf
    maximum: float = math.inf


@dataclass(frozen=True, slots=True)
class OneOf:
    """The texts that a field may hold, if they are known at run time only."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """Note on a field whose value has another type in the document, such as a time that is a text there.

    Attributes:
        form: The annotation of the type in the document.
        decode: Turns what the document holds into the value; raises an MltrainError if that is impossible.
        encode: Turns the value into what the document holds.
    """

    form: Any
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a field in the document, if it is not the field's name."""

    name: str


#: A value that is read and written without a check.
RAW: Final = "raw"
#: A field that holds all keys that no other field has.
REST: Final = "rest"
#: A record that is written as a list of its values.
ROW: Final = "row"
#: A field that is left out of the document if it has its default.
OMIT_DEFAULT: Final = "omit default"
#: A field whose key the document must have although the field has a default.
REQUIRED: Final = "required"
#: A field with a default that is not part of the document.
DERIVED: Final = "derived"


class RecordError(InputError):
    """Values of a record are missing, out of range or contradict each other.

    Attributes:
        violations: Place in the record and message of each.
    """

    def __init__(self, *violations: Violation, where: str = "", lines: Mapping[Place, int] | None = None) -> None:
        self.violations = violations
        parts = []
        for place, message in violations:
            line = f" (line {lines[place]})" if lines and place in lines else ""
            parts.append(": ".join(filter(None, (where, f"{format_place(place)}{line}" if place else "", message))))
        super().__init__("\n".join(parts))


def record(cls: type[T]) -> type[T]:
    """Mark a frozen dataclass as one that `read_record` reads, by its annotations."""
    RECORDS.append(cls)
    return cls


#: A time, UTC, that is a text such as 2025-10-15T12:00:00Z in the document.
TimeMs: TypeAlias = Annotated[int, Encoded(str, parse_time, format_ms)]


def read_record(located: Located, cls: type[T]) -> T:
    """Return the record of class `cls` that a parsed document holds.

    Raises:
        RecordError: A key is missing or unknown, or a value wrong; names every violation, with its line if known.
    """
    target: Callable[..., object] = cls
    result: Any = _Record.of(target, None).read(located.value)
    if isinstance(result, _Violations):
        raise RecordError(*result, where=located.where, lines=located.lines)
    read: T = result
    return read


def refuse_newer(located: Located, *, newest: int) -> None:
    """Raise an InputError if a document's key `format` is above `newest`, whatever else the document holds."""
    version = located.value.get("format") if isinstance(located.value, dict) else None
    if isinstance(version, int) and version > newest:
        raise InputError(
            f"{located.where}: has format {version}, written by a newer mltrain: expected at most {newest}",
            hint="upgrade mltrain",
        )


def read_arguments(value: Json, function: Callable[..., object]) -> dict[str, Any]:
    """Return all arguments for a call of `function` by name: those in the mapping `value`, defaults for the others.

    Raises:
        RecordError: A key is missing or unknown, or a value wrong.
    """
    form = _Record.of(function, None)
    result = form.read_fields(value)
    if isinstance(result, _Violations):
        raise RecordError(*result)
    return {field.name: result.get(field.name, field.default) for field in form.fields}


def to_json(value: object) -> dict[str, Json]:
    """Return a record as the mapping that `read_record` reads it from.

    Raises:
        ValueError: The record's field for all other keys (REST) has the key of another field.
    """
    cls: Callable[..., object] = type(value)
    return _Record.of(cls, None).write(value)


class _Violations(list["Violation"]):
    """What a form returns instead of a value; places are relative to the value that it was given."""

    def add(self, step: str | int, result: object) -> None:
        """Add the violations in the result of reading the item at the key or index `step`, if there are any."""
        if isinstance(result, _Violations):
            self += [((step, *place), message) for place, message in result]

    @classmethod
    def collect(cls, results: Iterable[tuple[str | int, object]]) -> _Violations:
        """Return all violations in the results of reading items, which come with their keys or indices."""
        violations = cls()
        for step, result in results:
            violations.add(step, result)
        return violations


# The forms below have no generated methods but `__init__`: all of them together would cost 5 ms at every start.
class _Form(Protocol):
    """How values of one annotation are read from a document and written to it."""

    def read(self, value: Json) -> object:
        """Return the value of the annotation's type that a document's value stands for, or the violations."""

    def write(self, value: Any) -> Json:  # noqa: ANN401 -- the type is that of the annotation
        """Return a value of the annotation's type as a document holds it."""


class _Anything:
    """Any value, unchanged and unchecked."""

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
        problem = self._find_problem(value)
        if problem is not None:
            return _Violations([((), problem)])
        return float(value) if self.kind is float and isinstance(value, int) else value

    def has_type_of(self, value: Json) -> bool:
        """Return whether a document's value has this scalar's type, in range or not; an integer is a float too."""
        if self.kind is float:
            return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return isinstance(value, self.kind) and (self.kind is bool or not isinstance(value, bool))

    @property
    def expected(self) -> str:
        """What a value must be, as messages say it, such as "an integer from 1 to 9"."""
        if self.choices is not None:
            return ", ".join(self.choices)
        noun = {str: "a text", int: "an integer", float: "a finite number", bool: "true or false"}[self.kind]
        return noun if self.limits is None else f"{noun} from {self.limits.minimum} to {self.limits.maximum}"

    def _find_problem(self, value: Json) -> str | None:
        """Return what is wrong with a document's value, as a message; None if it is valid."""
        if not self.has_type_of(value):
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
        form = next((form for form in self.forms if form.has_type_of(value)), self.forms[-1])
        result = form.read(value)
        if isinstance(result, _Violations) and isinstance(value, str):
            return _Violations([((), f"{show(value)} is unknown; known: {', '.join(f.expected for f in self.forms)}")])
        return result


@dataclass(eq=False, repr=False)
class _OrNull:
    """A value, or null, which is None."""

    form: _Form

    def read(self, value: Json) -> object:
        return None if value is None else self.form.read(value)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return None if value is None else self.form.write(value)


@dataclass(eq=False, repr=False)
class _List:
    """A list, which is a tuple in the record, of any length (None) or of a given one."""

    item: _Form
    length: int | None

    def read(self, value: Json) -> object:
        if not isinstance(value, list):
            return _Violations([((), _must_be("a list", value))])
        if self.length not in {None, len(value)}:
            return _Violations([((), f"must be a list of {self.length} values, has {len(value)}")])
        items = [self.item.read(item) for item in value]
        return _Violations.collect(enumerate(items)) or tuple(items)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return [self.item.write(item) for item in value]


@dataclass(eq=False, repr=False)
class _Mapping:
    """A mapping with any keys."""

    item: _Form

    def read(self, value: Json) -> object:
        if not isinstance(value, dict):
            return _Violations([((), _must_be("a mapping", value))])
        items = {key: self.item.read(item) for key, item in value.items()}
        return _Violations.collect(items.items()) or items

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return {key: self.item.write(item) for key, item in value.items()}


@dataclass(eq=False, repr=False)
class _Converted:
    """A value that has another type in the document."""

    form: _Form
    codec: Encoded

    def read(self, value: Json) -> object:
        result = self.form.read(value)
        return result if isinstance(result, _Violations) else _build(self.codec.decode, result)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return self.form.write(self.codec.encode(value))


@dataclass(eq=False, repr=False)
class _Field:
    """A field of a record, or an argument of a function, and its key in the document."""

    name: str
    key: str
    form: _Form
    default: Any
    required: bool
    omit_default: bool


@dataclass(eq=False, repr=False)
class _Record:
    """A mapping that holds the fields of a record, or a function's arguments; `rest` is the field for other keys."""

    target: Callable[..., object]
    fields: tuple[_Field, ...]
    keys: frozenset[str]
    rest: str | None

    @classmethod
    @cache
    def of(cls, target: Callable[..., object], limits: Limits | None) -> _Record:
        """Return the form of a record, or of a function's arguments; `limits` apply to numbers without their own."""
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
            factory = factories.get(name, MISSING)
            fields.append(
                _Field(
                    name,
                    key=next((note.name for note in notes if isinstance(note, Key)), name),
                    form=_make_form(hints[name], limits),
                    default=parameter.default if factory is MISSING else factory(),
                    required=REQUIRED in notes or parameter.default is inspect.Parameter.empty,
                    omit_default=OMIT_DEFAULT in notes,
                )
            )
        return cls(target, tuple(fields), frozenset(field.key for field in fields), rest)

    def read(self, value: Json) -> object:
        result = self.read_fields(value)
        return result if isinstance(result, _Violations) else _build(self.target, **result)

    def read_fields(self, value: Json) -> dict[str, Any] | _Violations:
        """Return the values of the fields in a mapping by name, without defaults; or the violations."""
        if not isinstance(value, dict):
            return _Violations([((), _must_be("a mapping", value))])
        values, violations = {}, _Violations()
        for field in self.fields:
            if field.key in value:
                values[field.name] = field.form.read(value[field.key])
                violations.add(field.key, values[field.name])
            elif field.required:
                violations.append(((field.key,), "is missing"))
        others = {key: item for key, item in value.items() if key not in self.keys}
        if self.rest is not None:
            values[self.rest] = others
        else:
            for key in others:
                guess = did_you_mean(key, self.keys)
                violations.append(((key,), "unknown key" + (f"; {guess}" if guess else "")))
        return violations or values

    def write(self, value: Any) -> dict[str, Json]:  # noqa: ANN401
        written = {
            field.key: field.form.write(item)
            for field in self.fields
            if (item := getattr(value, field.name)) != field.default or not field.omit_default
        }
        others = {} if self.rest is None else getattr(value, self.rest)
        if clashing := sorted(others.keys() & self.keys):
            raise ValueError(f"{type(value).__name__} itself uses the key {clashing[0]}")
        return {**others, **written}


@dataclass(eq=False, repr=False)
class _Row:
    """A list that holds the values of a record in the order of its fields."""

    record: _Record

    def read(self, value: Json) -> object:
        fields = self.record.fields
        if not isinstance(value, list) or len(value) != len(fields):
            names = ", ".join(field.key for field in fields)
            return _Violations([((), f"must be a list of {len(fields)} values: {names}")])
        items = [field.form.read(item) for field, item in zip(fields, value, strict=True)]
        return _Violations.collect(enumerate(items)) or _build(self.record.target, *items)

    def write(self, value: Any) -> Json:  # noqa: ANN401
        return [field.form.write(getattr(value, field.name)) for field in self.record.fields]


def _build(target: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Call `target`, and return its result, or the violations that it raises."""
    try:
        return target(*args, **kwargs)
    except RecordError as err:
        return _Violations(err.violations)
    except MltrainError as err:
        return _Violations([((), err.message)])


@cache
def _make_form(hint: Any, limits: Limits | None = None) -> _Form:  # noqa: ANN401, PLR0911 -- one exit for each kind
    """Return the form of an annotation; `limits` hold for every number in it, unless it has others."""
    notes: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        notes = tuple(rest)
    limits = next((note for note in notes if isinstance(note, Limits)), limits)
    codec = next((note for note in notes if isinstance(note, Encoded)), None)
    if codec is not None:
        return _Converted(_make_form(codec.form), codec)
    if RAW in notes:
        return _Anything()
    parts = get_args(hint)
    match get_origin(hint):
        case origin if origin is Union or origin is UnionType:
            forms = [_make_form(part, limits) for part in parts if part is not NoneType]
            return _make_union(forms, null=NoneType in parts)
        case origin if origin is Literal:
            return _Scalar(str, choices=parts)
        case origin if origin is tuple:
            return _List(_make_form(parts[0], limits), None if parts[-1] is ... else len(parts))
        case origin if origin is Mapping:
            return _Mapping(_make_form(parts[1], limits))
    if is_dataclass(hint):
        form = _Record.of(hint, limits)  # type: ignore[arg-type]
        return _Row(form) if ROW in notes else form
    return _make_scalar(hint, notes, limits)


def _make_scalar(hint: Any, notes: tuple[Any, ...], limits: Limits | None) -> _Form:  # noqa: ANN401
    """Return the form of the type `hint`, annotated with `notes`; raise a TypeError for a type without a form."""
    if hint is int or hint is float:
        return _Scalar(hint, limits)
    if hint is str or hint is bool:
        pattern = next((note for note in notes if isinstance(note, re.Pattern)), None)
        choices = next((note.names for note in notes if isinstance(note, OneOf)), None)
        return _Scalar(hint, pattern=pattern, choices=choices)
    raise TypeError(f"a record cannot hold {hint}")


def _make_union(forms: list[_Form], *, null: bool) -> _Form:
    """Return the form of values that have one of several forms; `null`: or are null."""
    scalars = tuple(form for form in forms if isinstance(form, _Scalar))
    if len(forms) > 1 and len(scalars) < len(forms):
        raise TypeError("a union holds scalars alone, or one type and None")
    form = forms[0] if len(forms) == 1 else _Either(scalars)
    return _OrNull(form) if null else form


def _must_be(expected: str, value: Json) -> str:
    return f"must be {expected}, is {_describe(value)}"


def _describe(value: Json) -> str:
    """Return what messages call a document's value: a short one itself, any other by its type."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {show(value)}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    # A number; or what only a document holds that a caller wrote in Python.
    return describe(value)
