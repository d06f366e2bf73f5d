"""The short way of reading a table of candles gives what the long one does, or leaves it to that."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from mltrain.candles.conversion import _read_any, _read_usual, as_frame
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import MINUTE_MS, TimeRange

FRAME = SimSource().candles("BTCUSDT", TimeRange(CLOCK_MS - 5 * MINUTE_MS, CLOCK_MS))
OBJECTS = FRAME.with_columns(pl.col("ts").dt.timestamp("ms")).to_dicts()
KLINES = [
    [r["ts"], *(str(r[n]) for n in ("open", "high", "low", "close", "volume")), r["ts"] + 59_999,
     str(r["quote_volume"]), r["trades"], str(r["taker_buy_base"]), str(r["taker_buy_quote"]), "0"]
    for r in OBJECTS
]  # fmt: skip
TIMES = [0, 1e11, 99_999_999_999, 10**14, None]
CELLS = [1.0, 0.0, -1.0, 1e-8, 1e15, 2.5, 7, 3e9, "1.5", " 2 ", "1,5", "1e3", "nan", "inf", "", "x", None, True]
CELLS += [1e308, -1e308, 5e-324, 2**53, 2**63 - 1, "9" * 40]


@settings(max_examples=400)
@given(st.data())
def test_the_short_way_gives_the_candles_of_the_long_one(data):
    """Wherever it gives any, whatever is in the table: names, times, volumes the wrong way round, text, gaps."""
    table = as_frame(data.draw(st.sampled_from([OBJECTS, KLINES])), "x")
    columns = table.to_dict(as_series=False)
    for name in data.draw(st.lists(st.sampled_from(table.columns), max_size=2)):
        columns[name][data.draw(st.integers(0, 4))] = data.draw(st.sampled_from(TIMES if name == "ts" else CELLS))
    if data.draw(st.booleans()):
        swaps = [("volume", "quote_volume"), ("open", "close"), ("trades", "high"), ("low", "taker_buy_base")]
        one, other = data.draw(st.sampled_from(swaps))
        columns[one], columns[other] = columns[other], columns[one]
    if data.draw(st.booleans()):
        columns["symbol"] = ["BTCUSDT"] * 5
    frame = pl.DataFrame([pl.Series(name, column, strict=False) for name, column in columns.items()])
    usual = _read_usual(frame)

    if usual is not None:
        assert_frame_equal(usual, _read_any(frame, "the candles given"), check_exact=True)


def test_usual_tables_take_the_short_way():
    """The rows of the exchange, and objects with ms."""
    for table in (OBJECTS, KLINES):
        assert_frame_equal(_read_usual(as_frame(table, "x")), FRAME, check_exact=True)
