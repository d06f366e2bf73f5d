"""The commands verify snapshot and verify model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from mltrain.cli.address_space import CANDLES_MB, VERIFYING_MB
from mltrain.cli.arguments import LiveVersionArgument, OpsOption, SnapshotArgument, register_ops
from mltrain.cli.command import Session, command
from mltrain.cli.help import add_command, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome


@dataclass(frozen=True, slots=True)
class VerifyDocument:
    """The document of `verify`.

    Attributes:
        kind: What was checked.
        name: Id of the snapshot, or name of the version.
        sound: Whether nothing is wrong; exit code 0 or 3.
        problems: What is wrong, one line each.
    """

    kind: Literal["snapshot", "model"]
    name: str
    sound: bool
    problems: tuple[str, ...]


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    verify = new_group("Check every byte of a snapshot or a version.")
    add_command(verify, "snapshot", verify_snapshot, example="mltrain verify snapshot latest")
    add_command(verify, "model", verify_model, example="mltrain verify model best --retrain")
    app.add_typer(verify, name="verify")


@command(need_mb=CANDLES_MB)
def verify_snapshot(session: Session, ref: SnapshotArgument = "latest") -> Outcome:
    """Hash every file of a snapshot and check its candles."""
    from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot

    snapshot = open_snapshot(session.data_dir, ref)
    repair = f"repair it with: mltrain snapshot --rebuild {snapshot.id}"
    return _verified("snapshot", snapshot.id, verify_snapshot(snapshot), repair=repair)


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
    from mltrain.pipeline.predict import verify_version
    from mltrain.pipeline.retrain import retrain_version

    register_ops(ops)
    version = session.open_version(ref)
    problems = verify_version(version)
    if retrain and not problems:
        problems = retrain_version(version, session.data_dir, progress=session.progress).problems
    return _verified("model", version.name, problems, retrained=retrain)


def _verified(
    kind: Literal["snapshot", "model"],
    name: str,
    problems: tuple[str, ...],
    *,
    repair: str | None = None,
    retrained: bool = False,
) -> Outcome:
    """Show the problems of a snapshot or version and how to `repair` it, or that every byte is as it was written."""
    lines = [*problems, *([] if repair is None else [repair])]
    if not problems:
        again = "; retrained from its card, lgbm.pkl is byte for byte the same" if retrained else ""
        lines = [f"{kind} {name}: every byte matches the manifest{again}"]
    data = VerifyDocument(kind, name, sound=not problems, problems=problems)
    return Outcome("verify/1", data, lambda: lines, exit_code=FAILED_CHECK if problems else 0)
