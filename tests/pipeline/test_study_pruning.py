"""Old journals of searches are removed, except those that are being trained."""

from __future__ import annotations

import os

import pytest

from mltrain.pipeline.study_pruning import KeptStudy, list_studies, prune_studies
from mltrain.storage.locks import hold_lock
from mltrain.times import DAY_MS, parse_time

NOW_MS = parse_time("2025-10-15T12:00:00Z")
OLD, NEW = "2025-07-01T12-00-00Z-0123456789abcdef-42", "2025-10-14T12-00-00Z-0123456789abcdef-42"


@pytest.fixture
def data_dir(tmp_path):
    """Return a data folder with an old and a new study, and other files."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for name, days in ((OLD, 100), (NEW, 1)):
        (folder / f"{name}.journal").write_bytes(b"x" * 1000)
        (folder / f"{name}.lock").touch()
        written_s = (NOW_MS - days * DAY_MS) / 1000
        os.utime(folder / f"{name}.journal", (written_s, written_s))
    (folder / "notes.txt").touch()
    (folder / "link.journal").symlink_to(tmp_path / "elsewhere")
    return tmp_path


def names(data_dir):
    return sorted(path.name for path in (data_dir / "studies").iterdir() if path.suffix != ".lock")


def test_the_list_has_name_time_and_size(data_dir):
    """Other files are left out; without a folder the list is empty."""
    rows = [(row.study, row.written, row.bytes) for row in list_studies(data_dir)]

    assert rows == [(OLD, "2025-07-07T12:00:00Z", 1000), (NEW, "2025-10-14T12:00:00Z", 1000)]
    assert list_studies(data_dir / "none") == ()


def test_only_old_journals_are_removed(data_dir):
    """A dry run reports the same and removes no file."""
    before = names(data_dir)
    planned = prune_studies(data_dir, before_ms=NOW_MS - 90 * DAY_MS, dry_run=True)
    assert names(data_dir) == before

    done = prune_studies(data_dir, before_ms=NOW_MS - 90 * DAY_MS)
    assert planned == done
    assert (done.removed, done.kept, done.bytes) == ((OLD,), (), 1000)
    assert names(data_dir) == sorted([f"{NEW}.journal", "notes.txt", "link.journal"])


def test_a_study_that_is_being_trained_stays(data_dir):
    """The training holds its lock."""
    with hold_lock(data_dir / "studies" / f"{OLD}.lock", wait_s=0, purpose="a test"):
        done = prune_studies(data_dir, before_ms=NOW_MS)

    assert done.removed == (NEW,)
    assert done.kept == (KeptStudy(OLD, "it is being trained"),)
