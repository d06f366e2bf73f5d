"""Frozen results as JSON: types, keys, optional fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

import mltrain as mt
from mltrain.api.verify import VerifyResult
from mltrain.documents.results import INLINE, OPTIONAL, Result, to_plain
from mltrain.snapshots.snapshot_record import SymbolFacts


@dataclass(frozen=True)
class Inner:
    value: float
    names: tuple[str, ...]


@dataclass(frozen=True)
class Outer:
    path: Path
    inner: Inner


def test_a_result_becomes_plain_json():
    """Dataclasses, tuples and paths become JSON types, also nested."""
    result = Outer(Path("data/x"), Inner(0.5, ("a", "b")))

    assert to_plain(result) == {"path": "data/x", "inner": {"value": 0.5, "names": ["a", "b"]}}


def test_a_renamed_field_keeps_its_key():
    """Keys stay when names in the code change: the gaps of a snapshot are its `holes` in JSON."""
    (gaps,) = (f for f in fields(SymbolFacts) if f.name == "gaps")
    renamed = make_dataclass("Renamed", [("gaps", tuple, field(metadata=gaps.metadata))])

    assert to_plain(renamed((1,))) == {"holes": [1]}


@dataclass(frozen=True)
class Score:
    value: float | None
    why: str | None = field(default=None, metadata=OPTIONAL)
    parts: dict[str, float] = field(default_factory=dict, metadata=INLINE)


def test_an_optional_field_is_absent_where_it_is_none():
    """Other fields with None are written as null."""
    assert to_plain(Score(None)) == {"value": None}
    assert to_plain(Score(None, "no candles")) == {"value": None, "why": "no candles"}


def test_an_inline_mapping_gives_keys_of_the_object():
    """Its keys stand next to those of the other fields."""
    assert to_plain([Score(0.5, parts={"a": 1.0})]) == [{"value": 0.5, "a": 1.0}]


@dataclass(frozen=True, slots=True)
class Shown(Result):
    SCHEMA: ClassVar[str] = "shown/1"

    name: str
    items: tuple[int, ...]
    empty: tuple[int, ...]
    inner: Inner
    page: str


def test_a_result_is_shown_in_one_line():
    """Its repr has the short values and says what the others are, also inside another result or a list."""
    result = Shown("2025-10-15", (1, 2, 3), (), Inner(0.5, ()), "<p>\n" * 1000)

    assert repr(result) == (
        "Shown(name='2025-10-15', items=<3 items>, empty=(), inner=<Inner>, page=<4000 characters>)"
    )
    assert repr([VerifyResult("model", "2025-10-15", sound=True, problems=())]) == (
        "[VerifyResult(kind='model', name='2025-10-15', sound=True, problems=())]"
    )


def test_every_result_has_the_repr_of_one_line():
    """A dataclass writes a repr with every nested value into a class that only inherits one."""
    results = [kind for name in mt.__all__ if is_result(kind := getattr(mt, name))]

    assert len(results) > 10
    assert {kind.__dict__["__repr__"] for kind in results} == {Result.__repr__}


def is_result(value):
    return isinstance(value, type) and issubclass(value, Result)


def test_numbers_of_numpy_become_those_of_python():
    """JSON knows no others; a whole number stays whole."""
    plain = to_plain({"seed": np.int64(7), "ratio": np.float32(0.25), "on": True})

    assert plain == {"seed": 7, "ratio": 0.25, "on": True}
    assert [type(value) for value in plain.values()] == [int, float, bool]
