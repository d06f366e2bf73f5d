"""What trading costs: fees, spread, slippage, market impact and funding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias, get_args

import numpy as np
import polars as pl

from mltrain.documents.records import Limits, record
from mltrain.errors import UsageError
from mltrain.names import show
from mltrain.times import DAY_MS
from mltrain.training.label_rules import BPS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mltrain.backtesting.bars import Bars

Market: TypeAlias = Literal["spot", "perp"]
Fill: TypeAlias = Literal["next-open", "maker"]

# A limit order is filled only if the bar trades through its price by more than this share of it.
_THROUGH: Final = 1e-4


@record
@dataclass(frozen=True, slots=True)
class Costs:
    """How orders are filled, and what that costs.

    Attributes:
        market: "spot", or "perp" for a perpetual future, which pays funding and can be ruined.
        taker_bps: Fee of an order that takes the price, in bps of its value.
        maker_bps: Fee of a limit order, in bps of its value.
        spread_bps: Bid-ask spread, in bps of the price; a taker pays half of it.
        slippage_bps: Further loss of a taker, in bps of the price.
        impact: Factor Y of the square-root law of market impact; 0: none.
        participation: Largest share of a bar's volume that is filled, above 0; None: no limit.
        fill: "next-open": at the next open, as a taker; "maker": by a limit order at the close of the decision.
        delay_bars: Bars by which each order arrives later.
    """

    market: Market = "spot"
    taker_bps: float = 10.0
    maker_bps: float = 10.0
    spread_bps: float = 0.0
    slippage_bps: float = 1.0
    impact: float = 0.0
    participation: float | None = 0.1
    fill: Fill = "next-open"
    delay_bars: Annotated[int, Limits(0)] = 0

    def __post_init__(self) -> None:
        """Check every field; a UsageError names all that are wrong."""
        problems = [
            f"{name} is {show(str(value))}: expected one of {', '.join(known)}"
            for name, value, known in (("market", self.market, get_args(Market)), ("fill", self.fill, get_args(Fill)))
            if value not in known
        ]
        problems += [
            f"{name.replace('_', '-')} is {value}: expected 0 or above"
            for name in ("taker_bps", "maker_bps", "spread_bps", "slippage_bps", "impact")
            if not 0 <= (value := getattr(self, name)) < float("inf")
        ]
        if self.participation is not None and not 0 < self.participation < float("inf"):
            problems.append(f"participation is {self.participation}: expected a share above 0")
        if self.delay_bars < 0:
            problems.append(f"delay-bars is {self.delay_bars}: expected 0 or above")
        if self.spread_bps / 2 + self.slippage_bps >= BPS:
            problems.append("spread and slippage together exceed the price")
        if problems:
            raise UsageError("; ".join(problems))

    @property
    def taker_cost(self) -> float:
        """What a taker loses per side without impact, as a share of the value traded."""
        return (self.taker_bps + self.spread_bps / 2 + self.slippage_bps) / BPS

    @property
    def taker_loss(self) -> float:
        """Half the spread and slippage, as a share of the price."""
        return (self.spread_bps / 2 + self.slippage_bps) / BPS


def trades_through(
    side: NDArray[np.float64], limit: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return whether bars trade strictly through limits of buys (side above 0) and sells; no candle never does."""
    return np.where(side > 0, low < limit * (1 - _THROUGH), high > limit * (1 + _THROUGH))


@dataclass(frozen=True, slots=True, eq=False)
class RecentTrading:
    """What market impact depends on: the candles of the last 24 hours before each bar, fewer at the start.

    Attributes:
        volatility: Square root of the sum of squared returns from close to close, a ratio, shape (t, s).
        value: Traded value in the quote asset, shape (t, s); 0 if unknown.
    """

    volatility: NDArray[np.float64]
    value: NDArray[np.float64]

    def impact(self, bar: int, value: NDArray[np.float64], costs: Costs) -> NDArray[np.float64]:
        """Return the impact of orders of a value in the quote asset, shape (..., s), as a share of the price.

        Y sigma sqrt(order / traded), the square-root law (Almgren et al. 2005). Without trades, the order counts as
        large as all of them. With half the spread and slippage, the loss is the price at most.
        """
        traded = self.value[bar]
        ratio = np.divide(value, traded, out=np.ones_like(value), where=traded > 0)
        impact: NDArray[np.float64] = costs.impact * self.volatility[bar] * np.sqrt(ratio)
        return np.minimum(impact, 1 - costs.taker_loss)


def measure_recent_trading(bars: Bars) -> RecentTrading:
    """Return volatility and traded value of the 24 hours before each bar."""
    window = max(1, DAY_MS // bars.step_ms)
    variance, value = np.zeros(bars.open.shape), np.zeros(bars.open.shape)
    for ix in range(len(bars.symbols)):
        row = np.flatnonzero(bars.exists[:, ix])
        close, first_open = bars.close[row, ix], bars.open[row[0], ix]
        returns = close / np.concatenate([[first_open], close[:-1]]) - 1
        variance[row, ix] = _sum_before(np.square(returns), window)
        value[row, ix] = _sum_before(np.nan_to_num(bars.quote_volume[row, ix]), window)
    return RecentTrading(np.sqrt(variance), value)


def _sum_before(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the sum of the last `window` values before each, shape (n,); fewer at the start, 0 before the first."""
    # Compensated sums: a difference of running totals would keep the rounding error of every past jump.
    sums = pl.Series(values).rolling_sum(window, min_samples=1)
    return sums.shift(1, fill_value=0.0).to_numpy()
