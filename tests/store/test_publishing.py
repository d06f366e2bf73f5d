"""Publishing: a version appears whole or not at all, and a crash at any step can be continued."""

from __future__ import annotations

import inspect
import shutil

import pytest

from mltrain.errors import InputError
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
from support import disk_faults
from support.bare_versions import NOON_MS, files_of, publish, tree


class TestPublish:
    """A version appears whole, under the next free name, and never changes."""

    def test_a_version_reads_back_as_published(self, store):
        """Files, verdict, time and serial are read back; the folder holds nothing else."""
        version = store.open_version("2025-10-15.2")

        assert {name: version.read(name, max_bytes=99) for name in files_of(b"three")} == files_of(b"three")
        assert (version.serial, version.verdict, version.created_at) == (3, "NO-GO", "2025-10-15T12:00:00Z")
        assert (version.promoted, version.live) == (False, False)
        assert version.verify() == ()

    def test_names_count_up_and_serials_do_not_follow_the_clock(self, store):
        """Later versions of a day get a suffix; a clock that goes back changes no order."""
        publish(store, b"five")
        publish(store, b"six", date="1970-01-01")
        rows = store.versions()

        assert [row.name for row in rows] == [
            *("2025-10-14", "2025-10-15", "2025-10-15.2", "2025-10-13", "2025-10-15.3", "1970-01-01")
        ]
        assert [row.version.serial for row in rows] == [1, 2, 3, 4, 5, 6]
        assert store.open_version("latest").name == "1970-01-01"

    def test_nothing_in_the_way_is_overwritten(self, store):
        """Files, links, empty folders and damaged versions keep their names."""
        (store.models / "2025-11-01").touch()
        (store.models / "2025-11-01.2").symlink_to("/etc")
        (store.models / "2025-11-01.3").mkdir()
        (store.models / "2025-10-13" / "manifest.json").unlink()
        before = tree(store.models)
        version = publish(store, b"five", date="2025-11-01")

        assert version.name == "2025-11-01.4"
        assert version.serial == 8
        assert {
            name: data for name, data in tree(store.models).items() if not name.startswith("2025-11-01.4")
        } == before

    def test_the_name_of_a_promoted_version_is_never_used_again(self, store):
        """Otherwise the pointer and the log would silently mean the new version."""
        shutil.rmtree(store.models / "2025-10-15")
        shutil.rmtree(store.models / "2025-10-14")

        assert publish(store, b"five", verdict="NO-GO").name == "2025-10-15.3"
        assert publish(store, b"six", date="2025-10-14").name == "2025-10-14.2"

    @pytest.mark.usefixtures("unchanged")
    def test_a_failure_leaves_nothing(self, store):
        """A file name that is not allowed is refused before the version appears."""
        with pytest.raises(InputError):
            publish_version(store, {**files_of(b"x"), ".hidden": b""}, verdict="GO", date="2025-10-15", now_ms=NOON_MS)

    def test_temporary_files_of_a_killed_writer_are_removed(self, store):
        """The next writer removes them."""
        (store.models / ".2025-10-15.9.ab.tmp" / "x").mkdir(parents=True)
        publish(store, b"five")

        assert not list(store.models.glob(".*.tmp"))


def publish_and_promote(folder):
    """Publish, look, promote for the first time, promote again; a rerun completes an interrupted run."""
    store = Store(folder)
    hand = {"why": "a test", "by": "me@host", "now_ms": 1_760_529_600_000}
    files = {"lgbm.pkl": b"model new", "model_card.json": b'{"mark": "new"}', "report.html": b""}
    if all(row.name != "2025-10-15" for row in store.versions()):
        publish_version(store, files, verdict="GO", date="2025-10-15", now_ms=1_760_529_600_000)
    store.record_look(start_ms=1, end_ms=2, study="a", now_ms=1_760_529_600_000)
    promote_version(store, "2025-10-14", **hand)
    promote_version(store, "2025-10-15", **hand)


PROGRAM = f"""
import sys
from pathlib import Path
from mltrain.store.promotion import promote_version
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store
{inspect.getsource(publish_and_promote)}
publish_and_promote(Path(sys.argv[1]))
"""


def check_store(folder):
    """Check that everything readable is intact, and return the live version's name."""
    store = Store(folder)
    best = store.live_version()
    for row in store.versions():
        assert row.problem is None
        assert row.version.verify() == ()
    assert store.history().problems == ()
    if best is not None:
        assert all((store.models / name).exists() for name in ("best_lgbm.pkl", "best_lgbm_model_card.json"))
    store.looks()
    return best and best.name


@pytest.mark.parametrize(("fault", "step"), [("KILL", 1), ("EIO", 3)])
def test_a_fault_at_any_operation_leaves_a_whole_store_and_a_rerun_completes(fault, step):
    """Killed or failing at any write of publishing and promoting, the store stays intact, and a rerun completes."""
    disk_faults.need_strace()
    with disk_faults.memory_folder() as memory:
        publish(Store(memory / "start"), b"old", date="2025-10-14")
        _, operations = disk_faults.run(PROGRAM, shutil.copytree(memory / "start", memory / "clean"))
        assert check_store(memory / "clean") == "2025-10-15"

        for operation in operations[::step]:
            folder = shutil.copytree(memory / "start", memory / "fault")
            done = disk_faults.run_failing(PROGRAM, folder, operation, fault)
            assert check_store(folder) in {None, "2025-10-14", "2025-10-15"}
            if fault != "KILL":
                assert done.returncode == 0 or "MachineError: cannot " in done.stderr, done.stderr

            publish_and_promote(folder)
            assert check_store(folder) == "2025-10-15"
            assert not list((folder / "models").glob(".*.tmp"))
            shutil.rmtree(folder)
    assert len(operations) > 50


def test_every_rename_is_synced_before_and_after(tmp_path):
    """After a power cut every version is whole, and the pointer leads to one of them."""
    disk_faults.need_strace()
    publish(Store(tmp_path / "data"), b"old", date="2025-10-14")
    done, operations = disk_faults.run(PROGRAM, tmp_path / "data")
    written = [operation.arguments for operation in operations]
    logged = next(i for i, text in enumerate(written) if "fsync" in operations[i].call and "promotions.jsonl" in text)
    moved = next(i for i, text in enumerate(written) if text.endswith('/best_lgbm") = 0'))

    assert done.returncode == 0, done.stderr
    assert disk_faults.unsynced_renames(operations) == []
    assert logged < moved


@pytest.mark.parametrize("name", ["signature.json", "lgbm.pkl"])
def test_files_that_contain_the_name_replace_no_other(store, name):
    """A file name that is given twice is an error, and no file changes."""
    before = tree(store.data_dir)
    with pytest.raises(ValueError, match="given twice"):
        publish_version(
            store, files_of(b"x"), verdict="GO", date="2025-10-15", now_ms=NOON_MS, named=lambda _: {name: b"other"}
        )
    assert tree(store.data_dir) == before
