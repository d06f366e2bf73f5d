"""Shell completion, requested as bash does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.program import MLTRAIN, NEUTRAL


@pytest.fixture
def shelf(tmp_path):
    """Return a data folder of empty files: completion reads names only."""
    for name in ("models/2025-10-14", "models/2025-10-15.2", "models/.tmp-x", "snapshots/2025-10-15T12-00-00Z"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "best_lgbm").symlink_to("2025-10-14")
    (tmp_path / "snapshots" / "latest").symlink_to("2025-10-15T12-00-00Z")
    for name in ("ADAUSDT.parquet", "BTCUSDT.parquet", "manifest.json"):
        (tmp_path / "snapshots" / "latest" / name).touch()
    return tmp_path


def offered(line, folder, program=(str(MLTRAIN),)):
    """Return the completions for a line whose last word, perhaps empty, is being typed."""
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_MLTRAIN_COMPLETE": "complete_bash"}
    env = {**NEUTRAL, **asked, "MLTRAIN_DATA_DIR": str(folder)}
    done = subprocess.run([*program], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mltrain rollback ", ["2025-10-15.2", "2025-10-14"]),
        ("mltrain predict la", ["latest"]),
        ("mltrain train --snapshot ", ["latest", "2025-10-15T12-00-00Z"]),
        ("mltrain snapshot --symbols BTCUSDT,", ["BTCUSDT,ADAUSDT"]),
        ("mltrain features show rsi", ["rsi_7"]),
        ("mltrain snapshot --source a", ["archive"]),
        ("mltrain verify snapshot 2025", ["2025-10-15T12-00-00Z"]),
    ],
)
def test_names_are_offered(line, expected, shelf):
    """Versions, snapshots, symbols and features with the typed prefix are offered, the newest first."""
    assert offered(line, shelf) == expected


def test_a_missing_folder_offers_the_fixed_names(tmp_path):
    """There is no error, and the fixed names are offered."""
    assert offered("mltrain predict ", tmp_path / "none") == ["best", "latest"]
    assert offered("mltrain snapshot --symbols ", tmp_path / "none") == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]


def test_nothing_heavy_is_imported(shelf):
    """Completion imports no table library and no network library."""
    code = (
        "import atexit, sys; sys.argv = ['mltrain'];"
        "heavy = {'numpy', 'polars', 'pyarrow', 'lightgbm', 'sklearn', 'optuna', 'httpx', 'yaml'};"
        "atexit.register(lambda: print(*sorted(heavy & set(sys.modules))));"
        "from mltrain.cli import main; main()"
    )

    assert offered("mltrain rollback ", shelf, (sys.executable, "-c", code)) == ["2025-10-15.2", "2025-10-14"]
