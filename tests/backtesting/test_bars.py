"""Bars: candles and probabilities of all symbols on one grid."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mltrain.backtesting.bars import align_bars
from mltrain.candles.frame import TS_DTYPE
from support.backtests import PRICES

STEP_MS = 60_000


def frames(rows):
    """Return candles and scores of one symbol from (time, close, volume, p, refused); prices differ by column."""
    times, close, volume, p, refused = (list(column) for column in zip(*rows, strict=True))
    close = [float(c) for c in close]
    candles = pl.DataFrame(
        {
            "ts": pl.Series([time * STEP_MS for time in times], dtype=pl.Int64).cast(TS_DTYPE),
            "open": [c + 0.1 for c in close],
            "high": [c + 0.2 for c in close],
            "low": [c - 0.2 for c in close],
            "close": close,
            "volume": pl.Series(volume, dtype=pl.Float64),
            "quote_volume": pl.Series(volume, dtype=pl.Float64) * 2,
        }
    )
    scores = pl.DataFrame({"p": pl.Series(p, dtype=pl.Float64), "refused": pl.Series(refused, dtype=pl.String)})
    return candles, scores


def align(**symbols):
    made = {symbol: frames(rows) for symbol, rows in symbols.items()}
    return align_bars({s: c for s, (c, _) in made.items()}, {s: p for s, (_, p) in made.items()}, step_ms=STEP_MS)


def test_by_hand():
    """B begins later and has a gap; A ends earlier and has a refused candle without volume."""
    bars = align(
        B=[(12, 50, 1.0, 0.6, None), (15, 51, 1.0, 0.7, None)],
        A=[(10, 7, 1.0, 0.1, None), (11, 8, None, None, "stale"), (12, 9, 2.0, 0.3, None)],
    )

    assert bars.symbols == ("A", "B")
    assert (bars.ts_ms // STEP_MS).tolist() == [10, 11, 12, 13, 14, 15]
    assert bars.exists.T.tolist() == [[True] * 3 + [False] * 3, [False, False, True, False, False, True]]
    # The last close; before the first candle its close.
    assert bars.mark.T.tolist() == [[7, 8, 9, 9, 9, 9], [50, 50, 50, 50, 50, 51]]
    assert bars.last.tolist() == [2, 5]
    assert np.array_equal(bars.p[:, 0], [0.1, np.nan, 0.3, np.nan, np.nan, np.nan], equal_nan=True)
    assert bars.refused.T.tolist() == [[False, True] + [False] * 4, [False] * 6]
    assert np.array_equal(bars.volume[:3, 0], [1.0, np.nan, 2.0], equal_nan=True)


CELLS = st.tuples(
    st.integers(1, 1_000), st.floats(0, 9) | st.none(), st.floats(0, 1) | st.none(), st.sampled_from([None, "stale"])
)


@given(
    st.dictionaries(
        st.sampled_from(["A", "B", "C"]), st.dictionaries(st.integers(0, 20), CELLS, min_size=1), min_size=1, max_size=3
    )
)
def test_it_agrees_with_a_naive_loop(symbols):
    """Every cell of every table."""
    rows = {symbol: [(time, *cells[time]) for time in sorted(cells)] for symbol, cells in symbols.items()}
    bars = align(**rows)
    times = sorted({time for cells in symbols.values() for time in range(min(cells), max(cells) + 1)})

    assert (bars.ts_ms // STEP_MS).tolist() == times
    assert bars.symbols == tuple(sorted(symbols))
    for ix, symbol in enumerate(bars.symbols):
        cells = symbols[symbol]
        mark = float(cells[min(cells)][0])
        assert times[bars.last[ix]] == max(cells)
        for bar, time in enumerate(times):
            close, volume, p, refused = cells.get(time, (None,) * 4)
            assert bars.exists[bar, ix] == (time in cells)
            assert bars.refused[bar, ix] == (refused is not None)
            mark = mark if close is None else float(close)
            assert bars.mark[bar, ix] == mark
            for name, add in (("open", 0.1), ("high", 0.2), ("low", -0.2), ("close", 0.0)):
                want = np.nan if close is None else close + add
                assert getattr(bars, name)[bar, ix] == pytest.approx(want, rel=1e-15, nan_ok=True)
            for got, want in ((bars.volume, volume), (bars.p, p)):
                assert np.array_equal(got[bar, ix], np.nan if want is None else want, equal_nan=True)


def test_columns_of_other_types_are_read_as_numbers():
    """Prices may be 32-bit or whole numbers."""
    candles, scores = frames([(0, 7, 1.0, 0.5, None), (1, 8, 1.0, 0.5, None)])
    narrow = candles.with_columns(pl.col(*PRICES).cast(pl.Float32))
    bars = align_bars({"A": narrow}, {"A": scores}, step_ms=STEP_MS)

    assert bars.close.dtype == bars.volume.dtype == np.float64
    assert bars.close[:, 0].tolist() == [7.0, 8.0]
