"""Inputs for tests: declared ones, and tables with values that are missing, old, or known just in time."""

from __future__ import annotations

import numpy as np

from mltrain.candles.frame import times_ms
from mltrain.candles.input_tables import InputSpec, InputTable, KnownValues
from mltrain.features.input_join import join_inputs
from mltrain.times import MINUTE_MS

FUNDING = InputSpec("funding", "funding.parquet", "rate", "published_at", 40 * MINUTE_MS)
MOOD = InputSpec("mood", "mood.csv", "score", "seen", 6 * 60 * MINUTE_MS)


def known(times, values):
    """Return values known since some times, ms UTC."""
    return KnownValues(np.asarray(times, np.int64), np.asarray(values, np.float64))


def make_inputs(candles, seed):
    """Return a table per symbol, with a value about every 20 minutes, pauses and ties with closes; and one for all."""
    rng = np.random.default_rng(seed)
    by_symbol = {}
    for symbol, frame in candles.items():
        ts_ms = times_ms(frame)
        at = np.sort(rng.choice(ts_ms, max(1, ts_ms.size // 20), replace=False)) + rng.choice([0, 1, 30_000])
        at = at[(np.arange(at.size) // 9) % 4 != 3]
        by_symbol[symbol] = known(at, rng.normal(0, 1e-4, at.size))
    every = np.unique(np.concatenate([times_ms(frame) for frame in candles.values()])[::700])
    return {
        "funding": InputTable(by_symbol=by_symbol),
        "mood": InputTable(for_all=known(every, np.round(rng.normal(0, 1, every.size)))),
    }


def with_inputs(feature_set, candles, seed=0):
    """Return candles joined with inputs of these names."""
    return join_inputs(feature_set, candles, make_inputs(candles, seed))
