"""Any table of a caller becomes a frame, or an error that names the argument."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mltrain.candles.conversion import as_candles, as_frame, as_record
from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.errors import InputError, UsageError
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import MINUTE_MS, TimeRange, as_time_ms, check_time_ms

UTC_MINUTE = dt.datetime(2025, 10, 15, 12, tzinfo=dt.UTC)
FRAME = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - 5 * MINUTE_MS, CLOCK_MS))
OHLCV = FRAME.select(list(CANDLE_SCHEMA)[:6])


def kline_rows():
    """Return the candles as Binance's REST API returns them: numbers as text, close times, an unused field."""
    rows = FRAME.with_columns(pl.col("ts").dt.timestamp("ms")).rows()
    return [[ts, *map(str, row[:5]), ts + 59_999, str(row[5]), row[6], *map(str, row[7:]), "0"] for ts, *row in rows]


class Capsule:
    """A table of another library with only the Arrow PyCapsule protocol, as a pandas frame has it."""

    def __init__(self, frame):
        self._table = frame.to_arrow()

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


class Interchange:
    """A table of another library with only the dataframe interchange protocol."""

    def __init__(self, frame):
        self._table = frame.to_arrow()

    def __dataframe__(self, **options):
        return self._table.__dataframe__(**options)


FORMS = {
    "eager": lambda: FRAME,
    "lazy": FRAME.lazy,
    "Arrow table": FRAME.to_arrow,
    "record batch": lambda: FRAME.to_arrow().to_batches()[0],
    "PyCapsule": lambda: Capsule(FRAME),
    "interchange": lambda: Interchange(FRAME),
    "columns": lambda: FRAME.to_dict(as_series=False),
    "dicts": FRAME.to_dicts,
    "klines": kline_rows,
    "kline tuples": lambda: tuple(map(tuple, kline_rows())),
    "ns": lambda: FRAME.with_columns(pl.col("ts").dt.cast_time_unit("ns")),
    "another zone": lambda: FRAME.with_columns(pl.col("ts").dt.convert_time_zone("Asia/Tokyo")),
    "text": lambda: FRAME.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%SZ"), pl.col("close").cast(pl.String)),
    "seconds": lambda: FRAME.with_columns(pl.col("ts").dt.timestamp("ms") // 1000),
    "microseconds": lambda: FRAME.with_columns(pl.col("ts").dt.timestamp("us")),
    "whole trades as floats": lambda: FRAME.with_columns(pl.col("trades").cast(pl.Float64)),
    "other names": lambda: FRAME.rename({"ts": "open_time", "trades": "number_of_trades", "volume": "Volume"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_candles(form):
    """Names, types and values are those of the Polars frame, to the last bit."""
    found = as_candles(as_frame(FORMS[form](), "candles"), "the candles given")

    assert_frame_equal(found, FRAME, check_exact=True)


@pytest.mark.parametrize(
    "given",
    [
        [row[:6] for row in kline_rows()],
        np.array([[float(cell) for cell in row[:6]] for row in kline_rows()]),
        np.array(
            [(row[0], *map(float, row[1:6])) for row in kline_rows()],
            dtype=[("ts", "i8"), *((name, "f8") for name in ("open", "high", "low", "close", "volume"))],
        ),
    ],
    ids=["lists", "array", "structured array"],
)
def test_rows_of_six_are_ohlcv(given):
    """As in ccxt and freqtrade; the optional columns are absent."""
    assert_frame_equal(as_candles(as_frame(given, "candles"), "the candles given"), OHLCV, check_exact=True)


def test_symbols_may_be_categories():
    """A Categorical or Enum column of symbols is read as text."""
    for dtype in (pl.Categorical(), pl.Enum(["BTCUSDT", "ETHUSDT"])):
        frame = FRAME.with_columns(symbol=pl.lit("BTCUSDT").cast(dtype))

        assert_frame_equal(as_candles(frame, "w"), FRAME.with_columns(symbol=pl.lit("BTCUSDT")))


def test_canonical_frames_are_not_copied():
    """Serving converts on each call: a frame that needs no conversion costs nothing."""
    assert as_candles(as_frame(FRAME, "candles"), "w") is FRAME


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (None, "None"),
        (5, "5"),
        (True, "True"),
        ("BTCUSDT", "'BTCUSDT'"),
        (b"x", "of type bytes"),
        (FRAME["close"], "Series"),
        (np.zeros(3), "ndarray"),
        ([1, 2], "a list whose first element is 1"),
        (object(), "of type object"),
        (iter([]), "list_iterator"),
    ],
)
def test_other_values_than_tables_are_refused(given, shown):
    """The message names the argument, the value and what is accepted."""
    with pytest.raises(UsageError, match=r"^candles is .*: expected a Polars or pandas frame") as caught:
        as_frame(given, "candles")

    assert shown in caught.value.message


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([kline_rows()[0], kline_rows()[1][:6]], "rows of 6, 12 fields"),
        ([[1.0, 2.0]], "rows of 2 fields"),
        (FRAME.lazy().select("absent"), "absent"),
        ({"open": [1.0, 2.0], "close": [1.0, 2.0, 3.0]}, "candles: cannot be converted"),
    ],
)
def test_a_table_that_cannot_be_converted_is_an_input_error(given, message):
    """Errors of other libraries are translated."""
    with pytest.raises(InputError, match=message):
        as_frame(given, "candles")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.with_columns(pl.col("ts").dt.replace_time_zone(None)), "ts has no time zone"),
        (lambda f: f.with_columns(pl.col("ts").dt.date()), "ts has no time zone"),
        (lambda f: f.drop("ts"), "ts missing"),
        (lambda f: f.with_columns(ts=pl.lit("yesterday")), "ts is 'yesterday'"),
        (lambda f: f.with_columns(close=pl.lit("cheap")), "close is 'cheap'"),
        (lambda f: f.with_columns(close=pl.lit(True)), "close is Boolean"),
        (lambda f: f.with_columns(trades=pl.lit(1.5)), "whole number"),
        (lambda f: f.with_columns(symbol=pl.lit(7)), "symbol is Int32"),
    ],
)
def test_ambiguous_tables_are_refused(change, message):
    """A time without a zone is not assumed to be UTC, and no cell is filled in."""
    with pytest.raises(InputError, match=message):
        as_candles(change(FRAME), "the candles given")


def test_one_row_in_every_form():
    """A mapping, a frame of one row and a kline row are one record; a longer table is refused."""
    last = FRAME.row(-1, named=True)

    assert as_record(last, "candle") is last
    assert as_record(FRAME.tail(1), "candle") == last
    assert as_record([last], "candle") == last
    assert as_record(kline_rows()[-1], "candle")["taker_buy_quote"] == str(last["taker_buy_quote"])
    with pytest.raises(InputError, match="5 rows: expected one"):
        as_record(FRAME, "candle")
    with pytest.raises(UsageError, match="candle is None: expected a mapping"):
        as_record(None, "candle")


class TestTimes:
    """Times that a caller passes."""

    @pytest.mark.parametrize(
        "time",
        [
            "2025-10-15T12:00:00Z",
            "2025-10-15T14:00+02:00",
            UTC_MINUTE,
            UTC_MINUTE.astimezone(dt.timezone(dt.timedelta(hours=9))),
        ],
    )
    def test_text_and_datetimes(self, time):
        """Every notation of an instant gives the same time."""
        assert as_time_ms(time, "start") == CLOCK_MS

    def test_a_date_is_its_midnight(self):
        """In UTC."""
        assert as_time_ms(dt.date(2025, 10, 15), "start") == CLOCK_MS - 12 * 60 * MINUTE_MS

    @pytest.mark.parametrize(
        "time",
        [None, 5, 1.5, CLOCK_MS, b"2025", dt.datetime(2025, 10, 15), dt.date(1969, 1, 1), [1], "soon"],  # noqa: DTZ001
    )
    def test_anything_else_is_refused(self, time):
        """A number has no unit, a naive datetime no zone."""
        with pytest.raises(UsageError, match=r"start|is not a time"):
            as_time_ms(time, "start")

    @pytest.mark.parametrize("time", [CLOCK_MS, float(CLOCK_MS), CLOCK_MS + 0.9, np.int64(CLOCK_MS)])
    def test_milliseconds_are_whole(self, time):
        """Of any type of number."""
        assert check_time_ms(time, "now_ms") == CLOCK_MS

    @pytest.mark.parametrize(
        ("time", "message"),
        [
            (CLOCK_MS // 1000, "reads as seconds"),
            (CLOCK_MS * 1000, "reads as microseconds"),
            (CLOCK_MS * 10**6, "reads as microseconds"),
            (-1, "now_ms is -1"),
            (float("nan"), "now_ms is nan"),
            (True, "bool"),
            ("1760529600000", "str"),
            (UTC_MINUTE, "datetime"),
        ],
    )
    def test_times_in_another_unit_are_refused_by_their_size(self, time, message):
        """Seconds read as ms would be a day in 1970."""
        with pytest.raises(UsageError, match=message):
            check_time_ms(time, "now_ms")


class TestPandas:
    """pandas frames; skipped without pandas, which mltrain does not require."""

    @pytest.fixture
    def frame(self):
        pytest.importorskip("pandas", reason="pandas is not installed: it is no dependency of mltrain")
        return FRAME.to_pandas()

    def test_columns_and_time_indexes(self, frame):
        """A time index of any name is `ts`; other levels are columns; categories are text."""
        unnamed = frame.set_index("ts").rename_axis(None)
        symbols = frame.assign(symbol="BTCUSDT").astype({"symbol": "category"})
        named = FRAME.with_columns(symbol=pl.lit("BTCUSDT"))

        for given in (frame, frame.set_index("ts"), unnamed, unnamed.rename_axis("date")):
            assert_frame_equal(as_candles(as_frame(given, "candles"), "w"), FRAME, check_exact=True)
        for given in (symbols, symbols.set_index(["symbol", "ts"]), symbols.set_index("ts")):
            assert_frame_equal(as_candles(as_frame(given, "candles"), "w"), named, check_column_order=False)
        with pytest.raises(InputError, match="no time zone"):
            as_candles(as_frame(unnamed.tz_localize(None), "candles"), "w")

    def test_a_row_has_the_time_of_its_index(self, frame):
        """`frame.iloc[-1]` of a frame with a time index has its time as name."""
        row = as_record(frame.set_index("ts").iloc[-1], "candle")

        assert (row["ts"], row["close"]) == (FRAME["ts"][-1], FRAME["close"][-1])

    def test_features_leave_the_index_out(self, frame):
        """An index is not a feature."""
        assert as_frame(frame.set_index("ts"), "x", index=False).columns == FRAME.columns[1:]
        with pytest.raises(UsageError, match=r"pandas.*Series"):
            as_frame(frame["close"], "x")
