"""Plans: windows of any length have the bits of the batch, for one symbol and for many."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mltrain.features import windows
from mltrain.features.formula import col
from mltrain.features.row_plan import RowPlan

ROWS = 400


@pytest.fixture(scope="module")
def values():
    """Return the rows of three symbols: ordinary, with huge and tiny values, with zeros of both signs."""
    rng = np.random.default_rng(0)
    signed = rng.choice([0.0, -0.0, 1.0, -1.0], ROWS)
    return np.stack([rng.normal(0, 1, ROWS), rng.normal(0, 1, ROWS) * 10.0 ** rng.integers(-12, 12, ROWS), signed])


@pytest.mark.parametrize("function", [windows.window_sum, windows.window_max, windows.window_min, windows.window_mean])
def test_windows_of_every_length(function, values):
    """All lengths up to 300 in one plan, for three symbols at once."""
    exprs = [function(col("x"), bars) for bars in range(1, 301)]
    expected = np.stack([pl.DataFrame({"x": row}).select(*named(exprs)).tail(1).to_numpy()[0] for row in values])

    found = RowPlan([expr.formula for expr in exprs]).compute({"x": values})

    assert found.tobytes() == expected.tobytes()


def named(exprs):
    return [expr.alias(str(number)) for number, expr in enumerate(exprs)]


def test_windows_of_windows(values):
    """Windows inside windows, and windows some bars ago, have the bits of the batch."""
    inner = windows.window_sum(col("x") * col("x"), 7)
    exprs = [
        inner,
        inner.shift(3),
        windows.window_max(inner, 11),
        windows.window_mean(windows.window_zscore(inner, 5), 4).shift(2),
        windows.window_scaled(inner.shift(1), col("x"), 9),
        (inner / windows.window_mean(inner, 3)).shift(1) + inner,
    ]
    expected = np.stack([pl.DataFrame({"x": row}).select(*named(exprs)).tail(1).to_numpy()[0] for row in values])

    plan = RowPlan([expr.formula for expr in exprs])

    assert plan.compute({"x": values}).tobytes() == expected.tobytes()
    assert plan.rows == {"x": 17}


def test_symbols_do_not_depend_on_each_other(values):
    """More symbols than a matrix of windows takes at once give the rows of each alone, in order."""
    plan = RowPlan([windows.window_sum(col("x"), bars).formula for bars in range(2, 300)])
    many = np.concatenate([values, values[::-1] + 1.0, values * 3.0])

    found = plan.compute({"x": many})

    assert found.tobytes() == np.concatenate([plan.compute({"x": row[None]}) for row in many]).tobytes()


def test_rows_that_are_missing_count_as_nan(values):
    """As in the first rows of a table."""
    plan = RowPlan([windows.window_sum(col("x"), 10).formula, col("x").formula])

    assert np.isnan(plan.compute({"x": values[:, -9:]})[:, 0]).all()
    assert plan.compute({"x": values[:, -9:]})[:, 1].tobytes() == values[:, -1].tobytes()
    assert not np.isnan(plan.compute({"x": values[:, -10:]})).any()


def test_only_the_rows_that_are_read_are_needed():
    """A value some bars ago reads one row of the column, a window its own rows."""
    plan = RowPlan([col("a").shift(4).formula, windows.window_max(col("b"), 6).formula, col("c").formula])

    assert plan.rows == {"a": 5, "b": 6, "c": 1}


def test_a_formula_of_thousands_of_steps(values):
    """It may be deeper than Python's stack."""
    expr, expected = col("x"), values[:, -1]
    for _ in range(2_000):
        expr, expected = expr * 1.001 + col("x"), expected * 1.001 + values[:, -1]

    assert RowPlan([expr.formula]).compute({"x": values})[:, 0].tobytes() == expected.tobytes()
