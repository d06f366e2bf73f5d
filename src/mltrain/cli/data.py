"""Commands that hash again: verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.memory import CANDLES_MB, VERIFYING_MB
from mltrain.cli.models import DefaultRef
from mltrain.cli.ops import Ops, read_ops
from mltrain.cli.render import FAILED_CHECK, Outcome
from mltrain.cli.snapshots import SnapshotArgument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    verify = typer.Typer(help="Re-hash every byte of a snapshot or a version.", no_args_is_help=True)
    verify.command("snapshot")(verify_snapshot)
    verify.command("model")(verify_model)
    app.add_typer(verify, name="verify")


@command(takes_mb=CANDLES_MB)
def verify_snapshot(
    session: Session,
    ref: SnapshotArgument = "latest",
) -> Outcome:
    """Re-hash every byte of a snapshot and count its candles again."""
    from mltrain.snapshots.stored import open_snapshot, verify_snapshot

    snap = open_snapshot(session.data_dir, ref)
    mend = f"mend it with: mltrain snapshot --rebuild {snap.id}"
    return _verified("snapshot", snap.id, verify_snapshot(snap), mend=mend)


@command(opens_versions=True, takes_mb=VERIFYING_MB)
def verify_model(
    session: Session,
    ref: DefaultRef = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Fit it again from its snapshot and card, too, and compare the bytes.")
    ] = False,
    ops: Ops = None,
) -> Outcome:
    """Re-hash every byte of a version, then read card and model through their strict doors."""
    from mltrain.pipeline.predict import verify_version
    from mltrain.pipeline.retrain import retrain_version
    from mltrain.store.store import Store

    read_ops(ops)
    version, warning = Store(session.data_dir).open_default(ref)
    if warning:
        session.progress.warn(warning)
    problems = verify_version(version)
    if retrain and not problems:
        problems = retrain_version(version, session.data_dir, progress=session.progress).problems
    return _verified("model", version.name, problems, retrained=retrain)


def _verified(kind: str, name: str, problems: tuple[str, ...], *, mend: str = "", retrained: bool = False) -> Outcome:
    def view() -> Iterable[RenderableType]:
        if not problems:
            again = "; made again from its card, lgbm.pkl is the same to the last byte" if retrained else ""
            return [f"{kind} {name}: every byte is as its manifest says{again}"]
        return [*problems, mend] if mend else [*problems]

    data = {"kind": kind, "name": name, "sound": not problems, "problems": problems}
    return Outcome("verify/1", data, view, exit_code=FAILED_CHECK if problems else 0)
