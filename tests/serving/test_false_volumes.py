"""A model refuses volumes that contradict the prices of their candles, if a feature reads them."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from mltrain.errors import InputError
from mltrain.features.registry import parse_registry
from mltrain.serving.model import model_from_bundle

# Under the names that the trees of the small model know.
READING = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: return_5, op: gap_to_traded_vwap, params: {bars: 1}}
  - {name: volatility_30, op: realised_volatility, params: {bars: 30}}
  - {name: volume_z_20, op: zscore, params: {column: volume, bars: 20}}
  - {name: leader_return_3, op: leader_taker_imbalance, params: {bars: 1}, leader: BTCUSDT}
"""
SENTENCE = "quote_volume / volume lies outside low..high in"


@pytest.fixture(scope="module")
def reader(bundle):
    """Return a model that reads quote volume, and of the leader what takers bought."""
    return model_from_bundle(replace(bundle, feature_set=parse_registry(READING, where="registry")))


@pytest.fixture(scope="module")
def in_base(candles):
    """Return the candles, those of ETHUSDT with a quote volume in the base asset."""
    return {**candles, "ETHUSDT": candles["ETHUSDT"].with_columns(quote_volume=pl.col("volume"))}


@pytest.mark.parametrize("rows", ["last", "all"])
def test_a_false_volume_that_a_feature_reads_is_refused(reader, in_base, rows):
    """The error is that of a missing column: it names the feature, the evidence, and a registry that works."""
    with pytest.raises(InputError) as caught:
        reader.predict_candles(in_base, rows=rows)

    assert "ETHUSDT lacks quote_volume, for return_5" in caught.value.message
    assert f"ETHUSDT: {SENTENCE}" in caught.value.message
    assert "BTCUSDT" not in caught.value.message
    assert "features-ohlcv.yml" in caught.value.hint


@pytest.mark.parametrize("rows", ["last", "all"])
def test_a_false_volume_that_no_feature_reads_changes_nothing(bundle, candles, in_base, rows):
    """A model whose registry does not read the column scores as before."""
    model = model_from_bundle(bundle)

    assert model.predict_candles(in_base, rows=rows).equals(model.predict_candles(candles, rows=rows))


def test_a_false_volume_of_the_leader_is_refused(reader, candles):
    """A false volume of the leader reaches the features of the other symbols."""
    doubled = candles["BTCUSDT"].with_columns(taker_buy_base=pl.col("volume") * 2)
    with pytest.raises(InputError) as caught:
        reader.predict_candles({**candles, "BTCUSDT": doubled})

    assert "leader BTCUSDT lacks taker_buy_base, for leader_return_3" in caught.value.message
    assert "BTCUSDT: taker_buy_base lies outside 0..volume in" in caught.value.message


def test_a_few_false_candles_are_scored(reader, candles):
    """The majority of the candles decides: a single odd one does not change the unit of a column."""
    newest = pl.int_range(pl.len()) == pl.len() - 1
    odd = candles["ETHUSDT"].with_columns(quote_volume=pl.when(newest).then("volume").otherwise("quote_volume"))

    assert reader.predict_candles({**candles, "ETHUSDT": odd})["refused"].is_null().all()


def test_a_stream_refuses_a_false_volume(reader, candles, in_base):
    """A stream refuses a false volume as `predict_candles` does."""
    stream = reader.stream()
    stream.warm_up(candles)
    assert 0 < stream.predict("ETHUSDT") < 1

    stream.warm_up(in_base)
    with pytest.raises(InputError, match="ETHUSDT lacks quote_volume, for return_5.*" + SENTENCE):
        stream.predict("ETHUSDT")
    assert 0 < stream.predict("BTCUSDT") < 1
