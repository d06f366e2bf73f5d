"""The volume in the base asset is found by name, and by the prices where names mislead."""

from __future__ import annotations

import polars as pl
import pytest

from mltrain.candles.cells import Cells
from mltrain.candles.layouts import read_columns
from mltrain.errors import InputError

PRICES = {"ts": [1_767_571_200_000, 1_767_574_800_000], "open": [100.0, 101.0], "high": [110.0, 111.0],
          "low": [90.0, 91.0], "close": [101.0, 102.0]}  # fmt: skip
BASE, QUOTE = [2.0, 3.0], [200.0, 303.0]


def read(**volumes):
    return read_columns(Cells(pl.DataFrame(PRICES | volumes), "a.csv"))


@pytest.mark.parametrize(
    "volumes",
    [
        {"volume": BASE, "quote_volume": QUOTE},
        {"volume": QUOTE, "quoteVolume": BASE},
        {"Volume USD": QUOTE, "Volume BTC": BASE},
        {"Volume BTC": BASE, "Volume USD": QUOTE},
        {"Volume ETH": BASE, "Volume BTC": QUOTE},
        {"Volume_(BTC)": BASE, "Volume_(Currency)": QUOTE},
        {"volumefrom": BASE, "volumeto": QUOTE},
        {"vol": [1.0, 1.0], "volCcy": BASE, "volCcyQuote": QUOTE},
    ],
    ids=str,
)
def test_the_prices_decide_between_two_volumes(volumes):
    """Poloniex, CryptoDataDownload, Kaggle, CryptoCompare and OKX' swaps, in any order."""
    rows = read(**volumes).rows

    assert rows["volume"].to_list() == BASE
    assert rows["quote_volume"].to_list() == QUOTE


def test_without_trades_the_names_decide():
    """In candles of zero volume, no price shows which is which."""
    read_rows = read(**{"Volume USD": [0.0, 0.0], "Volume BTC": [0.0, 0.0]})

    assert read_rows.columns["volume"] == "Volume BTC"


def test_contracts_are_kept_as_they_are():
    """Of COIN-M, neither volume is the other times a price; the snapshot leaves the quote volume empty."""
    rows = read(volume=[409_953.0, 740_960.0], quote_volume=[1202.97, 2183.75]).rows

    assert rows["volume"].to_list() == [409_953.0, 740_960.0]


def test_ticks_stand_for_a_volume_that_is_missing_or_zero():
    """MetaTrader counts price changes where the broker reports no volume."""
    ticks = read(**{"<TICKVOL>": [7.0, 8.0], "<VOL>": [0.0, 0.0]})

    assert ticks.rows["volume"].to_list() == [7.0, 8.0]
    assert ticks.notes == ("the volume is '<TICKVOL>', a number of price changes",)
    assert read(tick_volume=[7.0, 8.0], real_volume=BASE).rows["volume"].to_list() == BASE


@pytest.mark.parametrize(
    ("volumes", "message"),
    [
        ({"Volume USDT": QUOTE}, "no column for volume: 'Volume USDT' is in the quote asset"),
        ({"Volume ETH": [1.0, 1.0], "Volume BTC": [1.0, 1.0]}, "'Volume ETH' or 'Volume BTC': which is the volume[?]"),
        ({"volume": BASE, "base_volume": QUOTE}, "two columns for volume that disagree: 'volume' and 'base_volume'"),
        ({"volume": BASE, "Close": [1.0, 2.0]}, "two columns for close that disagree: 'close' and 'Close'"),
        ({"volume": BASE, "trades": [1, 2], "count": [1, 3]}, "two columns for trades that disagree"),
    ],
    ids=str,
)
def test_columns_that_contradict_each_other_are_refused(volumes, message):
    """No column is preferred for its place."""
    with pytest.raises(InputError, match=f"^a.csv: {message}"):
        read(**volumes)


def test_two_equal_columns_are_one():
    """A repeated column does no harm."""
    assert read(volume=BASE, base_volume=BASE).rows["volume"].to_list() == BASE
