"""An input is read from any file, or refused with the place and the reason; nothing is guessed."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.input_tables import InputSpec, InputTable, KnownValues, read_input
from mltrain.errors import InputError
from mltrain.times import parse_time

HOUR = 3_600_000
START_MS = parse_time("2025-10-15T00:00:00Z")
HEAD = "symbol,published_at,rate\n"


def declare(file="funding.csv", **changed):
    return InputSpec(
        **{"name": "funding", "column": "rate", "known_at": "published_at", "max_age_ms": 9 * HOUR, "file": file}
        | changed
    )


def read(text, **changed):
    return read_input(declare(**changed), text.encode(), where="funding.csv")


def encode(frame, file):
    out = io.BytesIO()
    match file.rpartition(".")[2]:
        case "parquet":
            frame.write_parquet(out)
        case "feather":
            frame.write_ipc(out)
        case "csv":
            frame.write_csv(out)
        case "jsonl":
            frame.write_ndjson(out)
    return out.getvalue()


@pytest.mark.parametrize("file", ["a.parquet", "a.feather", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("times", ["datetime", "s", "ms", "ns", "text"])
def test_every_format_gives_one_table(file, times):
    """Rows in any order, symbols in any spelling, other columns ignored."""
    known_ms = [START_MS + 8 * HOUR, START_MS, START_MS]
    stamps = {
        "datetime": pl.Series(known_ms).cast(pl.Datetime("ms", "UTC")),
        "s": pl.Series(known_ms) // 1000,
        "ms": pl.Series(known_ms),
        "ns": pl.Series(known_ms) * 1_000_000,
        "text": pl.Series(["2025-10-15T10:00:00+02:00", "2025-10-15 00:00:00Z", "2025-10-15T00:00Z"]),
    }[times]
    frame = pl.DataFrame(
        {
            "symbol": ["BTC/USDT", "BTCUSDT", "ETH-USDT"],
            "published_at": stamps,
            "rate": [2e-4, 1e-4, -1e-4],
            "why": ["a", "b", "c"],
        }
    )

    found = read_input(declare(file), encode(frame, file), where=file)

    assert sorted(found.table.by_symbol) == ["BTCUSDT", "ETHUSDT"]
    assert found.table.of("BTCUSDT").known_ms.tolist() == [START_MS, START_MS + 8 * HOUR]
    assert found.table.of("BTCUSDT").values.tolist() == [1e-4, 2e-4]
    assert found.table.of("ETHUSDT").values.tolist() == [-1e-4]
    assert found.table.of("SOLUSDT").values.size == 0
    assert (found.empty, found.repeated, found.table.rows) == (0, 0, 3)
    assert found.table.known_range == (START_MS, START_MS + 8 * HOUR)


def test_a_table_without_symbols_is_for_all():
    """Empty rows and repetitions are counted."""
    found = read("published_at,rate\n2025-10-15T00:00Z,1\n2025-10-15T00:00Z,1.0\n2025-10-15T01:00Z,\n")

    assert found.table.for_all is not None
    assert found.table.of("ANYUSDT").values.tolist() == [1.0]
    assert (found.empty, found.repeated, found.zone) == (1, 1, "UTC")


def test_a_time_between_two_ms_is_the_later_one():
    """A value must not seem known before it was."""
    for text in (
        "2025-10-15T00:00:00.000001Z",
        "2025-10-15T00:00:00.0005Z",
        f"{START_MS}.5",
        f"{START_MS // 1000}.0002",
    ):
        assert read(f"published_at,rate\n{text},1\n").table.of("X").known_ms.tolist() == [START_MS + 1]
    frame = pl.DataFrame({"published_at": pl.Series([START_MS * 1000 + 1]).cast(pl.Datetime("us", "UTC")), "rate": [1]})

    found = read_input(declare("a.parquet"), encode(frame, "a.parquet"), where="a.parquet")

    assert found.table.of("X").known_ms.tolist() == [START_MS + 1]


def test_times_of_32_bits_are_refused():
    """Seconds since 1970 have steps of 128 there: a value would be known a minute before it was."""
    frame = pl.DataFrame(
        {"published_at": [1_760_000_063.0], "rate": [1.0]}, schema_overrides={"published_at": pl.Float32}
    )

    with pytest.raises(InputError, match="'published_at' is Float32, too coarse for times"):
        read_input(declare("funding.parquet"), encode(frame, "funding.parquet"), where="funding.parquet")


def test_times_without_a_zone_are_read_in_the_declared_one():
    """Dates are its midnights; a time that states its zone keeps it."""
    day = "published_at,rate\n2025-10-15,1\n"

    assert read(day, timezone="UTC").table.of("X").known_ms.tolist() == [START_MS]
    assert read(day, timezone="Europe/Berlin").table.of("X").known_ms.tolist() == [START_MS - 2 * HOUR]
    assert read("published_at,rate\n2025-10-15T00:00Z,1\n", timezone="Asia/Tokyo").table.known_range == (START_MS,) * 2


REFUSED = {
    "no zone": ("published_at,rate\n2025-10-15 00:00:00,1\n", "'published_at' state no zone.*2025-10-15T00:00:00"),
    "a day": ("published_at,rate\n2025-10-15,1\n", "state no zone"),
    "some zones": ("published_at,rate\n2025-10-15T00:00Z,1\n2025-10-15T01:00,2\n", "some times state an offset"),
    "no time": ("published_at,rate\nnoon,1\n", r"line 2: published_at is 'noon': not a time"),
    "time missing": ("published_at,rate\n2025-10-15T00:00Z,1\n,2\n", r"line 3: published_at is missing: not a time"),
    "row numbers": ("published_at,rate\n1,1\n2,2\n", "line 2: published_at is '1': not a time between 1973"),
    "no number": ("published_at,rate\n2025-10-15T00:00Z,high\n", "line 2: rate is 'high': not a number"),
    "infinite": ("published_at,rate\n2025-10-15T00:00Z,inf\n", "rate is .*inf.*not a"),
    "two values": (HEAD + "BTCUSDT,2025-10-15T00:00Z,1\nBTC/USDT,2025-10-15T02:00+02:00,2\n", "BTCUSDT has two values"),
    "two for all": ("published_at,rate\n2025-10-15T00:00Z,1\n2025-10-15T00:00Z,2\n", "there are two values known"),
    "no symbol": (HEAD + "?,2025-10-15T00:00Z,1\n", "symbol is '[?]': not a symbol"),
    "symbol missing": (HEAD + ",2025-10-15T00:00Z,1\n", "symbol is missing"),
    "column missing": ("published_at,rates\n2025-10-15T00:00Z,1\n", "no column 'rate' for the input funding.*'rates'"),
    "two columns": ("published_at,rate,rate\n2025-10-15T00:00Z,1,2\n", "there are two columns 'rate'"),
    "two times": ("published_at,rate,published_at\n1760486400,1,1760490000\n", "two columns 'published_at'"),
    "both missing": ("time,value\n2025-10-15T00:00Z,1\n", "no column 'rate' and no column 'published_at'"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_could_mean_two_things_is_refused(text, expected):
    """The message names file, line and value."""
    with pytest.raises(InputError, match=rf"funding\.csv: .*{expected}") as caught:
        read(text)

    assert caught.value.hint


def test_an_hour_that_clocks_show_twice_is_refused():
    """In the declared zone, the end of summer time."""
    with pytest.raises(InputError, match="comes twice") as caught:
        read("published_at,rate\n2025-10-26 02:30:00,1\n", timezone="Europe/Berlin")

    assert "with timezone" in caught.value.hint


@given(
    st.dictionaries(
        st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        st.dictionaries(
            st.integers(10**11, 10**13), st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=4
        ),
    ),
    st.booleans(),
)
def test_a_table_comes_back_from_its_frame(values, shared):
    """For all symbols, or for each."""
    tables = {
        s: KnownValues(np.array(sorted(v), np.int64), np.array([v[t] for t in sorted(v)])) for s, v in values.items()
    }
    table = InputTable(for_all=next(iter(tables.values()))) if shared and tables else InputTable(by_symbol=tables)

    again = InputTable.from_frame(table.to_frame())

    assert again.to_frame().equals(table.to_frame())
    assert (again.rows, again.known_range) == (table.rows, table.known_range)


@pytest.mark.parametrize(
    ("times", "values"), [([2, 1], [1, 1]), ([1, 1], [1, 1]), ([1], [np.nan]), ([1], [np.inf]), ([1], [])]
)
def test_values_are_finite_and_in_order(times, values):
    """A table that is not cannot be made."""
    with pytest.raises(ValueError, match="finite"):
        KnownValues(np.array(times, np.int64), np.array(values, np.float64))


def test_another_time_after_the_known_at_time_is_named():
    """The end of a period, or a correction; earlier times, other numbers and times without a zone are no finding."""
    head = "published_at,rate,period_end,updated,event_date,valid_count,note_time\n"
    rows = [
        f"2025-10-{d}T00:00:00Z,{d},2025-10-{d + 1}T00:00:00Z,2025-10-{d}T01:00:00Z,2025-10-09,{d},x" for d in (10, 11)
    ]
    row = "2025-10-12T00:00:00Z,12,2025-10-12T00:00:00Z,2025-10-11T00:00:00Z,2025-10-09,12,"
    end, updated = read(head + "\n".join([*rows, row])).later
    zoned = read(head + "\n".join([*rows, row]), timezone="UTC").later

    assert (end.column, end.rows, end.longest_ms) == ("period_end", 2, 24 * HOUR)
    assert "period_end is later than published_at in 2 rows, by up to 1d" in end.describe("funding", "published_at")
    assert (updated.column, updated.rows, updated.longest_ms) == ("updated", 2, HOUR)
    assert zoned == (end, updated)
    assert read(HEAD + "BTCUSDT,2025-10-15T00:00Z,1\n").later == ()
