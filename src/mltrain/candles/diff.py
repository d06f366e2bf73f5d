"""Differences between two frames of a symbol's candles: rows that were added, removed or changed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.times import format_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

#: Number of changes and of open times that a difference lists.
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
    def is_empty(self) -> bool:
        """Whether no candle was added, removed or changed."""
        return not (self.added or self.gone or self.changed)


def compare_frames(before: pl.DataFrame, after: pl.DataFrame) -> FrameDiff:
    """Return which candles of a symbol were added, removed or changed; both frames as `check_candles` returns them.

    Funding events, as `check_funding` returns them, are compared in the same way.
    """
    columns = [name for name in before.columns if name != "ts"]
    added = after.join(before, on="ts", how="anti").sort("ts")
    gone = before.join(after, on="ts", how="anti").sort("ts")
    both = before.join(after, on="ts", suffix="_after").sort("ts")
    differ = pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_after")) for c in columns)
    changed = both.filter(differ)
    return FrameDiff(
        added=added.height,
        gone=gone.height,
        changed=changed.height,
        added_at=_format_first(times_ms(added)),
        gone_at=_format_first(times_ms(gone)),
        examples=tuple(_describe_change(row, columns) for row in changed.head(EXAMPLES).iter_rows(named=True)),
    )


def describe_diff(diff: FrameDiff, *, noun: str = "candle") -> str:
    """Return a difference as one line with the counts and an example; "no change" for an empty one."""
    parts = [
        f"{count:,} {noun}{'s' * (count != 1)} {verb}"
        for count, verb in ((diff.added, "added"), (diff.gone, "gone"), (diff.changed, "changed"))
        if count
    ]
    if diff.examples:
        change = diff.examples[0]
        parts.append(f"such as {change.field} at {change.ts}: {change.before} before, {change.after} now")
    return ", ".join(parts) or "no change"


def _format_first(ts_ms: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the first EXAMPLES open times as ISO 8601."""
    return tuple(format_ms(int(time_ms)) for time_ms in ts_ms[:EXAMPLES])


def _describe_change(row: dict[str, object], columns: Sequence[str]) -> Change:
    """Return the first change of a candle, from a row with both versions: `close` and `close_after`, and so on."""
    field = next(c for c in columns if row[c] != row[f"{c}_after"])
    time_ms = int(pl.Series([row["ts"]]).dt.timestamp("ms")[0])
    before, after = (None if v is None else float(str(v)) for v in (row[field], row[f"{field}_after"]))
    return Change(format_ms(time_ms), field, before, after)
