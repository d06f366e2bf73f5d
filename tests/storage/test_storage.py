"""Storage: written files survive a crash, unsafe paths are never read, and every refusal gives its reason."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import inspect
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.errors import InputError, LockedError, MachineError
from mltrain.storage import descriptors, disk_errors, folders, hashing, locks, reading, temps, writing
from support import disk_faults


def make_socket(path):
    """Bind a socket at a path, by its relative name, as the path of a socket must be short."""
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)


ODDITIES = {
    "missing": lambda path: None,  # noqa: ARG005 (nothing is made)
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "folder": lambda path: path.mkdir(),
    "fifo": os.mkfifo,
    "socket": make_socket,
}


def tree(folder):
    """Return every path below a folder with its bytes or link target."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
    }


class TestRead:
    """Reading files."""

    def test_returns_the_bytes_up_to_the_cap(self, tmp_path):
        """A file of exactly the limit is read, one byte more is refused."""
        path = tmp_path / "f"
        path.write_bytes(b"x" * 100)

        assert reading.read_file(path, max_bytes=100, what="the file") == b"x" * 100
        with pytest.raises(InputError, match="too large: 100 bytes, at most 99"):
            reading.read_file(path, max_bytes=99, what="the file")

    def test_a_huge_sparse_file_is_refused_by_its_size(self, tmp_path):
        """A sparse file of 10 GB is refused without being read."""
        path = tmp_path / "f"
        path.touch()
        os.truncate(path, 10 << 30)

        for read in (reading.read_file, hashing.hash_file):
            with pytest.raises(InputError, match="too large"):
                read(path, max_bytes=1 << 20, what="the model")

    @pytest.mark.parametrize("read", [reading.read_file, hashing.hash_file])
    @pytest.mark.parametrize("kind", ODDITIES)
    def test_anything_but_a_regular_file_is_refused_at_once(self, tmp_path, kind, read):
        """No link is followed and no read blocks; the message has the role and the path."""
        path = tmp_path / "f"
        ODDITIES[kind](path)

        with pytest.raises(InputError, match=f"the card {path} (is|does) ") as caught:
            read(path, max_bytes=10, what="the card")
        assert len(caught.value.message.splitlines()) == 1

    @pytest.mark.parametrize("name", ["f/g", "x" * 300, "a\0b", "../" * 2_000])
    def test_impossible_paths_are_refused(self, tmp_path, name):
        """Paths below a file, too long ones and those with a NUL are input errors."""
        (tmp_path / "f").touch()

        with pytest.raises(InputError, match="the card "):
            reading.read_file(tmp_path / name, max_bytes=10, what="the card")

    def test_a_device_is_refused(self):
        """A device, which has no size and no end, is an input error."""
        with pytest.raises(InputError, match="not a regular file"):
            reading.read_file(Path("/dev/zero"), max_bytes=10, what="the card")

    def test_links_of_the_user_are_followed(self, tmp_path):
        """A circular link stays a link, which is refused when opened; a NUL is an input error."""
        (tmp_path / "f").symlink_to("g")
        (tmp_path / "loop").symlink_to("loop")

        assert descriptors.real_path(tmp_path / "f") == descriptors.real_path(tmp_path) / "g"
        with pytest.raises(InputError, match=r"the card .* is a symbolic link"):
            reading.read_file(descriptors.real_path(tmp_path / "loop"), max_bytes=10, what="the card")
        with pytest.raises(InputError, match="cannot be a path"):
            descriptors.real_path(tmp_path / "a\0b")

    @given(st.binary(max_size=3_000))
    def test_hashes_agree(self, tmp_path_factory, data):
        """The hash of a file is the hash of its bytes."""
        path = tmp_path_factory.mktemp("hash") / "f"
        path.write_bytes(data)

        assert hashing.hash_file(path, max_bytes=3_000, what="the file") == hashing.sha256_bytes(data)
        assert hashing.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


class TestWrite:
    """Writing one file."""

    def test_atomic_write_replaces_and_leaves_no_temp(self, tmp_path):
        """The folder has only the file with the new bytes."""
        path = tmp_path / "f"
        writing.atomic_write(path, b"one")
        writing.atomic_write(path, b"two")

        assert tree(tmp_path) == {"f": b"two"}

    def test_any_number_of_files_is_written(self, tmp_path):
        """More than are open at a time; each has its own bytes."""
        files = {f"f{i}": b"%d" % i for i in range(150)}
        writing.atomic_write_all(tmp_path, files)

        assert tree(tmp_path) == files

    def test_atomic_write_replaces_a_link_and_not_its_target(self, tmp_path):
        """The target of a link is never written."""
        (tmp_path / "target").write_bytes(b"keep")
        (tmp_path / "f").symlink_to("target")
        writing.atomic_write(tmp_path / "f", b"new")

        assert tree(tmp_path) == {"target": b"keep", "f": b"new"}

    def test_an_output_follows_the_links_of_its_user(self, tmp_path):
        """The link stays, and its target has the bytes, also in another folder."""
        (tmp_path / "far").mkdir()
        (tmp_path / "f").symlink_to("far/g")
        writing.write_outputs(tmp_path, {"f": b"one", "h": b"two"})

        assert tree(tmp_path) == {"far": None, "far/g": b"one", "f": "-> far/g", "h": b"two"}

    @pytest.mark.parametrize("kind", sorted(ODDITIES.keys() & {"loop", "folder", "fifo", "socket"}))
    def test_an_output_replaces_only_files(self, tmp_path, kind):
        """A device or a pipe stays: root would lose `/dev/null`."""
        ODDITIES[kind](tmp_path / "f")
        before = os.lstat(tmp_path / "f")

        with pytest.raises(InputError, match=f"the output {tmp_path}/f is not a regular file"):
            writing.write_outputs(tmp_path, {"e": b"new", "f": b"new"})
        assert os.lstat(tmp_path / "f") == before
        assert list(tree(tmp_path)) == ["f"]

    def test_write_new_never_overwrites(self, tmp_path):
        """An existing file or link stays."""
        (tmp_path / "f").write_bytes(b"keep")
        (tmp_path / "g").symlink_to("nowhere")

        for name in ("f", "g"):
            with pytest.raises(MachineError, match="File exists"):
                writing.write_new(tmp_path / name, b"new")
        assert tree(tmp_path) == {"f": b"keep", "g": "-> nowhere"}

    def test_a_missing_folder_is_a_machine_error_that_names_the_path(self, tmp_path):
        """No OSError is raised."""
        path = tmp_path / "no" / "f"

        for write in (writing.write_new, writing.atomic_write):
            with pytest.raises(MachineError, match=f"cannot write {tmp_path}"):
                write(path, b"")

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE])
    def test_disk_errors_names_action_path_and_reason(self, tmp_path, code):
        """Every OSError is exit 8; for a full disk the message has the free bytes."""
        with pytest.raises(MachineError) as caught, disk_errors.disk_errors(tmp_path / "f", "write"):
            raise OSError(code, os.strerror(code))

        assert caught.value.message.startswith(f"cannot write {tmp_path / 'f'}: {os.strerror(code)}")
        assert ("bytes free" in caught.value.message) == (code in {errno.ENOSPC, errno.EDQUOT})

    def test_disk_errors_lets_other_errors_through(self, tmp_path):
        """Programming errors and mltrain's errors are raised unchanged."""
        for error in (ValueError("bug"), InputError("bad"), KeyboardInterrupt()):
            with pytest.raises(type(error)), disk_errors.disk_errors(tmp_path, "write"):
                raise error


class TestStagedFolder:
    """Publishing a folder of files."""

    def test_appears_whole(self, tmp_path):
        """The final name exists only after the block, with all its files."""
        final = tmp_path / "v"
        with folders.staged_folder(final) as folder:
            writing.write_new(folder / "a", b"1")
            (folder / "sub").mkdir()
            writing.write_new(folder / "sub" / "b", b"2")
            during = final.exists()

        assert not during
        assert tree(tmp_path) == {"v": None, "v/a": b"1", "v/sub": None, "v/sub/b": b"2"}

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
    def test_vanishes_on_any_failure(self, tmp_path, error):
        """After an interruption or an error no path is left."""
        with pytest.raises(error), folders.staged_folder(tmp_path / "v") as folder:  # noqa: PT012
            writing.write_new(folder / "a", b"1")
            raise error

        assert tree(tmp_path) == {}

    def test_never_replaces_an_existing_path(self, tmp_path):
        """Not even an empty folder, which `os.rename` would replace."""
        (tmp_path / "v").mkdir()

        with pytest.raises(InputError, match="already exists"), folders.staged_folder(tmp_path / "v"):
            pass
        assert tree(tmp_path) == {"v": None}


class TestPointer:
    """The symbolic link that names the live version."""

    def test_moves_and_is_read_back(self, tmp_path):
        """The target that was set is read; before that, there is no pointer."""
        link = tmp_path / "best"

        assert reading.read_pointer(link) is None
        for name in ("2025-10-14", "2025-10-15"):
            writing.swap_pointer(link, name)
            assert reading.read_pointer(link) == name
        assert tree(tmp_path) == {"best": "-> 2025-10-15"}

    def test_a_staged_pointer_takes_its_place_in_one_step(self, tmp_path):
        """It is renamed, so its temporary name, which shows a started move, is gone."""
        writing.swap_pointer(tmp_path / ".best.next", "2025-10-15")
        writing.place_pointer(tmp_path / ".best.next", tmp_path / "best")

        assert tree(tmp_path) == {"best": "-> 2025-10-15"}

    @pytest.mark.parametrize("target", ["/etc", "../x", "a/b", "..", "."])
    def test_a_target_outside_its_folder_is_refused(self, tmp_path, target):
        """No link out of the folder is followed; the message names the target."""
        link = tmp_path / "best"
        os.symlink(target, link)  # noqa: PTH211 (pathlib would tidy the target)

        with pytest.raises(InputError, match="leads to") as caught:
            reading.read_pointer(link)
        assert str(Path(target)) in caught.value.message

    def test_anything_but_a_link_is_refused(self, tmp_path):
        """A file or a folder is not a pointer."""
        (tmp_path / "f").touch()

        for path in (tmp_path / "f", tmp_path):
            with pytest.raises(InputError, match="not a symbolic link"):
                reading.read_pointer(path)

    @pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../b"])
    def test_a_pointer_is_never_set_to_a_target_outside(self, tmp_path, target):
        """Setting one that leads out of the folder is a programming error."""
        with pytest.raises(ValueError, match="stays in its folder"):
            writing.swap_pointer(tmp_path / "best", target)

    def test_readers_never_find_it_missing_or_torn(self, tmp_path):
        """During the swaps of a writer, every read returns one of the two names."""
        link = tmp_path / "best"
        writing.swap_pointer(link, "a")
        stop = threading.Event()

        def swap():
            while not stop.is_set():
                writing.swap_pointer(link, "b")
                writing.swap_pointer(link, "a")

        writer = threading.Thread(target=swap)
        writer.start()
        seen = {reading.read_pointer(link) for _ in range(3_000)}
        stop.set()
        writer.join()

        assert seen <= {"a", "b"}


class TestAppendLine:
    """Append-only logs."""

    @given(lines=st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), max_size=5))
    def test_lines_come_back_in_order(self, tmp_path_factory, lines):
        """Every line ends with one newline, and earlier lines are unchanged."""
        path = tmp_path_factory.mktemp("lines") / "log"
        for line in lines:
            writing.append_lines(path, [line])

        assert (path.read_bytes() if lines else b"") == "".join(f"{line}\n" for line in lines).encode()

    @pytest.mark.parametrize("kept", [b"", b"one\n", b"one\n" * 600_000])
    @pytest.mark.parametrize("torn", [b"", b"t", b"x" * 2_500_000])
    def test_a_torn_last_line_is_cut_off(self, tmp_path, kept, torn):
        """A killed writer's partial line does not swallow the next one, however long it is."""
        path = tmp_path / "log"
        path.write_bytes(kept + torn)
        writing.append_lines(path, ["two"])

        assert path.read_bytes() == kept + b"two\n"

    def test_refuses_what_is_no_regular_file(self, tmp_path):
        """A link is not followed, a FIFO does not block, and no byte is written."""
        (tmp_path / "target").write_bytes(b"keep\n")
        (tmp_path / "link").symlink_to("target")
        os.mkfifo(tmp_path / "fifo")

        for name in ("link", "fifo", "."):
            with pytest.raises(InputError, match="not a regular file"):
                writing.append_lines(tmp_path / name, ["x"])
        assert (tmp_path / "target").read_bytes() == b"keep\n"

    def test_a_newline_in_a_line_is_a_programming_error(self, tmp_path):
        """One call writes one line."""
        with pytest.raises(ValueError, match="newline"):
            writing.append_lines(tmp_path / "log", ["a\nb"])


class TestLock:
    """A lock has one holder at a time."""

    def test_the_error_names_the_first_holder(self, tmp_path):
        """Exit 7 names pid, host, time and purpose; after the release the lock is free."""
        path = tmp_path / ".lock"
        with (
            locks.hold_lock(path, wait_s=0, purpose="publishing a version"),
            pytest.raises(LockedError) as caught,
            locks.hold_lock(path, wait_s=0, purpose="x"),
        ):
            pass
        with locks.hold_lock(path, wait_s=0, purpose="x"):
            pass

        assert f"pid {os.getpid()} on {os.uname().nodename} since 2" in caught.value.message
        assert "publishing a version" in caught.value.message

    def test_waits_as_long_as_requested(self, tmp_path):
        """A lock that is released in time is taken without an error."""
        path = tmp_path / ".lock"
        held, released = threading.Event(), []

        def hold():
            with locks.hold_lock(path, wait_s=0, purpose="x"):
                held.set()
                time.sleep(0.15)
                released.append(True)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        with locks.hold_lock(path, wait_s=10, purpose="y"):
            waited = list(released)
        thread.join()

        assert waited == [True]

    def test_ends_with_its_process(self, tmp_path):
        """A killed holder leaves no stale lock, whatever the text of the file."""
        path = tmp_path / ".lock"
        program = (
            "import sys, time; from pathlib import Path; from mltrain.storage.locks import hold_lock\n"
            "with hold_lock(Path(sys.argv[1]), wait_s=0, purpose='x'):\n"
            "    print('held', flush=True); time.sleep(60)"
        )
        child = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        with pytest.raises(LockedError, match=f"pid {child.pid} "), locks.hold_lock(path, wait_s=0, purpose="y"):
            pass
        child.kill()
        child.communicate()

        assert path.read_text().startswith(f"pid {child.pid} ")
        with locks.hold_lock(path, wait_s=0, purpose="y"):
            assert path.read_text().startswith(f"pid {os.getpid()} ")

    def test_a_foreign_holder_is_respected_and_its_text_made_printable(self, tmp_path):
        """Any process that has the flock holds the lock, and cannot write control characters to the terminal."""
        path = tmp_path / ".lock"
        path.write_bytes(b"\x1b[2J evil \xff" + b"x" * 1_000)
        with path.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(LockedError) as caught, locks.hold_lock(path, wait_s=0, purpose="y"):
                pass

        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 600

    def test_refuses_what_is_no_regular_file(self, tmp_path):
        """A link in the lock's place is not followed, and its target is not written."""
        (tmp_path / "target").write_bytes(b"keep")
        (tmp_path / ".lock").symlink_to("target")

        with pytest.raises(InputError), locks.hold_lock(tmp_path / ".lock", wait_s=0, purpose="x"):
            pass
        assert (tmp_path / "target").read_bytes() == b"keep"


class TestFolders:
    """Folders exist, are clean, and can be written."""

    def test_sweep_removes_only_temporary_files(self, tmp_path):
        """Hidden `.tmp` files, folders and links are removed; the target of a link stays."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "keep").touch()
        folder = tmp_path / "models"
        (folder / ".2025-10-15.ab.tmp" / "sub").mkdir(parents=True)
        (folder / ".2025-10-15.ab.tmp" / "link").symlink_to(outside)
        (folder / ".best.cd.tmp").symlink_to(outside)
        (folder / ".log.ef.tmp").touch()
        for name in ("a.tmp", ".lock", ".tmpx", "2025-10-15"):
            (folder / name).touch()
        temps.sweep_temps(folder)

        assert sorted(tree(folder)) == [".lock", ".tmpx", "2025-10-15", "a.tmp"]
        assert tree(outside) == {"keep": b""}

    @pytest.mark.parametrize("kind", ["file", "link", "dangling link", "loop", "fifo"])
    def test_the_next_write_test_removes_the_file_of_a_killed_one(self, tmp_path, kind):
        """A link of its name is not followed, and a pipe does not block it."""
        (os.mknod if kind == "file" else ODDITIES[kind])(tmp_path / ".write-test.tmp")
        folders.make_folder(tmp_path)

        assert list(tmp_path.iterdir()) == []

    def test_a_sweep_of_some_names_spares_the_others(self, tmp_path):
        """The holder of one study's lock removes no file of another study that is being written."""
        for name in (".a.journal.1f.tmp", ".ab.journal.1f.tmp", ".b.journal.1f.tmp", "a.journal"):
            (tmp_path / name).touch()
        temps.sweep_temps(tmp_path, of="a.")

        assert sorted(tree(tmp_path)) == [".ab.journal.1f.tmp", ".b.journal.1f.tmp", "a.journal"]

    def test_make_folder_makes_parents_and_leaves_no_test_file(self, tmp_path):
        """It can be repeated, and the folder is empty."""
        for _ in range(2):
            folders.make_folder(tmp_path / "a" / "b")

        assert tree(tmp_path) == {"a": None, "a/b": None}

    def test_a_file_in_the_way_is_a_machine_error(self, tmp_path):
        """The message names the folder that cannot be made."""
        (tmp_path / "a").touch()

        for name in ("a", "a/b"):
            with pytest.raises(MachineError, match="cannot make the folder"):
                folders.make_folder(tmp_path / name)
        assert tree(tmp_path) == {"a": b""}

    @pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs a file system that nobody can write")
    def test_an_unwritable_folder_is_found_before_work_starts(self):
        """Also by root, who ignores modes."""
        with pytest.raises(MachineError, match="cannot write into /proc/sys"):
            folders.make_folder(Path("/proc/sys"))


def replace_all(folder):
    """Call every writer once; a rerun completes missing parts."""
    with locks.hold_lock(folder / ".lock", wait_s=5, purpose="a test"):
        temps.sweep_temps(folder)
        writing.atomic_write(folder / "file", b"new")
        if not (folder / "new").exists():
            with folders.staged_folder(folder / "new") as staged:
                with disk_errors.disk_errors(staged, "write"):
                    (staged / "sub").mkdir()
                    # Without a sync, as another library may write it.
                    (staged / "sub" / "a").write_bytes(b"1")
                writing.write_new(staged / "manifest", b"2")
        if b"two" not in (folder / "log").read_bytes().split(b"\n")[:-1]:
            writing.append_lines(folder / "log", ["two"])
        writing.swap_pointer(folder / "best", "new")


PROGRAM = f"""
import sys
from pathlib import Path
from mltrain.storage import descriptors, disk_errors, folders, hashing, locks, reading, temps, writing
{inspect.getsource(replace_all)}
replace_all(Path(sys.argv[1]))
"""


def old_state(folder):
    folder.mkdir(exist_ok=True)
    (folder / "old").mkdir()
    (folder / "file").write_bytes(b"old")
    (folder / "log").write_bytes(b"one\n")
    (folder / "best").symlink_to("old")


def check_old_or_new(folder):
    """Check that each part is old or new, and new only if all earlier parts are."""
    states = [
        {b"old": 0, b"new": 1}[(folder / "file").read_bytes()],
        {None: 0, ("1", "2"): 1}[
            tuple((folder / "new" / name).read_text() for name in ("sub/a", "manifest"))
            if (folder / "new").exists()
            else None
        ],
        {(b"one",): 0, (b"one", b"two"): 1}[tuple((folder / "log").read_bytes().split(b"\n")[:-1])],
        {"old": 0, "new": 1}[str((folder / "best").readlink())],
    ]
    assert states == sorted(states, reverse=True)
    return sum(states)


@pytest.mark.parametrize("fault", ["KILL", "ENOSPC", "EIO"])
def test_a_fault_at_any_operation_leaves_old_or_new_and_a_rerun_completes(fault):
    """Killed or failing at each step in turn: each file is old or new, and the next run completes the job."""
    disk_faults.need_strace()
    with disk_faults.memory_folder() as memory:
        old_state(memory / "clean")
        _, operations = disk_faults.run(PROGRAM, memory / "clean")
        assert check_old_or_new(memory / "clean") == 4

        for index, operation in enumerate(operations):
            folder = memory / f"{index:05d}"
            old_state(folder)
            done = disk_faults.run_failing(PROGRAM, folder, operation, fault)
            assert (done.returncode == 0) <= (check_old_or_new(folder) == 4)
            if fault != "KILL":
                assert done.returncode == 0 or "MachineError: cannot " in done.stderr, done.stderr
                assert not list(folder.glob(".*.tmp"))

            replace_all(folder)
            assert check_old_or_new(folder) == 4
            assert not list(folder.glob(".*.tmp"))
    assert len(operations) > 20


def test_every_rename_is_synced_before_and_after(tmp_path):
    """After a power cut no name lacks its bytes: files are synced before the rename, the folder after it."""
    disk_faults.need_strace()
    old_state(tmp_path / "clean")
    done, operations = disk_faults.run(PROGRAM, tmp_path / "clean")

    assert done.returncode == 0, done.stderr
    assert sum(operation.call.startswith("rename") for operation in operations) == 3
    assert disk_faults.unsynced_renames(operations) == []
