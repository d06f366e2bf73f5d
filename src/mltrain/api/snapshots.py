"""`snapshot`, `snapshots` and `cache`: candles, taken once and never changed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from mltrain.api.references import read_snapshot
from mltrain.api.sources import CONNECTIONS, MAX_WAIT_S, read_network_rules, read_source_spec
from mltrain.api.workspace import DATA_DIR, check_path, read_clock, read_progress, read_time
from mltrain.documents.results import Result
from mltrain.errors import UsageError
from mltrain.times import DAY_MS, format_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import polars as pl

    from mltrain.api.references import SnapshotRef
    from mltrain.api.sources import Market, SimSignal, SourceOptions
    from mltrain.api.workspace import PathText, ProgressLike, Time
    from mltrain.features.spec import FeatureSet, Registry
    from mltrain.pipeline.snapshot_pruning import PrunedSnapshots
    from mltrain.progress import Progress
    from mltrain.snapshots.rebuild import RebuiltFile
    from mltrain.snapshots.snapshot import InputDiff, Snapshot, SnapshotRow, SymbolDiff
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.stored_inputs import LoadedInput
    from mltrain.snapshots.take import SnapshotPlan
    from mltrain.sources.cache_upkeep import CacheRow, Pruned
    from mltrain.sources.source import Source, TrafficReport
    from mltrain.times import TimeRange

#: A registry of features: a file, its content as a mapping, or one that was read.
Registered: TypeAlias = "PathText | Mapping[str, Any] | Registry | FeatureSet"
Alignment: TypeAlias = Literal["union", "common"]
#: One symbol, several, or a text with commas; each may be spelled like BTCUSDT or BTC/USDT.
Symbols: TypeAlias = "str | Sequence[str]"

DEFAULT_SYMBOLS: Final = "BTCUSDT,ETHUSDT,SOLUSDT"
DEFAULT_DAYS: Final = 90


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
class SnapshotResult(Result):
    """The result of `snapshot`; it can be passed wherever a snapshot is named.

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

    @property
    def id(self) -> str:
        """Id of the snapshot."""
        return self.snapshot.id

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of the snapshot, sorted."""
        return self.snapshot.symbols

    def candles(self, symbol: str) -> pl.DataFrame:
        """Read and check the candles of a symbol, as `Snapshot.candles` does."""
        return self.snapshot.candles(symbol)


@dataclass(frozen=True, slots=True)
class RebuildResult(Result):
    """The result of `snapshot --rebuild`.

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
class SnapshotList(Result):
    """The result of `snapshots`.

    Attributes:
        snapshots: The snapshots, oldest first.
    """

    SCHEMA: ClassVar[str] = "snapshots/1"

    snapshots: tuple[SnapshotRow, ...]


@dataclass(frozen=True, slots=True)
class SnapshotDiff(Result):
    """The result of `snapshots diff`.

    Attributes:
        before: Id of the first snapshot.
        after: Id of the second snapshot.
        symbols: The differences of each symbol that either of them has.
        inputs: The differences of each input, the user's own columns, that either of them stores.
    """

    SCHEMA: ClassVar[str] = "snapshots-diff/1"

    before: str
    after: str
    symbols: tuple[SymbolDiff, ...]
    inputs: tuple[InputDiff, ...]


@dataclass(frozen=True, slots=True)
class CacheInfo(Result):
    """The result of `cache info`.

    Attributes:
        cached: One row per source, symbol and interval.
    """

    SCHEMA: ClassVar[str] = "cache-info/1"

    cached: tuple[CacheRow, ...]


def snapshot(
    *,
    source: str | None = None,
    market: Market | None = None,
    symbols: Symbols | None = None,
    days: int | None = None,
    interval: str | None = None,
    end: Time | None = None,
    align: Alignment = "union",
    max_missing: float = 1.0,
    refresh: bool = False,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    features: Registered | None = None,
    inputs: PathText | None = None,
    ops: str | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    max_wait: float = MAX_WAIT_S,
    connections: int = CONNECTIONS,
    use_env_proxy: bool = False,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> SnapshotResult:
    """Take an immutable snapshot of closed candles and point `latest` to it.

    Args:
        source: "binance": the exchange; "archive": its daily files; "files": a folder; "sim": a simulated market;
            "ccxt:kraken": another exchange, through the package ccxt. None: "files" with `folder`, "sim" with one of
            its arguments, or else "binance".
        market: "spot", or "usdm" for USD-M perpetual futures; None: spot. Not for files.
        symbols: Such as ["BTCUSDT", "ETH/USDT"]; None: BTCUSDT, ETHUSDT and SOLUSDT, or all that the folder has.
        days: Days of candles before the end; None: 90, or all that the folder has.
        interval: Interval of the candles; None: "1m", or what the names of all files state.
        end: End of the candles; None: the clock of the source.
        align: "union": the window ends where the last symbol ends; "common": the part of it that all symbols cover.
        max_missing: Fail if a larger share of a symbol's candles is missing, 0 to 1.
        refresh: Download cached days again, and report what the exchange changed.
        folder: For "files": folder of candle files, searched with the folders in it.
        timezone: For "files": zone of times that state none, such as "Europe/Berlin"; None: UTC.
        sim_seed: For "sim": seed of the simulated market; None: 0.
        sim_signal: For "sim": how predictable the market is; None: "none".
        features: Also store the inputs, your own columns, that this registry declares: a file, its content as a
            mapping, or a registry that was read. None: none.
        inputs: Folder of the files of these inputs; None: the folder of the registry's file.
        ops: The module of your own ops that the registry names. **Importing it runs its code.**
        base_url: Another REST host of the exchange; None: the public one.
        archive_url: Another archive of daily files; None: the public one.
        max_wait: Longest wait that the exchange may demand before it counts as an error, in seconds.
        connections: Concurrent requests, 1 to 64.
        use_env_proxy: Use the proxy and the certificates that the environment names.
        data_dir: The data folder.
        progress: Receives the progress by symbol, and warnings.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: An argument is wrong or belongs to another source, or the window begins before 1970.
        InputError: The source lacks a symbol or has no candle of it in the window, or too many are missing; or an
            input's file is missing or not as declared.
        SourceError: The exchange or the network failed; the finished days stay in the cache.
        LockedError: Another mltrain is downloading, or publishing a snapshot.
        MachineError: A file cannot be written; nothing has changed.
    """
    from mltrain.snapshots.take import take_snapshot
    from mltrain.sources.opening import open_source

    if not 0 <= max_missing <= 1:
        raise UsageError(f"--max-missing {max_missing} is not a share", hint="write it like 5% or 0.05")
    shown, now_ms = read_progress(progress), read_clock(now_ms)
    rules = read_network_rules(max_wait_s=max_wait, connections=connections, use_env_proxy=use_env_proxy)
    end_ms = None if end is None else read_time(end, "end")
    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    spec = read_source_spec(
        options,
        interval=interval,
        base_url=base_url,
        archive_url=archive_url,
        end_ms=end_ms,
    )
    # Before any download, which may take long.
    loaded = _load_inputs(features, inputs, ops=ops, market=spec.known_market)
    opened = open_source(spec, rules, now_ms=now_ms)
    taken = take_snapshot(
        check_path(data_dir, "data_dir"),
        opened,
        spec,
        _read_request(opened, symbols=symbols, days=days, end_ms=end_ms, align=align, progress=shown),
        now_ms=now_ms,
        progress=shown,
        max_missing=max_missing,
        refresh=refresh,
        inputs=loaded,
    )
    made = taken.snapshot
    coverage = tuple(SymbolCoverage(facts.symbol, facts.first_ms, facts.last_ms, facts.share) for facts in made.facts)
    return SnapshotResult(made, taken.created, taken.traffic, made.window, coverage)


def snapshot_plan(
    *,
    source: str | None = None,
    market: Market | None = None,
    symbols: Symbols | None = None,
    days: int | None = None,
    interval: str | None = None,
    end: Time | None = None,
    align: Alignment = "union",
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    features: Registered | None = None,
    inputs: PathText | None = None,
    ops: str | None = None,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> SnapshotPlan:
    """Return how files are read, and the candles that `snapshot` would take; nothing is written.

    Args:
        source: "files" or "sim"; None: "files" with `folder`, "sim" with one of its arguments.
        market: As in `snapshot`, for "sim".
        symbols: As in `snapshot`.
        days: As in `snapshot`.
        interval: As in `snapshot`.
        end: As in `snapshot`.
        align: As in `snapshot`.
        folder: As in `snapshot`.
        timezone: As in `snapshot`.
        sim_seed: As in `snapshot`.
        sim_signal: As in `snapshot`.
        features: As in `snapshot`; the files of the inputs are read and checked.
        inputs: As in `snapshot`.
        ops: As in `snapshot`.
        data_dir: The data folder.
        progress: Receives the progress by symbol, and warnings.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: The source downloads, or an argument is wrong or belongs to another source.
        InputError: The source lacks a symbol or has no candle of it in the window, or a file cannot be read.
    """
    from mltrain.snapshots.take import plan_snapshot
    from mltrain.sources.opening import open_source

    shown = read_progress(progress)
    end_ms = None if end is None else read_time(end, "end")
    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    spec = read_source_spec(
        options,
        interval=interval,
        end_ms=end_ms,
    )
    if spec.uses_network:
        raise UsageError(f"--dry-run goes with --source files or sim: {spec.name} downloads into the cache")
    _load_inputs(features, inputs, ops=ops, market=spec.known_market)
    opened = open_source(spec, now_ms=read_clock(now_ms))
    request = _read_request(opened, symbols=symbols, days=days, end_ms=end_ms, align=align, progress=shown)
    plan = plan_snapshot(opened, request, data_dir=check_path(data_dir, "data_dir"), progress=shown)
    for note in plan.notes:
        shown.warn(note)
    return plan


def snapshot_rebuild(
    snapshot: SnapshotRef,
    *,
    base_url: str | None = None,
    archive_url: str | None = None,
    max_wait: float = MAX_WAIT_S,
    connections: int = CONNECTIONS,
    use_env_proxy: bool = False,
    data_dir: PathText = DATA_DIR,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> RebuildResult:
    """Rebuild the damaged files of a snapshot from the source that it was taken from.

    Args:
        snapshot: "latest", an id, a path, or the snapshot itself.
        base_url: As in `snapshot`.
        archive_url: As in `snapshot`.
        max_wait: As in `snapshot`.
        connections: As in `snapshot`.
        use_env_proxy: As in `snapshot`.
        data_dir: The data folder.
        progress: Receives stages and warnings.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        Every file, and how its rebuilding ended; a file that is lost is no error.

    Raises:
        InputError: There is no such snapshot, its manifest is damaged, or its source cannot be opened.
        SourceError: The exchange or the network failed.
    """
    from mltrain.snapshots.rebuild import rebuild_snapshot
    from mltrain.sources.opening import open_recorded

    rules = read_network_rules(max_wait_s=max_wait, connections=connections, use_env_proxy=use_env_proxy)
    damaged = read_snapshot(snapshot, data_dir)
    source = open_recorded(damaged.source, rules, base_url=base_url, archive_url=archive_url, now_ms=read_clock(now_ms))
    files = rebuild_snapshot(
        damaged, source, data_dir=check_path(data_dir, "data_dir"), progress=read_progress(progress)
    )
    return RebuildResult(damaged.id, all(file.outcome != "lost" for file in files), files)


def open_snapshot(snapshot: SnapshotRef = "latest", *, data_dir: PathText = DATA_DIR) -> Snapshot:
    """Open a snapshot. Only its manifest is read; a file is checked when its candles are read.

    Args:
        snapshot: "latest", an id, a path, or the result of `snapshot`.
        data_dir: The data folder.

    Raises:
        UsageError: `snapshot` is not one of these.
        InputError: There is no such snapshot, or its manifest is missing or damaged.
    """
    return read_snapshot(snapshot, data_dir)


def list_snapshots(*, data_dir: PathText = DATA_DIR) -> SnapshotList:
    """List the snapshots in a data folder, oldest cut first; those with a damaged manifest are listed too."""
    from mltrain.snapshots.snapshot import list_snapshots

    return SnapshotList(list_snapshots(check_path(data_dir, "data_dir")))


def snapshots_diff(before: SnapshotRef, after: SnapshotRef, *, data_dir: PathText = DATA_DIR) -> SnapshotDiff:
    """Compare two snapshots: candles, funding rates and inputs that only one has, and those that differ.

    Args:
        before: "latest", an id, a path, or the snapshot itself.
        after: As `before`.
        data_dir: The data folder.

    Raises:
        InputError: There is no such snapshot, a file is damaged, or they have different intervals or markets.
    """
    from mltrain.snapshots.snapshot import compare_inputs, compare_snapshots

    first, second = read_snapshot(before, data_dir), read_snapshot(after, data_dir)
    return SnapshotDiff(first.id, second.id, compare_snapshots(first, second), compare_inputs(first, second))


def snapshots_prune(*, keep: int, dry_run: bool = False, data_dir: PathText = DATA_DIR) -> PrunedSnapshots:
    """Remove the oldest snapshots, except `latest`, those of stored versions, and those in use by a training.

    Args:
        keep: How many of the newest to keep, 0 or more.
        dry_run: Only return what would be removed.
        data_dir: The data folder.
    """
    from mltrain.pipeline.snapshot_pruning import prune_snapshots

    return prune_snapshots(check_path(data_dir, "data_dir"), keep=keep, dry_run=dry_run)


def cache_info(*, data_dir: PathText = DATA_DIR) -> CacheInfo:
    """List the downloaded days in the cache."""
    from mltrain.sources.cache_upkeep import list_cache

    return CacheInfo(list_cache(check_path(data_dir, "data_dir")))


def cache_prune(
    *,
    before: Time | None = None,
    older_than: int | None = None,
    unused: bool = False,
    everything: bool = False,
    dry_run: bool = False,
    data_dir: PathText = DATA_DIR,
    now_ms: int | None = None,
) -> Pruned:
    """Remove downloaded days; existing snapshots do not change, and later ones download what they need again.

    Exactly one of the first four arguments says which.

    Args:
        before: Remove the days before this one.
        older_than: Remove what is older than this many days, 1 or more.
        unused: Remove the days that no snapshot has.
        everything: Remove all days.
        dry_run: Only return what would be removed.
        data_dir: The data folder.
        now_ms: The time, ms UTC; None: the machine's clock.

    Raises:
        UsageError: None of the four is given, or several are.
    """
    from mltrain.pipeline.snapshot_pruning import find_days_in_use
    from mltrain.sources.cache_upkeep import prune_cache

    if [before is not None, older_than is not None, unused, everything].count(True) != 1:
        raise UsageError("say what to remove", hint="pass one of --before 2025-07-01, --older-than 90, --unused, --all")
    before_ms = None if before is None else read_time(before, "before")
    if older_than is not None:
        before_ms = read_clock(now_ms) - older_than * DAY_MS
    in_use = find_days_in_use(check_path(data_dir, "data_dir")) if unused else None

    def is_removable(symbol: str, interval: str, of_file: TimeRange) -> bool:
        if in_use is not None:
            return not in_use(symbol, interval, of_file)
        # A file of several days stays as long as its last day is wanted.
        return before_ms is None or of_file.end_ms - DAY_MS < before_ms

    return prune_cache(check_path(data_dir, "data_dir"), is_removable, dry_run=dry_run)


def fetch_candles(
    symbols: Symbols,
    *,
    start: Time,
    end: Time | None = None,
    source: str | None = None,
    market: Market | None = None,
    interval: str | None = None,
    folder: PathText | None = None,
    timezone: str | None = None,
    sim_seed: int | None = None,
    sim_signal: SimSignal | None = None,
    base_url: str | None = None,
    archive_url: str | None = None,
    max_wait: float = MAX_WAIT_S,
    connections: int = CONNECTIONS,
    use_env_proxy: bool = False,
    data_dir: PathText | None = None,
    progress: ProgressLike | None = None,
    now_ms: int | None = None,
) -> dict[str, pl.DataFrame]:
    """Return the closed candles of each symbol that open from `start` on and before `end`, without a snapshot.

    Args:
        symbols: Such as ["BTCUSDT", "ETHUSDT"]; a single symbol may be a string.
        start: The first open time; rounded down to the interval.
        end: The first open time that is left out; None, or a time in the future: the time of the source's clock.
        source: As in `snapshot`.
        market: As in `snapshot`.
        interval: As in `snapshot`.
        folder: As in `snapshot`.
        timezone: As in `snapshot`.
        sim_seed: As in `snapshot`.
        sim_signal: As in `snapshot`.
        base_url: As in `snapshot`.
        archive_url: As in `snapshot`.
        max_wait: As in `snapshot`.
        connections: As in `snapshot`.
        use_env_proxy: As in `snapshot`.
        data_dir: Folder in whose `cache` downloaded days are kept for the next call; None: they are not kept.
        progress: Receives the progress of each symbol.
        now_ms: The time, ms UTC; None: the machine's clock.

    Returns:
        A frame per symbol, sorted by `ts` (open time, UTC, ms), unique, on the interval's grid, with the columns of a
        snapshot's candles. Gaps are left as they are; a frame may be empty. A volume that most candles contradict is
        null in every row.

    Raises:
        UsageError: A symbol, a time or the interval is invalid, or the range is empty.
        InputError: The source lacks a symbol, or a candle is damaged or impossible.
        SourceError: The exchange or the network failed; with `data_dir`, the finished days are kept.
        LockedError: Another mltrain is downloading into that folder.
        MachineError: The folder cannot be read or written, or its disk is full.
    """
    from mltrain.sources.fetch_candles import fetch_candles

    options: SourceOptions = {
        "source": source,
        "market": market,
        "folder": folder,
        "timezone": timezone,
        "sim_seed": sim_seed,
        "sim_signal": sim_signal,
    }
    spec = read_source_spec(
        options,
        interval=interval,
        base_url=base_url,
        archive_url=archive_url,
    )
    return fetch_candles(
        split_symbols(symbols),
        start=format_ms(read_time(start, "start")),
        end=None if end is None else format_ms(read_time(end, "end")),
        spec=spec,
        data_dir=None if data_dir is None else check_path(data_dir, "data_dir"),
        rules=read_network_rules(max_wait_s=max_wait, connections=connections, use_env_proxy=use_env_proxy),
        progress=read_progress(progress),
        now_ms=read_clock(now_ms),
    )


def _read_request(
    source: Source,
    *,
    symbols: Symbols | None,
    days: int | None,
    end_ms: int | None,
    align: Alignment,
    progress: Progress,
) -> SnapshotRequest:
    """Return the request that the arguments describe; without symbols or days, files give all that they have.

    A symbol that was not named and has no candle in the window is left out, with a warning.
    """
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.snapshots.take import leave_out_absent, request_everything
    from mltrain.sources.ccxt_source import CcxtSource
    from mltrain.sources.files import FilesSource

    if not isinstance(source, FilesSource):
        read = source.read_symbol if isinstance(source, CcxtSource) else None
        given = DEFAULT_SYMBOLS if symbols is None else symbols
        chosen = split_symbols(given, market=source.market, read=read)
        return SnapshotRequest(chosen, days or DEFAULT_DAYS, source.interval, end_ms, align)
    chosen = source.default_symbols() if symbols is None else split_symbols(symbols, source.symbols())
    if days is None:
        request = request_everything(source, chosen, end_ms=end_ms, align=align)
    else:
        request = SnapshotRequest(chosen, days, source.interval, end_ms, align)
    return leave_out_absent(source, request, progress) if symbols is None else request


def _load_inputs(
    features: Registered | None, folder: PathText | None, *, ops: str | None, market: str | None
) -> tuple[LoadedInput, ...]:
    """Read the files of the inputs that a registry declares; the arguments are those of `snapshot`."""
    if features is None:
        if folder is not None or ops is not None:
            option = "--inputs" if folder is not None else "--ops"
            raise UsageError(
                f"{option} goes with --features: the registry says which columns are inputs",
                hint="name it, such as --features my.yml",
            )
        return ()

    from mltrain.features.registry import open_registry
    from mltrain.features.user_ops import import_user_ops
    from mltrain.snapshots.snapshot_record import FUNDING_FILE
    from mltrain.snapshots.stored_inputs import load_inputs
    from mltrain.sources.markets import USDM

    if ops is not None:
        import_user_ops(ops)
    source = Path(features) if isinstance(features, str | os.PathLike) else features
    registry, where = open_registry(source)
    if not registry.inputs:
        if folder is not None:
            raise UsageError(f"--inputs: {where} declares no inputs", hint="leave it out, or declare `inputs:`")
        return ()
    if folder is None:
        if not isinstance(source, Path):
            raise UsageError(f"{where}: its inputs have no folder", hint="name that of their files with `inputs`")
        folder = source.parent
    return load_inputs(registry.inputs, check_path(folder, "inputs"), given={FUNDING_FILE} if market == USDM else set())


def split_symbols(
    symbols: Symbols, known: Iterable[str] = (), *, market: str = "", read: Callable[[str], str] | None = None
) -> tuple[str, ...]:
    """Return the symbols of a list or a comma-separated text, in order, however they are spelled.

    Args:
        symbols: The list.
        known: The symbols that the source has.
        market: The market of the exchange that is opened, which must have such symbols; empty: any.
        read: Returns the symbol that a text spells; None: `read_symbol` with the known ones.

    Raises:
        UsageError: There is none, one occurs twice, or one is not a symbol, or is a future and the market is spot;
            suggests similar ones of the known ones.
    """
    from mltrain.candles.symbols import names_future, read_symbol
    from mltrain.names import describe

    parts = (
        symbols.split(",") if isinstance(symbols, str) else list(symbols) if isinstance(symbols, Iterable) else [None]
    )
    if not all(isinstance(part, str) for part in parts):
        raise UsageError(f"symbols is {describe(symbols)}: expected a list", hint='such as ["BTCUSDT", "ETHUSDT"]')
    for part in parts if market == "spot" else ():
        if names_future(part):
            raise UsageError(
                f"--symbols {part.strip()} names a future, and the market is spot",
                hint=f"add --market usdm, or write {read_symbol(part)} for the spot market",
            )
    read = read or (lambda part: read_symbol(part, known))
    chosen = tuple(read(part) for part in parts if part.strip())
    if not chosen:
        raise UsageError("--symbols names none", hint="write it like BTCUSDT,ETHUSDT")
    if len(set(chosen)) != len(chosen):
        raise UsageError("--symbols names a symbol twice")
    return chosen
