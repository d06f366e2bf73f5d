"""From a folder of candle files to a prediction by three commands, without a file written by hand."""

from __future__ import annotations

import polars as pl
import pytest

from mltrain.snapshots.snapshot import open_snapshot
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import DAY_MS, TimeRange, format_ms, interval_ms
from support.program import QUICK, call

# The simulated market has no more pairs.
OTHERS = {"ADAUSDT": "SIM02"}
CONSTANT_AT_1D = ("day_sin", "day_cos", "quarter")
OHLCV = ("open", "high", "low", "close", "volume")


def write_freqtrade(frame, symbol, interval, folder):
    """Write candles as freqtrade keeps them: feather, times in ns."""
    path = folder / "user_data" / "data" / "binance" / f"{symbol.removesuffix('USDT')}_USDT-{interval}.feather"
    path.parent.mkdir(parents=True, exist_ok=True)
    ns = pl.col("ts").cast(pl.Datetime("ns", "UTC")).alias("date")
    frame.select(ns, *OHLCV).write_ipc(path, compression="lz4")


def write_semicolons(frame, symbol, interval, folder):
    """Write candles as a German spreadsheet does, in Berlin's winter time, in folders by symbol and interval."""
    path = folder / symbol / interval / "export.csv"
    path.parent.mkdir(parents=True)
    local = (pl.col("ts") + pl.duration(hours=1)).dt.strftime("%d.%m.%Y %H:%M").alias("Date")
    frame.select(local, *OHLCV).write_csv(path, separator=";", decimal_comma=True)


def write_crypto_data_download(frame, symbol, interval, folder):
    """Write candles newest first, in seconds, with a line above the names."""
    assert interval == "1d"
    days = frame.select(pl.col("ts").dt.epoch("s").alias("unix"), *OHLCV).sort("unix", descending=True)
    days = days.rename({"volume": f"Volume {symbol.removesuffix('USDT')}"})
    (folder / f"Binance_{symbol}_d.csv").write_text("https://www.example.com\n" + days.write_csv())


def predict_from(folder, interval, last_ms, data_dir, *words):
    """Take a snapshot of a folder, train with one trial, and predict; check each step and return the predictions."""
    taken = call("snapshot", "--source", "files", "--from", folder, *words, data_dir=data_dir)
    assert taken.code == 0, taken.err
    assert f"interval: {interval}, by the names of the files" in taken.out
    options = ["--features", "features-ohlcv.yml", "--trials", 1, "--config", QUICK]
    trained = call("train", "--json", *options, data_dir=data_dir)
    assert trained.code in {0, 4}, trained.err
    constant = f"left out, because every 1d candle has the same value: {', '.join(CONSTANT_AT_1D)}"
    assert (constant in trained.document["warnings"]) == (interval == "1d")
    now = format_ms(last_ms + interval_ms(interval))
    version = trained.document["version"]
    done = call("predict", "--json", version, "--allow-no-go", "--as-of", now, data_dir=data_dir)
    assert done.code == 0, done.err
    return done.document["predictions"]


@pytest.mark.parametrize(
    ("interval", "days", "symbols", "write", "words"),
    [
        ("5m", 12, ("BTCUSDT", "ETHUSDT", "SOLUSDT"), write_semicolons, ("--timezone", "+01:00")),
        (
            "1d",
            3650,
            ("BTCUSDT", "ETHUSDT", "ADAUSDT"),
            write_crypto_data_download,
            (),
        ),
    ],
)
def test_simulated_candles_in_a_folder_are_trained_on(tmp_path, interval, days, symbols, write, words):
    """5m of three symbols, ten years of 1d of three: the snapshot has the market's candles, every symbol is served."""
    source = SimSource(interval=interval, signal="strong")
    end_ms = CLOCK_MS // DAY_MS * DAY_MS
    (tmp_path / "candles").mkdir()
    frames = {
        symbol: source.candles(OTHERS.get(symbol, symbol), TimeRange(end_ms - days * DAY_MS, end_ms))
        for symbol in symbols
    }
    for symbol, frame in frames.items():
        write(frame, symbol, interval, tmp_path / "candles")
    last_ms = end_ms - interval_ms(interval)

    predictions = predict_from(tmp_path / "candles", interval, last_ms, tmp_path / "data", *words)

    taken = open_snapshot(tmp_path / "data", "latest")
    for symbol, frame in frames.items():
        assert taken.candles(symbol).select("ts", *OHLCV).equals(frame.select("ts", *OHLCV))
    assert [(row["symbol"], row["ts"], row["refused"]) for row in predictions] == [
        (symbol, format_ms(last_ms), None) for symbol in sorted(symbols)
    ]


@pytest.mark.real_data
def test_thirteen_months_of_hours_are_trained_on(tmp_path, real_data):
    """Real candles in freqtrade's folder; a symbol that ends an hour early is served at its own last candle."""
    last_ms = {}
    for symbol in ("BTCUSDT", "ETHUSDT", "SOLUSDT"):
        minutes = pl.read_parquet(real_data / "spot_5m" / f"{symbol}.parquet").sort("ts")
        hours = minutes.group_by_dynamic("ts", every="1h").agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
            pl.len().alias("count"),
        )
        hours = hours.filter(pl.col("count") == 12, pl.col("ts") < pl.datetime(2026, 2, 1, time_zone="UTC"))
        write_freqtrade(hours, symbol, "1h", tmp_path)
        last_ms[symbol] = int(hours["ts"].dt.timestamp("ms")[-1])
        assert hours.height > 390 * 24

    predictions = predict_from(tmp_path / "user_data", "1h", max(last_ms.values()), tmp_path / "data")

    assert [(row["symbol"], row["ts"], row["refused"]) for row in predictions] == [
        (symbol, format_ms(ms), None) for symbol, ms in sorted(last_ms.items())
    ]
    assert all(0.2 < row["p"] < 0.8 for row in predictions)
