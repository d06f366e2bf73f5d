"""Read from a file's name and folders what candles it has: symbol, interval, market, or that it has no candles.

Pure: names in, values out. Examples are `BTCUSDT.parquet`, Binance's `BTCUSDT-1m-2025-01-01.zip`, freqtrade's
`BTC_USDT_USDT-1h-futures.feather`, Kraken's `XBTUSD_60.csv`, TradingView's `BINANCE_BTCUSDT, 60.csv` and MetaTrader's
`EURUSD_M1.csv`; symbol and interval may stand in any order among other words. What a name does not say, the folders
may: `BTCUSDT/1h/2025.csv`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from mltrain.candles.symbols import find_pair, is_symbol
from mltrain.names import SYMBOL
from mltrain.times import DAY_MS, HOUR_MS, INTERVALS_MS, MINUTE_MS, SECOND_MS, WEEK_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_ENDINGS: Final = re.compile(
    r"\.(?:parquet|feather|arrow|csv|tsv|txt|json|jsonl|ndjson|h5|hdf5|gz|zip)\b.*", re.IGNORECASE
)

# Words that follow the symbol in names of files without candles, and folders that hold only such files, in lower case
# and without "_" and "-". The names are those of Binance's archive, freqtrade and common downloaders.
_OTHER_DATA: Final = {
    "mark": "mark prices",
    "markprice": "mark prices",
    "markpriceklines": "mark prices",
    "index": "index prices",
    "indexprice": "index prices",
    "indexpriceklines": "index prices",
    "premiumindex": "premium index",
    "premiumindexklines": "premium index",
    "funding": "funding rates",
    "fundingrate": "funding rates",
    "fundingrates": "funding rates",
    "trades": "trades",
    "aggtrades": "trades",
    "openinterest": "open interest",
    "metrics": "metrics",
    "bookdepth": "order book",
    "bookticker": "order book",
    "orderbook": "order book",
    "liquidationsnapshot": "liquidations",
    "liquidations": "liquidations",
}
# Folders on the way to the user's own folder: only a name that the archive alone uses says what is in it.
_ARCHIVE_FOLDERS: Final = frozenset({"markpriceklines", "indexpriceklines", "premiumindexklines"})
# Words that may also be a name for the folder of anything, not only of other data.
_ONLY_IN_FILE_NAMES: Final = frozenset({"mark", "index"})

_FUTURES: Final = frozenset({"futures", "um", "cm", "usdm", "coinm", "swap", "perp", "perpetual", "perpetuals"})
_COIN_MARGINED: Final = frozenset({"cm", "coinm"})
# Binance's names of its COIN-M futures.
_COIN_SYMBOL: Final = re.compile(r"[A-Z0-9]+USD_(?:PERP|[0-9]{6})")
_EXCHANGES: Final = frozenset(
    {
        *("binance", "binanceus", "bitfinex", "bitget", "bitmart", "bitmex", "bitstamp", "bittrex", "bitvavo", "bybit"),
        *("coinbase", "coinbasepro", "deribit", "dydx", "gate", "gateio", "gemini", "hitbtc", "htx", "huobi"),
        *("hyperliquid", "kraken", "krakenfutures", "kucoin", "kucoinfutures", "mexc", "okex", "okx", "poloniex"),
        "upbit",
    }
)

# The units of an interval, as words in lower case; "M" alone is a month.
_UNITS_MS: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), SECOND_MS),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), MINUTE_MS),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), HOUR_MS),
    **dict.fromkeys(("d", "day", "days"), DAY_MS),
    **dict.fromkeys(("w", "wk", "week", "weeks"), WEEK_MS),
}
_MONTHS: Final = frozenset({"mo", "mon", "month", "months"})
_ALONE: Final = {
    **dict.fromkeys(("minute", "min"), "1m"),
    **dict.fromkeys(("h", "hour", "hourly"), "1h"),
    **dict.fromkeys(("d", "day", "daily"), "1d"),
    **dict.fromkeys(("w", "week", "weekly"), "1w"),
}
_NUMBER_AND_UNIT: Final = re.compile(r"([0-9]{1,4})([A-Za-z]+)")
_BITCOIN: Final = re.compile(r"([a-z]+)(USD|EUR|GBP|JPY)")
_META_TRADER: Final = re.compile(r"(MN|M|H|D|W)([0-9]{1,2})")
_META_TRADER_UNITS: Final = {"M": "m", "H": "h", "D": "d", "W": "w", "MN": "mo"}
_TRADING_VIEW: Final = re.compile(r", ([0-9]{1,4})(?=[_ ]|$)")
_AGGREGATES: Final = re.compile(r"(second|minute|hour|day)_aggs(?:_v1)?")

# Kraken's names: symbol and number of minutes, nothing else. Coinbase and Poloniex count seconds; numbers below 300
# would be ambiguous.
_NUMBERED_NAME: Final = re.compile(r"([A-Za-z0-9]+)_([0-9]{1,4})")
_SECONDS_NAME: Final = re.compile(r"[A-Za-z0-9]+[-_][A-Za-z0-9]+[-_]([0-9]{3,6})")
_BY_MS: Final = {ms: name for name, ms in INTERVALS_MS.items()}
_BY_MINUTES: Final = {str(ms // MINUTE_MS): name for name, ms in INTERVALS_MS.items() if ms >= MINUTE_MS}
_BY_SECONDS: Final = {str(ms // SECOND_MS): name for name, ms in INTERVALS_MS.items() if ms >= 5 * MINUTE_MS}


@dataclass(frozen=True, slots=True)
class NamedCandles:
    """What the name and the folders of a file say about it.

    Attributes:
        symbol: The symbol; None if nothing names one.
        spelling: The symbol as it is written there, such as BTC_USDT; "" without a symbol.
        is_pair: Whether the symbol is a trading pair with a known quote asset, and not just the first word.
        interval: The interval, such as "1m"; also one that mltrain does not support; None if none is stated.
        other_data: What the file has instead of candles, such as "mark prices"; "" for candles.
        exchange: The exchange that is named, such as "kraken"; "" if none is.
        futures: Whether they are candles of a future, by the symbol's spelling, a word in the name, or a folder.
        counts_contracts: Whether they are candles of Binance's COIN-M futures, in the same way: their volume is a
            number of contracts, and their quote volume one of coins.
    """

    symbol: str | None
    spelling: str
    is_pair: bool
    interval: str | None
    other_data: str
    exchange: str
    futures: bool
    counts_contracts: bool = False

    @property
    def market(self) -> str:
        """The market in words, such as "kraken futures"; "" for spot of an exchange that is not named."""
        return f"{self.exchange} {'futures' * self.futures}".strip()


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of a name: those of its symbol, and those before and after."""

    symbol: str | None
    spelling: str
    is_pair: bool
    futures: bool
    minutes: str
    before: list[str]
    after: list[str]


def read_path(
    folders: Sequence[str], name: str, *, above: Sequence[str] = (), siblings: Iterable[str] = ()
) -> NamedCandles:
    """Return what a file's path says about its candles; what the name says comes before what a folder says.

    Args:
        folders: The names of the folders from the user's folder to the file, outermost first.
        name: The file's name.
        above: The names of the user's folder and those around it, outermost first. Of these, only the last two can
            name the symbol and the interval, as in `--from BTCUSDT/1h`.
        siblings: As in `parse_interval`.

    >>> read_path(["binance", "futures"], "BTC_USDT_USDT-1h-futures.feather").market
    'binance futures'
    >>> read_path([], "BTCUSD_PERP-1h-2026-01.zip").counts_contracts
    True
    >>> read_path(["BTCUSDT", "1h"], "2025.csv").symbol, read_path([], "BTC_USDT_USDT-8h-mark.json").other_data
    ('BTCUSDT', 'mark prices')
    """
    words = _split_words(name)
    nearest_first = [*reversed(folders), *list(reversed(above))[:2]]
    symbol, spelling, is_pair = words.symbol, words.spelling, words.is_pair
    if not is_pair:
        for folder in nearest_first:
            of_folder = _split_words(folder)
            if of_folder.is_pair and len(of_folder.before) + len(of_folder.after) == 0:
                symbol, spelling, is_pair = of_folder.symbol, folder, True
                break
    interval = parse_interval(name, siblings=siblings)
    for folder in nearest_first:
        if interval is None:
            interval = _parse_folder_interval(folder)
    lowered = [folder.lower() for folder in folders]
    in_folders = [word for folder in reversed(lowered) for word in re.split("[-_. ]", folder)]
    exchange = next((word for word in [*map(str.lower, words.before), *in_folders] if word in _EXCHANGES), "")
    said_elsewhere = {*lowered, *map(str.lower, words.after)}
    futures = words.futures or bool(_FUTURES & said_elsewhere)
    counts_contracts = bool(_COIN_MARGINED & said_elsewhere) or _COIN_SYMBOL.fullmatch(spelling.upper()) is not None
    said = words.after if words.is_pair else [*words.before, words.spelling, *words.after]
    other = _find_other_data(said, folders, above)
    return NamedCandles(symbol, spelling, is_pair, interval, other, exchange, futures, counts_contracts)


def _find_other_data(words: list[str], folders: Sequence[str], above: Sequence[str]) -> str:
    """Return what a file has instead of candles, by the words of its name and its folders; "" for candles."""
    lowered = [word.lower() for word in words]
    # "funding_rate" is two words.
    joined = [*lowered, *(first + second for first, second in pairwise(lowered))]
    in_folders = [re.sub("[-_ ]", "", folder.lower()) for folder in folders]
    in_folders = [folder for folder in in_folders if folder not in _ONLY_IN_FILE_NAMES]
    outside = [folder.lower() for folder in above if folder.lower() in _ARCHIVE_FOLDERS]
    return next((_OTHER_DATA[word] for word in [*joined, *in_folders, *outside] if word in _OTHER_DATA), "")


def parse_symbol(name: str) -> str | None:
    """Return the symbol in the name of a candle file; None if there is none.

    It is the first part in capitals that ends in a quote asset, or two parts of which the second is a quote asset;
    otherwise the first part of capitals and digits that begins with a letter; otherwise the first part.

    >>> parse_symbol("binanceUS_BTCUSDT_1m.csv"), parse_symbol("ETH_BTC-1h.json.gz"), parse_symbol("ethusdt.parquet")
    ('BTCUSDT', 'ETHBTC', 'ETHUSDT')
    """
    return _split_words(name).symbol


def _split_words(name: str) -> _Words:
    """Split a file's name, without its endings, at each of `-_., ` into its symbol and the words around it."""
    stem = _ENDINGS.sub("", name)
    pieces = [(match[0], match.start()) for match in re.finditer(r"[^-_., ]+", stem)]
    original = [piece for piece, _ in pieces]
    separators = "".join(stem[start - 1] for _, start in pieces[1:])
    has_capitals = any(SYMBOL.fullmatch(part) and not part[0].isdigit() for part in original)
    parts = original if has_capitals else [part.upper() for part in original]
    # bitstampUSD, coinbaseEUR: an exchange's bitcoin, as Kaggle and bitcoincharts.com call it.
    for i, part in enumerate(original):
        bitcoin = _BITCOIN.fullmatch(part)
        if bitcoin is not None and bitcoin[1] in _EXCHANGES:
            return _Words(f"BTC{bitcoin[2]}", part, True, False, "", [*original[:i], bitcoin[1]], original[i + 1 :])
    pair = find_pair(parts, separators=separators)
    if pair is not None and is_symbol(pair.symbol):
        (first, start), (last, last_start) = pieces[pair.start], pieces[pair.stop - 1]
        spelling = first.removesuffix(pair.minutes) if pair.minutes else stem[start : last_start + len(last)]
        before, after = original[: pair.start], original[pair.stop :]
        return _Words(pair.symbol, spelling, True, pair.futures, pair.minutes, before, after)
    # BTC-PERPETUAL is Deribit's name of a perpetual.
    for i, (part, following) in enumerate(pairwise(parts)):
        if following == "PERPETUAL" and is_symbol(part + following):
            return _Words(part + following, f"{part}-{following}", True, True, "", original[:i], original[i + 2 :])
    begins = [i for i, part in enumerate(parts) if SYMBOL.fullmatch(part) and not part[0].isdigit()]
    i = (begins or [0])[0]
    if not parts or not is_symbol(parts[i]):
        return _Words(None, "", False, False, "", [], original)
    return _Words(parts[i], original[i], False, False, "", original[:i], original[i + 1 :])


def parse_interval(name: str, *, siblings: Iterable[str] = ()) -> str | None:
    """Return the interval, such as "1m", in the name of a candle file; None if there is none, or more than one.

    Args:
        name: The name of the file.
        siblings: The names of all files of its symbol. `XBTUSD_5.csv` has five-minute candles, as Kraken publishes it,
            unless a sibling has a number that is not an interval: then they are numbered parts.

    >>> parse_interval("BTCUSDT-15m-2025-01-01.csv"), parse_interval("XBTUSD_60.csv"), parse_interval("BTCUSDT.csv")
    ('15m', '1h', None)
    >>> parse_interval("EURUSD_M1.csv"), parse_interval("BINANCE_BTCUSDT, 1D.csv"), parse_interval("BTC-USD-3600.json")
    ('1m', '1d', '1h')
    >>> parse_interval("BTCUSDT_1.csv", siblings=["BTCUSDT_1.csv", "BTCUSDT_2.csv"])
    """
    words = _split_words(name)
    others = [*words.before, *words.after]
    stated = {interval for word in others if (interval := _read_interval(word, known_only=True)) is not None}
    stated |= {
        interval
        for first, second in pairwise(others)
        if first.isdigit() and len(second) > 1 and (interval := _read_interval(first + second, known_only=True))
    }
    if not stated and words.after:
        first = words.after[0]
        stated = {interval for interval in (_read_interval(first), _ALONE.get(first.lower())) if interval}
    if not stated:
        matches = [match for word in words.after if (match := _META_TRADER.fullmatch(word))]
        stated = {_name_interval(int(match[2]), _META_TRADER_UNITS[match[1]]) for match in matches}
    if len(stated) > 1:
        return None
    if stated:
        return stated.pop()
    if words.minutes:
        return _name_interval(int(words.minutes), "m")
    stem = _ENDINGS.sub("", name)
    if view := _TRADING_VIEW.search(stem):
        return _BY_MINUTES.get(view[1])
    if (seconds := _SECONDS_NAME.fullmatch(stem)) and seconds[1] in _BY_SECONDS:
        return _BY_SECONDS[seconds[1]]
    minutes = _parse_kraken_minutes(name)
    numbers = {number for sibling in siblings if (number := _parse_kraken_minutes(sibling)) is not None}
    return _BY_MINUTES.get(minutes) if minutes is not None and numbers <= _BY_MINUTES.keys() else None


def is_numbered(name: str) -> bool:
    """Return whether a file name is a word and a number, like Kraken's `XBTUSD_60.csv`, or like a numbered part."""
    return _parse_kraken_minutes(name) is not None


def _parse_folder_interval(folder: str) -> str | None:
    """Return the interval that is a folder's whole name, also as in Polygon's hour_aggs; None for any other name."""
    aggregates = _AGGREGATES.fullmatch(folder.lower())
    if aggregates is not None:
        return _name_interval(1, aggregates[1])
    return _read_interval(folder, known_only=True)


def _read_interval(word: str, *, known_only: bool = False) -> str | None:
    """Return the interval that a word such as "15m", "1hr", "60min" or "1D" states; None for any other word.

    Args:
        word: The word.
        known_only: Accept only intervals that exchanges have: 30d in a name is the number of days of the file.
    """
    match = _NUMBER_AND_UNIT.fullmatch(word)
    unit = "mo" if match and match[2] == "M" else match[2].lower() if match else ""
    if match is None or not (unit in _UNITS_MS or unit in _MONTHS) or int(match[1]) == 0:
        return None
    # "60min" is an hour, but "7d" is rather the number of days in the file than a week.
    name = _name_interval(int(match[1]), unit)
    is_usual = name == f"{int(match[1])}{unit[0]}" or unit in _MONTHS or _UNITS_MS[unit] == MINUTE_MS
    is_known = name in INTERVALS_MS or name in {"1mo", "1M"}
    return name if not known_only or (is_known and is_usual) else None


def _name_interval(number: int, unit: str) -> str:
    """Return the name of an interval of `number` units; also of one that mltrain does not support."""
    if unit in _MONTHS:
        return "1M" if number == 1 else f"{number}M"
    return _BY_MS.get(number * _UNITS_MS[unit], f"{number}{unit[0]}")


def _parse_kraken_minutes(name: str) -> str | None:
    """Return the number of minutes, as text, of a file name like Kraken's `XBTUSD_60.csv`; None for any other name."""
    match = _NUMBERED_NAME.fullmatch(_ENDINGS.sub("", name))
    return match[2] if match else None
