"""The simulation: orders, fills, fees, funding and equity, for one or many policies at a time.

At each bar, in this order: funding of the events since the bar before is paid; orders that were decided at an earlier
close are filled at this bar's open; a symbol's last bar closes its position; equity is marked at the close; and the
target weights of the close are turned into orders. Nothing that is decided at a close can be filled before the next bar
opens.

`docs/explanation/backtest.md` says what the simulation does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mltrain.backtesting.costs import measure_recent_trading, trades_through
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars
    from mltrain.backtesting.costs import Costs, RecentTrading


@dataclass(frozen=True, slots=True, eq=False)
class Orders:
    """Orders of one close that have not arrived yet.

    Attributes:
        bar: The bar at whose close they were decided.
        open: For which policies and symbols there is an order that has not arrived, shape (k, s).
        units: Position to reach, in the base asset, shape (k, s).
    """

    bar: int
    open: NDArray[np.bool_]
    units: NDArray[np.float64]


class Fill(NamedTuple):
    """Units that were bought or sold at one price.

    Attributes:
        bar: The bar in which they were filled.
        decided: The bar at whose close the order was decided; `bar` where the position is closed at the end.
        at_close: Whether a symbol's position was closed at the close of its last bar; else it was filled at an open.
        symbol_ix: Position of the symbol.
        units: In the base asset, above 0 if bought, below 0 if sold.
        reference: Price without costs: the open, the limit, or the last close.
        price: Price paid.
        fee: In the quote asset.
    """

    bar: int
    decided: int
    at_close: bool
    symbol_ix: int
    units: float
    reference: float
    price: float
    fee: float


@dataclass(frozen=True, slots=True, eq=False)
class Simulation:
    """The result of k policies on t bars of s symbols; amounts are in the quote asset.

    Attributes:
        equity: Cash and positions at the close of each bar, shape (t, k); after a ruin, as at the ruin.
        cash: At the end, shape (k,).
        units: Positions at the end, in the base asset, shape (k, s): zero unless ruined.
        fees: All fees, shape (k, s).
        traded: Value of all fills, shape (k, s).
        funding: All funding paid, negative if received, shape (k, s).
        blind_bars: Bars with a position but without a candle, shape (k, s).
        ruined: Bar at which the equity was zero or less, shape (k,); -1 if never.
        fills: Each fill, in the order of time; none of several policies.
        payments: Bar and amounts of each payment of funding, shape (s,); none of several policies.
    """

    equity: NDArray[np.float64]
    cash: NDArray[np.float64]
    units: NDArray[np.float64]
    fees: NDArray[np.float64]
    traded: NDArray[np.float64]
    funding: NDArray[np.float64]
    blind_bars: NDArray[np.int64]
    ruined: NDArray[np.int64]
    fills: tuple[Fill, ...]
    payments: tuple[tuple[int, NDArray[np.float64]], ...]


def simulate(
    bars: Bars,
    targets: NDArray[np.float64],
    costs: Costs,
    *,
    equity: float | NDArray[np.float64],
    answered: NDArray[np.bool_] | None = None,
    funding: Mapping[str, NDArray[np.float64]] | None = None,
) -> Simulation:
    """Trade target weights.

    Args:
        bars: The bars.
        targets: Target weight of each policy and symbol after each close, as a share of the equity of one symbol (the
            equity divided by the number of symbols), negative if short, finite, shape (t, k, s). An order is placed
            only where the weight changes.
        costs: Costs, and how orders are filled.
        equity: Cash at the start, in the quote asset; of all policies, or of each, shape (k,).
        answered: At which closes something may be decided, shape (t, s); None: wherever there is a candle. `targets`
            change only there.
        funding: For a perpetual: the events of each symbol, shape (m, 2): time in ms UTC, and rate.
    """
    return _Account(bars, targets, costs, equity=equity, answered=answered, funding=funding).run()


class _Account:
    """Cash, positions and orders of k policies while the simulation runs; `simulate` describes the arguments."""

    def __init__(
        self,
        bars: Bars,
        targets: NDArray[np.float64],
        costs: Costs,
        *,
        equity: float | NDArray[np.float64],
        answered: NDArray[np.bool_] | None,
        funding: Mapping[str, NDArray[np.float64]] | None,
    ) -> None:
        t, k, s = targets.shape
        if (t, s) != bars.open.shape:
            raise ValueError(f"targets of shape {targets.shape} for bars of shape {bars.open.shape}")
        self.bars, self.targets, self.costs = bars, targets, costs
        self.answered = bars.exists if answered is None else answered
        self.cash = np.zeros(k) + equity
        self.equity = np.empty((t, k))
        self.units, self.pending, self.weight = np.zeros((k, s)), np.zeros((k, s)), np.zeros((k, s))
        self.target_units, self.limit = np.zeros((k, s)), np.zeros((k, s))
        # Bar at whose close the pending order was decided.
        self.decided = np.zeros((k, s), np.int64)
        # Where a limit order was not filled: it is placed again at the next close.
        self.again = np.zeros((k, s), np.bool_)
        self.underway: list[Orders] = []
        self.fees, self.traded, self.paid = np.zeros((k, s)), np.zeros((k, s)), np.zeros((k, s))
        self.blind_bars = np.zeros((k, s), np.int64)
        self.ruined = np.full(k, -1)
        # Cash and positions of ruined policies, which trade no more.
        self.left: dict[int, tuple[float, NDArray[np.float64]]] = {}
        self.fills: list[Fill] = []
        self.payments: list[tuple[int, NDArray[np.float64]]] = []
        self.recent: RecentTrading | None = measure_recent_trading(bars) if costs.impact else None
        # Most units that can be filled in a bar: none without a candle.
        share = costs.participation
        capacity = np.inf if share is None else np.nan_to_num(share * bars.volume)
        self.capacity = np.where(bars.exists, capacity, 0.0)
        self.open = np.nan_to_num(bars.open)
        self.buy, self.sell = self.open * (1 + costs.taker_loss), self.open * (1 - costs.taker_loss)
        self.has_gaps = not bars.exists.all()
        self.last = {int(bar): bars.last == bar for bar in np.unique(bars.last)}
        self.funding, self.last_funding = _place_funding(bars, funding)

    def run(self) -> Simulation:
        """Simulate every bar; those at which no order, funding or decision is due are only marked."""
        bars = self.targets.shape[0]
        is_due = np.zeros(bars + 1, np.bool_)
        is_due[1:-1] = (self.targets[1:] != self.targets[:-1]).any(axis=(1, 2))
        is_due[[0, *self.last, *self.funding, bars]] = True
        due = np.flatnonzero(is_due)
        next_due = due[np.searchsorted(due, np.arange(bars), side="right")].tolist()
        bar = 0
        while bar < bars:
            self._trade(bar)
            self._mark(bar, bar + 1)
            self._decide(bar)
            following = bar + 1 if self.underway or self.pending.any() or self.again.any() else next_due[bar]
            if following > bar + 1:
                self._mark(bar + 1, following)
            bar = following
        for policy, (cash, units) in self.left.items():
            self.cash[policy], self.units[policy] = cash, units
        return Simulation(
            equity=self.equity,
            cash=self.cash,
            units=self.units,
            fees=self.fees,
            traded=self.traded,
            funding=self.paid,
            blind_bars=self.blind_bars,
            ruined=self.ruined,
            fills=tuple(self.fills),
            payments=tuple(self.payments),
        )

    def _trade(self, bar: int) -> None:
        """Pay funding, fill the orders that have arrived, and close the position of a symbol whose last bar this is."""
        if (rates := self.funding.get(bar)) is not None:
            self._pay(bar, self.units * rates)
        for orders in self.underway:
            self._deliver(orders, bar)
        if self.underway:
            self.underway = [orders for orders in self.underway if orders.open.any()]
        if self.pending.any():
            self._fill(bar)
        if (is_last := self.last.get(bar)) is not None:
            self._pay(bar, self.units * np.where(is_last, self.last_funding, 0.0))
            self._close(bar, is_last)

    def _pay(self, bar: int, paid: NDArray[np.float64]) -> None:
        """Pay funding, shape (k, s)."""
        if paid.any():
            self.cash -= paid.sum(axis=1)
            self.paid += paid
            if self.cash.size == 1:
                self.payments.append((bar, paid[0]))

    def _deliver(self, orders: Orders, bar: int) -> None:
        """Replace pending orders by those that arrive at a bar: the first candle after the delay."""
        bars = self.bars
        if bars.ts_ms[bar] < bars.ts_ms[orders.bar] + (1 + self.costs.delay_bars) * bars.step_ms:
            return
        arrived = orders.open & bars.exists[bar]
        self.pending = np.where(arrived, orders.units - self.units, self.pending)
        self.limit = np.where(arrived, bars.mark[orders.bar], self.limit)
        self.decided = np.where(arrived, orders.bar, self.decided)
        orders.open[arrived] = False

    def _fill(self, bar: int) -> None:
        """Fill what a bar's volume allows of the pending orders, shape (k, s), at its open or at their limits."""
        costs, capacity = self.costs, self.capacity[bar]
        units = np.minimum(np.maximum(self.pending, -capacity), capacity)
        if costs.fill == "maker":
            is_through = trades_through(self.pending, self.limit, self.bars.low[bar], self.bars.high[bar])
            missed = (self.pending != 0) & ~is_through & self.bars.exists[bar]
            self.pending[missed] = 0.0
            for orders in self.underway:
                missed &= ~orders.open
            self.again |= missed
            self._book(bar, np.where(is_through, units, 0.0), self.limit, self.limit, costs.maker_bps)
        elif self.recent is None:
            price = np.where(units > 0, self.buy[bar], self.sell[bar])
            self._book(bar, units, self.open[bar], price, costs.taker_bps)
        else:
            reference = self.open[bar]
            loss = costs.taker_loss + self.recent.impact(bar, np.abs(units) * reference, costs)
            self._book(bar, units, reference, reference * (1 + np.sign(units) * loss), costs.taker_bps)

    def _close(self, bar: int, is_last: NDArray[np.bool_]) -> None:
        """Close the positions of the symbols whose last bar this is, at its close, whatever its volume."""
        for orders in self.underway:
            orders.open[:, is_last] = False
        self.pending[:, is_last], self.again[:, is_last] = 0.0, False
        units = np.where(is_last, -self.units, 0.0)
        reference, loss = self.bars.mark[bar], np.full_like(units, self.costs.taker_loss)
        if self.recent is not None:
            loss += self.recent.impact(bar, np.abs(units) * reference, self.costs)
        price = reference * (1 + np.sign(units) * loss)
        self._book(bar, units, reference, price, self.costs.taker_bps, at_close=True)

    def _book(
        self,
        bar: int,
        units: NDArray[np.float64],
        reference: NDArray[np.float64],
        price: NDArray[np.float64],
        fee_bps: float,
        *,
        at_close: bool = False,
    ) -> None:
        """Book fills of `units`, shape (k, s), 0 where nothing is filled."""
        value = units * price
        size = np.abs(value)
        fee = size * (fee_bps / BPS)
        self.cash -= (value + fee).sum(axis=1)
        self.units = self.units + units
        self.traded += size
        self.fees += fee
        if not at_close:
            self.pending = self.pending - units
        if self.cash.size == 1:
            self._record(bar, units, reference, price, fee, at_close=at_close)

    def _record(
        self,
        bar: int,
        units: NDArray[np.float64],
        reference: NDArray[np.float64],
        price: NDArray[np.float64],
        fee: NDArray[np.float64],
        *,
        at_close: bool,
    ) -> None:
        """Record the fills of one policy, shape (1, s); a reference at which all policies trade has the shape (s,)."""
        of_policy = reference if reference.ndim == 1 else reference[0]
        rows = zip(units[0].tolist(), of_policy.tolist(), price[0].tolist(), fee[0].tolist(), strict=True)
        for ix, (bought, *money) in enumerate(rows):
            if bought:
                decided = bar if at_close else int(self.decided[0, ix])
                self.fills.append(Fill(bar, decided, at_close, ix, bought, *money))

    def _mark(self, start: int, stop: int) -> None:
        """Mark the equity at the closes of bars [start, stop), between which no position changes."""
        mark = self.bars.mark[start:stop]
        equity = self.cash + (mark[:, None, :] * self.units).sum(axis=2)
        self.equity[start:stop] = equity
        if self.has_gaps:
            self.blind_bars += (self.units != 0) * (~self.bars.exists[start:stop]).sum(axis=0)
        if self.costs.market == "perp" and equity.min() <= 0:
            for policy in np.flatnonzero((equity <= 0).any(axis=0) & (self.ruined < 0)).tolist():
                self._end(policy, start + int(np.argmax(equity[:, policy] <= 0)), stop)

    def _end(self, policy: int, bar: int, stop: int) -> None:
        """End the run of a policy that is ruined at the close of a bar, before the bar `stop`."""
        self.ruined[policy] = bar
        self.left[policy] = (float(self.cash[policy]), self.units[policy].copy())
        if self.has_gaps:
            self.blind_bars[policy] -= (self.units[policy] != 0) * (~self.bars.exists[bar + 1 : stop]).sum(axis=0)
        self.equity[bar:stop, policy] = self.cash[policy] = self.equity[bar, policy]
        self.units[policy] = self.pending[policy] = 0.0
        self.again[policy] = False
        for orders in self.underway:
            orders.open[policy] = False

    def _decide(self, bar: int) -> None:
        """Place an order where the target weight has changed, or where a limit order has to be placed again."""
        target = self.targets[bar]
        changed = target != self.weight
        placed = changed | (self.again & self.answered[bar])
        placed[self.ruined >= 0] = False
        if not placed.any():
            return
        self.weight = target
        share = np.maximum(self.equity[bar], 0.0) / target.shape[1]
        self.target_units = np.where(changed, target * share[:, None] / self.bars.mark[bar], self.target_units)
        self.underway.append(Orders(bar, placed, self.target_units))
        self.again &= ~placed


def _place_funding(
    bars: Bars, funding: Mapping[str, NDArray[np.float64]] | None
) -> tuple[dict[int, NDArray[np.float64]], NDArray[np.float64]]:
    """Return the funding due at each bar, by bar, and within each symbol's last bar, per unit held, shape (s,).

    Events after the bar before and up to the open of a bar are due at it, at the close before; those after the open of
    a symbol's last bar are due at the close of that bar, where the position is closed.
    """
    symbols = bars.symbols
    due: dict[int, NDArray[np.float64]] = {}
    last_due = np.zeros(len(symbols))
    if funding is None:
        return due, last_due
    for ix, symbol in enumerate(symbols):
        last = int(bars.last[ix])
        for time_ms, rate in funding[symbol].tolist():
            bar = int(np.searchsorted(bars.ts_ms, time_ms))
            if bars.ts_ms[last] < time_ms <= bars.ts_ms[last] + bars.step_ms:
                last_due[ix] += rate * bars.mark[last, ix]
            elif 0 < bar <= last:
                due.setdefault(bar, np.zeros(len(symbols)))[ix] += rate * bars.mark[bar - 1, ix]
    return due, last_due
