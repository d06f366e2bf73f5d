"""Markets, policies and accounts for the tests of backtesting."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl

from mltrain.backtesting.bars import align_bars
from mltrain.backtesting.costs import Costs
from mltrain.backtesting.engine import simulate
from mltrain.backtesting.performance import measure
from mltrain.backtesting.policies import MoveStatistics, Policy, find_answered, target_weights
from mltrain.backtesting.result import BacktestRequest, BacktestResult, Luck
from mltrain.candles.frame import TS_DTYPE
from mltrain.times import DAY_MS
from support import naive_backtest

# 2025-10-01T00:00:00Z
START_MS = 1_759_276_800_000
NO_COSTS = Costs(market="perp", taker_bps=0, maker_bps=0, slippage_bps=0, participation=None)
PRICES = ("open", "high", "low", "close", "volume", "quote_volume")


class Market:
    """One of the naive backtest's random markets, as both simulations take it.

    Attributes:
        rows, events, settings: What `naive_backtest.simulate` takes.
        bars, policy, costs, statistics, funding: What `target_weights` and `simulate` take.
    """

    def __init__(self, rows, events, settings):
        # A policy is never out at once where it is in.
        self.settings = settings = replace(settings, exit=max(settings.exit, 0.5))
        self.rows, self.events = rows, events
        self.bars = join_rows(rows, settings.interval_ms)
        self.policy = Policy(
            settings.policy,
            settings.enter,
            settings.exit,
            settings.kelly_fraction,
            settings.max_weight,
            settings.side,
        )
        self.costs = Costs(
            settings.market,
            settings.taker_bps,
            settings.maker_bps,
            settings.spread_bps,
            settings.slippage_bps,
            settings.impact,
            None if math.isinf(settings.participation) else settings.participation,
            settings.fill,
            settings.delay_bars,
        )
        self.statistics = [
            MoveStatistics(settings.move[s], settings.variance[s], settings.run_length[s], settings.horizon)
            for s in self.bars.symbols
        ]
        is_perp = settings.market == "perp"
        self.funding = {s: np.array(e, float).reshape(-1, 2) for s, e in events.items()} if is_perp else None

    def targets(self, *policies):
        return target_weights(
            self.bars, policies or [self.policy], statistics=self.statistics, cost=self.costs.taker_cost
        )

    def trade(self, *policies, costs=None, targets=None):
        """Run the engine; with the market's own policy if none is given."""
        return simulate(
            self.bars,
            self.targets(*policies) if targets is None else targets,
            costs or self.costs,
            equity=self.settings.equity,
            answered=find_answered(self.bars),
            funding=self.funding,
        )

    def trade_naively(self):
        return naive_backtest.simulate(self.rows, self.events, self.settings)


def random_market(seed, **changes):
    """Return one of the naive backtest's random markets, with some of its settings changed."""
    rows, events, settings = naive_backtest.random_market(seed)
    return Market(rows, events, replace(settings, **changes))


def join_rows(rows, step_ms):
    """Return the candles of the naive backtest as bars."""
    candles, scores = {}, {}
    for symbol, found in rows.items():
        columns = {name: [getattr(row, name) for row in found] for name in PRICES}
        candles[symbol] = pl.DataFrame({"ts": pl.Series([row.ts for row in found]).cast(TS_DTYPE), **columns})
        p = [row.p for row in found]
        scores[symbol] = pl.DataFrame(
            {
                "p": pl.Series(p, dtype=pl.Float64),
                "refused": pl.Series(["stale" if each is None else None for each in p], dtype=pl.String),
            }
        )
    return align_bars(candles, scores, step_ms=step_ms)


def make_bars(close, *, open_=None, p=None, step_ms=DAY_MS, start_ms=START_MS, missing=(), refused=()):
    """Return bars of one symbol, or of several: a row of numbers each time.

    Args:
        close: Closes, shape (t,) or (t, s).
        open_: Opens; the close before unless given.
        p: Probabilities; NaN unless given.
        step_ms: Length of a bar.
        start_ms: Open time of the first one.
        missing: (bar, symbol) without a candle.
        refused: (bar, symbol) that the model refused to score.
    """
    close = _table(close)
    open_ = np.vstack([close[:1], close[:-1]]) if open_ is None else _table(open_)
    p = np.full_like(close, np.nan) if p is None else np.broadcast_to(_table(p), close.shape)
    symbols = [f"S{ix:02d}" for ix in range(close.shape[1])]
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    rows = {}
    for ix, symbol in enumerate(symbols):
        rows[symbol] = [
            naive_backtest.Bar(
                start_ms + bar * step_ms,
                *(float(column[bar, ix]) for column in (open_, high, low, close)),
                1e9,
                1e9,
                None if (bar, ix) in refused else float(p[bar, ix]),
            )
            for bar in range(len(close))
            if (bar, ix) not in missing
        ]
    return join_rows(rows, step_ms)


def _table(values):
    values = np.asarray(values, float)
    return values[:, None] if values.ndim == 1 else values


def hold(bars, weight=1.0):
    """Return targets of a constant weight, shape (t, 1, s)."""
    return np.full((bars.ts_ms.size, 1, len(bars.symbols)), float(weight))


def weights_for_units(bars, units, costs, *, equity):
    """Return the target weights that make the engine hold given units after each close, shape (t, 1, s).

    The orders of one close must all fill at the next open, and the equity must stay above zero: the weight is then the
    value of the units over the equity at that close, which this accounts for by itself.

    Args:
        bars: Bars without gaps.
        units: Units to hold after the next open, shape (t, s).
        costs: Costs without impact, participation and delay; fills at the open.
        equity: Cash at the start.
    """
    held, weight, cash = np.zeros(units.shape[1]), np.zeros(units.shape[1]), float(equity)
    targets = np.zeros((len(units), 1, units.shape[1]))
    loss = (costs.spread_bps / 2 + costs.slippage_bps) / 1e4
    for bar, close in enumerate(bars.close):
        if bar:
            order = units[bar - 1] - held
            price = bars.open[bar] * (1 + np.sign(order) * loss)
            cash -= (order * price + np.abs(order) * price * costs.taker_bps / 1e4).sum()
            held = units[bar - 1]
        changed = units[bar] != held
        value = cash + (held * close).sum()
        weight = np.where(changed, units[bar] * close * units.shape[1] / value, weight)
        targets[bar, 0] = weight
    return targets


def replay(bars, fills, *, equity, funding=None):
    """Return cash and units after each bar from the fills, and funding from its events: shapes (t,) and (t, s).

    A separate account: one loop, and sums that are rounded once.
    """
    t, s = bars.open.shape
    spent = [[] for _ in range(t)]
    bought = np.zeros((t, s))
    for fill in fills:
        spent[fill.bar] += [-fill.units * fill.price, -fill.fee]
        bought[fill.bar, fill.symbol_ix] += fill.units
    closing = np.zeros((t, s))
    for fill in fills:
        if fill.at_close:
            closing[fill.bar, fill.symbol_ix] += fill.units
    units = np.cumsum(bought, axis=0)
    for ix, symbol in enumerate(bars.symbols if funding is not None else ()):
        last = bars.last[ix]
        for time_ms, rate in funding[symbol]:
            bar = int(np.searchsorted(bars.ts_ms, time_ms))
            if bars.ts_ms[last] < time_ms <= bars.ts_ms[last] + bars.step_ms:
                # Paid at the close, as much as the closing sells.
                spent[last].append(closing[last, ix] * bars.mark[last, ix] * rate)
            elif 0 < bar <= last:
                spent[bar].append(-units[bar - 1, ix] * bars.mark[bar - 1, ix] * rate)
    cash, all_spent = np.zeros(t), [equity]
    for bar in range(t):
        all_spent += spent[bar]
        cash[bar] = math.fsum(all_spent)
    return cash, units


def make_result(version="2025-10-15", **changes):
    """Return the result of a small backtest, for tests of what becomes of it; `changes` are those of its request."""
    bars = make_bars(np.linspace(100, 130, 20))
    costs = Costs()
    simulation = simulate(bars, hold(bars), costs, equity=1_000.0)
    request = BacktestRequest(
        version=version,
        version_sha256="1" * 64,
        snapshot="sim-1m-20251015T120000Z-0123456789ab",
        snapshot_sha256="2" * 64,
        start_ms=int(bars.ts_ms[0]),
        end_ms=int(bars.ts_ms[-1]) + DAY_MS,
        in_sample=False,
        policy=Policy("sign"),
        tuned=False,
        costs=costs,
        fees=None,
        funding=None,
        equity=1_000.0,
        seed=1,
        grid=(),
        walk_forward_days=None,
        train_days=None,
        search_trials=None,
        capacity=False,
        mltrain="1.0",
        package_sha256="3" * 64,
        ops_sha256="4" * 64,
    )
    return BacktestResult(
        request=replace(request, **changes),
        symbols=bars.symbols,
        interval="1d",
        bars=20,
        refused=0,
        learned_until_ms=START_MS - DAY_MS,
        judged=None,
        performance=measure(bars, simulation, costs, start=1_000.0, draws=50, level=0.9, seed=1),
        benchmarks=(),
        luck=Luck(1, 1, 0.5, None),
        grid=(),
        steps=(),
        capacity=None,
    )
