"""The gross returns of a model's predictions, and how much of them may be bid-ask bounce.

The predicted side is "up" above a probability of one half or, if up and down are not about equally frequent, above the
base rate: otherwise nearly all predictions would be for one side. This is not a strategy, and no cost is charged.

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
        pairs: Number of those pairs of returns.
    """

    symbol: str
    gap_share: float
    repeated_opens: float
    autocorrelation: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Economics:
    """The gross returns of predictions on the holdout, in bps of the capital per bar.

    Each row's position is held for the label's horizon of h bars, with 1/h of the capital.

    Attributes:
        close_bps: Mean return from the close in the predicted direction.
        open_bps: Mean return from the open of the next candle, the first price at which one could trade.
        turnover: Capital traded per bar, as a multiple of the position: 2 if every bar reverses it.
        break_even_bps: Cost per side, in bps, that consumes `open_bps`; None if nothing is traded.
        weekdays_bps: `open_bps` from Monday to Friday UTC; None without such rows.
        weekends_bps: `open_bps` on Saturday and Sunday UTC; None without such rows.
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
    """Return the price moves from the close of each row, and from the next open, to the end of the row's label.

    Args:
        candles: By symbol, sorted by time, including the candle of every row and of its label's end.
        rows: The n rows.
        horizon_bars: Length of a label, in bars.
        step_ms: Length of a bar, in ms.
    """
    from_close, from_open = np.full((2, rows.ts_ms.size), np.nan)
    for ix, symbol in enumerate(rows.symbols):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        if not symbol_rows.size:
            continue
        frame, candle_ms, row_ms = candles[symbol], times_ms(candles[symbol]), rows.ts_ms[symbol_rows]
        close, open_ = frame["close"].to_numpy(), frame["open"].to_numpy()
        now, end = (np.searchsorted(candle_ms, row_ms + bars * step_ms) for bars in (0, horizon_bars))
        following = np.minimum(now + 1, candle_ms.size - 1)
        is_next = candle_ms[following] == row_ms + step_ms
        from_close[symbol_rows] = (close[end] / close[now] - 1) * BPS
        from_open[symbol_rows] = np.where(is_next, (close[end] / open_[following] - 1) * BPS, np.nan)
    return ForwardReturns(from_close, from_open)


def find_bounce(candles: Mapping[str, pl.DataFrame], *, step_ms: int) -> tuple[SymbolBounce, ...]:
    """Return the signs of bid-ask bounce of each symbol, sorted by symbol.

    Args:
        candles: By symbol, sorted by time.
        step_ms: Length of a bar, in ms; neighbours across a gap are not compared.
    """
    bounces = []
    for symbol in sorted(candles):
        frame = candles[symbol]
        close, open_ = frame["close"].to_numpy(), frame["open"].to_numpy()
        # Whether each candle from the second on follows the one before without a gap.
        is_adjacent = np.diff(times_ms(frame)) == step_ms
        gap, move = np.abs(open_[1:] - close[:-1])[is_adjacent], np.abs(np.diff(close))[is_adjacent]
        mean_move = float(move.mean()) if move.size else 0.0
        returns, is_pair = np.diff(np.log(close)), is_adjacent[1:] & is_adjacent[:-1]
        pairs = pl.DataFrame({"earlier": returns[:-1][is_pair], "later": returns[1:][is_pair]})
        bounces.append(
            SymbolBounce(
                symbol,
                gap_share=float(gap.mean()) / mean_move if mean_move > 0 else 0.0,
                repeated_opens=float(np.mean(gap == 0)) if gap.size else 0.0,
                # The correlation is NaN without pairs, or if one side does not vary.
                autocorrelation=pairs.select(pl.corr("earlier", "later", method="spearman").fill_nan(0.0)).item(),
                pairs=pairs.height,
            )
        )
    return tuple(bounces)


def score_economics(
    up: NDArray[np.bool_],
    rows: Samples,
    returns: ForwardReturns,
    bootstrap: Bootstrap,
    *,
    horizon_bars: int,
    step_ms: int,
) -> Economics:
    """Return the gross returns of holding each row's predicted side until the end of its label.

    Args:
        up: Which rows are predicted "up", shape (n,); a position in the others is short.
        rows: The n rows.
        returns: The price moves after these rows.
        bootstrap: The bootstrap of these rows.
        horizon_bars: Length of a label, in bars.
        step_ms: Length of a bar, in ms.
    """
    side = np.where(up, 1.0, -1.0)
    has_open = np.isfinite(returns.from_open)
    earned_bps = np.where(has_open, side * returns.from_open, 0.0)
    open_bps = bootstrap.ratio(earned_bps / horizon_bars, has_open)
    turnover = float(_trade_sizes(side, rows, horizon_ms=horizon_bars * step_ms).mean()) / horizon_bars
    is_weekend = (rows.ts_ms - FIRST_MONDAY_MS) // DAY_MS % 7 >= _WEEKDAYS
    weekdays_bps, weekends_bps = (
        float(earned_bps[is_part].mean()) / horizon_bars if is_part.any() else None
        for is_part in (has_open & ~is_weekend, has_open & is_weekend)
    )
    return Economics(
        close_bps=float((side * returns.from_close)[has_open].mean()) / horizon_bars if has_open.any() else 0.0,
        open_bps=open_bps,
        turnover=turnover,
        break_even_bps=open_bps.value / turnover if turnover > 0 else None,
        weekdays_bps=weekdays_bps,
        weekends_bps=weekends_bps,
    )


def _trade_sizes(side: NDArray[np.float64], rows: Samples, *, horizon_ms: int) -> NDArray[np.float64]:
    """Return the size of each row's trade, shape (n,), in positions: 2 if it reverses one, 1 if it opens one, else 0.

    A row with side 1 (long) or -1 (short) takes the place of the symbol's last position at or before one horizon ago;
    the first rows open one.
    """
    sizes = np.abs(side)
    for ix in range(len(rows.symbols)):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        row_ms = rows.ts_ms[symbol_rows]
        earlier = np.searchsorted(row_ms, row_ms - horizon_ms, side="right") - 1
        has_earlier = earlier >= 0
        replacing, replaced = symbol_rows[has_earlier], symbol_rows[earlier[has_earlier]]
        sizes[replacing] = np.abs(side[replacing] - side[replaced])
    return sizes
