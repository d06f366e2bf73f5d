"""`card report`, `card diff` and `models --html` as a user calls them; test_cli_contract.py covers the rest."""

from __future__ import annotations

import json

import pytest

from mltrain.storage.manifest import Manifest, describe_file
from support.program import call


def test_the_stored_report_is_named_and_another_is_drawn(data_dir, tmp_path):
    """Without --output nothing is written; with it the same page is written there."""
    before = sorted(data_dir.rglob("*"))
    stored = call("card", "report", data_dir=data_dir)
    drawn = call("card", "report", "--output", tmp_path / "mine.html", "--json", data_dir=data_dir)

    assert (stored.code, drawn.code) == (0, 0), stored.err + drawn.err
    assert sorted(data_dir.rglob("*")) == before
    assert stored.out.strip().endswith("/report.html")
    assert (tmp_path / "mine.html").read_bytes() == (data_dir / "models" / "best_lgbm" / "report.html").read_bytes()
    assert drawn.document["written"] is True


def test_the_report_of_a_version_without_one_is_written_outside_it(data_dir):
    """The folder of a version made before there were reports is not touched: the page is in the data folder."""
    folder = (data_dir / "models" / "best_lgbm").resolve()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "report.html").unlink()
    head = {k: v for k, v in manifest.items() if k not in {"files", "format", "kind", "self_sha256"}}
    names = [entry["path"] for entry in manifest["files"] if entry["path"] != "report.html"]
    files = tuple(describe_file(name, (folder / name).read_bytes()) for name in names)
    (folder / "manifest.json").write_bytes(Manifest("version", head, files).to_bytes())
    done = call("card", "report", "--json", data_dir=data_dir)

    assert done.code == 0, done.err
    assert done.document["path"] == str(data_dir / f"report-{folder.name}.html")
    assert not (folder / "report.html").exists()


def test_a_changed_report_is_never_shown(data_dir):
    """A report other than the published one gives exit 3 and its name."""
    path = (data_dir / "models" / "best_lgbm").resolve() / "report.html"
    path.write_bytes(path.read_bytes().replace(b"GO", b"XO"))
    done = call("card", "report", data_dir=data_dir)

    assert done.code == 3
    assert "report.html is not the file that was published" in done.err


@pytest.mark.parametrize("words", [("models", "--open"), ("card", "diff", "best", "best", "--output", "x.html")])
def test_options_of_a_page_need_the_page(words, data_dir):
    """Without --html they are refused, and nothing is written."""
    done = call(*words, data_dir=data_dir, cwd=data_dir)

    assert done.code == 2
    assert "needs --html" in done.err
    assert not (data_dir / "x.html").exists()
