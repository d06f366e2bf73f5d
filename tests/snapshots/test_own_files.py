"""Snapshots of a user's own files: all of them without options, and what was understood of them."""

from __future__ import annotations

import gzip
import json
import os

import polars as pl
import pytest

from mltrain.errors import UsageError
from mltrain.progress import Silent
from mltrain.snapshots.snapshot import open_snapshot, verify_snapshot
from mltrain.snapshots.snapshot_record import SnapshotRequest
from mltrain.snapshots.take import plan_snapshot, request_everything
from mltrain.sources.files import FilesSource
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.times import DAY_MS, HOUR_MS, TimeRange
from support.program import call

HOURS = {"BTC_USDT": range(100), "ETH_USDT": range(30, 80)}


def at(hour):
    return CLOCK_MS + hour * HOUR_MS


@pytest.fixture
def folder(tmp_path, make_candles):
    """Return a folder as freqtrade keeps it: two pairs at 1h, and other data of one of them."""
    folder = tmp_path / "user_data" / "data" / "binance" / "futures"
    folder.mkdir(parents=True)
    for pair, hours in HOURS.items():
        frame = make_candles(hours, step_ms=HOUR_MS)
        rows = [[int(row[0].timestamp() * 1000), *row[1:]] for row in frame.select(frame.columns[:6]).rows()]
        (folder / f"{pair}_USDT-1h-futures.json").write_text(json.dumps(rows))
    (folder / "BTC_USDT_USDT-1h-mark.json").write_text("[[1637110800000,1.07997,1.0978,1.07651,1.07936,null]]")
    (folder / "BTC_USDT_USDT-5m-futures.json").write_text("[]")
    (folder / "BTC_USDT-trades.json.gz").write_bytes(gzip.compress(b'[[1637110800017,"1","","sell",1.08,10.0,10.8]]'))
    return tmp_path / "user_data"


def snapshot(folder, data_dir, *words):
    return call("snapshot", "--source", "files", "--from", folder, "--interval", "1h", *words, data_dir=data_dir)


def test_all_symbols_and_all_days_are_taken(folder, tmp_path):
    """The window is exactly that of the candles; the manifest keeps how the names spell the symbols, and the kinds."""
    done = snapshot(folder, tmp_path / "data", "--json")

    assert done.code == 0, done.err
    taken = open_snapshot(tmp_path / "data", "latest")
    assert taken.symbols == ("BTCUSDT", "ETHUSDT")
    assert taken.window == TimeRange(at(0), at(100))
    assert {facts.symbol: facts.missing for facts in taken.facts} == {"BTCUSDT": 0, "ETHUSDT": 50}
    assert verify_snapshot(taken) == ()
    assert taken.input_files is not None
    assert taken.input_files.spellings == {"BTCUSDT": ("BTC_USDT_USDT",), "ETHUSDT": ("ETH_USDT_USDT",)}
    assert taken.input_files.left_out == {"another interval": 1, "mark prices": 1, "trades": 1}
    (kind,) = taken.input_files.kinds
    assert kind.files == 2
    assert str(kind).startswith("json, 2 files, open time, ")
    assert done.document["snapshot"]["input_files"]["kinds"][0]["files"] == 2


def test_the_command_says_what_it_understood(folder, tmp_path):
    """One line for each kind of file; what was left out is a warning, and other symbols are a number."""
    done = snapshot(folder, tmp_path / "data")

    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line for line in lines if line.startswith("read: ")] == [
        f"read: {open_snapshot(tmp_path / 'data', 'latest').input_files.kinds[0]}"
    ]
    assert not [line for line in lines if "left out" in line]
    assert "1 file left out (trades): data/binance/futures/BTC_USDT-trades.json.gz" in done.err
    one = snapshot(folder, tmp_path / "data", "--symbols", "ETHUSDT")
    assert "files of other symbols that were left out: 2" in one.out.splitlines()


def test_a_dry_run_shows_the_same_and_writes_nothing(folder, tmp_path):
    """Not even the data folder; the document has each symbol's first and last candle."""
    shown = snapshot(folder, tmp_path / "data", "--dry-run")
    done = snapshot(folder, tmp_path / "data", "--dry-run", "--json")

    assert shown.code == done.code == 0, shown.err
    assert not os.path.lexists(tmp_path / "data")
    assert done.document["schema"] == "mltrain/snapshot-plan/1"
    assert done.document["symbols"] == [
        {"symbol": symbol, "spellings": [f"{pair}_USDT"], "rows": len(hours), "first_ms": at(hours[0]),
         "last_ms": at(hours[-1]), "share": len(hours) / 100}
        for (pair, hours), symbol in zip(HOURS.items(), ("BTCUSDT", "ETHUSDT"), strict=True)
    ]  # fmt: skip
    assert "read: json, 2 files, open time, " in shown.out
    assert "BTC_USDT_USDT" in shown.out
    assert shown.out.splitlines()[-1] == "nothing was written"
    taken = snapshot(folder, tmp_path / "data", "--json").document
    assert taken["window"] == done.document["window"]
    assert taken["snapshot"]["input_files"] == done.document["input_files"]


def test_a_dry_run_fits_the_window_as_the_snapshot_does(folder, tmp_path):
    """With the range that all symbols cover."""
    planned = snapshot(folder, tmp_path / "data", "--dry-run", "--json", "--align", "common").document
    taken = snapshot(folder, tmp_path / "data", "--json", "--align", "common").document

    assert planned["window"] == taken["window"] == {"start_ms": at(30), "end_ms": at(80)}
    assert [symbol["rows"] for symbol in planned["symbols"]] == [50, 50]


@pytest.mark.parametrize("spelling", ["BTC/USDT", "BTC/USDT:USDT", "btc_usdt", "BTC-USDT", "BTCUSDT"])
def test_symbols_may_be_spelled_in_any_way(folder, tmp_path, spelling):
    """The others are counted."""
    done = snapshot(folder, tmp_path / "data", "--json", "--symbols", spelling, "--days", "2")

    assert done.code == 0, done.err
    assert done.document["snapshot"]["request"]["symbols"] == ["BTCUSDT"]
    assert done.document["window"] == {"start_ms": at(100) - 2 * DAY_MS, "end_ms": at(100)}
    assert done.document["snapshot"]["input_files"]["left_out"]["another symbol"] == 1


def test_what_cannot_be_a_symbol_is_refused_with_the_nearest_names(folder, tmp_path):
    """And so is a symbol that the folder lacks."""
    for words, code, hint in (("BTC//USDT", 2, "did you mean BTCUSDT"), ("BTC/USD", 3, "did you mean BTCUSDT")):
        done = snapshot(folder, tmp_path / "data", "--symbols", words)
        assert done.code == code
        assert hint in done.err


def test_a_dry_run_of_a_download_is_refused(tmp_path):
    """It would fill the cache."""
    done = call("snapshot", "--dry-run", data_dir=tmp_path / "data")

    assert done.code == 2
    assert "--dry-run goes with --source files or sim" in done.err


def test_everything_up_to_an_end(folder):
    """The window begins at the first candle; an end before it is refused."""
    source = FilesSource(folder, "1h")
    request = request_everything(source, ("ETHUSDT",), end_ms=at(60))
    plan = plan_snapshot(source, request, data_dir=folder, progress=Silent())

    assert request == SnapshotRequest(("ETHUSDT",), 2, "1h", at(60), start_ms=at(30))
    assert (plan.window, plan.symbols[0].rows) == (TimeRange(at(30), at(60)), 30)
    with pytest.raises(UsageError, match="is before the first candle"):
        request_everything(source, ("ETHUSDT",), end_ms=at(30))


def test_a_fault_that_all_symbols_share_is_said_once(tmp_path, make_candles):
    """The first symbol's figures, and the names of the others."""
    (tmp_path / "candles").mkdir()
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
        frame = make_candles(range(48), step_ms=HOUR_MS)
        frame.with_columns(quote_volume=frame["volume"]).write_parquet(tmp_path / "candles" / f"{symbol}.parquet")
    done = snapshot(tmp_path / "candles", tmp_path / "data")

    warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert done.code == 0, done.err
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: BTCUSDT: quote_volume / volume lies outside ")
    assert warnings[0].endswith("quote_volume is left empty; the same in ETHUSDT, SOLUSDT")


def test_a_time_zone_is_given_recorded_and_used_again(tmp_path, make_candles):
    """A CSV of a program that writes Berlin's time: the manifest keeps the zone, with which a lost file is rebuilt."""
    (tmp_path / "candles").mkdir()
    frame = make_candles(range(48), step_ms=HOUR_MS)
    local = pl.col("ts").dt.convert_time_zone("Europe/Berlin").dt.strftime("%Y-%m-%d %H:%M")
    frame.with_columns(local).write_csv(tmp_path / "candles" / "BTCUSDT-1h.csv")

    done = snapshot(tmp_path / "candles", tmp_path / "data", "--timezone", "Europe/Berlin")
    assert done.code == 0, done.err
    assert done.err.count("warning: ") == 0
    assert "csv, open time, text Europe/Berlin by --timezone, columns ts open" in done.out
    taken = open_snapshot(tmp_path / "data", "latest")
    assert taken.source.to_dict()["timezone"] == "Europe/Berlin"
    assert taken.candles("BTCUSDT")["ts"].equals(frame["ts"])

    os.truncate(taken.path / "BTCUSDT.parquet", 100)
    rebuilt = call("snapshot", "--rebuild", "latest", data_dir=tmp_path / "data")
    assert rebuilt.code == 0, rebuilt.err
    assert verify_snapshot(open_snapshot(tmp_path / "data", "latest")) == ()

    plain = snapshot(tmp_path / "candles", tmp_path / "data", "--dry-run")
    assert "--timezone ZONE reads them in another): BTCUSDT-1h.csv" in plain.err
    other = call("snapshot", "--source", "sim", "--timezone", "Europe/Berlin", data_dir=tmp_path / "data")
    assert (other.code, "--timezone goes with --source files" in other.err) == (2, True)
    unknown = snapshot(tmp_path / "candles", tmp_path / "data", "--timezone", "Europe/Bern")
    assert (unknown.code, "'Europe/Bern' is not a time zone" in unknown.err) == (2, True)


@pytest.mark.parametrize(
    "name", ["data/futures/cm/monthly/klines/BTCUSD_PERP/1h/BTCUSD_PERP-1h-2026-01.csv", "BTCUSD_260327.csv"]
)
def test_volumes_in_coins_are_left_empty_and_said_once(tmp_path, make_candles, name):
    """COIN-M: the volume is a number of contracts; no warning, and a training on prices and volume goes on."""
    path = tmp_path / "candles" / name
    path.parent.mkdir(parents=True)
    frame = make_candles(range(800), step_ms=HOUR_MS)
    coins = (frame["volume"] * 100 / frame["close"]).alias("quote_volume")
    frame = frame.with_columns(coins, trades=7, taker_buy_base=frame["volume"] / 2, taker_buy_quote=coins / 2)
    frame.with_columns(pl.col("ts").dt.timestamp("ms")).write_csv(path)

    done = snapshot(tmp_path / "candles", tmp_path / "data")
    assert done.code == 0, done.err
    assert done.err.count("warning: ") == 0
    assert "COIN-M volume in contracts: quote_volume and taker_buy_quote left empty" in done.out
    taken = open_snapshot(tmp_path / "data", "latest")
    candles = taken.candles(taken.symbols[0])
    assert candles["volume"].equals(frame["volume"])
    assert candles["taker_buy_base"].equals(frame["taker_buy_base"])
    assert candles["quote_volume"].null_count() == candles["taker_buy_quote"].null_count() == candles.height
    (kind,) = taken.input_files.kinds
    assert kind.layout.emptied == ("quote_volume", "taker_buy_quote")
    refused = call("train", "--dry-run", data_dir=tmp_path / "data")
    assert (refused.code, "lacks quote_volume, for " in refused.err) == (3, True)
    prices = call("train", "--dry-run", "--features", "features-ohlcv.yml", data_dir=tmp_path / "data")
    assert "quote_volume" not in prices.err


def test_the_interval_that_all_names_state_is_taken(folder, tmp_path, make_candles):
    """Without --interval; with files of two intervals, or of none, it is 1m as for any other source."""
    several = call("snapshot", "--source", "files", "--from", folder, data_dir=tmp_path / "data")
    assert (several.code, "has no 1m candles" in several.err) == (3, True)

    (folder / "data" / "binance" / "futures" / "BTC_USDT_USDT-5m-futures.json").unlink()
    done = call("snapshot", "--source", "files", "--from", folder, data_dir=tmp_path / "data")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "interval: 1h, by the names of the files"
    assert open_snapshot(tmp_path / "data", "latest").interval == "1h"

    (tmp_path / "unnamed").mkdir()
    make_candles(range(48), step_ms=HOUR_MS).write_parquet(tmp_path / "unnamed" / "BTCUSDT.parquet")
    unnamed = call("snapshot", "--source", "files", "--from", tmp_path / "unnamed", data_dir=tmp_path / "data")
    assert (unnamed.code, "pass --interval 1h" in unnamed.err) == (3, True)
