"""File names state the symbol and the interval."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.filenames import parse_interval, parse_symbol, read_path
from mltrain.candles.symbols import canonical_symbol
from mltrain.names import SYMBOL
from mltrain.times import INTERVALS_MS

NAMES = {
    "BTCUSDT.parquet": ("BTCUSDT", None),
    "BTCUSDT.csv": ("BTCUSDT", None),
    "btcusdt.csv": ("BTCUSDT", None),
    "BTCUSDT-1m-2025-01-01.csv": ("BTCUSDT", "1m"),
    "BTCUSDT-1m-2025-01.zip": ("BTCUSDT", "1m"),
    "BTCUSDT-15m-2025-01.zip": ("BTCUSDT", "15m"),
    "BTCUSDT-1M-2025-01.zip": ("BTCUSDT", "1M"),
    "BTCUSDT-1mo-2025-01.zip": ("BTCUSDT", "1M"),
    "BTCUSDT-1s-2025-01.zip": ("BTCUSDT", "1s"),
    "ETHBTC-1h-2025-01.zip": ("ETHBTC", "1h"),
    "1000SATSUSDT-1m-2025-01-01.csv": ("1000SATSUSDT", "1m"),
    "BTCUSDT_2019_dup_gap.parquet": ("BTCUSDT", None),
    "binanceUS_BTCUSDT_1m_20230301.csv.gz": ("BTCUSDT", "1m"),
    "BTCUSDT_5m_mixed_source.csv.gz": ("BTCUSDT", "5m"),
    "kraken_BTCUSDC_1m_2023Q1_headerless.csv.gz": ("BTCUSDC", "1m"),
    "BTC_USDT-1m.json.gz": ("BTCUSDT", "1m"),
    "BTC_USDT-1h.json": ("BTCUSDT", "1h"),
    "BTC_USDT_USDT-1h-futures.json": ("BTCUSDT", "1h"),
    "ETH_BTC-5m.json": ("ETHBTC", "5m"),
    "FDUSD_USDT-1m.json": ("FDUSDUSDT", "1m"),
    "EUR_USDT.csv": ("EURUSDT", None),
    "btc_usdt_1d.csv": ("BTCUSDT", "1d"),
    "BTC-USD.csv": ("BTCUSD", None),
    "SPOT_BTC_USDT.csv": ("BTCUSDT", None),
    "BINANCE_BTCUSDT, 5.csv": ("BTCUSDT", "5m"),
    "BINANCE_BTCUSDT, 1D.csv": ("BTCUSDT", "1d"),
    "BINANCE_BTCUSDT, 60_7c1f3.csv": ("BTCUSDT", "1h"),
    "BTC_USDT-1m.feather": ("BTCUSDT", "1m"),
    "BTC_USDT_USDT-8h-mark.feather": ("BTCUSDT", "8h"),
    "BTC_USDT_USDT-250627-1h-futures.feather": ("BTCUSDT250627", "1h"),
    "BTC_USD_BTC-1h-futures.feather": ("BTCUSD", "1h"),
    "BTCUSDT_250627-1h-2025-01.zip": ("BTCUSDT250627", "1h"),
    "BTCUSDT_251399.csv": ("BTCUSDT", None),
    "BTCUSDT-250627.csv": ("BTCUSDT", None),
    "BTCUSDT_1m_250627.csv": ("BTCUSDT", "1m"),
    "BTCUSD_PERP-1h-2026-01.zip": ("BTCUSD", "1h"),
    "BTC-USDT-SWAP.csv": ("BTCUSDT", None),
    "BTC-PERPETUAL_60.json": ("BTCPERPETUAL", None),
    "1000SHIB_USDT_1d.csv": ("1000SHIBUSDT", "1d"),
    "1000PEPEUSDT-1h.csv": ("1000PEPEUSDT", "1h"),
    "USDT_BTC_7200.json": ("BTCUSDT", "2h"),
    "BTC-USD-3600.json": ("BTCUSD", "1h"),
    "BTC-USD-60.json": ("BTCUSD", None),
    "Bitstamp_BTCUSD_d.csv": ("BTCUSD", "1d"),
    "gemini_BTCUSD_1hr.csv": ("BTCUSD", "1h"),
    "BTC-USDT_1hour.json": ("BTCUSDT", "1h"),
    "BTC-USDT_1H.json": ("BTCUSDT", "1h"),
    "BTCUSDT_60min.csv": ("BTCUSDT", "1h"),
    "BTCUSDT_1h_30d.csv": ("BTCUSDT", "1h"),
    "BTCUSDT_10m.csv": ("BTCUSDT", "10m"),
    "BTCUSD_Candlestick_1_Hour_BID_05.01.2026-17.01.2026.csv": ("BTCUSD", "1h"),
    "EUR-USD_1Minute_BID_2000-01-01_00_00-23_59_Etc_UTC.csv": ("EURUSD", "1m"),
    "EURUSD_M1.csv": ("EURUSD", "1m"),
    "EURUSD_MN1.csv": ("EURUSD", "1M"),
    "BTCUSD_H1.csv": ("BTCUSD", "1h"),
    "BTCUSD1440.csv": ("BTCUSD", "1d"),
    "BTCUSDT-1m-2025-H1.csv": ("BTCUSDT", "1m"),
    "btc_bars.csv": ("BTC", None),
    "bitstampUSD_1-min_data_2012-01-01_to_2021-03-31.csv": ("BTCUSD", "1m"),
    "otherUSD.csv": ("OTHERUSD", None),
    "2026-01-05.csv.gz": (None, None),
    "freqtrade_BTC_USDT-1m_2019_dup_gap.json.gz": ("BTCUSDT", "1m"),
    "XBTUSD_1.csv": ("XBTUSD", "1m"),
    "XBTUSD_60.csv": ("XBTUSD", "1h"),
    "XBTUSD_1440.csv": ("XBTUSD", "1d"),
    "XBTUSD_7.csv": ("XBTUSD", None),
    "spot.BTCUSDT.1m.csv": ("BTCUSDT", "1m"),
    "1INCHUSDT.csv": ("1INCHUSDT", None),
    "binance_1INCHUSDT_1m.csv": ("1INCHUSDT", "1m"),
    "2025-BTCUSDT.csv": ("BTCUSDT", None),
    "BTCUSDT_1m_1d.csv": ("BTCUSDT", None),
    "A1-5.csv": ("A1", None),
    "_.csv": (None, None),
    "-": (None, None),
    "": (None, None),
    "x" * 30 + ".csv": (None, None),
    "ÄÖÜ.csv": (None, None),
}


@pytest.mark.parametrize(
    ("folders", "name", "counts"),
    [
        (["data", "futures", "cm", "daily"], "ETHUSD_PERP-1h.zip", True),
        ([], "BTCUSD_PERP-1h-2026-01.zip", True),
        ([], "BTCUSD_240628-1d.csv", True),
        (["BTCUSD_PERP", "1h"], "2025.csv", True),
        (["binance-coinm"], "BTC_USD_BTC-1h-futures.feather", False),
        (["coinm"], "BTC_USD_BTC-1h-futures.feather", True),
        (["data", "futures", "um", "daily"], "BTCUSDT_240628-1h.zip", False),
        ([], "BTC-USD-1h.csv", False),
        ([], "BTCUSD-240628.csv", False),
    ],
)
def test_coin_margined_futures_are_recognised(folders, name, counts):
    """By Binance's folder and spelling: their volumes are in contracts and coins."""
    assert read_path(folders, name).counts_contracts == counts


@pytest.mark.parametrize(("name", "says"), NAMES.items())
def test_the_name_of_a_file_has_symbol_and_interval(name, says):
    """As in names of Binance, freqtrade and Kraken, among other words; two intervals count as none."""
    assert (parse_symbol(name), parse_interval(name)) == says


def test_numbered_parts_are_no_intervals():
    """One number that is not an interval shows that the others are part numbers too."""
    parts = [f"BTCUSDT_{number}.csv" for number in range(1, 7)]
    kraken = [f"XBTUSD_{minutes}.csv" for minutes in (1, 5, 15, 30, 60, 240, 720, 1440)]

    assert {parse_interval(name, siblings=parts) for name in parts} == {None}
    assert [parse_interval(name, siblings=kraken) for name in kraken] == [
        "1m",
        "5m",
        "15m",
        "30m",
        "1h",
        "4h",
        "12h",
        "1d",
    ]


@given(st.from_regex(r"[A-Z]{2,8}", fullmatch=True), st.sampled_from(sorted(INTERVALS_MS)), st.dates())
def test_names_of_the_archive_have_symbol_and_interval(base, interval, day):
    """For any base asset."""
    name = f"{base}USDT-{interval}-{day}.zip"

    assert (parse_symbol(name), parse_interval(name)) == (f"{base}USDT", interval)


@given(st.text(max_size=60))
def test_any_name_gives_a_symbol_or_none(name):
    """A symbol may become a path, so it always matches the pattern."""
    symbol = parse_symbol(name)

    assert symbol is None or SYMBOL.fullmatch(symbol)
    interval = parse_interval(name)
    assert interval is None or re.fullmatch(r"[0-9]+[smhdwM]", interval)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ADA_BTC-5m.feather", ("ADABTC", "5m", "", "")),
        ("binance/futures/BTC_USDT_USDT-1h-futures.feather", ("BTCUSDT", "1h", "", "binance futures")),
        ("binance/futures/BTC_USDT_USDT-8h-mark.feather", ("BTCUSDT", "8h", "mark prices", "binance futures")),
        ("BTC_USDT_USDT-8h-funding_rate.feather", ("BTCUSDT", "8h", "funding rates", "futures")),
        ("XRP_USDT_USDT-1h-index.json", ("XRPUSDT", "1h", "index prices", "futures")),
        ("XRP_USDT_USDT-1h-premiumIndex.json", ("XRPUSDT", "1h", "premium index", "futures")),
        ("XRP_USDT-trades.json.gz", ("XRPUSDT", None, "trades", "")),
        ("BELUSDT_funding.csv", ("BELUSDT", None, "funding rates", "")),
        ("BTCUSDT-aggTrades-2025-01.zip", ("BTCUSDT", None, "trades", "")),
        ("BTCUSDT-fundingRate-2025-01.zip", ("BTCUSDT", None, "funding rates", "")),
        ("MARKUSDT-1h.csv", ("MARKUSDT", "1h", "", "")),
        ("INDEX_USDT-1h.csv", ("INDEXUSDT", "1h", "", "")),
        ("index/BTCUSDT-1h.csv", ("BTCUSDT", "1h", "", "")),
        ("data/spot/daily/klines/ARBUSDT/15m/ARBUSDT-15m-2023-05-10.zip", ("ARBUSDT", "15m", "", "")),
        ("data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2025-01-01.zip", ("BTCUSDT", "1h", "", "futures")),
        ("futures/um/daily/markPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2025-01-01.zip",
         ("BTCUSDT", "1h", "mark prices", "futures")),
        ("um/indexPriceKlines/BTCUSDT/1h/BTCUSDT-1h-2025-01.zip", ("BTCUSDT", "1h", "index prices", "futures")),
        ("um/premiumIndexKlines/BTCUSDT/1h/BTCUSDT-1h-2025-01.zip", ("BTCUSDT", "1h", "premium index", "futures")),
        ("spot/monthly/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01.zip", ("BTCUSDT", None, "trades", "")),
        ("BTCUSDT/1h/funding_rate.csv", ("BTCUSDT", "1h", "funding rates", "")),
        ("BTCUSDT/1h/mark.csv", ("BTCUSDT", "1h", "mark prices", "")),
        ("trades/BTCUSDT-2025.csv", ("BTCUSDT", None, "trades", "")),
        ("BTCUSDT/1h/2025.csv", ("BTCUSDT", "1h", "", "")),
        ("BTC_USDT/5m/part.csv", ("BTCUSDT", "5m", "", "")),
        ("BTCUSDT/ETHUSDT-1h.csv", ("ETHUSDT", "1h", "", "")),
        ("1d/BTCUSDT-1h.csv", ("BTCUSDT", "1h", "", "")),
        ("user_data/data/kraken/XBT_USD-1h.json", ("XBTUSD", "1h", "", "kraken")),
        ("global_crypto/hour_aggs/2026/01/2026-01-05.csv.gz", (None, "1h", "", "")),
    ],
)  # fmt: skip
def test_folders_state_what_the_name_does_not(path, expected):
    """Layouts of the archive, of freqtrade, and SYMBOL/INTERVAL; other data than candles has its own names."""
    *folders, name = path.split("/")
    named = read_path(folders, name)

    assert (named.symbol, named.interval, named.other_data, named.market) == expected


def test_the_folders_around_the_users_folder_count_in_the_archive_layout_only():
    """`--from BTCUSDT/1h` names the symbol; a folder called trades somewhere above does not make candles trades."""
    assert read_path([], "2025.csv", above=["home", "me", "BTCUSDT", "1h"]).symbol == "BTCUSDT"
    assert read_path([], "2025.csv", above=["BTCUSDT", "a", "b"]).symbol is None
    assert read_path([], "BTCUSDT.csv", above=["home", "trades"]).other_data == ""
    above = ["um", "daily", "markPriceKlines", "BTCUSDT", "1h"]
    assert read_path([], "BTCUSDT-1h-2025-01-01.zip", above=above).other_data == "mark prices"


@pytest.mark.parametrize("name", [name for name in NAMES if NAMES[name][0] and "bitstampUSD" not in name])
def test_the_spelling_of_a_name_gives_its_symbol(name):
    """The spelling in the manifest gives the symbol again."""
    named = read_path([], name)

    assert canonical_symbol(named.spelling) == named.symbol
