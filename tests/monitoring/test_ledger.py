from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.card.lineage import read_lineage
from mltrain.documents.records import to_json
from mltrain.errors import InputError, LockedError, MachineError, UsageError
from mltrain.monitoring import ledger as module
from mltrain.monitoring.ledger import Ledger, LedgerRow, LedgerTail, format_at, read_ledger
from mltrain.serving.answers import Answer
from mltrain.storage.chained_lines import seal_line
from mltrain.storage.locks import lock_folder
from mltrain.times import DAY_MS, LAST_MS, MINUTE_MS, format_ms, parse_time
from support import disk_faults
from support.ledgers import ROW

NOON_MS = parse_time("2025-10-15T12:00:00Z")


def row(number, *, day=0):
    """Return a row that differs from those of other numbers, on the day after `day` days."""
    return replace(ROW, at=format_at(NOON_MS + day * DAY_MS + number * MINUTE_MS), missed=number)


def append(folder, *rows):
    with Ledger(folder) as ledger:
        ledger.append(rows)


@pytest.fixture
def folder(tmp_path):
    """Return a ledger of two days, with two rows each."""
    append(tmp_path / "ledger", row(1), row(2))
    append(tmp_path / "ledger", row(1, day=1), row(2, day=1))
    return tmp_path / "ledger"


ROWS = [row(1), row(2), row(1, day=1), row(2, day=1)]
TIMES_MS = st.integers(0, LAST_MS)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ANY_ROWS = st.builds(
    lambda refused, score, **others: LedgerRow(
        p=None if refused else score, raw=None if refused else score, refused=refused or None, **others
    ),
    st.none() | TEXTS,
    st.floats(0, 1),
    at=st.integers(0, 3 * DAY_MS).map(lambda ms: format_at(NOON_MS + ms)),
    ts=st.none() | TIMES_MS.map(format_ms),
    symbol=st.none() | TEXTS,
    version=TEXTS,
    code_sha256=st.just("0" * 64),
    permit=st.sampled_from([None, "reduce"]),
    high=NUMBERS,
    low=NUMBERS,
    close=NUMBERS,
    source_at=st.none() | TIMES_MS.map(format_ms),
    latency_ms=NUMBERS,
    missed=st.integers(0, 2**40),
)


def test_what_is_no_path_is_a_usage_error():
    """For every way to open a ledger."""
    for call in (Ledger, LedgerTail, read_ledger):
        with pytest.raises(UsageError, match="folder is 5: expected the path of a folder"):
            call(5)


class TestRoundTrip:
    @settings(max_examples=30, deadline=None)
    @given(batches=st.lists(st.lists(ANY_ROWS, max_size=3), max_size=4))
    def test_rows_come_back_in_the_order_in_which_they_were_appended(self, tmp_path_factory, batches):
        """Whatever they hold, and whether a process goes on or a new one does."""
        one, many = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("many")
        tail = LedgerTail(one)
        tailed = []
        with Ledger(one) as ledger:
            for rows in batches:
                ledger.append(rows)
                append(many, *rows)
                tailed += tail.new_rows()

        expected = [each for rows in batches for each in rows]
        assert list(read_ledger(one)) == list(read_ledger(many)) == tailed == expected
        assert {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in many.iterdir()}

    @settings(max_examples=100, deadline=None)
    @given(row=ANY_ROWS, prev=st.none() | st.just("1" * 64))
    def test_a_line_is_that_of_every_chained_log(self, row, prev):
        """The fast ways to write and to read a line give what the general ones do."""
        line = module._write_line(row, prev)

        assert line.decode() == seal_line({**to_json(row), "prev": prev})
        assert module._read_own_line(line) == (row, prev) == module._read_line(line, "x")

    def test_a_line_is_readable(self, folder):
        """One document per line, in the file of its UTC day."""
        lines = (folder / "2025-10-15.jsonl").read_text().splitlines()
        documents = [json.loads(line) for line in lines]

        assert [path.name for path in sorted(folder.glob("*.jsonl"))] == ["2025-10-15.jsonl", "2025-10-16.jsonl"]
        assert documents[0] == {**to_json(ROWS[0]), "prev": None, "self_sha256": documents[0]["self_sha256"]}
        assert len(lines[0]) < 700

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"at": "2025-10-15T12:00:00Z"}, "at: '2025-10-15T12:00:00Z' is not a time such as"),
            ({"ts": "yesterday"}, "ts: 'yesterday' is not a time"),
            ({"symbol": "x" * 301}, r"symbol: 'x+\.\.\.' is not a text of at most 300 characters"),
            ({"symbol": "\ud800"}, "symbol: .* is not a text"),
            ({"close": float("nan")}, "close: 'nan' is not a finite number"),
            ({"p": float("nan")}, "p: 'nan' is not a number from 0 to 1"),
            ({"raw": 1.5}, r"raw: '1\.5' is not a number from 0 to 1"),
            ({"missed": -1}, "missed: '-1' is not a number from 0 on"),
            ({"code_sha256": "abc"}, "code_sha256: 'abc' is not a SHA-256"),
            ({"p": None}, "p: is null if and only if the answer was refused"),
            ({"refused": "stale"}, "p: is null if and only if"),
        ],
    )
    def test_a_row_that_could_not_be_read_back_is_never_made(self, values, message):
        with pytest.raises(InputError, match=message):
            replace(ROW, **values)

    def test_times_select_rows(self, folder):
        """From `since_ms` on and before `until_ms`, over day files; files of earlier days are not even opened."""
        (folder / "2025-10-15.jsonl").write_text("damaged\n")
        since_ms = NOON_MS + DAY_MS + MINUTE_MS

        assert list(read_ledger(folder, since_ms=since_ms)) == ROWS[2:]
        assert list(read_ledger(folder, since_ms=since_ms + 1)) == ROWS[3:]
        assert list(read_ledger(folder, since_ms=since_ms, until_ms=since_ms + MINUTE_MS)) == ROWS[2:3]
        assert list(read_ledger(folder / "none")) == []


class TestChain:
    def test_any_changed_byte_is_found(self, tmp_path):
        """By the file and the line in which it is; but for the last newline, without which the line is torn."""
        append(tmp_path, row(1), row(2), row(3))
        path = tmp_path / "2025-10-15.jsonl"
        data = path.read_bytes()
        for at in range(len(data) - 1):
            number = data.count(b"\n", 0, at) + 1
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(InputError, match=rf"2025-10-15\.jsonl: line {number}(:|,)"):
                list(read_ledger(tmp_path))

    def test_a_removed_or_exchanged_line_is_found(self, folder):
        """At the line after it, in the next day's file as well."""
        first, second = (folder / "2025-10-15.jsonl").read_bytes().splitlines(keepends=True)
        damages = [(first, "2025-10-16.jsonl: line 1"), (second + first, "2025-10-15.jsonl: line 2")]

        for data, where in damages:
            (folder / "2025-10-15.jsonl").write_bytes(data)
            with pytest.raises(InputError, match=f"{where}: does not continue the line before") as caught:
                list(read_ledger(folder))
            assert "restore the file" in caught.value.hint

    def test_a_removed_day_is_found_unless_it_is_the_first(self, folder):
        """Old days may be deleted."""
        append(folder, row(1, day=2))
        (folder / "2025-10-15.jsonl").unlink()
        assert list(read_ledger(folder)) == [*ROWS[2:], row(1, day=2)]

        append(folder, row(1, day=3))
        (folder / "2025-10-17.jsonl").unlink()
        with pytest.raises(InputError, match=r"2025-10-18\.jsonl: line 1: does not continue"):
            list(read_ledger(folder))

    @pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
    def test_what_is_no_regular_file_is_refused_at_once(self, folder, kind):
        """By readers and by the next append, without a hang."""
        path = folder / "2025-10-17.jsonl"
        make = {"link": lambda: path.symlink_to("2025-10-16.jsonl"), "fifo": lambda: os.mkfifo(path)}
        make.get(kind, path.mkdir)()

        with pytest.raises(InputError, match=r"2025-10-17\.jsonl is (not a regular file|a symbolic link)"):
            list(read_ledger(folder))
        with pytest.raises(MachineError, match=r"2025-10-17\.jsonl is not a regular file: an answer"):
            append(folder, row(1, day=2))

    def test_a_line_without_an_end_is_not_held_in_memory(self, folder):
        """A file of one endless line is damaged."""
        with (folder / "2025-10-16.jsonl").open("ab") as file:
            file.write(b"x" * 70_000)

        with pytest.raises(InputError, match="line 3: is too long"):
            list(read_ledger(folder))


class TestTornEnd:
    @pytest.mark.parametrize("kept", [0, 1, 2])
    def test_readers_ignore_it_and_the_next_append_cuts_it_off(self, folder, kept):
        """After a kill in the middle of a write: of a later line, or of the first one of the newest file."""
        path = folder / "2025-10-16.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:kept]) + lines[0][:100])
        tail = LedgerTail(folder)
        expected = ROWS[: 2 + kept]

        assert list(read_ledger(folder)) == list(tail.new_rows()) == expected
        append(folder, row(9, day=1))
        assert list(tail.new_rows()) == [row(9, day=1)]
        assert list(read_ledger(folder)) == [*expected, row(9, day=1)]

    def test_it_is_cut_off_before_a_new_day_begins(self, folder):
        """Otherwise a line in the middle would have no end."""
        with (folder / "2025-10-16.jsonl").open("ab") as file:
            file.write(b"{")
        append(folder, row(1, day=2))

        assert list(read_ledger(folder)) == [*ROWS, row(1, day=2)]
        with (folder / "2025-10-16.jsonl").open("ab") as file:
            file.write(b"{")
        with pytest.raises(InputError, match=r"2025-10-16\.jsonl: line 3: has no end"):
            list(read_ledger(folder))


class TestDays:
    def test_a_clock_that_is_set_back_stays_in_the_newest_file(self, folder):
        """The order of the files is that of the lines."""
        append(folder, row(5))

        assert list(read_ledger(folder)) == [*ROWS, row(5)]
        assert len((folder / "2025-10-16.jsonl").read_text().splitlines()) == 3

    def test_a_day_that_another_process_began_is_noticed(self, folder):
        """The clock may be set back over midnight between two processes."""
        with Ledger(folder) as first, Ledger(folder) as second:
            first.append([row(3, day=1)])
            second.append([row(1, day=2)])
            first.append([row(4, day=1)])

        assert list(read_ledger(folder)) == [*ROWS, row(3, day=1), row(1, day=2), row(4, day=1)]

    def test_a_tail_follows_into_the_next_day(self, folder):
        """Also if nothing was read in between, and if the days that it has read are deleted."""
        tail = LedgerTail(folder, since_ms=NOON_MS + DAY_MS)
        assert list(tail.new_rows()) == ROWS[2:]
        assert list(tail.new_rows()) == []

        append(folder, row(3, day=1))
        append(folder, row(1, day=2))
        assert list(tail.new_rows()) == [row(3, day=1), row(1, day=2)]
        append(folder, row(1, day=4))
        for name in ("2025-10-15", "2025-10-16", "2025-10-17"):
            (folder / f"{name}.jsonl").unlink()
        assert list(tail.new_rows()) == [row(1, day=4)]

    def test_a_tail_finds_that_lines_were_removed_or_changed(self, folder):
        """Even from the end of the newest file."""
        tail = LedgerTail(folder)
        list(tail.new_rows())
        path = folder / "2025-10-16.jsonl"
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])

        with pytest.raises(InputError, match=r"2025-10-16\.jsonl: lines that were read before have been removed"):
            list(tail.new_rows())

    def test_a_deleted_ledger_is_begun_again(self, folder):
        """A process that has it open neither writes into deleted files nor holds the lock of a deleted folder."""
        with Ledger(folder) as ledger:
            ledger.append([row(3, day=1)])
            shutil.rmtree(folder)
            with pytest.raises(
                MachineError, match=r"No such file or directory[^:]*: an answer that cannot be recorded"
            ):
                ledger.append([row(4, day=1)])
            append(folder, row(5, day=1))
            ledger.append([row(6, day=1)])
            shutil.rmtree(folder)
            append(folder, row(7, day=1))
            ledger.append([row(8, day=1)])

        assert list(read_ledger(folder)) == [row(7, day=1), row(8, day=1)]


def append_many(folder, number):
    """Append 40 rows in a process, and close the ledger only now and then."""
    ledger = Ledger(folder)
    for count in range(40):
        ledger.append([replace(row(count), version=str(number), at=format_at(NOON_MS + count * 6 * DAY_MS // 40))])


class TestLastRows:
    def test_returns_the_newest_row_of_each_symbol(self, tmp_path):
        """Over day files and the chunks in which they are read; of a symbol without rows there is none."""
        rows = [replace(row(n, day=n // 20), symbol="ABCD"[n % 2]) for n in range(60)]
        with Ledger(tmp_path) as ledger:
            ledger.append([replace(row(0), symbol="C"), *rows])
            found = ledger.last_rows(["A", "B", "C", "D"])

        assert found == {"A": rows[-2], "B": rows[-1], "C": replace(row(0), symbol="C")}

    @pytest.mark.parametrize("chunk", [1, 7, 500, 10_000])
    def test_the_size_of_a_chunk_does_not_matter(self, folder, monkeypatch, chunk):
        """And the torn end of a line does not, either."""
        with (folder / "2025-10-16.jsonl").open("ab") as file:
            file.write(b'{"symbol":"BTCUSDT"')
        lines = (folder / "2025-10-16.jsonl").read_bytes().splitlines()[:2]
        monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
        fd = os.open(folder / "2025-10-16.jsonl", os.O_RDONLY)
        read = list(module._read_backwards(fd))
        os.close(fd)

        assert read == lines[::-1]

    def test_a_symbol_is_looked_for_in_the_newest_days(self, tmp_path):
        """A ledger of years is not read through for one that it has never seen."""
        with Ledger(tmp_path) as ledger:
            for day in range(8):
                ledger.append([replace(row(0, day=day), symbol="ABCDEFGH"[day])])

            assert list(ledger.last_rows("ABCDEFGH")) == list("HGFEDCB")

    def test_a_changed_row_is_an_error(self, folder):
        """It names the file."""
        path = folder / "2025-10-16.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"missed":2', b'"missed":3'))

        with Ledger(folder) as ledger, pytest.raises(InputError, match=r"10-16\.jsonl: does not match its own hash"):
            ledger.last_rows(["BTCUSDT"])


class TestRecord:
    def test_an_answer_becomes_a_row_of_the_clock_s_time(self, tmp_path):
        """With the hash of the code that ran; times are text."""
        answer = Answer(
            ts_ms=NOON_MS,
            symbol="BTCUSDT",
            version="2025-10-14",
            ops_sha256=None,
            p=0.5,
            raw=0.25,
            prices=(3.0, 1.0, None),
            source_ms=NOON_MS + 1,
            latency_ms=0.12345,
        )
        with Ledger(tmp_path, clock=lambda: NOON_MS / 1000 + 60.5) as ledger:
            ledger.record([answer, replace(answer, ops_sha256="1" * 64), replace(answer, p=None, refused="stale")])
            ledger.record([replace(answer, symbol="\ud800" * 400, ts_ms=None, source_ms=None)])
        first, with_ops, refused, odd = read_ledger(tmp_path)

        assert first == LedgerRow(
            at="2025-10-15T12:01:00.500Z",
            ts="2025-10-15T12:00:00Z",
            symbol="BTCUSDT",
            version="2025-10-14",
            code_sha256=read_lineage().package_sha256,
            p=0.5,
            raw=0.25,
            refused=None,
            permit=None,
            high=3.0,
            low=1.0,
            close=None,
            source_at="2025-10-15T12:00:00.001Z",
            latency_ms=0.123,
        )
        assert with_ops == replace(first, code_sha256=with_ops.code_sha256) != first
        assert refused == replace(first, p=None, refused="stale")
        assert (odd.ts, odd.source_at, odd.symbol[:7]) == (None, None, "'\\ud800")


def append_in_child(ledger, folder):
    """Append a row in the child of a fork; before, no file of the ledger is open."""
    opened = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    assert [path for path in opened if path.is_relative_to(folder)] == []
    ledger.append([row(20)])


class TestSeveralWriters:
    def test_processes_append_at_once(self, tmp_path):
        """No line is lost, torn or out of the chain, over several days; each process's lines are in its order."""
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=append_many, args=(tmp_path, number)) for number in range(3)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()

        rows = list(read_ledger(tmp_path))
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert [[r.missed for r in rows if r.version == str(n)] for n in range(3)] == [list(range(40))] * 3

    def test_threads_and_a_fork_share_an_object(self, tmp_path):
        """A child of a fork has neither the parent's lock nor its thread."""
        ledger = Ledger(tmp_path)
        ledger.append([row(0)])
        threads = [threading.Thread(target=ledger.append, args=([row(n), row(n)],)) for n in range(1, 20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process = multiprocessing.get_context("fork").Process(target=append_in_child, args=(ledger, tmp_path))
        process.start()
        process.join()
        assert process.exitcode == 0
        ledger.append([row(21)])
        ledger.close()

        rows = [r.missed for r in read_ledger(tmp_path)]
        assert sorted(rows) == sorted([*[0], *[n for n in range(1, 20) for _ in "ab"], 20, 21])
        assert rows[-2:] == [20, 21]

    def test_waits_for_the_lock_only_so_long(self, folder, monkeypatch):
        """A stopped process does not block the others without end."""
        monkeypatch.setattr(module, "FOLDER_WAIT_S", 0.0)
        with (
            lock_folder(folder, purpose="x"),
            pytest.raises(LockedError, match=r"holds .*ledger/\.lock: an answer"),
        ):
            append(folder, row(3, day=1))
        append(folder, row(3, day=1))

        assert list(read_ledger(folder)) == [*ROWS, row(3, day=1)]

    def test_a_copy_in_another_process_goes_on(self, folder):
        """A pickle is the same ledger."""
        with pickle.loads(pickle.dumps(Ledger(folder))) as ledger:
            ledger.append([row(3, day=1)])

        assert list(read_ledger(folder)) == [*ROWS, row(3, day=1)]


class TestFaultsOfTheDisk:
    def test_a_full_disk_withholds_the_answer_and_damages_nothing(self, folder, monkeypatch):
        """What was half written is cut off; once there is space again, the ledger goes on."""
        write = os.write

        def fail(fd, data):
            if len(data) > 100:
                return write(fd, data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with Ledger(folder) as ledger:
            ledger.append([row(3, day=1)])
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", fail)
                for _ in range(2):
                    with pytest.raises(MachineError, match=r"No space left .*[^:]*: an answer that cannot") as caught:
                        ledger.append([row(4, day=1)])
            ledger.append([row(5, day=1)])

        assert "free some space" in caught.value.hint
        assert list(read_ledger(folder)) == [*ROWS, row(3, day=1), row(5, day=1)]

    def test_lines_that_did_not_reach_the_disk_fail_the_next_append_or_the_end(self, folder, monkeypatch):
        """The error is raised once."""
        fsync = os.fsync

        def fail(fd):
            fsync(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        # The test flushes, when it wants to.
        monkeypatch.setattr(module, "_sync_often", lambda *_: None)
        ledger = Ledger(folder)
        ledger.append([row(3, day=1)])
        monkeypatch.setattr(os, "fsync", fail)
        ledger.sync()
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(MachineError, match="Input/output error"):
            ledger.append([row(4, day=1)])
        ledger.append([row(5, day=1)])
        monkeypatch.setattr(os, "fsync", fail)
        ledger.sync()
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(MachineError, match="Input/output error"):
            ledger.close()

        assert list(read_ledger(folder)) == [*ROWS, row(3, day=1), row(5, day=1)]

    def test_a_thread_flushes_the_lines(self, tmp_path, monkeypatch):
        """Nobody has to close the ledger; the thread does not keep it alive."""
        synced = threading.Event()
        fsync = os.fsync
        ledger = Ledger(tmp_path)
        ledger.append([row(1)])
        monkeypatch.setattr(os, "fsync", lambda fd: (fsync(fd), synced.set()))
        monkeypatch.setattr(module, "SYNC_S", 0.0)
        ledger.append([row(2)])
        assert synced.wait(10)

        thread = ledger._syncing
        del ledger
        thread.join(10)
        assert not thread.is_alive()


PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
from mltrain.monitoring.ledger import Ledger, LedgerRow, read_ledger
row = LedgerRow("2025-10-15T12:00:00.000Z", None, "A", "v", "0" * 64, 0.5, 0.5, None, None, 1.0, 1.0, 1.0, None, None)
with Ledger(Path(sys.argv[1])) as ledger:
    ledger.append([row, replace(row, missed=1)])
    ledger.append([replace(row, at="2025-10-16T00:00:00.000Z", missed=2)])
    ledger.append([replace(row, at="2025-10-16T00:00:00.001Z", missed=3)])
"""


@pytest.mark.parametrize("fault", ["KILL", "ENOSPC"])
def test_a_fault_at_any_operation_leaves_whole_lines(fault):
    """A kill, or a full disk: what was appended before stays; the next process goes on after it."""
    disk_faults.need_strace()
    with disk_faults.memory_folder() as memory:
        append(memory / "start", replace(ROW, at="2025-10-14T00:00:00.000Z"))
        _, operations = disk_faults.run(PROGRAM, shutil.copytree(memory / "start", memory / "clean"))
        assert [r.missed for r in read_ledger(memory / "clean")] == [0, 0, 1, 2, 3]

        counts = set()
        for operation in operations:
            # The thread's flushes come at any time. Space is needed by writes alone.
            if operation.call == "fsync" or (fault == "ENOSPC" and "jsonl" not in operation.arguments):
                continue
            folder = shutil.copytree(memory / "start", memory / "fault")
            done = disk_faults.run_failing(PROGRAM, folder, operation, fault)
            assert (fault == "KILL") != ("an answer that cannot be recorded is not given" in done.stderr)
            kept = [r.missed for r in read_ledger(folder)]
            assert kept == [0, 0, 1, 2, 3][: len(kept)]
            counts.add(len(kept))
            append(folder, row(9, day=1))
            assert [r.missed for r in read_ledger(folder)] == [*kept, 9]
            shutil.rmtree(folder)

    # At each write the lines of those before it are there.
    assert counts >= {1, 3, 4}
    assert fault == "KILL" or counts == {1, 3, 4}


def test_the_ledger_needs_no_polars():
    """A process that only reads it stays small."""
    program = (
        "import sys, mltrain.monitoring.ledger; sys.exit(bool({'polars', 'numpy', 'lightgbm'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
