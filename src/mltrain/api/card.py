"""`card validate`, `card show` and `card schema`: the model cards."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mltrain.api.references import read_version
from mltrain.api.workspace import DATA_DIR, open_store, read_progress
from mltrain.documents.results import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.card.validation import CardCheck
    from mltrain.documents.values import Json
    from mltrain.progress import Progress


@dataclass(frozen=True, slots=True)
class CheckedCard:
    """One card file.

    Attributes:
        path: The file.
        valid: Whether the card is valid.
        violations: What is wrong, each with its JSON pointer.
        warnings: What is allowed but unusual.
    """

    path: str
    valid: bool
    violations: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CardValidation(Result):
    """The result of `card validate`.

    Attributes:
        valid: Whether all cards are valid; exit code 0 or 3.
        cards: Every card that was checked.
    """

    SCHEMA: ClassVar[str] = "card-validate/1"

    valid: bool
    cards: list[CheckedCard]


@dataclass(frozen=True, slots=True)
class CardOfVersion(Result):
    """The result of `card show`.

    Attributes:
        ref: The version.
        card: Its Model Card v2, as `mltrain card schema` describes it.
    """

    SCHEMA: ClassVar[str] = "card-show/1"

    ref: str
    card: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class CardSchema(Result):
    """The result of `card schema`.

    Attributes:
        json_schema: The JSON Schema (draft 2020-12) of a card.
    """

    SCHEMA: ClassVar[str] = "card-schema/1"

    json_schema: Mapping[str, Json]


def card_validate(
    cards: PathText | Iterable[PathText] | None = None,
    *,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> CardValidation:
    """Check cards against the schema and for plausibility; every violation is listed with its JSON pointer.

    Args:
        cards: A card file or several; one named model_card.json is also checked against the files next to it. None:
            the card of the live version, with its hash in the manifest.
        data_dir: The data folder.
        slot: The slot of the live version; None: "lgbm".
        progress: Receives a warning if there is no live version, and the latest is taken.

    Returns:
        Each card with its violations and warnings; a violation is not an error.

    Raises:
        InputError: There is no such file or version.
    """
    if cards is None:
        checks = _check_live_card(data_dir, slot, read_progress(progress))
    else:
        checks = _check_card_files([cards] if isinstance(cards, str | os.PathLike) else cards)
    checked = [CheckedCard(path, c.passed, c.violations, c.warnings) for path, c in checks.items()]
    return CardValidation(all(card.valid for card in checked), checked)


def _check_card_files(paths: Iterable[PathText]) -> dict[str, CardCheck]:
    """Check card files; one named model_card.json is also checked against the files next to it."""
    from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, check_card
    from mltrain.storage.descriptors import real_path
    from mltrain.storage.reading import read_file
    from mltrain.store.versions import check_stored_card

    checks = {}
    for path in map(Path, paths):
        # best_lgbm_model_card.json is a link; links that a user names are followed.
        real = real_path(path)
        data = read_file(real, max_bytes=MAX_CARD_BYTES, what="card")
        if real.name == CARD_FILE:
            checks[str(path)] = check_stored_card(data, where=str(path), folder=real.parent)
        else:
            checks[str(path)] = check_card(data, where=str(path))
    return checks


def _check_live_card(data_dir: PathText, slot: str | None, progress: Progress) -> dict[str, CardCheck]:
    """Check the card of the live version: hash, schema, plausibility, and the files next to it."""
    from mltrain.card.validation import CARD_FILE, MAX_CARD_BYTES, check_card

    version = read_version(None, open_store(data_dir, slot), progress)
    where = str(version.folder / CARD_FILE)
    return {where: check_card(version.read(CARD_FILE, max_bytes=MAX_CARD_BYTES), where=where, folder=version.folder)}


def card_show(
    version: VersionRef | None = None,
    *,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> CardOfVersion:
    """Return the card of a version.

    Args:
        version: Its name, "best", "best:SLOT", "latest", a path, or a loaded model; None: the live version or, with a
            warning, the latest if nothing was promoted yet.
        data_dir: The data folder.
        slot: The slot of "best" and "latest"; None: "lgbm".
        progress: Receives the warning.

    Raises:
        InputError: There is no such version, or its card is damaged.
    """
    from mltrain.store.listing import read_version_card

    opened = read_version(version, open_store(data_dir, slot), read_progress(progress))
    return CardOfVersion(opened.name, read_version_card(opened).document)


def card_schema() -> CardSchema:
    """Return the JSON Schema of the card."""
    from mltrain.card.validation import load_schema

    return CardSchema(load_schema())
