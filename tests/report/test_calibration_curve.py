"""The public calibration plot: what it draws, what it rejects, and what its import costs."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

import mltrain
from mltrain.errors import MachineError
from mltrain.report.calibration_curve import share_interval
from mltrain.training.metrics import ece, reliability_table


def drawn(rows=4_000, seed=0):
    """Return labels and slightly overconfident probabilities."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.3, 0.7, rows)
    p = np.clip(0.5 + 1.5 * (truth - 0.5), 0, 1)
    return (rng.random(rows) < truth).astype(np.uint8), p


def test_the_points_are_the_reliability_table():
    """The plot shows the bins, shares, rows and ECE of the model card."""
    y, p = drawn()
    table = reliability_table(p, y)

    curve, rows = mltrain.plot_calibration_curve(y, p).axes

    points = curve.containers[0].lines[0]
    assert np.array_equal(points.get_xdata(), [b.mean_p for b in table])
    assert np.array_equal(points.get_ydata(), [b.up_share for b in table])
    assert [patch.get_height() for patch in rows.patches] == [b.rows for b in table]
    assert f"ECE {ece(p, y):.4f}" in curve.get_title()


def test_the_bars_are_the_intervals():
    """The error bar of each bin spans its Wilson interval."""
    y, p = drawn()
    table = reliability_table(p, y, bins=7)

    curve, _ = mltrain.plot_calibration_curve(y, p, bins=7).axes

    bars = [segment[:, 1] for segment in curve.containers[0].lines[2][0].get_segments()]
    assert len(bars) == 7
    assert np.allclose(bars, [share_interval(round(b.up_share * b.rows), b.rows) for b in table])


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_the_interval_covers_what_it_says(share):
    """About 90 % of samples of 200 rows have the true share inside the interval."""
    ups = np.random.default_rng(1).binomial(200, share, 2_000)
    ends = np.array([share_interval(int(n), 200) for n in ups])

    covered = np.mean((ends[:, 0] <= share) & (share <= ends[:, 1]))
    assert 0.87 <= covered <= 0.95


def test_one_row_one_class_and_ties_are_drawn():
    """Every input with a reliability table is drawn without a warning."""
    for y, p in ([1], [0.5]), ([True, True, False], [0.0, 1.0, 1.0]), (np.ones(50), np.full(50, 0.25)):
        buffer = io.BytesIO()
        mltrain.plot_calibration_curve(y, p).savefig(buffer, format="png")

        assert buffer.getvalue().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("y", "p", "bins"),
    [
        ([], [], 15),
        ([0, 1], [0.5], 15),
        ([0, 2], [0.5, 0.5], 15),
        ([0, np.nan], [0.5, 0.5], 15),
        ([0, 1], [0.5, np.nan], 15),
        ([0, 1], [0.5, 1.1], 15),
        ([[0, 1]], [[0.5, 0.5]], 15),
        ([0, 1], [0.5, 0.5], 0),
    ],
)
def test_invalid_input_is_refused(y, p, bins):
    """Missing rows, unequal lengths, invalid labels or probabilities, and no bins are a ValueError."""
    with pytest.raises(ValueError, match="need labels 0 or 1 and probabilities"):
        mltrain.plot_calibration_curve(y, p, bins=bins)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    """The plots are optional: the hint is the command that installs them."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(MachineError, match="needs matplotlib, which is not installed") as caught:
        mltrain.plot_calibration_curve([0, 1], [0.4, 0.6])

    assert caught.value.hint == "pip install 'mltrain-lgbm[plots]'"


def test_the_name_costs_nothing_and_touches_no_state():
    """Importing the name does not import matplotlib; drawing does not import pyplot, which keeps figures."""
    script = """
import sys, mltrain
plot = mltrain.plot_calibration_curve
assert "matplotlib" not in sys.modules
plot([0, 1], [0.4, 0.6])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
