"""Find the volumes in the base and in the quote asset among a table's columns.

Pure. Names differ, and some mean the opposite: Poloniex' `volume` is in the quote asset. Prices decide: the quote
volume of a candle is its volume times a price between its low and its high.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import polars as pl

from mltrain.candles.open_times import fold
from mltrain.errors import InputError
from mltrain.names import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Numbers of price changes, which stand for a volume where there is none.
TICKS: Final = ("tick_volume", "tickvol", "tick_vol", "tickvolume")
#: A volume whose name states its unit, such as "Volume BTC".
UNIT_VOLUME: Final = re.compile(r"vol(?:ume)?_([a-z0-9]{2,10})")

# What others are priced in.
_MONEY: Final = ("usd", "usdt", "usdc", "busd", "tusd", "fdusd", "eur", "gbp", "jpy", "krw", "try", "brl", "currency")
# Published volumes and prices are rounded.
_ROUNDING: Final = 2e-3
_NAME_HINT: Final = "call the volume in the base asset volume, and the other quote_volume"


@dataclass(frozen=True, slots=True)
class VolumeColumns:
    """The columns of `volume` and `quote_volume`, where the table has them, and notes on the choice."""

    columns: dict[str, str]
    notes: tuple[str, ...] = ()


def find_only(numbers: pl.DataFrame, names: Sequence[str], role: str, where: str) -> str:
    """Return the first of the columns that may be `role`; an InputError if another one has other values."""
    for other in names[1:]:
        if not numbers[names[0]].equals(numbers[other], null_equal=True):
            raise InputError(
                f"{where}: two columns for {role} that disagree: {show(names[0])} and {show(other)}",
                hint="remove or rename one of them",
            )
    return names[0]


def find_volumes(numbers: pl.DataFrame, matches: Mapping[str, list[str]], where: str) -> VolumeColumns:
    """Return the columns of the volumes in the base and in the quote asset.

    Args:
        numbers: The table's columns of numbers.
        matches: The columns that may be the "low", "high", "volume" and "quote_volume", those that count price changes
            ("ticks"), and those that state their "unit".
        where: What messages call the table.

    Raises:
        InputError: It is not certain which column is the volume in the base asset.
    """
    bases, quotes, ticks = matches["volume"], matches["quote_volume"], matches["ticks"]
    prices = {name: numbers[matches[name][0]] for name in ("low", "high") if matches[name]}
    if matches["unit"]:
        return _choose_by_unit(numbers, prices, matches["unit"], where)
    if ticks and all(bool((numbers[name] == 0).fill_null(True).all()) for name in bases):
        return VolumeColumns({"volume": ticks[0]}, (f"the volume is {show(ticks[0])}, a number of price changes",))
    quote = find_only(numbers, quotes, "quote_volume", where) if quotes else None
    if quote is None or not bases:
        base = find_only(numbers, bases, "volume", where) if bases else None
        return VolumeColumns({role: name for role, name in (("volume", base), ("quote_volume", quote)) if name})
    fitting = next((name for name in bases if _fits(numbers, prices, name, quote)), None)
    base = fitting or find_only(numbers, bases, "volume", where)
    if fitting is None and _fits(numbers, prices, quote, base):
        note = f"{show(base)} is in the quote asset and {show(quote)} in the base asset, by the prices"
        return VolumeColumns({"volume": quote, "quote_volume": base}, (note,))
    notes = (f"the volume is {show(base)}, by the prices",) if base != bases[0] else ()
    return VolumeColumns({"volume": base, "quote_volume": quote}, notes)


def _choose_by_unit(
    numbers: pl.DataFrame, prices: Mapping[str, pl.Series], units: Sequence[str], where: str
) -> VolumeColumns:
    """Return the volumes among columns such as "Volume BTC" and "Volume USD"."""
    if len(units) > 2:
        raise InputError(f"{where}: {len(units)} volumes: {', '.join(map(show, units[:5]))}", hint=_NAME_HINT)
    if len(units) == 1:
        if _is_money(units[0]):
            raise InputError(f"{where}: no column for volume: {show(units[0])} is in the quote asset", hint=_NAME_HINT)
        return VolumeColumns({"volume": units[0]})
    first, second = units
    for base, quote in ((first, second), (second, first)):
        if _fits(numbers, prices, base, quote):
            return VolumeColumns({"volume": base, "quote_volume": quote})
    base, quote = sorted(units, key=_is_money)
    if _is_money(base) == _is_money(quote):
        raise InputError(f"{where}: {show(first)} or {show(second)}: which is the volume?", hint=_NAME_HINT)
    return VolumeColumns({"volume": base, "quote_volume": quote})


def _fits(numbers: pl.DataFrame, prices: Mapping[str, pl.Series], base: str, quote: str) -> bool:
    """Return whether quote / base is a price of the candle in most rows that have both volumes."""
    if len(prices) < 2:
        return False
    frame = pl.DataFrame({"base": numbers[base], "quote": numbers[quote], **prices})
    ratio = pl.col("quote") / pl.col("base")
    is_price = ratio.is_between(pl.col("low") * (1 - _ROUNDING), pl.col("high") * (1 + _ROUNDING))
    share = frame.filter((pl.col("base") > 0) & (pl.col("quote") > 0)).select(is_price.mean()).item()
    return share is not None and share > 0.5


def _is_money(name: str) -> bool:
    """Return whether a column such as "Volume USD" is called after a currency that others are priced in."""
    unit = UNIT_VOLUME.fullmatch(fold(name))
    return unit is not None and unit[1] in _MONEY
