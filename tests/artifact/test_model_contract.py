"""When a model is a drop-in replacement for another: every difference is named; needing less is no difference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mltrain.artifact.model_contract import ModelContract, contract_differences
from mltrain.features.registry import load_registry, parse_registry
from mltrain.features.spec import LabelSpec

DIRECTION = LabelSpec("direction", 1, "drop")
OLD = ModelContract(DIRECTION, "1m", ("BTCUSDT", "ETHUSDT"), ("trades",), (("BTCUSDT", "close"),), "spot")
LABEL = "{kind: direction, horizon: 1, ties: drop}"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"label": LabelSpec("direction", 5, "drop")}, f"its label is {LABEL.replace('1', '5')}, not {LABEL}"),
        ({"label": LabelSpec("direction", 1, "down")}, f"its label is {LABEL.replace('drop', 'down')}, not {LABEL}"),
        (
            {"label": LabelSpec("threshold", 30, "down", 8.0)},
            f"its label is {{kind: threshold, horizon: 30, ties: down, cost_bps: 8.0}}, not {LABEL}",
        ),
        ({"interval": "1h"}, "its interval is 1h, not 1m"),
        ({"market": "usdm"}, "its market is usdm, not spot"),
        ({"symbols": ("BTCUSDT", "SOLUSDT")}, "its symbols are BTCUSDT, SOLUSDT, without ETHUSDT"),
        ({"columns": ("quote_volume", "trades")}, "its features also read quote_volume"),
        ({"inputs": ("funding", "mood")}, "its features also read the inputs funding, mood"),
        ({"leader_columns": (("SOLUSDT", "close"),)}, "its features also read the candles of SOLUSDT"),
        ({"leader_columns": (("BTCUSDT", "quote_volume"),)}, "its features also read quote_volume of BTCUSDT"),
    ],
)
def test_each_difference_is_one_sentence_with_both_values(change, difference):
    """A changed label or interval, a lost symbol, or another column is one sentence."""
    assert contract_differences(replace(OLD, **change), OLD) == (difference,)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"symbols": ("ADAUSDT", "BTCUSDT", "ETHUSDT")},
        {"columns": ()},
        {"inputs": ()},
        # Files may be of any market.
        {"market": ""},
        {"leader_columns": ()},
        {"leader_columns": (("BTCUSDT", "close"), ("BTCUSDT", "high"))},
        {"leader_columns": (("ETHUSDT", "trades"),)},
    ],
)
def test_more_symbols_and_fewer_columns_are_no_difference(change):
    """Callers of the old model can go on: they already pass the candles of all its symbols."""
    assert contract_differences(replace(OLD, **change), OLD) == ()


def test_a_leader_that_is_a_new_symbol_is_a_difference():
    """A caller that knows only the old symbols does not pass its candles."""
    new = replace(OLD, symbols=(*OLD.symbols, "SOLUSDT"), leader_columns=(("SOLUSDT", "close"),))

    assert contract_differences(new, OLD) == ("its features also read the candles of SOLUSDT",)


def test_everything_that_differs_is_named():
    """All five differences are listed, not only the first."""
    other = ModelContract(
        LabelSpec("direction", 5, "drop"), "1h", ("SOLUSDT",), ("quote_volume",), (("SOLUSDT", "close"),)
    )

    assert len(contract_differences(other, OLD)) == 5


def test_the_columns_are_those_that_the_features_read():
    """Every candle has OHLCV columns, so they count only for leaders."""
    full = ModelContract.of(load_registry(None, interval="1m"), ("BTCUSDT",), market="spot")
    plain = ModelContract.of(load_registry(Path("features-ohlcv.yml"), interval="1m"), ("BTCUSDT",), market="spot")
    registry = b"""
version: 1
interval: 5m
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: volume_z_20, op: zscore, params: {column: trades, bars: 20}}
  - {name: leader_return_3, op: leader_return, params: {bars: 3}, leader: BTCUSDT}
"""
    small = ModelContract.of(parse_registry(registry, where="registry"), ("ETHUSDT",), market="")

    assert set(full.columns) == {"quote_volume", "taker_buy_base", "taker_buy_quote"}
    assert plain == replace(full, columns=(), leader_columns=())
    assert {leader for leader, _ in full.leader_columns} == {"BTCUSDT"}
    assert small == ModelContract(DIRECTION, "5m", ("ETHUSDT",), ("trades",), (("BTCUSDT", "close"),))
