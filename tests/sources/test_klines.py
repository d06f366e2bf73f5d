"""Laws of pages of candles: planning, parsing, refusing and merging them."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mltrain.candles.frame import CANDLE_SCHEMA, times_ms
from mltrain.errors import InputError
from mltrain.sources.http_client import MalformedError
from mltrain.sources.klines import PAGE_CANDLES, _read_any, _read_plain, merge_rows, plan_pages, read_page
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.times import INTERVALS_MS, MINUTE_MS, TimeRange, format_ms, grid_offset_ms

FIELDS = (
    *("ts", "open", "high", "low", "close", "volume", "close_time"),
    *("quote_volume", "trades", "taker_buy_base", "taker_buy_quote", "unused"),
)
NUMBERS = tuple(name for name in CANDLE_SCHEMA if name not in {"ts", "trades"})
TIME = format_ms(CLOCK_MS)

floats = st.floats(0, 1e12, allow_nan=False)
texts = st.one_of(floats.map(repr), floats.map("{:.8f}".format), floats, st.integers(0, 10**12))


@st.composite
def rows_of(draw, step_ms):
    """Draw a row as an exchange may write it: numbers as text or bare, times in ms or microseconds."""
    ts = draw(st.integers(0, 4 * 10**12 // step_ms)) * step_ms + grid_offset_ms(step_ms)
    micros = ts >= 10**11 and draw(st.booleans())
    times = (ts * 1000, (ts + step_ms) * 1000 - 1) if micros else (ts, ts + step_ms - 1)
    times = draw(st.sampled_from([times, tuple(map(str, times))]))
    values = [draw(texts) for _ in range(8)]
    trades = draw(st.integers(0, 2**63 - 1))
    return [times[0], *values[:5], times[1], values[5], trades, *values[6:], draw(st.sampled_from(["0", 0, None, ""]))]


pages = st.sampled_from(sorted(INTERVALS_MS)).flatmap(
    lambda interval: st.tuples(st.just(interval), st.lists(rows_of(INTERVALS_MS[interval]), max_size=20))
)


def row_of(**values):
    """Return an ordinary row with the given values."""
    plain = [CLOCK_MS, "3", "4", "1", "2", "5", CLOCK_MS + MINUTE_MS - 1, "10", 7, "1", "2", "0"]
    return [values.get(name, value) for name, value in zip(FIELDS, plain, strict=True)]


def read(body, *, interval="1m"):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_page(body, symbol="BTCUSDT", interval=interval, where="host").rows


# --- reading ---------------------------------------------------------------------------------------------------------


@given(pages, st.booleans())
def test_a_page_reads_as_json_module_does(page, spaced):
    """Every value of every row, in order of arrival, is the one that Python's json module gives."""
    interval, rows = page
    body = json.dumps(rows, separators=(" ,\n ", ": ") if spaced else (",", ":")).encode()
    frame = read(body, interval=interval)

    assert dict(frame.schema) == dict(CANDLE_SCHEMA)
    expected = [int(row[0]) // (1000 if int(row[0]) >= 10**14 else 1) for row in rows]
    assert times_ms(frame).tolist() == expected
    assert frame["trades"].to_list() == [row[8] for row in rows]
    for name in NUMBERS:
        assert frame[name].to_list() == [float(row[FIELDS.index(name)]) for row in rows]


plain_numbers = st.floats(0, 1e17, allow_nan=False).map("{:.8f}".format) | st.integers(0, 10**25).map(str)


@st.composite
def plain_pages(draw):
    """Draw a page as Binance writes it, in which a few bytes may have been replaced."""
    bare = st.integers(0, 2**60)
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        times = (draw(bare), draw(bare))
        texts = [draw(plain_numbers) for _ in range(8)]
        rows.append([times[0], *texts[:5], times[1], texts[5], draw(bare), *texts[6:], "0"])
    body = bytearray(json.dumps(rows, separators=(",", ":")).encode())
    for _ in range(draw(st.integers(0, 3))):
        body[draw(st.integers(0, len(body) - 1))] = draw(st.sampled_from(b'019.,"[]-e '))
    return bytes(body)


@settings(max_examples=300)
@given(plain_pages())
@example(b'[[1,"1","1","1","1","1",1,"1",1,"1","1","0"]]')
@example(b'[[1,"1","1","1","1","1",1.5,"1",1,"1","1","0"]]')
@example(b'[[1,"1","1","1","1","1",1.,"1",1,"1","1","0"]]')
@example(b'[[1,"1","","1","1","1",1,"1",1,"1","1","0"]]')
@example(b'[[1,"1",".","1","1","1",1,"1",1,"1","1","0"]]')
@example(b'[[1,"1","1.","1",".1","1",1,"1",1,"1","1","0"]]')
@example(b'[[01,"1","1","1","1","1",1,"1",1,"1","1","0"]]')
@example(b'[[1,"1","1","1","1","1",1,"1",00,"1","1","0"]]')
@example(b'[[0,"01","1","1","1","1",0,"1",0,"1","1","0"]]')
def test_the_fast_reader_reads_as_the_general_one_or_leaves_it_to_that(body):
    """Of any page, every number is equal."""
    plain = _read_plain(body)
    if plain is not None:
        assert_frame_equal(plain, _read_any(body, symbol="BTCUSDT", where="host"), check_exact=True)


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_page_of_binance_is_read_fast(rows):
    """Pages as the exchange writes them are not left to the general reader."""
    row = b'[1752753600000,"1.50000000","2","0.00000001","1.5","0",1752753659999,"0.00000000",0,"0","0","0"]'
    page = _read_plain(b"[" + b",".join([row] * rows) + b"]")

    assert page.height == rows
    assert page.row(0) == (1752753600000, 1.5, 2.0, 1e-8, 1.5, 0.0, 1752753659999, 0.0, 0, 0.0, 0.0)


@given(pages.filter(lambda page: page[1]), st.data())
def test_a_page_cut_anywhere_is_malformed(page, data):
    """No proper prefix of a page is accepted."""
    interval, rows = page
    body = json.dumps(rows).encode()
    cut = data.draw(st.integers(0, len(body) - 1))

    with pytest.raises(MalformedError):
        read(body[:cut], interval=interval)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(str.encode)))
def test_any_bytes_are_malformed_or_refused(body):
    """Any bytes are rows or one of the two errors."""
    try:
        frame = read(body)
    except (MalformedError, InputError):
        return
    assert frame.is_empty()
    assert json.loads(body) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300)
@given(json_values)
def test_any_json_is_malformed_or_refused(value):
    """Only an empty list has no rows; no other document of this size has any."""
    try:
        frame = read(value)
    except (MalformedError, InputError):
        return
    assert value == []
    assert frame.is_empty()


MALFORMED = {
    "nothing": b"",
    "blanks": b" \n ",
    "html": b"<html><body>Please wait</body></html>",
    "null": b"null",
    "a number": b"3",
    "a text": b'"maintenance"',
    "true": b"true",
    "an object": b'{"code":-1003,"msg":"Too much."}',
    "a list of numbers": b"[1,2]",
    "a list of texts": b'["x"]',
    "a list of objects": b'[{"a":1}]',
    "a list of null": b"[null]",
    "null after a row": json.dumps([row_of(), None]).encode(),
    "an object in a row": json.dumps([row_of(close={"a": 1})]).encode(),
    "a list in a row": json.dumps([row_of(close=["1"])]).encode(),
    "two documents": b"[] []",
    "two lines": b"[]\n[]",
    "a comma too many": b"[[1],]",
    "no UTF-8": b'[["\xff"]]',
    "a byte order mark": b"\xef\xbb\xbf[]",
    "NaN": b"[[NaN]]",
    "an infinity": b"[[Infinity]]",
    "a number without end": b"[[" + b"9" * 1_000_000 + b"]]",
    "an exponent without end": b"[[1e" + b"9" * 1000 + b"]]",
    "a number that no float holds": b"[[1e999]]",
    "a nul byte": b"[[1]]\x00",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_anything_but_a_list_of_rows_is_malformed(body):
    """The client retries a MalformedError; its message is one short line."""
    with pytest.raises(MalformedError) as caught:
        read(body)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("body", ["b'[' * 4_000_000", "b'[' * 1_900_000 + b']' * 1_900_000", "b'{\"a\":' * 600_000"])
def test_deep_nesting_is_malformed(body):
    """Four megabytes of brackets are malformed and do not crash the process."""
    program = (
        "from mltrain.sources.http_client import MalformedError\nfrom mltrain.sources.klines import read_page\n"
        f"try:\n    read_page({body}, symbol='B', interval='1m', where='h')\n"
        "except MalformedError:\n    print('malformed')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "malformed\n"), done.stderr


# --- refusing --------------------------------------------------------------------------------------------------------


def refused(rows, **options):
    with pytest.raises(InputError) as caught:
        read(rows, **options)
    return caught.value.message


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in {"ts", "unused"}])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        *(("abc", "'abc'"), ("", "''"), (" 1", "' 1'"), ("1_0", "'1_0'"), ("0x10", "'0x10'"), ("1,5", "'1,5'")),
        *(("٣", "'\\u0663'"), (True, "'true'"), (None, "missing"), ("\ud800", "'"), ("x" * 9000, "xxx...'")),
    ],
)
def test_a_field_that_is_no_number_is_named(name, value, said):
    """Host, symbol, time, field and value are in one short line of ASCII."""
    message = refused([row_of(), row_of(**{name: value})])

    assert message.startswith(f"host: BTCUSDT at {TIME}: {name} is ")
    assert said in message
    assert message.endswith("not a number")
    assert message.isascii()
    assert len(message) < 160


@pytest.mark.parametrize("name", ["ts", "close_time", "trades"])
@pytest.mark.parametrize("value", ["1.5", "5.0", "1e3", str(2**63), "NaN", 2**64])
def test_a_time_or_a_count_is_a_whole_number(name, value):
    """Times and counts are 64-bit integers without a decimal point."""
    message = refused([row_of(**{name: value})])

    where = "in row 1" if name == "ts" else f"at {TIME}"
    assert message == f"host: BTCUSDT {where}: {name} is '{value}': not a number"


@pytest.mark.parametrize("scale", [1, 1000])
def test_the_time_of_a_refused_row_is_readable(scale):
    """Also for times in microseconds; a row without a time is named by its number."""
    times = {"ts": CLOCK_MS * scale, "close_time": (CLOCK_MS + MINUTE_MS) * scale - 1}

    assert f"at {TIME}: close is 'x'" in refused([row_of(**times, close="x")])
    assert f"at {TIME}: the row has 11 fields, not 12" in refused([row_of(**times)[:-1]])
    assert "in row 2: the row has 13 fields, not 12" in refused([row_of(), ["soon", *row_of()]])
    assert "in row 1: the row has 0 fields, not 12" in refused([[]])


@pytest.mark.parametrize("closed", [MINUTE_MS, 2 * MINUTE_MS - 1, -1])
def test_a_candle_of_another_length_is_refused(closed):
    """A candle closes at the latest one millisecond before the next one opens, or its interval is another."""
    message = refused([row_of(), row_of(close_time=CLOCK_MS + closed)])

    assert message == (f"host: BTCUSDT at {TIME}: close_time is {CLOCK_MS + closed}: not the end of a 1m candle")


@pytest.mark.parametrize(("ts", "closed"), [(-(2**63), 2**63 - 1), (2**63 - 1, -(2**63)), (2**63 - 1, 2**63 - 1)])
def test_times_at_the_end_of_64_bits_are_refused(ts, closed):
    """A length that does not fit into 64 bits is refused."""
    assert "close_time is" in refused([row_of(ts=ts, close_time=closed)])


@pytest.mark.parametrize("rows", [3, 60])
def test_many_candles_that_close_early_are_of_another_interval(rows):
    """One-second candles are not taken for one-minute candles that all closed early."""
    seconds = [row_of(ts=CLOCK_MS + s * 1000, close_time=CLOCK_MS + s * 1000 + 999) for s in range(rows)]

    assert refused(seconds) == f"host: BTCUSDT at {TIME}: close_time is {CLOCK_MS + 999}: not the end of a 1m candle"


# --- irregular rows of the exchange's history ------------------------------------------------------------------------


def read_times(rows, interval="1h"):
    """Return the result of parsing rows with these open and close times."""
    body = json.dumps([row_of(ts=ts, close_time=closed) for ts, closed in rows]).encode()
    return read_page(body, symbol="BTCUSDT", interval=interval, where="host")


def test_the_restart_of_february_2018_leaves_a_gap():
    """Trading stopped at 00:28:14.788 and began again off the grid: those hourly rows are left out."""
    rows = [
        (1518044400000, 1518047999999),
        # Closed early: nothing opened in its hour afterwards.
        (1518048000000, 1518049694788),
        # 09:28:14.789 on the next day, and so on for two days.
        (1518168494789, 1518172094788),
        # The last one off the grid, cut short by the next.
        (1518319694789, 1518321600999),
        (1518321600000, 1518325199999),
    ]
    page = read_times(rows)

    assert times_ms(page.rows).tolist() == [1518044400000, 1518048000000, 1518321600000]
    assert page.odd.left_out == {1518168494789, 1518319694789}
    assert page.odd.closed_early == {1518048000000}
    assert page.ts_ms.tolist() == [ts for ts, _ in rows]


def test_a_candle_that_another_follows_inside_its_hour_is_left_out():
    """2017-12-04 stopped at 06:00:20 and began again at 06:49:06: neither row is the candle of that hour."""
    page = read_times(
        [
            (1512363600000, 1512367199999),
            (1512367200000, 1512367220000),
            (1512370146000, 1512370799999),
            (1512370800000, 1512374399999),
        ]
    )

    assert times_ms(page.rows).tolist() == [1512363600000, 1512370800000]
    assert page.odd.left_out == {1512367200000, 1512370146000}
    assert page.odd.closed_early == set()


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 59)), max_size=12))
def test_what_is_taken_is_on_the_grid_and_alone_in_its_interval(rows):
    """Kept rows open on the minute, and no other row opens before the next minute."""
    times = [(CLOCK_MS + at * 1000, CLOCK_MS + at * 1000 + MINUTE_MS - 1 - early) for at, early in rows]
    early = [row for row in times if row[1] - row[0] < MINUTE_MS - 1]
    assume(len(times) < 3 or 2 * len(early) <= len(times))
    page = read_times(times, "1m")

    def is_alone(ts):
        return ts % MINUTE_MS == 0 and not any(ts < other < ts + MINUTE_MS for other, _ in times)

    assert times_ms(page.rows).tolist() == [ts for ts, _ in times if is_alone(ts)]
    assert page.odd.left_out == {ts for ts, _ in times if not is_alone(ts)}
    assert page.odd.closed_early == {ts for ts, _ in early if is_alone(ts)}


# --- merging ---------------------------------------------------------------------------------------------------------


def frame_of(rows):
    return read([row_of(ts=ts, close_time=ts + MINUTE_MS - 1, close=close) for ts, close in rows])


minutes = st.lists(st.integers(0, 30), unique=True, max_size=20)


@given(minutes, st.randoms(use_true_random=False))
def test_exact_duplicates_count_once_in_any_order(minutes, chance):
    """However rows are repeated, shuffled and split into frames, each is merged once, sorted by time."""
    rows = [(CLOCK_MS + m * MINUTE_MS, f"{1 + m}.25") for m in minutes]
    dealt = [[] for _ in range(3)]
    for row in [*rows, *(chance.choice(rows) for _ in rows)]:
        chance.choice(dealt).append(row)
    for part in dealt:
        chance.shuffle(part)
    merged = merge_rows([frame_of(part) for part in dealt], symbol="BTCUSDT", where="host")

    assert merged.equals(frame_of(sorted(rows)))


@given(minutes.filter(bool), st.data())
def test_a_contradiction_is_named(minutes, data):
    """For two different rows of one time the message has symbol, time, field and both values."""
    rows = [(CLOCK_MS + m * MINUTE_MS, "2.5") for m in minutes]
    ts, _ = data.draw(st.sampled_from(rows))
    shuffled = data.draw(st.permutations([*rows, (ts, "2.75")]))

    with pytest.raises(InputError) as caught:
        merge_rows([frame_of(shuffled)], symbol="BTCUSDT", where="host")
    values = " and ".join(close for t, close in shuffled if t == ts)
    assert caught.value.message == (f"host: BTCUSDT at {format_ms(ts)}: close is {values}: two candles of one time")


@pytest.mark.parametrize("name", [*NUMBERS, "trades"])
def test_the_differing_field_is_named(name):
    """Also where another field is the same NaN in both rows."""
    other = "volume" if name == "close" else "close"
    rows = [row_of(**{name: value, other: "NaN"}) for value in (8, 9)]

    with pytest.raises(InputError, match=f"{name} is {8 if name == 'trades' else '8.0'} and 9"):
        merge_rows([read(rows)], symbol="BTCUSDT", where="host")


def test_equal_numbers_written_differently_do_not_differ():
    """0, -0 and 0.0 are equal, and so are NaN and NaN, which a later check refuses."""
    rows = [row_of(volume=volume, quote_volume="NaN") for volume in ("0", "-0", "0.0", 0, "0e5")]

    assert merge_rows([read(rows)], symbol="BTCUSDT", where="host").height == 1


# --- planning --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 10**6),
    st.integers(0, 5 * PAGE_CANDLES),
    st.sampled_from(sorted(INTERVALS_MS.values())),
    st.integers(1, PAGE_CANDLES),
)
def test_pages_cover_the_window_exactly_once(start, count, step_ms, candles):
    """Pages are in order without gap or overlap, and none is empty or too long."""
    window = TimeRange(start * step_ms, (start + count) * step_ms)
    planned = list(plan_pages(window, step_ms, candles=candles))

    assert len(planned) == math.ceil(count / candles)
    edges = [window.start_ms, *(page.end_ms for page in planned)]
    assert [page.start_ms for page in planned] == edges[:-1]
    assert edges[-1] == window.end_ms
    assert all(0 < page.end_ms - page.start_ms <= candles * step_ms for page in planned)


def test_an_empty_page_is_a_frame_of_no_rows():
    """The frame has every column."""
    assert read([]).equals(pl.DataFrame(schema=CANDLE_SCHEMA))
