"""What a list of versions shows of each: the store's own facts, and the figures of its card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mltrain.card.model_card import ModelCard
from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, read_card
from mltrain.documents.strict_json import parse_json
from mltrain.errors import InputError

if TYPE_CHECKING:
    from mltrain.store.store import Store
    from mltrain.store.versions import StoredVersion, VersionRow


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One version in a list; what a damaged one cannot tell is None.

    Attributes:
        version: Its name.
        best: Whether it is the best one now.
        latest: Whether it is the newest one.
        promoted: Whether it is or ever was the best one.
        verdict: What the gates said.
        held: Why a GO was not promoted automatically; None where nothing was against it.
        created_at: When it was trained, UTC.
        snapshot: The snapshot that it was trained on.
        symbols: What it was trained on.
        accuracy: On its holdout.
        auc_roc: On its holdout.
        log_loss: On its holdout, in nats.
        calibration_ece: On its holdout.
        problem: What is wrong with it; None where nothing is.
    """

    version: str
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
    """List every version, oldest first, damaged ones last; of each, the card alone is read and its hash checked.

    Raises:
        InputError: The pointer or the log of promotions is not one.
        MachineError: The machine refuses to read.
    """
    return tuple(_row(row) for row in store.versions())


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
            card = _read_unchecked(version)
        except InputError as err:
            problem = err.message
    return ModelRow(
        version=row.name,
        best=version is not None and version.best,
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


def _read_unchecked(version: StoredVersion) -> ModelCard:
    """Return a card whose hash is right; checking the schema would take longer than the whole listing."""
    where = str(version.folder / CARD_FILE)
    card = ModelCard.from_json(parse_json(version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES), where=where))
    if not card.section("train").document or not card.section("metrics").document:
        raise InputError(f"{where}: is no model card", hint="`mltrain card validate` names what it lacks")
    return card
