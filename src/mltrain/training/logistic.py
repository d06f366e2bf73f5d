"""A logistic regression on five features: what a model of trees has to beat to be worth its trees.

Pure. Features are chosen, scaled and weighted on the rows before the holdout alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.training.calibration import fit_logits
from mltrain.training.metrics import auc, predict_up, row_log_loss

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.training.samples import Samples

FEATURES: Final = 5
MAX_ROWS: Final = 200_000  # evenly spread over the training rows: for six weights that is plenty
_LIMIT: Final = 5.0  # standard deviations beyond which a value counts as so many: one spike must not decide


@dataclass(frozen=True, slots=True)
class LogisticScore:
    """How the logistic regression does on the holdout.

    Attributes:
        features: What it reads: of the training rows, those most correlated with the label.
        accuracy: Share of rows whose predicted side is right.
        auc_roc: Chance that a row that went up scores above one that went down.
        log_loss: In nats.
    """

    features: tuple[str, ...]
    accuracy: float
    auc_roc: float
    log_loss: float


def score_logistic(samples: Samples, *, train: slice, holdout: slice) -> tuple[LogisticScore, NDArray[np.float64]]:
    """Fit on some rows, score on others.

    Args:
        samples: All rows.
        train: Rows to choose, scale and fit on; both classes are among them.
        holdout: Rows to score.

    Returns:
        Its scores, and its probabilities of the rows to score.
    """
    step = -(-(train.stop - train.start) // MAX_ROWS)
    x, y = samples.x[train][::step], samples.y[train][::step]
    chosen = _most_correlated(x, y)
    mean, spread = x[:, chosen].mean(axis=0, dtype=np.float64), x[:, chosen].std(axis=0, dtype=np.float64)
    spread[spread == 0] = 1.0

    def terms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        scaled = np.clip((rows[:, chosen] - mean) / spread, -_LIMIT, _LIMIT)
        return np.vstack([scaled.T, np.ones(len(rows))])

    p = fit_logits(terms(x), y)(terms(samples.x[holdout]))
    y = samples.y[holdout]
    found = LogisticScore(
        features=tuple(samples.names[i] for i in chosen),
        accuracy=float(np.mean(predict_up(p) == y)),
        auc_roc=auc(p, y),
        log_loss=float(row_log_loss(p, y).mean()),
    )
    return found, p


def _most_correlated(x: NDArray[np.float32], y: NDArray[np.uint8]) -> list[int]:
    """Return the columns most correlated with the label, in their order."""
    went = y - y.mean()
    strength = np.zeros(x.shape[1])
    for i in range(x.shape[1]):
        column = x[:, i].astype(np.float64)
        spread = column.std()
        # Not `@`: BLAS rounds differently for other thread counts, and a card must not.
        strength[i] = abs(np.sum((column - column.mean()) * went)) / spread if spread > 0 else 0.0
    return sorted(np.argsort(-strength, kind="stable")[:FEATURES].tolist())
