"""Score rows of sequences with the forward pass that serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.tft.variables import make_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from mltrain.tft.forward import Forward
    from mltrain.tft.sequences import Sequences
    from mltrain.tft.variables import Scaler

# Windows that are scored at once, to bound the memory.
_WINDOWS: Final = 4_096


def score_rows(
    forward: Forward, sequences: Sequences, scaler: Scaler, is_wanted: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the probability of up of rows, shape (n,), in [0, 1]; NaN where a row is not wanted or has no window.

    Args:
        forward: The network.
        sequences: The bars.
        scaler: Standardises the features as in the fit.
        is_wanted: Which rows to score, shape (n,).
    """
    window = forward.architecture.window
    p = np.full(is_wanted.size, np.nan)
    for ix, first, stop in cut_spans(sequences.spans(is_wanted, window), _WINDOWS):
        bars = sequences.bars[ix]
        part = slice(first - window + 1, stop)
        variables = make_variables(sequences.features(ix, part), bars.ts_ms[part], scaler)
        made, _ = forward.select(variables, ix)
        rows = bars.row[first:stop]
        ends = np.flatnonzero(is_wanted[rows])
        logits = forward.score(made, ends + window - 1, ix)
        p[rows[ends]] = 1 / (1 + np.exp(-logits))
    return p


def cut_spans(spans: Iterator[tuple[int, int, int]], most: int) -> Iterator[tuple[int, int, int]]:
    """Yield spans cut into parts of at most `most` bars.

    >>> list(cut_spans(iter([(0, 5, 10)]), 2))
    [(0, 5, 7), (0, 7, 9), (0, 9, 10)]
    """
    for ix, first, stop in spans:
        for start in range(first, stop, most):
            yield ix, start, min(start + most, stop)
