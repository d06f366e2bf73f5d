"""How a snapshot or a version is named."""

from __future__ import annotations

from pathlib import Path

import pytest

import mltrain as mt
from mltrain.api.references import read_snapshot, read_version, version_text
from mltrain.api.workspace import open_store
from mltrain.errors import InputError, UsageError
from mltrain.progress import Silent


class Taken:
    """The result of taking a snapshot."""

    def __init__(self, snapshot):
        self.snapshot = snapshot


def test_a_snapshot_is_named_in_every_way(trained_dir):
    """By reference, id, path and object: always the same snapshot."""
    latest = read_snapshot("latest", trained_dir)
    others = [latest.id, str(latest.path), latest.path, latest, Taken(latest)]

    assert {read_snapshot(other, trained_dir).manifest_sha256 for other in others} == {latest.manifest_sha256}


def test_a_version_is_named_in_every_way(trained_dir):
    """By reference, name, path and object: always the same version; nothing named is the live one."""
    store = open_store(str(trained_dir), None)
    live = store.open_version("best")
    model = mt.load(live.folder)
    others = [None, "best", "best:lgbm", "latest", live.name, str(live.folder), live.folder, live, model]

    assert {read_version(other, store, Silent()).folder.name for other in others} == {live.name}
    assert model.folder == live.folder


@pytest.mark.parametrize("wrong", [7, None, b"best", Taken("latest")])
def test_what_names_nothing_is_a_usage_error(trained_dir, wrong):
    """The message says what is accepted."""
    with pytest.raises(UsageError, match="expected a snapshot, its id, or a path"):
        read_snapshot(wrong, trained_dir)
    with pytest.raises(UsageError, match="expected a version's name, its path, or a published model"):
        version_text(wrong)


def test_a_path_is_never_taken_for_a_name():
    """`Path("latest")` is a folder, not the newest version."""
    assert version_text(Path("latest")) == "./latest"
    with pytest.raises(InputError, match=r"no snapshot at '\./latest'"):
        read_snapshot(Path("latest"), "data")
