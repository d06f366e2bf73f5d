"""The spellings of a pair lead to one symbol."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.symbols import canonical_symbol, read_symbol
from mltrain.errors import UsageError
from mltrain.names import SYMBOL

SPELLINGS = {
    "BTCUSDT": ["BTC/USDT", "BTC/USDT:USDT", "BTC_USDT", "BTC_USDT_USDT", "BTC-USDT", "btcusdt", " btc_usdt ",
                "BTC-USDT-SWAP", "BTCUSDT_PERP", "BINANCE:BTCUSDT", "USDT_BTC"],
    "BTCUSD": ["BTC-USD", "BTC/USD", "BTC/USD:BTC", "BTC_USD_BTC", "BTCUSD_PERP", "X:BTC-USD", "btc_usd"],
    "1000PEPEUSDT": ["1000PEPEUSDT", "1000PEPE/USDT", "1000PEPE/USDT:USDT", "1000pepe_usdt"],
    "BTCUSDT250627": ["BTCUSDT_250627", "BTC/USDT:USDT-250627", "BTC_USDT_USDT-250627", "BTCUSDT250627"],
    "BTCPERPETUAL": ["BTC-PERPETUAL"],
    "ETHBTC": ["ETH/BTC", "ETH_BTC", "ETHBTC"],
    "EURUSD": ["EUR-USD", "EUR/USD"],
    "AAPL": ["AAPL", "aapl"],
}  # fmt: skip


@pytest.mark.parametrize(("symbol", "text"), [(symbol, text) for symbol, texts in SPELLINGS.items() for text in texts])
def test_spellings_give_one_symbol(symbol, text):
    """The spellings of ccxt, freqtrade, exchanges and users are understood."""
    assert canonical_symbol(text) == read_symbol(text) == symbol


@pytest.mark.parametrize(
    "text", ["", "/", "BTC//USDT", "BTC/", "/USDT", "BTC USDT", "../x", "2025", "B", "A" * 21, "ÄÖ"]
)
def test_other_texts_are_refused(text):
    """The error has the nearest known names, or how to write a symbol."""
    assert canonical_symbol(text) is None
    with pytest.raises(UsageError, match="is not a symbol") as err:
        read_symbol(text)
    assert err.value.hint == "write it like BTCUSDT or BTC/USDT"
    with pytest.raises(UsageError) as err:
        read_symbol("BTC//USDT", ["BTCUSDT", "ADABTC"])
    assert "BTCUSDT" in err.value.hint


@given(st.text(max_size=40))
def test_any_text_gives_a_symbol_or_none(text):
    """A symbol names files, so it always matches the pattern; it is also its canonical spelling."""
    symbol = canonical_symbol(text)

    assert symbol is None or (SYMBOL.fullmatch(symbol) and canonical_symbol(symbol) == symbol)


@given(st.from_regex(r"[A-Z]{2,8}", fullmatch=True), st.sampled_from(["USDT", "USD", "BTC", "EUR"]))
def test_separators_do_not_matter(base, quote):
    """A base and a quote asset are the same pair, however they are joined."""
    joined = {canonical_symbol(f"{base}{separator}{quote}") for separator in ("/", "_", "-")}

    assert len(joined) == 1
