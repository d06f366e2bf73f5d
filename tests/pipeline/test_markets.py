"""One market of each kind, small: the verdict is right, and every figure of the benchmark is there."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from workshop import REGISTRY

from mltrain.features.registry import parse_registry

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "markets.py"
QUICK = {"search.trials": 2, "search.max_rounds": 60, "bench.samples": 10, "gates.latency_p95_ms": 60_000.0}


@pytest.fixture(scope="module")
def markets():
    spec = importlib.util.spec_from_file_location("markets", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(markets):
    """Return what is found on one market without a signal, and on one with a strong one."""
    features = parse_registry(REGISTRY % b"1m", where="the test's registry")
    return [markets.try_market(s, 77, days=6, feature_set=features, overrides=QUICK) for s in markets.SIGNALS]


def test_the_verdict_is_what_the_market_is(found):
    """Without a signal NO-GO for want of skill, with a strong one GO."""
    none, strong = found

    assert (none["verdict"], strong["verdict"]) == ("NO-GO", "GO")
    assert "skill" in none["failed"]


def test_the_truth_of_the_calls_is_the_markets(found):
    """Without a signal any call is right half of the time; with a strong one at most 61 % are."""
    none, strong = found

    assert none["true_accuracy"] == pytest.approx(0.5, abs=1e-9)
    assert 0.58 < strong["true_accuracy"] < 0.62
    assert abs(strong["accuracy"][0] - strong["true_accuracy"]) < 0.03


def test_the_summary_counts(markets, found):
    """Every count is of its own kind of market, and nothing is NaN."""
    counts = markets.summarise(found)

    assert counts["no_signal_no_go"] == counts["strong_go"] == [1, 1]
    assert counts["accuracy_covered"][1] == 2
    assert np.isfinite(counts["log_loss_auto_minus_none"])
    assert "NaN" not in json.dumps(counts)
