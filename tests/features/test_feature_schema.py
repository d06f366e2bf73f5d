"""A frame of features is compared with its registry, name by name and value by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mltrain import FeatureSchemaValidator
from mltrain.errors import InputError
from mltrain.features.registry import load_registry, read_feature_frame

NAMES = load_registry().names
LEADER_NAMES = tuple(spec.name for spec in load_registry().features if spec.leader)


@pytest.fixture
def frame():
    """Return a sound frame, with a warm-up of nulls, and `ts` and `symbol` beside the features."""
    rng = np.random.default_rng(0)
    values = pl.DataFrame({name: rng.standard_normal(20).astype(np.float32) for name in NAMES})
    warm = values.with_columns(pl.when(pl.int_range(pl.len()) > 2).then(pl.col(NAMES[0])).alias(NAMES[0]))
    return warm.with_columns(ts=pl.int_range(pl.len()), symbol=pl.lit("ETHUSDT"))


BROKEN = {
    "missing": (lambda f: f.drop(NAMES[3]), ["missing", NAMES[3]]),
    "extra": (lambda f: f.with_columns(pl.lit(1.0).alias("mine")), ["not in the registry", "mine"]),
    "reordered": (lambda f: f.select(NAMES[1], NAMES[0], *NAMES[2:]), ["out of order", NAMES[0], NAMES[1]]),
    "other type": (lambda f: f.cast({NAMES[2]: pl.Float64}), [NAMES[2], "Float64"]),
    "NaN": (lambda f: f.with_columns(pl.lit(float("nan"), pl.Float32).alias(NAMES[4])), [NAMES[4], "NaN"]),
    "infinite": (lambda f: f.with_columns(pl.lit(float("-inf"), pl.Float32).alias(NAMES[4])), [NAMES[4], "infinite"]),
    "constant": (lambda f: f.with_columns(pl.lit(2.0, pl.Float32).alias(NAMES[5])), [NAMES[5], "2 in every row"]),
    "all null": (lambda f: f.with_columns(pl.lit(None, pl.Float32).alias(NAMES[6])), [NAMES[6], "null in every row"]),
}


def test_a_sound_frame_passes(frame):
    """Nulls of a warm-up and the key columns are no problem."""
    assert FeatureSchemaValidator().validate_features(frame) == ()


@pytest.mark.parametrize("name", BROKEN)
def test_each_defect_is_named(name, frame):
    """Strict raises, otherwise the same text is returned."""
    change, parts = BROKEN[name]
    broken = change(frame)
    problems = FeatureSchemaValidator().validate_features(broken, strict=False)

    assert len(problems) == 1
    assert all(part in problems[0] for part in parts)
    with pytest.raises(InputError) as caught:
        FeatureSchemaValidator().validate_features(broken)
    assert problems[0] in caught.value.message


def test_all_defects_stand_in_one_message(frame):
    """Every one of them, in one error."""
    broken = frame
    for name in ("other type", "NaN", "constant", "all null", "missing"):
        broken = BROKEN[name][0](broken)

    with pytest.raises(InputError) as caught:
        FeatureSchemaValidator().validate_features(broken)

    assert all(NAMES[i] in caught.value.message for i in (2, 3, 4, 5, 6))


def test_a_leaders_feature_may_be_zero_throughout(frame):
    """It is, on the leader itself; any other constant is one."""
    zeros = frame.with_columns(pl.lit(0.0, pl.Float32).alias(name) for name in LEADER_NAMES)

    assert FeatureSchemaValidator().validate_features(zeros) == ()
    ones = frame.with_columns(pl.lit(1.0, pl.Float32).alias(LEADER_NAMES[0]))
    assert len(FeatureSchemaValidator().validate_features(ones, strict=False)) == 1


def test_one_row_is_not_constant(frame):
    """A single row has one value in each column, and that is right."""
    assert FeatureSchemaValidator().validate_features(frame[5:6]) == ()


def test_an_empty_frame_has_the_right_columns(frame):
    """Nothing can be said of values that are not there."""
    assert FeatureSchemaValidator().validate_features(frame[:0]) == ()


def test_only_polars_frames_are_checked():
    """Anything else is the caller's mistake, and is said to be."""
    with pytest.raises(TypeError, match="dict"):
        FeatureSchemaValidator().validate_features({})


@pytest.mark.parametrize("name", [None, "features-ohlcv.yml"])
def test_schema_info_is_plain_and_complete(name):
    """It names every feature with its op, lookback, columns and type, in order."""
    info = FeatureSchemaValidator(name).get_schema_info()

    assert [feature["name"] for feature in info["features"]] == list(load_registry(name and Path(name)).names)
    assert info["lookback_bars"] == max(feature["lookback_bars"] for feature in info["features"])
    assert {feature["dtype"] for feature in info["features"]} == {"Float32"}
    assert info["label"] == {"kind": "direction", "horizon": 1, "ties": "drop"}


def test_a_frame_is_read_from_parquet(frame, tmp_path):
    """What was written is what is checked."""
    path = tmp_path / "features.parquet"
    frame.write_parquet(path)

    assert read_feature_frame(path).equals(frame)
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(InputError, match=r"features\.parquet"):
        read_feature_frame(path)
