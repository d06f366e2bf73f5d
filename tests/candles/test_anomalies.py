"""Laws of volumes that the prices of their own candles contradict."""

from __future__ import annotations

from statistics import median

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.anomalies import BASE, PAIR, QUOTE, TAKER_QUOTE, FalseVolume, empty_false_volumes
from mltrain.candles.checks import check_candles
from mltrain.candles.frame import OPTIONAL
from mltrain.progress import Silent
from mltrain.snapshots.rebuild import rebuild_snapshot
from mltrain.snapshots.snapshot import verify_snapshot
from mltrain.sources.fetch import fetch_candles
from mltrain.sources.files import read_candle_file
from mltrain.sources.opening import open_source
from mltrain.sources.simulated import CLOCK_MS
from mltrain.sources.source_spec import SourceSpec
from mltrain.times import format_ms

BARS = 60
VOLUMES = ("quote_volume", "taker_buy_base", "taker_buy_quote")


@pytest.fixture
def full(make_candles):
    """Return candles with every column, at an average price of 100.5 to 106.5, a little above the middle."""
    frame = make_candles(range(-BARS, 0))
    price = pl.col("low") + 0.6 * (pl.col("high") - pl.col("low"))
    return check_candles(
        frame.with_columns(
            quote_volume=pl.col("volume") * price,
            trades=pl.lit(7, pl.Int64),
            taker_buy_base=pl.col("volume") * 0.25,
            taker_buy_quote=pl.col("volume") * 0.25 * price,
        ),
        symbol="BTCUSDT",
        interval="1m",
        where="here",
    )


def emptied(frame):
    """Return which columns are empty afterwards, and check that nothing else has changed."""
    after, found = empty_false_volumes(frame)
    gone = [name for name in OPTIONAL if after[name].null_count() == after.height]
    assert after.drop(gone).equals(frame.drop(gone))
    assert after.schema == frame.schema
    assert set(gone) - {name for name in OPTIONAL if frame[name].is_null().all()} == {
        name for false in found for name in false.emptied
    }
    return gone


def test_candles_that_fit_are_left_as_they_are(full):
    """Not a byte of them changes, and nothing is told."""
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
    """Whatever the unit; which of two is false is not guessed, unless the other volumes vouch for one."""
    assert emptied(full.with_columns(**columns)) == gone


@pytest.mark.parametrize("price", [1e-5, 0.5, 1.0, 3e4])
def test_the_price_level_makes_no_difference(full, price):
    """Also where a coin costs less than one unit of the quote asset."""
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
    """More than half of those with a trade; the others are told with their number and kept."""
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
    """Prices, volumes and amounts paid, each written with so many decimals, are never called false."""
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


def test_what_32_bits_lose_is_no_contradiction(full):
    """Many files keep prices so."""
    names = ("open", "high", "low", "close", "volume", *VOLUMES)
    flat = full.with_columns(high="close", low="close", open="close", quote_volume=pl.col("close") * pl.col("volume"))
    flat = flat.with_columns(taker_buy_quote=pl.col("close") * pl.col("taker_buy_base"))

    assert emptied(flat.with_columns(pl.col(names).cast(pl.Float32).cast(pl.Float64))) == []


def test_the_figures_are_those_of_the_candles(full):
    """The medians over the candles at fault, and their number, in one sentence."""
    frame = full.with_columns(quote_volume=pl.col("volume") * 3)
    _, (found,) = empty_false_volumes(frame)

    low, high = median(frame["low"].to_list()), median(frame["high"].to_list())
    assert found == FalseVolume(QUOTE, BARS, BARS, (3.0, low, high), ("quote_volume",))
    assert str(found) == (
        "quote_volume / volume lies outside low..high in 60 of 60 traded candles "
        f"(typically 3 where low..high is {low:.6g}..{high:.6g}): quote_volume is left empty"
    )


def test_a_price_that_has_no_value_is_told_without_one(full):
    """Something was paid and nothing was bought: no number stands for that."""
    _, found = empty_false_volumes(full.with_columns(taker_buy_base=pl.lit(0.0)))

    (pair,) = [false for false in found if false.what == PAIR]
    assert pair.typical is None
    assert "typically" not in str(pair)


# --- snapshots -------------------------------------------------------------------------------------------------------


class Told(Silent):
    """Keeps what is told."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


@pytest.fixture
def folder(tmp_path, full):
    """Return a folder with one honest symbol and one whose quote volume is in the base asset."""
    path = tmp_path / "candles"
    path.mkdir()
    full.write_parquet(path / "ETHUSDT.parquet")
    full.with_columns(quote_volume=pl.col("volume")).write_parquet(path / "BTCUSDT.parquet")
    return path


def test_a_snapshot_holds_no_false_volume(take, folder, tmp_path):
    """It is told, recorded beside the file, verified, and made again the same; the other symbol keeps its own."""
    told = Told()
    snapshot = take(folder=folder, progress=told).snapshot
    btc, eth = snapshot.facts

    assert snapshot.candles("BTCUSDT")["quote_volume"].is_null().all()
    assert snapshot.candles("BTCUSDT")["taker_buy_quote"].null_count() == 0
    assert snapshot.candles("ETHUSDT").equals(read_candle_file(folder / "ETHUSDT.parquet", symbol="E", interval="1m"))
    assert [false.what for false in btc.volumes] == [QUOTE]
    assert eth.volumes == ()
    assert f"BTCUSDT: {btc.volumes[0]}" in told.warnings
    assert verify_snapshot(snapshot) == ()
    (snapshot.path / "BTCUSDT.parquet").write_bytes(b"")
    done = rebuild_snapshot(snapshot, open_source(snapshot.source), data_dir=tmp_path / "data", progress=Silent())
    assert [file.outcome for file in done] == ["rebuilt", "sound"]


def test_fetched_candles_hold_no_false_volume(folder):
    """What the library hands out is as in a snapshot."""
    told = Told()
    start = format_ms(CLOCK_MS - BARS * 60_000)
    frames = fetch_candles(["BTCUSDT", "ETHUSDT"], start=start, spec=SourceSpec("files", folder=folder), progress=told)

    assert frames["BTCUSDT"]["quote_volume"].is_null().all()
    assert frames["ETHUSDT"]["quote_volume"].null_count() == 0
    assert any(w.startswith("BTCUSDT: quote_volume / volume lies outside low..high in 60 of 60") for w in told.warnings)


def test_the_kinds_are_four():
    """Each has its words."""
    assert len({QUOTE, BASE, PAIR, TAKER_QUOTE}) == 4
