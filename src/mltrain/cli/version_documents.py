"""The `--json` documents of the commands on versions and their cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from mltrain.documents.results import Result

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mltrain.documents.values import Json
    from mltrain.store.listing import ModelRow
    from mltrain.store.repair import RepairStep


PageT = TypeVar("PageT", bound="Page")


@dataclass(frozen=True, slots=True)
class ModelsDocument(Result):
    """The document of `models`, and of `rollback` without a version.

    Attributes:
        models: The versions, oldest first, damaged ones last.
    """

    SCHEMA: ClassVar[str] = "models/1"

    models: tuple[ModelRow, ...]


@dataclass(frozen=True, slots=True)
class RepairDocument(Result):
    """The document of `models repair`.

    Attributes:
        dry_run: Whether nothing was written.
        steps: Every pointer and link that was not as it should be; empty if all were.
    """

    SCHEMA: ClassVar[str] = "models-repair/1"

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
class CardValidateDocument(Result):
    """The document of `card validate`.

    Attributes:
        valid: Whether all cards are valid; exit code 0 or 3.
        cards: Every card that was checked.
    """

    SCHEMA: ClassVar[str] = "card-validate/1"

    valid: bool
    cards: list[CheckedCard]


@dataclass(frozen=True, slots=True)
class CardShowDocument(Result):
    """The document of `card show`.

    Attributes:
        ref: The version.
        card: Its Model Card v2, as `mltrain card schema` describes it.
    """

    SCHEMA: ClassVar[str] = "card-show/1"

    ref: str
    card: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class CardSchemaDocument(Result):
    """The document of `card schema`.

    Attributes:
        json_schema: The JSON Schema (draft 2020-12) of a card.
    """

    SCHEMA: ClassVar[str] = "card-schema/1"

    json_schema: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Page(Result):
    """An HTML page.

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
class ModelsPage(Page):
    """The document of `models --html`."""

    SCHEMA: ClassVar[str] = "models-page/1"


@dataclass(frozen=True, slots=True)
class CardDiffPage(Page):
    """The document of `card diff --html`."""

    SCHEMA: ClassVar[str] = "card-diff-page/1"


@dataclass(frozen=True, slots=True)
class ReportDocument(Page):
    """The document of `card report`.

    Attributes:
        version: The version that the report is about.
    """

    SCHEMA: ClassVar[str] = "card-report/1"

    version: str


def write_page(kind: type[PageT], path: Path, html: bytes) -> PageT:
    """Write a page to a file, and return its description."""
    from mltrain.storage.hashing import sha256_bytes
    from mltrain.storage.writing import atomic_write

    atomic_write(path, html)
    return kind(path, len(html), sha256_bytes(html), written=True)
