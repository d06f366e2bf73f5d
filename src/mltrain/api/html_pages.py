"""`card report`, `card diff` and `models --html`: the report of a version, the comparison of two, the list of all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

from mltrain.api.references import read_version, version_text
from mltrain.api.workspace import DATA_DIR, check_path, open_store, read_progress
from mltrain.documents.results import Result

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.api.references import VersionRef
    from mltrain.api.workspace import PathText, ProgressLike
    from mltrain.report.card_diff import CardDiff, Compared

PageT = TypeVar("PageT", bound="Page")


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
    """The result of `models --html`."""

    SCHEMA: ClassVar[str] = "models-page/1"


@dataclass(frozen=True, slots=True)
class CardDiffPage(Page):
    """The result of `card diff --html`."""

    SCHEMA: ClassVar[str] = "card-diff-page/1"


@dataclass(frozen=True, slots=True)
class ReportPage(Page):
    """The result of `card report`.

    Attributes:
        version: The version that the report is about.
    """

    SCHEMA: ClassVar[str] = "card-report/1"

    version: str


def models_page(output: PathText | None = None, *, data_dir: PathText = DATA_DIR) -> ModelsPage:
    """Write the HTML page that lists the versions of every slot, with curves.

    Args:
        output: The page; None: models.html in the data folder.
        data_dir: The data folder.

    Raises:
        InputError: The log of promotions is not a file.
    """
    from mltrain.report.index import render_index

    path = check_path(data_dir, "data_dir") / "models.html" if output is None else check_path(output, "output")
    return _write_page(ModelsPage, path, render_index(open_store(data_dir, None), folder=path.parent))


def card_report(
    version: VersionRef | None = None,
    *,
    output: PathText | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
    progress: ProgressLike | None = None,
) -> ReportPage:
    """Return the report of a version; if it has none, or for an `output`, make it from the stored files.

    Args:
        version: Its name, "best", "best:SLOT", "latest", a path, or a loaded model; None: the live version or, with a
            warning, the latest if nothing was promoted yet.
        output: The page; None: the stored one, or report-VERSION.html in the data folder.
        data_dir: The data folder.
        slot: The slot of "best" and "latest"; None: "lgbm".
        progress: Receives the warning.

    Raises:
        InputError: There is no such version, or it is damaged.
    """
    from mltrain.report.page import MAX_REPORT_BYTES, REPORT_FILE, draft_report
    from mltrain.report.version_data import read_material
    from mltrain.storage.hashing import sha256_bytes
    from mltrain.storage.writing import atomic_write
    from mltrain.store.listing import read_version_card

    opened = read_version(version, open_store(data_dir, slot), read_progress(progress))
    stored = output is None and opened.manifest.entry(REPORT_FILE) is not None
    if stored:
        path, html = opened.folder / REPORT_FILE, opened.read(REPORT_FILE, max_bytes=MAX_REPORT_BYTES)
    else:
        path = (
            check_path(data_dir, "data_dir") / f"report-{opened.name}.html"
            if output is None
            else check_path(output, "output")
        )
        html = draft_report(read_material(opened, read_version_card(opened))).finish(opened.name)
        atomic_write(path, html)
    return ReportPage(path, len(html), sha256_bytes(html), not stored, opened.name)


def card_diff(
    first: VersionRef, second: VersionRef, *, data_dir: PathText = DATA_DIR, slot: str | None = None
) -> CardDiff:
    """Return the differences of two versions: figures, gates, and every value of their cards.

    Args:
        first: A version's name, "best", "best:SLOT", "latest", a path, or a loaded model.
        second: The other version.
        data_dir: The data folder.
        slot: The slot of "best" and "latest"; None: "lgbm".

    Raises:
        InputError: There is no such version, or it is damaged.
    """
    return _compare(first, second, data_dir, slot).diff


def card_diff_page(
    first: VersionRef,
    second: VersionRef,
    *,
    output: PathText | None = None,
    data_dir: PathText = DATA_DIR,
    slot: str | None = None,
) -> CardDiffPage:
    """Write the differences of two versions as an HTML page with figures.

    Args:
        first: As in `card_diff`.
        second: The other version.
        output: The page; None: diff-FIRST-SECOND.html in the data folder.
        data_dir: The data folder.
        slot: The slot of "best" and "latest"; None: "lgbm".

    Raises:
        InputError: There is no such version, or it is damaged.
    """
    from mltrain.report.card_diff import render_diff

    compared = _compare(first, second, data_dir, slot)
    name = f"diff-{compared.diff.a}-{compared.diff.b}.html"
    path = check_path(data_dir, "data_dir") / name if output is None else check_path(output, "output")
    return _write_page(CardDiffPage, path, render_diff(compared))


def _compare(first: VersionRef, second: VersionRef, data_dir: PathText, slot: str | None) -> Compared:
    from mltrain.report.card_diff import compare_versions

    store = open_store(data_dir, slot)
    return compare_versions(store.open_version(version_text(first)), store.open_version(version_text(second)))


def _write_page(kind: type[PageT], path: Path, html: bytes) -> PageT:
    """Write a page to a file, and return its description."""
    from mltrain.storage.hashing import sha256_bytes
    from mltrain.storage.writing import atomic_write

    atomic_write(path, html)
    return kind(path, len(html), sha256_bytes(html), written=True)
