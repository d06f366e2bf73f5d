"""The user's script that mypy checks: it uses every public name."""

from __future__ import annotations

import ast
from pathlib import Path

import mltrain as mt
from mltrain.documents.results import Result

SCRIPT = Path(__file__).with_name("typed_script.py")


def test_the_script_uses_every_public_name():
    """`mypy --strict`, which CI runs on it, has then seen all of them; nothing is hidden from it."""
    source = SCRIPT.read_text("utf-8")
    used = {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mt"
    }

    assert set(mt.__all__) - used == set()
    assert "type: ignore" not in source
    assert issubclass(mt.TrainedVersion, Result)
