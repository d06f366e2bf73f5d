"""File names state the symbol and the interval."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.filenames import parse_interval, parse_symbol
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
    "BTCUSDT-1mo-2025-01.zip": ("BTCUSDT", "1mo"),
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
    "BINANCE_BTCUSDT, 5.csv": ("BTCUSDT", None),
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


@pytest.mark.parametrize(("name", "says"), NAMES.items())
def test_symbol_and_interval_stand_in_the_files_name(name, says):
    """As Binance, freqtrade and Kraken write them, among other words; two intervals count as none."""
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
    assert parse_interval(name) is None or parse_interval(name) in name or "_" in name
