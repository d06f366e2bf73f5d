"""Strict JSON and YAML: accepted documents are plain, refusals give the place, and no input hangs or crashes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import MAX_DEPTH
from mltrain.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(SCALARS | TEXT, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4))

HOSTILE_JSON = {
    "NaN": (b'{"metrics": {"ece": NaN}}', "metrics.ece"),
    "Infinity": (b"[1, -Infinity]", "[1]"),
    "1e999": (b'{"a": [1e999]}', "a[0]"),
    "duplicate key": (b'{"x": {"a": 1, "a": 2}}', "x has the key 'a' twice"),
    "duplicate key, escaped": (b'{"a": 1, "\\u0061": 2}', "twice"),
    "deep list": (b"[" * 100 + b"]" * 100, "deep"),
    "very deep list": (b"[" * 1_000_000, "deep"),
    "very deep mapping": (b'{"a":' * 1_000_000, "deep"),
    "5,000 digits": (b'{"n": ' + b"9" * 5_000 + b"}", "n is an integer"),
    "65 bits": (b"[9223372036854775808]", "[0] is an integer"),
    "lone surrogate": (b'{"a": "\\ud800"}', "a holds"),
    "lone surrogate in a key": (b'{"\\udfff": 1}', "the key"),
    "byte order mark": (b"\xef\xbb\xbf{}", "byte order mark"),
    "UTF-16": ("{}".encode("utf-16"), "byte order mark"),
    "not UTF-8": (b'{"a":\n"\xff"}', "line 2"),
    "too large": (b" " * 1_001, "too large"),
    "too many values": (b"[" + b"0," * 1_000_001 + b"0]", "more than"),
    "a quote that never ends": (b'{"a": 1,\n "b', "line 2, column 2"),
    "single quotes": (b"{'a': 1}", "line 1, column 2"),
    "two documents": (b"{}\n{}", "line 2, column 1"),
    "trailing comma": (b"[1,]", "line 1"),
    "control character": (b'"a\x00b"', "line 1"),
    "empty": (b"", "line 1, column 1"),
}
HOSTILE_YAML = {
    "bomb": (b"a: &a [x, x]\nb: &b [*a, *a]\n", "line 1"),
    "alias alone": (b"a: 1\nb: *a\n", "line 2"),
    "anchor on a key": (b"&a a: 1\n", "line 1"),
    "tag": (b"\na: !!python/object/apply:os.system ['true']\n", "line 2"),
    "local tag": (b"a: !x 1\n", "line 1"),
    "string tag": (b"a: !!str 1\n", "line 1"),
    "duplicate key": (b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is here and in line 1"),
    "nested duplicate key": (b"x:\n  - a: 1\n    a: 2\n", "line 3"),
    "nan": (b"a: .nan", "line 1"),
    "inf": (b"a: 1\nb: -.INF", "line 2"),
    "1e999": (b"a: 1e999", "line 1"),
    "5,000 digits": (b"a: " + b"9" * 5_000, "line 1"),
    "65 bits": (b"a: 9223372036854775808", "line 1"),
    "3,000 brackets": (b"[" * 3_000, "deep"),
    "a million brackets": (b"[" * 1_000_000, "deep"),
    "a million dashes": (b"- " * 500_000, "deep"),
    "too large": (b" " * (1 << 20) + b" ", "too large"),
    "too many values": (b"- a\n" * 60_000, "more than"),
    "number as a key": (b"a: 1\n2: 3\n", "line 2"),
    "truth as a key": (b"true: 1\n", "line 1"),
    "list as a key": (b"? [a]\n: 1\n", "line 1"),
    "lone surrogate": (b'a: "\\ud800"', "line 1"),
    "beyond Unicode": (b'a: "\\U00110000"', "not YAML"),
    "directive of 5,000 digits": (b"%YAML 1." + b"9" * 5_000 + b"\n--- a\n", "not YAML"),
    "second document": (b"a: 1\n---\nb: 2\n", "line 2"),
    "byte order mark": (b"\xef\xbb\xbfa: 1", "byte order mark"),
    "UTF-16": ("a: 1".encode("utf-16"), "byte order mark"),
    "not UTF-8": (b"a: 1\nb: \xff", "line 2"),
    "NUL": (b"a: \x00", "not YAML"),
    "tab as indent": (b"a:\n\t- b\n", "line 2, column 1"),
    "quote that never ends": (b'a: "b\n', "line 2"),
}


@pytest.mark.parametrize("case", HOSTILE_JSON)
def test_hostile_json_is_one_error_that_says_where(case):
    """Each is refused with the document's name and the line or the place, in bounded length."""
    data, expected = HOSTILE_JSON[case]
    max_bytes = 1_000 if case == "too large" else 16 << 20

    with pytest.raises(InputError) as caught:
        parse_json(data, where="card.json", max_bytes=max_bytes)

    assert caught.value.message.startswith("card.json: ")
    assert expected in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("case", HOSTILE_YAML)
def test_hostile_yaml_is_one_error_that_says_where(case):
    """Each is refused with the document's name and the line, in bounded length."""
    data, expected = HOSTILE_YAML[case]

    with pytest.raises(InputError) as caught:
        parse_yaml(data, where="train.yml")

    assert caught.value.message.startswith("train.yml: ")
    assert expected in caught.value.message
    assert len(caught.value.message) < 300


@given(st.binary(max_size=60) | st.text("[]{}:,-?&*!|>'\"%@#\n \\a0.e~", max_size=40).map(str.encode))
def test_any_bytes_are_a_document_or_an_input_error(data):
    """No other exception is raised, and every accepted document has a canonical form."""
    for parse in (parse_json, lambda d, where: parse_yaml(d, where=where).value):
        try:
            value = parse(data, where="x")
        except InputError:
            continue
        canonical_json(value)


@given(VALUES)
def test_canonical_json_comes_back_as_it_was(value):
    """Reading the canonical form gives equal values and types, and writing those gives the same bytes."""
    data = canonical_json(value)
    again = parse_json(data, where="x")

    assert again == value
    assert canonical_json(again) == data
    assert data.endswith(b"\n")


@given(st.dictionaries(TEXT, SCALARS, max_size=5))
def test_canonical_json_does_not_depend_on_the_order_of_keys(value):
    """Equal mappings give equal bytes."""
    turned = dict(reversed(value.items()))

    assert canonical_json(turned) == canonical_json(value)


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": {1: 2}}, {None: 1}, "\ud800", {"\ud800": 1}])
def test_canonical_json_refuses_unreadable_values(value):
    """It is a programming error, so it is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 (json's own wording differs by case)
        canonical_json(value)


@given(st.recursive(SCALARS | ASCII, lambda v: st.lists(v, max_size=4) | st.dictionaries(ASCII, v, max_size=4)))
def test_yaml_reads_json_as_json_does(value):
    """JSON of printable text is YAML: both readers give the same value."""
    data = json.dumps(value).encode()

    assert parse_yaml(data, where="x").value == parse_json(data, where="x")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        *(("no", "no"), ("yes", "yes"), ("on", "on"), ("off", "off"), ("Yes", "Yes"), ("y", "y")),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None)),
        *(("2025-10-15", "2025-10-15"), ("2025-10-15T12:00:00Z", "2025-10-15T12:00:00Z"), ("12:30", "12:30")),
        *(("1", 1), ("-3", -3), ("+5", 5), ("0", 0), ("1.5", 1.5), ("1e3", 1e3), (".5", 0.5), ("1.", 1.0)),
        *(("007", "007"), ("0x1F", "0x1F"), ("0o17", "0o17"), ("1_000", "1_000"), ("nan", "nan"), ("=", "=")),
        *(('"1"', "1"), ("'true'", "true"), ('""', ""), ("|\n  a\n  b\n", "a\nb\n"), (">\n  a\n  b\n", "a b\n")),
        *(("9223372036854775807", 2**63 - 1), ("{<<: 1}", {"<<": 1}), ("[]", []), ("{}", {})),
    ],
)
def test_yaml_scalars_follow_the_core_schema(written, read):
    """Words, dates and ambiguous numbers stay text."""
    value = parse_yaml(f"a: {written}".encode(), where="x").value["a"]

    assert value == read
    assert type(value) is type(read)


def test_yaml_knows_the_line_of_every_value():
    """Keys and items have their own lines, counted from 1."""
    located = parse_yaml(b"# comment\na: 1\nb:\n  - x\n  - c: 2\n    d: 3\n", where="x")

    assert located.lines == {
        (): 2,
        ("a",): 2,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 1): 5,
        ("b", 1, "c"): 5,
        ("b", 1, "d"): 6,
    }


def test_depth_is_refused_beyond_the_limit_and_not_before():
    """Both readers allow exactly MAX_DEPTH levels below the root."""
    allowed = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH

    assert parse_json(allowed, where="x") == parse_yaml(allowed, where="x").value
    for parse in (parse_json, parse_yaml):
        with pytest.raises(InputError):
            parse(b"[" + allowed + b"]", where="x")
