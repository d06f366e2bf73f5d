"""The schemas of the documents: every one is sound, told in docs/json.md, and open for fields to come."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from mltrain.cli.render import show_failure_document
from mltrain.cli.schemas import DOCUMENTS, closed_schema, document_schema, page
from mltrain.errors import LeakageError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "json.md"


def printed():
    """Return the schema names that the command line's source prints."""
    text = "\n".join(p.read_text("utf-8") for p in (ROOT / "src" / "mltrain" / "cli").glob("*.py"))
    return set(re.findall(r'(?:Outcome|document|_page)\(\s*"([a-z-]+/[0-9]+)"', text))


def test_every_document_has_a_schema_and_no_other_has():
    """What the source prints and what is described are the same."""
    assert printed() == set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_schema_is_sound_and_tells_every_field(name):
    """It is a schema of draft 2020-12, its parts are all there, and no field goes without a word."""
    schema = document_schema(name)

    Draft202012Validator.check_schema(schema)
    assert set(re.findall(r"#/\$defs/(\w+)", json.dumps(schema))) == set(schema.get("$defs", {}))
    for part in (schema, *schema.get("$defs", {}).values()):
        untold = [key for key, value in part["properties"].items() if not value.get("description")]
        assert untold == [], name


def test_fields_to_come_are_no_break():
    """A reader that validates keeps working when a field is added; the closed schema sees it."""
    document = {"schema": "mltrain/cache-prune/1", "days": 1, "bytes": 2, "later": 3}

    assert Draft202012Validator(document_schema("cache-prune/1")).is_valid(document)
    assert not Draft202012Validator(closed_schema("cache-prune/1")).is_valid(document)


def test_a_failed_guard_is_a_document(capsys):
    """The document of a failure is as its schema says."""
    show_failure_document(LeakageError("the future reached return_1", hint="look at it"))

    Draft202012Validator(closed_schema("error/1")).validate(json.loads(capsys.readouterr().out))


def test_the_page_is_made_of_the_schemas():
    """docs/json.md is what the schemas say; MLTRAIN_UPDATE_GOLDENS=1 writes it anew."""
    if os.environ.get("MLTRAIN_UPDATE_GOLDENS"):
        PAGE.write_text(page(), "utf-8")

    assert PAGE.read_text("utf-8") == page()
