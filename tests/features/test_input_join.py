"""A candle has the newest value of an input that was known at its close, if it is not too old; features follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.frame import TS_DTYPE, times_ms
from mltrain.candles.input_tables import InputTable
from mltrain.errors import InputError
from mltrain.features.computation import check_inputs, compute_features
from mltrain.features.input_join import join_inputs
from mltrain.features.op import Window
from mltrain.features.ops.catalogue import OPS
from mltrain.features.registry import load_registry, parse_registry, read_registry, take_features
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.times import MINUTE_MS
from support.own_columns import FUNDING, MOOD, known

LABEL = LabelSpec(kind="direction", horizon_bars=1, ties="drop")
VALUE = FeatureSpec("value", "input_value", {"input": "funding"})
CHANGE = FeatureSpec("change", "input_change", {"input": "funding", "bars": 2})
LED = FeatureSpec("led", "input_value", {"input": "leader_funding", "lag": 1}, "BTCUSDT")
RETURN = FeatureSpec("return", "log_return", {"bars": 1})
REGISTRY = """version: 1
label: {kind: direction, horizon: 1, ties: drop}
inputs:
  - {name: funding, file: funding.parquet, column: rate, known_at: published_at, max_age: 9h}
features:
"""


def features_of(*specs, inputs=(FUNDING,)):
    return FeatureSet(1, "1m", LABEL, specs, inputs)


def candles_at(minutes):
    """Return candles that open at these minutes since 1973, with closes that rise."""
    ts_ms = 100_000_000_000 // MINUTE_MS * MINUTE_MS + np.asarray(minutes, np.int64) * MINUTE_MS
    close = np.arange(1.0, ts_ms.size + 1)
    return pl.DataFrame({"ts": pl.Series(ts_ms).cast(TS_DTYPE), "close": close})


def oracle(table, symbol, close_ms, max_age_ms):
    """Look through all values for the newest that was known at a close."""
    best = None
    values = table.of(symbol)
    for at, value in zip(values.known_ms.tolist(), values.values.tolist(), strict=True):
        if at <= close_ms and (best is None or at > best[0]):
            best = at, value
    return None if best is None or close_ms - best[0] > max_age_ms else best[1]


OFFSETS = st.sets(st.integers(-90, 900).map(lambda number: number * 10_000 + number % 3 - 1), max_size=30).map(sorted)


@given(
    minutes=st.sets(st.integers(0, 120), max_size=40).map(sorted),
    offsets=st.lists(OFFSETS, min_size=2, max_size=2),
    age_s=st.sampled_from([1, 60, 600, 86_400]),
    shared=st.booleans(),
)
def test_a_join_equals_a_search_through_all_values(minutes, offsets, age_s, shared):
    """At every candle, for ties with the close, ages, gaps and symbols without values."""
    frame = candles_at(minutes)
    first_ms = 100_000_000_000 // MINUTE_MS * MINUTE_MS
    tables = [known([first_ms + o for o in some], np.arange(len(some)) + 0.5) for some in offsets]
    table = (
        InputTable(for_all=tables[0]) if shared else InputTable(by_symbol={"BTCUSDT": tables[0], "ETHUSDT": tables[1]})
    )
    spec = replace(FUNDING, max_age_ms=age_s * 1000)
    symbols = ("BTCUSDT", "ETHUSDT", "SOLUSDT")

    joined = join_inputs(features_of(VALUE, inputs=(spec,)), dict.fromkeys(symbols, frame), {"funding": table})

    for symbol in symbols:
        expected = [oracle(table, symbol, ts + MINUTE_MS, spec.max_age_ms) for ts in times_ms(frame).tolist()]
        assert joined[symbol]["funding"].to_list() == expected
        assert joined[symbol]["funding"].dtype == pl.Float64
        assert joined[symbol].drop("funding").equals(frame)


def test_a_value_counts_from_the_close_that_it_was_known_at():
    """Known at the close itself it is used, a millisecond later it waits for the next bar."""
    frame = candles_at(range(4))
    close_ms = int(times_ms(frame)[1]) + MINUTE_MS
    for late_ms, expected in ((0, [None, 7.0, 7.0, 7.0]), (1, [None, None, 7.0, 7.0])):
        table = InputTable(for_all=known([close_ms + late_ms], [7.0]))

        joined = join_inputs(features_of(VALUE), {"BTCUSDT": frame}, {"funding": table})

        assert joined["BTCUSDT"]["funding"].to_list() == expected


def test_a_table_is_needed_for_every_input():
    """The message names those without one; without inputs nothing is joined."""
    frame = {"BTCUSDT": candles_at(range(3))}

    with pytest.raises(InputError, match="no values of the input funding and mood"):
        join_inputs(features_of(VALUE, inputs=(FUNDING, MOOD)), frame, {})
    assert join_inputs(features_of(RETURN, inputs=()), frame, {})["BTCUSDT"] is frame["BTCUSDT"]


def test_a_feature_has_a_value_where_its_whole_lookback_has_the_input():
    """Only features that read the input wait for it; a leader's input counts at the leader."""
    own = candles_at(range(8)).with_columns(pl.Series("funding", [None, 1, 2, 3, None, 5, 6, 7], dtype=pl.Float64))
    leader = own.with_columns(pl.Series("funding", [1, None, 3, 4, 5, 6, None, 8], dtype=pl.Float64))
    both = {"BTCUSDT": leader, "ETHUSDT": own}
    features = features_of(VALUE, CHANGE, RETURN, LED)

    found = compute_features(features, "ETHUSDT", both)
    of_leader = compute_features(features, "BTCUSDT", both)

    assert found["value"].to_list() == [None, 1, 2, 3, None, 5, 6, 7]
    assert found["change"].to_list() == [None, None, None, 2, None, None, None, 2]
    assert found["return"].null_count() == 1
    assert found["led"].to_list() == [None, None, None, 3, 4, 5, None, None]
    assert of_leader["led"].to_list() == [None, None, None, 0, 0, 0, None, None]


def test_what_is_not_known_is_never_seen(monkeypatch):
    """An op that fills gaps itself gets no value across one, and no NaN poisons a running mean."""
    monkeypatch.setitem(OPS, "mine", lambda: Window(pl.col("funding").fill_null(9.0).rolling_mean(2), 2))
    frame = candles_at(range(5)).with_columns(pl.Series("funding", [1.0, None, 3.0, 5.0, float("nan")]))

    found = compute_features(features_of(FeatureSpec("x", "mine")), "BTCUSDT", {"BTCUSDT": frame})

    assert found["x"].to_list() == [None, None, None, 4.0, None]


def test_candles_without_the_join_are_refused():
    """The message names the input and the feature."""
    with pytest.raises(InputError, match="BTCUSDT lacks the input funding, for value"):
        check_inputs(features_of(VALUE), {"BTCUSDT": candles_at(range(3))})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{name: x, op: input_value, params: {input: fundin}}", "reads 'fundin'.*did you mean funding"),
        ("{name: x, op: input_value, params: {input: leader_mood}, leader: BTCUSDT}", "reads 'mood'"),
        ("{name: x, op: input_value, params: {input: leader_funding}}", "leader.*is missing"),
        ("{name: x, op: input_value, params: {input: close}}", "close is a column of candles"),
        ("{name: x, op: input_value, params: {input: 5}}", "must be a text"),
        ("{name: x, op: input_change, params: {input: funding}}", "bars.*is missing"),
    ],
)
def test_a_feature_of_an_input_that_is_not_there_is_refused(line, expected):
    """The message says what it reads, and what it may have meant."""
    with pytest.raises(InputError, match=expected):
        parse_registry(f"{REGISTRY}  - {line}\n".encode(), where="mine.yml", interval="1m")


INPUT_LINE = REGISTRY.splitlines()[3]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: funding", "name: close", "close is the name of another column"),
        ("name: funding", "name: leader_x", "leader_x is the name of another column"),
        ("name: funding", "name: symbol", "symbol is the name of another column"),
        ("name: funding", "name: Funding", "does not have the form"),
        ("file: funding.parquet", "file: ../funding.parquet", "does not have the form"),
        ("file: funding.parquet", "file: /etc/passwd", "does not have the form"),
        ("column: rate", "column: published_at", "is not a column of values"),
        ("max_age: 9h", "max_age: 9", "must be a text"),
        ("max_age: 9h", "max_age: nine hours", "is not a duration"),
        ("max_age: 9h", "max_age: 999999w", "must be 1s to"),
        ("max_age: 9h", "max_age: 9h, timezone: Berlin", "is not a time zone.*Europe/Berlin"),
        ("max_age: 9h", "max_age: 9h, timezon: UTC", "unknown key; did you mean timezone"),
        (INPUT_LINE, f"{INPUT_LINE}\n{INPUT_LINE}", "an input funding is already defined above"),
    ],
)
def test_a_wrong_declaration_is_refused_with_its_line(old, new, expected):
    """Each with the key."""
    text = REGISTRY.replace(old, new) + "  - {name: x, op: input_value, params: {input: funding}}\n"

    with pytest.raises(InputError, match=rf"inputs\[\d\].*line \d.*{expected}"):
        parse_registry(text.encode(), where="mine.yml", interval="1m")


def test_a_registry_with_inputs_equals_its_stored_forms(tmp_path):
    """The spelling of a duration does not count; an input that no feature reads is left out with a warning."""
    text = REGISTRY + "  - {name: x, op: input_value, params: {input: funding}}\n"
    unread = text.replace("features:", f"{INPUT_LINE.replace('name: funding', 'name: mood')}\nfeatures:")
    (tmp_path / "my.yml").write_text(unread)

    features = parse_registry(text.encode(), where="mine.yml", interval="1m")
    same = parse_registry(text.replace("9h", "540m").encode(), where="mine.yml", interval="1m")
    other = parse_registry(text.replace("9h", "8h").encode(), where="mine.yml", interval="1m")
    taken, warnings = take_features(tmp_path / "my.yml", "1m")

    assert parse_registry(features.to_yaml(), where="x") == features == same == taken
    assert FeatureSet.from_json(features.to_json(), where="x") == features
    assert features.registry_sha256 == same.registry_sha256 != other.registry_sha256
    assert warnings == ("inputs left out, because no feature reads them: mood",)
    assert [spec.name for spec in read_registry(tmp_path / "my.yml").inputs] == ["funding", "mood"]


def test_a_registry_without_inputs_has_its_old_form():
    """The packaged registries keep the hashes that models of earlier versions state."""
    assert "inputs" not in load_registry(interval="1m").to_json()
    assert b"inputs" not in load_registry(interval="1m").to_yaml()
