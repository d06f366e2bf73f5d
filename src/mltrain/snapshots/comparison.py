"""Two snapshots side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mltrain.candles.diff import compare_frames
from mltrain.errors import InputError

if TYPE_CHECKING:
    from mltrain.candles.diff import FrameDiff
    from mltrain.snapshots.stored import Snapshot


@dataclass(frozen=True, slots=True)
class SymbolDiff:
    """What two snapshots tell differently of one symbol.

    Attributes:
        symbol: Which.
        only: The id of the snapshot that alone has it; empty where both have.
        diff: What changed from the first to the second; None where only one has it.
    """

    symbol: str
    only: str
    diff: FrameDiff | None


def compare_snapshots(before: Snapshot, after: Snapshot) -> tuple[SymbolDiff, ...]:
    """Return what changed from one snapshot to another, by symbol.

    Raises:
        InputError: They are of different intervals, or a file is not what it was.
        MachineError: The machine refuses to read a file.
    """
    if before.interval != after.interval:
        raise InputError(
            f"{before.id} holds {before.interval} candles, {after.id} {after.interval} ones: they share nothing"
        )
    found = []
    for symbol in sorted({*before.symbols, *after.symbols}):
        owners = [snap for snap in (before, after) if symbol in snap.symbols]
        if len(owners) == 1:
            found.append(SymbolDiff(symbol, owners[0].id, None))
        else:
            found.append(SymbolDiff(symbol, "", compare_frames(before.candles(symbol), after.candles(symbol))))
    return tuple(found)
