"""Old snapshots are removed, except those that are still needed."""

from __future__ import annotations

import shutil

import pytest

from mltrain.errors import InputError, LockedError
from mltrain.pipeline.snapshot_pruning import find_days_in_use, prune_snapshots
from mltrain.pipeline.train import _check_not_pruned
from mltrain.progress import Silent
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import take_snapshot
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.locks import hold_lock
from mltrain.store.store import Store
from mltrain.times import DAY_MS, TimeRange, parse_time
from support import disk_faults
from support.program import call


def take(data_dir, hours):
    spec = SourceSpec(name="sim")
    request = SnapshotRequest(("BTCUSDT",), 1, end_ms=CLOCK_MS - hours * 3_600_000)
    return take_snapshot(data_dir, open_source(spec), spec, request, now_ms=CLOCK_MS, progress=Silent()).snapshot.id


def ids(data_dir):
    return sorted(path.name for path in (data_dir / "snapshots").glob("2*"))


def test_the_newest_stay_and_the_latest_always(tmp_path):
    """The target of `latest` stays, however old its cut is."""
    names = [take(tmp_path, hours) for hours in (1, 2, 3, 4, 5)]
    # The same snapshot again: `latest` points to the oldest cut.
    take(tmp_path, 5)
    planned = prune_snapshots(tmp_path, keep=2, dry_run=True)
    assert ids(tmp_path) == sorted(names)
    done = prune_snapshots(tmp_path, keep=2)
    assert planned == done

    assert done.removed == (names[3], names[2])
    assert [(kept.id, kept.why) for kept in done.kept] == [(names[4], "it is the latest")]
    assert ids(tmp_path) == sorted([names[0], names[1], names[4]])
    assert prune_snapshots(tmp_path, keep=3).removed == ()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_snapshot_in_training_stays(tmp_path):
    """A training holds the lock of its study, whose name begins with the snapshot's id."""
    old = take(tmp_path, 9)
    take(tmp_path, 1)
    studies = tmp_path / "studies"
    studies.mkdir()
    with hold_lock(studies / f"{old}-0123456789abcdef-42.lock", wait_s=0, purpose="a test"):
        during = prune_snapshots(tmp_path, keep=1)
    after = prune_snapshots(tmp_path, keep=1)

    assert [kept.why for kept in during.kept] == ["it is being trained on"]
    assert (during.removed, after.removed) == ((), (old,))


def test_a_snapshot_of_a_version_stays(data_dir):
    """Its figures could not be reproduced otherwise; a version that cannot be read might need any snapshot."""
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


@pytest.mark.parametrize("harm", ["a file", "a way out"])
def test_without_a_valid_latest_nothing_is_removed(tmp_path, harm):
    """If `latest` is damaged, the latest snapshot is unknown."""
    names = [take(tmp_path, hours) for hours in (1, 2)]
    latest = tmp_path / "snapshots" / "latest"
    latest.unlink()
    if harm == "a file":
        latest.write_text(names[1])
    else:
        latest.symlink_to(f"../snapshots/{names[1]}")

    with pytest.raises(InputError, match="latest"):
        prune_snapshots(tmp_path, keep=0)
    assert ids(tmp_path) == sorted(names)


def test_damaged_snapshots_are_not_counted(tmp_path):
    """The newest snapshots that stay are all usable."""
    names = [take(tmp_path, hours) for hours in (1, 2, 3, 4)]
    (tmp_path / "snapshots" / names[0] / "manifest.json").unlink()
    done = prune_snapshots(tmp_path, keep=2)

    assert done.removed == ()
    assert prune_snapshots(tmp_path, keep=1).removed == (names[2],)
    assert ids(tmp_path) == sorted([names[0], names[1], names[3]])


def test_links_and_files_stay(tmp_path):
    """A link or a file with a snapshot's name stays, and so does the target of a link."""
    newest = take(tmp_path, 1)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "snapshots" / newest, elsewhere)
    (tmp_path / "snapshots" / "2025-10-14T12-00-00Z").symlink_to(elsewhere)
    (tmp_path / "snapshots" / "2025-10-13T12-00-00Z").write_text("mine")
    done = prune_snapshots(tmp_path, keep=1)

    assert done.removed == ()
    assert [kept.why for kept in done.kept] == ["it is not a folder"] * 2
    assert len(ids(tmp_path)) == 3
    assert len(list(elsewhere.iterdir())) == 2


def test_killed_at_any_step_no_half_snapshot_is_left():
    """Every snapshot is complete or gone, and the next run finishes."""
    disk_faults.need_strace()
    program = (
        "import sys; from pathlib import Path; from mltrain.pipeline.snapshot_pruning import prune_snapshots\n"
        "prune_snapshots(Path(sys.argv[1]), keep=1)"
    )
    with disk_faults.memory_folder() as memory:
        names = [take(memory / "old", hours) for hours in (3, 2, 1)]
        _, operations = disk_faults.run(program, shutil.copytree(memory / "old", memory / "clean", symlinks=True))
        assert ids(memory / "clean") == names[2:]

        for at, operation in enumerate(operations):
            folder = shutil.copytree(memory / "old", memory / f"{at:05d}", symlinks=True)
            disk_faults.run_failing(program, folder, operation, "KILL")
            for name in ids(folder):
                assert verify_snapshot(open_snapshot(folder, name)) == ()
            prune_snapshots(folder, keep=1)
            assert ids(folder) == names[2:]
            assert list(folder.rglob("*.tmp")) == []
    assert len(operations) > 8


def test_pruning_waits_for_the_lock_and_gives_up(tmp_path, monkeypatch):
    """Nothing is removed while a snapshot is being published."""
    old = take(tmp_path, 9)
    take(tmp_path, 1)
    monkeypatch.setattr("mltrain.storage.locks.FOLDER_WAIT_S", 0.0)
    with (
        hold_lock(tmp_path / "snapshots" / ".lock", wait_s=0, purpose="a test"),
        pytest.raises(LockedError, match="a test"),
    ):
        prune_snapshots(tmp_path, keep=1)

    assert old in ids(tmp_path)


def test_days_in_use_are_those_that_a_snapshot_has(tmp_path):
    """Each day that its window touches, for its symbols and its interval only."""
    # One day before 2025-10-15T03:00 UTC.
    name = take(tmp_path, 9)
    in_use = find_days_in_use(tmp_path)

    def days(first, count=1):
        return TimeRange(parse_time(first), parse_time(first) + count * DAY_MS)

    found = {day: in_use("BTCUSDT", "1m", days(day)) for day in ("2025-10-13", "2025-10-14", "2025-10-15")}
    assert found == {"2025-10-13": False, "2025-10-14": True, "2025-10-15": True}
    assert in_use("BTCUSDT", "1m", days("2025-10-13", 2))
    assert not in_use("ETHUSDT", "1m", days("2025-10-14"))
    assert not in_use("BTCUSDT", "5m", days("2025-10-14"))
    (tmp_path / "snapshots" / name / "manifest.json").unlink()
    with pytest.raises(InputError, match="the days it needs are unknown"):
        find_days_in_use(tmp_path)


def test_without_snapshots_nothing_happens(tmp_path):
    """No folder is created."""
    assert prune_snapshots(tmp_path / "none", keep=3).removed == ()
    assert not (tmp_path / "none").exists()
    shutil.rmtree(tmp_path)


def test_a_training_whose_snapshot_was_removed_is_refused(data_dir):
    """If pruning removed the snapshot before the study was locked, the training ends with its id."""
    snapshot = open_snapshot(data_dir, "latest")
    _check_not_pruned(snapshot, Store(data_dir))
    shutil.rmtree(snapshot.path)

    with pytest.raises(InputError, match=snapshot.id):
        _check_not_pruned(snapshot, Store(data_dir))


def test_a_training_leaves_no_lock_next_to_a_snapshot_elsewhere(data_dir, tmp_path):
    """Snapshots outside the data folder are never pruned."""
    copy = shutil.copytree(open_snapshot(data_dir, "latest").path, tmp_path / "away" / "copy")
    _check_not_pruned(open_snapshot(data_dir, str(copy)), Store(data_dir))

    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
