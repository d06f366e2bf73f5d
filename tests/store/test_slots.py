"""Slots: independent lines of live versions, in one folder with one log."""

from __future__ import annotations

import json

import pytest

from mltrain.errors import InputError, UsageError
from mltrain.store.listing import list_models
from mltrain.store.promotion import promote_version, roll_back, roll_back_previous
from mltrain.store.store import open_path
from mltrain.store.version_pruning import prune_versions
from support.bare_versions import HAND, publish, tree


@pytest.fixture
def btc(store):
    """Return the slot `btc` of the store, with three versions, of which the second is live."""
    btc = store.in_slot("btc")
    for mark in (b"b1", b"b2", b"b3"):
        publish(btc, mark, date="2025-10-16")
    promote_version(btc, "2025-10-16", **HAND)
    promote_version(btc, "2025-10-16.2", **HAND)
    return btc


class TestReferences:
    """`best` and `latest` refer to the slot, `best:NAME` to another; names are shared."""

    def test_best_and_latest(self, store, btc):
        """Each slot has its `best` and `latest`; a path to a pointer names its slot."""
        assert (store.open_version("best").name, btc.open_version("best").name) == ("2025-10-15", "2025-10-16.2")
        assert store.open_version("best:btc") == btc.open_version("best:btc") == btc.open_version("best")
        assert btc.open_version("best:lgbm").name == "2025-10-15"
        assert (store.open_version("latest").name, btc.open_version("latest").name) == ("2025-10-13", "2025-10-16.3")
        assert open_path(store.models / "best_btc").name == "2025-10-16.2"

    def test_a_version_knows_its_slot_whatever_the_store_has(self, store, btc):
        """Opened by its name, it has the flags of its slot."""
        for opened in (store, btc):
            version = opened.open_version("2025-10-16.2")
            assert (version.slot, version.live, version.promoted) == ("btc", True, True)
            assert opened.open_version("2025-10-15").live

    @pytest.mark.parametrize("name", ["", "BTC", "-a", "a_b", "a.b", "a/b", "a" * 33, "é"])
    def test_a_name_outside_the_grammar_is_a_usage_error(self, store, name):
        """Nothing else reaches the disk."""
        with pytest.raises(UsageError, match="is not a slot"):
            store.in_slot(name)
        if "/" not in name:
            with pytest.raises(UsageError, match="is not a slot"):
                store.open_version(f"best:{name}")

    def test_an_unknown_slot_is_an_input_error_that_names_the_others(self, store, btc):
        """The most similar slot is suggested; without a similar one, how to make a version."""
        with pytest.raises(InputError, match="no version of the slot btx") as caught:
            store.open_version("best:btx")
        assert caught.value.hint == "did you mean btc?"
        assert btc.slots() == ("btc", "lgbm")

    def test_a_pointer_to_a_version_of_another_slot_is_an_input_error(self, store, btc):
        """The log decides, and that of `btc` has no such line."""
        btc.pointer.path.unlink()
        btc.pointer.path.symlink_to("2025-10-15")

        with pytest.raises(InputError, match="a version of the slot lgbm") as caught:
            btc.open_version("best")
        assert caught.value.hint == "run `mltrain models repair`"
        assert store.open_version("best").name == "2025-10-15"


class TestIsolation:
    """Changes in one slot do not affect another."""

    def test_promotion_and_rollback_stay_in_the_slot_of_the_version(self, store, btc):
        """Also from a store that has another slot; only the pointer of the version's slot moves."""
        before = store.history()

        move = roll_back(store, "2025-10-16", **HAND)
        assert (move.slot, move.from_version, move.to_version) == ("btc", "2025-10-16.2", "2025-10-16")
        assert promote_version(store, "2025-10-16.3", **HAND).slot == "btc"
        assert roll_back_previous(btc, **HAND).to_version == "2025-10-16"
        assert store.history() == before
        assert roll_back_previous(store, **HAND).to_version == "2025-10-14"
        assert btc.live_version().name == "2025-10-16"

    def test_the_slots_share_one_chained_log(self, store, btc):
        """Serials run on; only lines of other slots than the default have the key `slot`."""
        lines = [json.loads(line) for line in store.promotions_path.read_text().splitlines()]

        assert [line["serial"] for line in lines] == [1, 2, 3, 4]
        assert [line.get("slot") for line in lines] == [None, None, "btc", "btc"]
        assert [entry.serial for entry in btc.history().entries] == [3, 4]
        assert (store.history().problems, btc.history().problems) == ((), ())

    def test_a_first_promotion_in_a_slot_starts_from_nothing(self, store):
        """The live version of another slot is not its predecessor."""
        eth = store.in_slot("eth")
        publish(eth, b"e1")

        assert promote_version(eth, "latest", **HAND).from_version is None
        assert store.live_version().name == "2025-10-15"

    @pytest.mark.parametrize("loss", ["missing", "a file"])
    def test_a_lost_pointer_stops_its_own_slot_only(self, store, btc, loss):
        """The other slot is served, listed, pruned, rolled back and published in as before."""
        store.pointer.path.unlink()
        if loss == "a file":
            store.pointer.path.touch()

        with pytest.raises(InputError):
            store.open_default()
        assert btc.open_default()[0].name == "2025-10-16.2"
        assert [row.version.live for row in btc.versions()] == [False, False, False, False, False, True, False]
        assert publish(btc, b"b4", date="2025-10-16").name == "2025-10-16.4"
        assert roll_back_previous(btc, **HAND).to_version == "2025-10-16"
        assert prune_versions(btc, keep=1).removed == ("2025-10-16.3",)
        with pytest.raises(InputError):
            prune_versions(store, keep=0)

    def test_pruning_removes_only_versions_of_the_slot(self, store, btc):
        """Protected are the live one, its predecessor and the latest of the slot."""
        others = {name: content for name, content in tree(btc.models).items() if name.startswith("2025-10-1") and
                  not name.startswith("2025-10-16")}  # fmt: skip

        done = prune_versions(btc, keep=0)
        assert (done.removed, [kept.version for kept in done.kept]) == (
            (), ["2025-10-16", "2025-10-16.2", "2025-10-16.3"],
        )  # fmt: skip
        publish(btc, b"b4", date="2025-10-16")
        assert prune_versions(btc, keep=0).removed == ("2025-10-16.3",)
        assert others == {name: content for name, content in tree(btc.models).items() if name in others}
        assert prune_versions(store, keep=0).removed == ("2025-10-15.2",)

    def test_a_name_is_never_used_twice_even_in_another_slot(self, store, btc):
        """A version that was promoted in one slot and removed leaves its name taken in all."""
        publish(btc, b"b4", date="2025-10-17")
        promote_version(btc, "2025-10-17", **HAND)
        for name in ("2025-10-16", "2025-10-16.3"):
            promote_version(btc, name, **HAND)
        publish(btc, b"b5", date="2025-10-18")
        assert "2025-10-17" in prune_versions(btc, keep=0).removed

        assert publish(store, b"six", date="2025-10-17").name == "2025-10-17.2"


class TestListing:
    """Every version with its slot; a version written before there were slots is of the default one."""

    def test_rows_name_their_slot_and_the_latest_of_it(self, store, btc):
        """A damaged version has none."""
        (store.models / "2025-10-14" / "manifest.json").unlink()

        rows = {row.version: (row.slot, row.best, row.latest) for row in list_models(btc)}
        assert rows["2025-10-13"] == ("lgbm", False, True)
        assert rows["2025-10-16.2"] == ("btc", True, False)
        assert rows["2025-10-16.3"] == ("btc", False, True)
        assert rows["2025-10-14"] == (None, False, False)

    def test_the_default_slot_writes_what_was_written_before(self, store, btc):
        """Neither its manifests nor its lines have the key `slot`."""
        assert b"slot" not in (store.models / "2025-10-15" / "manifest.json").read_bytes()
        assert b'"slot": "btc"' in (btc.models / "2025-10-16" / "manifest.json").read_bytes()
