"""Take a snapshot: closed candles of a window, written once and never changed.

A snapshot is a folder `snapshots/<cut>` of one parquet file per symbol and a manifest, which is written last: no
manifest, no snapshot. Holes stay holes and are listed; there are no candles but the source's own.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import mltrain
from mltrain.candles.frame import check_candles, format_ms, interval_ms, times_ms
from mltrain.candles.parquet import to_parquet
from mltrain.candles.record import Record, Request, SymbolFacts, file_name, snapshot_id
from mltrain.candles.stored import (
    FOLDER,
    LATEST,
    Snapshot,
    SnapshotRow,
    list_snapshots,
    open_named,
    open_snapshot,
    verify_snapshot,
)
from mltrain.errors import InputError, SourceError, UsageError
from mltrain.files import (
    hold_lock,
    make_folder,
    read_pointer,
    sha256_bytes,
    staged_folder,
    swap_pointer,
    sweep_temps,
    write_new,
)
from mltrain.manifest import MANIFEST, FileEntry
from mltrain.names import did_you_mean, show

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import polars as pl

    from mltrain.candles.source import Source, SourceSpec, Window
    from mltrain.progress import Progress

__all__ = [
    "Request",
    "Snapshot",
    "SnapshotRow",
    "SymbolFacts",
    "TakenSnapshot",
    "list_snapshots",
    "open_snapshot",
    "take_snapshot",
    "verify_snapshot",
]

_LOCK: Final = ".lock"
_LOCK_WAIT_S: Final = 10.0
_MAX_HOLES: Final = 100_000  # of all symbols; with more the manifest would be larger than what reads it
_WARN_MISSING: Final = 0.05  # of a symbol's window


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    """What `take_snapshot` did.

    Attributes:
        snapshot: The snapshot, which `latest` now points to.
        created: False where the same one was already there.
    """

    snapshot: Snapshot
    created: bool


def take_snapshot(
    data_dir: Path, source: Source, spec: SourceSpec, request: Request, *, now_ms: int, progress: Progress
) -> TakenSnapshot:
    """Fetch the candles asked for, write them as a snapshot, and move `latest` to it.

    Where the same request gave the same candles before, nothing is written and `latest` moves to that snapshot.

    Args:
        data_dir: Where `snapshots` is or will be.
        source: The open source.
        spec: What it was opened from; recorded.
        request: Symbols, days, interval and end.
        now_ms: The time of the run; recorded.
        progress: Told of each symbol and of what the user should know.

    Raises:
        UsageError: The end asked for is later than the source's clock, or too early for a window.
        InputError: The source lacks a symbol or has no candle of it in the window, or a candle is impossible.
        SourceError: The source answered with something else than was asked.
        LockedError: Another mltrain is publishing a snapshot.
        MachineError: The machine refuses; nothing has changed.
    """
    if not spec.interval == source.interval == request.interval:
        raise ValueError("source, spec and request are of different intervals")
    _check_symbols(source, request.symbols)
    window = request.window(_find_cut(source, request))
    folder = data_dir / FOLDER
    make_folder(folder)
    files, facts = _fetch_all(source, request, window, progress)
    record = Record(
        id=snapshot_id(window.end_ms),
        created_at=format_ms(now_ms // 1000 * 1000),
        source=spec,
        host=source.host,
        request=request,
        tools=(("mltrain", mltrain.__version__), ("polars", version("polars")), ("pyarrow", version("pyarrow"))),
        notes=source.notes(),
        facts=facts,
    )
    for warning in (*record.notes, *_tell_missing(facts)):
        progress.warn(warning)
    with hold_lock(folder / _LOCK, wait_s=_LOCK_WAIT_S, purpose=f"publishing the snapshot {record.id}"):
        return _publish(folder, record, files, progress)


def _check_symbols(source: Source, symbols: tuple[str, ...]) -> None:
    known = source.symbols()
    for symbol in symbols:
        if symbol not in known:
            hint = did_you_mean(symbol, known) or f"it has {', '.join(known[:5])} and {len(known) - 5} others"
            raise InputError(f"the source {source.name} has no symbol {show(symbol)}", hint=hint)


def _find_cut(source: Source, request: Request) -> int:
    """Return the end asked for or the source's clock, rounded down to the interval."""
    clock_ms = source.clock_ms(request.symbols)
    end_ms = clock_ms if request.end_ms is None else request.end_ms
    if end_ms > clock_ms:
        raise UsageError(
            f"the end {format_ms(end_ms)} is later than the clock of the source {source.name}, {format_ms(clock_ms)}",
            hint="leave --end out to take all that is there",
        )
    cut_ms = end_ms // interval_ms(request.interval) * interval_ms(request.interval)
    if request.window(cut_ms).start_ms < 0:
        raise UsageError(f"{request.days} days before {format_ms(cut_ms)} begin before 1970")
    return cut_ms


def _fetch_all(
    source: Source, request: Request, window: Window, progress: Progress
) -> tuple[dict[str, bytes], tuple[SymbolFacts, ...]]:
    """Return the file of each symbol, by name, and what is in it."""
    files: dict[str, bytes] = {}
    facts = []
    progress.stage("fetch candles", total=len(request.symbols))
    for symbol in request.symbols:
        frame = _fetch(source, symbol, window)
        name, data = file_name(symbol), to_parquet(frame)
        entry = FileEntry(name, sha256_bytes(data), len(data))
        step_ms = interval_ms(request.interval)
        facts.append(SymbolFacts.of(frame, entry, symbol=symbol, window=window, step_ms=step_ms))
        files[name] = data
        progress.advance(note=symbol)
    _check_holes(facts)
    return files, tuple(facts)


def _fetch(source: Source, symbol: str, window: Window) -> pl.DataFrame:
    where = f"the source {source.name}"
    frame = check_candles(source.candles(symbol, window), symbol=symbol, interval=source.interval, where=where)
    if frame.is_empty():
        raise InputError(
            f"{where} has no candles of {symbol} from {window}: it has those from {source.extent(symbol)}",
            hint="choose another --end, more --days or other --symbols",
        )
    ts_ms = times_ms(frame)
    if ts_ms[0] < window.start_ms or ts_ms[-1] >= window.end_ms:
        raise SourceError(f"{where} answered with candles of {symbol} outside {window}")
    return frame


def _tell_missing(facts: tuple[SymbolFacts, ...]) -> Iterator[str]:
    for f in facts:
        missing = sum(hole.missing for hole in f.holes)
        if missing > _WARN_MISSING * (f.rows + missing):
            yield f"{f.symbol}: {missing} of {f.rows + missing} candles of the window are missing"


def _check_holes(facts: list[SymbolFacts]) -> None:
    if sum(len(f.holes) for f in facts) > _MAX_HOLES:
        worst = max(facts, key=lambda f: len(f.holes))
        raise InputError(
            f"{worst.symbol} has {len(worst.holes)} holes: more than {_MAX_HOLES} in all cannot be recorded",
            hint="choose a longer --interval, fewer --days or symbols that are traded more often",
        )


def _publish(folder: Path, record: Record, files: dict[str, bytes], progress: Progress) -> TakenSnapshot:
    """Write the snapshot under the first free name, or find the same one there. The caller holds the lock."""
    sweep_temps(folder)
    read_pointer(folder / LATEST)  # raises where something else stands in its place
    for number in itertools.count(1):
        path = folder / snapshot_id(record.cut_ms, number)
        if not os.path.lexists(path):
            break
        if _is_the_same(path, record, progress):
            return TakenSnapshot(_point_to(path), created=False)
    with staged_folder(path) as stage:
        for name, data in files.items():
            write_new(stage / name, data)
        write_new(stage / MANIFEST, replace(record, id=path.name).to_manifest().to_bytes())
    return TakenSnapshot(_point_to(path), created=True)


def _is_the_same(path: Path, record: Record, progress: Progress) -> bool:
    """Tell whether a sound snapshot of the same candles is there; a damaged one is left alone, and told of."""
    try:
        there = open_named(path)
        same = there.is_same(record)
        problems = verify_snapshot(there) if same else ()
    except InputError as err:
        same, problems = False, (err.message,)
    if problems:
        progress.warn(f"snapshot {path.name} is damaged, a new one takes its place: {problems[0]}")
    return same and not problems


def _point_to(path: Path) -> Snapshot:
    snapshot = open_named(path)
    swap_pointer(path.parent / LATEST, path.name)
    return snapshot
