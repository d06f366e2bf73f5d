"""Commands that hash again: verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.features import Ops, read_ops
from mltrain.cli.render import FAILED_CHECK, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    verify = typer.Typer(help="Re-hash every byte of a snapshot or a version.", no_args_is_help=True)
    verify.command("snapshot")(verify_snapshot)
    verify.command("model")(verify_model)
    app.add_typer(verify, name="verify")


@command()
def verify_snapshot(
    session: Session,
    ref: Annotated[str, typer.Argument(help="latest, an id, or a path.")] = "latest",
) -> Outcome:
    """Re-hash every byte of a snapshot and count its candles again."""
    from mltrain.candles.snapshot import open_snapshot, verify_snapshot

    snap = open_snapshot(session.data_dir, ref)
    mend = f"mend it with: mltrain snapshot --rebuild {snap.id}"
    return _verified("snapshot", snap.id, verify_snapshot(snap), mend=mend)


@command(opens_versions=True)
def verify_model(
    session: Session,
    ref: Annotated[str | None, typer.Argument(help="best, latest, a version, or a path. Default: best.")] = None,
    ops: Ops = None,
) -> Outcome:
    """Re-hash every byte of a version, then read card and model through their strict doors."""
    from mltrain.models.store import Store
    from mltrain.pipeline.serve import verify_version

    read_ops(ops)
    version, warning = Store(session.data_dir).open_default(ref)
    if warning:
        session.progress.warn(warning)
    return _verified("model", version.name, verify_version(version))


def _verified(kind: str, name: str, problems: tuple[str, ...], *, mend: str = "") -> Outcome:
    def view() -> Iterable[RenderableType]:
        if not problems:
            return [f"{kind} {name}: every byte is as its manifest says"]
        return [*problems, mend] if mend else [*problems]

    data = {"kind": kind, "name": name, "sound": not problems, "problems": problems}
    return Outcome("verify/1", data, view, exit_code=FAILED_CHECK if problems else 0)
