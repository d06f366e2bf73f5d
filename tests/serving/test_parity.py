"""Parity on real candles: training, the batch, single candles and the stream agree.

Runs on 700 bars; MLTRAIN_TEST_PARITY_BARS=5000 makes it longer.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain.artifact.bundle import Bundle
from mltrain.errors import InputError, RefusedError
from mltrain.features.newest import NewestFeatures
from mltrain.features.ops.catalogue import ops_sha256
from mltrain.features.registry import load_registry
from mltrain.serving.model import model_from_bundle
from mltrain.training.booster import normalise_model_text
from mltrain.training.calibration import Calibrator, Knots
from mltrain.training.lightgbm_import import import_lightgbm
from mltrain.training.samples import build_samples

BARS = int(os.environ.get("MLTRAIN_TEST_PARITY_BARS", "700"))
SYMBOL = "BTCUSDT"


@pytest.fixture(scope="module")
def real(real_data):
    """Return real candles with gaps of one bar, of a few, and of more than the lookback of some features."""
    frame = pl.read_parquet(real_data / "spot_1m" / f"{SYMBOL}.parquet")[40_000 : 40_000 + BARS]
    gone = {350, 351, 352, 600, *range(1_200, 1_260), *range(3_000, 3_400), 4_000}
    return frame[[i for i in range(frame.height) if i not in gone]]


@pytest.fixture(scope="module")
def trained_on(real):
    """Return a model of the default registry, and its training rows."""
    feature_set = load_registry(Path("features.yml"), interval="1m")
    samples = build_samples(feature_set, {SYMBOL: real})[0]
    params = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 15, "min_data_in_leaf": 5}
    lightgbm = import_lightgbm()
    data = lightgbm.Dataset(samples.x, samples.y, feature_name=list(samples.names))
    text = normalise_model_text(lightgbm.train(params, data, 40).model_to_string())
    calibrator = Calibrator("sigmoid", Knots((0.05, 0.5, 0.95), (0.2, 0.45, 0.8)))
    return model_from_bundle(Bundle(text, calibrator, feature_set, (SYMBOL,), ops_sha256())), samples


def outcome(call):
    """Return a probability, or the reason of the refusal."""
    try:
        return call()
    except RefusedError as err:
        return err.reason


@pytest.mark.real_data
def test_every_bar_is_scored_as_in_training(trained_on, real):
    """The booster on the matrix, the batch, single candles and the stream give the same bits and refusals."""
    model, samples = trained_on
    booster = import_lightgbm().Booster(model_str=model._current().bundle.model_text)
    raw = dict(zip(samples.ts_ms.tolist(), booster.predict(samples.x, num_threads=1).tolist(), strict=True))
    batch = model.predict_candles(real, rows="all")
    stream, bars = model.stream(), model.lookback_bars
    newest = NewestFeatures(model.feature_set)
    features = dict(zip(samples.ts_ms.tolist(), samples.x, strict=True))
    compared = 0

    for i, (row, ts_ms) in enumerate(zip(batch.to_dicts(), batch["ts"].dt.timestamp("ms").to_list(), strict=True)):
        pushed = outcome(lambda i=i: stream.push(SYMBOL, real.row(i, named=True)))
        last = model.predict_candles(real[max(0, i - bars + 1) : i + 1]).row(0, named=True)
        x = newest.compute([SYMBOL], {SYMBOL: real[max(0, i - bars + 1) : i + 1]})[0]

        assert last == row
        assert pushed == (row["refused"] or row["p"])
        if ts_ms in raw:
            assert row["raw"] == raw[ts_ms]
            assert x.tobytes() == features[ts_ms].tobytes()
            compared += 1

    assert compared > BARS // 8
    assert {"hole", "too-few-bars"} <= set(batch["refused"].drop_nulls())


def test_wrong_columns_are_refused_each_time(bundle, samples):
    """A hundred frames with permuted, missing, extra, renamed or wrongly typed columns are all errors."""
    model, rng = model_from_bundle(bundle), np.random.default_rng(0)
    frame, names = pl.DataFrame(samples.x[:5], schema=list(samples.names)), list(samples.names)
    refused = 0
    for number in range(100):
        order = rng.permutation(len(names)).tolist()
        one = names[order[0]]
        changed = [
            lambda o=order: frame.select([names[k] for k in (o if o != sorted(o) else o[::-1])]),
            lambda n=one: frame.drop(n),
            lambda k=number: frame.with_columns(pl.lit(0.5).alias(f"extra_{k}")),
            lambda n=one: frame.rename({n: n.upper()}),
            lambda n=one, k=number: frame.with_columns(pl.col(n).cast([pl.Int64, pl.String, pl.Boolean][k % 3])),
        ][number % 5]()
        with pytest.raises(InputError):
            model.predict_proba(changed)
        refused += 1

    assert refused == 100
