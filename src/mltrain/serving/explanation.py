"""Explain predictions: what each feature contributed to the raw score, in log odds.

These are LightGBM's tree SHAP values (Lundberg et al., "From local explanations to global understanding with
explainable AI for trees", 2020): with the base they sum to the log odds of the raw score, which calibration then maps
to the probability. They describe what the trees did with a row, not what moves the market.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import polars as pl

from mltrain.errors import UsageError
from mltrain.serving.loaded_model import score_rows
from mltrain.serving.scorer import BoosterScorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.serving.loaded_model import LoadedModel
    from mltrain.serving.rows import FeatureRows

# Prefix of a feature's column.
PREFIX: Final = "contribution_"

# A mean takes one row in 25, since neighbouring rows are alike, but at least 50 rows, and no more than 2 million rows
# times leaves: about a second on one thread.
_ROW_STEP: Final = 25
_MIN_ROWS: Final = 50
_MAX_ROWS_TIMES_LEAVES: Final = 2_000_000
_LEAVES: Final = re.compile(r"^num_leaves=(\d+)$", re.MULTILINE)


def explain_matrix(loaded: LoadedModel, x: NDArray[np.float32]) -> pl.DataFrame:
    """Return what each feature contributed to the raw scores of finite rows, shape (n, f), in log odds.

    Returns:
        n rows: `log_odds` of the raw score, `base` (the part that no feature explains), and a column
        `contribution_<feature>` for each feature. log_odds = base + the contributions, up to rounding.
    """
    booster = _find_booster(loaded)
    names = [PREFIX + name for name in loaded.names]
    if not x.shape[0]:
        return pl.DataFrame(schema=dict.fromkeys(["log_odds", "base", *names], pl.Float64))
    # Shape (n, f + 1): LightGBM appends the base.
    contributions = np.asarray(booster.predict(x, pred_contrib=True, num_threads=1))
    log_odds = np.asarray(booster.predict(x, raw_score=True, num_threads=1))
    columns = {name: contributions[:, i] for i, name in enumerate(names)}
    return pl.DataFrame({"log_odds": log_odds, "base": contributions[:, -1], **columns})


def _find_booster(loaded: LoadedModel) -> Any:  # noqa: ANN401 (LightGBM has no types)
    """Return the booster of a model; raise UsageError if it has none."""
    if not isinstance(loaded.scorer, BoosterScorer):
        raise UsageError(
            "the contributions of features can be computed of trees alone",
            hint="the card of a network has the weights of its variables",
        )
    return loaded.scorer.booster


def average_contributions(loaded: LoadedModel, x: NDArray[np.float32]) -> dict[str, float]:
    """Return the mean absolute contribution of each feature to the raw score, in log odds, by feature name.

    The rows `x` are finite, shape (n, f), n >= 1; from many rows, equally spaced ones are taken.
    """
    leaves = sum(map(int, _LEAVES.findall(_find_booster(loaded).model_to_string())))
    sample_size = max(_MIN_ROWS, min(x.shape[0] // _ROW_STEP, _MAX_ROWS_TIMES_LEAVES // max(leaves, 1)))
    rows = np.linspace(0, x.shape[0] - 1, min(x.shape[0], sample_size)).astype(np.int64)
    means = explain_matrix(loaded, x[rows]).select(pl.col(PREFIX + name).abs().mean() for name in loaded.names)
    return dict(zip(loaded.names, means.row(0), strict=True))


def explain_rows(loaded: LoadedModel, parts: list[FeatureRows]) -> pl.DataFrame:
    """Return the columns of `score_rows` and of `explain_matrix` for rows of features; null in refused rows."""
    scored = score_rows(loaded, parts)
    accepted = np.flatnonzero(scored["refused"].is_null().to_numpy())
    x = np.empty((0, len(loaded.names)), np.float32)
    if accepted.size:
        x = np.concatenate([part.x for part in parts])[accepted]
    explained = explain_matrix(loaded, x)
    if not explained.height:
        return scored.hstack(explained.select(pl.all().extend_constant(None, scored.height)))
    # For each scored row its row in `explained`; null: refused.
    positions = np.full(scored.height, -1)
    positions[accepted] = np.arange(accepted.size)
    indices = pl.Series(positions)
    return scored.hstack(explained.select(pl.all().gather(indices.set(indices < 0, None))))
