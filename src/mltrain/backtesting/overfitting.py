"""How much of a result may be luck: probabilistic and deflated Sharpe ratio, probability of backtest overfitting."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Blocks of days into which the days of a grid are cut: 12,870 ways to choose half of them.
_BLOCKS: Final = 16
# As a share of the mean square: a smaller variance is the rounding error of returns that do not vary.
_SMALLEST_VARIANCE: Final = 1e-12


def probabilistic_sharpe(sharpe: float, benchmark: float, *, periods: int, skew: float, kurtosis: float) -> float:
    """Return the probability that the true Sharpe ratio exceeds a benchmark (Bailey & López de Prado 2012).

    Args:
        sharpe: Sharpe ratio per period, not annualised.
        benchmark: The one to exceed, per period.
        periods: Number of returns, at least 2.
        skew: Skewness of the returns.
        kurtosis: Kurtosis of the returns, 3 for a normal distribution.

    Returns:
        In [0, 1]; NaN where the returns are too extreme for the formula.
    """
    from scipy.special import ndtr

    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    if not variance > 0:
        return math.nan
    return float(ndtr((sharpe - benchmark) * math.sqrt(periods - 1) / math.sqrt(variance)))


def expected_best_sharpe(variance: float, trials: int) -> float:
    """Return the Sharpe ratio to expect of the best of several trials without skill (Bailey & López de Prado 2014).

    Args:
        variance: Variance of the Sharpe ratios over the trials, per period squared.
        trials: Number of independent trials; with one there is nothing to choose from, and 0 is returned.
    """
    from scipy.special import ndtri

    if trials <= 1:
        return 0.0
    best = (1 - np.euler_gamma) * ndtri(1 - 1 / trials) + np.euler_gamma * ndtri(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * float(best)


def overfitting_probability(returns: NDArray[np.float64]) -> float | None:
    """Return how often the best policy on one half of the days is below the median on the other half.

    Combinatorially symmetric cross-validation (Bailey, Borwein, López de Prado, Zhu 2017): the days are cut into 16
    blocks, and every choice of eight of them is the half on which the best policy is chosen, by its Sharpe ratio.

    Args:
        returns: Daily returns of k policies, shape (days, k).

    Returns:
        In [0, 1]; None with fewer than two policies, or fewer than two days in each block.
    """
    days, policies = returns.shape
    if policies < 2 or days < 2 * _BLOCKS:
        return None
    block = np.arange(days) * _BLOCKS // days
    sums, squares = np.zeros((_BLOCKS, policies)), np.zeros((_BLOCKS, policies))
    np.add.at(sums, block, returns)
    np.add.at(squares, block, returns**2)
    counts = np.bincount(block, minlength=_BLOCKS).astype(np.float64)
    chosen = np.zeros((math.comb(_BLOCKS, _BLOCKS // 2), _BLOCKS))
    for row, blocks in enumerate(combinations(range(_BLOCKS), _BLOCKS // 2)):
        chosen[row, blocks] = 1.0
    inside = _sharpe(chosen, sums, squares, counts)
    outside = _sharpe(1 - chosen, sums, squares, counts)
    best = inside.argmax(axis=1)
    best_outside = outside[np.arange(best.size), best][:, None]
    # The share of policies below the chosen one, ties counted half: one half is the median.
    rank = ((outside < best_outside).sum(axis=1) + ((outside == best_outside).sum(axis=1) + 1) / 2) / (policies + 1)
    return float((rank <= 0.5).mean())


def _sharpe(
    chosen: NDArray[np.float64],
    sums: NDArray[np.float64],
    squares: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the Sharpe ratio of each policy on each choice of blocks, shape (choices, k); 0 without variation."""
    # Not `@`: BLAS rounds differently for other thread counts.
    days = np.einsum("cb,b->c", chosen, counts)[:, None]
    mean = np.einsum("cb,bk->ck", chosen, sums) / days
    mean_square = np.einsum("cb,bk->ck", chosen, squares) / days
    variance = mean_square - mean**2
    sharpe: NDArray[np.float64] = np.zeros_like(mean)
    np.divide(mean, np.sqrt(np.maximum(variance, 0)), out=sharpe, where=variance > _SMALLEST_VARIANCE * mean_square)
    return sharpe
