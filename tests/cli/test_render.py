"""Rendering: results as JSON and as text, with no control characters for the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.cli.render import number_text, time_text
from mltrain.documents.results import Result, format_document


@dataclass(frozen=True)
class Found(Result):
    SCHEMA: ClassVar[str] = "x/1"

    data: object


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.none()))
def test_a_document_reads_back(data):
    """The output of --json parses to the result, under a schema name."""
    read = json.loads(format_document(Found(data)))

    assert read == {"schema": "mltrain/x/1", "data": data}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_never_printed(value):
    """NaN and infinity are not JSON, so a result with one is a bug."""
    with pytest.raises(ValueError, match="JSON"):
        format_document(Found(value))


def test_figures_are_readable():
    """Thousands are separated, a missing value is a dash, times are UTC to the minute."""
    assert number_text(1234.5678, 2) == "1,234.57"
    assert number_text(None) == "-"
    assert time_text(1_760_529_600_000) == "2025-10-15 12:00"
    assert time_text(None) == "-"
