"""Repair after every way to copy a data folder: what serves afterwards is what served before, or it is named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from mltrain.errors import InputError, MachineError
from mltrain.storage import writing
from mltrain.store.history import Attribution, promotion_line
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.repair import repair_store
from mltrain.store.store import Store
from mltrain.store.version_pruning import prune_versions
from support.bare_versions import HAND, edit, publish, tree

REPAIR = {"by": "me@host", "now_ms": HAND["now_ms"]}


@pytest.fixture
def store(store):
    """Return a store with two slots: in one, the live version was rolled back to; in the other it is forced."""
    roll_back(store, "2025-10-14", **HAND)
    eth = store.in_slot("eth-5m")
    publish(eth, b"e1", date="2025-10-16")
    publish(eth, b"e2", verdict="NO-GO", date="2025-10-16")
    promote_version(eth, "2025-10-16", **HAND)
    promote_version(eth, "2025-10-16.2", force=True, **HAND)
    return store


def files_only(source, target):
    """Copy regular files, as object storage does: no links, no empty folders."""
    for path in source.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.parent.resolve() == path.parent:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def files_through_links(source, target):
    """Copy files and what links lead to, as object storage does where it follows links."""
    for folder, _, names in os.walk(source, followlinks=True):
        for name in names:
            place = target / os.path.relpath(folder, source) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(os.path.join(folder, name), place)  # noqa: PTH118 (of os.walk)


def links_as_text(source, target):
    """Copy links as files that hold their targets, as version control does on a system without links."""
    shutil.copytree(source, target, symlinks=True)
    for path in [path for path in target.rglob("*") if path.is_symlink()]:
        text = str(path.readlink())
        path.unlink()
        path.write_text(text)


def links_made_absolute(source, target):
    """Copy links with absolute paths, as some backup programs do."""
    shutil.copytree(source, target, symlinks=True)
    for path in [path for path in target.rglob("*") if path.is_symlink()]:
        absolute = source / path.relative_to(target).parent / path.readlink()
        path.unlink()
        path.symlink_to(absolute)


def by_command(*commands):
    """Return a copy by shell commands; skip where a program is absent."""

    def copy(source, target):
        for command in commands:
            if shutil.which(command[0]) is None:
                pytest.skip(f"needs {command[0]}")
            words = [word.format(source=source, target=target) for word in command[1:]]
            subprocess.run([command[0], *words], cwd=source, check=True, capture_output=True)

    return copy


COPIES = {
    "cp -r": by_command(("cp", "-r", "{source}", "{target}")),
    "cp -rL": by_command(("cp", "-rL", "{source}", "{target}")),
    "rsync -rt": by_command(("rsync", "-rt", "{source}/", "{target}")),
    "rsync -rtL": by_command(("rsync", "-rtL", "{source}/", "{target}")),
    "zip": by_command(("zip", "-qr", "{target}.zip", "."), ("unzip", "-q", "{target}.zip", "-d", "{target}")),
    "zip -y": by_command(("zip", "-qry", "{target}.zip", "."), ("unzip", "-q", "{target}.zip", "-d", "{target}")),
    "tar": by_command(
        ("mkdir", "{target}"), ("tar", "-cf", "{target}.tar", "."), ("tar", "-xf", "{target}.tar", "-C", "{target}")
    ),
    "tar -h": by_command(
        ("mkdir", "{target}"), ("tar", "-chf", "{target}.tar", "."), ("tar", "-xf", "{target}.tar", "-C", "{target}")
    ),
    "object storage": files_only,
    "object storage through links": files_through_links,
    "links as text": links_as_text,
    "links made absolute": links_made_absolute,
}
#: What keeps the links as they are.
WHOLE = ("cp -r", "zip -y", "tar")


class TestCopies:
    """However the folder was copied, one command makes it serve the versions of the original."""

    @pytest.mark.parametrize("kind", COPIES)
    def test_a_copy_serves_the_versions_of_the_original(self, store, tmp_path, kind):
        """No other version is served before the repair; it restores both slots, and a second one does nothing."""
        COPIES[kind](store.data_dir, tmp_path / "copy")
        copy = Store(tmp_path / "copy")

        if kind not in WHOLE:
            for slot in ("lgbm", "eth-5m"):
                with pytest.raises(InputError) as caught:
                    copy.in_slot(slot).open_default()
                assert caught.value.hint == "run `mltrain models repair`"
                with pytest.raises(InputError):
                    prune_versions(copy.in_slot(slot), keep=0)
        before = tree(copy.data_dir)
        planned = repair_store(copy, dry_run=True, **REPAIR)
        assert tree(copy.data_dir) == before
        assert repair_store(copy, **REPAIR) == planned
        assert all(step.left is None for step in planned)
        assert bool(planned) == (kind not in WHOLE)

        assert repair_store(copy, **REPAIR) == ()
        links = {path: content for path, content in tree(store.data_dir).items() if str(content).startswith("-> ")}
        assert links == {p: content for p, content in tree(copy.data_dir).items() if str(content).startswith("-> ")}
        for slot in ("lgbm", "eth-5m"):
            one, other = store.in_slot(slot), copy.in_slot(slot)
            assert one.live_version().name == other.live_version().name
            assert other.history().problems == ()
            assert one.history().previous() == other.history().previous()
        assert tree(copy.data_dir).keys() - {"models/.lock"} == tree(store.data_dir).keys()


class TestDecision:
    """The remains of the pointer show whether the last line of the log happened."""

    @pytest.fixture
    def interrupted(self, store):
        """Return the store with a last line, to 2025-10-15, that never happened: the pointer stays at 2025-10-14."""
        version = store.open_version("2025-10-15")
        line = promotion_line(
            store.read_promotions(),
            slot="lgbm",
            from_version="2025-10-14",
            to_version="2025-10-15",
            verdict="GO",
            card_sha256=version.card_sha256,
            attribution=Attribution("a test", "me@host", HAND["now_ms"]),
        )
        writing.append_lines(store.promotions_path, [line])
        return store

    @pytest.mark.parametrize("remains", ["folder", "text", "absolute link"])
    def test_a_line_that_never_happened_is_not_restored(self, interrupted, remains):
        """The remains name the earlier version; the log then says the same."""
        pointer = interrupted.pointer.path
        pointer.unlink()
        if remains == "folder":
            shutil.copytree(interrupted.models / "2025-10-14", pointer)
        elif remains == "text":
            pointer.write_text("2025-10-14\n")
        else:
            pointer.symlink_to(interrupted.models / "2025-10-14")

        (step,) = repair_store(interrupted, **REPAIR)
        assert (step.path, step.target) == (pointer, "2025-10-14")
        assert interrupted.live_version().name == "2025-10-14"
        assert interrupted.history().problems == ()
        assert roll_back_previous(interrupted, **HAND).to_version == "2025-10-15"

    def test_without_remains_the_last_line_counts(self, interrupted):
        """There is no evidence against it."""
        interrupted.pointer.path.unlink()

        assert [step.target for step in repair_store(interrupted, **REPAIR)] == ["2025-10-15"]

    @pytest.mark.parametrize("kill", ["the folder is away", "the pointer is in place"])
    def test_an_interrupted_repair_is_completed_by_the_next(self, interrupted, monkeypatch, kill):
        """It keeps the decision, although the remains were removed."""
        pointer = interrupted.pointer.path
        pointer.unlink()
        shutil.copytree(interrupted.models / "2025-10-14", pointer)
        name = "mltrain.store.repair.swap_pointer"
        original = writing.swap_pointer

        def fail(link, target):
            if kill == "the pointer is in place":
                original(link, target)
            raise MachineError("killed")

        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            with pytest.raises(MachineError):
                repair_store(interrupted, **REPAIR)
        repair_store(interrupted, **REPAIR)
        assert interrupted.live_version().name == "2025-10-14"
        assert interrupted.history().problems == ()

    def test_an_interrupted_first_promotion_is_left_to_the_next_one(self, tmp_path):
        """No version was live yet."""
        store = Store(tmp_path / "data")
        publish(store, b"one")
        promote_version(store, "latest", **HAND)
        store.pointer.path.rename(store.pointer.staged)
        for name in store.pointer.links:
            (store.models / name).unlink()

        assert repair_store(store, **REPAIR) == ()
        assert store.live_version() is None

    def test_a_folder_without_any_promotion_needs_no_repair(self, tmp_path):
        """The same holds for a missing folder."""
        store = Store(tmp_path / "data")
        assert repair_store(store, **REPAIR) == ()
        publish(store, b"one")
        assert repair_store(store, **REPAIR) == ()


class TestUndecidable:
    """An undecidable slot is named and left unchanged, and the other slot is still repaired."""

    CASES = {  # noqa: RUF012 (read only)
        "an unknown file": "move .* away",
        "an unknown folder": "move .* away",
        "a folder that is not in the store": "move .* away",
        "another version than the log": "the log ends with 2025-10-14",
        "the version is gone": "there is no version 2025-10-14",
        "the version is damaged": "copy it again",
        "the version is another one": "another version of that name",
        "the log is damaged": "the log is damaged",
        "the log is lost": "nothing was promoted in this slot",
    }

    def damage(self, store, kind):
        """Make the pointer of the default slot undecidable."""
        pointer, folder = store.pointer.path, store.models / "2025-10-14"
        pointer.unlink()
        if kind == "an unknown file":
            pointer.write_bytes(b"my notes")
        elif kind == "an unknown folder":
            pointer.mkdir()
            (pointer / "notes.txt").touch()
        elif kind == "a folder that is not in the store":
            folder.rename(pointer)
        elif kind == "another version than the log":
            pointer.write_text("2025-10-13")
        elif kind == "the version is gone":
            shutil.rmtree(folder)
        elif kind == "the version is damaged":
            edit(folder / "lgbm.pkl", b"model", b"madel")
        elif kind == "the version is another one":
            shutil.rmtree(folder)
            other = Store(store.data_dir.parent / "other")
            publish(other, b"impostor", date="2025-10-14")
            (other.models / "2025-10-14").rename(folder)
        elif kind == "the log is damaged":
            edit(store.promotions_path, b'"serial":1,', b'"serial":9,')
        elif kind == "the log is lost":
            pointer.write_text("2025-10-14")
            store.promotions_path.unlink()

    @pytest.mark.parametrize("kind", CASES)
    def test_it_is_left_and_named(self, store, kind):
        """The slot is not changed; the message says what to do."""
        self.damage(store, kind)
        if kind not in {"the log is damaged", "the log is lost"}:
            store.in_slot("eth-5m").pointer.path.unlink()
        before = tree(store.data_dir)

        steps = {step.path: step for step in repair_store(store, **REPAIR)}
        step = steps[store.pointer.path]
        assert step.target is None
        assert re.search(self.CASES[kind], step.left)
        after = tree(store.data_dir)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert changed <= {"models/promotions.jsonl", "models/best_eth-5m"}
        if kind not in {"the log is damaged", "the log is lost"}:
            assert store.in_slot("eth-5m").live_version().name == "2025-10-16.2"

    def test_an_unknown_file_in_the_place_of_a_link_is_left(self, store):
        """It may be the user's only copy."""
        link = store.models / "best_lgbm.pkl"
        link.unlink()
        link.write_bytes(b"something else")

        (step,) = repair_store(store, **REPAIR)
        assert step.path == link
        assert "move" in step.left
        assert link.read_bytes() == b"something else"


class TestPlaces:
    """Folders that a repair may not write, or on another kind of file system."""

    def test_a_read_only_mount_is_a_machine_error_and_the_dry_run_works(self, store):
        """The plan needs no write, and named versions are served; the repair changes no file."""
        store.pointer.path.unlink()
        program = (
            "import sys; from pathlib import Path; from mltrain.errors import MachineError\n"
            "from mltrain.store.repair import repair_store; from mltrain.store.store import Store\n"
            "store = Store(Path(sys.argv[1]))\n"
            "print(*(step.target for step in repair_store(store, by='', now_ms=0, dry_run=True)))\n"
            "print(store.open_named('2025-10-15').name)\n"
            "try: repair_store(store, by='', now_ms=0)\n"
            "except MachineError as err: print(err.message)\n"
        )
        mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@" "$0"'
        if subprocess.run(["unshare", "-m", "sh", "-c", mounted, store.data_dir, "true"], check=False).returncode:
            pytest.skip("may not mount here")
        before = tree(store.data_dir)
        words = ["unshare", "-m", "sh", "-c", mounted, store.data_dir, sys.executable, "-c", program]
        done = subprocess.run(words, capture_output=True, text=True, check=True)

        planned, served, refused = done.stdout.splitlines()
        assert (planned, served) == ("2025-10-14", "2025-10-15")
        assert "Read-only file system" in refused
        assert tree(store.data_dir) == before

    def test_the_folder_of_another_owner_is_a_machine_error_and_the_dry_run_works(self, store):
        """A user who may only read sees what would be done, and is refused with the path."""
        if os.geteuid() != 0:
            pytest.skip("only root can become another user")
        store.pointer.path.unlink()
        # Everything is imported before the process becomes a user who may not read the environment.
        plan = repair_store(store, dry_run=True, **REPAIR)
        for path in (store.data_dir, *store.data_dir.parents):
            if not path.stat().st_mode & 0o005:
                path.chmod(path.stat().st_mode | 0o055)
        before = tree(store.data_dir)
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.setuid(65534)
            try:
                found = repair_store(store, dry_run=True, **REPAIR) == plan
                repair_store(store, **REPAIR)
            except MachineError as err:
                os.write(write, f"{found} {err.message}".encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        with os.fdopen(read) as out:
            text = out.read()

        assert text.startswith("True ")
        assert "Permission denied" in text
        assert str(store.models) in text
        assert tree(store.data_dir) == before

    def test_no_two_names_differ_only_in_case(self, store):
        """So a file system that ignores case holds every file."""
        names = list(tree(store.data_dir))

        assert len({name.casefold() for name in names}) == len(names)
