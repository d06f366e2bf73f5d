"""A data folder whose small model is live, for the tests of the service."""

from __future__ import annotations

import shutil

import pytest

from mltrain.store.promotion import promote_version
from mltrain.store.store import Store
from support.small_model import END_MS


def clock():
    """Return the time of the exchange, in s, half a minute after the newest candle."""
    return END_MS / 1000 + 30


@pytest.fixture(scope="session")
def live_dir(tmp_path_factory, published):
    """Return a data folder whose small model is live; read only."""
    folder = tmp_path_factory.mktemp("live") / "data"
    shutil.copytree(published["GO"], folder, symlinks=True)
    promote_version(Store(folder), "2025-10-15", why="a test", by="pytest", now_ms=END_MS, force=False)
    return folder
