"""Laws of reading one candle file."""

from __future__ import annotations

import gzip
import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.frame import CANDLE_SCHEMA, DAY_MS, MINUTE_MS, check_candles, format_ms, interval_ms, times_ms
from mltrain.candles.sim import CLOCK_MS, SimSource
from mltrain.candles.source import Window
from mltrain.candles.tables import read_rows
from mltrain.errors import InputError

HEADER = "ts,open,high,low,close,volume"


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a file and reads its rows."""

    def write_and_read(data, *, name="BTCUSDT.csv", interval="1m"):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return read_rows(path, "BTCUSDT", interval_ms(interval))

    return write_and_read


@pytest.fixture(scope="module")
def candles():
    """Return two hours of simulated candles with every column."""
    return SimSource(seed=9).candles("BTCUSDT", Window(CLOCK_MS - 120 * MINUTE_MS, CLOCK_MS))


def as_binance(frame, unit=1):
    """Return candles as the exchange's archive prints them: no header, twelve columns, eight decimals."""
    lines = []
    for row, ts in zip(frame.iter_rows(named=True), times_ms(frame).tolist(), strict=True):
        prices = ",".join(f"{row[name]:.8f}" for name in ("open", "high", "low", "close", "volume"))
        rest = f"{row['quote_volume']:.8f},{row['trades']},{row['taker_buy_base']:.8f},{row['taker_buy_quote']:.8f}"
        lines.append(f"{ts * unit},{prices},{(ts + MINUTE_MS) * unit - 1},{rest},0")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
def test_the_archives_own_layout_is_read(read, candles, unit):
    """Twelve columns without a header, in ms, µs or ns, give the candles exactly."""
    assert read(as_binance(candles, unit)).equals(candles)


def test_the_unit_is_told_value_by_value(read, candles):
    """A file that passes from milliseconds to microseconds, as the archive did on 2025-01-01, is one series."""
    assert read(as_binance(candles[:50]) + as_binance(candles[50:], 1000)).equals(candles)


def as_parquet(frame):
    """Return a frame as a parquet file that another program wrote."""
    sink = io.BytesIO()
    frame.write_parquet(sink, compression="snappy")
    return sink.getvalue()


HEADERS = {
    "futures archive": "open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    "taker_buy_volume,taker_buy_quote_volume,ignore",
    "documentation": "Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,"
    "Taker buy base asset volume,Taker buy quote asset volume,Ignore",
    "ours": "ts,open,high,low,close,volume,close_time,quote_volume,trades,taker_buy_base,taker_buy_quote,ignore",
    "quoted": '"OpenTime","O","H","L","C","V","x","QuoteVolume","num_trades","taker_base_vol","taker_quote_vol","y"',
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_of_other_programs_are_understood(read, candles, header):
    """The usual names of each column lead to it, whatever their case and spelling."""
    assert read(f"{header}\n{as_binance(candles)}").equals(candles)


TIMES = {
    "2025-10-15T12:00:00Z": "2025-10-15T12:00:00Z",
    "2025-10-15 12:00:00": "2025-10-15T12:00:00Z",
    "2025-10-15 12:00": "2025-10-15T12:00:00Z",
    "2025-10-15 12:00:00+00:00": "2025-10-15T12:00:00Z",
    "2025-10-15T12:00:00.000000+0200": "2025-10-15T10:00:00Z",
    "2025-10-15 12:00:00 UTC": "2025-10-15T12:00:00Z",
    "2025-10-15T12:00:00-03:30": "2025-10-15T15:30:00Z",
    "2025-10-15": "2025-10-15T00:00:00Z",
    " 1760529600 ": "2025-10-15T12:00:00Z",
    "1760529600000": "2025-10-15T12:00:00Z",
    "1760529600000.0": "2025-10-15T12:00:00Z",
    "1.7605296e12": "2025-10-15T12:00:00Z",
    "1760529600000000": "2025-10-15T12:00:00Z",
    "1760529600000000000": "2025-10-15T12:00:00Z",
}


@pytest.mark.parametrize(("text", "expected"), TIMES.items())
def test_times_in_text_are_understood(read, text, expected):
    """Numbers of any unit and ISO 8601, UTC unless a zone stands there."""
    frame = read(f"{HEADER}\n{text},1,2,0.5,1.5,10\n")

    assert format_ms(times_ms(frame)[0]) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2025/10/15 12:00", "15.10.2025", "2025-13-01", "2025-02-30 10:00", "nan", "inf", "1e30",
             "1760529600000001", "12:00"],
)  # fmt: skip
def test_other_times_are_refused_by_line(read, text):
    """What could be read two ways is not guessed; file, line and value are named."""
    with pytest.raises(InputError, match=r"BTCUSDT.csv: BTCUSDT: line 3: ts is .*: not an open time"):
        read(f"{HEADER}\n1760529600000,1,2,0.5,1.5,10\n{text},1,2,0.5,1.5,10\n")


@pytest.mark.parametrize(
    "dtype", [pl.Datetime("ns"), pl.Datetime("us", "UTC"), pl.Datetime("ms", "Asia/Tokyo"), pl.Int64]
)
def test_times_of_any_parquet_type_are_understood(read, candles, dtype):
    """Time zones are another way to write the same instant; a time without one is UTC."""
    ts = pl.col("ts").dt.timestamp("ms") if dtype == pl.Int64 else pl.col("ts").dt.replace_time_zone(None)
    if isinstance(dtype, pl.Datetime) and dtype.time_zone:
        ts = pl.col("ts").dt.convert_time_zone(dtype.time_zone)
    frame = candles.with_columns(ts.cast(dtype).alias("timestamp")).drop("ts")

    assert read(as_parquet(frame), name="BTCUSDT.parquet").equals(candles)


def test_dates_are_midnights(read):
    """Daily candles are often keyed by a date."""
    days = pl.Series("date", [20_000, 20_001]).cast(pl.Date)
    frame = pl.DataFrame([days]).with_columns(open=1.0, high=2.0, low=0.5, close=1.5, volume=3.0)

    assert times_ms(read(as_parquet(frame), name="BTCUSDT.parquet", interval="1d")).tolist() == [
        20_000 * DAY_MS,
        20_001 * DAY_MS,
    ]


def test_prices_as_text_are_numbers_in_parquet_too(read, candles):
    """The exchange's JSON gives prices as text, and people save it so."""
    text = candles.with_columns(pl.col(pl.Float64).map_elements(lambda v: f"{v:.8f}", return_dtype=pl.String))

    assert read(as_parquet(text), name="BTCUSDT.parquet").equals(candles)


def test_columns_that_are_lacking_are_null(read, candles):
    """Of the optional four any may be absent, and further columns are ignored."""
    frame = read(as_parquet(candles.drop("trades", "quote_volume").with_columns(junk=[[1]] * 120)), name="B.parquet")

    assert frame["trades"].null_count() == frame["quote_volume"].null_count() == 120
    assert frame["taker_buy_base"].equals(candles["taker_buy_base"])
    assert dict(frame.schema) == dict(CANDLE_SCHEMA)


def test_gzip_is_unpacked_and_damage_in_it_named(read, candles):
    """A whole .csv.gz is read; a cut one is refused, as is one that is none."""
    packed = gzip.compress(as_binance(candles).encode())

    assert read(packed, name="BTCUSDT.csv.gz").equals(candles)
    for bad in (packed[:-20], packed[:-20] + b"\0" * 20, b"ts,open", b""):
        with pytest.raises(InputError, match=r"BTCUSDT.csv.gz: BTCUSDT: not a (whole gzip|readable CSV) file"):
            read(bad, name="BTCUSDT.csv.gz")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable CSV file"),
        ("\n\n", "not a readable CSV file"),
        (HEADER, "no rows"),
        ("ts,open,high,low\n1,2,3,4\n", "no column for close and volume among"),
        ("1672531200,1,2,0.5,1.5,10,3\n", "no header, and 7 columns"),
        (f"{HEADER}\n1760529600000,1,2,0.5,abc,10\n", "line 2: close is 'abc': not a number"),
        (f"{HEADER}\n1760529600000,1,2,0.5,1_5,10\n", "line 2: close is '1_5': not a number"),
        (f'{HEADER}\n1760529600000,1,2,0.5,"1,5",10\n', "line 2: close is '1,5': not a number"),
        (f"{HEADER},trades\n1760529600000,1,2,0.5,1.5,10,2.5\n", "line 2: trades is '2.5': not a whole number"),
        (f"{HEADER},trades\n1760529600000,1,2,0.5,1.5,10,1e300\n", "line 2: trades is '1e300': not a whole number"),
        (f"{HEADER}\n1760529600000,1,2,0.5,1.5,10,7,7\n", "not a readable CSV file"),
        (b"\xff\xfet\x00s\x00", "not a readable CSV file|no column for"),
    ],
)
def test_broken_text_is_refused_with_its_place(read, text, message):
    """File, line, column and value are named; nothing is read past a cell that is no number."""
    with pytest.raises(InputError, match=message):
        read(text)


def test_a_line_that_was_cut_off_is_noticed(read):
    """A download that broke in the middle of a line leaves cells empty, and an empty price is no price."""
    frame = read(f"{HEADER}\n1760529600000,1,2,0.5,1.5,10\n1760529660000,1,2")

    with pytest.raises(InputError, match=r"(close|low) is missing"):
        check_candles(frame, symbol="BTCUSDT", interval="1m", where="here")


def test_a_byte_order_mark_is_skipped(read):
    """Spreadsheets write one."""
    assert read(b"\xef\xbb\xbf" + f"{HEADER}\n1760529600000,1,2,0.5,1.5,10\n".encode()).height == 1


@pytest.mark.parametrize(
    ("minutes", "interval", "found"),
    [
        (range(0, 300, 5), "1m", "5m"),
        (range(0, 15, 5), "1m", "5m"),
        (range(60), "5m", "1m"),
        ([*range(100), *range(100, 250, 5)], "1m", "5m"),
        ([*range(0, 150, 5), *range(150, 400)], "5m", "1m"),
        (range(0, 14 * 1440, 1440), "1h", "1d"),
        (range(0, 70, 7), "1m", "420 s"),
    ],
)
def test_candles_of_another_interval_are_recognised(read, make_candles, minutes, interval, found):
    """A file, or a long run in one, whose candles are further apart or closer than asked for is refused."""
    with pytest.raises(InputError, match=f"its candles are {found} apart from .* on, not {interval}") as err:
        read(make_candles(minutes).write_csv(), interval=interval)

    assert err.value.hint == (None if " s" in found else f"pass --interval {found}")


@pytest.mark.parametrize("minutes", [[0], [0, 5], [0, 1, 6, 11, 12], [*range(50), *range(60, 98, 2), *range(100, 150)]])
def test_holes_are_not_taken_for_another_interval(read, make_candles, minutes):
    """Single gaps, and a few equal ones, are holes."""
    assert read(make_candles(minutes).write_csv()).height == len(minutes)


@settings(max_examples=150)
@given(
    st.one_of(st.binary(max_size=300), st.text(alphabet='0123456789,.-:TZ "\n\r;eE+naif', max_size=300).map(str.encode))
)
def test_any_bytes_are_rows_or_one_input_error(tmp_path_factory, data):
    """Whatever a file holds, the reader ends with rows or with an InputError."""
    folder = tmp_path_factory.mktemp("any")
    for name, content in (("A1.csv", f"{HEADER}\n".encode() + data), ("A2.csv", data), ("A3.csv.gz", data)):
        (folder / name).write_bytes(content)
        try:
            assert read_rows(folder / name, "A1", MINUTE_MS).height > 0
        except InputError as err:
            assert name in err.message  # noqa: PT017 -- both ends are allowed
