"""Workshops for the tests of the pipeline."""

from __future__ import annotations

import pytest

from support.workshop import Workshop


@pytest.fixture
def workshop(tmp_path):
    return Workshop(tmp_path / "data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a workshop with one promoted version, and its report; read only."""
    made = Workshop(tmp_path_factory.mktemp("pipeline") / "data")
    return made, made.train(made.snapshot())
