"""Suspicious candles: without trades, or with volumes that their own prices contradict."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from statistics import median

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.anomalies import (
    PAIR,
    QUOTE,
    FalseVolume,
    Jump,
    count_zero_trade,
    empty_false_volumes,
    find_jumps,
    find_zero_trade_runs,
)
from mltrain.candles.frame import OPTIONAL, TS_DTYPE, Gap, times_ms
from mltrain.progress import Silent
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import verify_snapshot
from mltrain.sources.fetch_candles import fetch_candles
from mltrain.sources.files import read_candle_file
from mltrain.sources.opening import open_source
from mltrain.sources.simulated_market import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import MINUTE_MS, format_ms
from support.candles import check

BARS = 60
VOLUMES = ("quote_volume", "taker_buy_base", "taker_buy_quote")


@pytest.fixture
def full(make_candles):
    """Return candles with every column, at average prices of 100.5 to 106.5, a little above the middle."""
    frame = make_candles(range(-BARS, 0))
    price = pl.col("low") + 0.6 * (pl.col("high") - pl.col("low"))
    return check(
        frame.with_columns(
            quote_volume=pl.col("volume") * price,
            trades=pl.lit(7, pl.Int64),
            taker_buy_base=pl.col("volume") * 0.25,
            taker_buy_quote=pl.col("volume") * 0.25 * price,
        )
    )


def emptied(frame):
    """Return the columns that become empty, and check that nothing else changes."""
    after, found = empty_false_volumes(frame)
    gone = [name for name in OPTIONAL if after[name].null_count() == after.height]
    assert after.drop(gone).equals(frame.drop(gone))
    assert after.schema == frame.schema
    assert set(gone) - {name for name in OPTIONAL if frame[name].is_null().all()} == {
        name for false in found for name in false.emptied
    }
    return gone


def test_candles_that_fit_are_left_as_they_are(full):
    """The very same frame comes back, and nothing is reported."""
    after, found = empty_false_volumes(full)

    assert after is full
    assert found == ()


OTHER_UNITS = {
    "quote volume in the base asset": ({"quote_volume": pl.col("volume")}, ["quote_volume"]),
    "quote volume of zeros": ({"quote_volume": pl.lit(0.0)}, ["quote_volume"]),
    "quote volume in another currency": ({"quote_volume": pl.col("quote_volume") * 1.08}, ["quote_volume"]),
    "volume and quote volume swapped": (
        {"quote_volume": pl.col("volume"), "volume": pl.col("quote_volume")},
        ["quote_volume"],
    ),
    "takers bought in the quote asset": (
        {"taker_buy_base": pl.col("taker_buy_quote")},
        ["taker_buy_base", "taker_buy_quote"],
    ),
    "takers paid in the base asset": (
        {"taker_buy_quote": pl.col("taker_buy_base")},
        ["taker_buy_base", "taker_buy_quote"],
    ),
    "takers' zeros on one side": ({"taker_buy_base": pl.lit(0.0)}, ["taker_buy_base", "taker_buy_quote"]),
    "takers bought more than was traded": (
        {"taker_buy_base": pl.col("volume") * 1.5, "taker_buy_quote": pl.col("quote_volume") * 1.5},
        ["taker_buy_base", "taker_buy_quote"],
    ),
    "takers paid more than was traded, base unknown": (
        {"taker_buy_base": pl.lit(None, pl.Float64), "taker_buy_quote": pl.col("quote_volume") * 1.5},
        ["taker_buy_base", "taker_buy_quote"],
    ),
    "contracts and coins, as of COIN-M": (
        {
            "volume": pl.col("volume") * 100,
            "taker_buy_base": pl.col("taker_buy_base") * 100,
            "quote_volume": pl.col("volume"),
            "taker_buy_quote": pl.col("taker_buy_base"),
        },
        ["quote_volume", "taker_buy_quote"],
    ),
}


@pytest.mark.parametrize(("columns", "gone"), OTHER_UNITS.values(), ids=OTHER_UNITS)
def test_a_column_in_another_unit_is_emptied(full, columns, gone):
    """For any unit. If either of two columns may be wrong, both are emptied, unless the other volumes confirm one."""
    assert emptied(full.with_columns(**columns)) == gone


@pytest.mark.parametrize("price", [1e-5, 0.5, 1.0, 3e4])
def test_the_price_level_makes_no_difference(full, price):
    """Prices below one unit of the quote asset are judged like any other."""
    scaled = full.with_columns(
        *(pl.col(name) * price / 100 for name in ("open", "high", "low", "close")),
        quote_volume=pl.col("quote_volume") * price / 100,
        taker_buy_quote=pl.col("taker_buy_quote") * price / 100,
    )

    assert emptied(scaled) == []
    if price != 1.0:
        assert "quote_volume" in emptied(scaled.with_columns(quote_volume=pl.col("volume")))


@given(st.integers(0, BARS), st.integers(0, BARS))
def test_most_traded_candles_decide(false, untraded):
    """A column is emptied if it is wrong in more than half of the traded candles; otherwise it is only counted."""
    prices = pl.DataFrame({"low": [99.0] * BARS, "high": [101.0] * BARS})
    volume = [0.0] * min(untraded, BARS - false) + [2.0] * (BARS - min(untraded, BARS - false))
    quote = [100.0 * v for v in volume]
    quote[BARS - false :] = [2.0] * false
    frame = prices.with_columns(volume=pl.Series(volume), quote_volume=pl.Series(quote))
    traded = sum(v > 0 for v in volume)
    after, found = empty_false_volumes(frame)

    most = 2 * false > traded
    assert after["quote_volume"].is_null().all() == most
    expected = FalseVolume(QUOTE, false, traded, (1.0, 99.0, 101.0), ("quote_volume",) if most else ())
    assert found == ((expected,) if false else ())


@given(
    decimals=st.tuples(*[st.integers(0, 8)] * 3),
    rows=st.lists(
        st.tuples(st.floats(1.0, 1e5), st.floats(0, 0.02), st.floats(0, 1), st.floats(1e-4, 1e6), st.floats(0, 1)),
        min_size=1,
        max_size=30,
    ),
)
def test_rounding_is_no_contradiction(decimals, rows):
    """Prices, volumes and amounts rounded to any number of decimals are never called false."""
    of_price, of_volume, of_quote = decimals
    columns = {name: [] for name in ("low", "high", "volume", *VOLUMES)}
    for low, spread, at, volume, share in rows:
        high = low * (1 + spread)
        price = low + at * (high - low)
        for name, value, digits in (
            ("low", low, of_price),
            ("high", high, of_price),
            ("volume", volume, of_volume),
            ("quote_volume", volume * price, of_quote),
            ("taker_buy_base", volume * share, of_volume),
            ("taker_buy_quote", volume * share * price, of_quote),
        ):
            columns[name].append(round(value, digits))

    assert empty_false_volumes(pl.DataFrame(columns))[1] == ()


def test_32_bit_rounding_is_no_contradiction(full):
    """Many files store 32-bit floats."""
    names = ("open", "high", "low", "close", "volume", *VOLUMES)
    flat = full.with_columns(high="close", low="close", open="close", quote_volume=pl.col("close") * pl.col("volume"))
    flat = flat.with_columns(taker_buy_quote=pl.col("close") * pl.col("taker_buy_base"))

    assert emptied(flat.with_columns(pl.col(names).cast(pl.Float32).cast(pl.Float64))) == []


def test_the_figures_are_those_of_the_candles(full):
    """The sentence has the number of wrong candles and their medians."""
    frame = full.with_columns(quote_volume=pl.col("volume") * 3)
    _, (found,) = empty_false_volumes(frame)

    low, high = median(frame["low"].to_list()), median(frame["high"].to_list())
    assert found == FalseVolume(QUOTE, BARS, BARS, (3.0, low, high), ("quote_volume",))
    assert str(found) == (
        "quote_volume / volume lies outside low..high in 60 of 60 traded candles "
        f"(typically 3 where low..high is {low:.6g}..{high:.6g}): quote_volume is left empty"
    )


def test_an_undefined_ratio_has_no_typical_value(full):
    """Without a divisor, the sentence has no typical value."""
    _, found = empty_false_volumes(full.with_columns(taker_buy_base=pl.lit(0.0)))

    (pair,) = [false for false in found if false.what == PAIR]
    assert pair.typical is None
    assert "typically" not in str(pair)


def test_zero_trade_rows_count_trades_and_else_volume(make_candles):
    """Where `trades` is missing, a candle without volume counts."""
    frame = make_candles(range(4)).with_columns(volume=pl.Series([0.0, 1.0, 0.0, 2.0]))

    assert count_zero_trade(check(frame)) == 2
    assert count_zero_trade(check(frame.with_columns(trades=pl.Series([0, 0, 0, 5])))) == 3
    assert count_zero_trade(check(frame.clear())) == 0


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 4))
def test_the_longest_runs_without_trades_are_listed(quiet, most):
    """The `most` longest runs, the earlier one of equal length first, sorted by time."""
    minutes = np.arange(len(quiet))
    frame = pl.DataFrame(
        {
            "ts": pl.Series(minutes * MINUTE_MS).cast(TS_DTYPE),
            "volume": np.where(quiet, 0.0, 1.0),
            "trades": pl.Series([None] * len(quiet), dtype=pl.Int64),
        }
    )
    runs = [[m for m, _ in group] for is_quiet, group in groupby(enumerate(quiet), key=itemgetter(1)) if is_quiet]
    longest = sorted(sorted(runs, key=len, reverse=True)[:most])

    found = find_zero_trade_runs(frame, MINUTE_MS, max_runs=most)
    assert found == tuple(Gap(run[0] * MINUTE_MS, run[-1] * MINUTE_MS, len(run)) for run in longest)


def test_large_moves_are_listed(make_candles):
    """The first `most` moves by more than a share of the previous close, in either direction."""
    frame = make_candles(range(6)).with_columns(close=pl.Series([100.0, 151.0, 150.0, 74.0, 111.0, 400.0]))
    times = times_ms(frame).tolist()
    jumps = (Jump(times[1], 100.0, 151.0), Jump(times[3], 150.0, 74.0), Jump(times[5], 111.0, 400.0))

    assert find_jumps(frame, min_share=0.5, max_jumps=9) == jumps
    assert find_jumps(frame, min_share=0.5, max_jumps=2) == jumps[:2]


# --- snapshots -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, full):
    """Return a folder with one correct symbol and one whose quote volume is in the base asset."""
    path = tmp_path / "candles"
    path.mkdir()
    full.write_parquet(path / "ETHUSDT.parquet")
    full.with_columns(quote_volume=pl.col("volume")).write_parquet(path / "BTCUSDT.parquet")
    return path


def test_a_snapshot_holds_no_false_volume(take, folder, tmp_path):
    """It is warned of, recorded, verified and rebuilt the same; the other symbol keeps its quote volume."""
    progress = Silent()
    snapshot = take(folder=folder, progress=progress).snapshot
    btc, eth = snapshot.facts

    assert snapshot.candles("BTCUSDT")["quote_volume"].is_null().all()
    assert snapshot.candles("BTCUSDT")["taker_buy_quote"].null_count() == 0
    assert snapshot.candles("ETHUSDT").equals(read_candle_file(folder / "ETHUSDT.parquet", symbol="E", interval="1m"))
    assert [false.what for false in btc.volumes] == [QUOTE]
    assert eth.volumes == ()
    assert f"BTCUSDT: {btc.volumes[0]}" in progress.warnings
    assert verify_snapshot(snapshot) == ()
    (snapshot.path / "BTCUSDT.parquet").write_bytes(b"")
    done = rebuild_snapshot(snapshot, open_source(snapshot.source), data_dir=tmp_path / "data", progress=Silent())
    assert [file.outcome for file in done] == ["rebuilt", "sound"]


def test_fetched_candles_hold_no_false_volume(folder):
    """The library returns the same candles as a snapshot."""
    progress = Silent()
    start = format_ms(CLOCK_MS - BARS * 60_000)
    frames = fetch_candles(
        ["BTCUSDT", "ETHUSDT"], start=start, spec=SourceSpec("files", folder=folder), progress=progress
    )

    assert frames["BTCUSDT"]["quote_volume"].is_null().all()
    assert frames["ETHUSDT"]["quote_volume"].null_count() == 0
    assert any(
        w.startswith("BTCUSDT: quote_volume / volume lies outside low..high in 60 of 60") for w in progress.warnings
    )
