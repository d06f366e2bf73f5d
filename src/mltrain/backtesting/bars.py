"""The bars of a backtest: candles and probabilities of all symbols on one time grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mltrain.candles.frame import times_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Candles and probabilities of s symbols at t times; a missing candle has NaN prices.

    The times are the grid from the first to the last candle of each symbol, joined. Bar i opens at `ts_ms[i]`; its
    close, and so its probability, is known one interval later.

    Attributes:
        symbols: The symbols, sorted: the order of all columns.
        step_ms: Length of a bar, in ms.
        ts_ms: Open times, ms UTC, shape (t,), rising.
        open: In the quote asset, shape (t, s); NaN where there is no candle.
        high: As `open`.
        low: As `open`.
        close: As `open`.
        volume: In the base asset, shape (t, s); NaN where unknown.
        quote_volume: In the quote asset, shape (t, s); NaN where unknown.
        p: Probability of up after each bar, in [0, 1], shape (t, s); NaN where there is none.
        refused: Whether the model refused to score the candle, shape (t, s).
        exists: Whether there is a candle, shape (t, s).
        mark: The last close at or before each bar, shape (t, s); before the first candle, its close.
        last: Position of each symbol's last candle, shape (s,).
    """

    symbols: tuple[str, ...]
    step_ms: int
    ts_ms: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    quote_volume: NDArray[np.float64]
    p: NDArray[np.float64]
    refused: NDArray[np.bool_]
    exists: NDArray[np.bool_]
    mark: NDArray[np.float64]
    last: NDArray[np.int64]


def align_bars(candles: Mapping[str, pl.DataFrame], scores: Mapping[str, pl.DataFrame], *, step_ms: int) -> Bars:
    """Join the candles and the probabilities of all symbols on one time grid.

    Args:
        candles: By symbol, at least one row each, as `check_candles` returns them; a missing volume is null.
        scores: By symbol, a row for each candle in the same order: `p` in [0, 1], null if refused, and `refused`, the
            reason or null.
        step_ms: Length of a bar, in ms.
    """
    symbols = tuple(sorted(candles))
    opens = {symbol: times_ms(candles[symbol]) for symbol in symbols}
    grids = [np.arange(times[0], times[-1] + step_ms, step_ms) for times in opens.values()]
    ts_ms = np.unique(np.concatenate(grids))
    shape = (ts_ms.size, len(symbols))
    columns = {name: np.full(shape, np.nan) for name in ("open", "high", "low", "close", "volume", "quote_volume", "p")}
    refused, exists = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    last = np.zeros(len(symbols), np.int64)
    for ix, symbol in enumerate(symbols):
        row = np.searchsorted(ts_ms, opens[symbol])
        frame, score = candles[symbol], scores[symbol]
        for name, column in columns.items():
            column[row, ix] = (score if name == "p" else frame)[name].cast(float).fill_null(np.nan).to_numpy()
        refused[row, ix] = score["refused"].is_not_null().to_numpy()
        exists[row, ix] = True
        last[ix] = row[-1]
    return Bars(
        symbols=symbols,
        step_ms=step_ms,
        ts_ms=ts_ms,
        refused=refused,
        exists=exists,
        mark=_fill_forward(columns["close"], exists),
        last=last,
        **columns,
    )


def _fill_forward(values: NDArray[np.float64], is_known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return each column, shape (t, s), with its last known value in place of unknown ones, and the first before it."""
    rows = np.arange(values.shape[0])[:, None]
    row = np.maximum.accumulate(np.where(is_known, rows, 0), axis=0)
    row = np.maximum(row, is_known.argmax(axis=0)[None, :])
    return np.take_along_axis(values, row, axis=0)
