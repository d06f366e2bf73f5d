"""Commands on candles: snapshot, snapshots, cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.cli.address_space import CANDLES_MB
from mltrain.cli.arguments import KeepOption, SnapshotArgument
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.completion import complete_snapshot, complete_symbols
from mltrain.cli.help import DATA, add_command, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome, time_text
from mltrain.cli.sources import (
    CONNECTIONS,
    MAX_WAIT_S,
    ArchiveUrl,
    BaseUrl,
    Connections,
    EnvProxy,
    Folder,
    MaxWait,
    Signal,
    SimSeed,
    SourceName,
    read_rules,
    read_source,
)
from mltrain.cli.tables import table
from mltrain.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from mltrain.snapshots.take import TakenSnapshot
    from mltrain.sources.network_rules import NetworkRules

DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"


def add_commands(app: typer.Typer) -> None:
    """Add the commands of this module."""
    add_command(app, "snapshot", snapshot, example="mltrain snapshot --days 90 --symbols BTCUSDT,ETHUSDT")
    listing = new_group(
        "List, compare and remove snapshots.", listing=snapshots, example="mltrain snapshots --data-dir data"
    )
    add_command(listing, "diff", snapshots_diff, example="mltrain snapshots diff 2025-10-15T12-00-00Z latest")
    add_command(listing, "prune", snapshots_prune, example="mltrain snapshots prune --keep 5")
    app.add_typer(listing, name="snapshots")
    cache = new_group("Show and remove downloaded days, which snapshots share.")
    add_command(cache, "info", cache_info, example="mltrain cache info")
    add_command(cache, "prune", cache_prune, example="mltrain cache prune --before 2025-07-01")
    app.add_typer(cache, name="cache")


@command(takes_mb=CANDLES_MB)
def snapshot(
    session: Session,
    source: Annotated[
        SourceName | None,
        typer.Option(
            "--source",
            help="binance: the exchange; archive: its daily files; files: a folder; sim: a simulated market. "
            "Default: binance.",
            rich_help_panel=DATA,
        ),
    ] = None,
    symbols: Annotated[
        str,
        typer.Option(
            "--symbols",
            metavar="SYMBOLS",
            help="Comma-separated.",
            autocompletion=complete_symbols,
            rich_help_panel=DATA,
        ),
    ] = DEFAULT_SYMBOLS,
    days: Annotated[
        int, typer.Option("--days", min=1, max=5000, help="Days of candles before the end.", rich_help_panel=DATA)
    ] = 90,
    interval: Annotated[str, typer.Option("--interval", help="Interval of the candles.", rich_help_panel=DATA)] = "1m",
    end: Annotated[
        str | None,
        typer.Option(
            "--end",
            metavar="TIME",
            help="End of the candles, such as 2025-10-15T12:00:00Z. Default: the source's clock.",
            rich_help_panel=DATA,
        ),
    ] = None,
    max_missing: Annotated[
        str,
        typer.Option(
            "--max-missing",
            metavar="SHARE",
            help="Fail if a larger share of a symbol's candles is missing.",
            rich_help_panel=DATA,
        ),
    ] = "100%",
    refresh: Annotated[
        bool,
        typer.Option(
            "--refresh", help="Download cached days again, and report what the exchange changed.", rich_help_panel=DATA
        ),
    ] = False,
    rebuild: Annotated[
        str | None,
        typer.Option(
            "--rebuild",
            metavar="SNAPSHOT",
            help="Rebuild the damaged files of this snapshot instead of taking a new one.",
            autocompletion=complete_snapshot,
            rich_help_panel=DATA,
        ),
    ] = None,
    folder: Folder = None,
    sim_seed: SimSeed = None,
    sim_signal: Signal = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    max_wait: MaxWait = MAX_WAIT_S,
    connections: Connections = CONNECTIONS,
    use_env_proxy: EnvProxy = False,
) -> Outcome:
    """Take an immutable snapshot of closed candles and point `latest` to it."""
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.take import take_snapshot
    from mltrain.sources.opening import open_source
    from mltrain.times import parse_time

    rules = read_rules(max_wait=max_wait, connections=connections, use_env_proxy=use_env_proxy)
    if rebuild is not None:
        return _rebuild(session, rebuild, rules=rules, base_url=base_url, archive_url=archive_url)
    spec = read_source(
        source,
        interval=interval,
        folder=folder,
        sim_seed=sim_seed,
        sim_signal=sim_signal,
        base_url=base_url,
        archive_url=archive_url,
        end=end,
    )
    request = SnapshotRequest(split_symbols(symbols), days, interval, None if end is None else parse_time(end))
    taken = take_snapshot(
        session.data_dir,
        open_source(spec, rules, now_ms=session.now_ms),
        spec,
        request,
        now_ms=session.now_ms,
        progress=session.progress,
        max_missing=_read_share(max_missing),
        refresh=refresh,
    )
    return Outcome("snapshot/1", taken, lambda: _view_snapshot(taken))


def split_symbols(text: str) -> tuple[str, ...]:
    """Return the symbols of a comma-separated list, in order.

    Raises:
        UsageError: There is none, one occurs twice, or one is not a symbol.
    """
    from mltrain.names import check_symbol

    found = tuple(check_symbol(part.strip()) for part in text.split(",") if part.strip())
    if not found:
        raise UsageError("--symbols names none", hint="write it like BTCUSDT,ETHUSDT")
    if len(set(found)) != len(found):
        raise UsageError("--symbols names a symbol twice")
    return found


def _read_share(text: str) -> float:
    """Return a share such as 5% or 0.05 as a number in [0, 1]."""
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", text.strip())
    share = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 <= share <= 1:
        from mltrain.names import show

        raise UsageError(f"--max-missing {show(text)} is not a share", hint="write it like 5% or 0.05")
    return share


def _rebuild(
    session: Session, ref: str, *, rules: NetworkRules, base_url: str | None, archive_url: str | None
) -> Outcome:
    from mltrain.cli.snapshot_documents import RebuildDocument
    from mltrain.snapshots.rebuild import rebuild_snapshot
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.sources.opening import open_recorded

    snap = open_snapshot(session.data_dir, ref)
    source = open_recorded(snap.source, rules, base_url=base_url, archive_url=archive_url, now_ms=session.now_ms)
    files = rebuild_snapshot(snap, source, data_dir=session.data_dir, progress=session.progress)
    lost = any(file.outcome == "lost" for file in files)

    def view() -> Iterator[RenderableType]:
        yield f"snapshot {snap.id}"
        yield table(None, ("file", "outcome", "why"), [(f.file, f.outcome, f.detail) for f in files], kinds="  f")

    return Outcome("rebuild/1", RebuildDocument(snap.id, not lost, files), view, exit_code=FAILED_CHECK if lost else 0)


def _view_snapshot(taken: TakenSnapshot) -> Iterator[RenderableType]:
    snap, traffic = taken.snapshot, taken.traffic
    yield f"snapshot {snap.id}: {'written' if taken.created else 'already there'} ({snap.path})"
    took = {t.symbol: t for t in traffic.symbols} if traffic else {}
    rows = [
        (f.symbol, f"{f.rows:,}", time_text(f.first_ms), time_text(f.last_ms), len(f.gaps),
         *((took[f.symbol].requests, f"{took[f.symbol].seconds:.1f}") if took else
           (f"{f.zero_trade_rows:,}", f"{f.bytes / 1e6:.1f}")))
        for f in snap.facts
    ]  # fmt: skip
    last_two = ("requests", "s") if took else ("no trades", "MB")
    yield table(None, ("symbol", "rows", "first (UTC)", "last (UTC)", "gaps", *last_two), rows, kinds=" r  rrr")
    if missing := sum(f.missing for f in snap.facts):
        yield f"{missing:,} candles are missing in {sum(len(f.gaps) for f in snap.facts)} gaps"
    if traffic is not None:
        cached = sum(t.days_cached for t in traffic.symbols)
        yield (
            f"{traffic.requests:,} requests, {traffic.bytes / 1e6:.1f} MB, {traffic.seconds:.1f} s; {cached} days were "
            f"in the cache; peak weight {traffic.peak_weight:,} of {traffic.weight_limit:,} per minute"
        )


@command()
def snapshots(session: Session, ctx: typer.Context) -> Outcome | None:
    """List the snapshots."""
    from mltrain.cli.snapshot_documents import SnapshotsDocument
    from mltrain.snapshots.snapshot import list_snapshots

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    found = list_snapshots(session.data_dir)

    def view() -> Iterator[RenderableType]:
        if not found:
            yield f"no snapshots in {session.data_dir}: take one with `mltrain snapshot`"
            return
        rows = [
            (r.id, "*" if r.latest else "", ", ".join(r.symbols), f"{r.rows:,}", time_text(r.first_ms),
             time_text(r.last_ms), r.problem or "")
            for r in found
        ]  # fmt: skip
        columns = ("snapshot", "latest", "symbols", "rows", "first (UTC)", "last (UTC)", "problem")
        yield table(None, columns, rows, kinds="  fr of")

    return Outcome("snapshots/1", SnapshotsDocument(found), view)


@command()
def snapshots_diff(
    session: Session,
    before: SnapshotArgument,
    after: SnapshotArgument,
) -> Outcome:
    """Compare two snapshots: candles that only one has, and candles that differ."""
    from mltrain.candles.diff import describe_diff
    from mltrain.cli.snapshot_documents import SnapshotsDiffDocument
    from mltrain.snapshots.snapshot import compare_snapshots, open_snapshot

    one, other = open_snapshot(session.data_dir, before), open_snapshot(session.data_dir, after)
    found = compare_snapshots(one, other)

    def view() -> Iterator[RenderableType]:
        yield f"from {one.id} to {other.id}"
        for s in found:
            if s.only:
                yield f"{s.symbol}: only in {s.only}"
            elif s.diff is not None:
                yield f"{s.symbol}: {describe_diff(s.diff)}"
        rows = [
            (s.symbol, e.ts, e.field, e.before, e.after) for s in found if s.diff is not None for e in s.diff.examples
        ]
        if rows:
            yield table("Examples", ("symbol", "candle (UTC)", "field", "before", "after"), rows, kinds="   rr")

    return Outcome("snapshots-diff/1", SnapshotsDiffDocument(one.id, other.id, found), view)


@command()
def snapshots_prune(session: Session, keep: KeepOption) -> Outcome:
    """Remove the oldest snapshots, except `latest`, those of stored versions, and those in use by a training."""
    from mltrain.pipeline.snapshot_pruning import prune_snapshots

    done = prune_snapshots(session.data_dir, keep=keep)

    def view() -> Iterator[RenderableType]:
        yield f"{len(done.removed)} removed" + (f": {', '.join(done.removed)}" if done.removed else "")
        for kept in done.kept:
            yield f"{kept.id} kept: {kept.why}"

    return Outcome("snapshots-prune/1", done, view)


@command()
def cache_info(session: Session) -> Outcome:
    """List the downloaded days in the cache."""
    from mltrain.cli.snapshot_documents import CacheInfoDocument
    from mltrain.sources.cache_upkeep import list_cache

    found = list_cache(session.data_dir)

    def view() -> Iterator[RenderableType]:
        if not found:
            yield f"nothing is cached in {session.data_dir}"
            return
        rows = [(r.source, r.symbol, r.interval, r.days, r.first, r.last, f"{r.bytes / 1e6:.1f}") for r in found]
        columns = ("source", "symbol", "interval", "days", "first", "last", "MB")
        yield table(None, columns, rows, kinds="f  r  r")
        yield f"{sum(r.bytes for r in found) / 1e6:,.1f} MB in total"

    return Outcome("cache-info/1", CacheInfoDocument(found), view)


@command()
def cache_prune(
    session: Session,
    before: Annotated[
        str | None, typer.Option("--before", metavar="DAY", help="Remove the days before this one, as 2025-07-01.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all days.")] = False,
) -> Outcome:
    """Remove downloaded days; existing snapshots do not change, and later ones download what they need again."""
    from mltrain.sources.cache_upkeep import prune_cache
    from mltrain.times import parse_time

    if (before is None) == (not everything):
        raise UsageError("say what to remove", hint="pass --before 2025-07-01, or --all")
    done = prune_cache(session.data_dir, before_ms=None if before is None else parse_time(before))

    return Outcome("cache-prune/1", done, lambda: [f"{done.days} days removed, {done.bytes / 1e6:,.1f} MB"])
