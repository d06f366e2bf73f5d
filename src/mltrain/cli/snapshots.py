"""Commands on candles: snapshot, snapshots, cache."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from mltrain.cli.address_space import CANDLES_MB
from mltrain.cli.arguments import DryRunOption, KeepOption, OlderThanOption, SnapshotArgument
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.completion import complete_snapshot, complete_source, complete_symbols
from mltrain.cli.help import add_command, data_option, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome, time_text, view_pruned
from mltrain.cli.sources import (
    CONNECTIONS,
    DEFAULT_INTERVAL,
    MAX_WAIT_S,
    SOURCE_METAVAR,
    ArchiveUrl,
    BaseUrl,
    Connections,
    EnvProxy,
    Folder,
    MarketOption,
    MaxWait,
    Signal,
    SimSeed,
    TimeZone,
    read_network_rules,
    read_source_spec,
)
from mltrain.cli.tables import folding, optional, right, table
from mltrain.documents.results import Result
from mltrain.errors import UsageError
from mltrain.times import INTERVALS_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mltrain.cli.render import View
    from mltrain.progress import Progress
    from mltrain.snapshots.rebuild import RebuiltFile
    from mltrain.snapshots.snapshot import Snapshot, SnapshotRow, SymbolDiff
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.take import SnapshotPlan, TakenSnapshot
    from mltrain.sources.cache_upkeep import CacheRow
    from mltrain.sources.network_rules import NetworkRules
    from mltrain.sources.source import InputFiles, Source, TrafficReport
    from mltrain.times import TimeRange

DEFAULT_SYMBOLS: Final = "BTCUSDT,ETHUSDT,SOLUSDT"
DEFAULT_DAYS: Final = 90


class Alignment(StrEnum):
    """How the window fits symbols that begin late or end early."""

    UNION = "union"
    COMMON = "common"


@dataclass(frozen=True, slots=True)
class SymbolCoverage:
    """Which part of a snapshot's window the candles of one symbol cover.

    Attributes:
        symbol: The symbol.
        first_ms: Open time of its first candle, ms UTC.
        last_ms: Open time of its last candle, ms UTC.
        share: Share of the window's candles that it has, in (0, 1].
    """

    symbol: str
    first_ms: int
    last_ms: int
    share: float


@dataclass(frozen=True, slots=True)
class SnapshotDocument(Result):
    """The document of `snapshot`.

    Attributes:
        snapshot: The snapshot that `latest` now points to.
        created: Whether the snapshot was written; False if one with the same candles existed.
        traffic: The network traffic of the download; None without network.
        window: The open times that the snapshot covers.
        coverage: Which part of the window the candles of each symbol cover, sorted by symbol.
    """

    SCHEMA: ClassVar[str] = "snapshot/1"

    snapshot: Snapshot
    created: bool
    traffic: TrafficReport | None
    window: TimeRange
    coverage: tuple[SymbolCoverage, ...]


@dataclass(frozen=True, slots=True)
class RebuildDocument(Result):
    """The document of `snapshot --rebuild`.

    Attributes:
        id: Id of the snapshot.
        sound: Whether every file matches its manifest now; exit code 0 or 3.
        files: Every file, and how its rebuilding ended.
    """

    SCHEMA: ClassVar[str] = "rebuild/1"

    id: str
    sound: bool
    files: tuple[RebuiltFile, ...]


@dataclass(frozen=True, slots=True)
class SnapshotsDocument(Result):
    """The document of `snapshots`.

    Attributes:
        snapshots: The snapshots, oldest first.
    """

    SCHEMA: ClassVar[str] = "snapshots/1"

    snapshots: tuple[SnapshotRow, ...]


@dataclass(frozen=True, slots=True)
class SnapshotsDiffDocument(Result):
    """The document of `snapshots diff`.

    Attributes:
        before: Id of the first snapshot.
        after: Id of the second snapshot.
        symbols: The differences of each symbol that either of them has.
    """

    SCHEMA: ClassVar[str] = "snapshots-diff/1"

    before: str
    after: str
    symbols: tuple[SymbolDiff, ...]


@dataclass(frozen=True, slots=True)
class CacheInfoDocument(Result):
    """The document of `cache info`.

    Attributes:
        cached: One row per source, symbol and interval.
    """

    SCHEMA: ClassVar[str] = "cache-info/1"

    cached: tuple[CacheRow, ...]


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


@command(need_mb=CANDLES_MB)
def snapshot(
    session: Session,
    source: Annotated[
        str | None,
        data_option(
            "--source",
            metavar=SOURCE_METAVAR,
            help="binance: the exchange; archive: its daily files; files: a folder; sim: a simulated market; "
            "ccxt:kraken: another exchange, through the package ccxt. Default: binance.",
            autocompletion=complete_source,
        ),
    ] = None,
    market: MarketOption = None,
    symbols: Annotated[
        str | None,
        data_option(
            "--symbols",
            metavar="SYMBOLS",
            help=f"Comma-separated, such as BTCUSDT or BTC/USDT. Default: {DEFAULT_SYMBOLS}; files: all in the folder.",
            autocompletion=complete_symbols,
        ),
    ] = None,
    days: Annotated[
        int | None,
        data_option(
            "--days", min=1, max=20_000, help=f"Days of candles before the end. Default: {DEFAULT_DAYS}; files: all."
        ),
    ] = None,
    interval: Annotated[
        str | None,
        data_option(
            "--interval",
            metavar="INTERVAL",
            help=f"Interval of the candles: {', '.join(INTERVALS_MS)}. Default: {DEFAULT_INTERVAL}; files: what all "
            "their names state.",
        ),
    ] = None,
    end: Annotated[
        str | None,
        data_option(
            "--end",
            metavar="TIME",
            help="End of the candles, such as 2025-10-15T12:00:00Z. Default: the source's clock.",
        ),
    ] = None,
    align: Annotated[
        Alignment,
        data_option(
            "--align",
            help="union: the window ends where the last symbol ends; common: the part of it that all symbols cover.",
        ),
    ] = Alignment.UNION,
    max_missing: Annotated[
        str,
        data_option("--max-missing", metavar="SHARE", help="Fail if a larger share of a symbol's candles is missing."),
    ] = "100%",
    refresh: Annotated[
        bool, data_option("--refresh", help="Download cached days again, and report what the exchange changed.")
    ] = False,
    dry_run: Annotated[
        bool,
        data_option(
            "--dry-run",
            help="files, sim: show how the files are read, and each symbol's first and last candle; write nothing.",
        ),
    ] = False,
    rebuild: Annotated[
        str | None,
        data_option(
            "--rebuild",
            metavar="SNAPSHOT",
            help="Rebuild the damaged files of this snapshot instead of taking a new one.",
            autocompletion=complete_snapshot,
        ),
    ] = None,
    folder: Folder = None,
    timezone: TimeZone = None,
    sim_seed: SimSeed = None,
    sim_signal: Signal = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    max_wait: MaxWait = MAX_WAIT_S,
    connections: Connections = CONNECTIONS,
    use_env_proxy: EnvProxy = False,
) -> Outcome:
    """Take an immutable snapshot of closed candles and point `latest` to it."""
    from mltrain.snapshots.take import plan_snapshot, take_snapshot
    from mltrain.sources.opening import open_source

    rules = read_network_rules(max_wait_s=max_wait, connections=connections, use_env_proxy=use_env_proxy)
    if rebuild is not None:
        return _rebuild(session, rebuild, rules=rules, base_url=base_url, archive_url=archive_url)
    spec = read_source_spec(
        source,
        interval=interval,
        folder=folder,
        sim_seed=sim_seed,
        sim_signal=sim_signal,
        base_url=base_url,
        archive_url=archive_url,
        timezone=timezone,
        market=None if market is None else market.value,
        end=end,
    )
    if dry_run and spec.uses_network:
        raise UsageError(f"--dry-run goes with --source files or sim: {spec.name} downloads into the cache")
    is_found = interval is None and spec.interval != DEFAULT_INTERVAL
    found = [f"interval: {spec.interval}, by the names of the files"] if is_found else []
    opened = open_source(spec, rules, now_ms=session.now_ms)
    request = _read_request(opened, symbols=symbols, days=days, end=end, align=align, progress=session.progress)
    if dry_run:
        plan = plan_snapshot(opened, request, data_dir=session.data_dir, progress=session.progress)
        for note in plan.notes:
            session.progress.warn(note)
        return Outcome(plan, lambda: [*found, *_view_plan(plan)])
    taken = take_snapshot(
        session.data_dir,
        opened,
        spec,
        request,
        now_ms=session.now_ms,
        progress=session.progress,
        max_missing=_read_share(max_missing),
        refresh=refresh,
    )
    snap = taken.snapshot
    coverage = tuple(SymbolCoverage(facts.symbol, facts.first_ms, facts.last_ms, facts.share) for facts in snap.facts)
    document = SnapshotDocument(snap, taken.created, taken.traffic, snap.window, coverage)
    return Outcome(document, lambda: [*found, *_view_snapshot(taken)])


def _read_request(
    source: Source, *, symbols: str | None, days: int | None, end: str | None, align: Alignment, progress: Progress
) -> SnapshotRequest:
    """Return the request that the options describe; without --symbols or --days, files give all that they have.

    A symbol that was not named and has no candle in the window is left out, with a warning.
    """
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.take import leave_out_absent, request_everything
    from mltrain.sources.ccxt_source import CcxtSource
    from mltrain.sources.files import FilesSource
    from mltrain.times import parse_time

    end_ms = None if end is None else parse_time(end)
    if not isinstance(source, FilesSource):
        text = DEFAULT_SYMBOLS if symbols is None else symbols
        read = source.read_symbol if isinstance(source, CcxtSource) else None
        chosen = split_symbols(text, market=source.market, read=read)
        return SnapshotRequest(chosen, days or DEFAULT_DAYS, source.interval, end_ms, align.value)
    chosen = source.default_symbols() if symbols is None else split_symbols(symbols, source.symbols())
    if days is None:
        request = request_everything(source, chosen, end_ms=end_ms, align=align.value)
    else:
        request = SnapshotRequest(chosen, days, source.interval, end_ms, align.value)
    return leave_out_absent(source, request, progress) if symbols is None else request


def split_symbols(
    text: str, known: Iterable[str] = (), *, market: str = "", read: Callable[[str], str] | None = None
) -> tuple[str, ...]:
    """Return the symbols of a comma-separated list, in order, however they are spelled.

    Args:
        text: The list.
        known: The symbols that the source has.
        market: The market of the exchange that is opened, which must have such symbols; empty: any.
        read: Returns the symbol that a text spells; None: `read_symbol` with the known ones.

    Raises:
        UsageError: There is none, one occurs twice, or one is not a symbol, or is a future and the market is spot;
            suggests similar ones of the known ones.
    """
    from mltrain.candles.symbols import names_future, read_symbol

    for part in text.split(",") if market == "spot" else ():
        if names_future(part):
            raise UsageError(
                f"--symbols {part.strip()} names a future, and the market is spot",
                hint=f"add --market usdm, or write {read_symbol(part)} for the spot market",
            )
    read = read or (lambda part: read_symbol(part, known))
    symbols = tuple(read(part) for part in text.split(",") if part.strip())
    if not symbols:
        raise UsageError("--symbols names none", hint="write it like BTCUSDT,ETHUSDT")
    if len(set(symbols)) != len(symbols):
        raise UsageError("--symbols names a symbol twice")
    return symbols


def _read_share(text: str) -> float:
    """Return the value of --max-missing, such as 5% or 0.05, as a number in [0, 1]."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        from mltrain.names import show

        raise UsageError(f"--max-missing {show(text)} is not a share", hint="write it like 5% or 0.05")
    return share


def _rebuild(
    session: Session, ref: str, *, rules: NetworkRules, base_url: str | None, archive_url: str | None
) -> Outcome:
    """Rebuild the damaged files of a snapshot from the source that it was taken from."""
    from mltrain.snapshots.rebuild import rebuild_snapshot
    from mltrain.snapshots.snapshot import open_snapshot
    from mltrain.sources.opening import open_recorded

    damaged = open_snapshot(session.data_dir, ref)
    source = open_recorded(damaged.source, rules, base_url=base_url, archive_url=archive_url, now_ms=session.now_ms)
    files = rebuild_snapshot(damaged, source, data_dir=session.data_dir, progress=session.progress)
    sound = all(file.outcome != "lost" for file in files)

    def view() -> View:
        yield f"snapshot {damaged.id}"
        rows = [(file.file, file.outcome, file.detail) for file in files]
        yield table(None, "file", "outcome", *folding("why"), rows=rows)

    document = RebuildDocument(damaged.id, sound, files)
    return Outcome(document, view, exit_code=0 if sound else FAILED_CHECK)


def _view_input_files(files: InputFiles | None) -> View:
    """Show each kind of file that was read; warnings list the files of these symbols that were left out."""
    if files is not None:
        yield from (f"read: {kind}" for kind in files.kinds)
        if files.of_other_symbols:
            yield f"files of other symbols that were left out: {files.of_other_symbols:,}"


def _view_plan(plan: SnapshotPlan) -> View:
    """Show how the files were read, and the candles of each symbol."""
    yield from _view_input_files(plan.input_files)
    rows = [
        (s.symbol, ", ".join(s.spellings), f"{s.rows:,}", time_text(s.first_ms), time_text(s.last_ms), f"{s.share:.1%}")
        for s in plan.symbols
    ]
    yield table(
        None,
        "symbol",
        *folding("in the files"),
        *right("rows"),
        "first (UTC)",
        "last (UTC)",
        *right("share"),
        rows=rows,
    )
    yield "nothing was written"


def _view_snapshot(taken: TakenSnapshot) -> View:
    """Show the rows, gaps and share of the window of each symbol, and the traffic of the download if there was one."""
    snap, traffic = taken.snapshot, taken.traffic
    yield f"snapshot {snap.id}: {'written' if taken.created else 'already there'} ({snap.path})"
    yield from _view_input_files(snap.input_files)
    traffic_by_symbol = {t.symbol: t for t in traffic.symbols} if traffic else {}
    rows = []
    for facts in snap.facts:
        if traffic_by_symbol:
            of_symbol = traffic_by_symbol[facts.symbol]
            last_two: tuple[object, object] = (of_symbol.requests, f"{of_symbol.seconds:.1f}")
        else:
            last_two = (f"{facts.zero_trade_rows:,}", f"{facts.bytes / 1e6:.1f}")
        first, last = time_text(facts.first_ms), time_text(facts.last_ms)
        rows.append((facts.symbol, f"{facts.rows:,}", first, last, f"{facts.share:.1%}", len(facts.gaps), *last_two))
    last_columns = right("share", "gaps", *(("requests", "s") if traffic_by_symbol else ("no trades", "MB")))
    yield table(None, "symbol", *right("rows"), "first (UTC)", "last (UTC)", *last_columns, rows=rows)
    if missing := sum(facts.missing for facts in snap.facts):
        gaps = sum(len(facts.gaps) for facts in snap.facts)
        candles = f"{missing:,} candles are" if missing > 1 else "1 candle is"
        yield f"{candles} missing in {gaps:,} gap{'s' * (gaps > 1)}"
    if snap.funding_facts is not None:
        gaps = sum(len(facts.gaps) for facts in snap.funding_facts.symbols)
        yield f"{snap.funding_facts.rows:,} funding rates" + (f", missing in {gaps} gaps" if gaps else "")
    if traffic is not None:
        cached = sum(t.days_cached for t in traffic.symbols)
        weight = f"; peak weight {traffic.peak_weight:,} of {traffic.weight_limit:,} per minute"
        yield (
            f"{traffic.requests:,} requests, {traffic.bytes / 1e6:.1f} MB, {traffic.seconds:.1f} s; {cached} days were "
            f"in the cache{weight if traffic.weight_limit else ''}"
        )


@command()
def snapshots(session: Session, ctx: typer.Context) -> Outcome | None:
    """List the snapshots."""
    from mltrain.snapshots.snapshot import list_snapshots

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    listed = list_snapshots(session.data_dir)

    def view() -> View:
        if not listed:
            yield f"no snapshots in {session.data_dir}: take one with `mltrain snapshot`"
            return
        rows = [
            (s.id, "*" if s.latest else "", ", ".join(s.symbols), f"{s.rows:,}", time_text(s.first_ms),
             time_text(s.last_ms), s.problem or "")
            for s in listed
        ]  # fmt: skip
        yield table(
            None,
            "snapshot",
            "latest",
            *folding("symbols"),
            *right("rows"),
            "first (UTC)",
            *optional("last (UTC)"),
            *folding("problem"),
            rows=rows,
        )

    return Outcome(SnapshotsDocument(listed), view)


@command()
def snapshots_diff(session: Session, before: SnapshotArgument, after: SnapshotArgument) -> Outcome:
    """Compare two snapshots: candles and funding rates that only one has, and those that differ."""
    from mltrain.candles.diff import describe_diff
    from mltrain.snapshots.snapshot import compare_snapshots, open_snapshot

    first, second = open_snapshot(session.data_dir, before), open_snapshot(session.data_dir, after)
    symbols = compare_snapshots(first, second)

    def view() -> View:
        yield f"from {first.id} to {second.id}"
        for s in symbols:
            if s.only:
                yield f"{s.symbol}: only in {s.only}"
            elif s.diff is not None:
                yield f"{s.symbol}: {describe_diff(s.diff)}"
            if s.funding is not None and not s.funding.is_empty:
                yield f"{s.symbol}: {describe_diff(s.funding, noun='funding event')}"
        examples = [(s.symbol, example) for s in symbols if s.diff is not None for example in s.diff.examples]
        if examples:
            rows = [(symbol, e.ts, e.field, e.before, e.after) for symbol, e in examples]
            yield table("Examples", "symbol", "candle (UTC)", "field", *right("before", "after"), rows=rows)

    return Outcome(SnapshotsDiffDocument(first.id, second.id, symbols), view)


@command()
def snapshots_prune(session: Session, keep: KeepOption, dry_run: DryRunOption = False) -> Outcome:
    """Remove the oldest snapshots, except `latest`, those of stored versions, and those in use by a training."""
    from mltrain.pipeline.snapshot_pruning import prune_snapshots

    pruned = prune_snapshots(session.data_dir, keep=keep, dry_run=dry_run)
    kept = {snapshot.id: snapshot.why for snapshot in pruned.kept}
    return Outcome(pruned, lambda: view_pruned(pruned.removed, kept, dry_run=dry_run))


@command()
def cache_info(session: Session) -> Outcome:
    """List the downloaded days in the cache."""
    from mltrain.sources.cache_upkeep import list_cache

    cached = list_cache(session.data_dir)

    def view() -> View:
        if not cached:
            yield f"nothing is cached in {session.data_dir}"
            return
        rows = [(r.source, r.symbol, r.interval, r.days, r.first, r.last, f"{r.bytes / 1e6:.1f}") for r in cached]
        yield table(
            None, *folding("source"), "symbol", "interval", *right("days"), "first", "last", *right("MB"), rows=rows
        )
        yield f"{sum(r.bytes for r in cached) / 1e6:,.1f} MB in total"

    return Outcome(CacheInfoDocument(cached), view)


@command()
def cache_prune(
    session: Session,
    before: Annotated[
        str | None, typer.Option("--before", metavar="DAY", help="Remove the days before this one, as 2025-07-01.")
    ] = None,
    older_than: OlderThanOption = None,
    unused: Annotated[bool, typer.Option("--unused", help="Remove the days that no snapshot has.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Remove all days.")] = False,
    dry_run: DryRunOption = False,
) -> Outcome:
    """Remove downloaded days; existing snapshots do not change, and later ones download what they need again."""
    from mltrain.pipeline.snapshot_pruning import find_days_in_use
    from mltrain.sources.cache_upkeep import prune_cache
    from mltrain.times import DAY_MS, parse_time

    if [before is not None, older_than is not None, unused, everything].count(True) != 1:
        raise UsageError("say what to remove", hint="pass one of --before 2025-07-01, --older-than 90, --unused, --all")
    before_ms = session.now_ms - older_than * DAY_MS if older_than else None if before is None else parse_time(before)
    in_use = find_days_in_use(session.data_dir) if unused else None

    def is_removable(symbol: str, interval: str, of_file: TimeRange) -> bool:
        if in_use is not None:
            return not in_use(symbol, interval, of_file)
        # A file of several days stays as long as its last day is wanted.
        return before_ms is None or of_file.end_ms - DAY_MS < before_ms

    pruned = prune_cache(session.data_dir, is_removable, dry_run=dry_run)
    action = "would be removed" if dry_run else "removed"
    return Outcome(pruned, lambda: [f"{pruned.days} days {action}, {pruned.bytes / 1e6:,.1f} MB"])
