"""The command sentinel: evaluates the triggers of the kill switch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome
from mltrain.cli.tables import folding, right, table
from mltrain.documents.results import to_plain
from mltrain.errors import NoGoError

if TYPE_CHECKING:
    from mltrain.cli.render import View
    from mltrain.monitoring.sentinel import SentinelStep

# The exit code of an evaluation in which a trigger fires.
BREACH: Final = NoGoError.exit_code


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "sentinel", sentinel, example="mltrain sentinel --config halt.yml")


@command(notifies=True)
def sentinel(
    session: Session,
    once: Annotated[
        bool, typer.Option("--once", help="Evaluate once and end, with exit code 4 if a trigger fires.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Your halt.yml; its keys override those of the packaged one."),
    ] = None,
) -> Outcome | None:
    """Watch the ledger until Ctrl-C, and halt serving where a trigger fires; with --json, one line per halt."""
    from mltrain.api.sentinel import run_sentinel, sentinel

    if once:
        found = sentinel(config=config, notify=session.notify, data_dir=session.data_dir, now_ms=session.now_ms)
        for warning in found.warnings:
            session.progress.warn(warning)
        return Outcome(found, lambda: _view_evidence(found), exit_code=BREACH if found.fired else 0)
    steps = run_sentinel(
        config=config,
        notify=session.notify,
        notify_secret_file=session.notify_secret_file,
        data_dir=session.data_dir,
        progress=session.progress,
    )
    for found in steps:
        for line in _describe_halts(found, as_json=session.as_json):
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return None


def _describe_halts(found: SentinelStep, *, as_json: bool) -> list[str]:
    """Return the lines about an evaluation that halted serving."""
    if as_json:
        return [json.dumps(to_plain(found), allow_nan=False)]
    fired = [each for each in found.fired if each.trigger in found.halted]
    return [f"{found.when}  halted  {each.trigger:<12} {each.sentence}" for each in fired]


def _view_evidence(found: SentinelStep) -> View:
    """Show what each trigger sees, and what was halted."""
    rows = [
        (
            each.trigger,
            each.version,
            "-" if each.value is None else f"{each.value:.4g}",
            f"{each.level:g}",
            f"{each.sample:,}",
            "breach" if each.fired else "",
        )
        for each in found.evidence
    ]
    yield table(None, "trigger", *folding("version"), *right("value", "breach at", "sample"), "", rows=rows)
    for each in found.fired:
        yield f"{each.trigger}: {each.sentence}"
    if found.halted:
        acknowledged = " ".join(f"--acknowledge {name}" for name in found.halted)
        yield f"halted by {', '.join(found.halted)}; once the cause is known: mltrain resume {acknowledged} --why TEXT"
    elif not found.fired:
        yield f"{found.rows:,} rows of the ledger: no trigger fires"
