"""Make the files of a damaged snapshot again, byte for byte, or say precisely why that cannot be done.

A snapshot never changes: a file is put back only where its bytes have the hash that the manifest tells.
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

_BLOCKS_TOLD: Final = 3


@dataclass(frozen=True, slots=True)
class RebuiltFile:
    """What came of one file.

    Attributes:
        file: Its name.
        outcome: "sound" (it was and is), "rebuilt", or "lost" (the same bytes cannot be made).
        detail: Why the same bytes cannot be made; else empty.
    """

    file: str
    outcome: str
    detail: str


def rebuild_snapshot(
    snapshot: Snapshot, source: Source, *, data_dir: Path, progress: Progress
) -> tuple[RebuiltFile, ...]:
    """Make every file of a snapshot again from the cache and its source, and put back those that are damaged.

    Args:
        snapshot: The snapshot, whose manifest is sound.
        source: Opened from the snapshot's own spec.
        data_dir: Where the cache is.
        progress: Told of each symbol.

    Returns:
        What came of each file, by name.

    Raises:
        InputError: The source lacks a symbol, or a candle is damaged.
        SourceError: The exchange or the network failed.
        LockedError: Another mltrain is downloading or publishing.
        MachineError: The machine refuses.
    """
    source.check_symbols(snapshot.symbols)
    folder = snapshot.path.parent
    # Only among the published ones does anybody publish or prune; beside a copy elsewhere no lock file is left.
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
        sweep_temps(snapshot.path)  # a temp of a killed rebuild would be a file that the manifest does not list
        done = tuple(_rebuild(snapshot, facts, downloaded.candles(facts.symbol).frame) for facts in snapshot.facts)
        for note in downloaded.notes():
            progress.warn(note)
        return done


def _rebuild(snapshot: Snapshot, facts: SymbolFacts, frame: pl.DataFrame) -> RebuiltFile:
    name = file_name(facts.symbol)
    path = snapshot.path / name
    frame = empty_columns(frame, facts.volumes)  # the same columns as when the snapshot was taken
    file = write_candles(frame, interval_ms(snapshot.interval)) if frame.height else CandleFile(b"", ())
    sound = _is_sound(path, facts)
    if sha256_bytes(file.data) == facts.sha256:
        if not sound:
            atomic_write(path, file.data)
        return RebuiltFile(name, "sound" if sound else "rebuilt", "")
    why = _why_other(snapshot, facts, frame, file, sound=sound)
    return (
        RebuiltFile(name, "sound", f"but could not be made again: {why}") if sound else RebuiltFile(name, "lost", why)
    )


def _is_sound(path: Path, facts: SymbolFacts) -> bool:
    try:
        return hash_file(path, max_bytes=MAX_FILE_BYTES, what="the file") == facts.sha256
    except InputError:
        return False


def _why_other(snapshot: Snapshot, facts: SymbolFacts, frame: pl.DataFrame, file: CandleFile, *, sound: bool) -> str:
    """Return why other bytes came out."""
    if frame.height and content_sha256(frame) == facts.content_sha256:
        wrote = dict(snapshot.tools).get("pyarrow", "another version")
        return f"the candles are the same, but pyarrow {version('pyarrow')} packs them otherwise than {wrote} did"
    if sound:
        diff = compare_frames(snapshot.candles(facts.symbol), frame)
        return f"the source tells another story now: {describe_diff(diff)}"
    digests = {(b.from_ms, b.to_ms): b.digest for b in file.blocks}
    other = [b for b in facts.blocks if digests.get((b.from_ms, b.to_ms)) != b.digest]
    days = ", ".join(format_ms(b.from_ms)[:10] for b in other[:_BLOCKS_TOLD])
    more = f" and {len(other) - _BLOCKS_TOLD} more" if len(other) > _BLOCKS_TOLD else ""
    rows = f"{frame.height:,} candles, {facts.rows:,} were written"
    return f"the source tells another story now: {rows}" + (f"; the days {days}{more} differ" if days else "")
