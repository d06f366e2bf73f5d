"""The gross returns of a model's predictions, and how much of them may be bid-ask bounce.

The predicted side is "up" above a probability of one half or, if up and down are not about equally frequent, above the
base rate: otherwise nearly all predictions would be for one side. This is not a strategy, and no cost is charged.

Trades that alternate between bid and ask make a price seem to reverse after every move, though nobody can trade at both
prices (Roll 1984). It shows in three ways: opens that differ from the previous close, returns that reverse at lag 1
when opens repeat that close, and predictions that earn much less from the next candle's open than from the close at
which they were made.

The rows that judge a model are those with a label. A candle whose label was dropped as a tie is traded like any other,
because it is known to be a tie only at the end: `score_moves` takes such rows too, and so its break-even cost is lower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from mltrain.candles.frame import times_ms
from mltrain.times import DAY_MS, FIRST_MONDAY_MS
from mltrain.training.bootstrap import Estimate
from mltrain.training.label_rules import BPS
from mltrain.training.metrics import equal_mass_bins
from mltrain.training.slices import TERCILES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from mltrain.training.bootstrap import Bootstrap, Interval
    from mltrain.training.samples import Samples

_WEEKDAYS: Final = 5
# Names of the fifths of the rows by confidence, the least sure first.
FIFTHS: Final = ("lowest", "low", "middle", "high", "highest")


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

    Each row's position is held until the end of its label, at most the horizon of h bars, with 1/h of the capital.

    Attributes:
        close_bps: Mean return from the close in the predicted direction.
        open_bps: Mean return from the open of the next candle, the first price at which one could trade.
        turnover: Capital traded per bar, as a multiple of the position: 2 if every bar reverses it.
        break_even_bps: Cost per side, in bps, that consumes `open_bps`; None if nothing is traded.
        weekdays_bps: `open_bps` from Monday to Friday UTC; None without such rows.
        weekends_bps: `open_bps` on Saturday and Sunday UTC; None without such rows.
        taker_bps: Taker fees per side, in bps, that `break_even` is compared with, from the configuration.
        break_even: `break_even_bps` with its interval, from all rows, those whose label was dropped as a tie included;
            None if trades lie in fewer than two blocks of the bootstrap.
        by_confidence: Mean move by fifths of all rows, the least confident first; parts without rows are left out.
        by_volatility: Mean move by terciles of volatility, the lowest first.
    """

    close_bps: float
    open_bps: Interval
    turnover: float
    break_even_bps: float | None
    weekdays_bps: float | None
    weekends_bps: float | None
    taker_bps: float
    break_even: Interval | None
    by_confidence: tuple[MeanMove, ...]
    by_volatility: tuple[MeanMove, ...]


@dataclass(frozen=True, slots=True)
class MeanMove:
    """How far the price moved in the predicted direction, on one part of the rows.

    Attributes:
        name: A fifth of the rows by confidence, lowest to highest; or a tercile of volatility: calm, ordinary or wild.
        rows: Number of rows, those whose label was dropped as a tie included.
        confidence: Mean distance of the probability from the threshold between up and down; None without rows.
        move_bps: Mean move from the open of the next candle to the end of the label; None if the rows lie in fewer than
            two blocks of the bootstrap.
    """

    name: str
    rows: int
    confidence: float | None
    move_bps: Interval | None


@dataclass(frozen=True, slots=True)
class Moves:
    """What the price does after a prediction, and what trading on each prediction may cost.

    Attributes:
        break_even: As in `Economics`, like the two below.
        break_even_estimate: The same with its standard error, which a gate judges.
        by_confidence: Mean move by confidence.
        by_volatility: Mean move by volatility.
    """

    break_even: Interval | None
    break_even_estimate: Estimate | None
    by_confidence: tuple[MeanMove, ...]
    by_volatility: tuple[MeanMove, ...]


def forward_returns(candles: Mapping[str, pl.DataFrame], rows: Samples, *, step_ms: int) -> ForwardReturns:
    """Return the price moves from the close of each row, and from the next open, to the end of the row's label.

    The move ends at the close of the candle that decided the label. That is also what the touch of a barrier earns: the
    price of the barrier itself would assume an order that fills there.

    Args:
        candles: By symbol, sorted by time, including the candle of every row and of its label's end.
        rows: The n rows.
        step_ms: Length of a bar, in ms.
    """
    from_close, from_open = np.full((2, rows.ts_ms.size), np.nan)
    for ix, symbol in enumerate(rows.symbols):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        if not symbol_rows.size:
            continue
        frame, candle_ms, row_ms = candles[symbol], times_ms(candles[symbol]), rows.ts_ms[symbol_rows]
        close, open_ = frame["close"].to_numpy(), frame["open"].to_numpy()
        now, end = (np.searchsorted(candle_ms, times) for times in (row_ms, rows.label_end_ms[symbol_rows]))
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
    moves: Moves,
    *,
    taker_bps: float,
    horizon_bars: int,
    step_ms: int,
) -> Economics:
    """Return the gross returns of holding each row's predicted side until the end of its label.

    Args:
        up: Which rows are predicted "up", shape (n,); a position in the others is short.
        rows: The n rows.
        returns: The price moves after these rows.
        bootstrap: The bootstrap of these rows.
        moves: The mean moves and the break-even cost, from `score_moves`.
        taker_bps: Taker fees per side, in bps.
        horizon_bars: Greatest length of a label, in bars.
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
        taker_bps=taker_bps,
        break_even=moves.break_even,
        by_confidence=moves.by_confidence,
        by_volatility=moves.by_volatility,
    )


def score_moves(
    p: NDArray[np.float64],
    rows: Samples,
    returns: ForwardReturns,
    bootstrap: Bootstrap,
    *,
    threshold: NDArray[np.float64],
    tercile: NDArray[np.int8],
    horizon_ms: int,
) -> Moves:
    """Return the mean moves after predictions by confidence and by volatility, and the break-even cost.

    Rows without a candle after them are left out: nobody could have traded them.

    Args:
        p: Probabilities of "up", shape (n,), in [0, 1].
        rows: The n rows, in the order of time.
        returns: The price moves after these rows.
        bootstrap: The bootstrap of these rows.
        threshold: Probability of each row above which "up" is predicted, shape (n,).
        tercile: Tercile of volatility of each row, shape (n,): 0, 1 or 2; -1 if it is unknown.
        horizon_ms: Greatest length of a label, in ms.
    """
    side = np.where(p > threshold, 1.0, -1.0)
    has_open = np.isfinite(returns.from_open)
    earned_bps = np.where(has_open, side * returns.from_open, 0.0)
    sizes = np.where(has_open, _trade_sizes(side, rows, horizon_ms=horizon_ms), 0.0)
    confidence = np.abs(p - threshold)
    fifth = np.full(p.size, -1)
    if has_open.any():
        fifth[has_open] = equal_mass_bins(confidence[has_open], len(FIFTHS))

    def mean_move(name: str, is_part: NDArray[np.bool_]) -> MeanMove:
        count = int(np.count_nonzero(is_part))
        mean_confidence = float(confidence[is_part].mean()) if count else None
        return MeanMove(name, count, mean_confidence, _ratio(np.where(is_part, earned_bps, 0.0), is_part, bootstrap)[0])

    break_even, estimate = _ratio(earned_bps, sizes, bootstrap)
    fifths = [mean_move(name, fifth == k) for k, name in enumerate(FIFTHS)]
    terciles = [mean_move(name, has_open & (tercile == k)) for k, name in enumerate(TERCILES)]
    return Moves(break_even, estimate, tuple(part for part in fifths if part.rows), tuple(terciles))


def _ratio(
    part: NDArray[np.float64], whole: NDArray[np.float64] | NDArray[np.bool_], bootstrap: Bootstrap
) -> tuple[Interval | None, Estimate | None]:
    """Return sum of `part` / sum of `whole`, both of shape (n,), with its interval, and with its standard error.

    None if `whole` is above 0 in fewer than two blocks; draws of other blocks only are left out.
    """
    parts, wholes = bootstrap.block_sums(part), bootstrap.block_sums(whole)
    if np.count_nonzero(wholes) < 2:
        return None, None
    draw_parts, draw_wholes = bootstrap.draw_sums(parts), bootstrap.draw_sums(wholes)
    is_drawn = draw_wholes > 0
    draw_values = draw_parts[is_drawn] / draw_wholes[is_drawn]
    value = float(parts.sum() / wholes.sum())
    return bootstrap.interval(value, draw_values), Estimate(value, float(draw_values.std()), bootstrap.blocks)


def describe_break_even(break_even: Interval | None, *, taker_bps: float) -> str:
    """Return a clause that compares the break-even cost with taker fees, both in bps per side; None: it is unknown.

    >>> from mltrain.training.bootstrap import Interval
    >>> describe_break_even(Interval(1.5, 1.0, 2.0), taker_bps=10.0)
    'not tradable at taker fees of 10 bps per side: it breaks even at 1.50 (1.00 to 2.00)'
    >>> describe_break_even(Interval(15.0, 12.0, 18.0), taker_bps=10.0)
    'breaks even at 15.00 bps per side (12.00 to 18.00), above the taker fees of 10'
    >>> describe_break_even(Interval(12.0, 9.0, 15.0), taker_bps=10.0)
    'breaks even at 12.00 bps per side (9.00 to 15.00), not clearly above or below the taker fees of 10'
    """
    if break_even is None:
        return "break-even cost unknown: there are hardly any trades"
    ends = f"({break_even.low:.2f} to {break_even.high:.2f})"
    if break_even.high < taker_bps:
        fees = f"not tradable at taker fees of {taker_bps:g} bps per side"
        return f"{fees}: it breaks even at {break_even.value:.2f} {ends}"
    relation = "above" if break_even.low > taker_bps else "not clearly above or below"
    return f"breaks even at {break_even.value:.2f} bps per side {ends}, {relation} the taker fees of {taker_bps:g}"


def _trade_sizes(side: NDArray[np.float64], rows: Samples, *, horizon_ms: int) -> NDArray[np.float64]:
    """Return the size of each row's trade, shape (n,), in positions: 2 if it reverses one, 1 if it opens one, else 0.

    A row with side 1 (long) or -1 (short) takes the place of the symbol's last position at or before one horizon ago;
    the first rows open one. Where labels end earlier than the horizon, each position is closed at the end of its label:
    what is traded at a time is the difference between the position that a row opens and those that end, and what is
    traded without a row counts for the next one.
    """
    sizes = np.abs(side)
    ends_vary = bool((rows.label_end_ms - rows.ts_ms != horizon_ms).any())
    for ix in range(len(rows.symbols)):
        symbol_rows = np.flatnonzero(rows.symbol_ix == ix)
        row_ms = rows.ts_ms[symbol_rows]
        if ends_vary and symbol_rows.size:
            end_ms = rows.label_end_ms[symbol_rows]
            # A position that ends after the last row is never closed, as with a fixed horizon.
            is_closed = end_ms <= row_ms[-1]
            times, time_ix = np.unique(np.concatenate([row_ms, end_ms[is_closed]]), return_inverse=True)
            changes = np.concatenate([side[symbol_rows], -side[symbol_rows[is_closed]]])
            traded = np.abs(np.bincount(time_ix, changes))
            sizes[symbol_rows] = np.bincount(np.searchsorted(row_ms, times), traded, minlength=row_ms.size)
            continue
        earlier = np.searchsorted(row_ms, row_ms - horizon_ms, side="right") - 1
        has_earlier = earlier >= 0
        replacing, replaced = symbol_rows[has_earlier], symbol_rows[earlier[has_earlier]]
        sizes[replacing] = np.abs(side[replacing] - side[replaced])
    return sizes
