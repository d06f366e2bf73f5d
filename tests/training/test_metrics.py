from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from mltrain.errors import InputError
from mltrain.training.metrics import (
    NullFloor,
    auc,
    brier_parts,
    ece,
    ece_null_floor,
    equal_mass_bins,
    predict_up,
    reliability_table,
    row_log_loss,
    score,
    score_symbols,
)


def rows(p, y):
    return np.array(p, dtype=np.float64), np.array(y, dtype=np.uint8)


@st.composite
def scored_rows(draw, *, least=2):
    """Rows with many ties and both classes."""
    n = draw(st.integers(least, 60))
    p = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.500001, 0.7, 1.0]), min_size=n, max_size=n))
    y = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < len(y)))
    return rows(p, y)


def test_score_of_eight_rows_by_hand():
    """Every score of a small table."""
    p, y = rows([0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1], [1, 1, 0, 1, 0, 1, 0, 0])

    found = score(p, y)

    assert found.accuracy == 6 / 8
    assert found.precision == 3 / 4
    assert found.recall == 3 / 4
    assert found.f1 == 3 / 4
    assert found.auc_roc == 13 / 16
    p_outcome = [0.9, 0.8, 0.3, 0.6, 0.6, 0.3, 0.8, 0.9]
    assert found.log_loss == pytest.approx(-sum(math.log(q) for q in p_outcome) / 8)
    assert found.brier == pytest.approx(sum((1 - q) ** 2 for q in p_outcome) / 8)
    assert found.ece == pytest.approx(sum(1 - q for q in p_outcome) / 8)


@given(scored_rows())
def test_score_equals_a_naive_count(data):
    """Confusion counts, pairs and sums, row by row."""
    p, y = data
    predicted = [q > 0.5 for q in p]
    hits = sum(c and u for c, u in zip(predicted, y, strict=True))
    pairs = [(a, b) for a, u in zip(p, y, strict=True) for b, v in zip(p, y, strict=True) if u and not v]

    found = score(p, y)

    assert found.accuracy == pytest.approx(np.mean([c == u for c, u in zip(predicted, y, strict=True)]))
    assert found.precision == (hits / sum(predicted) if any(predicted) else 0)
    assert found.recall == hits / y.sum()
    assert found.f1 == pytest.approx(2 * hits / (sum(predicted) + y.sum()))
    assert found.auc_roc == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]), abs=1e-12)
    assert found.brier == pytest.approx(np.mean([(q - u) ** 2 for q, u in zip(p, y, strict=True)]))


def test_scores_equal_those_of_scikit_learn():
    """On two thousand rows with ties, every score that scikit-learn has agrees to 1e-12."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.01, 0.99, 2_000).round(2)
    y = (rng.random(p.size) < p).astype(np.uint8)
    predicted = predict_up(p)

    found = score(p, y)

    assert found.accuracy == pytest.approx(sklearn.metrics.accuracy_score(y, predicted), abs=1e-12)
    assert found.f1 == pytest.approx(sklearn.metrics.f1_score(y, predicted), abs=1e-12)
    assert found.precision == pytest.approx(sklearn.metrics.precision_score(y, predicted), abs=1e-12)
    assert found.recall == pytest.approx(sklearn.metrics.recall_score(y, predicted), abs=1e-12)
    assert found.auc_roc == pytest.approx(sklearn.metrics.roc_auc_score(y, p), abs=1e-12)
    assert found.log_loss == pytest.approx(sklearn.metrics.log_loss(y, p), abs=1e-12)
    assert found.brier == pytest.approx(sklearn.metrics.brier_score_loss(y, p), abs=1e-12)


def naive_ece(p, y, bins):
    """Equal probabilities share the bin in which the middle of their ranks lies."""
    ranks = {q: sum(r < q for r in p) + sum(r == q for r in p) / 2 for q in p}
    groups: dict[int, list] = {}
    for q, u in zip(p, y, strict=True):
        groups.setdefault(int(ranks[q] * bins / len(p)), []).append((q, u))
    return sum(abs(sum(q for q, _ in g) - sum(u for _, u in g)) for g in groups.values()) / len(p)


@given(scored_rows(), st.integers(1, 20))
def test_ece_equals_a_naive_count(data, bins):
    """Expected calibration error, bin by bin."""
    p, y = data

    assert ece(p, y, bins=bins) == pytest.approx(naive_ece(p.tolist(), y.tolist(), bins))


@given(scored_rows(), st.integers(0, 2**32 - 1))
def test_order_of_the_rows_does_not_matter(data, seed):
    """AUC and ECE have the same bits for any order of the rows; log loss and Brier score agree to rounding."""
    p, y = data
    order = np.random.default_rng(seed).permutation(p.size)

    before, after = score(p, y), score(p[order], y[order])

    assert (before.auc_roc, before.ece) == (after.auc_roc, after.ece)
    assert before.log_loss == pytest.approx(after.log_loss)
    assert before.brier == pytest.approx(after.brier)


@given(st.integers(1, 200), st.integers(1, 20))
def test_bins_without_ties_are_of_equal_mass(n, bins):
    """Without ties no bin has two rows more than another."""
    p = np.linspace(0, 1, n)

    counts = np.bincount(equal_mass_bins(p, bins), minlength=bins)

    assert counts.size == bins
    assert counts.max() - counts.min() <= 1


@given(scored_rows(), st.integers(1, 20))
def test_bins_never_split_a_tie(data, bins):
    """Rows of equal probability share a bin, and bins rise with the probability."""
    p, _ = data

    bin_of = equal_mass_bins(p, bins)

    assert all(len(set(bin_of[p == q].tolist())) == 1 for q in p)
    assert (np.diff(bin_of[np.argsort(p)]) >= 0).all()


def test_ece_of_one_constant_probability_ignores_the_order_of_labels():
    """A thousand rows of one score are one bin: sorted labels cannot fake miscalibration."""
    p, y = rows([0.3] * 1_000, [1] * 300 + [0] * 700)

    assert ece(p, y) == pytest.approx(0, abs=1e-12)


def test_exactly_one_half_is_down():
    """A probability at the threshold predicts "down"."""
    found = score(*rows([0.5, 0.5], [1, 0]))

    assert (found.accuracy, found.precision, found.recall, found.f1) == (0.5, 0, 0, 0)


def test_certain_and_wrong_stays_finite():
    """A probability of 0 for the outcome costs 34.5 nats, not infinity."""
    assert row_log_loss(*rows([0.0], [1]))[0] == pytest.approx(-math.log(1e-15))


@pytest.mark.parametrize("y", [[0, 0, 0], [1, 1, 1]])
def test_one_class_cannot_be_scored(y):
    """Scores of rows of one class are undefined: an error."""
    with pytest.raises(InputError, match="both classes"):
        score(*rows([0.1, 0.5, 0.9], y))
    with pytest.raises(InputError, match="both classes"):
        auc(*rows([0.1, 0.5, 0.9], y))


@pytest.mark.parametrize(
    ("p", "y"),
    [([0.1, np.nan], [0, 1]), ([0.1, 1.1], [0, 1]), ([-0.1, 1], [0, 1]), ([0.1, 0.2], [0, 2]), ([0.1], [0, 1])],
)
def test_invalid_probabilities_and_labels_are_refused(p, y):
    """NaN, values outside [0, 1], labels beyond 0 and 1, and unequal lengths never get a score."""
    with pytest.raises(ValueError, match="labels 0 or 1"):
        score(*rows(p, y))


@pytest.mark.parametrize(("scores", "y"), [([0.1, np.nan], [0, 1]), ([0.1], [0, 1])])
def test_auc_needs_a_score_per_label(scores, y):
    """NaN and unequal lengths never get an AUC; any other number is a score."""
    with pytest.raises(ValueError, match="none NaN"):
        auc(*rows(scores, y))

    assert auc(*rows([-7.0, 40.0], [0, 1])) == 1


def test_no_rows_have_no_calibration_error():
    """The calibration error of no rows is an error, not 0."""
    with pytest.raises(ValueError, match="need rows"):
        ece(*rows([], []))


def test_reliability_table_by_hand():
    """Two bins of two rows, with their ends, means and frequencies."""
    low, high = reliability_table(*rows([0.9, 0.1, 0.2, 0.8], [1, 0, 1, 1]), bins=2)

    assert (low.low, low.high, low.rows, low.up_share) == (0.1, 0.2, 2, 0.5)
    assert (high.low, high.high, high.rows, high.up_share) == (0.8, 0.9, 2, 1.0)
    assert low.mean_p == pytest.approx(0.15)


def test_null_floor_is_the_ece_of_perfect_calibration():
    """For labels drawn from the probabilities, the ECE is below the median in half of the cases, below p95 in 95 %."""
    rng = np.random.default_rng(1)
    p = rng.uniform(0.3, 0.7, 2_000)
    read = np.array([ece(p, (rng.random(p.size) < p).astype(np.uint8)) for _ in range(200)])

    floor = ece_null_floor(p, seed=2, draws=1_000)

    assert 0.4 < np.mean(read < floor.median) < 0.6
    assert 0.9 < np.mean(read < floor.p95) < 0.99


def test_null_floor_depends_on_the_seed_alone():
    """The same seed gives the same floor for any order of the rows; certain scores have a floor of 0."""
    p = np.random.default_rng(0).random(500)

    assert ece_null_floor(p, seed=3) == ece_null_floor(p[::-1], seed=3)
    assert ece_null_floor(p, seed=3) != ece_null_floor(p, seed=4)
    assert ece_null_floor(np.array([0.0, 1.0]), seed=3) == NullFloor(0, 0)


@given(scored_rows())
def test_brier_parts_add_up(data):
    """Miscalibration - discrimination + uncertainty is the Brier score, and none is negative."""
    p, y = data

    parts = brier_parts(p, y)

    total = parts.miscalibration - parts.discrimination + parts.uncertainty
    assert total == pytest.approx(score(p, y).brier)
    assert min(parts.miscalibration, parts.discrimination, parts.uncertainty) >= -1e-12


def test_brier_parts_of_a_constant_base_rate():
    """The base rate for all rows is calibrated and does not discriminate."""
    p, y = rows([0.25] * 4, [0, 0, 0, 1])

    parts = brier_parts(p, y)

    assert parts.miscalibration == pytest.approx(0, abs=1e-15)
    assert parts.discrimination == pytest.approx(0, abs=1e-15)
    assert parts.uncertainty == 0.25 * 0.75


def test_each_symbol_is_scored_alone():
    """A symbol with one class or no row has no metrics, and does not change those of others."""
    p, y = rows([0.9, 0.2, 0.8], [1, 0, 1])

    two_classes, one_class, empty = score_symbols(p, y, np.array([0, 0, 1], np.int16), ["A", "B", "C"])

    assert two_classes.metrics == score(*rows([0.9, 0.2], [1, 0]))
    assert (one_class.symbol, one_class.rows, one_class.up_share, one_class.metrics) == ("B", 1, 1.0, None)
    assert (empty.rows, empty.up_share, empty.metrics) == (0, None, None)
