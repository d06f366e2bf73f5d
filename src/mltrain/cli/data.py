"""Commands on candles and features: snapshot, snapshots, verify, features."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mltrain.cli.command import Session, command
from mltrain.cli.render import Outcome, number, table, time_text
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from mltrain.candles.snapshot import Snapshot


class SourceName(StrEnum):
    """Where candles can come from."""

    FILES = "files"
    SIM = "sim"


class SimSignal(StrEnum):
    """How predictable the simulated exchange is."""

    NONE = "none"
    WEAK = "weak"
    STRONG = "strong"


Features = Annotated[
    Path | None,
    typer.Option("--features", help="Registry of features; the name of a packaged one works. Default: features.yml."),
]
SnapshotRef = Annotated[str, typer.Option("--snapshot", help="latest, an id, or a path.")]

DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
FAILED_CHECK = 3


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command("snapshot")(snapshot)
    app.command("snapshots")(snapshots)
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
def snapshot(
    session: Session,
    source: Annotated[SourceName, typer.Option("--source", help="files: a folder of yours; sim: a simulated market.")],
    symbols: Annotated[str, typer.Option("--symbols", help="Comma-separated.")] = DEFAULT_SYMBOLS,
    days: Annotated[int, typer.Option("--days", min=1, max=5000, help="Days of candles before the cut.")] = 90,
    interval: Annotated[str, typer.Option("--interval", help="Interval of the candles.")] = "1m",
    end: Annotated[
        str | None, typer.Option("--end", help="The cut, such as 2025-10-15T12:00:00Z. Default: the source's clock.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--from", help="Folder of Parquet or CSV files, for files.")] = None,
    sim_seed: Annotated[int | None, typer.Option("--sim-seed", min=0, help="Which simulated market.")] = None,
    sim_signal: Annotated[SimSignal | None, typer.Option("--sim-signal", help="How predictable it is.")] = None,
) -> Outcome:
    """Write one immutable snapshot of closed candles and move `latest` to it."""
    from mltrain.candles.snapshot import Request, take_snapshot
    from mltrain.candles.source import open_source

    spec = read_source(source, interval=interval, folder=folder, sim_seed=sim_seed, sim_signal=sim_signal, end=end)
    request = Request(symbols=split_symbols(symbols), days=days, interval=interval, end_ms=_parse_end(end))
    taken = take_snapshot(
        session.data_dir, open_source(spec), spec, request, now_ms=session.now_ms, progress=session.progress
    )
    return Outcome("snapshot/1", taken, lambda: _view_snapshot(taken.snapshot, created=taken.created))


def read_source(
    name: SourceName,
    *,
    interval: str,
    folder: Path | None,
    sim_seed: int | None,
    sim_signal: SimSignal | None,
    end: str | None = None,
) -> Any:  # noqa: ANN401 (a SourceSpec, whose module is imported late)
    """Return the SourceSpec that the options describe; an option of another source is refused."""
    from mltrain.candles.source import SourceSpec

    if name is SourceName.FILES:
        if sim_seed is not None or sim_signal is not None:
            raise UsageError("--sim-seed and --sim-signal go with --source sim")
        if folder is None:
            raise UsageError("--source files needs the folder to read", hint="add --from DIR")
        return SourceSpec(name=name.value, folder=folder, interval=interval)
    if folder is not None:
        raise UsageError("--from goes with --source files")
    signal = (sim_signal or SimSignal.NONE).value
    return SourceSpec(name=name.value, seed=sim_seed or 0, signal=signal, interval=interval, end_ms=_parse_end(end))


def split_symbols(text: str) -> tuple[str, ...]:
    """Return the symbols of a comma-separated list, in order; each must fit the grammar and stand once."""
    from mltrain.names import check_symbol

    found = tuple(check_symbol(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise UsageError("--symbols names none", hint="write it like BTCUSDT,ETHUSDT")
    if len(set(found)) != len(found):
        raise UsageError("--symbols names a symbol twice")
    return found


def _parse_end(end: str | None) -> int | None:
    from mltrain.candles.frame import parse_time

    return None if end is None else parse_time(end)


def _view_snapshot(snap: Snapshot, *, created: bool) -> Iterator[RenderableType]:
    yield f"snapshot {snap.id}: {'written' if created else 'already there'} ({snap.path})"
    rows = [
        (f.symbol, f"{f.rows:,}", time_text(f.first_ms), time_text(f.last_ms), len(f.holes),
         f"{sum(h.missing for h in f.holes):,}", f"{f.zero_trade_rows:,}", f"{f.bytes / 1e6:.1f}")
        for f in snap.facts
    ]  # fmt: skip
    columns = ("symbol", "rows", "first (UTC)", "last (UTC)", "holes", "missing", "no trades", "MB")
    yield table(None, columns, rows, right=" r  rrrr")


@command()
def snapshots(session: Session) -> Outcome:
    """List the snapshots."""
    from mltrain.candles.snapshot import list_snapshots

    found = list_snapshots(session.data_dir)

    def view() -> Iterator[RenderableType]:
        if not found:
            yield f"no snapshots in {session.data_dir}: write one with `mltrain snapshot`"
            return
        rows = [
            (r.id, "*" if r.latest else "", ",".join(r.symbols), f"{r.rows:,}", time_text(r.first_ms),
             time_text(r.last_ms), r.problem or "")
            for r in found
        ]  # fmt: skip
        columns = ("snapshot", "latest", "symbols", "rows", "first (UTC)", "last (UTC)", "problem")
        yield table(None, columns, rows, right="  fr  f")

    return Outcome("snapshots/1", {"snapshots": found}, view)


@command()
def verify_snapshot(
    session: Session,
    ref: Annotated[str, typer.Argument(help="latest, an id, or a path.")] = "latest",
) -> Outcome:
    """Re-hash every byte of a snapshot and count its candles again."""
    from mltrain.candles.snapshot import open_snapshot, verify_snapshot

    snap = open_snapshot(session.data_dir, ref)
    return _verified("snapshot", snap.id, verify_snapshot(snap))


@command()
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
