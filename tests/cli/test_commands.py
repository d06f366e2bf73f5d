"""Behaviour of single commands; tests/test_cli_contract.py covers the rules for all of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from support.program import QUICK, call

EXAMPLE_CARD = Path(__file__).parents[1] / "data" / "example_card.json"


@pytest.fixture(scope="module")
def trained_twice(trained_dir, tmp_path_factory):
    """Return a data folder with a promoted version and a newer GO version that is not promoted; read only."""
    folder = shutil.copytree(trained_dir, tmp_path_factory.mktemp("twice") / "data", symlinks=True)
    words = ("train", "--trials", "1", "--config", QUICK, "--seed", "7", "--no-promote", "--json")
    done = call(*words, data_dir=folder)
    assert done.code == 0, done.err
    assert [row["version"] for row in call("models", "--json", data_dir=folder).document["models"]][1:] == [
        done.document["version"]
    ]
    return folder


@pytest.fixture
def two_versions(trained_twice, tmp_path):
    """Return a copy of that folder that a test may change, and the names of the versions."""
    folder = Path(shutil.copytree(trained_twice, tmp_path / "data", symlinks=True))
    return folder, *(row["version"] for row in call("models", "--json", data_dir=folder).document["models"])


def best_of(data_dir):
    return (data_dir / "models" / "best_lgbm").readlink().name


def test_promotion_and_rollback_move_the_one_pointer(two_versions):
    """promote, rollback by name and rollback --previous each move the pointer, and are logged and reported."""
    data_dir, first, second = two_versions
    assert best_of(data_dir) == first
    promoted = call("promote", second, "--json", data_dir=data_dir)
    assert best_of(data_dir) == second
    back = call("rollback", first, data_dir=data_dir)
    assert best_of(data_dir) == first
    forth = call("rollback", "--previous", data_dir=data_dir)
    assert best_of(data_dir) == second
    history = call("models", "history", "--json", data_dir=data_dir).document

    assert promoted.document["moved"] is True
    assert (back.code, forth.code) == (0, 0)
    assert f"{first} is live now, in place of {second}" in back.out
    assert [e["to_version"] for e in history["entries"]] == [first, second, first, second]
    assert history["problems"] == []


def test_rollback_without_a_version_lists_them(data_dir):
    """Without a version and --previous, the choices are listed, with the exit code of a usage error."""
    listed = call("rollback", data_dir=data_dir)
    as_json = call("rollback", "--json", data_dir=data_dir)

    assert listed.code == as_json.code == 2
    assert best_of(data_dir) in listed.out
    assert as_json.out == ""
    assert json.loads(as_json.err)["models"][0]["version"] == best_of(data_dir)


@pytest.mark.parametrize(
    "words",
    [
        ("predict",),
        ("models", "prune", "--keep", "0"),
        ("snapshots", "prune", "--keep", "0"),
        ("rollback",),
        ("train", "--trials", "1"),
    ],
    ids=" ".join,
)
def test_a_copy_without_links_is_reported_with_its_repair(data_dir, words):
    """Exit 3 names the last best version and the command that restores it; nothing is pruned or served."""
    best = best_of(data_dir)
    for link in [path for path in data_dir.rglob("*") if path.is_symlink()]:
        link.unlink()
    before = sorted(data_dir.rglob("*"))
    refused = call(*words, data_dir=data_dir)

    assert refused.code == 3
    assert f"best_lgbm is missing, and {best} was the live version" in refused.err
    assert "hint: run `mltrain models repair`" in refused.err
    assert {path for path in data_dir.rglob("*") if path.name != ".lock"} == {p for p in before if p.name != ".lock"}


def test_list_and_log_work_without_the_pointer(data_dir):
    """The list warns, the log has a problem, and the command that both name restores everything."""
    best = best_of(data_dir)
    (data_dir / "models" / "best_lgbm").unlink()
    listed = call("models", data_dir=data_dir)
    history = call("models", "history", data_dir=data_dir)
    restored = call("models", "repair", data_dir=data_dir)

    assert (listed.code, history.code, restored.code) == (0, 3, 0)
    assert "run `mltrain models repair`" in listed.err
    assert "run `mltrain models repair`" in history.out
    assert "never happened" not in history.out
    assert f"best_lgbm -> {best} (it was missing)" in restored.out
    assert best_of(data_dir) == best
    assert "the lost pointer was restored" in call("models", "history", data_dir=data_dir).out


def test_each_slot_has_its_live_version(data_dir, tmp_path):
    """From training to rollback the other slot is unchanged, and the slot is copied as one file."""
    best, short = best_of(data_dir), ("--trials", "1", "--config", QUICK)
    version = call("train", *short, "--slot", "btc", "--no-promote", "--json", data_dir=data_dir).document["version"]
    why = ("--force", "--why", "a test")

    assert call("predict", "best:btc", data_dir=data_dir).code == 3
    assert call("promote", version, *why, "--slot", "lgbm", data_dir=data_dir).code == 2
    assert "in the slot btc" in call("promote", version, *why, data_dir=data_dir).out
    assert (data_dir / "models" / "best_btc").readlink() == Path(version)
    assert best_of(data_dir) == best
    for words, served in ((("best:btc",), version), ((), best), (("--slot", "btc"), version)):
        assert call("predict", *words, "--json", data_dir=data_dir).document["version"] == served
    listed = call("models", "--json", data_dir=data_dir).document["models"]
    assert {row["version"]: row["slot"] for row in listed}[version] == "btc"
    history = call("models", "history", "--slot", "btc", "--json", data_dir=data_dir).document
    assert [entry["to_version"] for entry in history["entries"]] == [version]
    assert call("rollback", "--previous", "--slot", "btc", data_dir=data_dir).code == 3

    packed, other = tmp_path / "model.tar", tmp_path / "other"
    assert call("models", "pack", "best:btc", "-o", str(packed), data_dir=data_dir).code == 0
    assert call("models", "unpack", str(packed), data_dir=other).code == 0
    assert call("verify", "model", version, data_dir=other).code == 0
    assert call("predict", data_dir=other).code == 3
    assert "manifest.json" in [path.name for path in (other / "snapshots").rglob("*")]


def test_a_tilde_in_the_environment_is_the_home_of_the_user(data_dir, tmp_path):
    """No shell expands it there, and no folder named ~ is made."""
    env = {"HOME": str(tmp_path), "MLTRAIN_DATA_DIR": f"~/{data_dir.relative_to(tmp_path)}"}

    assert call("models", "--json", env=env).document == call("models", "--json", data_dir=data_dir).document


def test_a_rollback_to_the_live_version_writes_nothing(data_dir):
    """It is no error and adds no line to the log."""
    log = data_dir / "models" / "promotions.jsonl"
    before = log.read_bytes()
    done = call("rollback", best_of(data_dir), data_dir=data_dir)

    assert done.code == 0
    assert "already" in done.out
    assert log.read_bytes() == before


def test_a_failed_guard_stops_training_with_a_document(data_dir, tmp_path):
    """A feature that predicts too well gives exit 5, is named, and leaves no version."""
    strict = tmp_path / "strict.yml"
    strict.write_text("guards: {auc_warn: 0.5, auc_fail: 0.515}\n")
    versions = sorted(p.name for p in (data_dir / "models").iterdir())
    done = call("train", "--trials", "1", "--config", strict, "--json", data_dir=data_dir)

    assert done.code == 5
    assert done.document["error"]["exit_code"] == 5
    assert "return_1" in done.document["error"]["message"]
    assert done.err.startswith("error: ")
    assert sorted(p.name for p in (data_dir / "models").iterdir()) == versions


def test_a_no_go_version_is_kept_and_served_only_on_request(tmp_path):
    """Exit 4 names the failed gate; predict needs --allow-no-go, promote needs --force and --why."""
    where = tmp_path / "data"
    call("snapshot", "--source", "sim", "--symbols", "BTCUSDT", "--days", "4", data_dir=where)
    trained = call("train", "--trials", "1", "--config", QUICK, data_dir=where)
    refused = call("predict", data_dir=where)
    served = call("predict", "--allow-no-go", "--json", data_dir=where)
    promoted = call("promote", "latest", data_dir=where)
    forced = call("promote", "latest", "--force", data_dir=where)
    reasoned = call("promote", "latest", "--force", "--why", "a drill", data_dir=where)

    assert trained.code == 4
    assert "skill failed" in trained.out
    assert refused.code == 3
    assert "--allow-no-go" in refused.err
    assert served.code == 0
    assert served.document["predictions"][0]["p"] is not None
    assert promoted.code == 4
    assert forced.code == 2
    assert reasoned.code == 0
    assert call("models", "history", "--json", data_dir=where).document["entries"][0]["why"] == "a drill"


def test_a_card_of_the_required_fields_is_valid(tmp_path):
    """A card of another tool passes `card validate`."""
    done = call("card", "validate", EXAMPLE_CARD, "--json", data_dir=tmp_path)

    assert done.code == 0
    assert done.document["valid"] is True


def test_every_violation_of_a_card_is_reported(tmp_path):
    """Three mistakes are three lines, each with its JSON pointer, and exit code 3."""
    card = json.loads(EXAMPLE_CARD.read_bytes())
    card["metrics"]["accuracy"] = 2
    card["train"]["class_balance"]["pos"] += 1
    del card["notes"]
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card))
    done = call("card", "validate", path, "--json")

    assert done.code == 3
    (checked,) = done.document["cards"]
    violations = "\n".join(checked["violations"])
    assert all(pointer in violations for pointer in ("/metrics/accuracy", "/train", "/notes"))


def test_a_frame_of_features_is_checked(tmp_path):
    """A frame with the registry's columns passes; one without the first column gives exit 3 and its name."""
    names = [f["name"] for f in call("features", "info", "--json").document["features"]]
    good = pl.DataFrame({name: [float(i), float(i) + 0.5] for i, name in enumerate(names)}).cast(pl.Float32)
    good.write_parquet(tmp_path / "good.parquet")
    good.drop(names[0]).write_parquet(tmp_path / "bad.parquet")
    passed = call("features", "check", tmp_path / "good.parquet")
    failed = call("features", "check", tmp_path / "bad.parquet", "--json")

    assert passed.code == 0, passed.out
    assert failed.code == 3
    assert names[0] in failed.document["problems"][0]


def test_options_between_a_group_and_its_command_are_refused(data_dir):
    """`mltrain models --json history` would print no JSON, so the error says where the option belongs."""
    done = call("models", "--json", "history", data_dir=data_dir)

    assert done.code == 2
    assert "after the command" in done.err


def test_a_version_is_made_again_on_request(data_dir):
    """`verify model --retrain` fits it again and finds the same bytes; a missing snapshot is named."""
    again = call("verify", "model", "best", "--retrain", "--json", data_dir=data_dir)
    shutil.rmtree(data_dir / "snapshots")
    gone = call("verify", "model", "best", "--retrain", data_dir=data_dir)

    assert (again.code, again.document["sound"]) == (0, True), again.err
    assert (gone.code, gone.out) == (3, "")


def test_training_the_same_again_does_nothing(two_versions):
    """With the same candles, configuration and seed, exit 0 names the version, and no file changes."""
    data_dir, _, second = two_versions
    before = {p: p.lstat().st_mtime_ns for p in data_dir.rglob("*")}
    words = ("train", "--trials", "1", "--config", QUICK, "--seed", "7")
    again = call(*words, data_dir=data_dir)
    resumed = call(*words, "--resume", "--json", data_dir=data_dir)

    assert (again.code, resumed.code) == (0, 0)
    assert again.out.splitlines()[0] == f"already there: {second}, same bytes"
    assert f"`mltrain promote {second}`" in again.out
    assert resumed.document == {
        "schema": "mltrain/train-already-there/1",
        "version": second,
        "folder": str(data_dir / "models" / second),
        "verdict": "GO",
        "best": False,
        "promoted": False,
        "already_there": True,
    }
    assert {p: p.lstat().st_mtime_ns for p in data_dir.rglob("*")} == before


def test_an_evaluation_is_a_document(data_dir):
    """`evaluate` scores the best version on the rows of its snapshot after its training."""
    done = call("evaluate", "--json", data_dir=data_dir)
    shown = call("evaluate", data_dir=data_dir)

    assert done.code == shown.code == 0, done.err + shown.err
    assert done.document["scores"]["rows"] == sum(week["rows"] for week in done.document["weeks"])
    assert "Drift" in shown.out
