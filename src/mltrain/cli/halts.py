"""Commands of the kill switch: halt, resume."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.arguments import LiveVersionArgument
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.help import add_command, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome, minute_text, number_text
from mltrain.cli.tables import folding, right, table
from mltrain.errors import NoGoError, UsageError

if TYPE_CHECKING:
    from mltrain.api.halts import HaltHistory, HaltStatus
    from mltrain.cli.render import View
    from mltrain.killswitch.halts import HaltLine
    from mltrain.killswitch.switch import HaltResult, ResumeResult
    from mltrain.monitoring.drill import DrillResult


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Your halt.yml; its keys override those of the packaged one."),
]


class HaltMode(StrEnum):
    """How strict a halt is."""

    HALT = "halt"
    REDUCE = "reduce"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = new_group(
        "Stop serving at once, everywhere, until `mltrain resume`.",
        listing=halt,
        example="mltrain halt --why 'wrong prices since 14:00'",
    )
    add_command(group, "status", halt_status, example="mltrain halt status --check")
    add_command(group, "history", halt_history, example="mltrain halt history")
    add_command(group, "arm", halt_arm, example="mltrain halt arm")
    add_command(group, "drill", halt_drill, example="mltrain halt drill")
    add_command(group, "disarm", halt_disarm, example="mltrain halt disarm")
    app.add_typer(group, name="halt")
    add_command(app, "resume", resume, example="mltrain resume --why 'the feed is right again'")


@command(notifies=True)
def halt(
    session: Session,
    ctx: typer.Context,
    why: Annotated[str | None, typer.Option("--why", metavar="TEXT", help="Reason, for the log of halts.")] = None,
    mode: Annotated[
        HaltMode,
        typer.Option("--mode", help="halt: nothing is answered; reduce: answers are only for reducing positions."),
    ] = HaltMode.HALT,
    symbols: Annotated[
        str | None, typer.Option("--symbols", metavar="LIST", help="Symbols, separated by commas. Default: all.")
    ] = None,
) -> Outcome | None:
    """Stop serving at once, everywhere, until `mltrain resume`."""
    from mltrain.api.halts import halt

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    if why is None:
        raise UsageError("the reason is missing", hint="say why with --why TEXT")
    result = halt(
        why,
        mode=mode.value,
        symbols=None if symbols is None else symbols.split(","),
        notify=session.notify,
        data_dir=session.data_dir,
        now_ms=session.now_ms,
    )
    for warning in result.warnings:
        session.progress.warn(warning)
    return Outcome(result, lambda: _view_halt(result))


def _view_halt(result: HaltResult) -> View:
    yield result.halt.describe()
    yield "to serve again: mltrain resume --why TEXT"


@command()
def halt_status(
    session: Session,
    check: Annotated[
        bool, typer.Option("--check", help="Exit 4 while serving is halted or restricted, for a monitor.")
    ] = False,
) -> Outcome:
    """Show whether serving is halted: since when, why, by whom, and what a trigger saw."""
    from mltrain.api.halts import halt_status

    status = halt_status(data_dir=session.data_dir)
    code = 0 if status.state == "running" or not check else NoGoError.exit_code
    return Outcome(status, lambda: _view_status(status), exit_code=code)


def _view_status(status: HaltStatus) -> View:
    if status.state == "running":
        yield "serving runs: nothing is halted"
    for each in status.halts:
        yield each.describe()
        yield from (f"    {name}: {value}" for name, value in each.evidence.items())
    if status.armed is not None:
        armed = status.armed
        yield f"armed since {armed.when} by {armed.by}: {armed.timeout_s:g} s without the sentinel halt everything"


@command()
def halt_history(session: Session) -> Outcome:
    """Show every halt, resume, arming and disarming, and check the log."""
    from mltrain.api.halts import halt_history

    log = halt_history(data_dir=session.data_dir)

    return Outcome(log, lambda: _view_history(log), exit_code=FAILED_CHECK if log.problems else 0)


def _view_history(log: HaltHistory) -> View:
    if not log.lines:
        yield "serving was never halted"
    else:
        rows = [(e.serial, minute_text(e.when), _name_action(e), e.trigger or e.by, e.why) for e in log.lines]
        yield table(None, *right("serial"), "when (UTC)", "what", *folding("by", "why"), rows=rows)
    yield from (*log.problems, *log.notes)


def _name_action(line: HaltLine) -> str:
    """Return what a line of the log did, in a few words."""
    match line.action:
        case "halt":
            return " ".join(filter(None, [line.mode, ", ".join(line.symbols)]))
        case "resume":
            serials = ", ".join(map(str, line.lifted))
            return f"resume of {serials}{', forced' if line.forced else ''}"
        case "arm":
            return f"arm, {line.timeout_s:g} s"
        case "disarm":
            return "disarm"


@command()
def halt_arm(
    session: Session,
    config: ConfigOption = None,
) -> Outcome:
    """From now on serve only while the sentinel is at work and the state can be read."""
    from mltrain.api.halts import halt_arm

    status = halt_arm(config=config, data_dir=session.data_dir, now_ms=session.now_ms)
    return Outcome(status, lambda: _view_status(status))


@command()
def halt_disarm(session: Session) -> Outcome:
    """Serve without the sentinel again."""
    from mltrain.api.halts import halt_disarm

    status = halt_disarm(data_dir=session.data_dir, now_ms=session.now_ms)
    return Outcome(status, lambda: _view_status(status))


@command(opens_versions=True)
def halt_drill(
    session: Session,
    ref: LiveVersionArgument = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=1_000, help="How many times to halt and resume.")] = 20,
) -> Outcome:
    """Halt and resume for real on a scratch copy of the live version, and show how long each takes."""
    from mltrain.api.halts import halt_drill

    drill = halt_drill(ref, rounds=rounds, data_dir=session.data_dir, slot=session.slot, now_ms=session.now_ms)

    return Outcome(drill, lambda: _view_drill(drill), exit_code=FAILED_CHECK if drill.wrong_answers else 0)


def _view_drill(drill: DrillResult) -> View:
    yield f"{drill.version}, {drill.rounds} halts: {drill.answers:,} answers, {drill.refusals:,} refused"
    times = {
        "halt, from call to end": drill.halt,
        "halt, from call to first refusal": drill.first_refusal,
        "resume, from call to end": drill.resume,
        "resume, from call to first answer": drill.first_answer,
    }
    rows = [
        (name, *(number_text(ms, 2) for ms in (each.p50_ms, each.p99_ms, each.max_ms))) for name, each in times.items()
    ]
    yield table(None, "ms", *right("p50", "p99", "max"), rows=rows)
    if drill.wrong_answers:
        yield f"{drill.wrong_answers} answers were given while serving was halted"


@command(notifies=True)
def resume(
    session: Session,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="Reason, for the log of halts.")],
    acknowledge: Annotated[
        list[str] | None,
        typer.Option("--acknowledge", metavar="TRIGGER", help="End the halt of this trigger, too; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Resume although a trigger's condition still holds.")] = False,
    config: ConfigOption = None,
) -> Outcome:
    """Serve again: end every halt in force."""
    from mltrain.api.halts import resume

    result = resume(
        why,
        acknowledge=acknowledge or (),
        force=force,
        config=config,
        notify=session.notify,
        data_dir=session.data_dir,
        now_ms=session.now_ms,
    )
    for warning in result.warnings:
        session.progress.warn(warning)

    return Outcome(result, lambda: _view_resume(result))


def _view_resume(result: ResumeResult) -> View:
    if not result.resumed:
        yield "already running; nothing was written"
    yield from (f"ended: {each.describe().removeprefix('serving is ')}" for each in result.lifted)
    if result.resumed and result.state.is_running:
        yield "serving runs"
    yield from (f"still in force: {each.describe()}" for each in result.state.halts)
