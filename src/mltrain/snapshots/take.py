"""Take a snapshot: the closed candles of a window, written once and never changed.

A snapshot is a folder `snapshots/<cut>` with one Parquet file per symbol and a manifest. The manifest is written last:
a folder without one is not a snapshot. Gaps are listed and never filled. Symbols may begin late and end early: the
window ends where the last one ends or, if asked for, is the range that all of them cover.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, ClassVar, Final

import polars as pl

from mltrain._version import __version__
from mltrain.candles.anomalies import empty_false_volumes
from mltrain.candles.candle_file import encode_candles, read_candles
from mltrain.candles.diff import compare_frames, describe_diff
from mltrain.candles.frame import times_ms
from mltrain.candles.funding import LONGEST_INTERVAL_MS, encode_funding, read_funding
from mltrain.documents.results import HIDDEN, Result
from mltrain.errors import InputError, SourceError, UsageError
from mltrain.names import join_first
from mltrain.snapshots import FOLDER, LATEST
from mltrain.snapshots.snapshot import open_named, verify_snapshot
from mltrain.snapshots.snapshot_record import (
    FUNDING_FILE,
    FundingFacts,
    SnapshotRecord,
    SnapshotRequest,
    SymbolFacts,
    SymbolFundingFacts,
    file_name,
    snapshot_id,
)
from mltrain.snapshots.stored_inputs import store_input
from mltrain.sources.async_run import run_in_threads
from mltrain.sources.markets import USDM
from mltrain.storage.disk_errors import disk_errors
from mltrain.storage.folders import make_folder, staging
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MANIFEST, MAX_MANIFEST_BYTES, describe_file
from mltrain.storage.reading import read_file, read_pointer
from mltrain.storage.writing import swap_pointer, write_new
from mltrain.times import DAY_MS, TimeRange, floor_to_grid, format_ms, format_seconds, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mltrain.candles.anomalies import FalseVolume
    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.snapshots.snapshot_record import Align
    from mltrain.snapshots.stored_inputs import InputFacts, LoadedInput
    from mltrain.sources.source import (
        DownloadResult,
        FundingDownload,
        InputFiles,
        Origin,
        Source,
        SymbolCandles,
        TrafficReport,
    )
    from mltrain.sources.source_spec import SourceSpec
    from mltrain.storage.folders import Stage

# Gaps of all symbols together: with more, the manifest would be larger than MAX_MANIFEST_BYTES.
_MAX_GAPS: Final = 100_000
# Share of the candles from a symbol's first to its last that are missing, above which the user is warned.
_WARN_MISSING_SHARE: Final = 0.05
# Share of the window before a symbol's first candle, or after its last one, above which that time is said.
_WARN_EDGE_SHARE: Final = 0.01
# Symbols that such a warning names.
_MAX_NAMED: Final = 10
# Share of the candles with trades whose volumes contradict the prices; in real markets it is 0.
_WARN_FALSE_SHARE: Final = 0.01


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """The result of `take_snapshot`.

    Attributes:
        snapshot: The snapshot that `latest` now points to.
        created: Whether the snapshot was written; False if one with the same candles existed.
        traffic: The network traffic of the download; None without network.
    """

    snapshot: Snapshot
    created: bool
    traffic: TrafficReport | None = None


@dataclass(frozen=True, slots=True)
class PlannedSymbol:
    """The candles of one symbol that a snapshot would have.

    Attributes:
        symbol: The symbol.
        spellings: How the files spell it, if otherwise.
        rows: Number of candles.
        first_ms: Open time of the first candle, ms UTC.
        last_ms: Open time of the last candle, ms UTC.
        share: Share of the window's candles that it has, in (0, 1].
    """

    symbol: str
    spellings: tuple[str, ...]
    rows: int
    first_ms: int
    last_ms: int
    share: float


@dataclass(frozen=True, slots=True)
class SnapshotPlan(Result):
    """The result of `plan_snapshot`: the snapshot that would be taken.

    Attributes:
        window: The open times that it would cover.
        symbols: Its symbols, sorted.
        input_files: What was understood of the user's own files; None for any other source.
        notes: Notes of the source, such as duplicates dropped.
        interval: Interval of the candles.
    """

    SCHEMA: ClassVar[str] = "snapshot-plan/1"

    window: TimeRange
    symbols: tuple[PlannedSymbol, ...]
    input_files: InputFiles | None
    notes: tuple[str, ...]
    interval: str = field(metadata=HIDDEN)


def request_everything(
    source: Source, symbols: tuple[str, ...], *, end_ms: int | None = None, align: Align = "union"
) -> SnapshotRequest:
    """Return the request for all candles that a source has of the symbols, up to the end (ms UTC) if one is given.

    Raises:
        InputError: The source lacks a symbol, or cannot read its candles.
        UsageError: No candle opens before the end.
    """
    source.check_symbols(symbols)
    extents = [source.extent(symbol) for symbol in symbols]
    start_ms = min(extent.start_ms for extent in extents)
    last_ms = max(extent.end_ms for extent in extents) if end_ms is None else end_ms
    if last_ms <= start_ms:
        raise UsageError(
            f"the end {format_ms(last_ms)} is before the first candle, {format_ms(start_ms)}",
            hint="omit --end to end at the last candle",
        )
    days = -(-(last_ms - start_ms) // DAY_MS)
    return SnapshotRequest(symbols, days, source.interval, end_ms, align, start_ms)


def leave_out_absent(source: Source, request: SnapshotRequest, progress: Progress) -> SnapshotRequest:
    """Return a request without the symbols that have no candle in its window, with a warning that says when they do.

    With "common", nothing is left out: the window then depends on every symbol.
    """
    if request.align == "common":
        return request
    window = request.window(source.clock_ms(request.symbols) if request.end_ms is None else request.end_ms)
    extents = {symbol: source.extent(symbol) for symbol in request.symbols}
    absent = [s for s, at in extents.items() if at.end_ms <= window.start_ms or at.start_ms >= window.end_ms]
    # If every symbol is absent, taking the snapshot says what is wrong.
    if not 0 < len(absent) < len(extents):
        return request
    listed = join_first([f"{symbol} ({extents[symbol]})" for symbol in absent], _MAX_NAMED)
    progress.warn(f"symbols left out, without candles from {window}: {listed}")
    return replace(request, symbols=tuple(symbol for symbol in request.symbols if symbol not in absent))


def plan_snapshot(source: Source, request: SnapshotRequest, *, data_dir: Path, progress: Progress) -> SnapshotPlan:
    """Read and check the candles that `take_snapshot` would write, without writing anything.

    Args:
        source: The open source; one that needs no network, because a download would be written to the cache.
        request: As for `take_snapshot`.
        data_dir: The data folder, which the source does not use.
        progress: Receives the progress by symbol.

    Raises:
        UsageError: The requested end is later than the source's clock, or the window begins before 1970.
        InputError: The source lacks a symbol or has no candle of it in the window, or a file cannot be read.
    """
    source.check_symbols(request.symbols)
    window = request.window(_find_cut(source, request))
    step_ms = interval_ms(source.interval)
    times_by_symbol = {}
    with source.download(request.symbols, window, data_dir=data_dir, refresh=False, progress=progress) as downloaded:
        for symbol in request.symbols:
            times_by_symbol[symbol] = times_ms(_read_symbol(source, downloaded, symbol, window).frame)
        input_files, notes = downloaded.input_files(), downloaded.notes()
    spellings = input_files.spellings if input_files is not None else {}

    def plan(symbol: str) -> PlannedSymbol:
        ts_ms = times_by_symbol[symbol]
        ts_ms = ts_ms[(ts_ms >= window.start_ms) & (ts_ms < window.end_ms)]
        if not len(ts_ms):
            raise InputError(f"{symbol} has no candle from {window}, the range that all symbols cover")
        share = len(ts_ms) * step_ms / (window.end_ms - window.start_ms)
        return PlannedSymbol(symbol, spellings.get(symbol, ()), len(ts_ms), int(ts_ms[0]), int(ts_ms[-1]), share)

    symbols = tuple(map(plan, request.symbols))
    if request.align == "common":
        window = _find_common_range(symbols, source.interval)
        symbols = tuple(map(plan, request.symbols))
    return SnapshotPlan(window, symbols, input_files, notes, source.interval)


def take_snapshot(
    data_dir: Path,
    source: Source,
    spec: SourceSpec,
    request: SnapshotRequest,
    *,
    now_ms: int,
    progress: Progress,
    max_missing: float = 1.0,
    refresh: bool = False,
    inputs: Sequence[LoadedInput] = (),
) -> TakenSnapshot:
    """Download the requested candles, write them as a snapshot, and move `latest` to it.

    If an earlier snapshot has the same candles for the same request, nothing is written and `latest` moves to it.

    Args:
        data_dir: The data folder.
        source: The open source.
        spec: The specification that the source was opened from, for the manifest.
        request: Symbols, days, interval, end, and how the window fits symbols that begin late or end early.
        now_ms: The time of the run, ms UTC, for the manifest.
        progress: Receives the progress by symbol, and warnings.
        max_missing: The largest share of a symbol's candles that may be missing in the window, 0 to 1.
        refresh: Download cached days again, and compare them.
        inputs: The user's own columns to store, as `load_inputs` returns them.

    Raises:
        UsageError: The requested end is later than the source's clock, or the window begins before 1970.
        InputError: The source lacks a symbol or has no candle of it in the window, or too many are missing.
        SourceError: The exchange or the network failed, or the answer does not match the request.
        LockedError: Another mltrain is downloading, or publishing a snapshot.
        MachineError: A file cannot be written; nothing has changed.
    """
    if not spec.interval == source.interval == request.interval:
        raise ValueError("source, spec and request are of different intervals")
    source.check_symbols(request.symbols)
    window = request.window(_find_cut(source, request))
    folder = data_dir / FOLDER
    make_folder(folder)
    # Raises before the download if `latest` is not a pointer.
    read_pointer(folder / LATEST)
    packages = ("polars", "pyarrow", *(("ccxt",) if spec.exchange else ()))
    record = SnapshotRecord(
        id=snapshot_id(window.end_ms),
        created_at=format_seconds(now_ms),
        source=spec,
        host=source.host,
        request=request,
        tools=(("mltrain", __version__), *((name, version(name)) for name in packages)),
        notes=(),
        facts=(),
    )
    # Before the candles, whose traffic report then counts these requests too.
    funding = source.funding(request.symbols, window) if source.market == USDM else None
    with (
        source.download(request.symbols, window, data_dir=data_dir, refresh=refresh, progress=progress) as downloaded,
        lock_folder(folder, purpose=f"publishing the snapshot {record.id}"),
    ):
        # Again: `latest` may have been replaced during the download.
        read_pointer(folder / LATEST)
        with staging(folder) as stage:
            calls = [
                partial(_write_symbol, stage.path, source, downloaded, symbol, window) for symbol in request.symbols
            ]
            facts = run_in_threads(calls)
            if request.align == "common" and (common := _find_common_range(facts, source.interval)) != window:
                window = common
                facts = run_in_threads([partial(_trim_file, stage.path, f, window, source.interval) for f in facts])
                record = replace(record, id=snapshot_id(window.end_ms))
            _check_gaps(facts, max_missing)
            notes = downloaded.notes()
            if funding is not None:
                notes = (*notes, *funding.notes)
                written = _write_funding(stage.path, funding, facts, window, interval_ms(source.interval))
                record = replace(record, funding_facts=written)
            elif source.market == USDM:
                progress.warn(f"the source {source.name} gives no funding rates: they are unknown, not zero")
            record = replace(record, notes=notes, facts=facts, input_files=downloaded.input_files())
            record = replace(record, input_facts=_write_inputs(stage.path, inputs, record, window))
            warnings = (
                *_list_warnings(facts, window, interval_ms(source.interval)),
                *_list_funding_warnings(record),
                *_list_input_warnings(record),
            )
            for warning in (*record.notes, *warnings):
                progress.warn(warning)
            return replace(_publish(folder, stage, record, progress), traffic=downloaded.traffic)


def _find_cut(source: Source, request: SnapshotRequest) -> int:
    """Return the end of the snapshot: the requested end or the source's clock, ms UTC, rounded down to the interval.

    With "common", files end at the earliest end of a symbol, so that the requested days are counted from there.
    """
    clock_ms = source.clock_ms(request.symbols)
    end_ms = clock_ms if request.end_ms is None else request.end_ms
    if end_ms > clock_ms:
        raise UsageError(
            f"the end {format_ms(end_ms)} is later than the clock of the source {source.name}, {format_ms(clock_ms)}",
            hint="omit --end to end at that clock",
        )
    # Over a network, an extent would cost two requests for each symbol, and most end at the clock.
    if request.align == "common" and not source.host:
        end_ms = min(end_ms, *(source.extent(symbol).end_ms for symbol in request.symbols))
    cut_ms = floor_to_grid(end_ms, interval_ms(request.interval))
    if request.window(cut_ms).start_ms < 0:
        raise UsageError(f"{request.days} days before {format_ms(cut_ms)} begin before 1970")
    return cut_ms


def _write_symbol(
    stage: Path, source: Source, downloaded: DownloadResult, symbol: str, window: TimeRange
) -> SymbolFacts:
    """Write a symbol's downloaded candles, all in `window`, to a file in the folder `stage`; return its facts."""
    candles = _read_symbol(source, downloaded, symbol, window)
    frame, volumes = empty_false_volumes(candles.frame)
    step_ms = interval_ms(source.interval)
    return _write_candles(
        stage, frame, symbol=symbol, window=window, step_ms=step_ms, origins=candles.origins, volumes=volumes
    )


def _read_symbol(source: Source, downloaded: DownloadResult, symbol: str, window: TimeRange) -> SymbolCandles:
    """Return a symbol's downloaded candles, at least one, all in `window`."""
    candles = downloaded.candles(symbol)
    if candles.frame.is_empty():
        raise InputError(
            f"the source {source.name} has no candles of {symbol} from {window}: "
            f"it has those from {source.extent(symbol)}",
            hint="choose another --end, more --days or other --symbols"
            # Only the ends of local candles are known before they are read.
            + ("" if source.host else "; --align common counts the days from the earliest end of a symbol"),
        )
    ts_ms = times_ms(candles.frame)
    if ts_ms[0] < window.start_ms or ts_ms[-1] >= window.end_ms:
        raise SourceError(f"the source {source.name} answered with candles of {symbol} outside {window}")
    return candles


def _write_candles(
    stage: Path,
    frame: pl.DataFrame,
    *,
    symbol: str,
    window: TimeRange,
    step_ms: int,
    origins: tuple[Origin, ...],
    volumes: tuple[FalseVolume, ...],
) -> SymbolFacts:
    """Write a symbol's candles, all in `window`, to its file in the folder `stage`; return the facts about it."""
    file, name = encode_candles(frame, step_ms), file_name(symbol)
    write_new(stage / name, file.data)
    return SymbolFacts.of(
        frame,
        describe_file(name, file.data),
        symbol=symbol,
        window=window,
        step_ms=step_ms,
        origins=origins,
        blocks=file.blocks,
        volumes=volumes,
    )


def funding_in_window(funding: FundingDownload, window: TimeRange) -> dict[str, pl.DataFrame]:
    """Return the funding events of each symbol in a window, sorted by symbol, with the columns of FUNDING_SCHEMA."""
    frames = {}
    for symbol in sorted(funding.symbols):
        frame = funding.symbols[symbol].frame
        first, stop = times_ms(frame).searchsorted([window.start_ms, window.end_ms]).tolist()
        frames[symbol] = frame.slice(first, stop - first)
    return frames


def _write_funding(
    stage: Path, funding: FundingDownload, facts: Sequence[SymbolFacts], window: TimeRange, step_ms: int
) -> FundingFacts:
    """Write the funding events in a window to a file in the folder `stage`; return the facts about them.

    Raises:
        InputError: A symbol has no event, although its candles cover more than the longest interval between two.
    """
    frames = funding_in_window(funding, window)
    described = []
    for candles in facts:
        symbol = candles.symbol
        covered = TimeRange(candles.first_ms, candles.last_ms + step_ms)
        if frames[symbol].is_empty() and covered.end_ms - covered.start_ms > LONGEST_INTERVAL_MS:
            raise InputError(
                f"{symbol} has no funding rates from {covered}, and a perpetual future pays funding every 8 hours or "
                "more often",
                hint="run the same command again, or leave the symbol out of --symbols",
            )
        origins = _trim_origins(funding.symbols[symbol].origins, window)
        described.append(SymbolFundingFacts.of(frames[symbol], candles, step_ms=step_ms, origins=origins))
    data = encode_funding(pl.concat(frames.values()))
    write_new(stage / FUNDING_FILE, data)
    entry = describe_file(FUNDING_FILE, data)
    rows = sum(each.events for each in described)
    return FundingFacts(tuple(described), rows=rows, sha256=entry.sha256, bytes=entry.bytes)


def _list_funding_warnings(record: SnapshotRecord) -> Iterator[str]:
    """Yield a warning for each symbol without funding rates for a part of its candles."""
    for facts in record.funding_facts.symbols if record.funding_facts is not None else ():
        if facts.gaps:
            others = f", and {len(facts.gaps) - 1} more such gaps" if len(facts.gaps) > 1 else ""
            yield (
                f"{facts.symbol}: the funding rates from {facts.gaps[0]} are missing{others}: "
                "they are unknown there, not zero"
            )


def _write_inputs(
    stage: Path, inputs: Sequence[LoadedInput], record: SnapshotRecord, window: TimeRange
) -> tuple[InputFacts, ...]:
    """Write the values of inputs that the candles of a window may know to files in the folder `stage`."""
    written = []
    for loaded in sorted(inputs, key=lambda each: each.spec.name):
        data, facts = store_input(
            loaded, window=window, step_ms=interval_ms(record.request.interval), symbols=record.request.symbols
        )
        write_new(stage / facts.path, data)
        written.append(facts)
    return tuple(written)


def _list_input_warnings(record: SnapshotRecord) -> Iterator[str]:
    """Yield a warning for each input without values for some symbols, and for rows that were dropped."""
    for facts in record.input_facts:
        absent = [symbol for symbol in record.request.symbols if symbol not in facts.symbols] if facts.symbols else []
        if absent:
            yield f"the input {facts.name} has no value of {join_first(absent, _MAX_NAMED)}"
        for later in facts.later:
            yield later.describe(facts.name, facts.known_at)
        if facts.empty or facts.repeated:
            yield (
                f"the input {facts.name}: {facts.empty:,} rows without a value and {facts.repeated:,} repeated rows of "
                f"{facts.file} were dropped"
            )


def _trim_origins(origins: tuple[Origin, ...], window: TimeRange) -> tuple[Origin, ...]:
    """Return the parts of origins that are in a window."""
    trimmed = (
        replace(each, from_ms=max(each.from_ms, window.start_ms), to_ms=min(each.to_ms, window.end_ms))
        for each in origins
    )
    return tuple(each for each in trimmed if each.from_ms < each.to_ms)


def _find_common_range(facts: Sequence[SymbolFacts | PlannedSymbol], interval: str) -> TimeRange:
    """Return the open times from the latest first candle to the earliest last one of all symbols."""
    latest, earliest = max(facts, key=lambda file: file.first_ms), min(facts, key=lambda file: file.last_ms)
    if latest.first_ms > earliest.last_ms:
        raise InputError(
            f"no time is covered by all symbols: {earliest.symbol} has no candle after {format_ms(earliest.last_ms)}, "
            f"{latest.symbol} none before {format_ms(latest.first_ms)}",
            hint="choose other --symbols, or take each symbol's own range with --align union",
        )
    return TimeRange(latest.first_ms, earliest.last_ms + interval_ms(interval))


def _trim_file(stage: Path, facts: SymbolFacts, window: TimeRange, interval: str) -> SymbolFacts:
    """Write a symbol's staged file again with the candles in a shorter window; return the new facts."""
    path = stage / file_name(facts.symbol)
    data = read_file(path, max_bytes=facts.bytes, what="the staged file")
    frame = read_candles(data, rows=facts.rows, symbol=facts.symbol, interval=interval, where=str(path))
    first, stop = times_ms(frame).searchsorted([window.start_ms, window.end_ms]).tolist()
    if first == stop:
        raise InputError(
            f"{facts.symbol} has no candle from {window}, the range that all symbols cover",
            hint="choose other --symbols, or take each symbol's own range with --align union",
        )
    with disk_errors(path, "replace"):
        path.unlink()
    return _write_candles(
        stage,
        frame.slice(first, stop - first),
        symbol=facts.symbol,
        window=window,
        step_ms=interval_ms(interval),
        origins=_trim_origins(facts.origins, window),
        volumes=facts.volumes,
    )


def _list_warnings(facts: tuple[SymbolFacts, ...], window: TimeRange, step_ms: int) -> Iterator[str]:
    """Yield warnings: symbols that begin late or end early; many gaps, contradictory volumes, price jumps of each."""
    bars = (window.end_ms - window.start_ms) // step_ms
    late = [f"{f.symbol} ({format_ms(f.first_ms)})" for f in facts if f.missing_before > _WARN_EDGE_SHARE * bars]
    if late:
        yield f"symbols that begin later than the window, {format_ms(window.start_ms)}: {join_first(late, _MAX_NAMED)}"
    early = [
        f"{f.symbol} ({format_ms(f.last_ms + step_ms)})" for f in facts if f.missing_after > _WARN_EDGE_SHARE * bars
    ]
    if early:
        yield (
            f"symbols that end earlier than the window, {format_ms(window.end_ms)}: {join_first(early, _MAX_NAMED)}; "
            "--align common takes the range that all symbols cover"
        )
    # The files of one source often have the same fault: the first symbol stands for all.
    false_volumes: dict[tuple[str, tuple[str, ...]], list[tuple[str, FalseVolume]]] = {}
    for file in facts:
        for false in file.volumes:
            if false.emptied or false.candles > _WARN_FALSE_SHARE * false.traded:
                false_volumes.setdefault((false.what, false.emptied), []).append((file.symbol, false))
    for (symbol, false), *rest in false_volumes.values():
        same = f"; the same in {join_first([other for other, _ in rest], _MAX_NAMED)}" if rest else ""
        yield f"{symbol}: {false}{same}"
    for file in facts:
        missing = file.missing - file.missing_before - file.missing_after
        if missing > _WARN_MISSING_SHARE * (file.rows + missing):
            expected = file.rows + missing
            yield f"{file.symbol}: {missing:,} of {expected:,} candles from its first to its last are missing"
        for jump in file.jumps[:1]:
            others = len(file.jumps) - 1
            more = f", and {others} more such move{'s' * (others > 1)}" if others else ""
            yield f"{file.symbol}: the price jumps from {jump.before} to {jump.after} at {format_ms(jump.ts_ms)}{more}"


def _check_gaps(facts: tuple[SymbolFacts, ...], max_missing: float) -> None:
    """Raise an InputError if more of a window is missing than the share `max_missing`, or a manifest cannot hold it."""
    for file in facts:
        expected = file.rows + file.missing
        if file.missing > max_missing * expected:
            longest = max(file.gaps, key=lambda gap: gap.missing)
            raise InputError(
                f"{file.symbol}: {file.missing:,} of {expected:,} candles are missing "
                f"({file.missing / expected:.1%}, at most {max_missing:.1%}); the longest gap is "
                f"{format_ms(longest.from_ms)} to {format_ms(longest.to_ms)}",
                hint="choose another --end or fewer --days, take the range that all symbols cover with --align common, "
                "or allow more by --max-missing",
            )
    if sum(len(file.gaps) for file in facts) > _MAX_GAPS:
        worst = max(facts, key=lambda file: len(file.gaps))
        raise InputError(
            f"{worst.symbol} has {len(worst.gaps)} gaps: more than {_MAX_GAPS} in all cannot be recorded",
            hint="choose a longer --interval, fewer --days or symbols that are traded more often",
        )


def _publish(folder: Path, stage: Stage, record: SnapshotRecord, progress: Progress) -> TakenSnapshot:
    """Publish the staged files under the first free id, unless a snapshot with the same candles exists.

    Either way, `latest` then points to the snapshot with these candles.
    """
    for number in itertools.count(1):
        path = folder / snapshot_id(record.cut_ms, number)
        if not os.path.lexists(path):
            break
        if _has_same_candles(path, stage, record, progress):
            return TakenSnapshot(_move_latest(path), created=False)
    manifest = replace(record, id=path.name).to_manifest().to_bytes()
    if len(manifest) > MAX_MANIFEST_BYTES:
        raise InputError(
            f"the manifest of {path.name} would take {len(manifest):,} bytes, at most {MAX_MANIFEST_BYTES:,} are read",
            hint="take fewer days or symbols",
        )
    write_new(stage.path / MANIFEST, manifest)
    stage.publish(path)
    return TakenSnapshot(_move_latest(path), created=True)


def _has_same_candles(path: Path, stage: Stage, record: SnapshotRecord, progress: Progress) -> bool:
    """Return whether the snapshot in the folder `path` is intact and has the candles of the staged files.

    Damage is reported as a warning, and so are differences if the request is the same.
    """
    try:
        earlier = open_named(path)
        problems = verify_snapshot(earlier)
    except InputError as err:
        problems = (err.message,)
    if problems:
        progress.warn(f"snapshot {path.name} is damaged, a new one replaces it: {problems[0]}")
        return False
    if earlier.has_same_request(record) and not earlier.has_same_candles(record):
        for file in record.facts:
            symbol = file.symbol
            data = read_file(stage.path / file_name(symbol), max_bytes=file.bytes, what="the staged file")
            now = read_candles(data, rows=file.rows, symbol=symbol, interval=earlier.interval, where=str(stage.path))
            diff = compare_frames(earlier.candles(symbol), now)
            if not diff.is_empty:
                progress.warn(f"{symbol} differs from snapshot {path.name}: {describe_diff(diff)}")
        for line in _describe_funding_changes(stage, earlier, record):
            progress.warn(line)
        of_earlier = {facts.name: facts.identity for facts in earlier.input_facts}
        changed = [f.name for f in record.input_facts if of_earlier.get(f.name, f.identity) != f.identity]
        if changed:
            progress.warn(f"inputs that differ from those of snapshot {path.name}: {', '.join(changed)}")
    return earlier.has_same_candles(record)


def _describe_funding_changes(stage: Stage, earlier: Snapshot, record: SnapshotRecord) -> Iterator[str]:
    """Yield a sentence for each symbol whose staged funding events differ from those of an earlier snapshot."""
    if earlier.funding_facts is None or record.funding_facts is None:
        return
    path = stage.path / FUNDING_FILE
    data = read_file(path, max_bytes=record.funding_facts.bytes, what="the staged file")
    now = read_funding(data, rows=record.funding_facts.rows, where=str(path))
    for symbol in record.request.symbols:
        diff = compare_frames(earlier.funding(symbol), now.filter(now["symbol"] == symbol))
        if not diff.is_empty:
            yield f"{symbol} differs from snapshot {earlier.id}: {describe_diff(diff, noun='funding event')}"


def _move_latest(path: Path) -> Snapshot:
    """Let `latest` point to the snapshot in the folder `path`, and return that snapshot."""
    snapshot = open_named(path)
    swap_pointer(path.parent / LATEST, path.name)
    return snapshot
