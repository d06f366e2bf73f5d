"""HTML pages: the report of a version, the comparison of two cards, the index of all versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.arguments import LiveVersionArgument, VersionArgument
from mltrain.cli.command import Session, command
from mltrain.cli.help import OUTPUT
from mltrain.cli.render import Outcome, number
from mltrain.cli.tables import table
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mltrain.report.card_diff import CardDiff, Difference

# Differences of one section, and characters of one value, that a terminal shows.
SHOWN = 15
LETTERS = 44

Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Write the HTML page to this file.", rich_help_panel=OUTPUT),
]
Open = Annotated[bool, typer.Option("--open", help="Also open the page in the browser.", rich_help_panel=OUTPUT)]


@command(opens_versions=True)
def card_report(
    session: Session, ref: LiveVersionArgument = None, output: Output = None, show: Open = False
) -> Outcome:
    """Print the path of a version's report; without one, or with --output, make it from the stored files."""
    from mltrain.report.page import MAX_REPORT_BYTES, REPORT_FILE, draft_report
    from mltrain.report.version_data import read_material
    from mltrain.store.listing import read_version_card
    from mltrain.store.store import Store

    version, warning = Store(session.data_dir).open_default(ref)
    if warning:
        session.progress.warn(warning)
    stored = output is None and version.manifest.entry(REPORT_FILE) is not None
    if stored:
        path, data = version.folder / REPORT_FILE, version.read(REPORT_FILE, max_bytes=MAX_REPORT_BYTES)
    else:
        path = output or session.data_dir / f"report-{version.name}.html"
        data = draft_report(read_material(version, read_version_card(version))).finish(version.name)
    return _page("card-report/1", path, data, written=not stored, show=show, session=session, version=version.name)


@command(opens_versions=True)
def card_diff(
    session: Session,
    first: VersionArgument,
    second: VersionArgument,
    html: Annotated[
        bool, typer.Option("--html", help="Write the comparison as an HTML page with figures.", rich_help_panel=OUTPUT)
    ] = False,
    output: Output = None,
    show: Open = False,
) -> Outcome:
    """Show the differences of two versions: figures, gates, and every value of their cards."""
    from mltrain.report.card_diff import compare_versions, render_diff
    from mltrain.store.store import Store

    store = Store(session.data_dir)
    found = compare_versions(store.open_version(first), store.open_version(second))
    diff = found.diff
    if html:
        path = output or session.data_dir / f"diff-{diff.a}-{diff.b}.html"
        return _page("card-diff-page/1", path, render_diff(found), written=True, show=show, session=session)
    refuse_without_html(output, show=show)

    def view() -> Iterator[RenderableType]:
        yield from _view_diff(diff)

    return Outcome("card-diff/1", diff, view)


def models_page(session: Session, output: Path | None, *, show: bool) -> Outcome:
    """Write the index of all versions."""
    from mltrain.report.index import render_index
    from mltrain.store.store import Store

    path = output or session.data_dir / "models.html"
    data = render_index(Store(session.data_dir), folder=path.parent)
    return _page("models-page/1", path, data, written=True, show=show, session=session)


def refuse_without_html(output: Path | None, *, show: bool) -> None:
    """Refuse options of a page without --html, which would have no effect.

    Raises:
        UsageError: There are some.
    """
    if output is not None or show:
        raise UsageError(f"{'--open' if output is None else '--output'} needs --html", hint="add --html")


def _page(
    schema: str, path: Path, data: bytes, *, written: bool, show: bool, session: Session, version: str | None = None
) -> Outcome:
    """Write a page unless it is stored already, and open it on request."""
    from mltrain.cli.version_documents import PageDocument, ReportDocument
    from mltrain.storage.hashing import sha256_bytes
    from mltrain.storage.writing import atomic_write

    if written:
        atomic_write(path, data)
    if show:
        _open_browser(path, session)
    page = (path, len(data), sha256_bytes(data), written)
    result = PageDocument(*page) if version is None else ReportDocument(*page, version)
    return Outcome(schema, result, lambda: [str(path)])


def _open_browser(path: Path, session: Session) -> None:
    import webbrowser

    from mltrain.storage.descriptors import real_path

    if not webbrowser.open(real_path(path).as_uri()):
        session.progress.warn(f"no browser found: open {path} yourself")


def _view_diff(diff: CardDiff) -> Iterator[RenderableType]:
    from mltrain.report.card_diff import describe_paired_loss

    verdicts = [verdict or "no verdict" for verdict in diff.verdicts]
    yield f"{diff.a} ({verdicts[0]}) and {diff.b} ({verdicts[1]})"
    yield describe_paired_loss(diff)
    better = {"a": diff.a, "b": diff.b}
    cells = [
        (m.title, number(m.a, 5), number(m.b, 5), "-" if m.change is None else f"{m.change:+.5f}",
         better.get(m.better or "", "-"))
        for m in diff.metrics
    ]  # fmt: skip
    yield table("Holdout", ("figure", diff.a, diff.b, "change", "better"), cells, kinds=" rrr")
    if diff.gates:
        yield table("Gates", ("gate", diff.a, diff.b), diff.gates)
    sections: dict[str, list[Difference]] = {}
    for difference in diff.differences:
        sections.setdefault(difference.section, []).append(difference)
    for section, found in sections.items():
        rows = [(d.place or section, _short(d.a), _short(d.b)) for d in found[:SHOWN]]
        more = f", {len(found) - SHOWN} more with --json or --html" if len(found) > SHOWN else ""
        yield f"{section}: {len(found)} differ{'s' if len(found) == 1 else ''}{more}"
        yield table(None, ("place", diff.a, diff.b), rows, kinds="fff")
    if not sections:
        yield "the two cards are the same"


def _short(value: object) -> str:
    from mltrain.report.texts import format_value

    text = format_value(value)
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
