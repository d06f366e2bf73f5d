"""Commands on the recorded answers: ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.api.ledger import DEFAULT_NEWEST
from mltrain.cli.arguments import DryRunOption
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.completion import complete_symbols
from mltrain.cli.help import add_command, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome, minute_text, number_text, view_pruned
from mltrain.cli.tables import folding, optional, right, table

if TYPE_CHECKING:
    from mltrain.cli.render import View
    from mltrain.monitoring.ledger_summary import LedgerSummary

# Enough to tell two hashes from each other.
HASH_SHOWN = 12


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = new_group(
        "Show, check and prune the recorded answers.", listing=ledger, example="mltrain ledger --since 2025-10-15"
    )
    add_command(group, "prune", ledger_prune, example="mltrain ledger prune --keep-days 400")
    app.add_typer(group, name="ledger")


@command()
def ledger(
    session: Session,
    ctx: typer.Context,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only answers from this time on, such as 2025-10-15T12:00:00Z, UTC. Earlier days are not checked.",
        ),
    ] = None,
    symbols: Annotated[
        str | None,
        typer.Option(
            "--symbols",
            metavar="SYMBOLS",
            help="Only answers for these, comma-separated. Default: all.",
            autocompletion=complete_symbols,
        ),
    ] = None,
    newest: Annotated[int, typer.Option("--newest", min=0, help="How many of the newest to show.")] = DEFAULT_NEWEST,
) -> Outcome | None:
    """Show the newest answers and what was refused, and check that no line was changed."""
    from mltrain.api.ledger import ledger

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    found = ledger(since=since, symbols=symbols, newest=newest, data_dir=session.data_dir)
    return Outcome(found, lambda: _view(found), exit_code=0 if found.problem is None else FAILED_CHECK)


def _view(found: LedgerSummary) -> View:
    """Show the newest answers, then the counts by symbol, reason and version; last, what is damaged."""
    if not found.days:
        yield f"no answers in {found.path}: `mltrain predict --watch --ledger` records them"
        return
    if found.rows:
        cells = [(s.symbol or "-", f"{s.rows:,}", f"{s.refused:,}", f"{s.missed:,}", minute_text(s.last_ts))
                 for s in found.symbols]  # fmt: skip
        yield table("Symbols", "symbol", *right("answers", "refused", "missed"), "last candle (UTC)", rows=cells)
        codes = [(v.version, v.code_sha256[:HASH_SHOWN], f"{v.rows:,}", minute_text(v.first_at), minute_text(v.last_at))
                 for v in found.versions]  # fmt: skip
        yield table(
            "Versions", "version", "code", *right("answers"), "first (UTC)", *optional("last (UTC)"), rows=codes
        )
    if found.refused:
        reasons = [(reason, f"{count:,}", f"{count / found.rows:.1%}") for reason, count in found.refused.items()]
        yield table("Refused", *folding("reason"), *right("answers", "share"), rows=reasons)
    if found.newest:
        rows = [
            (r.at[:19].replace("T", " "), minute_text(r.ts), r.symbol or "-", number_text(r.p), r.refused or "",
             r.permit or "", number_text(r.latency_ms, 1), r.version)
            for r in found.newest
        ]  # fmt: skip
        yield table(
            "Newest answers",
            *("at (UTC)", "candle (UTC)", "symbol"),
            *right("P(up)"),
            *("refused", "permit"),
            *right("ms"),
            *optional("version"),
            rows=rows,
        )
    span = f" from {minute_text(found.first_at)} to {minute_text(found.last_at)}" if found.rows else ""
    yield f"{found.path}: {found.rows:,} answers{span}, {found.days} day{'s' * (found.days > 1)}"
    if found.latency_p99_ms is not None:
        yield f"latency: p50 {number_text(found.latency_p50_ms, 1)} ms, p99 {number_text(found.latency_p99_ms, 1)} ms"
    if found.problem is None:
        yield "no line was changed or removed"
    else:
        yield f"DAMAGED: {found.problem}"
        yield "what comes after it was not read; a later day is with --since"


@command()
def ledger_prune(
    session: Session,
    keep_days: Annotated[int, typer.Option("--keep-days", min=1, help="How many UTC days to keep, today included.")],
    dry_run: DryRunOption = False,
) -> Outcome:
    """Remove the oldest days of answers; the newest one always stays, and what is left can still be checked."""
    from mltrain.api.ledger import ledger_prune

    pruned = ledger_prune(keep_days=keep_days, dry_run=dry_run, data_dir=session.data_dir, now_ms=session.now_ms)

    def view() -> View:
        yield from view_pruned(pruned.removed, {}, dry_run=dry_run)
        yield f"{pruned.bytes / 1e6:,.1f} MB; {pruned.kept:,} day{'s' * (pruned.kept != 1)} left"

    return Outcome(pruned, view)
