"""Samples that the training tests share."""

from __future__ import annotations

import pytest

from support.samples import make_samples


@pytest.fixture(scope="session")
def new_samples():
    """Return the function that makes samples."""
    return make_samples


@pytest.fixture(scope="session")
def samples():
    """Return 6,000 rows of two symbols and five features, of which the first is informative."""
    return make_samples()
