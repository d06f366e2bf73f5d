"""A thorough audit checks ten times as many points, and also the ops that the registry does not use."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from mltrain.config.loading import load_config
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import parse_registry
from mltrain.pipeline.prepare import _draw_other_features, audit_snapshot
from mltrain.progress import Silent
from support.workshop import REGISTRY


def test_a_thorough_audit_does_ten_times_as_much(workshop):
    """It has the same guards and a fourth result for other ops; all pass on ops without a leak."""
    snapshot = workshop.snapshot()
    features = parse_registry(REGISTRY % b"1m", where="registry")
    config = load_config(None, overrides={"guards.points": 2})
    plain = audit_snapshot(snapshot, features, config, progress=Silent())
    thorough = audit_snapshot(snapshot, features, config, progress=Silent(), thorough=True)
    points = [{check.name: check.points for check in results[0].checks} for results in (plain, thorough)]

    assert [result.name for result in plain] == ["future_info", "time_split", "feature_audit"]
    assert [result.name for result in thorough] == ["future_info", "time_split", "feature_audit", "other_ops"]
    assert all(result.passed for result in thorough)
    assert points[1]["sweep"] > points[0]["sweep"]
    assert points[1]["poison"] > points[0]["poison"]


def test_every_unused_op_is_audited(workshop):
    """Also user ops, except those whose columns the candles lack, and those on inputs, of which there are none."""
    candles = {"BTCUSDT": workshop.snapshot().candles("BTCUSDT")}
    features = parse_registry(REGISTRY % b"1m", where="registry")
    used = {spec.op for spec in features.features}
    bare = {"BTCUSDT": candles["BTCUSDT"].with_columns(pl.lit(None, pl.Int64).alias("trades"))}
    every = {spec.op for spec in _draw_other_features(features, candles, seed=0)}
    fewer = {spec.op for spec in _draw_other_features(features, bare, seed=0)}

    assert every == {op for op in OPS if not op.startswith("input_")} - used
    assert "trade_size_ratio" in every - fewer


def test_a_leak_in_an_unused_op_is_found(workshop, monkeypatch):
    """An op is audited before any registry uses it."""
    monkeypatch.setitem(OPS, "planted", lambda: Window(pl.col("close").shift(-1) / pl.col("close"), 2))
    features = parse_registry(REGISTRY % b"1m", where="registry")
    config = load_config(None, overrides={"guards.points": 1})
    results = audit_snapshot(
        workshop.snapshot(), replace(features, features=features.features[:1]), config, progress=Silent(), thorough=True
    )

    assert [result.name for result in results if not result.passed] == ["other_ops"]
    assert {failure.feature for failure in results[-1].failures} == {"planted"}
