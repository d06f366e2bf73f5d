"""The bars of a training as sequences: which rows have a complete window, and where its bars are.

The features are not copied: a sequence names the rows of matrices that are there already.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from mltrain.training.samples import split_off

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from mltrain.training.samples import Samples
    from mltrain.training.split import Block, Split


@dataclass(frozen=True, slots=True, eq=False)
class SymbolBars:
    """The bars of one symbol that have all features, in the order of time.

    Attributes:
        ts_ms: Open time of each bar, ms UTC, shape (n,).
        row: Its row in all parts, one after the other, shape (n,).
        run: Number of consecutive bars that end with it, itself included, shape (n,).
    """

    ts_ms: NDArray[np.int64]
    row: NDArray[np.int64]
    run: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """The bars of all symbols.

    Attributes:
        parts: The rows of all bars; first those with a label that may be learned from.
        bars: The bars of each symbol, in the order of the symbols.
    """

    parts: tuple[Samples, ...]
    bars: tuple[SymbolBars, ...]

    @classmethod
    def of(cls, parts: Sequence[Samples], *, step_ms: int) -> Sequences:
        """Return the sequences of candles of an interval of `step_ms`."""
        symbol_ix, ts_ms = (np.concatenate([getattr(part, name) for part in parts]) for name in ("symbol_ix", "ts_ms"))
        bars = []
        for ix in range(len(parts[0].symbols)):
            row = np.flatnonzero(symbol_ix == ix)
            row = row[np.argsort(ts_ms[row])]
            bars.append(SymbolBars(ts_ms[row], row, count_run(ts_ms[row], step_ms)))
        return cls(tuple(parts), tuple(bars))

    @property
    def size(self) -> int:
        """Number of rows of all parts."""
        return sum(part.y.size for part in self.parts)

    def mark(self, *spans: slice) -> NDArray[np.bool_]:
        """Return which rows are in these spans of the parts, in their order, shape (size,)."""
        marked = np.zeros(self.size, np.bool_)
        for part, span in zip(self._offsets(), spans, strict=False):
            marked[part[0] + span.start : part[0] + span.stop] = True
        return marked

    def take(self, values: NDArray[np.float64], part: int, span: slice) -> NDArray[np.float64]:
        """Return the values, shape (size,), of a span of a part."""
        first, _ = self._offsets()[part]
        return values[first + span.start : first + span.stop]

    def _offsets(self) -> list[tuple[int, int]]:
        """Return the first row and the last + 1 of each part."""
        return list(pairwise(np.cumsum([0, *(part.y.size for part in self.parts)]).tolist()))

    def features(self, ix: int, bars: slice) -> NDArray[np.float32]:
        """Return the features of consecutive bars of a symbol, by its position, shape (n, f)."""
        row = self.bars[ix].row[bars]
        x = np.empty((row.size, self.parts[0].x.shape[1]), np.float32)
        for part, (first, stop) in zip(self.parts, self._offsets(), strict=True):
            own = (row >= first) & (row < stop)
            x[own] = part.x[row[own] - first]
        return x

    def has_window(self, window: int) -> NDArray[np.bool_]:
        """Return which rows end a run of at least `window` consecutive bars, shape (size,)."""
        found = np.zeros(self.size, np.bool_)
        for bars in self.bars:
            found[bars.row] = bars.run >= window
        return found

    def spans(self, is_wanted: NDArray[np.bool_], window: int) -> Iterator[tuple[int, int, int]]:
        """Yield where consecutive windows end that are wanted: position of the symbol, first and last bar + 1.

        Args:
            is_wanted: Which rows are wanted, shape (size,); within a span others may lie between.
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


def keep_windows(
    samples: Samples, ties: Samples, split: Split, *, window: int, step_ms: int
) -> tuple[Samples, Samples, tuple[Samples, Samples], Split]:
    """Take the rows without a complete window out of samples and ties.

    Do not use `samples` and `ties` afterwards: their matrices are compacted in place.

    Args:
        samples: All rows.
        ties: The candles whose label was dropped as a tie.
        split: The split of the samples.
        window: Bars of a window.
        step_ms: Interval of the candles, ms.

    Returns:
        The samples and the ties with a window, those of both without, and the split with the same blocks of time.
    """
    has_window = Sequences.of([samples, ties], step_ms=step_ms).has_window(window)
    is_kept, tie_is_kept = has_window[: samples.y.size], has_window[samples.y.size :]
    before = np.concatenate([[0], np.cumsum(is_kept)])

    def keep(block: Block) -> Block:
        return replace(block, first_row=int(before[block.first_row]), stop_row=int(before[block.stop_row]))

    folds = tuple(replace(fold, train=keep(fold.train), valid=keep(fold.valid)) for fold in split.folds)
    kept_split = replace(split, inner=keep(split.inner), holdout=keep(split.holdout), folds=folds)
    kept, short = split_off(samples, is_kept)
    kept_ties, short_ties = split_off(ties, tie_is_kept)
    return kept, kept_ties, (short, short_ties), kept_split
