"""Draw a calibration curve: predicted probability against observed frequency. Needs the extra `[plots]`."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.errors import MachineError
from mltrain.training.metrics import ECE_BINS, ece, reliability_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

# Coverage of the interval of each bin, as in the card.
LEVEL: Final = 0.9
_SIZE_INCHES: Final = (6.0, 7.0)


def plot_calibration_curve(y_true: ArrayLike, y_pred: ArrayLike, *, bins: int = ECE_BINS) -> Figure:
    """Draw how often "up" came true against its predicted probability.

    The bins are those of the ECE: of about equal mass, equal probabilities always in the same bin. Vertical bars are
    90 % Wilson intervals, which treat the rows as independent: they are too narrow where labels overlap in time. The
    lower axes show where each bin lies and how many rows it has.

    Args:
        y_true: Labels, shape (n,), n >= 1: 1 or True if the price went up, else 0 or False.
        y_pred: Probabilities of "up", shape (n,), in [0, 1].
        bins: The largest number of bins.

    Returns:
        A figure with two axes. A notebook shows it; `figure.savefig(path)` writes it.

    Raises:
        ValueError: No rows, unequal lengths, a label that is neither 0 nor 1, a probability outside [0, 1] or NaN, or
            fewer than one bin.
        MachineError: matplotlib is not installed.

    >>> figure = plot_calibration_curve([0, 1, 0, 1], [0.2, 0.8, 0.3, 0.6], bins=2)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['share that went up', 'rows']
    """
    p, y = np.asarray(y_pred, np.float64), np.asarray(y_true)
    valid_shape = p.ndim == 1 and p.shape == y.shape and p.size > 0 and bins >= 1
    # Written so that NaN fails: every comparison with NaN is False.
    if not (valid_shape and ((p >= 0) & (p <= 1)).all() and ((y == 0) | (y == 1)).all()):
        msg = (
            f"need labels 0 or 1 and probabilities in [0, 1] of one length, one or more, and one bin or more: "
            f"got shapes {y.shape} and {p.shape}, {bins} bins"
        )
        raise ValueError(msg)
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise MachineError(
            "plot_calibration_curve needs matplotlib, which is not installed",
            hint="pip install 'mltrain-lgbm[plots]'",
        ) from err
    labels = y.astype(np.uint8)
    table = reliability_table(p, labels, bins=bins)
    low, high = min(b.low for b in table), max(b.high for b in table)
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    curve_axes, count_axes = figure.subplots(2, sharex=True, height_ratios=[3, 1])

    curve_axes.plot([low, high], [low, high], color="0.6", linestyle="--", label="perfect")
    up_shares = np.array([b.up_share for b in table])
    intervals = np.array([share_interval(round(b.up_share * b.rows), b.rows) for b in table])
    # By rounding, a share may lie outside of its interval by the last bit.
    below, above = np.maximum(0.0, up_shares - intervals[:, 0]), np.maximum(0.0, intervals[:, 1] - up_shares)
    label = f"share, {LEVEL:.0%} interval"
    curve_axes.errorbar([b.mean_p for b in table], up_shares, yerr=[below, above], fmt="o-", capsize=2, label=label)
    curve_axes.set_title(f"Calibration of {p.size:,} rows, ECE {ece(p, labels, bins=bins):.4f}")
    curve_axes.set_ylabel("share that went up")
    curve_axes.legend()

    # A bin of equal probabilities has no width.
    min_width = max(1e-3, (high - low) / 200)
    widths = [max(b.high - b.low, min_width) for b in table]
    count_axes.bar([b.low for b in table], [b.rows for b in table], width=widths, align="edge", edgecolor="white")
    count_axes.set_ylabel("rows")
    count_axes.set_xlabel("probability of up")
    return figure


def share_interval(up_rows: int, rows: int) -> tuple[float, float]:
    """Return the ends of the Wilson score interval of a share of rows, in [0, 1], with a coverage of 90 % (LEVEL).

    Wilson, "Probable inference, the law of succession, and statistical inference", 1927.

    >>> [round(end, 3) for end in share_interval(0, 10)]
    [0.0, 0.213]

    Args:
        up_rows: Number of rows that went up.
        rows: Number of all rows, at least 1.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, weight = up_rows / rows, z * z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
