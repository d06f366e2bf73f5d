"""Formulas are used only if they give the bits of Polars on the probe windows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.candles.checks import check_candles
from mltrain.features.computation import compute_features
from mltrain.features.formula import apply, col, with_formula
from mltrain.features.newest import NewestFeatures
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import load_registry
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.serving.checked_features import find_wrong_formulas, make_probe_candles, open_newest_features
from mltrain.serving.fast_row import SlowPathWarning
from support.own_columns import FUNDING

LABEL = LabelSpec(kind="direction", horizon_bars=1, ties="drop")


def one_bit_off(values):
    return np.nextafter(values.astype(np.float32), np.float32(np.inf)).astype(np.float64)


def failing(values):
    raise ValueError(f"{values.size} rows are too many")


def off() -> Window:
    return Window(with_formula(pl.col("close") / pl.col("open"), apply(one_bit_off, col("close").formula)), 1)


def fails() -> Window:
    return Window(with_formula(pl.col("close") / pl.col("open"), apply(failing, col("close").formula)), 1)


def plain() -> Window:
    return Window(pl.col("close") / pl.col("open"), 1)


@pytest.fixture
def registry(monkeypatch):
    """Return a registry of an op with a right formula and of another one."""
    for op in (off, fails, plain):
        monkeypatch.setitem(OPS, op.__name__, op)

    def make(op):
        specs = (FeatureSpec("right", "log_return", {"bars": 3}), FeatureSpec("other", op))
        return FeatureSet(1, "1m", LABEL, specs)

    return make


def newest_rows(features, newest):
    candles = make_probe_candles(features)
    symbols = list(candles)
    expected = np.stack(
        [
            compute_features(features, s, candles).tail(1).select(pl.col(features.names).fill_null(np.nan)).row(0)
            for s in symbols
        ]
    )
    return newest.compute(symbols, candles), expected.astype(np.float32)


@pytest.mark.parametrize("name", ["features.yml", "features-ohlcv.yml"])
def test_all_formulas_of_the_packaged_registries_are_used(name):
    """Without a warning."""
    features = load_registry(Path(name), interval="1m")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = open_newest_features(features)

    assert set(newest.recorded) == set(features.names)


def test_probes_are_possible_candles_of_every_kind():
    """All pass the checks of candles; among them are ties, no volume, a gap and too few bars."""
    features = replace(load_registry(interval="5m"), inputs=(FUNDING,))
    probes = make_probe_candles(features)
    for name, frame in probes.items():
        check_candles(frame, symbol=name, interval="5m", where="probes")

    closes = [frame["close"].to_numpy() for frame in probes.values()]
    assert min(close.min() for close in closes) < 1e-7
    assert max(close.max() for close in closes) > 1e8
    assert (np.diff(closes[0]) == 0).any()
    assert not probes["STILL"]["volume"].to_numpy().any()
    assert probes["SHORT"].height < features.lookback_bars
    assert {"BTCUSDT"} < probes.keys()
    assert all("funding" in frame.columns for frame in probes.values())


def test_a_formula_that_differs_by_one_bit_is_not_used(registry):
    """The feature is named in a warning, and Polars computes it; the other one keeps its formula."""
    features = registry("off")

    assert find_wrong_formulas(features, NewestFeatures(features)) == ("other",)
    with pytest.warns(SlowPathWarning, match="newest row of other, which is slower: NumPy gives other values"):
        newest = open_newest_features(features)
    found, expected = newest_rows(features, newest)
    assert newest.recorded == ("right",)
    assert np.array_equal(found, expected, equal_nan=True)


def test_a_formula_that_fails_is_not_used(registry):
    """Then Polars computes all features, with a warning that gives the reason."""
    features = registry("fails")

    with pytest.warns(SlowPathWarning, match="right, other, which is slower: NumPy fails: ValueError: .* too many"):
        newest = open_newest_features(features)
    found, expected = newest_rows(features, newest)
    assert newest.recorded == ()
    assert np.array_equal(found, expected, equal_nan=True)


def test_an_op_without_a_formula_is_left_to_polars(registry):
    """Without a warning, as it is not meant to have one."""
    features = registry("plain")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        newest = open_newest_features(features)
    found, expected = newest_rows(features, newest)
    assert newest.recorded == ("right",)
    assert np.array_equal(found, expected, equal_nan=True)
