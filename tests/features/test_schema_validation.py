"""Frames of features are compared with a registry, by column and by value."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain import FeatureSchemaValidator
from mltrain.errors import InputError, UsageError
from mltrain.features.registry import load_registry, read_registry
from mltrain.features.schema_validation import _describe_moves, read_feature_frame

NAMES = load_registry(interval="1m").names
LEADER_NAMES = tuple(spec.name for spec in load_registry(interval="1m").features if spec.leader)


@pytest.fixture
def frame():
    """Return a valid frame with `ts`, `symbol`, the features, and a warm-up of nulls."""
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


def test_a_valid_frame_passes(frame):
    """Nulls of a warm-up and the key columns are accepted."""
    assert FeatureSchemaValidator().validate_features(frame) == ()


@pytest.mark.parametrize("name", BROKEN)
def test_each_defect_is_named(name, frame):
    """Each defect is one problem, which is returned, or raised if strict."""
    change, parts = BROKEN[name]
    broken = change(frame)
    problems = FeatureSchemaValidator().validate_features(broken, strict=False)

    assert len(problems) == 1
    assert all(part in problems[0] for part in parts)
    with pytest.raises(InputError) as caught:
        FeatureSchemaValidator().validate_features(broken)
    assert problems[0] in caught.value.message


def test_one_message_lists_all_defects(frame):
    """Five defects are in one error."""
    broken = frame
    for name in ("other type", "NaN", "constant", "all null", "missing"):
        broken = BROKEN[name][0](broken)

    with pytest.raises(InputError) as caught:
        FeatureSchemaValidator().validate_features(broken)

    assert all(NAMES[i] in caught.value.message for i in (2, 3, 4, 5, 6))


def test_a_leaders_feature_may_be_zero_throughout(frame):
    """It is on the leader itself; any other constant is a problem."""
    zeros = frame.with_columns(pl.lit(0.0, pl.Float32).alias(name) for name in LEADER_NAMES)

    assert FeatureSchemaValidator().validate_features(zeros) == ()
    ones = frame.with_columns(pl.lit(1.0, pl.Float32).alias(LEADER_NAMES[0]))
    assert len(FeatureSchemaValidator().validate_features(ones, strict=False)) == 1


def test_one_row_is_not_constant(frame):
    """A single row is accepted."""
    assert FeatureSchemaValidator().validate_features(frame[5:6]) == ()


def test_an_empty_frame_has_the_right_columns(frame):
    """A frame without rows is accepted."""
    assert FeatureSchemaValidator().validate_features(frame[:0]) == ()


@pytest.mark.parametrize("given", [None, 5, "frame", [1.0]])
def test_other_types_than_tables_are_a_usage_error(given):
    """The error describes the argument."""
    with pytest.raises(UsageError, match="frame is"):
        FeatureSchemaValidator().validate_features(given)


def test_any_table_is_checked(frame):
    """Lazy frames and Arrow tables have the same problems, or none."""
    validator = FeatureSchemaValidator()

    for form in (pl.DataFrame.lazy, pl.DataFrame.to_arrow):
        assert validator.validate_features(form(frame)) == ()
        assert NAMES[3] in validator.validate_features(form(frame.drop(NAMES[3])), strict=False)[0]


@pytest.mark.parametrize("name", [None, "features-ohlcv.yml"])
def test_schema_info_is_plain_and_complete(name):
    """It has every feature with op, lookback, columns and type, in order."""
    info = FeatureSchemaValidator(name).get_schema_info()

    assert [feature["name"] for feature in info["features"]] == list(read_registry(name and Path(name)).names)
    assert info["interval"] is None
    assert info["lookback_bars"] == max(feature["lookback_bars"] for feature in info["features"])
    assert {feature["dtype"] for feature in info["features"]} == {"Float32"}
    assert info["label"] == {"kind": "direction", "horizon": 1, "ties": "drop"}


def test_only_moved_columns_are_named(frame):
    """A column moved to the other end is one problem, which says where it belongs."""
    one = frame.select(*NAMES[1:], NAMES[0])
    two = frame.select(NAMES[5], *NAMES[:5], *NAMES[6:10], NAMES[11], NAMES[10], *NAMES[12:])
    first = FeatureSchemaValidator().validate_features(one, strict=False)
    second = FeatureSchemaValidator().validate_features(two, strict=False)

    assert first == (f"out of order: {NAMES[0]} belongs before {NAMES[1]}",)
    assert len(second) == 1
    assert f"{NAMES[5]} belongs after {NAMES[4]}" in second[0]
    assert NAMES[10] in second[0]


@given(st.permutations(range(8)))
def test_moving_the_named_columns_restores_the_order(order):
    """The columns that are not named are in order, and no smaller set of moves exists."""
    expected = NAMES[:8]
    found = [expected[i] for i in order]
    moved = [text.split()[0] for text in _describe_moves(expected, found)]
    kept = [name for name in found if name not in moved]

    assert kept == [name for name in expected if name in kept]
    longest = max(len(c) for n in range(9) for c in combinations(order, n) if list(c) == sorted(c))
    assert len(kept) == longest


def test_a_csv_is_read_as_numbers(frame, tmp_path):
    """Numbers are read as Float32 and empty fields as null."""
    path = tmp_path / "features.csv"
    frame.write_csv(path)
    read = read_feature_frame(path)

    assert read.select(NAMES).equals(frame.select(NAMES))
    assert FeatureSchemaValidator().validate_features(read) == ()


def test_all_defects_of_a_csv_are_in_one_message(frame, tmp_path):
    """Texts (with row and content), infinite values, constants, missing, extra and moved columns are listed."""
    path = tmp_path / "features.csv"
    broken = frame.with_columns(
        pl.lit("inf").alias(NAMES[1]),
        pl.when(pl.int_range(pl.len()) == 7).then(pl.lit("n/a")).otherwise(pl.lit("0.5")).alias(NAMES[2]),
        pl.lit(3.0).alias(NAMES[3]),
        pl.lit(None).alias(NAMES[4]),
        pl.lit(1.0).alias("mine"),
    ).drop(NAMES[5])
    broken.select(NAMES[0], NAMES[2], NAMES[1], pl.exclude(NAMES[:3])).write_csv(path)
    with pytest.raises(InputError) as caught:
        FeatureSchemaValidator().validate_features(read_feature_frame(path))

    parts = [
        f"missing: {NAMES[5]}", "not in the registry: mine", "out of order: ",
        f"{NAMES[1]} is NaN or infinite in 20 of 20 rows", f"{NAMES[2]} is String, not Float32 (row 7 is 'n/a')",
        f"{NAMES[3]} is 3 in every row", f"{NAMES[4]} is null in every row",
    ]  # fmt: skip
    assert all(part in caught.value.message for part in parts)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "nothing is in it"),
        (b"a,b,a\n1,2,3\n", "two columns of one name: 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the first line 2"),
        (b"\xff\xfe\x00", "is UTF-16"),
        (b"a,b\n1,\xff\n", "not a readable CSV"),
        (b'a,"b\n1,2', "not a readable CSV|missing"),
    ],
)
def test_an_invalid_csv_is_refused(content, part, tmp_path):
    """The error is one line with the reason."""
    path = tmp_path / "features.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=part) as caught:
        FeatureSchemaValidator().validate_features(read_feature_frame(path))

    assert "\n" not in caught.value.message


def test_a_frame_is_read_from_parquet(frame, tmp_path):
    """A Parquet file is read unchanged; a damaged one is refused with its name."""
    path = tmp_path / "features.parquet"
    frame.write_parquet(path)

    assert read_feature_frame(path).equals(frame)
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(InputError, match=r"features\.parquet"):
        read_feature_frame(path)
