"""time_split fails unless blocks follow each other in time, labels and embargo included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.guards.time_split import BlockArrays, time_split

STEP_MS = 60_000


def block(name, first, stop, *, horizon=1):
    ts_ms = np.arange(first, stop, dtype=np.int64) * STEP_MS
    return BlockArrays(name, ts_ms, ts_ms + horizon * STEP_MS)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 20), st.integers(-25, 60))
def test_it_passes_exactly_if_the_gap_is_more_than_horizon_and_embargo(rows, horizon, embargo, gap):
    """The later block must begin more than horizon + embargo bars after the earlier one's last candle."""
    earlier = block("train", 100, 100 + rows, horizon=horizon)
    later = block("valid", 99 + rows + gap, 199 + rows + gap, horizon=horizon)

    assert time_split([(earlier, later)], embargo_ms=embargo * STEP_MS).passed is (gap > horizon + embargo)


def test_order_of_rows_does_not_hide_an_overlap():
    """The largest label end counts, also if rows are not sorted."""
    rng = np.random.default_rng(0)
    earlier, later = block("train", 0, 100), block("valid", 100, 200)
    order = rng.permutation(100)
    shuffled = BlockArrays("train", earlier.ts_ms[order], earlier.label_end_ms[order])

    assert not time_split([(shuffled, later)], embargo_ms=0).passed
    assert time_split([(shuffled, block("valid", 101, 200))], embargo_ms=0).passed


def test_a_failure_names_both_blocks_and_both_times():
    """The message says which block reaches into which, and when."""
    (failure,) = time_split([(block("fold 2", 0, 60), block("fold 3", 60, 90))], embargo_ms=STEP_MS).failures

    assert failure.feature == "fold 2 before fold 3"
    assert failure.time_ms == 60 * STEP_MS
    assert (failure.expected, failure.got) == ("before 1970-01-01T01:00:00Z", "1970-01-01T01:00:00Z")


def test_every_pair_is_judged():
    """Each wrong pair fails."""
    good, near, late = block("a", 0, 10), block("b", 20, 30), block("c", 30, 40)
    result = time_split([(good, near), (near, late), (good, late)], embargo_ms=0)

    assert [failure.feature for failure in result.failures] == ["b before c"]
    assert result.checks[0].points == 3


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(block("a", 0, 0), block("b", 5, 9))],
        [(block("a", 0, 5), block("b", 9, 9))],
        [(block("a", 0, 5, horizon=0), block("b", 9, 12))],
        [(BlockArrays("a", np.arange(3), np.arange(1, 3)), block("b", 9, 12))],
    ],
    ids=["nothing", "empty earlier", "empty later", "label without length", "rows without label end"],
)
def test_empty_or_inconsistent_blocks_fail(pairs):
    """No pairs, an empty block, labels without length and missing label ends fail."""
    assert not time_split(pairs, embargo_ms=0).passed
