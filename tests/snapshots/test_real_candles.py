"""Real candle files become snapshots, or are refused with a clear message."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import shutil
import zipfile
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from mltrain.errors import InputError
from mltrain.snapshots.snapshot import verify_snapshot
from mltrain.sources.files import FilesSource
from mltrain.times import format_ms, parse_time

pytestmark = pytest.mark.real_data

DAYS = "raw/binance_vision_daily_csv"
ZIP = "raw/binance_vision_zip/BTCUSDT-1m-2026-04.zip"
CHECKSUM = "raw/binance_vision_zip/BTCUSDT-1m-2025-04-11.zip.CHECKSUM"
REST = "raw/rest_api_v3_klines_json"
OTHER = "raw/other"
MIXED = f"{OTHER}/BTCUSDT_5m_mixed_source.csv.gz"
MESSY = "messy/BTCUSDT_2019_dup_gap.parquet"
FREQTRADE = f"{OTHER}/freqtrade_BTC_USDT-1m_2019_dup_gap.json.gz"

#: What becomes a snapshot: file, symbol, interval, days, rows, gaps, missing, zero-trade rows, duplicates.
TAKEN = [
    (f"{DAYS}/BTCUSDT-1m-2017-08-17.csv", "BTCUSDT", "1m", 1, 1200, 1, 240, 369, 0),
    (f"{DAYS}/BTCUSDT-1m-2021-04-25.csv", "BTCUSDT", "1m", 1, 1156, 1, 284, 0, 0),
    (f"{DAYS}/BTCUSDT-1m-2023-03-24.csv", "BTCUSDT", "1m", 1, 1360, 1, 80, 72, 0),
    (f"{DAYS}/BTCUSDT-1m-2024-12-31.csv", "BTCUSDT", "1m", 1, 1440, 0, 0, 0, 0),
    (f"{DAYS}/BTCUSDT-1m-2025-01-01.csv", "BTCUSDT", "1m", 1, 1440, 0, 0, 0, 0),
    (ZIP, "BTCUSDT", "1m", 30, 43_200, 0, 0, 0, 0),
    (f"{REST}/BTCUSDT-15m-2024-12-30.json", "BTCUSDT", "15m", 7, 672, 0, 0, 0, 0),
    (f"{REST}/BTCUSDT-15m-2026-04-27.json", "BTCUSDT", "15m", 3, 288, 0, 0, 0, 0),
    (f"{REST}/SOLUSDT-1h-2025-10-01.json", "SOLUSDT", "1h", 31, 744, 0, 0, 0, 0),
    (f"{OTHER}/binanceUS_BTCUSDT_1m_20230301_20230321.csv.gz", "BTCUSDT", "1m", 21, 30_240, 0, 0, 658, 0),
    (f"{OTHER}/kraken_BTCUSDC_1m_2023Q1_headerless.csv.gz", "BTCUSDC", "1m", 90, 56_717, 26_746, 72_883, 0, 0),
    (FREQTRADE, "BTCUSDT", "1m", 30, 43_057, 2, 143, 3, 143),
    (MESSY, "BTCUSDT", "1m", 30, 43_057, 2, 143, 3, 143),
]

#: What is refused, and how: file, symbol, interval, message, hint.
REFUSED = [
    (CHECKSUM, "BTCUSDT", "1m", r"holds no candle file: there are 'BTCUSDT-1m-2025-04-11.zip.CHECKSUM'", "end in .par"),
    (
        f"{REST}/BTCUSDT-15m-2039-12-26.json",
        "BTCUSDT",
        "15m",
        r"mine/BTCUSDT-15m-2039-12-26.json: BTCUSDT: no rows",
        "",
    ),
    (
        MIXED,
        "BTCUSDT",
        "5m",
        r"gz: BTCUSDT at 2025-09-21T00:50:00Z: quote_volume is missing, and so in 8 more rows; \d+ rows have it",
        "complete or remove these rows",
    ),
]


def ledger(facts):
    return [(format_ms(h.from_ms), format_ms(h.to_ms), h.missing) for h in facts.gaps]


def naive_times(path):
    """Return the open times of a real file in order, read with plain Python."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        return [moment.replace(tzinfo=UTC) for moment in pq.read_table(path, columns=["ts"])["ts"].to_pylist()]
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(archive.namelist()[0])
    if ".json" in path.name:
        return [naive_time(str(row[0])) for row in json.loads(data)]
    rows = list(csv.reader(io.StringIO(data.decode())))
    return [naive_time(row[0]) for row in rows if row[0].lower() not in {"open time", "open_time"}]


def naive_time(text):
    if not text.isdigit():
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    # Ten digits in s, thirteen in ms, sixteen in µs: in these years the first ten are the seconds.
    seconds = int(text[:10])
    assert int(text[10:] or 0) == 0
    return datetime.fromtimestamp(seconds, UTC)


def naive_gaps(times, step, end, days):
    """Return the runs of missing times in the last `days` before `end`, checked one by one."""
    present = set(times)
    count = timedelta(days=days) // step
    grid = [end - timedelta(days=days) + i * step for i in range(count)]
    runs = itertools.groupby(grid, key=lambda moment: moment in present)
    gone = [list(run) for there, run in runs if not there]
    return [(f"{run[0]:%Y-%m-%dT%H:%M:%SZ}", f"{run[-1]:%Y-%m-%dT%H:%M:%SZ}", len(run)) for run in gone]


STEPS = {"1m": timedelta(minutes=1), "5m": timedelta(minutes=5), "15m": timedelta(minutes=15), "1h": timedelta(hours=1)}


@pytest.fixture
def folder_of(real_data, tmp_path):
    """Return a function that puts one real file into its own folder."""

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
    """Two symbols, one with all columns and one with OHLCV alone; no gap."""
    snapshot = take(days=90, folder=real_data / "spot_1m").snapshot
    btc, eth = snapshot.facts

    assert snapshot.id == "2025-08-18T18-28-00Z"
    assert (btc.rows, eth.rows) == (129_600, 129_600)
    assert btc.gaps == eth.gaps == ()
    assert snapshot.candles("BTCUSDT")["trades"].null_count() == 0
    assert snapshot.candles("ETHUSDT")["trades"].null_count() == 129_600
    assert verify_snapshot(snapshot) == ()


def test_five_minute_candles_that_end_at_different_times(take, real_data):
    """The cut is the last close of all; what other symbols lack is a gap at their end."""
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    snapshot = take(symbols, days=30, interval="5m", folder=real_data / "spot_5m").snapshot
    btc, eth, sol = snapshot.facts

    assert snapshot.id == "2026-02-19T22-50-00Z"
    assert ledger(btc) == [("2026-02-19T21:55:00Z", "2026-02-19T22:45:00Z", 11)]
    assert ledger(eth) == [("2026-02-19T19:15:00Z", "2026-02-19T22:45:00Z", 43)]
    assert ledger(sol) == []


def test_every_real_file_has_an_outcome_here(real_data):
    """Every file of the folder is in one of the tables."""
    found = {
        str(p.relative_to(real_data)) for top in ("raw", "messy") for p in (real_data / top).rglob("*.*") if p.is_file()
    }

    assert found == {line[0] for line in (*TAKEN, *REFUSED)}


@pytest.mark.parametrize(
    ("name", "symbol", "interval", "days", "rows", "gaps", "missing", "zero_trades", "duplicates"), TAKEN
)
def test_a_real_file_becomes_a_snapshot(
    take, folder_of, real_data, name, symbol, interval, days, rows, gaps, missing, zero_trades, duplicates
):
    """Rows, gaps and duplicates are those that plain Python counts in the file."""
    times, step = naive_times(real_data / name), STEPS[interval]
    end = max(times) + step
    if end - min(times) < timedelta(days=days):
        end = datetime(end.year, end.month, end.day, tzinfo=UTC) + timedelta(days=end.time() != datetime.min.time())
    snapshot = take((symbol,), days=days, interval=interval, folder=folder_of(name)).snapshot
    (facts,) = snapshot.facts

    inside = [moment for moment in times if end - timedelta(days=days) <= moment < end]
    assert (facts.rows, len(inside) - facts.rows) == (rows, duplicates) == (len(set(inside)), duplicates)
    assert ledger(facts) == naive_gaps(times, step, end, days)
    assert (len(facts.gaps), sum(gap.missing for gap in facts.gaps)) == (gaps, missing)
    assert facts.zero_trade_rows == zero_trades
    note = f"{symbol}: {duplicates} exact duplicate rows dropped"
    assert [found for found in snapshot.notes if "duplicate" in found] == [note] * bool(duplicates)
    assert snapshot.candles(symbol).height == rows
    assert verify_snapshot(snapshot) == ()


@pytest.mark.parametrize(("name", "symbol", "interval", "message", "hint"), REFUSED)
def test_a_real_file_is_refused(take, folder_of, name, symbol, interval, message, hint):
    """The message names file and reason in one line; a hint says what to do where something helps."""
    with pytest.raises(InputError, match=message) as err:
        take((symbol,), interval=interval, days=10, folder=folder_of(name))

    assert "\n" not in err.value.message
    assert hint in (err.value.hint or "")


def test_the_outages_stand_where_the_exchange_had_them(take, real_data):
    """Three known outages: 2019-11-13, 2021-04-25 and 2023-03-24."""
    expected = {
        "2021-04-25": [("2021-04-25T04:01:00Z", "2021-04-25T08:44:00Z", 284)],
        "2023-03-24": [("2023-03-24T12:40:00Z", "2023-03-24T13:59:00Z", 80)],
    }
    for day, gaps in expected.items():
        end_ms = parse_time(day) + 86_400_000
        snapshot = take(("BTCUSDT",), end_ms=end_ms, folder=real_data / DAYS).snapshot
        assert ledger(snapshot.facts[0]) == gaps
    snapshot = take(("BTCUSDT",), days=30, end_ms=parse_time("2019-11-14T21:51Z"), folder=real_data / "messy").snapshot

    assert ledger(snapshot.facts[0]) == [
        ("2019-11-13T02:00:00Z", "2019-11-13T04:19:00Z", 140),
        ("2019-11-13T05:30:00Z", "2019-11-13T05:32:00Z", 3),
    ]


def test_two_days_across_the_change_of_unit(take, real_data):
    """2024-12-31 is in ms, 2025-01-01 in µs: together they are 2,880 minutes without a gap."""
    snapshot = take(("BTCUSDT",), days=2, end_ms=parse_time("2025-01-02"), folder=real_data / DAYS).snapshot

    assert snapshot.facts[0].rows == 2880
    assert snapshot.facts[0].gaps == ()
    assert snapshot.candles("BTCUSDT")["taker_buy_quote"].null_count() == 0


def test_one_month_in_two_formats_is_one_series(take, folder_of):
    """The same candles as Parquet and in freqtrade's format: all rows but the first are duplicates."""
    folder_of(MESSY)
    snapshot = take(("BTCUSDT",), days=30, folder=folder_of(FREQTRADE)).snapshot

    assert snapshot.facts[0].rows == 43_057
    assert snapshot.notes == ("BTCUSDT: 43343 exact duplicate rows dropped",)


def test_answers_of_the_exchange_in_one_folder(take, real_data):
    """Two weeks of answers and an empty one are one series; other files of the folder do not matter."""
    snapshot = take(
        ("BTCUSDT",), days=7, interval="15m", end_ms=parse_time("2025-01-06"), folder=real_data / REST
    ).snapshot

    assert (snapshot.facts[0].rows, snapshot.facts[0].gaps) == (672, ())
    assert snapshot.notes == ("BTCUSDT: 1 file without rows passed over: BTCUSDT-15m-2039-12-26.json",)


@pytest.mark.parametrize("right", [True, False])
def test_the_checksum_of_a_real_zip(take, folder_of, real_data, right):
    """In the format of the archive's checksum files."""
    found = hashlib.sha256((real_data / ZIP).read_bytes()).hexdigest()
    line = (real_data / CHECKSUM).read_text().replace("2025-04-11", "2026-04")
    folder = folder_of(ZIP)
    (folder / "BTCUSDT-1m-2026-04.zip.CHECKSUM").write_text(line.replace(line[:64], found) if right else line)

    if right:
        assert take(("BTCUSDT",), days=30, folder=folder).created
        return
    with pytest.raises(InputError, match=f"its SHA-256 is {found}, but .* says {line[:64]}"):
        take(("BTCUSDT",), days=30, folder=folder)


@pytest.mark.parametrize(
    ("source", "symbol", "interval", "message"),
    [
        ("spot_1m", "BTCUSDT", "5m", "its candles are 1m apart"),
        ("spot_5m", "BTCUSDT", "1m", "its candles are 5m apart"),
        ("spot_1m", "SOLUSDT", "1m", "no symbol 'SOLUSDT'"),
        (REST, "BTCUSDT", "1m", "has no 1m candles of BTCUSDT: its files are named as of 15m: BTCUSDT-15m-2024-12-30"),
        (REST, "SOLUSDT", "15m", "has no 15m candles of SOLUSDT: its files are named as of 1h: SOLUSDT-1h"),
        ("raw", "BTCUSDT", "1m", "has BTCUSDT of two markets: "),
        ("README.md", "BTCUSDT", "1m", "is a file: name the folder"),
    ],
)
def test_unreadable_files_are_refused_by_name(take, real_data, source, symbol, interval, message):
    """Each refusal names file and reason."""
    with pytest.raises(InputError, match=message) as err:
        take((symbol,), interval=interval, folder=real_data / source)

    assert "\n" not in err.value.message


def test_a_folder_of_many_exchanges_leaves_out_other_intervals(real_data):
    """A 5m file among 1m files of the symbol is left out, with a note."""
    source = FilesSource(real_data / OTHER, "1m")
    source.clock_ms(("BTCUSDT",))

    assert source.symbols() == ("BTCUSDC", "BTCUSDT")
    name = "BTCUSDT_5m_mixed_source.csv.gz (5m)"
    assert source.notes() == (f"1 file left out (another interval): {name}",)


def test_rows_of_two_origins_are_taken_before_they_mix(take, folder_of):
    """The file is valid, with a gap, up to the first row from the websocket."""
    folder = folder_of(MIXED)
    snapshot = take(("BTCUSDT",), interval="5m", days=4, end_ms=parse_time("2025-09-21"), folder=folder).snapshot

    assert ledger(snapshot.facts[0]) == [("2025-09-20T05:30:00Z", "2025-09-20T23:55:00Z", 222)]
