"""The commands verify snapshot and verify model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.address_space import CANDLES_MB, VERIFYING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, SnapshotArgument, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mltrain.api.verify import VerifyResult


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    verify = new_group("Check every byte of a snapshot or a version.")
    add_command(verify, "snapshot", verify_snapshot, example="mltrain verify snapshot latest")
    add_command(verify, "model", verify_model, example="mltrain verify model best --retrain")
    app.add_typer(verify, name="verify")


@command(need_mb=CANDLES_MB)
def verify_snapshot(session: Session, ref: SnapshotArgument = "latest") -> Outcome:
    """Hash every file of a snapshot and check its candles."""
    from mltrain.api.verify import verify_snapshot

    result = verify_snapshot(ref, data_dir=session.data_dir)
    repair = f"repair it with: mltrain snapshot --rebuild {result.name}"
    return _verified(result, [] if result.sound else [*result.problems, repair])


@command(opens_versions=True, need_mb=VERIFYING_MB)
def verify_model(
    session: Session,
    ref: LiveVersionArgument = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also fit it again from its snapshot and card, and compare the bytes.")
    ] = False,
    ops: OpsOption = None,
) -> Outcome:
    """Hash every file of a version, then check its card and its model."""
    from mltrain.api.verify import verify_model

    register_ops(ops)
    result = verify_model(
        ref, retrain=retrain, ops=ops, data_dir=session.data_dir, slot=session.slot, progress=session.progress
    )
    again = "; retrained from its card, the model is byte for byte the same" if retrain else ""
    return _verified(result, result.problems, again=again)


def _verified(result: VerifyResult, problems: Sequence[str], *, again: str = "") -> Outcome:
    """Show the problems of a snapshot or version, or that every byte is as it was written."""
    lines = list(problems) or [f"{result.kind} {result.name}: every byte matches the manifest{again}"]
    return Outcome(result, lambda: lines, exit_code=0 if result.sound else FAILED_CHECK)
