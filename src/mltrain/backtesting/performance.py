"""Figures of a backtest: returns, risk, trades, costs, and how sure they are.

Sharpe ratios come from daily returns, UTC, and are annualised by the square root of 365: these markets never close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from mltrain.backtesting.overfitting import probabilistic_sharpe
from mltrain.documents.records import TimeMs, record
from mltrain.times import DAY_MS
from mltrain.training.bootstrap import Interval, plan_bootstrap
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.costs import Costs
    from mltrain.backtesting.engine import Fill, Simulation
    from mltrain.training.bootstrap import Bootstrap

DAYS_PER_YEAR: Final = 365
# Of the largest annual return: far below the largest float, also after division by the smallest drawdown.
_MAX_LOG: Final = 600.0


@record
@dataclass(frozen=True, slots=True)
class Drawdown:
    """The largest fall of the equity from a peak, at bar closes.

    Attributes:
        share: Loss from the peak, in [0, 1], more if the equity falls below zero.
        peak_ms: Close of the bar with the peak, ms UTC; the start of the run if the equity never exceeds its start.
        trough_ms: Close of the bar with the lowest equity after it, ms UTC.
        recovered_ms: Close of the first bar that reaches the peak again, ms UTC; None if none does.
    """

    share: float
    peak_ms: TimeMs
    trough_ms: TimeMs
    recovered_ms: TimeMs | None


@record
@dataclass(frozen=True, slots=True)
class CostItem:
    """One kind of cost.

    Attributes:
        name: "fees", "spread", "slippage", "impact" or "funding".
        amount: In the quote asset; funding is negative if more was received than paid.
        turnover_bps: The amount in bps of the traded value; None if nothing was traded.
    """

    name: str
    amount: float
    turnover_bps: float | None


@record
@dataclass(frozen=True, slots=True)
class Trades:
    """Round trips: from the opening of a position to its end or its reversal.

    Attributes:
        number: How many there were.
        hits: How many earned something after all their costs but funding.
        mean_bars: Mean duration, in bars; None without trades.
    """

    number: int
    hits: int
    mean_bars: float | None

    @property
    def hit_rate(self) -> float | None:
        """Share of trades that earned something; None without trades."""
        return self.hits / self.number if self.number else None


@record
@dataclass(frozen=True, slots=True)
class Performance:
    """What a policy earned; ratios are not in percent.

    Attributes:
        days: Number of UTC days, whole or in part.
        net_return: Of the whole time, after all costs.
        gross_return: Of the same fills, before costs.
        daily_return: Mean net return per day, with its interval; None with fewer than two days.
        sharpe: Annual Sharpe ratio of daily net returns, with its interval; None if they do not vary.
        sortino: Annual Sortino ratio against zero; None without a losing day.
        calmar: Annual net return over the largest drawdown; None without a drawdown.
        drawdown: The largest drawdown; None if the equity never falls.
        exposure: Mean value of the positions as a share of the equity.
        turnover: Value traded per day, as a multiple of the mean equity.
        trades: Round trips.
        traded: Value of all fills, in the quote asset.
        costs: Each kind of cost.
        break_even_bps: Cost per side, in bps, at which the same fills earn nothing after funding, with its interval;
            None if nothing was traded, or with fewer than two days.
        probabilistic_sharpe: Probability that the true Sharpe ratio is above zero; None if the returns do not vary.
        blind_bars: Bars with a position but without a candle.
        ruined_ms: Close at which the equity was zero or less, ms UTC; None if never.
    """

    days: int
    net_return: float
    gross_return: float
    daily_return: Interval | None
    sharpe: Interval | None
    sortino: float | None
    calmar: float | None
    drawdown: Drawdown | None
    exposure: float
    turnover: float
    trades: Trades
    traded: float
    costs: tuple[CostItem, ...]
    break_even_bps: Interval | None
    probabilistic_sharpe: float | None
    blind_bars: int
    ruined_ms: TimeMs | None


@dataclass(frozen=True, slots=True, eq=False)
class Days:
    """A simulation by UTC day; a bar belongs to the day in which it opens.

    Attributes:
        day_ms: The n midnights, ms UTC, without gaps.
        equity: At the end of each day, shape (n,).
        returns: Net return of each day, shape (n,); 0 on a day without bars.
        gross: Earned before costs, in the quote asset, shape (n,).
        traded: Value of the fills, in the quote asset, shape (n,).
        costs: Fees, spread, slippage and impact, in the quote asset, shape (n,).
        funding: Funding paid, in the quote asset, shape (n,).
    """

    day_ms: NDArray[np.int64]
    equity: NDArray[np.float64]
    returns: NDArray[np.float64]
    gross: NDArray[np.float64]
    traded: NDArray[np.float64]
    costs: NDArray[np.float64]
    funding: NDArray[np.float64]


def daily_equity(bars: Bars, equity: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the midnights of the n UTC days of a run, ms UTC, and the equity at the end of each, shape (n, ...).

    Args:
        bars: t bars.
        equity: At the close of each bar, shape (t, ...); a day without bars repeats the day before.
    """
    first, last = int(bars.ts_ms[0]) // DAY_MS, int(bars.ts_ms[-1]) // DAY_MS
    day_ms = np.arange(first, last + 1) * DAY_MS
    return day_ms, equity[np.searchsorted(bars.ts_ms, day_ms + DAY_MS) - 1]


def daily_returns(equity: NDArray[np.float64], start: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the change of the equity on each day over the day before, shape (n, ...); 0 once nothing is left."""
    before = np.concatenate([np.zeros_like(equity[:1]) + start, equity[:-1]])
    returns = np.zeros_like(equity)
    np.divide(equity - before, before, out=returns, where=before > 0)
    return returns


def annual_sharpe(returns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return mean over standard deviation of daily returns, shape (n, ...), annualised; NaN if they do not vary."""
    deviation = returns.std(axis=0)
    varies = deviation > 1e-12 * np.abs(returns).max(axis=0, initial=0.0)
    sharpe: NDArray[np.float64] = np.full(deviation.shape, np.nan)
    np.divide(returns.mean(axis=0), deviation, out=sharpe, where=varies)
    return sharpe * math.sqrt(DAYS_PER_YEAR)


def sum_by_day(bars: Bars, simulation: Simulation, *, start: float) -> Days:
    """Return a simulation of one policy by UTC day; `start` is the equity at its start."""
    day_ms, equity = daily_equity(bars, simulation.equity[:, 0])

    def by_day(bar: Sequence[int], amounts: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        day = bars.ts_ms[np.asarray(bar, np.int64)] // DAY_MS - day_ms[0] // DAY_MS
        return np.bincount(day, weights=amounts, minlength=day_ms.size).astype(np.float64)

    fill_bars = [fill.bar for fill in simulation.fills]
    fees_and_price = by_day(
        fill_bars, [fill.fee + (fill.price - fill.reference) * fill.units for fill in simulation.fills]
    )
    traded = by_day(fill_bars, [abs(fill.units) * fill.price for fill in simulation.fills])
    funding = by_day([bar for bar, _ in simulation.payments], [float(paid.sum()) for _, paid in simulation.payments])
    returns = daily_returns(equity, start)
    change = np.diff(equity, prepend=start)
    return Days(
        day_ms=day_ms,
        equity=equity,
        returns=returns,
        gross=change + fees_and_price + funding,
        traded=traded,
        costs=fees_and_price,
        funding=funding,
    )


def measure(
    bars: Bars, simulation: Simulation, costs: Costs, *, start: float, draws: int, level: float, seed: int
) -> Performance:
    """Return the figures of a simulation of one policy.

    Args:
        bars: The bars that were traded.
        simulation: Its result.
        costs: The costs that were charged.
        start: Equity at the start.
        draws: Number of bootstrap draws of days.
        level: Coverage of the intervals, such as 0.9.
        seed: Random seed of the draws.
    """
    days = sum_by_day(bars, simulation, start=start)
    bootstrap = plan_bootstrap(days.day_ms, draws=draws, level=level, seed=seed) if days.day_ms.size > 1 else None
    equity, n = simulation.equity[:, 0], days.day_ms.size
    traded, ruined = float(days.traded.sum()), int(simulation.ruined[0])
    end = float(equity[-1])
    net_return, drawdown = end / start - 1, find_drawdown(bars, equity, start=start)
    # A multiple gained in few days may exceed any float in a year.
    annual = math.expm1(min(math.log1p(net_return) * DAYS_PER_YEAR / n, _MAX_LOG)) if net_return > -1 else -1.0
    downside = math.sqrt(float(np.mean(np.minimum(days.returns, 0) ** 2)))
    sharpe = float(annual_sharpe(days.returns))
    break_even = None
    if traded > 0 and bootstrap is not None:
        break_even = _break_even_interval(days, bootstrap)
    return Performance(
        days=n,
        net_return=net_return,
        gross_return=float(days.gross.sum()) / start,
        daily_return=None if bootstrap is None else bootstrap.mean(days.returns),
        sharpe=None if bootstrap is None or math.isnan(sharpe) else _sharpe_interval(days.returns, sharpe, bootstrap),
        sortino=float(days.returns.mean()) / downside * math.sqrt(DAYS_PER_YEAR) if downside > 0 else None,
        calmar=annual / drawdown.share if drawdown is not None else None,
        drawdown=drawdown,
        exposure=_measure_exposure(bars, simulation),
        turnover=traded / n / float(np.mean(np.maximum(days.equity, 0))) if (days.equity > 0).any() else 0.0,
        trades=count_trades(simulation.fills),
        traded=traded,
        costs=list_costs(simulation, costs),
        break_even_bps=break_even,
        probabilistic_sharpe=score_sharpe(days.returns),
        blind_bars=int(simulation.blind_bars.sum()),
        ruined_ms=int(bars.ts_ms[ruined]) + bars.step_ms if ruined >= 0 else None,
    )


def _break_even_interval(days: Days, bootstrap: Bootstrap) -> Interval:
    """Return what the fills earned before costs and after funding, in bps of the traded value, with its interval.

    Draws of days on which nothing was traded have no break-even cost: they are left out, not counted as zero.
    """
    earned, traded = (
        bootstrap.draw_sums(bootstrap.block_sums(values)) for values in ((days.gross - days.funding) * BPS, days.traded)
    )
    draws = np.full_like(traded, np.nan)
    np.divide(earned, traded, out=draws, where=traded > 0)
    total = float(days.traded.sum())
    return bootstrap.interval(float(((days.gross - days.funding) * BPS).sum()) / total, draws)


def _sharpe_interval(returns: NDArray[np.float64], sharpe: float, bootstrap: Bootstrap) -> Interval:
    """Return the annual Sharpe ratio of daily returns, shape (n,), with its interval."""
    days, total, squares = (
        bootstrap.draw_sums(bootstrap.block_sums(values)) for values in (np.ones(returns.size), returns, returns**2)
    )
    mean = total / days
    variance = np.maximum(squares / days - mean**2, 0)
    draws = np.divide(mean, np.sqrt(variance), out=np.full_like(mean, np.nan), where=variance > 1e-24 * squares)
    return bootstrap.interval(sharpe, draws * math.sqrt(DAYS_PER_YEAR))


def score_sharpe(returns: NDArray[np.float64], benchmark: float = 0.0) -> float | None:
    """Return the probability that the true Sharpe ratio of daily returns, shape (n,), exceeds a daily benchmark.

    None if the returns do not vary, or are too extreme for the formula.
    """
    sharpe = float(annual_sharpe(returns)) / math.sqrt(DAYS_PER_YEAR)
    if math.isnan(sharpe) or returns.size < 2:
        return None
    standard = (returns - returns.mean()) / returns.std()
    skew, kurtosis = float(np.mean(standard**3)), float(np.mean(standard**4))
    probability = probabilistic_sharpe(sharpe, benchmark, periods=returns.size, skew=skew, kurtosis=kurtosis)
    return None if math.isnan(probability) else probability


def find_drawdown(bars: Bars, equity: NDArray[np.float64], *, start: float) -> Drawdown | None:
    """Return the largest drawdown of the equity at bar closes, shape (t,), after `start`; None without one."""
    closes_ms = np.concatenate([bars.ts_ms[:1], bars.ts_ms + bars.step_ms])
    curve = np.concatenate([[start], equity])
    peak = np.maximum.accumulate(curve)
    trough = int(np.argmin(curve / peak))
    if curve[trough] >= peak[trough]:
        return None
    back = np.flatnonzero(curve[trough:] >= peak[trough])
    return Drawdown(
        share=float(1 - curve[trough] / peak[trough]),
        peak_ms=int(closes_ms[np.argmax(curve[: trough + 1])]),
        trough_ms=int(closes_ms[trough]),
        recovered_ms=int(closes_ms[trough + back[0]]) if back.size else None,
    )


def positions(bars: Bars, fills: Sequence[Fill]) -> NDArray[np.float64]:
    """Return the units held at the close of each bar, shape (t, s), from the fills alone."""
    units = np.zeros(bars.open.shape)
    np.add.at(units, ([fill.bar for fill in fills], [fill.symbol_ix for fill in fills]), [fill.units for fill in fills])
    return np.cumsum(units, axis=0)


def _measure_exposure(bars: Bars, simulation: Simulation) -> float:
    """Return the mean value of the positions at bar closes, as a share of the equity; 0 where nothing is left."""
    value = np.abs(positions(bars, simulation.fills) * bars.mark).sum(axis=1)
    equity = simulation.equity[:, 0]
    return float(np.divide(value, equity, out=np.zeros_like(value), where=equity > 0).mean())


def count_trades(fills: Sequence[Fill]) -> Trades:
    """Count round trips and those that earned something.

    A fill that reverses a position ends one trade and opens the next; its fee is shared in proportion to the units.
    """
    # By symbol: units held, money earned so far by the open trade, bar of its opening.
    held: dict[int, tuple[float, float, int]] = {}
    number = hits = bars = 0
    for fill in fills:
        units, earned, opened = held.get(fill.symbol_ix, (0.0, 0.0, fill.bar))
        after = units + fill.units
        # A rounding error of what was held is no position.
        if abs(after) <= 1e-12 * max(abs(units), abs(fill.units)):
            after = 0.0
        reverses = units * after < 0
        closing = -units if reverses else fill.units
        earned -= closing * fill.price + fill.fee * abs(closing / fill.units)
        if after == 0.0 or reverses:
            number, hits, bars = number + 1, hits + (earned > 0), bars + fill.bar - opened
            earned, opened = -after * fill.price - fill.fee * abs(after / fill.units), fill.bar
        elif units == 0.0:
            opened = fill.bar
        held[fill.symbol_ix] = (after, earned, opened)
    return Trades(number, hits, bars / number if number else None)


def list_costs(simulation: Simulation, costs: Costs) -> tuple[CostItem, ...]:
    """Return each kind of cost of a simulation of one policy."""
    traded = float(simulation.traded.sum())
    spread = slippage = impact = 0.0
    for fill in simulation.fills:
        loss = (fill.price - fill.reference) * fill.units
        # A limit order pays its limit, which is the reference.
        at_market = 0.0 if fill.price == fill.reference else abs(fill.units) * fill.reference
        half_spread, slipped = at_market * costs.spread_bps / 2 / BPS, at_market * costs.slippage_bps / BPS
        spread, slippage, impact = spread + half_spread, slippage + slipped, impact + loss - half_spread - slipped
    amounts = {
        "fees": float(simulation.fees.sum()),
        "spread": spread,
        "slippage": slippage,
        "impact": impact if costs.impact else 0.0,
        "funding": float(simulation.funding.sum()),
    }
    return tuple(CostItem(name, value, value / traded * BPS if traded else None) for name, value in amounts.items())
