"""The spellings of a trading pair: `BTC/USDT`, `BTC_USDT_USDT`, `btc-usdt` and `BTCUSDT` are one symbol, BTCUSDT.

Pure: texts in, symbols out. A symbol has capitals and digits only, because it names files (see `mltrain.names.SYMBOL`).
A perpetual has the symbol of its pair; a delivery future ends in its day: `BTCUSDT_250627` is BTCUSDT250627.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mltrain.errors import UsageError
from mltrain.names import SYMBOL, nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Quote assets, longest first. A coin counts as quote asset only if none of these matches: SPOT_BTC_USDT is BTCUSDT.
_QUOTES: Final = (
    *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY"),
    *("AUD", "CAD", "CHF", "KRW", "PLN", "RUB", "UAH", "ZAR", "DAI"),
)
_QUOTE_COINS: Final = ("BTC", "ETH", "BNB")
# Before a coin they are the quote asset all the same, as in Poloniex's USDT_BTC: no market prices them in coins.
_STABLE: Final = frozenset({"FDUSD", "USDT", "USDC", "BUSD", "TUSD"})
_PERPETUAL: Final = frozenset({"PERP", "SWAP"})
_DELIVERY: Final = re.compile(r"[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
# MetaTrader's and Forex sites' names, such as BTCUSD1440: the symbol and the minutes of a candle.
_WITH_MINUTES: Final = re.compile(r"([A-Z0-9]*[A-Z])(1|5|15|30|60|240|1440|10080|43200)")


@dataclass(frozen=True, slots=True)
class Pair:
    """A trading pair among the words of a name.

    Attributes:
        symbol: Its symbol, such as BTCUSDT.
        start: Position of its first word.
        stop: Position of the word after its last one.
        futures: Whether it is written as a future: with the asset that settles it, PERP, SWAP or a delivery day.
        minutes: The length of a candle that is written in the same word, in minutes; "" if none is.
    """

    symbol: str
    start: int
    stop: int
    futures: bool = False
    minutes: str = ""


def canonical_symbol(text: str) -> str | None:
    """Return the symbol that a text spells, as ccxt, freqtrade, an exchange or a user writes it; None for no symbol.

    >>> [canonical_symbol(text) for text in ("BTC/USDT:USDT", "BTC_USDT_USDT", "btc-usd", "1000PEPEUSDT", "X:BTC-USD")]
    ['BTCUSDT', 'BTCUSDT', 'BTCUSD', '1000PEPEUSDT', 'BTCUSD']
    >>> canonical_symbol("BTC/USDT:USDT-250627"), canonical_symbol("BTCUSDT_250627"), canonical_symbol("BTC//USDT")
    ('BTCUSDT250627', 'BTCUSDT250627', None)
    """
    # "BINANCE:BTCUSDT" names the exchange first; after a slash, the colon is before the asset that settles the future.
    name = text.strip().upper()
    name = re.sub(r"^[A-Z0-9]+:(?=[A-Z0-9]+[-/_]?[A-Z0-9]*$)", "", name)
    parts = re.split(r"[-/_:]", name)
    if not all(parts) or len(parts) > 4:
        return None
    pair = find_pair(parts, separators="_" * (len(parts) - 1))
    symbol = pair.symbol if pair is not None and (pair.start, pair.stop) == (0, len(parts)) else "".join(parts)
    return symbol if is_symbol(symbol) else None


def names_future(text: str) -> bool:
    """Return whether a text spells a future: with the asset that settles it, PERP, SWAP or a delivery day.

    >>> [names_future(text) for text in ("BTC/USDT:USDT", "BTC-USDT-SWAP", "BTC/USDT", "BTCUSDT", "BINANCE:BTCUSDT")]
    [True, True, False, False, False]
    """
    parts = re.split(r"[-/_:]", text.strip().upper())
    pair = find_pair(parts, separators="_" * (len(parts) - 1)) if all(parts) else None
    return pair is not None and pair.futures


def is_symbol(text: str) -> bool:
    """Return whether a text is a symbol, and not only a number such as a year."""
    return SYMBOL.fullmatch(text) is not None and not text.isdigit()


def read_symbol(text: str, known: Iterable[str] = ()) -> str:
    """Return the symbol that a user's text spells; raise a UsageError that names the nearest known symbols."""
    symbol = canonical_symbol(text)
    if symbol is None:
        near = nearest(re.sub(r"[^A-Za-z0-9]", "", text), known)
        raise UsageError(
            f"{show(text)} is not a symbol (2 to 20 letters and digits, such as BTCUSDT or BTC/USDT)",
            hint=f"did you mean {' or '.join(near)}?" if near else "write it like BTCUSDT or BTC/USDT",
        )
    return symbol


def find_pair(parts: Sequence[str], *, separators: str) -> Pair | None:
    """Return the first trading pair among the words of a name; None if there is none.

    Args:
        parts: The words; one counts only if it is in capitals and digits.
        separators: The character between each two of them, one less than there are words.
    """
    return _find_pair_in(parts, separators, _QUOTES) or _find_pair_in(parts, separators, _QUOTE_COINS)


def _find_pair_in(parts: Sequence[str], separators: str, quotes: tuple[str, ...]) -> Pair | None:
    """Return the first pair whose quote asset is one of `quotes`: a word that ends in it, or is followed by it."""
    for i, part in enumerate(parts):
        following = parts[i + 1] if i + 1 < len(parts) else ""
        if SYMBOL.fullmatch(part) is None:
            continue
        if part in _STABLE and following in _QUOTE_COINS:
            return _extend(Pair(following + part, i, i + 2), parts, separators)
        if following in quotes and not part.isdigit():
            return _extend(Pair(part + following, i, i + 2), parts, separators)
        if part.endswith(quotes) and part not in quotes:
            return _extend(Pair(part, i, i + 1), parts, separators)
        match = _WITH_MINUTES.fullmatch(part)
        if match is not None and match[1].endswith(quotes) and match[1] not in quotes:
            return Pair(match[1], i, i + 1, minutes=match[2])
    return None


def _extend(pair: Pair, parts: Sequence[str], separators: str) -> Pair:
    """Add to a pair the words after it that belong to it: the asset that settles it, PERP or SWAP, a delivery day."""
    symbol, stop, futures = pair.symbol, pair.stop, False
    split = stop - pair.start == 2
    if split and stop < len(parts) and parts[stop] in {parts[pair.start], parts[pair.start + 1]}:
        stop, futures = stop + 1, True
    if stop < len(parts) and parts[stop] in _PERPETUAL:
        stop, futures = stop + 1, True
    # BTCUSDT-250627 may be a file of that day: only where the exchanges write a delivery day, it is one.
    elif stop < len(parts) and (split or separators[stop - 1] == "_") and _DELIVERY.fullmatch(parts[stop]):
        symbol, stop, futures = symbol + parts[stop], stop + 1, True
    return Pair(symbol, pair.start, stop, futures)
