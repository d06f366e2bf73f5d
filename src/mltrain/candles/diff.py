"""What changed between two sets of candles of one symbol: rows that came, went, or say something else. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.times import format_ms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One candle that says something else than before.

    Attributes:
        ts: Its open time, ISO 8601 in UTC.
        field: The first column that differs.
        before: What it said; None where it said nothing.
        after: What it says.
    """

    ts: str
    field: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class FrameDiff:
    """What changed from one frame to another.

    Attributes:
        added: Candles that only the second has.
        gone: Candles that only the first has.
        changed: Candles of one time that differ.
        added_at: Open times of the first few added, ISO 8601 in UTC.
        gone_at: Likewise of those gone.
        examples: The first few changes.
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


def compare_frames(before: pl.DataFrame, after: pl.DataFrame) -> FrameDiff:
    """Return what changed between two frames that `check_candles` returned."""
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


def tell_change(diff: FrameDiff) -> str:
    """Return a diff in one line; that nothing changed, too."""
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
