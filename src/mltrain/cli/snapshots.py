"""Commands on candles: snapshot, snapshots, cache."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mltrain.api.snapshots import DEFAULT_DAYS, DEFAULT_SYMBOLS
from mltrain.api.sources import CONNECTIONS, DEFAULT_INTERVAL, MAX_WAIT_S, choose_source
from mltrain.cli.address_space import CANDLES_MB
from mltrain.cli.arguments import (
    DryRunOption,
    KeepOption,
    OlderThanOption,
    OpsOption,
    SnapshotArgument,
    register_ops,
)
from mltrain.cli.command import Session, command, refuse_misplaced_options
from mltrain.cli.completion import complete_snapshot, complete_source, complete_symbols
from mltrain.cli.help import add_command, data_option, new_group
from mltrain.cli.render import FAILED_CHECK, Outcome, time_text, view_pruned
from mltrain.cli.sources import (
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
    given_addresses,
)
from mltrain.cli.tables import folding, optional, right, table
from mltrain.errors import UsageError
from mltrain.times import INTERVALS_MS

if TYPE_CHECKING:
    from mltrain.api.snapshots import RebuildResult, SnapshotResult
    from mltrain.api.sources import SourceOptions
    from mltrain.cli.render import View
    from mltrain.snapshots.take import SnapshotPlan
    from mltrain.sources.source import InputFiles


class Alignment(StrEnum):
    """How the window fits symbols that begin late or end early."""

    UNION = "union"
    COMMON = "common"


SnapshotSource = Annotated[
    str | None,
    data_option(
        "--source",
        metavar=SOURCE_METAVAR,
        help="binance: the exchange; archive: its daily files; files: a folder; sim: a simulated market; "
        "ccxt:kraken: another exchange, through the package ccxt. Default: binance.",
        autocompletion=complete_source,
    ),
]
Symbols = Annotated[
    str | None,
    data_option(
        "--symbols",
        metavar="SYMBOLS",
        help=f"Comma-separated, such as BTCUSDT or BTC/USDT. Default: {DEFAULT_SYMBOLS}; files: all in the folder.",
        autocompletion=complete_symbols,
    ),
]
Days = Annotated[
    int | None,
    data_option(
        "--days", min=1, max=20_000, help=f"Days of candles before the end. Default: {DEFAULT_DAYS}; files: all."
    ),
]
Interval = Annotated[
    str | None,
    data_option(
        "--interval",
        metavar="INTERVAL",
        help=f"Interval of the candles: {', '.join(INTERVALS_MS)}. Default: {DEFAULT_INTERVAL}; files: what all "
        "their names state.",
    ),
]


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
    source: SnapshotSource = None,
    market: MarketOption = None,
    symbols: Symbols = None,
    days: Days = None,
    interval: Interval = None,
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
    features: Annotated[
        Path | None,
        data_option("--features", metavar="FILE", help="Also store the inputs (your own columns) of this registry."),
    ] = None,
    inputs: Annotated[
        Path | None,
        data_option("--inputs", metavar="DIR", help="Folder of the inputs' files. Default: that of --features."),
    ] = None,
    ops: OpsOption = None,
    base_url: BaseUrl = None,
    archive_url: ArchiveUrl = None,
    max_wait: MaxWait = MAX_WAIT_S,
    connections: Connections = CONNECTIONS,
    use_env_proxy: EnvProxy = False,
) -> Outcome:
    """Take an immutable snapshot of closed candles and point `latest` to it."""
    from mltrain.api.snapshots import snapshot, snapshot_plan, snapshot_rebuild

    register_ops(ops)
    if rebuild is not None:
        for option, given in (("--features", features), ("--inputs", inputs)):
            if given is not None:
                raise UsageError(
                    f"{option} does not go with --rebuild, which reads the inputs that the snapshot records"
                )
        rebuilt = snapshot_rebuild(
            rebuild,
            base_url=base_url,
            archive_url=archive_url,
            max_wait=max_wait,
            connections=connections,
            use_env_proxy=use_env_proxy,
            data_dir=session.data_dir,
            progress=session.progress,
            now_ms=session.now_ms,
        )
        return Outcome(rebuilt, lambda: _view_rebuilt(rebuilt), exit_code=0 if rebuilt.sound else FAILED_CHECK)
    name = choose_source(source, folder=folder, sim_seed=sim_seed, sim_signal=sim_signal)
    base_url, archive_url = given_addresses(name, base_url, archive_url)
    options: SourceOptions = {
        "source": name,
        "market": None if market is None else market.value,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": None if sim_signal is None else sim_signal.value,
    }
    if dry_run:
        if name in {"files", "sim"} and (base_url, archive_url) != (None, None):
            raise UsageError(f"--base-url and --archive-url do not go with --source {name}")
        plan = snapshot_plan(
            **options,
            symbols=symbols,
            days=days,
            interval=interval,
            end=end,
            align=align.value,
            features=features,
            inputs=inputs,
            ops=ops,
            data_dir=session.data_dir,
            progress=session.progress,
            now_ms=session.now_ms,
        )
        return Outcome(plan, lambda: [*_view_interval(interval, plan.interval), *_view_plan(plan)])
    taken = snapshot(
        **options,
        symbols=symbols,
        days=days,
        interval=interval,
        end=end,
        align=align.value,
        max_missing=_read_share(max_missing),
        refresh=refresh,
        features=features,
        inputs=inputs,
        ops=ops,
        base_url=base_url,
        archive_url=archive_url,
        max_wait=max_wait,
        connections=connections,
        use_env_proxy=use_env_proxy,
        data_dir=session.data_dir,
        progress=session.progress,
        now_ms=session.now_ms,
    )
    return Outcome(taken, lambda: [*_view_interval(interval, taken.snapshot.interval), *_view_snapshot(taken)])


def _view_interval(given: str | None, taken: str) -> View:
    """Show the interval of the candles, if nobody gave one and the names of files state another than the default."""
    if given is None and taken != DEFAULT_INTERVAL:
        yield f"interval: {taken}, by the names of the files"


def _read_share(text: str) -> float:
    """Return the value of --max-missing, such as 5% or 0.05, as a number in [0, 1]."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= share <= 1:
        from mltrain.names import show

        raise UsageError(f"--max-missing {show(text)} is not a share", hint="write it like 5% or 0.05")
    return share


def _view_rebuilt(result: RebuildResult) -> View:
    """Show how the rebuilding of each file ended."""
    yield f"snapshot {result.id}"
    rows = [(file.file, file.outcome, file.detail) for file in result.files]
    yield table(None, "file", "outcome", *folding("why"), rows=rows)


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


def _view_snapshot(taken: SnapshotResult) -> View:
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
    for of in snap.input_facts:
        symbols = ", ".join(of.symbols) or "all symbols"
        yield (
            f"input {of.name}: {of.rows:,} values of {symbols}, known from {time_text(of.first_ms)} to "
            f"{time_text(of.last_ms)}"
        )
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
    from mltrain.api.snapshots import list_snapshots

    if ctx.invoked_subcommand is not None:
        refuse_misplaced_options(ctx)
        return None
    listed = list_snapshots(data_dir=session.data_dir)

    def view() -> View:
        if not listed.snapshots:
            yield f"no snapshots in {session.data_dir}: take one with `mltrain snapshot`"
            return
        rows = [
            (s.id, "*" if s.latest else "", ", ".join(s.symbols), f"{s.rows:,}", time_text(s.first_ms),
             time_text(s.last_ms), ", ".join(s.inputs), s.problem or "")
            for s in listed.snapshots
        ]  # fmt: skip
        yield table(
            None,
            "snapshot",
            "latest",
            *folding("symbols"),
            *right("rows"),
            "first (UTC)",
            *optional("last (UTC)"),
            *folding("inputs", "problem"),
            rows=rows,
        )

    return Outcome(listed, view)


@command()
def snapshots_diff(session: Session, before: SnapshotArgument, after: SnapshotArgument) -> Outcome:
    """Compare two snapshots: candles, funding rates and inputs that only one has, and those that differ."""
    from mltrain.api.snapshots import snapshots_diff
    from mltrain.candles.diff import describe_diff

    compared = snapshots_diff(before, after, data_dir=session.data_dir)

    def view() -> View:
        yield f"from {compared.before} to {compared.after}"
        for s in compared.symbols:
            if s.only:
                yield f"{s.symbol}: only in {s.only}"
            elif s.diff is not None:
                yield f"{s.symbol}: {describe_diff(s.diff)}"
            if s.funding is not None and not s.funding.is_empty:
                yield f"{s.symbol}: {describe_diff(s.funding, noun='funding event')}"
        for i in compared.inputs:
            what = f"input {i.name}" + (f" of {i.symbol}" if i.symbol else "")
            yield f"{what}: only in {i.only}" if i.diff is None else f"{what}: {describe_diff(i.diff, noun='value')}"
        examples = [(s.symbol, example) for s in compared.symbols if s.diff is not None for example in s.diff.examples]
        if examples:
            rows = [(symbol, e.ts, e.field, e.before, e.after) for symbol, e in examples]
            yield table("Examples", "symbol", "candle (UTC)", "field", *right("before", "after"), rows=rows)

    return Outcome(compared, view)


@command()
def snapshots_prune(session: Session, keep: KeepOption, dry_run: DryRunOption = False) -> Outcome:
    """Remove the oldest snapshots, except `latest`, those of stored versions, and those in use by a training."""
    from mltrain.api.snapshots import snapshots_prune

    pruned = snapshots_prune(keep=keep, dry_run=dry_run, data_dir=session.data_dir)
    kept = {snapshot.id: snapshot.why for snapshot in pruned.kept}
    return Outcome(pruned, lambda: view_pruned(pruned.removed, kept, dry_run=dry_run))


@command()
def cache_info(session: Session) -> Outcome:
    """List the downloaded days in the cache."""
    from mltrain.api.snapshots import cache_info

    cached = cache_info(data_dir=session.data_dir)
    days = cached.cached

    def view() -> View:
        if not days:
            yield f"nothing is cached in {session.data_dir}"
            return
        rows = [(r.source, r.symbol, r.interval, r.days, r.first, r.last, f"{r.bytes / 1e6:.1f}") for r in days]
        yield table(
            None, *folding("source"), "symbol", "interval", *right("days"), "first", "last", *right("MB"), rows=rows
        )
        yield f"{sum(r.bytes for r in days) / 1e6:,.1f} MB in total"

    return Outcome(cached, view)


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
    from mltrain.api.snapshots import cache_prune

    pruned = cache_prune(
        before=before,
        older_than=older_than,
        unused=unused,
        everything=everything,
        dry_run=dry_run,
        data_dir=session.data_dir,
        now_ms=session.now_ms,
    )
    action = "would be removed" if dry_run else "removed"
    return Outcome(pruned, lambda: [f"{pruned.days} days {action}, {pruned.bytes / 1e6:,.1f} MB"])
