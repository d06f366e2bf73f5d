"""Laws of the source `files`."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import zipfile

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mltrain.candles.checks import check_candles
from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.errors import InputError, UsageError
from mltrain.sources.files import FilesSource, read_candle_file
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.storage.hashing import sha256_bytes
from mltrain.times import MINUTE_MS, TimeRange, format_ms

ALL = TimeRange(0, 2 * CLOCK_MS)


def at(minute):
    return CLOCK_MS + minute * MINUTE_MS


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
    """Rows in any order, repeated and split over files: sorted, unique, inside the window."""
    folder = tmp_path_factory.mktemp("files")
    for i in range(files):
        part = minutes[i::files]
        if part:
            _plain(part).write_csv(folder / f"A1-{i}.csv")
    window = TimeRange(at(bounds[0]), at(bounds[1]))
    source = FilesSource(folder, "1m")
    inside = sorted({m for m in minutes if bounds[0] <= m < bounds[1]})
    dropped = sum(bounds[0] <= m < bounds[1] for m in minutes) - len(inside)

    try:
        frame = source.candles("A1", window)
    except InputError as err:
        # Every other minute, by chance, looks like another interval.
        assert "apart" in err.message  # noqa: PT017 -- both ends are allowed
        return
    assert times_ms(frame).tolist() == [at(m) for m in inside]
    assert source.notes() == ((f"A1: {dropped} exact duplicate row{'s' * (dropped > 1)} dropped",) if dropped else ())
    assert source.extent("A1") == TimeRange(at(min(minutes)), at(max(minutes) + 1))
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
    assert source.candles("BTCUSDT", TimeRange(at(8), at(30))).height == 22


def test_a_column_that_only_some_files_have_is_refused(tmp_path, make_candles):
    """Candles with and without trades do not mix: a feature would be null in the middle. Both files are named."""
    make_candles(range(30), trades=[5] * 30).write_csv(tmp_path / "BTCUSDT-a.csv")
    make_candles(range(30, 60)).write_csv(tmp_path / "BTCUSDT-b.csv")
    source = FilesSource(tmp_path, "1m")

    with pytest.raises(InputError) as err:
        source.candles("BTCUSDT", ALL)
    lacking, having = tmp_path / "BTCUSDT-b.csv", tmp_path / "BTCUSDT-a.csv"
    assert err.value.message.startswith(f"BTCUSDT: {lacking} has no trades, {having} has: ")
    assert source.candles("BTCUSDT", TimeRange(at(30), at(60))).height == 30


@pytest.mark.parametrize(
    ("missing", "counts"),
    [
        (1, "; 29 rows have it"),
        (2, ", and so in 1 more row; 28 rows have it"),
        (22, ", and so in 21 more rows; 8 rows have it"),
        (29, ", and so in 28 more rows; 1 row has it"),
    ],
)
def test_a_column_that_only_some_rows_have_is_refused(tmp_path, make_candles, missing, counts):
    """The first row without it is named, and how many more there are."""
    make_candles(range(30), trades=[5] + [None] * missing + [5] * (29 - missing)).write_csv(tmp_path / "BTCUSDT.csv")

    with pytest.raises(InputError) as err:
        FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL)
    begin = f"{tmp_path / 'BTCUSDT.csv'}: BTCUSDT at {format_ms(at(1))}: trades is missing"
    assert err.value.message == begin + counts
    assert err.value.hint is not None


def test_an_impossible_row_is_named_with_its_file(tmp_path, make_candles):
    """The message names the file, and only if the row is inside the window."""
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
    assert err.value.hint == "correct or remove that row, or download the file again"
    assert source.candles("BTCUSDT", TimeRange(at(0), at(33))).height == 33


def test_the_clock_is_the_last_close_of_the_requested_symbols(tmp_path, make_candles):
    """Other symbols do not move the clock."""
    for symbol, minutes in (("BTCUSDT", range(10)), ("ETHUSDT", range(12)), ("SOLUSDT", range(99))):
        make_candles(minutes).write_parquet(tmp_path / f"{symbol}.parquet")
    source = FilesSource(tmp_path, "1m")

    assert source.symbols() == ("BTCUSDT", "ETHUSDT", "SOLUSDT")
    assert source.clock_ms(("BTCUSDT", "ETHUSDT")) == at(12)
    assert source.clock_ms(("BTCUSDT",)) == at(10)


def test_a_window_without_candles_is_empty(tmp_path, make_candles):
    """An empty window is no error: the snapshot decides whether it may be empty."""
    make_candles(range(10)).write_csv(tmp_path / "BTCUSDT.csv")

    assert FilesSource(tmp_path, "1m").candles("BTCUSDT", TimeRange(at(50), at(60))).is_empty()


def test_unknown_symbols_list_the_known_ones(tmp_path, make_candles):
    """The error suggests the nearest name, or lists all."""
    make_candles(range(10)).write_csv(tmp_path / "BTCUSDT.csv")
    source = FilesSource(tmp_path, "1m")

    for symbol, hint in (("BTCUSD", "did you mean BTCUSDT?"), ("QQQ", "known: BTCUSDT")):
        with pytest.raises(InputError, match="has no candle file of") as err:
            source.extent(symbol)
        assert err.value.hint == hint


def test_invalid_folders_are_refused(tmp_path, make_candles):
    """A missing folder, a file, an empty folder and one without a candle file have different messages."""
    file = tmp_path / "BTCUSDT.csv"
    make_candles(range(3)).write_csv(file)
    empty, other, below, old = tmp_path / "empty", tmp_path / "other", tmp_path / "below", tmp_path / "old"
    for folder in (empty, other, below, below / "csv", old):
        folder.mkdir()
    (other / "BTCUSDT-1m-2025-01.zip.CHECKSUM").write_bytes(b"")
    (other / "notes.doc").write_bytes(b"")
    (other / ".hidden.csv").write_text("x")
    (below / "csv" / "readme.md").write_text("x")
    (old / "UNITTEST_BTC-5m.h5").write_bytes(b"")

    cases = {
        tmp_path / "absent": ("is not there", None),
        file: ("is a file: name the folder that it is in", None),
        empty: ("it is empty", "candle files end in .parquet"),
        other: ("there are 'BTCUSDT-1m-2025-01.zip.CHECKSUM', 'notes.doc'", "candle files end in .parquet"),
        below: ("there are 'csv/readme.md'", "candle files end in .parquet"),
        old: (
            r"1 file left out \(HDF5, which is not read\): UNITTEST_BTC-5m.h5",
            "save the candles in one of the formats that are read: .parquet",
        ),
    }
    for folder, (message, hint) in cases.items():
        with pytest.raises(InputError, match=message) as err:
            open_source(SourceSpec(name="files", folder=folder))
        assert (err.value.hint or "").startswith(hint or "")


@pytest.mark.parametrize("keep", [0, 4, 100, -8, -1])
def test_a_truncated_parquet_file_is_refused_by_name(tmp_path, make_candles, keep):
    """Wherever the file is cut."""
    path = tmp_path / "BTCUSDT.parquet"
    make_candles(range(100)).write_parquet(path)
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(InputError, match=r"BTCUSDT.parquet: BTCUSDT: not a readable parquet file"):
        FilesSource(tmp_path, "1m").clock_ms(("BTCUSDT",))


def test_only_links_inside_the_folder_are_followed_and_pipes_are_not_read(tmp_path, make_candles):
    """A link may rename a file of the folder; the folder itself may be a link. What leads out of it is left out."""
    (tmp_path / "elsewhere").mkdir()
    folder = tmp_path / "data"
    folder.mkdir()
    make_candles(range(10)).write_csv(tmp_path / "elsewhere" / "ADAUSDT.csv")
    make_candles(range(10)).write_csv(folder / "candles.tmp")
    (folder / "BTCUSDT.csv").symlink_to("candles.tmp")
    (folder / "BTC_USDT.csv").symlink_to(tmp_path / "elsewhere" / "ADAUSDT.csv")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "ETHUSDT.csv")
    (folder / "SOLUSDT.csv").symlink_to("nowhere.csv")
    (tmp_path / "link").symlink_to(folder)

    for place in (folder, tmp_path / "link"):
        source = FilesSource(place, "1m")
        assert source.default_symbols() == ("BTCUSDT",)
        assert source.candles("BTCUSDT", ALL).height == 10
        assert source.notes() == ("1 file left out (a link out of the folder): BTC_USDT.csv",)


def test_one_file_is_read_by_itself(tmp_path, make_candles):
    """For predictions, a single file is sorted, checked, and freed of duplicates."""
    path = tmp_path / "any.csv"
    whole = make_candles(range(10))
    pl.concat([whole, whole[3:5]]).reverse().write_csv(path)

    frame = read_candle_file(path, symbol="BTCUSDT", interval="1m")
    assert frame.equals(check_candles(whole, symbol="BTCUSDT", interval="1m", where="here"))
    with pytest.raises(InputError, match="1m apart"):
        read_candle_file(path, symbol="BTCUSDT", interval="5m")
    with pytest.raises(InputError, match="does not exist"):
        read_candle_file(tmp_path / "absent.csv", symbol="BTCUSDT", interval="1m")
    with pytest.raises(UsageError):
        read_candle_file(path, symbol="BTCUSDT", interval="7m")


def _json(frame):
    return json.dumps(frame.rows()).encode()


def _zipped(name, content):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return sink.getvalue()


def _parquet(frame):
    sink = io.BytesIO()
    frame.write_parquet(sink)
    return sink.getvalue()


FORMATS = {
    "csv": lambda frame: frame.write_csv().encode(),
    "csv.gz": lambda frame: gzip.compress(frame.write_csv(include_header=False).encode()),
    "json": _json,
    "json.gz": lambda frame: gzip.compress(_json(frame)),
    "zip": lambda frame: _zipped("BTCUSDT.csv", frame.write_csv().encode()),
    "parquet": _parquet,
}


@settings(max_examples=40)
@given(st.data())
def test_any_split_over_files_and_formats_gives_the_same_candles(tmp_path_factory, data):
    """Each candle in one or several files, plain or packed: one frame, and each repetition is counted."""
    folder = tmp_path_factory.mktemp("files")
    whole = _plain(range(60))
    homes = data.draw(st.lists(st.lists(st.sampled_from(sorted(FORMATS)), min_size=1), min_size=60, max_size=60))
    for suffix, write in FORMATS.items():
        rows = [i for i, home in enumerate(homes) for _ in range(home.count(suffix))]
        if rows:
            (folder / f"BTCUSDT-part.{suffix}").write_bytes(write(whole[rows]))
    source = FilesSource(folder, "1m")

    try:
        frame = source.candles("BTCUSDT", ALL)
    except InputError as err:
        # Every other minute in one file, by chance, looks like another interval.
        assert "apart" in err.message  # noqa: PT017 -- both ends are allowed
        return
    assert frame.select(whole.columns).equals(whole.with_columns(pl.col("ts").cast(TS_DTYPE)))
    extra = sum(map(len, homes)) - 60
    assert source.notes() == ((f"BTCUSDT: {extra} exact duplicate row{'s' * (extra > 1)} dropped",) if extra else ())


def test_files_named_as_of_another_interval_are_left_out_and_reported(tmp_path, make_candles):
    """Named as by Binance, freqtrade and Kraken; a file whose name states no interval is read."""
    make_candles(range(30)).write_csv(tmp_path / "BTCUSDT-1m-2025-10-15.csv")
    make_candles(range(30, 40)).write_csv(tmp_path / "BTCUSDT_more.csv")
    for name in ("BTCUSDT-15m-2025-10-15.csv", "BTC_USDT-1h.csv", "BTCUSDT_5.csv"):
        (tmp_path / name).write_text("not even looked at")
    source = FilesSource(tmp_path, "1m")

    assert source.candles("BTCUSDT", ALL).height == 40
    names = "BTCUSDT-15m-2025-10-15.csv (15m), BTCUSDT_5.csv (5m), BTC_USDT-1h.csv (1h)"
    assert source.notes() == (f"3 files left out (another interval): {names}",)


def test_only_files_of_another_interval_are_an_error(tmp_path, make_candles):
    """The error names the interval, and the option that accepts it."""
    make_candles(range(0, 150, 15)).write_csv(tmp_path / "BTCUSDT-15m-2025-10-15.csv")
    source = FilesSource(tmp_path, "1m")

    assert source.symbols() == ("BTCUSDT",)
    with pytest.raises(InputError) as err:
        source.clock_ms(("BTCUSDT",))
    assert err.value.message == (
        f"{tmp_path} has no 1m candles of BTCUSDT: its files are named as of 15m: BTCUSDT-15m-2025-10-15.csv"
    )
    assert err.value.hint == "pass --interval 15m, or rename what is named wrongly"


def test_files_without_rows_are_passed_over_and_reported(tmp_path, make_candles):
    """An empty answer of the exchange among others is passed over; alone it is refused."""
    (tmp_path / "BTCUSDT-1m-a.json").write_text("[]")
    (tmp_path / "ETHUSDT-1m-a.json").write_text("[]")
    make_candles(range(30)).write_csv(tmp_path / "BTCUSDT-1m-b.csv")
    source = FilesSource(tmp_path, "1m")

    assert source.candles("BTCUSDT", ALL).height == 30
    assert source.notes() == ("BTCUSDT: 1 file without rows passed over: BTCUSDT-1m-a.json",)
    with pytest.raises(InputError, match=r"ETHUSDT-1m-a.json: ETHUSDT: no rows"):
        source.extent("ETHUSDT")
    with pytest.raises(InputError, match=r"ETHUSDT-1m-a.json: ETHUSDT: no rows"):
        read_candle_file(tmp_path / "ETHUSDT-1m-a.json", symbol="ETHUSDT", interval="1m")


def test_a_file_is_checked_against_its_checksum_file(tmp_path, make_candles):
    """A matching file is read; a wrong, unreadable or foreign checksum is refused, with both hashes."""
    path = tmp_path / "BTCUSDT-1m-2025-10.zip"
    path.write_bytes(_zipped("BTCUSDT-1m-2025-10.csv", make_candles(range(30)).write_csv().encode()))
    checksum = tmp_path / "BTCUSDT-1m-2025-10.zip.CHECKSUM"
    good, bad = sha256_bytes(path.read_bytes()), sha256_bytes(b"")

    checksum.write_text(f"{good}  {path.name}\n")
    assert FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL).height == 30
    for text, message in (
        (f"{bad}  {path.name}\n", f"{path}: its SHA-256 is {good}, but {checksum.name} says {bad}"),
        (f"{good}  other.zip\n", f"{checksum}: lists 'other.zip', not '{path.name}'"),
        ("404", f"{checksum}: line 1: '404' is not a SHA-256, two spaces and a file name"),
        ("0" * 70_000, f"the checksum {checksum} is too large: 70000 bytes, at most 65536"),
    ):
        checksum.write_text(text)
        with pytest.raises(InputError) as err:
            FilesSource(tmp_path, "1m").clock_ms(("BTCUSDT",))
        assert err.value.message == message


def test_no_frame_is_kept(tmp_path, make_candles):
    """A folder of many symbols needs the memory of one: only the time range of a read file is kept."""
    for symbol in ("BTCUSDT", "ETHUSDT"):
        make_candles(range(30)).write_csv(tmp_path / f"{symbol}.csv")
    source = FilesSource(tmp_path, "1m")
    source.clock_ms(("BTCUSDT", "ETHUSDT"))
    source.candles("BTCUSDT", ALL)

    held = gc.get_referents(source, *source.__dict__.values(), *source._ranges.values())
    assert not [thing for thing in held if isinstance(thing, pl.DataFrame)]


def test_files_outside_the_window_are_not_read_again(tmp_path, make_candles):
    """Ten years of daily files are read once, not twice."""
    make_candles(range(30)).write_csv(tmp_path / "BTCUSDT-a.csv")
    make_candles(range(30, 60)).write_csv(tmp_path / "BTCUSDT-b.csv")
    source = FilesSource(tmp_path, "1m")
    source.extent("BTCUSDT")
    (tmp_path / "BTCUSDT-a.csv").unlink()

    assert source.candles("BTCUSDT", TimeRange(at(30), at(60))).height == 30
    with pytest.raises(InputError, match="does not exist"):
        source.candles("BTCUSDT", TimeRange(at(29), at(60)))
