"""The pointer: damaged, in the wrong place, or lost."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from mltrain.errors import InputError
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.store import Store, open_path
from mltrain.store.version_pruning import prune_versions
from support.bare_versions import HAND, NOON_MS, edit, publish, tree


class TestPointer:
    """Anything else in place of the pointer is named, and never followed out of the folder."""

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
    def test_a_broken_pointer_is_an_input_error_that_names_it(self, store, kind):
        """Every way to the live version fails with the command that helps."""
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
            command = "mltrain promote" if kind == "dangling" else "mltrain models repair"
            assert command in caught.value.hint
        assert tree(store.data_dir) == before

    def test_a_dangling_pointer_is_repaired_by_the_next_promotion(self, store):
        """The list and the log can be read before."""
        shutil.rmtree(store.models / "2025-10-15")

        assert [row.version.live for row in store.versions()] == [False, False, False]
        assert roll_back(store, "2025-10-14", **HAND).from_version == "2025-10-15"
        assert store.live_version().name == "2025-10-14"
        assert store.history().problems == ()

    def test_a_damaged_log_of_looks_stops_a_long_run_at_its_start(self, store):
        """The log is needed later, when the holdout is scored."""
        store.record_look(start_ms=1, end_ms=2, study="a", now_ms=NOON_MS)
        edit(store.models / "looks.jsonl", b'"end_ms":2', b'"end_ms":3')

        with pytest.raises(InputError, match="does not match its own hash"):
            store.prepare()

    def test_a_broken_pointer_stops_a_long_run_at_its_start(self, store):
        """It does not fail after hours, when the version is published."""
        (store.models / "best_lgbm").unlink()
        (store.models / "best_lgbm").touch()

        with pytest.raises(InputError, match="not a symbolic link"):
            store.prepare()


class TestLostPointer:
    """A copy without links has lost the pointer; the log still names the live version."""

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
    def test_everything_that_needs_the_pointer_fails_with_the_command(self, copy, call):
        """The message names the last target, the hint the command; nothing is changed."""
        before = tree(copy.data_dir)

        with pytest.raises(InputError, match="best_lgbm is missing, and 2025-10-15 was the live version") as caught:
            self.CALLS[call](copy)
        assert caught.value.hint == "run `mltrain models repair`"
        assert tree(copy.data_dir) == before

    def test_list_log_and_names_can_be_read(self, copy):
        """Every line still counts, and a named version can be opened."""
        history = copy.history()

        assert [(row.name, row.version.promoted, row.version.live) for row in copy.versions()] == [
            *(("2025-10-14", True, False), ("2025-10-15", True, False)),
            *(("2025-10-15.2", False, False), ("2025-10-13", False, False)),
        ]
        assert (history.best, history.lost) == (None, "2025-10-15")
        assert all(entry.happened for entry in history.entries)
        assert len(history.problems) == 1
        assert copy.open_default("2025-10-14")[0].name == "2025-10-14"

    def test_names_and_the_list_need_no_pointer(self, store):
        """With a folder in its place, as with none, every line of the log counts; only the live version is unknown."""
        (store.models / "best_lgbm").unlink()
        (store.models / "best_lgbm").mkdir()

        assert store.open_default("2025-10-15")[0].promoted
        assert [(row.name, row.version.promoted, row.version.live) for row in store.versions()][:2] == [
            *(("2025-10-14", True, False), ("2025-10-15", True, False)),
        ]

    def test_promoting_the_same_version_restores_everything(self, copy):
        """Pointer and links are restored; the line from the version to itself leaves `--previous` unchanged."""
        move = promote_version(copy, "2025-10-15", **HAND)

        assert (move.moved, move.from_version, move.to_version) == (True, "2025-10-15", "2025-10-15")
        assert copy.live_version().name == "2025-10-15"
        assert (copy.models / "best_lgbm.pkl").read_bytes() == b"model two"
        assert (copy.history().lost, copy.history().problems) == (None, ())
        assert not promote_version(copy, "2025-10-15", **HAND).moved
        assert roll_back_previous(copy, **HAND).to_version == "2025-10-14"
        assert all(entry.happened for entry in copy.history().entries)

    def test_another_version_may_be_promoted_instead(self, copy):
        """Its line starts from the last target, to which a rollback then returns."""
        move = promote_version(copy, "2025-10-13", **HAND)

        assert (move.from_version, move.to_version) == ("2025-10-15", "2025-10-13")
        assert copy.history().problems == ()
        assert roll_back_previous(copy, **HAND).to_version == "2025-10-15"

    def test_a_pointer_after_one_promotion_can_be_lost_too(self, tmp_path):
        """It is not mistaken for an interrupted first promotion."""
        store = Store(tmp_path)
        publish(store, b"one")
        promote_version(store, "latest", **HAND)
        (store.models / "best_lgbm").unlink()

        with pytest.raises(InputError, match="2025-10-15 was the live version"):
            store.live_version()
        assert store.history().entries[0].happened

    def test_a_torn_last_line_is_ignored(self, copy):
        """The line before it names the version."""
        log = copy.models / "promotions.jsonl"
        log.write_bytes(log.read_bytes() + b'{"serial":3,"from":"2025-10-15","to":"2025-10-14"')

        with pytest.raises(InputError, match="2025-10-15 was the live version"):
            copy.live_version()
        assert promote_version(copy, "2025-10-15", **HAND).moved
        assert copy.history().problems == ()

    def test_a_torn_first_line_is_no_promotion(self, tmp_path):
        """No version was live yet."""
        store = Store(tmp_path)
        publish(store, b"one")
        (store.models / "promotions.jsonl").write_bytes(b'{"serial":1,"from":null,"to":"2025-10-15"')

        assert store.live_version() is None
        assert store.open_default()[0].name == "2025-10-15"

    @pytest.mark.parametrize("damage", ["all", "last"])
    def test_a_damaged_log_is_not_an_empty_one(self, copy, damage):
        """An unreadable line may have been a promotion."""
        log = copy.models / "promotions.jsonl"
        log.write_bytes(b"x\n" if damage == "all" else log.read_bytes() + b"x\n")

        with pytest.raises(InputError, match="cannot be read" if damage == "all" else "as far as the log can be read"):
            copy.live_version()
        assert promote_version(copy, "2025-10-15", **HAND).moved
        assert copy.live_version().name == "2025-10-15"

    def test_without_the_log_the_pointer_decides(self, store):
        """The live version is known; the one before it is not."""
        (store.models / "promotions.jsonl").unlink()

        assert store.live_version().name == "2025-10-15"
        assert store.history().problems
        with pytest.raises(InputError, match="no version was live before"):
            roll_back_previous(store, **HAND)

    def test_readers_never_mistake_a_first_promotion_for_a_lost_pointer(self, tmp_path):
        """They see no live version or the promoted one, and no error."""
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
    def test_an_interrupted_first_promotion_can_be_repeated(self, tmp_path, staged_for):
        """With the same version or another: the interrupted line never happened."""
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
