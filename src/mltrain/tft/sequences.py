"""The bars of a training as sequences: which rows have a complete window, and where its bars are.

The features are not copied: a sequence names the rows of two matrices that are there already, those of the samples and
those of the candles whose label was dropped as a tie. Every bar in the window of a row is in one of them, because a bar
without an outcome has no later bar with one in its run of consecutive candles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mltrain.training.samples import take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split


@dataclass(frozen=True, slots=True, eq=False)
class SymbolBars:
    """The bars of one symbol that have all features, in the order of time.

    Attributes:
        ts_ms: Open time of each bar, ms UTC, shape (n,).
        row: Its row: of the samples, or, counted from the number of samples on, of the ties, shape (n,).
        run: Number of consecutive bars that end with it, itself included, shape (n,).
    """

    ts_ms: NDArray[np.int64]
    row: NDArray[np.int64]
    run: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The bars of all symbols.

    Attributes:
        samples: The rows with a label.
        ties: The candles whose label was dropped as a tie.
        bars: The bars of each symbol, in the order of the samples' symbols.
    """

    samples: Samples
    ties: Samples
    bars: tuple[SymbolBars, ...]

    @classmethod
    def of(cls, samples: Samples, ties: Samples, *, step_ms: int) -> Sequences:
        """Return the sequences of candles of an interval of `step_ms`."""
        parts = []
        for ix in range(len(samples.symbols)):
            own, tied = np.flatnonzero(samples.symbol_ix == ix), np.flatnonzero(ties.symbol_ix == ix)
            ts_ms = np.concatenate([samples.ts_ms[own], ties.ts_ms[tied]])
            row = np.concatenate([own, samples.y.size + tied])
            order = np.argsort(ts_ms)
            ts_ms, row = ts_ms[order], row[order]
            parts.append(SymbolBars(ts_ms, row, count_run(ts_ms, step_ms)))
        return cls(samples, ties, tuple(parts))

    def features(self, ix: int, bars: slice) -> NDArray[np.float32]:
        """Return the features of consecutive bars of a symbol, by its position, shape (n, f)."""
        row, count = self.bars[ix].row[bars], self.samples.y.size
        x = np.empty((row.size, self.samples.x.shape[1]), np.float32)
        own = row < count
        x[own], x[~own] = self.samples.x[row[own]], self.ties.x[row[~own] - count]
        return x

    def has_window(self, window: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which samples, and which ties, end a run of at least `window` consecutive bars."""
        both = np.zeros(self.samples.y.size + self.ties.y.size, np.bool_)
        for bars in self.bars:
            both[bars.row] = bars.run >= window
        return both[: self.samples.y.size], both[self.samples.y.size :]

    def spans(self, is_wanted: NDArray[np.bool_], window: int) -> Iterator[tuple[int, int, int]]:
        """Yield where consecutive windows end that are wanted: position of the symbol, first and last bar + 1.

        Args:
            is_wanted: Which samples, then which ties, are wanted, shape (n,); within a span others may lie between.
            window: Bars of a window.
        """
        for ix, bars in enumerate(self.bars):
            wanted = is_wanted[bars.row] & (bars.run >= window)
            # A run begins where the count of its bars does.
            starts = np.flatnonzero(bars.run == 1)
            for first, stop in zip(starts, [*starts[1:], bars.run.size], strict=True):
                ends = first + np.flatnonzero(wanted[first:stop])
                if ends.size:
                    yield ix, int(ends[0]), int(ends[-1]) + 1


def count_run(ts_ms: NDArray[np.int64], step_ms: int) -> NDArray[np.int64]:
    """Return the number of consecutive bars that end with each bar, itself included.

    >>> count_run(np.array([0, 1, 2, 5, 6]), 1).tolist()
    [1, 2, 3, 1, 2]
    """
    position = np.arange(ts_ms.size)
    is_first = np.concatenate([[True], np.diff(ts_ms) != step_ms])[: ts_ms.size]
    return position - np.maximum.accumulate(np.where(is_first, position, 0)) + 1


def keep_windows(samples: Samples, split: Split, is_kept: NDArray[np.bool_]) -> tuple[Samples, Split]:
    """Return some of the rows, without their features, and the split with the same blocks of time.

    Times and purged rows of the blocks stay as they were.
    """
    before = np.concatenate([[0], np.cumsum(is_kept)])

    def keep(block: Block) -> Block:
        return replace(block, first_row=int(before[block.first_row]), stop_row=int(before[block.stop_row]))

    folds = tuple(replace(fold, train=keep(fold.train), valid=keep(fold.valid)) for fold in split.folds)
    kept = replace(split, inner=keep(split.inner), holdout=keep(split.holdout), folds=folds)
    # Without the features: `take_rows` copies.
    bare = replace(samples, x=samples.x[:, :0], names=())
    return take_rows(bare, np.flatnonzero(is_kept)), kept
