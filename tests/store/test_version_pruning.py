"""Pruning: old versions are removed, except those that are still needed."""

from __future__ import annotations

from mltrain.store.promotion import roll_back_previous
from mltrain.store.store import Store
from mltrain.store.version_pruning import prune_versions
from support.bare_versions import HAND, publish, tree


class TestPrune:
    """Old versions are removed whole, unless they are needed."""

    def test_needed_versions_stay(self, store):
        """The live version, the one before it and the latest stay; each that stays has a reason."""
        publish(store, b"five", date="2025-10-12")
        publish(store, b"six", date="2025-10-11")
        logs = (store.models / "promotions.jsonl").read_bytes()
        before = tree(store.models)
        planned = prune_versions(store, keep=1, dry_run=True)
        assert tree(store.models) == before
        done = prune_versions(store, keep=1)

        assert planned == done
        assert done.removed == ("2025-10-15.2", "2025-10-13", "2025-10-12")
        assert {kept.version for kept in done.kept} == {"2025-10-14", "2025-10-15"}
        assert [row.name for row in store.versions()] == ["2025-10-14", "2025-10-15", "2025-10-11"]
        assert (store.models / "promotions.jsonl").read_bytes() == logs
        assert not list(store.models.glob(".*.tmp"))
        assert roll_back_previous(store, **HAND).to_version == "2025-10-14"

    def test_the_newest_are_kept_and_the_latest_always(self, store):
        """Otherwise its serial would be used twice."""
        assert prune_versions(store, keep=4).removed == ()
        assert prune_versions(store, keep=0).removed == ("2025-10-15.2",)
        assert publish(store, b"five").serial == 5

    def test_the_name_of_a_removed_version_is_not_used_again(self, store):
        """A name that someone noted never means another model."""
        publish(store, b"five", date="2025-11-01")
        publish(store, b"six", date="2025-11-01")
        prune_versions(store, keep=1)

        assert not (store.models / "2025-11-01").exists()
        assert publish(store, b"seven", date="2025-11-01").name == "2025-11-01.3"

    def test_a_version_that_is_being_read_stays(self, store):
        """It can be removed once its reader has ended."""
        with store.open_version("2025-10-15.2").in_use():
            kept = prune_versions(store, keep=0).kept
        again = prune_versions(store, keep=0)

        assert {k.version: k.why for k in kept}["2025-10-15.2"] == "a running mltrain is reading it"
        assert again.removed == ("2025-10-15.2",)

    def test_unreadable_versions_stay(self, store):
        """They may be anything; the user removes them."""
        (store.models / "2025-10-13" / "manifest.json").unlink()
        (store.models / "2025-10-01").symlink_to("/etc")
        before = tree(store.models / "2025-10-13")
        done = prune_versions(store, keep=0)

        assert {k.version for k in done.kept} >= {"2025-10-13", "2025-10-01"}
        assert tree(store.models / "2025-10-13") == before

    def test_pruning_without_models_writes_nothing(self, tmp_path):
        """There is nothing to remove."""
        assert prune_versions(Store(tmp_path / "none"), keep=1).removed == ()
        assert not (tmp_path / "none").exists()
