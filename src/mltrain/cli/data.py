"""Commands that check: verify, features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.render import FAILED_CHECK, Outcome, number, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType


Features = Annotated[
    Path | None,
    typer.Option("--features", help="Registry of features; the name of a packaged one works. Default: features.yml."),
]
SnapshotRef = Annotated[str, typer.Option("--snapshot", help="latest, an id, or a path.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    features = typer.Typer(help="Features: what they are, a frame checked, a snapshot audited.", no_args_is_help=True)
    features.command("info")(features_info)
    features.command("check")(features_check)
    features.command("audit")(features_audit)
    app.add_typer(features, name="features")
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
    return _verified("snapshot", snap.id, verify_snapshot(snap))


@command(opens_versions=True)
def verify_model(
    session: Session,
    ref: Annotated[str | None, typer.Argument(help="best, latest, a version, or a path. Default: best.")] = None,
) -> Outcome:
    """Re-hash every byte of a version, then read card and model through their strict doors."""
    from mltrain.models.store import Store
    from mltrain.pipeline.serve import verify_version

    version, warning = Store(session.data_dir).open_default(ref)
    if warning:
        session.progress.warn(warning)
    return _verified("model", version.name, verify_version(version))


def _verified(kind: str, name: str, problems: tuple[str, ...]) -> Outcome:
    def view() -> Iterable[RenderableType]:
        return [f"{kind} {name}: every byte is as its manifest says"] if not problems else [*problems]

    data = {"kind": kind, "name": name, "sound": not problems, "problems": problems}
    return Outcome("verify/1", data, view, exit_code=FAILED_CHECK if problems else 0)


@command()
def features_info(session: Session, features: Features = None) -> Outcome:  # noqa: ARG001 (a registry needs no data)
    """Show the registry: every feature's op, parameters, lookback and columns."""
    from mltrain.features.registry import describe, load_registry

    chosen = load_registry(features)
    infos = describe(chosen)
    data = {
        "version": chosen.version,
        "interval": chosen.interval,
        "label": chosen.label,
        "lookback_bars": chosen.lookback_bars,
        "registry_sha256": chosen.registry_sha256,
        "features": infos,
    }

    def view() -> Iterator[RenderableType]:
        label = chosen.label
        yield (
            f"{len(infos)} features at {chosen.interval}, lookback {chosen.lookback_bars} bars, "
            f"label {label.kind} over {label.horizon_bars} bar(s), ties {label.ties}"
        )
        yield f"registry {chosen.registry_sha256}"
        rows = [
            (i.name, i.op, " ".join(f"{k}={v}" for k, v in i.params.items()), i.lookback_bars,
             ",".join([*i.columns, *(f"{i.leader}:{c}" for c in i.leader_columns)]))
            for i in infos
        ]  # fmt: skip
        yield table(None, ("feature", "op", "parameters", "lookback", "reads"), rows, right="   rf")

    return Outcome("features-info/1", data, view)


@command()
def features_check(
    session: Session,  # noqa: ARG001 (a frame needs no data folder)
    frame: Annotated[Path, typer.Argument(help="A Parquet file: one column a feature, perhaps ts and symbol too.")],
    features: Features = None,
) -> Outcome:
    """Check that a frame holds just the registry's features: names, order, types, finite values."""
    from mltrain.features.registry import FeatureSchemaValidator, read_feature_frame

    problems = FeatureSchemaValidator(features).validate_features(read_feature_frame(frame), strict=False)

    def view() -> Iterable[RenderableType]:
        return [*problems] if problems else [f"{frame}: every feature is as the registry says"]

    data = {"file": frame, "sound": not problems, "problems": problems}
    return Outcome("features-check/1", data, view, exit_code=FAILED_CHECK if problems else 0)


@command()
def features_audit(session: Session, features: Features = None, ref: SnapshotRef = "latest") -> Outcome:
    """Run the leakage audit of every feature on a snapshot's own candles."""
    from mltrain.candles.snapshot import open_snapshot
    from mltrain.config import load_config
    from mltrain.features.registry import load_registry
    from mltrain.guards import check_guards
    from mltrain.pipeline.audit import audit_snapshot

    config = load_config(None, overrides={})
    snap = open_snapshot(session.data_dir, ref)
    results = audit_snapshot(snap, load_registry(features), config, progress=session.progress)
    check_guards(results)
    return Outcome("features-audit/1", {"snapshot": snap.id, "guards": results}, lambda: [view_guards(results)])


def view_guards(results: Any) -> RenderableType:  # noqa: ANN401 (GuardResults, whose module is imported late)
    """Return the table of what the guards checked."""
    rows = [
        (r.name, "passed" if r.passed else "FAILED", c.name, f"{c.points:,}", number(c.worst, 3), c.detail)
        for r in results
        for c in r.checks
    ]
    return table("Leakage guards", ("guard", "", "check", "points", "worst", "detail"), rows, right="   rrf")
