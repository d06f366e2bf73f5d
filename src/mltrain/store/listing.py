"""The list of versions: name, state and verdict of each from the store, and figures from its card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, read_card
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion, VersionRow


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One version in a list; fields that a damaged version does not give are None.

    Attributes:
        version: Its name.
        slot: Its slot.
        best: Whether it is live in its slot now.
        latest: Whether it is the newest one of its slot.
        promoted: Whether it is or ever was live.
        verdict: The verdict of the gates.
        held: Why a GO was not promoted automatically; None if it was not held.
        created_at: Time of training, UTC.
        snapshot: The snapshot that it was trained on.
        symbols: The symbols that it was trained on.
        accuracy: On its holdout, 0 to 1.
        auc_roc: On its holdout, 0 to 1.
        log_loss: On its holdout, in nats.
        calibration_ece: Expected calibration error on its holdout, 0 to 1.
        problem: What is wrong with it; None if it is sound.
    """

    version: str
    slot: str | None
    best: bool
    latest: bool
    promoted: bool
    verdict: str | None
    held: str | None
    created_at: str | None
    snapshot: str | None
    symbols: tuple[str, ...]
    accuracy: float | None
    auc_roc: float | None
    log_loss: float | None
    calibration_ece: float | None
    problem: str | None


def list_models(store: Store) -> tuple[ModelRow, ...]:
    """List the versions of every slot, oldest first, damaged ones last; of each only the card is read and hashed.

    Raises:
        InputError: The log of promotions is not a file.
        MachineError: The machine refuses to read.
    """
    return tuple(_row(row) for row in store.versions())


def group_by_slot(rows: Sequence[ModelRow]) -> tuple[tuple[str | None, tuple[ModelRow, ...]], ...]:
    """Return each slot with its rows, by name; damaged versions, whose slot is unknown (None), come last."""
    slots = sorted({row.slot for row in rows}, key=lambda slot: (slot is None, slot))
    return tuple((slot, tuple(row for row in rows if row.slot == slot)) for slot in slots)


def read_version_card(version: StoredVersion) -> ModelCard:
    """Return a version's card, the bytes checked against the manifest and the content against the schema.

    Raises:
        InputError: The card is missing, changed, or not valid.
        MachineError: The machine refuses to read.
    """
    return read_card(version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES), where=str(version.folder / CARD_FILE))


def _row(row: VersionRow) -> ModelRow:
    version, problem, card = row.version, row.problem, ModelCard({})
    if version is not None:
        try:
            card = read_card_without_schema(version)
        except InputError as err:
            problem = err.message
    return ModelRow(
        version=row.name,
        slot=None if version is None else version.slot,
        best=version is not None and version.live,
        latest=row.latest,
        promoted=version is not None and version.promoted,
        verdict=None if version is None else version.verdict,
        held=card.text("gates", "held"),
        created_at=None if version is None else version.created_at,
        snapshot=card.text("train", "snapshot_id"),
        symbols=card.symbols,
        accuracy=card.number("metrics", "accuracy"),
        auc_roc=card.number("metrics", "auc_roc"),
        log_loss=card.number("metrics", "log_loss"),
        calibration_ece=card.number("metrics", "calibration_ece"),
        problem=problem,
    )


def read_card_without_schema(version: StoredVersion) -> ModelCard:
    """Return a card whose hash is right; a check of its schema would take longer than a whole listing.

    Raises:
        InputError: The card is missing or changed, or is none.
        MachineError: The machine refuses to read.
    """
    where = str(version.folder / CARD_FILE)
    card = ModelCard.from_json(parse_json(version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES), where=where))
    if not card.section("train").document or not card.section("metrics").document:
        raise InputError(f"{where}: is no model card", hint="`mltrain card validate` names what it lacks")
    return card
