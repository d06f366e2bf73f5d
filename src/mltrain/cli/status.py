"""The command status: one screen about what is live, how old everything is, and what is overdue or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command
from mltrain.cli.render import Outcome, minute_text, number_text
from mltrain.errors import NoGoError
from mltrain.times import SECOND_MS, format_age, parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mltrain.cli.render import View
    from mltrain.monitoring.status import (
        KillSwitch,
        LastRound,
        LatestCandles,
        LedgerState,
        LiveAnswers,
        LiveVersion,
        SlotStatus,
        Status,
    )

# The exit code of --check when something is overdue or wrong.
ALERT: Final = NoGoError.exit_code
_LABEL_WIDTH: Final = 15


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "status", status, example="mltrain status --check")


@command(has_slot=True)
def status(
    session: Session,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Print only what is overdue or wrong, one line each, and end with exit code 4 if anything is.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Your operate.yml; its keys override those of the packaged one."),
    ] = None,
) -> Outcome:
    """Show what is live, how old everything is, and what is overdue or wrong."""
    from mltrain.api.status import status

    found = status(config=config, data_dir=session.data_dir, slot=session.slot, now_ms=session.now_ms)
    return Outcome(
        found,
        lambda: _view_problems(found) if check else _view(found),
        exit_code=ALERT if check and found.problems else 0,
    )


def _view(found: Status) -> View:
    """Show everything, slot by slot; last, what is overdue or wrong."""
    now_ms = parse_time(found.when)
    yield f"{found.data_dir} at {minute_text(found.when)} UTC"
    for slot in found.slots:
        yield f"slot {slot.slot}"
        yield from (_labelled(label, text, indent=2) for label, text in _view_slot(slot, now_ms))
    yield _labelled("candles", _describe_candles(found.candles))
    yield _labelled("ledger", _describe_ledger(found.ledger))
    yield _labelled("kill switch", _describe_kill_switch(found.kill_switch))
    if not found.problems:
        yield "nothing is overdue or wrong"
        return
    yield f"{len(found.problems)} overdue or wrong:"
    yield from (f"  {problem.describe()}" for problem in found.problems)


def _view_problems(found: Status) -> View:
    return (problem.describe() for problem in found.problems)


def _labelled(label: str, text: str, *, indent: int = 0) -> str:
    # What a card or the ledger holds may be any text.
    shown = "".join(c if c.isprintable() else " " for c in text)
    return f"{' ' * indent}{label:<{_LABEL_WIDTH - indent}}{shown}"


def _view_slot(slot: SlotStatus, now_ms: int) -> Iterator[tuple[str, str]]:
    """Yield a label and a line for each part of a slot."""
    live = slot.live
    if live is None:
        yield "live", "none"
    else:
        since = "" if live.live_since is None else f", live since {minute_text(live.live_since)}"
        until = "" if live.valid_until is None else f", valid until {minute_text(live.valid_until)}"
        yield "live", f"{live.version}, trained {_ago(live.age_s)}{since}{until}"
    if live is not None and live.comparable_from is not None:
        why = (
            "trained on every row (--final all)" if live.fitted_on == "all" else "few rows are later than its training"
        )
        yield "comparison", f"{why}: a GO is held until there are candles of {live.comparable_from[:10]}"
    if slot.last_round is not None:
        yield "last round", _describe_round(slot.last_round)
    if slot.next_round is not None:
        wait_s = (parse_time(slot.next_round) - now_ms) / SECOND_MS
        when = f"in {format_age(wait_s)}" if wait_s >= 0 else _ago(-wait_s)
        yield "next round", f"due {minute_text(slot.next_round)}, {when}"
    if live is not None and live.answers is not None:
        yield "answers", _describe_answers(live.answers)
    if live is not None:
        yield from _view_quality(live)


def _describe_round(last: LastRound) -> str:
    """Return what the last round gave, and why it was not promoted."""
    if last.verdict == "NO-GO":
        return f"{last.version} NO-GO: {'; '.join(last.failed) or 'its card names no gate'}"
    if last.is_live:
        return f"{last.version} GO, live"
    return f"{last.version} GO, {'not live' if last.held is None else f'held: {last.held}'}"


def _describe_answers(answers: LiveAnswers) -> str:
    """Return how many there are, how old the newest is, and what was refused."""
    begin = "since its promotion" if answers.is_complete else f"since {minute_text(answers.first_at)}"
    refused = ", ".join(f"{count:,} {reason}" for reason, count in answers.refused.items())
    share = "" if answers.refused_share is None else f" {answers.refused_share:.1%}"
    missed = f"; {answers.missed:,} candles missed" if answers.missed else ""
    return (
        f"{answers.rows:,} {begin}, the newest {_ago(answers.age_s)}; refused{share or ' '}"
        f"{f' ({refused})' if refused else ''}{missed}"
    )


def _view_quality(live: LiveVersion) -> Iterator[tuple[str, str]]:
    """Yield drift and calibration of the answers."""
    drift, scores = live.drift, live.calibration
    if drift is not None:
        yield "drift", f"{drift.distance:.2f} between P(up) in {drift.rows:,} answers and on the holdout (0 to 1)"
    if scores is not None:
        said = f"{scores.rows:,} outcomes: P(up) {scores.mean_p:.3f}, {scores.up_share:.3f} went up"
        losses = f"log loss {number_text(scores.log_loss)}, of the base rate {number_text(scores.base_log_loss)}"
        yield "calibration", f"{said}; ECE {scores.ece:.3f}; {losses}"


def _describe_candles(candles: LatestCandles | None) -> str:
    if candles is None:
        return "none"
    newest = f"up to {minute_text(candles.newest)} in snapshot {candles.snapshot}"
    return f"{newest}, closed {_ago(candles.age_s)}"


def _describe_ledger(ledger: LedgerState | None) -> str:
    if ledger is None:
        return "no answers"
    by = ledger.last_version or "a model without a name"
    candle = minute_text(ledger.last_candle) or "-"
    return f"{ledger.rows:,} rows read, the newest {minute_text(ledger.last_at)} by {by}; newest candle {candle}"


def _ago(age_s: float) -> str:
    # An answer may be given while this runs.
    return f"{format_age(max(0.0, age_s))} ago"


def _describe_kill_switch(switch: KillSwitch) -> str:
    """Return its state, arming and heartbeat; what is in force is among the problems."""
    armed = "not armed" if switch.armed is None else f"armed since {minute_text(switch.armed.when)}"
    if switch.heartbeat is None:
        sentinel = "no sentinel has run" if switch.silence is None else "the sentinel is silent"
    else:
        sentinel = f"{'last' if switch.silence is None else 'SILENT, last'} heartbeat {minute_text(switch.heartbeat)}"
    return f"{switch.state}, {armed}, {sentinel}"
