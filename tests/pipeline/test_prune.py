"""Old snapshots go, but none that somebody needs."""

from __future__ import annotations

import shutil

import pytest

from mltrain.candles.sim import CLOCK_MS
from mltrain.candles.snapshot import Request, open_snapshot, take_snapshot
from mltrain.candles.source import SourceSpec, open_source
from mltrain.errors import InputError, LockedError
from mltrain.files import hold_lock
from mltrain.pipeline.prune import prune_snapshots
from mltrain.progress import Silent
from program import call


def take(data_dir, hours):
    spec = SourceSpec(name="sim")
    request = Request(("BTCUSDT",), 1, end_ms=CLOCK_MS - hours * 3_600_000)
    return take_snapshot(data_dir, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent()).snapshot.id


def ids(data_dir):
    return sorted(path.name for path in (data_dir / "snapshots").glob("2*"))


def test_the_newest_stay_and_the_latest_always(tmp_path):
    """The pointer's target stays, however old its cut."""
    names = [take(tmp_path, hours) for hours in (1, 2, 3, 4, 5)]
    take(tmp_path, 5)  # the same again: latest points to the oldest cut
    done = prune_snapshots(tmp_path, keep=2)

    assert done.removed == (names[3], names[2])
    assert [(kept.id, kept.why) for kept in done.kept] == [(names[4], "it is the latest")]
    assert ids(tmp_path) == sorted([names[0], names[1], names[4]])
    assert prune_snapshots(tmp_path, keep=3).removed == ()
    assert not list(tmp_path.rglob("*.tmp"))


def test_one_that_is_being_trained_on_stays(tmp_path):
    """A training holds the lock of its study, which is called after its snapshot."""
    old = take(tmp_path, 9)
    take(tmp_path, 1)
    studies = tmp_path / "studies"
    studies.mkdir()
    with hold_lock(studies / f"{old}-0123456789abcdef-42.lock", wait_s=0, purpose="a test"):
        during = prune_snapshots(tmp_path, keep=1)
    after = prune_snapshots(tmp_path, keep=1)

    assert [kept.why for kept in during.kept] == ["it is being trained on"]
    assert (during.removed, after.removed) == ((), (old,))


def test_one_that_a_version_names_stays(data_dir):
    """Its numbers could not be recomputed any more; a version that cannot be read might name any."""
    named = open_snapshot(data_dir, "latest").id
    take(data_dir, 1)
    kept = call("snapshots", "prune", "--keep", "0", "--json", data_dir=data_dir)
    (version,) = [path for path in (data_dir / "models").glob("2*") if path.is_dir()]
    (version / "model_card.json").write_text("{}")

    assert kept.code == 0, kept.err
    assert named in [k["id"] for k in kept.document["kept"]]
    assert named in ids(data_dir)
    with pytest.raises(InputError, match="is damaged"):
        prune_snapshots(data_dir, keep=0)
    assert named in ids(data_dir)


def test_a_second_one_waits_and_gives_up(tmp_path, monkeypatch):
    """While a snapshot is being published nothing is removed."""
    old = take(tmp_path, 9)
    take(tmp_path, 1)
    monkeypatch.setattr("mltrain.pipeline.prune._LOCK_WAIT_S", 0.0)
    with (
        hold_lock(tmp_path / "snapshots" / ".lock", wait_s=0, purpose="a test"),
        pytest.raises(LockedError, match="a test"),
    ):
        prune_snapshots(tmp_path, keep=1)

    assert old in ids(tmp_path)


def test_nothing_there_is_nothing_done(tmp_path):
    """No folder is made for it."""
    assert prune_snapshots(tmp_path / "none", keep=3).removed == ()
    assert not (tmp_path / "none").exists()
    shutil.rmtree(tmp_path)
