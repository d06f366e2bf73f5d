"""Explaining a prediction: what each feature contributed to the raw score, in log odds.

LightGBM's own tree SHAP values: with the base they sum to the log odds of the raw score, which calibration then maps
to the probability. They tell what the trees did with this row, not what moves the market.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.serving.loaded_model import score_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.serving.loaded_model import Served
    from mltrain.serving.rows import FeatureRows

PREFIX: Final = "contribution_"  # of a feature's column
MOST_LEAVES: Final = 2_000_000  # rows times leaves that a mean is taken of: about a second on one thread
EVERY: Final = 25  # one row in so many: neighbours tell the same
LEAST_ROWS: Final = 50
_LEAVES: Final = re.compile(r"^num_leaves=(\d+)$", re.MULTILINE)


def explain_matrix(served: Served, x: NDArray[np.float32]) -> pl.DataFrame:
    """Explain finite rows of features, shape (n, f).

    Returns:
        `log_odds` (of the raw score), `base` (of no feature), and one column `contribution_<feature>` for each:
        log_odds = base + the contributions, to rounding.
    """
    names = [PREFIX + name for name in served.names]
    if not x.shape[0]:
        return pl.DataFrame(schema=dict.fromkeys(["log_odds", "base", *names], pl.Float64))
    found = np.asarray(served.booster.predict(x, pred_contrib=True, num_threads=1))
    log_odds = np.asarray(served.booster.predict(x, raw_score=True, num_threads=1))
    columns = {name: found[:, i] for i, name in enumerate(names)}
    return pl.DataFrame({"log_odds": log_odds, "base": found[:, -1], **columns})


def mean_contributions(served: Served, x: NDArray[np.float32]) -> dict[str, float]:
    """Return, by feature, the mean of its contributions without their sign: how much it moves a log odds.

    Args:
        served: The model.
        x: Finite rows of features, shape (n, f), n >= 1; of many, a few hundred at equal distances are taken.
    """
    leaves = sum(map(int, _LEAVES.findall(served.bundle.model_text)))
    wanted = max(LEAST_ROWS, min(x.shape[0] // EVERY, MOST_LEAVES // max(leaves, 1)))
    rows = np.linspace(0, x.shape[0] - 1, min(x.shape[0], wanted)).astype(np.int64)
    found = explain_matrix(served, x[rows]).select(pl.col(PREFIX + name).abs().mean() for name in served.names)
    return dict(zip(served.names, found.row(0), strict=True))


def explain_rows(served: Served, parts: list[FeatureRows]) -> pl.DataFrame:
    """Score rows as `score_rows` does, and explain those that were not refused; the others have nulls."""
    scored = score_rows(served, parts)
    good = np.flatnonzero(scored["refused"].is_null().to_numpy())
    x = np.concatenate([part.x for part in parts])[good] if good.size else np.empty((0, len(served.names)), np.float32)
    explained = explain_matrix(served, x)
    place = np.full(scored.height, -1)
    place[good] = np.arange(good.size)
    at = pl.Series(place)
    rows = explained.select(
        pl.all().gather(at.set(at < 0, None)) if explained.height else pl.all().extend_constant(None, scored.height)
    )
    return pl.DataFrame([*scored.get_columns(), *rows.get_columns()])
