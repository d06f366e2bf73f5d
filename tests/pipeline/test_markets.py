"""One small market of each kind: the market has its declared properties, and every figure of the benchmark exists."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks import markets

from mltrain.candles.checks import check_candles
from mltrain.features.registry import parse_registry
from support.workshop import REGISTRY

QUICK = {"search.trials": 2, "search.max_rounds": 60, "bench.samples": 10, "guards.points": 4}
QUICK |= {"gates.latency_p95_ms": 60_000.0}


@pytest.fixture(scope="module")
def found():
    """Return the results of one small market of each kind."""
    features = parse_registry(REGISTRY % b"1m", where="the test's registry")
    return {kind: markets.try_market(kind, 77, days=6, feature_set=features, overrides=QUICK) for kind in markets.RIGHT}


def test_the_verdict_fits_the_market(found):
    """Without a signal NO-GO for lack of skill; with a strong signal GO and promoted."""
    assert {found[kind]["verdict"] for kind in ("none", "weak")} == {"NO-GO"}
    assert "skill" in found["none"]["failed"]
    assert found["none"]["reasons"]
    assert not found["none"]["promoted"]
    assert found["strong"]["verdict"] == "GO"
    assert found["strong"]["promoted"]


def test_true_accuracy_is_that_of_the_market(found):
    """It is 50 % without a signal, at most 60.1 % with a strong one, and half of the gain in a mixed market."""
    assert found["none"]["true_accuracy"] == pytest.approx(0.5, abs=1e-9)
    assert 0.57 < found["strong"]["true_accuracy"] < 0.6014
    assert 0.51 < found["mixed"]["true_accuracy"] < 0.551
    assert found["bounce"]["true_accuracy"] is None
    for kind in ("strong", "mixed"):
        assert abs(found[kind]["accuracy"][0] - found[kind]["true_accuracy"]) < 0.03


def test_only_one_symbol_of_a_mixed_market_has_a_signal():
    """One symbol's candles are those of the strong market, the others' those of the market without a signal."""
    mixed, none, strong = (markets.make_candles(kind, 5, 1) for kind in ("mixed", "none", "strong"))

    assert mixed["BTCUSDT"].equals(none["BTCUSDT"])
    assert mixed["ETHUSDT"].equals(strong["ETHUSDT"])


@pytest.mark.parametrize("opens", ["random", "copied"])
@pytest.mark.parametrize(("source", "size"), [("spread", 0.5), ("spread", 2.0), ("tick", 1.0), ("tick", 2.0)])
def test_a_bounce_market_bounces_as_roll_says(source, size, opens):
    """The mid is a random walk; the lag-1 covariance of prices is minus the variance of their distance to it."""
    draws = np.random.default_rng(1)
    frame = markets.bounce_candles(draws, 100_000, source=source, size=size, opens=opens)
    moves = np.diff(frame["close"].to_numpy()) / (100 * markets.MOVE)
    # The variance of +-s/2, or of a uniform rounding error.
    apart = size**2 / 4 if source == "spread" else size**2 / 12
    lags = [np.mean(moves[lag:] * moves[: moves.size - lag]) for lag in range(3)]
    jumps = np.abs(frame["open"].to_numpy()[1:] - frame["close"].to_numpy()[:-1]).mean() / (100 * markets.MOVE)

    assert lags == pytest.approx([1 + 2 * apart, -apart, 0], abs=0.06)
    assert jumps == 0 if opens == "copied" else jumps > 0.03
    assert check_candles(frame, symbol="BTCUSDT", interval="1m", where="here").equals(frame)


def test_the_summary_counts(found):
    """Every count is by kind of market, and nothing is NaN."""
    counts = markets.summarise(list(found.values()))

    assert list(counts) == list(markets.RIGHT)
    assert counts["none"]["right"] == counts["strong"]["right"] == counts["strong"]["promoted"] == [1, 1]
    assert counts["none"]["go"] == [0, 1]
    assert counts["none"]["failed"]["skill"] == 1
    assert counts["strong"]["accuracy_covered"][1] == 1
    assert counts["bounce"]["accuracy_covered"] == [0, 0]
    assert "NaN" not in json.dumps(counts)


def test_held_verdicts_and_named_symbols_are_counted(found):
    """A mixed market is right if only its noise is named; a bounce market may be GO if it is held."""
    made = found["bounce"] | {"verdict": "GO", "promoted": False, "failed": [], "held": ["bounce"], "named": []}
    named = found["mixed"] | {"verdict": "NO-GO", "failed": ["per_symbol"], "named": ["BTCUSDT"]}
    counts = markets.summarise([made, made | {"promoted": True}, named, named | {"named": ["BTCUSDT", "ETHUSDT"]}])

    assert counts["bounce"]["right"] == counts["mixed"]["right"] == [1, 2]
    assert counts["bounce"]["held"] == {"bounce": 2}
    assert counts["mixed"]["named"] == {"BTCUSDT": 2, "ETHUSDT": 1}


def test_seeds_are_tried_until_one_is_a_go():
    """The gate gets the number of earlier looks; where seeds do not vary, it refuses all of them."""
    looks, draws = [], np.random.default_rng(3)

    def third(_margins, look):
        looks.append(look)
        return look == 2

    assert markets.first_go(draws, markets.Shop(), third) == 3
    assert looks == [0, 1, 2]
    assert markets.first_go(draws, markets.Shop(), lambda *_: False) is None
    assert markets.first_go(draws, markets.Shop(true_margin_pp=9.0)) == 1
    assert 0.12 < markets.summarise_shopping(markets.Shop(), 300, 1)["the gate"]["share"] < 0.26


def test_a_finished_market_is_not_run_again(tmp_path, monkeypatch, capsys):
    """Results are read back from the file by kind and seed."""
    path = tmp_path / "results.jsonl"
    kept = [
        {"kind": "none", "seed": 5, "verdict": "NO-GO", "promoted": False, "failed": ["skill"], "held": [], "named": [],
         "accuracy": [0.5, 0.49, 0.51], "true_accuracy": 0.5, "ece": 0.01, "ece_floor_p95": 0.02,
         "log_loss_auto": 0.7, "log_loss_none": 0.7, "seconds": 1.0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(r) + "\n" for r in kept))
    monkeypatch.setattr("sys.argv", ["markets.py", str(path), "--kinds", "none", "--markets", "1", "--seed0", "5"])
    markets.main()

    assert json.loads(capsys.readouterr().out)["none"]["right"] == [1, 1]
    assert path.read_text().count("\n") == 1
