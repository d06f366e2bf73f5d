"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Examples are drawn from a fixed seed: a failure must come back on the next run.
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real candles; tests that use it are marked `real_data`."""
    folder = Path(os.environ.get("MLTRAIN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real candles at {folder}: set MLTRAIN_TEST_DATA")
    return folder
