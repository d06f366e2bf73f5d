"""The calibration curve as a picture: what was said against what happened.

Pure: arrays in, a figure out; nothing is shown, saved or kept by the drawing library.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.training.metrics import ECE_BINS, ece, reliability_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from mltrain.training.metrics import ReliabilityBin

LEVEL: Final = 0.9  # coverage of each bin's interval, as everywhere else
_SIZE_INCHES: Final = (6.0, 7.0)


def plot_calibration_curve(y_true: ArrayLike, y_pred: ArrayLike, *, bins: int = ECE_BINS) -> Figure:
    """Draw how often "up" came true against the probability that was given for it.

    The bins are those of the ECE: of about equal mass, equal probabilities always together. A vertical bar is the 90 %
    Wilson interval of a bin's share, its rows taken as independent; rows of neighbouring minutes are less than that.
    Below it stands how many rows each bin has, and where it lies.

    Args:
        y_true: What happened, shape (n,), n >= 1: 1 or True where the price went up, else 0 or False.
        y_pred: The probability of "up" of each row, shape (n,), in [0, 1].
        bins: How many bins at most.

    Returns:
        A figure of two axes, the curve and the rows of its bins. A notebook shows it; `figure.savefig(path)` writes it.

    Raises:
        ValueError: No rows, unequal lengths, a label that is neither 0 nor 1, a probability outside [0, 1] or NaN, or
            fewer than one bin.

    >>> figure = plot_calibration_curve([0, 1, 0, 1], [0.2, 0.8, 0.3, 0.6], bins=2)
    >>> [axes.get_ylabel() for axes in figure.axes]
    ['share that went up', 'rows']
    """
    from matplotlib.figure import Figure  # here, so that nothing else pays for it

    p, y = np.asarray(y_pred, np.float64), np.asarray(y_true)
    fits = p.ndim == 1 and p.shape == y.shape and p.size > 0 and bins >= 1
    # Written so that NaN fails: every comparison with NaN is False.
    if not (fits and ((p >= 0) & (p <= 1)).all() and ((y == 0) | (y == 1)).all()):
        msg = (
            f"need labels 0 or 1 and probabilities in [0, 1] of one length, one or more, and one bin or more: "
            f"got shapes {y.shape} and {p.shape}, {bins} bins"
        )
        raise ValueError(msg)
    labels = y.astype(np.uint8)
    table = reliability_table(p, labels, bins=bins)
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    curve, rows = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    _draw_curve(curve, table)
    curve.set_title(f"Calibration of {p.size:,} rows, ECE {ece(p, labels, bins=bins):.4f}")
    _draw_rows(rows, table)
    return figure


def _draw_curve(axes: Axes, table: tuple[ReliabilityBin, ...]) -> None:
    said, happened = [b.mean_p for b in table], [b.up_share for b in table]
    ends = [share_interval(round(b.up_share * b.rows), b.rows) for b in table]
    low, high = min(b.low for b in table), max(b.high for b in table)
    axes.plot([low, high], [low, high], color="0.6", linestyle="--", label="perfect")
    # The share lies inside its interval, but for the last bit.
    below = [max(0.0, share - low) for share, (low, _) in zip(happened, ends, strict=True)]
    above = [max(0.0, high - share) for share, (_, high) in zip(happened, ends, strict=True)]
    axes.errorbar(said, happened, yerr=[below, above], fmt="o-", capsize=2, label=f"share, {LEVEL:.0%} interval")
    axes.set_ylabel("share that went up")
    axes.legend()


def _draw_rows(axes: Axes, table: tuple[ReliabilityBin, ...]) -> None:
    least = max(1e-3, (max(b.high for b in table) - min(b.low for b in table)) / 200)  # a bin of ties has no width
    widths = [max(b.high - b.low, least) for b in table]
    axes.bar([b.low for b in table], [b.rows for b in table], width=widths, align="edge", edgecolor="white")
    axes.set_ylabel("rows")
    axes.set_xlabel("probability of up")


def share_interval(ups: int, rows: int) -> tuple[float, float]:
    """Return the Wilson interval of a share, of coverage LEVEL: never empty, never outside [0, 1].

    >>> [round(end, 3) for end in share_interval(0, 10)]
    [0.0, 0.213]

    Args:
        ups: How many of the rows went up.
        rows: How many there are, at least 1.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    share, weight = ups / rows, z * z / rows
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)
