"""Outcomes of the answers in the ledger: what the price did after each candle that had a probability.

Computed from ledger rows alone, by the rules that training labels with. A bar is settled once the candles of its
horizon are there, or are late enough to count as missing; a gap gives no outcome, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mltrain.times import parse_time
from mltrain.training.label_rules import Prices, find_outcomes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from mltrain.features.label_spec import LabelSpec
    from mltrain.monitoring.ledger import LedgerRow

# A symbol's candle counts as missing once another symbol has one that opened so many bars later.
_LATE_BARS: Final = 2


class Outcome(NamedTuple):
    """A probability and what came of it.

    Attributes:
        p: The probability of y = 1.
        y: The label, 0 or 1.
        base: The probability of y = 1 without a model: the base rate of the symbol's training rows.
    """

    p: float
    y: int
    base: float


@dataclass(frozen=True, slots=True)
class SettledBar:
    """A bar whose horizon has passed.

    Attributes:
        bar: Its number: open time, ms UTC, divided by the length of the interval.
        answered: Number of symbols that had a probability.
        outcomes: Those whose outcome is known, in any order; ties that the label drops are not among them.
    """

    bar: int
    answered: int
    outcomes: tuple[Outcome, ...]


class _Candle(NamedTuple):
    """The prices of a candle; NaN where the ledger lacks one."""

    high: float
    low: float
    close: float


class OutcomeFeed:
    """Turns the rows of one version into settled bars.

    Of several answers for one candle the first counts: a client that asks twice changes nothing.

    Args:
        label: The version's label.
        step_ms: Length of the interval of its candles, in ms.
        bases: The base rate of each symbol, in (0, 1); rows of other symbols are ignored.
    """

    def __init__(self, label: LabelSpec, step_ms: int, bases: Mapping[str, float]) -> None:
        self._label = label
        self._step_ms = step_ms
        self._bases = bases
        # Per symbol, by number of the bar.
        self._candles: dict[str, dict[int, _Candle]] = {symbol: {} for symbol in bases}
        # By number of the bar: the probability of each symbol. Bars before `_first_open` are settled.
        self._open: dict[int, dict[str, float]] = {}
        self._first_open = 0
        self._newest = 0

    def feed(self, rows: Iterable[LedgerRow]) -> list[SettledBar]:
        """Add rows, and return the bars that they settle, in order."""
        for row in rows:
            if row.ts is None or row.symbol is None or row.symbol not in self._bases:
                continue
            bar = parse_time(row.ts) // self._step_ms
            self._newest = max(self._newest, bar)
            if row.close is not None:
                high, low = (row.close if price is None else price for price in (row.high, row.low))
                self._candles[row.symbol].setdefault(bar, _Candle(high, low, row.close))
            if row.p is not None and row.refused is None and bar >= self._first_open:
                self._open.setdefault(bar, {}).setdefault(row.symbol, row.p)
        return self._settle()

    def _settle(self) -> list[SettledBar]:
        bars = []
        for bar in sorted(self._open):
            if not self._is_over(bar):
                break
            bars.append(bar)
        if not bars:
            return []
        y_of = {symbol: self._find_labels(symbol, bars) for symbol in self._bases}
        settled = []
        for bar in bars:
            answers = self._open.pop(bar)
            known = ((p, y_of[symbol].get(bar), self._bases[symbol]) for symbol, p in answers.items())
            settled.append(
                SettledBar(bar, len(answers), tuple(Outcome(p, y, base) for p, y, base in known if y is not None))
            )
        self._first_open = bars[-1] + 1
        self._drop_candles()
        return settled

    def _is_over(self, bar: int) -> bool:
        """Return whether nothing more can be learned about the outcomes of a bar."""
        end = bar + self._label.horizon_bars
        return self._newest >= end + _LATE_BARS or all(end in self._candles[symbol] for symbol in self._open[bar])

    def _find_labels(self, symbol: str, bars: list[int]) -> dict[int, int]:
        """Return the label of each of these bars that a symbol answered and that has one."""
        wanted = [bar for bar in bars if symbol in self._open[bar] and bar in self._candles[symbol]]
        if not wanted:
            return {}
        label, candles = self._label, self._candles[symbol]
        first, last = wanted[0] - label.lookback_bars + 1, wanted[-1] + label.horizon_bars
        known = sorted(bar for bar in candles if first <= bar <= last)
        numbers = np.array(known, np.int64)
        high, low, close = np.array([candles[bar] for bar in known]).T
        prices = Prices(numbers * self._step_ms, close, self._step_ms, high=high, low=low)
        rows = np.searchsorted(numbers, wanted)
        found = find_outcomes(prices, label, _find_volatility(prices, label.volatility_bars), rows=rows)
        return {
            bar: int(found.is_up[row]) for bar, row in zip(wanted, rows.tolist(), strict=True) if found.has_label[row]
        }

    def _drop_candles(self) -> None:
        """Drop the candles that no later outcome reads."""
        first = min(self._open, default=self._first_open) - self._label.lookback_bars + 1
        for symbol, candles in self._candles.items():
            # Bars come nearly in order, so that this is a pass over all of them only after many new ones.
            if candles and next(iter(candles)) < first:
                self._candles[symbol] = {bar: candle for bar, candle in candles.items() if bar >= first}


def _find_volatility(prices: Prices, bars: int | None) -> NDArray[np.float64] | None:
    """Return the realised volatility per bar over the last `bars` returns, NaN without them; None if none is needed.

    The root mean square of log returns, as `mltrain.features.ops.volatility.realised_volatility` has it up to rounding.
    """
    if bars is None:
        return None
    volatility = np.full(prices.close.size, np.nan)
    is_next = np.diff(prices.ts_ms) == prices.step_ms
    squares = np.where(is_next, np.diff(np.log(prices.close)), np.nan) ** 2
    if squares.size >= bars:
        windows = np.lib.stride_tricks.sliding_window_view(squares, bars)
        volatility[bars:] = np.sqrt(windows.mean(axis=1))
    return volatility
