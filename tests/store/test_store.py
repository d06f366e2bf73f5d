"""The store: references, the list of versions, looks and the lock."""

from __future__ import annotations

import json
import os

import pytest

from mltrain.documents.strict_json import canonical_json
from mltrain.errors import InputError, LockedError, UsageError
from mltrain.storage.hashing import sha256_bytes
from mltrain.storage.locks import hold_lock
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.store import Store, open_path
from support.bare_versions import HAND, NOON_MS, publish


class TestReferences:
    """References to versions, and the errors of wrong ones."""

    def test_every_reference_to_the_live_version(self, store):
        """`best`, the name, and every path that leads there open it."""
        paths = ["best_lgbm", "best_lgbm.pkl", "best_lgbm_model_card.json", "best_lgbm/lgbm.pkl", "2025-10-15"]
        paths += ["2025-10-15/model_card.json", "../models/2025-10-15/"]
        versions = [store.open_version("best"), store.open_version("2025-10-15"), store.live_version()]
        versions += [store.open_version(f"{store.models}/{path}") for path in paths]
        versions += [open_path(store.models / path) for path in paths]

        assert {(v.name, v.live, v.promoted) for v in versions} == {("2025-10-15", True, True)}
        assert {v.folder for v in versions} == {store.models / "2025-10-15"}

    def test_a_link_outside_the_store_is_followed(self, store, tmp_path):
        """A path from the user may be a link."""
        (tmp_path / "current").symlink_to(store.models / "2025-10-14")
        (tmp_path / "model").symlink_to(store.models / "best_lgbm.pkl")

        assert open_path(tmp_path / "current").name == "2025-10-14"
        assert open_path(tmp_path / "model").name == "2025-10-15"

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize(
        "ref",
        ["", "Best", "bestt", "-rf", "%2e%2e", "2025-10-15\n", "\u0662025-10-15", "x" * 10_000, "../../x", "a/b", "/"],
    )
    def test_an_invalid_reference_is_a_usage_error(self, store, ref):
        """The message is short even for a long reference."""
        with pytest.raises(UsageError) as caught:
            store.open_version(ref)
        assert len(caught.value.message) < 120

    def test_a_nul_is_a_usage_error(self, store):
        """A NUL cannot be in a path."""
        with pytest.raises(UsageError):
            store.open_version("a\0b/2025-10-15")

    @pytest.mark.usefixtures("unchanged")
    @pytest.mark.parametrize("ref", ["2025-10-16", "2025-10-15.3", "./2025-10-15", "/nowhere/2025-10-15"])
    def test_an_unknown_version_is_an_input_error_with_a_hint(self, store, ref):
        """The hint names the nearest versions of the store."""
        with pytest.raises(InputError, match="no version 2025-10-1") as caught:
            store.open_version(ref)

        assert ("2025-10-15" in caught.value.hint) == ("/" not in ref)

    def test_without_any_version_the_hint_is_to_train_and_nothing_is_written(self, tmp_path):
        """Reading a store that does not exist makes no folder."""
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

    def test_the_default_is_the_live_version_or_the_latest_with_a_warning(self, store):
        """The warning names the latest version and its verdict."""
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
    """The list hashes nothing, and includes damaged versions."""

    def test_damaged_versions_come_last_with_their_problem(self, store):
        """Incomplete, forged, renamed and linked versions are listed with their problem."""
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
        """A FIFO in place of the model does not block the list."""
        (store.models / "2025-10-15" / "lgbm.pkl").unlink()
        os.mkfifo(store.models / "2025-10-15" / "lgbm.pkl")

        assert all(row.problem is None for row in store.versions())


class TestForgery:
    """A manifest with a valid hash of itself is still checked against the rules of a version."""

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
        """The manifest's own hash is right; the message names the file."""
        path = store.models / "2025-10-15" / "manifest.json"
        document = json.loads(path.read_bytes())
        del document["self_sha256"]
        self.FORGERIES[forgery](document)
        path.write_bytes(canonical_json({**document, "self_sha256": sha256_bytes(canonical_json(document))}))

        with pytest.raises(InputError, match=r"manifest\.json"):
            store.live_version()


class TestLooks:
    """Every scoring of a holdout is logged before it happens."""

    def test_looks_are_kept_in_order(self, store):
        """Range, time and study are read back."""
        store.record_look(start_ms=1, end_ms=2, study="a", now_ms=NOON_MS)
        store.record_look(start_ms=3, end_ms=4, study="b", now_ms=NOON_MS)

        assert [(look.start_ms, look.end_ms, look.study) for look in store.looks()] == [(1, 2, "a"), (3, 4, "b")]
        assert store.looks()[0].when == "2025-10-15T12:00:00Z"

    def test_a_log_that_is_not_a_file_is_an_input_error(self, store):
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
    """Every writer waits briefly, then fails and names the process that holds the lock."""
    with hold_lock(store.models / ".lock", wait_s=0, purpose="a test"):
        for write in (
            lambda: publish(store, b"x"),
            lambda: promote_version(store, "2025-10-13", **HAND),
            lambda: roll_back(store, "2025-10-14", **HAND),
            lambda: store.record_look(start_ms=1, end_ms=2, study="a", now_ms=3),
        ):
            with pytest.raises(LockedError, match=f"pid {os.getpid()} .* a test"):
                write()
