"""What a network looks at: weights of its variables, attention by lag, and whether the weights explain its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.card.training_results import NetworkInsight
from mltrain.tft.architecture import KNOWN
from mltrain.tft.row_scores import cut_spans
from mltrain.tft.sequences import Sequences
from mltrain.tft.variables import make_variables
from mltrain.times import interval_ms
from mltrain.training.metrics import row_log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.artifact.sequence_bundle import SequenceBundle
    from mltrain.card.training_results import TrainingData

# Stretches of consecutive rows of the holdout, and the rows of each.
_STRETCHES: Final = 8
_ROWS: Final = 256


def look_inside(bundle: SequenceBundle, data: TrainingData, *, seed: int) -> NetworkInsight:
    """Return what a network looks at in stretches of the holdout.

    The importance of a variable is the log loss that shuffling its values over the bars adds (Breiman 2001): what the
    scores would lose without it. The weights of the variable selection are what the network says itself; their rank
    correlation with the importance (Spearman) shows whether they can be believed.
    """
    forward, names = bundle.forward(), [*bundle.feature_set.names, *KNOWN]
    sequences = Sequences.of([data.samples, data.ties, *data.short], step_ms=interval_ms(data.feature_set.interval))
    window, rng = forward.architecture.window, np.random.default_rng(seed)
    weights, attention = np.zeros(len(names)), np.zeros(window)
    added, base_loss, bars_seen, rows_seen = np.zeros(len(names)), 0.0, 0, 0
    for ix, first, stop in cut_spans(sequences.spans(_pick_rows(sequences, data), window), _ROWS):
        part, bars = slice(first - window + 1, stop), sequences.bars[ix]
        variables = make_variables(sequences.features(ix, part), bars.ts_ms[part], bundle.scaler)
        own = bars.row[first:stop] < data.samples.y.size
        ends, y = np.flatnonzero(own) + window - 1, data.samples.y[bars.row[first:stop][own]]
        made, bar_weights = forward.select(variables, ix)
        explained = forward.explain(made, ends, ix)
        loss = _sum_loss(explained.logits, y)
        for column in range(len(names)):
            shuffled = variables.copy()
            shuffled[:, column] = rng.permutation(shuffled[:, column])
            added[column] += _sum_loss(forward.score(forward.select(shuffled, ix)[0], ends, ix), y) - loss
        weights += bar_weights.sum(axis=0)
        attention += explained.attention.sum(axis=0)
        base_loss += loss
        bars_seen, rows_seen = bars_seen + variables.shape[0], rows_seen + y.size
    importance = added / rows_seen
    return NetworkInsight(
        window=window,
        hidden=forward.architecture.hidden,
        heads=forward.architecture.heads,
        parameters=forward.architecture.count_parameters(),
        rows=rows_seen,
        variable_weights=dict(zip(names, (weights / bars_seen).tolist(), strict=True)),
        importance=dict(zip(names, importance.tolist(), strict=True)),
        rank_agreement=_rank_correlation(weights, importance),
        # Lag 0 is the bar itself.
        attention_by_lag=tuple((attention / rows_seen)[::-1].tolist()),
    )


def _pick_rows(sequences: Sequences, data: TrainingData) -> NDArray[np.bool_]:
    """Return a mask of the rows of the stretches."""
    holdout = data.split.holdout
    starts = np.linspace(holdout.first_row, max(holdout.first_row, holdout.stop_row - _ROWS), _STRETCHES).astype(int)
    picked = np.zeros(sequences.size, np.bool_)
    for start in starts:
        picked[start : min(start + _ROWS, holdout.stop_row)] = True
    return picked


def _sum_loss(logits: NDArray[np.float64], y: NDArray[np.uint8]) -> float:
    return float(row_log_loss(1 / (1 + np.exp(-logits)), y).sum())


def _rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Return the rank correlation of two arrays without ties; None of constant ones."""
    if min(np.ptp(first), np.ptp(second)) == 0:
        return None
    return float(np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(second)))[0, 1])
