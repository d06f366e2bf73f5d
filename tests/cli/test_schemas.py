"""The JSON Schemas of the documents: up to date, complete, and open for fields added later."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pkgutil import resolve_name, walk_packages

import pytest
from jsonschema import Draft202012Validator
from tools.json_schemas import DOCUMENTS, outdated

import mltrain
from mltrain.cli.render import show_failure_document
from mltrain.documents.results import Result
from mltrain.errors import LeakageError
from support.json_documents import closed_schema, committed_schema

NEEDS_TORCH = {"mltrain.tft.fit", "mltrain.tft.network"}


def test_the_schemas_and_their_page_are_up_to_date():
    """docs/json.md and docs/reference/json/ are generated from the documents' classes."""
    assert outdated() == [], "run `python -m tools.json_schemas`"


def test_every_printed_document_has_a_schema():
    """The results with the name of a schema are exactly those whose schemas are committed."""
    for found in walk_packages(mltrain.__path__, "mltrain."):
        # Those that train a network print nothing, and need torch.
        if not found.name.endswith("__main__") and found.name not in NEEDS_TORCH:
            import_module(found.name)
    printed = {each.SCHEMA: each for each in _subclasses(Result) if _has_schema(each)}

    assert printed == {name: resolve_name(document.result) for name, document in DOCUMENTS.items()}


def _has_schema(cls):
    """Return whether a class of the package itself names a schema."""
    return cls.__module__.startswith("mltrain.") and "SCHEMA" in vars(cls)


def _subclasses(cls):
    """Yield every class that is derived from one."""
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_is_sound_and_describes_every_field(name):
    """It is valid draft 2020-12 and self-contained, and every field has a description."""
    schema = committed_schema(name)
    definitions = schema.get("$defs", {})
    parts = {name: schema, **definitions}
    bare = [(part, key) for part in parts for key, v in parts[part]["properties"].items() if not v.get("description")]

    Draft202012Validator.check_schema(schema)
    assert set(re.findall(r"#/\$defs/(\w+)", json.dumps(schema))) == set(definitions)
    assert bare == []


def test_an_added_field_breaks_no_reader():
    """A validating reader accepts an added field; the closed schema of the tests finds it."""
    document = {"schema": "mltrain/cache-prune/1", "days": 1, "bytes": 2, "later": 3}

    assert Draft202012Validator(committed_schema("cache-prune/1")).is_valid(document)
    assert not Draft202012Validator(closed_schema("cache-prune/1")).is_valid(document)


def test_the_document_of_a_failed_guard_matches_its_schema(capsys):
    """A failing leakage guard prints a document, too."""
    show_failure_document(LeakageError("the future reached return_1", hint="look at it"))

    Draft202012Validator(closed_schema("error/1")).validate(json.loads(capsys.readouterr().out))
