"""A store of four versions."""

from __future__ import annotations

import shutil

import pytest

from mltrain.store.promotion import promote_version
from mltrain.store.store import Store
from support.bare_versions import HAND, publish, tree


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Return a data folder of four versions: promoted once, promoted last, NO-GO, never promoted."""
    store = Store(tmp_path_factory.mktemp("made") / "data")
    publish(store, b"one", date="2025-10-14")
    publish(store, b"two")
    publish(store, b"three", verdict="NO-GO")
    publish(store, b"four", date="2025-10-13")
    promote_version(store, "2025-10-14", **HAND)
    promote_version(store, "2025-10-15", **HAND)
    return store.data_dir


@pytest.fixture
def store(made, tmp_path):
    """Return a store of those four versions that the test may change."""
    return Store(shutil.copytree(made, tmp_path / "data", symlinks=True), lock_wait_s=0.05)


@pytest.fixture
def unchanged(store):
    """Check after the test that nothing on the disk has changed during it."""
    before = tree(store.data_dir)
    yield
    assert tree(store.data_dir) == before
