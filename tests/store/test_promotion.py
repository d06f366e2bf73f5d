"""Promotion and rollback: one atomic step, logged, and only to whole versions."""

from __future__ import annotations

import os
import shutil
import threading

import pytest

from mltrain.errors import InputError, NoGoError, UsageError
from mltrain.storage.locks import hold_lock
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.store import Store, open_path
from support.bare_versions import HAND, edit, publish, tree


class TestPromote:
    """One atomic step, only for undamaged versions, only for GO ones unless forced."""

    def test_the_pointer_moves_and_the_log_records_it(self, store):
        """Both links lead through the pointer, and the line names both versions."""
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

    def test_the_live_version_is_checked_when_it_is_promoted_again(self, store):
        """Promoting or rolling back to a damaged live version fails."""
        edit(store.models / "2025-10-15" / "lgbm.pkl", b"two", b"twp")
        before = tree(store.data_dir)

        for call in (roll_back, promote_version):
            with pytest.raises(InputError, match="2025-10-15 is damaged"):
                call(store, "2025-10-15", **HAND)
        assert tree(store.data_dir) == before

    @pytest.mark.parametrize("ref", ["best", "2025-10-15", "latest"])
    def test_the_live_version_again_writes_nothing(self, store, ref):
        """The lock is not needed; another process may hold it."""
        promote_version(store, ref, **HAND)
        before = tree(store.data_dir)
        with hold_lock(store.models / ".lock", wait_s=0, purpose="a test"):
            move = promote_version(store, ref, **HAND)

        assert not move.moved
        assert move.to_version == store.live_version().name
        assert tree(store.data_dir) == before

    @pytest.mark.usefixtures("unchanged")
    def test_a_no_go_version_is_refused(self, store):
        """The hint names the options that force it."""
        with pytest.raises(NoGoError, match=r"2025-10-15\.2 is NO-GO") as caught:
            promote_version(store, "2025-10-15.2", **HAND)
        assert "--force --why" in caught.value.hint

    def test_a_no_go_version_is_promoted_by_force_and_the_log_says_so(self, store):
        """From then on a rollback to it is allowed."""
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

    def test_missing_links_are_restored(self, store):
        """A first promotion that was interrupted is completed by the next run."""
        (store.models / "best_lgbm.pkl").unlink()
        move = promote_version(store, "best", **HAND)

        assert not move.moved
        assert (store.models / "best_lgbm.pkl").read_bytes() == b"model two"

    @pytest.mark.parametrize("name", ["best_lgbm.pkl", "best_lgbm_model_card.json"])
    @pytest.mark.parametrize("kind", ["file", "absolute", "elsewhere"])
    def test_other_files_in_the_place_of_a_link_are_never_overwritten(self, store, name, kind):
        """A file or link that someone put there may matter; the message names it."""
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
            assert caught.value.hint == "run `mltrain models repair`"
        assert tree(store.data_dir) == before


class TestRollback:
    """Only to versions that were live before, and only undamaged ones."""

    def test_a_version_that_was_live_before_is_live_again(self, store):
        """By name; the log keeps every step."""
        move = roll_back(store, "2025-10-14", **HAND)

        assert (move.moved, move.from_version, move.to_version) == (True, "2025-10-15", "2025-10-14")
        assert store.live_version().name == "2025-10-14"
        assert [e.to_version for e in store.history().entries] == ["2025-10-14", "2025-10-15", "2025-10-14"]
        assert store.history().problems == ()

    def test_previous_is_the_version_that_was_live_before(self, store):
        """Twice in a row returns to the start."""
        moves = [roll_back_previous(store, **HAND), roll_back_previous(store, **HAND)]

        assert [move.to_version for move in moves] == ["2025-10-14", "2025-10-15"]

    def test_previous_before_the_first_is_refused(self, tmp_path):
        """No version was live before the first one."""
        store = Store(tmp_path)
        publish(store, b"one")
        promote_version(store, "latest", **HAND)

        with pytest.raises(InputError, match="no version was live before 2025-10-15"):
            roll_back_previous(store, **HAND)

    @pytest.mark.usefixtures("unchanged")
    def test_the_live_version_again_writes_nothing(self, store):
        """The lock is not needed; another process may hold it."""
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
        """The hint names the promoted version of the same day first."""
        with pytest.raises(InputError, match="was never promoted") as caught:
            roll_back(store, name, **HAND)
        assert all(command in caught.value.hint for command in commands)

    def test_a_promotion_that_never_happened_allows_no_rollback(self, store):
        """The line was written, but the pointer did not move: the version was never live."""
        pointer = store.models / "best_lgbm"
        promote_version(store, "2025-10-13", **HAND)
        pointer.unlink()
        pointer.symlink_to("2025-10-15")

        assert not store.history().entries[-1].happened
        with pytest.raises(InputError, match="2025-10-13 was never promoted"):
            roll_back(store, "2025-10-13", **HAND)

    def test_a_later_version_of_the_same_name_allows_no_rollback(self, store):
        """The log identifies a version by its card's hash, too."""
        shutil.rmtree(store.models / "2025-10-14")
        other = Store(store.data_dir.parent / "other")
        publish(other, b"impostor", date="2025-10-14")
        (other.models / "2025-10-14").rename(store.models / "2025-10-14")

        with pytest.raises(InputError, match="2025-10-14 was never promoted"):
            roll_back(store, "2025-10-14", **HAND)

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("name", ["best", "latest", "../2025-10-14", "x" * 10_000, "", "-rf"])
    def test_rollback_takes_only_version_names(self, store, name):
        """Other references and invalid names are usage errors."""
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
        """Every file is hashed first; a refusal changes nothing and names the nearest versions."""
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

    def test_the_hint_does_not_name_a_damaged_live_version(self, store):
        """The hint names the other versions; without any, it says to train one."""
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


def test_readers_never_see_a_mixed_or_missing_version_while_writers_swap(store):
    """Two writers roll back and forth: every reader gets model and card of one version, and the log stays intact."""
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
