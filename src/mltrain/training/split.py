"""The split: blocks of time over all symbols, purged so that no label of one block ends in the next.

The last part of the time range is the holdout, scored once. The rest, the inner part, is searched by expanding
walk-forward folds. The purge removes a block's last rows: those whose label ends less than the embargo before the next
block (Lopez de Prado 2018, Advances in Financial Machine Learning, 7.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import InputError
from mltrain.times import DAY_MS, format_ms
from mltrain.training.samples import MIN_TRAIN_ROWS

if TYPE_CHECKING:
    from mltrain.training.samples import Samples

# Below this, a fold's log loss is noise (the standard error of an accuracy is above .035).
MIN_VALID_ROWS: Final = 200
# Exchanges of crypto currencies have hardly any candles that are older.
_LONGEST_HISTORY_DAYS: Final = 15 * 365


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive rows of the samples. A study's identity hashes the `repr`: names and fields must not change.

    Attributes:
        name: Such as "inner", "holdout", "fold 2 train".
        start_ms: Open time of its first row, UTC ms.
        end_ms: Open time of its last row after the purge, UTC ms.
        first_row: Position of its first row.
        stop_row: Position after its last row.
        purged_rows: Number of rows removed at its end, before the next block.
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
        """Positions of its rows, as an index of arrays."""
        return slice(self.first_row, self.stop_row)


@dataclass(frozen=True, slots=True)
class Fold:
    """One walk-forward step: all rows before a validation block, and that block. A study hashes the `repr`."""

    train: Block
    valid: Block


@dataclass(frozen=True, slots=True)
class Split:
    """All blocks of a training.

    Attributes:
        inner: The rows that the final booster is fitted on; every fold lies inside it.
        holdout: The rows of the reported scores.
        folds: In the order of time; every training block starts where the inner part starts.
        embargo_ms: Least distance from the end of a block's labels to the next block, in ms.
    """

    inner: Block
    holdout: Block
    folds: tuple[Fold, ...]
    embargo_ms: int

    def blocks(self) -> tuple[Block, ...]:
        """Return all blocks: inner, holdout, then training and validation block of each fold."""
        return (self.inner, self.holdout, *(block for fold in self.folds for block in (fold.train, fold.valid)))


def find_holdout_start(samples: Samples, *, val_ratio: float | None, holdout_from_ms: int | None = None) -> float:
    """Return the open time, ms UTC, from which the rows of samples are the holdout.

    Args:
        samples: All rows, in the order of time.
        val_ratio: Share of the time range, at its end, that is the holdout, in (0, 1); None: `holdout_from_ms`.
        holdout_from_ms: The time itself.

    Raises:
        InputError: The time is not after the first row and at or before the last one.
    """
    first_ms, last_ms = int(samples.ts_ms[0]), int(samples.ts_ms[-1])
    if holdout_from_ms is None:
        return first_ms + (last_ms + 1 - first_ms) * (1 - (val_ratio or 0))
    if not first_ms < holdout_from_ms <= last_ms:
        raise InputError(
            f"the holdout cannot begin at {format_ms(holdout_from_ms)} (holdout_from): expected a time among the rows, "
            f"which open from {format_ms(first_ms)} to {format_ms(last_ms)}",
            hint="pass a time between these two, or --val-ratio instead",
        )
    return holdout_from_ms


def plan_split(
    samples: Samples,
    *,
    val_ratio: float | None,
    holdout_from_ms: int | None = None,
    fold_count: int,
    fold_start: float,
    embargo_ms: int,
    warm_up_ms: int = 0,
) -> Split:
    """Cut the samples into blocks of time: the inner part with its folds, and the holdout.

    Args:
        samples: All rows, in the order of time.
        val_ratio: Share of the time range, at its end, that is the holdout, in (0, 1); None: `holdout_from_ms`.
        holdout_from_ms: Open time from which rows are the holdout, ms UTC.
        fold_count: Number of folds.
        fold_start: Share of the inner part's time before the first validation block, in (0, 1); the rest is cut evenly.
        embargo_ms: Least distance from the end of a block's labels to the next block, in ms.
        warm_up_ms: Length of the candles before the first row, which have no features; for messages.

    Returns:
        The blocks. In every pair of blocks that are used together, the label end of every row of the earlier one plus
        the embargo is before the first open time of the later one.

    Raises:
        InputError: A block has too few rows (the message says how many days are needed) or only one class.
    """
    first_ms, stop_ms = int(samples.ts_ms[0]), int(samples.ts_ms[-1]) + 1
    inner_end_ms = find_holdout_start(samples, val_ratio=val_ratio, holdout_from_ms=holdout_from_ms)
    inner_shares = [fold_start + (1 - fold_start) * k / fold_count for k in range(fold_count + 1)]
    starts_ms = [first_ms + (inner_end_ms - first_ms) * share for share in inner_shares]
    if holdout_from_ms is not None:
        # Rounding must not move it by a row.
        starts_ms[-1] = holdout_from_ms
    # The first row at or after each start: rows of one time are always on the same side.
    bounds = [int(row) for row in np.searchsorted(samples.ts_ms, np.ceil(starts_ms))]

    cut = partial(_cut_purged, samples, embargo_ms=embargo_ms)
    folds = tuple(
        Fold(train=cut(f"fold {k} train", 0, start), valid=cut(f"fold {k} validation", start, stop))
        for k, (start, stop) in enumerate(pairwise(bounds), 1)
    )
    split = Split(
        inner=cut("inner", 0, bounds[-1]),
        holdout=cut("holdout", bounds[-1], samples.ts_ms.size),
        folds=folds,
        embargo_ms=embargo_ms,
    )
    _check_rows(
        samples,
        split,
        holdout_share=(stop_ms - inner_end_ms) / (stop_ms - first_ms) if val_ratio is None else val_ratio,
        holdout_from_ms=holdout_from_ms,
        fold_start=fold_start,
        warm_up_ms=warm_up_ms,
    )
    for block in split.blocks():
        ups = np.count_nonzero(samples.y[block.span])
        if ups in {0, block.rows}:
            raise InputError(
                f"{block.name}: all {block.rows:,} rows went {'up' if ups else 'down'}: both classes are needed",
                hint="take a longer snapshot: a price that moves in one direction only cannot be learned",
            )
    return split


def find_absent_symbols(samples: Samples, block: Block) -> tuple[str, ...]:
    """Return the symbols of the samples that have no row in a block, sorted."""
    rows = np.bincount(samples.symbol_ix[block.span], minlength=len(samples.symbols))
    return tuple(samples.symbols[ix] for ix in np.flatnonzero(rows == 0).tolist())


def span_within(samples: Samples, block: Block) -> slice:
    """Return the positions of those rows of any samples whose candles open in a block's time range."""
    first, stop = np.searchsorted(samples.ts_ms, [block.start_ms, block.end_ms + 1]).tolist()
    return slice(first, stop)


def _cut_purged(samples: Samples, name: str, first_row: int, next_row: int, *, embargo_ms: int) -> Block:
    """Return the block from `first_row` up to those rows whose label ends less than the embargo before `next_row`.

    A block that is empty has the times 0; one that ends with the last row is not purged.
    """
    ts_ms, stop_row = samples.ts_ms, next_row
    if first_row < next_row < ts_ms.size:
        is_late = samples.label_end_ms[first_row:next_row] + embargo_ms >= ts_ms[next_row]
        stop_row = first_row + int(is_late.argmax()) if is_late.any() else next_row
    is_empty = first_row >= stop_row
    return Block(
        name=name,
        start_ms=0 if is_empty else int(ts_ms[first_row]),
        end_ms=0 if is_empty else int(ts_ms[stop_row - 1]),
        first_row=first_row,
        stop_row=stop_row,
        purged_rows=next_row - stop_row,
    )


def _check_rows(
    samples: Samples,
    split: Split,
    *,
    holdout_share: float,
    holdout_from_ms: int | None,
    fold_start: float,
    warm_up_ms: int,
) -> None:
    """Refuse a split with a block of too few rows; the error says how many days of candles would suffice.

    `holdout_share` and `fold_start` are the shares by which `plan_split` cut the time range; the others are as there.
    """
    minimum = {b: MIN_TRAIN_ROWS if b.name.endswith("train") else MIN_VALID_ROWS for b in split.blocks()}
    short = next((b for b in split.blocks() if b.rows < minimum[b]), None)
    if short is None:
        return
    # Each block's share of the time range, before the purge.
    inner_share, fold_step = 1 - holdout_share, (1 - fold_start) / len(split.folds)
    shares = {split.inner: inner_share, split.holdout: holdout_share}
    for k, fold in enumerate(split.folds):
        shares |= {fold.train: inner_share * (fold_start + k * fold_step), fold.valid: inner_share * fold_step}
    days = (int(samples.ts_ms[-1]) - int(samples.ts_ms[0]) + 1) / DAY_MS
    purged_rows = max(b.purged_rows for b in shares)
    rows_needed = max((minimum[b] + purged_rows + 1) / share for b, share in shares.items())
    rows = samples.ts_ms.size
    days_needed = max(1, math.ceil(rows_needed * days / rows + warm_up_ms / DAY_MS))
    hint = f"take a snapshot of at least {days_needed} days, or of more symbols"
    if days_needed > _LONGEST_HISTORY_DAYS:
        hint = f"take more symbols or a shorter interval: these candles would have to reach {days_needed} days back"
    if holdout_from_ms is not None:
        hint = "choose a later --holdout-from, or take a snapshot that begins earlier"
        if short is split.holdout:
            hint = "choose an earlier --holdout-from, or take a snapshot that ends later"
    raise InputError(
        f"too little data: {short.name} has {short.rows:,} of the {minimum[short]:,} rows that it needs, "
        f"from {rows:,} rows over {days:.1f} days in all",
        hint=hint,
    )
