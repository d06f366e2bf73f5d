"""HTML pages: the report of a version, the comparison of two cards, the index of all versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from mltrain.cli.arguments import LiveVersionArgument, VersionArgument
from mltrain.cli.command import Session, command
from mltrain.cli.help import output_option
from mltrain.cli.render import Outcome, number_text
from mltrain.cli.tables import folding, right, table
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from mltrain.api.html_pages import Page
    from mltrain.cli.render import View
    from mltrain.report.card_diff import CardDiff, Difference

# What a terminal shows; --json and --html have all.
MAX_DIFFERENCES_OF_SECTION: Final = 15
MAX_LETTERS_OF_VALUE: Final = 44

Output = Annotated[Path | None, output_option("--output", metavar="FILE", help="Write the HTML page to this file.")]
Open = Annotated[bool, output_option("--open", help="Also open the page in the browser.")]


@command(opens_versions=True)
def card_report(
    session: Session, ref: LiveVersionArgument = None, output: Output = None, show: Open = False
) -> Outcome:
    """Print the path of a version's report; without one, or with --output, make it from the stored files."""
    from mltrain.api.html_pages import card_report

    page = card_report(ref, output=output, data_dir=session.data_dir, slot=session.slot, progress=session.progress)
    return _show_page(page, show=show, session=session)


@command(opens_versions=True)
def card_diff(
    session: Session,
    first: VersionArgument,
    second: VersionArgument,
    html: Annotated[bool, output_option("--html", help="Write the comparison as an HTML page with figures.")] = False,
    output: Output = None,
    show: Open = False,
) -> Outcome:
    """Show the differences of two versions: figures, gates, and every value of their cards."""
    from mltrain.api.html_pages import card_diff, card_diff_page

    if html:
        page = card_diff_page(first, second, output=output, data_dir=session.data_dir, slot=session.slot)
        return _show_page(page, show=show, session=session)
    refuse_without_html(output, show=show)
    diff = card_diff(first, second, data_dir=session.data_dir, slot=session.slot)
    return Outcome(diff, lambda: _view_diff(diff))


def models_page(session: Session, output: Path | None, *, show: bool) -> Outcome:
    """Write the HTML page that lists all versions, and open it in the browser if `show`."""
    from mltrain.api.html_pages import models_page

    return _show_page(models_page(output, data_dir=session.data_dir), show=show, session=session)


def refuse_without_html(output: Path | None, *, show: bool) -> None:
    """Raise a UsageError if --output or --open was given; called without --html, where they would have no effect."""
    if output is not None or show:
        raise UsageError(f"{'--open' if output is None else '--output'} needs --html", hint="add --html")


def _show_page(page: Page, *, show: bool, session: Session) -> Outcome:
    """Open a page in the browser if `show`, and return the outcome, which prints its path."""
    if show:
        import webbrowser

        from mltrain.storage.descriptors import real_path

        if not webbrowser.open(real_path(page.path).as_uri()):
            session.progress.warn(f"no browser found: open {page.path} yourself")
    return Outcome(page, lambda: [str(page.path)])


def _view_diff(diff: CardDiff) -> View:
    """Show the verdicts, metrics, gates and differing values of two cards."""
    from mltrain.report.card_diff import describe_agreement, describe_paired_loss, list_common

    verdicts = [verdict or "no verdict" for verdict in diff.verdicts]
    yield f"{diff.a} ({verdicts[0]}) and {diff.b} ({verdicts[1]})"
    yield describe_paired_loss(diff)
    better = {"a": diff.a, "b": diff.b}
    metrics = [
        (m.title, number_text(m.a, 5), number_text(m.b, 5), None if m.change is None else f"{m.change:+.5f}",
         better.get(m.better or ""))
        for m in diff.metrics
    ]  # fmt: skip
    yield table("Holdout", "figure", *right(diff.a, diff.b, "change"), "better", rows=metrics)
    if common := list_common(diff):
        yield describe_agreement(diff)
        numbers = right("rows", diff.a, diff.b, f"{diff.a} minus {diff.b}")
        yield table("Log loss on the rows of both", "symbol or week", *numbers, rows=common)
    if diff.gates:
        yield table("Gates", "gate", diff.a, diff.b, rows=diff.gates)
    sections: dict[str, list[Difference]] = {}
    for difference in diff.differences:
        sections.setdefault(difference.section, []).append(difference)
    for section, differences in sections.items():
        hidden = len(differences) - MAX_DIFFERENCES_OF_SECTION
        more = f", {hidden} more with --json or --html" if hidden > 0 else ""
        yield f"{section}: {len(differences)} differ{'s' if len(differences) == 1 else ''}{more}"
        rows = [
            (d.place or section, _short_text(d.a), _short_text(d.b)) for d in differences[:MAX_DIFFERENCES_OF_SECTION]
        ]
        yield table(None, *folding("place", diff.a, diff.b), rows=rows)
    if not sections:
        yield "the two cards are the same"


def _short_text(value: object) -> str:
    """Return a value of a card as text, cut to the length that a table shows."""
    from mltrain.report.texts import format_value

    text = format_value(value)
    return text if len(text) <= MAX_LETTERS_OF_VALUE else f"{text[: MAX_LETTERS_OF_VALUE - 1]}…"
