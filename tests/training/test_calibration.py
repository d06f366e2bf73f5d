from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mltrain.errors import InputError
from mltrain.training.calibration import (
    CLOSE,
    METHODS,
    MIN_ROWS,
    Calibrator,
    Knots,
    calibrate,
    fit_calibrator,
    fit_logistic_regression,
)
from mltrain.training.metrics import row_log_loss

FITTED = METHODS[1:]


def logit(p):
    return np.log(p / (1 - p))


def expit(z):
    return 1 / (1 + np.exp(-z))


def unclipped(knots):
    """Return the logits of the knots' scores and probabilities, without those clipped near 0 and 1."""
    s, p = np.array(knots.scores), np.array(knots.probabilities)
    inside = (p > 0.01) & (p < 0.99)
    return logit(s[inside]), logit(p[inside])


def market(n, *, slope=1.0, offset=0.0, spread=0.4, seed=0):
    """Return scores, labels and true probabilities, whose logit is linear in the score's logit."""
    rng = np.random.default_rng(seed)
    raw = expit(rng.normal(0, spread, n))
    true = expit(slope * logit(raw) + offset)
    return raw, (rng.random(n) < true).astype(np.uint8), true


@pytest.mark.parametrize("method", FITTED)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), skill=st.floats(-1, 1), digits=st.integers(1, 6))
def test_no_method_reverses_two_scores(method, seed, skill, digits):
    """A higher score never gets a lower probability, and none is certain, also of anti-skilled and tied scores."""
    rng = np.random.default_rng(seed)
    raw = rng.random(MIN_ROWS).round(digits)
    y = (rng.random(MIN_ROWS) < 0.5 + skill * (raw - 0.5)).astype(np.uint8)
    y[:2] = 0, 1

    p = fit_calibrator(method, raw, y).apply(np.linspace(0, 1, 5_001))

    assert (np.diff(p) >= 0).all()
    assert 0 < p.min() <= p.max() < 1


@pytest.mark.parametrize("method", FITTED)
def test_every_method_corrects_an_overconfident_score(method):
    """Scores twice too far from one half become the true probabilities, to the precision of 50,000 rows."""
    raw, y, true = market(50_000, slope=0.5, offset=0.2)

    p = fit_calibrator(method, raw, y).apply(raw)

    assert np.abs(p - true).mean() < 0.01
    assert row_log_loss(p, y).mean() < row_log_loss(raw, y).mean() - 0.005


def test_sigmoid_is_platts_line_in_the_logit():
    """Slope and offset solve the equations of the smoothed maximum likelihood."""
    raw, y, _ = market(5_000, slope=1.7, offset=-0.3)
    ups = int(y.sum())
    target = np.where(y == 1, (ups + 1) / (ups + 2), 1 / (y.size - ups + 2))

    knots = fit_calibrator("sigmoid", raw, y).knots

    s, z = unclipped(knots)
    slope, offset = np.polyfit(s, z, 1)
    error = expit(slope * logit(raw) + offset) - target
    assert np.allclose(z, slope * s + offset, atol=1e-8)
    assert abs((error * logit(raw)).mean()) < 1e-9
    assert abs(error.mean()) < 1e-9


def test_beta_bends_where_sigmoid_cannot():
    """Beta finds a map with different slopes at its two ends; sigmoid does not."""
    rng = np.random.default_rng(3)
    raw = rng.beta(2, 2, 60_000)
    true = expit(0.3 * np.log(raw) - 2.0 * np.log(1 - raw) - 0.5)
    y = (rng.random(raw.size) < true).astype(np.uint8)

    beta, sigmoid = (fit_calibrator(m, raw, y).apply(raw) for m in ("beta", "sigmoid"))

    assert np.abs(beta - true).mean() < 0.005
    assert np.abs(sigmoid - true).mean() > 0.02


def test_tabulated_curve_is_the_curve():
    """Linear interpolation between the knots is within 1e-4 of the logistic curve."""
    raw, y, _ = market(5_000, slope=2.5, spread=1.0)
    knots = fit_calibrator("sigmoid", raw, y).knots
    slope, offset = np.polyfit(*unclipped(knots), 1)
    between = np.linspace(0.1, 0.9, 3_001)

    assert np.abs(knots.apply(between) - expit(slope * logit(between) + offset)).max() < 1e-4


@pytest.mark.parametrize("method", ["sigmoid", "beta"])
def test_anti_skilled_scores_become_the_base_rate(method):
    """If higher scores went up less often, the best monotone map is constant."""
    raw, y, _ = market(5_000, slope=-1.0, offset=0.3)

    p = fit_calibrator(method, raw, y).apply(raw)

    assert np.allclose(p, y.mean(), atol=0.001)


@pytest.mark.parametrize("method", FITTED)
def test_scores_that_separate_the_classes_stay_finite(method):
    """A perfect score is calibrated close to 0 and 1, never to them."""
    raw = np.linspace(0, 1, 2_000)
    y = (raw > 0.5).astype(np.uint8)

    p = fit_calibrator(method, raw, y).apply(raw)

    assert row_log_loss(p, y).mean() < 0.03
    assert p.min() > 1 / 2_100
    assert p.max() < 1 - 1 / 2_100


@pytest.mark.parametrize("method", FITTED)
def test_a_constant_score_becomes_the_base_rate(method):
    """One score for all rows gets the share of rows that went up."""
    y = (np.arange(4_000) % 4 == 0).astype(np.uint8)

    p = fit_calibrator(method, np.full(4_000, 0.7), y).apply(np.array([0.7]))

    assert p == pytest.approx(0.25, abs=0.001)


def test_isotonic_steps_are_shrunk_by_their_number_of_rows():
    """A step of m rows, k of them up, gets (k + 1/2) / (m + 1), at both of its ends."""
    raw = np.repeat([0.2, 0.3, 0.8], 400)
    y = np.concatenate([np.arange(400) < k for k in (100, 200, 400)]).astype(np.uint8)

    knots = fit_calibrator("isotonic", raw, y).knots

    assert knots.scores == (0.2, 0.3, 0.8)
    assert knots.probabilities == pytest.approx((100.5 / 401, 200.5 / 401, 400.5 / 401))


def test_isotonic_joins_steps_that_shrinking_put_out_of_order():
    """A step of one row shrinks to 1/4, above a large step of 10 %: the two are merged."""
    raw = np.concatenate([[0.1], np.full(1_000, 0.5), np.full(1_000, 0.9)])
    y = np.concatenate([[0], np.arange(1_000) < 100, np.arange(1_000) < 900]).astype(np.uint8)

    knots = fit_calibrator("isotonic", raw, y).knots

    assert knots.scores == (0.1, 0.5, 0.9)
    assert knots.probabilities == pytest.approx((100.5 / 1_002, 100.5 / 1_002, 900.5 / 1_001))


def test_isotonic_follows_the_unshrunk_fit_where_steps_are_large():
    """With many rows per step, the map is scikit-learn's up to the shrinkage by half a row."""
    rng = np.random.default_rng(0)
    raw = rng.integers(1, 20, 40_000) / 20
    y = (rng.random(raw.size) < raw).astype(np.uint8)

    p = fit_calibrator("isotonic", raw, y).apply(raw)

    assert np.abs(p - IsotonicRegression().fit_transform(raw, y)).max() < 0.001


def test_logistic_regression_equals_scikit_learns():
    """Without a penalty, its probabilities are those of scikit-learn's solver to 1e-9."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3_000, 4))
    y = (rng.random(3_000) < expit(x @ [1.0, -2.0, 0.0, 0.5] + 0.3)).astype(np.uint8)
    expected = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, y).predict_proba(x)[:, 1]

    terms = np.vstack([x.T, np.ones(3_000)])
    assert fit_logistic_regression(terms, y)(terms) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("method", "expected"), [("auto", "sigmoid"), ("isotonic", "isotonic")])
def test_calibrate_uses_the_given_method_or_chooses(method, expected):
    """A given method is fitted without a comparison; "auto" compares all."""
    raw, y, _ = market(5_000, slope=0.4)

    choice = calibrate(method, raw, y, np.repeat(np.arange(5), 1_000))

    assert choice.calibrator.method == expected
    assert len(choice.forward_losses) == (len(METHODS) if method == "auto" else 0)


@pytest.mark.parametrize("method", FITTED)
def test_order_of_the_rows_does_not_matter(method):
    """The same rows in another order give the same map, to rounding."""
    raw, y, _ = market(3_000)
    order = np.random.default_rng(1).permutation(raw.size)

    fitted, reordered = fit_calibrator(method, raw, y), fit_calibrator(method, raw[order], y[order])

    assert fitted.knots.scores == reordered.knots.scores
    assert fitted.knots.probabilities == pytest.approx(reordered.knots.probabilities, abs=1e-6)


def test_none_keeps_the_scores():
    """The method "none" returns the scores, for any number of rows."""
    raw = np.array([0.0, 0.3, 1.0])

    calibrator = fit_calibrator("none", raw, np.array([0, 0, 0], np.uint8))

    assert calibrator == Calibrator("none", None)
    assert calibrator.apply(raw) is raw


@pytest.mark.parametrize("method", FITTED)
@pytest.mark.parametrize(("rows", "ups"), [(MIN_ROWS - 1, 300), (MIN_ROWS, 0), (MIN_ROWS, MIN_ROWS)])
def test_too_few_rows_are_refused(method, rows, ups):
    """Fewer than MIN_ROWS scores, or one class, are an error whose hint names an option."""
    y = (np.arange(rows) < ups).astype(np.uint8)

    with pytest.raises(InputError, match=f"{rows} out-of-fold") as caught:
        fit_calibrator(method, np.linspace(0.1, 0.9, rows), y)

    assert "--calibration none" in caught.value.hint


@pytest.mark.parametrize("raw", [[0.1, np.nan], [0.1, 1.5], [0.1]])
def test_invalid_scores_are_refused(raw):
    """NaN, scores outside [0, 1] and unequal lengths are errors."""
    with pytest.raises(ValueError, match="scores in"):
        fit_calibrator("isotonic", np.array(raw), np.array([0, 1], np.uint8))


def test_auto_keeps_calibrated_scores():
    """If no method gains more than by chance, the simplest is chosen."""
    raw, y, _ = market(20_000)

    choice = calibrate("auto", raw, y, np.repeat(np.arange(5), 4_000))

    assert choice.calibrator.method == "none"
    assert list(choice.forward_losses) == list(METHODS)


def test_auto_chooses_the_simplest_method_that_helps():
    """Sigmoid finds a linear map of the logit; beta and isotonic gain nothing over it."""
    raw, y, _ = market(20_000, slope=0.4)

    choice = calibrate("auto", raw, y, np.repeat(np.arange(5), 4_000))

    losses = choice.forward_losses
    assert choice.calibrator.method == "sigmoid"
    assert losses["sigmoid"] < losses["none"] - CLOSE
    assert choice.calibrator == fit_calibrator("sigmoid", raw, y)


def test_auto_chooses_isotonic_for_a_step():
    """No smooth curve follows a jump."""
    rng = np.random.default_rng(0)
    raw = rng.random(20_000)
    y = (rng.random(raw.size) < np.where(raw > 0.8, 0.9, 0.1)).astype(np.uint8)

    assert calibrate("auto", raw, y, np.repeat(np.arange(5), 4_000)).calibrator.method == "isotonic"


def test_forward_loss_never_uses_a_later_fold():
    """It equals fitting on folds 1 to k - 1 and scoring fold k, pooled by rows."""
    raw, y, _ = market(3_600, slope=0.3)
    fold = np.repeat([1, 2, 3], [1_000, 1_600, 1_000])
    rows = [
        row_log_loss(fit_calibrator("sigmoid", raw[fold < k], y[fold < k]).apply(raw[fold == k]), y[fold == k])
        for k in (2, 3)
    ]

    losses = calibrate("auto", raw, y, fold).forward_losses

    assert losses["sigmoid"] == pytest.approx(math.fsum(np.concatenate(rows)) / 2_600)
    assert losses["none"] == pytest.approx(row_log_loss(raw[fold > 1], y[fold > 1]).mean())


def test_auto_skips_folds_with_too_few_rows_before_them():
    """With folds of 400 rows, the fourth is the first to have MIN_ROWS rows before it."""
    raw, y, _ = market(2_000)
    fold = np.repeat(np.arange(5), 400)

    losses = calibrate("auto", raw, y, fold).forward_losses

    assert losses["none"] == pytest.approx(row_log_loss(raw[fold >= 3], y[fold >= 3]).mean())


@pytest.mark.parametrize(("rows", "ups"), [(999, 400), (5_000, 0)])
def test_auto_keeps_the_scores_without_enough_rows(rows, ups):
    """Too few rows or one class: the method is "none", without losses."""
    y = (np.arange(rows) < ups).astype(np.uint8)

    choice = calibrate("auto", np.linspace(0, 1, rows), y, np.arange(rows) * 5 // rows)

    assert (choice.calibrator.method, choice.forward_losses) == ("none", {})


@pytest.mark.parametrize(
    ("scores", "probabilities"),
    [
        ((), ()),
        ((0.1, 0.1), (0.2, 0.3)),
        ((0.1, 0.2), (0.3, 0.2)),
        ((0.1, 0.2), (0.0, 0.5)),
        ((0.1, 0.2), (0.5, 1.0)),
        ((-0.1, 0.2), (0.2, 0.5)),
        ((0.1, 1.2), (0.2, 0.5)),
        ((0.1, float("nan")), (0.2, 0.5)),
        ((0.1, 0.2), (0.2, float("nan"))),
        ((0.1, 0.2), (0.2,)),
    ],
)
def test_damaged_knots_are_refused(scores, probabilities):
    """Knots that are not a rising map into (0, 1) are an error."""
    with pytest.raises(InputError, match="rising map"):
        Knots(scores, probabilities)


@pytest.mark.parametrize(("method", "knots"), [("none", Knots((0.5,), (0.5,))), ("beta", None), ("spline", None)])
def test_method_and_knots_must_agree(method, knots):
    """Only the method "none" has no knots, and every method is known."""
    with pytest.raises(InputError, match="does not match"):
        Calibrator(method, knots)
