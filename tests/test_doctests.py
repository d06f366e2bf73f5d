"""The examples in docstrings are correct."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import mltrain


def modules_with_examples():
    """Return the names of all modules whose source has an example."""
    found = pkgutil.walk_packages(mltrain.__path__, "mltrain.")
    return [m.name for m in found if ">>> " in (m.module_finder.find_spec(m.name).loader.get_source(m.name) or "")]


@pytest.mark.parametrize("name", modules_with_examples())
def test_every_example_is_correct(name):
    """Each prints the output in its docstring, with warnings as errors."""
    results = doctest.testmod(importlib.import_module(name))

    assert results.attempted > 0
    assert results.failed == 0


def test_the_examples_are_found():
    """An empty search must not pass as correct examples."""
    assert {"mltrain.times", "mltrain.training.trial", "mltrain.cli.app"} <= set(modules_with_examples())
