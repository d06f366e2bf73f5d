"""Decide whether a stored version is a drop-in replacement for another.

Versions with the same registry and symbols are recognised from their cards alone, so that a rollback stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES
from mltrain.documents.strict_json import parse_json
from mltrain.errors import NoGoError

if TYPE_CHECKING:
    from mltrain.artifact.model_contract import ModelContract
    from mltrain.documents.values import Json
    from mltrain.store.versions import StoredVersion


def find_version_differences(new: StoredVersion, old: StoredVersion) -> tuple[str, ...]:
    """Return why the new version is no drop-in replacement for the old one, one sentence each; empty if it is one.

    Raises:
        InputError: A version is damaged.
        OwnOpsError: They differ, and one was trained with user ops that are not loaded.
    """
    fields = _read_meaning_fields(new)
    if fields is not None and fields == _read_meaning_fields(old):
        return ()
    from mltrain.artifact.model_contract import contract_differences

    return contract_differences(_read_contract(new), _read_contract(old))


def check_same_meaning(new: StoredVersion, old: StoredVersion) -> None:
    """Raise NoGoError, which lists the differences, unless the new version is a drop-in replacement for the old one."""
    if differences := find_version_differences(new, old):
        raise NoGoError(
            f"{new.name} is no drop-in replacement for {old.name}: {'; '.join(differences)}",
            hint=f"to promote it anyway, run `mltrain promote {new.name} --other-meaning`; a running service keeps "
            f"{old.name} until it loads the model again",
        )


def _read_meaning_fields(version: StoredVersion) -> tuple[Json, ...] | None:
    """Read registry, user ops, symbols and market of a card, or None: equal ones mean the same."""
    card = _read_card(version)
    lineage, train = card.entries("lineage"), card.entries("train")
    if not {"registry_sha256", "own_ops"} <= lineage.keys() or "symbols" not in train:
        return None
    return lineage["registry_sha256"], lineage["own_ops"], train["symbols"], card.market


def _read_card(version: StoredVersion) -> ModelCard:
    """Read a version's card, unchecked."""
    card_json = version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES)
    return ModelCard.from_json(parse_json(card_json, where=str(version.folder / CARD_FILE), max_bytes=MAX_CARD_BYTES))


def _read_contract(version: StoredVersion) -> ModelContract:
    """Read from a version's files what callers rely on: label, interval, symbols, candle columns, and the market."""
    from mltrain.artifact.model_contract import ModelContract
    from mltrain.serving.loaded_model import read_bundle

    with version.in_use():
        bundle = read_bundle(version)
    return ModelContract.of(bundle.feature_set, bundle.symbols, market=_read_card(version).market)
