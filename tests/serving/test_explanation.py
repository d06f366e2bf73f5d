"""Explanations: contributions that sum to the log odds of the raw score."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mltrain.errors import InputError
from mltrain.serving.explanation import average_contributions, explain_matrix
from mltrain.serving.loaded_model import load_bundle
from mltrain.serving.model import model_from_bundle


@pytest.fixture(scope="module")
def model(bundle):
    return model_from_bundle(bundle)


def contributions(table):
    return table.select(pl.col("base"), pl.col("^contribution_.*$")).to_numpy()


def test_contributions_sum_to_the_raw_score(model, samples):
    """Base and contributions sum to the log odds of the raw score; `p` and `raw` are those of `score`."""
    frame = pl.DataFrame(samples.x[:200], schema=list(samples.names))
    table = model.explain(frame)
    raw, p = model.score(samples.x[:200])

    assert table.columns == ["p", "raw", "log_odds", "base", *(f"contribution_{name}" for name in samples.names)]
    assert np.array_equal(table["p"], p)
    assert np.array_equal(table["raw"], raw)
    assert np.abs(contributions(table).sum(axis=1) - table["log_odds"].to_numpy()).max() < 1e-12
    assert np.abs(1 / (1 + np.exp(-table["log_odds"].to_numpy())) - raw).max() < 1e-12


def test_candles_are_explained_where_they_are_scored(model, candles):
    """The rows are those of `predict_candles`, with nulls in refused rows."""
    given = {"DOGEUSDT": candles["ETHUSDT"], **candles}
    table = model.explain(given)
    scored = model.predict_candles(given)

    assert table.select(scored.columns).equals(scored)
    assert table["log_odds"].is_null().to_list() == [True, False, False]
    assert np.abs(contributions(table.tail(2)).sum(axis=1) - table["log_odds"].to_numpy()[1:]).max() < 1e-12
    assert model.explain(candles, rows="all")["log_odds"].null_count() == 60
    assert model.explain({"DOGEUSDT": candles["ETHUSDT"]})["base"].to_list() == [None]
    assert model.explain({}).height == 0


def test_other_columns_are_refused(model, samples):
    """A table with an unknown feature is an error, as in `predict_proba`."""
    with pytest.raises(InputError, match="unknown"):
        model.explain(pl.DataFrame(samples.x, schema=[*samples.names[:-1], "other"]))


@pytest.mark.parametrize("rows", [1, 40, 1_800])
def test_the_mean_contribution_is_that_of_rows_at_equal_distances(bundle, samples, rows):
    """All of a few rows count, and equally spaced ones of many, the first and the last included."""
    loaded, x = load_bundle(bundle), samples.x[:rows]
    found = average_contributions(loaded, x)
    taken = np.linspace(0, rows - 1, {1: 1, 40: 40, 1_800: 72}[rows]).astype(int)
    each = explain_matrix(loaded, x[taken])

    assert found == pytest.approx(
        {name: np.abs(each[f"contribution_{name}"].to_numpy()).mean() for name in samples.names}
    )
    assert max(found.values()) > 0
