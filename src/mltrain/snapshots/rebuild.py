"""Rebuild the files of a damaged snapshot, byte for byte, or explain why that is not possible.

A snapshot never changes: a file is replaced only by bytes that have the hash in the manifest.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.anomalies import empty_columns
from mltrain.candles.candle_file import CandleFile, encode_candles
from mltrain.candles.diff import compare_frames, describe_diff
from mltrain.candles.frame import content_sha256
from mltrain.candles.funding import encode_funding, funding_sha256
from mltrain.candles.input_tables import InputSpec
from mltrain.errors import InputError, MachineError
from mltrain.names import join_first
from mltrain.snapshots import FOLDER
from mltrain.snapshots.snapshot_record import FUNDING_FILE, file_name
from mltrain.snapshots.stored_inputs import load_inputs, store_input
from mltrain.snapshots.take import funding_in_window
from mltrain.storage.descriptors import real_path
from mltrain.storage.hashing import hash_file, sha256_bytes
from mltrain.storage.locks import lock_folder
from mltrain.storage.manifest import MAX_FILE_BYTES
from mltrain.storage.temps import sweep_temps
from mltrain.storage.writing import atomic_write
from mltrain.times import DAY_MS, day_name, interval_ms

if TYPE_CHECKING:
    from pathlib import Path

    from mltrain.progress import Progress
    from mltrain.snapshots.snapshot import Snapshot
    from mltrain.snapshots.snapshot_record import SymbolFacts
    from mltrain.snapshots.stored_inputs import InputFacts
    from mltrain.sources.source import FundingDownload, Source

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
    funding = source.funding(snapshot.symbols, window) if snapshot.funding_facts is not None else None
    with (
        source.download(snapshot.symbols, window, data_dir=data_dir, refresh=False, progress=progress) as downloaded,
        lock,
    ):
        # A temporary file of a killed rebuild would be a file that the manifest does not list.
        sweep_temps(snapshot.path)
        rebuilt = tuple(
            _rebuild_file(snapshot, facts, downloaded.candles(facts.symbol).frame) for facts in snapshot.facts
        )
        for note in (*downloaded.notes(), *(funding.notes if funding is not None else ())):
            progress.warn(note)
        if funding is not None:
            rebuilt = (*rebuilt, _rebuild_funding(snapshot, funding))
        return (*rebuilt, *(_rebuild_input(snapshot, facts) for facts in snapshot.input_facts))


def _rebuild_input(snapshot: Snapshot, facts: InputFacts) -> RebuiltFile:
    """Replace the file of an input if it is damaged and the user's file still gives the bytes in the manifest."""
    path = snapshot.path / facts.path
    is_sound = _has_hash(path, facts.sha256)
    spec = InputSpec(facts.name, facts.file, facts.column, facts.known_at, DAY_MS, facts.timezone)
    try:
        (loaded,) = load_inputs([spec], facts.folder)
        data, _ = store_input(
            loaded, window=snapshot.window, step_ms=interval_ms(snapshot.interval), symbols=snapshot.symbols
        )
        reason = f"{facts.folder / facts.file} has other values now"
    except (InputError, MachineError) as err:
        data, reason = b"", err.message
    if sha256_bytes(data) == facts.sha256:
        if not is_sound:
            atomic_write(path, data)
        return RebuiltFile(facts.path, outcome="sound" if is_sound else "rebuilt", detail="")
    if is_sound:
        return RebuiltFile(facts.path, outcome="sound", detail=f"but could not be made again: {reason}")
    return RebuiltFile(facts.path, outcome="lost", detail=reason)


def _rebuild_funding(snapshot: Snapshot, funding: FundingDownload) -> RebuiltFile:
    """Replace the file of funding events if it is damaged and these events give the bytes in the manifest."""
    assert snapshot.funding_facts is not None  # noqa: S101 -- the caller has checked it
    facts, path = snapshot.funding_facts, snapshot.path / FUNDING_FILE
    frames = funding_in_window(funding, snapshot.window)
    data = encode_funding(pl.concat(frames.values()))
    is_sound = _has_hash(path, facts.sha256)
    if sha256_bytes(data) == facts.sha256:
        if not is_sound:
            atomic_write(path, data)
        return RebuiltFile(FUNDING_FILE, outcome="sound" if is_sound else "rebuilt", detail="")
    changed = [each.symbol for each in facts.symbols if funding_sha256(frames[each.symbol]) != each.content_sha256]
    writer = dict(snapshot.tools).get("pyarrow", "another version")
    reason = f"the events are the same, but pyarrow {version('pyarrow')} compresses them differently from {writer}"
    if changed:
        reason = f"the source now has other funding events of {join_first(changed, _MAX_NAMED_BLOCKS)}"
    if is_sound:
        return RebuiltFile(FUNDING_FILE, outcome="sound", detail=f"but could not be made again: {reason}")
    return RebuiltFile(FUNDING_FILE, outcome="lost", detail=reason)


def _has_hash(path: Path, sha256: str) -> bool:
    """Return whether a file can be read and has this SHA-256."""
    try:
        return hash_file(path, max_bytes=MAX_FILE_BYTES, what="the file") == sha256
    except InputError:
        return False


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
    is_sound = _has_hash(path, facts.sha256)
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
