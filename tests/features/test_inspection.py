"""Feature inspection: the same value from its lookback only, with the candles it read, or why it has no value."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.candles.input_tables import InputTable
from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.input_join import join_inputs
from mltrain.features.inspection import AROUND_BARS, inspect_feature
from mltrain.features.registry import load_registry
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.report.feature_plot import plot_inspection
from mltrain.sources.simulated_market import CLOCK_MS, SimSource
from mltrain.times import TimeRange
from support.own_columns import FUNDING, known

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


READERS = FeatureSet(
    1,
    "1m",
    LabelSpec(kind="direction", horizon_bars=1, ties="drop"),
    (
        FeatureSpec("change", "input_change", {"input": "funding", "bars": 2}),
        FeatureSpec("led", "input_value", {"input": "leader_funding"}, "BTCUSDT"),
    ),
    (FUNDING,),
)


def test_an_inspection_has_the_joined_values(candles):
    """At each candle around it: what was known at the close, since when, and its age; the first is not known yet."""
    times = times_ms(candles["ETHUSDT"])
    at_ms = int(times[300])
    known_ms = [at_ms - 2 * STEP_MS, at_ms + 4 * STEP_MS + 1_000]
    inputs = {
        "funding": InputTable(by_symbol={"ETHUSDT": known(known_ms, [1.0, 2.0]), "BTCUSDT": known(known_ms[:1], [5.0])})
    }
    joined = join_inputs(READERS, candles, inputs)

    own = inspect_feature(READERS, "change", symbol="ETHUSDT", candles=joined, ts_ms=at_ms, inputs=inputs)
    led = inspect_feature(READERS, "led", symbol="ETHUSDT", candles=joined, ts_ms=at_ms, inputs=inputs)
    early = inspect_feature(
        READERS, "change", symbol="ETHUSDT", candles=joined, ts_ms=at_ms - 2 * STEP_MS, inputs=inputs
    )

    assert [value.value for value in own.joined] == [None, None, *[1.0] * 7, 2.0, 2.0]
    assert [value.ts_ms for value in own.joined] == [at_ms + bars * STEP_MS for bars in range(-5, 6)]
    assert {value.close_ms - value.ts_ms for value in own.joined} == {STEP_MS}
    assert [value.age_ms for value in own.joined][2:] == [*(bars * STEP_MS for bars in range(7)), 59_000, 119_000]
    assert own.joined[0].known_ms is own.joined[0].age_ms is None
    assert {(value.input, value.symbol) for value in led.joined} == {("funding", "BTCUSDT")}
    assert early.why_none.startswith("at 1 of the 3 candles of ETHUSDT that it needs, no value of the input funding")


def test_a_value_that_is_too_old_keeps_its_time(candles):
    """It is not joined, but the time shows why."""
    at_ms = int(times_ms(candles["ETHUSDT"])[300])
    inputs = {"funding": InputTable(for_all=known([at_ms - FUNDING.max_age_ms - STEP_MS], [1.0]))}
    joined = join_inputs(READERS, candles, inputs)
    found = inspect_feature(READERS, "led", symbol="ETHUSDT", candles=joined, ts_ms=at_ms, inputs=inputs)
    (value,) = (value for value in found.joined if value.ts_ms == at_ms)

    assert value.value is None
    assert value.age_ms == FUNDING.max_age_ms + 2 * STEP_MS
    assert found.value is None
    assert found.why_none.startswith("at 1 of the 1 candles of BTCUSDT that it needs, no value of the input funding")
