"""Inputs that drive a market raise the score when they are joined rightly; known a bar early, they are refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import mltrain as mt
from mltrain.candles.frame import TS_DTYPE
from mltrain.errors import LeakageError
from mltrain.times import HOUR_MS, MINUTE_MS, format_ms
from mltrain.training.metrics import auc
from support.input_markets import make_market, make_persistent
from support.program import call

BARS, STEP_MS = 4_000, HOUR_MS
CONFIG = {
    "search": {"trials": 2, "max_rounds": 60},
    "guards": {"points": 4},
    "bench": {"samples": 10},
    "bootstrap": {"draws": 200},
}
LABEL = {"kind": "direction", "horizon": 1, "ties": "drop"}
PRICE = [{"name": f"return_{bars}", "op": "log_return", "params": {"bars": bars}} for bars in (1, 4)]
INPUTS = [
    {"name": "oi", "file": "oi.csv", "column": "contracts", "known_at": "published", "max_age": "3h"},
    {"name": "funding", "file": "funding_rates.csv", "column": "rate", "known_at": "published", "max_age": "9h"},
]
OWN = [
    {"name": "oi_change", "op": "input_change", "params": {"input": "oi", "bars": 1}},
    {"name": "funding_now", "op": "input_value", "params": {"input": "funding"}},
]
REGISTRY = {"version": 1, "label": LABEL, "inputs": INPUTS, "features": [*PRICE, *OWN]}


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Return a folder with the candles and inputs of a market that they drive, and the same inputs a bar early."""
    folder = tmp_path_factory.mktemp("signal")
    rng = np.random.default_rng(7)
    demand, rate = rng.normal(size=BARS), np.repeat(make_persistent(rng, BARS // 8, 3), 8)
    drive = np.append(0.0, (0.25 * demand + 0.05 * rate)[:-1])
    made = make_market(3, BARS, "1h", tuple(drive.tolist()))
    (folder / "candles").mkdir()
    made.frame.write_parquet(folder / "candles" / "BTCUSDT-1h.parquet")
    # The contracts of an hour follow its move, and the demand that moves the next one.
    contracts = 1e6 + np.cumsum(made.returns / np.exp(made.log_volatility) / 0.004 + demand)
    for name, early_ms in (("right", 0), ("early", STEP_MS)):
        (folder / name).mkdir()
        pl.DataFrame({"published": iso(made.close_ms - early_ms), "contracts": contracts}).write_csv(
            folder / name / "oi.csv"
        )
        pl.DataFrame({"published": iso(made.ts_ms[8::8] + MINUTE_MS), "rate": 1e-4 * rate[8::8]}).write_csv(
            folder / name / "funding_rates.csv"
        )
    return SimpleNamespace(folder=folder, made=made, taken={})


def iso(times_ms):
    return pl.Series(times_ms).cast(TS_DTYPE).dt.strftime("%Y-%m-%dT%H:%M:%SZ")


def snapshot(market, name):
    """Take a snapshot with the inputs of a folder, once."""
    if name not in market.taken:
        market.taken[name] = mt.snapshot(
            source="files",
            folder=market.folder / "candles",
            symbols="BTCUSDT",
            interval="1h",
            features=REGISTRY,
            inputs=market.folder / name,
            data_dir=market.folder / f"data-{name}",
        )
    return market.taken[name]


def train(market, registry):
    return mt.train(
        snapshot(market, "right"),
        features=registry,
        config=CONFIG,
        workers=1,
        promote=False,
        data_dir=market.folder / "data-right",
    )


def test_right_inputs_raise_the_score(market):
    """Out of fold and on the holdout; without them there is nothing to learn. No guard objects."""
    knowing = train(market, REGISTRY)
    blind = train(market, {**REGISTRY, "inputs": [], "features": PRICE})
    with_inputs, without = (pl.read_parquet(version.folder / "oof.parquet") for version in (knowing, blind))

    assert auc(with_inputs["p"].to_numpy(), with_inputs["y"].to_numpy()) > 0.57
    assert auc(without["p"].to_numpy(), without["y"].to_numpy()) < 0.53
    assert knowing.intervals.auc_roc.low > 0.55
    assert blind.metrics.auc_roc < 0.53
    assert not [warning for warning in knowing.warnings if "oi" in warning or "funding" in warning]


def test_an_input_a_bar_early_is_refused_by_its_name(market):
    """Its change contains the return of the label: exit 5, with input, column and file, and how to look at it."""
    folder = market.folder
    (folder / "mine.yml").write_text(json.dumps(REGISTRY))
    taken = snapshot(market, "early")
    options = ("--features", folder / "mine.yml", "--data-dir", folder / "data-early")
    at = format_ms(int(market.made.ts_ms[2_000]))

    audit = call("features", "audit", *options)
    shown = call("features", "show", "oi_change", "--at", at, *options)
    document = call("features", "show", "oi_change", "--at", at, "--json", *options).document
    info = call("features", "info", *options)

    assert taken.created
    assert audit.code == 5
    assert "oi of BTCUSDT: the input comes from candles after the time when it is called known" in audit.err
    assert "column published of oi.csv" in " ".join(audit.err.split())
    assert "funding of" not in audit.err
    with pytest.raises(LeakageError, match="oi of BTCUSDT"):
        mt.train(taken, features=REGISTRY, config=CONFIG, workers=1, data_dir=folder / "data-early")
    assert shown.code == info.code == 0
    assert "The input oi of BTCUSDT" in shown.out
    assert "funding_rates.csv" in info.out
    middle = document["joined"][5]
    # Known at the close of this candle, the value counts the contracts of the next one.
    contracts = pl.read_csv(folder / "right" / "oi.csv")["contracts"]
    assert middle["time"] == at
    assert middle["known_at"] == middle["close"]
    assert middle["age_ms"] == 0
    assert middle["value"] == contracts[2_001]
