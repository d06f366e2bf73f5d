"""What the name of a candle file says: its symbol, and the interval of its candles.

Pure: names in, names out. Understood are `BTCUSDT.parquet`, Binance's `BTCUSDT-1m-2025-01-01.zip`, freqtrade's
`BTC_USDT-1m.json`, Kraken's `XBTUSD_60.csv`, and such words in any order beside others.
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

#: What most symbols end in, longest first. The coins join only where nothing else does: SPOT_BTC_USDT is BTCUSDT.
_QUOTES: Final = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY")
_COINS: Final = ("BTC", "ETH", "BNB")

_OTHER_INTERVALS: Final = frozenset({"1s", "3d", "1w", "1M", "1mo"})  # the exchange has them, and no grid here does
_MINUTES: Final = re.compile(r"([A-Za-z0-9]+)_([0-9]{1,4})")  # Kraken's: symbol and number of minutes, nothing else
_BY_MINUTES: Final = {str(ms // MINUTE_MS): name for name, ms in INTERVALS_MS.items()}


def symbol_of(name: str) -> str | None:
    """Return the symbol that a file is named after; None where there is none.

    It is the first part in capitals that ends in the name of a quote asset, or two parts of which the second is one;
    else the first part that is all capitals and digits and begins with a letter; else the first part.

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
    """Return the first part that ends in one of `quotes`, or that one of them follows, joined."""
    for part, following in pairwise([*parts, ""]):
        if SYMBOL.fullmatch(part) and following in quotes:
            return part + following
        if SYMBOL.fullmatch(part) and part.endswith(quotes) and part not in quotes:
            return part
    return None


def interval_of(name: str, *, beside: Iterable[str] = ()) -> str | None:
    """Return the interval that a file's name states; None where it states none, or more than one.

    Args:
        name: The name of the file.
        beside: The names of all files of its symbol. `XBTUSD_5.csv` is five minutes, as Kraken publishes it, unless one
            of these has a number that is no interval: then they are numbered parts.

    >>> interval_of("BTCUSDT-15m-2025-01-01.csv"), interval_of("XBTUSD_60.csv"), interval_of("BTCUSDT.parquet")
    ('15m', '1h', None)
    >>> interval_of("BTCUSDT_1.csv", beside=["BTCUSDT_1.csv", "BTCUSDT_2.csv"])
    """
    stated = {part for part in _parts(name) if part in INTERVALS_MS or part in _OTHER_INTERVALS}
    if len(stated) == 1:
        return stated.pop()
    minutes = _minutes_of(name)
    numbers = {number for other in beside if (number := _minutes_of(other)) is not None}
    return _BY_MINUTES.get(minutes) if minutes is not None and numbers <= _BY_MINUTES.keys() and not stated else None


def _minutes_of(name: str) -> str | None:
    match = _MINUTES.fullmatch(_ENDINGS.sub("", name))
    return match[2] if match else None
