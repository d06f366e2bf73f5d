"""A version with another meaning replaces the live one only with --other-meaning."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from mltrain.artifact import model_contract
from mltrain.errors import InputError, NoGoError
from mltrain.serving.contract_check import check_same_meaning, find_version_differences
from mltrain.store.promotion import promote_version
from support.program import call

HAND = {"why": "a test", "by": "me@host", "now_ms": 1_760_529_600_000}


@pytest.fixture
def other_label(bundle):
    """Return the model with a horizon of five bars."""
    label = replace(bundle.label, horizon_bars=5)
    return replace(bundle, feature_set=replace(bundle.feature_set, label=label))


def test_another_label_is_refused_and_nothing_moves(store, publish, promote, other_label):
    """The error names both labels and the option to promote anyway; pointer and log are unchanged."""
    promote(publish())
    publish(model=other_label)
    log = (store.models / "promotions.jsonl").read_bytes()

    with pytest.raises(NoGoError, match=r"horizon: 5.*horizon: 1") as caught:
        promote_version(store, "2025-10-15.2", check=check_same_meaning, **HAND)
    assert "mltrain promote 2025-10-15.2 --other-meaning" in caught.value.hint
    assert store.live_version().name == "2025-10-15"
    assert (store.models / "promotions.jsonl").read_bytes() == log
    assert promote_version(store, "2025-10-15.2", **HAND).moved


def test_lost_symbols_are_refused_and_more_are_not(store, publish, promote, bundle):
    """A version with more symbols is promoted, one with fewer is an error."""
    promote(publish(model=replace(bundle, symbols=("BTCUSDT",))))
    publish()
    publish(model=replace(bundle, symbols=("BTCUSDT",)))

    assert promote_version(store, "2025-10-15.2", check=check_same_meaning, **HAND).moved
    with pytest.raises(NoGoError, match="without ETHUSDT"):
        promote_version(store, "2025-10-15.3", check=check_same_meaning, **HAND)


def test_the_first_one_and_the_same_one_need_no_comparison(store, publish, other_label):
    """The first version, the same one, and a restored pointer are promoted without a comparison."""
    publish(model=other_label)
    for moved in (True, False):
        assert promote_version(store, "latest", check=check_same_meaning, **HAND).moved is moved
    (store.models / "best_lgbm").unlink()
    (store.models / "2025-10-15" / "lgbm.pkl").touch()

    assert promote_version(store, "2025-10-15", check=check_same_meaning, **HAND).moved


def test_a_lost_pointer_still_has_a_meaning(store, publish, promote, other_label):
    """If the pointer is lost, the new version is compared with the one that it named."""
    promote(publish())
    publish(model=other_label)
    (store.models / "best_lgbm").unlink()

    with pytest.raises(NoGoError, match="horizon"):
        promote_version(store, "2025-10-15.2", check=check_same_meaning, **HAND)


def test_a_live_version_that_cannot_be_opened_is_no_obstacle(store, publish, promote, other_label):
    """If the live version is damaged, the new one is promoted without a comparison."""
    first = publish()
    promote(first)
    publish(model=other_label)
    (first.folder / "manifest.json").unlink()

    assert promote_version(store, "2025-10-15.2", check=check_same_meaning, **HAND).moved


def test_a_damaged_model_is_an_error(publish, other_label):
    """The meaning of a damaged model is an error that names the file."""
    versions = publish(), publish(model=other_label)
    (versions[1].folder / "lgbm.pkl").write_bytes(b"x")

    with pytest.raises(InputError, match=r"lgbm\.pkl"):
        find_version_differences(versions[1], versions[0])


def test_one_registry_and_the_same_symbols_are_compared_by_their_cards(publish, bundle, card, monkeypatch):
    """Equal registries and symbols are recognised from the cards; no model is read."""
    fields = json.loads(card)
    fields["lineage"] = {"registry_sha256": bundle.feature_set.registry_sha256, "own_ops": None}
    fields["train"]["symbols"] = list(bundle.symbols)
    same = [publish(card=json.dumps(fields).encode()) for _ in range(2)]
    fields["train"]["symbols"] = ["BTCUSDT"]
    other = publish(model=replace(bundle, symbols=("BTCUSDT",)), card=json.dumps(fields).encode())
    fields["train"]["symbols"] = list(bundle.symbols)
    markets = []
    for market in ("spot", "usdm"):
        fields["lineage"]["source"] = {"name": "binance", "market": market}
        markets.append(publish(card=json.dumps(fields).encode()))
    assert find_version_differences(*markets) == ("its market is spot, not usdm",)
    compared = []
    monkeypatch.setattr(
        model_contract, "contract_differences", lambda new, old: compared.append((new, old)) or ("one",)
    )

    assert find_version_differences(same[1], same[0]) == ()
    assert compared == []
    assert find_version_differences(other, same[0]) == ("one",)
    assert [m.symbols for m in compared[0]] == [("BTCUSDT",), ("BTCUSDT", "ETHUSDT")]


def test_the_commands_require_the_option_and_warn(store, publish, promote, other_label):
    """`promote` exits with 4 without --other-meaning; with it, and for a rollback, the changes are a warning."""
    promote(publish())
    publish(model=other_label)
    refused = call("promote", "2025-10-15.2", data_dir=store.data_dir)
    forced = call("promote", "2025-10-15.2", "--other-meaning", data_dir=store.data_dir)
    back = call("rollback", "--previous", data_dir=store.data_dir)
    changed = r"its label is \{kind: direction, horizon: %d, ties: drop\}, not \{kind: direction, horizon: %d"

    assert (refused.code, forced.code, back.code) == (4, 0, 0)
    assert re.search(f"error: .*{changed % (5, 1)}", refused.err)
    assert "hint: to promote it anyway, run `mltrain promote 2025-10-15.2 --other-meaning`" in refused.err
    assert re.search(f"warning: .*{changed % (5, 1)}", forced.err)
    assert re.search(f"warning: .*{changed % (1, 5)}", back.err)
    assert "2025-10-15.2 is live now, in place of 2025-10-15" in forced.out
    assert store.live_version().name == "2025-10-15"


def test_a_rollback_from_a_damaged_version_is_done_all_the_same(store, publish, promote, other_label):
    """A rollback from a damaged version succeeds, with a warning that the meaning could not be compared."""
    promote(publish())
    second = publish(model=other_label)
    promote(second)
    (second.folder / "lgbm.pkl").write_bytes(b"x")
    back = call("rollback", "2025-10-15", data_dir=store.data_dir)

    assert back.code == 0
    assert "cannot check whether 2025-10-15 is a drop-in replacement for 2025-10-15.2" in back.err
    assert store.live_version().name == "2025-10-15"
