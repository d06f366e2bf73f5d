"""The gross returns of a model's predictions, and how much of them may be bid-ask bounce.

Pure. The predicted side is "up" above a probability of one half or, if up and down are not about equally frequent,
above the base rate: otherwise nearly all predictions would be for one side. This is not a strategy, and no cost is
charged.

Trades that alternate between bid and ask make a price seem to reverse after every move, though nobody can trade at both
prices (Roll 1984). It shows in three ways: opens that differ from the previous close, returns that reverse at lag 1
when opens repeat that close, and predictions that earn much less from the next candle's open than from the close at
which they were made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.times import DAY_MS, FIRST_MONDAY_MS
from mltrain.training.label import BPS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.training.bootstrap import Bootstrap, Interval
    from mltrain.training.samples import Samples

_WEEKDAYS: Final = 5


@dataclass(frozen=True, slots=True, eq=False)
class ForwardReturns:
    """The return from each row to the end of its label, in bps.

    Attributes:
        from_close: From the close of the row's candle, shape (n,).
        from_open: From the open of the next candle, the first price at which one could trade, shape (n,); NaN if that
            candle is missing.
    """

    from_close: NDArray[np.float64]
    from_open: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SymbolBounce:
    """Signs of bid-ask bounce in the candles of one symbol.

    Attributes:
        symbol: The symbol.
        gap_share: Mean |open - previous close| over mean |close - previous close|; 0 if the price never moves.
        repeated_opens: Share of opens that equal the previous close.
        autocorrelation: Rank correlation (Spearman) of neighbouring one-bar returns; 0 if it is undefined. In
            Pearson's, one crash and its rebound would outweigh the calm hours, when the bounce is largest.
        pairs: Number of pairs of neighbouring returns.
    """

    symbol: str
    gap_share: float
    repeated_opens: float
    autocorrelation: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Economics:
    """The gross returns of predictions on the holdout.

    Each row's position is held for the label's horizon of h bars, with 1/h of the capital.

    Attributes:
        close_bps: Mean return from the close in the predicted direction, per bar, in bps.
        open_bps: The same from the open of the next candle, the first price at which one could trade.
        turnover: Capital traded per bar, as a multiple of the position: 2 if every bar reverses it.
        break_even_bps: Cost per side, in bps, that consumes `open_bps`; None if nothing is traded.
        weekdays_bps: `open_bps` from Monday to Friday UTC; None without such rows.
        weekends_bps: The same on Saturday and Sunday; None without such rows.
    """

    close_bps: float
    open_bps: Interval
    turnover: float
    break_even_bps: float | None
    weekdays_bps: float | None
    weekends_bps: float | None


def forward_returns(
    candles: Mapping[str, pl.DataFrame], rows: Samples, *, horizon_bars: int, step_ms: int
) -> ForwardReturns:
    """Return the price moves from each row to the end of its label.

    Args:
        candles: By symbol; they include the candle of every row and of its label's end.
        rows: The rows, n of them.
        horizon_bars: Bars to the end of the label.
        step_ms: Length of a bar.
    """
    from_close, from_open = np.full((2, rows.ts_ms.size), np.nan)
    for ix, symbol in enumerate(rows.symbols):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        if not symbol_rows.size:
            continue
        frame, ts_ms = candles[symbol], times_ms(candles[symbol])
        close, opened = (frame[name].to_numpy() for name in ("close", "open"))
        now, end = (np.searchsorted(ts_ms, rows.ts_ms[symbol_rows] + bars * step_ms) for bars in (0, horizon_bars))
        after = np.minimum(now + 1, ts_ms.size - 1)
        traded = ts_ms[after] == rows.ts_ms[symbol_rows] + step_ms
        from_close[symbol_rows] = (close[end] / close[now] - 1) * BPS
        from_open[symbol_rows] = np.where(traded, (close[end] / opened[after] - 1) * BPS, np.nan)
    return ForwardReturns(from_close, from_open)


def find_bounce(candles: Mapping[str, pl.DataFrame], *, step_ms: int) -> tuple[SymbolBounce, ...]:
    """Return the signs of bid-ask bounce of each symbol, by name.

    Args:
        candles: By symbol, sorted by time.
        step_ms: Length of a bar; neighbours across a gap are not compared.
    """
    bounces = []
    for symbol in sorted(candles):
        frame = candles[symbol]
        close, opened = (frame[name].to_numpy() for name in ("close", "open"))
        # Whether each candle follows the one before without a gap.
        adjacent = np.diff(times_ms(frame)) == step_ms
        gap, move = np.abs(opened[1:] - close[:-1])[adjacent], np.abs(np.diff(close))[adjacent]
        mean_move = float(move.mean()) if move.size else 0.0
        returns, pairs = np.diff(np.log(close)), adjacent[1:] & adjacent[:-1]
        neighbours = pl.DataFrame({"earlier": returns[:-1][pairs], "later": returns[1:][pairs]})
        # NaN without pairs, or if one side does not vary.
        correlation = neighbours.select(pl.corr("earlier", "later", method="spearman").fill_nan(0.0)).item()
        bounces.append(
            SymbolBounce(
                symbol,
                gap_share=float(gap.mean()) / mean_move if mean_move > 0 else 0.0,
                repeated_opens=float(np.mean(gap == 0)) if gap.size else 0.0,
                autocorrelation=correlation,
                pairs=int(np.count_nonzero(pairs)),
            )
        )
    return tuple(bounces)


def score_economics(
    up: NDArray[np.bool_],
    rows: Samples,
    moves: ForwardReturns,
    draws: Bootstrap,
    *,
    horizon_bars: int,
    step_ms: int,
) -> Economics:
    """Return the gross returns of predictions.

    Args:
        up: Which rows are predicted "up", shape (n,).
        rows: The rows, n of them.
        moves: The price moves after these rows.
        draws: The bootstrap of these rows.
        horizon_bars: Bars to the end of the label.
        step_ms: Length of a bar.
    """
    side = np.where(up, 1.0, -1.0)
    known = np.isfinite(moves.from_open)
    earned = np.where(known, side * moves.from_open, 0.0)
    per_bar = draws.ratio(earned / horizon_bars, known)
    turnover = float(_traded(side, rows, horizon_ms=horizon_bars * step_ms).mean()) / horizon_bars
    weekend = (rows.ts_ms - FIRST_MONDAY_MS) // DAY_MS % 7 >= _WEEKDAYS
    weekdays_bps, weekends_bps = (
        float(earned[these].mean()) / horizon_bars if these.any() else None
        for these in (known & ~weekend, known & weekend)
    )
    return Economics(
        close_bps=float((side * moves.from_close)[known].mean()) / horizon_bars if known.any() else 0.0,
        open_bps=per_bar,
        turnover=turnover,
        break_even_bps=per_bar.value / turnover if turnover > 0 else None,
        weekdays_bps=weekdays_bps,
        weekends_bps=weekends_bps,
    )


def _traded(side: NDArray[np.float64], rows: Samples, *, horizon_ms: int) -> NDArray[np.float64]:
    """Return how much each row trades: its side minus the side of the position that ends when it begins.

    That is the symbol's last position at or before one horizon ago; the first rows start without a position.
    """
    traded = np.abs(side)
    for ix in range(len(rows.symbols)):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        before = np.searchsorted(rows.ts_ms[symbol_rows], rows.ts_ms[symbol_rows] - horizon_ms, side="right") - 1
        has = before >= 0
        traded[symbol_rows[has]] = np.abs(side[symbol_rows[has]] - side[symbol_rows[before[has]]])
    return traded
