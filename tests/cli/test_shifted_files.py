"""A file labels candles by close time, its leader's by open time: no training, and the audit says why."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from support.program import QUICK, call

REGISTRY = """version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: leader_return_1, op: leader_return, params: {bars: 1}, leader: BTCUSDT}
  - {name: lead_1, op: leader_lead, params: {bars: 1}, leader: BTCUSDT}
"""
START_MS = 1_750_032_000_000


def write_candles(path, moves, *, late_ms=0):
    close = 100 * np.exp(np.cumsum(moves))
    opened = np.concatenate([[100.0], close[:-1]])
    ts = START_MS + late_ms + 60_000 * np.arange(close.size)
    high, low, volume = np.maximum(opened, close), np.minimum(opened, close), np.ones(close.size)
    columns = {"ts": ts, "open": opened, "high": high, "low": low, "close": close, "volume": volume}
    pl.DataFrame(columns).write_csv(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a registry and a snapshot of BTCUSDT and of ETHUSDT, which is a minute late."""
    here = tmp_path_factory.mktemp("shifted")
    moves = np.random.default_rng(0).standard_normal((3, 3 * 1440)) * 5e-4
    (here / "files").mkdir()
    write_candles(here / "files" / "BTCUSDT.csv", moves[0])
    write_candles(here / "files" / "ETHUSDT.csv", 0.7 * moves[0] + 0.7 * moves[1], late_ms=60_000)
    (here / "led.yml").write_text(REGISTRY)
    words = ("--source", "files", "--from", "files", "--symbols", "BTCUSDT,ETHUSDT", "--days", "2")
    done = call("snapshot", *words, cwd=here)
    assert done.code == 0, done.err
    return here


def test_a_training_stops(folder):
    """Exit 5 names features, symbol, lag in bars and minutes, both values and a remedy; there is no version."""
    done = call("train", "--features", "led.yml", "--trials", "1", "--config", QUICK, cwd=folder)

    assert done.code == 5
    text = " ".join(done.err.split())
    assert "leader_return_1, lead_1 of ETHUSDT" in text
    assert "0.20 at most, for -0.0" in text or "0.20 at most, for 0.0" in text
    assert "got 0.7" in text
    assert "lag +1 (+1 min)" in text
    assert "labels candles by their close" in text
    assert not list(folder.rglob("*model_card.json"))


def test_the_audit_names_the_leaking_features(folder):
    """Exit 5; the report has the features that predict this symbol's label, and no other symbol."""
    words = ("--features", "led.yml", "--report", "audit.json", "--json")
    done = call("features", "audit", *words, cwd=folder)

    assert done.code == 5
    assert "labels candles by their close" in done.document["error"]["hint"]
    guards = {guard["name"]: guard for guard in json.loads((folder / "audit.json").read_bytes())["guards"]}
    suspects = guards["feature_audit"]["suspects"]
    assert {(suspect["feature"], suspect["symbol"]) for suspect in suspects} >= {("leader_return_1", "ETHUSDT")}
    assert {suspect["symbol"] for suspect in suspects} == {"ETHUSDT"}
    assert all(0.7 < suspect["auc"] < 0.9 for suspect in suspects)
    assert any("leader_return_1 of ETHUSDT" in warning for warning in guards["feature_audit"]["warnings"])
