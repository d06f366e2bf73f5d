"""The table of features and labels."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import mltrain as mt
from mltrain.api.references import read_snapshot
from mltrain.errors import InputError, UsageError
from mltrain.features.registry import load_registry
from mltrain.training.samples import Samples, build_samples, matrix_sha256


@pytest.fixture(scope="module")
def table(trained_dir):
    """Return the table of the packaged features on the shared snapshot."""
    return mt.feature_table(data_dir=trained_dir)


def test_rows_without_a_null_are_those_of_a_training(table, trained_dir):
    """Their matrix, labels, times and label ends have the bytes that a training hashes."""
    snapshot = read_snapshot("latest", trained_dir)
    feature_set = load_registry(interval=snapshot.interval)
    trained, _ = build_samples(feature_set, {symbol: snapshot.candles(symbol) for symbol in snapshot.symbols})
    rows = table.drop_nulls()
    times, ends = (rows[name].dt.timestamp("ms").to_numpy() for name in ("ts", "label_end"))
    same = Samples(
        x=rows.select(feature_set.names).to_numpy(order="c"),
        y=rows["label"].to_numpy(),
        ts_ms=times,
        label_end_ms=ends,
        symbol_ix=np.array([snapshot.symbols.index(symbol) for symbol in rows["symbol"]], np.int16),
        # Only baselines read it, so the table has no such column.
        last_move=trained.last_move,
        symbols=snapshot.symbols,
        names=feature_set.names,
    )

    assert 0 < rows.height < table.height
    assert matrix_sha256(same) == matrix_sha256(trained)


def test_every_candle_has_a_row_in_order(table, trained_dir):
    """By time, then symbol; features are null in the warm-up, label and its end at the end of the data."""
    snapshot = read_snapshot("latest", trained_dir)

    assert table.columns == ["ts", "symbol", *load_registry(interval="1m").names, "label", "label_end"]
    assert table.height == sum(snapshot.candles(symbol).height for symbol in snapshot.symbols)
    assert table.select("ts", "symbol").equals(table.select("ts", "symbol").sort("ts", "symbol"))
    assert table["label"].is_null().equals(table["label_end"].is_null())
    assert table[0, "rsi_7"] is None
    assert table[-1, "label"] is None


def test_chosen_symbols_have_the_rows_that_they_have_among_all(table, trained_dir):
    """Leaders are read in any case."""
    registry = mt.load(trained_dir / "models" / "best_lgbm").feature_set
    one = mt.feature_table(registry=registry, symbols="ETHUSDT", data_dir=str(trained_dir))

    assert one.equals(table.filter(pl.col("symbol") == "ETHUSDT"))


def test_what_cannot_be_computed_is_an_error(trained_dir, tmp_path):
    """An unknown symbol, and a feature with the name of the label."""
    with pytest.raises(InputError, match="the snapshot has no SOLUSDT"):
        mt.feature_table(symbols=["SOLUSDT"], data_dir=trained_dir)
    registry = tmp_path / "features.yml"
    label = "label: {kind: direction, horizon: 1, ties: drop}"
    registry.write_text(f"version: 1\n{label}\nfeatures:\n  - {{name: label, op: bar_range}}\n", "utf-8")
    with pytest.raises(InputError, match="a feature label: that is the column of the label"):
        mt.feature_table(registry=registry, data_dir=trained_dir)


@pytest.mark.parametrize("at", ["2025-10-12T12:00:00Z", 1_760_270_400_000])
def test_a_time_is_given_in_every_way(at, trained_dir):
    """As text or in ms; a datetime is tested with all commands."""
    shown = mt.features_show("rsi_7", at, symbol="ETHUSDT", data_dir=trained_dir)

    assert shown.time == "2025-10-12T12:00:00Z"


def test_a_snapshot_of_several_symbols_needs_one(trained_dir):
    """The hint names one."""
    with pytest.raises(UsageError, match="several symbols: BTCUSDT, ETHUSDT"):
        mt.features_show("rsi_7", "2025-10-12T12:00:00Z", data_dir=trained_dir)
