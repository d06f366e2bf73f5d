"""Lineage: the code, the libraries and the machine are read correctly."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import mltrain
from mltrain.card.lineage import _git_commit, hash_package, read_lineage


def test_it_names_the_installed_distributions():
    """Versions are those of the installed distributions, hashes are hashes, and cores can be counted."""
    lineage = read_lineage()

    assert lineage.mltrain == mltrain.__version__
    assert dict(lineage.dependencies)["lightgbm"] == version("lightgbm")
    assert re.fullmatch(r"[0-9a-f]{64}", lineage.package_sha256)
    assert lineage.cores >= 1
    assert lineage.git_commit is None or re.fullmatch(r"[0-9a-f]{40}", lineage.git_commit)


def test_the_package_hash_covers_names_and_bytes(tmp_path):
    """A changed byte or name changes the hash; files other than sources do not count."""
    (tmp_path / "a.py").write_text("x = 1\n")
    first = hash_package(tmp_path)
    (tmp_path / "notes.txt").write_text("not source")
    same = hash_package(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    changed = hash_package(tmp_path)
    (tmp_path / "a.py").rename(tmp_path / "b.py")

    assert first == same != changed != hash_package(tmp_path)


def test_a_commit_is_read_loose_packed_and_detached(tmp_path):
    """All three forms in which git stores HEAD give the commit; another project's repository gives none."""
    package = tmp_path / "src" / "mltrain"
    package.mkdir(parents=True)
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    loose, packed, detached = "1" * 40, "2" * 40, "3" * 40
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{packed} refs/heads/main\n")
    assert _git_commit(package) == packed
    (git / "refs" / "heads" / "main").write_text(f"{loose}\n")
    assert _git_commit(package) == loose
    (git / "HEAD").write_text(f"{detached}\n")
    assert _git_commit(package) == detached
    assert _git_commit(tmp_path / ".venv" / "lib" / "mltrain") is None
    assert _git_commit(Path("/nonexistent/mltrain")) is None
