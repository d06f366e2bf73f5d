"""Laws of the source `files`."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import MINUTE_MS, check_candles, format_ms, times_ms
from mltrain.candles.local import FilesSource, read_candle_file, symbol_of
from mltrain.candles.sim import CLOCK_MS
from mltrain.candles.source import SourceSpec, Window, open_source
from mltrain.errors import InputError, UsageError

ALL = Window(0, 2 * CLOCK_MS)


def at(minute):
    return CLOCK_MS + minute * MINUTE_MS


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT.parquet", "BTCUSDT"),
        ("BTCUSDT.csv", "BTCUSDT"),
        ("btcusdt.csv", "BTCUSDT"),
        ("BTCUSDT-1m-2025-01-01.csv", "BTCUSDT"),
        ("BTCUSDT_2019_dup_gap.parquet", "BTCUSDT"),
        ("binanceUS_BTCUSDT_1m_20230301.csv.gz", "BTCUSDT"),
        ("spot.BTCUSDT.1m.csv", "BTCUSDT"),
        ("1INCHUSDT.csv", "1INCHUSDT"),
        ("2025-BTCUSDT.csv", "BTCUSDT"),
        ("_.csv", "CSV"),
        ("-", None),
        ("x" * 30 + ".csv", None),
        ("ÄÖÜ.csv", None),
    ],
)
def test_the_symbol_stands_in_the_files_name(name, symbol):
    """The first part in capitals is the symbol, whatever stands around it."""
    assert symbol_of(Path(name)) == symbol


def test_all_files_of_a_symbol_are_one_series(tmp_path, make_candles):
    """Day files, a CSV and a parquet file are joined, whatever their order and overlap."""
    whole = make_candles(range(300))
    whole[200:].write_csv(tmp_path / "BTCUSDT-1m-a.csv")
    whole[:120].reverse().write_parquet(tmp_path / "BTCUSDT-1m-b.parquet")
    whole[100:210].sample(fraction=1, shuffle=True, seed=1).write_csv(tmp_path / "BTCUSDT-1m-c.csv")
    source = FilesSource(tmp_path, "1m")

    frame = source.candles("BTCUSDT", ALL)
    assert frame.equals(check_candles(whole, symbol="BTCUSDT", interval="1m", where="here"))
    assert source.notes() == ("BTCUSDT: 30 exact duplicate rows dropped",)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60),
    st.integers(1, 4),
    st.tuples(st.integers(-2, 42), st.integers(-2, 42)),
)
def test_any_shuffle_with_repetitions_gives_the_same_candles(tmp_path_factory, minutes, files, bounds):
    """Rows in any order, repeated any number of times, over any number of files: sorted, unique, inside the window."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(files):
        part = minutes[i::files]
        if part:
            _plain(part).write_csv(folder / f"A1-{i}.csv")
    window = Window(at(bounds[0]), at(bounds[1]))
    source = FilesSource(folder, "1m")
    inside = sorted({m for m in minutes if bounds[0] <= m < bounds[1]})
    dropped = sum(bounds[0] <= m < bounds[1] for m in minutes) - len(inside)

    try:
        frame = source.candles("A1", window)
    except InputError as err:  # every other minute, by chance: another interval
        assert "apart" in err.message  # noqa: PT017 -- both ends are allowed
        return
    assert times_ms(frame).tolist() == [at(m) for m in inside]
    assert source.notes() == ((f"A1: {dropped} exact duplicate row{'s' * (dropped > 1)} dropped",) if dropped else ())
    assert source.extent("A1") == Window(at(min(minutes)), at(max(minutes) + 1))
    assert source.clock_ms(("A1",)) == at(max(minutes) + 1)


def _plain(minutes):
    columns = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5}
    return pl.DataFrame({"ts": [at(m) for m in minutes]}).with_columns(
        **{n: pl.lit(v) for n, v in columns.items()}, volume=pl.col("ts") / MINUTE_MS
    )


def test_two_different_candles_of_one_time_are_refused(tmp_path, make_candles):
    """Both values and both files are named; in one file, both values."""
    whole = make_candles(range(30))
    other = whole.with_columns(pl.when(pl.int_range(pl.len()) == 7).then(9.0).otherwise("volume").alias("volume"))
    whole.write_csv(tmp_path / "BTCUSDT-a.csv")
    other[5:].write_csv(tmp_path / "BTCUSDT-b.csv")
    pl.concat([whole, other]).write_parquet(tmp_path / "ETHUSDT.parquet")
    source = FilesSource(tmp_path, "1m")

    with pytest.raises(InputError) as err:
        source.candles("BTCUSDT", ALL)
    time = format_ms(at(7))
    first, second = tmp_path / "BTCUSDT-a.csv", tmp_path / "BTCUSDT-b.csv"
    assert err.value.message.startswith(f"BTCUSDT at {time}: volume is 8.0 in {first} and 9.0 in {second}: ")
    with pytest.raises(InputError) as err:
        source.candles("ETHUSDT", ALL)
    assert err.value.message.startswith(f"{tmp_path / 'ETHUSDT.parquet'}: ETHUSDT at {time}: volume is 8.0 and 9.0: ")
    assert source.candles("BTCUSDT", Window(at(8), at(30))).height == 22


def test_a_column_that_only_some_rows_have_is_refused(tmp_path, make_candles):
    """Candles with and without trades do not mix: a feature would be null in the middle."""
    make_candles(range(30), trades=[5] * 30).write_csv(tmp_path / "BTCUSDT-a.csv")
    make_candles(range(30, 60)).write_csv(tmp_path / "BTCUSDT-b.csv")

    with pytest.raises(InputError, match=r"trades is missing.*or leave the column empty in every row"):
        FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL)


def test_an_impossible_row_is_named_with_its_file(tmp_path, make_candles):
    """Of several files the one at fault is named, and only if the row is inside the window."""
    make_candles(range(30)).write_csv(tmp_path / "BTCUSDT-a.csv")
    bad = make_candles(range(30, 60)).with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(-1.0).otherwise("low").alias("low")
    )
    bad.write_csv(tmp_path / "BTCUSDT-b.csv")
    source = FilesSource(tmp_path, "1m")

    with pytest.raises(InputError) as err:
        source.candles("BTCUSDT", ALL)
    expected = f"{tmp_path / 'BTCUSDT-b.csv'}: BTCUSDT at {format_ms(at(33))}: low is -1.0: "
    assert err.value.message.startswith(expected)
    assert source.candles("BTCUSDT", Window(at(0), at(33))).height == 33


def test_the_clock_is_the_last_close_of_the_symbols_asked_for(tmp_path, make_candles):
    """A symbol that is not asked for does not move the clock."""
    for symbol, minutes in (("BTCUSDT", range(10)), ("ETHUSDT", range(12)), ("SOLUSDT", range(99))):
        make_candles(minutes).write_parquet(tmp_path / f"{symbol}.parquet")
    source = FilesSource(tmp_path, "1m")

    assert source.symbols() == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert source.clock_ms(("BTCUSDT", "ETHUSDT")) == at(12)
    assert source.clock_ms(("BTCUSDT",)) == at(10)


def test_a_window_without_candles_is_empty(tmp_path, make_candles):
    """Nothing there is no error: whether it may be is asked by whoever takes a snapshot."""
    make_candles(range(10)).write_csv(tmp_path / "BTCUSDT.csv")

    assert FilesSource(tmp_path, "1m").candles("BTCUSDT", Window(at(50), at(60))).is_empty()


def test_unknown_symbols_list_those_there(tmp_path, make_candles):
    """The nearest name is told, or all of them."""
    make_candles(range(10)).write_csv(tmp_path / "BTCUSDT.csv")
    source = FilesSource(tmp_path, "1m")

    for symbol, hint in (("BTCUSD", "did you mean BTCUSDT?"), ("QQQ", "known: BTCUSDT")):
        with pytest.raises(InputError, match="has no candle file of") as err:
            source.extent(symbol)
        assert err.value.hint == hint


def test_folders_that_are_none_are_refused(tmp_path, make_candles):
    """Absent, a file, empty, or without a candle file: each is told apart, with what is there."""
    file = tmp_path / "BTCUSDT.csv"
    make_candles(range(3)).write_csv(file)
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "BTCUSDT-1m-2025-01.zip").write_bytes(b"PK")
    (other / "BTCUSDT.parquet").mkdir()
    (other / ".hidden.csv").write_text("x")

    cases = {
        tmp_path / "absent": "is not there",
        file: "is a file",
        empty: "it is empty",
        other: "there are 'BTCUSDT-1m",
    }
    for folder, message in cases.items():
        with pytest.raises(InputError, match=message):
            open_source(SourceSpec(name="files", folder=folder))


@pytest.mark.parametrize("keep", [0, 4, 100, -8, -1])
def test_a_truncated_parquet_file_is_refused_by_name(tmp_path, make_candles, keep):
    """Wherever it was cut."""
    path = tmp_path / "BTCUSDT.parquet"
    make_candles(range(100)).write_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(InputError, match=r"BTCUSDT.parquet: BTCUSDT: not a readable parquet file"):
        FilesSource(tmp_path, "1m").clock_ms(("BTCUSDT",))


def test_links_are_followed_and_pipes_are_not_read(tmp_path, make_candles):
    """A user's own folder may hold links; what is no file is passed over."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    make_candles(range(10)).write_csv(tmp_path / "elsewhere" / "x.csv")
    (tmp_path / "data" / "BTCUSDT.csv").symlink_to(tmp_path / "elsewhere" / "x.csv")
    os.mkfifo(tmp_path / "data" / "ETHUSDT.csv")
    (tmp_path / "data" / "SOLUSDT.csv").symlink_to("nowhere.csv")
    source = FilesSource(tmp_path / "data", "1m")

    assert source.symbols() == ("BTCUSDT",)
    assert source.candles("BTCUSDT", ALL).height == 10


def test_one_file_is_read_by_itself(tmp_path, make_candles):
    """For predictions on a file: sorted, duplicates dropped, checked."""
    path = tmp_path / "any.csv"
    whole = make_candles(range(10))
    pl.concat([whole, whole[3:5]]).reverse().write_csv(path)

    frame = read_candle_file(path, symbol="BTCUSDT", interval="1m")
    assert frame.equals(check_candles(whole, symbol="BTCUSDT", interval="1m", where="here"))
    with pytest.raises(InputError, match="1m apart"):
        read_candle_file(path, symbol="BTCUSDT", interval="5m")
    with pytest.raises(InputError, match="is not there"):
        read_candle_file(tmp_path / "absent.csv", symbol="BTCUSDT", interval="1m")
    with pytest.raises(UsageError):
        read_candle_file(path, symbol="BTCUSDT", interval="7m")
