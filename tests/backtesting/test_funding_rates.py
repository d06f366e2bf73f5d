"""Funding rates: constants and tables, read without gaps or refused."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.backtesting.funding_rates import check_complete, constant_funding, read_constant, read_funding_table
from mltrain.errors import InputError
from mltrain.times import HOUR_MS, MINUTE_MS, TimeRange

EIGHT_MS = 8 * HOUR_MS
# 2025-10-15T00:00:00Z and the two that follow.
TIMES = [1_760_486_400_000 + i * EIGHT_MS for i in range(3)]
RATES = [0.0001, -0.0002, 0.0]
TEXTS = ["2025-10-15T00:00:00Z", "2025-10-15T08:00:00Z", "2025-10-15T16:00:00Z"]


def read(columns, symbols=("BTCUSDT",)):
    return read_funding_table(pl.DataFrame(columns), symbols, where="the file")


class TestConstant:
    """A number of bps per 8 hours; anything else is a file."""

    @pytest.mark.parametrize(("text", "rate"), [("1", 1e-4), ("-0.5", -5e-5), ("+2.25", 2.25e-4), (" 0 ", 0.0)])
    def test_a_number_is_a_rate(self, text, rate):
        """In bps, of either sign."""
        assert read_constant(text) == pytest.approx(rate, rel=1e-15)

    @pytest.mark.parametrize("text", ["rates.csv", "", "nan", "inf", "1e3", "1_0", "0x1", "1.", ".5", "--1", "٣"])
    def test_anything_else_is_a_file(self, text):
        """Whatever else Python reads as a number."""
        assert read_constant(text) is None

    @given(start=st.integers(0, 10**6), length=st.integers(1, 5_000))
    def test_it_is_due_every_eight_hours(self, start, length):
        """At 0:00, 8:00 and 16:00 UTC, at both ends of the range too: complete, by its own check."""
        window = TimeRange(start * MINUTE_MS, (start + length) * MINUTE_MS)
        found = constant_funding(1e-4, ["A", "B"], window)
        expected = [t for t in range(0, window.end_ms + 1, EIGHT_MS) if t >= window.start_ms]

        assert found["A"][:, 0].tolist() == found["B"][:, 0].tolist() == expected
        assert set(found["A"][:, 1].tolist()) <= {1e-4}
        check_complete(found, {"A": window, "B": window}, where="here")


class TestTable:
    """Times and rates by symbol, from whatever a file calls them."""

    @pytest.mark.parametrize(
        "columns",
        [
            {"ts": TIMES, "rate": RATES},
            {"calc_time": TIMES, "funding_interval_hours": [8] * 3, "last_funding_rate": RATES},
            {"symbol": ["BTCUSDT"] * 3, "fundingTime": TIMES, "fundingRate": [str(rate) for rate in RATES]},
            {"ts": [str(time) for time in TIMES], "rate": [f" {rate} ".strip() for rate in RATES]},
            {"ts": TEXTS, "rate": RATES},
            {"time": [text.replace("T", " ").replace("Z", "") for text in TEXTS], "rate": RATES},
            {"ts": ["2025-10-15T02:00:00+02:00", *TEXTS[1:]], "rate": RATES},
            {"ts": pl.Series(TIMES).cast(pl.Datetime("ms")), "rate": RATES},
            {"ts": pl.Series(TIMES).cast(pl.Datetime("ms", "UTC")), "rate": RATES},
            {
                "ts": pl.Series(TIMES).cast(pl.Datetime("ms", "UTC")).dt.convert_time_zone("Europe/Berlin"),
                "rate": RATES,
            },
            {"ts": TIMES[::-1], "rate": RATES[::-1]},
            # The same event twice is one event.
            {"ts": [*TIMES, TIMES[1]], "rate": [*RATES, RATES[1]]},
        ],
        ids=str,
    )
    def test_it_is_read(self, columns):
        """In the order of time."""
        found = read(columns)["BTCUSDT"]

        assert found.dtype == np.float64
        assert found.tolist() == [[time, rate] for time, rate in zip(TIMES, RATES, strict=True)]

    def test_dates_are_midnights(self):
        """As some files have daily sums."""
        found = read({"date": [date(2025, 10, 15)], "rate": [0.0003]})["BTCUSDT"]

        assert found.tolist() == [[TIMES[0], 0.0003]]

    def test_each_symbol_has_its_own(self):
        """A symbol without a row has none, which is a gap and not a zero."""
        columns = {"ts": [*TIMES[:2], TIMES[0]], "symbol": ["A", "B", "B"], "rate": RATES}
        found = read(columns, ["A", "B", "C"])

        assert found["A"].tolist() == [[TIMES[0], RATES[0]]]
        assert found["B"].tolist() == [[TIMES[0], RATES[2]], [TIMES[1], RATES[1]]]
        assert found["C"].shape == (0, 2)

    @pytest.mark.parametrize(
        ("columns", "symbols", "message"),
        [
            ({"ts": TIMES}, ["A"], "expected ts, rate"),
            ({"rate": RATES}, ["A"], "expected ts, rate"),
            ({"ts": TIMES, "rate": RATES}, ["A", "B"], "symbol for several symbols"),
            ({"ts": TIMES, "rate": [0.1, None, 0.1]}, ["A"], "missing"),
            ({"ts": [TIMES[0], None, TIMES[2]], "rate": RATES}, ["A"], "missing"),
            ({"ts": TIMES, "rate": [0.1, float("nan"), 0.1]}, ["A"], "missing"),
            ({"ts": TIMES, "rate": [0.1, float("inf"), 0.1]}, ["A"], "missing"),
            ({"ts": TIMES, "rate": ["low", "0.1", "0.1"]}, ["A"], "numbers"),
            ({"ts": ["yesterday", *TEXTS[1:]], "rate": RATES}, ["A"], "missing"),
            ({"ts": ["05/10/2025 00:00", "05/11/2025 00:00", "05/12/2025 00:00"], "rate": RATES}, ["A"], "missing"),
            ({"ts": TIMES, "rate": [0.1, 1.0, 0.1]}, ["A"], "as large as the position"),
            ({"ts": TIMES, "rate": [0.1, -7.0, 0.1]}, ["A"], "as large as the position"),
            ({"ts": [TIMES[0]] * 3, "rate": RATES}, ["A"], "differ"),
        ],
        ids=lambda value: str(value)[:60],
    )
    def test_what_cannot_be_read_is_refused(self, columns, symbols, message):
        """With the file's name."""
        with pytest.raises(InputError, match=message) as caught:
            read(columns, symbols)

        assert "the file" in caught.value.message


class TestComplete:
    """A missing rate is not zero."""

    WINDOW = TimeRange(TIMES[0], TIMES[0] + 3 * EIGHT_MS)

    @staticmethod
    def check(times, window=WINDOW):
        check_complete({"A": np.column_stack([times, np.zeros(len(times))])}, {"A": window}, where="the file")

    @pytest.mark.parametrize(
        "times",
        [
            [TIMES[1], TIMES[2]],
            [*TIMES, TIMES[2] + EIGHT_MS],
            # Stamped some milliseconds late, as exchanges do.
            [TIMES[0] + 3, TIMES[1] + 7, TIMES[2] + 60_000],
            # Each hour.
            [TIMES[0] + hour * HOUR_MS for hour in range(25)],
            [TIMES[0] - EIGHT_MS, TIMES[1], TIMES[2]],
        ],
    )
    def test_whole_funding_passes(self, times):
        """Eight hours at most from one to the next, and to both ends."""
        self.check(times)

    @pytest.mark.parametrize(
        ("times", "gap"),
        [
            ([TIMES[0], TIMES[2]], "between 2025-10-15T00:00:00Z and 2025-10-15T16:00:00Z"),
            ([TIMES[2]], "between 2025-10-15T00:00:00Z and 2025-10-15T16:00:00Z"),
            ([TIMES[0], TIMES[1]], "between 2025-10-15T08:00:00Z and 2025-10-16T00:00:00Z"),
            ([], "between 2025-10-15T00:00:00Z and 2025-10-16T00:00:00Z"),
            ([TIMES[0] - 1], "between 2025-10-15T00:00:00Z and 2025-10-16T00:00:00Z"),
        ],
    )
    def test_the_first_gap_is_named(self, times, gap):
        """Its ends, the symbol and the file."""
        with pytest.raises(InputError, match="a missing rate is not zero") as caught:
            self.check(times)

        assert f"the file: A has no funding {gap}" in caught.value.message
        assert "--funding" in caught.value.hint

    def test_a_short_range_needs_none(self):
        """Less than eight hours may lie between two events."""
        self.check([], TimeRange(TIMES[0] + 1, TIMES[1] - 1))

    @given(st.sets(st.integers(0, 71), max_size=12))
    def test_it_agrees_with_a_naive_loop(self, hours):
        """Three days, events at some hours: refused exactly if some eight hours and five minutes are without."""
        times = sorted(TIMES[0] + hour * HOUR_MS for hour in hours)
        window = TimeRange(TIMES[0], TIMES[0] + 72 * HOUR_MS)
        marks = [window.start_ms, *(t for t in times if t > window.start_ms), window.end_ms]
        has_gap = any(b - a > EIGHT_MS + 5 * MINUTE_MS for a, b in itertools.pairwise(marks))
        if not has_gap:
            self.check(times, window)
            return
        with pytest.raises(InputError):
            self.check(times, window)


def test_a_time_of_another_zone_is_converted():
    """A datetime with a zone is the same moment in UTC."""
    ts = pl.Series([datetime(2025, 10, 15, tzinfo=UTC)])

    assert read({"ts": ts, "rate": [0.1]})["BTCUSDT"][0, 0] == TIMES[0]
