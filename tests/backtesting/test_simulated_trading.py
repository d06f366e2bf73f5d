"""Trading the simulated market, whose true probabilities are known: what must come out, and how sure it is.

The strong market, in standard deviations: after a move z[t] in direction v[t] (+1 reverts, -1 continues, 0 says
nothing: 7, 7 and 1 minutes of each quarter-hour), the next move is -k v[t] z[t] plus noise, unless one of the two is a
tie, which happens with chance T. So sign(p - 1/2) is w[t] = -v[t] sign(z[t]), and 0 after a tie.

Gross per bar. E w[t] z[t+1] = k v[t]² E|z[t]|, where both moved, and E|z| = sqrt(2 / pi) of a normal z:
    k sqrt(2 / pi) (1 - T)² 14 / 15 = .2377, in units of the mean scale.

Turnover per bar, E|w[t+1] - w[t]|, from the 15 pairs of neighbours of a quarter-hour. Two moves in a row have unlike
signs with chance q = 1/2 + asin(k) / pi where they revert, else with 1 - q:
    12 pairs within a half: (1 - T)² 2 (q or 1 - q; on average 1/2), and 2 T (1 - T) from or to a tie: together 1 - T²
    2 pairs with the minute that says nothing: 1 - T each
    1 pair from v = -1 to v = +1: a like sign turns the position, with chance q: 2 q (1 - T)² + 2 T (1 - T)
    in all [12 (1 - T²) + 2 (1 - T) + 2 q (1 - T)² + 2 T (1 - T)] / 15 = 1.0061.

The break-even cost per side is gross over turnover.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.backtesting.bars import align_bars
from mltrain.backtesting.engine import simulate
from mltrain.backtesting.performance import daily_equity, measure
from mltrain.backtesting.policies import Policy, find_answered, target_weights
from mltrain.candles.frame import times_ms
from mltrain.sources.simulated_market import GENESIS_MS, STRENGTH, TIE_SHARE, SimSource, _scale
from mltrain.times import DAY_MS, MINUTE_MS, TimeRange
from support.backtests import NO_COSTS

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
DAYS = 10
SEEDS = range(4)
K = STRENGTH["strong"]
MOVED = 1 - TIE_SHARE
UNLIKE = 0.5 + math.asin(K) / math.pi
GROSS = K * math.sqrt(2 / math.pi) * MOVED**2 * 14 / 15
TURNOVER = (12 * (1 - TIE_SHARE**2) + 2 * MOVED + 2 * UNLIKE * MOVED**2 + 2 * TIE_SHARE * MOVED) / 15


def score(candles, p):
    """Return the scores of candles: probabilities, none refused."""
    return candles.select(p=pl.Series(p), refused=pl.lit(None, pl.String))


def follow_signs(bars):
    """Trade sign(p - 1/2) without costs, from an equity of 10,000."""
    targets = target_weights(bars, [Policy("sign", side="both")], statistics=None, cost=0.0)
    return simulate(bars, targets, NO_COSTS, equity=1e4, answered=find_answered(bars))


@pytest.fixture(scope="module")
def strong():
    """Return bars, simulation and mean scale of the strong market for each seed, with its true probabilities."""
    found = []
    window = TimeRange(GENESIS_MS, GENESIS_MS + DAYS * DAY_MS)
    for seed in SEEDS:
        source = SimSource(seed=seed, signal="strong", end_ms=window.end_ms)
        candles = {symbol: source.candles(symbol, window) for symbol in SYMBOLS}
        scores = {
            symbol: score(frame, source.true_probabilities(symbol, times_ms(frame)))
            for symbol, frame in candles.items()
        }
        bars = align_bars(candles, scores, step_ms=MINUTE_MS)
        first = GENESIS_MS // DAY_MS
        scales = []
        for ix, symbol in enumerate(SYMBOLS):
            by_minute = [_scale(source._market(symbol), day) for day in range(first, first + DAYS)]
            scales.append(np.concatenate(by_minute)[(bars.ts_ms[bars.exists[:, ix]] - GENESIS_MS) // MINUTE_MS].mean())
        found.append((bars, follow_signs(bars), float(np.mean(scales))))
    return found


class TestStrongMarket:
    """The true probabilities earn what the market's formula says, pooled over three symbols and four seeds."""

    def test_the_formulas(self):
        """The numbers of the derivation above."""
        assert round(GROSS, 4) == 0.2377
        assert round(TURNOVER, 4) == 1.0061

    @staticmethod
    def pool(strong):
        """Return gross, in mean scales, and turnover per bar, as shares of the equity at the close before."""
        gross, traded, bars_traded = 0.0, 0.0, 0
        for bars, simulation, scale in strong:
            equity = simulation.equity[:, 0]
            gross += (np.diff(equity) / equity[:-1]).sum() / scale
            traded += sum(abs(f.units) * f.price / equity[f.bar - 1] for f in simulation.fills)
            bars_traded += bars.exists.sum() / len(SYMBOLS)
        return gross / bars_traded, traded / bars_traded

    def test_the_break_even(self, strong):
        """Gross over turnover, within 3 %."""
        gross, turnover = self.pool(strong)

        assert gross / turnover == pytest.approx(GROSS / TURNOVER, rel=0.03)

    def test_the_turnover(self, strong):
        """Within 1 %."""
        _, turnover = self.pool(strong)

        assert turnover == pytest.approx(TURNOVER, rel=0.01)

    def test_at_the_break_even_nothing_is_left(self, strong):
        """The figure that a report shows, charged as the fee, takes the whole gain."""
        bars, simulation, _ = strong[0]
        shown = measure(bars, simulation, NO_COSTS, start=1e4, draws=100, level=0.9, seed=1).break_even_bps.value
        targets = target_weights(bars, [Policy("sign", side="both")], statistics=None, cost=0.0)
        costs = replace(NO_COSTS, taker_bps=shown)
        net = simulate(bars, targets, costs, equity=1e4, answered=find_answered(bars)).equity[-1, 0] / 1e4

        # A fee shrinks later orders, so the gains of some days weigh more than before: not exactly zero.
        assert simulation.equity[-1, 0] > 3e4
        assert net == pytest.approx(1.0, abs=0.1)


def test_without_a_signal_the_interval_of_the_sharpe_ratio_covers_zero():
    """At no cost, in at least 85 % of 200 markets whose moves are pure chance: a rule that follows the last move.

    Sixty daily candles: only daily returns enter the ratio.
    """
    covered = 0
    window = TimeRange(GENESIS_MS, GENESIS_MS + 60 * DAY_MS)
    for seed in range(200):
        source = SimSource(interval="1d", seed=seed, signal="none", end_ms=window.end_ms)
        candles = {"BTCUSDT": source.candles("BTCUSDT", window)}
        frame = candles["BTCUSDT"]
        p = 0.5 + 0.1 * np.sign(frame["close"].to_numpy() - frame["open"].to_numpy())
        bars = align_bars(candles, {"BTCUSDT": score(frame, p)}, step_ms=DAY_MS)
        simulation = follow_signs(bars)
        sharpe = measure(bars, simulation, NO_COSTS, start=1e4, draws=300, level=0.9, seed=seed).sharpe
        covered += sharpe.low <= 0 <= sharpe.high
        assert daily_equity(bars, simulation.equity)[0].size == 60

    assert 0.85 <= covered / 200 <= 0.97
