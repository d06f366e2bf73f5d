"""A model inside scikit-learn."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.base import clone, is_classifier
from sklearn.calibration import CalibratedClassifierCV, CalibrationDisplay
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.utils.validation import check_is_fitted

from mltrain.errors import UsageError
from mltrain.serving.model import model_from_bundle


@pytest.fixture(scope="module")
def model(bundle):
    """Return a small model."""
    return model_from_bundle(bundle)


@pytest.fixture(scope="module")
def rows(samples):
    """Return five hundred rows and their labels."""
    return samples.x[:500], samples.y[:500]


def test_it_is_a_fitted_classifier(model):
    """Also inside `FrozenEstimator`; a copy for cross-validation is the model itself."""
    frozen = FrozenEstimator(model)

    for estimator in (model, frozen):
        check_is_fitted(estimator)
        assert is_classifier(estimator)
        assert clone(estimator) is estimator
    with pytest.raises(UsageError, match="cannot be fitted again"):
        model.fit([[0.0]], [1])


def test_a_frozen_model_is_calibrated_again(model, rows, samples):
    """The new map is fitted on the model's own scores: a monotone map keeps their order."""
    x, y = rows
    again = CalibratedClassifierCV(FrozenEstimator(model), method="sigmoid").fit(x, y)
    p, q = model.predict_proba(x)[:, 1], again.predict_proba(x)[:, 1]

    assert (np.diff(q[np.argsort(p)]) >= -1e-12).all()
    assert abs(q.mean() - y.mean()) < abs(p.mean() - y.mean()) + 1e-3
    named = pl.DataFrame(x, schema=list(samples.names))
    assert np.array_equal(again.predict_proba(named), again.predict_proba(x))


def test_a_calibration_plot_shows_its_probabilities(model, rows):
    """`CalibrationDisplay.from_estimator` and scorers read `predict_proba` and `classes_`."""
    pytest.importorskip("matplotlib", reason="needs the extra [plots]")
    from matplotlib.figure import Figure

    x, y = rows
    display = CalibrationDisplay.from_estimator(model, x, y, n_bins=5, ax=Figure().subplots())
    p = model.predict_proba(x)[:, 1]

    assert np.array_equal(display.y_prob, p)
    assert get_scorer("neg_brier_score")(model, x, y) == pytest.approx(-np.mean((p - y) ** 2))
