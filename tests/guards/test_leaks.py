"""Every planted leak of `leaks.py` is caught, with feature, symbol, time and both values."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import parse_registry
from mltrain.features.user_ops import import_user_ops
from mltrain.guards.future_info import future_info
from mltrain.training.label import make_labels
from support import leaks
from support.markets import simulate, without
from support.user_ops import temporary_ops

HEAD = b"""
version: 1
interval: 1m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: honest_return, op: log_return, params: {bars: 5}}
"""


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Return eight days of two symbols with gaps, and write the files that two leaks read."""
    whole = simulate("BTCUSDT", "ETHUSDT", days=8)
    folder = tmp_path_factory.mktemp("market")
    leaks.MARKET, leaks.RETURNS = folder / "market.parquet", folder / "returns.npy"
    whole["BTCUSDT"].write_parquet(leaks.MARKET)
    close = whole["BTCUSDT"]["close"].to_numpy()
    np.save(leaks.RETURNS, [times_ms(whole["BTCUSDT"])[:-1], np.diff(np.log(close))])
    with temporary_ops():
        import_user_ops("support.leaks")
        yield {
            "BTCUSDT": without(whole["BTCUSDT"], (300, 310), (5500, 5500)),
            "ETHUSDT": without(whole["ETHUSDT"], (700, 700), (4702, 4740)),
        }


# A third of the packaged number of points catches all but rare leaks; what few points catch, more points catch too.
def audit(market, line, *, seed=42, points=10):
    features = parse_registry(HEAD + line.encode(), where="registry")
    return future_info(
        features, market, labels=lambda frame: make_labels(frame, features.label, 60_000), seed=seed, points=points
    )


@pytest.fixture(scope="module")
def audited(market):
    """Return a function that audits a planted leak by name; several tests share the results."""
    # Two days with two gaps are enough for all but rare leaks.
    head = {symbol: frame.head(3_000) for symbol, frame in market.items()}

    @cache
    def audit_leak(name):
        rare = name in RARE
        return audit(market if rare else head, leaks.LEAKS[name].line, points=30 if rare else 10)

    return audit_leak


def test_the_kit_is_large():
    """There are more than fifty planted leaks."""
    assert len(leaks.LEAKS) > 50


@pytest.mark.parametrize("name", leaks.LEAKS)
def test_planted_leak_is_caught(name, market, audited):
    """The failures name only this feature, in each symbol where it leaks, with a time and two different values."""
    leak = leaks.LEAKS[name]
    result = audited(name)

    assert not result.passed
    assert {failure.feature for failure in result.failures} == {"suspect"}
    assert {failure.symbol for failure in result.failures} >= set(leak.symbols)
    for failure in result.failures:
        assert failure.time_ms in times_ms(market[failure.symbol])
        assert failure.expected != failure.got


RARE = [name for name in leaks.LEAKS if name.endswith(("_now_and_then", "_memory", "_trades", "_divides", "_gap"))]


# One of each kind: a later candle, an earlier one, a gap, chance.
KINDS = ("next_close_now_and_then", "short_lookback_now_and_then", "next_close_before_a_gap", "random_now_and_then")


@pytest.mark.parametrize("name", KINDS)
def test_a_rare_leak_is_caught_with_any_seed(name, market):
    """A leak at one candle in two thousand does not depend on the cut points: the test above has another seed."""
    assert not audit(market, leaks.LEAKS[name].line, seed=0, points=30).passed


WHY = {
    "next_close": {"taken away", "are changed", "its declared lookback"},
    "next_close_now_and_then": {"are changed"},
    "short_lookback_now_and_then": {"its declared lookback"},
    "lookback_short_by_one": {"its declared lookback"},
    "random": {"the second time"},
    "random_now_and_then": {"the second time"},
    "wall_clock": {"the second time"},
    "age_of_the_candle": {"moved by 28 years"},
    "table_by_time": {"moved by 28 years"},
    "file_by_time": {"moved by 28 years"},
}


@pytest.mark.parametrize("name", WHY)
def test_a_failure_explains_the_leak(name, audited):
    """Randomness, a short lookback, look-ahead and look-up by time have different explanations."""
    whys = {failure.why for failure in audited(name).failures}

    assert len(whys) == len(WHY[name])
    assert all(any(part in why for why in whys) for part in WHY[name])


HONEST = {
    "calendar": pl.col("ts").dt.month().cast(pl.Float64) + pl.col("ts").dt.day() / 31,
    "new_york": pl.col("ts").dt.convert_time_zone("America/New_York").dt.hour().cast(pl.Float64),
    "casts_to_integers": (pl.col("close") * 100).round().cast(pl.Int64).cast(pl.Float64) % 100,
}


@pytest.mark.parametrize("name", HONEST)
def test_an_unusual_op_without_a_leak_passes(name, market, monkeypatch):
    """Calendars, summer time, and ops that fail on absurd prices raise no alarm."""
    monkeypatch.setitem(OPS, name, lambda: Window(HONEST[name], 1))

    assert audit(market, f"  - {{name: odd, op: {name}}}").failures == ()


def test_the_evidence_names_the_worst_case(audited):
    """A check has the feature, symbol and time of its largest deviation."""
    checks = {check.name: check for check in audited("next_close").checks}

    assert checks["sweep"].worst > 0
    assert checks["sweep"].case.startswith(("suspect of BTCUSDT at 2025-", "suspect of ETHUSDT at 2025-"))
