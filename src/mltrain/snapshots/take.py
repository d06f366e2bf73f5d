"""Take a snapshot: the closed candles of a window, written once and never changed.

A snapshot is a folder `snapshots/<cut>` with one Parquet file per symbol and a manifest. The manifest is written last:
a folder without one is not a snapshot. Gaps are listed and never filled.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from mltrain._version import __version__
from mltrain.candles.anomalies import empty_false_volumes
from mltrain.candles.candle_file import encode_candles, read_candles
from mltrain.candles.diff import compare_frames, describe_diff
from mltrain.candles.frame import times_ms
from mltrain.errors import InputError, SourceError, UsageError
from mltrain.snapshots.snapshot import FOLDER, LATEST, open_named, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRecord, SymbolFacts, file_name, snapshot_id
from mltrain.sources.async_run import run_in_threads
from mltrain.storage.folders import make_folder, staging
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MANIFEST, MAX_MANIFEST_BYTES, describe_file
from mltrain.storage.reading import read_file, read_pointer
from mltrain.storage.writing import swap_pointer, write_new
from mltrain.times import format_ms, format_seconds, interval_ms

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.snapshots.snapshot_record import SnapshotRequest
    from mltrain.sources.source import DownloadResult, Source, TrafficReport
    from mltrain.sources.source_spec import SourceSpec
    from mltrain.storage.folders import Stage
    from mltrain.times import TimeRange

# Gaps of all symbols together: with more, the manifest would be larger than MAX_MANIFEST_BYTES.
_MAX_GAPS: Final = 100_000
# Share of a symbol's window that is missing, above which the user is warned.
_WARN_MISSING_SHARE: Final = 0.05
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
) -> TakenSnapshot:
    """Download the requested candles, write them as a snapshot, and move `latest` to it.

    If an earlier snapshot has the same candles for the same request, nothing is written and `latest` moves to it.

    Args:
        data_dir: The data folder.
        source: The open source.
        spec: The specification that the source was opened from, for the manifest.
        request: Symbols, days, interval and end.
        now_ms: The time of the run, ms UTC, for the manifest.
        progress: Receives the progress by symbol, and warnings.
        max_missing: The largest share of a symbol's candles that may be missing in the window, 0 to 1.
        refresh: Download cached days again, and compare them.

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
    record = SnapshotRecord(
        id=snapshot_id(window.end_ms),
        created_at=format_seconds(now_ms),
        source=spec,
        host=source.host,
        request=request,
        tools=(("mltrain", __version__), ("polars", version("polars")), ("pyarrow", version("pyarrow"))),
        notes=(),
        facts=(),
    )
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
            _check_gaps(facts, max_missing)
            record = replace(record, notes=downloaded.notes(), facts=facts)
            for warning in (*record.notes, *_list_warnings(facts)):
                progress.warn(warning)
            return replace(_publish(folder, stage, record, progress), traffic=downloaded.traffic)


def _find_cut(source: Source, request: SnapshotRequest) -> int:
    """Return the end of the snapshot: the requested end or the source's clock, ms UTC, rounded down to the interval."""
    clock_ms = source.clock_ms(request.symbols)
    end_ms = clock_ms if request.end_ms is None else request.end_ms
    if end_ms > clock_ms:
        raise UsageError(
            f"the end {format_ms(end_ms)} is later than the clock of the source {source.name}, {format_ms(clock_ms)}",
            hint="omit --end to end at that clock",
        )
    cut_ms = end_ms // interval_ms(request.interval) * interval_ms(request.interval)
    if request.window(cut_ms).start_ms < 0:
        raise UsageError(f"{request.days} days before {format_ms(cut_ms)} begin before 1970")
    return cut_ms


def _write_symbol(
    stage: Path, source: Source, downloaded: DownloadResult, symbol: str, window: TimeRange
) -> SymbolFacts:
    """Write a symbol's downloaded candles, all in `window`, to a file in the folder `stage`; return its facts."""
    candles = downloaded.candles(symbol)
    if candles.frame.is_empty():
        raise InputError(
            f"the source {source.name} has no candles of {symbol} from {window}: "
            f"it has those from {source.extent(symbol)}",
            hint="choose another --end, more --days or other --symbols",
        )
    ts_ms = times_ms(candles.frame)
    if ts_ms[0] < window.start_ms or ts_ms[-1] >= window.end_ms:
        raise SourceError(f"the source {source.name} answered with candles of {symbol} outside {window}")
    frame, volumes = empty_false_volumes(candles.frame)
    step_ms, name = interval_ms(source.interval), file_name(symbol)
    file = encode_candles(frame, step_ms)
    write_new(stage / name, file.data)
    return SymbolFacts.of(
        frame,
        describe_file(name, file.data),
        symbol=symbol,
        window=window,
        step_ms=step_ms,
        origins=candles.origins,
        blocks=file.blocks,
        volumes=volumes,
    )


def _list_warnings(facts: tuple[SymbolFacts, ...]) -> Iterator[str]:
    """Yield a warning for each symbol with many missing candles, contradictory volumes or price jumps."""
    for file in facts:
        expected = file.rows + file.missing
        if file.missing > _WARN_MISSING_SHARE * expected:
            yield f"{file.symbol}: {file.missing:,} of {expected:,} candles of the window are missing"
        for false in file.volumes:
            if false.emptied or false.candles > _WARN_FALSE_SHARE * false.traded:
                yield f"{file.symbol}: {false}"
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
                hint="choose another --end or fewer --days, or allow more by --max-missing",
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
    return earlier.has_same_candles(record)


def _move_latest(path: Path) -> Snapshot:
    """Let `latest` point to the snapshot in the folder `path`, and return that snapshot."""
    snapshot = open_named(path)
    swap_pointer(path.parent / LATEST, path.name)
    return snapshot
