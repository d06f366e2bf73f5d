"""Differences between two sets of candles: rows that were added, removed or changed, by symbol.

Pure, except that `compare_snapshots` reads the candles of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.errors import InputError
from mltrain.times import format_ms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """A candle with another value than before.

    Attributes:
        ts: Its open time, ISO 8601 in UTC.
        field: The first column that differs.
        before: The earlier value; None where it was missing.
        after: The later value; None where it is missing.
    """

    ts: str
    field: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class FrameDiff:
    """The difference between two frames of candles.

    Attributes:
        added: Number of candles that only the second frame has.
        gone: Number of candles that only the first frame has.
        changed: Number of candles whose values differ.
        added_at: Open times of the first EXAMPLES added candles, ISO 8601 in UTC.
        gone_at: Open times of the first EXAMPLES candles that are gone, ISO 8601 in UTC.
        examples: The first EXAMPLES changes.
    """

    added: int
    gone: int
    changed: int
    added_at: tuple[str, ...]
    gone_at: tuple[str, ...]
    examples: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether nothing changed."""
        return not (self.added or self.gone or self.changed)


@dataclass(frozen=True, slots=True)
class SymbolDiff:
    """The difference between two snapshots in one symbol.

    Attributes:
        symbol: The symbol.
        only: The id of the only snapshot that has the symbol; empty where both have it.
        diff: The difference from the first to the second; None where only one has the symbol.
    """

    symbol: str
    only: str
    diff: FrameDiff | None


class Comparable(Protocol):
    """A snapshot, as far as a comparison needs it."""

    @property
    def id(self) -> str:
        """Its name in messages."""

    @property
    def interval(self) -> str:
        """The interval of its candles."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """Its symbols."""

    def candles(self, symbol: str) -> pl.DataFrame:
        """Return the candles of a symbol."""


def compare_snapshots(before: Comparable, after: Comparable) -> tuple[SymbolDiff, ...]:
    """Return the difference between two snapshots, by symbol.

    Raises:
        InputError: Their intervals differ, or a file is damaged.
        MachineError: A file cannot be read.
    """
    if before.interval != after.interval:
        raise InputError(
            f"snapshots of different intervals cannot be compared: {before.id} has {before.interval} candles, "
            f"{after.id} has {after.interval}"
        )
    found = []
    for symbol in sorted({*before.symbols, *after.symbols}):
        owners = [snapshot for snapshot in (before, after) if symbol in snapshot.symbols]
        if len(owners) == 1:
            found.append(SymbolDiff(symbol, owners[0].id, None))
        else:
            found.append(SymbolDiff(symbol, "", compare_frames(before.candles(symbol), after.candles(symbol))))
    return tuple(found)


def compare_frames(before: pl.DataFrame, after: pl.DataFrame) -> FrameDiff:
    """Return the difference between two frames that `check_candles` returned."""
    added = after.join(before, on="ts", how="anti").sort("ts")
    gone = before.join(after, on="ts", how="anti").sort("ts")
    both = before.join(after, on="ts", suffix="_after").sort("ts")
    differ = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_after")) for c in CANDLE_SCHEMA if c != "ts")
    changed = both.filter(differ)
    return FrameDiff(
        added=added.height,
        gone=gone.height,
        changed=changed.height,
        added_at=_first(times_ms(added)),
        gone_at=_first(times_ms(gone)),
        examples=tuple(_example(row) for row in changed.head(EXAMPLES).iter_rows(named=True)),
    )


def describe_diff(diff: FrameDiff) -> str:
    """Return a difference in one line; "no change" for an empty one."""
    parts = [
        f"{count:,} candle{'s' * (count != 1)} {verb}"
        for count, verb in ((diff.added, "added"), (diff.gone, "gone"), (diff.changed, "changed"))
        if count
    ]
    if diff.examples:
        one = diff.examples[0]
        parts.append(f"such as {one.field} at {one.ts}: {one.before} before, {one.after} now")
    return ", ".join(parts) or "no change"


def _first(ts_ms: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(format_ms(int(t)) for t in ts_ms[:EXAMPLES])


def _example(row: dict[str, object]) -> Change:
    field = next(c for c in CANDLE_SCHEMA if c != "ts" and row[c] != row[f"{c}_after"])
    time = int(pl.Series([row["ts"]]).dt.timestamp("ms")[0])
    before, after = (None if v is None else float(str(v)) for v in (row[field], row[f"{field}_after"]))
    return Change(format_ms(time), field, before, after)
