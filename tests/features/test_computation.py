"""Features: the same bits from any part of the history, no value across gaps, clear errors for unusable candles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import OPTIONAL, find_segments, times_ms
from mltrain.errors import InputError
from mltrain.features.computation import check_inputs, compute_features
from mltrain.features.registry import load_registry
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange

STEP_MS = 60_000
DEFAULT = load_registry(interval="1m")
OHLCV = load_registry(Path("features-ohlcv.yml"), interval="1m")
LOOKBACKS = dict(zip(DEFAULT.names, (window.lookback_bars for window in DEFAULT.windows()), strict=True))
SMALL = FeatureSet(
    version=1,
    interval="1m",
    label=LabelSpec(kind="direction", horizon_bars=1, ties="drop"),
    features=(
        FeatureSpec("range", "bar_range", {}),
        FeatureSpec("lead", "leader_lead", {"bars": 2}, "BTCUSDT"),
        FeatureSpec("mean", "gap_to_mean", {"bars": 4}),
        FeatureSpec("leader", "leader_close_location", {"bars": 1}, "BTCUSDT"),
    ),
)
NEEDS = {"range": 1, "lead": 3, "mean": 4, "leader": 1}


def simulate(rows, *, seed=0):
    source = SimSource(seed=seed)
    span = TimeRange(CLOCK_MS - rows * STEP_MS, CLOCK_MS)
    return {symbol: source.candles(symbol, span) for symbol in ("BTCUSDT", "ETHUSDT")}


@pytest.fixture(scope="module")
def candles():
    """Return 15 hours of two symbols without a gap."""
    return simulate(900)


def keep(frame, rows):
    return frame[sorted(rows)]


def test_rows_columns_and_types(candles):
    """The table has `ts` and the features in order, as Float32, one row per candle."""
    features = compute_features(DEFAULT, "ETHUSDT", candles)

    assert features.columns == ["ts", *DEFAULT.names]
    assert set(features.dtypes[1:]) == {pl.Float32()}
    assert features["ts"].equals(candles["ETHUSDT"]["ts"])


def test_null_in_the_warm_up_and_nowhere_else(candles):
    """A feature is null before its lookback is complete, and finite at every later bar."""
    features = compute_features(DEFAULT, "ETHUSDT", candles)

    for name, lookback in LOOKBACKS.items():
        assert features[name].is_null().to_list() == [row < lookback - 1 for row in range(900)]
        assert features[name].drop_nulls().is_finite().all()


@given(st.sets(st.integers(0, 29)), st.sets(st.integers(0, 29)))
def test_nothing_spans_a_gap_of_either_symbol(own, leader):
    """A value needs its lookback without a gap, for a leader's feature in both symbols."""
    whole = simulate(30)
    candles = {"BTCUSDT": keep(whole["BTCUSDT"], leader), "ETHUSDT": keep(whole["ETHUSDT"], own)}
    features = compute_features(SMALL, "ETHUSDT", candles)

    for spec in SMALL.features:
        present = own & leader if spec.leader else own
        complete = [all(row - back in present for back in range(NEEDS[spec.name])) for row in sorted(own)]
        assert features[spec.name].is_not_null().to_list() == complete


def test_each_segment_has_the_bits_that_it_has_alone(candles):
    """A frame with gaps equals its segments, computed separately."""
    rows = [row for row in range(900) if row % 310 > 20]
    gapped = {symbol: keep(frame, rows) for symbol, frame in candles.items()}
    together = compute_features(DEFAULT, "ETHUSDT", gapped)

    for first, stop in find_segments(times_ms(gapped["ETHUSDT"]), STEP_MS):
        segment = {symbol: frame[first:stop] for symbol, frame in gapped.items()}
        assert compute_features(DEFAULT, "ETHUSDT", segment).equals(together[first:stop])


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_the_last_bars_alone_give_the_bits_of_the_batch(symbol, candles):
    """A bar computed from the longest lookback equals that of the batch."""
    batch = compute_features(DEFAULT, symbol, candles)

    for row in (240, 241, 500, 899):
        window = {s: f[row - DEFAULT.lookback_bars + 1 : row + 1] for s, f in candles.items()}
        assert compute_features(DEFAULT, symbol, window)[-1].equals(batch[row])


@pytest.mark.parametrize("rows", [1, 2])
def test_a_frame_of_one_row_has_the_same_bits(rows, candles):
    """Polars divides a single row differently, which must not change a feature."""
    batch = compute_features(DEFAULT, "ETHUSDT", candles)
    short = [name for name, lookback in LOOKBACKS.items() if lookback <= rows]

    for row in range(100, 140):
        few = {symbol: frame[row - rows + 1 : row + 1] for symbol, frame in candles.items()}
        assert compute_features(DEFAULT, "ETHUSDT", few)[-1].select(short).equals(batch[row].select(short))


def test_a_column_made_of_one_value_has_the_same_bits(candles):
    """Polars divides by the reciprocal of a constant column, which must not change a feature."""
    constant = candles["ETHUSDT"].with_columns(volume=pl.lit(3.0), quote_volume=pl.lit(7.0), trades=pl.lit(11))
    written = pl.DataFrame({name: constant[name].to_list() for name in constant.columns}, schema=constant.schema)

    one, other = (compute_features(OHLCV, "ETHUSDT", {"ETHUSDT": frame}) for frame in (constant, written))
    assert one.equals(other)


def test_leader_features_are_zero_on_the_leader(candles):
    """They are exactly 0 once their lookback is complete, and null before."""
    features = compute_features(DEFAULT, "BTCUSDT", candles)

    for spec in DEFAULT.features:
        if spec.leader:
            assert features[spec.name].drop_nulls().unique().to_list() == [0.0]
            assert features[spec.name].null_count() == spec.window().lookback_bars - 1


def test_leader_alone_needs_no_other_symbol(candles):
    """A leader's features can be computed without other symbols."""
    alone = compute_features(DEFAULT, "BTCUSDT", {"BTCUSDT": candles["BTCUSDT"]})

    assert alone.equals(compute_features(DEFAULT, "BTCUSDT", candles))


def test_other_symbols_change_nothing(candles):
    """Only the symbol itself and its leader are read."""
    more = candles | {"SOLUSDT": candles["BTCUSDT"].reverse()}

    assert compute_features(DEFAULT, "ETHUSDT", more).equals(compute_features(DEFAULT, "ETHUSDT", candles))


def test_no_candles_give_no_rows(candles):
    """An empty frame gives an empty table: a market may not have opened yet."""
    empty = {symbol: frame[:0] for symbol, frame in candles.items()}

    assert compute_features(DEFAULT, "ETHUSDT", empty).shape == (0, len(DEFAULT.names) + 1)


def lacking(candles, *columns):
    """Return the candles of ETHUSDT with these columns null."""
    return {"ETHUSDT": candles["ETHUSDT"].with_columns(pl.lit(None).cast(pl.Float64).alias(name) for name in columns)}


def test_missing_columns_are_named_with_a_hint(candles):
    """One message names each missing column and leader, with the features that read them."""
    with pytest.raises(InputError) as caught:
        check_inputs(DEFAULT, lacking(candles, *OPTIONAL))

    for part in ("ETHUSDT lacks quote_volume", "paid_gap_1", "ETHUSDT lacks taker_buy_base", "bought_gap_1"):
        assert part in caught.value.message
    assert "no candles of leader BTCUSDT, for leader_return_1" in caught.value.message
    assert "features-ohlcv.yml" in caught.value.hint
    check_inputs(OHLCV, lacking(candles, *OPTIONAL))


def test_a_leader_without_a_column_is_named(candles):
    """The leader's features may need fewer columns of it than those of other symbols."""
    bare = {"BTCUSDT": candles["BTCUSDT"].drop("taker_buy_base"), "ETHUSDT": candles["ETHUSDT"]}
    only = replace(DEFAULT, features=tuple(s for s in DEFAULT.features if s.leader))

    check_inputs(only, bare, symbols=["BTCUSDT"])
    with pytest.raises(InputError, match="leader BTCUSDT lacks taker_buy_base, for leader_taker_imbalance_1"):
        compute_features(only, "ETHUSDT", bare)


def test_a_column_with_nulls_is_missing(candles):
    """Nulls would make features null without a gap."""
    known = pl.when(pl.int_range(pl.len()) != 7).then("taker_buy_base")
    patchy = candles["ETHUSDT"].with_columns(known.alias("taker_buy_base"))

    with pytest.raises(InputError, match="taker_buy_base in 1 of 900 rows"):
        compute_features(DEFAULT, "ETHUSDT", candles | {"ETHUSDT": patchy})


def test_an_unknown_symbol_is_refused(candles):
    """The error names it."""
    with pytest.raises(InputError, match="no candles of SOLUSDT"):
        compute_features(DEFAULT, "SOLUSDT", candles)


@pytest.mark.parametrize(("interval", "found"), [("1m", "5m"), ("5m", "1m")])
def test_another_interval_is_refused(interval, found, candles):
    """Longer and shorter intervals are refused; features of that interval accept the candles."""
    every = {"1m": 1, "5m": 5}[found]
    frame = candles["ETHUSDT"].filter(pl.col("ts").dt.minute() % every == 0)

    with pytest.raises(InputError, match=f"has {found} candles, the features expect {interval}: take {interval}"):
        compute_features(replace(OHLCV, interval=interval), "ETHUSDT", {"ETHUSDT": frame})
    assert compute_features(replace(OHLCV, interval=found), "ETHUSDT", {"ETHUSDT": frame}).height == frame.height


def test_a_problem_of_several_symbols_is_told_once(candles):
    """Two symbols that lack one column, or are of another interval, share a sentence."""
    lacking = {symbol: frame.drop("trades") for symbol, frame in candles.items()}
    longer = {symbol: frame.filter(pl.col("ts").dt.minute() % 5 == 0) for symbol, frame in candles.items()}
    reads_trades = replace(OHLCV, features=(FeatureSpec("size", "trade_size_ratio", {"bars": 5}),))

    with pytest.raises(InputError) as lack:
        check_inputs(reads_trades, lacking)
    with pytest.raises(InputError) as interval:
        check_inputs(OHLCV, longer)

    assert lack.value.message == "BTCUSDT, ETHUSDT lack trades, for size"
    assert interval.value.message == "BTCUSDT, ETHUSDT have 5m candles, the features expect 1m: take 1m candles"


def test_a_few_scattered_candles_are_not_another_interval(candles):
    """Nine candles with gaps between them are accepted, and have no values."""
    frame = candles["ETHUSDT"][::5][:9]

    assert compute_features(OHLCV, "ETHUSDT", {"ETHUSDT": frame})["rsi_7"].null_count() == 9


@pytest.mark.parametrize("spoil", [lambda f: f.reverse(), lambda f: pl.concat([f, f[-1:]])])
def test_candles_out_of_order_are_refused(spoil, candles):
    """Unsorted or repeated candles are refused, because they could leak the future."""
    with pytest.raises(InputError, match="is not later"):
        compute_features(OHLCV, "ETHUSDT", {"ETHUSDT": spoil(candles["ETHUSDT"])})


def test_many_short_segments_are_computed_at_once(candles):
    """With every third bar missing, features with a lookback above 2 are null everywhere."""
    rows = np.flatnonzero(np.arange(900) % 3 != 2)
    features = compute_features(OHLCV, "ETHUSDT", {"ETHUSDT": candles["ETHUSDT"][rows.tolist()]})

    for name, window in zip(OHLCV.names, OHLCV.windows(), strict=True):
        expected = 600 if window.lookback_bars == 1 else 300 if window.lookback_bars == 2 else 0
        assert features[name].len() - features[name].null_count() == expected


@pytest.mark.real_data
def test_five_minute_candles_with_a_five_minute_registry(real_data):
    """Real five-minute candles have finite features."""
    frame = pl.read_parquet(real_data / "spot_5m" / "SOLUSDT.parquet")[:3_000]
    features = compute_features(replace(OHLCV, interval="5m"), "SOLUSDT", {"SOLUSDT": frame})

    assert all(features[OHLCV.lookback_bars :].select(pl.col(OHLCV.names).is_finite().all()).row(0))
