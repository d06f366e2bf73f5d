"""What a backtest is compared with: holding instead, what choosing among many finds by chance, and other sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.backtesting.engine import simulate
from mltrain.backtesting.overfitting import expected_best_sharpe, overfitting_probability
from mltrain.backtesting.performance import (
    DAYS_PER_YEAR,
    annual_sharpe,
    daily_equity,
    daily_returns,
    find_drawdown,
    score_sharpe,
)
from mltrain.backtesting.policies import find_answered
from mltrain.backtesting.result import Benchmark, Luck
from mltrain.gates.holdout_looks import BACKTEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.engine import Simulation
    from mltrain.backtesting.result import GridRow
    from mltrain.gates.holdout_looks import Look
    from mltrain.times import TimeRange

# Sizes that are simulated at once, and how often the interval between two of them is searched again: the capacity is
# then known to 2 %.
_CAPACITY_SIZES: Final = 40
_CAPACITY_ROUNDS: Final = 2
_SMALLEST_EQUITY: Final = 1.0
_LARGEST_EQUITY: Final = 1e12


def hold_everything(
    bars: Bars, costs: Costs, *, equity: float, funding: Mapping[str, NDArray[np.float64]] | None
) -> tuple[Benchmark, ...]:
    """Return what equal weights, and each symbol alone, would have earned when bought at the start and held.

    Args:
        bars: The bars, shape (t, s).
        costs: The costs of the backtest.
        equity: Cash at the start, in the quote asset.
        funding: By symbol time (ms UTC) and rate, shape (m, 2); None on spot.
    """
    s = len(bars.symbols)
    targets = np.zeros((bars.ts_ms.size, s + 1, s))
    first = bars.exists.argmax(axis=0)
    for ix in range(s):
        targets[first[ix] :, 0, ix] = 1.0
        # All of the equity, of which each symbol has an equal share.
        targets[first[ix] :, ix + 1, ix] = s
    simulation = simulate(bars, targets, costs, equity=equity, funding=funding)
    _, daily = daily_equity(bars, simulation.equity)
    sharpes = annual_sharpe(daily_returns(daily, equity))
    benchmarks = []
    for ix, name in enumerate(("equal weight", *(f"hold {symbol}" for symbol in bars.symbols))):
        drawdown = find_drawdown(bars, simulation.equity[:, ix], start=equity)
        benchmarks.append(
            Benchmark(
                name=name,
                net_return=float(simulation.equity[-1, ix]) / equity - 1,
                sharpe=None if np.isnan(sharpes[ix]) else float(sharpes[ix]),
                drawdown=0.0 if drawdown is None else drawdown.share,
            )
        )
    return tuple(benchmarks)


def measure_luck(
    bars: Bars,
    simulation: Simulation,
    grid: tuple[GridRow, ...],
    returns: NDArray[np.float64],
    *,
    equity: float,
    looks: tuple[Look, ...],
    window: TimeRange,
) -> Luck:
    """Return how much of a result may be due to choosing.

    Args:
        bars: The bars.
        simulation: The simulation of the policy; of several, the first.
        grid: The policies that were compared; empty: none.
        returns: Their daily net returns, as ratios, shape (days, policies).
        equity: Cash at the start, in the quote asset.
        looks: The looks before this backtest, of which earlier backtests of the same time count.
        window: The open times that were traded.
    """
    earlier = sum(
        look.study.startswith(BACKTEST) and look.start_ms < window.end_ms and look.end_ms > window.start_ms
        for look in looks
    )
    _, daily = daily_equity(bars, simulation.equity[:, 0])
    benchmark = 0.0
    if grid:
        sharpes = [row.sharpe / np.sqrt(DAYS_PER_YEAR) for row in grid if row.sharpe is not None]
        variance = float(np.var(sharpes)) if sharpes else 0.0
        benchmark = expected_best_sharpe(variance, len(grid) * (earlier + 1))
    return Luck(
        grid=max(1, len(grid)),
        looks=earlier + 1,
        deflated_sharpe=score_sharpe(daily_returns(daily, equity), benchmark),
        overfitting=overfitting_probability(returns) if grid else None,
    )


def find_capacity(
    bars: Bars,
    targets: NDArray[np.float64],
    costs: Costs,
    *,
    funding: Mapping[str, NDArray[np.float64]] | None,
) -> float | None:
    """Return the equity, in the quote asset, at which the mean net daily return is zero; None if it is never above.

    The impact of an order grows with its size, so the return falls as the equity grows.

    Args:
        bars: The bars.
        targets: Target weights of one policy after each close, shape (t, 1, s).
        costs: The costs, with market impact.
        funding: By symbol time (ms UTC) and rate, shape (m, 2); None on spot.
    """
    low, high = _SMALLEST_EQUITY, _LARGEST_EQUITY
    answered = find_answered(bars)
    many = np.repeat(targets, _CAPACITY_SIZES, axis=1)
    for _ in range(_CAPACITY_ROUNDS):
        sizes = np.geomspace(low, high, _CAPACITY_SIZES)
        simulation = simulate(bars, many, costs, equity=sizes, answered=answered, funding=funding)
        _, daily = daily_equity(bars, simulation.equity)
        earns = daily_returns(daily, sizes).mean(axis=0) > 0
        if not earns[0]:
            return None
        largest = int(np.flatnonzero(earns)[-1])
        low, high = float(sizes[largest]), float(sizes[min(largest + 1, _CAPACITY_SIZES - 1)])
    return low
