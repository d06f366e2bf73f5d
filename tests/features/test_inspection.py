"""Feature inspection: the same value from its lookback only, with the candles it read, or why it has no value."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.inspection import AROUND_BARS, inspect_feature
from mltrain.features.registry import load_registry
from mltrain.report.feature_plot import plot_inspection
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange

STEP_MS = 60_000
FEATURES = load_registry(interval="1m")


@pytest.fixture(scope="module")
def candles():
    """Return some hours of two symbols, ten candles missing in one of them."""
    span = TimeRange(CLOCK_MS - 700 * STEP_MS, CLOCK_MS)
    whole = {symbol: SimSource().candles(symbol, span) for symbol in ("BTCUSDT", "ETHUSDT")}
    return whole | {"BTCUSDT": whole["BTCUSDT"].filter(~pl.int_range(pl.len()).is_between(400, 409))}


@pytest.mark.parametrize("name", FEATURES.names)
def test_an_inspection_has_the_value_and_its_candles(name, candles):
    """The value is the batch's, its lookback gives the same one, and the inputs are the columns that it reads."""
    row = 350
    ts_ms = int(times_ms(candles["ETHUSDT"])[row])
    found = inspect_feature(FEATURES, name, symbol="ETHUSDT", candles=candles, ts_ms=ts_ms)
    expected = compute_features(FEATURES, "ETHUSDT", candles)[name][row]

    assert found.value == found.from_lookback == expected
    assert found.why_none is None
    assert found.inputs.height == found.info.lookback_bars
    assert times_ms(found.inputs)[-1] == ts_ms
    assert {c.removeprefix("leader_") for c in found.inputs.columns} == {
        "ts", *found.info.columns, *found.info.leader_columns
    }  # fmt: skip
    assert len(found.around) == 2 * AROUND_BARS + 1
    assert found.around[AROUND_BARS] == (ts_ms, expected)


def test_a_gap_is_the_reason(candles):
    """The reason has the missing times of the symbol or of the leader."""
    ts_ms = int(times_ms(candles["ETHUSDT"])[411])
    plain = inspect_feature(FEATURES, "rsi_7", symbol="BTCUSDT", candles=candles, ts_ms=ts_ms)
    led = inspect_feature(FEATURES, "lead_5", symbol="ETHUSDT", candles=candles, ts_ms=ts_ms)

    assert plain.value is plain.from_lookback is led.value is led.from_lookback is None
    assert plain.why_none.startswith("6 of the 8 candles of BTCUSDT that it needs are missing: 2025-10-15T")
    assert led.why_none.startswith("4 of the 6 candles of BTCUSDT")
    assert led.inputs["leader_close"].null_count() == 4


def test_a_warm_up_is_the_reason(candles):
    """At the very first candle nearly all candles of the lookback are missing."""
    ts_ms = int(times_ms(candles["ETHUSDT"])[0])

    assert (
        "7 of the 8 candles"
        in inspect_feature(FEATURES, "rsi_7", symbol="ETHUSDT", candles=candles, ts_ms=ts_ms).why_none
    )


@pytest.mark.parametrize(
    ("name", "offset_ms", "part"), [("rsi_8", 0, "no feature 'rsi_8'"), ("rsi_7", 1, "no candle that opens at")]
)
def test_an_unknown_feature_or_time_is_refused_with_the_nearest_ones(name, offset_ms, part, candles):
    """The error has similar names of features, or the nearest candles."""
    ts_ms = int(times_ms(candles["ETHUSDT"])[300]) + offset_ms
    with pytest.raises(InputError, match=part) as caught:
        inspect_feature(FEATURES, name, symbol="ETHUSDT", candles=candles, ts_ms=ts_ms)

    assert "rsi_7" in caught.value.hint or "2025-10-15T" in caught.value.hint


@pytest.mark.parametrize(("row", "lines"), [(350, 2), (415, 4), (0, 1)])
def test_the_plot_is_valid(row, lines, candles):
    """It is well-formed, with coordinates inside and lines broken at gaps; without a value there is no plot."""
    ts_ms = int(times_ms(candles["BTCUSDT"])[row])
    found = inspect_feature(FEATURES, "rsi_7", symbol="BTCUSDT", candles=candles, ts_ms=ts_ms)
    root = ET.fromstring(plot_inspection(found, step_ms=STEP_MS))  # noqa: S314
    _, _, width, height = map(float, root.get("viewBox").split())
    found = root.findall("{http://www.w3.org/2000/svg}polyline")

    assert len(found) >= lines
    for line in found:
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
