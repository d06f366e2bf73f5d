"""Candle files are found in common layouts of folders."""

from __future__ import annotations

import polars as pl
import pytest

from mltrain.errors import InputError
from mltrain.sources import candle_folder
from mltrain.sources.candle_folder import list_candle_files
from mltrain.sources.files import FilesSource
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.times import HOUR_MS, MINUTE_MS, TimeRange

ALL = TimeRange(0, 2 * CLOCK_MS)


@pytest.fixture
def write(tmp_path, make_candles):
    """Return a function that writes minutes of candles to a path in the folder."""

    def write_file(place, minutes=range(10), *, step_ms=MINUTE_MS, close=None):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = make_candles(minutes, step_ms=step_ms)
        if close is not None:
            frame = frame.with_columns(close=pl.lit(close), low=pl.lit(1.0))
        frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(path)
        return path

    return write_file


def touch(folder, *places):
    """Create empty files in a folder and folders below it."""
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(b"")


LAYOUTS = {
    "flat": ["BTCUSDT-1m.csv", "ETHUSDT-1m.csv"],
    "symbol and interval": ["BTCUSDT/1m/2025-01.csv", "ETHUSDT/1m/2025-01.csv"],
    "interval and symbol": ["1m/BTCUSDT.csv", "1m/ETHUSDT.csv"],
    "symbol": ["BTC_USDT/a.csv", "eth-usdt/b.csv"],
    "archive, spot": [
        "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.csv",
        "data/spot/monthly/klines/ETHUSDT/1m/ETHUSDT-1m-2025-01.csv",
    ],
    "archive, futures": [
        "data/futures/um/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.csv",
        "data/futures/um/daily/klines/ETHUSDT/1m/ETHUSDT-1m-2025-01-01.csv",
    ],
    "freqtrade, spot": ["user_data/data/binance/BTC_USDT-1m.csv", "user_data/data/binance/ETH_USDT-1m.csv"],
    "freqtrade, futures": [
        "user_data/data/binance/futures/BTC_USDT_USDT-1m-futures.csv",
        "user_data/data/binance/futures/ETH_USDT_USDT-1m-futures.csv",
    ],
}


@pytest.mark.parametrize("places", LAYOUTS.values(), ids=LAYOUTS)
def test_each_layout_gives_its_symbols(tmp_path, write, places):
    """Each of the known layouts, from the innermost folder that holds all of it."""
    for place in places:
        write(place)
    source = FilesSource(tmp_path, "1m")

    assert source.default_symbols() == source.symbols() == ("BTCUSDT", "ETHUSDT")
    assert source.candles("BTCUSDT", ALL).height == source.candles("ETHUSDT", ALL).height == 10
    assert source.notes() == ()


def test_the_users_folder_may_be_any_part_of_a_layout(tmp_path, write):
    """Also the innermost one, whose files are named after days only."""
    write("BTCUSDT/1m/2025-01.csv")
    for folder in (tmp_path, tmp_path / "BTCUSDT", tmp_path / "BTCUSDT" / "1m"):
        source = FilesSource(folder, "1m")
        assert source.default_symbols() == ("BTCUSDT",)
        assert source.candles("BTCUSDT", ALL).height == 10


def test_other_data_than_candles_is_left_out_and_counted(tmp_path, write):
    """The files are counted by kind for the requested symbols, and not opened."""
    write("BTC_USDT_USDT-1m-futures.csv")
    touch(
        tmp_path,
        "BTC_USDT_USDT-1m-mark.json",
        "BTC_USDT_USDT-1h-mark.json",
        "BTC_USDT_USDT-8h-funding_rate.json",
        "BTC_USDT-trades.json.gz",
        "BTC_USDT_USDT-1h-futures.json",
        "um/markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.zip",
        "um/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-01.zip",
        "ETH_USDT_USDT-8h-mark.json",
    )
    source = FilesSource(tmp_path, "1m")

    assert source.default_symbols() == ("BTCUSDT",)
    assert source.candles("BTCUSDT", ALL).height == 10
    assert source.notes() == (
        "1 file left out (another interval): BTC_USDT_USDT-1h-futures.json (1h)",
        "1 file left out (funding rates): BTC_USDT_USDT-8h-funding_rate.json",
        (
            "3 files left out (mark prices): BTC_USDT_USDT-1h-mark.json, BTC_USDT_USDT-1m-mark.json, "
            "um/markPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2025-01-01.zip"
        ),
        "2 files left out (trades): BTC_USDT-trades.json.gz, um/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2025-01-01.zip",
    )


def test_a_folder_of_mark_prices_alone_holds_no_candles(tmp_path):
    """Also if the user's folder lies in one of the archive's folders of mark prices."""
    place = "um/daily/markPriceKlines/BTCUSDT/1h"
    touch(tmp_path, f"{place}/BTCUSDT-1h-2025-01-01.zip")

    with pytest.raises(InputError, match=r"holds no candle file: 1 file left out \(mark prices\)"):
        FilesSource(tmp_path / place, "1h")


def test_a_delivery_future_is_another_symbol(tmp_path, write):
    """It is neither joined with the perpetual nor with the spot pair."""
    write("BTCUSDT-1m-2025-01-01.csv")
    write("BTCUSDT_250627-1m-2025-01-01.csv", close=5.0)
    source = FilesSource(tmp_path, "1m")

    assert source.symbols() == ("BTCUSDT", "BTCUSDT250627")
    assert source.candles("BTCUSDT250627", ALL)["close"].to_list() == [5.0] * 10


def test_files_of_one_symbol_that_disagree_are_refused_by_name(tmp_path, write):
    """Whatever their folders; files that agree are joined."""
    first, second = write("a/BTCUSDT-1m.csv"), write("b/BTC_USDT-1m.csv", range(5, 15))
    assert FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL).height == 15

    write("b/BTC_USDT-1m.csv", range(5, 15), close=5.0)
    with pytest.raises(InputError, match="two candles of one time") as err:
        FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL)
    assert str(first) in err.value.message
    assert str(second) in err.value.message


@pytest.mark.parametrize(
    ("one", "other", "hint"),
    [
        ("spot/BTCUSDT-1m.csv", "futures/um/BTCUSDT-1m.csv", "name the folder of one of them, such as --from "),
        ("binance/BTC_USDT-1m.csv", "kraken/BTC_USDT-1m.csv", "name the folder of one of them, such as --from "),
        ("mine/BTC_USDT-1m.csv", "kraken_data/BTC_USDT-1m.csv", "name the folder of one of them, such as --from "),
        ("Bitstamp_BTCUSD_1m.csv", "Bitfinex_BTCUSD_1m.csv", "keep the files of one market in a folder"),
        ("BTCUSD-1m.csv", "BTCUSD_PERP-1m.csv", "keep the files of one market in a folder"),
    ],
)
def test_two_markets_are_never_joined(tmp_path, write, one, other, hint):
    """Even without an overlap in time: half of the candles would be of another exchange."""
    write(one)
    write(other, range(100, 110))
    source = FilesSource(tmp_path, "1m")
    (symbol,) = source.symbols()

    with pytest.raises(InputError, match="of two markets") as err:
        source.extent(symbol)
    assert one in err.value.message
    assert other in err.value.message
    assert err.value.hint.startswith(hint)


def test_a_name_without_an_exchange_goes_with_any_in_its_folder(tmp_path, write):
    """Candles that a user has appended."""
    write("binance_BTCUSDT_1m.csv")
    write("BTCUSDT_1m_more.csv", range(10, 20))

    assert FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL).height == 20


def test_files_in_the_folder_itself_come_before_those_of_another_market_below(tmp_path, write):
    """Freqtrade keeps futures in a folder inside that of the spot candles."""
    write("BTC_USDT-1m.csv")
    write("futures/BTC_USDT_USDT-1m-futures.csv", close=5.0)
    spot, futures = FilesSource(tmp_path, "1m"), FilesSource(tmp_path / "futures", "1m")

    assert spot.candles("BTCUSDT", ALL)["close"].to_list() != [5.0] * 10
    assert spot.notes() == ("1 file left out (another market): futures/BTC_USDT_USDT-1m-futures.csv (futures)",)
    assert futures.candles("BTCUSDT", ALL)["close"].to_list() == [5.0] * 10


def test_words_that_name_no_pair_are_read_only_on_request(tmp_path, write):
    """Without any pair in the folder, they are its symbols."""
    write("AAPL.csv")
    assert FilesSource(tmp_path, "1m").default_symbols() == ("AAPL",)

    write("BTCUSDT.csv")
    source = FilesSource(tmp_path, "1m")
    assert source.default_symbols() == ("BTCUSDT",)
    assert source.symbols() == ("AAPL", "BTCUSDT")
    assert source.candles("AAPL", ALL).height == 10


def test_a_file_that_names_the_coin_only_is_refused_with_a_better_name(tmp_path, write):
    """Its quote asset is not guessed."""
    write("btc_bars.csv")
    with pytest.raises(InputError, match=r"no candle file of BTCUSDT: btc_bars.csv names no pair") as err:
        FilesSource(tmp_path, "1m").check_symbols(("BTCUSDT",))
    assert err.value.hint == "name the file after its symbol and interval, such as BTCUSDT-1m.csv"


def test_an_interval_that_no_file_has_is_reported_once(tmp_path):
    """One error for all symbols has the option that accepts the files."""
    touch(tmp_path, "BTCUSDT-1h.csv", "ETHUSDT-1h.csv", "SOLUSDT-1h.csv", "ADAUSDT-1h.csv")
    source = FilesSource(tmp_path, "1m")

    for call in (source.default_symbols, lambda: source.check_symbols(source.symbols())):
        with pytest.raises(InputError) as err:
            call()
        assert err.value.message == (
            f"{tmp_path} has no 1m candles: its files are named as of 1h: "
            "ADAUSDT-1h.csv, BTCUSDT-1h.csv, ETHUSDT-1h.csv and 1 more"
        )
        assert err.value.hint == "pass --interval 1h, or rename what is named wrongly"


def test_all_unknown_symbols_are_named_at_once(tmp_path, write):
    """The error has all of them, with the nearest known name."""
    write("BTCUSDT.csv")
    with pytest.raises(InputError, match=r"has no symbol 'BTCUSD', 'ETHUSDT'") as err:
        FilesSource(tmp_path, "1m").check_symbols(("BTCUSD", "BTCUSDT", "ETHUSDT"))
    assert err.value.hint == "did you mean BTCUSDT?"


def test_folders_that_mltrain_wrote_are_not_candles(tmp_path, write):
    """The data folder may be inside the folder of candles; a snapshot given directly is read."""
    write("BTCUSDT.csv")
    write("data/snapshots/2025-10-15T12-00-00Z/BTCUSDT.parquet", close=5.0)
    touch(tmp_path, "data/snapshots/2025-10-15T12-00-00Z/manifest.json")
    source = FilesSource(tmp_path, "1m")

    assert source.candles("BTCUSDT", ALL)["close"].to_list() != [5.0] * 10
    snapshot = FilesSource(tmp_path / "data" / "snapshots" / "2025-10-15T12-00-00Z", "1m")
    assert snapshot.candles("BTCUSDT", ALL)["close"].to_list() == [5.0] * 10


def test_a_walk_ends(tmp_path, monkeypatch):
    """Deeper folders are counted; too many entries are refused."""
    touch(tmp_path, "BTCUSDT.csv", "/".join(["d"] * 20) + "/ETHUSDT.csv")
    listing = list_candle_files(tmp_path)
    assert [file.place for file in listing.files] == ["BTCUSDT.csv"]
    assert list(listing.left_out) == [f"in folders deeper than {candle_folder.MAX_DEPTH} levels"]

    monkeypatch.setattr(candle_folder, "MAX_ENTRIES", 10)
    touch(tmp_path, *(f"{number}.txt" for number in range(10)))
    with pytest.raises(InputError, match="has more than 10 files and folders"):
        list_candle_files(tmp_path)


def test_another_interval_in_a_folder_is_left_out(tmp_path, write):
    """A file without an interval in its name has the one of its folder."""
    write("BTCUSDT/1m/a.csv")
    write("BTCUSDT/1h/a.csv", range(5), step_ms=HOUR_MS)

    assert FilesSource(tmp_path, "1m").candles("BTCUSDT", ALL).height == 10
    assert FilesSource(tmp_path, "1h").candles("BTCUSDT", ALL).height == 5


def with_symbol(frame, symbol):
    return frame.with_columns(symbol=pl.lit(symbol))


def test_a_column_names_the_symbol_where_the_name_does_not(tmp_path, make_candles):
    """As in files that are named after their day; a file without either is left out."""
    folder = tmp_path / "minute_aggs" / "2025" / "10"
    folder.mkdir(parents=True)
    with_symbol(make_candles(range(10)), "X:BTC-USD").write_csv(folder / "2025-10-15.csv")
    with_symbol(make_candles(range(10, 20)), "X:BTC-USD").write_csv(folder / "2025-10-16.csv")
    make_candles(range(5)).write_csv(folder / "2025-10-17.csv")
    source = FilesSource(tmp_path, "1m")

    assert source.default_symbols() == ("BTCUSD",)
    assert source.candles("BTCUSD", ALL).height == 20
    assert source.notes() == ("1 file left out (no symbol in the name): minute_aggs/2025/10/2025-10-17.csv",)
    assert source.input_files().spellings == {"BTCUSD": ("X:BTC-USD",)}


def test_a_folder_without_any_symbol_says_how_to_name_files(tmp_path, make_candles):
    """Neither names nor columns have one."""
    make_candles(range(5)).write_csv(tmp_path / "2025-10-15.csv")

    with pytest.raises(InputError, match=r"no candle file whose name has a symbol: 1 file left out") as err:
        FilesSource(tmp_path, "1m").symbols()
    assert err.value.hint == "name the files after their symbol and interval, such as BTCUSDT-1m.csv"


@pytest.mark.parametrize(("inside", "is_read"), [("BTC/USDT", True), ("XXBTZUSD", True), ("ETH/USDT", False)])
def test_a_column_that_names_another_pair_than_the_name_is_refused(tmp_path, make_candles, inside, is_read):
    """A renamed file would train the wrong market; an exchange's own code for a pair is not compared."""
    with_symbol(make_candles(range(10)), inside).write_csv(tmp_path / "BTCUSDT-1m.csv")
    source = FilesSource(tmp_path, "1m")

    if is_read:
        assert source.candles("BTCUSDT", ALL).height == 10
        return
    with pytest.raises(InputError, match="says that its candles are of 'ETH/USDT'") as err:
        source.candles("BTCUSDT", ALL)
    assert err.value.hint == "rename the file after its symbol, such as ETHUSDT.csv"


def test_the_kinds_of_files_are_counted(tmp_path, write):
    """The most frequent one first; files that are not read have none."""
    for number in range(3):
        write(f"BTCUSDT-1m-{number}.csv", range(number * 10, number * 10 + 10))
    write("BTC_USDT-1m.parquet", range(30, 40))
    write("ETHUSDT-1m.csv")
    source = FilesSource(tmp_path, "1m")
    source.extent("BTCUSDT")

    files = source.input_files()
    assert [(kind.layout.file_format, kind.files) for kind in files.kinds] == [("csv", 3), ("parquet", 1)]
    assert files.spellings == {"BTCUSDT": ("BTC_USDT",)}
    assert files.left_out == {"another symbol": 1}
    assert files.of_other_symbols == 1


def test_names_that_cannot_be_printed_are_escaped(tmp_path, write):
    """A folder from a stranger must neither colour the terminal nor break the manifest."""
    write("BTCUSDT.csv")
    touch(tmp_path, "BTCUSDT-\x1b[31m-trades.csv", b"BTCUSDT-trades-\xff.csv".decode("utf-8", "surrogateescape"))
    source = FilesSource(tmp_path, "1m")
    source.extent("BTCUSDT")

    (note,) = source.notes()
    assert note.startswith("2 files left out (trades): ")
    assert note.isprintable()
    assert note.encode("utf-8")
