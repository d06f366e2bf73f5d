"""Commands on the journals of searches: studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.arguments import DryRunOption
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.help import add_command, new_group
from mltrain.cli.render import Outcome, minute_text, view_pruned
from mltrain.cli.tables import right, table

if TYPE_CHECKING:
    from mltrain.cli.render import View


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    listing = new_group("List and remove the journals of searches.", listing=studies, example="mltrain studies")
    add_command(listing, "prune", studies_prune, example="mltrain studies prune --older-than 90 --dry-run")
    app.add_typer(listing, name="studies")


@command()
def studies(session: Session, ctx: typer.Context) -> Outcome | None:
    """List the journals of searches."""
    from mltrain.api.studies import list_studies

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    listed = list_studies(data_dir=session.data_dir)

    def view() -> View:
        if not listed.studies:
            yield f"no studies in {session.data_dir}: `mltrain train` makes one"
            return
        cells = [(row.study, minute_text(row.written), f"{row.bytes / 1e6:,.1f}") for row in listed.studies]
        yield table(None, "study", "written (UTC)", *right("MB"), rows=cells)

    return Outcome(listed, view)


@command()
def studies_prune(
    session: Session,
    older_than: Annotated[
        int,
        typer.Option("--older-than", metavar="DAYS", min=1, help="Remove journals without a new trial for this long."),
    ],
    dry_run: DryRunOption = False,
) -> Outcome:
    """Remove old journals of searches, which then cannot be resumed; versions keep the trials that led to them."""
    from mltrain.api.studies import studies_prune

    pruned = studies_prune(older_than=older_than, dry_run=dry_run, data_dir=session.data_dir, now_ms=session.now_ms)
    kept = {study.study: study.why for study in pruned.kept}

    def view() -> View:
        yield from view_pruned(pruned.removed, kept, dry_run=dry_run)
        yield f"{pruned.bytes / 1e6:,.1f} MB"

    return Outcome(pruned, view)
