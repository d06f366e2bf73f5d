"""The split: blocks of time over all symbols, purged so that no label of one block ends in the next.

Pure. The last part of the time range is the holdout, scored once. The rest, the inner part, is searched by expanding
walk-forward folds. The purge removes a block's last rows: those whose label ends less than the embargo before the next
block (Lopez de Prado 2018, Advances in Financial Machine Learning, 7.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError
from mltrain.times import DAY_MS

if TYPE_CHECKING:
    from mltrain.training.samples import Samples

# Below this, a booster memorises its rows.
MIN_TRAIN_ROWS: Final = 1_000
# Below this, a fold's log loss is noise (the standard error of an accuracy is above .035).
MIN_VALID_ROWS: Final = 200


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of the samples. A study's identity hashes the `repr`: names and fields must not change.

    Attributes:
        name: Such as "inner", "holdout", "fold 2 train".
        start_ms: Open time of its first row.
        end_ms: Open time of its last row, after the purge.
        first_row: Position of its first row.
        stop_row: Position after its last row.
        purged_rows: Number of rows removed before the next block.
    """

    name: str
    start_ms: int
    end_ms: int
    first_row: int
    stop_row: int
    purged_rows: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.stop_row - self.first_row

    @property
    def span(self) -> slice:
        """Its rows, as an index of arrays."""
        return slice(self.first_row, self.stop_row)


@dataclass(frozen=True, slots=True)
class Fold:
    """One walk-forward step: all rows before a block, and the block. A study's identity hashes the `repr`."""

    train: Block
    valid: Block


@dataclass(frozen=True, slots=True)
class Split:
    """All blocks of a training.

    Attributes:
        inner: The rows that the final booster is fitted on; every fold lies inside it.
        holdout: The rows of the reported scores.
        folds: In the order of time; every training block starts where the inner part starts.
        embargo_ms: Minimum distance from the end of a block's labels to the next block.
    """

    inner: Block
    holdout: Block
    folds: tuple[Fold, ...]
    embargo_ms: int

    def blocks(self) -> tuple[Block, ...]:
        """Return every block: inner, holdout, then training and validation block of each fold."""
        return (self.inner, self.holdout, *(block for fold in self.folds for block in (fold.train, fold.valid)))


def plan_split(samples: Samples, *, val_ratio: float, fold_count: int, fold_start: float, embargo_ms: int) -> Split:
    """Cut the samples into blocks.

    Args:
        samples: All rows, in the order of time.
        val_ratio: Share of the time range, at its end, that is the holdout.
        fold_count: Number of folds.
        fold_start: Share of the inner part's time before the first validation block; the rest is cut evenly.
        embargo_ms: Minimum distance from the end of a block's labels to the next block.

    Returns:
        The blocks. In every pair of blocks that are used together, the label end of every row of the earlier one plus
        the embargo is before the first open time of the later one.

    Raises:
        InputError: A block has too few rows (the message says how many days are needed) or only one class.
    """
    first, last = int(samples.ts_ms[0]), int(samples.ts_ms[-1]) + 1
    inner_end = first + (last - first) * (1 - val_ratio)
    starts = [
        first + (inner_end - first) * (fold_start + (1 - fold_start) * k / fold_count) for k in range(fold_count + 1)
    ]
    # The first row at or after each start: rows of one time are always on the same side.
    bounds = [int(b) for b in np.searchsorted(samples.ts_ms, np.ceil(starts))]

    def block(name: str, first_row: int, next_row: int) -> Block:
        return _purged_block(samples, name, first_row, next_row, embargo_ms=embargo_ms)

    folds = tuple(
        Fold(block(f"fold {k + 1} train", 0, a), block(f"fold {k + 1} validation", a, b))
        for k, (a, b) in enumerate(pairwise(bounds))
    )
    n = samples.ts_ms.size
    split = Split(block("inner", 0, bounds[-1]), block("holdout", bounds[-1], n), folds, embargo_ms)
    _check_rows(samples, split, val_ratio=val_ratio, fold_start=fold_start)
    for b in split.blocks():
        ups = np.count_nonzero(samples.y[b.span])
        if ups in {0, b.rows}:
            raise InputError(
                f"{b.name}: all {b.rows:,} rows went {'up' if ups else 'down'}: both classes are needed",
                hint="take a longer snapshot: a price that moves in one direction only cannot be learned",
            )
    return split


def _purged_block(samples: Samples, name: str, first_row: int, next_row: int, *, embargo_ms: int) -> Block:
    """Return the rows from `first_row` to `next_row` without those whose label ends less than the embargo before it."""
    ts = samples.ts_ms
    stop = next_row
    if first_row < next_row < ts.size:
        late = samples.label_end_ms[first_row:next_row] + embargo_ms >= ts[next_row]
        stop = first_row + int(late.argmax()) if late.any() else next_row
    bounds = (int(ts[first_row]), int(ts[stop - 1])) if first_row < stop else (0, 0)
    return Block(name, *bounds, first_row, stop, next_row - stop)


def _check_rows(samples: Samples, split: Split, *, val_ratio: float, fold_start: float) -> None:
    """Refuse a split with a block below its minimum, and estimate the days that would suffice."""
    minimum = {b: MIN_TRAIN_ROWS if b.name.endswith("train") else MIN_VALID_ROWS for b in split.blocks()}
    short = next((b for b in split.blocks() if b.rows < minimum[b]), None)
    if short is None:
        return
    # The share of the time range of each block before the purge.
    inner, step = 1 - val_ratio, (1 - fold_start) / len(split.folds)
    shares = {split.inner: inner, split.holdout: val_ratio}
    for k, fold in enumerate(split.folds):
        shares |= {fold.train: inner * (fold_start + k * step), fold.valid: inner * step}
    days = (int(samples.ts_ms[-1]) - int(samples.ts_ms[0]) + 1) / DAY_MS
    purged = max(b.purged_rows for b in shares)
    rows_needed = max((minimum[b] + purged + 1) / share for b, share in shares.items())
    rows = samples.ts_ms.size
    raise InputError(
        f"too little data: {short.name} has {short.rows:,} of the {minimum[short]:,} rows that it needs, "
        f"from {rows:,} rows over {days:.1f} days in all",
        hint=f"take a snapshot of at least {max(1, math.ceil(rows_needed * days / rows))} days, or of more symbols",
    )
