"""The command notify: the events that wait for delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.command import Notify, NotifySecretFile, Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, minute_text
from mltrain.cli.tables import folding, right, table
from mltrain.errors import SourceError

if TYPE_CHECKING:
    from mltrain.cli.render import View
    from mltrain.monitoring.event_delivery import Delivery


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "notify", notify, example="mltrain notify --flush")


@command()
def notify(
    session: Session,
    flush: Annotated[bool, typer.Option("--flush", help="Deliver them now; exit 6 if one is left.")] = False,
    test: Annotated[bool, typer.Option("--test", help="Queue a test event before; goes with --flush.")] = False,
    notify: Notify = None,
    notify_secret_file: NotifySecretFile = None,
) -> Outcome:
    """Show the events that wait for delivery, or deliver them."""
    from mltrain.api.notify import notify as run

    found = run(
        flush=flush,
        test=test,
        notify=notify or None,
        notify_secret_file=notify_secret_file,
        data_dir=session.data_dir,
        now_ms=session.now_ms,
    )
    for problem in found.problems:
        session.progress.warn(problem)
    return Outcome(found, lambda: _view(found), exit_code=SourceError.exit_code if flush and found.waiting else 0)


def _view(found: Delivery) -> View:
    if found.waiting:
        rows = [
            (minute_text(each.when), each.kind, each.summary, each.attempts, each.error or "") for each in found.waiting
        ]
        yield table(
            "Waiting events",
            "when (UTC)",
            "kind",
            *folding("summary"),
            *right("attempts"),
            *folding("error"),
            rows=rows,
        )
    delivered = f"{len(found.delivered)} delivered, " if found.delivered else ""
    yield f"{delivered}{len(found.waiting)} waiting"
