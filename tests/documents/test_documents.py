"""The strict doors: what passes is plain, what is refused says where, and nothing hangs or crashes."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.documents.fields import Fields
from mltrain.documents.strict_json import canonical_json, parse_json
from mltrain.documents.strict_yaml import parse_yaml
from mltrain.documents.values import MAX_DEPTH, Located
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
    "duplicate key": (b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands here and in line 1"),
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
    data, says = HOSTILE_JSON[case]
    max_bytes = 1_000 if case == "too large" else 16 << 20

    with pytest.raises(InputError) as caught:
        parse_json(data, where="card.json", max_bytes=max_bytes)

    assert caught.value.message.startswith("card.json: ")
    assert says in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("case", HOSTILE_YAML)
def test_hostile_yaml_is_one_error_that_says_where(case):
    """Each is refused with the document's name and the line, in bounded length."""
    data, says = HOSTILE_YAML[case]

    with pytest.raises(InputError) as caught:
        parse_yaml(data, where="train.yml")

    assert caught.value.message.startswith("train.yml: ")
    assert says in caught.value.message
    assert len(caught.value.message) < 300


@given(st.binary(max_size=60) | st.text("[]{}:,-?&*!|>'\"%@#\n \\a0.e~", max_size=40).map(str.encode))
def test_any_bytes_are_a_document_or_an_input_error(data):
    """No other exception leaves the doors, and what passes has a canonical form."""
    for parse in (parse_json, lambda d, where: parse_yaml(d, where=where).value):
        try:
            value = parse(data, where="x")
        except InputError:
            continue
        canonical_json(value)


@given(VALUES)
def test_canonical_json_comes_back_as_it_was(value):
    """Reading the canonical form gives the value back, types and all, and writing that gives the same bytes."""
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
def test_canonical_json_refuses_what_could_not_be_read_back(value):
    """It is our own bug, so it is a ValueError and no message to the user."""
    with pytest.raises(ValueError):  # noqa: PT011 (json's own wording differs by case)
        canonical_json(value)


@given(st.recursive(SCALARS | ASCII, lambda v: st.lists(v, max_size=4) | st.dictionaries(ASCII, v, max_size=4)))
def test_yaml_reads_json_as_json_does(value):
    """JSON of printable text is YAML: both doors give the same value."""
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
    """Words, dates and ambiguous numbers stay text; nothing is guessed."""
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
    """Both doors allow exactly MAX_DEPTH levels below the root."""
    allowed = b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH

    assert parse_json(allowed, where="x") == parse_yaml(allowed, where="x").value
    for parse in (parse_json, parse_yaml):
        with pytest.raises(InputError):
            parse(b"[" + allowed + b"]", where="x")


def read_everything(fields):
    """Read a document of one key of each kind; the harmless values stand in for violations."""
    part = fields.fields("part")
    return {
        "text": fields.text("text"),
        "choice": fields.text("choice", choices=("auto", "isotonic", "none")),
        "symbol": fields.text("symbol", pattern=re.compile("[A-Z]+")),
        "integer": fields.integer("integer", minimum=1, maximum=9),
        "number": fields.number("number", minimum=0.5, maximum=2.0),
        "flag": fields.flag("flag"),
        "inner": part.integer("inner"),
        "items": [item.text("name") for item in fields.items("items")],
        "texts": fields.texts("texts"),
        "numbers": fields.numbers("numbers"),
        "raw": fields.raw("raw"),
    }


GOOD = b"""\
text: hello
choice: isotonic
symbol: BTC
integer: 3
number: 1
flag: true
part: {inner: 7}
items: [{name: a}, {name: b}]
texts: [x, y]
numbers: [1, 2.5]
raw: [null]
"""


def test_a_sound_document_is_read_whole():
    """Every getter gives its value in its type, and nothing is left over."""
    fields = Fields(parse_yaml(GOOD, where="x"))
    read = read_everything(fields)
    fields.finish()

    assert read == {
        "text": "hello",
        "choice": "isotonic",
        "symbol": "BTC",
        "integer": 3,
        "number": 1.0,
        "flag": True,
        "inner": 7,
        "items": ["a", "b"],
        "texts": ["x", "y"],
        "numbers": [1.0, 2.5],
        "raw": [None],
    }
    assert type(read["number"]) is float
    assert fields.keys()[:2] == ["text", "choice"]


@pytest.mark.parametrize(
    ("key", "wrong", "says"),
    [
        ("text", "3", "must be a text, is 3"),
        ("text", "null", "must be a text, is null"),
        ("choice", "isotonik", "'isotonik' is unknown; did you mean isotonic?"),
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
        ("part", "[]", "must be a mapping, is a list"),
        ("items", "{}", "must be a list, is a mapping"),
        ("items", "[1]", "item 0 must be a mapping, is 1"),
        ("texts", "[a, 1]", "item 1 must be a text, is 1"),
        ("numbers", "[1, x]", "item 1 must be a finite number, is the text 'x'"),
    ],
)
def test_a_wrong_value_names_document_field_line_and_value(key, wrong, says):
    """One violation is one line: where, field, line, what; the other fields are read all the same."""
    lines = GOOD.decode().splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
    lines[number] = f"{key}: {wrong}"
    fields = Fields(parse_yaml("\n".join(lines).encode(), where="x.yml"))
    read_everything(fields)

    with pytest.raises(InputError) as caught:
        fields.finish()

    assert caught.value.message == f"x.yml: {key} (line {number + 1}): {says}"


def test_all_violations_come_in_one_error():
    """Missing, wrong and unknown keys at every level are named together, each on its own line."""
    fields = Fields(parse_yaml(b"text: 1\ninteger: 50\npart: {inner: x, innner: 1}\nflagg: true\n", where="x"))
    read_everything(fields)

    with pytest.raises(InputError) as caught:
        fields.finish()

    lines = caught.value.message.splitlines()
    assert "x: text (line 1): must be a text, is 1" in lines
    assert "x: integer (line 2): must be at most 9, is 50" in lines
    assert "x: part.inner (line 3): must be an integer, is the text 'x'" in lines
    assert "x: part.innner (line 3): unknown key; did you mean inner?" in lines
    assert "x: flagg (line 4): unknown key; did you mean flag?" in lines
    assert "x: numbers: is missing" in lines
    assert all(line.startswith("x: ") for line in lines)


def test_a_missing_part_is_one_violation():
    """What would stand in a part that is not there is not reported again."""
    fields = Fields(Located({}, "x"))
    fields.fields("part").integer("inner")

    with pytest.raises(InputError) as caught:
        fields.finish()

    assert caught.value.message == "x: part: is missing"


def test_a_default_stands_for_an_absent_key_only():
    """A present value is checked; null counts as absent where the default is None, and nowhere else."""
    fields = Fields(Located({"a": None, "b": None}, "x"))

    assert fields.integer("c", default=5) == 5
    assert fields.text("a", default=None) is None
    assert fields.items("d", default=None) is None
    assert fields.text("b", default="x") == ""
    with pytest.raises(InputError, match="x: b: must be a text, is null"):
        fields.finish()


def test_the_callers_own_violations_join_the_others():
    """`problem` adds to a key, or to the mapping itself, with its line."""
    fields = Fields(parse_yaml(b"a:\n  b: 1\n", where="x"))
    part = fields.fields("a")
    part.integer("b")
    part.problem("b", "is odd")
    part.problem(None, "is lonely")
    fields.problem(None, "is short")

    with pytest.raises(InputError) as caught:
        fields.finish()

    assert caught.value.message.splitlines() == ["x: a.b (line 2): is odd", "x: a (line 1): is lonely", "x: is short"]


@pytest.mark.parametrize("value", [None, 1, "a", [], True])
def test_a_document_that_is_no_mapping_is_refused_at_once(value):
    """There is nothing to read."""
    with pytest.raises(InputError, match="must be a mapping"):
        Fields(Located(value, "x"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_wherever_it_came_from(value):
    """An option of the command line reaches the fields without passing a door."""
    fields = Fields(Located({"a": value, "b": [value]}, "x"))
    fields.number("a", minimum=0)
    fields.numbers("b")

    with pytest.raises(InputError) as caught:
        fields.finish()

    assert len(caught.value.message.splitlines()) == 2
