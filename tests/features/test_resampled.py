"""Higher time frames: candles on the grid of the exchange that have closed; the open one is never read."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest

from mltrain.candles.frame import times_ms
from mltrain.errors import InputError
from mltrain.features.computation import compute_features
from mltrain.features.op import Interval
from mltrain.features.registry import parse_registry, read_registry
from mltrain.features.spec import FeatureSet, FeatureSpec, LabelSpec
from mltrain.times import INTERVALS_MS, floor_to_grid, interval_ms, parse_time
from support.markets import without

LABEL = LabelSpec("direction", 1, "drop")
# Values of `resample`, and the op that is the same on the longer candles themselves.
SAME = {
    "return": ("log_return", {"bars": 3}),
    "volatility": ("realised_volatility", {"bars": 3}),
    "range_position": ("range_position", {"bars": 3}),
    "close_location": ("close_location", {"bars": 3}),
    "gap_to_mean": ("gap_to_mean", {"bars": 3}),
    "rsi": ("rsi", {"bars": 3}),
}


def make_candles(interval, rows, start="2025-10-08T21:00:00Z"):
    step_ms = interval_ms(interval)
    first_ms = floor_to_grid(parse_time(start), step_ms)
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, rows)))
    open_ = np.concatenate([[100.0], close[:-1]])
    wick = 1 + np.abs(rng.normal(0, 0.003, (2, rows)))
    ts = pl.Series("ts", first_ms + step_ms * np.arange(rows)).cast(pl.Datetime("ms", "UTC"))
    high, low = np.maximum(open_, close) * wick[0], np.minimum(open_, close) / wick[1]
    return pl.DataFrame({"ts": ts, "open": open_, "high": high, "low": low, "close": close, "volume": np.ones(rows)})


def merge_candles(frame, interval, every):
    """Return the longer candles whose minutes are all there, by a loop over the candles."""
    step_ms, every_ms = interval_ms(interval), interval_ms(every)
    groups = {}
    for row in frame.to_dicts():
        ts_ms = int(row["ts"].timestamp() * 1000)
        groups.setdefault(floor_to_grid(ts_ms, every_ms), []).append(row)
    rows = [
        {
            "ts": ts_ms,
            "open": group[0]["open"],
            "high": max(row["high"] for row in group),
            "low": min(row["low"] for row in group),
            "close": group[-1]["close"],
            "volume": sum(row["volume"] for row in group),
        }
        for ts_ms, group in groups.items()
        if len(group) * step_ms == every_ms
    ]
    return pl.DataFrame(rows).with_columns(pl.col("ts").cast(pl.Datetime("ms", "UTC")))


def feature_set(interval, every, values, bars=3):
    specs = [
        FeatureSpec(v, "resample", {"every": every, "value": v, "bars": bars, "interval": interval}) for v in values
    ]
    return FeatureSet(1, interval, LABEL, tuple(specs))


@pytest.mark.parametrize(
    ("interval", "every"), [("1m", "15m"), ("5m", "1h"), ("30m", "2h"), ("8h", "1d"), ("1d", "3d"), ("1d", "1w")]
)
def test_it_is_the_op_on_the_newest_closed_candle(interval, every):
    """Each value is that of the op on the longer candles, at the last one that ended by the candle's close."""
    frame = make_candles(interval, 260)
    longer = merge_candles(frame, interval, every)
    of_longer = FeatureSet(1, every, LABEL, tuple(FeatureSpec(v, op, params) for v, (op, params) in SAME.items()))
    expected = compute_features(of_longer, "AAA", {"AAA": longer})
    found = compute_features(feature_set(interval, every, SAME), "AAA", {"AAA": frame})

    closes_ms, ends_ms = times_ms(frame) + interval_ms(interval), times_ms(longer) + interval_ms(every)
    newest = np.searchsorted(ends_ms, closes_ms, side="right") - 1
    lookback, compared = feature_set(interval, every, SAME).lookback_bars, 0
    for row in range(lookback - 1, frame.height):
        of_newest = expected[int(newest[row]), 1:].row(0)
        # The first longer candle lacks its beginning, which the close that a return needs of it does not.
        if None not in of_newest:
            assert found[row, 1:].row(0) == pytest.approx(of_newest, rel=1e-6)
            compared += 1
    assert compared > frame.height - lookback - interval_ms(every) // interval_ms(interval)
    assert found["return"][: lookback - 1].null_count() == lookback - 1


def test_the_open_candle_is_not_read():
    """Whatever happens in an hour changes nothing before its last five minutes close."""
    frame, values = make_candles("5m", 200), (*SAME, "range")
    features = feature_set("5m", "1h", values)
    before = compute_features(features, "AAA", {"AAA": frame})
    times = times_ms(frame)
    for row in range(120, 133):
        begin_ms = floor_to_grid(int(times[row]), 3_600_000)
        is_open = pl.Series((times >= begin_ms) & (times <= times[row]))
        wild = frame.with_columns(
            pl.when(is_open).then(pl.col(name) * 3).otherwise(pl.col(name)).alias(name)
            for name in ("open", "high", "low", "close")
        )
        after = compute_features(features, "AAA", {"AAA": wild})
        # 12:55 closes with the hour.
        closes = (int(times[row]) + 300_000) % 3_600_000 == 0
        assert before[row].equals(after[row]) is not closes


def test_no_value_spans_a_gap():
    """After a missing candle, all candles of the lookback must be there again."""
    frame = without(make_candles("5m", 200), (90, 90))
    features = feature_set("5m", "1h", ("range",), bars=2)

    found = compute_features(features, "AAA", {"AAA": frame})["range"]
    lookback = features.lookback_bars
    assert lookback == 2 * 12 + 11
    assert found[lookback - 1 : 90].null_count() == 0
    assert found[90 : 90 + lookback - 1].null_count() == lookback - 1
    assert found[90 + lookback - 1 :].null_count() == 0


REGISTRY = b"""
version: 1
label: {kind: direction, horizon: 1, ties: drop}
features:
  - {name: return_1, op: log_return, params: {bars: 1}}
  - {name: hour, op: resample, params: {every: 1h, value: return, bars: 4}}
"""


def test_the_registry_fills_in_the_interval():
    """A registry for any interval is written without it; the features of one interval know it, and keep it."""
    for interval, lookback in (("5m", 60), ("30m", 10)):
        features = parse_registry(REGISTRY, where="x", interval=interval)

        assert features.features[1].params == {"every": "1h", "value": "return", "bars": 4, "interval": interval}
        assert features.lookback_bars == lookback
        assert FeatureSet.from_json(features.to_json(), where="x") == features
        assert parse_registry(features.to_yaml(), where="x") == features


@pytest.mark.parametrize(
    ("old", "new", "interval", "problem"),
    [
        ("1h", "1h", "1h", "feature hour at 1h: .*every .1h. must be longer than the candles' interval, 1h"),
        ("1h", "1h", "4h", "must be longer"),
        ("1h", "1w", "3d", "and a multiple of it"),
        ("bars: 4", "bars: 999", "1m", "at most 10,080 candles of 1m are possible"),
        ("bars: 4", "bars: 4, interval: 15m", "5m", "is 15m, and the candles are of 5m: leave it out"),
        ("1h", "90m", "30m", "every"),
    ],
)
def test_an_interval_that_does_not_fit_is_refused(old, new, interval, problem):
    """Equal, shorter, no multiple, too long a lookback, another interval: each is named with the feature."""
    data = REGISTRY.replace(f"every: {old}".encode() if "bars" not in old else old.encode(),
                            f"every: {new}".encode() if "bars" not in old else new.encode())  # fmt: skip
    with pytest.raises(InputError, match=problem):
        parse_registry(data, where="x", interval=interval)


def test_features_of_one_interval_do_not_take_those_of_another():
    """A stored registry whose feature is for other candles is refused."""
    features = parse_registry(REGISTRY, where="x", interval="5m")
    with pytest.raises(InputError, match="must be 15m, is 5m"):
        dataclasses.replace(features, interval="15m")


def test_a_registry_for_any_interval_can_be_described(tmp_path):
    """Its lookback is that at one minute, as an example."""
    path = tmp_path / "features.yml"
    path.write_bytes(REGISTRY)

    assert read_registry(path).lookback_bars == 5 * 60


def test_every_interval_has_its_name():
    """The type of the parameter knows the intervals of candles."""
    assert Interval.__args__ == ("", *INTERVALS_MS)
