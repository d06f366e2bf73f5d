"""The logistic baseline: a logistic regression on five features, which a model of trees has to beat.

Pure. Features are chosen, scaled and weighted on the rows before the holdout alone. The fit is that of the calibrators:
scikit-learn's solvers use BLAS, whose last digits depend on the number of threads, and a card's must not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.training.calibration import fit_logistic_regression
from mltrain.training.metrics import auc, predict_up, row_log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.training.samples import Samples

FEATURES: Final = 5
# Training rows at most, evenly spread: plenty for six weights.
MAX_ROWS: Final = 200_000
# Values are clipped at this many standard deviations, so that one spike does not decide the fit.
_CLIP_DEVIATIONS: Final = 5.0


@dataclass(frozen=True, slots=True)
class LogisticScore:
    """The scores of the logistic regression on the holdout.

    Attributes:
        features: Its features: those most correlated with the label on the training rows.
        accuracy: Share of rows whose predicted side is right.
        auc_roc: Area under the ROC curve.
        log_loss: In nats.
    """

    features: tuple[str, ...]
    accuracy: float
    auc_roc: float
    log_loss: float


def score_logistic(samples: Samples, *, train: slice, holdout: slice) -> tuple[LogisticScore, NDArray[np.float64]]:
    """Fit on the training rows and score the holdout.

    Args:
        samples: All rows.
        train: Rows to choose, scale and fit on; they hold both classes.
        holdout: Rows to score.

    Returns:
        The scores, and the probabilities of the holdout's rows.
    """
    step = -(-(train.stop - train.start) // MAX_ROWS)
    x, y = samples.x[train][::step], samples.y[train][::step]
    chosen = _most_correlated(x, y)
    mean, spread = x[:, chosen].mean(axis=0, dtype=np.float64), x[:, chosen].std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0

    def terms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = np.clip((rows[:, chosen] - mean) / spread, -_CLIP_DEVIATIONS, _CLIP_DEVIATIONS)
        return np.vstack([scaled.T, np.ones(len(rows))])

    p = fit_logistic_regression(terms(x), y)(terms(samples.x[holdout]))
    y = samples.y[holdout]
    scores = LogisticScore(
        features=tuple(samples.names[i] for i in chosen),
        accuracy=float(np.mean(predict_up(p) == y)),
        auc_roc=auc(p, y),
        log_loss=float(row_log_loss(p, y).mean()),
    )
    return scores, p


def _most_correlated(x: NDArray[np.float32], y: NDArray[np.uint8]) -> list[int]:
    """Return the columns most correlated with the label, in column order."""
    centred_y = y - y.mean()
    correlation = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        column = x[:, i].astype(np.float64)
        spread = column.std()
        # Not `@`: BLAS rounds differently for other thread counts, and a card must not.
        correlation[i] = abs(np.sum((column - column.mean()) * centred_y)) / spread if spread > 0 else 0.0
    return sorted(np.argsort(-correlation, kind="stable")[:FEATURES].tolist())
