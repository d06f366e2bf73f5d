"""Row weights of a fit, and the correction of its probabilities for the class weight.

Weights affect fits only: every loss, metric and gate uses unweighted rows, and probabilities from which the class
weight has been removed. A row's weight is the product of its class weight, its uniqueness (of mean 1 in the fit) and
its recency (1 for the newest row of the fit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mltrain.times import DAY_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.config.train_config import TrainConfig
    from mltrain.training.samples import Samples
    from mltrain.training.split import Split


def compute_up_weight(samples: Samples, split: Split, config: TrainConfig) -> float:
    """Return the weight of a row that went up in a fit, from `config.class_weight`; other rows have weight 1.

    "balanced" gives both classes equal total weight in the first fold's training rows. As for bin edges, no later rows
    are used, so that their labels do not reach an earlier block's fit.
    """
    if config.class_weight == "none":
        return 1.0
    if config.class_weight == "balanced":
        y = samples.y[split.folds[0].train.span]
        ups = int(np.count_nonzero(y))
        # Never zero: the split refuses blocks of one class.
        return (y.size - ups) / ups
    return config.class_weight


def compute_row_weights(
    samples: Samples, rows: slice, config: TrainConfig, *, up_weight: float
) -> NDArray[np.float32] | None:
    """Return the weight of each row of a fit, shape (n,); None if all are 1.

    Args:
        samples: All rows.
        rows: The n rows of the fit; overlaps with other rows are ignored.
        config: With `uniqueness`, rows whose labels overlap weigh less; old ones do with `recency_half_life_days`.
        up_weight: Weight of a row that went up, see `compute_up_weight`.
    """
    if up_weight == 1 and not config.uniqueness and not config.recency_half_life_days:
        return None
    weights = np.where(samples.y[rows] == 1, up_weight, 1.0)
    if config.uniqueness:
        unique_share = uniqueness(samples.ts_ms[rows], samples.label_end_ms[rows], samples.symbol_ix[rows])
        weights *= unique_share / unique_share.mean()
    if config.recency_half_life_days:
        weights *= recency(samples.ts_ms[rows], half_life_days=config.recency_half_life_days)
    return weights.astype(np.float32)


def recency(ts_ms: NDArray[np.int64], *, half_life_days: float) -> NDArray[np.float64]:
    """Return weights that halve with every half-life before the newest row, in [0, 1], shape (n,).

    >>> recency(np.array([0, 1, 2]) * DAY_MS, half_life_days=1).tolist()
    [0.25, 0.5, 1.0]

    Args:
        ts_ms: Open time of each row, UTC ms, shape (n,), n >= 1.
        half_life_days: Days, above 0.
    """
    weights: NDArray[np.float64] = 0.5 ** ((ts_ms.max() - ts_ms) / (half_life_days * DAY_MS))
    return weights


def uniqueness(
    ts_ms: NDArray[np.int64], label_end_ms: NDArray[np.int64], symbol_ix: NDArray[np.int16]
) -> NDArray[np.float64]:
    """Return the average uniqueness of each label (Lopez de Prado 2018, Advances in Financial Machine Learning, 4.4).

    It is the mean, over the time of the label, of 1 / number of the symbol's labels running at that time. Labels of h
    bars overlap, so that their rows are not independent: without gaps it is 1 / h, and more at the ends and near gaps.

    >>> times = np.array([0, 1, 2])
    >>> uniqueness(times, times + 2, np.zeros(3, np.int16)).tolist()
    [0.75, 0.5, 0.75]

    Args:
        ts_ms: Start of each label, UTC ms, shape (n,).
        label_end_ms: End of each label, UTC ms, after its start, shape (n,).
        symbol_ix: Position of each label's symbol in a list of symbols, shape (n,).

    Returns:
        Shape (n,), in (0, 1].
    """
    result = np.empty(ts_ms.size)
    for symbol in np.unique(symbol_ix):
        rows = symbol_ix == symbol
        result[rows] = _symbol_uniqueness(ts_ms[rows], label_end_ms[rows])
    return result


def _symbol_uniqueness(start_ms: NDArray[np.int64], end_ms: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the average uniqueness of the labels of one symbol, shape (n,), from their starts and ends."""
    times, ix = np.unique(np.concatenate([start_ms, end_ms]), return_inverse=True)
    start_ix, end_ix = np.split(ix, 2)
    change = np.bincount(start_ix, minlength=times.size) - np.bincount(end_ix, minlength=times.size)
    # Labels running between one time and the next.
    running = np.cumsum(change)[:-1]
    # Times without a running label lie inside no label: their share does not matter.
    integral = np.append(0.0, np.cumsum(np.diff(times) / np.maximum(running, 1)))
    mean: NDArray[np.float64] = (integral[end_ix] - integral[start_ix]) / (end_ms - start_ms)
    return mean


def undo_up_weight(p: NDArray[np.float64], up_weight: float) -> NDArray[np.float64]:
    """Return the probabilities without the class weight: their odds divided by it (Elkan 2001).

    >>> undo_up_weight(np.array([0.5, 0.75]), 3.0).tolist()
    [0.25, 0.5]
    """
    return p if up_weight == 1 else p / (p + up_weight * (1 - p))
