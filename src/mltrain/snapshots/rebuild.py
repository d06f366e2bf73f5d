"""Rebuild the files of a damaged snapshot, byte for byte, or explain why that is not possible.

A snapshot never changes: a file is replaced only by bytes that have the hash in the manifest.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from mltrain.candles.anomalies import empty_columns
from mltrain.candles.candle_file import CandleFile, encode_candles
from mltrain.candles.diff import compare_frames, describe_diff
from mltrain.candles.frame import content_sha256
from mltrain.errors import InputError
from mltrain.names import join_first
from mltrain.snapshots.snapshot import FOLDER
from mltrain.snapshots.snapshot_record import file_name
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import hash_file, sha256_bytes
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MAX_FILE_BYTES
from mltrain.storage.temps import sweep_temps
from mltrain.storage.writing import atomic_write
from mltrain.times import day_name, interval_ms

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
    """What rebuilding did to one file of a snapshot.

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
    """
    source.check_symbols(snapshot.symbols)
    folder = snapshot.path.parent
    # A copy elsewhere needs no lock: only in the data folder are snapshots published and pruned.
    lock = (
        lock_folder(folder, purpose=f"rebuilding {snapshot.id}")
        if real_path(folder) == real_path(data_dir / FOLDER)
        else nullcontext()
    )
    window = snapshot.window
    with (
        source.download(snapshot.symbols, window, data_dir=data_dir, refresh=False, progress=progress) as downloaded,
        lock,
    ):
        # A temporary file of a killed rebuild would be a file that the manifest does not list.
        sweep_temps(snapshot.path)
        rebuilt = tuple(
            _rebuild_file(snapshot, facts, downloaded.candles(facts.symbol).frame) for facts in snapshot.facts
        )
        for note in downloaded.notes():
            progress.warn(note)
        return rebuilt


def _rebuild_file(snapshot: Snapshot, facts: SymbolFacts, frame: pl.DataFrame) -> RebuiltFile:
    """Replace a symbol's file if it is damaged and the candles in `frame` give the bytes in the manifest.

    Args:
        snapshot: The snapshot.
        facts: The manifest's facts about the file.
        frame: The symbol's candles, as the source returns them now.
    """
    name = file_name(facts.symbol)
    path = snapshot.path / name
    # The snapshot was written without these columns.
    frame = empty_columns(frame, facts.volumes)
    file = encode_candles(frame, interval_ms(snapshot.interval)) if frame.height else CandleFile(b"", ())
    try:
        is_sound = hash_file(path, max_bytes=MAX_FILE_BYTES, what="the file") == facts.sha256
    except InputError:
        is_sound = False
    if sha256_bytes(file.data) == facts.sha256:
        if not is_sound:
            atomic_write(path, file.data)
        return RebuiltFile(name, outcome="sound" if is_sound else "rebuilt", detail="")
    reason = _explain_difference(snapshot, facts, frame, file, is_sound=is_sound)
    if is_sound:
        return RebuiltFile(name, outcome="sound", detail=f"but could not be made again: {reason}")
    return RebuiltFile(name, outcome="lost", detail=reason)


def _explain_difference(
    snapshot: Snapshot, facts: SymbolFacts, frame: pl.DataFrame, file: CandleFile, *, is_sound: bool
) -> str:
    """Return why a symbol's file, made again from the candles in `frame`, does not have the bytes in the manifest.

    Args:
        snapshot: The snapshot.
        facts: The manifest's facts about the file.
        frame: The symbol's candles, as the source returns them now.
        file: The file that these candles give.
        is_sound: Whether the file on disk has the bytes in the manifest, so that its candles can be compared.
    """
    if frame.height and content_sha256(frame) == facts.content_sha256:
        writer = dict(snapshot.tools).get("pyarrow", "another version")
        return f"the candles are the same, but pyarrow {version('pyarrow')} compresses them differently from {writer}"
    if is_sound:
        diff = compare_frames(snapshot.candles(facts.symbol), frame)
        return f"the source now has other candles: {describe_diff(diff)}"
    digests = {(block.from_ms, block.to_ms): block.digest for block in file.blocks}
    changed = [block for block in facts.blocks if digests.get((block.from_ms, block.to_ms)) != block.digest]
    days = join_first([day_name(block.from_ms) for block in changed], _MAX_NAMED_BLOCKS)
    rows = f"{frame.height:,} candles, {facts.rows:,} were written"
    return f"the source now has other candles: {rows}" + (f"; the days {days} differ" if days else "")
