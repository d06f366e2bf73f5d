"""Differences between candles equal those of plain dictionaries."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.candles.checks import check_candles
from mltrain.candles.diff import EXAMPLES, compare_frames, describe_diff
from mltrain.candles.frame import CANDLE_SCHEMA, TS_DTYPE, times_ms
from mltrain.errors import InputError
from mltrain.snapshots.snapshot import compare_snapshots
from mltrain.times import MINUTE_MS, format_ms
from support.program import call

sides = st.dictionaries(
    st.integers(0, 30), st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([0, 7])), max_size=25
)


def frame_of(rows, *, with_trades=True):
    minutes = sorted(rows)
    columns = {
        "ts": pl.Series([m * MINUTE_MS for m in minutes], dtype=pl.Int64).cast(TS_DTYPE),
        **dict.fromkeys(("open", "high", "low", "close"), pl.Series([1.0] * len(minutes), dtype=pl.Float64)),
        "volume": pl.Series([rows[m][0] for m in minutes], dtype=pl.Float64),
    }
    if with_trades:
        columns["trades"] = pl.Series([rows[m][1] for m in minutes], dtype=pl.Int64)
    return check_candles(pl.DataFrame(columns), symbol="AB", interval="1m", where="here")


@given(sides, sides)
def test_a_diff_equals_that_of_dictionaries(before, after):
    """Added, gone and changed candles, with the first few of each by time."""
    diff = compare_frames(frame_of(before), frame_of(after))
    added, gone = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    changed = [m for m in sorted(before.keys() & after.keys()) if before[m] != after[m]]

    assert (diff.added, diff.gone, diff.changed) == (len(added), len(gone), len(changed))
    assert diff.added_at == tuple(format_ms(m * MINUTE_MS) for m in added[:EXAMPLES])
    assert diff.gone_at == tuple(format_ms(m * MINUTE_MS) for m in gone[:EXAMPLES])
    assert [c.ts for c in diff.examples] == [format_ms(m * MINUTE_MS) for m in changed[:EXAMPLES]]
    for change, minute in zip(diff.examples, changed, strict=False):
        at = 0 if before[minute][0] != after[minute][0] else 1
        assert change.field == ("volume", "trades")[at]
        assert (change.before, change.after) == (before[minute][at], after[minute][at])
    assert diff.is_empty == (before == after)
    assert (describe_diff(diff) == "no change") == diff.is_empty


def test_a_new_column_is_a_change():
    """Null differs from a number, and equals null."""
    rows = {1: (1.0, 5), 2: (1.0, 6)}
    diff = compare_frames(frame_of(rows, with_trades=False), frame_of(rows))
    same = compare_frames(frame_of(rows, with_trades=False), frame_of(rows, with_trades=False))

    assert (diff.changed, same.changed) == (2, 0)
    assert (diff.examples[0].before, diff.examples[0].after) == (None, 5.0)
    assert set(frame_of(rows).columns) == set(CANDLE_SCHEMA)


def test_snapshots_are_compared_by_symbol(take):
    """Symbols of only one snapshot, and added candles; also by the command."""
    one = take(("BTCUSDT", "ETHUSDT")).snapshot
    other = take(("BTCUSDT", "SOLUSDT"), days=2).snapshot
    found = {s.symbol: s for s in compare_snapshots(one, other)}
    done = call("snapshots", "diff", one.id, other.id, data_dir=one.path.parents[1])

    assert found["ETHUSDT"].only == one.id
    assert found["SOLUSDT"].only == other.id
    assert found["BTCUSDT"].diff.added == times_ms(other.candles("BTCUSDT")).size - one.candles("BTCUSDT").height
    assert (found["BTCUSDT"].diff.gone, found["BTCUSDT"].diff.changed) == (0, 0)
    assert done.code == 0
    assert f"ETHUSDT: only in {one.id}" in done.out


def test_snapshots_of_two_intervals_are_not_compared(take):
    """The error says so, instead of a long list of differences."""
    with pytest.raises(InputError, match="cannot be compared"):
        compare_snapshots(take(("BTCUSDT",)).snapshot, take(("BTCUSDT",), interval="1h").snapshot)
