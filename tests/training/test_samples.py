from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import CANDLE_SCHEMA
from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import MINUTE_MS, TimeRange
from mltrain.training.label import make_labels
from mltrain.training.samples import (
    build_samples,
    build_samples_and_ties,
    check_finite,
    keep_finite,
    keep_newest,
    keep_symbols,
    matrix_sha256,
    merge_rows,
    take_rows,
)

FEATURES = FeatureSet(
    version=1,
    interval="1m",
    label=LabelSpec("direction", 1, "drop"),
    features=(
        FeatureSpec("last", "log_return", {"bars": 1, "lag": 0}),
        FeatureSpec("slow", "realised_volatility", {"bars": 30}),
        FeatureSpec("lead", "leader_return", {"bars": 1, "lag": 0}, leader="BTCUSDT"),
    ),
)


@pytest.fixture(scope="module")
def candles():
    """Eight days of two simulated symbols, with an outage."""
    window = TimeRange(CLOCK_MS - 8 * 1_440 * MINUTE_MS, CLOCK_MS)
    return {s: SimSource(signal="strong").candles(s, window) for s in ("ETHUSDT", "BTCUSDT")}


def test_rows_are_features_and_labels_of_one_candle(candles):
    """Every row equals the features and label looked up by time and symbol."""
    samples, _ = build_samples(FEATURES, candles)

    assert samples.symbols == ("BTCUSDT", "ETHUSDT")
    assert samples.names == ("last", "slow", "lead")
    for ix, symbol in enumerate(samples.symbols):
        features = compute_features(FEATURES, symbol, candles)
        labels = make_labels(candles[symbol], FEATURES.label, MINUTE_MS)
        whole = features.hstack(labels.drop("ts")).drop_nulls([*samples.names, "y"])
        own = samples.symbol_ix == ix
        assert np.array_equal(samples.ts_ms[own], whole["ts"].dt.timestamp("ms").to_numpy())
        assert np.array_equal(samples.x[own], whole.select(samples.names).to_numpy())
        assert np.array_equal(samples.y[own], whole["y"].to_numpy())
        assert np.array_equal(samples.label_end_ms[own], whole["label_end"].to_numpy())
        assert np.array_equal(samples.last_move[own], whole["last_move"].to_numpy())


def test_rows_are_in_the_order_of_time_then_symbol(candles):
    """Rows are sorted over all symbols, in C-contiguous float32 arrays."""
    samples, _ = build_samples(FEATURES, candles)

    keys = list(zip(samples.ts_ms.tolist(), samples.symbol_ix.tolist(), strict=True))
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert samples.x.dtype == np.float32
    assert samples.x.flags.c_contiguous
    assert np.isfinite(samples.x).all()
    assert (samples.y.dtype, samples.last_move.dtype, samples.symbol_ix.dtype) == (np.uint8, np.int8, np.int16)


def test_order_of_the_symbols_given_does_not_matter(candles):
    """A mapping in another order gives the same matrix."""
    in_order, _ = build_samples(FEATURES, candles)
    in_reverse, _ = build_samples(FEATURES, dict(reversed(candles.items())))

    assert matrix_sha256(in_order) == matrix_sha256(in_reverse)


def test_every_candle_is_accounted_for(candles):
    """Rows and dropped candles by reason add up to all candles, and each reason is counted correctly."""
    samples, quality = build_samples(FEATURES, candles)

    for ix, entry in enumerate(quality):
        frame = candles[entry.symbol]
        labels = make_labels(frame, FEATURES.label, MINUTE_MS)
        featured = compute_features(FEATURES, entry.symbol, candles).select(
            pl.all_horizontal(pl.col(samples.names).is_not_null())
        )[:, 0]
        assert entry.candles == frame.height == entry.rows + entry.no_features + entry.no_label + entry.ties
        assert entry.rows == (samples.symbol_ix == ix).sum()
        assert entry.no_features == (~featured).sum() > 30
        assert entry.no_label == (featured & labels["tie"].is_null()).sum()
        assert entry.ties == (featured & labels["tie"]).sum() > 0
        assert entry.tie_share == pytest.approx(labels["tie"].mean())


@pytest.mark.parametrize("label", [FEATURES.label, LabelSpec("threshold", 3, "drop", 8.0)])
def test_dropped_ties_are_returned_with_their_features(candles, label):
    """Every candle with features and a dropped label is a tie, in the order of time, then symbol."""
    feature_set = replace(FEATURES, label=label)
    samples, ties, quality = build_samples_and_ties(feature_set, candles)

    assert [entry.ties for entry in quality] == np.bincount(ties.symbol_ix).tolist()
    keys = list(zip(ties.ts_ms.tolist(), ties.symbol_ix.tolist(), strict=True))
    assert keys == sorted(keys)
    assert not ties.y.any()
    for ix, symbol in enumerate(ties.symbols):
        features = compute_features(feature_set, symbol, candles)
        labels = make_labels(candles[symbol], label, MINUTE_MS)
        whole = features.hstack(labels.drop("ts")).filter(pl.col("tie")).drop_nulls(samples.names)
        own = ties.symbol_ix == ix
        assert np.array_equal(ties.ts_ms[own], whole["ts"].dt.timestamp("ms").to_numpy())
        assert np.array_equal(ties.x[own], whole.select(ties.names).to_numpy())
        assert np.array_equal(ties.label_end_ms[own], whole["label_end"].to_numpy())
        assert np.array_equal(ties.last_move[own], whole["last_move"].fill_null(0).to_numpy())
    assert matrix_sha256(build_samples(feature_set, candles)[0]) == matrix_sha256(samples)


def test_rows_and_ties_share_one_matrix(candles):
    """Ties need no memory beyond that of a row per candle."""
    samples, ties, _ = build_samples_and_ties(FEATURES, candles)

    assert samples.x.base is not None
    assert np.shares_memory(samples.x.base, ties.x)
    assert not np.shares_memory(samples.x, ties.x)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_only_finite_rows_are_kept(samples, value):
    """Rows with a value that is not finite are left out, and no other row."""
    x = samples.x.copy()
    x[[0, 1_001], 3] = value
    kept = keep_finite(replace(samples, x=x))
    expected = np.delete(np.arange(samples.y.size), [0, 1_001])

    assert matrix_sha256(kept) == matrix_sha256(take_rows(samples, expected))
    assert keep_finite(samples) is samples


def test_merged_rows_are_in_the_order_of_time_then_symbol(candles):
    """Rows and ties together are the rows of the same label with `ties: down`."""
    samples, ties, _ = build_samples_and_ties(FEATURES, candles)
    whole, _ = build_samples(replace(FEATURES, label=LabelSpec("direction", 1, "down")), candles)

    merged, order = merge_rows(samples, ties)

    for name in ("y", "ts_ms", "label_end_ms", "symbol_ix", "last_move"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name)), name
    assert np.array_equal(np.concatenate([samples.x, ties.x])[order], whole.x)


def test_ties_kept_as_down_are_rows(candles):
    """With `ties: down` no tie is dropped, and the share of ties is still reported."""
    kept = replace(FEATURES, label=LabelSpec("direction", 1, "down"))
    _, dropped = build_samples(FEATURES, candles)
    _, quality = build_samples(kept, candles)

    for before, after in zip(dropped, quality, strict=True):
        assert after.ties == 0
        assert after.rows == before.rows + before.ties
        assert after.tie_share == before.tie_share


def test_an_unknown_last_move_is_zero(candles):
    """After a gap the last move is unknown: it is 0."""
    only = replace(FEATURES, features=(FeatureSpec("body", "candle_body", {}),))
    samples, _ = build_samples(only, {"ETHUSDT": candles["ETHUSDT"]})

    assert samples.last_move[0] == 0
    assert set(samples.last_move.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(("max_rows", "kept"), [(0, 20), (20, 20), (19, 18), (7, 6), (6, 6), (2, 2)])
def test_the_newest_candles_are_kept_by_whole_times(candles, max_rows, kept):
    """Both symbols keep their candles from one time on, together no more than `max_rows`."""
    newest = keep_newest({s: frame.tail(10) for s, frame in candles.items()}, max_rows)

    assert all(newest[s].equals(frame.tail(kept // 2)) for s, frame in candles.items())


def test_fewer_rows_than_symbols_are_refused(candles):
    """A limit below the candles of the newest time is an error that names the option."""
    with pytest.raises(InputError, match="max_rows = 1 is too small: 2 symbols") as caught:
        keep_newest(candles, 1)

    assert "--max-rows" in caught.value.hint


def test_a_threshold_that_few_candles_reach_is_named(candles):
    """More days would hardly help: the message has the counts, the hint the label."""
    features = replace(FEATURES, label=LabelSpec("threshold", 1, "drop", cost_bps=120))
    with pytest.raises(InputError, match=r"only [0-9]+ of 2[0-9],[0-9]{3} candles move by more than 120 bps") as caught:
        build_samples(features, candles)

    assert "cost_bps" in caught.value.hint


def test_too_few_candles_are_refused(candles):
    """Without a complete row, the error names the candles that the warm-up needs."""
    short = {s: frame.head(20) for s, frame in candles.items()}

    with pytest.raises(InputError, match=r"BTCUSDT, ETHUSDT .* needs 31 candles in a row, the label 1 more"):
        build_samples(FEATURES, short)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_feature_that_is_not_finite_is_named(samples, value):
    """The error names feature, symbol, time and value of the first one."""
    x = samples.x.copy()
    x[1_001, 3] = x[2_000, 3] = value

    with pytest.raises(InputError, match=rf"feature f3 of SYM1 at 1970-01-01T08:20:00Z is {value}"):
        check_finite(replace(samples, x=x))


def test_hash_covers_every_value(samples):
    """Changing a value, a name, a symbol or the order of columns changes the hash."""
    same = replace(samples, x=samples.x.copy())
    x = samples.x.copy()
    x[17, 2] = np.nextafter(x[17, 2], np.float32(9))
    y = samples.y.copy()
    y[-1] ^= 1
    others = [
        replace(samples, x=x),
        replace(samples, y=y),
        replace(samples, names=("f1", "f0", *samples.names[2:])),
        replace(samples, symbols=("SYM0", "SYM9")),
        replace(samples, ts_ms=samples.ts_ms - 1),
        take_rows(samples, slice(0, samples.y.size - 1)),
    ]

    assert matrix_sha256(same) == matrix_sha256(samples)
    assert len({matrix_sha256(s) for s in [samples, *others]}) == 7


def test_taken_rows_are_a_view(samples):
    """Rows of a slice share the memory of the matrix."""
    taken = take_rows(samples, slice(100, 300))

    assert np.shares_memory(taken.x, samples.x)
    assert taken.ts_ms.tolist() == samples.ts_ms[100:300].tolist()
    assert (taken.symbols, taken.names) == (samples.symbols, samples.names)


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"ts_ms": s.ts_ms[::-1].copy()},
        lambda s: {"y": s.y + np.uint8(1)},
        lambda s: {"y": s.y[1:]},
        lambda s: {"x": s.x.astype(np.float64)},
        lambda s: {"x": np.asfortranarray(s.x)},
        lambda s: {"names": s.names[1:]},
        lambda s: {"label_end_ms": s.ts_ms},
    ],
)
def test_invalid_samples_are_refused(samples, change):
    """Decreasing times, labels other than 0 and 1, wrong shapes and types are errors."""
    with pytest.raises(ValueError, match="order of time"):
        replace(samples, **change(samples))


@pytest.mark.real_data
def test_real_candles_become_rows(real_data):
    """Of two real symbols, nearly every candle becomes a row, and the share of ties is plausible."""
    candles = {}
    for symbol in ("BTCUSDT", "ETHUSDT"):
        frame = pl.read_parquet(real_data / "spot_1m" / f"{symbol}.parquet").head(20_000)
        missing = [pl.lit(None, dtype=t).alias(c) for c, t in CANDLE_SCHEMA.items() if c not in frame.columns]
        candles[symbol] = frame.with_columns(missing).select(list(CANDLE_SCHEMA)).cast(dict(CANDLE_SCHEMA))

    samples, quality = build_samples(FEATURES, candles)

    assert samples.y.size == sum(entry.rows for entry in quality)
    assert 0.45 < samples.y.mean() < 0.55
    assert all(entry.no_features == 30 for entry in quality)
    assert 0.02 < quality[0].tie_share < 0.08


@pytest.mark.parametrize("kept", [("BTCUSDT",), ("ETHUSDT",), ("BTCUSDT", "ETHUSDT")])
def test_keeping_symbols_keeps_their_rows(candles, kept):
    """The rows keep their order and symbol; no other row is left."""
    whole, _ = build_samples(FEATURES, candles)
    rows = [row for row, ix in enumerate(whole.symbol_ix.tolist()) if whole.symbols[ix] in kept]
    expected = {name: getattr(whole, name)[rows].copy() for name in ("x", "y", "ts_ms", "label_end_ms", "last_move")}
    named = [whole.symbols[ix] for ix in whole.symbol_ix[rows].tolist()]

    found = keep_symbols(whole, kept)

    assert found.symbols == kept
    assert [found.symbols[ix] for ix in found.symbol_ix.tolist()] == named
    for name, values in expected.items():
        assert getattr(found, name).tobytes() == values.tobytes(), name
