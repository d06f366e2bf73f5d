"""The store: versions that never change, one pointer, and a log that tells how it got there."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import threading

import pytest

from mltrain.documents.strict_json import canonical_json
from mltrain.errors import InputError, LockedError, NoGoError, UsageError
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import hold_lock
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.pruning import prune_versions
from mltrain.store.publishing import publish_version
from mltrain.store.store import Store, open_path
from support import disk_faults

NOON_MS = 1_760_529_600_000
HAND = {"why": "a test", "by": "me@host", "now_ms": NOON_MS}


def files_of(mark):
    """Return the files of a version; `mark` makes them differ from those of another."""
    return {"lgbm.pkl": b"model " + mark, "model_card.json": b'{"mark": "' + mark + b'"}', "report.html": b""}


def publish(store, mark, *, verdict="GO", date="2025-10-15"):
    """Publish one version and return it."""
    return publish_version(store, files_of(mark), verdict=verdict, date=date, now_ms=NOON_MS)


def tree(folder):
    """Return everything below a folder but the locks: path, and bytes or link target."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else (path.read_bytes() if path.is_file() else None)
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a data folder of four versions: promoted once, promoted last, NO-GO, never promoted."""
    store = Store(tmp_path_factory.mktemp("made") / "data")
    publish(store, b"one", date="2025-10-14")
    publish(store, b"two")
    publish(store, b"three", verdict="NO-GO")
    publish(store, b"four", date="2025-10-13")
    promote_version(store, "2025-10-14", **HAND)
    promote_version(store, "2025-10-15", **HAND)
    return store.data_dir


@pytest.fixture
def store(made, tmp_path):
    """Return a store of those four versions that the test may change."""
    return Store(shutil.copytree(made, tmp_path / "data", symlinks=True), lock_wait_s=0.05)


@pytest.fixture
def unchanged(store):
    """Check after the test that nothing on the disk has changed during it."""
    before = tree(store.data_dir)
    yield
    assert tree(store.data_dir) == before


class TestPublish:
    """A version appears whole, under the next free name, and is never changed."""

    def test_a_version_reads_back_as_published(self, store):
        """Files, verdict, time and serial; nothing else lies in the folder."""
        version = store.open_version("2025-10-15.2")

        assert {name: version.read(name, max_bytes=99) for name in files_of(b"three")} == files_of(b"three")
        assert (version.serial, version.verdict, version.created_at) == (3, "NO-GO", "2025-10-15T12:00:00Z")
        assert (version.promoted, version.live) == (False, False)
        assert version.verify() == ()

    def test_names_count_up_and_serials_do_not_follow_the_clock(self, store):
        """A day's later versions get a suffix; a clock that goes back does not reorder anything."""
        publish(store, b"five")
        publish(store, b"six", date="1970-01-01")
        rows = store.versions()

        assert [row.name for row in rows] == [
            *("2025-10-14", "2025-10-15", "2025-10-15.2", "2025-10-13", "2025-10-15.3", "1970-01-01")
        ]
        assert [row.version.serial for row in rows] == [1, 2, 3, 4, 5, 6]
        assert store.open_version("latest").name == "1970-01-01"

    def test_nothing_in_the_way_is_overwritten(self, store):
        """Whatever has the name of a version keeps it: files, links, empty folders, damaged versions."""
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

    def test_the_name_of_a_version_that_was_promoted_is_never_given_again(self, store):
        """The pointer and the log would silently mean the new one."""
        shutil.rmtree(store.models / "2025-10-15")
        shutil.rmtree(store.models / "2025-10-14")

        assert publish(store, b"five", verdict="NO-GO").name == "2025-10-15.3"
        assert publish(store, b"six", date="2025-10-14").name == "2025-10-14.2"

    @pytest.mark.usefixtures("unchanged")
    def test_a_failure_leaves_nothing(self, store):
        """A name that no version can hold is refused before the folder has its name."""
        with pytest.raises(InputError):
            publish_version(store, {**files_of(b"x"), ".hidden": b""}, verdict="GO", date="2025-10-15", now_ms=NOON_MS)

    def test_a_killed_writers_leavings_are_swept(self, store):
        """By whoever holds the lock next."""
        (store.models / ".2025-10-15.9.ab.tmp" / "x").mkdir(parents=True)
        publish(store, b"five")

        assert not list(store.models.glob(".*.tmp"))


class TestReferences:
    """What names a version, and what is said of one that is not there."""

    def test_every_way_to_the_best_version(self, store):
        """By `best`, by name, and by every path that leads there."""
        paths = ["best_lgbm", "best_lgbm.pkl", "best_lgbm_model_card.json", "best_lgbm/lgbm.pkl", "2025-10-15"]
        paths += ["2025-10-15/model_card.json", "../models/2025-10-15/"]
        versions = [store.open_version("best"), store.open_version("2025-10-15"), store.live_version()]
        versions += [store.open_version(f"{store.models}/{path}") for path in paths]
        versions += [open_path(store.models / path) for path in paths]

        assert {(v.name, v.live, v.promoted) for v in versions} == {("2025-10-15", True, True)}
        assert {v.folder for v in versions} == {store.models / "2025-10-15"}

    def test_a_link_of_the_users_own_is_followed(self, store, tmp_path):
        """A path that the user names is the user's to choose."""
        (tmp_path / "current").symlink_to(store.models / "2025-10-14")
        (tmp_path / "model").symlink_to(store.models / "best_lgbm.pkl")

        assert open_path(tmp_path / "current").name == "2025-10-14"
        assert open_path(tmp_path / "model").name == "2025-10-15"

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize(
        "ref",
        ["", "Best", "bestt", "-rf", "%2e%2e", "2025-10-15\n", "\u0662025-10-15", "x" * 10_000, "../../x", "a/b", "/"],
    )
    def test_what_is_no_reference_is_a_usage_error(self, store, ref):
        """The message is short, whatever was given."""
        with pytest.raises(UsageError) as caught:
            store.open_version(ref)
        assert len(caught.value.message) < 120

    def test_a_nul_is_a_usage_error(self, store):
        """It cannot be in a path."""
        with pytest.raises(UsageError):
            store.open_version("a\0b/2025-10-15")

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("ref", ["2025-10-16", "2025-10-15.3", "./2025-10-15", "/nowhere/2025-10-15"])
    def test_an_unknown_version_is_an_input_error_with_a_way_out(self, store, ref):
        """The nearest ones are named where there are any."""
        with pytest.raises(InputError, match="no version 2025-10-1") as caught:
            store.open_version(ref)

        assert ("2025-10-15" in caught.value.hint) == ("/" not in ref)

    def test_without_any_version_the_hint_is_to_train_and_nothing_is_made(self, tmp_path):
        """Reading a store that is not there makes no folder."""
        store = Store(tmp_path / "none")
        for ref in ("best", "latest", "2025-10-15"):
            with pytest.raises(InputError) as caught:
                store.open_version(ref)
            assert "mltrain train" in caught.value.hint
        for call in (store.open_default, lambda: roll_back(store, "2025-10-15", **HAND)):
            with pytest.raises(InputError):
                call()
        with pytest.raises(InputError, match="no version was live yet"):
            roll_back_previous(store, **HAND)

        assert (store.versions(), store.live_version(), store.looks(), store.history().entries) == ((), None, (), ())
        assert not store.data_dir.exists()

    def test_the_default_is_best_and_else_latest_with_a_warning(self, store):
        """A choice that the user did not make is told."""
        best, silence = store.open_default()
        named, no_warning = store.open_default("2025-10-14")
        for name in ("best_lgbm", "promotions.jsonl"):
            (store.models / name).unlink()
        latest, warning = store.open_default()

        assert (best.name, silence) == ("2025-10-15", None)
        assert (named.name, no_warning) == ("2025-10-14", None)
        assert latest.name == "2025-10-13"
        assert "2025-10-13 (GO)" in warning


class TestList:
    """The list is cheap, and damaged versions stand in it."""

    def test_damaged_versions_come_last_with_their_problem(self, store):
        """Incomplete, forged, renamed, linked: each is named, none stops the list."""
        models = store.models
        (models / "2025-10-13" / "manifest.json").unlink()
        (models / "2025-10-15.2" / "manifest.json").write_bytes(b"{}")
        (models / "2025-10-14").rename(models / "2025-10-12")
        (models / "2025-10-20").symlink_to("2025-10-15")
        (models / "2025-10-21").touch()
        os.mkfifo(models / "2025-10-22")
        (models / "notes").mkdir()
        rows = store.versions()

        assert [row.name for row in rows] == [
            *("2025-10-15", "2025-10-12", "2025-10-13", "2025-10-15.2", "2025-10-20", "2025-10-21", "2025-10-22")
        ]
        assert [row.problem is None for row in rows] == [True] + [False] * 6
        assert [row.latest for row in rows] == [True] + [False] * 6
        assert "published as version 2025-10-14" in rows[1].problem
        assert "not a complete version" in rows[2].problem
        assert "not a folder" in rows[4].problem

    def test_no_file_of_a_version_is_opened(self, store):
        """A hundred thousand versions would otherwise be hashed: a FIFO in the model's place does not stop the list."""
        (store.models / "2025-10-15" / "lgbm.pkl").unlink()
        os.mkfifo(store.models / "2025-10-15" / "lgbm.pkl")

        assert all(row.problem is None for row in store.versions())


class TestForgery:
    """A manifest that agrees with itself is still held against what a version must be."""

    FORGERIES = {  # noqa: RUF012 (read only)
        "other card": lambda d: d.update(card_sha256="0" * 64),
        "no card": lambda d: d["files"].pop(1),
        "no model": lambda d: d["files"].pop(0),
        "no serial": lambda d: d.pop("serial"),
        "serial as text": lambda d: d.update(serial="1"),
        "serial 0": lambda d: d.update(serial=0),
        "another verdict": lambda d: d.update(verdict="MAYBE"),
        "another name": lambda d: d.update(version="2025-10-14"),
        "a path as name": lambda d: d.update(version="../2025-10-15"),
        "unknown key": lambda d: d.update(loader_module="os"),
        "a snapshot's": lambda d: d.update(kind="snapshot"),
    }

    @pytest.mark.parametrize("forgery", FORGERIES)
    def test_a_forged_head_is_refused(self, store, forgery):
        """Although its own hash is right; the message names the file."""
        path = store.models / "2025-10-15" / "manifest.json"
        document = json.loads(path.read_bytes())
        del document["self_sha256"]
        self.FORGERIES[forgery](document)
        path.write_bytes(canonical_json({**document, "self_sha256": sha256_bytes(canonical_json(document))}))

        with pytest.raises(InputError, match=r"manifest\.json"):
            store.live_version()


class TestPromote:
    """One atomic step, only for whole versions, only for GO ones unless forced."""

    def test_the_pointer_moves_and_the_log_tells(self, store):
        """Both links lead through the one pointer, and the line names both versions."""
        move = promote_version(store, "2025-10-13", **HAND)
        last = store.history().entries[-1]

        assert (move.moved, move.from_version, move.to_version) == (True, "2025-10-15", "2025-10-13")
        assert (last.from_version, last.to_version, last.happened, last.serial) == ("2025-10-15", "2025-10-13", True, 3)
        assert (last.why, last.by, last.when) == ("a test", "me@host", "2025-10-15T12:00:00Z")
        assert last.card_sha256 == store.live_version().card_sha256
        links = {name: str((store.models / name).readlink()) for name in tree(store.models) if name.startswith("best")}
        assert links == {
            "best_lgbm": "2025-10-13",
            "best_lgbm.pkl": "best_lgbm/lgbm.pkl",
            "best_lgbm_model_card.json": "best_lgbm/model_card.json",
        }
        assert (store.models / "best_lgbm.pkl").read_bytes() == b"model four"

    def test_the_best_version_again_is_checked_all_the_same(self, store):
        """Who asks for it is not told that all is well where it is damaged."""
        edit(store.models / "2025-10-15" / "lgbm.pkl", b"two", b"twp")
        before = tree(store.data_dir)

        for call in (roll_back, promote_version):
            with pytest.raises(InputError, match="2025-10-15 is damaged"):
                call(store, "2025-10-15", **HAND)
        assert tree(store.data_dir) == before

    @pytest.mark.parametrize("ref", ["best", "2025-10-15", "latest"])
    def test_the_best_version_again_writes_nothing(self, store, ref):
        """Not even under the lock, which another may hold."""
        promote_version(store, ref, **HAND)
        before = tree(store.data_dir)
        with hold_lock(store.models / ".lock", wait_s=0, purpose="a test"):
            move = promote_version(store, ref, **HAND)

        assert not move.moved
        assert move.to_version == store.live_version().name
        assert tree(store.data_dir) == before

    @pytest.mark.usefixtures("unchanged")
    def test_a_no_go_version_is_refused(self, store):
        """The hint tells how it could be done all the same."""
        with pytest.raises(NoGoError, match=r"2025-10-15\.2 is NO-GO") as caught:
            promote_version(store, "2025-10-15.2", **HAND)
        assert "--force --why" in caught.value.hint

    def test_a_no_go_version_is_promoted_by_force_and_the_log_says_so(self, store):
        """From then on a rollback to it is allowed, too."""
        promote_version(store, "2025-10-15.2", force=True, **HAND)
        promote_version(store, "2025-10-14", **HAND)
        roll_back(store, "2025-10-15.2", **HAND)

        assert [(e.to_version, e.verdict) for e in store.history().entries[2:]] == [
            *(("2025-10-15.2", "NO-GO"), ("2025-10-14", "GO"), ("2025-10-15.2", "NO-GO"))
        ]

    @pytest.mark.usefixtures("unchanged")
    def test_a_version_of_another_store_is_refused(self, store, tmp_path):
        """The pointer never leads out of its folder."""
        other = Store(tmp_path / "other")
        publish(other, b"x")

        with pytest.raises(UsageError, match="is not in"):
            promote_version(store, f"{other.models}/2025-10-15", **HAND)

    def test_links_that_are_missing_are_made_again(self, store):
        """A first promotion that was cut off is completed by the next run."""
        (store.models / "best_lgbm.pkl").unlink()
        move = promote_version(store, "best", **HAND)

        assert not move.moved
        assert (store.models / "best_lgbm.pkl").read_bytes() == b"model two"

    @pytest.mark.parametrize("name", ["best_lgbm.pkl", "best_lgbm_model_card.json"])
    @pytest.mark.parametrize("kind", ["file", "absolute", "elsewhere"])
    def test_something_else_in_a_links_place_is_never_overwritten(self, store, name, kind):
        """A file that someone put there may be dear; the message names it."""
        link = store.models / name
        link.unlink()
        if kind == "file":
            link.write_bytes(b"dear")
        else:
            link.symlink_to("/etc/passwd" if kind == "absolute" else "2025-10-14/lgbm.pkl")
        before = tree(store.data_dir)

        for call in (lambda: promote_version(store, "2025-10-13", **HAND), lambda: open_path(link)):
            with pytest.raises(InputError, match=name) as caught:
                call()
            assert "remove" in caught.value.hint
        assert tree(store.data_dir) == before


class TestRollback:
    """Only to versions that were once the best one, and only whole ones."""

    def test_an_earlier_best_version_comes_back(self, store):
        """By name; the log keeps every step."""
        move = roll_back(store, "2025-10-14", **HAND)

        assert (move.moved, move.from_version, move.to_version) == (True, "2025-10-15", "2025-10-14")
        assert store.live_version().name == "2025-10-14"
        assert [e.to_version for e in store.history().entries] == ["2025-10-14", "2025-10-15", "2025-10-14"]
        assert store.history().problems == ()

    def test_previous_is_the_best_before_the_present_one(self, store):
        """Asked twice it comes back, as the one before the present one is then the one left."""
        moves = [roll_back_previous(store, **HAND), roll_back_previous(store, **HAND)]

        assert [move.to_version for move in moves] == ["2025-10-14", "2025-10-15"]

    def test_previous_before_the_first_is_refused(self, tmp_path):
        """Nothing was the best one before it."""
        store = Store(tmp_path)
        publish(store, b"one")
        promote_version(store, "latest", **HAND)

        with pytest.raises(InputError, match="no version was live before 2025-10-15"):
            roll_back_previous(store, **HAND)

    @pytest.mark.usefixtures("unchanged")
    def test_the_best_version_again_writes_nothing(self, store):
        """It is there already; the lock is not asked for."""
        with hold_lock(store.models / ".lock", wait_s=0, purpose="a test"):
            assert not roll_back(store, "2025-10-15", **HAND).moved

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize(
        ("name", "commands"),
        [
            ("2025-10-13", ["`mltrain promote 2025-10-13`"]),
            ("2025-10-15.2", ["`mltrain rollback 2025-10-15`", "`mltrain promote 2025-10-15.2 --force --why TEXT`"]),
        ],
    )
    def test_a_version_that_was_never_promoted_is_refused_with_the_command(self, store, name, commands):
        """The promoted one of the same day is offered first."""
        with pytest.raises(InputError, match="was never promoted") as caught:
            roll_back(store, name, **HAND)
        assert all(command in caught.value.hint for command in commands)

    def test_a_promotion_that_never_happened_gives_no_right(self, store):
        """The line was written, the pointer did not move: the version was never the best one."""
        pointer = store.models / "best_lgbm"
        promote_version(store, "2025-10-13", **HAND)
        pointer.unlink()
        pointer.symlink_to("2025-10-15")

        assert not store.history().entries[-1].happened
        with pytest.raises(InputError, match="2025-10-13 was never promoted"):
            roll_back(store, "2025-10-13", **HAND)

    def test_a_later_version_of_the_same_name_has_no_right(self, store):
        """The log means the version with the card that it names."""
        shutil.rmtree(store.models / "2025-10-14")
        other = Store(store.data_dir.parent / "other")
        publish(other, b"impostor", date="2025-10-14")
        (other.models / "2025-10-14").rename(store.models / "2025-10-14")

        with pytest.raises(InputError, match="2025-10-14 was never promoted"):
            roll_back(store, "2025-10-14", **HAND)

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("name", ["best", "latest", "../2025-10-14", "x" * 10_000, "", "-rf"])
    def test_what_is_no_version_is_a_usage_error(self, store, name):
        """Only a version's own name will do."""
        with pytest.raises(UsageError):
            roll_back(store, name, **HAND)

    DAMAGES = {  # noqa: RUF012 (read only)
        "one byte of the model": lambda folder: (folder / "lgbm.pkl").write_bytes(b"Model one"),
        "one byte of the card": lambda folder: (folder / "model_card.json").write_bytes(b'{"mark": "onf"}'),
        "an empty file grown": lambda folder: (folder / "report.html").write_bytes(b"x"),
        "a file missing": lambda folder: (folder / "report.html").unlink(),
        "a file more": lambda folder: (folder / "extra.py").touch(),
        "a link": lambda folder: ((folder / "lgbm.pkl").unlink(), (folder / "lgbm.pkl").symlink_to("/etc/passwd")),
        "a fifo": lambda folder: ((folder / "lgbm.pkl").unlink(), os.mkfifo(folder / "lgbm.pkl")),
        "no manifest": lambda folder: (folder / "manifest.json").unlink(),
        "the verdict": lambda folder: edit(folder / "manifest.json", b'"GO"', b'"NO-GO"'),
        "the serial": lambda folder: edit(folder / "manifest.json", b'"serial": 1', b'"serial": 9'),
        "the whole folder": shutil.rmtree,
    }

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_a_damaged_version_is_refused_before_anything_moves(self, store, damage):
        """Every file is hashed first; what is refused changes nothing; the nearest versions are named."""
        self.DAMAGES[damage](store.models / "2025-10-14")
        before = tree(store.data_dir)

        for call in (roll_back, promote_version):
            with pytest.raises(InputError, match="2025-10-14") as caught:
                call(store, "2025-10-14", **HAND)
            others = caught.value.hint.partition("the nearest: ")[2].split(", ")
            assert "2025-10-15" in others
            assert "2025-10-14" not in others
        assert tree(store.data_dir) == before
        assert store.live_version().name == "2025-10-15"

    def test_a_damaged_best_version_is_not_what_to_promote(self, store):
        """The hint names what else there is; alone, there is nothing but to make another."""
        best = store.models / "2025-10-15"
        edit(best / "manifest.json", b'"GO"', b'"NO-GO"')

        with pytest.raises(InputError, match="leads to 2025-10-15") as caught:
            store.live_version()
        others = caught.value.hint.removeprefix("run `mltrain promote VERSION`: ").split(", ")
        assert "2025-10-14" in others
        assert "2025-10-15" not in others

        for row in store.versions():
            if row.name != best.name:
                shutil.rmtree(store.models / row.name)
        with pytest.raises(InputError) as caught:
            store.live_version()
        assert caught.value.hint == "make one with `mltrain train`"


def edit(path, old, new):
    """Replace bytes in a file that holds them once."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


class TestPointer:
    """Whatever stands in the pointer's place is named and never followed out of the folder."""

    TARGETS = {  # noqa: RUF012 (read only)
        "absolute": "/etc",
        "out of the tree": "../../elsewhere",
        "loop": "best_lgbm",
        "deeper": "2025-10-15/lgbm.pkl",
        "no version": "notes",
        "an option": "-rf",
        "dangling": "2024-01-01",
        "a file": None,
        "a folder": None,
    }

    @pytest.mark.parametrize("kind", TARGETS)
    def test_a_pointer_that_is_none_is_an_input_error_that_names_it(self, store, kind):
        """For the best version and its paths; where it dangles, the hint is to promote."""
        pointer = store.models / "best_lgbm"
        pointer.unlink()
        if kind == "a file":
            pointer.touch()
        elif kind == "a folder":
            pointer.mkdir()
        else:
            pointer.symlink_to(self.TARGETS[kind])
        before = tree(store.data_dir)

        for call in (store.live_version, store.open_default, lambda: open_path(store.models / "best_lgbm.pkl")):
            with pytest.raises(InputError, match="best_lgbm") as caught:
                call()
            assert (self.TARGETS[kind] or "not a symbolic link") in caught.value.message
            assert "mltrain promote" in caught.value.hint
        assert tree(store.data_dir) == before

    def test_a_dangling_pointer_is_mended_by_the_next_promotion(self, store):
        """The list and the log can be read meanwhile."""
        shutil.rmtree(store.models / "2025-10-15")

        assert [row.version.live for row in store.versions()] == [False, False, False]
        assert roll_back(store, "2025-10-14", **HAND).from_version == "2025-10-15"
        assert store.live_version().name == "2025-10-14"
        assert store.history().problems == ()

    def test_a_damaged_log_of_looks_stops_a_long_run_at_its_start(self, store):
        """It would be needed when the holdout is scored."""
        store.record_look(start_ms=1, end_ms=2, study="a", now_ms=NOON_MS)
        edit(store.models / "looks.jsonl", b'"end_ms":2', b'"end_ms":3')

        with pytest.raises(InputError, match="does not match its own hash"):
            store.prepare()

    def test_a_broken_pointer_stops_a_long_run_at_its_start(self, store):
        """Not after hours, when the version is to be published."""
        (store.models / "best_lgbm").unlink()
        (store.models / "best_lgbm").touch()

        with pytest.raises(InputError, match="not a symbolic link"):
            store.prepare()


class TestLostPointer:
    """A copy without links lost the pointer, and not what the log says."""

    @pytest.fixture
    def copy(self, store):
        """Return the store without its links."""
        for link in [path for path in store.models.iterdir() if path.is_symlink()]:
            link.unlink()
        return store

    CALLS = {  # noqa: RUF012 (read only)
        "best": lambda store: store.live_version(),
        "default": lambda store: store.open_default(),
        "by name": lambda store: store.open_version("best"),
        "by path": lambda store: open_path(store.models / "best_lgbm.pkl"),
        "by folder": lambda store: open_path(store.models / "best_lgbm"),
        "rollback": lambda store: roll_back(store, "2025-10-14", **HAND),
        "rollback to the lost one": lambda store: roll_back(store, "2025-10-15", **HAND),
        "rollback_previous": lambda store: roll_back_previous(store, **HAND),
        "prune": lambda store: prune_versions(store, keep=0),
        "prepare": lambda store: store.prepare(),
        "publish": lambda store: publish(store, b"five"),
        "look": lambda store: store.record_look(start_ms=1, end_ms=2, study="a", now_ms=NOON_MS),
        "promote best": lambda store: promote_version(store, "best", **HAND),
    }

    @pytest.mark.parametrize("call", CALLS)
    def test_what_needs_the_pointer_is_refused_with_the_command(self, copy, call):
        """The last target and the way back are named, and nothing is changed."""
        before = tree(copy.data_dir)

        with pytest.raises(InputError, match="best_lgbm is missing, and 2025-10-15 was the live version") as caught:
            self.CALLS[call](copy)
        assert caught.value.hint == "run `mltrain promote 2025-10-15`"
        assert tree(copy.data_dir) == before

    def test_list_log_and_names_can_be_read(self, copy):
        """Every line stays true; a version that is named is opened as ever."""
        history = copy.history()

        assert [(row.name, row.version.promoted, row.version.live) for row in copy.versions()] == [
            *(("2025-10-14", True, False), ("2025-10-15", True, False)),
            *(("2025-10-15.2", False, False), ("2025-10-13", False, False)),
        ]
        assert (history.best, history.lost) == (None, "2025-10-15")
        assert all(entry.happened for entry in history.entries)
        assert len(history.problems) == 1
        assert copy.open_default("2025-10-14")[0].name == "2025-10-14"

    def test_the_command_puts_everything_back(self, copy):
        """Pointer, links and a line from the version to itself, so that a rollback goes where it would have gone."""
        move = promote_version(copy, "2025-10-15", **HAND)

        assert (move.moved, move.from_version, move.to_version) == (True, "2025-10-15", "2025-10-15")
        assert copy.live_version().name == "2025-10-15"
        assert (copy.models / "best_lgbm.pkl").read_bytes() == b"model two"
        assert (copy.history().lost, copy.history().problems) == (None, ())
        assert not promote_version(copy, "2025-10-15", **HAND).moved
        assert roll_back_previous(copy, **HAND).to_version == "2025-10-14"
        assert all(entry.happened for entry in copy.history().entries)

    def test_another_version_may_be_promoted_instead(self, copy):
        """Its line starts from the last target, which a rollback then goes back to."""
        move = promote_version(copy, "2025-10-13", **HAND)

        assert (move.from_version, move.to_version) == ("2025-10-15", "2025-10-13")
        assert copy.history().problems == ()
        assert roll_back_previous(copy, **HAND).to_version == "2025-10-15"

    def test_a_forced_version_comes_back_by_force_only(self, store):
        """The command that is named is the one that works."""
        promote_version(store, "2025-10-15.2", force=True, **HAND)
        (store.models / "best_lgbm").unlink()

        with pytest.raises(InputError) as caught:
            store.live_version()
        assert caught.value.hint == 'run `mltrain promote 2025-10-15.2 --force --why "the pointer was lost"`'
        with pytest.raises(NoGoError):
            promote_version(store, "2025-10-15.2", **HAND)
        assert promote_version(store, "2025-10-15.2", force=True, **HAND).moved

    @pytest.mark.parametrize("loss", ["removed", "damaged", "replaced"])
    def test_a_last_target_that_is_not_there_is_no_command(self, copy, loss):
        """Another version of its name is not it; the others are named."""
        folder = copy.models / "2025-10-15"
        if loss == "damaged":
            (folder / "manifest.json").write_bytes(b"{}")
        else:
            shutil.rmtree(folder)
        if loss == "replaced":
            other = Store(copy.data_dir.parent / "other")
            publish(other, b"impostor")
            (other.models / "2025-10-15").rename(folder)

        with pytest.raises(InputError, match="2025-10-15 was the live version") as caught:
            copy.live_version()
        assert caught.value.hint.startswith("2025-10-15 ")
        assert "run `mltrain promote VERSION`: 2025-10-13, 2025-10-14, 2025-10-15.2" in caught.value.hint

    def test_where_no_version_is_left_the_log_is_to_be_moved_aside(self, copy):
        """`train` refuses in this state: it would not be a way out."""
        for row in copy.versions():
            shutil.rmtree(copy.models / row.name)

        with pytest.raises(InputError) as caught:
            copy.live_version()
        assert f"move {copy.models / 'promotions.jsonl'} away" in caught.value.hint
        (copy.models / "promotions.jsonl").rename(copy.models / "aside")
        assert publish(copy, b"new").name == "2025-10-15"

    def test_a_single_promotion_is_lost_as_well(self, tmp_path):
        """It is not taken for one that was cut off."""
        store = Store(tmp_path)
        publish(store, b"one")
        promote_version(store, "latest", **HAND)
        (store.models / "best_lgbm").unlink()

        with pytest.raises(InputError, match="2025-10-15 was the live version"):
            store.live_version()
        assert store.history().entries[0].happened

    def test_a_torn_last_line_counts_for_nothing(self, copy):
        """The line before it names the version."""
        log = copy.models / "promotions.jsonl"
        log.write_bytes(log.read_bytes() + b'{"serial":3,"from":"2025-10-15","to":"2025-10-14"')

        with pytest.raises(InputError, match="2025-10-15 was the live version"):
            copy.live_version()
        assert promote_version(copy, "2025-10-15", **HAND).moved
        assert copy.history().problems == ()

    def test_a_torn_first_line_is_no_promotion(self, tmp_path):
        """Nothing was the live version yet."""
        store = Store(tmp_path)
        publish(store, b"one")
        (store.models / "promotions.jsonl").write_bytes(b'{"serial":1,"from":null,"to":"2025-10-15"')

        assert store.live_version() is None
        assert store.open_default()[0].name == "2025-10-15"

    @pytest.mark.parametrize("damage", ["all", "last"])
    def test_a_damaged_log_is_not_an_empty_one(self, copy, damage):
        """What cannot be read may have been a promotion."""
        log = copy.models / "promotions.jsonl"
        log.write_bytes(b"x\n" if damage == "all" else log.read_bytes() + b"x\n")

        with pytest.raises(InputError, match="cannot be read" if damage == "all" else "as far as the log can be read"):
            copy.live_version()
        assert promote_version(copy, "2025-10-15", **HAND).moved
        assert copy.live_version().name == "2025-10-15"

    def test_a_copy_that_followed_the_links_names_all_that_is_in_the_way(self, store, tmp_path):
        """Folders and files in the links' places are removed by hand: they may be dear."""
        copy = Store(shutil.copytree(store.data_dir, tmp_path / "copy"))
        before = tree(copy.data_dir)
        places = [copy.models / name for name in ("best_lgbm", "best_lgbm.pkl", "best_lgbm_model_card.json")]

        for call in (
            copy.live_version,
            copy.prepare,
            copy.history,
            lambda: promote_version(copy, "2025-10-15", **HAND),
        ):
            with pytest.raises(InputError, match="best_lgbm is not a symbolic link") as caught:
                call()
            assert caught.value.hint == (f"remove {', '.join(map(str, places))}; then run `mltrain promote 2025-10-15`")
        assert tree(copy.data_dir) == before
        shutil.rmtree(places[0])
        for place in places[1:]:
            place.unlink()
        promote_version(copy, "2025-10-15", **HAND)
        assert tree(copy.data_dir).keys() == tree(store.data_dir).keys()

    def test_without_the_log_the_pointer_decides(self, store):
        """The best version is known, which one was best before it is not."""
        (store.models / "promotions.jsonl").unlink()

        assert store.live_version().name == "2025-10-15"
        assert store.history().problems
        with pytest.raises(InputError, match="no version was live before"):
            roll_back_previous(store, **HAND)

    def test_readers_never_take_a_first_promotion_for_a_lost_pointer(self, tmp_path):
        """They see nothing promoted, or the version."""
        seen, stop = set(), threading.Event()

        def read(store):
            while not stop.is_set():
                try:
                    best = store.live_version()
                    seen.add(best and best.name)
                    seen.add(store.history().lost)
                except InputError as err:
                    seen.add(err.message)

        for number in range(20):
            store = Store(tmp_path / str(number))
            publish(store, b"one")
            stop.clear()
            readers = [threading.Thread(target=read, args=(store,)) for _ in range(3)]
            for thread in readers:
                thread.start()
            promote_version(store, "latest", **HAND)
            stop.set()
            for thread in readers:
                thread.join()
        assert seen <= {None, "2025-10-15"}

    @pytest.mark.parametrize("staged_for", ["2025-10-14", "2025-10-15"])
    def test_a_first_promotion_that_was_cut_off_may_be_done_again(self, tmp_path, staged_for):
        """With the same version or another: the line that was cut off never happened."""
        store = Store(tmp_path)
        publish(store, b"one", date="2025-10-14")
        publish(store, b"two")
        promote_version(store, staged_for, **HAND)
        (store.models / "best_lgbm").rename(store.models / ".best_lgbm.next")

        assert store.live_version() is None
        assert (store.history().lost, store.history().problems) == (None, ())
        assert promote_version(store, "2025-10-15", **HAND).from_version is None
        assert [entry.happened for entry in store.history().entries] == [False, True]
        assert not os.path.lexists(store.models / ".best_lgbm.next")


class TestPrune:
    """Old versions go whole; nobody who needs one loses it."""

    def test_what_somebody_needs_stays(self, store):
        """The best, the one before it, the latest; and each that stays says why."""
        publish(store, b"five", date="2025-10-12")
        publish(store, b"six", date="2025-10-11")
        logs = (store.models / "promotions.jsonl").read_bytes()
        done = prune_versions(store, keep=1)

        assert done.removed == ("2025-10-15.2", "2025-10-13", "2025-10-12")
        assert {kept.version for kept in done.kept} == {"2025-10-14", "2025-10-15"}
        assert [row.name for row in store.versions()] == ["2025-10-14", "2025-10-15", "2025-10-11"]
        assert (store.models / "promotions.jsonl").read_bytes() == logs
        assert not list(store.models.glob(".*.tmp"))
        assert roll_back_previous(store, **HAND).to_version == "2025-10-14"

    def test_the_newest_are_kept_and_the_latest_always(self, store):
        """So that its serial is not given twice."""
        assert prune_versions(store, keep=4).removed == ()
        assert prune_versions(store, keep=0).removed == ("2025-10-15.2",)
        assert publish(store, b"five").serial == 5

    def test_the_name_of_a_removed_version_is_not_given_again(self, store):
        """Whoever kept the name would find another model under it."""
        publish(store, b"five", date="2025-11-01")
        publish(store, b"six", date="2025-11-01")
        prune_versions(store, keep=1)

        assert not (store.models / "2025-11-01").exists()
        assert publish(store, b"seven", date="2025-11-01").name == "2025-11-01.3"

    def test_a_version_that_is_being_read_stays(self, store):
        """Until its reader has ended."""
        with store.open_version("2025-10-15.2").in_use():
            kept = prune_versions(store, keep=0).kept
        again = prune_versions(store, keep=0)

        assert {k.version: k.why for k in kept}["2025-10-15.2"] == "a running mltrain is reading it"
        assert again.removed == ("2025-10-15.2",)

    def test_what_cannot_be_read_stays(self, store):
        """It may be anything, and is its owner's to remove."""
        (store.models / "2025-10-13" / "manifest.json").unlink()
        (store.models / "2025-10-01").symlink_to("/etc")
        before = tree(store.models / "2025-10-13")
        done = prune_versions(store, keep=0)

        assert {k.version for k in done.kept} >= {"2025-10-13", "2025-10-01"}
        assert tree(store.models / "2025-10-13") == before

    def test_without_models_nothing_is_made(self, tmp_path):
        """There is nothing to remove."""
        assert prune_versions(Store(tmp_path / "none"), keep=1).removed == ()
        assert not (tmp_path / "none").exists()


class TestLooks:
    """Every scoring of a holdout is written down before it is done."""

    def test_looks_are_kept_in_order(self, store):
        """Range, time and study."""
        store.record_look(start_ms=1, end_ms=2, study="a", now_ms=NOON_MS)
        store.record_look(start_ms=3, end_ms=4, study="b", now_ms=NOON_MS)

        assert [(look.start_ms, look.end_ms, look.study) for look in store.looks()] == [(1, 2, "a"), (3, 4, "b")]
        assert store.looks()[0].when == "2025-10-15T12:00:00Z"

    def test_a_log_that_is_no_file_is_an_input_error(self, store):
        """A FIFO does not block, a link is not followed, a huge file is not read."""
        for name, call in (("looks.jsonl", store.looks), ("promotions.jsonl", store.history)):
            log = store.models / name
            log.unlink(missing_ok=True)
            os.mkfifo(log)
            with pytest.raises(InputError, match="not a regular file"):
                call()
            log.unlink()
            log.symlink_to("/etc/passwd")
            with pytest.raises(InputError, match="symbolic link"):
                call()
            log.unlink()
            log.touch()
            os.truncate(log, 10 << 30)
            with pytest.raises(InputError, match="too large"):
                call()
            log.unlink()


@pytest.mark.usefixtures("unchanged")
def test_a_held_lock_is_an_error_that_names_its_holder(store):
    """Every writer waits for a moment, then tells who is at work."""
    with hold_lock(store.models / ".lock", wait_s=0, purpose="a test"):
        for write in (
            lambda: publish(store, b"x"),
            lambda: promote_version(store, "2025-10-13", **HAND),
            lambda: roll_back(store, "2025-10-14", **HAND),
            lambda: store.record_look(start_ms=1, end_ms=2, study="a", now_ms=3),
        ):
            with pytest.raises(LockedError, match=f"pid {os.getpid()} .* a test"):
                write()


def test_readers_never_see_a_mixed_or_missing_version_while_writers_swap(store):
    """Two writers roll back and forth: every reader gets model and card of one version, and the log stays whole."""
    patient = Store(store.data_dir)
    broken = []

    def swap(name):
        for _ in range(15):
            roll_back(patient, name, **HAND)

    def read():
        while any(writer.is_alive() for writer in writers):
            version = patient.live_version()
            mark = version.read("lgbm.pkl", max_bytes=99).removeprefix(b"model ")
            if mark not in version.read("model_card.json", max_bytes=99):
                broken.append(version.name)

    writers = [threading.Thread(target=swap, args=(name,)) for name in ("2025-10-14", "2025-10-15")]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in (*writers, *readers):
        thread.join()

    assert broken == []
    assert store.history().problems == ()
    assert all(entry.happened for entry in store.history().entries)


def whole_way(folder):
    """Publish, look, promote for the first time, promote again; a rerun completes what is missing."""
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
{inspect.getsource(whole_way)}
whole_way(Path(sys.argv[1]))
"""


def check_store(folder):
    """Check that all that can be read is whole, and return the best version's name."""
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
    """Cut off or refused at each step of publishing and promoting: all that is there is whole, and can go on."""
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

            whole_way(folder)
            assert check_store(folder) == "2025-10-15"
            assert not list((folder / "models").glob(".*.tmp"))
            shutil.rmtree(folder)
    assert len(operations) > 50


def test_every_rename_is_synced_before_and_after(tmp_path):
    """A power cut finds whole versions, and no pointer to one that is not there."""
    disk_faults.need_strace()
    publish(Store(tmp_path / "data"), b"old", date="2025-10-14")
    done, operations = disk_faults.run(PROGRAM, tmp_path / "data")
    written = [operation.arguments for operation in operations]
    logged = next(i for i, text in enumerate(written) if "fsync" in operations[i].call and "promotions.jsonl" in text)
    moved = next(i for i, text in enumerate(written) if text.endswith('/best_lgbm") = 0'))

    assert done.returncode == 0, done.stderr
    assert disk_faults.unsynced_renames(operations) == []
    assert logged < moved
