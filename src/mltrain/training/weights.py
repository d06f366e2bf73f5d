"""Weights: how much a row counts in a fit, and how a fit's probabilities are led back to what unweighted rows say.

Pure. Weights act on fits alone: every loss, metric and gate is of rows that count alike, and of probabilities from
which the class weight has been taken out again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split


def up_weight(samples: Samples, split: Split, config: TrainConfig) -> float:
    """Return what a row that went up counts in a fit, where one that went down counts 1.

    Args:
        samples: All rows.
        split: Of these rows.
        config: Its `class_weight` counts here. "balanced" is read off the first fold's training rows, as bin edges
            are: no later block's labels reach an earlier block's fit.
    """
    if config.class_weight == "none":
        return 1.0
    if config.class_weight == "balanced":
        y = samples.y[split.folds[0].train.span]
        ups = int(np.count_nonzero(y))
        return (y.size - ups) / ups  # a block of one class has been refused
    return config.class_weight


def row_weights(samples: Samples, rows: slice, config: TrainConfig, *, up: float) -> NDArray[np.float32] | None:
    """Return the weight of each row of a fit, shape (n,); None where all count alike.

    Args:
        samples: All rows.
        rows: Those of the fit; what overlaps them from outside does not count.
        config: Its `uniqueness` counts here.
        up: See `up_weight`.
    """
    if up == 1 and not config.uniqueness:
        return None
    weights = np.where(samples.y[rows] == 1, up, 1.0)
    if config.uniqueness:
        own = uniqueness(samples.ts_ms[rows], samples.label_end_ms[rows], samples.symbol_ix[rows])
        weights *= own / own.mean()
    return weights.astype(np.float32)


def uniqueness(
    ts_ms: NDArray[np.int64], label_end_ms: NDArray[np.int64], symbol_ix: NDArray[np.int16]
) -> NDArray[np.float64]:
    """Return how much of each label's time is its own: the mean of 1 / labels of its symbol that run at the time.

    Labels of h bars overlap, and rows that share what happened are not as many as they look (Lopez de Prado, Advances
    in Financial Machine Learning, 4.4). Where no candle is missing it is 1 / h, more at the ends and beside gaps.

    >>> times = np.array([0, 1, 2])
    >>> uniqueness(times, times + 2, np.zeros(3, np.int16)).tolist()
    [0.75, 0.5, 0.75]

    Args:
        ts_ms: When each label begins, shape (n,).
        label_end_ms: When it ends, later, shape (n,).
        symbol_ix: Whose label it is, shape (n,).

    Returns:
        Shape (n,), in (0, 1].
    """
    own = np.empty(ts_ms.size)
    for symbol in np.unique(symbol_ix):
        at = symbol_ix == symbol
        own[at] = _mean_share(ts_ms[at], label_end_ms[at])
    return own


def _mean_share(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.float64]:
    times, ix = np.unique(np.concatenate([start, end]), return_inverse=True)
    change = np.bincount(ix[: start.size], minlength=times.size) - np.bincount(ix[start.size :], minlength=times.size)
    running = np.cumsum(change)[:-1]  # labels that run between one time and the next
    # Whole milliseconds over few labels: exact enough, and where none runs no label asks.
    shares = np.append(0.0, np.cumsum(np.diff(times) / np.maximum(running, 1)))
    own: NDArray[np.float64] = (shares[ix[start.size :]] - shares[ix[: start.size]]) / (end - start)
    return own


def undo_up_weight(p: NDArray[np.float64], up: float) -> NDArray[np.float64]:
    """Return the probabilities that a fit on unweighted rows would give: the odds, divided by the weight.

    >>> undo_up_weight(np.array([0.5, 0.75]), 3.0).tolist()
    [0.25, 0.5]
    """
    return p if up == 1 else p / (p + up * (1 - p))
