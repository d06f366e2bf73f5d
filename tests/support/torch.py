"""Tests that train a network skip where torch is missing, unless MLTRAIN_NEED_TORCH says that it must be there."""

from __future__ import annotations

import importlib.util
import os

import pytest


def is_lacking_torch():
    """Return whether tests must do without torch."""
    return importlib.util.find_spec("torch") is None and not os.environ.get("MLTRAIN_NEED_TORCH")


def need_torch():
    """Skip the tests of a module without torch."""
    if is_lacking_torch():
        pytest.skip("torch is not installed", allow_module_level=True)
