"""Rebuild the files of a damaged snapshot, byte for byte, or explain why that is not possible.

A snapshot never changes: a file is replaced only by bytes that have the hash in the manifest.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from mltrain.candles.anomalies import empty_columns
from mltrain.candles.candle_file import CandleFile, write_candles
from mltrain.candles.diff import compare_frames, describe_diff
from mltrain.candles.frame import content_sha256
from mltrain.errors import InputError
from mltrain.snapshots.snapshot import FOLDER
from mltrain.snapshots.snapshot_record import file_name
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import hash_file, sha256_bytes
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MAX_FILE_BYTES
from mltrain.storage.temps import sweep_temps
from mltrain.storage.writing import atomic_write
from mltrain.times import format_ms, interval_ms

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.snapshots.snapshot_record import SymbolFacts
    from mltrain.sources.source import Source

_MAX_NAMED_BLOCKS: Final = 3


@dataclass(frozen=True, slots=True)
class RebuiltFile:
    """The result for one file.

    Attributes:
        file: Its name.
        outcome: "sound" (it was not damaged), "rebuilt", or "lost" (the same bytes cannot be made again).
        detail: Why the same bytes cannot be made again; otherwise empty.
    """

    file: str
    outcome: str
    detail: str


def rebuild_snapshot(
    snapshot: Snapshot, source: Source, *, data_dir: Path, progress: Progress
) -> tuple[RebuiltFile, ...]:
    """Rebuild every file of a snapshot from the cache and the source, and replace the damaged ones.

    Args:
        snapshot: The snapshot; its manifest is intact.
        source: The source, opened from the snapshot's specification.
        data_dir: The data folder, which contains the cache.
        progress: Receives the progress by symbol, and warnings.

    Returns:
        The result for each file, by name.

    Raises:
        InputError: The source lacks a symbol, or a candle is damaged.
        SourceError: The exchange or the network failed.
        LockedError: Another mltrain is downloading or publishing.
        MachineError: A file cannot be read or written.
    """
    source.check_symbols(snapshot.symbols)
    folder = snapshot.path.parent
    # A copy elsewhere needs no lock: only in the data folder are snapshots published and pruned.
    lock = (
        lock_folder(folder, purpose=f"rebuilding {snapshot.id}")
        if real_path(folder) == real_path(data_dir / FOLDER)
        else nullcontext()
    )
    window = snapshot.request.window(snapshot.cut_ms)
    with (
        source.download(snapshot.symbols, window, data_dir=data_dir, refresh=False, progress=progress) as downloaded,
        lock,
    ):
        # A temporary file of a killed rebuild would be a file that the manifest does not list.
        sweep_temps(snapshot.path)
        done = tuple(_rebuild(snapshot, facts, downloaded.candles(facts.symbol).frame) for facts in snapshot.facts)
        for note in downloaded.notes():
            progress.warn(note)
        return done


def _rebuild(snapshot: Snapshot, facts: SymbolFacts, frame: pl.DataFrame) -> RebuiltFile:
    """Write the file of a symbol again if it is damaged and the same bytes can be made."""
    name = file_name(facts.symbol)
    path = snapshot.path / name
    # The same columns as in the snapshot.
    frame = empty_columns(frame, facts.volumes)
    file = write_candles(frame, interval_ms(snapshot.interval)) if frame.height else CandleFile(b"", ())
    try:
        sound = hash_file(path, max_bytes=MAX_FILE_BYTES, what="the file") == facts.sha256
    except InputError:
        sound = False
    if sha256_bytes(file.data) == facts.sha256:
        if not sound:
            atomic_write(path, file.data)
        return RebuiltFile(name, "sound" if sound else "rebuilt", "")
    why = _explain_difference(snapshot, facts, frame, file, sound=sound)
    if sound:
        return RebuiltFile(name, "sound", f"but could not be made again: {why}")
    return RebuiltFile(name, "lost", why)


def _explain_difference(
    snapshot: Snapshot, facts: SymbolFacts, frame: pl.DataFrame, file: CandleFile, *, sound: bool
) -> str:
    """Return why the rebuilt file has other bytes."""
    if frame.height and content_sha256(frame) == facts.content_sha256:
        wrote = dict(snapshot.tools).get("pyarrow", "another version")
        return f"the candles are the same, but pyarrow {version('pyarrow')} compresses them differently from {wrote}"
    if sound:
        diff = compare_frames(snapshot.candles(facts.symbol), frame)
        return f"the source now has other candles: {describe_diff(diff)}"
    digests = {(b.from_ms, b.to_ms): b.digest for b in file.blocks}
    other = [b for b in facts.blocks if digests.get((b.from_ms, b.to_ms)) != b.digest]
    days = ", ".join(format_ms(b.from_ms)[:10] for b in other[:_MAX_NAMED_BLOCKS])
    more = f" and {len(other) - _MAX_NAMED_BLOCKS} more" if len(other) > _MAX_NAMED_BLOCKS else ""
    rows = f"{frame.height:,} candles, {facts.rows:,} were written"
    return f"the source now has other candles: {rows}" + (f"; the days {days}{more} differ" if days else "")
