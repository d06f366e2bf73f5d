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

#: Quote assets, longest first. A coin counts as quote asset only if none of these matches: SPOT_BTC_USDT is BTCUSDT.
_QUOTES: Final = ("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USD", "EUR", "GBP", "TRY", "BRL", "JPY")
_QUOTE_COINS: Final = ("BTC", "ETH", "BNB")

# Intervals of exchanges that mltrain does not support.
_OTHER_INTERVALS: Final = frozenset({"1s", "3d", "1w", "1M", "1mo"})
# Kraken's names: symbol and number of minutes, nothing else.
_KRAKEN_NAME: Final = re.compile(r"([A-Za-z0-9]+)_([0-9]{1,4})")
_BY_MINUTES: Final = {str(ms // MINUTE_MS): name for name, ms in INTERVALS_MS.items()}


def parse_symbol(name: str) -> str | None:
    """Return the symbol in the name of a candle file; None if there is none.

    It is the first part in capitals that ends in a quote asset, or two parts of which the second is a quote asset;
    otherwise the first part of capitals and digits that begins with a letter; otherwise the first part.

    >>> parse_symbol("binanceUS_BTCUSDT_1m.csv"), parse_symbol("ETH_BTC-1h.json.gz"), parse_symbol("ethusdt.parquet")
    ('BTCUSDT', 'ETHBTC', 'ETHUSDT')
    """
    parts = _split_name(name)
    capitals = [part for part in parts if SYMBOL.fullmatch(part) and not part[0].isdigit()]
    parts = parts if capitals else [part.upper() for part in parts]
    symbol = _find_pair(parts, _QUOTES) or _find_pair(parts, _QUOTE_COINS) or (capitals or parts or [""])[0]
    return symbol if SYMBOL.fullmatch(symbol) else None


def _split_name(name: str) -> list[str]:
    """Split a file's name, without its endings, at each of `-_., `."""
    return [part for part in re.split(r"[-_., ]", _ENDINGS.sub("", name)) if part]


def _find_pair(parts: list[str], quotes: tuple[str, ...]) -> str | None:
    """Return the first part that ends in one of `quotes`, or is followed by one, which is then appended; or None."""
    for part, following in pairwise([*parts, ""]):
        if SYMBOL.fullmatch(part) and following in quotes:
            return part + following
        if SYMBOL.fullmatch(part) and part.endswith(quotes) and part not in quotes:
            return part
    return None


def parse_interval(name: str, *, siblings: Iterable[str] = ()) -> str | None:
    """Return the interval, such as "1m", in the name of a candle file; None if there is none, or more than one.

    Args:
        name: The name of the file.
        siblings: The names of all files of its symbol. `XBTUSD_5.csv` has five-minute candles, as Kraken publishes it,
            unless a sibling has a number that is not an interval: then they are numbered parts.

    >>> parse_interval("BTCUSDT-15m-2025-01-01.csv"), parse_interval("XBTUSD_60.csv"), parse_interval("BTCUSDT.csv")
    ('15m', '1h', None)
    >>> parse_interval("BTCUSDT_1.csv", siblings=["BTCUSDT_1.csv", "BTCUSDT_2.csv"])
    """
    stated = {part for part in _split_name(name) if part in INTERVALS_MS or part in _OTHER_INTERVALS}
    if len(stated) == 1:
        return stated.pop()
    minutes = _parse_kraken_minutes(name)
    numbers = {number for sibling in siblings if (number := _parse_kraken_minutes(sibling)) is not None}
    return _BY_MINUTES.get(minutes) if minutes is not None and numbers <= _BY_MINUTES.keys() and not stated else None


def _parse_kraken_minutes(name: str) -> str | None:
    """Return the number of minutes, as text, of a file name like Kraken's `XBTUSD_60.csv`; None for any other name."""
    match = _KRAKEN_NAME.fullmatch(_ENDINGS.sub("", name))
    return match[2] if match else None
