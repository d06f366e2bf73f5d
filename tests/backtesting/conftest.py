"""Markets that several modules trade."""

from __future__ import annotations

import pytest

from support.backtests import random_market


@pytest.fixture(scope="session")
def traded():
    """Return 500 random markets, each with its simulation by the engine; read only."""
    return [(market := random_market(seed), market.trade()) for seed in range(500)]
