"""Records: the fields of a document are declared once, and every violation is named with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping  # noqa: TC003 -- read_record needs the annotations
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from mltrain.documents.records import (
    DERIVED,
    OMIT_DEFAULT,
    RAW,
    REST,
    ROW,
    Encoded,
    Key,
    Limits,
    OneOf,
    RecordError,
    read_arguments,
    read_record,
    to_json,
)
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import (
    Json,  # noqa: TC001 -- as above
    Located,
)
from mltrain.errors import UsageError
from mltrain.times import format_ms, parse_time


@dataclass(frozen=True, slots=True)
class Part:
    """A nested record with a rule between its fields."""

    low: int
    high: int = 9

    def __post_init__(self):
        if self.low > self.high:
            raise RecordError((("low",), f"must not be above high, {self.high}; is {self.low}"))


@dataclass(frozen=True, slots=True)
class Whole:
    """One field of every kind that a record can have."""

    text: str
    choice: Literal["auto", "isotonic", "none"]
    known: Annotated[str, OneOf(("one", "two"))]
    symbol: Annotated[str, re.compile("[A-Z]+")]
    integer: Annotated[int, Limits(1, 9)]
    number: Annotated[float, Limits(0.5, 2.0)]
    flag: bool
    weight: Literal["none", "balanced"] | Annotated[float, Limits(0.01, 100)]
    part: Part
    small: Annotated[Part, Limits(0, 5)]
    items: tuple[Part, ...]
    row: Annotated[Part, ROW]
    texts: tuple[str, ...]
    numbers: tuple[float, ...]
    names: Mapping[str, int]
    raw: Annotated[Json, RAW]
    absent: int | None
    time_ms: Annotated[int, Encoded(str, parse_time, format_ms)]
    class_: Annotated[str, Key("class")]
    extra: Annotated[int, OMIT_DEFAULT] = 0
    optional: str | None = None
    judged: Annotated[bool, DERIVED] = False


GOOD = b"""\
text: hello
choice: isotonic
known: two
symbol: BTC
integer: 3
number: 1
flag: true
weight: balanced
part: {low: 7}
small: {low: 1, high: 2}
items: [{low: 1}, {low: 2}]
row: [3, 4]
texts: [x, y]
numbers: [1, 2.5]
names: {a: 1}
raw: [null]
absent: null
time_ms: 2025-10-15T12:00:00Z
class: a
"""
VALUE = Whole(
    text="hello",
    choice="isotonic",
    known="two",
    symbol="BTC",
    integer=3,
    number=1.0,
    flag=True,
    weight="balanced",
    part=Part(7),
    small=Part(1, 2),
    items=(Part(1), Part(2)),
    row=Part(3, 4),
    texts=("x", "y"),
    numbers=(1.0, 2.5),
    names={"a": 1},
    raw=[None],
    absent=None,
    time_ms=1_760_529_600_000,
    class_="a",
)


def test_a_sound_document_becomes_a_record():
    """Every field has its value in the declared type; a default replaces an absent key."""
    read = read_record(parse_yaml(GOOD, where="x"), Whole)

    assert read == VALUE
    assert type(read.number) is float


def test_a_record_becomes_the_document_that_it_is_read_from():
    """Defaults are written unless the field says otherwise; a derived field never is."""
    written = to_json(VALUE)

    assert read_record(Located(written, "x"), Whole) == VALUE
    assert written["part"] == {"low": 7, "high": 9}
    assert (written["row"], written["time_ms"], written["optional"]) == ([3, 4], "2025-10-15T12:00:00Z", None)
    assert not written.keys() & {"extra", "judged", "class_"}


@pytest.mark.parametrize(
    ("key", "wrong", "expected"),
    [
        ("text", "3", "must be a text, is 3"),
        ("text", "null", "must be a text, is null"),
        ("choice", "isotonik", "'isotonik' is unknown; did you mean isotonic?"),
        ("choice", "1", "must be a text, is 1"),
        ("known", "thre", "'thre' is unknown; known: one, two"),
        ("symbol", "btc", "'btc' does not have the form [A-Z]+"),
        ("integer", "true", "must be an integer, is true"),
        ("integer", "2.0", "must be an integer, is 2.0"),
        ("integer", "0", "must be at least 1, is 0"),
        ("integer", "10", "must be at most 9, is 10"),
        ("number", "0.1", "must be at least 0.5, is 0.1"),
        ("number", "x", "must be a finite number, is the text 'x'"),
        ("number", "false", "must be a finite number, is false"),
        ("flag", "yes", "must be true or false, is the text 'yes'"),
        ("flag", "1", "must be true or false, is 1"),
        ("weight", "heavy", "'heavy' is unknown; known: none, balanced, a finite number from 0.01 to 100"),
        ("weight", "0", "must be at least 0.01, is 0"),
        ("weight", "[]", "must be a finite number, is a list"),
        ("part", "[]", "must be a mapping, is a list"),
        ("items", "{}", "must be a list, is a mapping"),
        ("row", "[1]", "must be a list of 2 values: low, high"),
        ("texts", "x", "must be a list, is the text 'x'"),
        ("names", "[]", "must be a mapping, is a list"),
        ("absent", "x", "must be an integer, is the text 'x'"),
        ("time_ms", "noon", "'noon' is not a time"),
    ],
)
def test_a_wrong_value_names_document_field_line_and_value(key, wrong, expected):
    """Each violation is one line with document, field, line and value."""
    lines = GOOD.decode().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    lines[number] = f"{key}: {wrong}"

    with pytest.raises(RecordError) as caught:
        read_record(parse_yaml("\n".join(lines).encode(), where="x.yml"), Whole)

    assert caught.value.message == f"x.yml: {key} (line {number + 1}): {expected}"


@pytest.mark.parametrize(
    ("key", "wrong", "expected"),
    [
        ("items", [{"low": "x"}], "items[0].low: must be an integer, is the text 'x'"),
        ("items", [{}, 1], "items[0].low: is missing\nx: items[1]: must be a mapping, is 1"),
        ("row", [1, True], "row[1]: must be an integer, is true"),
        ("texts", ["a", 1], "texts[1]: must be a text, is 1"),
        ("names", {"a": None}, "names.a: must be an integer, is null"),
        ("part", {"low": 10}, "part.low: must not be above high, 9; is 10"),
        ("items", [{"low": 1}, {"low": 10}], "items[1].low: must not be above high, 9; is 10"),
        ("row", [5, 4], "row.low: must not be above high, 4; is 5"),
        ("small", {"low": 1, "high": 6}, "small.high: must be at most 5, is 6"),
        ("part", {"low": 1, "hihg": 2}, "part.hihg: unknown key; did you mean high?"),
        ("judged", True, "judged: unknown key"),
    ],
)
def test_a_violation_inside_a_value_has_its_whole_place(key, wrong, expected):
    """Keys and indices lead to it, also where a record's constructor raises."""
    with pytest.raises(RecordError) as caught:
        read_record(Located({**to_json(VALUE), key: wrong}, "x"), Whole)

    assert caught.value.message.startswith(f"x: {expected}")


def test_all_violations_come_in_one_error():
    """Missing, wrong and unknown keys at every level are named together, each on its own line."""
    document = b"text: 1\ninteger: 50\npart: {low: x, hihg: 1}\nflagg: true\n"

    with pytest.raises(RecordError) as caught:
        read_record(parse_yaml(document, where="x"), Whole)

    lines = caught.value.message.splitlines()
    assert "x: text (line 1): must be a text, is 1" in lines
    assert "x: integer (line 2): must be at most 9, is 50" in lines
    assert "x: part.low (line 3): must be an integer, is the text 'x'" in lines
    assert "x: part.hihg (line 3): unknown key; did you mean high?" in lines
    assert "x: flagg (line 4): unknown key; did you mean flag?" in lines
    assert "x: numbers: is missing" in lines
    assert len(lines) == len(caught.value.violations) == 4 + len(Whole.__dataclass_fields__) - 6 + 1
    assert all(line.startswith("x: ") for line in lines)


@pytest.mark.parametrize("value", [None, 1, "a", [], True])
def test_a_document_that_is_no_mapping_is_refused(value):
    """The message is about the document itself."""
    with pytest.raises(RecordError, match=r"^x: must be a mapping, is "):
        read_record(Located(value, "x"), Part)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_wherever_it_came_from(value):
    """Also from a command-line option, which no parser has checked."""
    with pytest.raises(RecordError) as caught:
        read_record(Located({**to_json(VALUE), "number": value, "numbers": [value]}, "x"), Whole)

    assert len(caught.value.violations) == 2


@dataclass(frozen=True)
class Named:
    """A record whose check is the one for command-line arguments."""

    name: str

    def __post_init__(self):
        raise UsageError(f"{self.name} is not a name", hint="write it so")


@dataclass(frozen=True)
class Outer:
    """A record that contains it."""

    inner: Named
    other: int


def test_an_error_of_a_constructor_joins_the_violations():
    """The message of any error gets the place of the record."""
    with pytest.raises(RecordError) as caught:
        read_record(Located({"inner": {"name": "x"}, "other": "y"}, "d"), Outer)

    assert caught.value.message == "d: inner: x is not a name\nd: other: must be an integer, is the text 'y'"


@dataclass(frozen=True)
class Open:
    """A record that keeps unknown keys."""

    name: str
    others: Annotated[Mapping[str, Json], REST]


def test_unknown_keys_are_kept_by_a_record_that_allows_them():
    """They are no violation, are written back, and never replace declared keys."""
    document = {"name": "a", "x": [1], "y": None}

    read = read_record(Located(document, "d"), Open)

    assert read == Open("a", {"x": [1], "y": None})
    assert to_json(read) == document
    with pytest.raises(RecordError, match="name: is missing"):
        read_record(Located({"x": 1}, "d"), Open)


def test_arguments_are_read_as_a_function_declares_them():
    """Defaults are filled in; a wrong, missing or unknown argument is a violation with its name."""

    def window(bars: Annotated[int, Limits(1, 10)], lag: int = 0) -> None: ...

    assert read_arguments({"bars": 3}, window) == {"bars": 3, "lag": 0}
    with pytest.raises(RecordError) as caught:
        read_arguments({"bars": 11, "shift": 1}, window)
    assert caught.value.message == "bars: must be at most 10, is 11\nshift: unknown key; known: bars, lag"


def test_an_unsupported_annotation_is_a_programming_error():
    """It is found at the first reading, whatever the document."""

    def function(value: complex) -> None: ...

    with pytest.raises(TypeError, match="complex"):
        read_arguments({}, function)
