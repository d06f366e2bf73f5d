"""Real candles, as they are found in the wild: each becomes a snapshot, or a refusal that a person understands."""

from __future__ import annotations

import gzip
import shutil
import zipfile

import pytest

from mltrain.candles.frame import format_ms, parse_time
from mltrain.candles.snapshot import verify_snapshot
from mltrain.errors import InputError

pytestmark = pytest.mark.real_data

DAYS = "raw/binance_vision_daily_csv"
OTHER = "raw/other"


def ledger(facts):
    return [(format_ms(h.from_ms), format_ms(h.to_ms), h.missing) for h in facts.holes]


@pytest.fixture
def folder_of(real_data, tmp_path):
    """Return a function that puts one real file into a folder of its own."""

    def put(name, content=None):
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        target = folder / name.rsplit("/", 1)[-1]
        if content is None:
            shutil.copy(real_data / name, target)
        else:
            target.write_bytes(content)
        return folder

    return put


def test_ninety_days_of_minutes(take, real_data):
    """Two symbols, one with all columns and one with OHLCV alone; no hole."""
    snapshot = take(days=90, folder=real_data / "spot_1m").snapshot
    btc, eth = snapshot.facts

    assert snapshot.id == "2025-08-18T18-28-00Z"
    assert (btc.rows, eth.rows) == (129_600, 129_600)
    assert btc.holes == eth.holes == ()
    assert snapshot.candles("BTCUSDT")["trades"].null_count() == 0
    assert snapshot.candles("ETHUSDT")["trades"].null_count() == 129_600
    assert verify_snapshot(snapshot) == ()


def test_five_minute_candles_that_end_at_different_times(take, real_data):
    """The cut is the last close of all; what the others lack is a hole at their end."""
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    snapshot = take(symbols, days=30, interval="5m", folder=real_data / "spot_5m").snapshot
    btc, eth, sol = snapshot.facts

    assert snapshot.id == "2026-02-19T22-50-00Z"
    assert ledger(btc) == [("2026-02-19T21:55:00Z", "2026-02-19T22:45:00Z", 11)]
    assert ledger(eth) == [("2026-02-19T19:15:00Z", "2026-02-19T22:45:00Z", 43)]
    assert ledger(sol) == []


def test_a_month_with_a_maintenance_and_repeated_rows(take, real_data):
    """2019-11-13: 143 minutes missing, to the minute, and 143 rows repeated, which are dropped and noted."""
    snapshot = take(("BTCUSDT",), days=30, end_ms=parse_time("2019-11-14T21:51Z"), folder=real_data / "messy").snapshot
    (facts,) = snapshot.facts

    assert facts.rows == 43_200 - 143
    assert ledger(facts) == [
        ("2019-11-13T02:00:00Z", "2019-11-13T04:19:00Z", 140),
        ("2019-11-13T05:30:00Z", "2019-11-13T05:32:00Z", 3),
    ]
    assert snapshot.notes == ("BTCUSDT: 143 exact duplicate rows dropped",)


@pytest.mark.parametrize(
    ("day", "rows", "holes", "zero_trades"),
    [
        ("2017-08-17", 1200, [("2017-08-17T00:00:00Z", "2017-08-17T03:59:00Z", 240)], 369),
        ("2021-04-25", 1156, [("2021-04-25T04:01:00Z", "2021-04-25T08:44:00Z", 284)], 0),
        ("2023-03-24", 1360, [("2023-03-24T12:40:00Z", "2023-03-24T13:59:00Z", 80)], 72),
        ("2024-12-31", 1440, [], 0),
        ("2025-01-01", 1440, [], 0),
    ],
)
def test_days_as_the_archive_publishes_them(take, real_data, day, rows, holes, zero_trades):
    """The ledger of each outage is right to the minute; milliseconds and microseconds are one."""
    end_ms = parse_time(day) + 86_400_000
    snapshot = take(("BTCUSDT",), end_ms=end_ms, folder=real_data / DAYS).snapshot
    (facts,) = snapshot.facts

    assert (facts.rows, facts.zero_trade_rows) == (rows, zero_trades)
    assert ledger(facts) == holes
    assert snapshot.candles("BTCUSDT")["taker_buy_quote"].null_count() == 0


def test_two_days_across_the_change_of_unit(take, real_data):
    """2024-12-31 is in ms, 2025-01-01 in µs: together they are 2,880 minutes without a hole."""
    snapshot = take(("BTCUSDT",), days=2, end_ms=parse_time("2025-01-02"), folder=real_data / DAYS).snapshot

    assert snapshot.facts[0].rows == 2880
    assert snapshot.facts[0].holes == ()


def test_a_month_from_its_archive(take, folder_of, real_data):
    """The CSV inside a monthly zip, once it is unpacked."""
    with zipfile.ZipFile(real_data / "raw/binance_vision_zip/BTCUSDT-1m-2026-04.zip") as archive:
        folder = folder_of("BTCUSDT-1m-2026-04.csv", archive.read("BTCUSDT-1m-2026-04.csv"))
    (facts,) = take(("BTCUSDT",), days=30, folder=folder).snapshot.facts

    assert (facts.rows, facts.holes) == (43_200, ())


def test_candles_of_another_exchange_with_empty_minutes(take, folder_of):
    """Binance.US: 658 minutes without a trade, kept and counted; no column but OHLCV."""
    folder = folder_of(f"{OTHER}/binanceUS_BTCUSDT_1m_20230301_20230321.csv.gz")
    (facts,) = take(("BTCUSDT",), days=21, folder=folder).snapshot.facts

    assert (facts.rows, facts.holes, facts.zero_trade_rows) == (30_240, (), 658)


def test_sparse_candles_of_a_market_that_is_seldom_traded(take, folder_of, real_data):
    """Kraken leaves minutes without a trade out: refused without a header, and with one the holes add up."""
    name = "kraken_BTCUSDC_1m_2023Q1_headerless.csv"
    with pytest.raises(InputError, match="no header, and 7 columns"):
        take(("BTCUSDC",), folder=folder_of(f"{OTHER}/{name}.gz"))
    shutil.rmtree(folder_of(f"{OTHER}/{name}.gz"))
    rows = gzip.decompress((real_data / OTHER / f"{name}.gz").read_bytes())
    folder = folder_of("BTCUSDC.csv", b"time,open,high,low,close,volume,trades\n" + rows)
    snapshot = take(("BTCUSDC",), days=90, end_ms=parse_time("2023-04-01"), folder=folder).snapshot
    (facts,) = snapshot.facts

    assert facts.rows == snapshot.candles("BTCUSDC").height == 56_717
    assert facts.rows + sum(h.missing for h in facts.holes) == 129_600
    assert verify_snapshot(snapshot) == ()


@pytest.mark.parametrize(
    ("source", "symbol", "interval", "message"),
    [
        ("spot_1m", "BTCUSDT", "5m", "its candles are 1m apart"),
        ("spot_5m", "BTCUSDT", "1m", "its candles are 5m apart"),
        ("spot_1m", "SOLUSDT", "1m", "no symbol 'SOLUSDT'"),
        ("raw/binance_vision_zip", "BTCUSDT", "1m", "holds no candle file: there are .*zip"),
        ("raw/rest_api_v3_klines_json", "BTCUSDT", "15m", "holds no candle file: there are .*json"),
        ("raw", "BTCUSDT", "1m", "holds no candle file"),
        ("README.md", "BTCUSDT", "1m", "is a file: name the folder"),
        (OTHER, "BTCUSDT", "1m", "BTCUSDT_5m_mixed_source.csv.gz: BTCUSDT: its candles are 5m apart"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(take, real_data, source, symbol, interval, message):
    """Each refusal names file and reason."""
    with pytest.raises(InputError, match=message) as err:
        take((symbol,), interval=interval, folder=real_data / source)

    assert "\n" not in err.value.message


def test_rows_of_two_origins_are_refused(take, folder_of):
    """Nine rows from a websocket lack what the others have; the first of them is named."""
    folder = folder_of(f"{OTHER}/BTCUSDT_5m_mixed_source.csv.gz")
    with pytest.raises(InputError, match=r"BTCUSDT at 2025-09-21T00:50:00Z: quote_volume is missing.*8 more rows"):
        take(("BTCUSDT",), interval="5m", days=10, folder=folder)

    assert take(("BTCUSDT",), interval="5m", days=10, end_ms=parse_time("2025-09-21"), folder=folder).created


def test_a_file_of_another_program_is_refused_with_what_is_there(take, folder_of):
    """A .json.gz is not read, and the message shows it."""
    with pytest.raises(InputError, match="there are 'freqtrade_BTC_USDT"):
        take(("BTCUSDT",), folder=folder_of(f"{OTHER}/freqtrade_BTC_USDT-1m_2019_dup_gap.json.gz"))
