"""Fixtures and settings of all tests."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

# Before anything loads OpenMP: two workers on two cores, whose waiting threads would take the time of the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from support.program import QUICK, call

pytest_plugins = ("support.candles", "support.small_model", "support.service")

# Examples are drawn from a fixed seed: a failure must come back on the next run.
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")

# In the background of a shell, or under nohup, these are ignored, by all that the suite starts, too: tests send them.
for ignored, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, usual)


# The modules that take longest, which come first: two workers are then done at the same time.
LONG = (
    "tests/chaos/",
    "tests/guards/",
    "tests/pipeline/",
    "tests/backtesting/",
    "tests/docs/",
    "tests/cli/",
    "tests/test_cli_contract.py",
    "tests/sources/test_network_faults.py",
    "tests/store/test_publishing.py",
    "tests/sources/test_day_cache.py",
    "tests/test_written_before.py",
    "tests/sources/",
)


def pytest_collection_modifyitems(items):
    """Put the slow modules first, and keep the order of the others."""
    items.sort(key=lambda item: next((at for at, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real candles; tests that use it are marked `real_data`."""
    folder = Path(os.environ.get("MLTRAIN_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real candles at {folder}: set MLTRAIN_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def trained_dir(tmp_path_factory) -> Path:
    """Return a data folder with one simulated snapshot and one promoted version; read only."""
    # Parallel workers share the parent of their base folders; the first one trains.
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained" / "data"
    with FileLock(f"{folder.parent}.lock"):
        if folder.with_name("complete").exists():
            return folder
        folder.parent.mkdir()
        for words in (
            ["snapshot", "--source", "sim", "--sim-signal", "strong", "--symbols", "BTCUSDT,ETHUSDT", "--days", "6"],
            ["train", "--trials", "2", "--config", QUICK],
        ):
            done = call(*words, data_dir=folder)
            assert done.code == 0, done.err
        folder.with_name("complete").touch()
    return folder


@pytest.fixture
def data_dir(trained_dir, tmp_path) -> Path:
    """Return a copy of the trained folder that a test may change."""
    return Path(shutil.copytree(trained_dir, tmp_path / "data", symlinks=True))
