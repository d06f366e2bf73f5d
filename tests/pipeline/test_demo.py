"""The demo: the whole loop, in a separate folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import validate

import mltrain as mt
from mltrain.card.validation import check_card
from mltrain.cli.train import _view_demo
from mltrain.errors import UsageError
from mltrain.features.registry import parse_registry
from mltrain.pipeline.demo import MARKER, run_demo
from mltrain.progress import Silent
from mltrain.store.store import Store
from support.json_documents import closed_schema
from support.workshop import REGISTRY

# 2025-10-20T09:30:00Z
NOW_MS = 1_760_952_600_000


def test_the_demo_promotes_one_version_by_itself_one_by_hand_and_rolls_back(tmp_path, monkeypatch):
    """The second GO is held, as two new days are few; cards are valid; the first version is live at the end."""
    # CI runs it whole, from the wheel.
    for name, less in (("DAYS", 6), ("TRIALS", 2), ("BENCH_SAMPLES", 10)):
        monkeypatch.setattr(f"mltrain.pipeline.demo.{name}", less)
    few = parse_registry(REGISTRY % b"1m", where="the test's registry")
    monkeypatch.setattr("mltrain.pipeline.demo.load_registry", lambda *_, **__: few)
    folder = tmp_path / "mltrain-demo"
    report = mt.demo(folder, by="the test", now_ms=NOW_MS, progress=Silent())
    store = Store(folder)
    first, second = report.trainings
    validate(json.loads(json.dumps(report.to_json())), closed_schema("demo/1"))
    shown = list(_view_demo(report, [training.read_card() for training in report.trainings]))
    history = store.history()

    assert [t.verdict for t in report.trainings] == ["GO", "GO"]
    assert [e.to_version for e in history.entries if e.happened] == [first.version, second.version, first.version]
    assert (report.rolled_back_from, report.rolled_back_to) == (second.version, first.version)
    assert store.live_version().name == first.version
    assert history.problems == ()
    for training in report.trainings:
        card = training.folder / "model_card.json"
        assert check_card(card.read_bytes(), where=str(card), folder=training.folder).violations == ()
    assert [p.symbol for p in report.predictions] == ["BTCUSDT", "ETHUSDT"]
    assert all(0 < p.p < 1 for p in report.predictions)
    champion = next(o for o in second.gates if o.name == "champion")
    assert champion.outcome == "held"
    assert "UTC days, fewer than 10" in second.held
    assert [t.promoted for t in report.trainings] == [True, False]
    assert report.promoted_by_hand == second.version
    assert Path(shown[-2].removeprefix("report of the backtest: ")).is_file()


def test_the_demo_leaves_other_folders_alone(tmp_path):
    """A folder with other files is refused, and is not changed."""
    dear = tmp_path / "dear.txt"
    dear.write_text("mine")
    with pytest.raises(UsageError):
        run_demo(tmp_path, by="the test", now_ms=NOW_MS, progress=Silent())

    assert [p.name for p in tmp_path.iterdir()] == ["dear.txt"]
    assert dear.read_text() == "mine"


def test_an_earlier_demos_folder_is_known_by_its_marker(tmp_path):
    """Only the marker lets another demo write into a folder; a marker elsewhere does not count."""
    from mltrain.pipeline.demo import claim_folder

    claim_folder(tmp_path / "new")
    (tmp_path / "new" / "something").touch()
    claim_folder(tmp_path / "new")
    (tmp_path / "other" / MARKER).mkdir(parents=True)

    assert (tmp_path / "new" / MARKER).is_file()
    with pytest.raises(UsageError):
        claim_folder(tmp_path / "other")
