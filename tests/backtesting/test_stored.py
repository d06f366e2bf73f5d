"""Stored backtests: whole or not there at all, never changed, and damage that is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.backtesting.stored import list_backtests, open_backtest, prune_backtests, publish_backtest
from mltrain.errors import InputError
from mltrain.times import DAY_MS, parse_time
from support import disk_faults
from support.backtests import make_result
from support.bare_versions import tree

NOW_MS = parse_time("2025-11-01T12:00:00Z")
RESULT = make_result()


def publish(folder, *, now_ms=NOW_MS, result=RESULT, mark=b"fills"):
    """Publish one backtest and return it."""
    return publish_backtest(
        folder,
        result,
        {"fills.parquet": mark},
        now_ms=now_ms,
        named=lambda name: {"report.html": f"<h1>{name}</h1>".encode()},
    )


@pytest.fixture
def folder(tmp_path):
    """Return a data folder with three backtests: two of one day, and one of the day before, run last."""
    publish(tmp_path / "data", mark=b"one")
    publish(tmp_path / "data", mark=b"two", now_ms=NOW_MS + 1_000)
    publish(tmp_path / "data", mark=b"three", now_ms=NOW_MS + DAY_MS)
    return tmp_path / "data"


@pytest.fixture
def stored(folder):
    """Return the folder of the backtests."""
    return folder / "backtests"


class TestPublish:
    """A backtest appears whole, under the next free name."""

    def test_it_reads_back_as_published(self, folder):
        """Result, files, hashes; and the request is a file that is not shared."""
        backtest = open_backtest(folder, "2025-10-15-2025-11-01.2")

        assert backtest.result() == RESULT
        assert (backtest.version, backtest.created_at) == ("2025-10-15", "2025-11-01T12:00:01Z")
        assert backtest.verify() == ()
        assert sorted(path.name for path in backtest.folder.iterdir()) == [
            *("fills.parquet", "manifest.json", "report.html", "request.json", "result.json")
        ]
        assert (backtest.folder / "fills.parquet").read_bytes() == b"two"
        assert (backtest.folder / "report.html").read_text() == "<h1>2025-10-15-2025-11-01.2</h1>"
        request, result = (json.loads((backtest.folder / f"{n}.json").read_bytes()) for n in ("request", "result"))
        assert result["request"] == request

    def test_names_count_up(self, folder):
        """Two a day, of one version; another version or day begins again."""
        names = [row.name for row in list_backtests(folder)]
        other = publish(folder, result=make_result("2025-10-15.2"))

        assert names == ["2025-10-15-2025-11-01", "2025-10-15-2025-11-01.2", "2025-10-15-2025-11-02"]
        assert other.name == "2025-10-15.2-2025-11-01"

    def test_nothing_in_the_way_is_overwritten(self, folder, stored):
        """Files, links, empty and damaged folders keep their names."""
        (stored / "2025-10-15-2025-12-01").touch()
        (stored / "2025-10-15-2025-12-01.2").symlink_to("/nowhere")
        (stored / "2025-10-15-2025-12-01.3").mkdir()
        before = tree(stored)
        published = publish(folder, now_ms=parse_time("2025-12-01T00:00:00Z"))

        assert published.name == "2025-10-15-2025-12-01.4"
        assert {
            name: data for name, data in tree(stored).items() if not name.startswith("2025-10-15-2025-12-01.4")
        } == before

    def test_a_failure_leaves_nothing(self, folder, stored):
        """A report that cannot be drawn: an error, and no trace."""
        before = tree(stored)

        def fail(name):
            raise RuntimeError(name)

        with pytest.raises(RuntimeError, match=r"2025-11-01\.3"):
            publish_backtest(folder, RESULT, {}, now_ms=NOW_MS, named=fail)
        assert tree(stored) == before

    def test_temporary_files_of_a_killed_writer_are_removed(self, folder, stored):
        """The next writer removes them; no reader sees them."""
        (stored / ".2025-10-15-2025-11-01.9.ab.tmp" / "x").mkdir(parents=True)
        assert len(list_backtests(folder)) == 3
        publish(folder)

        assert not list(stored.glob(".*.tmp"))


class TestList:
    """In the order in which they were run."""

    def test_the_tenth_of_a_day_comes_after_the_ninth(self, tmp_path):
        """All in one second: by number, not by text."""
        names = [publish(tmp_path).name for _ in range(11)]

        assert names[9:] == ["2025-10-15-2025-11-01.10", "2025-10-15-2025-11-01.11"]
        assert [row.name for row in list_backtests(tmp_path)] == names
        assert open_backtest(tmp_path, "latest").name == names[-1]

    def test_an_older_day_that_is_run_later_comes_later(self, folder):
        """By the time of the run, not by name."""
        publish(folder, result=make_result("2024-01-01"), now_ms=NOW_MS + 2 * DAY_MS)

        assert list_backtests(folder)[-1].name == "2024-01-01-2025-11-03"
        assert open_backtest(folder, "latest").name == "2024-01-01-2025-11-03"

    @pytest.mark.parametrize("make", [lambda _: None, lambda folder: (folder / "backtests").mkdir(parents=True)])
    def test_there_may_be_none(self, tmp_path, make):
        """No folder, or an empty one: an empty list, and an error for `latest`."""
        make(tmp_path)

        assert list_backtests(tmp_path) == ()
        with pytest.raises(InputError, match="there is no backtest"):
            open_backtest(tmp_path, "latest")

    def test_what_is_no_backtest_is_left_out(self, folder, stored):
        """Other folders, files and links, whatever their names."""
        (stored / "notes").mkdir()
        (stored / "2025-10-15-2025-11-05").touch()
        (stored / "2025-10-15-2025-11-06").symlink_to(stored / "2025-10-15-2025-11-01")

        assert len(list_backtests(folder)) == 3

    @pytest.mark.parametrize(
        "name", ["2025-10-15-2025-11-09", "../backtests/2025-10-15-2025-11-01", "", ".", "x" * 300]
    )
    def test_an_unknown_name_is_an_error(self, folder, name):
        """It names what is there, or the command that lists it."""
        with pytest.raises(InputError, match="there is no backtest") as caught:
            open_backtest(folder, name)

        assert caught.value.hint


def drop(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def make_a_folder(path):
    path.unlink()
    path.mkdir()


def link(path):
    path.unlink()
    path.symlink_to("/etc/passwd")


class TestDamage:
    """A damaged backtest is shown as such, and disturbs no other."""

    @pytest.mark.parametrize("damage", [drop, empty, flip, cut, make_a_folder, link])
    @pytest.mark.parametrize("file", ["manifest.json", "result.json"])
    def test_a_damaged_result_has_a_problem(self, folder, stored, file, damage):
        """In the list; opening it or reading its result is an error."""
        name = "2025-10-15-2025-11-01"
        damage(stored / name / file)
        rows = {row.name: row for row in list_backtests(folder)}

        assert len(rows) == 3
        assert rows[name].problem
        assert rows[name].backtest is None
        assert [row.problem for other, row in rows.items() if other != name] == [None, None]
        with pytest.raises(InputError):
            open_backtest(folder, name).result()

    @pytest.mark.parametrize("damage", [drop, empty, flip, cut, make_a_folder, link])
    @pytest.mark.parametrize("file", ["fills.parquet", "report.html", "request.json"])
    def test_every_file_is_verified(self, folder, stored, file, damage):
        """By its hash."""
        damage(stored / "2025-10-15-2025-11-01" / file)

        assert any(file in problem for problem in open_backtest(folder, "2025-10-15-2025-11-01").verify())

    def test_the_newest_that_is_whole_is_the_latest(self, folder, stored):
        """A damaged one is passed over."""
        flip(stored / "2025-10-15-2025-11-02" / "result.json")

        assert open_backtest(folder, "latest").name == "2025-10-15-2025-11-01.2"

    def test_a_folder_under_another_name_is_noticed(self, folder, stored):
        """Renamed or copied: its manifest has its name."""
        shutil.copytree(stored / "2025-10-15-2025-11-01", stored / "2025-10-16-2025-11-01")
        rows = {row.name: row.problem for row in list_backtests(folder)}

        assert "2025-10-15-2025-11-01" in rows["2025-10-16-2025-11-01"]
        assert rows["2025-10-15-2025-11-01"] is None

    def test_a_result_of_another_backtest_is_noticed(self, folder, stored):
        """With a manifest to match, but for the head."""
        first, second = (stored / f"2025-10-15-2025-11-01{n}" for n in ("", ".2"))
        shutil.copy(publish(folder, result=make_result(equity=5.0)).folder / "result.json", first / "result.json")

        with pytest.raises(InputError):
            open_backtest(folder, first.name).result()
        assert open_backtest(folder, second.name).result() == RESULT

    @given(data=st.data())
    def test_any_changed_byte_is_noticed(self, tmp_path_factory, data):
        """At any place of any file."""
        folder = tmp_path_factory.getbasetemp() / "bytes"
        if not folder.exists():
            publish(folder)
        path = data.draw(st.sampled_from(sorted((folder / "backtests" / "2025-10-15-2025-11-01").iterdir())))
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(changed))
        try:
            problem = open_backtest(folder, "2025-10-15-2025-11-01").verify()
        except InputError as err:
            problem = (err.message,)
        finally:
            path.write_bytes(whole)

        assert problem


class TestPrune:
    """The newest are kept."""

    def test_the_oldest_are_removed(self, folder, stored):
        """And their bytes are counted."""
        gone = stored / "2025-10-15-2025-11-01"
        size = sum(path.stat().st_size for path in gone.iterdir())
        found = prune_backtests(folder, keep=2)

        assert (found.removed, found.bytes) == (("2025-10-15-2025-11-01",), size)
        assert [row.name for row in list_backtests(folder)] == ["2025-10-15-2025-11-01.2", "2025-10-15-2025-11-02"]
        assert not gone.exists()
        assert not list(stored.glob(".*.tmp"))

    def test_a_dry_run_removes_nothing(self, folder, stored):
        """It returns what would be removed."""
        before = tree(stored)
        found = prune_backtests(folder, keep=1, dry_run=True)

        assert found.removed == ("2025-10-15-2025-11-01", "2025-10-15-2025-11-01.2")
        assert tree(stored) == before

    def test_a_damaged_one_goes_first(self, folder, stored):
        """It counts as old."""
        empty(stored / "2025-10-15-2025-11-02" / "manifest.json")

        assert prune_backtests(folder, keep=2).removed == ("2025-10-15-2025-11-02",)

    @pytest.mark.parametrize("keep", [3, 9])
    def test_there_may_be_nothing_to_remove(self, folder, tmp_path, keep):
        """Fewer than are kept, or no folder."""
        assert prune_backtests(folder, keep=keep).removed == ()
        assert prune_backtests(tmp_path / "none", keep=keep).removed == ()
        assert not (tmp_path / "none").exists()

    def test_other_things_are_left(self, folder, stored):
        """Files and folders that are no backtests."""
        (stored / "notes.txt").write_text("mine")
        (stored / "plots").mkdir()
        prune_backtests(folder, keep=1)

        assert {path.name for path in stored.iterdir()} >= {"notes.txt", "plots", "2025-10-15-2025-11-02"}


# Needs no candles and no model: the result comes as its document.
PROGRAM = f"""
import sys
from pathlib import Path
from mltrain.backtesting.result import BacktestResult
from mltrain.backtesting.stored import publish_backtest
from mltrain.documents.records import read_record
from mltrain.documents.strict_json import parse_json
from mltrain.documents.values import Located
data = (Path(sys.argv[1]).parent / "result.json").read_bytes()
result = read_record(Located(parse_json(data, where="result", max_bytes=1 << 20), "result"), BacktestResult)
for _ in range(int((sys.argv[2:] or ["1"])[0])):
    publish_backtest(Path(sys.argv[1]), result, {{"fills.parquet": b"x" * 9999}}, now_ms={NOW_MS},
                     named=lambda name: {{"report.html": name.encode()}})
"""


def write_result(folder):
    shutil.copy(publish(folder / "source").folder / "result.json", folder / "result.json")


def test_a_kill_or_a_full_disk_at_any_write_leaves_no_backtest_or_a_whole_one():
    """Killed at each operation on the folder: the first backtest stays, the second is whole or not there."""
    disk_faults.need_strace()
    with disk_faults.memory_folder() as memory:
        write_result(memory)
        publish(memory / "start")
        _, operations = disk_faults.run(PROGRAM, shutil.copytree(memory / "start", memory / "clean"))
        assert len(list_backtests(memory / "clean")) == 2
        assert disk_faults.unsynced_renames(operations) == []

        found = set()
        # A kill at a sync leaves what the write before it has left, but for the last one, after the renaming.
        changes = [o for o in operations if o.call != "fsync" or o.arguments.split(">")[0].endswith("backtests")]
        for operation in changes:
            folder = shutil.copytree(memory / "start", memory / "fault")
            disk_faults.run_failing(PROGRAM, folder, operation, "KILL")
            rows = list_backtests(folder)
            assert rows[0].name == "2025-10-15-2025-11-01"
            assert all(row.problem is None and row.backtest.verify() == () for row in rows)
            found.add(len(rows))

            again = publish(folder)
            assert again.name == f"2025-10-15-2025-11-01.{len(rows) + 1}"
            assert not list((folder / "backtests").glob(".*.tmp"))
            shutil.rmtree(folder)

        # An error of the machine is a message, and leaves the folder as it was.
        before = tree(memory / "start")
        for operation in (changes[5], next(o for o in changes if o.call == "rename")):
            folder = shutil.copytree(memory / "start", memory / "fault")
            done = disk_faults.run_failing(PROGRAM, folder, operation, "ENOSPC")
            assert "MachineError" in done.stderr
            assert tree(folder) == before
            shutil.rmtree(folder)
    assert found == {1, 2}
    assert len(changes) > 10


def test_two_processes_get_names_of_their_own(tmp_path):
    """Both publish several backtests of one version and day at once: all are whole, none is lost."""
    write_result(tmp_path)
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    runs = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "data"), "6"], env=env) for _ in range(2)]

    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    rows = list_backtests(tmp_path / "data")
    assert len(rows) == 12
    assert all(row.problem is None and row.backtest.verify() == () for row in rows)
    assert Path(rows[-1].backtest.folder / "report.html").read_text() == "2025-10-15-2025-11-01.12"
