"""The examples in docstrings are true."""

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
def test_every_example_is_true(name):
    """Each prints what its docstring shows, with warnings as errors as everywhere."""
    results = doctest.testmod(importlib.import_module(name))

    assert results.attempted > 0
    assert results.failed == 0


def test_the_examples_are_found():
    """A search that finds nothing must not pass for examples that are true."""
    assert {"mltrain.times", "mltrain.training.trial", "mltrain.cli.app"} <= set(modules_with_examples())
