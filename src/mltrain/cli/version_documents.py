"""The `--json` documents of the commands on versions and their cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.documents.values import Json
    from mltrain.store.listing import ModelRow
    from mltrain.store.repair import RepairStep


@dataclass(frozen=True, slots=True)
class ModelsDocument:
    """The document of `models`, and of `rollback` without a version.

    Attributes:
        models: The versions, oldest first, damaged ones last.
    """

    models: tuple[ModelRow, ...]


@dataclass(frozen=True, slots=True)
class RepairDocument:
    """The document of `models repair`.

    Attributes:
        dry_run: Whether nothing was written.
        steps: Every pointer and link that was not as it should be; empty if all were.
    """

    dry_run: bool
    steps: tuple[RepairStep, ...]


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
class CardValidateDocument:
    """The document of `card validate`.

    Attributes:
        valid: Whether all cards are valid; exit code 0 or 3.
        cards: Every card that was checked.
    """

    valid: bool
    cards: list[CheckedCard]


@dataclass(frozen=True, slots=True)
class CardShowDocument:
    """The document of `card show`.

    Attributes:
        ref: The version.
        card: Its Model Card v2, as `mltrain card schema` describes it.
    """

    ref: str
    card: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class CardSchemaDocument:
    """The document of `card schema`.

    Attributes:
        json_schema: The JSON Schema (draft 2020-12) of a card.
    """

    json_schema: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class PageDocument:
    """The document of a command that writes an HTML page.

    Attributes:
        path: Path of the page.
        bytes: Size of the page.
        sha256: SHA-256 of the page.
        written: Whether this command wrote the page; false where it was stored already.
    """

    path: Path
    bytes: int
    sha256: str
    written: bool


@dataclass(frozen=True, slots=True)
class ReportDocument(PageDocument):
    """The document of `card report`.

    Attributes:
        version: The version that the report is about.
    """

    version: str
