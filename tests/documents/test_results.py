"""Frozen results as JSON: types, keys, optional fields."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path

from mltrain.api.studies import StudyList
from mltrain.api.verify import VerifyResult
from mltrain.documents.results import INLINE, OPTIONAL, to_plain
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


def test_a_notebook_shows_the_short_fields_of_a_result():
    """IPython prints one line; a result whose fields are all short is shown whole."""

    class Printer:
        def __init__(self):
            self.shown = ""

        def text(self, more):
            self.shown += more

    whole, part = Printer(), Printer()
    VerifyResult("model", "2025-10-15", sound=True, problems=())._repr_pretty_(part, cycle=False)
    StudyList(())._repr_pretty_(whole, cycle=False)

    assert part.shown == "VerifyResult(kind='model', name='2025-10-15', sound=True, ...)"
    assert whole.shown == "StudyList(...)"
