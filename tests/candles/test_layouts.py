"""Candle files in the layouts of other programs are read exactly or refused with their place."""

from __future__ import annotations

import gzip
import io
import json
import zipfile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.frame import CANDLE_SCHEMA, OPTIONAL, times_ms
from mltrain.candles.layouts import read_binance_csv, read_rows
from mltrain.errors import InputError
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import MINUTE_MS, TimeRange, interval_ms

HEADER = "ts,open,high,low,close,volume"


def read(data, *, name="BTCUSDT.csv", interval="1m"):
    data = data if isinstance(data, bytes) else data.encode()
    return read_rows(data, name=name, where=f"{name}: BTCUSDT", step_ms=interval_ms(interval)).rows


@pytest.fixture(scope="module")
def candles():
    """Return two hours of simulated candles with every column."""
    return SimSource(seed=9).candles("BTCUSDT", TimeRange(CLOCK_MS - 120 * MINUTE_MS, CLOCK_MS))


def as_binance(frame, unit=1):
    """Return candles as the exchange's archive prints them: no header, twelve columns, eight decimals."""
    lines = []
    for row, ts in zip(frame.iter_rows(named=True), times_ms(frame).tolist(), strict=True):
        prices = ",".join(f"{row[name]:.8f}" for name in ("open", "high", "low", "close", "volume"))
        rest = f"{row['quote_volume']:.8f},{row['trades']},{row['taker_buy_base']:.8f},{row['taker_buy_quote']:.8f}"
        lines.append(f"{ts * unit},{prices},{(ts + MINUTE_MS) * unit - 1},{rest},0")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
def test_the_archives_own_layout_is_read(candles, unit):
    """Twelve columns without a header, in ms, µs or ns, give the candles exactly."""
    assert read(as_binance(candles, unit)).equals(candles)


def test_the_unit_may_change_within_a_file(candles):
    """A file that changes from ms to µs, as the archive did on 2025-01-01, is one series."""
    assert read(as_binance(candles[:50]) + as_binance(candles[50:], 1000)).equals(candles)


def zipped(members):
    """Return a zip of these files."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def as_parquet(frame):
    """Return a frame as a Parquet file of another program."""
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
def test_headers_of_other_programs_are_understood(candles, header):
    """The usual names of each column are recognised, whatever their case and spelling."""
    assert read(f"{header}\n{as_binance(candles)}").equals(candles)


def test_prices_as_text_are_numbers_in_parquet_too(candles):
    """The exchange's JSON has prices as text, and users store it unchanged."""
    text = candles.with_columns(pl.col(pl.Float64).map_elements(lambda v: f"{v:.8f}", return_dtype=pl.String))

    assert read(as_parquet(text), name="BTCUSDT.parquet").equals(candles)


def test_missing_columns_are_null(candles):
    """Any of the optional four may be absent, and further columns are ignored."""
    frame = read(as_parquet(candles.drop("trades", "quote_volume").with_columns(junk=[[1]] * 120)), name="B.parquet")

    assert frame["trades"].null_count() == frame["quote_volume"].null_count() == 120
    assert frame["taker_buy_base"].equals(candles["taker_buy_base"])
    assert dict(frame.schema) == dict(CANDLE_SCHEMA)


PACKERS = {
    "csv": lambda plain: plain,
    "csv.gz": gzip.compress,
    "zip": lambda plain: zipped({"BTCUSDT-1m.csv": plain}),
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_are_the_plain_one(candles, suffix):
    """The CSV inside a gzip or zip file is read like the plain one."""
    assert read(PACKERS[suffix](as_binance(candles).encode()), name=f"BTCUSDT.{suffix}").equals(candles)


@pytest.mark.parametrize("suffix", ["csv.gz", "json.gz", "zip", "parquet"])
def test_damaged_files_are_refused_by_name(candles, suffix):
    """Truncated, overwritten, foreign and empty files are refused."""
    packed = as_parquet(candles) if suffix == "parquet" else PACKERS[suffix.replace("json", "csv")](b"x" * 1000)
    for bad in (packed[:-20], packed[:-20] + b"\0" * 20, b"ts,open", b""):
        with pytest.raises(InputError, match=rf"BTCUSDT.{suffix}: BTCUSDT: (not a|a damaged|holds)"):
            read(bad, name=f"BTCUSDT.{suffix}")


def as_json(frame, columns, *, quoted=True, **options):
    """Return candles as a JSON list of rows: prices as text where quoted, times in ms."""
    frame = frame.with_columns(ts=pl.col("ts").dt.timestamp("ms"), ignore=0, close_time=0)
    if quoted:
        frame = frame.with_columns(pl.col(pl.Float64).map_elements(repr, return_dtype=pl.String))
    return json.dumps([list(row) for row in frame.select(columns).iter_rows()], **options)


BINANCE = ["ts", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "trades", "taker_buy_base",
           "taker_buy_quote", "ignore"]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"separators": (",", ":")}], ids=str)
def test_answers_of_the_exchange_are_read_as_they_were_saved(candles, options):
    """Twelve values a row, prices as text, however it is printed; a byte order mark is skipped."""
    text = as_json(candles, BINANCE, **options)

    assert read(text, name="BTCUSDT.json").equals(candles)
    assert read(b"\xef\xbb\xbf" + text.encode(), name="BTCUSDT.json").equals(candles)
    assert read(gzip.compress(text.encode()), name="BTCUSDT.json.gz").equals(candles)


def test_six_and_seven_columns_are_known_by_position(candles):
    """The JSON and CSV of freqtrade have six, Kraken's CSV has seven and times in seconds."""
    six = ["ts", "open", "high", "low", "close", "volume"]
    seven = candles.select(pl.col("ts").dt.timestamp("ms") // 1000, *six[1:], "trades")
    no_header = {"include_header": False}

    of_six = candles.with_columns(pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in OPTIONAL)
    assert read(as_json(candles, six, quoted=False), name="BTC_USDT-1m.json").equals(of_six)
    assert read(seven.drop("trades").write_csv(**no_header)).equals(of_six)
    assert read(seven.write_csv(**no_header)).equals(of_six.with_columns(candles["trades"]))
    assert read(as_json(candles, [*six, "trades"]), name="BTC.json").equals(of_six.with_columns(candles["trades"]))


@pytest.mark.parametrize("text", ["[]", "[ ]\n", f"{HEADER}\n", HEADER])
def test_a_file_may_have_no_rows(text):
    """An empty answer of the exchange or a header without rows has no candles."""
    rows = read(text)

    assert rows.is_empty()
    assert dict(rows.schema) == dict(CANDLE_SCHEMA)


GOOD = "1760529600000,10,12,9,11,100"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable CSV file: nothing is in it"),
        ("\n\r\n", "not a readable CSV file: nothing is in it"),
        (b"\xff\xfet\x00s\x00", "is UTF-16"),
        (b"ts,open\n1,\xff\n", "not a readable CSV file: invalid utf-8 sequence"),
        ("ts,open,high,low\n1,2,3,4\n", "no column for close and volume among 'ts', 'open', 'high', 'low'"),
        (HEADER.replace(",", "|"), r"no column for ts and open .* among 'ts\|open\|high\|low\|close\|volume'"),
        ("<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code></Error>", "no column for ts and open .* among .<.xml"),
        (f"{HEADER}\n{GOOD}\n1760529660000,1,2,0.5,abc,10\n", "line 3: close is 'abc': not a number"),
        (f"\n\n{HEADER}\n{GOOD}\n1760529660000,1,2,0.5,abc,10\n", "line 5: close is 'abc': not a number"),
        (f'{HEADER}\n1760529600000,1,2,0.5,"1,5",10\n', "line 2: close is '1,5': not a number"),
        (f"{HEADER},trades\n1760529600000,1,2,0.5,1.5,10,2.5\n", "line 2: trades is '2.5': not a whole number"),
        (f"{HEADER}\n{GOOD}\n{GOOD},7\n", "line 3 has 7 fields, the first line 6"),
        (f"{HEADER}\n{GOOD}\n1760529660000,1,2", "line 3 has 3 fields, the first line 6"),
        (f"{HEADER}\n{GOOD},7\n1760529660000,1,2,3,4\n", "line 2 has 7 fields, the first line 6"),
        (f"{HEADER}\n{GOOD}\n\n{GOOD}\n", "line 3 has 1 field, the first line 6"),
        (f'{HEADER}\n{GOOD}\n17605,"1,2,3\n', "line 3: a quotation mark is not closed: '17605,\"1,2,3'"),
        ("1672531200,1,2,0.5,1.5\n", r"no header, and 5 columns: only 6 \(volume last\), 7 \(trades last\), 12"),
        ("1672531200,1,2,0.5,1.5,1.2,9,3\n", "no header, and 8 columns"),
        (f"{GOOD}\n1760529660000,10,11,12,9,100\n", "line 2: open 10.0, high 11.0, low 12.0, close 9.0 cannot be a"),
        (f"{GOOD}\n1760529660000,10,,9,11,100\n", "line 2: open 10.0, high None, low 9.0, close 11.0 cannot be a c"),
        ("1672531200,1,2,0.5,1.5,1.2,9.75", "line 1: trades is '9.75': not a whole number; without a header it is tak"),
        ("1672531200,1,2,0.5,1.5,1.2,9", "its sixth column lies between low and high in every row"),
        ("," * 10_000 + "\n" * 20_000 + "1", "20001 lines of 10001 columns: at most 144000000 cells are read"),
        ("1672531200,1,2,0.5,x,1.2", "line 1: close is 'x': not a number; without a header it is taken for ts,open,h"),
    ],
)
def test_broken_text_is_refused_with_its_place(text, message):
    """File, line, column and value are named."""
    with pytest.raises(InputError, match=rf"^BTCUSDT.csv: BTCUSDT: {message}") as err:
        read(text)

    assert "\n" not in err.value.message


ROW = '[1760529600000,"1","2","0.5","1.5","10"]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"code":-1121,"msg":"Invalid symbol."}', "JSON, but not a list of rows: it begins with '{\"code\":-1121"),
        (f'{{"error":[],"result":{{"X":[{ROW}]}}}}', "JSON, but not a list of rows: it begins with"),
        (f"[{ROW},{ROW[:-1]},7]]", "row 2 has 7 values, row 1 has 6"),
        (f"[{ROW},{ROW},[]]", "row 3 has 0 values, row 1 has 6"),
        (f"[{ROW},null]", "row 2 has 0 values, row 1 has 6"),
        ("[[]]", "row 1 has no values"),
        ("[1,2]", r"no header, and 1 columns: only 6 \(volume last\)"),
        ("[[1,2,3,4,5,6,7,8,9,10,11]]", "no header, and 11 columns"),
        (f'[{ROW},{ROW.replace("10", "x")}]', "row 2: volume is 'x': not a number; without a header"),
        (f"[{ROW},[true,1,1,1,1,1]]", "row 2: ts is 'true': not an open time"),
        (f"[{ROW},[null,1,1,1,1,1]]", "row 2: ts is missing: not an open time"),
        (f"[{ROW},[1760529660000,1,NaN,1,1,1]]", "row 2: not JSON at 'NaN,1,1,1]]'"),
        (f"[{ROW},[1760529660000,1,1e999,1,1,1]]", "row 2: not JSON at '1e999,1,1,1]]'"),
        (f"[{ROW},[1760529660000,1,2", "row 2: not JSON at"),
        (f"[{ROW}] x", "row 1: not JSON at 'x'"),
        (f'[{ROW},[1760529660000,"1",[2],1,1,1]]', "row 2 is not a plain list of values: .*1760529660000"),
        (f'[{ROW},{{"ts":1760529660000,"open":1}}]', "row 2 is not a plain list of values"),
        (f'[{ROW},[1760529660000,1,1,1,1,{{"a":1}}]]', "row 2 is not a plain list of values"),
        ("[" * 3000, "JSON, but not a list of rows|row .*: not JSON at"),
        (f"[{ROW[:-1]}{',1' * 30}]]", "JSON, but not a list of at most 12000000 rows of at most 12 values"),
        (f"[{ROW},{ROW}".encode() + b"\xff]", "not UTF-8: invalid start byte at byte"),
    ],
)  # fmt: skip
def test_broken_json_is_refused_with_its_row(text, message):
    """File, row and value are named, and no more is read than a list of candles can need."""
    with pytest.raises(InputError, match=rf"^BTCUSDT.json: BTCUSDT: ({message})") as err:
        read(text, name="BTCUSDT.json")

    assert "\n" not in err.value.message


def in_order(candles, text):
    """Return candles as a CSV without a header, with prices in the order of `text`."""
    vwap = (candles["low"] + candles["high"]) / 2
    rows = zip(candles.iter_rows(named=True), times_ms(candles), vwap, strict=True)
    return "\n".join(f"{ts},{text.format(**row, vwap=average)}" for row, ts, average in rows)


ORDERS = {
    "Coinbase": "{low},{high},{open},{close},{volume}",
    "Bitfinex": "{open},{close},{high},{low},{volume}",
    "KuCoin": "{open},{close},{high},{low},{volume},{quote_volume}",
    "Bybit": "{open},{high},{low},{close},{volume},{quote_volume}",
    "Gate": "{quote_volume},{close},{high},{low},{open},{volume},true",
}


@pytest.mark.parametrize("text", ORDERS.values(), ids=ORDERS)
def test_the_order_of_other_exchanges_is_proven_by_the_prices(candles, text):
    """No price is mistaken for another, and the note says what was found."""
    plain = in_order(candles, text).encode()
    read = read_rows(plain, name="BTCUSDT.csv", where="here", step_ms=MINUTE_MS)

    same = ["ts", "open", "high", "low", "close", "volume", *(["quote_volume"] if "quote" in text else [])]
    assert read.rows.select(same).equals(candles.select(same))
    assert "its prices allow no other order" in read.layout.notes[0]


@pytest.mark.parametrize(
    "text",
    [
        "{open},{high},{low},{close},{vwap}",
        "{close},{high},{low},{open},{volume},true",
        "{close},{high},{low},{open},{volume}",
        "{close},{open},{high},{low},{volume}",
        "{low},{high},{close},{open},{volume}",
    ],
)
def test_an_order_that_is_not_known_or_not_proven_is_refused(candles, text):
    """An average in place of the volume, and open and close exchanged, which no single candle shows."""
    with pytest.raises(InputError, match="without a header it is taken for ts,open,high,low,close,volume") as err:
        read(in_order(candles, text))
    assert err.value.hint.endswith("whose first line names its columns: ts,open,high,low,close,volume")


def test_few_candles_prove_no_other_order(candles):
    """Ten candles in Coinbase's order are refused."""
    with pytest.raises(InputError, match="cannot be a candle; without a header"):
        read(in_order(candles[:10], ORDERS["Coinbase"]))


def test_the_exchanges_csv_is_read_by_itself(candles):
    """A downloaded CSV gives rows and close times; one without rows is refused."""
    plain = as_binance(candles, 1000).encode()

    rows, closes_ms = read_binance_csv(plain, where="x.csv", symbol="BTCUSDT", step_ms=MINUTE_MS)
    assert rows.equals(candles)
    assert closes_ms.tolist() == (times_ms(candles) + MINUTE_MS - 1).tolist()
    headed = f"{HEADERS['futures archive']}\n".encode() + plain
    rows, closes_ms = read_binance_csv(headed, where="x.csv", symbol="BTCUSDT", step_ms=MINUTE_MS)
    assert rows.equals(candles)
    assert closes_ms.tolist() == (times_ms(candles) + MINUTE_MS - 1).tolist()
    for data, step_ms, message in (
        (b"", MINUTE_MS, "x.csv: BTCUSDT: not a readable CSV file"),
        (HEADER.encode(), MINUTE_MS, "x.csv: BTCUSDT: no rows"),
        (plain, 5 * MINUTE_MS, "x.csv: BTCUSDT: its candles are 1m apart"),
        (plain[:-30], MINUTE_MS, "x.csv: BTCUSDT: line 120 has"),
    ):
        with pytest.raises(InputError, match=message):
            read_binance_csv(data, where="x.csv", symbol="BTCUSDT", step_ms=step_ms)


def test_the_end_of_a_line_may_be_written_in_two_ways(candles):
    """The last line may lack it, and empty lines may follow."""
    text = as_binance(candles)

    for variant in (text.replace("\n", "\r\n"), text.rstrip("\n"), text + "\n\n"):
        assert read(variant).equals(candles)


def test_a_byte_order_mark_is_skipped():
    """Spreadsheets write one."""
    assert read(b"\xef\xbb\xbf" + f"{HEADER}\n1760529600000,1,2,0.5,1.5,10\n".encode()).height == 1


@settings(max_examples=30)
@given(st.data())
def test_any_format_gives_the_same_candles(candles, data):
    """Floats survive each format to the last bit."""
    price = st.floats(1e-8, 1e9)
    closes = data.draw(st.lists(price, min_size=120, max_size=120))
    frame = candles.with_columns(close=pl.Series(closes), high=pl.Series(closes) + 1e10, low=1e-9)

    csv = frame.with_columns(pl.col("ts").dt.timestamp("ms")).write_csv()
    for name, content in (
        ("A.csv", csv),
        ("A.csv.gz", gzip.compress(csv.encode())),
        ("A.zip", zipped({"A.csv": csv.encode()})),
        ("A.parquet", as_parquet(frame)),
        ("A.json", as_json(frame, BINANCE)),
        ("A.json", as_json(frame, BINANCE, quoted=False)),
    ):
        assert read(content, name=name).equals(frame)


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
def test_candles_of_another_interval_are_recognised(make_candles, minutes, interval, found):
    """A file, or a long run in one, with another interval than requested is refused."""
    with pytest.raises(InputError, match=f"its candles are {found} apart from .* on, not {interval}") as err:
        read(make_candles(minutes).write_csv(), interval=interval)

    assert err.value.hint == (None if " s" in found else f"pass --interval {found}")


@pytest.mark.parametrize("minutes", [[0], [0, 5], [0, 1, 6, 11, 12], [*range(50), *range(60, 98, 2), *range(100, 150)]])
def test_gaps_are_not_taken_for_another_interval(make_candles, minutes):
    """Single gaps, and a few equal ones, do not make another interval."""
    assert read(make_candles(minutes).write_csv()).height == len(minutes)


@settings(max_examples=150)
@given(
    st.one_of(
        st.binary(max_size=300), st.text(alphabet='0123456789,.-:TZ "\n\r;eE+naif[]{}', max_size=300).map(str.encode)
    )
)
def test_any_bytes_are_rows_or_one_input_error(data):
    """The reader of any bytes returns rows or raises an InputError."""
    for name, content in (
        ("A1.csv", f"{HEADER}\n".encode() + data),
        ("A2.csv", data),
        ("A3.csv.gz", data),
        ("A4.json", b"[[" + data),
        ("A5.zip", b"PK\x03\x04" + data),
        ("A6.zip", zipped({"x": data})),
    ):
        try:
            assert dict(read(content, name=name).schema) == dict(CANDLE_SCHEMA)
        except InputError as err:
            assert name in err.message  # noqa: PT017 -- both ends are allowed
