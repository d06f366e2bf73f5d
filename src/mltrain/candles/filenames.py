"""Read the symbol and the interval from the name of a candle file.

Pure: names in, names out. Examples are `BTCUSDT.parquet`, Binance's `BTCUSDT-1m-2025-01-01.zip`, freqtrade's
`BTC_USDT-1m.json` and Kraken's `XBTUSD_60.csv`; symbol and interval may stand in any order among other words.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from mltrain.names import SYMBOL
from mltrain.times import INTERVALS_MS, MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENDINGS: Final = re.compile(r"\.(?:parquet|csv|json|gz|zip)\b.*", re.IGNORECASE)

#: Quote assets, longest first. A coin is one only where no other matches: SPOT_BTC_USDT is BTCUSDT.
_QUOTES: Final = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY")
_COINS: Final = ("BTC", "ETH", "BNB")

# Intervals of exchanges that are not supported here.
_OTHER_INTERVALS: Final = frozenset({"1s", "3d", "1w", "1M", "1mo"})
# Kraken's names: symbol and number of minutes, nothing else.
_MINUTES: Final = re.compile(r"([A-Za-z0-9]+)_([0-9]{1,4})")
_BY_MINUTES: Final = {str(ms // MINUTE_MS): name for name, ms in INTERVALS_MS.items()}


def symbol_of(name: str) -> str | None:
    """Return the symbol in a file's name; None if it has none.

    It is the first part in capitals that ends in a quote asset, or two parts of which the second is a quote asset;
    otherwise the first part of capitals and digits that begins with a letter; otherwise the first part.

    >>> symbol_of("binanceUS_BTCUSDT_1m.csv"), symbol_of("ETH_BTC-1h.json.gz"), symbol_of("ethusdt.parquet")
    ('BTCUSDT', 'ETHBTC', 'ETHUSDT')
    """
    parts = _parts(name)
    capitals = [part for part in parts if SYMBOL.fullmatch(part) and not part[0].isdigit()]
    parts = parts if capitals else [part.upper() for part in parts]
    symbol = _pair(parts, _QUOTES) or _pair(parts, _COINS) or (capitals or parts or [""])[0]
    return symbol if SYMBOL.fullmatch(symbol) else None


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[-_., ]", _ENDINGS.sub("", name)) if part]


def _pair(parts: list[str], quotes: tuple[str, ...]) -> str | None:
    """Return the first part that ends in one of `quotes`, or that is followed by one, joined with it."""
    for part, following in pairwise([*parts, ""]):
        if SYMBOL.fullmatch(part) and following in quotes:
            return part + following
        if SYMBOL.fullmatch(part) and part.endswith(quotes) and part not in quotes:
            return part
    return None


def interval_of(name: str, *, siblings: Iterable[str] = ()) -> str | None:
    """Return the interval that a file's name states; None where it states none, or more than one.

    Args:
        name: The name of the file.
        siblings: The names of all files of its symbol. `XBTUSD_5.csv` has five-minute candles, as Kraken publishes it,
            unless a sibling has a number that is not an interval: then they are numbered parts.

    >>> interval_of("BTCUSDT-15m-2025-01-01.csv"), interval_of("XBTUSD_60.csv"), interval_of("BTCUSDT.parquet")
    ('15m', '1h', None)
    >>> interval_of("BTCUSDT_1.csv", siblings=["BTCUSDT_1.csv", "BTCUSDT_2.csv"])
    """
    stated = {part for part in _parts(name) if part in INTERVALS_MS or part in _OTHER_INTERVALS}
    if len(stated) == 1:
        return stated.pop()
    minutes = _minutes_of(name)
    numbers = {number for other in siblings if (number := _minutes_of(other)) is not None}
    return _BY_MINUTES.get(minutes) if minutes is not None and numbers <= _BY_MINUTES.keys() and not stated else None


def _minutes_of(name: str) -> str | None:
    match = _MINUTES.fullmatch(_ENDINGS.sub("", name))
    return match[2] if match else None
