"""The exported matrix is the one that a training uses."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from mltrain.config.loading import load_config
from mltrain.errors import InputError
from mltrain.features.registry import parse_registry
from mltrain.features.spec import FeatureSpec, LabelSpec
from mltrain.pipeline.export_features import export_features
from mltrain.pipeline.prepare import prepare
from mltrain.progress import Silent
from mltrain.storage.hashing import sha256_bytes
from mltrain.training.samples import matrix_sha256
from support.workshop import REGISTRY

LABEL = LabelSpec("barrier", 10, "drop", upper=2.0, lower=2.0, volatility_bars=30)


def test_the_file_has_the_rows_of_a_training(workshop, tmp_path):
    """Rows, order, types and hash are those of `prepare`, for labels that end where they are decided."""
    snapshot = workshop.snapshot(symbols=("BTCUSDT", "ETHUSDT"))
    features = dataclasses.replace(parse_registry(REGISTRY % b"1m", where="x"), label=LABEL)
    config = load_config(None, overrides={"max_rows": 8_000, "guards.points": 4})
    file = tmp_path / "matrix.parquet"

    found = export_features(snapshot, features, config, file=file, progress=Silent())

    samples, table = prepare(snapshot, features, config, Silent()).samples, pl.read_parquet(file)
    assert (found.matrix_sha256, found.rows) == (matrix_sha256(samples), table.height)
    assert (found.sha256, found.symbols) == (sha256_bytes(file.read_bytes()), samples.symbols)
    assert table.columns == ["ts", "symbol", *features.names, "label", "label_end"]
    assert np.array_equal(table.select(features.names).to_numpy(), samples.x)
    assert np.array_equal(table["label"].to_numpy(), samples.y)
    for name, expected in (("ts", samples.ts_ms), ("label_end", samples.label_end_ms)):
        assert table.schema[name] == pl.Datetime("ms", "UTC")
        assert np.array_equal(table[name].dt.epoch("ms").to_numpy(), expected)
    assert table["symbol"].to_list() == [samples.symbols[ix] for ix in samples.symbol_ix]
    assert len(set((samples.label_end_ms - samples.ts_ms).tolist())) > 1


def test_a_feature_with_the_name_of_the_label_is_refused(workshop, tmp_path):
    """Nothing is written."""
    features = parse_registry(REGISTRY % b"1m", where="x")
    features = dataclasses.replace(features, features=(FeatureSpec("label_end", "bar_range"),))
    with pytest.raises(InputError, match="feature label_end"):
        export_features(
            workshop.snapshot(days=1), features, load_config(None, overrides={}),
            file=tmp_path / "x.parquet", progress=Silent(),
        )  # fmt: skip

    assert not (tmp_path / "x.parquet").exists()
